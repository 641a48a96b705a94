//! A pod's files: what mounts show, what crosses between host and guest, and what does not.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use paperboat_e2e::host::image;
use paperboat_e2e::{Host, Running, expect};
use rustix::fs::XattrFlags;

/// What a running container does shows on the host within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The shell functions with which scripts tell what holds and what does not.
const CHECKS: &str = "holds() { what=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"ok $what\"; else echo \"NOT $what\"; fi; }
    fails() { what=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"NOT $what\"; else echo \"ok $what\"; fi; }";

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

/// A directory below the host's, for volumes.
fn directory(host: &Host, name: &str) -> std::path::PathBuf {
    let path = host.directory().join("volumes").join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn bind(source: &Path, destination: &str, options: &str) -> String {
    format!("type=bind,src={},dst={destination},options={options}", source.display())
}

/// Runs a script of [`CHECKS`] in the busybox image; every check must hold.
#[track_caller]
fn expect_all(host: &Host, options: &[&str], id: &str, script: &str) -> String {
    let script = format!("{CHECKS}\n{script}");
    let output = host.run_with(options, &image("busybox"), id, &["sh", "-c", &script]).unwrap();
    expect::code(host, &output, 0);
    assert!(output.stdout.contains("ok ") && !output.stdout.contains("NOT "), "{}\n{}", output.stdout, output.stderr);
    output.stdout
}

#[track_caller]
fn wait_for(what: &str, mut found: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !found() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A tmpfs on the host that goes with the value.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &Path, flags: MsFlags) -> Self {
        fs::create_dir_all(at).unwrap();
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("size=1m,mode=0755")).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn mounts_are_what_the_specification_says() {
    let host = host();
    let (writable, sealed) = (directory(&host, "writable"), directory(&host, "sealed"));
    fs::create_dir(writable.join("inner")).unwrap();
    fs::write(sealed.join("fact"), "from the host\n").unwrap();
    let file = host.directory().join("volumes/single");
    fs::write(&file, "one file\n").unwrap();
    let _below = Tmpfs::mount(&writable.join("below"), MsFlags::empty());
    fs::write(writable.join("below/deep"), "deep\n").unwrap();
    let strict = Tmpfs::mount(&directory(&host, "strict"), MsFlags::MS_NOEXEC);
    fs::write(strict.0.join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(strict.0.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let shared = Tmpfs::mount(&directory(&host, "shm"), MsFlags::empty());
    let before = host.leftovers();
    let mounts = [
        bind(&writable, "/w", "rbind:rw"),
        bind(&sealed, "/s", "rbind:ro"),
        bind(&sealed, "/w/inner", "rbind:ro"),
        bind(&writable, "/top", "rbind:ro"),
        bind(&writable, "/all", "rbind:rro"),
        bind(&writable, "/alone", "bind:rw"),
        bind(&file, "/etc/single", "bind:ro"),
        bind(&strict.0, "/strict", "rbind:rw"),
        bind(&shared.0, "/dev/shm", "rbind:rw"),
        "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m:mode=0750".to_owned(),
    ];
    let options: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]).chain(["--read-only"]).collect();
    let script = "fails 'a read-only root is not written' touch /x
        holds 'a writable volume is written' sh -c 'echo new > /w/new && sync /w/new'
        fails 'a read-only volume is not written' touch /s/x
        holds 'a read-only volume is read' grep 'from the host' /s/fact
        fails 'read-only inside writable stays read-only' touch /w/inner/x
        holds 'and is read' grep 'from the host' /w/inner/fact
        holds 'what is mounted below a volume comes along' grep deep /w/below/deep
        holds 'and is written' touch /w/below/guest
        fails 'read-only holds for the mount itself' touch /top/x
        fails 'and in the guest for what is mounted below' touch /top/below/y
        fails 'recursively read-only holds for the mount' touch /all/x
        fails 'and for what is mounted below' touch /all/below/x
        fails 'a bind that is not recursive leaves out what is mounted below' [ -e /alone/below/deep ]
        holds 'a single file is read' grep 'one file' /etc/single
        fails 'a single read-only file is not written' sh -c 'echo x > /etc/single'
        fails 'nothing runs from a volume that the host mounts noexec' /strict/program
        holds 'tmpfs has its mode' [ $(stat -c %a /scratch) = 750 ]
        fails 'tmpfs has its size' dd if=/dev/zero of=/scratch/f bs=1M count=2
        holds 'shared memory is tmpfs of the guest' grep -q ' /dev/shm tmpfs ' /proc/mounts
        holds 'shared memory is written' sh -c 'echo x > /dev/shm/x'
        fails 'shared memory has its size' dd if=/dev/zero of=/dev/shm/f bs=1M count=2
        holds 'message queues are there' grep -q ' /dev/mqueue mqueue ' /proc/mounts
        fails 'sysfs is read-only' sh -c 'echo x > /sys/kernel/mm/transparent_hugepage/enabled'
        holds 'sysfs is mounted read-only' grep -Eq ' /sys sysfs ro' /proc/mounts
        fails 'cgroups are read-only' mkdir /sys/fs/cgroup/x
        holds 'null is null' sh -c 'echo x > /dev/null'
        holds 'zero is zero' dd if=/dev/zero of=/dev/null bs=1 count=1";
    let output = expect_all(&host, &options, "mounts", script);
    assert_eq!(output.lines().count(), 27, "{output}");
    assert_eq!(fs::read_to_string(writable.join("new")).unwrap(), "new\n");
    assert!(writable.join("below/guest").exists());
    assert_eq!(fs::read_dir(&shared.0).unwrap().count(), 0, "shared memory stays in the guest");
    expect::nothing_left(&host, &before);
}

#[test]
fn another_snapshotter_serves_as_well() {
    let host = host();
    let before = host.leftovers();
    let script = "holds 'the image is there' [ -x /bin/busybox ]; holds 'the root is written' sh -c 'echo x > /x && grep x /x'";
    expect_all(&host, &["--snapshotter", "native"], "native", script);
    expect::nothing_left(&host, &before);
}

/// A file's extended attributes of users.
fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = [0; 4096];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).map(|name| String::from_utf8(name.to_vec()).unwrap());
    let read = |name: String| {
        let mut value = [0; 4096];
        let length = rustix::fs::getxattr(path, &name, &mut value[..]).unwrap();
        (name, value[..length].to_vec())
    };
    names.filter(|name| name.starts_with("user.")).map(read).collect()
}

