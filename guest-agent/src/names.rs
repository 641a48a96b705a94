//! What the host side names: containers, processes, and files below the shared directory. Everything is parsed here, once;
//! the rest of the agent holds only values that passed.

use std::path::{Component, Path, PathBuf};

/// Longest container or exec id in bytes. containerd allows 76.
const ID_MAX: usize = 128;

/// Longest path below the share in bytes.
const SHARE_PATH_MAX: usize = 1024;

/// A name that is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not an identifier.
    #[error("{field} {value:?}: 1 to {ID_MAX} characters of A-Z a-z 0-9 _ + - . expected, and not . or ..")]
    Id {
        /// Field of the request.
        field: &'static str,
        /// What it held.
        value: String,
    },
    /// Not a path below the share.
    #[error("{field} {value:?}: a relative path without . and .. is expected, {SHARE_PATH_MAX} bytes at most")]
    NotBelowShare {
        /// Field of the request.
        field: &'static str,
        /// What it held.
        value: String,
    },
    /// A link in it leads out of the share.
    #[error("{field} {value:?} leads to {target:?}, outside the shared directory")]
    LeavesShare {
        /// Field of the request.
        field: &'static str,
        /// What it held.
        value: String,
        /// Where it leads.
        target: PathBuf,
    },
    /// Not there.
    #[error("{field} {value:?}: {reason}")]
    Missing {
        /// Field of the request.
        field: &'static str,
        /// What it held.
        value: String,
        /// The kernel's answer.
        reason: String,
    },
}

/// Accepts `value` as the id of a container or an added process.
///
/// # Errors
/// [`NameError::Id`] for anything that could not be one path component, or that libcontainer refuses.
pub fn id(field: &'static str, value: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if value.is_empty() || value.len() > ID_MAX || matches!(value, "." | "..") || !value.chars().all(allowed) {
        return Err(NameError::Id { field, value: shortened(value) });
    }
    Ok(())
}

/// Accepts `value` as the path of something that exists below `share`, and answers its absolute path without links.
///
/// # Errors
/// [`NameError`] for absolute paths, `..`, links that lead out, and missing files.
pub fn below_share(share: &Path, field: &'static str, value: &str) -> Result<PathBuf, NameError> {
    let components = Path::new(value).components().all(|c| matches!(c, Component::Normal(_)));
    if value.is_empty() || value.len() > SHARE_PATH_MAX || !components {
        return Err(NameError::NotBelowShare { field, value: shortened(value) });
    }
    let missing = |error: std::io::Error| NameError::Missing { field, value: shortened(value), reason: error.to_string() };
    let share = share.canonicalize().map_err(missing)?;
    let target = share.join(value).canonicalize().map_err(missing)?;
    if !target.starts_with(&share) {
        return Err(NameError::LeavesShare { field, value: shortened(value), target });
    }
    Ok(target)
}

/// `value`, cut for an error message.
fn shortened(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_path_components() {
        for good in ["a", "k8s_x+y.z-1", "..."] {
            id("id", good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(ID_MAX + 1)] {
            assert!(id("id", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_leaves_the_share() {
        let outside = std::env::temp_dir().join(format!("paperboat-names-{}", std::process::id()));
        let share = outside.join("share");
        std::fs::create_dir_all(share.join("containers/one")).expect("temporary directory");
        std::fs::write(outside.join("secret"), "x").expect("temporary file");
        std::fs::write(share.join("containers/one/config.json"), "{}").expect("temporary file");
        std::os::unix::fs::symlink("../../../secret", share.join("containers/one/out")).expect("link");
        std::os::unix::fs::symlink("one/config.json", share.join("containers/in")).expect("link");

        let inside = below_share(&share, "spec_path", "containers/in").expect("a link that stays inside");
        assert_eq!(inside, share.canonicalize().expect("share").join("containers/one/config.json"));
        assert!(matches!(below_share(&share, "p", "containers/one/out"), Err(NameError::LeavesShare { .. })));
        for bad in ["", "/etc/passwd", "../secret", "containers/../../secret", "./containers"] {
            assert!(matches!(below_share(&share, "p", bad), Err(NameError::NotBelowShare { .. })), "{bad:?}");
        }
        assert!(matches!(below_share(&share, "p", "containers/two"), Err(NameError::Missing { .. })));
        std::fs::remove_dir_all(&outside).expect("clean up");
    }
}
