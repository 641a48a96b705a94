//! A snapshot as the agent is told.

use std::net::IpAddr;

use paperboat_netlink::{Address, Route, RouteKind};
use paperboat_protocol::agent::network_route::{Kind, Way};
use paperboat_protocol::agent::{NetworkAddress, NetworkInterface, NetworkNeighbour, NetworkRoute, SetNetworkRequest};
use paperboat_protocol::slot_mac;

use super::attach::Attachment;
use super::snapshot::Snapshot;

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn optional(ip: Option<IpAddr>) -> Vec<u8> {
    ip.map(bytes).unwrap_or_default()
}

/// The description of `snapshot`, whose interfaces are in the slots of `attachments`.
pub fn of(snapshot: &Snapshot, attachments: &[Attachment]) -> SetNetworkRequest {
    let name = |index: u32| {
        let interface = snapshot.interfaces.iter().find(|interface| interface.index == index);
        interface.map(|interface| interface.name.clone()).unwrap_or_default()
    };
    let interfaces = snapshot.interfaces.iter().filter_map(|interface| {
        let attachment = attachments.iter().find(|attachment| attachment.serves(interface))?;
        Some(NetworkInterface {
            permanent_mac: slot_mac(attachment.slot).into(),
            name: interface.name.clone(),
            mac: interface.mac.into(),
            mtu: interface.mtu,
            addresses: interface.addresses.iter().map(address).collect(),
            ..Default::default()
        })
    });
    let neighbours = snapshot.neighbours.iter().map(|neighbour| NetworkNeighbour {
        interface: name(neighbour.link),
        ip: bytes(neighbour.ip),
        mac: neighbour.mac.into(),
        ..Default::default()
    });
    SetNetworkRequest {
        interfaces: interfaces.collect(),
        routes: snapshot.routes.iter().map(|each| route(each, name)).collect(),
        neighbours: neighbours.collect(),
        ..Default::default()
    }
}

fn address(address: &Address) -> NetworkAddress {
    NetworkAddress {
        ip: bytes(address.ip),
        prefix_length: address.prefix_length.into(),
        peer: optional(address.peer),
        broadcast: optional(address.broadcast.map(IpAddr::V4)),
        scope: address.scope.into(),
        no_prefix_route: address.no_prefix_route,
        ..Default::default()
    }
}

fn route(route: &Route, name: impl Fn(u32) -> String) -> NetworkRoute {
    let kind = match route.kind {
        RouteKind::Unicast => Kind::UNICAST,
        RouteKind::BlackHole => Kind::BLACK_HOLE,
        RouteKind::Unreachable => Kind::UNREACHABLE,
        RouteKind::Prohibit => Kind::PROHIBIT,
    };
    let ways = route.ways.iter().map(|way| Way {
        interface: way.link.map(&name).unwrap_or_default(),
        gateway: optional(way.gateway),
        on_link: way.on_link,
        weight: way.weight.into(),
        ..Default::default()
    });
    NetworkRoute {
        v6: route.v6,
        destination: optional(route.destination),
        prefix_length: route.prefix_length.into(),
        kind: kind.into(),
        scope: route.scope.into(),
        metric: route.metric,
        source: optional(route.source),
        mtu: route.mtu.unwrap_or(0),
        ways: ways.collect(),
        ..Default::default()
    }
}
