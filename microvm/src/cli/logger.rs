//! Log lines on standard error.

use std::io::Write;
use std::time::Instant;

struct Stderr {
    started: std::sync::OnceLock<Instant>,
}

static LOGGER: Stderr = Stderr { started: std::sync::OnceLock::new() };

/// Warnings and above by default; `RUST_LOG` (error, warn, info, debug, trace) says otherwise.
pub fn install() {
    let level = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(log::LevelFilter::Warn);
    LOGGER.started.get_or_init(Instant::now);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let since = self.started.get_or_init(Instant::now).elapsed().as_secs_f64();
            // Nobody to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "[{since:9.3}] {:5} {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}
