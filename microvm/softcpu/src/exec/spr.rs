//! Special purpose registers: one table of number, name, who may read and write, and which bits a write changes.
//!
//! Most registers are storage for the guest: [`Sprs`]. Those with behaviour are marked in the table and served by [`read`] and
//! [`write`]. Registers of the hypervisor read and write as no operation from privileged state (ISA 3.0B III 4.4.4, LPCR\[EVIRT\] = 0).

use std::ops::{Index, IndexMut};

use super::interrupt::facility;
use super::{Cpu, Interrupt, Stop, program};

/// Who may touch a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Any state.
    All,
    /// Privileged state.
    Sup,
    /// The hypervisor: no operation from privileged state.
    Hyp,
    /// There is no such move.
    No,
}

/// What a register does beyond keeping its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Storage.
    Plain,
    /// XER, LR, CTR, TAR, VRSAVE: in [`crate::state::State`].
    Xer,
    /// Link register.
    Lr,
    /// Count register.
    Ctr,
    /// Target address register, behind FSCR\[TAR\].
    Tar,
    /// VRSAVE.
    Vrsave,
    /// Time base, its upper half, and what runs with it (PURR, SPURR, VTB).
    Timebase,
    /// Upper half of the time base.
    TimebaseUpper,
    /// Decrementer.
    Dec,
    /// Where the last taken branch was: in [`Cpu`].
    Cfar,
    /// DSCR from problem state, behind FSCR\[DSCR\].
    DscrUser,
    /// AMR from problem state, under UAMOR.
    AmrUser,
    /// AMR from privileged state, under AMOR.
    Amr,
    /// IAMR, under AMOR.
    Iamr,
    /// Another register's storage under a second number.
    Alias(u16),
    /// Upper half of another register.
    Upper(u16),
    /// PPR's high word as PPR32.
    Ppr32,
    /// Event-based branch registers, behind FSCR\[EBB\].
    Ebb,
    /// Sets bits.
    SetBits(u16),
    /// Clears bits.
    ClearBits(u16),
    /// Pending doorbells.
    Dpdes,
    /// Which thread of its core it is.
    Tir,
    /// Reads zero.
    Zero,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct SprRow {
    /// Number as in mtspr.
    pub number: u16,
    /// Name.
    pub name: &'static str,
    /// Who may read.
    pub read: Who,
    /// Who may write.
    pub write: Who,
    /// Bits that a write changes.
    pub mask: u64,
    /// Behaviour.
    pub kind: Kind,
}

const W: u64 = 0xffff_ffff;
const D: u64 = u64::MAX;

macro_rules! spr_table {
    ( $( $name:ident = $number:literal, $read:ident, $write:ident, $mask:expr, $kind:expr; )* ) => {
        /// Numbers by name.
        #[allow(missing_docs, reason = "the names are the ISA's")]
        pub mod number {
            $( pub const $name: u16 = $number; )*
        }

        /// The registers (ISA 3.0B III 4.4.4, figure "SPR encodings").
        pub static SPRS: &[SprRow] = &[
            $( SprRow { number: $number, name: stringify!($name), read: Who::$read, write: Who::$write, mask: $mask, kind: $kind }, )*
        ];
    };
}

use Kind::{Alias, ClearBits, Plain, SetBits, Upper};

