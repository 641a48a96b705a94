//! Tables, sizes and colours for people.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use crate::failure::Failure;

/// A column's heading, and whether it holds numbers, which stand to the right.
pub type Column = (&'static str, bool);

/// Formats a table; columns are as wide as their widest cell.
pub fn format(columns: &[Column], rows: &[Vec<String>]) -> String {
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain([columns[index].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells = row.iter().zip(columns).zip(&widths).map(|((cell, (_, number)), &width)| {
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            if *number { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints to standard output, whole.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Output)
}

/// Prints a value as JSON, with a newline.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Output(error.into()))?;
    print(&format!("{text}\n"))
}

/// Whether standard output is a terminal that may show colours (<https://no-color.org>).
pub fn colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text in an ANSI colour, where there are any.
pub fn coloured(text: &str, code: u8, colours: bool) -> String {
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A number of bytes: `512 MiB`, `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time span by its two largest units: `3 d 4 h`, `12 s`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Text from a guest or client without anything that would steer a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "7".to_owned()]];
        assert_eq!(format(&[("NAME", false), ("N", true)], &rows), "NAME   N\na     10\nlong   7\n");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!([bytes(0), bytes(1536), bytes(512 << 20), bytes(3 << 30)], ["0 B", "1.5 KiB", "512 MiB", "3 GiB"]);
        let spans = [5, 65, 7260, 100_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["5 s", "1 min 5 s", "2 h 1 min", "1 d 3 h"]);
    }

    #[test]
    fn escape_sequences_do_not_pass() {
        assert_eq!(harmless("a\u{1b}[31mb\r\tc"), "a[31mb\tc");
    }
}
