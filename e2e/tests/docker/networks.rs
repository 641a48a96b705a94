//! Networks: both ways in which Docker hands one over, and what comes and goes while a container runs.

use paperboat_e2e::host::RUNTIME;
use paperboat_e2e::leaks;
use paperboat_e2e::products::Docker as Release;

use crate::ship::{Ship, until};

/// Serves the release of the kernel it runs on at port 80.
const SERVER: &str = "mkdir /pages; cat /proc/sys/kernel/osrelease > /pages/index.html; exec httpd -f -p 80 -h /pages";

/// How such a release ends.
const OURS: &str = "-paperboat";

fn ship(release: Release) -> Ship {
    Ship::start_with(release, "{}", &["--runtime", RUNTIME])
}

/// A published port, a second network that comes and goes, and a container that finds the first one there.
fn networks_connect(release: Release) {
    let ship = ship(release);
    ship.detached(&["--name", "server", "--publish", "127.0.0.1:8080:80"], &["sh", "-c", SERVER]);
    assert!(ship.fetch("127.0.0.1:8080").ends_with(OURS));

    ship.done(&["network", "create", "second"]);
    ship.done(&["network", "connect", "second", "server"]);
    let address = ship.inspect("server", "{{.NetworkSettings.Networks.second.IPAddress}}");
    let has = || ship.exec("server", "ip -4 -o addr").contains(&address);
    until(has, || format!("{address} does not come to the guest"));
    let fetch = format!("wget -q -O - http://{address}/");
    assert!(ship.script(&["--network", "second"], &fetch).ends_with(OURS));
    ship.done(&["network", "disconnect", "second", "server"]);
    until(|| !has(), || format!("{address} does not leave the guest"));
    assert!(ship.fetch("127.0.0.1:8080").ends_with(OURS), "the first network stays");

    // What a machine of its own cannot have is refused, with a way out.
    let refused = ship.run(&["--rm", "--network", "container:server"], &["true"]);
    assert!(refused.code() == Some(125) && refused.stderr.contains("another micro-VM"), "{refused:?}");
    ship.done(&["rm", "--force", "server"]);
    ship.done(&["network", "rm", "second"]);
    ship.expect_nothing_left();
}

#[test]
fn containers_find_each_other_by_name() {
    let ship = ship(Release::of_tests());
    ship.done(&["network", "create", "own"]);
    let own = ["--network", "own"];
    ship.detached(&[&own[..], &["--name", "server", "--network-alias", "other-name"]].concat(), &["sh", "-c", SERVER]);
    // Over UDP as every program asks, and by an alias; a name that nobody has is told so.
    let script = "for name in server other-name; do until wget -q -T 10 -O - http://$name/; do sleep 1; done; done
        nslookup nobody 127.0.0.11 >/dev/null 2>&1 || echo nobody";
    let answers = ship.script(&own, script);
    let lines: Vec<&str> = answers.lines().collect();
    assert!(lines.len() == 3 && lines[..2].iter().all(|line| line.ends_with(OURS)) && lines[2] == "nobody", "{answers}");

    // Over TCP: a question for server's IPv4 address (RFC 1035), whose answer ends with it.
    let ask = r"printf '\000\030\000\001\001\000\000\001\000\000\000\000\000\000\006server\000\000\001\000\001' |
        timeout 60 nc 127.0.0.11 53 | od -An -v -tu1 | tr -s ' \n' '  '";
    let address = ship.inspect("server", "{{.NetworkSettings.Networks.own.IPAddress}}").replace('.', " ");
    let answer = ship.script(&own, ask);
    assert!(answer.trim_end().ends_with(&format!(" {address}")), "{answer} is not of {address}");

    // One that was on Docker's own network without names gets them with the network that has them.
    ship.detached(&["--name", "late"], &["sleep", "1000"]);
    ship.done(&["network", "connect", "own", "late"]);
    let fetched =
        || ship.docker(&["exec", "late", "wget", "-q", "-T", "10", "-O", "-", "http://server/"]).stdout.ends_with("-paperboat\n");
    until(fetched, || "the container that came late does not find the first".into());
    ship.done(&["rm", "--force", "server", "late"]);
    ship.done(&["network", "rm", "own"]);
    ship.expect_nothing_left();
}

#[test]
fn networks_connect_with_docker_26() {
    networks_connect(Release::V26);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use std::net::UdpSocket;
    use std::time::Duration;

    use paperboat_e2e::host::image;

    use super::*;

    #[test]
    fn networks_connect_with_docker_28() {
        networks_connect(Release::V28);
    }

    #[test]
    fn datagrams_come_to_a_published_port() {
        let ship = ship(Release::of_tests());
        ship.docker.load("debian").unwrap();
        let server = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 7001))
while True:
    data, sender = s.recvfrom(2048)
    s.sendto(data.upper(), sender)";
        let debian = image("debian");
        let options = ["--detach", "--name", "server", "--publish", "127.0.0.1:7001:7001/udp"];
        let output = ship.docker(&ship.words(&options, &debian, &["python3", "-c", server]));
        assert_eq!(output.code(), Some(0), "{output:?}");
        let asked = || {
            let answer = ship.docker.host().inside(|| {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                socket.send_to(b"hello", "127.0.0.1:7001")?;
                let mut buffer = [0; 16];
                let length = socket.recv(&mut buffer)?;
                Ok(buffer[..length].to_vec())
            });
            answer.is_ok_and(|answer| answer == b"HELLO")
        };
        until(asked, || format!("no answer: {}", ship.done(&["logs", "server"])));
        ship.done(&["rm", "--force", "server"]);
        ship.expect_nothing_left();
    }

    #[test]
    fn what_belongs_to_the_host_is_refused() {
        let ship = ship(Release::of_tests());
        for (option, cure) in [("--network", "--network host"), ("--pid", "--pid host"), ("--ipc", "--ipc host")] {
            let refused = ship.run(&["--rm", option, "host"], &["true"]);
            assert!(refused.code() == Some(125) && refused.stderr.contains(cure), "{refused:?}");
        }
        // The daemon keeps a handle to the host's network namespace from its first use on.
        let left = leaks::settle(ship.docker.host(), ship.before());
        let left: Vec<_> = left.into_iter().filter(|entry| !entry.ends_with("/netns/default")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
