//! `paperboat logs`: the bounded files that guest, machine and shim leave in the pod's directory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use paperboat_shim::config::Config;
use serde_json::json;

use crate::cli::{Cli, LogsArguments, Source};
use crate::failure::Failure;
use crate::pods::{self, Pod};
use crate::table;

/// Pause between two looks when following.
const POLL: Duration = Duration::from_millis(200);

/// Most bytes taken of a file at once. Files are bounded themselves, by `limits.console_kib` and the shim.
const CHUNK_BYTES: u64 = 1 << 20;

/// What the agent's lines on the console begin with.
const AGENT_MARK: &str = "paperboat-agent: ";

/// One file, read as it grows.
struct Tail {
    source: Source,
    path: PathBuf,
    position: u64,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl Tail {
    fn new(source: Source, pod: &Pod) -> Self {
        let path = match source {
            Source::Console | Source::Agent => pod.paths.console_log(),
            Source::Machine => pod.paths.machine_log(),
            Source::Shim => pod.paths.shim_log(),
        };
        Self { source, path, position: 0, rest: Vec::new() }
    }

    /// The lines that have come since the last call; a file that is not there has none.
    fn lines(&mut self) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        loop {
            let mut bytes = Vec::new();
            let read = File::open(&self.path).and_then(|mut file| {
                file.seek(SeekFrom::Start(self.position))?;
                file.take(CHUNK_BYTES).read_to_end(&mut bytes)
            });
            match read {
                Ok(0) => return Ok(lines),
                Ok(count) => self.position += count as u64,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(lines),
                Err(error) => return Err(Failure::file(&self.path, error)),
            }
            self.rest.extend(bytes);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                lines.extend(self.wanted(&line));
            }
            // A guest that writes no newline must not fill our memory.
            if self.rest.len() as u64 > CHUNK_BYTES {
                let line = std::mem::take(&mut self.rest);
                lines.extend(self.wanted(&line));
            }
        }
    }

    /// What is left without a newline at the end of a file that is not followed.
    fn last(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { None } else { self.wanted(&rest) }
    }

    fn wanted(&self, line: &[u8]) -> Option<String> {
        let text = table::harmless(&String::from_utf8_lossy(line));
        (self.source != Source::Agent || text.contains(AGENT_MARK)).then_some(text)
    }
}

/// Prints, and with `--follow` goes on until the pod is gone.
pub fn run(cli: &Cli, arguments: &LogsArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let pod = pods::find(&config, &arguments.pod)?;
    let sources = match arguments.from {
        Some(source) => vec![source],
        None => vec![Source::Shim, Source::Machine, Source::Console],
    };
    let named = sources.len() > 1;
    let mut tails: Vec<Tail> = sources.into_iter().map(|source| Tail::new(source, &pod)).collect();
    for tail in &mut tails {
        let mut lines = tail.lines()?;
        if !arguments.follow {
            lines.extend(tail.last());
        }
        let from = arguments.lines.map_or(0, |count| lines.len().saturating_sub(count));
        print(cli, tail.source, named, &lines[from..])?;
    }
    while arguments.follow && pod.paths.root().exists() {
        std::thread::sleep(POLL);
        for tail in &mut tails {
            let lines = tail.lines()?;
            print(cli, tail.source, named, &lines)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(cli: &Cli, source: Source, named: bool, lines: &[String]) -> Result<(), Failure> {
    let name = match source {
        Source::Console => "console",
        Source::Agent => "agent",
        Source::Machine => "machine",
        Source::Shim => "shim",
    };
    let mut text = String::new();
    for line in lines {
        if cli.json {
            text.push_str(&format!("{}\n", json!({"from": name, "line": line})));
        } else if named {
            text.push_str(&format!("{name:>7} | {line}\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    table::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_whole_once_and_harmless() {
        let directory = tempfile::tempdir().unwrap();
        let pod = pods::tests::pod(directory.path(), "default", "first", None);
        let mut tail = Tail::new(Source::Console, &pod);
        assert!(tail.lines().unwrap().is_empty());
        let mut file = File::create(pod.paths.console_log()).unwrap();
        file.write_all(b"one\r\ntw").unwrap();
        assert_eq!(tail.lines().unwrap(), ["one"]);
        file.write_all(b"o\x1b[2J\nthree").unwrap();
        assert_eq!(tail.lines().unwrap(), ["two[2J"]);
        assert_eq!(tail.last().as_deref(), Some("three"));
        assert_eq!(tail.last(), None);
    }

    #[test]
    fn the_agents_lines_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let pod = pods::tests::pod(directory.path(), "default", "first", None);
        std::fs::write(pod.paths.console_log(), "kernel\npaperboat-agent: info 0.1 booted\n").unwrap();
        assert_eq!(Tail::new(Source::Agent, &pod).lines().unwrap(), ["paperboat-agent: info 0.1 booted"]);
    }

    #[test]
    fn a_guest_without_newlines_fills_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        let pod = pods::tests::pod(directory.path(), "default", "first", None);
        std::fs::write(pod.paths.console_log(), vec![b'x'; 5 << 20]).unwrap();
        let mut tail = Tail::new(Source::Console, &pod);
        assert!(tail.lines().unwrap().iter().all(|line| line.len() <= 3 << 20));
        assert!(tail.rest.len() as u64 <= CHUNK_BYTES);
    }
}
