//! The contract of the backends as a program: which hypercalls the backend serves and which leave it. Each call is made by a guest; what comes
//! out must be the same everywhere. Each backend's tests call [`check`].

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::{
    BackendError, ClockMode, EntryState, Exit, GuestRam, HypercallReply, InterruptMode, Presentation, RamError, ResizeError,
    Vcpu, Vm, VmConfig,
};

const MSR_SF: u64 = 1 << 63;
const MSR_ME: u64 = 1 << 12;
const MSR_LE: u64 = 1;
const MEMORY: u64 = 16 << 20;
/// Where program and calls stand.
const CODE: u64 = 0x1_0000;
const CALLS: u64 = 0x2_0000;
/// A call that nobody serves ends the program; it also shows that unknown ones leave the backend.
const END: u64 = 0x7ffc;
/// Doublewords of a call in the list.
const WORDS: usize = 10;
/// What the machine answers here.
const ANSWER: i64 = -42;

/// Makes each call of the list at r3 (ten doublewords: number, arguments) and puts r3 back where the number was. The number -1 ends the list.
const PROGRAM: [u32; 20] = [
    0x7c7e_1b78, // mr r30,r3
    0xe87e_0000, // 1: ld r3,0(r30)
    0x2c23_ffff, // cmpdi r3,-1
    0x4182_0038, // beq 2f
    0xe89e_0008, // ld r4,8(r30)
    0xe8be_0010, // ld r5,16(r30)
    0xe8de_0018, // ld r6,24(r30)
    0xe8fe_0020, // ld r7,32(r30)
    0xe91e_0028, // ld r8,40(r30)
    0xe93e_0030, // ld r9,48(r30)
    0xe95e_0038, // ld r10,56(r30)
    0xe97e_0040, // ld r11,64(r30)
    0xe99e_0048, // ld r12,72(r30)
    0x4400_0022, // sc 1
    0xf87e_0000, // std r3,0(r30)
    0x3bde_0050, // addi r30,r30,80
    0x4bff_ffc4, // b 1b
    0x3860_7ffc, // 2: li r3,0x7ffc
    0x4400_0022, // sc 1
    0x4bff_fff8, // b 2b
];

/// H_CEDE enables interrupts, and the decrementer is due: `lis r28,0x7fff; mtdec r28; rfid`.
const DECREMENTER: u64 = 0x900;
const DECREMENTER_HANDLER: [u32; 3] = [0x3f80_7fff, 0x7f96_03a6, 0x4c00_0024];

const H_SUCCESS: i64 = 0;
const H_PARAMETER: i64 = -4;
const H_NOT_FOUND: i64 = -7;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Served inside, with this status.
    Inside(i64),
    /// Served inside, with whatever the processor says.
    InsideAny,
    /// An exit.
    Outside,
    /// Served by whoever presents interrupts: with success inside, or an exit.
    Presented,
}
use Fate::{Inside, InsideAny, Outside, Presented};

