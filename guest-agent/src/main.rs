//! Paperboat's guest agent: PID 1 of a pod's micro-VM. It readies the guest, answers the shim over vsock, makes containers in
//! single-threaded helper processes (this program once more, as `helper …`), pumps their streams, and reaps. Called `docker-init`, it is
//! the init of a container.
//!
//! `--listen-unix DIR` is for tests on a host, inside namespaces of their own: the same agent, reached through unix sockets
//! `DIR/port-N`, with `DIR/share` in place of the virtio-fs share. `--boot` after it readies a guest first, and turns it off at the
//! end: for tests in a machine without vsock and virtio-fs devices.

mod boot;
mod cgroup;
mod container;
mod debug;
mod forward;
mod helper;
mod init;
mod log;
mod mounts;
mod names;
mod network;
mod process;
mod reaper;
mod report;
mod resolver;
mod service;
mod slots;
mod streams;
mod sys;
mod sysctl;
mod transport;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use paperboat_protocol::agent_ttrpc::create_agent;
use paperboat_protocol::debug::DEBUG_PORT;
use paperboat_protocol::forward::FORWARD_PORT;
use paperboat_protocol::{AGENT_PORT, READY_MESSAGE, READY_PORT, SHARE_MOUNT, STREAM_PORT};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::container::Containers;
use crate::network::Network;
use crate::reaper::Reaper;
use crate::resolver::Resolver;
use crate::service::Service;
use crate::streams::Streams;
use crate::transport::Transport;

/// The agent's own directory in the guest.
const DIRECTORY: &str = "/run/paperboat/containers";

/// How often the host is told that the agent is ready: for two minutes, which is as long as a shim usually waits.
const READY_ATTEMPTS: usize = 60;

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
enum AgentFailure {
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("ttrpc server: {0}")]
    Server(#[from] ttrpc::Error),
}

/// What surrounds the agent.
struct Surroundings {
    transport: Transport,
    share: PathBuf,
    directory: PathBuf,
    /// Whether this is PID 1 of a machine of its own.
    owns_machine: bool,
}

fn main() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    // A container's PID 1 goes by that name, the guest's does not.
    if Path::new(&name).file_name().is_some_and(|name| name == init::NAME) {
        std::process::exit(init::main(&arguments));
    }
    let first = arguments.first().map(String::as_str);
    if first == Some("helper") {
        std::process::exit(helper::main(&arguments[1..]));
    }
    if first == Some(helper::cwd::COMMAND) {
        std::process::exit(helper::cwd::main(&arguments[1..]));
    }
    let pid_1 = std::process::id() == 1;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (owns_machine, ended) = match words[..] {
        ["--listen-unix", directory] => (false, with_unix_sockets(Path::new(directory), false)),
        ["--listen-unix", directory, "--boot"] if pid_1 => (true, with_unix_sockets(Path::new(directory), true)),
        // The kernel hands on words of its command line that it does not know.
        _ if pid_1 => (true, in_the_guest()),
        _ => {
            eprintln!("paperboat-agent is PID 1 of a Paperboat guest; on a host: paperboat-agent --listen-unix DIR");
            std::process::exit(2);
        }
    };
    if let Err(error) = &ended {
        crate::error!("fatal: {error}");
    }
    if !owns_machine {
        std::process::exit(i32::from(ended.is_err()));
    }
    // A PID 1 that returns would only panic the kernel, and one that stays would leave the pod hanging.
    let errno = boot::power_off();
    crate::error!("fatal: power off: {errno}");
    std::process::exit(1);
}

fn in_the_guest() -> Result<(), AgentFailure> {
    boot()?;
    let share = match boot::mount_share() {
        Ok(share) => share,
        Err(error) => {
            crate::error!("no share, so no containers: {error}");
            SHARE_MOUNT.into()
        }
    };
    serve(Surroundings { transport: Transport::Vsock, share, directory: DIRECTORY.into(), owns_machine: true })
}

fn with_unix_sockets(directory: &Path, owns_machine: bool) -> Result<(), AgentFailure> {
    if owns_machine {
        boot()?;
        let share = directory.join("share/containers");
        std::fs::create_dir_all(&share).map_err(|source| AgentFailure::Io { what: format!("{share:?}"), source })?;
    }
    serve(Surroundings {
        transport: Transport::Unix(directory.to_owned()),
        share: directory.join("share"),
        directory: directory.join("containers"),
        owns_machine,
    })
}

