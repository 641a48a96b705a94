//! What an OCI specification says of a container holds in the guest: for its first process, and for programs added to it.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use paperboat_e2e::events::Events;
use paperboat_e2e::spec::Rootfs;
use paperboat_e2e::task_api::Fifos;
use paperboat_e2e::{Host, Running, leaks};
use serde_json::json;

/// Tells what this process is confined to, `name=value` lines.
const REPORT: &str = r#"
echo "id=$(id -u):$(id -g):$(id -G)"
while IFS=: read -r key value; do case $key in NoNewPrivs|CapEff|CapBnd|CapAmb|Seccomp) echo $key=$value;; esac; done < /proc/self/status
echo "nofile=$(ulimit -n)"
echo "umask=$(umask)"
echo "cwd=$(pwd)"
echo "host=$(hostname)"
echo "score=$(cat /proc/self/oom_score_adj)"
echo "env=$GREETING"
(: > /written) 2>/dev/null && echo root=writable || echo root=read-only
(: > /tmp/written) 2>/dev/null && echo tmp=writable
(echo 1 > /proc/sys/kernel/msgmax) 2>/dev/null && echo sysctl=writable || echo sysctl=read-only
test -s /proc/kcore && echo kcore=there || echo kcore=masked
ls -A /sys/firmware | grep -q . && echo firmware=there || echo firmware=masked
echo "shmmax=$(cat /proc/sys/kernel/shmmax)"
echo "somaxconn=$(cat /proc/sys/net/core/somaxconn)"
mkdir /tmp/d 2>&1 | grep -q "upported" && echo mkdir=filtered
echo "bound=$(cat /bound/inside)"
echo "size=$(df -k /limited | tail -1 | { read -r _ size _; echo $size; })"
(: < /dev/fuse) 2>&1 | grep -q "not permitted" && echo fuse=denied
(: > /dev/null) && echo null=usable
echo "processes=$(ls /proc | grep -c ^[0-9])"
echo "cgroup=$(cat /proc/self/cgroup)"
"#;

