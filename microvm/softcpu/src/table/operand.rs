//! Operand fields: where the names in a row's operand string stand in the word, and what they mean.
//!
//! Disassembler and test generator read and write instruction words through these.

use super::Row;

/// What the number in a field stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// General purpose register.
    Gpr,
    /// Even-numbered general purpose register of a pair.
    GprPair,
    /// Base register: 0 means the value zero.
    GprOrZero,
    /// Floating-point register.
    Fpr,
    /// Even-numbered floating-point register of a pair.
    FprPair,
    /// Vector register.
    Vr,
    /// Vector-scalar register.
    Vsr,
    /// Condition register field.
    CrField,
    /// Condition register bit.
    CrBit,
    /// Special purpose register number.
    Spr,
    /// Unsigned number.
    Unsigned,
    /// Signed number.
    Signed,
    /// Signed displacement in units of 2^shift bytes.
    Displacement {
        /// Log2 of the unit.
        shift: u32,
    },
    /// Signed branch target in words, relative unless AA (bit 30) is set.
    Target,
}

/// One operand field of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name in the operand string.
    pub name: &'static str,
    /// Meaning.
    pub kind: Kind,
    /// Bit ranges in the ISA's numbering, most significant first.
    pub parts: &'static [(u32, u32)],
}

impl Field {
    /// Width in bits.
    pub fn width(&self) -> u32 {
        self.parts.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The field's bits in `word`.
    pub fn get(&self, word: u32) -> u32 {
        self.parts
            .iter()
            .fold(0, |value, (first, last)| value << (last - first + 1) | word >> (31 - last) & mask(last - first + 1))
    }

    /// The field's bits in `word`, sign-extended.
    pub fn get_signed(&self, word: u32) -> i64 {
        let unused = 64 - self.width();
        (u64::from(self.get(word)) << unused) as i64 >> unused
    }

    /// `word` with the field set to `value`, truncated to its width.
    pub fn set(&self, word: u32, value: u32) -> u32 {
        let (mut word, mut rest) = (word, value);
        for (first, last) in self.parts.iter().rev() {
            let mask = mask(last - first + 1);
            word = word & !(mask << (31 - last)) | (rest & mask) << (31 - last);
            rest = rest.checked_shr(last - first + 1).unwrap_or(0);
        }
        word
    }
}

const fn mask(width: u32) -> u32 {
    ((1u64 << width) - 1) as u32
}

/// One operand as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A field by itself.
    Plain(Field),
    /// `displacement(base)`.
    Based(Field, Field),
}

/// The operands of a row in assembler order. A name this module does not know is left out, which a test rules out.
pub fn operands(row: &Row) -> Vec<Operand> {
    row.operands
        .split(',')
        .filter(|name| !name.is_empty())
        .filter_map(|name| match name.split_once('(') {
            None => field(row, name).map(Operand::Plain),
            Some((displacement, base)) => {
                Some(Operand::Based(field(row, displacement)?, field(row, base.trim_end_matches(')'))?))
            }
        })
        .collect()
}

/// All fields of a row.
pub fn fields(row: &Row) -> Vec<Field> {
    operands(row)
        .into_iter()
        .flat_map(|operand| match operand {
            Operand::Plain(field) => vec![field],
            Operand::Based(displacement, base) => vec![displacement, base],
        })
        .collect()
}

/// The record bit of a row that has one: bit 21 in vector and VSX compares, bit 31 elsewhere.
pub fn record_bit(row: &Row) -> Option<u32> {
    row.has_rc.then_some(match row.encoding.value >> 26 {
        4 | 60 => 1 << (31 - 21),
        _ => 1,
    })
}

/// The overflow-enable bit of a row that has one, bit 21.
pub fn overflow_bit(row: &Row) -> Option<u32> {
    row.has_oe.then_some(1 << (31 - 21))
}

type Parts = &'static [(u32, u32)];

