//! `cargo xtask bench start`: what the start of a pod costs. The end-to-end crate measures through a private containerd, in turn with the
//! peers; medians, ratios and goals are made here.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Figure, Goal, Lab, median, peer};
use crate::guest;

/// The least number of runs for these figures.
const RUNS_MIN: usize = 10;

/// Memory of the peer's guest: a pod's default.
const MEMORY_BYTES: u64 = 512 << 20;

/// A figure's values and its peer's.
type Samples = BTreeMap<String, (Vec<f64>, Vec<f64>)>;

/// Measures everything.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    ensure!(nix::unistd::geteuid().is_root(), "containerd needs root: run this as root");
    let work = std::env::temp_dir().join(format!("paperboat-bench-start-{}", std::process::id()));
    crate::cache::remove_tree(&work)?;
    std::fs::create_dir(&work).with_context(|| format!("create {}", work.display()))?;
    let measured = measure_in(lab, &work);
    crate::cache::remove_tree(&work)?;
    figures(&measured?)
}

fn measure_in(lab: &Lab, work: &std::path::Path) -> Result<Samples> {
    let (kernel, initramfs) = (lab.path("PAPERBOAT_KERNEL")?, lab.path("PAPERBOAT_INITRAMFS")?);
    let boot = peer::command(work, kernel, initramfs, "console=hvc0 quiet", MEMORY_BYTES)?;
    let runs = lab.runs.max(RUNS_MIN);
    lab.ctx.ui.line("bench", &format!("start: {runs} runs of each figure, in turn with its peer"));
    let mut cargo = guest::cargo(lab.ctx);
    cargo.args(["run", "--quiet", "--release", "-p", "paperboat-e2e", "--bin", "start", "--"]);
    cargo.arg(runs.to_string()).arg(boot.get_program()).args(boot.get_args());
    lab.apply(&mut cargo);
    let output = capture(&mut cargo)?;
    Ok(parse(&output))
}

fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start the measuring program")?;
    ensure!(output.status.success(), "the measuring program failed: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lines `figure NAME VALUES PEER'S-VALUES`.
fn parse(output: &str) -> Samples {
    let list = |text: Option<&str>| text.unwrap_or_default().split(',').filter_map(|value| value.parse().ok()).collect();
    output
        .lines()
        .filter_map(|line| line.strip_prefix("figure "))
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), (list(words.next()), list(words.next()))))
        })
        .collect()
}

fn figures(samples: &Samples) -> Result<Vec<Figure>> {
    let of = |name: &str| samples.get(name).with_context(|| format!("{name} was not measured"));
    let middle = |values: &[f64]| median(values.to_vec()).context("a figure has no values");
    let figure = |name: &str, value, unit, peer, runs, goal| Figure { figure: name.into(), value, unit, peer, runs, goal };
    let ratio = |name: &str, of_what: &str, unit, peer_name: &str, goal| -> Result<[Figure; 2]> {
        let (ours, theirs) = of(of_what)?;
        let (value, peer) = (middle(ours)?, middle(theirs)?);
        let runs = ours.len();
        Ok([
            figure(of_what, value, unit, Some((peer_name.to_owned(), peer)), runs, Goal::None),
            figure(name, value / peer, "×", None, runs, goal),
        ])
    };
    let plain = |name: &str, unit, goal| -> Result<Figure> {
        let (values, _) = of(name)?;
        Ok(figure(name, middle(values)?, unit, None, values.len(), goal))
    };
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get()) as f64;
    let mut figures = Vec::new();
    figures.extend(ratio("start.ctr_run.cpu_ratio", "start.ctr_run.cpu_seconds", "s", "qemu tcg, boot only", Goal::AtMost(1.0))?);
    figures.push(plain("start.agent_ready.guest_instructions", "instructions", Goal::AtMost(60e6))?);
    figures.push(plain("start.container.guest_instructions", "instructions", Goal::AtMost(20e6))?);
    figures.push(plain("start.idle_pod.pss_bytes", "bytes", Goal::AtMost((64 << 20) as f64))?);
    figures.push(plain("start.agent.program_bytes", "bytes", Goal::AtMost(8e6))?);
    figures.push(plain("start.agent.resident_bytes", "bytes", Goal::AtMost((10 << 20) as f64))?);
    figures.extend(ratio("start.exec.ratio", "start.exec.cpu_seconds", "s", "runc", Goal::AtMost(3.0))?);
    figures.extend(ratio(
        "start.parallel.per_pod_ratio",
        "start.parallel.wall_seconds",
        "s",
        "one alone",
        Goal::AtMost(1.5 * 10.0 / cores),
    )?);
    figures.extend(ratio("start.parallel.cpu_ratio", "start.parallel.cpu_seconds", "s", "one alone", Goal::None)?);
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "noise\nfigure start.ctr_run.cpu_seconds 0.5,0.7,0.6 1.2,1.2,1.2\n\
        figure start.agent_ready.guest_instructions 24000000 \nfigure start.container.guest_instructions 13000000 \n\
        figure start.idle_pod.pss_bytes 60000000 \nfigure start.agent.program_bytes 6000000 \nfigure start.agent.resident_bytes 5000000 \nfigure start.exec.cpu_seconds 0.08 0.02\n\
        figure start.parallel.wall_seconds 4,5,6 1\nfigure start.parallel.cpu_seconds 0.5 0.4\n";

    #[test]
    fn ratios_are_of_medians() {
        let figures = figures(&parse(OUTPUT)).unwrap();
        let value = |name: &str| figures.iter().find(|figure| figure.figure == name).unwrap().value;
        assert_eq!(value("start.ctr_run.cpu_ratio"), 0.5);
        assert_eq!(value("start.exec.ratio"), 4.0);
        assert_eq!(value("start.parallel.per_pod_ratio"), 5.0);
        assert_eq!(value("start.idle_pod.pss_bytes"), 6e7);
    }

    #[test]
    fn a_figure_that_is_missing_is_named() {
        let error = super::figures(&parse("figure start.ctr_run.cpu_seconds 1 1\n")).unwrap_err().to_string();
        assert!(error.contains("start.agent_ready"), "{error}");
    }
}
