//! The guest's network: made what the shim describes, which read it from the pod's network namespace on the host.
//!
//! Interfaces are the machine's network slots ([`crate::slots`]), found by the hardware address they were born with. What was described before
//! is remembered, so that a new description changes the difference only, and never what a container set up by itself.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use paperboat_netlink::{Address, Connection, Link, LinkChange, Mac, Neighbour, NetlinkError, Route, RouteKind, Via};
use paperboat_protocol::agent::network_route::Kind;
use paperboat_protocol::agent::{NetworkAddress, NetworkInterface, NetworkNeighbour, NetworkRoute, SetNetworkRequest};
use paperboat_protocol::slot_mac;

use crate::slots;

/// Network slots that a machine has at most.
const INTERFACES_MAX: usize = 8;
/// Addresses of one interface, routes, and neighbours: beyond what a pod has, within a small guest's memory.
const ADDRESSES_MAX: usize = 256;
const ROUTES_MAX: usize = 4096;
const NEIGHBOURS_MAX: usize = 4096;

/// IFNAMSIZ of Linux with its final zero.
const NAME_MAX_BYTES: usize = 15;

/// Why the network is not as described.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A field that is not valid.
    #[error("{field} {value}: {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it held.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// Too much of something.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The machine has no such slot.
    #[error("the machine has no network slot with address {0}")]
    NoSlot(String),
    /// A route or neighbour of an interface that is not described.
    #[error("{what} names interface {name:?}, which is not described")]
    NoInterface {
        /// What names it.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel does not look at the machine's slots again.
    #[error("network slots on the PCI bus: {0}")]
    Slots(#[source] io::Error),
    /// No conversation with the kernel.
    #[error("rtnetlink: {0}")]
    Socket(#[from] io::Error),
}

impl NetworkError {
    /// Whether the description itself is at fault.
    pub fn is_of_request(&self) -> bool {
        matches!(self, Self::Field { .. } | Self::TooMany { .. } | Self::NoSlot(_) | Self::NoInterface { .. })
    }
}

/// What is in force.
#[derive(Default)]
struct Applied {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
}

/// The guest's network.
#[derive(Default)]
pub struct Network(Mutex<Applied>);

/// An interface that is to be.
struct Wanted<'a> {
    described: &'a NetworkInterface,
    link: Link,
    mac: Mac,
}

impl Network {
    /// Makes the network what `request` describes.
    ///
    /// # Errors
    /// [`NetworkError`], for the first thing that failed; what was done until then stays.
    pub fn set(&self, request: &SetNetworkRequest) -> Result<(), NetworkError> {
        // Whole lists: a panic elsewhere leaves them usable.
        let mut applied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        check_limits(request)?;
        slots::settle().map_err(NetworkError::Slots)?;
        let mut kernel = Connection::open()?;
        let links = kernel.links()?;
        let wanted = request.interfaces.iter().map(|described| find(&links, described)).collect::<Result<Vec<_>, _>>()?;
        let (addresses, routes, neighbours) = objects(request, &wanted)?;
        give_up_names(&mut kernel, &links, &wanted)?;
        // What goes, goes first: an address may move from one interface to another.
        for neighbour in applied.neighbours.iter().filter(|old| !neighbours.contains(old)) {
            gone_is_fine(kernel.remove_neighbour(neighbour))?;
        }
        for route in applied.routes.iter().filter(|old| !routes.contains(old)) {
            gone_is_fine(kernel.remove_route(route))?;
        }
        for address in applied.addresses.iter().filter(|old| !addresses.contains(old)) {
            gone_is_fine(kernel.remove_address(address))?;
        }
        for wanted in &wanted {
            bring_up(&mut kernel, wanted)?;
        }
        let there = kernel.addresses()?;
        for address in addresses.iter().filter(|address| !there.contains(address)) {
            kernel.add_address(address)?;
        }
        *applied = Applied { addresses, routes: Vec::new(), neighbours: Vec::new() };
        let there = kernel.routes()?;
        for route in routes.iter().filter(|route| !there.contains(route)) {
            there_is_fine(kernel.add_route(route))?;
        }
        applied.routes = routes;
        for neighbour in &neighbours {
            kernel.add_neighbour(neighbour)?;
        }
        applied.neighbours = neighbours;
        let names: Vec<_> = wanted.iter().map(|wanted| wanted.described.name.as_str()).collect();
        crate::info!("network set interfaces={names:?} addresses={} routes={}", applied.addresses.len(), applied.routes.len());
        Ok(())
    }
}

fn check_limits(request: &SetNetworkRequest) -> Result<(), NetworkError> {
    let most_addresses = request.interfaces.iter().map(|interface| interface.addresses.len()).max().unwrap_or(0);
    for (count, max, what) in [
        (request.interfaces.len(), INTERFACES_MAX, "interfaces"),
        (most_addresses, ADDRESSES_MAX, "addresses of one interface"),
        (request.routes.len(), ROUTES_MAX, "routes"),
        (request.neighbours.len(), NEIGHBOURS_MAX, "neighbours"),
    ] {
        if count > max {
            return Err(NetworkError::TooMany { what, max });
        }
    }
    Ok(())
}

/// Number of the slot that an interface is.
fn slot_of(link: &Link) -> Option<u8> {
    let mac = link.permanent_mac?;
    (mac == slot_mac(mac[5])).then_some(mac[5])
}

/// What a slot is called between two names, and while it is not described.
fn idle_name(slot: u8) -> String {
    format!("slot{slot}")
}

fn find<'a>(links: &[Link], described: &'a NetworkInterface) -> Result<Wanted<'a>, NetworkError> {
    let mac = mac("permanent_mac", &described.permanent_mac)?;
    let link = links.iter().find(|link| link.permanent_mac == Some(mac) && slot_of(link).is_some());
    let link = link.ok_or_else(|| NetworkError::NoSlot(format!("{mac:02x?}")))?.clone();
    let name = &described.name;
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    if name.is_empty() || name.len() > NAME_MAX_BYTES || matches!(name.as_str(), "." | "..") || !name.bytes().all(allowed) {
        let shown = name.chars().take(NAME_MAX_BYTES).collect::<String>();
        let expected = "the name of an interface expected, 1 to 15 bytes";
        return Err(NetworkError::Field { field: "interfaces.name", value: format!("{shown:?}"), expected });
    }
    Ok(Wanted { described, link, mac: self::mac("interfaces.mac", &described.mac)? })
}

