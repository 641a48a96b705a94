//! From an instruction word to its row, in two levels: primary opcode, then bits 21 to 31.
//!
//! The index is built once from the rows. A cell of the second level names the rows whose fixed bits agree with it in bits 21 to
//! 31, most specific first; nearly every cell holds one or none, so decoding is two loads and one comparison.

use std::sync::OnceLock;

use super::{BranchOp, FixedOp, FloatOp, Insn, Op, Row, SystemOp, VmxOp, VsxOp};

const PRIMARY_COUNT: usize = 64;
const LOW_BITS: u32 = 0x7ff;
const CELLS: usize = LOW_BITS as usize + 1;

/// A run of candidates: first index and count.
#[derive(Clone, Copy, Default)]
struct Cell {
    first: u32,
    count: u32,
}

struct Index {
    cells: Box<[Cell]>,
    candidates: Vec<(Op, &'static Row)>,
}

/// Every instruction of the table, class after class.
pub fn all_ops() -> impl Iterator<Item = Op> {
    FixedOp::ALL
        .iter()
        .map(|op| Op::Fixed(*op))
        .chain(BranchOp::ALL.iter().map(|op| Op::Branch(*op)))
        .chain(SystemOp::ALL.iter().map(|op| Op::System(*op)))
        .chain(FloatOp::ALL.iter().map(|op| Op::Float(*op)))
        .chain(VmxOp::ALL.iter().map(|op| Op::Vmx(*op)))
        .chain(VsxOp::ALL.iter().map(|op| Op::Vsx(*op)))
}

impl Index {
    fn build() -> Self {
        let mut by_primary: Vec<Vec<(Op, &'static Row)>> = vec![Vec::new(); PRIMARY_COUNT];
        for op in all_ops() {
            let row = op.row();
            by_primary[(row.encoding.value >> 26) as usize].push((op, row));
        }
        let mut cells = vec![Cell::default(); PRIMARY_COUNT * CELLS];
        let mut candidates: Vec<(Op, &'static Row)> = Vec::new();
        for (primary, rows) in by_primary.iter_mut().enumerate() {
            // The row with more fixed bits is meant where two fit.
            rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.encoding.mask.count_ones()));
            for low in 0..CELLS {
                let first = candidates.len();
                candidates.extend(rows.iter().filter(|(_, row)| {
                    let mask = row.encoding.mask & LOW_BITS;
                    low as u32 & mask == row.encoding.value & mask
                }));
                cells[primary * CELLS + low] = Cell { first: first as u32, count: (candidates.len() - first) as u32 };
            }
        }
        Self { cells: cells.into_boxed_slice(), candidates }
    }
}

/// The instruction that `word` encodes, or `None` for a word that ISA 3.0B leaves to no instruction of the table.
pub fn decode(word: Insn) -> Option<Op> {
    static INDEX: OnceLock<Index> = OnceLock::new();
    let index = INDEX.get_or_init(Index::build);
    let primary = (word.0 >> 26) as usize;
    let cell = index.cells[primary * CELLS + (word.0 & LOW_BITS) as usize];
    index.candidates[cell.first as usize..(cell.first + cell.count) as usize]
        .iter()
        .find(|(_, row)| row.encoding.matches(word.0))
        .map(|(op, _)| *op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_decodes_to_itself() {
        for op in all_ops() {
            let row = op.row();
            assert_eq!(decode(Insn(row.encoding.value)), Some(op), "{} decodes to another row", row.mnemonic);
        }
    }

    #[test]
    fn no_two_rows_share_an_encoding() {
        let rows: Vec<_> = all_ops().map(Op::row).collect();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[i + 1..] {
                assert!(a.encoding != b.encoding, "{} and {} have one encoding", a.mnemonic, b.mnemonic);
            }
        }
    }

    #[test]
    fn rows_are_numbered_through() {
        assert!(all_ops().map(Op::number).eq(0..all_ops().count()));
    }

    #[test]
    fn known_words() {
        assert_eq!(decode(Insn(0x3860_0007)), Some(Op::Fixed(FixedOp::Addi)));
        assert_eq!(decode(Insn(0x7c08_02a6)), Some(Op::System(SystemOp::Mfspr)));
        assert_eq!(decode(Insn(0x4e80_0020)), Some(Op::Branch(BranchOp::Bclr)));
        assert_eq!(decode(Insn(0x4400_0002)), Some(Op::System(SystemOp::Sc)));
        assert_eq!(decode(Insn(0x4400_0001)), Some(Op::System(SystemOp::Scv)));
        assert_eq!(decode(Insn(0x7c63_1a15)), Some(Op::Fixed(FixedOp::Add)));
        assert_eq!(decode(Insn(0)), None);
    }
}
