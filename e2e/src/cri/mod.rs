//! Kubernetes' side of containerd: its CRI plugin, spoken to as a kubelet does.

mod client;
pub mod stream;
mod proto {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub use client::CallError;
pub use proto::cri as message;
use stream::Stream;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use message::{
    ContainerConfig, ContainerRequest, ContainerState, ContainerStatus, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ExecSyncRequest, ExecSyncResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Nothing,
    PodSandboxConfig, PodSandboxRequest, PodSandboxStatus, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    RunPodSandboxRequest, RunPodSandboxResponse, StopContainerRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::{Message, MessageField};

use crate::host::{Host, Setup, image};
use crate::products::{self, Containerd};
use crate::{Error, io};
use client::Client;

/// containerd's namespace for all that comes by CRI.
pub const NAMESPACE: &str = "k8s.io";

/// The runtime handler of this project's runtime; [`RUNC`] is beside it.
pub const HANDLER: &str = "paperboat";

/// The same by containerd's sandbox API, which 2.x has.
pub const HANDLER_BY_API: &str = "paperboat-by-api";

/// The runtime of pods that ask for none.
pub const RUNC: &str = "runc";

/// Set to `shim`, pods come by the sandbox API.
const SANDBOXER: &str = "PAPERBOAT_E2E_SANDBOXER";

/// The plugin notices an image within this time, and a container its end.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// A node: containerd with its CRI plugin, CNI networks and two runtimes.
pub struct Node {
    handler: &'static str,
    client: Client,
    host: Host,
}

/// A pod of a node.
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub config: PodSandboxConfig,
}

impl Node {
    /// Starts containerd with the plugin and imports the pause and busybox images.
    pub fn start(containerd: Containerd) -> Result<Self, Error> {
        Self::start_with(containerd, "")
    }

    /// The same, with lines of the runtime's configuration.
    pub fn start_with(containerd: Containerd, configuration: &str) -> Result<Self, Error> {
        let cri = plugin_configuration(containerd)?;
        let setup = Setup { containerd, configuration: configuration.into(), cri: Some(cri) };
        let host = Host::start_bare(&setup)?;
        let networks = host.directory().join("cni");
        std::fs::create_dir_all(&networks).map_err(io("directory of networks"))?;
        let network = NETWORK.replace("@DIRECTORY@", &host.directory().display().to_string());
        std::fs::write(networks.join("10-pods.conflist"), network).map_err(io("network"))?;
        let client = Client::connect(&host.directory().join("c.sock"))?;
        let by_api = std::env::var(SANDBOXER).is_ok_and(|value| value == "shim");
        let node = Self { handler: if by_api { HANDLER_BY_API } else { HANDLER }, client, host };
        let pause = pause_image();
        node.import_platform(pause, if pause == PAUSE_OF_HOST { HOST_PLATFORM } else { GUEST_PLATFORM })?;
        node.import("busybox")?;
        Ok(node)
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The runtime handler of its pods.
    pub fn handler(&self) -> &'static str {
        self.handler
    }

