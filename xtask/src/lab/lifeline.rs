//! What ends QEMU when the chore that has started it ends, however that happens: Ctrl-C, a signal that nothing can catch, a panic.
//!
//! A shell stays behind in QEMU's process group and reads a pipe whose other end this process holds. The kernel closes that end with the process;
//! then the shell ends its group. It names the group, not a number: no stranger gets that while the shell is in it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// Starts the guard, a grandchild nobody has to wait for, and becomes the program. One that is asked to end and does not is killed.
const GUARD: &str = r#"
exec 3<&0 </dev/null
(
    {
        trap '' TERM
        read -r word <&3
        [ "$word" = stay ] && exit
        kill -TERM 0
        sleep 10
        kill -KILL 0
    } >/dev/null 2>&1 &
)
exec 3<&-
exec "$@"
"#;
/// What the guard is told before the end that it is to ignore.
const STAY: &[u8] = b"stay\n";

/// A command that starts the program under guard; the arguments are still to come.
pub fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "lab"]).arg(program);
    // A group of its own, for the guard; and Ctrl-C is for the chore.
    command.stdin(Stdio::piped()).process_group(0);
    command
}

/// The end of the pipe that belongs to the chore: the program ends with this value unless it is let go.
pub struct Lifeline(ChildStdin);

impl Lifeline {
    /// The one of a guarded program that has just been started.
    pub fn of(child: &mut Child) -> Result<Self> {
        child.stdin.take().map(Self).context("a program without a guard")
    }

    /// The program lives on, or has ended: the guard goes.
    pub fn let_go(mut self) -> Result<()> {
        self.0.write_all(STAY).context("tell the lab's guard to go")
    }
}
