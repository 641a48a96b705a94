//! The guest's kernel and its agent die, each at each moment of a container's life.

use paperboat_e2e::host::image;
use paperboat_e2e::{Host, Products, expect};

use super::{Client, signal, until};
use nix::sys::signal::Signal;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Kernel,
}

impl Victim {
    /// For a shell in the guest outside of its containers, root there.
    fn end(self) -> &'static str {
        match self {
            // By zeros where its program was. Then it is given work: whoever connects to its port.
            Self::Agent => {
                "read -r range _ < /proc/1/maps; start=$((0x${range%%-*})); \
                 dd if=/dev/zero of=/proc/1/mem bs=65536 seek=$((start / 65536)) count=64 conv=notrunc"
            }
            // A control group without memory, and a kernel that is told to panic when one runs out.
            Self::Kernel => {
                "echo 2 > /proc/sys/vm/panic_on_oom; mkdir /sys/fs/cgroup/end; echo 2097152 > /sys/fs/cgroup/end/memory.max; \
                 echo $$ > /sys/fs/cgroup/end/cgroup.procs; tail /dev/zero"
            }
        }
    }

    fn last_words(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &["panic", "init"],
            Self::Kernel => &["panic", "memory"],
        }
    }
}

/// When, among the moments at which there is a guest with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeStart,
    Running,
    Delete,
}

/// A host whose operator may run programs in guests.
fn host() -> Host {
    let tools = Products::from_environment().unwrap().images.join("debug-tools");
    let configuration = format!("debug_console: true\ndebug_tools: {}", tools.display());
    Host::start_with(&configuration).unwrap_or_else(|error| panic!("{error}"))
}

/// Ends the victim in the guest of a pod, and waits for what comes of it.
fn end(host: &Host, id: &str, victim: Victim) {
    let mut command = std::process::Command::new(host.products().bin.join("paperboat"));
    command.arg("--config").arg(host.directory().join("paperboat.yaml"));
    command.args(["exec-vm", id, "--", "sh", "-c", victim.end()]);
    // How it ends tells nothing: the guest is gone.
    paperboat_e2e::host::finish(command, super::PATIENCE).unwrap();
    host.wait_for_log(&["machine ended", &format!("pod={id}")]).unwrap();
}

/// Runs a container whose guest loses the victim at that moment.
fn die(host: &Host, victim: Victim, moment: Moment) {
    let before = host.leftovers();
    let id = format!("{victim:?}-{moment:?}").to_lowercase();
    let script = "echo running; while ! test -e /go; do echo more; sleep 0.1; done; exit 7";
    let client = Client::start(host, &id, &["sh", "-c", script]);
    if moment == Moment::BeforeStart {
        host.wait_for_machine(&id).unwrap();
        // The client asks for the creation now; stopped, it cannot ask for the start.
        signal(client.pid(), Signal::SIGSTOP);
        host.wait_for_log(&["container created", &format!("id={id}")]).unwrap();
    } else {
        until(host, "it prints", || client.printed().contains("more"));
    }
    if moment == Moment::Delete {
        // Stopped, it hears of the end and cannot ask for the removal.
        signal(client.pid(), Signal::SIGSTOP);
        let go = host.ctr(&["task", "exec", "--exec-id", "go", &id, "touch", "/go"]).unwrap();
        expect::code(host, &go, 0);
        host.wait_for_log(&["container ended", &format!("id={id} exec= ")]).unwrap();
    }
    end(host, &id, victim);
    signal(client.pid(), Signal::SIGCONT);
    let output = client.finish(host);
    match moment {
        Moment::BeforeStart => {
            expect::code(host, &output, 1);
            expect::words(host, &output.stderr, victim.last_words());
        }
        Moment::Running => {
            expect::code(host, &output, 137);
            expect::words(host, &output.stdout, &["running"]);
            expect::words(host, &output.stderr, victim.last_words());
        }
        Moment::Delete => expect::code(host, &output, 7),
    }
    expect::nothing_left(host, &before);
}

#[test]
fn a_guest_that_dies_before_the_start_and_during_the_removal_is_told() {
    let host = host();
    die(&host, Victim::Agent, Moment::BeforeStart);
    die(&host, Victim::Kernel, Moment::Delete);
}

#[test]
fn what_cannot_boot_is_named() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    // No kernel, which is told before there is a guest; no agent, which the kernel finds.
    let cases: [(String, &[&str]); 2] = [
        (format!("kernel: {}", file("text", b"no kernel\n")), &["text", "ELF"]),
        (format!("initramfs: {}", file("empty", b"")), &["panic", "Unable to mount root fs"]),
    ];
    for (configuration, words) in cases {
        let host = Host::start_with(&configuration).unwrap_or_else(|error| panic!("{error}"));
        let before = host.leftovers();
        let output = host.run("broken", &["true"]).unwrap();
        expect::code(&host, &output, 1);
        expect::words(&host, &output.stderr, words);
        expect::nothing_left(&host, &before);
    }
}

#[test]
fn an_agent_that_dies_ends_its_container_and_says_why() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    // By zeros where its program was: only who shares its processes and is all-powerful can do that. Then it is
    // given work.
    let script = "read -r range _ < /proc/1/maps; start=$((0x${range%%-*})); echo running; sleep 0.2; \
        dd if=/dev/zero of=/proc/1/mem bs=65536 seek=$((start / 65536)) count=64 conv=notrunc 2> /dev/null; \
        while true; do echo more; sleep 0.1; done";
    let options = ["--privileged", "--with-ns", "pid:/proc/1/ns/pid"];
    let output = host.run_with(&options, &image("busybox"), "agent", &["sh", "-c", script]).unwrap();
    expect::code(&host, &output, 137);
    expect::words(&host, &output.stdout, &["running"]);
    expect::words(&host, &output.stderr, &["panic", "init"]);
    expect::nothing_left(&host, &before);
}

/// Both at all moments.
mod slow {
    use super::*;

    #[test]
    fn every_death_in_the_guest_at_every_moment() {
        let host = host();
        for victim in [Victim::Agent, Victim::Kernel] {
            for moment in [Moment::BeforeStart, Moment::Running, Moment::Delete] {
                die(&host, victim, moment);
            }
        }
    }
}
