//! Every state of a machine × every way to end it, as the shim and as a person do it: the process ends, the machine has ended before it, and
//! nothing is left. What a second means is said by the machine: it complains when it had to be cut short.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::served::{HANG_LIMIT, LARGE_INITRD, Served, TRIES, call, empty, starting};
use common::{Program, Scratch, vmm};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use paperboat_microvm::papr::phb::WINDOWS;
use paperboat_protocol::machine as api;
use paperboat_protocol::machine::ended_response::Reason;
use paperboat_protocol::machine::state_response::Status;

/// How a machine is ended through `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    StopCall,
    Signal,
    LifelineClosed,
}

const WAYS: [Way; 3] = [Way::StopCall, Way::Signal, Way::LifelineClosed];

/// What the guest does. Each prints a line first, so that a test knows that it is there.
fn guests() -> Vec<(&'static str, Program)> {
    let up = || Program::new().print("up\n");
    let with_second = || up().rtas("start-cpu", &[1, Program::CEDE_ENTRY, 0]);
    vec![
        ("spinning", up().spin()),
        ("printing", up().again()),
        ("storing to a device window", up().store_for_ever(WINDOWS[2].real_base)),
        ("ceding on one CPU", with_second().spin().cede_for_ever()),
        ("ceding alone", CEDE.into_iter().fold(up(), Program::word)),
        ("joined", with_second().hypercall("H_JOIN", &[]).spin().cede_for_ever()),
        ("being reset", with_second().reset_for_ever().cede_for_ever()),
        ("faulting", up().word(0)),
        ("stopped by itself", up().rtas("stop-self", &[]).spin()),
    ]
}

/// li r3,0xe0; sc 1; b .-8
const CEDE: [u32; 3] = [0x3860_00e0, 0x4400_0022, 0x4bff_fff8];

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

async fn end(served: &mut Served, way: Way) {
    match way {
        Way::StopCall => {
            served.client.stop(call(), &empty()).await.unwrap();
        }
        Way::Signal => signal(&served.child, Signal::SIGTERM),
        Way::LifelineClosed => drop(served.lifeline.take()),
    }
}

/// The machine has printed its first line.
async fn up(served: &Served) {
    let request = api::ReadConsoleRequest { from: 0, wait_ms: 10_000, ..Default::default() };
    let piece = served.client.read_console(call(), &request).await.unwrap();
    assert!(piece.text.starts_with(b"up\n"), "{:?}", String::from_utf8_lossy(&piece.text));
}