spr_table! {
    XER = 1, All, All, D, Kind::Xer;
    DSCR_USER = 3, All, All, 0x1ff_ffff, Kind::DscrUser;
    LR = 8, All, All, D, Kind::Lr;
    CTR = 9, All, All, D, Kind::Ctr;
    AMR_USER = 13, All, All, D, Kind::AmrUser;
    DSCR = 17, Sup, Sup, 0x1ff_ffff, Plain;
    DSISR = 18, Sup, Sup, W, Plain;
    DAR = 19, Sup, Sup, D, Plain;
    DEC = 22, Sup, Sup, W, Kind::Dec;
    SRR0 = 26, Sup, Sup, D, Plain;
    SRR1 = 27, Sup, Sup, D, Plain;
    CFAR = 28, Sup, Sup, D, Kind::Cfar;
    AMR = 29, Sup, Sup, D, Kind::Amr;
    PIDR = 48, Sup, Sup, W, Plain;
    IAMR = 61, Sup, Sup, D, Kind::Iamr;
    CTRL_READ = 136, All, No, 0, Alias(152);
    TIDR = 144, Sup, Sup, 0xffff, Plain;
    CTRL = 152, No, Sup, 1, Plain;
    FSCR = 153, Sup, Sup, D, Plain;
    UAMOR = 157, Sup, Sup, D, Plain;
    GSR = 158, No, Sup, 0, Plain;
    PSPB = 159, Sup, Sup, W, Plain;
    DPDES = 176, Sup, Hyp, 0, Kind::Dpdes;
    DAWR0 = 180, Hyp, Hyp, D, Plain;
    RPR = 186, Hyp, Hyp, D, Plain;
    CIABR = 187, Hyp, Hyp, D, Plain;
    DAWRX0 = 188, Hyp, Hyp, D, Plain;
    HFSCR = 190, Hyp, Hyp, D, Plain;
    VRSAVE = 256, All, All, W, Kind::Vrsave;
    SPRG3_USER = 259, All, No, 0, Alias(275);
    TB = 268, All, No, 0, Kind::Timebase;
    TBU = 269, All, No, 0, Kind::TimebaseUpper;
    SPRG0 = 272, Sup, Sup, D, Plain;
    SPRG1 = 273, Sup, Sup, D, Plain;
    SPRG2 = 274, Sup, Sup, D, Plain;
    SPRG3 = 275, Sup, Sup, D, Plain;
    TBL_WRITE = 284, No, Hyp, 0, Plain;
    TBU_WRITE = 285, No, Hyp, 0, Plain;
    TBU40 = 286, No, Hyp, 0, Plain;
    PVR = 287, Sup, No, 0, Plain;
    HSPRG0 = 304, Hyp, Hyp, 0, Plain;
    HSPRG1 = 305, Hyp, Hyp, 0, Plain;
    HDSISR = 306, Hyp, Hyp, 0, Plain;
    HDAR = 307, Hyp, Hyp, 0, Plain;
    SPURR = 308, Sup, Hyp, 0, Kind::Timebase;
    PURR = 309, Sup, Hyp, 0, Kind::Timebase;
    HDEC = 310, Hyp, Hyp, 0, Plain;
    HRMOR = 313, Hyp, Hyp, 0, Plain;
    HSRR0 = 314, Hyp, Hyp, 0, Plain;
    HSRR1 = 315, Hyp, Hyp, 0, Plain;
    LPCR = 318, Hyp, Hyp, 0, Plain;
    LPIDR = 319, Hyp, Hyp, 0, Plain;
    HMER = 336, Hyp, Hyp, 0, Plain;
    HMEER = 337, Hyp, Hyp, 0, Plain;
    PCR = 338, Hyp, Hyp, 0, Plain;
    HEIR = 339, Hyp, Hyp, 0, Plain;
    AMOR = 349, Hyp, Hyp, 0, Plain;
    TIR = 446, Sup, No, 0, Kind::Tir;
    PTCR = 464, Hyp, Hyp, 0, Plain;
    // Performance monitor: kept, never counting. From problem state the counters are readable.
    SIER_USER = 768, All, No, 0, Alias(784);
    MMCR2_USER = 769, All, No, 0, Alias(785);
    MMCRA_USER = 770, All, No, 0, Alias(786);
    PMC1_USER = 771, All, No, 0, Alias(787);
    PMC2_USER = 772, All, No, 0, Alias(788);
    PMC3_USER = 773, All, No, 0, Alias(789);
    PMC4_USER = 774, All, No, 0, Alias(790);
    PMC5_USER = 775, All, No, 0, Alias(791);
    PMC6_USER = 776, All, No, 0, Alias(792);
    MMCR0_USER = 779, All, No, 0, Alias(795);
    SIAR_USER = 780, All, No, 0, Alias(796);
    SDAR_USER = 781, All, No, 0, Alias(797);
    MMCR1_USER = 782, All, No, 0, Alias(798);
    SIER = 784, Sup, Sup, D, Plain;
    MMCR2 = 785, Sup, Sup, D, Plain;
    MMCRA = 786, Sup, Sup, D, Plain;
    PMC1 = 787, Sup, Sup, W, Plain;
    PMC2 = 788, Sup, Sup, W, Plain;
    PMC3 = 789, Sup, Sup, W, Plain;
    PMC4 = 790, Sup, Sup, W, Plain;
    PMC5 = 791, Sup, Sup, W, Plain;
    PMC6 = 792, Sup, Sup, W, Plain;
    MMCR0 = 795, Sup, Sup, W, Plain;
    SIAR = 796, Sup, Sup, D, Plain;
    SDAR = 797, Sup, Sup, D, Plain;
    MMCR1 = 798, Sup, Sup, D, Plain;
    BESCRS = 800, All, All, D, SetBits(806);
    BESCRSU = 801, All, All, W, Upper(806);
    BESCRR = 802, All, All, D, ClearBits(806);
    BESCRRU = 803, All, All, W, Upper(806);
    EBBHR = 804, All, All, !3, Kind::Ebb;
    EBBRR = 805, All, All, D, Kind::Ebb;
    BESCR = 806, All, All, D, Kind::Ebb;
    // Reserved: reads zero, writes nothing (II 3.1).
    RESERVED_808 = 808, All, All, 0, Kind::Zero;
    RESERVED_809 = 809, All, All, 0, Kind::Zero;
    RESERVED_810 = 810, All, All, 0, Kind::Zero;
    RESERVED_811 = 811, All, All, 0, Kind::Zero;
    TAR = 815, All, All, D, Kind::Tar;
    ASDR = 816, Hyp, Hyp, 0, Plain;
    PSSCR_HV = 823, Hyp, Hyp, 0, Plain;
    IC = 848, Sup, Hyp, 0, Plain;
    VTB = 849, Sup, Hyp, 0, Kind::Timebase;
    LDBAR = 850, Hyp, Hyp, 0, Plain;
    MMCRC = 851, Hyp, Hyp, 0, Plain;
    PMSR = 853, Hyp, No, 0, Plain;
    PSSCR = 855, Sup, Sup, W, Plain;
    PPR = 896, All, All, 0x1c_0000_0000_0000, Plain;
    PPR32 = 898, All, All, 0x1c_0000, Kind::Ppr32;
    PIR = 1023, Sup, No, 0, Plain;
}

