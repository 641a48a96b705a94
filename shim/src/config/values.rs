//! Types of values, each parsed once. Their checks happen while the file is read, so that an error knows its line and column.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Longest text of kernel parameters in bytes: the kernel's command line has 2048 (powerpc, COMMAND_LINE_SIZE), and part of it is ours.
const MAX_PARAMETERS_BYTES: usize = 1024;

/// A whole number from MIN to MAX that is a multiple of STEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64, const STEP: u64 = 1>(u64);

impl<const MIN: u64, const MAX: u64, const STEP: u64> From<Bounded<MIN, MAX, STEP>> for u64 {
    fn from(value: Bounded<MIN, MAX, STEP>) -> Self {
        value.0
    }
}

impl<const MIN: u64, const MAX: u64, const STEP: u64> From<Bounded<MIN, MAX, STEP>> for u32 {
    fn from(value: Bounded<MIN, MAX, STEP>) -> Self {
        const { assert!(MAX <= u32::MAX as u64) };
        value.0 as u32
    }
}

struct Number<const MIN: u64, const MAX: u64, const STEP: u64>;

impl<const MIN: u64, const MAX: u64, const STEP: u64> Visitor<'_> for Number<MIN, MAX, STEP> {
    type Value = Bounded<MIN, MAX, STEP>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")?;
        if STEP > 1 { write!(f, ", a multiple of {STEP}") } else { Ok(()) }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        if (MIN..=MAX).contains(&value) && value.is_multiple_of(STEP) {
            return Ok(Bounded(value));
        }
        Err(E::invalid_value(Unexpected::Unsigned(value), &self))
    }
}

impl<'de, const MIN: u64, const MAX: u64, const STEP: u64> Deserialize<'de> for Bounded<MIN, MAX, STEP> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Number)
    }
}

/// Text with a rule.
struct Text<T> {
    expected: &'static str,
    accept: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.accept)(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }
}

/// A path that means the same whatever the current directory is: a shim's is its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absolute(PathBuf);

impl From<Absolute> for PathBuf {
    fn from(path: Absolute) -> Self {
        path.0
    }
}

impl From<Absolute> for Option<PathBuf> {
    fn from(path: Absolute) -> Self {
        Some(path.0)
    }
}

impl<'de> Deserialize<'de> for Absolute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accept = |text: &str| Path::new(text).is_absolute().then(|| Self(text.into()));
        deserializer.deserialize_str(Text { expected: "an absolute path", accept })
    }
}

/// A directory below which unix sockets fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory(PathBuf);

impl From<StateDirectory> for PathBuf {
    fn from(path: StateDirectory) -> Self {
        path.0
    }
}

impl<'de> Deserialize<'de> for StateDirectory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accept = |text: &str| {
            let fits = Path::new(text).is_absolute() && text.len() <= crate::paths::MAX_STATE_DIR_BYTES;
            fits.then(|| Self(text.into()))
        };
        deserializer
            .deserialize_str(Text { expected: "an absolute path of at most 61 characters, for it holds unix sockets", accept })
    }
}

/// Words for the guest kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters(String);

impl From<Parameters> for String {
    fn from(parameters: Parameters) -> Self {
        parameters.0
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accept = |text: &str| {
            let sound = text.len() <= MAX_PARAMETERS_BYTES && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            sound.then(|| Self(text.into()))
        };
        deserializer.deserialize_str(Text { expected: "at most 1024 printable ASCII characters", accept })
    }
}
