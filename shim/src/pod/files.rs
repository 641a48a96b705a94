//! What a pod has on the host's disk: its directory, and in it each container's part of the share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{CreateOptions, Pod, PodError};
use crate::cleanup::{self, CleanupError};
use crate::paths::PodPaths;
use crate::spec::{ForGuest, Role, Spec};
use crate::volume::MemoryVolume;
use crate::{elf, rootfs};

/// What [`prepare_files`] laid out.
pub(super) enum Prepared {
    /// Nothing: no process runs in a sandbox.
    Sandbox,
    /// Specification, root file system and volumes; these are left for the guest to make.
    Container(Vec<MemoryVolume>),
}

/// A guest that fills its machine with files again and again is told to forget no more often than this.
const FORGET_PAUSE: Duration = Duration::from_millis(100);

impl Pod {
    /// Has the guest forget files when its machine has many of them open.
    pub(super) fn watch_files(self: Arc<Self>) {
        tokio::spawn(async move {
            let mut answered = 0;
            let follow = async {
                while let Ok(ring) = self.machine.wait_forget(answered).await {
                    log::info!("the machine has many files open: the guest is told to forget those it does not use");
                    if let Err(error) = self.agent.forget_files().await {
                        log::warn!("{error}");
                    }
                    answered = ring;
                    tokio::time::sleep(FORGET_PAUSE).await;
                }
            };
            tokio::select! {
                () = follow => {}
                _ = self.machine.ended() => {}
            }
        });
    }
}

/// Makes the pod's directory. One that is there already belongs to a living shim of another containerd, or is what a dead shim left
/// when nobody cleaned up after it.
pub(super) fn claim_directory(paths: &PodPaths, owner: &Path) -> Result<(), PodError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PodError::File { path, source }
    };
    match make_pod_directory(paths) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let other = std::fs::read_to_string(paths.owner()).unwrap_or_default();
            if Path::new(&other) != owner && std::os::unix::net::UnixStream::connect(&other).is_ok() {
                return Err(PodError::Exists(format!("pod {}", paths.root().display())));
            }
            log::warn!("{} was left by a shim that is gone", paths.root().display());
            cleanup::remove_pod(paths)?;
            make_pod_directory(paths).map_err(failed(paths.root()))?;
        }
        made => made.map_err(failed(paths.root()))?,
    }
    std::fs::write(paths.owner(), owner.as_os_str().as_encoded_bytes()).map_err(failed(&paths.owner()))
}

/// The pod's directory, which must not exist yet: another pod's would be taken down with this one.
fn make_pod_directory(paths: &PodPaths) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = paths.root().parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    builder.create(paths.root())
}

/// Lays out a container's part of the share: specification, root file system, volumes.
pub(super) fn prepare_files(paths: &PodPaths, spec: &Spec, options: &CreateOptions) -> Result<Prepared, PodError> {
    if spec.role() == Role::Sandbox {
        return Ok(Prepared::Sandbox);
    }
    let in_share = paths.container_in_share(&options.id);
    let (files, share) = (paths.files().join(&in_share), paths.share().join(&in_share));
    let bundle = Path::new(&options.bundle);
    let ForGuest { document, volumes, memory_volumes } = spec.for_guest(bundle, &in_share)?;
    rootfs::make_directory(&files.join("rootfs"))?;
    let config = files.join("config.json");
    std::fs::write(&config, document).map_err(|source| PodError::File { path: config, source })?;
    let root = share.join("rootfs");
    rootfs::mount_root(&options.mounts, &bundle.join(spec.root_path()), &root)?;
    if let Some((args, env, cwd)) = spec.program() {
        elf::check(&root, args, env, cwd)?;
    }
    for volume in &volumes {
        rootfs::make_volume_target(volume, &files.join("mounts"))?;
        rootfs::mount_volume(volume, &share.join("mounts"))?;
    }
    Ok(Prepared::Container(memory_volumes))
}

/// Unmounts and removes a container's part of the share.
pub(super) fn remove_container_files(paths: &PodPaths, id: &str) -> Result<(), CleanupError> {
    let in_share = paths.container_in_share(id);
    cleanup::unmount_below(&paths.share().join(&in_share))?;
    cleanup::remove_tree(&paths.files().join(&in_share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_shim_left_is_taken_over_and_a_living_ones_is_not() {
        let state = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(state.path(), "ns", "pod");
        let (ours, theirs) = (state.path().join("ours"), state.path().join("theirs"));
        let listener = std::os::unix::net::UnixListener::bind(&theirs).unwrap();
        claim_directory(&paths, &theirs).unwrap();
        std::fs::create_dir(paths.files()).unwrap();
        assert!(matches!(claim_directory(&paths, &ours), Err(PodError::Exists(_))));
        assert!(paths.files().exists());
        drop(listener);
        claim_directory(&paths, &ours).unwrap();
        assert!(!paths.files().exists());
        assert_eq!(std::fs::read_to_string(paths.owner()).unwrap(), ours.display().to_string());
    }
}