#[tokio::test(flavor = "current_thread")]
async fn every_guest_ends_every_way() {
    for (name, guest) in guests() {
        for way in WAYS {
            let mut served = Served::new("guest").await;
            served.client.start(call(), &served.request(&guest)).await.unwrap();
            up(&served).await;
            let waiter = served.client.clone();
            let waiting = tokio::spawn(async move { waiter.wait(call(), &empty()).await });
            // The request is on its way before the end is.
            tokio::task::yield_now().await;
            assert_eq!(served.status().await, Status::RUNNING, "{name}");
            end(&mut served, way).await;
            let ended = waiting.await.unwrap().unwrap_or_else(|error| panic!("{name}, {way:?}: {error}"));
            assert_eq!(ended.reason.unwrap(), Reason::STOPPED, "{name}, {way:?}");
            served.ends();
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_that_does_not_run_ends_every_way() {
    for way in WAYS {
        // Nothing was asked of it.
        let mut served = Served::new("nothing").await;
        assert_eq!(served.status().await, Status::NEW);
        end(&mut served, way).await;
        served.ends();

        // Paused.
        let mut served = Served::new("paused").await;
        served.client.start(call(), &served.request(&Program::new().print("up\n").spin())).await.unwrap();
        up(&served).await;
        served.client.pause(call(), &empty()).await.unwrap();
        assert_eq!(served.status().await, Status::PAUSED);
        end(&mut served, way).await;
        served.ends();

        // Over, in each of the ways that are the guest's.
        let (dying, text) = Program::new().text("the end");
        let ends = [
            (Program::new().rtas("power-off", &[0, 0]), Reason::POWER_OFF),
            (Program::new().rtas("system-reboot", &[]), Reason::REBOOT),
            (dying.rtas("ibm,os-term", &[text]), Reason::PANIC),
        ];
        for (program, reason) in ends {
            let mut served = Served::new("over").await;
            served.client.start(call(), &served.request(&program.spin())).await.unwrap();
            assert_eq!(served.client.wait(call(), &empty()).await.unwrap().reason.unwrap(), reason);
            assert_eq!(served.status().await, Status::ENDED);
            end(&mut served, way).await;
            served.ends();
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_that_is_being_made_ends_every_way() {
    for way in WAYS {
        let (mut served, starting) = starting().await;
        end(&mut served, way).await;
        let error = starting.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("stopped"), "{way:?}: {error}");
        served.ends();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn calls_that_wait_keep_nobody_from_the_end() {
    for way in WAYS {
        let mut served = Served::new("waiting").await;
        served.client.start(call(), &served.request(&Program::new().print("up\n").spin())).await.unwrap();
        up(&served).await;
        let typed = api::TypeConsoleRequest { text: vec![b'x'; 4096], ..Default::default() };
        assert_eq!(served.client.type_console(call(), &typed).await.unwrap().taken, 4096);
        assert_eq!(served.client.type_console(call(), &typed).await.unwrap().taken, 0, "nobody takes it away");
        // More waiters than there can be threads.
        let waiters: Vec<_> = (0..600)
            .map(|_| {
                let client = served.client.clone();
                tokio::spawn(async move { client.wait(call(), &empty()).await })
            })
            .collect();
        let (forgetting, reading) = (served.client.clone(), served.client.clone());
        let forgetting = tokio::spawn(async move { forgetting.wait_forget(call(), &api::WaitForgetRequest::default()).await });
        let request = api::ReadConsoleRequest { from: u64::MAX, wait_ms: 10_000, ..Default::default() };
        let reading = tokio::spawn(async move { reading.read_console(call(), &request).await });
        assert_eq!(served.status().await, Status::RUNNING);
        end(&mut served, way).await;
        // So many answers take longer than the machine waits for, on a busy host: then some are told by the end of the connection.
        let mut answered = 0;
        for waiter in waiters {
            if let Ok(ended) = waiter.await.unwrap() {
                assert_eq!(ended.reason.unwrap(), Reason::STOPPED);
                answered += 1;
            }
        }
        assert!(answered > 0);
        assert!(forgetting.await.unwrap().is_err());
        assert!(reading.await.unwrap().map_or(true, |piece| piece.ended));
        served.ends();
    }
}

/// `run` with its three streams ours.
fn run(kernel: &str, arguments: &[&str]) -> Child {
    Command::new(vmm())
        .args(["run", "--backend", "soft", "--kernel", kernel])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ends(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > HANG_LIMIT {
            child.kill().unwrap();
            panic!("the process lives on");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn complaints(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Nobody reads what it prints, beyond the first line.
#[test]
fn a_signal_ends_every_guest() {
    for (name, guest) in guests() {
        let scratch = Scratch::new("signal");
        let kernel = scratch.program(&guest);
        let mut child = run(&kernel, &["--memory", "32M", "--cpus", "2"]);
        let mut line = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"up\n", "{name}");
        // Time enough to fill whatever it fills.
        std::thread::sleep(Duration::from_millis(50));
        signal(&child, Signal::SIGTERM);
        assert_eq!(ends(&mut child).code(), Some(7), "{name}");
        // The word of one that has ended by itself; what is cut short says nothing.
        assert_eq!(complaints(&mut child), "paperboat-vmm: stopped\n", "{name}");
    }
}

#[test]
fn a_signal_ends_what_is_being_made() {
    let scratch = Scratch::new("made");
    let kernel = scratch.program(&Program::new().spin());
    let (initrd, socket) = (scratch.path("initrd"), scratch.path("vsock"));
    File::create(&initrd).unwrap().set_len(LARGE_INITRD).unwrap();
    let (initrd, socket_path) = (initrd.to_str().unwrap(), socket.to_str().unwrap());
    for _ in 0..TRIES {
        let mut child = run(&kernel, &["--memory", "8G", "--initrd", initrd, "--vsock", socket_path]);
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < HANG_LIMIT, "its devices are not made");
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&child, Signal::SIGINT);
        assert_eq!(ends(&mut child).code(), Some(7));
        assert!(!socket.exists(), "the socket is left behind");
        match complaints(&mut child).as_str() {
            "paperboat-vmm: stopped while the machine was being made\n" => return,
            // It was loaded before the signal came.
            text => assert_eq!(text, "paperboat-vmm: stopped\n"),
        }
    }
    panic!("it was loaded faster than seen, {TRIES} times");
}

/// What the page table and the notes beside it cost, for a machine that has touched next to nothing of its memory.
#[test]
fn a_large_machine_starts_small() {
    let scratch = Scratch::new("large");
    let kernel = scratch.program(&Program::new().print("up\n").spin());
    let mut child = run(&kernel, &["--memory", "16G", "--cpus", "64"]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    signal(&child, Signal::SIGTERM);
    assert_eq!(ends(&mut child).code(), Some(7));
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    // The table alone is 128 MiB, and each CPU's notes are 1.5 MiB.
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kib < 96 << 10, "{kib} KiB");
}

/// A trace goes to standard error, and a pipe there holds 64 KiB.
#[test]
fn a_trace_that_nobody_reads_holds_nobody() {
    let scratch = Scratch::new("trace");
    let kernel = scratch.program(&Program::new().print("up\n").again());
    let socket = scratch.path("vsock");
    let mut child = run(&kernel, &["--memory", "32M", "--trace", "hcall", "--vsock", socket.to_str().unwrap()]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::SIGTERM);
    assert_eq!(ends(&mut child).code(), Some(7));
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn pipes_where_files_should_be_hold_nobody() {
    let scratch = Scratch::new("pipes");
    let kernel = scratch.program(&Program::new().print("up\n").again());
    let pipe = scratch.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = pipe.to_str().unwrap();
    for (arguments, needle) in
        [(vec!["--initrd", path], "not a regular file"), (vec!["--console", &format!("file={path}")], "nobody reads this pipe")]
    {
        let mut child = run(&kernel, &arguments);
        assert_eq!(ends(&mut child).code(), Some(1));
        let text = complaints(&mut child);
        assert!(text.contains(needle) && text.lines().count() == 1, "{text}");
    }
    let mut child = run(path, &[]);
    assert_eq!(ends(&mut child).code(), Some(1));
    assert!(complaints(&mut child).contains("not a regular file"));

    // One that somebody holds and does not read.
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let mut child = run(&kernel, &["--memory", "32M", "--console", &format!("file={path}")]);
    let begun = Instant::now();
    let mut line = [0; 3];
    while reader.read_exact(&mut line).is_err() {
        assert!(begun.elapsed() < HANG_LIMIT, "nothing is printed");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    signal(&child, Signal::SIGHUP);
    assert_eq!(ends(&mut child).code(), Some(7));
    assert_eq!(complaints(&mut child), "paperboat-vmm: stopped\n");
}

/// A terminal whose other side reads nothing, and the escape key.
#[test]
fn the_escape_key_ends_a_machine_whose_terminal_stands_still() {
    let scratch = Scratch::new("escape");
    let kernel = scratch.program(&Program::new().print("up\n").again());
    let terminal = nix::pty::openpty(None, None).unwrap();
    let (mut master, slave) = (File::from(terminal.master), terminal.slave);
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut child = Command::new(vmm())
        .args(["run", "--backend", "soft", "--memory", "32M", "--kernel", &kernel])
        .stdin(end(&slave))
        .stdout(end(&slave))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    master.read_exact(&mut [0; 2]).unwrap();
    let is_raw = || !tcgetattr(slave.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON);
    assert!(is_raw());
    std::thread::sleep(Duration::from_millis(50));
    master.write_all(b"\x01x").unwrap();
    assert_eq!(ends(&mut child).code(), Some(7));
    assert_eq!(complaints(&mut child), "paperboat-vmm: stopped\n");
    assert!(!is_raw(), "the terminal is not given back");
}
