//! What mounts, devices and namespaces of a specification mean in a micro-VM, where that is not what its words say at first sight.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::spec::Rootfs;
use paperboat_e2e::{Host, Running, expect};
use serde_json::{Value, json};

/// What either side does shows on the other within this time.
const PATIENCE: Duration = Duration::from_secs(120);

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

fn directory(host: &Host, name: &str) -> PathBuf {
    let path = host.directory().join("volumes").join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn bind(source: &Path, destination: &str, options: &str) -> String {
    format!("type=bind,src={},dst={destination},options={options}", source.display())
}

/// A tmpfs on the host that goes with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[track_caller]
fn wait_for(what: &str, mut found: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !found() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn propagation_leads_from_the_host_into_the_guest_and_never_back() {
    let host = host();
    let source = Tmpfs::mount(&directory(&host, "shared"), "size=1m");
    mount(None::<&str>, &source.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    fs::create_dir(source.0.join("guests")).unwrap();
    let before = host.leftovers();
    let words = ["rprivate", "rslave", "rshared", "private", "slave", "shared", "unbindable"];
    let mounts: Vec<String> = words.map(|word| bind(&source.0, &format!("/{word}"), &format!("rbind:rw:{word}"))).into();
    let mut options: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]).collect();
    options.push("--privileged");
    let pod = Running::start(&host, "spread", &options, &["sleep", "1000"]).unwrap();
    let seen = |name: &str| {
        let script = format!("for word in {}; do [ -e /$word/later/file ] && echo $word; done; true", words.join(" "));
        pod.shell(name, &script).unwrap().lines().count()
    };
    assert_eq!(seen("first"), 0);
    let later = Tmpfs::mount(&source.0.join("later"), "size=1m");
    fs::write(later.0.join("file"), "").unwrap();
    let mut looks = 0;
    wait_for("a mount of the host in the guest", || {
        looks += 1;
        seen(&format!("come{looks}")) == words.len()
    });
    drop(later);
    wait_for("its end in the guest", || {
        looks += 1;
        seen(&format!("go{looks}")) == 0
    });
    // What the guest mounts is the guest's, and the wish for more is answered in the log.
    let script = "mount -t tmpfs tmpfs /rshared/guests && touch /rshared/guests/mine && ls /rshared/guests";
    assert_eq!(pod.shell("mount", script).unwrap(), "mine\n");
    assert_eq!(fs::read_dir(source.0.join("guests")).unwrap().count(), 0);
    for destination in ["/rshared", "/shared"] {
        host.wait_for_log(&[&format!("mount at {destination}: shared propagation"), "stays in the guest"]).unwrap();
    }
    pod.remove().unwrap();
    expect::nothing_left(&host, &before);
}

#[test]
fn what_processes_share_is_the_guests_memory() {
    let host = host();
    host.import("debian", "linux/ppc64le").unwrap();
    let cache = Tmpfs::mount(&directory(&host, "kubernetes.io~empty-dir/cache"), "size=1m,mode=1777");
    let before = host.leftovers();
    let script = r#"
import ctypes, os, socket
from multiprocessing import Lock, shared_memory
libc = ctypes.CDLL(None, use_errno=True)
queue = libc.mq_open(b"/letters", os.O_CREAT | os.O_RDWR, 0o600, None)
assert queue >= 0, os.strerror(ctypes.get_errno())
assert libc.mq_send(queue, b"hello", 5, 1) == 0 and "letters" in os.listdir("/dev/mqueue")
room = ctypes.create_string_buffer(8192)
assert libc.mq_receive(queue, room, 8192, None) == 5 and room.value == b"hello"
assert libc.mq_unlink(b"/letters") == 0 and os.listdir("/dev/mqueue") == []
with Lock(): pass
memory = shared_memory.SharedMemory(create=True, size=1 << 16)
assert memory.name in os.listdir("/dev/shm"); memory.close(); memory.unlink()
here = [line.split()[2] for line in open("/proc/mounts") if line.split()[1] == "/cache"]
assert here == ["tmpfs"], here
assert os.stat("/cache").st_mode & 0o7777 == 0o1777 and os.statvfs("/cache").f_blocks * os.statvfs("/cache").f_frsize == 1 << 20
open("/cache/file", "w").write("mine")
try:
    open("/cache/large", "wb").write(bytes(2 << 20)); raise SystemExit("no limit")
except OSError:
    pass
a = socket.socket(socket.AF_UNIX); a.bind("/cache/socket"); a.listen()
b = socket.socket(socket.AF_UNIX); b.connect("/cache/socket"); b.send(b"x"); assert a.accept()[0].recv(1) == b"x"
print("shared")
"#;
    let volume = bind(&cache.0, "/cache", "rbind:rw");
    let output = host.run_with(&["--mount", &volume], &image("debian"), "sharing", &["python3", "-c", script]).unwrap();
    expect::code(&host, &output, 0);
    assert_eq!(output.stdout, "shared\n");
    assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 0, "a volume in memory is the guest's");
    expect::nothing_left(&host, &before);
}