#[test]
fn files_keep_what_they_are_both_ways() {
    let host = host();
    host.import("debian", "linux/ppc64le").unwrap();
    let volume = directory(&host, "kept");
    let made = volume.join("from-host");
    fs::write(&made, "host").unwrap();
    std::os::unix::fs::chown(&made, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(&made, volume.join("from-host-too")).unwrap();
    symlink("from-host", volume.join("link")).unwrap();
    fs::File::create(volume.join("holes")).unwrap().set_len(1 << 30).unwrap();
    // A value may hold any byte, and none.
    rustix::fs::setxattr(&made, "user.colour", b"red\0\xff", XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(&made, "user.empty", b"", XattrFlags::CREATE).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(volume.join("host.sock")).unwrap();
    let before = host.leftovers();
    let script = r#"
import os, socket, stat
os.chdir("/v")
s = os.stat("from-host")
assert (s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode), s.st_nlink) == (1234, 5678, 0o4751, 2), s
assert os.stat("from-host-too").st_ino == s.st_ino and os.readlink("link") == "from-host"
assert sorted(os.listxattr("from-host")) == ["user.colour", "user.empty"], os.listxattr("from-host")
assert os.getxattr("from-host", "user.colour") == b"red\0\xff" and os.getxattr("from-host", "user.empty") == b""
os.removexattr("from-host", "user.empty"); os.setxattr("from-host", "user.colour", b"green", os.XATTR_REPLACE)
s = os.stat("holes")
assert s.st_size == 1 << 30 and s.st_blocks < 100, s
fd = os.open("guest", os.O_CREAT | os.O_RDWR)
os.write(fd, b"guest"); os.fsync(fd); os.close(fd)
os.setxattr("guest", "user.colour", b"blue")
assert os.getxattr("guest", "user.colour") == b"blue" and os.listxattr("guest") == ["user.colour"]
os.chown("guest", 42, 43); os.chmod("guest", 0o2640); os.link("guest", "guest-too"); os.symlink("guest", "guest-link")
with open("guest-holes", "wb") as f:
    f.seek((1 << 30) - 1); f.write(b"x")
os.mkfifo("guest-fifo"); os.utime("guest-too", ns=(1, 1234567891234567891))
a = socket.socket(socket.AF_UNIX); a.bind("guest.sock"); a.listen()
b = socket.socket(socket.AF_UNIX); b.connect("guest.sock"); b.send(b"hello"); assert a.accept()[0].recv(9) == b"hello"
try:
    socket.socket(socket.AF_UNIX).connect("host.sock"); raise SystemExit("a socket of the host was reached")
except ConnectionRefusedError:
    pass
os.rename("from-host-too", "renamed"); os.makedirs("a/b/c"); os.setuid(1234)
assert not os.access("guest", os.R_OK) and os.access("renamed", os.W_OK)
print("all kept")
"#;
    let output = host
        .run_with(&["--mount", &bind(&volume, "/v", "rbind:rw")], &image("debian"), "kept", &["python3", "-c", script])
        .unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["all kept"]);
    drop(listener);
    let guest = fs::metadata(volume.join("guest")).unwrap();
    assert_eq!((guest.uid(), guest.gid(), guest.mode() & 0o7777, guest.nlink()), (42, 43, 0o2640, 2));
    assert_eq!((guest.mtime(), guest.mtime_nsec()), (1_234_567_891, 234_567_891));
    assert_eq!(fs::metadata(volume.join("guest-too")).unwrap().ino(), guest.ino());
    assert_eq!(xattrs(&volume.join("guest")), [("user.colour".to_owned(), b"blue".to_vec())]);
    assert_eq!(xattrs(&made), [("user.colour".to_owned(), b"green".to_vec())]);
    assert_eq!(fs::read_link(volume.join("guest-link")).unwrap(), Path::new("guest"));
    assert_eq!(fs::read(volume.join("guest")).unwrap(), b"guest");
    let holes = fs::metadata(volume.join("guest-holes")).unwrap();
    assert!(holes.len() == 1 << 30 && holes.blocks() < 1000, "{holes:?}");
    assert!(fs::metadata(volume.join("guest-fifo")).unwrap().file_type().is_fifo());
    assert!(volume.join("renamed").exists() && volume.join("a/b/c").is_dir() && !volume.join("from-host-too").exists());
    expect::nothing_left(&host, &before);
}

