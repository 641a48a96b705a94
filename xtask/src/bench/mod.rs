//! `cargo xtask bench`: figures beside a peer's, for people and as JSON.

mod boot;
mod cpu;
pub mod io;
mod machine;
pub mod overhead;
pub mod peer;
mod start;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::chores::Products;
use crate::cli::BenchArgs;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::run::capture;
use crate::setup::{self, Host};

/// One benchmark.
struct Bench {
    name: &'static str,
    about: &'static str,
    measure: fn(&Lab) -> Result<Vec<Figure>>,
}

/// All benchmarks. A new one is a row here and a function that measures.
const BENCHES: &[Bench] = &[
    Bench {
        name: "boot",
        about: "instructions and processor seconds to a program in the guest, beside QEMU; the machine's own memory (two minutes)",
        measure: boot::measure,
    },
    Bench {
        name: "cpu",
        about: "speed of the software CPU in integer, memory, floating point, vector, system call and process work, beside QEMU (three minutes)",
        measure: cpu::measure,
    },
    Bench {
        name: "start",
        about: "processor seconds, instructions and memory of a pod's start, beside QEMU and runc (4 minutes, root)",
        measure: start::measure,
    },
    Bench {
        name: "io",
        about: "files, vsock and network of a guest beside QEMU and the host (eight minutes with --runs 3, root)",
        measure: io::measure,
    },
    Bench {
        name: "lab",
        about: "Paperboat's machine and containers under KVM-HV beside QEMU's and runc's, in the POWER lab (three minutes once the lab is built)",
        measure: crate::lab::measure,
    },
    Bench { name: "size", about: "bytes of the kernel and the initramfs that every pod loads (a second)", measure: size },
];

/// What a benchmark is given.
pub struct Lab<'a> {
    /// Tree, cache, screen.
    pub ctx: &'a Ctx,
    /// This machine.
    pub host: Host,
    /// How often to measure.
    pub runs: usize,
    products: Products,
}

impl Lab<'_> {
    /// Tells a command where all products are.
    pub fn apply(&self, command: &mut Command) {
        self.products.apply(command);
    }

    /// Where a product is, by the name of its variable.
    pub fn path(&self, variable: &str) -> Result<&PathBuf> {
        self.products.path(variable).with_context(|| format!("{variable} is not among the products"))
    }
}

/// A figure's goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Measured for the record.
    None,
}

impl Goal {
    /// The limit and whether `value` keeps it.
    fn judge(self, value: f64) -> Option<(f64, bool)> {
        match self {
            Self::AtMost(limit) => Some((limit, value <= limit)),
            Self::AtLeast(limit) => Some((limit, value >= limit)),
            Self::None => None,
        }
    }

    /// As the table has it.
    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", show(limit)),
            Self::AtLeast(limit) => format!("≥ {}", show(limit)),
            Self::None => "-".to_owned(),
        }
    }
}

/// One figure, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as the issues call it: `boot.guest_instructions`.
    pub figure: String,
    /// Median of the runs.
    pub value: f64,
    /// Unit.
    pub unit: &'static str,
    /// The peer it was measured beside, and the peer's median in the same unit.
    pub peer: Option<(String, f64)>,
    /// How many runs.
    pub runs: usize,
    /// What was to be reached.
    pub goal: Goal,
}

/// A figure as it is written to the file.
#[derive(Serialize)]
struct Row<'a> {
    figure: &'a str,
    value: f64,
    unit: &'a str,
    peer: Option<&'a str>,
    peer_value: Option<f64>,
    ratio: Option<f64>,
    runs: usize,
    target: Option<f64>,
    met: Option<bool>,
}

impl Figure {
    fn row(&self) -> Row<'_> {
        let judged = self.goal.judge(self.value);
        let peer_value = self.peer.as_ref().map(|(_, value)| *value);
        Row {
            figure: &self.figure,
            value: self.value,
            unit: self.unit,
            peer: self.peer.as_ref().map(|(name, _)| name.as_str()),
            peer_value,
            ratio: peer_value.filter(|peer| *peer != 0.0).map(|peer| self.value / peer),
            runs: self.runs,
            target: judged.map(|(limit, _)| limit),
            met: judged.map(|(_, met)| met),
        }
    }
}

/// Everything that is written beside the figures.
#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    commit: String,
    command: String,
    seed: u64,
    figures: Vec<Row<'a>>,
}

