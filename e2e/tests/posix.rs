//! What a file system does, asked by the same programs in a pod on a volume and on the host in the same file system, compared line by line. What
//! differs is in docs/storage.md.

#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use paperboat_e2e::host::image;
use paperboat_e2e::vmm::{Machine, MachineProducts, optional};
use paperboat_e2e::{Host, expect};

/// Answers that a guest may give otherwise: the question, the host's answer, the guest's. Each must be so: what is no longer true goes.
const DIFFERENCES: &[Difference] = &[
    ("collapse", "ok", "EOPNOTSUPP"),
    ("insert", "ok", "EOPNOTSUPP"),
    ("O_TMPFILE", "ok", "EOPNOTSUPP"),
    ("given a name", "ok", "ENOENT"),
    (
        "after a chown of nothing",
        "mode 100775 owner 5:7 links 1 size 1 device 0:0",
        "mode 106775 owner 5:7 links 1 size 1 device 0:0",
    ),
];

/// Those of a volume besides: Linux forgets that a file system has access control lists where a submount of it begins, and every volume is one.
const OF_A_VOLUME: &[Difference] = &[
    ("set a list", "ok", "EOPNOTSUPP"),
    (
        "the mode shows the mask",
        "mode 100660 owner 0:0 links 1 size 1 device 0:0",
        "mode 100600 owner 0:0 links 1 size 1 device 0:0",
    ),
    ("get", "44", "EOPNOTSUPP"),
    ("a default list", "ok", "EOPNOTSUPP"),
    (
        "made under it, whatever the umask",
        "mode 100660 owner 0:0 links 1 size 0 device 0:0",
        "mode 100600 owner 0:0 links 1 size 0 device 0:0",
    ),
    ("has a list", "44", "EOPNOTSUPP"),
    ("a directory", "mode 40660 owner 0:0 links 0 size 0 device 0:0", "mode 40700 owner 0:0 links 0 size 0 device 0:0"),
    ("hands it on", "44", "EOPNOTSUPP"),
    ("a pipe", "mode 10660 owner 0:0 links 1 size 0 device 0:0", "mode 10600 owner 0:0 links 1 size 0 device 0:0"),
    ("a default list for a file", "EACCES", "EOPNOTSUPP"),
    ("a list without others", "EINVAL", "EOPNOTSUPP"),
    ("the list's user writes", "ok", "EBADF"),
    ("reads", "ok", "EACCES"),
    ("an inherited list", "ok", "EBADF"),
    ("remove the list", "ok", "EOPNOTSUPP"),
    ("the mode stays", "mode 100660 owner 0:0 links 1 size 1 device 0:0", "mode 100600 owner 0:0 links 1 size 1 device 0:0"),
];

