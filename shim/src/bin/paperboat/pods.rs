//! Finding pods in the state directory, and asking their machines.

use std::path::Path;
use std::time::{Duration, SystemTime};

use paperboat_protocol::machine::state_response::Status;
use paperboat_protocol::machine::{Empty, StatsResponse};
use paperboat_protocol::machine_ttrpc::MachineClient;
use paperboat_shim::config::Config;
use paperboat_shim::note::Note;
use paperboat_shim::paths::PodPaths;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use ttrpc::r#async::Client;
use ttrpc::context;

use crate::failure::Failure;

/// A machine answers from its counters; one that takes longer hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// More pods than any host has.
const MAX_PODS: usize = 16384;

/// The directory of task sockets beside the namespaces' ones.
const SOCKETS: &str = "s";

/// A pod of this host.
#[derive(Debug, Clone)]
pub struct Pod {
    /// What it says of itself.
    pub note: Note,
    /// Its directory.
    pub paths: PodPaths,
}

/// What a machine answers.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// `running`, `paused`, `starting`, `ended`, or `gone` when nobody answers.
    pub state: &'static str,
    /// Its counters.
    pub stats: Option<StatsResponse>,
}

/// A pod as it is printed.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    /// containerd's namespace.
    pub namespace: String,
    /// The pod's id.
    pub id: String,
    /// The name people gave it.
    pub name: Option<String>,
    /// Where it is in its life.
    pub state: &'static str,
    /// Seconds since its start.
    pub age_s: u64,
    /// Ids of its containers.
    pub containers: Vec<String>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Guest memory that the host has given.
    pub memory_resident_bytes: u64,
    /// Most that it can become.
    pub memory_limit_bytes: u64,
    /// CPU time of the machine's process.
    pub cpu_time_ns: u64,
    /// CPU use of one host CPU in percent: over the pod's life, or since the last look of a live view.
    pub cpu_percent: f64,
    /// Bytes read and written through the share and block devices.
    pub disk_read_bytes: u64,
    /// The same, written.
    pub disk_written_bytes: u64,
    /// Bytes received by network interfaces.
    pub net_received_bytes: u64,
    /// The same, sent.
    pub net_sent_bytes: u64,
}

/// The runtime for calls to machines.
pub fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| Failure::Io { what: "asynchronous runtime", source })
}

/// All pods of the host, by namespace and id.
pub fn all(config: &Config) -> Result<Vec<Pod>, Failure> {
    let mut pods = Vec::new();
    for namespace in directories(&config.state_dir)? {
        if namespace.file_name().is_some_and(|name| name == SOCKETS) {
            continue;
        }
        for root in directories(&namespace)? {
            let paths = PodPaths::at(root);
            // Without a note it is no pod, or one that is being made or removed at this moment.
            if let Ok(note) = Note::read(&paths)
                && pods.len() < MAX_PODS
            {
                pods.push(Pod { note, paths });
            }
        }
    }
    pods.sort_by(|a, b| (&a.note.namespace, &a.note.id).cmp(&(&b.note.namespace, &b.note.id)));
    Ok(pods)
}

/// The pod that `wanted` means: by id, by name, by the beginning of an id.
pub fn find(config: &Config, wanted: &str) -> Result<Pod, Failure> {
    let pods = all(config)?;
    let exact = |pod: &&Pod| pod.note.id == wanted || pod.note.name.as_deref() == Some(wanted);
    let mut found: Vec<&Pod> = pods.iter().filter(exact).collect();
    if found.is_empty() {
        found = pods.iter().filter(|pod| !wanted.is_empty() && pod.note.id.starts_with(wanted)).collect();
    }
    match found[..] {
        [pod] => Ok(pod.clone()),
        [] => Err(Failure::NoPod(wanted.to_owned())),
        _ => {
            let candidates = found.iter().map(|pod| format!("{}/{}", pod.note.namespace, pod.note.id)).collect();
            Err(Failure::Ambiguous { wanted: wanted.to_owned(), candidates })
        }
    }
}

fn directories(path: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()),
        // No pod has ever run, or the last one of a namespace went meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::file(path, error)),
    }
}

impl Pod {
    /// A connection to the pod's machine.
    pub async fn machine(&self) -> Result<MachineClient, Failure> {
        let address = format!("unix://{}", self.paths.control_socket().display());
        let connect = tokio::time::timeout(ANSWER_TIMEOUT, Client::connect(&address));
        match connect.await {
            Ok(Ok(client)) => Ok(MachineClient::new(client)),
            Ok(Err(error)) => Err(self.silent(&error)),
            Err(_) => Err(Failure::Machine { pod: self.note.id.clone(), reason: "no connection in time".into() }),
        }
    }

    /// A call's failure with the pod's id.
    pub fn silent(&self, error: &ttrpc::Error) -> Failure {
        Failure::Machine { pod: self.note.id.clone(), reason: paperboat_shim::machine::plain(error) }
    }

    /// The machine's counters.
    pub async fn stats(&self, client: &MachineClient) -> Result<StatsResponse, Failure> {
        let nothing = Empty::new();
        client.stats(context::with_duration(ANSWER_TIMEOUT), &nothing).await.map_err(|error| self.silent(&error))
    }

