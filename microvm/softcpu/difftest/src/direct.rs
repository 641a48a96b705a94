//! The vector part alone, without fetching and blocks around it: useful while one of the two is in doubt.

use paperboat_softcpu::exec::DataMemory;
use paperboat_softcpu::mmu::Fault;
use paperboat_softcpu::state::State;
use paperboat_softcpu::table::{Insn, Op, decode};
use paperboat_softcpu::vector::{execute_float, execute_vmx, execute_vsx};

use crate::case::{Case, Endian, Ending, Outcome, SCRATCH_BYTES, Snapshot};
use crate::image::{MSR, MSR_LE, scratch_address};

struct Scratch {
    start: u64,
    bytes: [u8; SCRATCH_BYTES],
    endian: Endian,
}

impl Scratch {
    fn range(&self, ea: u64, size: u8) -> Result<std::ops::Range<usize>, Fault> {
        let at = ea.wrapping_sub(self.start);
        let end = at.checked_add(u64::from(size)).filter(|end| *end <= SCRATCH_BYTES as u64);
        match end {
            Some(end) => Ok(at as usize..end as usize),
            None => Err(Fault::DataSegment { ea }),
        }
    }
}

impl DataMemory for Scratch {
    fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault> {
        let mut bytes = self.bytes[self.range(ea, size)?].to_vec();
        if self.endian == Endian::Little {
            bytes.reverse();
        }
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)))
    }

    fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault> {
        let range = self.range(ea, size)?;
        let mut bytes = value.to_be_bytes()[16 - usize::from(size)..].to_vec();
        if self.endian == Endian::Little {
            bytes.reverse();
        }
        self.bytes[range].copy_from_slice(&bytes);
        Ok(())
    }
}

/// Executes the cases of the floating-point, VMX and VSX classes; others do not run.
pub fn run(cases: &[Case], endian: Endian) -> Vec<Outcome> {
    cases.iter().enumerate().map(|(index, case)| run_one(case, index, endian)).collect()
}

fn run_one(case: &Case, index: usize, endian: Endian) -> Outcome {
    let before = &case.before;
    let mut state = State {
        gpr: before.gpr,
        vsr: before.vsr,
        cr: before.cr,
        fpscr: before.fpscr,
        vscr: before.vscr,
        msr: MSR | if endian == Endian::Little { MSR_LE } else { 0 },
        so: before.xer & 0x8000_0000 != 0,
        ov: before.xer & 0x4000_0000 != 0,
        ca: before.xer & 0x2000_0000 != 0,
        ov32: before.xer & 0x8_0000 != 0,
        ca32: before.xer & 0x4_0000 != 0,
        xer_count: (before.xer & 0x7f) as u8,
        ..State::default()
    };
    let mut memory = Scratch { start: scratch_address(index), bytes: before.scratch, endian };
    let insn = Insn(case.word);
    let result = match decode(insn) {
        Some(Op::Float(op)) => execute_float(op, insn, &mut state, &mut memory),
        Some(Op::Vmx(op)) => execute_vmx(op, insn, &mut state, &mut memory),
        Some(Op::Vsx(op)) => execute_vsx(op, insn, &mut state, &mut memory),
        _ => return Outcome { ending: Ending::NotRun, after: Snapshot::default() },
    };
    let ending = match result {
        Ok(()) => Ending::Completed,
        Err(Fault::Alignment { .. }) => Ending::Signal(7),
        Err(_) => Ending::Signal(11),
    };
    let after = Snapshot {
        gpr: state.gpr,
        vsr: state.vsr,
        lr: before.lr,
        ctr: before.ctr,
        cr: state.cr,
        xer: before.xer,
        fpscr: state.fpscr,
        vscr: state.vscr,
        scratch: memory.bytes,
    };
    Outcome { ending, after }
}
