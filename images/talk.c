// SPDX-License-Identifier: Apache-2.0
// A guest's end of vsock, for tests: `listen PORT` and `connect PORT` carry standard input and output over one stream, each direction ending by
// itself; `echo PORT` answers any number of streams at once; `many PORT COUNT` has COUNT streams to the host open at once and hears its own
// words back over each; `hold PORT` takes a stream, reads nothing until standard input ends, and then tells how much came; `generate SEED BYTES`
// writes bytes that the same program makes anywhere.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

// Takes from sys/socket.h what it needs.
#include <linux/vm_sockets.h>

enum { CHUNK = 64 << 10, STREAMS = 8192 };

static unsigned char chunk[CHUNK];

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static void write_whole(int fd, const void *from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t count = write(fd, (const char *)from + done, size - done);
        if (count <= 0) {
            die("write");
        }
        done += (size_t)count;
    }
}

static int dial(unsigned port) {
    struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        die("connect");
    }
    return fd;
}

static int listener(unsigned port) {
    struct sockaddr_vm at = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1024) != 0) {
        die("listen");
    }
    return fd;
}

static int taken(unsigned port) {
    int fd = accept(listener(port), NULL, NULL);
    if (fd < 0) {
        die("accept");
    }
    return fd;
}

static void carry(int fd) {
    struct pollfd ends[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    while (ends[0].fd >= 0 || ends[1].fd >= 0) {
        if (poll(ends, 2, -1) < 0) {
            die("poll");
        }
        for (int side = 0; side < 2; side++) {
            if (ends[side].fd < 0 || ends[side].revents == 0) {
                continue;
            }
            ssize_t count = read(ends[side].fd, chunk, CHUNK);
            if (count < 0) {
                die("read");
            }
            if (count == 0) {
                ends[side].fd = -1;
                if (side == 0) {
                    shutdown(fd, SHUT_WR);
                }
            } else {
                write_whole(side == 0 ? fd : STDOUT_FILENO, chunk, (size_t)count);
            }
        }
    }
}

static void echo(unsigned port) {
    static struct pollfd ends[STREAMS + 1];
    nfds_t count = 1;
    ends[0] = (struct pollfd){.fd = listener(port), .events = POLLIN};
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        if (poll(ends, count, -1) < 0) {
            die("poll");
        }
        for (nfds_t at = 1; at < count; at++) {
            if (ends[at].revents == 0) {
                continue;
            }
            ssize_t size = read(ends[at].fd, chunk, CHUNK);
            if (size > 0) {
                write_whole(ends[at].fd, chunk, (size_t)size);
            } else {
                close(ends[at].fd);
                ends[at--] = ends[--count];
            }
        }
        if (ends[0].revents != 0 && count <= STREAMS) {
            int fd = accept(ends[0].fd, NULL, NULL);
            if (fd < 0) {
                die("accept");
            }
            ends[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

static void many(unsigned port, unsigned count) {
    int *fds = calloc(count, sizeof *fds);
    for (unsigned at = 0; at < count; at++) {
        fds[at] = dial(port);
        uint64_t word = at * 0x9e3779b97f4a7c15ull;
        write_whole(fds[at], &word, sizeof word);
    }
    unsigned good = 0;
    for (unsigned at = 0; at < count; at++) {
        uint64_t word = 0;
        size_t done = 0;
        for (ssize_t size; done < sizeof word && (size = read(fds[at], (char *)&word + done, sizeof word - done)) > 0;) {
            done += (size_t)size;
        }
        good += done == sizeof word && word == at * 0x9e3779b97f4a7c15ull;
    }
    printf("%u of %u\n", good, count);
}

static void hold(unsigned port) {
    int fd = taken(port);
    printf("taken\n");
    fflush(stdout);
    while (read(STDIN_FILENO, chunk, CHUNK) > 0) {
    }
    unsigned long total = 0;
    for (ssize_t size; (size = read(fd, chunk, CHUNK)) > 0;) {
        total += (unsigned long)size;
    }
    printf("%lu bytes\n", total);
}

static void generate(uint64_t state, uint64_t bytes) {
    state = state * 2 + 1;
    while (bytes > 0) {
        for (size_t at = 0; at < CHUNK; at += sizeof state) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            memcpy(chunk + at, &state, sizeof state);
        }
        size_t size = bytes < CHUNK ? (size_t)bytes : CHUNK;
        write_whole(STDOUT_FILENO, chunk, size);
        bytes -= size;
    }
}

int main(int argc, char **argv) {
    struct rlimit limit = {STREAMS + 64, STREAMS + 64};
    setrlimit(RLIMIT_NOFILE, &limit);
    const char *what = argc > 2 ? argv[1] : "";
    unsigned port = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    if (strcmp(what, "listen") == 0) {
        carry(taken(port));
    } else if (strcmp(what, "connect") == 0) {
        carry(dial(port));
    } else if (strcmp(what, "echo") == 0) {
        echo(port);
    } else if (strcmp(what, "many") == 0 && argc > 3) {
        many(port, (unsigned)strtoul(argv[3], NULL, 0));
    } else if (strcmp(what, "hold") == 0) {
        hold(port);
    } else if (strcmp(what, "generate") == 0 && argc > 3) {
        generate(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    } else {
        fprintf(stderr, "usage: talk listen|connect|echo|hold PORT, many PORT COUNT, generate SEED BYTES\n");
        return 2;
    }
    return 0;
}
