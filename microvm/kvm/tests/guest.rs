//! KVM itself, with guests of a few instructions. Needs a POWER host with /dev/kvm; `cargo xtask lab test` runs it in the lab.
#![cfg(target_arch = "powerpc64")]
#![allow(unsafe_code, reason = "guest code and register checks in assembly")]

#[path = "guest/code.rs"]
mod code;
#[path = "guest/host_registers.rs"]
mod host_registers;
#[path = "guest/kernel_interrupts.rs"]
mod kernel_interrupts;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use code::{Guest, data};
use paperboat_hypervisor::{
    BackendError, Exit, HypercallReply, InterruptMode, Presentation, Processor, Vcpu, VcpuHandle, VmConfig, contract,
};

/// Any call that the kernel does not serve.
const REPORT: u64 = 0x1c8;

/// A guest that hangs is kicked after this long; where it was is in the failure then.
const HANG: Duration = Duration::from_secs(20);

fn hypercall(vcpu: &mut dyn Vcpu) -> (u64, [u64; 9]) {
    let handle = vcpu.handle();
    let (done, over) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if over.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            handle.kick();
        }
    });
    let exit = vcpu.run().unwrap();
    drop(done);
    watchdog.join().unwrap();
    match exit {
        Exit::Hypercall { nr, args } => (nr, args),
        exit => panic!("{exit:?}\n{:x?}", vcpu.regs()),
    }
}

fn answer(vcpu: &mut dyn Vcpu, status: i64) {
    vcpu.complete_hypercall(HypercallReply::status(status)).unwrap();
}

/// Does `act` a moment later, on another thread.
fn later(act: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        act();
    })
}

#[test]
fn hypercalls_carry_arguments_and_take_answers() {
    let guest = Guest::new(code::echo(), 1);
    let mut vcpu = guest.enter(0);
    assert_eq!(hypercall(vcpu.as_mut()), (REPORT, [4, 5, 6, 7, 8, 9, 10, 11, 12]));
    assert!(matches!(vcpu.run(), Err(BackendError::Protocol { .. })), "an answer is owed");
    assert!(matches!(vcpu.complete_mmio_read([0; 8]), Err(BackendError::Protocol { .. })));
    vcpu.complete_hypercall(HypercallReply::with(-4, &[40, 50])).unwrap();
    assert!(matches!(vcpu.complete_hypercall(HypercallReply::status(0)), Err(BackendError::Protocol { .. })));
    // What was not answered kept its value; the status came into r3, which the guest moved to r4.
    assert_eq!(hypercall(vcpu.as_mut()), (REPORT, [(-4_i64) as u64, 40, 50, 7, 8, 9, 10, 11, 12]));
    answer(vcpu.as_mut(), 0);
}

#[test]
fn registers_are_what_was_set_also_with_an_answer_under_way() {
    let guest = Guest::new(code::echo(), 1);
    let mut vcpu = guest.enter(0);
    hypercall(vcpu.as_mut());
    vcpu.complete_hypercall(HypercallReply::with(7, &[70])).unwrap();
    let mut regs = vcpu.regs();
    assert_eq!((regs.gpr[3], regs.gpr[4], regs.gpr[5]), (7, 70, 5));
    (regs.gpr[3], regs.gpr[10], regs.lr, regs.ctr) = (33, 100, 0x1234, 0x5678);
    (regs.srr0, regs.dar, regs.dsisr, regs.sprg, regs.cr) = (0x9000, 0xdead_beef, 0x4000_0000, [1, 2, 3, 4], 0x1234_5678);
    vcpu.set_regs(&regs);
    assert_eq!(vcpu.regs(), regs);
    let (_, args) = hypercall(vcpu.as_mut());
    assert_eq!((args[0], args[6]), (33, 100));
    answer(vcpu.as_mut(), 0);

    // A new entry finds nothing of the old life.
    vcpu.enter(guest.entry(0));
    let regs = vcpu.regs();
    assert_eq!((regs.gpr[3], regs.gpr[10], regs.lr, regs.pc), (data(0), 0, 0, code::BASE));
    assert_eq!(hypercall(vcpu.as_mut()).1[0], 4);
}

#[test]
fn the_hashed_page_table_is_served_in_the_kernel_and_translates() {
    let guest = Guest::new(code::mapped_access(), 1);
    let mut vcpu = guest.enter(0);
    // H_ENTER of a page outside memory succeeded; then a store through it leaves as MMIO.
    let Exit::MmioWrite { addr, len, data } = vcpu.run().unwrap() else { panic!("{:x?}", vcpu.regs()) };
    assert_eq!((addr, len, &data[..4]), (code::DEVICE + 8, 4, &0x1122_3344_u32.to_le_bytes()[..]));
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { addr: code::DEVICE + 16, len: 2 });
    vcpu.complete_mmio_read([0xcd, 0xab, 0, 0, 0, 0, 0, 0]).unwrap();
    // The same bytes read with their order reversed.
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { addr: code::DEVICE + 16, len: 2 });
    vcpu.complete_mmio_read([0xcd, 0xab, 0, 0, 0, 0, 0, 0]).unwrap();
    let (nr, args) = hypercall(vcpu.as_mut());
    assert_eq!((nr, args[0], args[1], args[2]), (REPORT, 0, 0xabcd, 0xcdab));
}