#[test]
fn what_either_side_changes_the_other_sees_while_the_container_runs() {
    let host = host();
    // As the kubelet lays out a config map: the file leads through a link that is exchanged.
    let config = directory(&host, "config");
    for (version, text) in [("..one", "first\n"), ("..two", "second\n")] {
        fs::create_dir(config.join(version)).unwrap();
        fs::write(config.join(version).join("key"), text).unwrap();
    }
    symlink("..one", config.join("..data")).unwrap();
    symlink("..data/key", config.join("key")).unwrap();
    let volume = directory(&host, "volume");
    // Mounts propagate from shared ones, as all are on most machines.
    let _shared = Tmpfs::mount(&volume, MsFlags::empty());
    mount(None::<&str>, &volume, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    fs::write(volume.join("counter"), "1\n").unwrap();
    let before = host.leftovers();
    let mounts = [bind(&config, "/config", "rbind:ro"), bind(&volume, "/volume", "rbind:rw")];
    let script = "cat /config/key; cat /volume/counter; echo ready > /volume/ready; sync /volume/ready
        until grep second /config/key; do sleep 0.2; done; until grep 2 /volume/counter; do sleep 0.2; done
        until [ -e /volume/later/file ]; do sleep 0.2; done; cat /volume/later/file
        until [ -e /volume/mounted/file ]; do sleep 0.2; done; cat /volume/mounted/file";
    thread::scope(|scope| {
        let options: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]).collect();
        let host = &host;
        let running = scope.spawn(move || host.run_with(&options, &image("busybox"), "watcher", &["sh", "-c", script]));
        wait_for("the guest's file", || fs::read_to_string(volume.join("ready")).is_ok_and(|text| text == "ready\n"));
        symlink("..two", config.join("..data_tmp")).unwrap();
        fs::rename(config.join("..data_tmp"), config.join("..data")).unwrap();
        fs::remove_dir_all(config.join("..one")).unwrap();
        fs::write(volume.join("counter"), "2\n").unwrap();
        fs::create_dir(volume.join("later")).unwrap();
        fs::write(volume.join("later/file"), "later\n").unwrap();
        // What is mounted below the volume later is seen as well.
        let mounted = Tmpfs::mount(&volume.join("mounted"), MsFlags::empty());
        fs::write(mounted.0.join("file"), "mounted\n").unwrap();
        let output = running.join().unwrap().unwrap();
        expect::code(host, &output, 0);
        assert_eq!(output.stdout, "first\n1\nsecond\n2\nlater\nmounted\n");
    });
    expect::nothing_left(&host, &before);
}

