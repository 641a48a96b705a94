//! `paperboat-vmm run` as a person uses it: exit statuses, output, messages.

mod common;

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Program, Scratch, vmm};

const LONG_CMDLINE: &str = {
    const BYTES: [u8; 2048] = [b'x'; 2048];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

fn run(program: &Program, name: &str, extra: &[&str]) -> Output {
    let scratch = Scratch::new(name);
    let kernel = scratch.program(program);
    let mut command = Command::new(vmm());
    command.args(["run", "--memory", "32M", "--bare", "--kernel", &kernel]).args(extra).stdin(Stdio::null());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn power_off_is_success_and_the_console_is_ours() {
    let program = Program::new().print("hello\n").rtas("power-off", &[0, 0]).spin();
    let output = run(&program, "power-off", &["--stats"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "hello\n");
    assert!(stderr(&output).contains("H_PUT_TERM_CHAR 1"), "{}", stderr(&output));
}

#[test]
fn every_other_end_has_its_own_status() {
    let reboot = Program::new().rtas("system-reboot", &[]).spin();
    assert_eq!(run(&reboot, "reboot", &[]).status.code(), Some(3));

    let (panic, text) = Program::new().text("OS panic: the sky fell");
    let output = run(&panic.rtas("ibm,os-term", &[text]).spin(), "panic", &["--console", "null"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("panicked: OS panic: the sky fell"), "{}", stderr(&output));

    let output = run(&Program::new().spin(), "budget", &["--budget", "100000"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
}

#[test]
fn a_deterministic_run_repeats_itself() {
    let program = Program::new().print("once\n").rtas("power-off", &[0, 0]).spin();
    let counts: Vec<String> = (0..2)
        .map(|index| {
            let output = run(&program, &format!("again{index}"), &["--deterministic", "--stats"]);
            stderr(&output)
                .lines()
                .find_map(|line| line.strip_prefix("guest instructions ")?.split(',').next().map(str::to_owned))
        })
        .map(|count| count.expect("--stats prints the count"))
        .collect();
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn the_state_of_a_deterministic_run_is_the_same_every_time() {
    let scratch = Scratch::new("state");
    let program = Program::new().print("once\n").rtas("power-off", &[0, 0]).spin();
    let states: Vec<String> = (0..2)
        .map(|index| {
            let path = scratch.path(&format!("state{index}"));
            let output = run(&program, &format!("state{index}"), &["--deterministic", "--dump-state", path.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            std::fs::read_to_string(path).unwrap()
        })
        .collect();
    assert_eq!(states[0], states[1]);
    for part in ["cpu0 instructions ", "\npc 00000000000", "\nr28 ", "\nmemory "] {
        assert!(states[0].contains(part), "{part} in\n{}", states[0]);
    }
    let other = scratch.path("other");
    run(
        &Program::new().print("two!\n").rtas("power-off", &[0, 0]).spin(),
        "other",
        &["--deterministic", "--dump-state", other.to_str().unwrap()],
    );
    assert_ne!(std::fs::read_to_string(other).unwrap(), states[0], "another program leaves another state");
}

#[test]
fn a_trace_shows_what_was_asked_for() {
    let program = Program::new().print("x").hypercall("H_CPPR", &[0xff]).rtas("power-off", &[0, 0]).spin();
    let lines = |list: &str| {
        let output = run(&program, &format!("trace{}", list.len()), &["--trace", list]);
        assert_eq!(output.status.code(), Some(0), "{list}: {}", stderr(&output));
        stderr(&output)
    };
    let all = lines("insn,hcall,rtas");
    assert!(all.contains("cpu0 0000000000010000 3c600000  addis r3,0,0"), "{all}");
    assert!(all.contains("cpu0 H_CPPR(0xff ") && all.contains("cpu0 rtas power-off(0x0 0x0) = 0x0"), "{all}");
    let some = lines("insn,pc=0x10010-0x10018");
    assert_eq!(some.lines().count(), 2, "{some}");
    assert!(lines("insn,after=8,pc=0x10000-0x10024").lines().count() == 1);
    assert_eq!(lines("insn,hcall,rtas,cpu=3"), "");
    assert_eq!(lines("insn,user"), "");
}

#[test]
fn coverage_is_every_instruction_of_the_run() {
    let scratch = Scratch::new("coverage");
    let path = scratch.path("rows");
    let program = Program::new().print("x").rtas("power-off", &[0, 0]).spin();
    let output = run(&program, "covered", &["--coverage", path.to_str().unwrap(), "--stats"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = std::fs::read_to_string(path).unwrap();
    let total: u64 = report.strip_prefix("# ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(stderr(&output).contains(&format!("guest instructions {total},")), "{report}{}", stderr(&output));
    let count = |mnemonic: &str| -> u64 {
        let line = report.lines().find(|line| line.split_whitespace().nth(1) == Some(mnemonic)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // Two hypercalls, and what loads a register is addis, ori, rldicr, oris, ori.
    assert_eq!((count("sc"), count("ori"), count("xsaddqp")), (2, 2 * count("addis"), 0));
    assert_eq!(count("addis") * 5 + 2, total);
}

#[test]
fn help_teaches() {
    let output = Command::new(vmm()).args(["run", "--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    for part in ["Exit status:", "Ctrl-A x", "Examples:", "--deterministic", "pc=FROM-TO", "--dump-dts"] {
        assert!(stdout(&output).contains(part), "{part} in\n{}", stdout(&output));
    }
    let nothing = Command::new(vmm()).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));
}

#[test]
fn the_tree_is_dumped_in_both_forms() {
    let scratch = Scratch::new("dump");
    let (dtb, dts) = (scratch.path("tree.dtb"), scratch.path("tree.dts"));
    let program = Program::new().rtas("power-off", &[0, 0]).spin();
    let output = run(&program, "dumped", &["--dump-dtb", dtb.to_str().unwrap(), "--dump-dts", dts.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read(dtb).unwrap()[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    assert!(std::fs::read_to_string(dts).unwrap().contains("ibm,query-interrupt-source-number = <0x"));
}

/// The compiler of device trees reads ours as it reads anybody's, and finds nothing to complain of.
#[test]
fn the_tree_is_one_that_dtc_takes() {
    let scratch = Scratch::new("dtc");
    let (dtb, dts, socket) = (scratch.path("tree.dtb"), scratch.path("tree.dts"), scratch.path("vsock"));
    let kernel = scratch.program(&Program::new().rtas("power-off", &[0, 0]).spin());
    let share = scratch.0.to_str().unwrap();
    for arguments in [
        vec!["--bare"],
        vec!["--cpus", "5", "--threads", "4", "--enforce-dma", "--share", share, "--vsock", socket.to_str().unwrap()],
    ] {
        let mut command = Command::new(vmm());
        command.args(["run", "--memory", "32M", "--kernel", &kernel, "--console", "null"]).args(&arguments);
        command.arg("--dump-dtb").arg(&dtb).arg("--dump-dts").arg(&dts);
        assert_eq!(command.stdin(Stdio::null()).status().unwrap().code(), Some(0));
        for (form, file) in [("dtb", &dtb), ("dts", &dts)] {
            let dtc = Command::new("dtc").args(["-I", form, "-O", "dtb", "-o", "/dev/null"]).arg(file).output();
            let dtc = dtc.expect("dtc is installed by `cargo xtask setup` (package device-tree-compiler)");
            assert!(dtc.status.success(), "{}", stderr(&dtc));
            assert_eq!(stderr(&dtc), "", "{arguments:?}, {form}");
        }
    }
}

#[test]
fn a_console_file_gets_the_output() {
    let scratch = Scratch::new("file");
    let path = scratch.path("console");
    let program = Program::new().print("to a file\n").rtas("power-off", &[0, 0]).spin();
    let output = run(&program, "to-file", &["--console", &format!("file={}", path.display())]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "to a file\n");
}

#[test]
fn what_cannot_be_is_one_line_that_names_it() {
    let scratch = Scratch::new("bad");
    let good = scratch.program(&Program::new().spin());
    let cut = scratch.path("cut.elf");
    std::fs::write(&cut, &std::fs::read(&good).unwrap()[..100]).unwrap();
    // Longer than the memory it is to go to.
    let large = scratch.path("large.cpio");
    std::fs::File::create(&large).unwrap().set_len(32 << 20).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--kernel", "/nonexistent/vmlinux"], "/nonexistent/vmlinux"),
        (&["--kernel", "/proc/self/exe"], "x86_64"),
        (&["--kernel", "/etc/passwd"], "not an ELF file"),
        (&["--kernel", cut.to_str().unwrap()], "truncated or damaged"),
        (&["--kernel", &good, "--initrd", "/nonexistent/initrd"], "initramfs"),
        (&["--kernel", &good, "--memory", "1M"], "at least 16 MiB"),
        (&["--kernel", &good, "--memory", "100M"], "multiple of 16 MiB"),
        (&["--kernel", &good, "--cpus", "0"], "1 to 64"),
        (&["--kernel", &good, "--cpus", "10000"], "1 to 64"),
        (&["--kernel", &good, "--backend", "kvm"], "kvm"),
        (&["--kernel", &good, "--deterministic", "--cpus", "2"], "one CPU"),
        (&["--kernel", &good, "--share", "/etc/passwd"], "/etc/passwd"),
        (&["--kernel", &good, "--load-address", "0x10000"], "position-independent"),
        (&["--kernel", &good, "--memory", "lots"], "lots"),
        (&["--kernel", &good, "--memory", "99999999999G"], "too large"),
        (&["--kernel", &good, "--memory", "999999999G"], "at most 16384 GiB"),
        (&["--kernel", &good, "--cpus", "many"], "many"),
        (&["--kernel", &good, "--threads", "3"], "1, 2, 4 and 8"),
        (&["--kernel", &good, "--console", "printer"], "stdio, null or file=PATH"),
        (&["--kernel", &good, "--trace", "everything"], "everything"),
        (&["--kernel", &good, "--colour", "red"], "--colour"),
        (&["--kernel", &good, "--cpu", "power7"], "native or power8"),
        (&["--kernel", &good, "--backend", "kvm", "--coverage", "/dev/null"], "coverage is counted by the software CPU"),
        (&["--kernel", &good, "--dump-dtb", "/nonexistent/tree"], "/nonexistent/tree"),
        (&["--kernel", &good, "--cmdline", LONG_CMDLINE], "2047"),
        (&["--kernel", &good, "--memory", "16M", "--initrd", large.to_str().unwrap()], "initramfs"),
        (
            &["--kernel", &good, "--backend", "soft", "--xics", "kernel"],
            "no interrupt controller of its own: --xics kernel is for KVM",
        ),
        (&["--initrd", &good], "--kernel"),
    ];
    for (arguments, needle) in cases {
        if arguments[1] == "/proc/self/exe" && std::env::consts::ARCH != "x86_64" {
            continue;
        }
        let output = Command::new(vmm()).args(["run", "--bare"]).args(*arguments).stdin(Stdio::null()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(needle) && text.trim_end().lines().count() == 1, "{arguments:?}: {text}");
        let mut parts: Vec<&str> = text.trim_end().split(": ").collect();
        let count = parts.len();
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), count, "said twice: {text}");
    }
}

#[test]
fn a_signal_ends_a_spinning_guest_within_a_second() {
    let scratch = Scratch::new("signal");
    let kernel = scratch.program(&Program::new().print("up\n").spin());
    let mut child = Command::new(vmm())
        .args(["run", "--memory", "32M", "--kernel", &kernel])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let begun = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(7));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
