//! The socket device (virtio 1.2 §5.10) in user space: streams between the guest and unix sockets of the host.
//!
//! - Host to guest: connect to the device's socket, send `CONNECT <port>\n`. Once the guest's listener accepted, `OK <host port>\n`
//!   comes back and raw bytes follow. A port nobody listens on closes the connection. Before the guest's driver is up
//!   a client simply waits.
//! - Guest to host: a connection to context id 2, port P, is connected to the unix socket `<device's socket>_P`; it is
//!   reset when nobody listens there.
//!
//! One thread serves everything but packets of the guest that ask for no connection, see `muxer`.

mod connection;
mod muxer;
mod packet;
mod shared;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::worker::Workers;
use super::{Activation, DirectService, VirtioDevice, VirtioError, copy_config};
use muxer::Muxer;
use shared::Shared;

const DEVICE_TYPE: u16 = 19;
/// "Communication controller, other".
const CLASS_CODE: u32 = 0x07_80_00;
/// Entries of each queue: receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Smallest context id a guest may have (virtio 1.2 §5.10.4).
const FIRST_GUEST_CID: u64 = 3;

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The context id is reserved or does not fit 32 bits.
    #[error("context id {cid}: must be from {FIRST_GUEST_CID} to 4294967294")]
    Cid {
        /// The id asked for.
        cid: u64,
    },
    /// The listening socket could not be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Counters beside the transport's.
#[derive(Debug, Default)]
pub(super) struct VsockCounters {
    pub(super) open: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) resets_sent: AtomicU64,
}

/// The socket device.
pub struct VsockDevice {
    cid: u64,
    path: PathBuf,
    listener: Arc<UnixListener>,
    counters: Arc<VsockCounters>,
    workers: Workers,
    muxer: Option<Arc<Shared>>,
    removed: bool,
}

impl VsockDevice {
    /// A device whose guest has context id `cid`, reached from the host at the unix socket `socket_path`, which must not exist yet.
    ///
    /// # Errors
    /// [`VsockError`] names the id or the path.
    pub fn new(cid: u64, socket_path: &Path) -> Result<Self, VsockError> {
        if cid < FIRST_GUEST_CID || cid >= u64::from(u32::MAX) {
            return Err(VsockError::Cid { cid });
        }
        let failed = |source| VsockError::Listen { path: socket_path.to_owned(), source };
        let listener = UnixListener::bind(socket_path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            cid,
            path: socket_path.to_owned(),
            listener: Arc::new(listener),
            counters: Arc::default(),
            workers: Workers::default(),
            muxer: None,
            removed: false,
        })
    }

    fn remove_socket(&mut self) {
        if !std::mem::replace(&mut self.removed, true)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class_code(&self) -> u32 {
        CLASS_CODE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        copy_config(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), VirtioError> {
        let receive = activation.take_queue(RECEIVE_QUEUE)?;
        let transmit = activation.take_queue(TRANSMIT_QUEUE)?;
        // The event queue only carries "transport reset" (§5.10.6.7): nothing here migrates.
        let listener = Arc::clone(&self.listener);
        let counters = Arc::clone(&self.counters);
        let (cid, path) = (self.cid, self.path.clone());
        let failed = |source| VirtioError::Descriptor { device: "vsock".into(), what: "epoll", source };
        let muxer = Muxer::new(cid, path, listener, counters, receive, transmit).map_err(failed)?;
        let shared = Arc::new(Shared::new(muxer));
        self.muxer = Some(Arc::clone(&shared));
        self.workers.spawn("vsock", move |stop| match shared.watch(&stop) {
            Ok(()) => shared.run(&stop),
            Err(error) => log::error!("vsock cannot be served: {error}"),
        })
    }

    fn direct(&self, index: u16) -> Option<Arc<dyn DirectService>> {
        let muxer = self.muxer.as_ref().filter(|_| index == TRANSMIT_QUEUE)?;
        Some(Arc::clone(muxer) as Arc<dyn DirectService>)
    }

    fn reset(&mut self) {
        self.workers.stop();
        if let Some(muxer) = self.muxer.take() {
            muxer.close();
        }
        self.counters.open.store(0, Ordering::Relaxed);
    }

    fn shutdown(&mut self) {
        self.reset();
        self.remove_socket();
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("connections_open", read(&self.counters.open)),
            ("connections_opened", read(&self.counters.opened)),
            ("connections_refused", read(&self.counters.refused)),
            ("resets_sent", read(&self.counters.resets_sent)),
        ]
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.workers.stop();
        self.remove_socket();
    }
}

#[cfg(test)]
mod tests;