/// Fields whose place does not depend on the instruction (ISA 3.0B I 1.6.28 and the instruction pages).
const FIELDS: &[(&str, Kind, Parts)] = &[
    ("RT", Kind::Gpr, &[(6, 10)]),
    ("RS", Kind::Gpr, &[(6, 10)]),
    ("RTp", Kind::GprPair, &[(6, 10)]),
    ("RSp", Kind::GprPair, &[(6, 10)]),
    ("RB", Kind::Gpr, &[(16, 20)]),
    ("RC", Kind::Gpr, &[(21, 25)]),
    ("FRT", Kind::Fpr, &[(6, 10)]),
    ("FRS", Kind::Fpr, &[(6, 10)]),
    ("FRTp", Kind::FprPair, &[(6, 10)]),
    ("FRSp", Kind::FprPair, &[(6, 10)]),
    ("FRAp", Kind::FprPair, &[(11, 15)]),
    ("FRBp", Kind::FprPair, &[(16, 20)]),
    ("FRA", Kind::Fpr, &[(11, 15)]),
    ("FRB", Kind::Fpr, &[(16, 20)]),
    ("FRC", Kind::Fpr, &[(21, 25)]),
    ("VRT", Kind::Vr, &[(6, 10)]),
    ("VRS", Kind::Vr, &[(6, 10)]),
    ("VRA", Kind::Vr, &[(11, 15)]),
    ("VRB", Kind::Vr, &[(16, 20)]),
    ("VRC", Kind::Vr, &[(21, 25)]),
    ("XA", Kind::Vsr, &[(29, 29), (11, 15)]),
    ("XB", Kind::Vsr, &[(30, 30), (16, 20)]),
    ("XC", Kind::Vsr, &[(28, 28), (21, 25)]),
    ("BF", Kind::CrField, &[(6, 8)]),
    ("BFA", Kind::CrField, &[(11, 13)]),
    ("BT", Kind::CrBit, &[(6, 10)]),
    ("BA", Kind::CrBit, &[(11, 15)]),
    ("BB", Kind::CrBit, &[(16, 20)]),
    ("BC", Kind::CrBit, &[(21, 25)]),
    ("BI", Kind::CrBit, &[(11, 15)]),
    ("BO", Kind::Unsigned, &[(6, 10)]),
    ("BH", Kind::Unsigned, &[(19, 20)]),
    ("TO", Kind::Unsigned, &[(6, 10)]),
    ("SI", Kind::Signed, &[(16, 31)]),
    ("UI", Kind::Unsigned, &[(16, 31)]),
    ("DS", Kind::Displacement { shift: 2 }, &[(16, 29)]),
    ("DQ", Kind::Displacement { shift: 4 }, &[(16, 27)]),
    ("LI", Kind::Target, &[(6, 29)]),
    ("BD", Kind::Target, &[(16, 29)]),
    ("NB", Kind::Unsigned, &[(16, 20)]),
    ("sh", Kind::Unsigned, &[(30, 30), (16, 20)]),
    ("mb", Kind::Unsigned, &[(26, 26), (21, 25)]),
    ("me", Kind::Unsigned, &[(26, 26), (21, 25)]),
    ("MB", Kind::Unsigned, &[(21, 25)]),
    ("ME", Kind::Unsigned, &[(26, 30)]),
    ("FXM", Kind::Unsigned, &[(12, 19)]),
    ("FLM", Kind::Unsigned, &[(7, 14)]),
    ("W", Kind::Unsigned, &[(15, 15)]),
    ("U", Kind::Unsigned, &[(16, 19)]),
    ("DRM", Kind::Unsigned, &[(18, 20)]),
    ("CT", Kind::Unsigned, &[(7, 10)]),
    ("TH", Kind::Unsigned, &[(6, 10)]),
    ("STRM", Kind::Unsigned, &[(9, 10)]),
    ("FC", Kind::Unsigned, &[(16, 20)]),
    ("EH", Kind::Unsigned, &[(31, 31)]),
    ("CY", Kind::Unsigned, &[(21, 22)]),
    ("LEV", Kind::Unsigned, &[(20, 26)]),
    ("DCM", Kind::Unsigned, &[(16, 21)]),
    ("DGM", Kind::Unsigned, &[(16, 21)]),
    ("SP", Kind::Unsigned, &[(11, 12)]),
    ("TE", Kind::Signed, &[(11, 15)]),
    ("WC", Kind::Unsigned, &[(9, 10)]),
    ("IH", Kind::Unsigned, &[(8, 10)]),
    ("RIC", Kind::Unsigned, &[(12, 13)]),
    ("PRS", Kind::Unsigned, &[(14, 14)]),
    ("SPR", Kind::Spr, &[(16, 20), (11, 15)]),
    ("TBR", Kind::Spr, &[(16, 20), (11, 15)]),
    ("SIM", Kind::Signed, &[(11, 15)]),
    ("SHB", Kind::Unsigned, &[(22, 25)]),
    ("ST", Kind::Unsigned, &[(16, 16)]),
    ("SIX", Kind::Unsigned, &[(17, 20)]),
    ("PS", Kind::Unsigned, &[(22, 22)]),
    ("DM", Kind::Unsigned, &[(22, 23)]),
    ("SHW", Kind::Unsigned, &[(22, 23)]),
    ("IMM8", Kind::Unsigned, &[(13, 20)]),
    ("EX", Kind::Unsigned, &[(31, 31)]),
];

