//! Inputs as text: hexadecimal, white space anywhere, comments from `#` to the end of a line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the corpora are kept.
pub fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Every input of a target, with its file's name, in the order of the names.
///
/// # Errors
/// A file that cannot be read, or is not hexadecimal.
pub fn load(target: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let directory = directory(target);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let bytes = parse(&text).with_context(|| format!("{}", path.display()))?;
        inputs.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    inputs.sort();
    Ok(inputs)
}

/// The bytes that a text stands for.
///
/// # Errors
/// What is no hexadecimal digit, and half a byte.
pub fn parse(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> =
        text.lines().flat_map(|line| line.split('#').next().unwrap_or("").chars()).filter(|c| !c.is_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        bail!("half a byte at the end");
    }
    let digit = |c: char| c.to_digit(16).with_context(|| format!("{c:?} is no hexadecimal digit"));
    digits.chunks_exact(2).map(|pair| Ok((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

/// An input as text.
pub fn format(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n");
    lines.collect()
}
