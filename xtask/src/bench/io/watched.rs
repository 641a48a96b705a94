//! A machine that says on its console when pieces of work begin and end, and what it and its helpers used meanwhile.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::run::display;

/// A piece of work, done.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// What it was.
    pub name: String,
    /// How much it was, in its own unit.
    pub amount: f64,
    /// What else its end said.
    pub said: String,
    /// Wall time.
    pub seconds: f64,
    /// User and system time of machine and helpers.
    pub cpu_seconds: f64,
}

/// Helper processes that end with the value.
pub struct Helper(Child);

impl Helper {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).spawn().with_context(|| format!("start {}", display(command)))?))
    }

    /// Waits until it has made `path`.
    pub fn has_made(&mut self, path: &std::path::Path) -> Result<()> {
        let begun = Instant::now();
        while !path.exists() {
            ensure!(self.0.try_wait()?.is_none() && begun.elapsed().as_secs() < 60, "{} was not made", path.display());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a machine to its end; what it did. `helpers` work for it.
pub fn run(command: &mut Command, helpers: &[&Helper]) -> Result<Vec<Piece>> {
    let shown = display(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let output = BufReader::new(child.stdout.take().context("the machine has an output")?);
    let pids: Vec<u32> = helpers.iter().map(|helper| helper.0.id()).chain([child.id()]).collect();
    let followed = follow(output, &pids);
    if followed.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait_with_output()?;
    let (pieces, console) = followed.with_context(|| shown.clone())?;
    ensure!(!pieces.is_empty() && !console.contains("failed: "), "{shown}:\n{console}{}", String::from_utf8_lossy(&ended.stderr));
    Ok(pieces)
}

/// Reads marks to the console's end.
fn follow(output: impl BufRead, pids: &[u32]) -> Result<(Vec<Piece>, String)> {
    let (mut pieces, mut console, mut begun) = (Vec::new(), String::new(), None);
    for line in output.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim().to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["begin", name] => begun = Some(((*name).to_owned(), used(pids)?, Instant::now())),
            ["end", name, amount, said @ ..] => {
                let now = Instant::now();
                match begun.take() {
                    Some((begun, before, since)) if begun == *name => pieces.push(Piece {
                        name: begun,
                        amount: amount.parse().with_context(|| line.clone())?,
                        said: said.join(" "),
                        seconds: (now - since).as_secs_f64(),
                        cpu_seconds: used(pids)? - before,
                    }),
                    _ => bail!("{line:?} without its beginning"),
                }
            }
            _ => {}
        }
        console += &line;
        console.push('\n');
    }
    Ok((pieces, console))
}

/// Processor time of processes and their threads, in seconds (proc(5), fields 14 and 15 of `stat`).
fn used(pids: &[u32]) -> Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks per second")? as f64;
    pids.iter().try_fold(0.0, |sum, pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        let fields = stat.rsplit_once(')').context("a process has a name")?.1;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(sum + times.sum::<Result<f64, _>>()? / ticks)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_followed() {
        let me = [std::process::id()];
        let text = "noise\r\nbegin untar\nbegun\nend untar 20000 abc\nbegin rm\r\nend rm 5\n";
        let (pieces, console) = follow(text.as_bytes(), &me).unwrap();
        assert_eq!((pieces[0].name.as_str(), pieces[0].amount, pieces[0].said.as_str()), ("untar", 20000.0, "abc"));
        assert_eq!((pieces[1].name.as_str(), pieces[1].amount), ("rm", 5.0));
        assert!(
            console.starts_with("noise\nbegin") && pieces.iter().all(|piece| piece.seconds >= 0.0 && piece.cpu_seconds >= 0.0)
        );
        assert!(follow("end untar 1\n".as_bytes(), &me).is_err());
        assert!(follow("begin a\nend b 1\n".as_bytes(), &me).is_err());
    }

    #[test]
    fn processor_time_is_read() {
        let me = [std::process::id()];
        let before = used(&me).unwrap();
        let mut sum = 0u64;
        while used(&me).unwrap() - before < 0.02 {
            sum = (0..100_000u64).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        assert!(used(&[u32::MAX]).is_err());
    }
}
