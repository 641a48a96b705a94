//! What a network namespace holds for a guest.

use std::net::IpAddr;

use paperboat_netlink::{Address, Connection, Link, Mac, Neighbour, Route};

use super::NetworkError;

/// An interface that the guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// A namespace at one moment, as far as a guest can have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Interfaces, in the order of their numbers.
    pub interfaces: Vec<Interface>,
    /// Routes through them, and routes that lead nowhere.
    pub routes: Vec<Route>,
    /// Their permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// Reads the namespace of the calling thread.
///
/// # Errors
/// [`NetworkError`].
pub fn read() -> Result<Snapshot, NetworkError> {
    let failed = |source| NetworkError::Io { what: "rtnetlink".into(), source };
    let mut kernel = Connection::open().map_err(failed)?;
    let (links, addresses) = (kernel.links()?, kernel.addresses()?);
    let interfaces: Vec<Interface> = links.into_iter().filter_map(|link| interface(link, &addresses)).collect();
    if interfaces.is_empty() {
        return Ok(Snapshot::default());
    }
    let (routes, neighbours) = (kernel.routes()?, kernel.neighbours()?);
    Ok(compose(interfaces, routes, neighbours))
}

/// An interface that is up and speaks Ethernet. Taps are left out (they are ours), ports of bridges and members of bonds too: their
/// masters have the addresses.
fn interface(link: Link, addresses: &[Address]) -> Option<Interface> {
    if !link.ethernet || link.loopback || link.tun || link.enslaved || !link.up {
        return None;
    }
    let addresses = addresses.iter().filter(|address| address.link == link.index).cloned().collect();
    Some(Interface { index: link.index, name: link.name, mac: link.mac?, mtu: link.mtu, addresses })
}

fn compose(mut interfaces: Vec<Interface>, routes: Vec<Route>, neighbours: Vec<Neighbour>) -> Snapshot {
    interfaces.sort_by_key(|interface| interface.index);
    let has = |index: u32| interfaces.iter().any(|interface| interface.index == index);
    let has_source = |source: Option<IpAddr>| {
        source.is_none_or(|ip| interfaces.iter().flat_map(|interface| &interface.addresses).any(|address| address.ip == ip))
    };
    let routes = routes.into_iter().filter(|route| {
        // The guest's kernel makes its own for each address.
        !route.by_kernel && route.ways.iter().all(|way| way.link.is_none_or(has)) && has_source(route.source)
    });
    let routes = routes.collect();
    let neighbours = neighbours.into_iter().filter(|neighbour| has(neighbour.link)).collect();
    Snapshot { interfaces, routes, neighbours }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paperboat_netlink::{RouteKind, Via};

    fn ethernet(index: u32) -> Link {
        Link { index, name: format!("eth{index}"), mac: Some([2, 0, 0, 0, 0, 1]), ethernet: true, up: true, ..Link::default() }
    }

    fn route(link: u32, by_kernel: bool) -> Route {
        let way = Via { link: Some(link), gateway: None, on_link: false, weight: 0 };
        let (v6, destination, kind) = (false, None, RouteKind::Unicast);
        Route {
            v6,
            destination,
            prefix_length: 0,
            kind,
            scope: 0,
            metric: None,
            source: None,
            mtu: None,
            by_kernel,
            ways: vec![way],
        }
    }

    #[test]
    fn a_guest_gets_ethernet_that_is_up_and_nothing_of_ours() {
        let address = |link| Address {
            link,
            ip: [10, 0, 0, 1].into(),
            prefix_length: 8,
            peer: None,
            broadcast: None,
            scope: 0,
            no_prefix_route: false,
        };
        let found = interface(ethernet(2), &[address(2), address(3)]).expect("an interface");
        assert_eq!((found.name.as_str(), found.addresses.len()), ("eth2", 1));
        for other in [
            Link { loopback: true, ..ethernet(2) },
            Link { tun: true, ..ethernet(2) },
            Link { enslaved: true, ..ethernet(2) },
            Link { up: false, ..ethernet(2) },
            Link { ethernet: false, ..ethernet(2) },
            Link { mac: None, ..ethernet(2) },
        ] {
            assert_eq!(interface(other.clone(), &[]), None, "{other:?}");
        }
    }

    #[test]
    fn routes_that_the_guests_kernel_makes_or_cannot_have_are_left_out() {
        let interfaces: Vec<_> = [3, 2].map(|index| interface(ethernet(index), &[]).expect("an interface")).into();
        let foreign_source = Route { source: Some([10, 9, 9, 9].into()), ..route(2, false) };
        let snapshot = compose(interfaces, vec![route(2, false), route(2, true), route(7, false), foreign_source], Vec::new());
        assert_eq!(snapshot.routes, [route(2, false)]);
        assert_eq!(snapshot.interfaces[0].index, 2);
    }
}
