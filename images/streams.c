// SPDX-License-Identifier: Apache-2.0
// PID 1 of the benchmark of streams: meets the far side (over vsock at context id 2, or over the network at 10.77.0.1), moves bytes each way
// and counts round trips, says on the console when each piece begins and ends, and powers the machine off. The far side does what the
// first byte of a connection says: `s` swallows until the end and answers how much came, `g` gives as much as the next eight bytes say,
// `e` sends everything back.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 5077, CHUNK = 128 << 10, MESSAGE = 64 };

static int over_vsock;
static long mebibytes = 64;
static long trips = 2000;
static unsigned char chunk[CHUNK];

static void die(const char *what) {
    printf("failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void configure(const char *name, const char *address) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    if (fd < 0 || ioctl(fd, SIOCSIFADDR, &request) != 0) {
        die("address");
    }
    inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
    if (ioctl(fd, SIOCSIFNETMASK, &request) != 0 || ioctl(fd, SIOCGIFFLAGS, &request) != 0) {
        die("mask");
    }
    request.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) {
        die("up");
    }
    close(fd);
}

static int meet(char what) {
    int fd;
    if (over_vsock) {
        struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = PORT};
        fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
            die("connect");
        }
    } else {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
        inet_pton(AF_INET, "10.77.0.1", &to.sin_addr);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        int on = 1;
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0
            || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
            die("connect");
        }
    }
    if (write(fd, &what, 1) != 1) {
        die("first byte");
    }
    return fd;
}

static void read_whole(int fd, void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t count = read(fd, (char *)to + done, size - done);
        if (count <= 0) {
            die("read");
        }
        done += (size_t)count;
    }
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

static long send_bytes(void) {
    int fd = meet('s');
    for (long sent = 0; sent < mebibytes << 20; sent += CHUNK) {
        write_whole(fd, chunk, CHUNK);
    }
    shutdown(fd, SHUT_WR);
    uint64_t arrived;
    read_whole(fd, &arrived, sizeof arrived);
    close(fd);
    if (arrived != (uint64_t)mebibytes << 20) {
        die("not everything arrived");
    }
    return mebibytes << 20;
}

static long receive_bytes(void) {
    int fd = meet('g');
    uint64_t wanted = (uint64_t)mebibytes << 20;
    write_whole(fd, &wanted, sizeof wanted);
    for (long got = 0; got < mebibytes << 20; got += CHUNK) {
        read_whole(fd, chunk, CHUNK);
    }
    close(fd);
    return mebibytes << 20;
}

static long round_trips(void) {
    int fd = meet('e');
    for (long done = 0; done < trips; done++) {
        write_whole(fd, chunk, MESSAGE);
        read_whole(fd, chunk, MESSAGE);
    }
    close(fd);
    return trips;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    // The kernel leaves a line of its own open.
    printf("\n");
    memset(chunk, 0x5a, CHUNK);
    for (int at = 1; at < argc; at++) {
        if (sscanf(argv[at], "mebibytes:%ld", &mebibytes) == 1 || sscanf(argv[at], "trips:%ld", &trips) == 1) {
            continue;
        }
        if (strcmp(argv[at], "vsock") == 0) {
            over_vsock = 1;
        } else if (strcmp(argv[at], "net") == 0) {
            configure("eth0", "10.77.0.2");
        }
    }
    // The first connection resolves addresses and wakes everything there is.
    close(meet('e'));
    static const struct {
        const char *name;
        long (*work)(void);
    } WORKS[] = {{"send", send_bytes}, {"receive", receive_bytes}, {"latency", round_trips}};
    for (size_t at = 0; at < sizeof WORKS / sizeof *WORKS; at++) {
        printf("begin %s\n", WORKS[at].name);
        long amount = WORKS[at].work();
        printf("end %s %ld\n", WORKS[at].name, amount);
    }
    reboot(RB_POWER_OFF);
    return 1;
}
