//! The operator's command against running pods, and the configuration as containerd's clients meet it.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use paperboat_e2e::expect::{code as expect_code, nothing_left as expect_nothing_left, words as expect_words};
use paperboat_e2e::host::{finish, image};
use paperboat_e2e::net::Net;
use paperboat_e2e::{Host, Output, Products};

/// A command of ours answers within this time even on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

fn host_with(configuration: &str) -> Host {
    Host::start_with(configuration).unwrap_or_else(|error| panic!("{error}"))
}

fn paperboat_command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = Command::new(host.products().bin.join("paperboat"));
    command.arg("--config").arg(host.directory().join("paperboat.yaml")).args(arguments);
    command
}

fn paperboat(host: &Host, arguments: &[&str]) -> Output {
    finish(paperboat_command(host, arguments), LIMIT).unwrap()
}

/// The command where no pod is meant.
fn alone(arguments: &[&str]) -> Output {
    let mut command = Command::new(Products::from_environment().unwrap().bin.join("paperboat"));
    command.args(arguments);
    finish(command, LIMIT).unwrap()
}

/// A pod that is there until this is dropped.
struct Running<'a> {
    host: &'a Host,
    id: &'a str,
    child: Child,
}

impl<'a> Running<'a> {
    fn start(host: &'a Host, options: &[&str], id: &'a str) -> Self {
        let mut command = host.run_command(options, &image("busybox"), id, &["sh", "-c", "echo running; sleep 1000"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        host.wait_for_log(&[&format!("container started id={id}")]).unwrap();
        Self { host, id, child }
    }

    /// Waits for the client's end.
    fn ended(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{} goes on\n{}", self.id, self.host.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.host.ctr(&["task", "kill", "--signal", "SIGKILL", self.id]);
        let _ = self.child.wait();
    }
}

/// Runs a program on a terminal of its own and types at it, a key at a time, each when the screen shows what it waits for.
fn on_a_terminal(command: &Command, keys: &[(&str, &[u8])]) -> String {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let screen = tempfile::NamedTempFile::new().unwrap();
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &format!("stty rows 24 columns 160; exec {}", words.join(" "))]);
    script.arg(screen.path()).env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = script.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let shown = || String::from_utf8_lossy(&std::fs::read(screen.path()).unwrap_or_default()).into_owned();
    let deadline = Instant::now() + LIMIT;
    for (wanted, typed) in keys {
        while !shown().contains(wanted) {
            assert!(Instant::now() < deadline, "{wanted:?} does not come:\n{}", shown());
            std::thread::sleep(Duration::from_millis(20));
        }
        input.write_all(typed).unwrap();
    }
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "does not end:\n{}", shown());
        std::thread::sleep(Duration::from_millis(20));
    }
    shown()
}