fn mac(field: &'static str, bytes: &[u8]) -> Result<Mac, NetworkError> {
    let wrong = |_| NetworkError::Field { field, value: format!("of {} bytes", bytes.len()), expected: "6 bytes expected" };
    bytes.try_into().map_err(wrong)
}

fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, NetworkError> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    let wrong = |_| NetworkError::Field { field, value: format!("of {} bytes", bytes.len()), expected: "4 or 16 bytes expected" };
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(wrong)
}

fn optional(field: &'static str, bytes: &[u8]) -> Result<Option<IpAddr>, NetworkError> {
    if bytes.is_empty() { Ok(None) } else { ip(field, bytes).map(Some) }
}

/// A number that the kernel keeps in a byte.
fn byte(field: &'static str, value: u32) -> Result<u8, NetworkError> {
    u8::try_from(value).map_err(|_| NetworkError::Field { field, value: value.to_string(), expected: "0 to 255 expected" })
}

type Objects = (Vec<Address>, Vec<Route>, Vec<Neighbour>);

/// The description with numbers of interfaces in place of names.
fn objects(request: &SetNetworkRequest, wanted: &[Wanted<'_>]) -> Result<Objects, NetworkError> {
    let index = |what: &'static str, name: &str| {
        let found = wanted.iter().find(|wanted| wanted.described.name == name);
        let missing = || NetworkError::NoInterface { what, name: name.chars().take(NAME_MAX_BYTES).collect() };
        found.map(|wanted| wanted.link.index).ok_or_else(missing)
    };
    let mut addresses = Vec::new();
    for wanted in wanted {
        for described in &wanted.described.addresses {
            addresses.push(address(wanted.link.index, described)?);
        }
    }
    let mut routes = Vec::new();
    for described in &request.routes {
        routes.push(route(described, &index)?);
    }
    // A router must be reachable when a route through it is added.
    routes.sort_by_key(|route: &Route| route.ways.iter().any(|way| way.gateway.is_some()));
    let mut neighbours = Vec::new();
    for NetworkNeighbour { interface, ip: bytes, mac: hardware, .. } in &request.neighbours {
        let (ip, mac) = (ip("neighbours.ip", bytes)?, mac("neighbours.mac", hardware)?);
        neighbours.push(Neighbour { link: index("a neighbour", interface)?, ip, mac });
    }
    Ok((addresses, routes, neighbours))
}

