// SPDX-License-Identifier: Apache-2.0
// What a file system does with content, locks and contention, told as posix.c tells the rest.

#include "tell.h"

#include <linux/falloc.h>
#include <signal.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

static long size_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? (long)st.st_size : -1;
}

static void reading(void) {
    int fd = made("f", "0123456789");
    char bytes[32] = {0};
    count("at the end", read(fd, bytes, 4));
    count("from the middle", pread(fd, bytes, 4, 5));
    say("what came: %s", bytes);
    count("across the end", pread(fd, bytes, 10, 8));
    count("beyond the end", pread(fd, bytes, 10, 100));
    tell("at a negative place", pread(fd, bytes, 1, -1));
    count("nothing", pread(fd, bytes, 0, 0));
    count("write beyond the end", pwrite(fd, "x", 1, 20));
    memset(bytes, 'q', sizeof bytes);
    count("read the gap", pread(fd, bytes, 32, 8));
    int zeros = 0;
    for (int at = 2; at < 12; at++) {
        zeros += bytes[at] == 0;
    }
    say("zeros in it: %d", zeros);
    tell("seek before the beginning", lseek(fd, -1, SEEK_SET));
    count("seek from the end", lseek(fd, -3, SEEK_END));
    tell("seek by an unknown name", lseek(fd, 0, 99));
    struct iovec parts[3] = {{bytes, 3}, {bytes + 10, 0}, {bytes + 20, 5}};
    count("readv", preadv(fd, parts, 3, 0));
    count("writev", pwritev(fd, parts, 3, 0));
    tell("write to what is open for reading", write(open("f", O_RDONLY), "x", 1));
    tell("read what is open for writing", read(open("f", O_WRONLY), bytes, 1));
    int append = open("f", O_WRONLY | O_APPEND);
    lseek(append, 0, SEEK_SET);
    count("append", write(append, "end", 3));
    say("size %ld, place %ld", size_of(fd), (long)lseek(append, 0, SEEK_CUR));
    int other = open("f", O_WRONLY | O_APPEND);
    count("two who append", write(other, "1", 1) + write(append, "2", 1) + write(other, "3", 1));
    say("size %ld", size_of(fd));
    tell("fcntl sets O_APPEND", fcntl(fd, F_SETFL, O_APPEND));
    count("and then it appends", write(fd, "z", 1));
    say("size %ld", size_of(fd));
    tell("fsync", fsync(fd));
    tell("fdatasync", fdatasync(fd));
    tell("sync_file_range", sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    tell("O_SYNC", close(open("f", O_RDWR | O_SYNC)));
    tell("O_DSYNC", close(open("f", O_RDWR | O_DSYNC)));
    int held = open("f", O_RDWR);
    count("flags that F_GETFL shows", fcntl(held, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
}

static void direct(void) {
    int fd = made("f", "");
    close(fd);
    fd = open("f", O_RDWR | O_DIRECT);
    tell("O_DIRECT", fd);
    char *bytes = aligned_alloc(PAGE, 2 * PAGE);
    memset(bytes, 'd', 2 * PAGE);
    count("write", pwrite(fd, bytes, 2 * PAGE, 0));
    count("read", pread(fd, bytes, PAGE, PAGE));
    count("read at the end", pread(fd, bytes, PAGE, 2 * PAGE));
    int buffered = open("f", O_RDWR);
    count("written past the cache", pwrite(buffered, "buffered", 8, PAGE));
    memset(bytes, 0, PAGE);
    count("read directly", pread(fd, bytes, PAGE, PAGE));
    say("sees it: %.8s", bytes);
    memset(bytes, 'D', PAGE);
    count("written directly", pwrite(fd, bytes, PAGE, PAGE));
    count("read through the cache", pread(buffered, bytes + PAGE, 8, PAGE));
    say("sees it: %.8s", bytes + PAGE);
}

static void sizes(void) {
    int fd = made("f", "0123456789");
    tell("shorter", ftruncate(fd, 4));
    content("holds", "f");
    tell("longer", ftruncate(fd, 8));
    char bytes[8];
    count("read", pread(fd, bytes, 8, 0));
    say("the new part is %d %d", bytes[4], bytes[7]);
    tell("negative", ftruncate(fd, -1));
    tell("by name", truncate("f", 2));
    tell("of a directory", truncate(".", 2));
    tell("of what is missing", truncate("missing", 2));
    tell("of what is open for reading", ftruncate(open("f", O_RDONLY), 1));
    tell("a terabyte", ftruncate(fd, 1l << 40));
    say("size %ld", size_of(fd));
    count("written at its end", pwrite(fd, "x", 1, (1l << 40) - 1));
    tell("the largest number", ftruncate(fd, INT64_MAX));
    struct rlimit limit = {1000, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    ftruncate(fd, 0);
    setrlimit(RLIMIT_FSIZE, &limit);
    count("up to the limit of the process", pwrite(fd, "0123456789", 10, 995));
    tell("beyond it", pwrite(fd, "x", 1, 1000));
    tell("beyond it by truncation", ftruncate(fd, 1001));
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    tell("O_TRUNC", close(open("f", O_RDWR | O_TRUNC)));
    say("size %ld", size_of(fd));
    struct statvfs vfs;
    tell("statvfs", statvfs(".", &vfs));
    say("names of %lu bytes, free blocks: %s", vfs.f_namemax, vfs.f_bfree > 0 && vfs.f_bavail <= vfs.f_blocks ? "some" : "none");
}

// The next data and hole from a place, in pages.
static void map_of(const char *what, int fd, long pages) {
    char text[64] = {0};
    for (long page = 0; page < pages && page < 60; page++) {
        off_t data = lseek(fd, page * PAGE, SEEK_DATA);
        text[page] = data == page * PAGE ? 'D' : '.';
    }
    say("%s: %s size %ld", what, text, size_of(fd));
}

static void holes(void) {
    int fd = made("f", "");
    static char page[PAGE];
    memset(page, 'p', PAGE);
    ftruncate(fd, 8 * PAGE);
    pwrite(fd, page, PAGE, 2 * PAGE);
    pwrite(fd, page, PAGE, 5 * PAGE);
    fsync(fd);
    map_of("two pages in eight", fd, 8);
    count("data", lseek(fd, 0, SEEK_DATA));
    count("hole", lseek(fd, 2 * PAGE, SEEK_HOLE));
    count("hole in a hole", lseek(fd, 1, SEEK_HOLE));
    tell("data after the last", lseek(fd, 6 * PAGE, SEEK_DATA));
    tell("beyond the end", lseek(fd, 9 * PAGE, SEEK_HOLE));
    tell("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, PAGE));
    map_of("one", fd, 8);
    count("read it", pread(fd, page, 1, 2 * PAGE));
    say("is %d", page[0]);
    tell("punch without KEEP_SIZE", fallocate(fd, FALLOC_FL_PUNCH_HOLE, 2 * PAGE, PAGE));
    tell("punch half a page", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * PAGE, 100));
    pread(fd, page, 200, 5 * PAGE);
    say("zero and not: %d %d", page[99], page[100]);
    tell("zero a range", fallocate(fd, FALLOC_FL_ZERO_RANGE, 5 * PAGE, PAGE));
    pread(fd, page, 200, 5 * PAGE);
    say("all zero: %d", page[100]);
    tell("zero beyond the end", fallocate(fd, FALLOC_FL_ZERO_RANGE, 8 * PAGE, PAGE));
    say("size %ld", size_of(fd));
    tell("zero beyond it and keep the size", fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 9 * PAGE, PAGE));
    say("size %ld", size_of(fd));
    tell("allocate", fallocate(fd, 0, 9 * PAGE, PAGE));
    say("size %ld", size_of(fd));
    tell("allocate and keep the size", fallocate(fd, FALLOC_FL_KEEP_SIZE, 10 * PAGE, 4 * PAGE));
    struct stat st;
    fstat(fd, &st);
    say("size %ld", size_of(fd));
    tell("collapse", fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE));
    tell("insert", fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, PAGE));
    tell("of nothing", fallocate(fd, 0, 0, 0));
    tell("at a negative place", fallocate(fd, 0, -1, PAGE));
    tell("an unknown mode", fallocate(fd, 0x4000, 0, PAGE));
    tell("of a directory", fallocate(open(".", O_RDONLY), 0, 0, PAGE));
    tell("of what is open for reading", fallocate(open("f", O_RDONLY), 0, 0, PAGE));
    tell("by POSIX", posix_fallocate(fd, 0, 20 * PAGE) == 0 ? 0 : -1);
    say("size %ld", size_of(fd));
    tell("posix_fadvise", posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 ? 0 : -1);
}

static void copies(void) {
    int from = made("from", "");
    static char page[PAGE];
    for (int index = 0; index < 4; index++) {
        memset(page, 'a' + index, PAGE);
        pwrite(from, page, PAGE, (off_t)index * PAGE);
    }
    int to = made("to", "");
    loff_t in = PAGE, out = 0;
    count("copy a page", copy_file_range(from, &in, to, &out, PAGE, 0));
    say("places %ld %ld, size %ld", (long)in, (long)out, size_of(to));
    in = 3 * PAGE + 100;
    count("across the end", copy_file_range(from, &in, to, &out, PAGE, 0));
    count("at the end", copy_file_range(from, &in, to, &out, PAGE, 0));
    lseek(from, 0, SEEK_SET);
    lseek(to, 10, SEEK_SET);
    count("by the files' own places", copy_file_range(from, NULL, to, NULL, 20, 0));
    say("places %ld %ld", (long)lseek(from, 0, SEEK_CUR), (long)lseek(to, 0, SEEK_CUR));
    in = 0;
    out = 10;
    tell("onto itself, overlapping", copy_file_range(from, &in, from, &out, 100, 0));
    in = 0;
    out = PAGE;
    count("onto itself", copy_file_range(from, &in, from, &out, 100, 0));
    tell("with a flag", copy_file_range(from, &in, to, &out, 1, 8));
    tell("to what is open for reading", copy_file_range(from, &in, open("to", O_RDONLY), &out, 1, 0));
    tell("to what appends", copy_file_range(from, &in, open("to", O_WRONLY | O_APPEND), &out, 1, 0));
    pread(to, page, 40, 0);
    say("what came: %.10s %.5s %.5s", page, page + 10, page + 30);
}

static void maps(void) {
    int fd = made("f", "0123456789");
    ftruncate(fd, 3 * PAGE);
    char *shared = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    tell("shared", shared == MAP_FAILED ? -1 : 0);
    if (shared != MAP_FAILED) {
        memcpy(shared + 4, "MAPPED", 6);
        memcpy(shared + 2 * PAGE, "third", 5);
        char bytes[16] = {0};
        count("read what was mapped", pread(fd, bytes, 10, 0));
        say("is %s", bytes);
        count("write", pwrite(fd, "WRITTEN", 7, PAGE));
        say("in the mapping: %.7s", shared + PAGE);
        tell("msync", msync(shared, 3 * PAGE, MS_SYNC));
        tell("msync what is not mapped", msync(shared + 16 * PAGE + 1, 1, MS_SYNC));
        int again = open("f", O_RDONLY);
        count("by another descriptor", pread(again, bytes, 5, 2 * PAGE));
        say("is %.5s", bytes);
        tell("munmap", munmap(shared, 3 * PAGE));
    }
    char *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    tell("private", private == MAP_FAILED ? -1 : 0);
    if (private != MAP_FAILED) {
        memcpy(private, "PRIVATE", 7);
        char bytes[8] = {0};
        pread(fd, bytes, 4, 0);
        say("the file stays: %s", bytes);
        munmap(private, PAGE);
    }
    tell("shared and written, of what is open for reading",
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open("f", O_RDONLY), 0) == MAP_FAILED ? -1 : 0);
    tell("of a directory", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open(".", O_RDONLY), 0) == MAP_FAILED ? -1 : 0);
    // Beyond the file's last page there is nothing: a signal.
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int small = made("small", "x");
        volatile char *beyond = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, small, 0);
        char last = beyond[100];
        char next = beyond[PAGE];
        _exit(last + next);
    }
    int status;
    waitpid(child, &status, 0);
    say("beyond the end: %s", WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS ? "SIGBUS" : "no signal");
    // A mapping outlives name and descriptor.
    int ghost = made("ghost", "still here");
    char *kept = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ghost, 0);
    unlink("ghost");
    close(ghost);
    say("after unlink and close: %.10s", kept == MAP_FAILED ? "nothing" : kept);
    make("program", "#!/nonexistent\n");
    chmod("program", 0755);
    tell("execute a script without an interpreter", execl("./program", "program", NULL));
}