/// LoPAR's name, number, first arguments, fate.
const TABLE: &[(&str, u64, &[u64], Fate)] = &[
    // One entry of the table: V and a key of our own; the real page 0, coherent, read and write.
    ("H_ENTER", 0x08, &[0, 0x918, 0x12_3001, 0x12], Inside(H_SUCCESS)),
    ("H_READ", 0x0c, &[0, 0x918], Inside(H_SUCCESS)),
    ("H_CLEAR_MOD", 0x10, &[0, 0x918], Inside(H_SUCCESS)),
    ("H_CLEAR_REF", 0x14, &[0, 0x918], Inside(H_SUCCESS)),
    ("H_PROTECT", 0x18, &[0, 0x918, 0], Inside(H_SUCCESS)),
    ("H_REMOVE", 0x04, &[0, 0x918], Inside(H_SUCCESS)),
    ("H_REMOVE again", 0x04, &[0, 0x918], Inside(H_NOT_FOUND)),
    ("H_REMOVE beyond the table", 0x04, &[0, 1 << 40], Inside(H_PARAMETER)),
    // 0b11 at the top: the end of the list.
    ("H_BULK_REMOVE", 0x124, &[0xc000_0000_0000_0000], Inside(H_SUCCESS)),
    ("H_PAGE_INIT", 0x2c, &[0, 0x3_0000, 0], Inside(H_SUCCESS)),
    ("H_RANDOM", 0x300, &[], Inside(H_SUCCESS)),
    ("H_PROD self", 0xe8, &[0], Inside(H_SUCCESS)),
    ("H_CEDE after H_PROD", 0xe0, &[], Inside(H_SUCCESS)),
    ("H_CONFER to all", 0xe4, &[u64::MAX, 0], Inside(H_SUCCESS)),
    ("H_REGISTER_VPA of nobody", 0xdc, &[1 << 45, 99, 0], Inside(H_PARAMETER)),
    ("H_SET_DABR", 0x28, &[0], InsideAny),
    ("H_SET_XDABR", 0x134, &[0, 0], InsideAny),
    ("H_SET_MODE of CIABR", 0x31c, &[0, 1, 0, 0], InsideAny),
    ("H_SET_MODE of DAWR0", 0x31c, &[0, 2, 0, 0], InsideAny),
    ("H_SET_MODE of AIL", 0x31c, &[3, 3, 0, 0], Outside),
    ("H_SET_MODE of the byte order", 0x31c, &[1, 4, 0, 0], Outside),
    ("H_GET_TCE", 0x1c, &[0x8000_0000, 0], Outside),
    ("H_PUT_TCE", 0x20, &[0x8000_0000, 0, 3], Outside),
    ("H_LOGICAL_CI_LOAD", 0x3c, &[4, 1 << 40], Outside),
    ("H_LOGICAL_CI_STORE", 0x40, &[4, 1 << 40, 0], Outside),
    ("H_LOGICAL_CACHE_LOAD", 0x44, &[4, 0x3_0000], Outside),
    ("H_LOGICAL_CACHE_STORE", 0x48, &[4, 0x3_0000, 0], Outside),
    ("H_LOGICAL_ICBI", 0x4c, &[0x3_0000], Outside),
    ("H_LOGICAL_DCBF", 0x50, &[0x3_0000], Outside),
    ("H_GET_TERM_CHAR", 0x54, &[0], Outside),
    ("H_PUT_TERM_CHAR", 0x58, &[0, 1, 0x4100_0000_0000_0000], Outside),
    ("H_EOI", 0x64, &[0xff00_0000], Presented),
    ("H_CPPR", 0x68, &[0], Presented),
    ("H_IPI", 0x6c, &[0, 0xff], Presented),
    ("H_IPOLL", 0x70, &[0], Presented),
    ("H_XIRR", 0x74, &[], Presented),
    // KVM leaves it out also where it presents.
    ("H_XIRR_X", 0xfc, &[0], Outside),
    ("H_STUFF_TCE", 0x138, &[0x8000_0000, 0, 3, 1], Outside),
    ("H_PUT_TCE_INDIRECT", 0x13c, &[0x8000_0000, 0, 0x3_0000, 1], Outside),
    ("H_GET_CPU_CHARACTERISTICS", 0x1c8, &[], Outside),
    ("H_JOIN", 0x298, &[], Outside),
    ("H_HOME_NODE_ASSOCIATIVITY", 0x2ec, &[1, 0], Outside),
    ("H_RESIZE_HPT_PREPARE", 0x36c, &[0, 18], Outside),
    ("H_RESIZE_HPT_COMMIT", 0x370, &[0, 18], Outside),
    ("H_REGISTER_PROC_TBL", 0x37c, &[0], Outside),
    ("H_SIGNAL_SYS_RESET", 0x380, &[0], Outside),
    ("H_RTAS", 0xf000, &[0x3_0000], Outside),
];

