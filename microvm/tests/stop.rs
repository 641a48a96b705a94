//! Stopping in every state, many times: every thread ends within a second, nothing is left behind.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Program, Scratch};
use paperboat_hypervisor::{ClockMode, Presentation, Processor};
use paperboat_microvm::backend::{BackendChoice, CpuTrace, create_vm};
use paperboat_microvm::boot::{BootFile, BootSource, Topology};
use paperboat_microvm::console::Console;
use paperboat_microvm::devices::{DeviceConfig, VsockConfig};
use paperboat_microvm::machine::{EndReason, Machine, MachineConfig, STOP_LIMIT};
use paperboat_microvm::papr::phb::DmaPolicy;
use paperboat_microvm::papr::trace::Trace;

const ROUNDS: u64 = 60;

fn machine(kernel: &str, scratch: &Scratch) -> Machine {
    let config = MachineConfig {
        source: BootSource {
            kernel: BootFile::open("kernel", kernel).unwrap(),
            initrd: None,
            cmdline: String::new(),
            load_address: None,
        },
        topology: Topology::new(3, 1).unwrap(),
        memory_bytes: 32 << 20,
        clock: ClockMode::Host,
        budget_instructions: None,
        processor: Processor::Native,
        presentation: Presentation::default(),
        dma: DmaPolicy::Identity,
        console: Console::in_memory(),
        trace: Trace::default(),
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
        Box::new(|config| create_vm(BackendChoice::Soft, config, CpuTrace::default())),
        Box::new(|ram| devices.make(ram)),
    )
    .unwrap()
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
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
    for round in 0..ROUNDS {
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
        assert!(begun.elapsed() < STOP_LIMIT, "round {round}: {:?}", begun.elapsed());
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
