// SPDX-License-Identifier: Apache-2.0
// A driver that a device must not trust, for tests: `misuse FUNCTION QUEUE MISDEED` drives the virtio function at that PCI address, which no driver of
// the kernel may have, through its registers and a page of its own memory. It sets the device up as a driver does (virtio 1.2 §3.1.1), hands in what the
// misdeed says, and prints the device's status once that has DEVICE_NEEDS_RESET, or after a minute. The device is left as it is.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE = 64 << 10,
    // What each queue gets of the page: descriptors, then both rings.
    SHARE = 4 << 10,
    SIZE = 64,
    AVAILABLE = 16 * SIZE,
    USED = AVAILABLE + 1024,
    // A request's bytes.
    DATA = PAGE - SHARE,
    QUEUES = (PAGE - SHARE) / SHARE,
};

// Device status (virtio 1.2 §2.1).
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 0x40 };
// Descriptor flags (§2.7.5).
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
// Types of structures in the configuration (§4.1.4).
enum { COMMON = 1, NOTIFY = 2 };

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

// Fields of the common configuration (§4.1.4.3).
enum {
    FEATURE_SELECT = 8, FEATURES = 12, QUEUE_COUNT = 18, STATUS = 20, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_ENABLE = 28, QUEUE_NOTIFY = 30,
    QUEUE_DESCRIPTORS = 32, QUEUE_AVAILABLE = 40, QUEUE_USED = 48,
};

// Far beyond any guest's memory, aligned.
static const uint64_t NOWHERE = 0x7fffffff00000000;

static volatile unsigned char *common, *notify;
static uint32_t notify_stride;
static unsigned char *page;
static uint64_t page_address;

static void die(const char *what) {
    fprintf(stderr, "misuse: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_of(const char *function, const char *name, int flags) {
    char path[256];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", function, name);
    int fd = open(path, flags);
    if (fd < 0) {
        die(path);
    }
    return fd;
}

static volatile unsigned char *map_bar(const char *function, int bar, uint32_t offset, uint32_t length) {
    char name[32];
    snprintf(name, sizeof name, "resource%d", bar);
    uint32_t start = offset & ~(PAGE - 1u);
    unsigned char *map = mmap(NULL, offset - start + length, PROT_READ | PROT_WRITE, MAP_SHARED, open_of(function, name, O_RDWR), start);
    if (map == MAP_FAILED) {
        die(name);
    }
    return map + (offset - start);
}

// Turns the function on and finds its structures by their capabilities.
static void find(const char *function) {
    if (write(open_of(function, "enable", O_WRONLY), "1", 1) != 1) {
        die("enable");
    }
    int config = open_of(function, "config", O_RDWR);
    uint16_t command;
    if (pread(config, &command, 2, 4) != 2) {
        die("command register");
    }
    command |= 6;
    if (pwrite(config, &command, 2, 4) != 2) {
        die("command register");
    }
    unsigned char at = 0;
    if (pread(config, &at, 1, 0x34) != 1) {
        die("capabilities");
    }
    for (int left = 48; at != 0 && left > 0; left--) {
        unsigned char capability[20] = {0};
        if (pread(config, capability, sizeof capability, at) < 16) {
            die("capability");
        }
        uint32_t offset, length;
        memcpy(&offset, capability + 8, 4);
        memcpy(&length, capability + 12, 4);
        // The bus spells them so; they are the guest's order too.
        if (capability[0] == 9 && capability[3] == COMMON) {
            common = map_bar(function, capability[4], offset, length);
        } else if (capability[0] == 9 && capability[3] == NOTIFY) {
            notify = map_bar(function, capability[4], offset, length);
            memcpy(&notify_stride, capability + 16, 4);
        }
        at = capability[1];
    }
    if (common == NULL || notify == NULL) {
        die("no virtio function");
    }
}

// A page that stays where it is, and where that is.
static void take_page(void) {
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED) {
        die("memory");
    }
    long unit = sysconf(_SC_PAGESIZE);
    uint64_t entry = 0;
    int map = open("/proc/self/pagemap", O_RDONLY);
    if (map < 0 || pread(map, &entry, 8, (off_t)((uintptr_t)page / (size_t)unit * 8)) != 8 || !(entry >> 63)) {
        die("/proc/self/pagemap");
    }
    if (unit < PAGE) {
        // Pages of 4 KiB lie anywhere; a test wants one piece.
        errno = EINVAL;
        die("pages of 64 KiB are needed");
    }
    page_address = (entry & ((1ull << 55) - 1)) * (uint64_t)unit;
}