/// Why a backend breaks the contract, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Breach {
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Guest memory cannot be reached.
    #[error(transparent)]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A call did not become what it has to.
    #[error("{call}: {found}")]
    Call {
        /// LoPAR's name.
        call: &'static str,
        /// What became of it.
        found: String,
    },
    /// Something that is no hypercall, or one that no call explains.
    #[error("unexpected: {0}")]
    Exit(String),
}

/// A partition with the program in its memory.
struct Bench {
    vm: Arc<dyn Vm>,
    ram: GuestRam,
}

impl Bench {
    fn new(hpt_order: u32, presentation: Presentation, make: impl FnOnce(VmConfig) -> Arc<dyn Vm>) -> Result<Self, Breach> {
        let ram = GuestRam::new(MEMORY)?;
        let vm = make(VmConfig {
            ram: ram.clone(),
            vcpu_count: 1,
            hpt_order,
            clock: ClockMode::Host,
            budget_instructions: None,
            processor: Default::default(),
            threads_per_core: 1,
            presentation,
        });
        vm.set_interrupt_mode(InterruptMode { ail: None, little_endian: Some(true) })?;
        for (code, address) in [(&PROGRAM[..], CODE), (&DECREMENTER_HANDLER[..], DECREMENTER)] {
            let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
            ram.memory().write_slice(&bytes, GuestAddress(address))?;
        }
        Ok(Self { vm, ram })
    }

    /// Has `vcpu` make the calls; returns those that left the backend.
    fn make<'a>(
        &self,
        vcpu: &mut dyn Vcpu,
        calls: impl IntoIterator<Item = (u64, &'a [u64])>,
    ) -> Result<Vec<(u64, [u64; 9])>, Breach> {
        let mut address = CALLS;
        for (number, arguments) in calls {
            let mut words = [0; WORDS];
            words[0] = number;
            words[1..=arguments.len()].copy_from_slice(arguments);
            for word in words {
                self.ram.memory().write_obj(word.to_le(), GuestAddress(address))?;
                address += 8;
            }
        }
        self.ram.memory().write_obj(u64::MAX, GuestAddress(address))?;
        vcpu.enter(EntryState { pc: CODE, msr: MSR_SF | MSR_ME | MSR_LE, r3: CALLS, r4: 0 });
        exits(vcpu)
    }

    /// The status of a call that was made.
    fn status(&self, index: usize) -> Result<i64, Breach> {
        let place = GuestAddress(CALLS + (index * WORDS * 8) as u64);
        Ok(self.ram.memory().read_obj::<u64>(place).map(u64::from_le)? as i64)
    }
}

/// Makes every call of the table on a partition that `make` makes, whose interrupts are presented as `presentation` says.
///
/// # Errors
/// [`Breach`] names the first call that became something else.
pub fn check(presentation: Presentation, make: impl FnOnce(VmConfig) -> Arc<dyn Vm>) -> Result<(), Breach> {
    let bench = Bench::new(18, presentation, make)?;
    let mut vcpu = bench.vm.create_vcpu(0)?;
    let outside = bench.make(vcpu.as_mut(), TABLE.iter().map(|(_, number, arguments, _)| (*number, *arguments)))?;
    let mut outside = outside.iter().peekable();
    for (index, (call, number, arguments, expected)) in TABLE.iter().enumerate() {
        let status = bench.status(index)?;
        let came_out = outside.next_if(|(nr, args)| nr == number && args.starts_with(arguments)).is_some();
        let expected = match expected {
            Presented if bench.vm.interrupt_controller().is_some() => Inside(H_SUCCESS),
            Presented => Outside,
            fate => *fate,
        };
        let good = match expected {
            Outside | Presented => came_out && status == ANSWER,
            InsideAny => !came_out,
            Inside(wanted) => !came_out && status == wanted,
        };
        if !good {
            let way = if came_out { "left the backend" } else { "was served inside" };
            return Err(Breach::Call { call, found: format!("{way}, status {status}; the contract: {expected:?}") });
        }
    }
    match outside.next() {
        None => Ok(()),
        Some(exit) => Err(Breach::Exit(format!("{exit:x?}"))),
    }
}