#[test]
fn a_running_pod_is_listed_counted_and_explained() {
    let host = host_with("vcpus: 2\n");
    let drop_ins = host.directory().join("paperboat.d");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("10-memory.yaml"), "memory_mib: 256\n").unwrap();
    let before = host.leftovers();
    let empty = paperboat(&host, &["ps", "--json"]);
    assert_eq!((empty.code(), empty.stdout.trim()), (Some(0), "[]"), "{empty:?}");

    let pod = Running::start(&host, &["--annotation", "io.paperboat.vcpus=3"], "first");
    let listed = paperboat(&host, &["ps"]);
    expect_words(&host, &listed.stdout, &["POD", "first", "running", "256 MiB"]);
    let listed = paperboat(&host, &["ps", "--json"]).stdout;
    for field in [r#""vcpus": 3"#, r#""memory_limit_bytes": 268435456"#, r#""state": "running""#] {
        expect_words(&host, &listed, &[field]);
    }
    let counted = paperboat(&host, &["stats", "first", "--json"]);
    expect_words(
        &host,
        &counted.stdout,
        &["H_GET_CPU_CHARACTERISTICS", "data_storage", "system_call", "fs.requests", "\"instructions\""],
    );
    let traced = paperboat(&host, &["trace", "first", "--interval", "0.2", "--count", "2"]);
    expect_code(&host, &traced, 0);
    expect_words(&host, &traced.stdout, &["KIND", "instructions", "fault"]);
    let said = paperboat(&host, &["logs", "first"]);
    expect_words(&host, &said.stdout, &["console | paperboat-agent: ", "shim | ", "agent ready"]);
    let of_agent = paperboat(&host, &["logs", "fir", "--from", "agent", "--lines", "1"]).stdout;
    assert!(of_agent.starts_with("paperboat-agent: ") && of_agent.lines().count() == 1, "{of_agent}");

    let explained = paperboat(&host, &["config", "show", "--pod", "first"]).stdout;
    let from = |key: &str| explained.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap_or_default().to_owned();
    expect_words(&host, &from("vcpus"), &["3", "annotation io.paperboat.vcpus"]);
    expect_words(&host, &from("memory_mib"), &["256", "paperboat.d/10-memory.yaml"]);
    expect_words(&host, &from("kernel"), &["paperboat.yaml"]);
    expect_words(&host, &from("guest_log_level"), &["warn", "default"]);

    // Every view has a form for programs, and none a colour where no terminal is.
    for arguments in [&["check"][..], &["ps"], &["stats"], &["config", "show"], &["version"]] {
        let output = paperboat(&host, &[arguments, &["--json"]].concat());
        assert!(serde_json::from_str::<serde_json::Value>(&output.stdout).is_ok(), "{arguments:?}: {output:?}");
    }
    for arguments in [&["logs", "first"][..], &["trace", "first", "--interval", "0.1", "--count", "2"]] {
        let output = paperboat(&host, &[arguments, &["--json"]].concat());
        assert_eq!(output.code(), Some(0), "{output:?}");
        let lines: Vec<&str> = output.stdout.lines().collect();
        let objects = serde_json::Deserializer::from_str(&output.stdout).into_iter::<serde_json::Value>();
        assert!(lines.len() >= 2 && objects.into_iter().all(|object| object.is_ok()), "{output:?}");
    }
    for source in ["console", "agent", "machine", "shim"] {
        let output = paperboat(&host, &["logs", "first", "--from", source]);
        assert_eq!(output.code(), Some(0), "{source}: {output:?}");
        assert!(!output.stdout.contains('\x1b'), "{source}: {output:?}");
    }
    expect_words(&host, &paperboat(&host, &["logs", "first", "--from", "agent"]).stdout, &["listening"]);

    let missing = paperboat(&host, &["stats", "second"]);
    assert_eq!(missing.code(), Some(1));
    expect_words(&host, &missing.stderr, &["no pod second", "paperboat ps"]);
    let closed = paperboat(&host, &["exec-vm", "first", "--", "true"]);
    assert_eq!(closed.code(), Some(1));
    expect_words(&host, &closed.stderr, &["debug_console: true"]);
    drop(pod);
    expect_nothing_left(&host, &before);
}

/// Guest instructions in a second of a pod that has nothing to do, at most: timers and the agent's housekeeping, not somebody who keeps asking.
const IDLE_INSTRUCTIONS_PER_SECOND_MAX: u64 = 2_000_000;