#[test]
fn a_pod_sees_its_own_files_only() {
    let host = host();
    let before = host.leftovers();
    thread::scope(|scope| {
        let host = &host;
        let first = scope.spawn(move || host.run("keeper", &["sh", "-c", "echo secret > /secret; sleep 1000"]));
        host.wait_for_log(&["container started id=keeper"]).unwrap();
        // Even a container that may do all there is in its guest finds the files of its own pod in the share.
        let script = "mkdir /share; mount -t virtiofs paperboat /share && echo mounted; find /share | grep -e secret -e keeper; umount /share";
        let output = host.run_with(&["--privileged"], &image("busybox"), "prowler", &["sh", "-c", script]).unwrap();
        expect::code(host, &output, 0);
        assert_eq!(output.stdout, "mounted\n");
        let killed = host.ctr(&["task", "kill", "--signal", "KILL", "keeper"]).unwrap();
        expect::code(host, &killed, 0);
        first.join().unwrap().unwrap();
    });
    expect::nothing_left(&host, &before);
}

#[test]
fn later_containers_share_memory_and_leave_their_files_behind() {
    let host = host();
    let shared = Tmpfs::mount(&directory(&host, "shm"), MsFlags::empty());
    let many = directory(&host, "many");
    for number in 0..300 {
        fs::write(many.join(number.to_string()), "").unwrap();
    }
    let before = host.leftovers();
    let annotation = |kind: &str| format!("io.kubernetes.cri.container-type={kind}");
    let (sandbox, member) = (annotation("sandbox"), annotation("container"));
    let pod = "io.kubernetes.cri.sandbox-id=pod";
    let shm = bind(&shared.0, "/dev/shm", "rbind:rw");
    thread::scope(|scope| {
        let host = &host;
        let sandbox = scope.spawn(move || {
            let options = ["--annotation", pod, "--annotation", &sandbox];
            host.run_with(&options, &image("busybox"), "pod", &["true"])
        });
        host.wait_for_log(&["container started id=pod"]).unwrap();
        let machine = host.wait_for_machine("pod").unwrap();
        let open = || fs::read_dir(format!("/proc/{machine}/fd")).unwrap().count();
        let run = |id: &str, script: &str| {
            let many = bind(&many, "/many", "rbind:ro");
            let options = ["--annotation", pod, "--annotation", &member, "--mount", &shm, "--mount", &many];
            let output = host.run_with(&options, &image("busybox"), id, &["sh", "-c", script]).unwrap();
            expect::code(host, &output, 0);
            output.stdout
        };
        let at_first = open();
        assert_eq!(run("writer", "echo note > /dev/shm/note; ls -l /many | wc -l"), "301\n");
        // The guest forgets what it saw in a container that is gone, and the machine closes it.
        wait_for("the machine to let go of a container's files", || open() < at_first + 100);
        assert_eq!(run("reader", "cat /dev/shm/note"), "note\n");
        let killed = host.ctr(&["task", "kill", "--signal", "KILL", "pod"]).unwrap();
        expect::code(host, &killed, 0);
        sandbox.join().unwrap().unwrap();
    });
    assert_eq!(fs::read_dir(&shared.0).unwrap().count(), 0, "shared memory stays in the guest");
    expect::nothing_left(&host, &before);
}

