//! `ctr events`, kept from a moment on.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Host};

/// An event comes within this time; one too many would come as soon.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// A running `ctr events`.
pub struct Events {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    /// Listens from now on: returns when containerd's first answer to a probe has come through.
    pub fn listen(host: &Host) -> Result<Self, Error> {
        let mut child =
            host.ctr_command(&["events"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(crate::io("ctr events"))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            let lines = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            });
        }
        let events = Self { child, lines };
        // ctr does not say when it is subscribed: namespaces are labelled until it hears of one.
        let deadline = Instant::now() + PATIENCE;
        for probe in 0.. {
            host.ctr(&["namespaces", "label", host.namespace(), &format!("probe={probe}")])?;
            if events.lines().iter().any(|line| line.contains("/namespaces/update")) {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::Command { command: "ctr events".into(), output: host.log() });
            }
            thread::sleep(POLL);
        }
        Ok(events)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What happened to a task so far, in order: `create`, `exit`…
    pub fn of_task(&self, id: &str) -> Vec<String> {
        let mark = format!("{:?}:{id:?}", "container_id");
        let of_task = |line: &&String| line.contains(&mark);
        let topic = |line: &String| line.split_whitespace().find_map(|word| word.strip_prefix("/tasks/")).map(str::to_owned);
        self.lines().iter().filter(of_task).filter_map(topic).collect()
    }

    /// Waits until as many events of a task have come as are expected and returns all there are.
    pub fn expect(&self, id: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.of_task(id);
            if seen.len() >= count || Instant::now() > deadline {
                return seen;
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