/// Before and after a table of 2^20 bytes became one of 2^18: bolted entries of real page 0 in 256 MiB segments. The first one's place is
/// 0x1923 of 8192 groups, then 0x123 of 2048; the second has no bolted bit; the third would have the first one's place in the smaller table.
const BEFORE: &[(u64, &[u64])] = &[
    (H_ENTER, &[0, 0xc918, 0x192_3011, 0x12]),
    (H_ENTER, &[0, 0x4009, 0x80_0001, 0x12]),
    (H_ENTER, &[0, 0x918, 0x12_3011, 0x12]),
];
const AFTER: &[(u64, &[u64], i64)] =
    &[(H_REMOVE, &[0, 0x918], H_SUCCESS), (H_REMOVE, &[0, 0x9], H_NOT_FOUND), (H_REMOVE, &[0, 0xc918], H_PARAMETER)];
const H_REMOVE: u64 = 0x04;
const H_ENTER: u64 = 0x08;

/// What a backend promises of the page table's size: it is as the capabilities say, and a table that becomes smaller keeps its bolted entries,
/// each at its new place, or stays what it is if two have one. Returns whether the size can change.
///
/// # Errors
/// [`Breach`].
pub fn check_resizing(make: impl FnOnce(VmConfig) -> Arc<dyn Vm>) -> Result<bool, Breach> {
    let breach = |found: String| Breach::Call { call: "H_RESIZE_HPT", found };
    let bench = Bench::new(20, Presentation::Machine, make)?;
    let offered = bench.vm.capabilities().hpt_resize;
    let table = bench.vm.resizable_table();
    if offered != table.is_some() {
        return Err(breach(format!("offered: {offered}; there: {}", table.is_some())));
    }
    let Some(table) = table else { return Ok(false) };
    for (order, wanted) in [(17, false), (18, true), (19, true), (46, false), (47, false)] {
        if table.may_become(order) != wanted {
            return Err(breach(format!("a table of 2^20 bytes may become one of 2^{order}: {}", !wanted)));
        }
    }
    let mut vcpu = bench.vm.create_vcpu(0)?;
    bench.make(vcpu.as_mut(), BEFORE.iter().copied())?;
    for index in 0..BEFORE.len() {
        let status = bench.status(index)?;
        if status != H_SUCCESS {
            return Err(breach(format!("entry {index}: status {status}")));
        }
    }
    for (order, what) in [(47, "an impossible size"), (18, "two entries for one place")] {
        match (order, table.resize(order)) {
            (47, Err(ResizeError::Order { .. })) | (18, Err(ResizeError::Collision { .. })) => {}
            (_, became) => return Err(breach(format!("{what}: {became:?}"))),
        }
    }
    // The third goes, from the table that is still the larger one.
    bench.make(vcpu.as_mut(), [(H_REMOVE, &[0, 0x918][..])])?;
    table.resize(18).map_err(|error| breach(error.to_string()))?;
    let removed = bench.status(0)?;
    bench.make(vcpu.as_mut(), AFTER.iter().map(|(number, arguments, _)| (*number, *arguments)))?;
    for (index, (_, arguments, wanted)) in AFTER.iter().enumerate() {
        let status = bench.status(index)?;
        if status != *wanted || removed != H_SUCCESS {
            return Err(breach(format!("H_REMOVE {arguments:x?}: status {status}, not {wanted}; before: {removed}")));
        }
    }
    Ok(true)
}

/// Every call that leaves the backend, in order.
fn exits(vcpu: &mut dyn Vcpu) -> Result<Vec<(u64, [u64; 9])>, Breach> {
    let mut exits = Vec::new();
    loop {
        match vcpu.run()? {
            Exit::Hypercall { nr: END, .. } => return Ok(exits),
            Exit::Hypercall { nr, args } if exits.len() < TABLE.len() => exits.push((nr, args)),
            exit => return Err(Breach::Exit(format!("{exit:x?} at {:x?}", vcpu.regs()))),
        }
        vcpu.complete_hypercall(HypercallReply::status(ANSWER))?;
    }
}
