// SPDX-License-Identifier: Apache-2.0
// Random operations on a file, each checked against a copy in memory: reads, writes, appends, truncation, mappings, holes, allocation, copies within the
// file, synchronisation, a second descriptor, closing and opening again, and, with `drop`, dropped caches. `shuffle SEED COUNT [drop] [no-zero]` in an
// empty directory; the same seed gives the same operations. The first byte that is not what it must be ends it with the last operations.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LARGEST = 1 << 20, HISTORY = 40, EVERY = 1 << 10 };

static unsigned char model[LARGEST];
static unsigned char bytes[LARGEST];
static long size;
static int fds[2] = {-1, -1};
static uint64_t state;
static char history[HISTORY][96];
static long done;
// Caches are the whole machine's: only in a guest.
static int may_drop;
// tmpfs knows no FALLOC_FL_ZERO_RANGE.
static int no_zero;

// xorshift64*
static uint64_t next(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

static long below(long limit) {
    return limit <= 0 ? 0 : (long)(next() >> 11) % limit;
}

static void fail(const char *what, long at) {
    printf("operation %ld: %s at %ld, errno %s; the last ones:\n", done, what, at, strerror(errno));
    for (long index = done < HISTORY ? 0 : done - HISTORY + 1; index <= done; index++) {
        printf("%ld: %s\n", index, history[index % HISTORY]);
    }
    exit(1);
}

static void note(const char *what, long at, long length) {
    snprintf(history[done % HISTORY], sizeof history[0], "%s at %ld, %ld bytes, size %ld", what, at, length, size);
}

static int fd(void) {
    return fds[below(2)];
}

static void compare(const unsigned char *got, long at, long length) {
    for (long index = 0; index < length; index++) {
        if (got[index] != model[at + index]) {
            printf("byte %ld is %02x and must be %02x\n", at + index, got[index], model[at + index]);
            fail("content differs", at + index);
        }
    }
}

// A place and a length within `limit`, small ones and large ones alike.
static long place(long limit, long *length) {
    long most = 1l << (1 + below(18));
    long at = below(limit);
    *length = 1 + below(most);
    if (*length > limit - at) {
        *length = limit - at;
    }
    return at;
}

static void grow_to(long end) {
    if (end > size) {
        size = end;
    }
}

static void fill(unsigned char *to, long length) {
    uint64_t word = next();
    for (long index = 0; index < length; index++) {
        to[index] = (unsigned char)(word >> (8 * (index % 8))) ^ (unsigned char)index;
    }
}

static void do_read(void) {
    long length, at = place(LARGEST, &length);
    note("read", at, length);
    long expected = at >= size ? 0 : (at + length > size ? size - at : length);
    if (pread(fd(), bytes, (size_t)length, at) != expected) {
        fail("short read", at);
    }
    compare(bytes, at, expected);
}

static void do_write(void) {
    long length, at = place(LARGEST, &length);
    note("write", at, length);
    fill(model + at, length);
    if (pwrite(fd(), model + at, (size_t)length, at) != length) {
        fail("short write", at);
    }
    grow_to(at + length);
}

static void do_write_parts(void) {
    long length, at = place(LARGEST, &length);
    note("writev", at, length);
    fill(model + at, length);
    long first = below(length);
    struct iovec parts[2] = {{model + at, (size_t)first}, {model + at + first, (size_t)(length - first)}};
    if (pwritev(fd(), parts, 2, at) != length) {
        fail("short write", at);
    }
    grow_to(at + length);
}

static void do_truncate(void) {
    long to = below(LARGEST);
    note("truncate", to, 0);
    if (ftruncate(fd(), to) != 0) {
        fail("truncate", to);
    }
    if (to < size) {
        memset(model + to, 0, (size_t)(size - to));
    }
    size = to;
}

static void do_map(int shared) {
    if (size == 0) {
        return;
    }
    long length, at = place(size, &length);
    note(shared ? "shared mapping" : "mapping read", at, length);
    long start = at & ~65535l;
    unsigned char *map = mmap(NULL, (size_t)(at + length - start), PROT_READ | (shared ? PROT_WRITE : 0), MAP_SHARED, fd(), start);
    if (map == MAP_FAILED) {
        fail("mmap", at);
    }
    compare(map + (at - start), at, length);
    if (shared) {
        fill(model + at, length);
        memcpy(map + (at - start), model + at, (size_t)length);
        if (below(2) && msync(map, (size_t)(at + length - start), MS_SYNC) != 0) {
            fail("msync", at);
        }
    }
    munmap(map, (size_t)(at + length - start));
}

static void do_map_read(void) {
    do_map(0);
}

static void do_map_write(void) {
    do_map(1);
}

static void do_punch(void) {
    long length, at = place(LARGEST, &length);
    note("punch", at, length);
    if (fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length) != 0) {
        fail("punch", at);
    }
    memset(model + at, 0, (size_t)length);
}

static void do_zero(void) {
    long length, at = place(LARGEST, &length);
    int keep = below(2) ? FALLOC_FL_KEEP_SIZE : 0;
    if (no_zero) {
        return;
    }
    note(keep ? "zero, keeping the size" : "zero", at, length);
    if (fallocate(fd(), FALLOC_FL_ZERO_RANGE | keep, at, length) != 0) {
        fail("zero", at);
    }
    memset(model + at, 0, (size_t)length);
    if (!keep) {
        grow_to(at + length);
    }
}

