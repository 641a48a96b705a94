//! Programs for the bare machine, in both byte orders, compiled here from `guests/`: they check hypercalls, RTAS, interrupts, time, CPUs
//! and the MMU from inside and print what is wrong.

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Scratch, vmm};
use paperboat_microvm::papr::rtas;

/// Both byte orders, as the compiler calls them.
const ENDIANS: [&str; 2] = ["-mbig-endian", "-mlittle-endian"];

fn compiler() -> &'static str {
    if cfg!(target_arch = "powerpc64") { "gcc" } else { "powerpc64le-linux-gnu-gcc" }
}

fn compile(scratch: &Scratch, name: &str, options: &[&str], sources: &[&str]) -> PathBuf {
    let output = scratch.path(name);
    let mut gcc = Command::new(compiler());
    gcc.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests"));
    gcc.args(["-nostdlib", "-mabi=elfv2", "-Wl,--build-id=none"]).args(options).arg("-o").arg(&output).args(sources);
    let compiled = gcc.output().unwrap_or_else(|error| panic!("{}: {error}: run cargo xtask setup", compiler()));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    output
}

/// A C program with the runtime of `guests/`, at fixed addresses.
fn program(scratch: &Scratch, name: &str, endian: &str) -> PathBuf {
    let source = format!("{name}.c");
    let options = [
        endian,
        "-ffreestanding",
        "-static",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-mcpu=power9",
        "-mno-altivec",
        "-mno-vsx",
        "-msoft-float",
        "-fno-stack-protector",
        "-fno-pic",
        "-no-pie",
        "-mcmodel=medium",
        "-Wl,-T,guest.ld,--no-warn-rwx-segments",
    ];
    compile(scratch, &format!("{name}{endian}.elf"), &options, &["start.S", "papr.c", &source])
}

fn start(kernel: &Path, options: &[&str]) -> Child {
    let mut command = Command::new(vmm());
    command.args(["run", "--backend", "soft", "--memory", "64M", "--kernel"]).arg(kernel).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs to the end; what it printed, and what the machine said.
fn finish(child: Child) -> (String, String) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{messages}");
    (text, messages)
}

fn passes(name: &str, options: &[&str]) {
    let scratch = Scratch::new(name);
    for endian in ENDIANS {
        let (text, _) = finish(start(&program(&scratch, name, endian), options));
        assert!(text.ends_with("passed\n") && !text.contains("FAIL"), "{name} {endian}:\n{text}");
    }
}

#[test]
fn every_call_has_its_codes() {
    passes("calls", &["--bare"]);
}

#[test]
fn every_call_has_its_codes_with_devices_and_deterministic_time() {
    passes("calls", &["--deterministic"]);
}

#[test]
fn unknown_calls_are_logged_once_each() {
    let scratch = Scratch::new("unknown");
    let (_, messages) = finish(start(&program(&scratch, "calls", ENDIANS[0]), &["--bare"]));
    for unknown in ["hypercall 0xf100", "hypercall 0xf10c", "RTAS token 0x7777"] {
        assert_eq!(messages.matches(unknown).count(), 1, "{unknown} in\n{messages}");
    }
}

#[test]
fn cpus_start_meet_and_stop() {
    passes("smp", &["--bare", "--cpus", "4", "--threads", "2"]);
}

#[test]
fn pages_translate_and_fault() {
    passes("mmu", &["--bare"]);
    passes("mmu", &["--bare", "--deterministic"]);
}

#[test]
fn the_page_table_calls_have_their_corners() {
    passes("table", &["--bare"]);
}

#[test]
fn the_other_calls_have_their_corners() {
    passes("corners", &["--bare", "--cpus", "2"]);
}

#[test]
fn time_passes_and_the_terminal_interrupts() {
    let scratch = Scratch::new("time");
    for endian in ENDIANS {
        let mut child = start(&program(&scratch, "time", endian), &["--bare"]);
        let mut prompt = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut prompt).unwrap();
        assert_eq!(&prompt, b"type\n", "{endian}: {}", finish(child).0);
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let (text, _) = finish(child);
        assert_eq!(text, "passed\n", "{endian}");
    }
}

#[test]
fn a_long_line_arrives_whole() {
    let scratch = Scratch::new("typed");
    let mut child = start(&program(&scratch, "typed", ENDIANS[0]), &["--bare"]);
    // In one piece, as a terminal pastes it, and nothing after it.
    let mut line = vec![b'x'; 3000];
    line.push(b'\n');
    child.stdin.as_mut().unwrap().write_all(&line).unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0000000000000bb8\npassed\n");
}

#[test]
fn a_position_independent_program_runs_where_it_is_put() {
    let scratch = Scratch::new("pie");
    let token = rtas::CALLS.iter().find(|row| row.name == "power-off").unwrap().token;
    let tokens = [format!("-DPOWER_OFF={token}"), format!("-DPOWER_OFF_SWAPPED={}", token.swap_bytes())];
    for endian in ENDIANS {
        let options = [endian, "-pie", "-fPIC", "-Wl,-e,start,-z,max-page-size=0x10000", &tokens[0], &tokens[1]];
        let kernel = compile(&scratch, &format!("pie{endian}.elf"), &options, &["pie.S"]);
        for (address, text) in [("0x40000", "4ok"), ("0x90000", "9ok")] {
            let (printed, _) = finish(start(&kernel, &["--bare", "--load-address", address]));
            assert_eq!(printed, text, "{endian} at {address}");
        }
    }
}
