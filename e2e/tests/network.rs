//! A pod's network: namespaces and cables made by hand, as a network plug-in would.

#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
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

/// Waits until containerd's network namespace has nothing of pods left: the kernel takes a namespace's interfaces down some time after its last
/// process has left.
#[track_caller]
fn expect_no_links(host: &Host) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut list = host.command_inside("sh");
        list.args(["-ec", "ip -o link; tc qdisc show; iptables-save; ip6tables-save"]);
        let listed = finish(list, PATIENCE).unwrap();
        expect::code(host, &listed, 0);
        if !["veth", "hook0", "paperboat", "ingress", "\n-A "].iter().any(|name| listed.stdout.contains(name)) {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {}", listed.stdout);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Has `ctr run --cni` make interfaces on bridge `cni0`, with an address of each of the ranges and with these routes.
fn describe_cni(host: &Host, ranges: &str, routes: &str) {
    let directory = host.directory().display();
    let network = format!(
        r#"{{"cniVersion": "0.4.0", "name": "ctr", "plugins": [{{"type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {{"type": "host-local", "dataDir": "{directory}/ipam", "ranges": [{ranges}], "routes": [{routes}]}}}}]}}"#
    );
    std::fs::create_dir_all(host.directory().join("networks")).unwrap();
    std::fs::write(host.directory().join("networks/10-ctr.conflist"), network).unwrap();
}

/// The same command in a mount namespace of its own, which has the plug-ins and the network in the two places where `ctr` looks for them.
fn with_cni(host: &Host, run: &Command) -> Command {
    let places = format!(
        "layers=$(mktemp -d -p {directory}); mkdir $layers/upper $layers/work
         mount -t overlay overlay -o lowerdir=/etc,upperdir=$layers/upper,workdir=$layers/work /etc
         mkdir -p /etc/cni/net.d; mount --bind {directory}/networks /etc/cni/net.d
         mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin; mount --bind {plugins} /opt/cni/bin; exec \"$@\"",
        directory = host.directory().display(),
        plugins = products::cni().unwrap().display()
    );
    let mut command = host.command_inside("unshare");
    command.args(["--mount", "sh", "-ec", &places, "sh"]).arg(run.get_program()).args(run.get_args());
    command
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

/// Waits for a file that a container makes.
#[track_caller]
fn wait_for_mark(marks: &std::path::Path, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !marks.join(name).exists() {
        assert!(Instant::now() < deadline, "waited in vain for {name}");
        thread::sleep(Duration::from_millis(50));
    }
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
    // It waits until the new cable is there, until the old one is another, then until the new one is gone.
    let script = "until ip -o address show dev eth1 2>/dev/null | grep 10.88.1.4; do sleep 1; done; echo came; touch /marks/came
        until [ \"$(cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address | xargs)\" = '1300 02:00:00:00:13:00' ]; do sleep 1; done
        until ping -c 1 -s 1200 -W 10 10.88.0.1 >/dev/null; do sleep 1; done; echo changed; touch /marks/changed
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
        wait_for_mark(&marks, "came");
        // Whoever made the interface gives it another size and another hardware address.
        net.inside_pod(4, "ip link set eth0 mtu 1300; ip link set eth0 address 02:00:00:00:13:00").unwrap();
        wait_for_mark(&marks, "changed");
        net.unplug(4, "eth1").unwrap();
        let output = running.join().unwrap().unwrap();
        expect::code(host, &output, 0);
        expect::words(host, &output.stdout, &["came", "changed", "went", "still here"]);
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

    describe_cni(&host, r#"[{"subnet": "10.78.0.0/16"}]"#, r#"{"dst": "0.0.0.0/0"}"#);
    let script = "ip -o address show dev eth0; ip route; ping -c 1 -W 60 10.78.0.1; ip -o link | wc -l";
    let command = with_cni(&host, &host.run_command(&["--cni"], &image("busybox"), "plugged", &["sh", "-c", script]));
    let output = finish(command, PATIENCE).unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["10.78.0.", "default via 10.78.0.1 dev eth0", "1 packets received"]);
    expect_no_links(&host);
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

/// Where everyone echoes.
const ECHO_PORT: u16 = 9000;
/// Bytes of a stream, enough for many windows.
const STREAM_BYTES: usize = 1_000_000;
/// Bytes of datagrams; the last ones are in fragments, dozens of them.
const DATAGRAM_BYTES: [usize; 6] = [1, 1000, 1472, 1473, 9000, 60_000];

/// Answers with what comes, over TCP and UDP, IPv4 and IPv6.
const ECHO: &str = r#"
import socket, threading
def serve(connection):
    with connection:
        while data := connection.recv(1 << 18):
            connection.sendall(data)
def listen():
    listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],)).start()
threading.Thread(target=listen).start()
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); datagrams.bind(("::", 9000))
while True:
    data, peer = datagrams.recvfrom(65536); datagrams.sendto(data, peer)