static void do_allocate(void) {
    long length, at = place(LARGEST, &length);
    int keep = below(2) ? FALLOC_FL_KEEP_SIZE : 0;
    note(keep ? "allocate, keeping the size" : "allocate", at, length);
    if (fallocate(fd(), keep, at, length) != 0) {
        fail("allocate", at);
    }
    if (!keep) {
        grow_to(at + length);
    }
}

static void do_copy(void) {
    long length, at = place(size, &length);
    long to = below(LARGEST - length);
    if (size == 0 || (to < at + length && at < to + length)) {
        return;
    }
    note("copy from", at, length);
    loff_t in = at, out = to;
    for (long left = length; left > 0;) {
        ssize_t count = copy_file_range(fd(), &in, fd(), &out, (size_t)left, 0);
        if (count <= 0) {
            fail("copy", to);
        }
        left -= count;
    }
    memcpy(model + to, model + at, (size_t)length);
    grow_to(to + length);
}

// What SEEK_DATA passes over must be zero.
static void do_seek(void) {
    long at = below(size);
    note("seek", at, 0);
    if (size == 0) {
        return;
    }
    off_t data = lseek(fds[0], at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        fail("seek", at);
    }
    long end = data < 0 ? size : data;
    for (long index = at; index < end; index++) {
        if (model[index] != 0) {
            fail("data in a hole", index);
        }
    }
}

static void do_sync(void) {
    note("fsync", 0, 0);
    if ((below(2) ? fsync(fd()) : fdatasync(fd())) != 0) {
        fail("fsync", 0);
    }
}

static void do_open(void) {
    int which = (int)below(2);
    note("open again", which, 0);
    if (fds[which] >= 0) {
        close(fds[which]);
    }
    fds[which] = open("file", O_RDWR | O_CREAT, 0644);
    if (fds[which] < 0) {
        fail("open", 0);
    }
}

static void do_append(void) {
    long length = 1 + below(5000);
    if (size + length > LARGEST) {
        return;
    }
    note("append", size, length);
    fill(model + size, length);
    int append = open("file", O_WRONLY | O_APPEND);
    if (append < 0 || write(append, model + size, (size_t)length) != length || close(append) != 0) {
        fail("append", size);
    }
    size += length;
}

static void do_rename(void) {
    note("rename", 0, 0);
    if (rename("file", "other") != 0 || rename("other", "file") != 0) {
        fail("rename", 0);
    }
}

static void do_drop(void) {
    note("drop caches", 0, 0);
    if (!may_drop) {
        return;
    }
    int caches = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (caches >= 0) {
        if (fdatasync(fds[0]) != 0 || write(caches, "1", 1) != 1) {
            fail("drop caches", 0);
        }
        close(caches);
    }
}

static void check_whole(void) {
    struct stat st;
    if (fstat(fds[1], &st) != 0 || st.st_size != size) {
        printf("the size is %ld and must be %ld\n", (long)st.st_size, size);
        fail("size", size);
    }
    if (pread(fds[0], bytes, LARGEST, 0) != size) {
        fail("short read", 0);
    }
    compare(bytes, 0, size);
}

int main(int argc, char **argv) {
    static const struct {
        void (*act)(void);
        int weight;
    } OPERATIONS[] = {
        {do_read, 20}, {do_write, 20}, {do_write_parts, 4}, {do_truncate, 5}, {do_map_read, 8}, {do_map_write, 8},
        {do_punch, 4}, {do_zero, 3}, {do_allocate, 3}, {do_copy, 5}, {do_seek, 4}, {do_sync, 1}, {do_open, 5},
        {do_append, 4}, {do_rename, 1}, {do_drop, 1},
    };
    if (argc < 3) {
        fprintf(stderr, "usage: shuffle SEED COUNT [drop] [no-zero]\n");
        return 2;
    }
    for (int at = 3; at < argc; at++) {
        may_drop |= strcmp(argv[at], "drop") == 0;
        no_zero |= strcmp(argv[at], "no-zero") == 0;
    }
    // 0 would stay 0.
    state = strtoull(argv[1], NULL, 0) * 2 + 1;
    long operations = atol(argv[2]);
    int weights = 0;
    for (size_t at = 0; at < sizeof OPERATIONS / sizeof *OPERATIONS; at++) {
        weights += OPERATIONS[at].weight;
    }
    unlink("file");
    for (int which = 0; which < 2; which++) {
        fds[which] = open("file", O_RDWR | O_CREAT, 0644);
        if (fds[which] < 0) {
            fail("open", 0);
        }
    }
    for (done = 0; done < operations; done++) {
        long draw = below(weights);
        size_t which = 0;
        while ((draw -= OPERATIONS[which].weight) >= 0) {
            which++;
        }
        OPERATIONS[which].act();
        if (done % EVERY == EVERY - 1) {
            check_whole();
        }
    }
    check_whole();
    printf("%ld operations, seed %s: as they must be\n", operations, argv[1]);
    return 0;
}
