//! Registers and translations as text.

use std::fmt::Write;

use crate::exec::{Cpu, SPRS, sprn};
use crate::mmu::{TranslationContext, explain};
use crate::table::{Insn, disasm};

/// The state of a vCPU: where it is, its registers, and how PC and DAR translate.
pub fn dump(cpu: &Cpu) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_dump(cpu, &mut text);
    text
}

fn write_dump(cpu: &Cpu, out: &mut String) -> std::fmt::Result {
    let st = &cpu.st;
    writeln!(out, "vCPU {} after {} instructions", cpu.id, cpu.instructions)?;
    if let Ok(translation) = cpu.storage.translate_fetch(st.pc) {
        let word = cpu.storage.ram().load::<4>(translation.ra & !3) as u32;
        let word = if cpu.storage.little_endian() { word } else { word.swap_bytes() };
        writeln!(out, "at {:016x}: {:08x}  {}", st.pc, word, disasm::disassemble(Insn(word).0, st.pc))?;
    }
    writeln!(out, "pc {:016x}  msr {:016x}  lr {:016x}  ctr {:016x}", st.pc, st.msr, st.lr, st.ctr)?;
    writeln!(out, "cr {:08x}  xer {:016x}  fpscr {:016x}  dec {:08x}", st.cr, st.xer(), st.fpscr, cpu.dec())?;
    for row in 0..8 {
        for column in 0..4 {
            let n = row * 4 + column;
            write!(out, "r{n:<2} {:016x}{}", st.gpr[n], if column == 3 { "\n" } else { "  " })?;
        }
    }
    for row in SPRS.iter().filter(|row| cpu.spr[row.number] != 0) {
        writeln!(out, "{} {:016x}", row.name, cpu.spr[row.number])?;
    }
    let context = TranslationContext { relocate: st.msr & crate::exec::msr::IR != 0, ..cpu.storage.data_context() };
    writeln!(out, "pc: {}", explain(&context, &cpu.storage.slb, &cpu.shared.hpt, st.pc))?;
    let dar = cpu.spr[sprn::DAR];
    writeln!(out, "dar: {}", explain(&cpu.storage.data_context(), &cpu.storage.slb, &cpu.shared.hpt, dar))
}