/// Runs a specification of the test's own; what `ctr` said.
fn run(host: &Host, rootfs: &Rootfs, id: &str, spec: &Value) -> paperboat_e2e::Output {
    let path = rootfs.write(id, spec).unwrap();
    let fifos = host.directory().join("fifo").display().to_string();
    host.ctr(&["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos, "--config", &path.display().to_string(), id]).unwrap()
}

#[test]
fn harmless_devices_are_there_and_the_hosts_namespaces_are_refused() {
    let host = host();
    let before = host.leftovers();
    let rootfs = Rootfs::mount(&host).unwrap();
    let script = "echo x > /dev/full && echo NOT full; [ $(head -c 100 /dev/zero | wc -c) = 100 ] && [ $(head -c 9 /dev/urandom | wc -c) = 9 ]
        [ $(head -c 9 /dev/random | wc -c) = 9 ] && [ -c /dev/tty ] && [ -c /dev/ptmx ] && [ $(stat -c %a /dev/null) = 666 ]
        stat -c '%n %F %t:%T %a %u:%g' /dev/own/zero /dev/own/pipe; head -c 3 /dev/own/zero | wc -c";
    let spec = rootfs.spec(&["sh", "-ec", script], |spec| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/own/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 7, "gid": 8},
            {"path": "/dev/own/pipe", "type": "p", "fileMode": 0o600},
        ]);
    });
    let output = run(&host, &rootfs, "devices", &spec);
    expect::code(&host, &output, 0);
    assert_eq!(output.stdout, "/dev/own/zero character special file 1:5 644 7:8\n/dev/own/pipe fifo 0:0 600 0:0\n3\n");

    let kinds = [("network", "publish ports"), ("pid", "--pid host, hostPID"), ("ipc", "--ipc host, hostIPC")];
    for (kind, instead) in kinds {
        for role in [None, Some("sandbox")] {
            let spec = rootfs.spec(&["true"], |spec| {
                spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
                if let Some(role) = role {
                    spec["annotations"] =
                        json!({"io.kubernetes.cri.sandbox-id": "pod", "io.kubernetes.cri.container-type": role});
                }
            });
            let output = run(&host, &rootfs, &format!("{kind}-{}", role.unwrap_or("single")), &spec);
            expect::code(&host, &output, 1);
            expect::words(
                &host,
                &output.stderr,
                &[&format!("the host's {kind} namespace cannot reach into a micro-VM"), instead],
            );
        }
    }
    drop(rootfs);
    expect::nothing_left(&host, &before);
}

#[test]
fn a_directory_that_is_mounted_already_is_a_root() {
    let host = host();
    let before = host.leftovers();
    let rootfs = Rootfs::mount(&host).unwrap();
    // As Docker hands it over, and bound once more, as a directory that somebody keeps.
    let bound = directory(&host, "root");
    mount(Some(rootfs.path()), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let fifos = host.directory().join("fifo").display().to_string();
    let path = bound.display().to_string();
    for (id, read_only, expected) in [("written", None, "written\n"), ("sealed", Some("--read-only"), "refused\n")] {
        let mut arguments = vec!["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos, "--rootfs"];
        arguments.extend(read_only);
        arguments.extend([&path, id, "sh", "-c", "touch /mark-$HOSTNAME 2>/dev/null && echo written || echo refused"]);
        let output = host.ctr(&arguments).unwrap();
        expect::code(&host, &output, 0);
        assert_eq!(output.stdout, expected);
    }
    assert!(fs::read_dir(&bound).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("mark-")));
    umount2(&bound, MntFlags::empty()).unwrap();
    drop(rootfs);
    expect::nothing_left(&host, &before);
}
