//! Docker, as its users meet the runtime.

#![forbid(unsafe_code)]

mod compose;
mod networks;
mod setup;
mod ship;
mod terminal;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::command::{COMMAND_TIMEOUT, finish};
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::image;
use paperboat_e2e::products::Docker as Release;
use paperboat_e2e::{Output, expect};
use ship::Ship;

/// Runs until it is told to end, and then says so.
const SERVICE: &str = "trap 'echo told; exit 5' TERM; echo begun; while true; do sleep 0.2; done";

/// Runs a command with text as its standard input.
fn fed(mut command: Command, text: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{e}"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        wall: started.elapsed(),
    }
}

#[test]
fn a_container_runs_in_the_foreground() {
    let ship = Ship::start(Release::of_tests());
    let script = format!("{PROOF_SCRIPT}; echo to standard error >&2; exit 7");
    let output = ship.run(&["--rm"], &["sh", "-c", &script]);
    expect::code(ship.docker.host(), &output, 7);
    expect::guest(&output.stdout);
    assert!(output.stderr.ends_with("to standard error\n"), "{output:?}");

    let image = image("busybox");
    let output = fed(ship.docker.command(&ship.words(&["--rm", "-i"], &image, &["md5sum"])), "some input");
    assert_eq!(output.stdout, format!("{}  -\n", md5("some input")));
    let command = ship.docker.command_on_a_terminal(&ship.words(&["--rm", "-t"], &image, &["sh", "-c", "tty; exit 4"]));
    let output = finish(command, COMMAND_TIMEOUT).unwrap();
    expect::code(ship.docker.host(), &output, 4);
    assert!(output.stdout.contains("/dev/pts/0"), "{output:?}");

    // What cannot be run is told apart as Docker's users know it.
    expect::code(ship.docker.host(), &ship.run(&["--rm"], &["no-such-program"]), 127);
    ship.expect_nothing_left();
}

