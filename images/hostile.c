// SPDX-License-Identifier: Apache-2.0
// PID 1 of tests in which the guest is hostile: in place of the agent, it does what the kernel's command line has as its last word.
//
// exits     ends at once
// silent    never says that it is ready
// crowd     says something else, again and again
// nonsense  says ready, and answers with bytes that mean nothing, without end
// foreign   answers every call with success and an empty message, whose protocol version is 0
// mute      greets as the agent does, and answers nothing after that
// liar      answers every call with success and the number 1, and listens to no stream

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { HOST = 2, AGENT_PORT = 1024, READY_PORT = 1026, HEADER = 10, RESPONSE = 2 };

static struct sockaddr_vm at(unsigned cid, unsigned port) {
    struct sockaddr_vm address;
    memset(&address, 0, sizeof address);
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    return address;
}

static void say(const char *words) {
    struct sockaddr_vm address = at(HOST, READY_PORT);
    int host = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (host >= 0 && connect(host, (struct sockaddr *)&address, sizeof address) == 0) {
        send(host, words, strlen(words), MSG_NOSIGNAL);
    }
    close(host);
}

static int whole(int from, unsigned char *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t count = read(from, bytes + done, length - done);
        if (count <= 0) {
            return 0;
        }
        done += (size_t)count;
    }
    return 1;
}

// Takes requests of ttrpc (a header of ten bytes: length, stream, kind, flags) and answers the first `limit` with this message.
static void answer(int client, unsigned limit, const unsigned char *message, unsigned char length) {
    static unsigned char request[4 << 20];
    unsigned char frame[64];
    while (whole(client, frame, HEADER)) {
        uint32_t size = (uint32_t)frame[0] << 24 | (uint32_t)frame[1] << 16 | (uint32_t)frame[2] << 8 | frame[3];
        if (size > sizeof request || !whole(client, request, size)) {
            return;
        }
        if (limit == 0) {
            continue;
        }
        limit--;
        memset(frame, 0, 4);
        frame[3] = length;
        frame[8] = RESPONSE;
        frame[9] = 0;
        memcpy(frame + HEADER, message, length);
        send(client, frame, HEADER + length, MSG_NOSIGNAL);
    }
}

static void nonsense(int client) {
    unsigned char bytes[4096];
    uint32_t state = 1;
    for (;;) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            state = state * 1664525 + 1013904223;
            bytes[i] = (unsigned char)(state >> 24);
        }
        if (send(client, bytes, sizeof bytes, MSG_NOSIGNAL) <= 0) {
            return;
        }
    }
}

int main(int count, char **words) {
    // Response.payload (2), and in it a message whose first field, a number, is 1: protocol version, process id, exit status.
    static const unsigned char empty[] = {0x12, 0x00};
    static const unsigned char one[] = {0x12, 0x02, 0x08, 0x01};
    const char *how = words[count - 1];
    if (strcmp(how, "exits") == 0) {
        return 1;
    }
    if (strcmp(how, "silent") == 0) {
        for (;;) {
            pause();
        }
    }
    if (strcmp(how, "crowd") == 0) {
        for (;;) {
            say("paperboat-agent steady");
        }
    }
    struct sockaddr_vm address = at(VMADDR_CID_ANY, AGENT_PORT);
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4) != 0) {
        return 1;
    }
    say("paperboat-agent ready\n");
    for (;;) {
        int client = accept(listener, 0, 0);
        if (client < 0) {
            return 1;
        }
        if (strcmp(how, "nonsense") == 0) {
            nonsense(client);
        } else if (strcmp(how, "foreign") == 0) {
            answer(client, UINT32_MAX, empty, sizeof empty);
        } else {
            answer(client, strcmp(how, "mute") == 0 ? 1 : UINT32_MAX, one, sizeof one);
        }
        close(client);
    }
}
