//! A pod's network: namespaces and cables made by hand, as a network plug-in would.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::expect;
use paperboat_e2e::host::{RUNTIME, finish, image};
use paperboat_e2e::net::{HOST_V4, HOST_V6, Net, WEB_PORT};
use paperboat_e2e::spec::Rootfs;
use paperboat_e2e::{Host, Running, leaks, products};
use serde_json::json;

/// A container sees a new interface within this time.
const PATIENCE: Duration = Duration::from_secs(120);

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

/// `ctr run`'s option for a namespace.
fn in_namespace(path: &std::path::Path) -> String {
    format!("network:{}", path.display())
}

/// Fails if something of ours is in a pod's namespace.
#[track_caller]
fn expect_clean(net: &Net, pod: u8) {
    let links = net.inside_pod(pod, "ip -o link; tc qdisc show").unwrap();
    assert!(!links.contains("paperboat") && !links.contains("ingress"), "left behind: {links}");
}

#[test]
fn a_pod_has_what_its_namespace_has() {
    let host = host();
    let mut net = Net::new().unwrap();
    net.serve(vec![b'x'; 3_000_000]).unwrap();
    let (pod, other) = (net.pod(2).unwrap(), net.pod(3).unwrap());
    let resolv = host.directory().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {HOST_V4}\n")).unwrap();
    let before = host.leftovers();
    let facts = net.inside_pod(2, "cat /sys/class/net/eth0/address || ip -o link show eth0").unwrap();
    let mac =
        facts.split_whitespace().find(|word| word.split(':').count() == 6 && *word != "ff:ff:ff:ff:ff:ff").unwrap().to_owned();
    let mount = format!("type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro", resolv.display());
    let script = format!(
        "echo mac $(cat /sys/class/net/eth0/address) mtu $(cat /sys/class/net/eth0/mtu)
         ip -o address show dev eth0; ip route; ip -6 route; ls /sys/class/net
         echo download $(wget -qO- http://{HOST_V4}:{WEB_PORT}/ | wc -c) $(wget -qO- http://[{HOST_V6}]:{WEB_PORT}/ | wc -c)
         yes | head -c 2000000 > /tmp/letters
         echo upload $(wget -qO- --post-file /tmp/letters http://{HOST_V4}:{WEB_PORT}/)
         ping -c 1 -s 5000 -W 30 {HOST_V4} >/dev/null && echo fragments
         ping -c 1 -s 5000 -W 30 {HOST_V6} >/dev/null && echo fragments of six
         echo name $(wget -qO- http://host.test:{WEB_PORT}/ | wc -c)
         mkdir /tmp/www; head -c 1000000 /dev/zero > /tmp/www/page
         httpd -p 80 -h /tmp/www
         for second in $(seq 120); do [ -e /tmp/www/done ] && exit 0; sleep 1; done; exit 1"
    );
    thread::scope(|scope| {
        let namespace = in_namespace(&pod);
        let (host, script, mount) = (&host, &script, &mount);
        let running = scope.spawn(move || {
            host.run_with(&["--mount", mount, "--with-ns", &namespace], &image("busybox"), "one", &["sh", "-c", script])
        });
        host.wait_for_log(&["container started id=one"]).unwrap();
        // The second pod finds the first one, as the host does.
        let visitor = "for second in $(seq 120); do wget -qO /tmp/page http://10.88.0.2/page && break; sleep 1; done
             echo visited $(wc -c < /tmp/page) $(wget -qO- http://[fd88::2]/page | wc -c); ping -c 1 -s 4000 -W 30 10.88.0.2 >/dev/null && echo reached";
        let visit =
            host.run_with(&["--with-ns", &in_namespace(&other)], &image("busybox"), "two", &["sh", "-c", visitor]).unwrap();
        expect::code(host, &visit, 0);
        expect::words(host, &visit.stdout, &["visited 1000000 1000000", "reached"]);
        for address in ["10.88.0.2", "fd88::2"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(net.get(address, "/page").unwrap().len(), 1_000_000, "{address}");
        }
        net.inside("busybox ping -c 1 -s 5000 -W 30 10.88.0.2; busybox ping -c 1 -s 5000 -W 30 fd88::2").unwrap();
        let stop = host.ctr(&["task", "exec", "--exec-id", "stop", "one", "touch", "/tmp/www/done"]).unwrap();
        expect::code(host, &stop, 0);
        let output = running.join().unwrap().unwrap();
        expect::code(host, &output, 0);
        let mac = format!("mac {mac} mtu 1400");
        expect::words(
            host,
            &output.stdout,
            &[
                &mac,
                "10.88.0.2/24",
                "fd88::2/64",
                "default via 10.88.0.1 dev eth0",
                "default via fd88::1 dev eth0",
                "download 3000000 3000000",
                "upload 2000000",
                "fragments\n",
                "fragments of six",
                "name 3000000",
            ],
        );
    });
    expect_clean(&net, 2);
    expect_clean(&net, 3);
    expect::nothing_left(&host, &before);
}

#[test]
fn interfaces_come_and_go_while_a_pod_runs() {
    let host = host();
    let mut net = Net::new().unwrap();
    let pod = net.pod(4).unwrap();
    let before = host.leftovers();
    let marks = host.directory().join("marks");
    std::fs::create_dir(&marks).unwrap();
    let mount = format!("type=bind,src={},dst=/marks,options=rbind:rw", marks.display());
    // It waits until the new cable is there, then until it is gone.
    let script = "until ip -o address show dev eth1 2>/dev/null | grep 10.88.1.4; do sleep 1; done; echo came; touch /marks/came
        while ip link show eth1 >/dev/null 2>&1; do sleep 1; done; echo went; ping -c 1 -W 30 10.88.0.1 >/dev/null && echo still here";
    thread::scope(|scope| {
        let namespace = in_namespace(&pod);
        let (host, net, mount) = (&host, &net, &mount);
        let options = ["--mount", mount, "--with-ns", &namespace].map(str::to_owned);
        let running = scope.spawn(move || {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            host.run_with(&options, &image("busybox"), "plugs", &["sh", "-c", script])
        });
        host.wait_for_log(&["container started id=plugs"]).unwrap();
        net.plug(4, "eth1", "10.88.1.4/24").unwrap();
        host.wait_for_log(&["network interface eth1 is in slot 1"]).unwrap();
        net.inside("ip address add 10.88.1.1/24 dev sw0; busybox ping -c 1 -W 60 10.88.1.4").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !marks.join("came").exists() {
            assert!(Instant::now() < deadline, "the container does not see eth1");
            thread::sleep(Duration::from_millis(50));
        }
        net.unplug(4, "eth1").unwrap();
        let output = running.join().unwrap().unwrap();
        expect::code(host, &output, 0);
        expect::words(host, &output.stdout, &["came", "went", "still here"]);
    });
    expect_clean(&net, 4);
    expect::nothing_left(&host, &before);
}

#[test]
fn localhost_of_the_namespace_leads_into_the_pod() {
    let host = host();
    let mut net = Net::new().unwrap();
    let pod = net.pod(6).unwrap();
    net.inside_pod(6, "ip neighbour add 10.88.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent").unwrap();
    let before = host.leftovers();
    let script = "mkdir /tmp/four /tmp/six; head -c 300000 /dev/zero > /tmp/four/page; echo six > /tmp/six/page
        httpd -p 127.0.0.1:8080 -h /tmp/four; httpd -p '[::1]:8081' -h /tmp/six; exec sleep 1000";
    let web = Running::start(&host, "web", &["--with-ns", &in_namespace(&pod)], &["sh", "-c", script]).unwrap();

    // As the kubelet's port-forward does: enter the namespace on the host, dial localhost.
    let got = net
        .inside_pod(
            6,
            "get() { busybox wget -qO- $1; }
             for i in $(seq 300); do get http://127.0.0.1:8080/page >/dev/null 2>&1 && get http://127.0.0.1:8081/page >/dev/null 2>&1 && break; sleep 0.2; done
             get http://127.0.0.1:8080/page | wc -c; get http://[::1]:8080/page | wc -c; get http://127.0.0.1:8081/page
             get http://127.0.0.1:9/page 2>/dev/null || echo nobody there",
        )
        .unwrap();
    assert_eq!(got, "300000\n300000\nsix\nnobody there\n");
    // Both ways at once, each side's end told to the other.
    let counted = thread::scope(|scope| {
        let count = scope.spawn(|| web.shell("count", "nc -l -p 8082 -e sh -c 'echo counted $(wc -c)' </dev/null").unwrap());
        let send = "for i in $(seq 300); do
            answer=$(head -c 1000000 /dev/zero | busybox nc 127.0.0.1 8082 2>/dev/null) && [ -n \"$answer\" ] && break; sleep 0.2; done; echo $answer";
        let answer = net.inside_pod(6, send).unwrap();
        count.join().unwrap();
        answer
    });
    assert_eq!(counted, "counted 1000000\n");

    // What the namespace has, and nothing of the machine's own.
    assert_eq!(web.shell("links", "ls /sys/class/net; ip -o link | wc -l").unwrap(), "eth0\nlo\n2\n");
    let neighbour = web.shell("neighbours", "ip neigh show 10.88.0.99").unwrap();
    assert!(neighbour.contains("02:00:00:00:00:99") && neighbour.contains("PERMANENT"), "{neighbour}");
    web.remove().unwrap();
    let refused = net.inside_pod(6, "busybox wget -qO- http://127.0.0.1:8080/page 2>&1 || true").unwrap();
    assert!(refused.contains("refused"), "{refused}");
    expect_clean(&net, 6);
    expect::nothing_left(&host, &before);
}

#[test]
fn hooks_and_cni_set_up_the_namespace_that_the_runtime_makes() {
    let host = host();
    let before = host.leftovers();
    let rootfs = Rootfs::mount(&host).unwrap();
    let directory = host.directory().display().to_string();
    // As Docker's: it learns a process id, and finds the pod's network namespace by it.
    let hook = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net /proc/self/ns/net > {directory}/namespaces
         ip link add hook0 type veth peer name eth0 netns $pid; ip link set hook0 up; ip address add 10.77.0.1/24 dev hook0
         nsenter --net=/proc/$pid/ns/net sh -c 'ip link set eth0 up; ip address add 10.77.0.2/24 dev eth0'; ip -o link show up > {directory}/links"
    );
    let last = format!("touch {directory}/poststop");
    let spec = rootfs.spec(&["sh", "-c", "ip -o address; ping -c 1 -W 60 10.77.0.1"], |spec| {
        let sh = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-ec", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]);
        spec["hooks"] = json!({"prestart": sh(&hook), "poststop": sh(&last)});
        spec["process"]["capabilities"] = json!({"bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"]});
    });
    let path = rootfs.write("hooked", &spec).unwrap();
    let fifos = host.directory().join("fifo").display().to_string();
    let arguments = ["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos, "--config"];
    let output = host.ctr(&[&arguments[..], &[&path.display().to_string(), "hooked"]].concat()).unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["10.77.0.2/24", "1 packets received"]);
    let namespaces = std::fs::read_to_string(host.directory().join("namespaces")).unwrap();
    let namespaces: Vec<&str> = namespaces.lines().collect();
    assert!(namespaces.len() == 2 && namespaces[0] != namespaces[1], "a namespace of the pod's own: {namespaces:?}");
    let links = std::fs::read_to_string(host.directory().join("links")).unwrap();
    assert!(links.contains("hook0"), "{links}");
    assert!(host.directory().join("poststop").exists());
    drop(rootfs);

    // `ctr run --cni` looks in two fixed places: it gets them in a mount namespace of its own.
    let network = format!(
        r#"{{"cniVersion": "0.4.0", "name": "ctr", "plugins": [{{"type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {{"type": "host-local", "dataDir": "{directory}/ipam", "ranges": [[{{"subnet": "10.78.0.0/16"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#
    );
    std::fs::create_dir_all(host.directory().join("cni/etc/cni/net.d")).unwrap();
    std::fs::write(host.directory().join("cni/etc/cni/net.d/10-ctr.conflist"), network).unwrap();
    let places = format!(
        "mkdir {directory}/cni/work; mount -t overlay overlay -o lowerdir=/etc,upperdir={directory}/cni/etc,workdir={directory}/cni/work /etc
         mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin; mount --bind {plugins} /opt/cni/bin; exec \"$@\"",
        plugins = products::cni().unwrap().display()
    );
    let script = "ip -o address show dev eth0; ip route; ping -c 1 -W 60 10.78.0.1; ip -o link | wc -l";
    let run = host.run_command(&["--cni"], &image("busybox"), "plugged", &["sh", "-c", script]);
    let mut command = host.command_inside("unshare");
    command.args(["--mount", "sh", "-ec", &places, "sh"]).arg(run.get_program()).args(run.get_args());
    let output = finish(command, PATIENCE).unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["10.78.0.", "default via 10.78.0.1 dev eth0", "1 packets received"]);
    // The kernel takes a namespace's interfaces down some time after its last process has left.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut list = host.command_inside("ip");
        list.args(["-o", "link"]);
        let links = finish(list, PATIENCE).unwrap().stdout;
        if !["veth", "hook0", "paperboat"].iter().any(|name| links.contains(name)) {
            break;
        }
        assert!(Instant::now() < deadline, "left behind: {links}");
        thread::sleep(Duration::from_millis(100));
    }
    expect::nothing_left(&host, &before);
}

#[test]
fn a_killed_shim_leaves_nothing_in_the_namespace() {
    let host = host();
    let mut net = Net::new().unwrap();
    let pod = net.pod(5).unwrap();
    let before = host.leftovers();
    thread::scope(|scope| {
        let namespace = in_namespace(&pod);
        let (host, net) = (&host, &net);
        let running =
            scope.spawn(move || host.run_with(&["--with-ns", &namespace], &image("busybox"), "orphan", &["sleep", "1000"]));
        host.wait_for_log(&["container started id=orphan"]).unwrap();
        let there = net.inside_pod(5, "ip -o link; tc qdisc show").unwrap();
        assert!(there.contains("paperboat0") && there.contains("ingress"), "{there}");
        // A second pod in the namespace of the first is refused by name, and the first one keeps its network.
        let second = host.run_with(&["--with-ns", &in_namespace(&pod)], &image("busybox"), "second", &["true"]).unwrap();
        expect::code(host, &second, 1);
        expect::words(host, &second.stderr, &["eth0", "another micro-VM"]);
        net.inside("busybox ping -c 1 -W 60 10.88.0.5").unwrap();
        for pid in leaks::processes_of(host.directory(), host.containerd_pid()) {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The second pod's shim may still be on its way out.
            if program.ends_with("containerd-shim-paperboat-v1") && command.contains("\0orphan\0") {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        }
        assert!(!running.join().unwrap().unwrap().status.success());
    });
    let _ = std::fs::remove_dir_all(host.directory().join("fifo"));
    expect::nothing_left(&host, &before);
    expect_clean(&net, 5);
}

#[test]
fn a_namespace_without_interfaces_has_loopback_and_the_hosts_is_refused() {
    let host = host();
    let before = host.leftovers();
    let script = "ping -c 1 -W 30 127.0.0.1 >/dev/null && ping -c 1 -W 30 ::1 >/dev/null && echo loopback; ip -o link show up";
    let output = host.run("lonely", &["sh", "-c", script]).unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["loopback"]);
    assert_eq!(output.stdout.lines().filter(|line| line.contains("LOWER_UP")).count(), 1, "{}", output.stdout);
    let refused = host.run_with(&["--net-host"], &image("busybox"), "greedy", &["true"]).unwrap();
    expect::code(&host, &refused, 1);
    expect::words(&host, &refused.stderr, &["network namespace", "--network host"]);
    let by_path = format!("network:/proc/{}/ns/net", host.containerd_pid());
    let refused = host.run_with(&["--with-ns", &by_path], &image("busybox"), "sly", &["true"]).unwrap();
    expect::code(&host, &refused, 1);
    expect::words(&host, &refused.stderr, &["the host's own network namespace"]);
    expect::nothing_left(&host, &before);
}
