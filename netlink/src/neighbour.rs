//! Neighbours that somebody wrote down by hand.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Connection, Mac, NetlinkError, Verb};

/// A neighbour whose hardware address is fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Number of the interface.
    pub link: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

impl Connection {
    /// The permanent neighbours; those that the kernel found by itself are not among them.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers = self.list("list neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| if let RouteNetlinkMessage::NewNeighbour(message) = answer { parse(message) } else { None })
            .collect())
    }

    /// Adds a neighbour, or takes the place of what is known about it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let what = format!("add neighbour {}", neighbour.ip);
        self.ask(&what, Verb::Replace, RouteNetlinkMessage::NewNeighbour(message(neighbour)))
    }

    /// Removes a neighbour.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let what = format!("remove neighbour {}", neighbour.ip);
        self.ask(&what, Verb::Change, RouteNetlinkMessage::DelNeighbour(message(neighbour)))
    }
}

fn parse(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { link: message.header.ifindex, ip: ip?, mac: mac? })
}

fn message(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if neighbour.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = neighbour.link;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    let ip = match neighbour.ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    };
    message.attributes = vec![NeighbourAttribute::Destination(ip), NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec())];
    message
}