/// Descriptors that containerd hands down in the test of that limit.
const FEW: usize = 1000;

#[test]
fn a_guest_may_walk_more_files_than_its_machine_may_have_open() {
    let host = host();
    let volume = directory(&host, "many");
    for number in 0..2 * FEW {
        let directory = volume.join("host").join((number % 40).to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(number.to_string()), format!("{number} ").repeat(number % 97)).unwrap();
    }
    let limits = format!("--nofile={FEW}:{FEW}");
    let limited = Command::new("prlimit").args(["--pid", &host.containerd_pid().to_string(), &limits]).status().unwrap();
    assert!(limited.success());
    let before = host.leftovers();
    let pod = Running::start(&host, "walker", &["--mount", &bind(&volume, "/v", "rbind:rw")], &["sleep", "1000"]).unwrap();
    let machine = host.wait_for_machine("walker").unwrap();
    let open = || fs::read_dir(format!("/proc/{machine}/fd")).unwrap().count();

    // Names and contents of a tree, as host and guest compute it alike.
    let sum = "set -e; list=$(mktemp); find . -type f | LC_ALL=C sort > $list; sha256sum < $list; xargs cat < $list | sha256sum; rm $list";
    let on_host = |name: &str| {
        let output = Command::new("sh").args(["-ec", sum]).current_dir(volume.join(name)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(pod.shell("read", &format!("cd /v/host; {sum}")).unwrap(), on_host("host"));
    let write = format!(
        "for d in $(seq 0 39); do mkdir -p /v/guest/$d; for n in $(seq 0 49); do echo $d $n > /v/guest/$d/$n; done; done
         cd /v/guest; {sum}"
    );
    assert_eq!(pod.shell("write", &write).unwrap(), on_host("guest"));
    assert!(host.log().contains("the guest is told to forget"));
    assert_eq!(fs::read_dir(volume.join("guest/39")).unwrap().count(), 50);

    // A guest that keeps them open gets no more, and the machine goes on with what is its own.
    thread::scope(|scope| {
        let hoarder = scope.spawn(|| pod.exec("hoard", &["sh", "-c", "exec tail -f /v/host/*/* >/dev/null 2>/v/said"]).unwrap());
        wait_for("the guest to have all it may have", || {
            fs::read_to_string(volume.join("said")).is_ok_and(|said| said.contains("open files"))
        });
        assert_eq!(pod.status().unwrap(), "RUNNING");
        assert!(pod.metrics().unwrap().keys().any(|name| name.starts_with("memory")));
        assert!(open() < FEW, "{}", open());
        pod.api().unwrap().kill("hoard", 9, false).unwrap();
        hoarder.join().unwrap();
    });
    assert_eq!(pod.shell("after", "ls /v/host | wc -l").unwrap(), "40\n");
    pod.remove().unwrap();
    expect::nothing_left(&host, &before);
}
