//! Guests of a few little-endian instructions, entered in real mode at [`BASE`] with their data's address in r3.

use std::arch::global_asm;
use std::sync::Arc;

use paperboat_hypervisor::{ClockMode, EntryState, GuestRam, InterruptMode, Presentation, Processor, Vcpu, Vm, VmConfig};
use paperboat_kvm::host::HostError;
use vm_memory::{Bytes, GuestAddress};

/// Where programs stand.
pub const BASE: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
/// Vectors of the external interrupt and of the decrementer, which is due whenever H_CEDE enables interrupts.
const EXTERNAL: u64 = 0x500;
const DECREMENTER: u64 = 0x900;
/// A real address outside memory, as `mapped_access` uses it.
pub const DEVICE: u64 = 0x1_0000_0000;
const MEMORY: u64 = 16 << 20;

const MSR_SF: u64 = 1 << 63;
const MSR_VEC: u64 = 1 << 25;
const MSR_VSX: u64 = 1 << 23;
const MSR_FP: u64 = 1 << 13;
const MSR_ME: u64 = 1 << 12;
const MSR_LE: u64 = 1;

/// Address of a vCPU's data.
pub fn data(id: u32) -> u64 {
    DATA + u64::from(id) * 0x1000
}

/// A partition with a program.
pub struct Guest {
    pub vm: Arc<dyn Vm>,
    pub ram: GuestRam,
}

impl Guest {
    /// One whose interrupts the test presents.
    pub fn new(program: &[u8], vcpu_count: u32) -> Self {
        Self::with(program, external(), |config| VmConfig { vcpu_count, presentation: Presentation::Machine, ..config })
    }

    /// One whose interrupts the kernel presents.
    pub fn with_controller(program: &[u8], vcpu_count: u32) -> Self {
        Self::with(program, accept(), |config| VmConfig { vcpu_count, presentation: Presentation::Backend, ..config })
    }

    /// `handler` stands at the vector of external interrupts.
    pub fn with(program: &[u8], handler: &[u8], change: impl FnOnce(VmConfig) -> VmConfig) -> Self {
        Self::try_with(program, handler, change).unwrap()
    }

    /// The same, where the host may refuse.
    pub fn try_with(program: &[u8], handler: &[u8], change: impl FnOnce(VmConfig) -> VmConfig) -> Result<Self, HostError> {
        let ram = GuestRam::new(MEMORY).unwrap();
        for (code, address) in [(program, BASE), (handler, EXTERNAL), (decrementer(), DECREMENTER)] {
            ram.memory().write_slice(code, GuestAddress(address)).unwrap();
        }
        let config = VmConfig {
            ram: ram.clone(),
            vcpu_count: 1,
            hpt_order: 18,
            clock: ClockMode::Host,
            budget_instructions: None,
            processor: Processor::Native,
            threads_per_core: 1,
            presentation: Presentation::Auto,
        };
        let vm = paperboat_kvm::create(change(config))?;
        vm.set_interrupt_mode(InterruptMode { ail: None, little_endian: Some(true) }).unwrap();
        Ok(Self { vm, ram })
    }

    pub fn entry(&self, id: u32) -> EntryState {
        let msr = MSR_SF | MSR_VEC | MSR_VSX | MSR_FP | MSR_ME | MSR_LE;
        EntryState { pc: BASE, msr, r3: data(id), r4: id.into() }
    }

    pub fn enter(&self, id: u32) -> Box<dyn Vcpu> {
        let mut vcpu = self.vm.create_vcpu(id).unwrap();
        vcpu.enter(self.entry(id));
        vcpu
    }
}

fn bytes(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels around one block of this program's read-only data, in this order.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// One 256 MiB segment at 0x10000000 with a VSID and 4 KiB pages; its first page is the device's, cache-inhibited and guarded. Primary hash =
/// VSID ^ page (ISA 3.0B III 5.7.8.3), eight entries a group, to whose first `ptex` leads; H_ENTER takes pteh = VSID << 12 | V, whose halves are
/// `high` and `low`, and ptel = RPN | I | G | PP 2. r20 gets its status, r11 the address.
macro_rules! map_device_page {
    () => {
        "
        .macro map_device_page ptex, high, low
        li 3, 8; li 4, 0; lis 5, 0; ori 5, 5, \\ptex
        lis 6, \\high; ori 6, 6, \\low
        li 7, 1; sldi 7, 7, 32; ori 7, 7, 0x2a
        sc 1
        mr 20, 3
        lis 8, 0x1800; ori 8, 8, 1
        lis 9, \\high; ori 9, 9, 0x3000
        slbmte 9, 8; isync
        mfmsr 10; ori 10, 10, 0x10; mtmsrd 10; isync
        lis 11, 0x1000
        .endm"
    };
}

macro_rules! programs {
    ($($name:ident $start:ident $end:ident $body:literal)*) => {
        unsafe extern "C" {
            $(static $start: u8; static $end: u8;)*
        }
        global_asm!(
            map_device_page!(), ".section .rodata", ".balign 16",
            $(
                concat!(".globl ", stringify!($start), ", ", stringify!($end)),
                concat!(stringify!($start), ":"), $body, concat!(stringify!($end), ":"),
            )*
            ".previous", ".purgem map_device_page"
        );
        $(
            pub fn $name() -> &'static [u8] {
                bytes(&raw const $start, &raw const $end)
            }
        )*
    };
}