#[test]
fn every_device_of_a_pod_is_counted_and_an_idle_pod_executes_next_to_nothing() {
    const SECONDS: u64 = 8;
    let host = host_with("vcpus: 2\n");
    let mut net = Net::new().unwrap();
    let namespace = format!("network:{}", net.pod(2).unwrap().display());
    let before = host.leftovers();
    let pod = Running::start(&host, &["--with-ns", &namespace], "first");
    let work = "for cpu in 1 2; do taskset $cpu ping -c 2 10.88.0.1; done && head -c 3000000 /dev/zero > /file && rm /file";
    let output = host.ctr(&["task", "exec", "--exec-id", "work", "first", "sh", "-c", work]).unwrap();
    expect_code(&host, &output, 0);
    let look = || -> serde_json::Value {
        let output = paperboat(&host, &["stats", "first", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let stats = look();
    let counted = |name: &str| stats.pointer(&format!("/0/devices/{name}")).and_then(serde_json::Value::as_u64).unwrap_or(0);
    for device in ["fs", "vsock", "net0", "rng"] {
        for counter in ["requests", "queue_depth", "interrupts"] {
            assert!(counted(&format!("{device}.{counter}")) > 0, "{device}.{counter}: {stats:#}");
        }
    }
    for device in ["fs", "vsock", "net0", "rng", "balloon"] {
        for counter in ["errors", "broken"] {
            assert_eq!(counted(&format!("{device}.{counter}")), 0, "{device}.{counter}: {stats:#}");
        }
    }
    for counter in ["fs.bytes_from_guest", "vsock.bytes_to_guest", "net0.bytes_to_guest", "rng.bytes_to_guest"] {
        assert!(counted(counter) > 0, "{counter}: {stats:#}");
    }
    // A pair of queues for each vCPU.
    assert_eq!((counted("net0.pairs"), counted("net0.link_up")), (2, 1), "{stats:#}");

    let executed = || -> u64 {
        let stats = look();
        let vcpus = stats.pointer("/0/vcpus_counters").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        vcpus.iter().filter_map(|vcpu| vcpu.get("instructions")?.as_u64()).sum()
    };
    let first = executed();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let spent = executed() - first;
    assert!(first > 0 && spent < SECONDS * IDLE_INSTRUCTIONS_PER_SECOND_MAX, "{spent} instructions in {SECONDS} s");
    drop(pod);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_program_runs_in_the_guest_outside_of_its_containers() {
    let tools = Products::from_environment().unwrap().images.join("debug-tools");
    let host = host_with(&format!("debug_console: true\ndebug_tools: {}", tools.display()));
    let before = host.leftovers();
    let pod = Running::start(&host, &[], "first");

    let output = paperboat(&host, &["exec-vm", "first", "--", "sh", "-c", "cat /proc/1/comm; uname -r; echo bad >&2; exit 7"]);
    expect_code(&host, &output, 7);
    // PID 1 of the guest, which no container sees, in the guest's kernel.
    expect_words(&host, &output.stdout, &["init\n", "-paperboat"]);
    assert_eq!(output.stderr, "bad\n");

    let mut child = paperboat_command(&host, &["exec-vm", "first", "--", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 200_000]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200000");

    let missing = paperboat(&host, &["exec-vm", "first", "--", "/no/such/program"]);
    assert_eq!(missing.code(), Some(1));
    expect_words(&host, &missing.stderr, &["/no/such/program", "No such file"]);

    let screen = on_a_terminal(
        &paperboat_command(&host, &["exec-vm", "first"]),
        &[("guest ~ #", b"stty size; tty\r"), ("24 160", b"exit 3\r")],
    );
    assert!(screen.contains("/dev/pts/"), "{screen}");
    drop(pod);
    expect_nothing_left(&host, &before);
}

#[test]
fn annotations_are_held_to_what_the_operator_allows() {
    let host = host_with("annotations: [memory_mib]\nlimits:\n  max_memory_mib: 1024");
    let before = host.leftovers();
    let refused = |annotation: &str, words: &[&str]| {
        let output = host.run_with(&["--annotation", annotation], &image("busybox"), "refused", &["true"]).unwrap();
        expect_code(&host, &output, 1);
        expect_words(&host, &output.stderr, words);
    };
    refused("io.paperboat.vcpus=2", &["io.paperboat.vcpus", "not allowed", "annotations"]);
    refused("io.paperboat.kernel=/tmp/x", &["io.paperboat.kernel", "unknown"]);
    refused("io.paperboat.memory_mib=2048", &["memory_mib is 2048", "limits.max_memory_mib is 1024"]);
    refused("io.paperboat.memory_mib=lots", &["lots", "64 to 16777216"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_client_names_the_configuration_of_its_pods() {
    let host = host_with("");
    let before = host.leftovers();
    // ctr hands the path over as the runtime's option ConfigPath.
    let file = host.directory().join("small.yaml");
    let usual = std::fs::read_to_string(host.directory().join("paperboat.yaml")).unwrap();
    std::fs::write(&file, format!("{usual}\nmemory_mib: 320\n")).unwrap();
    std::fs::create_dir(file.with_extension("d")).unwrap();
    std::fs::write(file.with_extension("d").join("cpus.yaml"), "vcpus: 2\n").unwrap();
    let path = file.display().to_string();
    let pod = Running::start(&host, &["--runtime-config-path", &path], "small");
    let settings = paperboat(&host, &["config", "show", "--pod", "small", "--json"]).stdout;
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let from = |key: &str| {
        let setting = settings.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap();
        (setting["value"].as_str().unwrap().to_owned(), setting["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(from("memory_mib"), ("320".to_owned(), path.clone()));
    assert_eq!(from("vcpus"), ("2".to_owned(), file.with_extension("d").join("cpus.yaml").display().to_string()));
    let guest =
        host.ctr(&["task", "exec", "--exec-id", "look", "small", "sh", "-c", "nproc; grep MemTotal /proc/meminfo"]).unwrap();
    let words: Vec<&str> = guest.stdout.split_whitespace().collect();
    let total_kib = words[2].parse::<u64>().unwrap();
    assert!(words[0] == "2" && total_kib < 320 << 10 && total_kib > 256 << 10, "{}", guest.stdout);
    drop(pod);

    // What is wrong with it is told to that client.
    std::fs::write(&file, format!("{usual}\nmemory_mb: 320\n")).unwrap();
    let refused = |path: &str, words: &[&str]| {
        let output = host.run_with(&["--runtime-config-path", path], &image("busybox"), "refused", &["true"]).unwrap();
        expect_code(&host, &output, 1);
        expect_words(&host, &output.stderr, words);
    };
    let line = format!("line {} column 1", usual.lines().count() + 1 + usize::from(usual.ends_with('\n')));
    refused(&path, &["small.yaml", "memory_mb", &line]);
    refused("/nonexistent/c.yaml", &["/nonexistent/c.yaml", "No such file"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn what_is_missing_on_a_host_is_found_with_its_cure() {
    let host = host_with("");
    let looked = |configuration: &str, arguments: &[&str]| {
        let file = host.directory().join("looked-at.yaml");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(host.products().bin.join("paperboat"));
        command.arg("--config").arg(file).args(arguments).env("PATH", host.engine_path());
        command
    };
    let usual = std::fs::read_to_string(host.directory().join("paperboat.yaml")).unwrap();
    let good = finish(looked(&usual, &["check"]), LIMIT).unwrap();
    assert_eq!(good.code(), Some(0), "{good:?}");
    assert!(!good.stdout.contains("FAIL") && !good.stdout.contains('\x1b'), "{}", good.stdout);
    // Every miss at once, each with its cure, and an exit status for scripts.
    let wrong = "kernel: /bin/sh\ninitramfs: /nonexistent/i.cpio\nvmm: /nonexistent/vmm\nbackend: kvm\nstate_dir: /dev/null/p\n";
    let bad = finish(looked(wrong, &["check", "--json"]), LIMIT).unwrap();
    assert_eq!(bad.code(), Some(1), "{bad:?}");
    let findings: serde_json::Value = serde_json::from_str(&bad.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    for what in ["kernel format", "initramfs", "machine", "state directory"] {
        let finding = findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {findings:?}"));
        assert_eq!(finding["verdict"], "bad", "{finding}");
        assert!(finding["cure"].as_str().is_some_and(|cure| !cure.is_empty()), "{finding}");
    }
    let screen = on_a_terminal(&looked(wrong, &["check"]), &[]);
    assert!(screen.contains("\x1b[31mFAIL\x1b[0m initramfs") && screen.contains("cure: "), "{screen}");
}

#[test]
fn configuration_files_are_checked_with_line_and_column() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("c.yaml");
    let path = file.display().to_string();
    // What `default` prints is a file that `check` finds good.
    std::fs::write(&file, alone(&["config", "default"]).stdout).unwrap();
    let good = alone(&["config", "check", &path]);
    assert_eq!((good.code(), good.stdout.trim()), (Some(0), format!("{path}: good").as_str()), "{good:?}");
    for (text, words) in [
        ("vcpus: 2\nvcpsu: 3\n", ["unknown field", "line 2 column 1"]),
        ("limits:\n  max_vcpus: 1000\n", ["1 to 64", "line 2 column 14"]),
        ("memory_mib: 100\n", ["multiple of 16", "line 1 column 13"]),
        ("vcpus: [1]\n", ["whole number", "line 1 column 8"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let bad = alone(&["config", "check", &path]);
        assert_eq!(bad.code(), Some(1), "{bad:?}");
        for word in words {
            assert!(bad.stderr.contains(word), "{word:?} is not in: {}", bad.stderr);
        }
        let json: serde_json::Value = serde_json::from_str(&alone(&["config", "check", &path, "--json"]).stdout).unwrap();
        assert_eq!(json["good"], false);
        assert!(json["line"].is_u64() && json["column"].is_u64(), "{json}");
    }
}

#[test]
fn shells_are_told_what_can_be_typed() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = alone(&["completions", shell]);
        assert_eq!(script.code(), Some(0), "{script:?}");
        for word in ["paperboat", "exec-vm", "interval"] {
            assert!(script.stdout.contains(word), "{shell}: no {word:?}");
        }
    }
    // As bash asks: the words that go on from `config sh`.
    let script = r#"source <("$0" completions bash); COMP_WORDS=(paperboat config sh); COMP_CWORD=2
        _paperboat paperboat sh config; echo "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["-c", script]).arg(Products::from_environment().unwrap().bin.join("paperboat"));
    assert_eq!(finish(bash, LIMIT).unwrap().stdout.trim(), "show");
}

#[test]
fn top_shows_pods_and_ends_them() {
    let host = host_with("");
    let before = host.leftovers();
    let mut stopped = Running::start(&host, &[], "first");
    // Only what changes on the screen is written, so what is waited for stands where nothing was before; keys queue up.
    let console: [(&str, &[u8]); 3] = [("running", b"c"), ("console of first", b"xs"), ("off?", b"yq")];
    let screen = on_a_terminal(&paperboat_command(&host, &["top", "--interval", "0.2"]), &console);
    assert!(screen.contains("paperboat-agent"), "{screen}");
    stopped.ended();
    drop(stopped);

    let mut killed = Running::start(&host, &[], "second");
    let keys: [(&str, &[u8]); 1] = [("second", b"Kyq")];
    on_a_terminal(&paperboat_command(&host, &["top", "--interval", "0.2"]), &keys);
    killed.ended();
    drop(killed);
    let no_terminal = paperboat(&host, &["top"]);
    assert_eq!(no_terminal.code(), Some(1));
    expect_words(&host, &no_terminal.stderr, &["needs a terminal", "paperboat ps"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_stranger_is_told_who_may_look() {
    let host = host_with("");
    let pod = Running::start(&host, &[], "first");
    // As nobody: the directories of namespaces belong to root. The program is reached through a copy, its own directory may be root's.
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("paperboat");
    std::fs::copy(host.products().bin.join("paperboat"), &program).unwrap();
    use std::os::unix::fs::PermissionsExt;
    for path in [place.path(), host.directory()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    command.arg("--config").arg(host.directory().join("paperboat.yaml")).arg("ps");
    let output = finish(command, LIMIT).unwrap();
    assert_eq!(output.code(), Some(1), "{output:?}");
    expect_words(&host, &output.stderr, &["permission denied", "root", "sudo paperboat"]);
    drop(pod);
}
