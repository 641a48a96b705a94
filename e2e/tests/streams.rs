//! Standard streams and terminals: nothing is lost, nothing is added, nobody waits for ever.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use paperboat_e2e::host::image;
use paperboat_e2e::task_api::Fifos;
use paperboat_e2e::{Host, Running, leaks};

/// More than all the buffers on the way hold together.
const MUCH: usize = 4 << 20;

fn md5sum(data: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data).unwrap();
    let output = Command::new("md5sum").arg(file.path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned()
}

/// Reads until a text has come.
fn read_until(output: &mut File, text: &mut String, wanted: &str) {
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let length = output.read(&mut chunk).unwrap();
        assert_ne!(length, 0, "ended before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
}

#[test]
fn streams_carry_everything_and_end() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let running = Running::start(&host, "streams", &[], &["sleep", "1000"]).unwrap();
    let api = running.api().unwrap();

    // Input, which ends with its writer.
    let mut count = host.ctr_command(&["task", "exec", "--exec-id", "count", "streams", "md5sum"]);
    let mut child = count.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> = (0..MUCH).map(|i| (i % 251) as u8).collect();
    let expected = md5sum(&data);
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&data).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with(&expected), "{text} is not {expected}");

    // Output, faster than its reader.
    let command = ["task", "exec", "--exec-id", "flood", "streams", "sh", "-c", "yes | head -c 4194304; echo end >&2"];
    let mut child = host.ctr_command(&command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(2));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(output.len() == MUCH && output.chunks(2).all(|pair| pair == b"y\n"), "{} bytes", output.len());

    // A program that does not read, and whose input is closed by a call.
    let fifos = Fifos::new(host.directory(), "closed", false).unwrap();
    let process = r#"{"args": ["cat"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}"#;
    api.exec("closed", process, &fifos).unwrap();
    api.start("closed").unwrap();
    let mut output = File::open(&fifos.stdout).unwrap();
    let mut input = File::options().write(true).open(&fifos.stdin).unwrap();
    input.write_all(b"all of it").unwrap();
    api.close_input("closed").unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), api.wait("closed").unwrap()), ("all of it", 0));
    assert_eq!(api.delete("closed").unwrap(), 0);

    // A grandchild that keeps the output open does not hold up the end.
    let held = running.exec("held", &["sh", "-c", "echo first; (sleep 1000) & exit 4"]).unwrap();
    assert_eq!((held.code(), held.stdout.as_str()), (Some(4), "first\n"));

    assert_eq!(running.remove().unwrap(), Some(137));
    for name in [&fifos.stdin, &fifos.stdout] {
        std::fs::remove_file(name).unwrap();
    }
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn output_goes_to_a_file_or_to_a_log_driver() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let logs = tempfile::tempdir().unwrap();
    let path = |name: &str| logs.path().join(name);
    // A driver as nerdctl has them: it says that it is ready by closing descriptor 5, and takes both streams.
    let driver = path("driver");
    let script = "#!/bin/sh\ncd \"$1\" && echo \"$CONTAINER_NAMESPACE $CONTAINER_ID\" > whose && exec 5>&-\n\
        cat <&4 > error & cat <&3 > output; wait; touch ended\n";
    std::fs::write(&driver, script).unwrap();
    std::fs::set_permissions(&driver, std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = logs.path().display();
    let words = ["sh", "-c", "head -c 300000 /dev/zero; echo aside >&2; exit 3"];
    let names = [
        ("driven", format!("binary://{}?{directory}=x", driver.display())),
        // The directory of a file is made.
        ("filed", format!("file://{directory}/made/log")),
        ("undriven", format!("binary://{directory}/missing")),
    ];
    let run = |id: &str, uri: &str| {
        let options = ["run", "--detach", "--log-uri", uri, "--runtime", paperboat_e2e::host::RUNTIME, &image("busybox"), id];
        host.ctr(&[&options[..], &words].concat()).unwrap()
    };
    for (id, uri) in &names[..2] {
        let output = run(id, uri);
        assert!(output.status.success(), "{output:#?}\n{}", host.log());
        let running = Running::found(&host, id);
        running.wait_for_status("STOPPED").unwrap();
        assert_eq!(running.remove_stopped().unwrap(), Some(3));
    }
    let read = |name: &str| String::from_utf8_lossy(&std::fs::read(path(name)).unwrap()).into_owned();
    assert_eq!(read("whose"), format!("{} driven\n", host.namespace()));
    assert_eq!((read("output").len(), read("error").as_str()), (300_000, "aside\n"));
    assert!(path("ended").exists(), "the removal waits for the driver");
    let filed = read("made/log");
    assert!(filed.len() == 300_006 && filed.contains("aside\n"), "{} bytes", filed.len());
    let missing = run(names[2].0, &names[2].1);
    assert!(missing.code() == Some(1) && missing.stderr.contains("/missing: No such file"), "{missing:#?}");
    let _ = host.ctr(&["container", "rm", "undriven"]);
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn a_terminal_has_size_signals_and_an_end() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let running = Running::start(&host, "terminal", &[], &["sleep", "1000"]).unwrap();
    let api = running.api().unwrap();
    let fifos = Fifos::new(host.directory(), "tty", true).unwrap();
    let script =
        "trap 'echo caught; exit 44' INT; tty; stty size; read x; stty size; echo waiting; while true; do sleep 0.1; done";
    let process = serde_json::json!({
        "terminal": true, "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0},
    });
    api.exec("tty", &process.to_string(), &fifos).unwrap();
    // Before the start, which remembers it.
    api.resize("tty", 90, 33).unwrap();
    api.start("tty").unwrap();
    let mut output = File::open(&fifos.stdout).unwrap();
    let mut input = File::options().write(true).open(&fifos.stdin).unwrap();
    let mut text = String::new();
    read_until(&mut output, &mut text, "33 90");
    assert!(text.contains("/dev/pts/"), "{text}");
    api.resize("tty", 100, 50).unwrap();
    input.write_all(b"\n").unwrap();
    read_until(&mut output, &mut text, "50 100");
    read_until(&mut output, &mut text, "waiting");
    // Ctrl-C is a signal by the terminal.
    input.write_all(b"\x03").unwrap();
    read_until(&mut output, &mut text, "caught");
    assert_eq!(api.wait("tty").unwrap(), 44);
    output.read_to_string(&mut text).unwrap();
    api.resize("tty", 1, 1).expect_err("it has ended");
    api.delete("tty").unwrap();
    api.resize("", 1, 1).expect_err("there is no terminal");

    // ctr's own terminal, as a user has it: script(1) lends it one.
    let command = format!("{:?}", host.ctr_command(&["run", "--rm", "-t", "--runtime", paperboat_e2e::host::RUNTIME]));
    let command = command.replace('"', "")
        + &format!(" {} typed sh -c 'tty; stty -echo; read word; echo got $word; exit 6'", image("busybox"));
    let mut session = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut text = String::new();
    session.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(session.wait().unwrap().code(), Some(6), "{text}\n{}", host.log());
    assert!(text.contains("/dev/pts/0") && text.contains("got hello"), "{text}");
    running.remove().unwrap();
}
