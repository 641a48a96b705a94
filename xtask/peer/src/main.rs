//! Far sides that the benchmark of devices needs.
//!
//! `paperboat-bench-peer files SOCKET DIRECTORY` serves a directory over vhost-user with the server, the threads and the queues of virtiofsd,
//! to one powerpc guest of QEMU, until QEMU goes. virtiofsd's own program cannot: a powerpc guest's open flags are not this host's, so
//! the file system stands behind Paperboat's translation of them.
//!
//! `paperboat-bench-peer streams (unix PATH | tcp ADDRESS:PORT)` is what guests send to and receive from, see `images/streams.c`.

#![forbid(unsafe_code)]

mod adapted;
mod streams;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use adapted::Adapted;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["files", socket, directory] => files(socket, directory),
        ["streams", "unix", path] => streams::serve_unix(path),
        ["streams", "tcp", address] => streams::serve_tcp(address),
        _ => bail!("usage: paperboat-bench-peer files SOCKET DIRECTORY | streams unix PATH | streams tcp ADDRESS:PORT"),
    }
}

fn files(socket: &str, directory: &str) -> Result<()> {
    let config = Config {
        root_dir: directory.to_owned(),
        // As the machine's own share is set up.
        cache_policy: CachePolicy::Auto,
        announce_submounts: true,
        xattr: true,
        readdirplus: true,
        killpriv_v2: true,
        ..Config::default()
    };
    // The guest's kernel has applied its umask already.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let fs = PassthroughFs::new(config).context("set up the file system")?;
    let backend = VhostUserFsBackendBuilder::default().build(Adapted::new(fs)).map_err(|error| anyhow!("{error}"))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut listener = Listener::new(socket, true).with_context(|| format!("listen at {socket}"))?;
    let mut daemon = VhostUserDaemon::new("peer".to_owned(), Arc::new(backend), memory)
        .map_err(|error| anyhow!("start the daemon: {error}"))?;
    daemon.start(&mut listener).map_err(|error| anyhow!("accept QEMU: {error}"))?;
    match daemon.wait() {
        Ok(()) | Err(DaemonError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => Ok(()),
        Err(error) => bail!("serve QEMU: {error}"),
    }
}
