//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Connection, NetlinkError, Verb};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix_length: u8,
    /// The other end, of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// Where broadcasts go.
    pub broadcast: Option<Ipv4Addr>,
    /// 0 for the world, 253 for this link only, 254 for this machine only.
    pub scope: u8,
    /// The kernel adds no route for its network.
    pub no_prefix_route: bool,
}

impl Connection {
    /// All addresses of the namespace's interfaces, those left out that are being checked for duplicates and failed.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let answers = self.list("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| if let RouteNetlinkMessage::NewAddress(message) = answer { parse(message) } else { None })
            .collect())
    }

    /// Adds an address, at once and without the check for duplicates: the host's side made it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let what = format!("add address {}/{}", address.ip, address.prefix_length);
        self.ask(&what, Verb::Replace, RouteNetlinkMessage::NewAddress(message(address)))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let what = format!("remove address {}/{}", address.ip, address.prefix_length);
        self.ask(&what, Verb::Change, RouteNetlinkMessage::DelAddress(message(address)))
    }
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other, mut broadcast) = (None, None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IPv4 tells the address as local and the other end (or itself again) as address; IPv6 tells no local without an other end.
    let ip = local.or(other)?;
    Some(Address {
        link: message.header.index,
        ip,
        prefix_length: message.header.prefix_len,
        peer: other.filter(|other| *other != ip),
        broadcast,
        scope: message.header.scope.into(),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
    })
    .filter(|_| !flags.contains(AddressFlags::Dadfailed))
}

fn message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.prefix_length;
    message.header.index = address.link;
    message.header.scope = AddressScope::from(address.scope);
    let mut flags = AddressFlags::Permanent;
    if address.ip.is_ipv6() {
        flags |= AddressFlags::Nodad;
    }
    if address.no_prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    message.header.flags = AddressHeaderFlags::from_bits_truncate(flags.bits() as u8);
    message.attributes.push(AddressAttribute::Local(address.ip));
    message.attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.ip)));
    message.attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}
