//! From the namespace's localhost to the guest's: `kubectl port-forward`, and whoever else on the host dials localhost inside the pod's
//! network namespace, means the pod's containers.
//!
//! Two listeners live in the namespace; `steer` brings every TCP connection to localhost to them. Each is carried on over vsock to
//! the agent, which dials the same port of the guest's localhost.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use paperboat_protocol::forward::{ANSWER_MAX, FORWARD_PORT, GRANTED};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::namespace::Namespace;
use super::{NetworkError, steer};
use crate::agent;

/// Connections of one listener at once; more wait in its backlog.
const CONNECTIONS_MAX: usize = 128;

/// Bytes moved at once, each way.
const BUFFER_BYTES: usize = 64 << 10;

/// The guest dials its own localhost: that takes no time, even on a busy software CPU.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a connection that could not be accepted: out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Localhost of a namespace, leading into the guest as long as this lives.
pub struct Forward {
    // First: no connection comes to a listener that is not served any more.
    _steering: OwnedFd,
    _serving: JoinSet<()>,
}

impl Forward {
    /// Opens it. `vsock` is the host side of the guest's vsock.
    ///
    /// # Errors
    /// [`NetworkError`] when the host's kernel cannot do that.
    pub async fn open(namespace: &Namespace, vsock: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Io { what: "listen in the pod's network namespace".into(), source };
        let bound = namespace.run(|| {
            let v4 = bind((Ipv4Addr::LOCALHOST, 0).into())?;
            // A host without IPv6 has none in its namespaces.
            Ok((v4, bind((Ipv6Addr::LOCALHOST, 0).into()).ok()))
        });
        let (v4, v6) = bound.await?.map_err(failed)?;
        let steering = steer::localhost(namespace.as_fd(), v4.as_fd(), v6.as_ref().map(AsFd::as_fd))
            .map_err(|(what, source)| NetworkError::Io { what: what.into(), source })?;
        let mut serving = JoinSet::new();
        for listener in [Some(v4), v6].into_iter().flatten() {
            serving.spawn(serve(TcpListener::from_std(listener).map_err(failed)?, vsock.to_owned()));
        }
        Ok(Self { _steering: steering, _serving: serving })
    }
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(listener: TcpListener, vsock: PathBuf) {
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(carry(stream, vsock.clone()))),
            Err(error) => {
                log::warn!("a connection to the pod's localhost: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Carries one connection until both sides have ended it. A caller whose port nobody serves in the guest finds the connection reset.
async fn carry(mut caller: TcpStream, vsock: PathBuf) {
    let Ok(called) = caller.local_addr() else { return };
    match dial(&vsock, called).await {
        Ok(mut guest) => {
            let _ = copy_bidirectional_with_sizes(&mut caller, &mut guest, BUFFER_BYTES, BUFFER_BYTES).await;
        }
        Err(error) => {
            log::info!("connection to {called} of the pod: {error}");
            let _ = caller.set_zero_linger();
        }
    }
}

/// A connection to that address of the guest's localhost.
async fn dial(vsock: &Path, called: SocketAddr) -> std::io::Result<tokio::net::UnixStream> {
    let attempt = async {
        let mut guest = agent::connect(vsock, FORWARD_PORT).await.map_err(std::io::Error::other)?;
        guest.write_all(format!("{called}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            if answer.len() == ANSWER_MAX {
                return Err(std::io::Error::other("the guest's answer does not end"));
            }
            answer.push(guest.read_u8().await?);
        }
        if answer == GRANTED {
            return Ok(guest);
        }
        Err(std::io::Error::other(agent::harmless(String::from_utf8_lossy(&answer).trim_end())))
    };
    tokio::time::timeout(DIAL_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
