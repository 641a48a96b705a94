//! The agent as the init of a container: called by the name that Docker gives its own.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};

fn init(arguments: &[&str]) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paperboat-agent"));
    command.arg0("/sbin/docker-init").args(arguments).status().expect("the agent starts")
}

fn script(text: &str) -> Option<i32> {
    init(&["--", "sh", "-c", text]).code()
}

#[test]
fn it_ends_as_its_program_ends() {
    assert_eq!(script("exit 7"), Some(7));
    assert_eq!(script("kill -9 $$"), Some(128 + 9));
    assert_eq!(init(&["/nonexistent/program"]).code(), Some(127));
    assert_eq!(init(&["/etc/passwd"]).code(), Some(126));
    assert_eq!(init(&["--"]).code(), Some(126));
}

#[test]
fn signals_are_handed_on_and_do_not_end_it() {
    let told = |signal: &str| format!("trap 'exit 5' {signal}; kill -{signal} $PPID; while true; do sleep 0.1; done");
    for signal in ["TERM", "INT", "HUP", "USR1", "QUIT"] {
        assert_eq!(script(&told(signal)), Some(5), "{signal}");
    }
}

#[test]
fn its_program_has_no_signals_blocked() {
    assert_eq!(script("grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status"), Some(0));
}