static uint16_t read16(int field) {
    return *(volatile uint16_t *)(common + field);
}

static void write16(int field, uint16_t value) {
    *(volatile uint16_t *)(common + field) = value;
}

static void write64(int field, uint64_t value) {
    *(volatile uint32_t *)(common + field) = (uint32_t)value;
    *(volatile uint32_t *)(common + field + 4) = (uint32_t)(value >> 32);
}

static void set_status(unsigned char bits) {
    common[STATUS] = common[STATUS] | bits;
}

// Everything up to DRIVER_OK, without any feature but VIRTIO_F_VERSION_1. `wrong` has its rings elsewhere.
static void set_up(int wrong, uint64_t rings) {
    common[STATUS] = 0;
    while (common[STATUS] != 0) {
    }
    set_status(ACKNOWLEDGE);
    set_status(DRIVER);
    for (uint32_t half = 0; half < 2; half++) {
        *(volatile uint32_t *)(common + FEATURE_SELECT) = half;
        *(volatile uint32_t *)(common + FEATURES) = half;
    }
    set_status(FEATURES_OK);
    int count = read16(QUEUE_COUNT);
    for (int queue = 0; queue < count && queue < QUEUES; queue++) {
        uint64_t place = queue == wrong ? rings : page_address + (uint64_t)queue * SHARE;
        write16(QUEUE_SELECT, (uint16_t)queue);
        write16(QUEUE_SIZE, SIZE);
        write64(QUEUE_DESCRIPTORS, place);
        write64(QUEUE_AVAILABLE, place + AVAILABLE);
        write64(QUEUE_USED, place + USED);
        write16(QUEUE_ENABLE, 1);
    }
}

// Makes `count` entries available, the first being `head`, and tells the device.
static void hand_in(int queue, uint16_t head, uint16_t count) {
    volatile uint16_t *ring = (volatile uint16_t *)(page + queue * SHARE + AVAILABLE);
    ring[2] = head;
    __sync_synchronize();
    ring[1] = count;
    __sync_synchronize();
    write16(QUEUE_SELECT, (uint16_t)queue);
    *(volatile uint16_t *)(notify + read16(QUEUE_NOTIFY) * notify_stride) = (uint16_t)queue;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: misuse FUNCTION QUEUE rings|index|head|loop|table|nowhere|wrapping\n");
        return 2;
    }
    int queue = atoi(argv[2]);
    const char *misdeed = argv[3];
    if (queue < 0 || queue >= QUEUES) {
        errno = EINVAL;
        die("queue");
    }
    find(argv[1]);
    take_page();
    int elsewhere = strcmp(misdeed, "rings") == 0;
    set_up(elsewhere ? queue : -1, NOWHERE);
    set_status(DRIVER_OK);

    struct descriptor *table = (struct descriptor *)(page + queue * SHARE);
    // What the device reads, and where it may answer.
    uint64_t data = page_address + DATA;
    table[0] = (struct descriptor){data, 64, NEXT, 1};
    table[1] = (struct descriptor){data + 64, 64, WRITE, 0};
    if (strcmp(misdeed, "index") == 0) {
        // More than the ring has.
        hand_in(queue, 0, 0x8000);
    } else if (strcmp(misdeed, "head") == 0) {
        hand_in(queue, SIZE, 1);
    } else if (strcmp(misdeed, "loop") == 0) {
        table[1].flags |= NEXT;
        hand_in(queue, 0, 1);
    } else if (strcmp(misdeed, "table") == 0) {
        // A table of descriptors that is not there, and was not agreed on.
        table[0] = (struct descriptor){NOWHERE, 160, INDIRECT, 0};
        hand_in(queue, 0, 1);
    } else if (strcmp(misdeed, "nowhere") == 0) {
        table[0].address = table[1].address = NOWHERE;
        hand_in(queue, 0, 1);
    } else if (strcmp(misdeed, "wrapping") == 0) {
        table[0].address = table[1].address = -(uint64_t)SHARE;
        table[0].length = table[1].length = UINT32_MAX;
        hand_in(queue, 0, 1);
    } else if (!elsewhere) {
        errno = EINVAL;
        die(misdeed);
    }
    struct timespec pause = {.tv_nsec = 1000000};
    for (int left = 60000; left > 0 && !(common[STATUS] & NEEDS_RESET); left--) {
        nanosleep(&pause, NULL);
    }
    printf("status %02x\n", common[STATUS]);
    return 0;
}