/// A question, and its two answers.
type Difference = (&'static str, &'static str, &'static str);

const PROGRAMS: [&str; 2] = ["posix", "posix-data"];

fn probes() -> PathBuf {
    optional("PAPERBOAT_PROBES").expect("cargo xtask env makes it")
}

/// Programs and two empty directories where both sides find them; it goes with the value.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new() -> Self {
        // Where the host's file system has everything that is asked for, which a tmpfs has not.
        let everyones = std::fs::Permissions::from_mode(0o755);
        let directory = tempfile::Builder::new().permissions(everyones).tempdir_in("/var/tmp").unwrap();
        let path = directory.path();
        for part in ["pod", "host"] {
            std::fs::create_dir_all(path.join(part)).unwrap();
        }
        std::fs::create_dir(path.join("bin")).unwrap();
        for program in std::fs::read_dir(probes().join("guest")).unwrap() {
            let program = program.unwrap();
            std::fs::copy(program.path(), path.join("bin").join(program.file_name())).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What a shell prints in a pod that has the volume at /volume, with every right that a container can be given.
    fn in_pod(&self, host: &Host, script: &str) -> String {
        let mount = format!("type=bind,src={},dst=/volume,options=rbind:rw", self.path().display());
        let options = ["--privileged", "--mount", &mount];
        let output = host.run_with(&options, &image("busybox"), "posix", &["sh", "-ec", script]).unwrap();
        expect::code(host, &output, 0);
        output.stdout
    }
}

fn on_host(program: &Path, directory: &Path) -> String {
    let output = Command::new(program).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Lines that differ and may not, and those of `allowed` that were met.
fn compare(host: &str, guest: &str, allowed: &[Difference]) -> (Vec<String>, Vec<&'static str>) {
    let (mut wrong, mut met) = (Vec::new(), Vec::new());
    let (host, guest): (Vec<&str>, Vec<&str>) = (host.lines().collect(), guest.lines().collect());
    if host.len() != guest.len() {
        wrong.push(format!("{} lines on the host, {} in the guest", host.len(), guest.len()));
    }
    for (host, guest) in host.into_iter().zip(guest).filter(|(host, guest)| host != guest) {
        let is = |line: &str, question: &str, answer: &str| {
            line.strip_prefix(question).and_then(|rest| rest.strip_prefix(": ")) == Some(answer)
        };
        let known = allowed.iter().find(|(question, on_host, inside)| is(host, question, on_host) && is(guest, question, inside));
        match known {
            Some((question, ..)) => met.push(*question),
            None => wrong.push(format!("host {host:?}, guest {guest:?}")),
        }
    }
    (wrong, met)
}

/// Asks the host what the guest has been asked, with its answers in `guests`, and compares.
fn expect_the_same(guests: &Path, directory: &Path, allowed: &[Difference]) {
    let (mut wrong, mut met, mut lines) = (Vec::new(), Vec::new(), 0);
    for program in PROGRAMS {
        let directory = directory.join(program);
        std::fs::create_dir(&directory).unwrap();
        let ours = on_host(&probes().join("host").join(program), &directory);
        let theirs = std::fs::read_to_string(guests.join(format!("{program}.txt"))).unwrap();
        assert!(ours.ends_with("== done\n") && theirs.ends_with("== done\n"), "{ours}\n{theirs}");
        let (differ, known) = compare(&ours, &theirs, allowed);
        wrong.extend(differ);
        met.extend(known);
        lines += ours.lines().count();
    }
    assert!(wrong.is_empty(), "of {lines} answers differ:\n{}", wrong.join("\n"));
    for (question, ..) in allowed {
        assert!(met.contains(question), "{question:?} is no difference any more: the list and docs/storage.md say otherwise");
    }
    assert!(lines > 450, "only {lines} answers");
}

/// Makes a guest's shell ask in `directory`, with the answers beside.
fn questions(volume: &str, directory: &str) -> String {
    let programs = PROGRAMS.join(" ");
    format!(
        "for program in {programs}; do \
            mkdir {directory}/$program; cd {directory}/$program; {volume}/bin/$program > ../$program.txt; \
        done"
    )
}

#[test]
fn a_volume_is_what_the_hosts_file_system_is() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let volume = Volume::new();
    volume.in_pod(&host, &questions("/volume", "/volume/pod"));
    let allowed = [DIFFERENCES, OF_A_VOLUME].concat();
    expect_the_same(&volume.path().join("pod"), &volume.path().join("host"), &allowed);
    expect::nothing_left(&host, &before);
}

#[test]
fn a_share_is_what_the_hosts_file_system_is() {
    let products = MachineProducts::from_environment().unwrap();
    let volume = Volume::new();
    let share = volume.path().to_str().unwrap();
    let mut machine = Machine::start(&products, &products.kernel, "", &["--share", share]).unwrap();
    machine.wait_for_shell();
    machine.run("mkdir -p /mnt && mount -t virtiofs paperboat /mnt");
    machine.run(&questions("/mnt", "/mnt/pod"));
    machine.run("cd / && umount /mnt");
    machine.type_line("poweroff -f");
    let ended = machine.end();
    assert_eq!(ended.status, Some(0), "{}{}", ended.console, ended.messages);
    expect_the_same(&volume.path().join("pod"), &volume.path().join("host"), DIFFERENCES);
}

/// Random operations in the pod, on a volume and in its own memory at once.
fn shuffles(seeds: std::ops::Range<u32>, operations: u32) {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let volume = Volume::new();
    let script = format!(
        "set -e
        for seed in $(seq {} {}); do
            mkdir /volume/pod/$seed /dev/shm/$seed
            (cd /volume/pod/$seed; /volume/bin/shuffle $seed {operations} drop) &
        done
        cd /dev/shm/{}; /volume/bin/shuffle 77 {operations} no-zero
        wait",
        seeds.start,
        seeds.end - 1,
        seeds.start,
    );
    let output = volume.in_pod(&host, &script);
    let good = output.matches("as they must be").count();
    assert_eq!(good, seeds.len() + 1, "{output}");
}

#[test]
fn random_operations_do_what_they_must() {
    shuffles(1..2, 1000);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn an_hour_of_random_operations_does_what_it_must() {
        shuffles(10..14, 100_000);
    }
}
