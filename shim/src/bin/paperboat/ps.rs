//! `paperboat ps` and `paperboat stats`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use paperboat_protocol::machine::StatsResponse;
use paperboat_shim::config::Config;
use serde::Serialize;

use crate::cli::{Cli, StatsArguments};
use crate::failure::Failure;
use crate::pods::{self, View};
use crate::table::{self, Column};

/// Columns of the list of pods.
pub const COLUMNS: [Column; 11] = [
    ("POD", false),
    ("NAME", false),
    ("AGE", true),
    ("CONTAINERS", true),
    ("VCPUS", true),
    ("MEMORY", true),
    ("LIMIT", true),
    ("CPU %", true),
    ("DISK R/W", true),
    ("NET R/S", true),
    ("STATE", false),
];

/// Characters of an id that is not shown whole.
const SHORT_ID: usize = 16;

/// A pod's cells under [`COLUMNS`].
pub fn row(view: &View) -> Vec<String> {
    let id: String = view.id.chars().filter(|c| !c.is_control()).collect();
    // Ids of Docker and Kubernetes are 64 random digits, of which the first ones will do; others are names.
    let random = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    vec![
        if random { id[..SHORT_ID].to_owned() } else { id },
        view.name.clone().unwrap_or_else(|| "-".into()),
        table::span(Duration::from_secs(view.age_s)),
        view.containers.len().to_string(),
        view.vcpus.to_string(),
        table::bytes(view.memory_resident_bytes),
        table::bytes(view.memory_limit_bytes),
        format!("{:.1}", view.cpu_percent),
        format!("{} / {}", table::bytes(view.disk_read_bytes), table::bytes(view.disk_written_bytes)),
        format!("{} / {}", table::bytes(view.net_received_bytes), table::bytes(view.net_sent_bytes)),
        view.state.to_owned(),
    ]
}

/// Lists pods.
pub fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let pods = pods::all(&config)?;
    let answers = pods::runtime()?.block_on(pods::ask_all(&pods));
    let views: Vec<View> = pods.iter().zip(&answers).map(|(pod, answer)| pod.view(answer)).collect();
    if cli.json {
        table::print_json(&views)?;
    } else {
        table::print(&table::format(&COLUMNS, &views.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One virtual CPU's counters.
#[derive(Serialize)]
struct Vcpu<'a> {
    id: u32,
    instructions: u64,
    cedes: u64,
    exits: BTreeMap<&'a str, u64>,
    hypercalls: BTreeMap<&'a str, u64>,
    interrupts: BTreeMap<&'a str, u64>,
}

/// All that is counted of a pod.
#[derive(Serialize)]
struct Counters<'a> {
    #[serde(flatten)]
    pod: View,
    vcpus_counters: Vec<Vcpu<'a>>,
    devices: BTreeMap<&'a str, u64>,
}

fn counters<'a>(pod: View, stats: &'a StatsResponse) -> Counters<'a> {
    let named =
        |map: &'a std::collections::HashMap<String, u64>| map.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let vcpus = stats.vcpus.iter().map(|vcpu| Vcpu {
        id: vcpu.id,
        instructions: vcpu.instructions,
        cedes: vcpu.cedes,
        exits: named(&vcpu.exits),
        hypercalls: named(&vcpu.hypercalls),
        interrupts: named(&vcpu.interrupts),
    });
    Counters { pod, vcpus_counters: vcpus.collect(), devices: named(&stats.devices) }
}

/// Prints all counters.
pub fn stats(cli: &Cli, arguments: &StatsArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let pods = match &arguments.pod {
        Some(pod) => vec![pods::find(&config, pod)?],
        None => pods::all(&config)?,
    };
    let answers = pods::runtime()?.block_on(pods::ask_all(&pods));
    if let (Some(pod), [answer]) = (&arguments.pod, answers.as_slice())
        && answer.stats.is_none()
    {
        return Err(Failure::Machine { pod: pod.clone(), reason: answer.state.into() });
    }
    let nothing = StatsResponse::default();
    let counted: Vec<Counters> = pods
        .iter()
        .zip(&answers)
        .map(|(pod, answer)| counters(pod.view(answer), answer.stats.as_ref().unwrap_or(&nothing)))
        .collect();
    if cli.json {
        table::print_json(&counted)?;
    } else {
        for pod in &counted {
            table::print(&text(pod))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(counters: &Counters) -> String {
    let pod = &counters.pod;
    let mut rows = vec![
        vec!["state".into(), pod.state.into()],
        vec!["memory".into(), format!("{} of {}", table::bytes(pod.memory_resident_bytes), table::bytes(pod.memory_limit_bytes))],
        vec!["CPU time".into(), format!("{:.2} s", pod.cpu_time_ns as f64 / 1e9)],
    ];
    for vcpu in &counters.vcpus_counters {
        let mut add = |name: &str, count: u64| rows.push(vec![format!("vcpu{} {name}", vcpu.id), count.to_string()]);
        add("instructions", vcpu.instructions);
        add("cedes", vcpu.cedes);
        for (kind, map) in [("exit", &vcpu.exits), ("hypercall", &vcpu.hypercalls), ("interrupt", &vcpu.interrupts)] {
            map.iter().for_each(|(name, count)| add(&format!("{kind} {name}"), *count));
        }
    }
    rows.extend(
        counters.devices.iter().filter(|(_, count)| **count > 0).map(|(name, count)| vec![(*name).into(), count.to_string()]),
    );
    format!("{}/{}\n{}\n", pod.namespace, pod.id, table::format(&[("COUNTER", false), ("VALUE", true)], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{Answer, tests::pod};

    #[test]
    fn long_random_ids_are_cut_and_names_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let answer = Answer { state: "running", stats: None };
        let id = "0123456789abcdef".repeat(4);
        let cells = row(&pod(directory.path(), "k8s.io", &id, Some("shop/till")).view(&answer));
        assert_eq!((cells[0].as_str(), cells[1].as_str(), cells.len()), ("0123456789abcdef", "shop/till", COLUMNS.len()));
        assert_eq!(row(&pod(directory.path(), "default", "a-long-name-that-someone-chose", None).view(&answer))[0].len(), 30);
    }

    #[test]
    fn counters_print_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let mut stats = StatsResponse::default();
        stats.devices.insert("fs.requests".into(), 3);
        stats.vcpus.push(paperboat_protocol::machine::stats_response::Vcpu {
            interrupts: [("data_storage".to_owned(), 12)].into(),
            ..Default::default()
        });
        let view = pod(directory.path(), "default", "first", None).view(&Answer { state: "running", stats: Some(stats.clone()) });
        let counted = counters(view, &stats);
        let text = text(&counted);
        assert!(text.contains("vcpu0 interrupt data_storage") && text.contains("fs.requests"), "{text}");
        let json = serde_json::to_value(&counted).unwrap();
        assert_eq!(json["vcpus_counters"][0]["interrupts"]["data_storage"], 12);
        assert_eq!(json["id"], "first");
    }
}