/// Runs the benchmarks asked for.
pub fn run(ctx: &Ctx, args: &BenchArgs) -> Result<()> {
    if args.list {
        for bench in BENCHES {
            println!("{:10} {}", bench.name, bench.about);
        }
        return Ok(());
    }
    let chosen: Vec<&Bench> = BENCHES.iter().filter(|bench| args.name.as_deref().is_none_or(|name| name == bench.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("no benchmark of this name: there are {}", names.join(", "));
    }
    ensure!(args.runs > 0, "--runs must be at least 1");
    let host = Host::detect()?;
    setup::ensure_installed(ctx, setup::BENCH)?;
    let lab = Lab { ctx, host, runs: args.runs, products: Products::prepare(ctx, Scope::Demo)? };
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for bench in chosen {
        ctx.ui.line("bench", bench.name);
        match (bench.measure)(&lab) {
            Ok(measured) => figures.extend(measured),
            // What the others have measured is not lost.
            Err(error) => {
                eprintln!("error: benchmark {}: {error:#}", bench.name);
                failed.push(bench.name);
            }
        }
    }
    print!("{}", table(&figures));
    if let Some(path) = &args.json {
        let report = Report {
            machine: machine(),
            commit: commit(&ctx.root),
            command: std::env::args().skip(1).fold("cargo xtask".to_owned(), |line, arg| line + " " + &arg),
            seed: args.seed,
            figures: figures.iter().map(Figure::row).collect(),
        };
        fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(failed.is_empty(), "benchmarks failed: {}", failed.join(", "));
    Ok(())
}

/// Median of measured values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn table(figures: &[Figure]) -> String {
    let mut rows = vec![["figure", "value", "unit", "peer", "peer's", "ratio", "to reach", ""].map(str::to_owned)];
    for figure in figures {
        let row = figure.row();
        let number = |value: Option<f64>| value.map_or("-".to_owned(), show);
        rows.push([
            row.figure.to_owned(),
            show(row.value),
            row.unit.to_owned(),
            row.peer.unwrap_or("-").to_owned(),
            number(row.peer_value),
            row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            figure.goal.text(),
            row.met.map_or("", |met| if met { "met" } else { "short" }).to_owned(),
        ]);
    }
    let widths: Vec<usize> = (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count()))).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn show(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        let digits = format!("{}", value as i64);
        let mut grouped = String::new();
        for (position, digit) in digits.chars().enumerate() {
            let left = digits.len() - position;
            if position > 0 && left.is_multiple_of(3) && !grouped.ends_with('-') {
                grouped.push(' ');
            }
            grouped.push(digit);
        }
        grouped
    } else {
        format!("{value:.3}")
    }
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("cpu\t"))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    format!("{count} × {model}, {}", std::env::consts::ARCH)
}

fn commit(root: &Path) -> String {
    capture(Command::new("git").current_dir(root).args(["describe", "--always", "--dirty", "--abbrev=12"]))
        .unwrap_or_else(|_| "unknown".to_owned())
}

fn size(lab: &Lab) -> Result<Vec<Figure>> {
    let bytes = |variable| -> Result<f64> { Ok(fs::metadata(lab.path(variable)?)?.len() as f64) };
    let figure = |figure: &str, value, goal| Figure { figure: figure.into(), value, unit: "bytes", peer: None, runs: 1, goal };
    Ok(vec![
        figure("size.kernel_bytes", bytes("PAPERBOAT_KERNEL")?, Goal::AtMost(12e6)),
        figure("size.initramfs_bytes", bytes("PAPERBOAT_INITRAMFS")?, Goal::None),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Figure {
        Figure {
            figure: "boot.guest_instructions".into(),
            value: 22e6,
            unit: "instructions",
            peer: Some(("qemu".into(), 44e6)),
            runs: 5,
            goal: Goal::AtMost(25e6),
        }
    }

    #[test]
    fn rows_carry_ratio_and_verdict() {
        let figure = sample();
        let row = figure.row();
        assert_eq!((row.ratio, row.target, row.met), (Some(0.5), Some(25e6), Some(true)));
        let short = Figure { value: 26e6, peer: None, ..sample() };
        assert_eq!((short.row().ratio, short.row().met), (None, Some(false)));
        let fast = Figure { goal: Goal::AtLeast(21e6), ..sample() };
        assert_eq!((fast.row().target, fast.row().met), (Some(21e6), Some(true)));
        assert_eq!(Figure { value: 20e6, ..fast }.row().met, Some(false));
        let free = Figure { goal: Goal::None, ..sample() };
        assert_eq!(free.row().met, None);
    }

    #[test]
    fn table_is_readable() {
        let text = table(&[sample(), Figure { value: 0.1234, goal: Goal::None, ..sample() }]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("22 000 000") && lines[1].contains("≤ 25 000 000") && lines[1].ends_with("met"), "{text}");
        assert!(lines[2].contains("0.123"), "{text}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
