//! Joining an interface of the pod's namespace with a tap, and parting them. Everything here runs inside the namespace.

use std::io;

use nix::errno::Errno;
use paperboat_netlink::{Connection, LinkChange, Mac, NetlinkError};
use serde::{Deserialize, Serialize};

use super::snapshot::Interface;
use super::{NetworkError, sys};

/// An interface in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Number of the machine's slot.
    pub slot: u8,
    /// The tap's name.
    pub tap: String,
    /// The interface's name.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Mac,
}

impl Attachment {
    /// `interface` in slot number `slot`.
    pub fn new(slot: u8, interface: &Interface) -> Self {
        Self {
            slot,
            tap: format!("paperboat{slot}"),
            interface: interface.name.clone(),
            index: interface.index,
            mtu: interface.mtu,
            mac: interface.mac,
        }
    }

    /// Whether it is for that interface as it is now. Its addresses and its name may change under it, its MTU not.
    pub fn serves(&self, interface: &Interface) -> bool {
        (self.index, self.mtu, self.mac) == (interface.index, interface.mtu, interface.mac)
    }
}

/// Makes the tap, for several queues or for one, and joins it with the interface, both ways.
///
/// # Errors
/// [`NetworkError`]; what was made stays for [`detach`].
pub fn join(attachment: &Attachment, multi_queue: bool) -> Result<(), NetworkError> {
    let mut kernel = open()?;
    // First: who has this has the interface.
    if let Err(error) = kernel.add_ingress(attachment.index) {
        let taken = error.os_error() == Some(Errno::EEXIST as i32);
        return Err(if taken { NetworkError::Taken { interface: attachment.interface.clone() } } else { error.into() });
    }
    sys::make_tap(&attachment.tap, multi_queue)
        .map_err(|source| NetworkError::Io { what: format!("make tap {}", attachment.tap), source })?;
    let Some(tap) = kernel.links()?.into_iter().find(|link| link.name == attachment.tap) else {
        return Err(NetworkError::Io { what: format!("tap {}", attachment.tap), source: io::ErrorKind::NotFound.into() });
    };
    // The host's own stack has nothing to say on it.
    let setting = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", attachment.tap);
    if let Err(error) = std::fs::write(&setting, "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        log::debug!("{setting}: {error}");
    }
    kernel.add_ingress(tap.index)?;
    kernel.redirect(attachment.index, tap.index)?;
    kernel.redirect(tap.index, attachment.index)?;
    kernel.change_link(tap.index, &LinkChange { mtu: Some(attachment.mtu), up: Some(true), ..LinkChange::default() })?;
    Ok(())
}

/// Parts them and removes the tap. Every step may find its work done.
///
/// # Errors
/// [`NetworkError`], for the first step that failed; the others are done all the same.
pub fn detach(attachment: &Attachment) -> Result<(), NetworkError> {
    let mut kernel = open()?;
    let links = kernel.links()?;
    let mut first = Ok(());
    let mut done = |result: Result<(), NetlinkError>| {
        let gone = |error: &NetlinkError| {
            [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL].iter().any(|errno| error.os_error() == Some(*errno as i32))
        };
        if let Err(error) = result
            && !gone(&error)
            && first.is_ok()
        {
            first = Err(error);
        }
    };
    // A number is given again once its interface is gone; together with the hardware address it is this one.
    if let Some(link) = links.iter().find(|link| link.index == attachment.index && !link.tun) {
        done(kernel.remove_ingress(link.index));
    }
    if let Some(link) = links.iter().find(|link| link.name == attachment.tap && link.tun) {
        done(kernel.delete_link(link.index));
    }
    Ok(first?)
}

fn open() -> Result<Connection, NetworkError> {
    Connection::open().map_err(|source| NetworkError::Io { what: "rtnetlink".into(), source })
}