fn field(row: &Row, name: &str) -> Option<Field> {
    if let Some((name, kind, parts)) = FIELDS.iter().find(|(known, _, _)| *known == name) {
        return Some(Field { name, kind: *kind, parts });
    }
    let (primary, in_dq) = (row.encoding.value >> 26, row.operands.contains("DQ("));
    let (name, kind, parts): (&'static str, Kind, Parts) = match name {
        "RA" => {
            // As a source of an address or of addi and isel, register 0 reads as zero.
            let indexed = primary == 31
                && ["l", "st", "dcb", "icb", "copy", "paste"].iter().any(|start| row.mnemonic.starts_with(start))
                && !row.mnemonic.ends_with("ux");
            let base = indexed || row.operands.contains("(RA)") || ["addi", "addis", "isel"].contains(&row.mnemonic);
            ("RA", if base { Kind::GprOrZero } else { Kind::Gpr }, &[(11, 15)])
        }
        "D" if row.mnemonic == "addpcis" => ("D", Kind::Signed, &[(16, 25), (11, 15), (31, 31)]),
        "D" => ("D", Kind::Displacement { shift: 0 }, &[(16, 31)]),
        "XT" | "XS" => {
            let name = if name == "XT" { "XT" } else { "XS" };
            (name, Kind::Vsr, if in_dq { &[(28, 28), (6, 10)] } else { &[(31, 31), (6, 10)] })
        }
        "S" if row.mnemonic == "rfebb" => ("S", Kind::Unsigned, &[(20, 20)]),
        "S" => ("S", Kind::Unsigned, &[(11, 11)]),
        "SH" if row.mnemonic.starts_with("dsc") => ("SH", Kind::Unsigned, &[(16, 21)]),
        "SH" => ("SH", Kind::Unsigned, &[(16, 20)]),
        "L" => match row.mnemonic {
            "darn" => ("L", Kind::Unsigned, &[(14, 15)]),
            "dcbf" | "sync" => ("L", Kind::Unsigned, &[(9, 10)]),
            "mtfsf" => ("L", Kind::Unsigned, &[(6, 6)]),
            "mtmsr" | "mtmsrd" => ("L", Kind::Unsigned, &[(15, 15)]),
            _ => ("L", Kind::Unsigned, &[(10, 10)]),
        },
        // tlbie; and the quad-precision round instructions.
        "R" => ("R", Kind::Unsigned, &[(15, 15)]),
        "RM" | "RMC" => match row.mnemonic {
            "mffscrni" => ("RM", Kind::Unsigned, &[(19, 20)]),
            _ => ("RMC", Kind::Unsigned, &[(21, 22)]),
        },
        "UIM" => match row.mnemonic {
            "dtstsfi" | "dtstsfiq" => ("UIM", Kind::Unsigned, &[(10, 15)]),
            "vsplth" => ("UIM", Kind::Unsigned, &[(13, 15)]),
            "vspltw" | "xxspltw" => ("UIM", Kind::Unsigned, &[(14, 15)]),
            _ if primary == 4 || row.mnemonic.starts_with("xx") => ("UIM", Kind::Unsigned, &[(12, 15)]),
            _ => ("UIM", Kind::Unsigned, &[(11, 15)]),
        },
        "DCMX" => {
            if row.mnemonic.starts_with("xv") {
                ("DCMX", Kind::Unsigned, &[(25, 25), (29, 29), (11, 15)])
            } else {
                ("DCMX", Kind::Unsigned, &[(9, 15)])
            }
        }
        _ => return None,
    };
    Some(Field { name, kind, parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::decode::all_ops;

    #[test]
    fn every_name_in_the_table_is_known() {
        for op in all_ops() {
            let row = op.row();
            let names = row.operands.split([',', '(', ')']).filter(|name| !name.is_empty()).count();
            assert_eq!(fields(row).len(), names, "{}: {}", row.mnemonic, row.operands);
        }
    }

    #[test]
    fn fields_and_fixed_bits_do_not_overlap() {
        for op in all_ops() {
            let row = op.row();
            let mut taken = row.encoding.mask;
            let flags = record_bit(row).into_iter().chain(overflow_bit(row)).map(|bit| ("flag", bit));
            // The low bit of a pair's number is zero, and some rows fix it.
            let ones = |kind| if matches!(kind, Kind::FprPair | Kind::GprPair) { !1 } else { u32::MAX };
            let fields = fields(row).into_iter().map(|field| (field.name, field.set(0, ones(field.kind))));
            for (name, bits) in flags.chain(fields) {
                assert_eq!(taken & bits, 0, "{}: {name} overlaps", row.mnemonic);
                taken |= bits;
            }
        }
    }

    #[test]
    fn what_is_set_is_read_back() {
        for op in all_ops() {
            for field in fields(op.row()) {
                let ones = field.set(0, u32::MAX);
                assert_eq!(ones.count_ones(), field.width());
                for value in [0, 1, mask(field.width()) >> 1, mask(field.width())] {
                    assert_eq!(field.get(field.set(!ones, value)), value, "{}", field.name);
                }
                assert_eq!(field.get_signed(ones), -1);
            }
        }
    }
}
