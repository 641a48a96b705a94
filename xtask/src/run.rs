//! Running programs: output goes to a log, a failure shows the end of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::ui::Progress;

/// How many lines of a log a failure shows.
const TAIL_LINES: usize = 15;
/// How much of a log is read back to find them.
const TAIL_BYTES: usize = 16 << 10;

/// The log of one step.
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// Starts an empty log at `path`.
    pub fn create(path: PathBuf) -> Result<Self> {
        File::create(&path).with_context(|| format!("create the log {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `command`, its output appended to the log. Each line ticks `progress` when there is one.
    pub fn run(&self, command: &mut Command, mut progress: Option<&mut Progress>) -> Result<()> {
        let shown = display(command);
        let mut log = self.append()?;
        writeln!(log, "$ {shown}").context("write the log")?;
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| spawn_error(command))?;
        // The command holds the writing ends too: let go of them, or the pipe never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).context("read the output")? > 0 {
            log.write_all(&line).context("write the log")?;
            if let Some(progress) = progress.as_deref_mut() {
                progress.tick(String::from_utf8_lossy(&line).trim());
            }
            line.clear();
        }
        let status = child.wait().context("wait for the command")?;
        if !status.success() {
            bail!(self.failure(&shown, &status.to_string())?);
        }
        Ok(())
    }

    /// Runs `command` and returns its standard output; standard error goes to the log.
    pub fn output(&self, command: &mut Command) -> Result<Vec<u8>> {
        let shown = display(command);
        let mut log = self.append()?;
        writeln!(log, "$ {shown}").context("write the log")?;
        let output = command.stdin(Stdio::null()).stderr(log).output().with_context(|| spawn_error(command))?;
        if !output.status.success() {
            bail!(self.failure(&shown, &output.status.to_string())?);
        }
        Ok(output.stdout)
    }

    fn append(&self) -> Result<File> {
        File::options().append(true).open(&self.path).with_context(|| format!("open the log {}", self.path.display()))
    }

    fn failure(&self, command: &str, status: &str) -> Result<String> {
        let text = std::fs::read(&self.path)?;
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
        let path = self.path.display();
        // Where it is known what helps, that is all most people need: one line.
        Ok(match cure(&text) {
            Some(cure) => format!("{cure} (command failed ({status}): {command}; its log: {path})"),
            None => {
                format!("command failed ({status}): {command}\n  the end of its log:\n    {tail}\n  the whole log: {path}")
            }
        })
    }
}

/// What to do when the disk is full.
pub const DISK_FULL: &str = "the disk is full: free some space (`cargo xtask clean` empties the cache) and run again";
/// What to do without a network.
pub const NO_NETWORK: &str = "no network: connect, or use --offline if everything was fetched before";

/// Whether another try is in vain: the network or the disk must change first.
pub fn is_in_vain(error: &anyhow::Error) -> bool {
    let text = error.to_string();
    text.starts_with(DISK_FULL) || text.starts_with(NO_NETWORK)
}

/// What usually helps, read from the log of a failed command.
fn cure(log: &str) -> Option<&'static str> {
    const CURES: &[(&[&str], &str)] = &[
        (&["No space left on device", "not enough free space", "Write error - write (28"], DISK_FULL),
        (&["Temporary failure resolving", "Could not resolve", "Could not connect", "Network is unreachable"], NO_NETWORK),
        (&["Hash Sum mismatch", "unexpected size"], "the package mirror changed while it was read: run again in a few minutes"),
    ];
    CURES.iter().find(|(signs, _)| signs.iter().any(|sign| log.contains(sign))).map(|(_, cure)| *cure)
}

fn spawn_error(command: &Command) -> String {
    format!("cannot start {}: if it is missing, `cargo xtask setup` installs it", command.get_program().to_string_lossy())
}

/// The command as a person would type it.
pub fn display(command: &Command) -> String {
    let mut words = Vec::new();
    if let Some(dir) = command.get_current_dir() {
        words.push(format!("cd {} &&", dir.display()));
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || "'\"$&;|<>*".contains(c)) {
            format!("'{}'", arg.replace('\'', "'\\''"))
        } else {
            arg.into_owned()
        }
    }));
    words.join(" ")
}

/// Runs a short command that needs no log and returns its output, trimmed.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| spawn_error(command))?;
    if !output.status.success() {
        bail!("command failed ({}): {}: {}", output.status, display(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> Log {
        Log::create(std::env::temp_dir().join(format!("paperboat-run-{name}-{}", std::process::id()))).unwrap()
    }

    #[test]
    fn failure_shows_command_tail_and_log() {
        let log = log("failure");
        let error = log.run(Command::new("sh").args(["-c", "echo first; echo last >&2; exit 3"]), None);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("    first\n"), "{text}");
        assert!(text.contains(&log.path().display().to_string()), "{text}");
        let error = log.run(Command::new("sh").args(["-c", "echo first; echo No space left on device >&2; exit 3"]), None);
        let error = error.unwrap_err();
        assert!(is_in_vain(&error), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the disk is full") && text.lines().count() == 1, "{text}");
        assert!(text.contains(&log.path().display().to_string()), "{text}");
        std::fs::remove_file(log.path()).unwrap();
    }

    #[test]
    fn output_is_what_the_command_wrote() {
        let log = log("output");
        let out = log.output(Command::new("sh").args(["-c", "echo out; echo err >&2"])).unwrap();
        assert_eq!(out, b"out\n");
        assert!(std::fs::read_to_string(log.path()).unwrap().contains("err"));
        std::fs::remove_file(log.path()).unwrap();
    }

    #[test]
    fn missing_program_points_to_setup() {
        let log = log("missing");
        let error = log.run(&mut Command::new("paperboat-no-such-program"), None).unwrap_err();
        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
        std::fs::remove_file(log.path()).unwrap();
    }
}
