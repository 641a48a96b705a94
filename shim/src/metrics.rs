//! A container's cgroup v2 files as the metrics message that containerd's clients understand.

use std::collections::{BTreeMap, HashMap};

use containerd_shim_protos::cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat};
use protobuf::{Message, MessageField};

/// Type of the message, as containerd's registry of types knows it.
pub const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// Block devices told at most: the text comes from the guest.
const MAX_DEVICES: usize = 64;

/// Encodes the counters of the named cgroup files; files that are missing or strange count as zero.
pub fn encode(files: &HashMap<String, String>) -> protobuf::Result<Vec<u8>> {
    metrics(files).write_to_bytes()
}

fn metrics(files: &HashMap<String, String>) -> Metrics {
    let single = |name: &str| files.get(name).and_then(|text| number(text.trim())).unwrap_or(0);
    let keyed = |name: &str| Keyed::parse(files.get(name).map_or("", String::as_str));
    let (cpu, memory, events) = (keyed("cpu.stat"), keyed("memory.stat"), keyed("memory.events"));
    Metrics {
        pids: MessageField::some(PidsStat { current: single("pids.current"), limit: single("pids.max"), ..Default::default() }),
        cpu: MessageField::some(CPUStat {
            usage_usec: cpu.of("usage_usec"),
            user_usec: cpu.of("user_usec"),
            system_usec: cpu.of("system_usec"),
            nr_periods: cpu.of("nr_periods"),
            nr_throttled: cpu.of("nr_throttled"),
            throttled_usec: cpu.of("throttled_usec"),
            nr_bursts: cpu.of("nr_bursts"),
            burst_usec: cpu.of("burst_usec"),
            ..Default::default()
        }),
        memory: MessageField::some(MemoryStat {
            anon: memory.of("anon"),
            file: memory.of("file"),
            kernel_stack: memory.of("kernel_stack"),
            slab: memory.of("slab"),
            sock: memory.of("sock"),
            shmem: memory.of("shmem"),
            file_mapped: memory.of("file_mapped"),
            file_dirty: memory.of("file_dirty"),
            file_writeback: memory.of("file_writeback"),
            anon_thp: memory.of("anon_thp"),
            inactive_anon: memory.of("inactive_anon"),
            active_anon: memory.of("active_anon"),
            inactive_file: memory.of("inactive_file"),
            active_file: memory.of("active_file"),
            unevictable: memory.of("unevictable"),
            slab_reclaimable: memory.of("slab_reclaimable"),
            slab_unreclaimable: memory.of("slab_unreclaimable"),
            pgfault: memory.of("pgfault"),
            pgmajfault: memory.of("pgmajfault"),
            workingset_refault: memory.of("workingset_refault_anon").saturating_add(memory.of("workingset_refault_file")),
            workingset_activate: memory.of("workingset_activate_anon").saturating_add(memory.of("workingset_activate_file")),
            workingset_nodereclaim: memory.of("workingset_nodereclaim"),
            pgrefill: memory.of("pgrefill"),
            pgscan: memory.of("pgscan"),
            pgsteal: memory.of("pgsteal"),
            pgactivate: memory.of("pgactivate"),
            pgdeactivate: memory.of("pgdeactivate"),
            pglazyfree: memory.of("pglazyfree"),
            pglazyfreed: memory.of("pglazyfreed"),
            thp_fault_alloc: memory.of("thp_fault_alloc"),
            thp_collapse_alloc: memory.of("thp_collapse_alloc"),
            usage: single("memory.current"),
            usage_limit: single("memory.max"),
            swap_usage: single("memory.swap.current"),
            swap_limit: single("memory.swap.max"),
            max_usage: single("memory.peak"),
            ..Default::default()
        }),
        memory_events: MessageField::some(MemoryEvents {
            low: events.of("low"),
            high: events.of("high"),
            max: events.of("max"),
            oom: events.of("oom"),
            oom_kill: events.of("oom_kill"),
            oom_group_kill: events.of("oom_group_kill"),
            ..Default::default()
        }),
        io: MessageField::some(IOStat {
            usage: files.get("io.stat").map_or("", String::as_str).lines().take(MAX_DEVICES).filter_map(io_entry).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The counters of several groups together, file by file. Limits are each group's own and are left out.
pub fn sum(groups: &[HashMap<String, String>]) -> HashMap<String, String> {
    let mut total = HashMap::new();
    for name in ["memory.current", "pids.current"] {
        let numbers = groups.iter().filter_map(|files| files.get(name)?.trim().parse::<u64>().ok());
        total.insert(name.to_owned(), numbers.fold(0, u64::saturating_add).to_string());
    }
    for name in ["cpu.stat", "memory.stat", "memory.events"] {
        let mut keys: BTreeMap<&str, u64> = BTreeMap::new();
        for files in groups {
            for (key, value) in Keyed::parse(files.get(name).map_or("", String::as_str)).0 {
                let sum = keys.entry(key).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        total.insert(name.to_owned(), keys.iter().map(|(key, value)| format!("{key} {value}\n")).collect());
    }
    total
}

/// A line of io.stat (cgroup-v2.rst): `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=…`.
fn io_entry(line: &str) -> Option<IOEntry> {
    let (device, counters) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
    for (key, value) in counters.split(' ').filter_map(|counter| counter.split_once('=')) {
        let value = value.parse().unwrap_or(0);
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// A number or cgroup v2's word for "no limit".
fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// A flat keyed file: a name and a number on each line.
struct Keyed<'a>(HashMap<&'a str, u64>);

impl<'a> Keyed<'a> {
    fn parse(text: &'a str) -> Self {
        Self(
            text.lines().filter_map(|line| line.split_once(' ')).filter_map(|(key, value)| Some((key, number(value)?))).collect(),
        )
    }

    fn of(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_groups_add_up() {
        let group = |memory: &str, cpu: &str| {
            [("memory.current", memory), ("memory.max", "7"), ("cpu.stat", cpu)]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into()
        };
        let total = sum(&[group("5\n", "usage_usec 3\nuser_usec 1\n"), group("strange", "usage_usec 4\n"), HashMap::new()]);
        assert_eq!((total["memory.current"].as_str(), total["cpu.stat"].as_str()), ("5", "usage_usec 7\nuser_usec 1\n"));
        assert!(!total.contains_key("memory.max"));
    }

    #[test]
    fn cgroup_files_become_counters() {
        let files = [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.current", "3\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\n"),
            ("memory.stat", "anon 5\nstrange\nfile -1\n"),
            ("memory.events", "oom_kill 2\n"),
            ("io.stat", "253:0 rbytes=8 wbytes=9 rios=1 wios=2 dbytes=0\nstrange\n"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into_iter().collect();
        let decoded = Metrics::parse_from_bytes(&encode(&files).unwrap()).unwrap();
        assert_eq!(
            (decoded.memory.usage, decoded.memory.usage_limit, decoded.memory.anon, decoded.memory.file),
            (4096, u64::MAX, 5, 0)
        );
        assert_eq!((decoded.io.usage.len(), decoded.io.usage[0].major, decoded.io.usage[0].wbytes), (1, 253, 9));
        assert_eq!((decoded.cpu.usage_usec, decoded.pids.current, decoded.memory_events.oom_kill), (10, 3, 2));
    }
}