programs! {
    echo echo_start echo_end "
        li 3, 0x1c8; li 4, 4; li 5, 5; li 6, 6; li 7, 7; li 8, 8; li 9, 9; li 10, 10; li 11, 11; li 12, 12
        sc 1
        # r3 status, r4 and r5 outputs: moved up by one.
        mr 6, 5; mr 5, 4; mr 4, 3; li 3, 0x1c8
        sc 1
        b ."

    spin spin_start spin_end "b ."

    count count_start count_end "
        li 14, 0
    1:  li 3, 0x1c8; mr 4, 14; sc 1
        addi 14, 14, 1
        b 1b"

    // H_CEDE enables external interrupts; the handler reports. `sc 1` itself takes SRR0 and SRR1.
    cede cede_start cede_end "
    1:  li 3, 0xe0; sc 1
        b 1b"

    external external_start external_end "
        mfsrr0 26; mfsrr1 27
        li 3, 0x1c8; li 4, 0x500; sc 1
        mtsrr0 26; mtsrr1 27
        rfid"

    // Lets every priority through, then sleeps between interrupts.
    listen listen_start listen_end "
        li 3, 0x68; li 4, 0xff; sc 1
    1:  li 3, 0xe0; sc 1
        b 1b"

    // H_XIRR, a report of what it said, H_EOI.
    accept accept_start accept_end "
        mfsrr0 26; mfsrr1 27
        li 3, 0x74; sc 1
        mr 25, 4
        li 3, 0x1c8; sc 1
        li 3, 0x64; mr 4, 25; sc 1
        mtsrr0 26; mtsrr1 27
        rfid"

    // H_RTAS with the buffer that stands in the data, again and again; reports the hypercall's status.
    rtas rtas_start rtas_end "
        mr 15, 3
    1:  lis 3, 0; ori 3, 3, 0xf000; mr 4, 15; sc 1
        mr 4, 3; li 3, 0x1c8; sc 1
        b 1b"

    decrementer decrementer_start decrementer_end "
        lis 28, 0x7fff; mtdec 28
        rfid"

    pair pair_start pair_end "
        cmpdi 4, 0
        bne 2f
        # The first: stores, then prods the second.
        li 5, 0x5151; lis 6, 2; std 5, 0x800(6); sync
        li 3, 0xe8; li 4, 1; sc 1
        mr 4, 3; li 3, 0x1c8; sc 1
        b .
        # The second: cedes, then reports.
    2:  lis 5, 0x7fff; mtdec 5
        li 3, 0xe0; sc 1
        lis 6, 2; ld 4, 0x800(6); li 3, 0x1c8; sc 1
        b ."

    // VSID 0x123: group 0x123 in every table.
    mapped_access mapped_start mapped_end "
        map_device_page 0x918, 0x12, 0x3001
        lis 12, 0x1122; ori 12, 12, 0x3344
        stw 12, 8(11)
        lhz 21, 16(11)
        li 13, 16; lhbrx 22, 11, 13
        li 3, 0x1c8; mr 4, 20; mr 5, 21; mr 6, 22
        sc 1
        b ."

    // VSID 0x1923, bolted: in a table of 2^20 bytes its group is 0x1923, in one of 2^18 bytes 0x123.
    bolted_access bolted_start bolted_end "
        map_device_page 0xc918, 0x192, 0x3011
    1:  stw 12, 8(11)
        li 3, 0x1c8; mr 4, 20; sc 1
        b 1b"

    // Every floating point and vector register gets a value of its own; after a report each must still have it. r16 counts differences.
    vectors vectors_start vectors_end "
        mr 15, 3
        li 14, 1
    1:  li 16, 0
        addi 17, 15, 0x100
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        addi 18, 14, \\n
        std 18, 0(17); addi 19, 18, 64; std 19, 8(17)
        lfd \\n, 0(17)
        lvx \\n, 0, 17
        .endr
        li 3, 0x1c8; mr 4, 20; sc 1
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        addi 18, 14, \\n
        stfd \\n, 0(17); ld 19, 0(17); xor 19, 19, 18; or 16, 16, 19
        stvx \\n, 0, 17; ld 19, 0(17); xor 19, 19, 18; or 16, 16, 19
        ld 19, 8(17); addi 18, 18, 64; xor 19, 19, 18; or 16, 16, 19
        .endr
        mr 20, 16
        addi 14, 14, 100
        b 1b"
}
