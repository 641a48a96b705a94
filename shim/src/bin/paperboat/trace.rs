//! `paperboat trace`: what a pod's machine leaves the guest for, and what the guest's kernel is interrupted by, as rates.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use paperboat_protocol::machine::StatsResponse;
use paperboat_shim::config::Config;
use serde_json::json;

use crate::cli::{Cli, TraceArguments};
use crate::failure::Failure;
use crate::pods;
use crate::table;

/// Counters of all vCPUs by kind and name.
type Counts = BTreeMap<(&'static str, String), u64>;

fn counts(stats: &StatsResponse) -> Counts {
    let mut counts = Counts::new();
    for vcpu in &stats.vcpus {
        let mut add = |kind, name: &str, count| *counts.entry((kind, name.to_owned())).or_default() += count;
        add("cpu", "instructions", vcpu.instructions);
        add("cpu", "cedes", vcpu.cedes);
        for (kind, map) in [("exit", &vcpu.exits), ("hypercall", &vcpu.hypercalls), ("fault", &vcpu.interrupts)] {
            map.iter().for_each(|(name, count)| add(kind, name, *count));
        }
    }
    counts
}

/// What came between two looks: kind, name, count, total; by kind, the most frequent first.
fn changes(before: &Counts, now: &Counts) -> Vec<(&'static str, String, u64, u64)> {
    let change = |(key, total): (&(&'static str, String), &u64)| {
        (key.0, key.1.clone(), total.saturating_sub(before.get(key).copied().unwrap_or(0)), *total)
    };
    let mut changes: Vec<_> = now.iter().map(change).filter(|(_, _, count, _)| *count > 0).collect();
    changes.sort_by(|a, b| (a.0, b.2, &a.1).cmp(&(b.0, a.2, &b.1)));
    changes
}

/// Asks and prints until the machine ends, or the count is reached.
pub fn run(cli: &Cli, arguments: &TraceArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let pod = pods::find(&config, &arguments.pod)?;
    let runtime = pods::runtime()?;
    let live = stdout().is_terminal();
    runtime.block_on(async {
        let client = pod.machine().await?;
        let mut before = counts(&pod.stats(&client).await?);
        let mut looked = Instant::now();
        for look in 0.. {
            if arguments.count.is_some_and(|count| look >= count) {
                break;
            }
            tokio::time::sleep(Duration::from_secs_f64(arguments.interval)).await;
            let now = match pod.stats(&client).await {
                Ok(stats) => counts(&stats),
                // The pod has ended; that is no failure of a trace.
                Err(_) if !pod.paths.root().exists() => break,
                Err(failure) => return Err(failure),
            };
            let seconds = looked.elapsed().as_secs_f64();
            looked = Instant::now();
            let changes = changes(&before, &now);
            before = now;
            if cli.json {
                let rows: Vec<_> = changes
                    .iter()
                    .map(|(kind, name, count, total)| json!({"kind": kind, "name": name, "count": count, "total": total}))
                    .collect();
                table::print(&format!("{}\n", json!({"seconds": seconds, "counters": rows})))?;
                continue;
            }
            let rows: Vec<Vec<String>> = changes
                .iter()
                .map(|(kind, name, count, total)| {
                    vec![(*kind).into(), name.clone(), format!("{:.0}", *count as f64 / seconds), total.to_string()]
                })
                .collect();
            let text = table::format(&[("KIND", false), ("NAME", false), ("PER SECOND", true), ("TOTAL", true)], &rows);
            let clear = if live { "\x1b[H\x1b[2J" } else { "" };
            table::print(&format!("{clear}{text}\n"))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use paperboat_protocol::machine::stats_response::Vcpu;

    fn stats(hypercalls: &[(&str, u64)], faults: u64) -> StatsResponse {
        let vcpu = |faults| Vcpu {
            hypercalls: hypercalls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            interrupts: [("data_storage".to_owned(), faults)].into(),
            ..Default::default()
        };
        StatsResponse { vcpus: vec![vcpu(faults), vcpu(1)], ..Default::default() }
    }

    #[test]
    fn only_what_changed_is_shown_and_the_most_frequent_first() {
        let (before, now) =
            (counts(&stats(&[("H_ENTER", 1), ("H_XIRR", 1)], 3)), counts(&stats(&[("H_ENTER", 2), ("H_XIRR", 9)], 3)));
        let changes = changes(&before, &now);
        let expected = [("hypercall", "H_XIRR".to_owned(), 16, 18), ("hypercall", "H_ENTER".to_owned(), 2, 4)];
        assert_eq!(changes, expected);
        assert_eq!(now[&("fault", "data_storage".to_owned())], 4);
    }
}