/// The registers that are plain storage, by number.
#[derive(Debug, Clone)]
pub struct Sprs {
    values: Box<[u64; 1024]>,
}

impl Sprs {
    /// At reset. AMOR is the hypervisor's and lets the partition use every key.
    pub(super) fn new() -> Self {
        let mut sprs = Self { values: Box::new([0; 1024]) };
        sprs[number::AMOR] = u64::MAX;
        sprs
    }
}

impl Index<u16> for Sprs {
    type Output = u64;

    #[inline(always)]
    fn index(&self, number: u16) -> &u64 {
        &self.values[usize::from(number & 0x3ff)]
    }
}

impl IndexMut<u16> for Sprs {
    #[inline(always)]
    fn index_mut(&mut self, number: u16) -> &mut u64 {
        &mut self.values[usize::from(number & 0x3ff)]
    }
}

/// The row of a number.
pub fn row(number: u16) -> Option<&'static SprRow> {
    SPRS.binary_search_by_key(&number, |row| row.number).ok().map(|i| &SPRS[i])
}

/// What an undefined or foreign register does (III 4.4.4): from problem state a program interrupt, privileged if the number's
/// SPR\[0\] bit says so; from privileged state nothing, except the four numbers that are illegal.
fn absent(cpu: &Cpu, number: u16) -> Result<(), Stop> {
    if cpu.problem_state() {
        return Err(if number & 0x10 != 0 { program::privileged() } else { program::illegal() });
    }
    if matches!(number, 0 | 4 | 5 | 6) { Err(program::illegal()) } else { Ok(()) }
}

fn facility_enabled(cpu: &Cpu, bit: u8) -> Result<(), Stop> {
    if cpu.problem_state() && cpu.spr[number::FSCR] >> bit & 1 == 0 {
        return Err(Stop::Interrupt(Interrupt::FacilityUnavailable(bit)));
    }
    Ok(())
}

/// The row if the move is permitted, `None` if it is a no operation.
fn permitted(cpu: &Cpu, number: u16, who: impl Fn(&SprRow) -> Who) -> Result<Option<&'static SprRow>, Stop> {
    let Some(row) = row(number) else {
        return absent(cpu, number).map(|()| None);
    };
    match who(row) {
        Who::All => Ok(Some(row)),
        Who::Sup if !cpu.problem_state() => Ok(Some(row)),
        Who::Sup => Err(program::privileged()),
        Who::Hyp | Who::No => absent(cpu, number).map(|()| None),
    }
}