    /// Kills containerd and starts it again.
    pub fn restart(&mut self) -> Result<(), Error> {
        let pid = i32::try_from(self.host.containerd_pid()).unwrap_or_default();
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|errno| io("kill containerd")(errno.into()))?;
        self.host.wait_for_containerds_end()?;
        self.host.restart_containerd()?;
        self.client = Client::connect(&self.host.directory().join("c.sock"))?;
        // The plugin takes up its pods before it answers.
        let deadline = Instant::now() + NOTICE_TIMEOUT;
        while let Err(error) = self.call::<Nothing>("Status", &Nothing::default()) {
            if Instant::now() > deadline {
                return Err(error.into());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// A directory for the logs of pods.
    pub fn log_directory(&self) -> PathBuf {
        self.host.directory().join("logs")
    }

    /// Imports an image for the guests, and waits until the plugin knows it.
    pub fn import(&self, name: &str) -> Result<(), Error> {
        self.import_platform(name, GUEST_PLATFORM)
    }

    /// The same for any platform.
    pub fn import_platform(&self, name: &str, platform: &str) -> Result<(), Error> {
        self.host.import_into(NAMESPACE, name, platform)?;
        let request = ImageStatusRequest { image: MessageField::some(image_spec(name)), ..Default::default() };
        self.wait_for(&format!("image {name}"), || {
            let answer: ImageStatusResponse = self.client.call("ImageService", "ImageStatus", &request)?;
            Ok(answer.image.is_some().then_some(()))
        })
    }

    /// Any call of the runtime service.
    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, CallError> {
        self.client.call("RuntimeService", method, request)
    }

    /// Starts a pod with this project's runtime.
    pub fn run_pod(&self, config: PodSandboxConfig) -> Result<Pod, CallError> {
        self.run_pod_with(self.handler, config)
    }

    /// Starts a pod with the runtime of a handler.
    pub fn run_pod_with(&self, handler: &str, config: PodSandboxConfig) -> Result<Pod, CallError> {
        let request = RunPodSandboxRequest {
            config: MessageField::some(config.clone()),
            runtime_handler: handler.into(),
            ..Default::default()
        };
        let answer: RunPodSandboxResponse = self.call("RunPodSandbox", &request)?;
        Ok(Pod { id: answer.pod_sandbox_id, config })
    }

    /// State and address of a pod.
    pub fn pod_status(&self, pod: &Pod) -> Result<PodSandboxStatus, CallError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", &request)?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Stops and removes a pod with all in it.
    pub fn remove_pod(&self, pod: &Pod) -> Result<(), CallError> {
        let request = PodSandboxRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let _: Nothing = self.call("StopPodSandbox", &request)?;
        let _: Nothing = self.call("RemovePodSandbox", &request)?;
        Ok(())
    }

    /// Creates a container; returns its id.
    pub fn create(&self, pod: &Pod, config: ContainerConfig) -> Result<String, CallError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: MessageField::some(config),
            sandbox_config: MessageField::some(pod.config.clone()),
            ..Default::default()
        };
        let answer: CreateContainerResponse = self.call("CreateContainer", &request)?;
        Ok(answer.container_id)
    }

    /// Creates and starts a container; returns its id.
    pub fn run(&self, pod: &Pod, config: ContainerConfig) -> Result<String, CallError> {
        let id = self.create(pod, config)?;
        self.start_container(&id)?;
        Ok(id)
    }

    /// Starts a created container.
    pub fn start_container(&self, id: &str) -> Result<(), CallError> {
        self.call::<Nothing>("StartContainer", &container(id)).map(drop)
    }

    /// Stops a container, by force after `timeout_s` seconds.
    pub fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), CallError> {
        let request = StopContainerRequest { container_id: id.into(), timeout: timeout_s, ..Default::default() };
        self.call::<Nothing>("StopContainer", &request).map(drop)
    }

    /// Removes a container.
    pub fn remove_container(&self, id: &str) -> Result<(), CallError> {
        self.call::<Nothing>("RemoveContainer", &container(id)).map(drop)
    }

    /// State of a container.
    pub fn status(&self, id: &str) -> Result<ContainerStatus, CallError> {
        let answer: ContainerStatusResponse = self.call("ContainerStatus", &container(id))?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Waits for a container's end.
    pub fn wait(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.wait_for(&format!("the end of container {id}"), || {
            let status = self.status(id)?;
            Ok((status.state.enum_value() == Ok(ContainerState::CONTAINER_EXITED)).then_some(status))
        })
    }

    /// Runs a command in a container to its end; `timeout_s` of 0 means no limit.
    pub fn exec(&self, id: &str, command: &[&str], timeout_s: i64) -> Result<ExecSyncResponse, CallError> {
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: command.iter().map(|&word| word.into()).collect(),
            timeout: timeout_s,
            ..Default::default()
        };
        self.call("ExecSync", &request)
    }

