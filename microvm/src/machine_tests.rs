use super::hold::HOLD_ENTRY;
use super::*;
use crate::boot::BootFile;
use crate::boot::elf_for_tests;
use crate::papr::{hcall, rtas};
use paperboat_hypervisor::Exit;
use vm_memory::{Bytes, GuestAddress};

use crate::testing::{ScriptLog, ScriptedVm, Step, TestFunction};

const MEMORY: u64 = 32 << 20;

fn kernel_file(name: &str) -> BootFile {
    let path = std::env::temp_dir().join(format!("machine-test-{}-{name}", std::process::id()));
    const BASE: u64 = 0xc000_0000_0000_0000;
    let mut image = [0; 256];
    // The trap before the doubleword that releases the secondaries.
    image[0x34..0x38].copy_from_slice(&0x7fe0_0008_u32.to_le_bytes());
    std::fs::write(&path, elf_for_tests(true, 21, 2, BASE, &[(BASE, 0, &image, 0x1000)])).unwrap();
    let file = BootFile::open("kernel", path.to_str().unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

fn config(name: &str, vcpus: u32) -> MachineConfig {
    MachineConfig {
        source: BootSource { kernel: kernel_file(name), initrd: None, cmdline: "quiet".into(), load_address: None },
        topology: Topology { vcpus, threads_per_core: 1 },
        memory_bytes: MEMORY,
        clock: ClockMode::Host,
        budget_instructions: None,
        processor: Processor::Native,
        backing: Backing::Usual,
        presentation: Presentation::default(),
        dma: DmaPolicy::Identity,
        console: Console::in_memory(),
        trace: Trace::default(),
        give_up: GiveUp::default(),
    }
}

struct Made {
    machine: Machine,
    log: Arc<ScriptLog>,
    device: Arc<TestFunction>,
}

fn machine(name: &str, vcpus: u32, scripts: Vec<Vec<Step>>) -> Made {
    let vm = ScriptedVm::new(scripts);
    let log = Arc::clone(&vm.log);
    let device = Arc::new(TestFunction::new("t0"));
    let function = device.clone() as Arc<dyn PciFunction>;
    let machine = Machine::new(
        config(name, vcpus),
        Box::new(|_| Ok(ChosenVm { vm: Arc::new(vm), name: "scripted" })),
        Box::new(|_| Ok(vec![function])),
    );
    Made { machine: machine.unwrap(), log, device }
}

fn rtas_call(made: &Made, name: &str, args: &[u32]) -> Step {
    let token = rtas::CALLS.iter().find(|row| row.name == name).unwrap().token;
    let mut words = vec![token, args.len() as u32, 1];
    words.extend(args);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    // Each call has a buffer of its own: scripts are written before they run.
    let address = 0x10_0000 + u64::from(token & 0xff) * 0x100;
    made.machine.inner.platform.ram.memory().write_slice(&bytes, GuestAddress(address)).unwrap();
    Step::Exit(Exit::Hypercall { nr: 0xf000, args: [address, 0, 0, 0, 0, 0, 0, 0, 0] })
}

fn hypercall(name: &str, args: &[u64]) -> Step {
    let nr = hcall::CALLS.iter().find(|row| row.name == name).unwrap().token;
    let mut full = [0; 9];
    full[..args.len()].copy_from_slice(args);
    Step::Exit(Exit::Hypercall { nr, args: full })
}

/// Waits for `condition`, at most a few seconds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

#[test]
fn a_guest_that_powers_off_ends_the_machine() {
    let vm = ScriptedVm::new(vec![vec![
        hypercall("H_PUT_TERM_CHAR", &[0, 3, u64::from_be_bytes(*b"hi\n\0\0\0\0\0"), 0]),
        Step::Exit(Exit::Hypercall { nr: 0xf000, args: [0x10_0000, 0, 0, 0, 0, 0, 0, 0, 0] }),
    ]]);
    let log = Arc::clone(&vm.log);
    let machine = Machine::new(
        config("off", 1),
        Box::new(|_| Ok(ChosenVm { vm: Arc::new(vm), name: "scripted" })),
        Box::new(|_| Ok(Vec::new())),
    )
    .unwrap();
    let token = rtas::CALLS.iter().find(|row| row.name == "power-off").unwrap().token;
    let words: Vec<u8> = [token, 2, 1, 0, 0].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    machine.inner.platform.ram.memory().write_slice(&words, GuestAddress(0x10_0000)).unwrap();
    machine.start().unwrap();
    assert_eq!(machine.wait(), EndReason::PowerOff);
    assert_eq!(machine.status(), Status::Ended);
    assert_eq!(machine.console().tail_lines(1), ["hi"]);
    let entries = log.entries.lock().unwrap();
    let (id, entry) = entries[0];
    assert_eq!((id, entry.pc, entry.r4), (0, 0, 0));
    let mut magic = [0; 4];
    machine.inner.platform.ram.memory().read_slice(&mut magic, GuestAddress(entry.r3)).unwrap();
    assert_eq!(magic, [0xd0, 0x0d, 0xfe, 0xed], "r3 points at the tree");
    let stats = machine.stats();
    assert_eq!(stats.vcpus[0].exits["hypercall"], 2);
    assert_eq!(stats.vcpus[0].hypercalls["power-off"], 1);
    assert_eq!(stats.instructions(), Some(1000));
    assert!(stats.memory_resident_bytes > 0);
}

#[test]
fn stop_ends_every_thread_within_a_second() {
    let made = machine("stop", 4, Vec::new());
    made.machine.start().unwrap();
    let begun = Instant::now();
    made.machine.stop();
    assert_eq!(made.machine.wait(), EndReason::Stopped);
    assert!(begun.elapsed() < STOP_LIMIT);
    assert!(made.device.shut_down.load(Ordering::SeqCst));
    made.machine.stop();
    made.machine.fail("too late".into());
    assert_eq!(made.machine.wait(), EndReason::Stopped, "the first reason stays");
}

#[test]
fn a_machine_that_never_ran_can_be_stopped() {
    let made = machine("never", 2, Vec::new());
    made.machine.stop();
    assert_eq!(made.machine.wait(), EndReason::Stopped);
    assert!(made.device.shut_down.load(Ordering::SeqCst));
    assert!(matches!(made.machine.start(), Err(MachineError::State { status: Status::Ended })));
}

#[test]
fn pause_stands_still_and_resume_goes_on() {
    let made = machine("pause", 1, Vec::new());
    assert!(matches!(made.machine.pause(), Err(MachineError::State { status: Status::New })));
    made.machine.start().unwrap();
    assert!(matches!(made.machine.start(), Err(MachineError::State { status: Status::Running })));
    assert!(matches!(made.machine.resume(), Err(MachineError::State { status: Status::Running })));
    eventually("running", || made.log.runs.load(Ordering::SeqCst) > 0);
    made.machine.pause().unwrap();
    made.machine.pause().unwrap();
    let runs = made.log.runs.load(Ordering::SeqCst);
    made.machine.inner.kick_all();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(made.log.runs.load(Ordering::SeqCst), runs, "nothing runs while paused");
    made.machine.resume().unwrap();
    eventually("running again", || made.log.runs.load(Ordering::SeqCst) > runs);
    made.machine.pause().unwrap();
    made.machine.stop();
    assert_eq!(made.machine.wait(), EndReason::Stopped, "a paused machine can be stopped");
}

#[test]
fn a_failure_of_the_backend_ends_with_its_text() {
    let made = machine("failed", 1, vec![vec![Step::Exit(Exit::Failed { reason: "no such instruction".into() })]]);
    made.machine.start().unwrap();
    assert_eq!(made.machine.wait(), EndReason::Failed("vCPU 0: no such instruction".into()));
}

#[test]
fn a_panic_without_text_is_explained_by_the_console() {
    let made = machine("panic", 1, Vec::new());
    let inner = &made.machine.inner;
    let explained = || inner.with_panic_text(EndReason::Panic(String::new()));
    assert_eq!(explained(), EndReason::Panic("no reason given".into()));
    inner.console.write(b"[ 1.0] Kernel panic - not syncing: first\n[ 2.0] Kernel panic - not syncing: no init\nCall Trace:\n");
    assert_eq!(explained(), EndReason::Panic("Kernel panic - not syncing: no init".into()));
    let given = EndReason::Panic("given".into());
    assert_eq!(inner.with_panic_text(given.clone()), given);
    assert_eq!(inner.with_panic_text(EndReason::Reboot), EndReason::Reboot);
    made.machine.stop();
}

#[test]
fn the_budget_ends_the_machine() {
    let made = machine("budget", 1, vec![vec![Step::Exit(Exit::Budget)]]);
    made.machine.start().unwrap();
    assert_eq!(made.machine.wait(), EndReason::Budget);
}

#[test]
fn secondaries_enter_the_hold_loop_when_it_opens() {
    let made = machine("hold", 3, Vec::new());
    made.machine.start().unwrap();
    eventually("the boot CPU", || made.log.entries.lock().unwrap().len() == 1);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(made.log.entries.lock().unwrap().len(), 1, "only the boot CPU runs at first");
    made.machine.inner.platform.ram.memory().write_obj(0x1234_u64, GuestAddress(0x38)).unwrap();
    eventually("secondaries", || made.log.entries.lock().unwrap().len() == 3);
    let mut entries = made.log.entries.lock().unwrap().clone();
    entries.sort_by_key(|(id, _)| *id);
    for (id, entry) in &entries[1..] {
        assert_eq!((entry.pc, entry.r3), (HOLD_ENTRY, u64::from(*id)));
    }
    made.machine.stop();
    made.machine.wait();
}

#[test]
fn a_cpu_that_stops_itself_waits_for_start_cpu() {
    let made = machine("again", 2, vec![vec![], vec![]]);
    let stop = rtas_call(&made, "stop-self", &[]);
    made.log.scripts.lock().unwrap()[1].lock().unwrap().push_back(stop);
    let cpus = &made.machine.inner.platform.cpus;
    made.machine.start().unwrap();
    let entry = EntryState { pc: 0x4000, msr: 0, r3: 7, r4: 0 };
    cpus.start(1, entry).unwrap();
    let entered = || made.log.entries.lock().unwrap().iter().filter(|seen| **seen == (1, entry)).count();
    eventually("stopped itself", || entered() == 1 && cpus.state(1) == Some(crate::papr::cpus::CpuState::Stopped));
    cpus.start(1, entry).unwrap();
    eventually("started again", || entered() == 2);
    made.machine.stop();
    made.machine.wait();
}

#[test]
fn mmio_reaches_devices() {
    let load = Step::Exit(Exit::MmioRead { addr: 0x2100_0000_0004, len: 4 });
    let store = Step::Exit(Exit::MmioWrite { addr: 0x2100_0000_0010, len: 2, data: [1, 2, 0, 0, 0, 0, 0, 0] });
    let made = machine("mmio", 1, vec![vec![load, store, Step::Spin]]);
    made.device.decode(true);
    made.machine.start().unwrap();
    eventually("the store", || made.device.last_bar_write().is_some());
    assert_eq!(made.device.last_bar_write(), Some((4, 0x10, vec![1, 2])));
    assert_eq!(made.log.loads.lock().unwrap()[0][..4], [4, 5, 6, 7]);
    made.machine.stop();
    made.machine.wait();
}

#[test]
fn a_system_reset_enters_the_vector_with_the_state_saved() {
    let made = machine("nmi", 1, vec![vec![hypercall("H_SIGNAL_SYS_RESET", &[u64::MAX]), Step::Spin]]);
    made.machine.start().unwrap();
    eventually("the vector", || made.log.entries.lock().unwrap().iter().any(|(_, entry)| entry.pc == 0x100));
    made.machine.stop();
    made.machine.wait();
}

#[test]
fn impossible_machines_are_one_clear_line() {
    let refused = |change: &dyn Fn(&mut MachineConfig)| {
        let mut config = config("refused", 1);
        change(&mut config);
        let vm = ScriptedVm::new(Vec::new());
        let made =
            Machine::new(config, Box::new(|_| Ok(ChosenVm { vm: Arc::new(vm), name: "scripted" })), Box::new(|_| Ok(Vec::new())));
        let text = made.err().unwrap().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    };
    assert!(refused(&|config| config.memory_bytes = 1 << 20).contains("at least 16 MiB"));
    assert!(refused(&|config| config.memory_bytes = 100 << 20).contains("next: 112 MiB"));
    assert!(refused(&|config| config.topology.vcpus = 0).contains("1 to 64"));
    assert!(refused(&|config| config.topology.vcpus = 10_000).contains("1 to 64"));
    assert!(refused(&|config| config.source.cmdline = "x".repeat(2048)).contains("2047"));
    assert!(
        refused(&|config| {
            config.topology.vcpus = 2;
            config.clock = ClockMode::Deterministic;
        })
        .contains("one CPU")
    );
}

#[test]
fn the_hash_table_grows_with_memory() {
    assert_eq!(hpt_order(16 << 20), 18);
    assert_eq!(hpt_order(512 << 20), 22);
    assert_eq!(hpt_order(513 << 20), 23);
    assert_eq!(hpt_order(8 << 30), 26);
}

/// A device may wait for the host at its end: for a share whose server is away, say. Whoever asks the machine is answered meanwhile.
#[test]
fn a_device_that_takes_long_to_end_keeps_nobody_from_asking() {
    let made = machine("held", 1, vec![vec![]]);
    let held = made.device.held.lock().unwrap();
    made.machine.start().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let over = tell.clone();
    made.machine.when_over(Box::new(move |reason| over.send(format!("over: {reason:?}")).unwrap()));
    let asking = made.machine.clone();
    std::thread::spawn(move || {
        asking.stop();
        eventually("its thread leaves", || asking.inner.lock().devices == Devices::GoingDown);
        asking.stop();
        let refused = (asking.pause().is_err(), asking.resume().is_err(), asking.start().is_err());
        tell.send(format!("{:?} {refused:?}", asking.status())).unwrap();
    });
    let limit = Duration::from_secs(20);
    assert_eq!(told.recv_timeout(limit).unwrap(), "Ended (true, true, true)", "the end itself is told later");
    drop(held);
    assert_eq!(told.recv_timeout(limit).unwrap(), "over: Stopped");
    assert_eq!(made.machine.wait(), EndReason::Stopped);
    let (tell, told) = std::sync::mpsc::channel();
    made.machine.when_over(Box::new(move |reason| tell.send(reason).unwrap()));
    assert_eq!(told.recv_timeout(limit).unwrap(), EndReason::Stopped, "who asks later is told at once");
}