#[test]
fn an_external_interrupt_wakes_a_ceded_vcpu() {
    let guest = Guest::new(code::cede(), 1);
    let mut vcpu = guest.enter(0);
    let handle = vcpu.handle();
    for round in 1..=3 {
        let raise: Arc<dyn VcpuHandle> = Arc::clone(&handle);
        let thread = later(move || raise.set_external_interrupt(true));
        assert_eq!(hypercall(vcpu.as_mut()).1[0], 0x500, "round {round}: the handler's report");
        handle.set_external_interrupt(false);
        answer(vcpu.as_mut(), 0);
        thread.join().unwrap();
    }
    assert_eq!(handle.stats().interrupts.iter().sum::<u64>(), 3);
}

#[test]
fn a_kick_is_never_lost() {
    let guest = Guest::new(code::spin(), 1);
    let mut vcpu = guest.enter(0);
    let handle = vcpu.handle();
    handle.kick();
    assert_eq!(vcpu.run().unwrap(), Exit::Kicked, "before the run");
    for _ in 0..20 {
        let kick = Arc::clone(&handle);
        let thread = later(move || kick.kick());
        assert_eq!(vcpu.run().unwrap(), Exit::Kicked, "while the guest spins");
        thread.join().unwrap();
    }
    let guest = Guest::new(code::cede(), 1);
    let mut vcpu = guest.enter(0);
    let kick = vcpu.handle();
    let thread = later(move || kick.kick());
    assert_eq!(vcpu.run().unwrap(), Exit::Kicked, "while ceded");
    thread.join().unwrap();
}