fn address(link: u32, described: &NetworkAddress) -> Result<Address, NetworkError> {
    let broadcast = match optional("addresses.broadcast", &described.broadcast)? {
        None => None,
        Some(IpAddr::V4(ip)) => Some(ip),
        Some(ip @ IpAddr::V6(_)) => {
            let expected = "an IPv4 address expected";
            return Err(NetworkError::Field { field: "addresses.broadcast", value: ip.to_string(), expected });
        }
    };
    let broadcast: Option<Ipv4Addr> = broadcast;
    Ok(Address {
        link,
        ip: ip("addresses.ip", &described.ip)?,
        prefix_length: byte("addresses.prefix_length", described.prefix_length)?,
        peer: optional("addresses.peer", &described.peer)?,
        broadcast,
        scope: byte("addresses.scope", described.scope)?,
        no_prefix_route: described.no_prefix_route,
    })
}

fn route(
    described: &NetworkRoute,
    index: &impl Fn(&'static str, &str) -> Result<u32, NetworkError>,
) -> Result<Route, NetworkError> {
    let mut ways = Vec::new();
    for way in described.ways.iter().take(INTERFACES_MAX * ADDRESSES_MAX) {
        ways.push(Via {
            link: if way.interface.is_empty() { None } else { Some(index("a route", &way.interface)?) },
            gateway: optional("routes.ways.gateway", &way.gateway)?,
            on_link: way.on_link,
            weight: byte("routes.ways.weight", way.weight)?,
        });
    }
    Ok(Route {
        v6: described.v6,
        destination: optional("routes.destination", &described.destination)?,
        prefix_length: byte("routes.prefix_length", described.prefix_length)?,
        kind: match described.kind.enum_value_or_default() {
            Kind::UNICAST => RouteKind::Unicast,
            Kind::BLACK_HOLE => RouteKind::BlackHole,
            Kind::UNREACHABLE => RouteKind::Unreachable,
            Kind::PROHIBIT => RouteKind::Prohibit,
        },
        scope: byte("routes.scope", described.scope)?,
        metric: described.metric,
        source: optional("routes.source", &described.source)?,
        mtu: (described.mtu > 0).then_some(described.mtu),
        by_kernel: false,
        ways,
    })
}

/// Interfaces exchange names: each whose name another one is to have gives it up first, and so does what is not described.
fn give_up_names(kernel: &mut Connection, links: &[Link], wanted: &[Wanted<'_>]) -> Result<(), NetworkError> {
    for (link, slot) in links.iter().filter_map(|link| Some((link, slot_of(link)?))) {
        let described = wanted.iter().find(|wanted| wanted.link.index == link.index);
        let keeps = described.is_some_and(|wanted| wanted.described.name == link.name);
        let in_the_way = described.is_none() || wanted.iter().any(|other| other.described.name == link.name);
        let idle = idle_name(slot);
        if !keeps && in_the_way && (link.up || link.name != idle) {
            kernel.change_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
            kernel.change_link(link.index, &LinkChange { name: Some(&idle), ..LinkChange::default() })?;
        }
    }
    Ok(())
}

/// Gives an interface its name, hardware address and MTU, and brings it up.
fn bring_up(kernel: &mut Connection, wanted: &Wanted<'_>) -> Result<(), NetworkError> {
    let Wanted { described, link, mac } = wanted;
    let same_identity = link.up && link.name == described.name && link.mac == Some(*mac);
    if !same_identity {
        // Names and hardware addresses change while an interface is down.
        let down = LinkChange { up: Some(false), ..LinkChange::default() };
        kernel.change_link(link.index, &down)?;
        let identity = LinkChange { name: Some(&described.name), mac: Some(*mac), ..LinkChange::default() };
        kernel.change_link(link.index, &identity)?;
    }
    let six = described.addresses.iter().any(|address| address.ip.len() == 16);
    set_ipv6(&described.name, six);
    if !same_identity || link.mtu != described.mtu {
        let change = LinkChange { mtu: Some(described.mtu), up: Some(true), ..LinkChange::default() };
        kernel.change_link(link.index, &change)?;
    }
    Ok(())
}

/// The host's side has decided all there is to decide: no router's word counts, no address is made up, none is checked for duplicates.
fn set_ipv6(name: &str, enabled: bool) {
    let settings =
        [("disable_ipv6", if enabled { "0" } else { "1" }), ("accept_ra", "0"), ("addr_gen_mode", "1"), ("accept_dad", "0")];
    for (key, value) in settings {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{key}");
        if let Err(error) = fs::write(&path, value)
            && error.kind() != io::ErrorKind::NotFound
        {
            crate::warn!("{path}: {error}");
        }
    }
}

/// The interface may have gone with all it had.
fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error)
            if [Errno::ENODEV, Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::ENOENT]
                .map(|e| Some(e as i32))
                .contains(&error.os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn there_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.os_error() == Some(Errno::EEXIST as i32) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> NetworkInterface {
        NetworkInterface {
            permanent_mac: slot_mac(1).into(),
            name: name.into(),
            mac: vec![2; 6],
            mtu: 1500,
            ..Default::default()
        }
    }

    fn links() -> Vec<Link> {
        let slot = |slot: u8| Link { index: u32::from(slot) + 2, permanent_mac: Some(slot_mac(slot)), ..Link::default() };
        vec![slot(0), slot(1), Link { index: 9, permanent_mac: Some([2, 0x70, 0x62, 1, 0, 1]), ..Link::default() }]
    }

    #[test]
    fn slots_are_found_by_the_address_they_were_born_with() {
        assert_eq!(find(&links(), &interface("eth0")).map(|wanted| wanted.link.index).ok(), Some(3));
        let foreign = NetworkInterface { permanent_mac: vec![2, 0x70, 0x62, 1, 0, 1], ..interface("eth0") };
        assert!(matches!(find(&links(), &foreign), Err(NetworkError::NoSlot(_))));
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", ".", "..", "a/b", "a b", "sixteen-bytes-xx", "eth0:1"] {
            let error = find(&links(), &interface(bad)).map(drop).expect_err(bad);
            assert!(error.is_of_request(), "{error}");
        }
    }

    #[test]
    fn routes_without_router_come_first_and_name_described_interfaces_only() {
        let way = |gateway: &[u8]| paperboat_protocol::agent::network_route::Way {
            interface: "eth0".into(),
            gateway: gateway.into(),
            ..Default::default()
        };
        let mut request = SetNetworkRequest { interfaces: vec![interface("eth0")], ..Default::default() };
        request.routes = vec![
            NetworkRoute { ways: vec![way(&[169, 254, 1, 1])], ..Default::default() },
            NetworkRoute { destination: vec![169, 254, 1, 1], prefix_length: 32, ways: vec![way(&[])], ..Default::default() },
        ];
        let wanted: Vec<_> = request.interfaces.iter().map(|described| find(&links(), described).expect("a slot")).collect();
        let (_, routes, _) = objects(&request, &wanted).expect("valid");
        assert_eq!(routes.iter().map(|route| route.prefix_length).collect::<Vec<_>>(), [32, 0]);

        request.routes[0].ways[0].interface = "eth1".into();
        assert!(matches!(objects(&request, &wanted_of(&request)), Err(NetworkError::NoInterface { .. })));
        request.routes[0].ways[0] = way(&[1, 2, 3]);
        assert!(matches!(objects(&request, &wanted_of(&request)), Err(NetworkError::Field { .. })));
    }

    fn wanted_of(request: &SetNetworkRequest) -> Vec<Wanted<'_>> {
        request.interfaces.iter().map(|described| find(&links(), described).expect("a slot")).collect()
    }

    #[test]
    fn every_list_has_a_limit() {
        let request = SetNetworkRequest { routes: vec![NetworkRoute::default(); ROUTES_MAX + 1], ..Default::default() };
        assert!(matches!(check_limits(&request), Err(NetworkError::TooMany { what: "routes", .. })));
    }
}
