//! OCI specifications of a test's own, for what `ctr` has no options for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::host::image;
use crate::{Error, Host};

/// The busybox image's root file system, mounted where specifications can name it.
pub struct Rootfs<'a> {
    host: &'a Host,
    path: PathBuf,
}

impl<'a> Rootfs<'a> {
    /// Mounts it, writable.
    pub fn mount(host: &'a Host) -> Result<Self, Error> {
        let path = host.directory().join("rootfs");
        std::fs::create_dir_all(&path).map_err(crate::io("rootfs"))?;
        let arguments =
            ["images", "mount", "--rw", "--platform", "linux/ppc64le", &image("busybox"), &path.display().to_string()];
        let output = host.ctr(&arguments)?;
        if output.status.success() {
            return Ok(Self { host, path });
        }
        Err(Error::Command { command: "ctr images mount".into(), output: output.stderr })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A plain specification for it, changed by the test.
    pub fn spec(&self, command: &[&str], change: impl FnOnce(&mut Value)) -> Value {
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/",
                "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
                "capabilities": {},
            },
            "root": {"path": self.path},
            "hostname": "guest",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
            ],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}]},
        });
        change(&mut spec);
        spec
    }

    /// Writes a specification to a file for `ctr run --config`.
    pub fn write(&self, name: &str, spec: &Value) -> Result<PathBuf, Error> {
        let path = self.host.directory().join(format!("{name}.json"));
        std::fs::write(&path, spec.to_string()).map_err(crate::io("specification"))?;
        Ok(path)
    }
}

impl Drop for Rootfs<'_> {
    fn drop(&mut self) {
        let _ = self.host.ctr(&["images", "unmount", "--rm", &self.path.display().to_string()]);
    }
}
