//! The shim's log: one line per record in logfmt, to containerd's log fifo (which containerd copies to its own log) and, once the
//! pod has a directory, to a bounded file there. Namespace and pod are in every line; the container is in those that are about one,
//! which [`of_container`] makes known.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};
use nix::fcntl::OFlag;
use protobuf::well_known_types::timestamp::Timestamp;

/// The log file stops growing here, in bytes: a pod that lives for months must not fill /run.
const MAX_LOG_FILE_BYTES: u64 = 4 << 20;

/// Longest line in bytes: one write up to PIPE_BUF (4096) into the fifo is never torn by another writer.
const MAX_LINE_BYTES: usize = 4096;

struct Logger {
    namespace: String,
    pod: String,
    fifo: Option<File>,
    file: Mutex<Option<(File, u64)>>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

tokio::task_local! {
    /// What the running task works for.
    static CONTAINER: String;
}

/// Work for a container: what is logged meanwhile bears its id.
pub fn of_container<F: Future>(id: &str, work: F) -> impl Future<Output = F::Output> + use<F> {
    CONTAINER.scope(id.to_owned(), work)
}

/// Starts logging to the fifo `log` in the current directory (the bundle). Later calls change nothing.
pub fn start(namespace: &str, pod: &str, debug: bool) {
    // Both ways: the shim must neither block without a reader nor die by SIGPIPE when containerd restarts. Not blocking: a reader that
    // does not read costs log lines, never the pod.
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("log").ok();
    let logger = Logger { namespace: namespace.into(), pod: pod.into(), fifo, file: Mutex::new(None) };
    if LOGGER.set(logger).is_ok()
        && let Some(logger) = LOGGER.get()
        && log::set_logger(logger).is_ok()
    {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

/// From now on also writes to this file.
pub fn also_to(path: &Path) {
    if let Some(logger) = LOGGER.get()
        && let Ok(file) = OpenOptions::new().create(true).append(true).mode(0o600).open(path)
        && let Ok(mut slot) = logger.file.lock()
    {
        *slot = Some((file, 0));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // ttrpc reports every closed connection as an error; its callers report what matters.
        metadata.level() <= log::max_level()
            && (!metadata.target().starts_with("ttrpc") || log::max_level() >= LevelFilter::Debug)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let of = |container: Option<&str>| format_line(SystemTime::now(), record, &self.namespace, &self.pod, container);
        let line = CONTAINER.try_with(|id| of(Some(id))).unwrap_or_else(|_| of(None));
        if let Some(fifo) = &self.fifo {
            // A full fifo loses the line: see `start`.
            let _ = (&*fifo).write(line.as_bytes());
        }
        if let Ok(mut slot) = self.file.lock()
            && let Some((file, written)) = slot.as_mut()
            && *written < MAX_LOG_FILE_BYTES
            && file.write_all(line.as_bytes()).is_ok()
        {
            *written += line.len() as u64;
        }
    }

    fn flush(&self) {}
}

fn format_line(now: SystemTime, record: &Record, namespace: &str, pod: &str, container: Option<&str>) -> String {
    let level = match record.level() {
        log::Level::Warn => "warning".to_owned(),
        level => level.as_str().to_ascii_lowercase(),
    };
    let message = record.args().to_string();
    let names = format!("namespace={} pod={}", value(namespace), value(pod));
    let container = container.map(|id| format!(" container={}", value(id))).unwrap_or_default();
    // Whose it is comes before what may have to be cut.
    let mut line = format!("time={:?} level={level} runtime=paperboat {names}{container} msg={message:?}", rfc3339(now));
    if line.len() >= MAX_LINE_BYTES {
        let mut end = MAX_LINE_BYTES - 5;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line.push('\n');
    line
}

/// A value of logfmt: quoted unless it is a plain word. Names come from clients.
fn value(text: &str) -> std::borrow::Cow<'_, str> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c));
    if plain { text.into() } else { format!("{text:?}").into() }
}

/// UTC, milliseconds. Civil date from days since 1970-01-01: proleptic Gregorian, eras of 400 years.
fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::from(time);
    let (days, second) = (time.seconds.div_euclid(86400), time.seconds.rem_euclid(86400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        time.nanos / 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_civil() {
        let at = |seconds, ms| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(ms));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_700_000_000, 999), "2023-11-14T22:13:20.999Z");
    }

    #[test]
    fn a_line_stays_one_line_and_bounded() {
        let long = "x\n".repeat(4000);
        let text = format_line(
            SystemTime::UNIX_EPOCH,
            &Record::builder().args(format_args!("{long}")).level(log::Level::Warn).build(),
            "n",
            "p",
            Some("c\nd"),
        );
        assert!(text.len() <= MAX_LINE_BYTES);
        assert_eq!(text.matches('\n').count(), 1);
        let start = r#"time="1970-01-01T00:00:00.000Z" level=warning runtime=paperboat namespace=n pod=p container="c\nd" msg="#;
        assert!(text.starts_with(start), "{text}");
    }
}
