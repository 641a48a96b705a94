//! A working directory that is not there is made, as runc does (`mkdir -p` below the container's root, mounts included, before the root
//! becomes read-only). Only the container's mount namespace shows all of its mounts, so where it matters a createContainer hook, which
//! is this program once more, makes the directory; libcontainer runs it before pivot_root(2).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};
use oci_spec::runtime::{Hook, HookBuilder, Spec};

use super::HelperError;

/// First argument of this program as that hook.
pub const COMMAND: &str = "make-directory";

/// Where the hook leaves what went wrong, in the agent's directory of the container.
const COMPLAINT: &str = "cwd";

/// Adds the hook to a translated spec whose working directory may have to be made.
///
/// # Errors
/// The root file system cannot be looked into.
pub fn provide(spec: &mut Spec, rootfs: &Path, directory: &Path) -> Result<(), HelperError> {
    let Some(cwd) = spec.process().as_ref().map(|process| normal(process.cwd())) else { return Ok(()) };
    let mounts = spec.mounts().iter().flatten().map(|mount| normal(mount.destination()));
    let deepest = mounts.filter(|mount| cwd.starts_with(mount)).max_by_key(|mount| mount.components().count());
    let is_there = match deepest {
        Some(mount) => mount == cwd,
        None => {
            let root = open_directory(rootfs)?;
            below(&root, &cwd).is_ok()
        }
    };
    if is_there {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| HelperError::Call {
        what: "process.cwd".into(),
        source: io::Error::other(error.to_string()),
    };
    let ourselves = std::env::current_exe().map_err(|error| failed(&error))?;
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| failed(&format!("{} is no UTF-8", path.display())));
    let arguments = vec!["paperboat-agent".into(), COMMAND.into(), text(rootfs)?, text(&cwd)?, text(&directory.join(COMPLAINT))?];
    let hook: Hook = HookBuilder::default().path(ourselves).args(arguments).build().map_err(|error| failed(&error))?;
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    hooks.set_create_container(Some(vec![hook]));
    spec.set_hooks(Some(hooks));
    Ok(())
}

/// What the hook of [`provide`] complained of, if it did.
pub fn complaint(directory: &Path) -> Option<HelperError> {
    fs::read_to_string(directory.join(COMPLAINT)).ok().map(HelperError::Container)
}

/// `main` of the hook: root file system, directory in it, file for a complaint. Answers the exit code.
pub fn main(arguments: &[String]) -> i32 {
    let [rootfs, cwd, complaint] = arguments else { return 2 };
    let made = open_directory(Path::new(rootfs)).and_then(|root| {
        make(&root, Path::new(cwd)).map_err(|errno| HelperError::Io {
            what: "process.cwd",
            path: cwd.into(),
            source: errno.into(),
        })
    });
    match made {
        Ok(()) => 0,
        Err(error) => {
            // Whatever happens to it: the container is not made.
            let _ = fs::write(complaint, error.to_string());
            1
        }
    }
}

/// Makes `path` and what is missing above it, none of it outside `root`, whatever links there are.
fn make(root: &OwnedFd, path: &Path) -> nix::Result<()> {
    let mut parent = below(root, Path::new(""))?;
    let mut reached = PathBuf::new();
    for name in path.components().filter(|component| matches!(component, Component::Normal(_))) {
        reached.push(name);
        parent = match below(root, &reached) {
            Err(Errno::ENOENT) => {
                match mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
                below(root, &reached)?
            }
            other => other?,
        };
    }
    Ok(())
}

/// Opens a directory as the container will see it.
fn below(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), relative, how)
}

fn open_directory(path: &Path) -> Result<OwnedFd, HelperError> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| HelperError::Io {
        what: "opening",
        path: path.into(),
        source: errno.into(),
    })
}

/// Without `.`, `..` and doubled slashes; nothing is above `/`.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn spec(cwd: &str) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": cwd, "args": ["x"]},
            "mounts": [{"destination": "/data/"}, {"destination": "/data/deep"}],
        }))
        .unwrap()
    }

    #[test]
    fn only_a_directory_that_may_be_missing_costs_a_hook() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("there")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        symlink("/there", root.path().join("link")).unwrap();
        for (cwd, wanted) in [
            ("/", false),
            ("/there/../link", false),
            ("/data", false),
            ("/data/deep/.", false),
            ("/data/other", true),
            ("/missing", true),
            ("/file", true),
        ] {
            let mut spec = spec(cwd);
            provide(&mut spec, root.path(), Path::new("/run/x")).unwrap();
            assert_eq!(spec.hooks().is_some(), wanted, "{cwd}");
        }
    }

    #[test]
    fn directories_are_made_below_the_root_and_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink("../../outside", root.join("climbs")).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("/inner", root.join("link")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let run = |cwd: &str| {
            let note = place.path().join("note");
            let _ = fs::remove_file(&note);
            let words = [root.to_str().unwrap(), cwd, note.to_str().unwrap()].map(str::to_owned);
            (main(&words), complaint_text(&note))
        };
        assert_eq!(run("/a/b/c"), (0, None));
        assert!(root.join("a/b/c").is_dir());
        assert_eq!(run("/link/new"), (0, None));
        assert!(root.join("inner/new").is_dir());
        for cwd in ["/file/x", "/climbs/x", "/absolute/x"] {
            let (code, text) = run(cwd);
            assert_eq!(code, 1, "{cwd}");
            assert!(text.unwrap().contains(cwd));
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    fn complaint_text(note: &Path) -> Option<String> {
        fs::read_to_string(note).ok()
    }
}
