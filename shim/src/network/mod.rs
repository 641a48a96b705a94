//! The pod's network: what its namespace on the host holds, the guest gets.
//!
//! 1. [`namespace`]: the machine's process lives in the pod's network namespace and stands for it. Whoever sets the network up (CNI, Docker,
//!    a hook) puts interfaces there.
//! 2. [`snapshot`] reads them with all that belongs to them.
//! 3. [`attach`] joins each with a tap that the machine serves as one of its network slots: what arrives at one leaves through the other.
//!    [`note`] remembers what was made, for the end and for `delete`.
//! 4. [`message`] tells the guest's agent, which gives the slot the interface's name, addresses, routes and neighbours.
//!
//! [`Network::refresh`] does 2 to 4 for the difference to what was there before, at every start of a container and whenever the namespace
//! changes: interfaces may come and go at any time (`docker network connect`).
//!
//! [`forward`] leads the namespace's localhost into the guest.

pub mod attach;
pub mod forward;
pub mod message;
pub mod namespace;
pub mod note;
pub mod resolver;
pub mod snapshot;
pub(crate) mod steer;
pub(crate) mod sys;

use std::time::Duration;

use tokio::sync::Mutex;

use crate::agent::{Agent, AgentError};
use crate::machine::{Machine, MachineError};
use crate::paths::PodPaths;
use crate::spec::NetworkNamespace;
use attach::Attachment;
use forward::Forward;
use namespace::{Changes, Namespace, NamespaceError};
use note::Note;
use paperboat_netlink::{Connection, LinkChange, NetlinkError};
use snapshot::Snapshot;

/// Network slots that a machine is born with; they cost nothing but their place while nothing is bound to them.
pub const SLOTS: u8 = 4;

/// Set-up tools change one thing after the other: the namespace is looked at once it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(30);

