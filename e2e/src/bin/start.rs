//! `cargo xtask bench start`: prints each measured figure as `figure NAME VALUES PEER'S-VALUES`, values separated by commas.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(Ok(runs)) = arguments.next().map(|runs| runs.parse::<usize>()) else {
        eprintln!("usage: start RUNS PEER…, where PEER is the command that boots the same kernel and initramfs");
        return ExitCode::FAILURE;
    };
    let peer: Vec<String> = arguments.collect();
    match paperboat_e2e::start::measure(runs, &peer) {
        Ok(samples) => {
            for sample in samples {
                let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
                println!("figure {} {} {}", sample.figure, list(&sample.values), list(&sample.peer));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
