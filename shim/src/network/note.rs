//! What was made in a network namespace that outlives the machine, on disk: `delete` takes it back after the shim's death.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::NetworkError;
use super::attach::{self, Attachment};
use super::namespace::Namespace;
use crate::paths::PodPaths;

/// The note.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// The namespace's file.
    namespace: PathBuf,
    /// Device and inode of the namespace: the file may stand for another one by now.
    identity: (u64, u64),
    attachments: Vec<Attachment>,
}

impl Note {
    /// A note of a namespace in which nothing was made yet.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn new(path: &Path, namespace: &Namespace) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Io { what: path.display().to_string(), source };
        Ok(Self { namespace: path.to_owned(), identity: namespace.identity().map_err(failed)?, attachments: Vec::new() })
    }

    /// Writes it into the pod's directory.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn write(&self, paths: &PodPaths) -> Result<(), NetworkError> {
        let path = paths.network();
        let failed = |source| NetworkError::Io { what: path.display().to_string(), source };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        // A reader after a crash finds the old note or the new one.
        let new = path.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).map_err(failed)
    }

    fn read(paths: &PodPaths) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(paths.network()).ok()?).ok()
    }
}

/// Notes what is about to be made; nothing where there is no note, because the namespace ends with the machine.
///
/// # Errors
/// [`NetworkError`].
pub fn add(paths: &PodPaths, attachment: &Attachment) -> Result<(), NetworkError> {
    let Some(mut note) = Note::read(paths) else { return Ok(()) };
    note.attachments.retain(|old| old.slot != attachment.slot);
    note.attachments.push(attachment.clone());
    note.write(paths)
}

/// Strikes what is not there any more, or never was.
///
/// # Errors
/// [`NetworkError`].
pub fn strike(paths: &PodPaths, slot: u8) -> Result<(), NetworkError> {
    let Some(mut note) = Note::read(paths) else { return Ok(()) };
    note.attachments.retain(|old| old.slot != slot);
    note.write(paths)
}

/// Takes back what a pod's note tells of. Nothing is done where there is no note, or where the namespace is gone.
pub fn undo(paths: &PodPaths) {
    let Some(note) = Note::read(paths) else { return };
    let namespace = match Namespace::at(note.namespace.clone()) {
        Ok(namespace) if namespace.identity().is_ok_and(|identity| identity == note.identity) => namespace,
        // Gone, or another one by that name.
        _ => return,
    };
    let undone = namespace.run_blocking(move || {
        for error in note.attachments.iter().filter_map(|attachment| attach::detach(attachment).err()) {
            log::warn!("{error}");
        }
    });
    if let Err(error) = undone {
        log::warn!("{error}");
    }
    if let Err(error) = std::fs::remove_file(paths.network())
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("{}: {error}", paths.network().display());
    }
}