/// mfspr: the value, or `None` when RT keeps its value.
pub(super) fn read(cpu: &mut Cpu, number: u16) -> Result<Option<u64>, Stop> {
    let Some(row) = permitted(cpu, number, |row| row.read)? else {
        return Ok(None);
    };
    Ok(Some(match row.kind {
        Kind::Plain | Kind::Amr | Kind::Iamr => cpu.spr[number],
        Kind::Xer => cpu.st.xer(),
        Kind::Lr => cpu.st.lr,
        Kind::Ctr => cpu.st.ctr,
        Kind::Vrsave => u64::from(cpu.st.vrsave),
        Kind::Timebase => cpu.timebase(),
        Kind::TimebaseUpper => cpu.timebase() >> 32,
        Kind::Dec => u64::from(cpu.dec()),
        Kind::Cfar => cpu.cfar,
        Kind::Tar => {
            facility_enabled(cpu, facility::TAR)?;
            cpu.st.tar
        }
        Kind::DscrUser => {
            facility_enabled(cpu, facility::DSCR)?;
            cpu.spr[self::number::DSCR]
        }
        Kind::AmrUser => cpu.spr[self::number::AMR],
        Kind::Alias(other) => cpu.spr[other],
        Kind::Ppr32 => cpu.spr[self::number::PPR] >> 32,
        Kind::Ebb => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[number]
        }
        Kind::SetBits(other) | Kind::ClearBits(other) => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[other]
        }
        Kind::Upper(other) => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[other] >> 32
        }
        Kind::Dpdes => u64::from(cpu.doorbell) << cpu.shared.thread_of(cpu.id),
        Kind::Tir => u64::from(cpu.shared.thread_of(cpu.id)),
        Kind::Zero => 0,
    }))
}

/// mtspr.
pub(super) fn write(cpu: &mut Cpu, number: u16, value: u64) -> Result<(), Stop> {
    let Some(row) = permitted(cpu, number, |row| row.write)? else {
        return Ok(());
    };
    let masked = |old: u64, mask: u64| old & !mask | value & mask;
    match row.kind {
        Kind::Plain => cpu.spr[number] = masked(cpu.spr[number] & row.mask, row.mask),
        Kind::Xer => cpu.st.set_xer(value),
        Kind::Lr => cpu.st.lr = value,
        Kind::Ctr => cpu.st.ctr = value,
        Kind::Vrsave => cpu.st.vrsave = value as u32,
        Kind::Dec => cpu.set_dec(value as u32),
        Kind::Cfar => cpu.cfar = value,
        Kind::Tar => {
            facility_enabled(cpu, facility::TAR)?;
            cpu.st.tar = value;
        }
        Kind::DscrUser => {
            facility_enabled(cpu, facility::DSCR)?;
            cpu.spr[self::number::DSCR] = value & row.mask;
        }
        Kind::AmrUser => {
            let mask = cpu.spr[self::number::UAMOR] & cpu.spr[self::number::AMOR];
            set_amr(cpu, masked(cpu.spr[self::number::AMR], if cpu.problem_state() { mask } else { D }));
        }
        Kind::Amr => set_amr(cpu, masked(cpu.spr[number], cpu.spr[self::number::AMOR])),
        Kind::Iamr => {
            cpu.spr[number] = masked(cpu.spr[number], cpu.spr[self::number::AMOR]);
            cpu.storage.set_iamr(cpu.spr[number]);
        }
        Kind::Ppr32 => cpu.spr[self::number::PPR] = (value & row.mask) << 32,
        Kind::Ebb => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[number] = value & row.mask;
        }
        Kind::SetBits(other) => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[other] |= value;
        }
        Kind::ClearBits(other) => {
            facility_enabled(cpu, facility::EBB)?;
            cpu.spr[other] &= !value;
        }
        Kind::Upper(other) => {
            facility_enabled(cpu, facility::EBB)?;
            let bits = value << 32;
            if number == self::number::BESCRSU { cpu.spr[other] |= bits } else { cpu.spr[other] &= !bits }
        }
        Kind::Timebase | Kind::TimebaseUpper | Kind::Alias(_) | Kind::Dpdes | Kind::Tir | Kind::Zero => {}
    }
    Ok(())
}

fn set_amr(cpu: &mut Cpu, value: u64) {
    cpu.spr[number::AMR] = value;
    cpu.storage.set_amr(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_by_number() {
        assert!(SPRS.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(SPRS.iter().all(|row| row.number < 1024));
    }

    #[test]
    fn privileged_numbers_have_spr0_set() {
        // III 4.4.4: SPR[0] tells privileged registers apart, so that even an undefined number can be judged.
        for row in SPRS.iter().filter(|row| matches!(row.read, Who::Sup)) {
            assert!(row.number & 0x10 != 0, "{}", row.name);
        }
    }
}
