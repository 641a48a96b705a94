//! Terminals: what is typed at one reaches the guest, with its size and its Ctrl-C.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use paperboat_e2e::command::{COMMAND_TIMEOUT, finish};
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::image;
use paperboat_e2e::products::Docker as Release;

use crate::ship::{Ship, until};

/// What the keys send.
const CTRL_C: &str = "\x03";
const CTRL_P_CTRL_Q: &str = "\x10\x11";

/// Pause between two questions at the terminal.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// A client on a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(ship: &Ship, arguments: &[&str]) -> Self {
        let mut command = ship.docker.command_on_a_terminal(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..length]);
            }
        });
        Self { child, keys, screen }
    }

    fn shows(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until all of this is on the screen.
    #[track_caller]
    fn waits_for(&self, text: &str) {
        until(|| self.shows().contains(text), || format!("{text:?} is not in {:?}", self.shows()));
    }

    /// Types a line and waits for what the shell says to it. The answer must not be part of the line, which the terminal echoes.
    #[track_caller]
    fn asks(&mut self, line: &str, answer: &str) {
        assert!(!line.contains(answer), "the echo of {line:?} would do");
        self.types(&format!("{line}\n"));
        self.waits_for(answer);
    }

    /// Types a line again and again until the answer comes: a shell that changes its terminal's mode discards what it has not read.
    #[track_caller]
    fn insists(&mut self, line: &str, answer: &str) {
        let screen = self.screen.clone();
        let answered = || {
            self.types(line);
            std::thread::sleep(LOOK);
            self.shows().contains(answer)
        };
        until(answered, || format!("{answer:?} is not in {:?}", String::from_utf8_lossy(&screen.lock().unwrap())));
    }

    /// Gives the client's terminal another size, as a window that is drawn larger.
    fn resizes(&self, rows: u32, columns: u32) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let client = std::fs::read_to_string(children).unwrap();
        let terminal = format!("/proc/{}/fd/0", client.split_whitespace().next().unwrap());
        let mut stty = Command::new("stty");
        stty.args(["-F", &terminal, "rows", &rows.to_string(), "cols", &columns.to_string()]);
        assert_eq!(finish(stty, COMMAND_TIMEOUT).unwrap().code(), Some(0));
    }

    #[track_caller]
    fn ends(mut self) -> i32 {
        until(|| matches!(self.child.try_wait(), Ok(Some(_))), || "the client does not end".into());
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }
}

#[test]
fn a_terminal_leads_into_the_guest() {
    let ship = Ship::start(Release::of_tests());
    let busybox = image("busybox");
    let mut shell = Terminal::open(&ship, &ship.words(&["-it", "--name", "shell"], &busybox, &["sh"]));
    shell.asks("echo from $((40+2))", "from 42");
    shell.asks(PROOF_SCRIPT, "-paperboat");
    shell.resizes(33, 101);
    shell.insists("stty size\n", "33 101");
    // A program that answers proves that it runs before it is interrupted.
    shell.types("cat | tr a-z A-Z\n");
    shell.insists("hello\n", "HELLO");
    shell.types(CTRL_C);
    // With the interrupt goes what was typed and not read: the prompt comes first.
    until(|| shell.shows().rsplit_once("^C").is_some_and(|(_, rest)| rest.contains("/ # ")), || shell.shows());
    shell.asks("echo status $?", "status 130");

    let exec = ["exec", "-it", "-u", "5:6", "-e", "COLOUR=green", "-w", "/tmp", "shell", "sh"];
    let mut added = Terminal::open(&ship, &exec);
    added.asks("echo \"<$(id -u) $(id -g) $COLOUR $PWD $(tty)>\"", "<5 6 green /tmp /dev/pts/1>");
    added.types("exit 6\n");
    assert_eq!(added.ends(), 6);

    // Left alone it goes on, and is found again.
    shell.types(CTRL_P_CTRL_Q);
    assert_eq!(shell.ends(), 0);
    expect::guest(&ship.exec("shell", PROOF_SCRIPT));
    let mut shell = Terminal::open(&ship, &["attach", "shell"]);
    shell.asks("echo again $((40+3))", "again 43");
    shell.types("exit 4\n");
    assert_eq!(shell.ends(), 4);
    ship.done(&["rm", "shell"]);
    ship.expect_nothing_left();
}
