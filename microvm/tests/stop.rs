//! Stopping in every state and ending in every way, many times: every thread ends within a second, nothing is left behind.
//!
//! `cargo xtask test --all` runs this under a leak checker too, with a kernel that boots (`PAPERBOAT_KERNEL`).

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Program, Scratch};
use paperboat_hypervisor::{Backing, ClockMode, Presentation, Processor};
use paperboat_microvm::backend::{BackendChoice, CpuOptions, create_vm};
use paperboat_microvm::boot::{BootFile, BootSource, Topology};
use paperboat_microvm::console::Console;
use paperboat_microvm::devices::{DeviceConfig, VsockConfig};
use paperboat_microvm::give_up::GiveUp;
use paperboat_microvm::machine::{EndReason, Machine, MachineConfig, STOP_LIMIT};
use paperboat_microvm::papr::phb::DmaPolicy;
use paperboat_microvm::papr::trace::Trace;

const ROUNDS: u64 = 60;

/// Set where a leak checker executes this test, thirty times slower than the processor does.
const CHECKED: &str = "PAPERBOAT_LEAK_CHECK";
const CHECKED_ROUNDS: u64 = 10;
const CHECKER_FACTOR: u32 = 60;

fn is_checked() -> bool {
    std::env::var_os(CHECKED).is_some()
}

fn stop_limit() -> Duration {
    if is_checked() { STOP_LIMIT * CHECKER_FACTOR } else { STOP_LIMIT }
}

fn machine(kernel: &str, scratch: &Scratch) -> Machine {
    machine_with(kernel, scratch, 32 << 20, None)
}

fn machine_with(kernel: &str, scratch: &Scratch, memory_bytes: u64, budget_instructions: Option<u64>) -> Machine {
    let config = MachineConfig {
        source: BootSource {
            kernel: BootFile::open("kernel", kernel).unwrap(),
            initrd: None,
            cmdline: String::new(),
            load_address: None,
        },
        topology: Topology::new(3, 1).unwrap(),
        memory_bytes,
        clock: ClockMode::Host,
        budget_instructions,
        processor: Processor::Native,
        backing: Backing::Usual,
        presentation: Presentation::default(),
        dma: DmaPolicy::Identity,
        console: Console::in_memory(),
        trace: Trace::default(),
        give_up: GiveUp::default(),
    };
    let devices = DeviceConfig {
        share: Some(DeviceConfig::open_share(scratch.0.to_str().unwrap()).unwrap()),
        vsock: Some(VsockConfig { cid: 3, socket_path: scratch.path("vsock") }),
        nics: DeviceConfig::network_slots(2, 2).unwrap(),
        helpers: true,
        ..DeviceConfig::default()
    };
    Machine::new(
        config,
        Box::new(|config| create_vm(BackendChoice::Soft, config, CpuOptions::default())),
        Box::new(|ram| devices.make(ram)),
    )
    .unwrap()
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// Every way in which a machine ends without being told to.
fn ends_of_its_own(scratch: &Scratch) {
    let (dying, text) = Program::new().text("the end");
    let ends = [
        (Program::new().rtas("power-off", &[0, 0]), EndReason::PowerOff),
        (Program::new().rtas("system-reboot", &[]), EndReason::Reboot),
        (dying.rtas("ibm,os-term", &[text]), EndReason::Panic("the end".into())),
        (Program::new(), EndReason::Budget),
    ];
    for (program, reason) in ends {
        let kernel = scratch.program(&program.spin());
        let budget = (reason == EndReason::Budget).then_some(100_000);
        let machine = machine_with(&kernel, scratch, 32 << 20, budget);
        machine.start().unwrap();
        assert_eq!(machine.wait(), reason);
    }
    let kernel = scratch.program(&Program::new().spin());
    let failed = machine(&kernel, scratch);
    failed.start().unwrap();
    failed.fail("as told".into());
    assert_eq!(failed.wait(), EndReason::Failed("as told".into()));
    // Neither started nor stopped.
    drop(machine(&kernel, scratch));
}

/// Linux stopped at moments of its boot; in the end it finds no root and panics.
fn stops_of_a_booting_kernel(kernel: &str, scratch: &Scratch) {
    const MEMORY: u64 = 64 << 20;
    for millions in [1, 3, 9] {
        let machine = machine_with(kernel, scratch, MEMORY, None);
        machine.start().unwrap();
        while machine.stats().vcpus.iter().filter_map(|vcpu| vcpu.instructions).sum::<u64>() < millions * 1_000_000 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let begun = Instant::now();
        machine.stop();
        assert_eq!(machine.wait(), EndReason::Stopped);
        assert!(begun.elapsed() < stop_limit(), "after {millions} million instructions: {:?}", begun.elapsed());
    }
    let machine = machine_with(kernel, scratch, MEMORY, None);
    machine.start().unwrap();
    let end = machine.wait();
    assert!(matches!(&end, EndReason::Panic(text) if text.contains("root")), "{end:?}");
}

/// One test, because it counts what the whole process has.
#[test]
fn machines_come_and_go_without_a_trace() {
    let scratch = Scratch::new("stop");
    // The boot CPU starts another that cedes for ever, and spins itself: one vCPU runs, one is ceded, one was never started.
    let program = Program::new().rtas("start-cpu", &[1, Program::CEDE_ENTRY, 0]).spin().cede_for_ever();
    let kernel = scratch.program(&program);
    // A first machine makes what a process has only once.
    machine(&kernel, &scratch).stop();
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    for round in 0..if is_checked() { CHECKED_ROUNDS } else { ROUNDS } {
        let machine = machine(&kernel, &scratch);
        if round % 5 != 4 {
            machine.start().unwrap();
        }
        // Different moments: at once, during start-up, long after.
        std::thread::sleep(Duration::from_micros(round * round % 37 * 300));
        if round % 3 == 1 {
            let _ = machine.pause();
        }
        let begun = Instant::now();
        let other = machine.clone();
        let waiter = std::thread::spawn(move || other.wait());
        machine.stop();
        assert_eq!(machine.wait(), EndReason::Stopped);
        assert_eq!(waiter.join().unwrap(), EndReason::Stopped);
        assert!(begun.elapsed() < stop_limit(), "round {round}: {:?}", begun.elapsed());
    }
    ends_of_its_own(&scratch);
    if let Ok(kernel) = std::env::var("PAPERBOAT_KERNEL") {
        stops_of_a_booting_kernel(&kernel, &scratch);
    }
    let settled = Arc::new(Instant::now());
    while count("/proc/self/task") > threads || count("/proc/self/fd") > descriptors {
        assert!(
            settled.elapsed() < Duration::from_secs(2),
            "threads {threads} → {}, descriptors {descriptors} → {}",
            count("/proc/self/task"),
            count("/proc/self/fd")
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!scratch.path("vsock").exists());
}
