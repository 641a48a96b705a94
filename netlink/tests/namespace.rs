//! Against the kernel, in network namespaces of their own, with ip(8) and tc(8) as witnesses. Namespaces need root; without it these
//! tests say so and do nothing.

#![forbid(unsafe_code)]

use std::process::Command;

use paperboat_netlink::{Address, Connection, Link, LinkChange, Monitor, Neighbour, Route, RouteKind, Via};

/// Runs `test` in a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: network namespaces need root");
        return;
    }
    let run = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        test();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in this thread's namespace and answers what it prints.
#[track_caller]
fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-ec", command]).output().expect("bash runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn link(connection: &mut Connection, name: &str) -> Link {
    connection.links().expect("links").into_iter().find(|link| link.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn what_ip_has_set_is_read() {
    in_namespace(|| {
        sh("ip link add one mtu 1400 address 02:00:00:00:00:01 type veth peer name two
            ip link set lo up; ip link set two up; ip link set one up
            ip address add 10.1.0.2/24 broadcast 10.1.0.255 dev one
            ip address add fd00::2/64 dev one nodad
            ip route add default via 10.1.0.1 metric 50
            ip route add 10.9.0.0/16 via 169.254.1.1 dev one onlink src 10.1.0.2 mtu 1200
            ip route add blackhole 10.8.0.0/16
            ip -6 route add default via fd00::1
            ip neighbour add 10.1.0.1 lladdr 02:00:00:00:00:99 dev one nud permanent");
        let mut connection = Connection::open().expect("netlink");
        let one = link(&mut connection, "one");
        assert_eq!((one.mac, one.mtu, one.up, one.ethernet), (Some([2, 0, 0, 0, 0, 1]), 1400, true, true));
        assert!(!one.loopback && !one.tun && !one.enslaved);
        assert!(link(&mut connection, "lo").loopback);

        let addresses = connection.addresses().expect("addresses");
        let of_one: Vec<_> = addresses.iter().filter(|address| address.link == one.index && address.scope == 0).collect();
        assert_eq!(of_one.len(), 2, "{of_one:?}");
        assert_eq!((of_one[0].ip.to_string().as_str(), of_one[0].prefix_length), ("10.1.0.2", 24));
        assert_eq!(of_one[0].broadcast.map(|ip| ip.to_string()).as_deref(), Some("10.1.0.255"));
        assert_eq!((of_one[1].ip.to_string().as_str(), of_one[1].prefix_length), ("fd00::2", 64));

        let routes = connection.routes().expect("routes");
        let by_hand: Vec<_> = routes.iter().filter(|route| !route.by_kernel).collect();
        let default = by_hand.iter().find(|route| !route.v6 && route.destination.is_none()).expect("default route");
        assert_eq!((default.metric, default.ways[0].gateway), (Some(50), Some("10.1.0.1".parse().expect("address"))));
        let on_link = by_hand.iter().find(|route| route.prefix_length == 16 && route.kind == RouteKind::Unicast).expect("onlink");
        assert!(on_link.ways[0].on_link && on_link.mtu == Some(1200) && on_link.source.is_some(), "{on_link:?}");
        assert!(by_hand.iter().any(|route| route.kind == RouteKind::BlackHole && route.ways.is_empty()));
        assert!(by_hand.iter().any(|route| route.v6 && route.destination.is_none()));

        let mac = [2, 0, 0, 0, 0, 0x99];
        let neighbour = Neighbour { link: one.index, ip: "10.1.0.1".parse().expect("address"), mac };
        assert_eq!(connection.neighbours().expect("neighbours"), [neighbour]);
    });
}

#[test]
fn ip_reads_what_was_set() {
    in_namespace(|| {
        sh("ip link add one type veth peer name two; ip link set two up");
        let mut connection = Connection::open().expect("netlink");
        let index = link(&mut connection, "one").index;
        let change = LinkChange { name: Some("eth0"), mac: Some([2, 0, 0, 0, 0, 7]), mtu: Some(1300), up: Some(true) };
        connection.change_link(index, &change).expect("change");
        assert_eq!(link(&mut connection, "eth0").mtu, 1300);
        let address = |ip: &str, prefix_length| Address {
            link: index,
            ip: ip.parse().expect("address"),
            prefix_length,
            peer: None,
            broadcast: None,
            scope: 0,
            no_prefix_route: ip.contains(':'),
        };
        let (four, six) = (address("10.2.0.2", 24), address("fd00:2::2", 64));
        connection.add_address(&four).expect("IPv4");
        connection.add_address(&six).expect("IPv6");
        let shown = sh("ip -o address show dev eth0");
        assert!(shown.contains("10.2.0.2/24") && shown.contains("fd00:2::2/64") && !shown.contains("tentative dad"), "{shown}");
        assert!(!sh("ip -6 route").contains("fd00:2::/64"), "a route nobody wanted");

        let way = |gateway: Option<&str>| Via {
            link: Some(index),
            gateway: gateway.map(|ip| ip.parse().expect("address")),
            on_link: false,
            weight: 0,
        };
        let route = |destination: Option<&str>, prefix_length, ways| Route {
            v6: false,
            destination: destination.map(|ip| ip.parse().expect("address")),
            prefix_length,
            kind: RouteKind::Unicast,
            scope: 0,
            metric: None,
            source: None,
            mtu: None,
            by_kernel: false,
            ways,
        };
        let several = route(Some("10.7.0.0"), 16, vec![way(Some("10.2.0.3")), way(Some("10.2.0.4"))]);
        let default = route(None, 0, vec![way(Some("10.2.0.1"))]);
        connection.add_route(&default).expect("default route");
        connection.add_route(&several).expect("multipath");
        let shown = sh("ip route");
        assert!(shown.contains("default via 10.2.0.1 dev eth0"), "{shown}");
        assert!(shown.contains("nexthop via 10.2.0.3") && shown.contains("nexthop via 10.2.0.4"), "{shown}");
        let read: Vec<_> = connection.routes().expect("routes").into_iter().filter(|route| !route.by_kernel).collect();
        assert!(read.contains(&several) && read.contains(&default), "{read:#?}");
        let again = connection.add_route(&default).expect_err("twice");
        assert!(again.to_string().contains("default via 10.2.0.1"), "{again}");
        connection.remove_route(&several).expect("remove");
        connection.remove_address(&six).expect("remove");
        assert!(!sh("ip route").contains("nexthop") && !sh("ip -6 address").contains("fd00:2::2"));
        connection.delete_link(index).expect("remove");
        assert!(!connection.links().expect("links").iter().any(|link| link.name == "two"), "the peer goes along");
    });
}

#[test]
fn what_arrives_at_one_interface_leaves_through_the_other() {
    in_namespace(|| {
        // One cable from n1 to n2 and one from n3 to n4, whose far end is elsewhere; n2 and n3 are joined.
        let mut elsewhere = Command::new("unshare").args(["-n", "sleep", "100"]).spawn().expect("unshare");
        let other = elsewhere.id();
        sh(&format!(
            "ip link add n1 type veth peer name n2; ip link add n3 type veth peer name n4
            until [ $(readlink /proc/{other}/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
            ip link set n4 netns {other}
            for link in n1 n2 n3; do ip link set $link up; done
            ip address add 10.3.0.1/24 dev n1
            nsenter -n -t {other} sh -ec 'ip link set n4 up; ip address add 10.3.0.2/24 dev n4'"
        ));
        let mut connection = Connection::open().expect("netlink");
        let (b, c) = (link(&mut connection, "n2").index, link(&mut connection, "n3").index);
        for (from, to) in [(b, c), (c, b)] {
            connection.add_ingress(from).expect("ingress");
            connection.redirect(from, to).expect("redirect");
        }
        assert!(connection.add_ingress(b).is_err(), "two masters");
        let shown = sh("tc filter show dev n2 ingress");
        assert!(shown.contains("protocol all") && shown.contains("Egress Redirect to device n3"), "{shown}");
        sh("busybox ping -c 1 -W 20 10.3.0.2");
        elsewhere.kill().expect("kill");
        elsewhere.wait().expect("wait");
        connection.remove_ingress(b).expect("remove");
        assert_eq!(sh("tc qdisc show dev n2 ingress").trim(), "");
    });
}

#[test]
fn changes_are_heard() {
    in_namespace(|| {
        let monitor = Monitor::open().expect("monitor");
        assert!(!monitor.drain().expect("quiet"));
        sh("ip link add one type veth peer name two");
        assert!(monitor.drain().expect("news"));
        assert!(!monitor.drain().expect("quiet again"));
        sh("ip address add 10.4.0.1/24 dev one");
        assert!(monitor.drain().expect("news"));
    });
}