#[test]
fn two_vcpus_share_memory_and_prod_each_other() {
    let guest = Guest::new(code::pair(), 2);
    let mut first = guest.enter(0);
    let mut second = guest.enter(1);
    // The second one cedes until the first one's H_PROD, then reports what the first one stored before.
    let waiting = std::thread::spawn(move || hypercall(second.as_mut()).1[0]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(hypercall(first.as_mut()).1[0], 0, "H_PROD succeeds");
    assert_eq!(waiting.join().unwrap(), 0x5151);
}

/// Hardware threads of each of the host's cores, whether they are switched on or not.
fn host_threads() -> usize {
    let cpus = std::fs::read_dir("/proc/device-tree/cpus").unwrap().flatten();
    // One cell for each (LoPAR C.6.2.2.1).
    let mut servers = cpus.filter_map(|cpu| std::fs::read(cpu.path().join("ibm,ppc-interrupt-server#s")).ok());
    servers.next().unwrap().len() / 4
}

#[test]
fn two_vcpus_share_a_core() {
    let share = |config| VmConfig { vcpu_count: 2, threads_per_core: 2, ..config };
    let power8 = Guest::new(code::spin(), 1).vm.capabilities().cpu_version == 0x0f00_0004;
    if power8 && host_threads() == 1 {
        let refused = Guest::try_with(code::pair(), code::accept(), share).err().unwrap().to_string();
        assert!(refused.contains("threads of a core") && refused.contains("POWER8"), "{refused}");
        return;
    }
    let guest = Guest::with(code::pair(), code::accept(), share);
    let mut first = guest.enter(0);
    let mut second = guest.enter(1);
    let waiting = std::thread::spawn(move || hypercall(second.as_mut()).1[0]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(hypercall(first.as_mut()).1[0], 0, "H_PROD of the other thread succeeds");
    assert_eq!(waiting.join().unwrap(), 0x5151);
}

#[test]
fn a_logical_power8_is_offered_and_runs() {
    let guest = Guest::with(code::count(), code::accept(), |config| VmConfig { processor: Processor::Power8, ..config });
    assert_eq!(guest.vm.capabilities().cpu_version, 0x0f00_0004);
    let mut vcpu = guest.enter(0);
    for round in 0..3 {
        assert_eq!(hypercall(vcpu.as_mut()).1[0], round);
        answer(vcpu.as_mut(), 0);
    }
}

/// Has `vcpu` run in a thread of its own; what comes back ends that.
fn spinning(mut vcpu: Box<dyn Vcpu>) -> impl FnOnce() {
    let handle = vcpu.handle();
    let thread = std::thread::spawn(move || assert_eq!(vcpu.run().unwrap(), Exit::Kicked));
    std::thread::sleep(Duration::from_millis(20));
    move || {
        handle.kick();
        thread.join().unwrap();
    }
}

#[test]
fn the_interrupt_mode_reaches_every_vcpu_even_one_that_runs() {
    let guest = Guest::new(code::spin(), 2);
    let end = spinning(guest.enter(0));
    for ail in [3, 0, 2] {
        guest.vm.set_interrupt_mode(InterruptMode { ail: Some(ail), little_endian: Some(true) }).unwrap();
        assert_eq!(guest.vm.interrupt_mode(), (ail, true));
    }
    assert!(guest.vm.set_interrupt_mode(InterruptMode { ail: Some(1), little_endian: None }).is_err());
    end();
}

#[test]
fn three_partitions_run_at_once() {
    let threads: Vec<_> = (0..3)
        .map(|number| {
            std::thread::spawn(move || {
                let guest = Guest::new(code::count(), 1);
                let mut vcpu = guest.enter(0);
                for round in 0..100 {
                    assert_eq!(hypercall(vcpu.as_mut()).1[0], round, "partition {number}");
                    answer(vcpu.as_mut(), 0);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn registers_of_the_host_and_of_the_guest_survive_the_run() {
    let guest = Guest::new(code::vectors(), 1);
    let mut vcpu = guest.enter(0);
    for round in 0..400 {
        let mut mismatch = u64::MAX;
        let changed = host_registers::check(|| {
            mismatch = hypercall(vcpu.as_mut()).1[0];
            answer(vcpu.as_mut(), 0);
        });
        assert_eq!(changed, 0, "round {round}: the host's f14 to f31 or v20 to v31 changed (bit mask)");
        assert_eq!(mismatch, 0, "round {round}: the guest's vector registers changed");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let guest = Guest::new(code::spin(), 1);
    let _vcpu = guest.enter(0);
    assert!(matches!(guest.vm.create_vcpu(0), Err(BackendError::Vcpu { id: 0, .. })));
    assert!(matches!(guest.vm.create_vcpu(1), Err(BackendError::Vcpu { id: 1, .. })));
}

#[test]
fn the_host_is_described() {
    let guest = Guest::new(code::spin(), 1);
    let offered = guest.vm.capabilities();
    assert!(offered.timebase_hz > 1_000_000, "{offered:?}");
    assert!(offered.slb_entries >= 32);
    let bases: Vec<u32> = offered.segment_page_sizes.iter().map(|row| row.base_shift).collect();
    assert!(bases.contains(&12) && bases.contains(&16), "{bases:?}");
    // Guest memory is backed by pages of 64 KiB: larger ones must not be offered.
    assert!(offered.segment_page_sizes.iter().flat_map(|row| &row.pages).all(|page| page.page_shift <= 16), "{offered:?}");
    // Every attribute byte is declared; transactional memory and radix are not offered.
    let features = &offered.pa_features;
    assert_eq!((features.len(), features[0], features[2 + 22], features[2 + 40]), (68, 66, 0, 0));
    assert!(paperboat_kvm::host::probe().unwrap().contains("hash guests"));
}

#[test]
fn who_serves_which_hypercall() {
    for presentation in [Presentation::Machine, Presentation::Backend] {
        let made = contract::check(presentation, |config| paperboat_kvm::create(config).unwrap());
        made.unwrap_or_else(|breach| panic!("{presentation:?}: {breach}"));
    }
}

#[test]
fn the_page_table_becomes_smaller() {
    let resizable = contract::check_resizing(|config| paperboat_kvm::create(config).unwrap());
    assert!(resizable.unwrap_or_else(|breach| panic!("{breach}")), "every KVM-HV since Linux 4.11 can");
}

#[test]
fn the_page_table_becomes_smaller_while_another_vcpu_runs() {
    let guest = Guest::with(code::spin(), code::external(), |config| VmConfig { vcpu_count: 2, hpt_order: 22, ..config });
    let end = spinning(guest.enter(0));
    let table = guest.vm.resizable_table().unwrap();
    for order in [21, 20, 19, 18] {
        table.resize(order).unwrap();
        assert!(!table.may_become(order) && table.resize(order).is_err(), "{order}");
    }
    end();
}

#[test]
fn the_translations_of_a_smaller_table_work() {
    let guest = Guest::with(code::bolted_access(), code::external(), |config| VmConfig { hpt_order: 20, ..config });
    let mut vcpu = guest.enter(0);
    for (round, order) in [18, 19].into_iter().enumerate() {
        // A store and a report, again and again.
        let Exit::MmioWrite { addr, .. } = vcpu.run().unwrap() else { panic!("{:x?}", vcpu.regs()) };
        assert_eq!(addr, code::DEVICE + 8);
        assert_eq!(hypercall(vcpu.as_mut()).1[0], 0, "H_ENTER succeeded");
        answer(vcpu.as_mut(), 0);
        assert_eq!(guest.vm.resizable_table().unwrap().resize(order).is_ok(), round == 0, "{order}");
    }
    assert!(matches!(vcpu.run().unwrap(), Exit::MmioWrite { .. }), "{:x?}", vcpu.regs());
}
