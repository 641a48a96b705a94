// SPDX-License-Identifier: Apache-2.0
// How the programs that ask a file system questions tell what they hear.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

// The largest page there is, so that nothing depends on which it is.
enum { PAGE = 65536 };

static void say(const char *form, ...) {
    va_list arguments;
    va_start(arguments, form);
    vprintf(form, arguments);
    va_end(arguments);
    putchar('\n');
}

static const char *error_name(void) {
    const char *name = strerrorname_np(errno);
    return name == NULL ? "?" : name;
}

// Says how a call went that answers -1 for an error; its answer.
static long tell(const char *what, long answer) {
    if (answer == -1) {
        say("%s: %s", what, error_name());
    } else {
        say("%s: ok", what);
    }
    return answer;
}

// The same with the number it answered.
static long count(const char *what, long answer) {
    if (answer == -1) {
        say("%s: %s", what, error_name());
    } else {
        say("%s: %ld", what, answer);
    }
    return answer;
}

static int made(const char *path, const char *content) {
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0644);
    size_t size = strlen(content);
    if (fd < 0 || write(fd, content, size) != (ssize_t)size) {
        say("cannot make %s: %s", path, error_name());
        exit(1);
    }
    return fd;
}

static void make(const char *path, const char *content) {
    close(made(path, content));
}

__attribute__((unused)) static void show(const char *what, const char *path) {
    struct stat st;
    if (lstat(path, &st) != 0) {
        say("%s: %s", what, error_name());
        return;
    }
    long size = S_ISDIR(st.st_mode) ? 0 : (long)st.st_size;
    // The number of links of a directory is the file system's own affair.
    long links = S_ISDIR(st.st_mode) ? 0 : (long)st.st_nlink;
    say("%s: mode %o owner %d:%d links %ld size %ld device %x:%x", what, st.st_mode, st.st_uid, st.st_gid, links, size,
        major(st.st_rdev), minor(st.st_rdev));
}

static void content(const char *what, const char *path) {
    char bytes[64] = {0};
    int fd = open(path, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, bytes, sizeof bytes - 1);
    if (size < 0) {
        say("%s: %s", what, error_name());
    } else {
        say("%s: \"%s\"", what, bytes);
    }
    if (fd >= 0) {
        close(fd);
    }
}

// Does something as another user, in a process of its own.
__attribute__((unused)) static void as_user(uid_t uid, gid_t gid, const gid_t *groups, size_t size, void (*act)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(size, groups) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) {
            say("cannot become %d: %s", uid, error_name());
            _exit(1);
        }
        act();
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status != 0) {
        say("the other user ended with %x", status);
    }
}

// A group of questions, asked in a directory of its own.
struct part {
    const char *name;
    void (*ask)(void);
};

static void ask_all(const struct part *parts, size_t size) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    for (size_t at = 0; at < size; at++) {
        say("== %s", parts[at].name);
        umask(022);
        if (mkdir(parts[at].name, 0755) != 0 || chdir(parts[at].name) != 0) {
            say("cannot begin: %s", error_name());
            exit(1);
        }
        parts[at].ask();
        if (chdir("..") != 0) {
            say("cannot go on: %s", error_name());
            exit(1);
        }
        fflush(stdout);
    }
    say("== done");
}
