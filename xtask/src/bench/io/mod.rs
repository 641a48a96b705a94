//! `cargo xtask bench io`: the share, vsock and the network of a guest beside QEMU's and, for files, the host itself. Both machines run the same
//! kernel and initramfs, entered the same way; programs in `images/` do the work and say when each piece begins and ends, so that
//! neither boots nor shutdowns count. Rates are by the wall clock, the machines run in turn; processor time stands beside it.

pub mod bridge;
mod files;
mod streams;
mod watched;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Figure, Goal, Lab, machine, median};
use crate::chores::HOST_PACKAGES;
use crate::guest;
use watched::Piece;

const MEMORY_BYTES: u64 = 512 << 20;

/// Measures the three devices.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    ensure!(nix::unistd::geteuid().is_root(), "this benchmark makes a network namespace: run it as root");
    let far_side = far_side(lab)?;
    machine::with_directory(|work| {
        let mut figures = streams::measure(lab, &work.join("streams"), &far_side)?;
        figures.extend(files::measure(lab, &work.join("files"), &far_side)?);
        Ok(figures)
    })
}

/// The program with the peer's file server and the far ends of streams.
fn far_side(lab: &Lab) -> Result<PathBuf> {
    const NAME: &str = "paperboat-bench-peer";
    let mut cargo = guest::cargo(lab.ctx);
    // Together with the programs it stands beside, whose dependencies are compiled already.
    cargo.args(["build", "--release", "-p", NAME]).args(HOST_PACKAGES.map(|package| ["-p", package]).as_flattened());
    let log = crate::run::Log::create(lab.ctx.cache.logs().join("bench-peer.log"))?;
    log.run(&mut cargo, Some(&mut lab.ctx.ui.progress("peer", None)))?;
    Ok(lab.path("PAPERBOAT_BIN")?.join(NAME))
}

/// What pieces of work took, in each of the runs, by their names.
#[derive(Default)]
struct Runs(BTreeMap<String, Vec<Piece>>);

impl Runs {
    fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            self.0.entry(piece.name.clone()).or_default().push(piece);
        }
    }

    /// The median of what `of` says of a piece.
    fn middle(&self, piece: &str, of: impl Fn(&Piece) -> f64) -> Result<f64> {
        let pieces = self.0.get(piece).map(Vec::as_slice).unwrap_or_default();
        median(pieces.iter().map(of).collect()).with_context(|| format!("the guest never did {piece}"))
    }
}

/// Rates of a piece on all sides, and what becomes of them.
struct Beside<'a> {
    ours: &'a Runs,
    theirs: &'a Runs,
    peer: &'static str,
    runs: usize,
}

impl Beside<'_> {
    /// Rate with the peer's, their ratio, and the ratio of the work done per second of processor time.
    fn figures(&self, figure: &str, piece: &str, unit: &'static str, scale: f64, least: f64) -> Result<Vec<Figure>> {
        let rate = |piece: &Piece| piece.amount / piece.seconds / scale;
        let thrift = |piece: &Piece| piece.amount / piece.cpu_seconds.max(0.01);
        let (ours, theirs) = (self.ours.middle(piece, rate)?, self.theirs.middle(piece, rate)?);
        let cpu = self.ours.middle(piece, thrift)? / self.theirs.middle(piece, thrift)?;
        let row = |name: &str, value, unit, peer, goal| Figure {
            figure: format!("{figure}{name}"),
            value,
            unit,
            peer,
            runs: self.runs,
            goal,
        };
        Ok(vec![
            row(".rate", ours, unit, Some((self.peer.to_owned(), theirs)), Goal::None),
            row(".ratio", ours / theirs, "×", None, Goal::AtLeast(least)),
            row(".cpu_ratio", cpu, "×", None, Goal::None),
        ])
    }
}

/// Our machine, without devices so far.
fn ours(lab: &Lab, initramfs: &Path, cmdline: &str) -> Result<Command> {
    machine::ours(lab, lab.path("PAPERBOAT_KERNEL")?, initramfs, cmdline, MEMORY_BYTES)
}
