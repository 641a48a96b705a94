//! The disassembler, from the table's operand strings.

use std::fmt::Write;

use super::operand::{Field, Kind, Operand, operands, overflow_bit, record_bit};
use super::{Insn, decode};

/// AA: the branch target is absolute.
const ABSOLUTE: u32 = 0x2;

/// The instruction `word` as text, in the ISA's basic mnemonics; branch targets are resolved for an instruction at `address`.
pub fn disassemble(word: u32, address: u64) -> String {
    let Some(op) = decode::decode(Insn(word)) else {
        return format!(".long {word:#010x}");
    };
    let row = op.row();
    let mut text = row.mnemonic.to_owned();
    if overflow_bit(row).is_some_and(|bit| word & bit != 0) {
        text.push('o');
    }
    if record_bit(row).is_some_and(|bit| word & bit != 0) {
        text.push('.');
    }
    for (index, operand) in operands(row).into_iter().enumerate() {
        text.push(if index == 0 { ' ' } else { ',' });
        // Writing to a String cannot fail.
        let _ = match operand {
            Operand::Plain(field) => write!(text, "{}", show(field, word, address)),
            Operand::Based(displacement, base) => {
                write!(text, "{}({})", show(displacement, word, address), show(base, word, address))
            }
        };
    }
    text
}

fn show(field: Field, word: u32, address: u64) -> String {
    let value = field.get(word);
    match field.kind {
        Kind::GprOrZero if value == 0 => "0".to_owned(),
        Kind::Gpr | Kind::GprPair | Kind::GprOrZero => format!("r{value}"),
        Kind::Fpr | Kind::FprPair => format!("f{value}"),
        Kind::Vr => format!("v{value}"),
        Kind::Vsr => format!("vs{value}"),
        Kind::CrField => format!("cr{value}"),
        Kind::CrBit | Kind::Spr | Kind::Unsigned => value.to_string(),
        Kind::Signed => field.get_signed(word).to_string(),
        Kind::Displacement { shift } => (field.get_signed(word) << shift).to_string(),
        Kind::Target => {
            let base = if word & ABSOLUTE != 0 { 0 } else { address };
            format!("{:#x}", base.wrapping_add_signed(field.get_signed(word) << 2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_read_as_objdump_prints_them() {
        // Words and texts from binutils' disassembler (-M power9,raw), registers and CR fields spelled out.
        let known = [
            (0x3860_0007, "addi r3,0,7"),
            (0x3821_ffe0, "addi r1,r1,-32"),
            (0xe821_0010, "ld r1,16(r1)"),
            (0xf821_ffe1, "stdu r1,-32(r1)"),
            (0x7c08_02a6, "mfspr r0,8"),
            (0x7c63_1a15, "add. r3,r3,r3"),
            (0x7c63_1e14, "addo r3,r3,r3"),
            (0x7c63_1e15, "addo. r3,r3,r3"),
            (0x4e80_0020, "bclr 20,0,0"),
            (0x7863_f082, "rldicl r3,r3,62,2"),
            (0x5463_063e, "rlwinm r3,r3,0,24,31"),
            (0x2fa3_0000, "cmpi cr7,1,r3,0"),
            (0x4182_0010, "bc 12,2,0x1010"),
            (0x4bff_fffd, "bl 0xffc"),
            (0x4800_0102, "ba 0x100"),
            (0x7d20_00a6, "mfmsr r9"),
            (0x1022_1c84, "vor v1,v2,v3"),
            (0x1022_1c06, "vcmpequb. v1,v2,v3"),
            (0xf3ff_fcd7, "xxlxor vs63,vs63,vs63"),
            (0, ".long 0x00000000"),
        ];
        for (word, text) in known {
            assert_eq!(disassemble(word, 0x1000), text, "{word:#010x}");
        }
    }
}
