//! What clients, specifications and images may get wrong, or take to extremes.

#![forbid(unsafe_code)]

use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::spec::Rootfs;
use paperboat_e2e::{Host, Running, expect};
use serde_json::{Value, json};

/// Runs a specification to its end; exit code, output, errors.
fn run(host: &Host, rootfs: &Rootfs, id: &str, spec: &Value) -> paperboat_e2e::Output {
    let file = rootfs.write(id, spec).unwrap().display().to_string();
    let fifos = host.directory().join("fifo").display().to_string();
    host.ctr(&["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos, "--config", &file, id]).unwrap()
}

#[test]
fn extremes_are_carried_whole() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let rootfs = Rootfs::mount(&host).unwrap();
    let before = host.leftovers();
    // 10,000 variables; arguments of 1 MiB in all, the longest of 128 KiB less one, which is as long as Linux takes with pages of 4 KiB;
    // a specification of more than 4 MiB, which no frame of the runtime's protocols could hold.
    let long = "x".repeat((128 << 10) - 1);
    let script =
        r#"echo variables $(env | grep -c ^V[0-9]); echo arguments $#; for last; do :; done; echo length ${#last}; echo $V9999"#;
    let mut arguments = vec!["sh", "-c", script, "sh"];
    arguments.extend([long.as_str(); 8]);
    let spec = rootfs.spec(&arguments, |spec| {
        let env = spec["process"]["env"].as_array_mut().unwrap();
        env.extend((0..10_000).map(|n| json!(format!("V{n}=é{n}"))));
        spec["annotations"] = json!({"large": "y".repeat(5 << 20)});
    });
    let output = run(&host, &rootfs, "extremes", &spec);
    expect::code(&host, &output, 0);
    assert_eq!(output.stdout, format!("variables 10000\narguments 8\nlength {}\né9999\n", long.len()));

    // Odd names, as long as containerd takes them.
    let odd = format!("a.b-c_d{}", "0".repeat(69));
    let output = host.run(&odd, &["sh", "-c", "exit 3"]).unwrap();
    expect::code(&host, &output, 3);
    drop(rootfs);
    expect::nothing_left(&host, &before);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let rootfs = Rootfs::mount(&host).unwrap();
    let before = host.leftovers();
    let missing = host.directory().join("nothing");
    let no_root = rootfs.spec(&["true"], |spec| spec["root"]["path"] = json!(missing));
    let no_volume = rootfs.spec(&["true"], |spec| {
        let mount = json!({"destination": "/data", "type": "bind", "source": missing, "options": ["rbind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    let without = |kind: &str| {
        rootfs.spec(&["true"], |spec| {
            spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
        })
    };
    let refused: [(&str, Value, &[&str]); 11] = [
        ("host-network", without("network"), &["network namespace", "micro-VM", "--net-host"]),
        ("host-pid", without("pid"), &["pid namespace", "micro-VM", "--pid host"]),
        ("host-ipc", without("ipc"), &["ipc namespace", "micro-VM", "--ipc host"]),
        (
            "mapped",
            rootfs.spec(&["true"], |spec| {
                let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
                let mount = json!({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind"],
                    "uidMappings": ids, "gidMappings": ids});
                spec["mounts"].as_array_mut().unwrap().push(mount);
            }),
            &["/data", "id-mapped mounts"],
        ),
        ("no-root", no_root, &["nothing", "No such file"]),
        ("no-volume", no_volume, &["nothing", "/data", "No such file"]),
        ("no-program", rootfs.spec(&["no-such-program"], |_| ()), &["no-such-program", "not found"]),
        ("no-cwd", rootfs.spec(&["true"], |spec| spec["process"]["cwd"] = json!("relative")), &["cwd"]),
        (
            "foreign-user",
            rootfs.spec(&["true"], |spec| {
                spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user", "path": "/proc/1/ns/user"}));
            }),
            &["user namespace", "micro-VM"],
        ),
        (
            "notifies",
            rootfs.spec(&["true"], |spec| {
                spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock"});
            }),
            &["listenerPath"],
        ),
        ("beyond", rootfs.spec(&["true"], |spec| spec["linux"]["sysctl"] = json!({"kernel/../../x": "1"})), &["sysctl"]),
    ];
    for (id, spec, words) in refused {
        let output = run(&host, &rootfs, id, &spec);
        assert_ne!(output.code(), Some(0), "{id}: {output:#?}");
        expect::words(&host, &output.stderr, words);
        let _ = host.ctr(&["container", "rm", id]);
        let _ = std::fs::remove_dir_all(host.directory().join("fifo"));
    }
    drop(rootfs);
    expect::nothing_left(&host, &before);
}

/// What takes minutes.
mod slow {
    use std::io::Write;
    use std::process::Stdio;
    use std::thread;

    use super::*;

    #[test]
    fn a_gibibyte_goes_in() {
        const CHUNK: usize = 1 << 20;
        let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
        let before = host.leftovers();
        let running = Running::start(&host, "gibibyte", &[], &["sleep", "100000"]).unwrap();
        let command = ["task", "exec", "--exec-id", "count", "gibibyte", "wc", "-c"];
        let mut child = host.ctr_command(&command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = thread::spawn(move || (0..1024).for_each(|_| stdin.write_all(&[7; CHUNK]).unwrap()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1073741824");
        running.remove().unwrap();
        expect::nothing_left(&host, &before);
    }

    #[test]
    fn two_hundred_runs_in_a_row_and_twenty_at_once_leave_nothing() {
        let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
        let before = host.leftovers();
        for round in 0..200 {
            let output = host.run(&format!("run-{round}"), &["sh", "-c", &format!("exit {}", round % 100)]).unwrap();
            expect::code(&host, &output, round % 100);
        }
        expect::nothing_left(&host, &before);
        thread::scope(|scope| {
            let host = &host;
            let start = |number: i32| {
                let id = format!("pod-{number}");
                scope.spawn(move || {
                    let output = host.run_with(&[], &image("busybox"), &id, &["sh", "-c", &format!("sleep 1; exit {number}")]);
                    expect::code(host, &output.unwrap(), number);
                })
            };
            let runs: Vec<_> = (0..20).map(start).collect();
            runs.into_iter().for_each(|run| run.join().unwrap());
        });
        expect::nothing_left(&host, &before);
    }
}
