//! The coverage report: how often each row of the instruction table was executed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::table::decode::all_ops;
use crate::table::{Op, Privilege};

/// Counts of completed instructions, by row, of all vCPUs that share it. Counting executes one instruction at a time, as the trace does.
#[derive(Debug)]
pub struct Coverage {
    counts: Box<[AtomicU64]>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: all_ops().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Coverage {
    pub(crate) fn count(&self, op: Op) {
        if let Some(count) = self.counts.get(op.number()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every row with how often it was executed, in table order.
    pub fn rows(&self) -> impl Iterator<Item = (Op, u64)> {
        all_ops().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// The report: a line each, most frequent first, what never ran at the end.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<(Op, u64)> = self.rows().collect();
        rows.sort_by_key(|(op, count)| (std::cmp::Reverse(*count), op.number()));
        let executed = rows.iter().filter(|(_, count)| *count > 0).count();
        let total: u64 = rows.iter().map(|(_, count)| count).sum();
        writeln!(f, "# {total} instructions of {executed} rows; the table has {}", rows.len())?;
        writeln!(f, "# count mnemonic class version state")?;
        for (op, count) in rows {
            let row = op.row();
            let state = match row.privilege {
                Privilege::Problem => "user",
                Privilege::Supervisor => "kernel",
                Privilege::Hypervisor => "hypervisor",
            };
            writeln!(f, "{count:>15} {:<12} {:<6} {} {state}", row.mnemonic, op.class(), row.level)?;
        }
        Ok(())
    }
}