// What another process is told that asks for a lock of `type`.
static void asked(const char *what, const char *path, short type, off_t start, off_t length) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_RDWR);
        struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
        tell(what, fcntl(fd, F_SETLK, &lock));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void asked_whole(const char *what, const char *path, int operation) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        tell(what, flock(open(path, O_RDWR), operation | LOCK_NB));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void locks(void) {
    int fd = made("f", "0123456789");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 4};
    tell("lock a range", fcntl(fd, F_SETLK, &lock));
    asked("the same range", "f", F_WRLCK, 2, 4);
    asked("part of it, to read", "f", F_RDLCK, 5, 1);
    asked("beside it", "f", F_WRLCK, 6, 4);
    lock.l_type = F_RDLCK;
    tell("change it", fcntl(fd, F_SETLK, &lock));
    asked("two readers", "f", F_RDLCK, 2, 4);
    asked("a reader and a writer", "f", F_WRLCK, 3, 1);
    int other = open("f", O_RDWR);
    close(other);
    asked("closing any descriptor lets go", "f", F_WRLCK, 2, 4);
    lock.l_type = F_WRLCK;
    tell("to read only, lock for writing", fcntl(open("f", O_RDONLY), F_SETLK, &lock));
    tell("flock", flock(fd, LOCK_EX | LOCK_NB));
    asked_whole("another", "f", LOCK_EX);
    tell("turned into a shared one", flock(fd, LOCK_SH | LOCK_NB));
    asked_whole("another shared one", "f", LOCK_SH);
    asked_whole("another alone", "f", LOCK_EX);
    tell("unlock", flock(fd, LOCK_UN));
    asked_whole("then alone", "f", LOCK_EX);
    int description = open("f", O_RDWR);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    tell("lock of an open file description", fcntl(description, F_OFD_SETLK, &whole));
    tell("another in this process", fcntl(open("f", O_RDWR), F_OFD_SETLK, &whole));
    asked("an ordinary one", "f", F_WRLCK, 0, 1);
    tell("a lease", fcntl(open("f", O_RDONLY), F_SETLEASE, F_RDLCK));
}

