//! Interfaces.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use crate::{Connection, Mac, NetlinkError, Verb};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of Ethernet's size.
    pub mac: Option<Mac>,
    /// The hardware address it was born with.
    pub permanent_mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it speaks Ethernet.
    pub ethernet: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether it was brought up.
    pub up: bool,
    /// Whether it is a part of another interface: port of a bridge, member of a bond.
    pub enslaved: bool,
    /// Whether it is a tun or tap.
    pub tun: bool,
}

/// What is to be different about an interface; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// New name; only while it is down.
    pub name: Option<&'a str>,
    /// New hardware address.
    pub mac: Option<Mac>,
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// Up or down.
    pub up: Option<bool>,
}

impl Connection {
    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.list("list interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| if let RouteNetlinkMessage::NewLink(message) = answer { Some(parse(message)) } else { None })
            .collect())
    }

    /// Changes interface `index`.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message.attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
        message.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        self.ask(&format!("change interface {index} ({change:?})"), Verb::Change, RouteNetlinkMessage::SetLink(message))
    }

    /// Removes interface `index`.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.ask(&format!("remove interface {index}"), Verb::Change, RouteNetlinkMessage::DelLink(message))
    }
}

fn parse(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::PermAddress(bytes) => link.permanent_mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(_) => link.enslaved = true,
            LinkAttribute::LinkInfo(infos) => link.tun = infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
            _ => {}
        }
    }
    link
}