fn report(text: &str) -> HashMap<String, String> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn a_specification_holds_for_the_first_process_and_for_added_ones() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let rootfs = Rootfs::mount(&host).unwrap();
    let before = host.leftovers();
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("inside"), "bound\n").unwrap();
    std::fs::write(rootfs.path().join("bin/hook"), "#!/bin/sh\ncat > /tmp/hook-ran; echo $HOOK >> /tmp/hook-ran\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(rootfs.path().join("bin/hook"), std::fs::Permissions::from_mode(0o755)).unwrap();

    let caps = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let spec = rootfs.spec(&["sh", "-c", &format!("{{ {REPORT} }} > /tmp/report 2>&1; sleep 1000")], |spec| {
        let process = &mut spec["process"];
        process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o27});
        process["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps});
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 99, "soft": 77}]);
        process["noNewPrivileges"] = json!(true);
        process["oomScoreAdj"] = json!(321);
        process["cwd"] = json!("/home");
        process["env"].as_array_mut().unwrap().push(json!("GREETING=hello  world"));
        // A host's security module profile is not the guest's: left out, and said so in the log.
        process["apparmorProfile"] = json!("docker-default");
        spec["root"]["readonly"] = json!(true);
        spec["hostname"] = json!("named");
        spec["hooks"] = json!({"startContainer": [{"path": "/bin/hook", "args": ["hook"], "env": ["PATH=/bin", "HOOK=hooked"]}]});
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/bound", "type": "bind", "source": shared.path(), "options": ["rbind", "ro"]}));
        mounts
            .push(json!({"destination": "/limited", "type": "tmpfs", "source": "tmpfs", "options": ["size=320k", "mode=1777"]}));
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
        let linux = &mut spec["linux"];
        linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
        linux["maskedPaths"] = json!(["/proc/kcore", "/proc/acpi", "/sys/firmware"]);
        linux["readonlyPaths"] = json!(["/proc/sys", "/proc/sysrq-trigger"]);
        linux["sysctl"] = json!({"kernel.shmmax": "12345678", "net.core.somaxconn": "321"});
        linux["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        linux["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]);
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 40}});
    });
    let file = rootfs.write("confined", &spec).unwrap();
    let running = Running::start_spec(&host, "confined", &file).unwrap_or_else(|error| panic!("{error}"));

    // The same for a program added to it, which brings its own user, environment and limits.
    let mut process = spec["process"].clone();
    process["args"] = json!([
        "sh",
        "-c",
        "while ! grep -q ^cgroup /tmp/report; do sleep 0.1; done; cat /tmp/report; echo ====; rm -f /tmp/written; \
        eval \"$REPORT\"; echo hook=$(grep -o hooked /tmp/hook-ran)"
    ]);
    process["env"].as_array_mut().unwrap().push(json!(format!("REPORT={REPORT}")));
    let fifos = Fifos { stdin: String::new(), ..Fifos::new(host.directory(), "report", false).unwrap() };
    let api = running.api().unwrap();
    api.exec("report", &process.to_string(), &fifos).unwrap();
    api.start("report").unwrap_or_else(|error| panic!("{error:?}\n{}", host.log()));
    let text = std::fs::read_to_string(&fifos.stdout).unwrap();
    api.delete("report").unwrap();

    let (first, added) = text.split_once("====").unwrap_or_else(|| panic!("{text}"));
    for (who, text) in [("first", first), ("added", added)] {
        let report = report(text);
        let expected = [
            ("id", "1000:1001:1001 5 7"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapEff", "0000000000000420"),
            ("CapBnd", "0000000000000420"),
            ("CapAmb", "0000000000000420"),
            ("nofile", "77"),
            ("umask", "0027"),
            ("cwd", "/home"),
            ("host", "named"),
            ("score", "321"),
            ("env", "hello  world"),
            ("root", "read-only"),
            ("tmp", "writable"),
            ("sysctl", "read-only"),
            ("kcore", "masked"),
            ("firmware", "masked"),
            ("shmmax", "12345678"),
            ("somaxconn", "321"),
            ("mkdir", "filtered"),
            ("bound", "bound"),
            ("size", "320"),
            ("fuse", "denied"),
            ("null", "usable"),
            ("cgroup", "0::/"),
        ];
        for (key, value) in expected {
            assert_eq!(report.get(key).map(String::as_str), Some(value), "{who} process: {key} in\n{text}");
        }
    }
    assert_eq!(report(added)["hook"], "hooked", "the hook inside the container has run: {added}");
    assert_eq!(running.metrics().unwrap()["pids.limit"], 40);
    running.remove().unwrap();

    // Everything at once, and nothing of it: a privileged container without namespaces of its own is the guest's root, not the host's.
    let guest = Running::start(&host, "guest", &["--privileged", "--with-ns", "pid:/proc/1/ns/pid"], &["sleep", "1000"]).unwrap();
    let agent = guest.shell("agent", "cat /proc/1/comm; grep VmRSS /proc/1/status; wc -c < /proc/1/exe").unwrap();
    let numbers: Vec<u64> = agent.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] <= 10 << 10, "the agent is resident with {} KiB", numbers[0]);
    assert!(numbers[1] <= 8 << 20, "the agent's program has {} bytes", numbers[1]);
    guest.remove().unwrap();
    drop(rootfs);
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}\n{}", host.log());
}

