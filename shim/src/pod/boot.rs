//! From nothing to a pod whose agent answers and whose first container exists.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;

use super::files::{claim_directory, prepare_files};
use super::{ConsoleTail, CreateOptions, MACHINE_END_GRACE, Pod, PodError, check_id};
use crate::agent::{self, Agent};
use crate::config::Config;
use crate::events::Publisher;
use crate::machine::{Counters, Machine, MachineEnd, MachineError};
use crate::network::{Network, NetworkError};
use crate::note::Note;
use crate::paths::PodPaths;
use crate::spec::Spec;
use crate::{cleanup, rootfs};

impl Pod {
    /// Boots a machine for the pod and creates its first container. Leaves nothing behind when it fails. `owner` is the Task API socket
    /// of this shim.
    pub async fn boot(
        config: &Config,
        namespace: &str,
        id: &str,
        owner: &Path,
        publisher: Publisher,
        options: CreateOptions,
    ) -> Result<Arc<Self>, PodError> {
        check_id(id)?;
        check_id(namespace)?;
        check_id(&options.id)?;
        let spec = Spec::load(Path::new(&options.bundle))?;
        let annotations = spec.annotations();
        let config = &config.with_annotations(annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let paths = PodPaths::new(&config.state_dir, namespace, id);
        claim_directory(&paths, owner)?;
        if let Err(error) = Note::new(namespace, id, config, annotations).write(&paths) {
            log::warn!("pod.json, for the paperboat command: {error}");
        }
        let booted = Self::boot_in(config, id, &paths, publisher, &spec, options).await;
        if booted.is_err()
            && let Err(error) = cleanup::remove_pod(&paths)
        {
            log::error!("{error}");
        }
        booted
    }

    async fn boot_in(
        config: &Config,
        id: &str,
        paths: &PodPaths,
        publisher: Publisher,
        spec: &Spec,
        options: CreateOptions,
    ) -> Result<Arc<Self>, PodError> {
        crate::logging::also_to(&paths.shim_log());
        if let Some(description) = &options.description {
            description.write_files(paths)?;
        }
        rootfs::mount_share(&paths.files(), &paths.share())?;
        if let Some(tools) = config.debug_tools.as_deref().filter(|_| config.debug_console) {
            rootfs::mount_debug_tools(tools, &paths.files(), &paths.share())?;
        }
        // What can fail early fails before a machine boots for nothing.
        let prepared = prepare_files(paths, spec, &options)?;
        let ready_socket = paths.ready_socket();
        let ready = UnixListener::bind(&ready_socket).map_err(|source| PodError::File { path: ready_socket, source })?;
        let machine = Machine::start(config, paths, id, spec).await?;
        let booted = async {
            let network = match Network::open(paths, &spec.network_namespace(), machine.pid()).await {
                Ok(network) => network,
                // The machine's namespace goes with it.
                Err(error @ NetworkError::Namespace(_)) => return Err(or_its_end(&machine, error.into()).await),
                Err(error) => return Err(error.into()),
            };
            Ok((network, boot_agent(config, paths, &machine, ready, spec).await?))
        };
        let (network, agent) = match booted.await {
            Ok(both) => both,
            Err(error) => {
                machine.expect_end();
                machine.kill().await;
                // Only now is the console complete.
                return Err(match error {
                    PodError::BootTimeout(limit, _) => PodError::BootTimeout(limit, ConsoleTail(machine.ended().await)),
                    other => other,
                });
            }
        };
        let pod = Arc::new(Self {
            id: id.into(),
            paths: paths.clone(),
            machine,
            network,
            agent,
            publisher,
            without_pause: options.description.is_some(),
            resolv_conf: spec.resolv_conf().map(Path::to_owned),
            resolver: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
        });
        log::info!(
            "agent ready kernel={} boot_id={} {}",
            pod.agent.kernel_release,
            pod.agent.boot_id,
            pod.machine.counters().await
        );
        pod.clone().watch_machine();
        pod.clone().watch_network();
        pod.clone().watch_files();
        if let Err(error) = pod.create_prepared(spec, prepared, options).await {
            pod.end_machine().await;
            return Err(error);
        }
        Ok(pod)
    }
}

/// Waits for the agent, for as long as the machine lives and the configuration allows.
async fn boot_agent(
    config: &Config,
    paths: &PodPaths,
    machine: &Machine,
    ready: UnixListener,
    spec: &Spec,
) -> Result<Agent, PodError> {
    let vsock = paths.vsock_socket();
    // A specification without a host name means the host's, as in a namespace nobody named.
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let hostname = if spec.hostname().is_empty() { host() } else { spec.hostname().to_owned() };
    let boot = async {
        agent::wait_ready(ready).await?;
        Agent::connect(&vsock, &hostname, spec.pod_sysctls()).await
    };
    let limit = config.boot_timeout();
    let booted = tokio::select! {
        booted = tokio::time::timeout(limit, boot) => booted,
        end = machine.ended() => return Err(MachineError::Ended(end).into()),
    };
    match booted {
        Ok(Ok(agent)) => Ok(agent),
        Ok(Err(error)) => Err(or_its_end(machine, error.into()).await),
        Err(_) => {
            let silent =
                MachineEnd { reason: String::new(), expected: true, console_tail: Vec::new(), counters: Counters::default() };
            Err(PodError::BootTimeout(limit, ConsoleTail(Arc::new(silent))))
        }
    }
}

/// The error, unless the machine has died: that explains more than the step that failed for it.
async fn or_its_end(machine: &Machine, error: PodError) -> PodError {
    match tokio::time::timeout(MACHINE_END_GRACE, machine.ended()).await {
        Ok(end) => MachineError::Ended(end).into(),
        Err(_) => error,
    }
}