static void temporary(void) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    tell("O_TMPFILE", fd);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    tell("given a name", linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    char name[] = "temporary-XXXXXX";
    fd = mkstemp(name);
    tell("mkstemp", fd);
    tell("without its name", unlink(name));
    count("write", write(fd, "kept", 4));
    say("size %ld", size_of(fd));
    close(fd);
    tell("O_PATH", (fd = open(".", O_PATH)));
    make("f", "x");
    tell("openat below it", close(openat(fd, "f", O_RDONLY)));
    tell("read an O_PATH descriptor", read(open("f", O_PATH), path, 1));
    tell("O_EXEC of a file without the bit", access("f", X_OK));
}

enum { RACERS = 4, ROUNDS = 60 };

// Several processes do the same at once; how many of them got it.
static void race(const char *what, int (*act)(int racer, int round)) {
    int gate[2], wins[2], total = 0;
    if (pipe(gate) != 0 || pipe(wins) != 0) {
        exit(1);
    }
    fflush(stdout);
    for (int racer = 0; racer < RACERS; racer++) {
        if (fork() == 0) {
            char open_gate;
            close(gate[1]);
            if (read(gate[0], &open_gate, 1) != 0) {
                _exit(1);
            }
            for (int round = 0; round < ROUNDS; round++) {
                if (act(racer, round) == 0 && write(wins[1], "w", 1) != 1) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    close(gate[1]);
    close(gate[0]);
    while (wait(NULL) > 0) {
    }
    close(wins[1]);
    for (char win; read(wins[0], &win, 1) == 1;) {
        total++;
    }
    close(wins[0]);
    say("%s: %d of %d", what, total, RACERS * ROUNDS);
}

static const char *numbered(const char *name, int number) {
    static char text[4][64];
    static int next;
    char *place = text[next++ % 4];
    snprintf(place, sizeof text[0], "%s%d", name, number);
    return place;
}

static int create_one(int racer, int round) {
    (void)racer;
    int fd = open(numbered("x", round), O_CREAT | O_EXCL | O_RDWR, 0600);
    return fd < 0 ? -1 : close(fd);
}

static int directory_one(int racer, int round) {
    (void)racer;
    return mkdir(numbered("d", round), 0700);
}

static int link_one(int racer, int round) {
    (void)racer;
    return link("source", numbered("l", round));
}

static int unlink_one(int racer, int round) {
    (void)racer;
    return unlink(numbered("x", round));
}

static int move_one(int racer, int round) {
    return renameat2(AT_FDCWD, numbered("mine", racer), AT_FDCWD, numbered("m", round), RENAME_NOREPLACE) == 0
        ? (make(numbered("mine", racer), "m"), 0)
        : -1;
}

static int append_one(int racer, int round) {
    (void)round;
    int fd = open("log", O_WRONLY | O_APPEND | O_CREAT, 0600);
    char line[64];
    memset(line, 'a' + racer, sizeof line);
    int failed = write(fd, line, sizeof line) != sizeof line;
    close(fd);
    return failed ? -1 : 0;
}

static int replace_one(int racer, int round) {
    const char *name = numbered("fresh", racer);
    make(name, round % 2 == 0 ? "even content" : "odd content!");
    char bytes[32] = {0};
    int fd = open("current", O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    close(fd);
    // A file that is replaced by rename is always whole.
    int whole = size == 12 && (strcmp(bytes, "even content") == 0 || strcmp(bytes, "odd content!") == 0);
    return rename(name, "current") == 0 && whole ? 0 : -1;
}

static void races(void) {
    make("source", "");
    race("who creates a file alone", create_one);
    race("who makes a directory", directory_one);
    race("who links", link_one);
    struct stat st;
    stat("source", &st);
    say("links of the source: %ld", (long)st.st_nlink);
    race("who unlinks", unlink_one);
    for (int racer = 0; racer < RACERS; racer++) {
        make(numbered("mine", racer), "m");
    }
    race("who moves to a new name", move_one);
    race("who appends", append_one);
    int fd = open("log", O_RDONLY);
    char line[64];
    int lines = 0, mixed = 0;
    while (read(fd, line, sizeof line) == sizeof line) {
        lines++;
        for (size_t at = 1; at < sizeof line; at++) {
            mixed += line[at] != line[0];
        }
    }
    say("lines %d, bytes of another in them %d", lines, mixed);
    make("current", "even content");
    race("whole content while it is replaced", replace_one);
}

int main(void) {
    static const struct part PARTS[] = {
        {"reading", reading},
        {"direct", direct},
        {"sizes", sizes},
        {"holes", holes},
        {"copies", copies},
        {"maps", maps},
        {"locks", locks},
        {"temporary", temporary},
        {"races", races},
    };
    ask_all(PARTS, sizeof PARTS / sizeof *PARTS);
    return 0;
}