    /// Opens the stream that the answer to Exec, Attach or PortForward names.
    pub fn stream(&self, method: &str, request: &impl Message) -> Result<Stream, Error> {
        let answer: message::StreamingResponse = self.call(method, request)?;
        Stream::open(&self.host, &answer.url)
    }

    /// Opens a connection to a port of the pod's localhost.
    pub fn forward(&self, pod: &Pod, port: u16) -> Result<Stream, Error> {
        let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![i32::from(port)], ..Default::default() };
        let answer: message::StreamingResponse = self.call("PortForward", &request)?;
        Stream::open(&self.host, &format!("{}?port={port}", answer.url))
    }

    /// The lines of a container's log, each without its time: `STREAM TAG TEXT`.
    pub fn log_lines(&self, name: &str) -> Result<Vec<String>, Error> {
        let path = self.log_directory().join(name);
        let text = std::fs::read_to_string(&path).map_err(io(path.display().to_string()))?;
        Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest.to_owned()).collect())
    }

    /// Asks until there is an answer.
    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>, CallError>) -> Result<T, Error> {
        let deadline = Instant::now() + NOTICE_TIMEOUT;
        loop {
            if let Some(seen) = look()? {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return Err(Error::Command { command: format!("waiting for {what}"), output: self.host.log() });
            }
            thread::sleep(POLL);
        }
    }

    /// A pod's description: its name, its logs, its cgroup among those that the leak check looks at.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        let metadata = message::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            ..Default::default()
        };
        let linux = message::LinuxPodSandboxConfig { cgroup_parent: format!("/{}", self.host.namespace()), ..Default::default() };
        PodSandboxConfig {
            metadata: MessageField::some(metadata),
            hostname: name.into(),
            log_directory: self.log_directory().display().to_string(),
            linux: MessageField::some(linux),
            ..Default::default()
        }
    }
}

/// Description of a busybox container with a log `NAME.log`.
pub fn container_config(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: MessageField::some(message::ContainerMetadata { name: name.into(), ..Default::default() }),
        image: MessageField::some(image_spec("busybox")),
        command: command.iter().map(|&word| word.into()).collect(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

/// A request about a container.
pub fn container(id: &str) -> ContainerRequest {
    ContainerRequest { container_id: id.into(), ..Default::default() }
}

/// An image of this project.
pub fn image_spec(name: &str) -> ImageSpec {
    ImageSpec { image: image(name), ..Default::default() }
}

/// A bridge in containerd's own network namespace.
const NETWORK: &str = r#"{
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [{
        "type": "bridge", "bridge": "pods0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": "@DIRECTORY@/ipam",
            "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]
        }
    }]
}"#;

/// What guests run.
const GUEST_PLATFORM: &str = "linux/ppc64le";

/// What runs beside them.
pub const HOST_PLATFORM: &str = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { GUEST_PLATFORM };

/// The pause image of hosts that are not of the guests' architecture.
const PAUSE_OF_HOST: &str = "pause-host";

/// The host's own pause image: other runtimes execute it, this one does not.
fn pause_image() -> &'static str {
    if HOST_PLATFORM == GUEST_PLATFORM { "pause" } else { PAUSE_OF_HOST }
}

fn plugin_configuration(containerd: Containerd) -> Result<String, Error> {
    let plugins = products::cni()?;
    let by_api = match containerd {
        Containerd::V2 => format!(
            r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER_BY_API}]
runtime_type = "io.containerd.paperboat.v1"
sandboxer = "shim"
privileged_without_host_devices = true
"#
        ),
        _ => String::new(),
    };
    Ok(format!(
        r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE nobody may lower it.
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "@DIRECTORY@/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{RUNC}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{RUNC}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER}]
runtime_type = "io.containerd.paperboat.v1"
privileged_without_host_devices = true
{by_api}"#,
        pause = image(pause_image()),
        plugins = plugins.display(),
    ))
}
