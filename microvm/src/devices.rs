//! From what the user wants to the functions on the bridge.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::OFlag;
use paperboat_hypervisor::GuestRam;
use paperboat_protocol::SHARE_TAG;

use crate::machine::MachineError;
use crate::pci::PciFunction;
use crate::virtio::net::{NetError, Nic, SLOTS_MAX};
use crate::virtio::{self, VirtioPci};

/// Names of the network slots.
const NET_NAMES: [&str; SLOTS_MAX] = ["net0", "net1", "net2", "net3", "net4", "net5", "net6", "net7"];

/// Context id of a guest when none is given: the first that is not reserved (virtio 1.2 §5.10.4).
pub const DEFAULT_CID: u64 = 3;

/// The devices of a machine. The entropy device and the balloon are always there.
#[derive(Default)]
pub struct DeviceConfig {
    /// Directory shared with the guest, open as a path.
    pub share: Option<OwnedFd>,
    /// How the guest may remember the share.
    pub share_options: virtio::fs::ShareOptions,
    /// Rings when the guest should forget files of the share.
    pub forget_bell: Arc<virtio::fs::Bell>,
    /// Host socket and context id of vsock.
    pub vsock: Option<VsockConfig>,
    /// Network slots, in order.
    pub nics: Vec<Arc<Nic>>,
    /// The guest gets entropy and gives back free memory. Off for machines that are to be as small as can be.
    pub helpers: bool,
}

/// vsock's two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's context id.
    pub cid: u64,
    /// Where the host side listens.
    pub socket_path: PathBuf,
}

impl DeviceConfig {
    /// Opens the shared directory.
    ///
    /// # Errors
    /// [`MachineError::Device`] when it is no directory or not there.
    pub fn open_share(path: &str) -> Result<OwnedFd, MachineError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = File::options().read(true).custom_flags(flags.bits()).open(path);
        let named = |source: io::Error| io::Error::new(source.kind(), format!("shared directory {path}: {source}"));
        Ok(opened.map_err(|source| device_error("fs", named(source)))?.into())
    }

    /// Makes network slots, their links down.
    ///
    /// # Errors
    /// [`MachineError::Device`] when there are more than [`SLOTS_MAX`], or more queues than a slot may have.
    pub fn network_slots(count: u32, queue_pairs: u32) -> Result<Vec<Arc<Nic>>, MachineError> {
        if count as usize > SLOTS_MAX {
            return Err(device_error("net", NetError::Slots { slots: count }));
        }
        let slots = (0..count).map(|slot| Nic::new(slot, queue_pairs).map_err(|error| device_error("net", error)));
        slots.collect()
    }

    /// Makes the functions, in slot order.
    ///
    /// # Errors
    /// [`MachineError::Device`] names the device.
    pub fn make(self, ram: &GuestRam) -> Result<Vec<Arc<dyn PciFunction>>, MachineError> {
        let mut functions = Vec::new();
        let mut add = |name: &'static str, device: Box<dyn virtio::VirtioDevice>| {
            functions.push(VirtioPci::new(name, device, ram.clone()).map_err(|error| device_error(name, error))?);
            Ok::<(), MachineError>(())
        };
        if let Some(root) = self.share {
            let device = virtio::fs::FsDevice::new(SHARE_TAG, root, &self.share_options, self.forget_bell);
            add("fs", Box::new(device.map_err(|error| device_error("fs", error))?))?;
        }
        if let Some(vsock) = self.vsock {
            let device = virtio::vsock::VsockDevice::new(vsock.cid, &vsock.socket_path);
            add("vsock", Box::new(device.map_err(|error| device_error("vsock", error))?))?;
        }
        for (name, nic) in NET_NAMES.into_iter().zip(self.nics) {
            add(name, Box::new(virtio::net::NetDevice::new(nic)))?;
        }
        if self.helpers {
            add("rng", Box::new(virtio::rng::RngDevice::new()))?;
            add("balloon", Box::new(virtio::balloon::BalloonDevice::new()))?;
        }
        Ok(functions)
    }
}

pub(crate) fn device_error(name: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> MachineError {
    MachineError::Device { name, source: Box::new(source) }
}
