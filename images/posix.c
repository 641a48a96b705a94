// SPDX-License-Identifier: Apache-2.0
// What a file system does, told line by line: run it as root in an empty directory, there and elsewhere, and compare. A line is a question, and
// the answer or the name of the error. Nothing is judged here, and nothing depends on the time, the numbers of inodes or the device.

#include "tell.h"

#include <dirent.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>

static void names(void) {
    char name[NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[NAME_MAX] = 0;
    tell("a name of 255 bytes", mkdir(name, 0755));
    tell("once more", mkdir(name, 0755));
    tell("and away", rmdir(name));
    name[NAME_MAX] = 'n';
    name[NAME_MAX + 1] = 0;
    tell("a name of 256 bytes", mkdir(name, 0755));
    tell("look it up", access(name, F_OK));
    tell("open it", open(name, O_RDONLY));
    tell("link to it", symlink("x", name));
    char path[PATH_MAX + 1];
    memset(path, '/', sizeof path);
    path[0] = '.';
    path[PATH_MAX - 1] = 0;
    tell("a path of 4095 bytes", access(path, F_OK));
    path[PATH_MAX - 1] = '/';
    path[PATH_MAX] = 0;
    tell("a path of 4096 bytes", access(path, F_OK));
    tell("the empty name", open("", O_RDONLY));
    tell("make the empty name", mkdir("", 0755));
    tell("any byte but / and 0", mkdir("\x01\x02\x7f\x80\xff\n \t\\\"*?", 0755));
    tell("find it", access("\x01\x02\x7f\x80\xff\n \t\\\"*?", F_OK));
    tell("and away", rmdir("\x01\x02\x7f\x80\xff\n \t\\\"*?"));
    tell("case counts", mkdir("Case", 0755));
    tell("small", access("case", F_OK));
    rmdir("Case");
    tell("make .", mkdir(".", 0755));
    tell("make ..", mkdir("..", 0755));
    tell("remove .", rmdir("."));
    tell("remove ..", rmdir(".."));
    tell("unlink .", unlink("."));
    make("file", "x");
    tell("a file as a directory", open("file/", O_RDONLY));
    tell("below a file", open("file/x", O_RDONLY));
    tell("create below a file", open("file/x", O_CREAT | O_RDWR, 0644));
    tell("create with a slash at the end", open("fresh/", O_CREAT | O_RDWR, 0644));
    tell("make a directory with a slash", mkdir("slash/", 0755));
    tell("remove it with a slash", rmdir("slash/"));
    tell("unlink with a slash", unlink("file/"));
    tell("a directory over a file", mkdir("file", 0755));
    tell("a file as O_DIRECTORY", open("file", O_RDONLY | O_DIRECTORY));
    tell("a directory for writing", open(".", O_WRONLY));
    tell("exclusive over a file", open("file", O_CREAT | O_EXCL | O_RDWR, 0644));
    tell("what is missing", open("missing", O_RDONLY));
    tell("below what is missing", open("missing/x", O_CREAT | O_RDWR, 0644));
    tell("remove a file as a directory", rmdir("file"));
    mkdir("directory", 0755);
    tell("unlink a directory", unlink("directory"));
    make("directory/inside", "");
    tell("remove a full directory", rmdir("directory"));
    unlink("directory/inside");
    tell("remove an empty one", rmdir("directory"));
    tell("remove a missing one", rmdir("directory"));
    tell("unlink", unlink("file"));
    tell("unlink what is missing", unlink("file"));
}

static void links(void) {
    int fd = made("a", "content");
    tell("link", link("a", "b"));
    show("two names", "b");
    tell("link over a name", link("a", "b"));
    tell("link a directory", link(".", "c"));
    tell("link what is missing", link("missing", "c"));
    tell("chmod by one name", chmod("a", 0600));
    show("seen by the other", "b");
    tell("unlink one", unlink("a"));
    show("the other", "b");
    content("holds", "b");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    tell("link an open file", linkat(AT_FDCWD, path, AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
    show("again", "again");
    tell("unlink both", unlink("b") | unlink("again"));
    struct stat st;
    fstat(fd, &st);
    say("open without a name: links %ld size %ld", (long)st.st_nlink, (long)st.st_size);
    tell("written without a name", pwrite(fd, "more", 4, 7));
    tell("chmod without a name", fchmod(fd, 0640));
    tell("chown without a name", fchown(fd, 7, 8));
    tell("truncate without a name", ftruncate(fd, 3));
    fstat(fd, &st);
    say("now: mode %o owner %d:%d size %ld", st.st_mode, st.st_uid, st.st_gid, (long)st.st_size);
    close(fd);

    tell("symlink", symlink("target", "s"));
    show("it", "s");
    char target[PATH_MAX];
    count("its target", readlink("s", target, sizeof target));
    count("cut", readlink("s", target, 3));
    tell("dangling", open("s", O_RDONLY));
    tell("create through it", close(open("s", O_CREAT | O_WRONLY, 0644)));
    show("the target", "target");
    tell("exclusive does not follow", open("s", O_CREAT | O_EXCL | O_WRONLY, 0644));
    tell("O_NOFOLLOW", open("s", O_RDONLY | O_NOFOLLOW));
    tell("O_PATH of the link itself", close(open("s", O_PATH | O_NOFOLLOW)));
    tell("a symlink over a name", symlink("x", "s"));
    tell("the empty target", symlink("", "e"));
    tell("readlink of a file", readlink("target", target, sizeof target));
    tell("hard link to a symlink", link("s", "s2"));
    show("it is one", "s2");
    tell("a loop", symlink("loop", "loop"));
    tell("through the loop", open("loop", O_RDONLY));
    char *chain = strdup("c00");
    symlink("target", "c00");
    for (int index = 1; index <= 41; index++) {
        char name[8];
        snprintf(name, sizeof name, "c%02d", index);
        symlink(chain, name);
        free(chain);
        chain = strdup(name);
    }
    tell("forty links", close(open("c39", O_RDONLY)));
    tell("one more", close(open("c40", O_RDONLY)));
    free(chain);
    char long_target[PATH_MAX + 1];
    memset(long_target, 't', sizeof long_target);
    long_target[PATH_MAX - 1] = 0;
    tell("a target of 4095 bytes", symlink(long_target, "long"));
    count("read back", readlink("long", target, sizeof target));
    unlink("long");
    tell("lchown", lchown("s", 3, 4));
    show("of the link alone", "s");
    show("not of its target", "target");
    tell("mode of a link", fchmodat(AT_FDCWD, "s", 0600, AT_SYMLINK_NOFOLLOW));
}

static int rename_with(const char *from, const char *to, unsigned flags) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

static void renames(void) {
    make("a", "a");
    make("b", "b");
    tell("rename over a file", rename("a", "b"));
    content("holds", "b");
    show("the old name", "a");
    make("a", "a");
    tell("RENAME_NOREPLACE over a file", rename_with("a", "b", RENAME_NOREPLACE));
    tell("RENAME_NOREPLACE to a new name", rename_with("a", "c", RENAME_NOREPLACE));
    tell("RENAME_EXCHANGE", rename_with("b", "c", RENAME_EXCHANGE));
    content("b", "b");
    content("c", "c");
    tell("RENAME_EXCHANGE with what is missing", rename_with("b", "missing", RENAME_EXCHANGE));
    tell("both flags", rename_with("b", "c", RENAME_EXCHANGE | RENAME_NOREPLACE));
    tell("a flag that is none", rename_with("b", "c", 1u << 20));
    mkdir("d", 0755);
    mkdir("e", 0755);
    make("e/inside", "x");
    tell("a file over a directory", rename("b", "d"));
    tell("a directory over a file", rename("d", "b"));
    tell("a directory over a full one", rename("d", "e"));
    tell("a full directory over an empty one", rename("e", "d"));
    content("inside", "d/inside");
    mkdir("d/sub", 0755);
    tell("below itself", rename("d", "d/sub/d"));
    tell("over its parent", rename("d/sub", "d"));
    tell("exchange a file and a directory", rename_with("b", "d", RENAME_EXCHANGE));
    content("inside what was a file", "b/inside");
    tell("exchange with an ancestor", rename_with("b/sub", "b", RENAME_EXCHANGE));
    tell("what is missing", rename("missing", "x"));
    tell(".", rename(".", "x"));
    tell("..", rename("b/..", "x"));
    make("one", "1");
    link("one", "two");
    tell("two names of one file", rename("one", "two"));
    show("both stay", "one");
    int fd = open("two", O_RDONLY);
    make("new", "n");
    tell("over an open file", rename("new", "two"));
    char byte;
    count("which still reads", read(fd, &byte, 1));
    struct stat st;
    fstat(fd, &st);
    say("links %ld", (long)st.st_nlink);
    close(fd);
    tell("whiteout", rename_with("two", "three", RENAME_WHITEOUT));
    show("what is left behind", "two");
    show("the file", "three");
}

static void modes(void) {
    static const mode_t MASKS[] = {0, 022, 077, 0777};
    for (size_t at = 0; at < sizeof MASKS / sizeof *MASKS; at++) {
        umask(MASKS[at]);
        close(open("f", O_CREAT | O_RDWR, 07777));
        mkdir("d", 07777);
        mkfifo("p", 0666);
        char what[32];
        snprintf(what, sizeof what, "umask %03o", MASKS[at]);
        show(what, "f");
        show(what, "d");
        show(what, "p");
        unlink("f");
        unlink("p");
        rmdir("d");
    }
    umask(0);
    make("f", "x");
    static const mode_t MODES[] = {0, 01777, 02755, 04755, 06777, 0644};
    for (size_t at = 0; at < sizeof MODES / sizeof *MODES; at++) {
        tell("chmod", chmod("f", MODES[at]));
        show("f", "f");
    }
    chmod("f", 06775);
    tell("chown takes set-id bits away", chown("f", 5, 6));
    show("f", "f");
    chmod("f", 06745);
    tell("a set-gid bit without group execution stays", chown("f", 5, 7));
    show("f", "f");
    chmod("f", 06775);
    int fd = open("f", O_WRONLY);
    tell("root writes", write(fd, "y", 1));
    close(fd);
    show("set-id bits", "f");
    tell("chown by -1 changes no owner", chown("f", (uid_t)-1, (gid_t)-1));
    show("after a chown of nothing", "f");
    tell("large ids", chown("f", 4000000000u, 4000000001u));
    show("f", "f");

    mkdir("setgid", 0777);
    chown("setgid", 0, 42);
    chmod("setgid", 02777);
    make("setgid/file", "");
    mkdir("setgid/directory", 0755);
    show("a file in a set-gid directory", "setgid/file");
    show("a directory in it", "setgid/directory");
    mknod("setgid/pipe", S_IFIFO | 0644, 0);
    show("a pipe in it", "setgid/pipe");
    symlink("x", "setgid/link");
    show("a link in it", "setgid/link");
}

static void stranger(void) {
    show("a file of root's", "private/file");
    tell("read what is not readable", open("secret", O_RDONLY));
    tell("write what is not writable", open("readable", O_WRONLY));
    tell("append to it", open("readable", O_WRONLY | O_APPEND));
    tell("truncate it", truncate("readable", 0));
    tell("read it", close(open("readable", O_RDONLY)));
    tell("create where nobody may", open("closed/new", O_CREAT | O_RDWR, 0644));
    tell("create where all may", close(open("sticky/mine", O_CREAT | O_RDWR, 0644)));
    show("it", "sticky/mine");
    tell("remove another's from a sticky directory", unlink("sticky/other"));
    tell("rename another's in it", rename("sticky/other", "sticky/x"));
    tell("rename over another's in it", rename("sticky/mine", "sticky/other"));
    tell("remove one's own from it", unlink("sticky/mine"));
    tell("remove another's from an open directory", unlink("open/other"));
    tell("chmod another's", chmod("readable", 0777));
    tell("chown", chown("readable", 1000, 1000));
    tell("times of another's", utimensat(AT_FDCWD, "readable", NULL, 0));
    struct timespec set[2] = {{.tv_sec = 5}, {.tv_sec = 5}};
    tell("set times of what may be written", utimensat(AT_FDCWD, "writable", set, 0));
    tell("times to now of what may be written", utimensat(AT_FDCWD, "writable", NULL, 0));
    tell("search where it is not allowed", access("noexec/file", F_OK));
    tell("list where it is not allowed", open("nolist", O_RDONLY | O_DIRECTORY));
    tell("find there what one knows", access("nolist/file", F_OK));
    tell("make a device", mknod("open/device", S_IFCHR | 0666, makedev(1, 3)));
    tell("make a pipe", mknod("open/pipe", S_IFIFO | 0666, 0));
    tell("link another's", link("readable", "open/linked"));
    tell("by group", close(open("group", O_RDWR)));
    tell("the owner's own bits count", open("ownernone", O_RDONLY));
    make("open/own", "x");
    tell("chmod one's own", chmod("open/own", 06755));
    tell("chown one's own", chown("open/own", 1001, (gid_t)-1));
    tell("to a group one is in", chown("open/own", (uid_t)-1, 2000));
    show("it", "open/own");
    tell("to one that one is not in", chown("open/own", (uid_t)-1, 3000));
    chmod("open/own", 06777);
    int fd = open("open/own", O_WRONLY);
    tell("writing", write(fd, "y", 1));
    close(fd);
    show("takes set-id bits away", "open/own");
    chmod("open/own", 06777);
    tell("truncating", truncate("open/own", 0));
    show("takes them away", "open/own");
    tell("a set-gid bit of another group", chmod("foreign", 02755));
    show("is not set", "foreign");
    tell("trusted attributes", setxattr("open/own", "trusted.x", "y", 1, 0));
    tell("O_NOATIME of another's", open("readable", O_RDONLY | O_NOATIME));
    tell("O_NOATIME of one's own", close(open("open/own", O_RDONLY | O_NOATIME)));
}

static void permissions(void) {
    umask(022);
    chmod(".", 0755);
    make("secret", "s");
    chmod("secret", 0600);
    make("readable", "r");
    make("writable", "w");
    chmod("writable", 0666);
    mkdir("private", 0755);
    make("private/file", "");
    mkdir("closed", 0755);
    mkdir("sticky", 01777);
    chmod("sticky", 01777);
    make("sticky/other", "");
    mkdir("open", 0777);
    chmod("open", 0777);
    make("open/other", "");
    mkdir("noexec", 0644);
    make("noexec/file", "");
    mkdir("nolist", 0711);
    make("nolist/file", "");
    make("group", "g");
    chown("group", 0, 2000);
    chmod("group", 0660);
    make("ownernone", "o");
    chown("ownernone", 1000, 1000);
    chmod("ownernone", 0077);
    make("foreign", "f");
    chown("foreign", 1000, 3000);
    gid_t groups[] = {2000};
    as_user(1000, 1000, groups, 1, stranger);
}

static void special(void) {
    umask(0);
    tell("a pipe", mkfifo("pipe", 0640));
    show("it", "pipe");
    tell("a pipe over a name", mkfifo("pipe", 0640));
    tell("open for writing without a reader", open("pipe", O_WRONLY | O_NONBLOCK));
    int reader = open("pipe", O_RDONLY | O_NONBLOCK);
    tell("open for reading", reader);
    int writer = open("pipe", O_WRONLY | O_NONBLOCK);
    tell("and then for writing", writer);
    char bytes[8] = {0};
    count("write", write(writer, "pipes", 5));
    count("read", read(reader, bytes, sizeof bytes));
    say("what came: %s", bytes);
    close(writer);
    count("read the end", read(reader, bytes, sizeof bytes));
    close(reader);

    tell("null", mknod("null", S_IFCHR | 0600, makedev(1, 3)));
    show("it", "null");
    tell("a block device", mknod("block", S_IFBLK | 0660, makedev(7, 0x12345)));
    show("it", "block");
    tell("a file by mknod", mknod("file", S_IFREG | 0604, 0));
    show("it", "file");
    tell("a directory by mknod", mknod("directory", S_IFDIR | 0700, 0));
    tell("a link by mknod", mknod("link", S_IFLNK | 0700, 0));

    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    tell("a socket", bind(listener, (struct sockaddr *)&address, sizeof address));
    show("it", "socket");
    listen(listener, 1);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    tell("connect", connect(client, (struct sockaddr *)&address, sizeof address));
    tell("bind over a name", bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
    tell("open a socket", open("socket", O_RDWR));
    tell("move a socket", rename("socket", "moved"));
    strcpy(address.sun_path, "moved");
    tell("connect to it there", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
    tell("a file is no socket", (strcpy(address.sun_path, "file"), connect(client, (struct sockaddr *)&address, sizeof address)));
    close(client);
    close(listener);
    tell("nobody listens", (strcpy(address.sun_path, "moved"),
        connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address)));
}

static void attribute(const char *what, const char *path, const char *name) {
    char value[256] = {0};
    ssize_t size = getxattr(path, name, value, sizeof value - 1);
    if (size < 0) {
        say("%s: %s", what, error_name());
    } else {
        say("%s: %ld bytes \"%s\"", what, (long)size, value);
    }
}

static void attributes(void) {
    make("f", "x");
    tell("set", setxattr("f", "user.one", "1", 1, 0));
    attribute("get", "f", "user.one");
    tell("XATTR_CREATE of one that is there", setxattr("f", "user.one", "2", 1, XATTR_CREATE));
    tell("XATTR_REPLACE of one that is not", setxattr("f", "user.two", "2", 1, XATTR_REPLACE));
    tell("XATTR_REPLACE", setxattr("f", "user.one", "two", 3, XATTR_REPLACE));
    attribute("get", "f", "user.one");
    tell("an empty value", setxattr("f", "user.empty", "", 0, 0));
    attribute("get", "f", "user.empty");
    count("how large", getxattr("f", "user.one", NULL, 0));
    char value[4];
    count("too small a buffer", getxattr("f", "user.one", value, 2));
    count("how long a list", listxattr("f", NULL, 0));
    count("too small a list", listxattr("f", value, 2));
    attribute("one that is missing", "f", "user.none");
    tell("remove", removexattr("f", "user.one"));
    tell("remove what is missing", removexattr("f", "user.one"));
    tell("without a class", setxattr("f", "one", "1", 1, 0));
    tell("an unknown class", setxattr("f", "nothing.one", "1", 1, 0));
    tell("the empty name", setxattr("f", "", "1", 1, 0));
    tell("no name after the class", setxattr("f", "user.", "1", 1, 0));
    char name[300] = "user.";
    memset(name + 5, 'n', sizeof name - 5);
    name[255] = 0;
    tell("a name of 255 bytes", setxattr("f", name, "1", 1, 0));
    name[255] = 'n';
    name[256] = 0;
    tell("a name of 256 bytes", setxattr("f", name, "1", 1, 0));
    static char large[65537];
    tell("a value of 65537 bytes", setxattr("f", "user.large", large, sizeof large, 0));
    tell("trusted", setxattr("f", "trusted.x", "t", 1, 0));
    attribute("trusted", "f", "trusted.x");
    symlink("f", "s");
    tell("user attributes of a link", lsetxattr("s", "user.x", "1", 1, 0));
    tell("trusted ones of a link", lsetxattr("s", "trusted.x", "l", 1, 0));
    char link_value[8] = {0};
    count("which are its own", lgetxattr("s", "trusted.x", link_value, sizeof link_value));
    mkfifo("p", 0600);
    tell("user attributes of a pipe", setxattr("p", "user.x", "1", 1, 0));
    mkdir("d", 0755);
    tell("of a directory", setxattr("d", "user.d", "d", 1, 0));
    attribute("get", "d", "user.d");
    int fd = open("f", O_RDWR);
    tell("by descriptor", fsetxattr(fd, "user.fd", "fd", 2, 0));
    unlink("f");
    count("of what has no name any more", fgetxattr(fd, "user.fd", value, sizeof value));
    close(fd);
}

// A list of POSIX.1e with a user and a mask: version 2, then tag, permissions and id of each entry, all little-endian.
static const unsigned char LIST[] = {
    2, 0, 0, 0,
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, // the owner
    0x02, 0, 6, 0, 0xe8, 0x03, 0, 0,       // user 1000
    0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, // the group
    0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, // the mask
    0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, // others
};

static void listed_user(void) {
    tell("the list's user writes", close(open("f", O_RDWR)));
    tell("the list's user and the mask", open("masked", O_RDWR));
    tell("reads", open("masked", O_RDONLY));
    tell("an inherited list", close(open("d/file", O_RDWR)));
}

static void unlisted_user(void) {
    tell("another user reads", open("f", O_RDONLY));
}

static void lists(void) {
    umask(022);
    make("f", "x");
    chmod("f", 0600);
    tell("set a list", setxattr("f", "system.posix_acl_access", LIST, sizeof LIST, 0));
    show("the mode shows the mask", "f");
    count("get", getxattr("f", "system.posix_acl_access", NULL, 0));
    make("masked", "x");
    setxattr("masked", "system.posix_acl_access", LIST, sizeof LIST, 0);
    tell("chmod changes the mask", chmod("masked", 0640));
    mkdir("d", 0777);
    tell("a default list", setxattr("d", "system.posix_acl_default", LIST, sizeof LIST, 0));
    umask(077);
    close(open("d/file", O_CREAT | O_RDWR, 0666));
    show("made under it, whatever the umask", "d/file");
    count("has a list", getxattr("d/file", "system.posix_acl_access", NULL, 0));
    mkdir("d/sub", 0777);
    show("a directory", "d/sub");
    count("hands it on", getxattr("d/sub", "system.posix_acl_default", NULL, 0));
    mkfifo("d/pipe", 0666);
    show("a pipe", "d/pipe");
    tell("a default list for a file", setxattr("f", "system.posix_acl_default", LIST, sizeof LIST, 0));
    tell("a list cut short", setxattr("f", "system.posix_acl_access", LIST, sizeof LIST - 3, 0));
    tell("a list without others", setxattr("f", "system.posix_acl_access", LIST, sizeof LIST - 8, 0));
    chmod("d", 0755);
    gid_t none[] = {1000};
    as_user(1000, 1000, none, 1, listed_user);
    as_user(1001, 1001, none, 0, unlisted_user);
    tell("remove the list", removexattr("f", "system.posix_acl_access"));
    show("the mode stays", "f");
    as_user(1000, 1000, none, 0, unlisted_user);
}

static void times_of(const char *what, const char *path) {
    struct stat st;
    if (lstat(path, &st) == 0) {
        say("%s: read %lld.%09ld written %lld.%09ld", what, (long long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
            (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    }
}

// Whether what `act` does is the last change of a file's times: of its content, of its attributes.
static void changes(const char *what, const char *path, void (*act)(void)) {
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    utimensat(AT_FDCWD, path, old, AT_SYMLINK_NOFOLLOW);
    struct stat before, after;
    stat(path, &before);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    act();
    stat(path, &after);
    int changed = after.st_ctim.tv_sec != before.st_ctim.tv_sec || after.st_ctim.tv_nsec != before.st_ctim.tv_nsec;
    say("%s: content %s, attributes %s", what, after.st_mtim.tv_sec != 1000 ? "changed" : "as before", changed ? "changed" : "as before");
}

static void do_write(void) {
    int fd = open("f", O_WRONLY);
    if (write(fd, "y", 1) != 1) {
        say("cannot write");
    }
    close(fd);
}

static void do_chmod(void) {
    chmod("f", 0600);
}

static void do_link(void) {
    link("f", "g");
}

static void do_rename(void) {
    rename("g", "h");
}

static void do_truncate(void) {
    truncate("f", 0);
}

static void do_create(void) {
    make("d/x", "");
}

static void do_unlink(void) {
    unlink("d/x");
}

static void do_attribute(void) {
    setxattr("f", "user.x", "1", 1, 0);
}

static void times(void) {
    make("f", "x");
    struct timespec set[2] = {{.tv_sec = 1234567890, .tv_nsec = 123456789}, {.tv_sec = 1000000000, .tv_nsec = 1}};
    tell("set", utimensat(AT_FDCWD, "f", set, 0));
    times_of("to the nanosecond", "f");
    struct timespec one[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 77}};
    tell("one of them", utimensat(AT_FDCWD, "f", one, 0));
    times_of("one", "f");
    struct timespec none[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    tell("none of them", utimensat(AT_FDCWD, "f", none, 0));
    times_of("none", "f");
    struct timespec wrong[2] = {{.tv_nsec = 1000000000}, {.tv_sec = 1}};
    tell("a second of nanoseconds", utimensat(AT_FDCWD, "f", wrong, 0));
    struct timespec old[2] = {{.tv_sec = -86400}, {.tv_sec = -1}};
    tell("before 1970", utimensat(AT_FDCWD, "f", old, 0));
    times_of("before 1970", "f");
    struct timespec late[2] = {{.tv_sec = 4294967296}, {.tv_sec = 4102444800}};
    tell("after 2038", utimensat(AT_FDCWD, "f", late, 0));
    times_of("after 2038", "f");
    symlink("f", "s");
    tell("of a link", utimensat(AT_FDCWD, "s", set, AT_SYMLINK_NOFOLLOW));
    times_of("the link's", "s");
    times_of("not the file's", "f");
    mkdir("d", 0755);
    changes("a write", "f", do_write);
    changes("chmod", "f", do_chmod);
    changes("link", "f", do_link);
    changes("rename", "f", do_rename);
    changes("truncate", "f", do_truncate);
    changes("an attribute", "f", do_attribute);
    changes("a new entry, of its directory", "d", do_create);
    changes("an entry less", "d", do_unlink);
}

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void directories(void) {
    enum { ENTRIES = 3000 };
    for (int index = 0; index < ENTRIES; index++) {
        char name[64];
        snprintf(name, sizeof name, "entry-with-a-name-of-some-length-%05d", index);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    mkdir("directory", 0700);
    symlink("x", "link");
    mkfifo("pipe", 0600);
    DIR *dir = opendir(".");
    static char *seen[ENTRIES + 8];
    static long places[ENTRIES + 8];
    int total = 0, types = 0;
    for (struct dirent *entry; total < ENTRIES + 8;) {
        places[total] = telldir(dir);
        if ((entry = readdir(dir)) == NULL) {
            break;
        }
        seen[total++] = strdup(entry->d_name);
        types += entry->d_type == DT_REG ? 1 : entry->d_type == DT_LNK ? 10000 : entry->d_type == DT_FIFO ? 100000 : 0;
    }
    say("entries %d, types %d", total, types);
    int found = 0;
    for (int at = total - 1; at > 0; at -= 97) {
        seekdir(dir, places[at]);
        struct dirent *entry = readdir(dir);
        found += entry != NULL && strcmp(entry->d_name, seen[at]) == 0;
    }
    say("found again where they were: %d", found);
    rewinddir(dir);
    int again = 0;
    while (readdir(dir) != NULL) {
        again++;
    }
    say("after rewinding: %d", again);
    qsort(seen, (size_t)total, sizeof *seen, by_name);
    int twice = 0;
    for (int at = 1; at < total; at++) {
        twice += strcmp(seen[at - 1], seen[at]) == 0;
    }
    say("seen twice: %d, first %s, last %s", twice, seen[0], seen[total - 1]);
    // Removed while it is read: each is seen at most once, and none stays.
    rewinddir(dir);
    int removed = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        removed += strncmp(entry->d_name, "entry-", 6) == 0 && unlink(entry->d_name) == 0;
    }
    say("removed while reading: %d", removed);
    make("late", "");
    rewinddir(dir);
    int late = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        late += strcmp(entry->d_name, "late") == 0;
    }
    say("a late entry after rewinding: %d", late);
    closedir(dir);
    int fd = open("directory", O_RDONLY | O_DIRECTORY);
    tell("remove an open directory", rmdir("directory"));
    tell("create in it", openat(fd, "x", O_CREAT | O_RDWR, 0600));
    tell("look in it", faccessat(fd, "x", F_OK, 0));
    char bytes[8];
    tell("read a directory as a file", read(fd, bytes, sizeof bytes));
    tell("fsync a directory", fsync(open(".", O_RDONLY | O_DIRECTORY)));
    close(fd);
    char deep[8] = "x";
    int depth = 0;
    while (depth < 300 && mkdir(deep, 0755) == 0 && chdir(deep) == 0) {
        depth++;
    }
    char place[PATH_MAX];
    say("depth %d, its path %s", depth, getcwd(place, sizeof place) == NULL ? error_name() : "is told");
    for (; depth > 0; depth--) {
        if (chdir("..") != 0 || rmdir(deep) != 0) {
            say("going up: %s", error_name());
            return;
        }
    }
    say("and up again");
}

int main(void) {
    static const struct part PARTS[] = {
        {"names", names},
        {"links", links},
        {"renames", renames},
        {"modes", modes},
        {"permissions", permissions},
        {"special", special},
        {"attributes", attributes},
        {"lists", lists},
        {"times", times},
        {"directories", directories},
    };
    ask_all(PARTS, sizeof PARTS / sizeof *PARTS);
    return 0;
}
