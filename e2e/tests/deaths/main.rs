//! Whatever dies first, and whenever: who waits gets a truthful answer soon, and nothing is left.

#![forbid(unsafe_code)]

mod hostile;
mod inside;

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::host::image;
use paperboat_e2e::{Host, Output, Running, expect, leaks};
use tempfile::NamedTempFile;

/// An answer comes within this time, whatever died.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who dies of SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Machine,
    Shim,
    Containerd,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The shim is there, or the machine's process, and no guest instruction has run.
    BeforeBoot,
    /// The guest's kernel runs.
    Boot,
    /// The container exists and nobody has started it.
    BeforeStart,
    /// It runs and prints.
    Running,
    /// It has ended and is being removed.
    Delete,
}

fn signal(pid: u32, signal: Signal) {
    // It may be gone already, of what the test did before.
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn until(host: &Host, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}\n{}", host.log());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Shims of this host.
fn shims(host: &Host) -> Vec<i32> {
    let is_shim = |pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.file_name() == Path::new("containerd-shim-paperboat-v1").file_name()
    };
    leaks::processes_of(host.directory(), host.containerd_pid()).into_iter().filter(is_shim).collect()
}

/// The machine of a pod, unless it is gone already.
fn machine(host: &Host, id: &str) -> Option<u32> {
    let note = std::fs::read_to_string(host.state_dir().join(host.namespace()).join(id).join("machine.pid")).ok()?;
    note.split_whitespace().next()?.parse().ok()
}

/// A `ctr run` under way, what it prints to be seen while it runs.
struct Client {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Client {
    fn start(host: &Host, id: &str, command: &[&str]) -> Self {
        let (stdout, stderr) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        let mut run = host.run_command(&[], &image("busybox"), id, command);
        run.stdin(Stdio::null()).stdout(stdout.reopen().unwrap()).stderr(stderr.reopen().unwrap());
        Self { child: run.spawn().unwrap(), stdout, stderr }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.stdout.path()).unwrap()
    }

    /// Waits for its end, but not for ever.
    fn finish(mut self, host: &Host) -> Output {
        let started = Instant::now();
        let mut status = None;
        until(host, "the client gets its answer", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let stderr = std::fs::read_to_string(self.stderr.path()).unwrap();
        Output { status: status.unwrap(), stdout: self.printed(), stderr, wall: started.elapsed() }
    }
}

/// Runs a container and kills the victim at that moment.
fn die(host: &mut Host, victim: Victim, moment: Moment) {
    let before = host.leftovers();
    let id = format!("{victim:?}-{moment:?}").to_lowercase();
    let end = if moment == Moment::Delete { "exit 7" } else { "while true; do echo more; sleep 0.1; done" };
    let script = format!("echo running; {end}");
    let client = Client::start(host, &id, &["sh", "-c", &script]);
    match moment {
        Moment::BeforeBoot if victim == Victim::Shim => until(host, "there is a shim", || !shims(host).is_empty()),
        Moment::BeforeBoot => drop(host.wait_for_machine(&id).unwrap()),
        Moment::Boot => drop(host.wait_for_log(&["machine started", &id]).unwrap()),
        Moment::BeforeStart => {
            host.wait_for_machine(&id).unwrap();
            // The client asks for the creation now; stopped, it cannot ask for the start.
            signal(client.pid(), Signal::SIGSTOP);
            host.wait_for_log(&[&format!("container created id={id}")]).unwrap();
        }
        Moment::Running => until(host, "it prints", || client.printed().contains("more")),
        Moment::Delete => drop(host.wait_for_log(&[&format!("container ended id={id}")]).unwrap()),
    }
    match victim {
        Victim::Machine => machine(host, &id).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL)),
        Victim::Shim => shims(host).into_iter().for_each(|pid| signal(pid.cast_unsigned(), Signal::SIGKILL)),
        Victim::Containerd => {
            signal(host.containerd_pid(), Signal::SIGKILL);
            host.wait_for_containerds_end().unwrap();
        }
    }
    signal(client.pid(), Signal::SIGCONT);
    let output = client.finish(host);
    let what = format!("{victim:?} {moment:?}: {output:#?}\n{}", host.log());
    match (victim, moment) {
        (Victim::Machine, Moment::Running) => {
            assert_eq!(output.code(), Some(137), "{what}");
            assert!(output.stderr.contains("killed by signal 9") && output.stdout.contains("running"), "{what}");
        }
        (Victim::Machine, Moment::Delete) => assert_eq!(output.code(), Some(7), "{what}"),
        (Victim::Machine, _) => {
            assert_eq!(output.code(), Some(1), "{what}");
            assert!(output.stderr.contains("killed by signal 9") || output.stderr.contains("stopped"), "{what}");
        }
        // Its removal may have been done already.
        (_, Moment::Delete) => {}
        (Victim::Shim | Victim::Containerd, _) => assert!(!output.status.success(), "{what}"),
    }
    if victim == Victim::Containerd {
        host.restart_containerd().unwrap();
    }
    // The client could not tidy up behind a containerd or a shim that was gone.
    if victim != Victim::Machine {
        let _ = host.ctr(&["task", "rm", "--force", &id]);
        let _ = host.ctr(&["container", "rm", &id]);
        let _ = std::fs::remove_dir_all(host.directory().join("fifo"));
    }
    let left = leaks::settle(host, &before);
    assert!(left.is_empty(), "{victim:?} {moment:?} leaves: {left:#?}\n{}", host.log());
}

#[test]
fn a_death_is_told_and_leaves_nothing() {
    let mut host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    die(&mut host, Victim::Machine, Moment::BeforeStart);
    die(&mut host, Victim::Shim, Moment::Boot);
    die(&mut host, Victim::Containerd, Moment::Boot);
}

#[test]
fn a_container_killed_before_its_start_has_ended() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let client = Client::start(&host, "early", &["sleep", "1000"]);
    host.wait_for_machine("early").unwrap();
    signal(client.pid(), Signal::SIGSTOP);
    host.wait_for_log(&["container created id=early"]).unwrap();
    let early = Running::found(&host, "early");
    assert_eq!(early.status().unwrap(), "CREATED");
    assert!(early.task(&["kill", "--signal", "KILL"]).unwrap().status.success());
    early.wait_for_status("STOPPED").unwrap();
    assert_eq!(early.api().unwrap().wait("").unwrap(), 137);
    signal(client.pid(), Signal::SIGCONT);
    let output = client.finish(&host);
    assert_eq!(output.code(), Some(1), "{output:#?}");
    expect::words(&host, &output.stderr, &["stopped"]);
    expect::nothing_left(&host, &before);
}

/// All deaths at all moments.
mod slow {
    use super::*;

    #[test]
    fn every_death_at_every_moment() {
        let mut host = Host::start().unwrap_or_else(|error| panic!("{error}"));
        for victim in [Victim::Machine, Victim::Shim, Victim::Containerd] {
            for moment in [Moment::BeforeBoot, Moment::Boot, Moment::BeforeStart, Moment::Running, Moment::Delete] {
                die(&mut host, victim, moment);
            }
        }
    }
}