"#;

/// Sends to each address a stream and datagrams, and expects each back with its checksum.
const CALL: &str = r#"
import hashlib, os, socket, sys, threading, time
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline = time.monotonic() + 60
    while True:
        try:
            stream = socket.create_connection((address, 9000), 60); break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    sent = os.urandom(1000000)
    def send():
        stream.sendall(sent); stream.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = bytearray()
    while data := stream.recv(1 << 18):
        got += data
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest(), (address, len(got))
    for size in (1, 1000, 1472, 1473, 9000, 60000):
        datagrams = socket.socket(family, socket.SOCK_DGRAM); datagrams.settimeout(5)
        sent, got = os.urandom(size), None
        for attempt in range(12): # one may be lost
            try:
                datagrams.sendto(sent, (address, 9000)); got = datagrams.recv(65536); break
            except TimeoutError:
                print("lost", size, address, file=sys.stderr)
        assert got == sent, (address, size)
    print("echoed", address, flush=True)
"#;

/// What [`ECHO`] does, in the calling thread's network namespace.
fn serve_echo() -> io::Result<()> {
    let (listener, datagrams) = (TcpListener::bind(("::", ECHO_PORT))?, UdpSocket::bind(("::", ECHO_PORT))?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..length], peer);
        }
    });
    Ok(())
}

/// What [`CALL`] does with one address, in the calling thread's network namespace.
fn call(address: IpAddr) -> io::Result<()> {
    let to = SocketAddr::new(address, ECHO_PORT);
    let sent: Vec<u8> = (0_u32..).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).take(STREAM_BYTES).collect();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sender = stream.try_clone()?;
    let data = sent.clone();
    let sending = thread::spawn(move || sender.write_all(&data).and_then(|()| sender.shutdown(Shutdown::Write)));
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    sending.join().unwrap()?;
    assert!(got == sent, "{address}: {} bytes", got.len());
    for size in DATAGRAM_BYTES {
        let datagrams = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        datagrams.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut buffer = vec![0; 65536];
        // One may be lost.
        let length = (0..12).find_map(|_| {
            datagrams.send_to(&sent[..size], to).ok()?;
            datagrams.recv(&mut buffer).ok()
        });
        assert!(length.is_some_and(|length| buffer[..length] == sent[..size]), "{address}: {size}");
    }
    Ok(())
}

#[test]
fn pods_of_cni_and_the_host_reach_each_other_by_streams_and_datagrams() {
    let host = host();
    host.import("debian", "linux/ppc64le").unwrap();
    let ranges = r#"[{"subnet": "10.79.0.0/16"}], [{"subnet": "fd79::/64"}]"#;
    describe_cni(&host, ranges, r#"{"dst": "0.0.0.0/0"}, {"dst": "::/0"}"#);
    let before = host.leftovers();
    let run = |id: &str, program: &[&str]| {
        let command = host.run_command(&["--cni"], &image("debian"), id, &[&["python3", "-c"], program].concat());
        finish(with_cni(&host, &command), PATIENCE).unwrap()
    };
    let leases = || -> Vec<IpAddr> {
        let files = std::fs::read_dir(host.directory().join("ipam/ctr")).into_iter().flatten().flatten();
        files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
    };
    thread::scope(|scope| {
        let server = scope.spawn(|| run("server", &[ECHO]));
        host.wait_for_log(&["container started id=server"]).unwrap();
        let addresses = leases();
        assert_eq!(addresses.len(), 2, "one of each family: {addresses:?}");
        host.inside(serve_echo).unwrap();
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let mut program = vec![CALL, "10.79.0.1", "fd79::1"];
        program.extend(texts.iter().map(String::as_str));
        let client = run("client", &program);
        expect::code(&host, &client, 0);
        assert_eq!(client.stdout.lines().count(), 4, "{}", client.stdout);
        for address in addresses {
            host.inside(move || call(address)).unwrap();
        }
        // It takes the network away as well, and looks for it in the same two places.
        let kill = with_cni(&host, &host.ctr_command(&["task", "kill", "--signal", "KILL", "server"]));
        expect::code(&host, &finish(kill, PATIENCE).unwrap(), 0);
        expect::code(&host, &server.join().unwrap(), 137);
    });
    assert_eq!(leases(), [] as [IpAddr; 0]);
    expect_no_links(&host);
    expect::nothing_left(&host, &before);
}