fn boot() -> Result<(), AgentFailure> {
    std::panic::set_hook(Box::new(|panic| {
        crate::error!("fatal: {panic}");
        boot::power_off();
    }));
    boot::set_up()?;
    crate::info!("booted version={}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Serves until it is asked to shut down. One thread: a second one would cost a small guest memory and its helpers nothing less.
fn serve(surroundings: Surroundings) -> Result<(), AgentFailure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| AgentFailure::Io { what, source }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(failed("runtime"))?;
    runtime.block_on(async {
        let reaper = Reaper::default();
        reaper.spawn().map_err(failed("watching for children"))?;
        let streams = Streams::default();
        let transport = surroundings.transport;
        let (shutdown, mut asked_to_shut_down) = mpsc::channel(1);
        if surroundings.owns_machine && debug::wanted() {
            let listener = transport.listen(DEBUG_PORT).map_err(failed("debug port"))?;
            tokio::spawn(debug::serve(listener, reaper.clone(), surroundings.share.clone()));
        }
        let service = Service {
            containers: Containers::new(surroundings.share, surroundings.directory, reaper, streams.clone()),
            owns_machine: surroundings.owns_machine,
            network: Network::default(),
            resolver: Resolver::new(transport.clone()),
            shutdown,
        };
        tokio::spawn(forward::serve(transport.listen(FORWARD_PORT).map_err(failed("forward port"))?));
        let stream_listener = transport.listen(STREAM_PORT).map_err(failed("stream port"))?;
        let agent_listener = transport.listen(AGENT_PORT).map_err(failed("agent port"))?;
        tokio::spawn(streams.serve(stream_listener));
        let mut server = ttrpc::asynchronous::Server::new()
            .add_listener(agent_listener.into_ttrpc())
            .register_service(create_agent(Arc::new(service)));
        server.start().await?;
        crate::info!("listening");
        say_ready(&transport).await;
        let _ = asked_to_shut_down.recv().await;
        crate::info!("shutting down");
        // Lets the answer to the request leave.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Ok(())
    })
}

/// Tells the host side that the services listen. A host that does not care for it can still call.
async fn say_ready(transport: &Transport) {
    let said = patiently(|| async {
        let mut host = transport.connect_host(READY_PORT).await?;
        host.write_all(READY_MESSAGE).await?;
        host.shutdown().await
    });
    if let Err(error) = said.await {
        crate::warn!("nobody to tell ready: {error}");
    }
}

/// Tries again when a time limit has passed: the kernel gives a connection two seconds (`VSOCK_DEFAULT_CONNECT_TIMEOUT`), which a host
/// with many pods to start may not have.
async fn patiently<F: Future<Output = std::io::Result<()>>>(mut attempt: impl FnMut() -> F) -> std::io::Result<()> {
    for _ in 1..READY_ATTEMPTS {
        match attempt().await {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                crate::info!("telling ready took too long: trying again")
            }
            said => return said,
        }
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::ErrorKind;

    use super::*;

    /// How many attempts are made, and what comes of them, when they end like this and the last way again and again.
    async fn attempts(ends: &[Result<(), ErrorKind>]) -> (usize, Result<(), ErrorKind>) {
        let made = Cell::new(0);
        let outcome = patiently(|| {
            let end = ends[made.get().min(ends.len() - 1)];
            made.set(made.get() + 1);
            async move { end.map_err(Into::into) }
        });
        let outcome = outcome.await.map_err(|error| error.kind());
        (made.get(), outcome)
    }

    #[tokio::test]
    async fn a_busy_host_is_told_again_and_one_that_does_not_listen_is_not() {
        assert_eq!(attempts(&[Ok(())]).await, (1, Ok(())));
        assert_eq!(attempts(&[Err(ErrorKind::TimedOut), Err(ErrorKind::TimedOut), Ok(())]).await, (3, Ok(())));
        assert_eq!(attempts(&[Err(ErrorKind::ConnectionReset)]).await, (1, Err(ErrorKind::ConnectionReset)));
        assert_eq!(attempts(&[Err(ErrorKind::TimedOut)]).await, (READY_ATTEMPTS, Err(ErrorKind::TimedOut)));
    }
}
