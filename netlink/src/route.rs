//! Routes of the main table.

use std::net::IpAddr;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Connection, NetlinkError, Verb};

/// What becomes of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// They are sent on.
    Unicast,
    /// They vanish.
    BlackHole,
    /// Their sender hears that the destination is unreachable.
    Unreachable,
    /// Their sender hears that it is prohibited.
    Prohibit,
}

/// One way of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// Number of the interface, if one is named.
    pub link: Option<u32>,
    /// The router, if there is one.
    pub gateway: Option<IpAddr>,
    /// The router is on this link although no route leads to it.
    pub on_link: bool,
    /// Share of the packets, where a route has several ways; the kernel's number, one less than the weight.
    pub weight: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// IPv6; otherwise IPv4.
    pub v6: bool,
    /// Destination; `None` for the default route.
    pub destination: Option<IpAddr>,
    /// Length of the destination's prefix in bits.
    pub prefix_length: u8,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// 0 for the world, 253 for this link, 254 for this machine.
    pub scope: u8,
    /// Preference; smaller goes first.
    pub metric: Option<u32>,
    /// Sender's address of packets from here.
    pub source: Option<IpAddr>,
    /// Largest packet on this way in bytes.
    pub mtu: Option<u32>,
    /// The kernel made it for an address, and will again.
    pub by_kernel: bool,
    /// Its ways; more than one for multipath, none for routes that lead nowhere.
    pub ways: Vec<Via>,
}

impl Connection {
    /// The unicast routes of the main table, and those that refuse.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let answers = match self.list("list routes", RouteNetlinkMessage::GetRoute(request)) {
                // A kernel without IPv6 answers for all families, or not at all.
                Err(error) if family == AddressFamily::Inet6 && error.os_error().is_some() => Vec::new(),
                other => other?,
            };
            for answer in answers {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && message.header.address_family == family
                {
                    routes.extend(parse(&message));
                }
            }
        }
        Ok(routes)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`NetlinkError`], `EEXIST` when there is one to that destination of that metric.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.ask(&format!("add route {}", name(route)), Verb::Make, RouteNetlinkMessage::NewRoute(message(route)))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// [`NetlinkError`], `ESRCH` when there is none.
    pub fn remove_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.ask(&format!("remove route {}", name(route)), Verb::Change, RouteNetlinkMessage::DelRoute(message(route)))
    }
}

fn name(route: &Route) -> String {
    let destination = route.destination.map_or_else(|| "default".to_owned(), |ip| format!("{ip}/{}", route.prefix_length));
    match route.ways.first().and_then(|way| way.gateway) {
        Some(gateway) => format!("{destination} via {gateway}"),
        None => destination,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The router of a way: of the route's own family, or an IPv6 router of an IPv4 route.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::BlackHole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => return None,
    };
    let mut route = Route {
        v6: header.address_family == AddressFamily::Inet6,
        destination: None,
        prefix_length: header.destination_prefix_length,
        kind,
        scope: header.scope.into(),
        metric: None,
        source: None,
        mtu: None,
        by_kernel: header.protocol == RouteProtocol::Kernel,
        ways: Vec::new(),
    };
    let mut table = u32::from(header.table);
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => route.destination = ip(destination),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
            }
            RouteAttribute::MultiPath(hops) => {
                route.ways = hops
                    .iter()
                    .map(|hop| Via {
                        link: Some(hop.interface_index),
                        gateway: gateway(&hop.attributes),
                        on_link: hop.flags.contains(RouteNextHopFlags::Onlink),
                        weight: hop.hops,
                    })
                    .collect();
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    // A refusing IPv6 route names the loopback interface, which nobody asked for.
    if route.ways.is_empty() && kind == RouteKind::Unicast {
        let on_link = header.flags.contains(RouteFlags::Onlink);
        route.ways.push(Via { link, gateway: gateway(&message.attributes), on_link, weight: 0 });
    }
    Some(route)
}

fn gateway_attribute(gateway: IpAddr, v6: bool) -> RouteAttribute {
    match gateway {
        IpAddr::V6(ip) if !v6 => RouteAttribute::Via(RouteVia::Inet6(ip)),
        ip => RouteAttribute::Gateway(ip.into()),
    }
}

fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = if route.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    header.destination_prefix_length = route.prefix_length;
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = if route.by_kernel { RouteProtocol::Kernel } else { RouteProtocol::Static };
    header.scope = RouteScope::from(route.scope);
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::BlackHole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
    };
    let attributes = &mut message.attributes;
    attributes.extend(route.destination.map(|ip| RouteAttribute::Destination(ip.into())));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    match route.ways.as_slice() {
        [] => {}
        [way] => {
            attributes.extend(way.link.map(RouteAttribute::Oif));
            attributes.extend(way.gateway.map(|gateway| gateway_attribute(gateway, route.v6)));
            if way.on_link {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        ways => attributes.push(RouteAttribute::MultiPath(
            ways.iter()
                .map(|way| {
                    let mut hop = RouteNextHop::default();
                    hop.interface_index = way.link.unwrap_or(0);
                    hop.hops = way.weight;
                    if way.on_link {
                        hop.flags = RouteNextHopFlags::Onlink;
                    }
                    hop.attributes.extend(way.gateway.map(|gateway| gateway_attribute(gateway, route.v6)));
                    hop
                })
                .collect(),
        )),
    }
    message
}