#[test]
fn limits_hold_are_counted_and_can_be_changed() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let events = Events::listen(&host).unwrap();
    let before = host.leftovers();
    // 64 MiB are enough for a container.
    let mut options = vec!["--memory-limit", "67108864", "--cpu-quota", "50000", "--cpu-period", "100000"];
    options.extend(["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"]);
    let running = Running::start(&host, "limited", &options, &["sleep", "1000"]).unwrap();
    let metrics = running.metrics().unwrap();
    assert_eq!(metrics["memory.usage_limit"], 64 << 20, "{metrics:?}");
    for counted in ["memory.usage", "cpu.usage_usec", "pids.current"] {
        assert!(metrics[counted] > 0, "{counted} in {metrics:?}");
    }
    // Long enough for periods to be counted.
    running.shell("busy", "timeout 1 sh -c 'while :; do :; done'; true").unwrap();
    let api = running.api().unwrap();
    let stats = api.stats().unwrap();
    assert!(stats.memory.pgfault > 0 && stats.memory.anon > 0 && stats.cpu.nr_periods > 0, "{stats}");
    let cgroup = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && cat memory.max cpu.max pids.max cpu.weight cpuset.cpus";
    let limits = |name: &str| running.shell(name, cgroup).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(limits("before")[..4], ["67108864", "50000", "100000", "max"]);
    api.update(r#"{"memory": {"limit": 134217728}, "cpu": {"quota": 80000, "period": 100000, "shares": 2048, "cpus": "0"}, "pids": {"limit": 50}}"#)
        .unwrap();
    let raised = limits("raised");
    assert_eq!((raised[0].as_str(), raised[1].as_str(), raised[3].as_str()), ("134217728", "80000", "50"), "{raised:?}");
    assert_eq!(raised.last().map(String::as_str), Some("0"), "{raised:?}");
    api.update(r#"{"memory": {"limit": 33554432}}"#).unwrap();
    let lowered = limits("lowered");
    assert_eq!((lowered[0].as_str(), lowered[3].as_str()), ("33554432", "50"), "what is not named stays");
    let (_, text) = api.update(r#"{"memory": {"limit": 1099511627776}}"#).expect_err("more than the machine has");
    assert!(text.contains("1099511627776") && text.contains("memory_mib"), "{text}");
    api.update("{").expect_err("no JSON");

    // Beyond the limit the guest's kernel ends the program; the container goes on, and both are told.
    let hungry = running.exec("hungry", &["sh", "-c", "exec tail /dev/zero"]).unwrap();
    assert_eq!(hungry.code(), Some(137), "{hungry:#?}");
    // Create, start, three events for each of five programs, and the one that counts.
    assert!(events.expect("limited", 18).contains(&"oom".to_owned()), "{:?}", events.of_task("limited"));
    assert_eq!(api.stats().unwrap().memory_events.oom_kill, 1);
    assert_eq!(running.status().unwrap(), "RUNNING");
    running.remove().unwrap();
    let topics = events.expect("limited", 20);
    assert_eq!(topics.iter().filter(|topic| *topic == "oom").count(), 1, "{topics:?}");
    drop(events);
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}\n{}", host.log());
}

#[test]
fn the_machine_is_charged_where_the_client_says_and_its_console_is_bounded() {
    const CONSOLE_KIB: u64 = 16;
    let host = Host::start_with(&format!("limits:\n  console_kib: {CONSOLE_KIB}")).unwrap_or_else(|error| panic!("{error}"));
    let rootfs = Rootfs::mount(&host).unwrap();
    let before = host.leftovers();
    // The two forms of cgroupsPath, of the cgroupfs and of the systemd driver, and the directory that the machine is in.
    let name = host.namespace();
    let mut slice = String::new();
    let mut slices = String::new();
    for part in name.split('-') {
        slice = if slice.is_empty() { part.into() } else { format!("{slice}-{part}") };
        slices.push_str(&format!("/{slice}.slice"));
    }
    let forms = [
        ("plain", format!("/{name}/pods/plain"), format!("/{name}/pods")),
        ("sliced", format!("{name}.slice:cri:sliced"), slices),
    ];
    for (id, asked, parent) in forms {
        let spec = rootfs.spec(&["sleep", "1000"], |spec| spec["linux"]["cgroupsPath"] = json!(asked));
        let running = Running::start_spec(&host, id, &rootfs.write(id, &spec).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let (shim, machine) = running.api().unwrap().connect().unwrap();
        for pid in [shim, machine] {
            let places = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let leaf = format!("{parent}/paperboat-{id}");
            // Every hierarchy of v1, or the one of v2; an empty v2 may lie beside v1.
            let wanted = |line: &&str| !line.starts_with("0::") || places.lines().count() == 1;
            assert!(places.lines().filter(wanted).all(|line| line.ends_with(&leaf)), "{leaf} in\n{places}");
        }
        running.remove().unwrap();
    }
    drop(rootfs);

    // A guest that writes to its console all the time fills no disk.
    let noisy = Running::start(&host, "noisy", &["--privileged"], &["sleep", "1000"]).unwrap();
    let script = "echo on > /proc/sys/kernel/printk_devkmsg; mknod /tmp/kmsg c 1 11 && n=0; \
        while test $n -lt 2000; do echo \"<0>this is line $n of two thousand\"; n=$((n + 1)); done > /tmp/kmsg; dmesg | tail -1";
    let last = noisy.shell("write", script).unwrap();
    assert!(last.contains("line 1999"), "{last}");
    let console = std::fs::read(host.state_dir().join(name).join("noisy/console.log")).unwrap();
    let size = console.len() as u64;
    // What came first is kept, with a line that says that there was more.
    assert!((CONSOLE_KIB << 10..(CONSOLE_KIB << 10) + 200).contains(&size), "{size} bytes");
    noisy.remove().unwrap();
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}\n{}", host.log());
}