fn md5(text: &str) -> String {
    let output = fed(Command::new("md5sum"), text);
    output.stdout.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_container_lives_in_the_background() {
    let ship = Ship::start(Release::of_tests());
    let output = ship.run(&["--detach", "--name", "service"], &["sh", "-c", SERVICE]);
    expect::code(ship.docker.host(), &output, 0);
    expect::guest(&ship.exec("service", PROOF_SCRIPT));
    assert_eq!(ship.docker(&["exec", "service", "sh", "-c", "exit 3"]).code(), Some(3));
    let identity = ship.done(&[
        "exec",
        "-u",
        "5:6",
        "-e",
        "COLOUR=green",
        "-w",
        "/tmp",
        "service",
        "sh",
        "-c",
        "id -u; id -g; echo $COLOUR; pwd",
    ]);
    assert_eq!(identity, "5\n6\ngreen\n/tmp\n");
    assert_eq!(fed(ship.docker.command(&["exec", "-i", "service", "cat"]), "through").stdout, "through");
    let state = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(ship.inspect("service", state), "running 0");
    ship.done(&["stop", "-t", "60", "service"]);
    assert_eq!(ship.inspect("service", state), "exited 5");
    assert_eq!(ship.done(&["logs", "service"]), "begun\ntold\n");
    ship.done(&["start", "service"]);
    ship.done(&["kill", "service"]);
    ship.wait_until("service", state, "exited 137");
    ship.done(&["rm", "service"]);
    ship.expect_nothing_left();
}

/// Part of `cargo xtask test --all`.
mod slow {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_running_container_is_looked_after() {
        let ship = Ship::start(Release::of_tests());
        let output = ship.run(&["--detach", "--name", "service"], &["sh", "-c", SERVICE]);
        expect::code(ship.docker.host(), &output, 0);
        let status = "{{.State.Status}}";
        ship.done(&["pause", "service"]);
        assert_eq!(ship.inspect("service", status), "paused");
        ship.done(&["unpause", "service"]);
        assert_eq!(ship.inspect("service", status), "running");

        ship.done(&["update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.5", "service"]);
        let group = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && cat memory.max cpu.max";
        assert_eq!(ship.exec("service", group), format!("{}\n50000 100000", 96 << 20));
        let stats = ship.done(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "service"]);
        assert!(stats.contains("/ 96MiB") && !stats.starts_with('0'), "{stats}");
        // The host sees one process of the pod: its machine.
        assert!(ship.done(&["top", "service"]).contains("paperboat-vmm"));

        let (there, back) = (ship.docker.host().directory().join("there"), ship.docker.host().directory().join("back"));
        std::fs::write(&there, "copied in").unwrap();
        ship.done(&["cp", &there.display().to_string(), "service:/root/there"]);
        assert_eq!(ship.exec("service", "cat /root/there; echo copied out > /tmp/back"), "copied in");
        ship.done(&["cp", "service:/tmp/back", &back.display().to_string()]);
        assert_eq!(std::fs::read_to_string(back).unwrap(), "copied out\n");

        // Attached, Ctrl-C is the container's to answer.
        let attached = ship.docker.command(&["attach", "service"]);
        let attached = { attached }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_secs(1));
        kill(Pid::from_raw(i32::try_from(attached.id()).unwrap()), Signal::SIGTERM).unwrap();
        let output = attached.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "told\n");
        assert_eq!(ship.done(&["wait", "service"]), "5\n");
        ship.done(&["rm", "service"]);
        // Up to two seconds from now: the last ones are young.
        let events = ship.done(&["events", "--since", "10m", "--until=-2s", "--format", "{{.Action}}"]);
        for action in ["create", "start", "pause", "unpause", "update", "attach", "die"] {
            assert!(events.lines().any(|line| line == action), "{action} is not in {events}");
        }
        ship.expect_nothing_left();
    }

    #[test]
    fn a_container_is_started_again_as_its_policy_says() {
        let ship = Ship::start(Release::of_tests());
        let boots = ship.docker.host().directory().join("boots");
        std::fs::create_dir(&boots).unwrap();
        let script = "cat /proc/sys/kernel/random/boot_id >> /boots/ids; exit 3";
        let volume = format!("{}:/boots", boots.display());
        let options = ["--detach", "--name", "failing", "--restart", "on-failure:2", "--volume", &volume];
        expect::code(ship.docker.host(), &ship.run(&options, &["sh", "-c", script]), 0);
        ship.wait_until("failing", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "exited 2 3");
        let ids = std::fs::read_to_string(boots.join("ids")).unwrap();
        let mut ids: Vec<&str> = ids.lines().collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3, "three starts, three machines");
        ship.done(&["rm", "failing"]);

        let health = [
            "--detach",
            "--name",
            "healthy",
            "--health-cmd",
            "test -f /well",
            "--health-interval",
            "1s",
            "--health-retries",
            "2",
        ];
        expect::code(ship.docker.host(), &ship.run(&health, &["sh", "-c", "touch /well; sleep 1000"]), 0);
        ship.wait_until("healthy", "{{.State.Health.Status}}", "healthy");
        ship.exec("healthy", "rm /well");
        ship.wait_until("healthy", "{{.State.Health.Status}}", "unhealthy");
        ship.done(&["rm", "--force", "healthy"]);

        let hungry = ship.run(&["--name", "hungry", "--memory", "32m"], &["tail", "/dev/zero"]);
        expect::code(ship.docker.host(), &hungry, 137);
        assert_eq!(ship.inspect("hungry", "{{.State.OOMKilled}}"), "true");
        ship.done(&["rm", "hungry"]);
        ship.expect_nothing_left();
    }

    #[test]
    fn storage_is_what_was_asked_for() {
        let ship = Ship::start(Release::of_tests());
        let volume = ship.docker.host().directory().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "from the host").unwrap();
        let bound = format!("{}:/volume", volume.display());
        assert_eq!(ship.script(&["--volume", &bound], "cat /volume/file; echo from the guest > /volume/back"), "from the host");
        assert_eq!(std::fs::read_to_string(volume.join("back")).unwrap(), "from the guest\n");
        let refused = ship.script(&["--volume", &format!("{bound}:ro")], "touch /volume/x 2>&1 || true");
        assert_eq!(refused, "touch: /volume/x: Read-only file system");

        ship.done(&["volume", "create", "kept"]);
        ship.script(&["--volume", "kept:/kept"], "echo kept > /kept/file");
        assert_eq!(ship.script(&["--volume", "kept:/kept"], "cat /kept/file"), "kept");
        ship.done(&["volume", "rm", "kept"]);

        let sizes =
            ship.script(&["--tmpfs", "/scratch:size=1m", "--shm-size", "3m"], "df -k /scratch /dev/shm | awk '{print $2}'");
        assert_eq!(sizes, "1K-blocks\n1024\n3072");
        let refused = ship.script(&["--read-only"], "touch /x 2>&1 || true");
        assert_eq!(refused, "touch: /x: Read-only file system");
        ship.expect_nothing_left();
    }

    #[test]
    fn limits_and_rights_are_what_was_asked_for() {
        let ship = Ship::start(Release::of_tests());
        let group = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && cat memory.max cpu.max pids.max";
        let limits = ship.script(&["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"], group);
        assert_eq!(limits, format!("{}\n50000 100000\n50", 64 << 20));
        assert_eq!(ship.script(&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn"), "100\n200");

        assert_eq!(ship.script(&["--user", "1000:1001"], "id -u; id -g"), "1000\n1001");
        let status = |options: &[&str]| ship.script(options, "awk '/CapEff|NoNewPrivs|Seccomp:/ {print $2}' /proc/self/status");
        assert_eq!(status(&[]), "00000000a80425fb\n0\n2");
        assert_eq!(status(&["--cap-drop", "ALL", "--cap-add", "NET_RAW"]), "0000000000002000\n0\n2");
        assert_eq!(
            status(&["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"]),
            "00000000a80425fb\n1\n0"
        );

        let settings = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shmmax=12345678"];
        assert_eq!(ship.script(&settings, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax"), "1\n12345678");
        let names = ["--hostname", "named", "--add-host", "other:1.2.3.4", "--dns", "9.9.9.9"];
        let lines = ship.script(&names, "hostname; grep other /etc/hosts; grep ^nameserver /etc/resolv.conf");
        assert_eq!(lines, "named\n1.2.3.4\tother\nnameserver 9.9.9.9");
        ship.expect_nothing_left();
    }

    #[test]
    fn an_init_stands_before_the_program() {
        let ship = Ship::start(Release::of_tests());
        // The one in the container is PID 1, the program its child.
        let script = format!(
            "{PROOF_SCRIPT}; cat /proc/1/comm; echo $PPID; (sleep 0.1 & exit 0); sleep 1; ps | grep -c '\\[sleep\\]'; exit 7"
        );
        let output = ship.run(&["--rm", "--init"], &["sh", "-c", &script]);
        expect::code(ship.docker.host(), &output, 7);
        expect::guest(&output.stdout);
        let lines: Vec<&str> = output.stdout.lines().rev().take(3).collect();
        assert_eq!(lines, ["0", "1", "docker-init"], "what lost its parent is reaped: {output:?}");
        ship.detached(&["--init", "--name", "service"], &["sh", "-c", SERVICE]);
        // A PID 1 that is not ready yet has its signals dropped by the kernel.
        ship::until(|| ship.done(&["logs", "service"]) == "begun\n", || "the program does not begin".into());
        ship.done(&["stop", "-t", "60", "service"]);
        assert_eq!(ship.inspect("service", "{{.State.ExitCode}}"), "5", "SIGTERM reaches the program");
        assert_eq!(ship.done(&["logs", "service"]), "begun\ntold\n");
        ship.done(&["rm", "service"]);
        expect::code(ship.docker.host(), &ship.run(&["--rm", "--init"], &["no-such-program"]), 127);
        ship.expect_nothing_left();
    }

    #[test]
    fn docker_28_runs_containers() {
        let ship = Ship::start(Release::V28);
        expect::guest(&ship.script(&[], PROOF_SCRIPT));
        expect::code(ship.docker.host(), &ship.run(&["--detach", "--name", "service"], &["sh", "-c", SERVICE]), 0);
        expect::guest(&ship.exec("service", PROOF_SCRIPT));
        ship.done(&["stop", "--timeout", "60", "service"]);
        assert_eq!(ship.inspect("service", "{{.State.ExitCode}}"), "5");
        ship.done(&["rm", "service"]);
        ship.expect_nothing_left();
    }
}
