// SPDX-License-Identifier: Apache-2.0
// PID 1 of the file system benchmark: mounts the share `paperboat`, does the work named on the kernel's command line (after `--`) in order, says
// on the console when each piece begins and ends, and powers the machine off. A piece's end tells how much it did, and a digest of what it
// read. As an ordinary program it does the same in the directory that is its first argument.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_PER_DIRECTORY = 200, BLOCK = 4096, CHUNK = 1 << 20 };

static const char *const ROOT = "/mnt";
// Below the root, where the program then stands.
static const char *const TREE = "tree";
static const char *const BIG = "big";

static long files = 20000;
static long mebibytes = 256;
static long forget = 0;
static uint64_t digest;
static unsigned char *chunk;

static void die(const char *what) {
    printf("failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void mix(const unsigned char *bytes, size_t size) {
    for (size_t at = 0; at < size; at += 512) {
        digest = (digest ^ bytes[at]) * 0x100000001b3;
    }
}

static uint64_t seed;

// xorshift64*
static uint64_t next(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1d;
}

static void name_of(char *path, long file) {
    sprintf(path, "%s/d%03ld/f%05ld", TREE, file / FILES_PER_DIRECTORY, file);
}

// 2: names and inodes; 3: content as well. What was written has gone to the far side by then, with each write and fsync.
static void drop_caches(const char *what) {
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd < 0 || write(fd, what, 1) != 1 || close(fd) != 0) {
        die("drop_caches");
    }
}

// What unpacking an archive asks of a file system: directories, files of 0 to 8 KiB, owners, modes, times.
static long untar(void) {
    if (mkdir(TREE, 0755) != 0) {
        die("mkdir");
    }
    seed = 1;
    for (long file = 0; file < files; file++) {
        char path[64];
        name_of(path, file);
        if (file % FILES_PER_DIRECTORY == 0) {
            *strrchr(path, '/') = 0;
            if (mkdir(path, 0755) != 0) {
                die(path);
            }
            name_of(path, file);
        }
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        if (fd < 0) {
            die(path);
        }
        size_t size = next() % 8192;
        if (write(fd, chunk, size) != (ssize_t)size || fchown(fd, 1000, 1000) != 0 || fchmod(fd, 0644) != 0) {
            die(path);
        }
        struct timespec times[2] = {{.tv_sec = 1000000000 + file}, {.tv_sec = 1000000000 + file}};
        if (futimens(fd, times) != 0 || close(fd) != 0) {
            die(path);
        }
        if (forget > 0 && file % forget == forget - 1) {
            drop_caches("2");
        }
    }
    return files;
}

static long remove_below(const char *path) {
    DIR *directory = opendir(path);
    if (directory == NULL) {
        die(path);
    }
    long count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        char below[512];
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (entry->d_type == DT_DIR) {
            count += remove_below(below);
        } else if (unlink(below) == 0) {
            count++;
        } else {
            die(below);
        }
    }
    closedir(directory);
    if (rmdir(path) != 0) {
        die(path);
    }
    return count;
}

static long rm(void) {
    return remove_below(TREE);
}

static long sequential(int flags) {
    int writes = (flags & O_ACCMODE) == O_WRONLY;
    if (!writes) {
        drop_caches("3");
    }
    int fd = open(BIG, flags, 0644);
    if (fd < 0) {
        die(BIG);
    }
    for (long done = 0; done < mebibytes; done++) {
        chunk[0] = (unsigned char)done;
        ssize_t moved = writes ? write(fd, chunk, CHUNK) : read(fd, chunk, CHUNK);
        if (moved != CHUNK) {
            die(BIG);
        }
        if (!writes) {
            mix(chunk, CHUNK);
        }
    }
    if ((writes && fsync(fd) != 0) || close(fd) != 0) {
        die(BIG);
    }
    return mebibytes << 20;
}

// As many blocks as a quarter of the file has, anywhere in it.
static long scattered(int flags) {
    int writes = (flags & O_ACCMODE) == O_WRONLY;
    if (!writes) {
        drop_caches("3");
    }
    int fd = open(BIG, flags);
    if (fd < 0) {
        die(BIG);
    }
    seed = 2;
    long blocks = (mebibytes << 20) / BLOCK;
    for (long done = 0; done < blocks / 4; done++) {
        off_t at = (off_t)(next() % (uint64_t)blocks) * BLOCK;
        ssize_t moved = writes ? pwrite(fd, chunk, BLOCK, at) : pread(fd, chunk, BLOCK, at);
        if (moved != BLOCK) {
            die(BIG);
        }
        if (!writes) {
            mix(chunk, BLOCK);
        }
    }
    if ((writes && fsync(fd) != 0) || close(fd) != 0) {
        die(BIG);
    }
    return blocks / 4;
}

static long work(const char *name) {
    if (strcmp(name, "untar") == 0) {
        return untar();
    } else if (strcmp(name, "rm") == 0) {
        return rm();
    } else if (strcmp(name, "seqwrite") == 0) {
        return sequential(O_WRONLY | O_CREAT | O_TRUNC);
    } else if (strcmp(name, "seqread") == 0) {
        return sequential(O_RDONLY);
    } else if (strcmp(name, "randwrite") == 0) {
        return scattered(O_WRONLY);
    } else if (strcmp(name, "randread") == 0) {
        return scattered(O_RDONLY);
    } else if (strcmp(name, "seqwrite_direct") == 0) {
        return sequential(O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT);
    } else if (strcmp(name, "seqread_direct") == 0) {
        return sequential(O_RDONLY | O_DIRECT);
    } else if (strcmp(name, "randwrite_direct") == 0) {
        return scattered(O_WRONLY | O_DIRECT);
    } else if (strcmp(name, "randread_direct") == 0) {
        return scattered(O_RDONLY | O_DIRECT);
    }
    errno = EINVAL;
    die(name);
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    // The kernel leaves a line of its own open.
    printf("\n");
    chunk = aligned_alloc(65536, CHUNK);
    if (chunk == NULL) {
        die("memory");
    }
    memset(chunk, 0x5a, CHUNK);
    int first = 1;
    const char *root = ROOT;
    if (getpid() != 1) {
        root = argc > 1 ? argv[first++] : ".";
    } else {
        mkdir("/proc", 0755);
        mkdir(ROOT, 0755);
        if (mount("proc", "/proc", "proc", 0, NULL) != 0) {
            die("mount /proc");
        }
        if (mount("paperboat", ROOT, "virtiofs", 0, NULL) != 0) {
            die("mount the share");
        }
    }
    if (chdir(root) != 0) {
        die(root);
    }
    for (int at = first; at < argc; at++) {
        if (sscanf(argv[at], "files:%ld", &files) == 1 || sscanf(argv[at], "mebibytes:%ld", &mebibytes) == 1
            || sscanf(argv[at], "forget:%ld", &forget) == 1) {
            continue;
        }
        digest = 0xcbf29ce484222325;
        printf("begin %s\n", argv[at]);
        long amount = work(argv[at]);
        printf("end %s %ld %016llx\n", argv[at], amount, (unsigned long long)digest);
    }
    if (getpid() != 1) {
        return 0;
    }
    if (chdir("/") != 0) {
        die("/");
    }
    umount(ROOT);
    reboot(RB_POWER_OFF);
    return 1;
}