    /// State and counters, as far as the machine tells them.
    pub async fn ask(&self) -> Answer {
        let Ok(client) = self.machine().await else { return Answer { state: "gone", stats: None } };
        let nothing = Empty::new();
        let state = match client.state(context::with_duration(ANSWER_TIMEOUT), &nothing).await {
            Ok(answer) => match answer.status.enum_value_or_default() {
                Status::NEW => "starting",
                Status::RUNNING => "running",
                Status::PAUSED => "paused",
                Status::ENDED => "ended",
                Status::UNKNOWN => "unknown",
            },
            Err(_) => "silent",
        };
        Answer { state, stats: self.stats(&client).await.ok() }
    }

    /// Ids of the pod's containers.
    pub fn containers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.paths.files().join("containers")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The pod as it is printed.
    pub fn view(&self, answer: &Answer) -> View {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(self.note.started_unix_ms);
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        let stats = answer.stats.clone().unwrap_or_default();
        let sum = |of: &[&str], counter: &str| {
            let devices = stats.devices.iter().filter_map(|(key, value)| Some((key.split_once('.')?, *value)));
            let counted =
                devices.filter(|((device, name), _)| *name == counter && of.iter().any(|kind| device.starts_with(kind)));
            counted.map(|(_, value)| value).fold(0u64, u64::saturating_add)
        };
        const DISKS: [&str; 2] = ["fs", "blk"];
        View {
            namespace: self.note.namespace.clone(),
            id: self.note.id.clone(),
            name: self.note.name.clone(),
            state: answer.state,
            age_s: age.as_secs(),
            containers: self.containers(),
            vcpus: self.note.vcpus,
            memory_resident_bytes: stats.memory_resident_bytes,
            memory_limit_bytes: self.note.memory_mib << 20,
            cpu_time_ns: stats.cpu_time_ns,
            cpu_percent: stats.cpu_time_ns as f64 / age.as_nanos().max(1) as f64 * 100.0,
            disk_read_bytes: sum(&DISKS, "bytes_to_guest"),
            disk_written_bytes: sum(&DISKS, "bytes_from_guest"),
            net_received_bytes: sum(&["net"], "bytes_to_guest"),
            net_sent_bytes: sum(&["net"], "bytes_from_guest"),
        }
    }
}

/// Asks all pods at once.
pub async fn ask_all(pods: &[Pod]) -> Vec<Answer> {
    let mut calls = JoinSet::new();
    for (index, pod) in pods.iter().cloned().enumerate() {
        calls.spawn(async move { (index, pod.ask().await) });
    }
    let mut answers = vec![Answer { state: "gone", stats: None }; pods.len()];
    while let Some(answered) = calls.join_next().await {
        if let Ok((index, answer)) = answered {
            answers[index] = answer;
        }
    }
    answers
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashMap;

    fn config(state_dir: &Path) -> Config {
        Config::parse(&format!("state_dir: {}", state_dir.display()), Path::new("test")).unwrap()
    }

    pub(crate) fn pod(root: &Path, namespace: &str, id: &str, name: Option<&str>) -> Pod {
        let config = config(root);
        let paths = PodPaths::new(&config.state_dir, namespace, id);
        std::fs::create_dir_all(paths.files().join("containers").join(id)).unwrap();
        let note = Note { name: name.map(str::to_owned), ..Note::new(namespace, id, &config, &HashMap::new()) };
        note.write(&paths).unwrap();
        Pod { note, paths }
    }

    #[test]
    fn pods_are_found_by_id_name_and_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        assert!(all(&config).unwrap().is_empty());
        pod(directory.path(), "default", "first", None);
        pod(directory.path(), "k8s.io", "fir", Some("shop/till"));
        pod(directory.path(), "k8s.io", &"9".repeat(80), None);
        std::fs::create_dir_all(directory.path().join("s/x")).unwrap();
        assert_eq!(all(&config).unwrap().len(), 3);
        assert_eq!(find(&config, "first").unwrap().note.namespace, "default");
        assert_eq!(find(&config, "fir").unwrap().note.namespace, "k8s.io");
        assert_eq!(find(&config, "shop/till").unwrap().note.id, "fir");
        assert_eq!(find(&config, "99").unwrap().note.id.len(), 80);
        assert!(matches!(find(&config, "fi"), Err(Failure::Ambiguous { candidates, .. }) if candidates.len() == 2));
        assert!(matches!(find(&config, "second"), Err(Failure::NoPod(_))));
        assert!(matches!(find(&config, ""), Err(Failure::NoPod(_))));
    }

    #[test]
    fn counters_of_devices_are_added_up_by_kind() {
        let directory = tempfile::tempdir().unwrap();
        let pod = pod(directory.path(), "default", "first", None);
        let devices =
            [("fs.bytes_to_guest", 5), ("blk0.bytes_to_guest", 6), ("net1.bytes_from_guest", 7), ("vsock.bytes_to_guest", 8)];
        let devices = devices.map(|(key, value)| (key.to_owned(), value)).into();
        let stats = StatsResponse { devices, memory_resident_bytes: 9, ..Default::default() };
        let view = pod.view(&Answer { state: "running", stats: Some(stats) });
        assert_eq!((view.disk_read_bytes, view.net_sent_bytes, view.memory_resident_bytes), (11, 7, 9));
        assert_eq!(view.containers, ["first"]);
        assert_eq!(view.memory_limit_bytes, 512 << 20);
    }

    #[test]
    fn a_pod_whose_machine_is_dead_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let pods = [pod(directory.path(), "default", "first", None)];
        let answers = runtime().unwrap().block_on(ask_all(&pods));
        assert_eq!(answers[0].state, "gone");
    }
}