/// Why the guest does not have the pod's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a request.
    #[error("pod network: {0}")]
    Netlink(#[from] NetlinkError),
    /// A step failed.
    #[error("pod network: {what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another machine has the interface.
    #[error(
        "pod network: interface {interface} serves another micro-VM or has filters of its own: a network namespace belongs to one pod; \
         containers that are to share one belong in one pod"
    )]
    Taken {
        /// Its name.
        interface: String,
    },
    /// The host's own namespace.
    #[error(
        "pod network: {} is the host's own network namespace, which a micro-VM cannot share: give the pod a namespace of its own, and publish \
         ports",
        path.display()
    )]
    Host {
        /// Its file.
        path: std::path::PathBuf,
    },
    /// More interfaces than the machine has slots.
    #[error("pod network: no slot for interface {interface}: a machine has {SLOTS}")]
    NoSlot {
        /// Its name.
        interface: String,
    },
    /// The machine refused a tap.
    #[error("pod network: {0}")]
    Machine(#[from] MachineError),
    /// The agent refused the description.
    #[error("pod network: {0}")]
    Agent(#[from] AgentError),
}

/// What is in force.
#[derive(Default)]
struct State {
    attachments: Vec<Attachment>,
    /// What the agent was told last.
    told: Option<Snapshot>,
    closed: bool,
    /// Absent where the host's kernel cannot do it.
    forward: Option<Forward>,
}

/// The network of one pod.
pub struct Network {
    namespace: Namespace,
    paths: PodPaths,
    changes: Changes,
    state: Mutex<State>,
}

impl Network {
    /// The network of the pod whose machine is process `pid`; nothing is read or changed yet.
    ///
    /// # Errors
    /// [`NetworkError`] when the namespace cannot be entered.
    pub async fn open(paths: &PodPaths, wanted: &NetworkNamespace, pid: u32) -> Result<Self, NetworkError> {
        let namespace = Namespace::of_process(pid)?;
        let changes = namespace.changes().await?;
        match wanted {
            NetworkNamespace::Path(path) if is_hosts(&namespace)? => return Err(NetworkError::Host { path: path.clone() }),
            // A namespace that outlives the machine is tidied up by `delete` too.
            NetworkNamespace::Path(path) => Note::new(path, &namespace)?.write(paths)?,
            NetworkNamespace::Fresh => namespace.run(bring_up_loopback).await??,
        }
        let forward = Forward::open(&namespace, &paths.vsock_socket()).await;
        if let Err(error) = &forward {
            log::warn!(
                "connections to localhost of the pod's network namespace (kubectl port-forward) do not reach its containers: {error}; \
                 the host's kernel has to have BPF socket lookup: Linux 5.9 with CONFIG_BPF_SYSCALL and CONFIG_BPF_STREAM_PARSER"
            );
        }
        let state = State { forward: forward.ok(), ..State::default() };
        Ok(Self { namespace, paths: paths.clone(), changes, state: Mutex::new(state) })
    }

    /// Gives the guest what the namespace holds now.
    ///
    /// # Errors
    /// [`NetworkError`]; what could be done is done.
    pub async fn refresh(&self, machine: &Machine, agent: &Agent) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        if state.closed {
            return Ok(());
        }
        let now = self.namespace.run(snapshot::read).await??;
        if state.told.as_ref() == Some(&now) {
            return Ok(());
        }
        let State { attachments, told, .. } = &mut *state;
        let multi_queue = machine.queue_pairs() > 1;
        let gone: Vec<u8> =
            attachments.iter().filter(|old| !now.interfaces.iter().any(|new| old.serves(new))).map(|old| old.slot).collect();
        for slot in gone {
            machine.unbind_nic(slot.into()).await?;
            if let Some(place) = attachments.iter().position(|old| old.slot == slot) {
                let old = attachments.swap_remove(place);
                log::info!("network interface {} left slot {slot}", old.interface);
                self.namespace.run(move || attach::detach(&old)).await??;
                note::strike(&self.paths, slot)?;
            }
        }
        for interface in &now.interfaces {
            if attachments.iter().any(|old| old.serves(interface)) {
                continue;
            }
            let free = (0..SLOTS).find(|slot| !attachments.iter().any(|old| old.slot == *slot));
            let slot = free.ok_or_else(|| NetworkError::NoSlot { interface: interface.name.clone() })?;
            let attachment = Attachment::new(slot, interface);
            note::add(&self.paths, &attachment)?;
            attachments.push(attachment.clone());
            let joined = self.namespace.run({
                let attachment = attachment.clone();
                move || attach::join(&attachment, multi_queue)
            });
            let bound = match joined.await? {
                Ok(()) => machine.bind_nic(slot.into(), &attachment.tap, interface.mtu).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            if let Err(error) = bound {
                attachments.retain(|old| old.slot != slot);
                // One that was taken before stays as it is.
                if !matches!(error, NetworkError::Taken { .. }) {
                    let _ = self.namespace.run(move || attach::detach(&attachment)).await;
                }
                note::strike(&self.paths, slot)?;
                return Err(error);
            }
            log::info!("network interface {} is in slot {slot}", interface.name);
        }
        agent.set_network(message::of(&now, attachments)).await?;
        *told = Some(now);
        Ok(())
    }

    /// Returns once the namespace has changed and come to rest.
    ///
    /// # Errors
    /// [`NetworkError`] when changes can no longer be heard of.
    pub async fn changed(&self) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Io { what: "listen for changes".into(), source };
        self.changes.next().await.map_err(failed)?;
        while tokio::time::timeout(QUIET, self.changes.next()).await.is_ok_and(|news| news.is_ok()) {}
        Ok(())
    }

    /// Removes what was made in the namespace. The machine has ended.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        state.forward = None;
        for attachment in state.attachments.drain(..) {
            match self.namespace.run(move || attach::detach(&attachment)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) | Err(error) => log::warn!("{error}"),
            }
        }
    }
}

/// Whether it is the namespace of this process, which containerd gave it, or of the host's first process.
fn is_hosts(namespace: &Namespace) -> Result<bool, NetworkError> {
    let failed = |source| NetworkError::Io { what: "network namespace".into(), source };
    let identity = namespace.identity().map_err(failed)?;
    let same = |path: &str| {
        let other = Namespace::at(path.into()).ok().and_then(|other| other.identity().ok());
        other == Some(identity)
    };
    Ok(same("/proc/self/ns/net") || same("/proc/1/ns/net"))
}

/// Whoever makes a namespace brings its loopback interface up.
fn bring_up_loopback() -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Io { what: "rtnetlink".into(), source };
    let mut kernel = Connection::open().map_err(failed)?;
    for link in kernel.links()?.iter().filter(|link| link.loopback) {
        kernel.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    }
    Ok(())
}
