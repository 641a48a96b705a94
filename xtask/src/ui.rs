//! What a person sees: one line per step, a bar on a terminal, plain lines without one.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal a long step says this often that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Prints to standard error, so that standard output stays for results.
pub struct Ui {
    terminal: bool,
}

impl Ui {
    /// Looks at standard error to choose between bar and lines.
    pub fn new() -> Self {
        Self { terminal: stderr().is_terminal() }
    }

    /// One line about a step.
    pub fn line(&self, step: &str, text: &str) {
        eprintln!("{step:>14}  {text}");
    }

    /// Starts showing the progress of a step; `expected` is how many ticks it usually takes.
    pub fn progress(&self, step: &str, expected: Option<u64>) -> Progress {
        let bar = self.terminal.then(|| {
            let bar = match expected {
                Some(len) => ProgressBar::new(len).with_style(style("{prefix:>14}  [{bar:30}] {percent}% {elapsed} {wide_msg}")),
                None => ProgressBar::new_spinner().with_style(style("{prefix:>14}  {spinner} {elapsed} {wide_msg}")),
            };
            bar.set_prefix(step.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Progress { bar, step: step.to_owned(), expected, ticks: 0, last: Instant::now(), started: Instant::now() }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are constants: a wrong one falls back to the plain style.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The progress of one running step.
pub struct Progress {
    bar: Option<ProgressBar>,
    step: String,
    expected: Option<u64>,
    ticks: u64,
    last: Instant,
    started: Instant,
}

impl Progress {
    /// One unit of work is done; `text` says which.
    pub fn tick(&mut self, text: &str) {
        self.ticks += 1;
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.set_message(text.to_owned());
            }
            None if self.last.elapsed() >= HEARTBEAT => {
                self.last = Instant::now();
                let share = self.expected.map_or(String::new(), |all| format!(" ({}%)", (self.ticks * 100 / all.max(1)).min(99)));
                let seconds = self.started.elapsed().as_secs();
                eprintln!("{:>14}  … {seconds} s{share} {text}", self.step);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration for people: `4.2 s`, `3 min 05 s`.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 60.0 { format!("{seconds:.1} s") } else { format!("{} min {:02} s", seconds as u64 / 60, seconds as u64 % 60) }
}

/// A size for people: `11.7 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
