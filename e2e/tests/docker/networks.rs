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
fn networks_connect_with_docker_26() {
    networks_connect(Release::V26);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn networks_connect_with_docker_28() {
        networks_connect(Release::V28);
    }

    #[test]
    fn what_belongs_to_the_host_is_refused() {
        let ship = ship(Release::V26);
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
