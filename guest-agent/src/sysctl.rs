//! Settings of the kernel below /proc/sys, as specifications name them (sysctl(8)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where they are.
const ROOT: &str = "/proc/sys";

/// Characters of a refused name that are shown.
const SHOWN: usize = 80;

/// A setting that was not made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Not a name of one.
    #[error("sysctl {0:?}: a name like net.ipv4.ip_forward is expected")]
    Name(String),
    /// The kernel has none of that name, or does not take the value.
    #[error("sysctl {name}={value}: {path:?}: {source}")]
    Write {
        /// As given.
        name: String,
        /// As given.
        value: String,
        /// Its file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Gives setting `name` a value, in the namespaces of the calling process.
///
/// # Errors
/// [`SysctlError`].
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = path(name)?;
    let shown = |text: &str| text.chars().take(SHOWN).collect();
    fs::write(&path, value).map_err(|source| SysctlError::Write { name: shown(name), value: shown(value), path, source })
}

/// In a name with dots between its parts a slash stands for a dot in one; written with slashes it is the other way round.
fn path(name: &str) -> Result<PathBuf, SysctlError> {
    let slashes = name.find('/').is_some_and(|slash| name.find('.').is_none_or(|dot| slash < dot));
    let exchanged = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let relative: String = if slashes { name.to_owned() } else { name.chars().map(exchanged).collect() };
    if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(SysctlError::Name(name.chars().take(SHOWN).collect()));
    }
    Ok(Path::new(ROOT).join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_below_their_root() {
        for (name, wanted) in [
            ("kernel.shmmax", "/proc/sys/kernel/shmmax"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(path(name).ok().as_deref(), Some(Path::new(wanted)), "{name}");
        }
        for bad in ["", ".", "..", "net..x", "//..//x", "/etc/passwd", "net/../../../etc/x"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_know_is_named() {
        let error = set("kernel.no-such-setting", "1").expect_err("there is none").to_string();
        assert!(error.contains("kernel.no-such-setting=1"), "{error}");
    }
}
