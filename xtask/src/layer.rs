//! A root file system in memory, made from package files and a few entries of our own, written as a tar that has
//! the same bytes every time. Nothing is unpacked to disk, so owners and devices need no root.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tar::{EntryType, Header};

/// A chain of symbolic links longer than this is a loop.
const SYMLINK_LIMIT: usize = 16;

/// What a path is.
#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// Another name of a path.
    Hardlink(String),
}

#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
}

/// A root file system.
#[derive(Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Adds everything in a package file. Its scripts are not executed.
    pub fn add_deb(&mut self, deb: &Path) -> Result<()> {
        let mut child =
            Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn().context("start dpkg-deb")?;
        let stdout = child.stdout.take().context("dpkg-deb has an output")?;
        self.add_tar(stdout).with_context(|| format!("read {}", deb.display()))?;
        ensure!(child.wait()?.success(), "dpkg-deb cannot read {}", deb.display());
        Ok(())
    }

    fn add_tar(&mut self, reader: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8(entry.path_bytes().into_owned()).context("a name is not UTF-8")?;
            let Some(path) = self.place(&path)? else { continue };
            let header = entry.header();
            let (mode, uid, gid) = (header.mode()?, header.uid()?, header.gid()?);
            let link = entry.link_name_bytes().map(|name| String::from_utf8(name.into_owned())).transpose()?;
            let kind = match header.entry_type() {
                EntryType::Directory => Kind::Directory,
                EntryType::Symlink => Kind::Symlink(link.context("a link without target")?),
                EntryType::Link => {
                    let target = self.place(&link.context("a link without target")?)?;
                    Kind::Hardlink(target.context("a link to the root")?)
                }
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    Kind::File(content)
                }
                other => bail!("{path}: packages do not contain {other:?}"),
            };
            let is_known_link = matches!(self.entries.get(&path), Some(Entry { kind: Kind::Symlink(_), .. }));
            if matches!(kind, Kind::Directory) && is_known_link {
                continue;
            }
            self.entries.insert(path, Entry { kind, mode, uid, gid });
        }
        Ok(())
    }

    /// Adds a directory owned by root.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.own(path, mode, Kind::Directory);
    }

    /// Adds a file owned by root.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.own(path, mode, Kind::File(content.into()));
    }

    /// Adds a symbolic link, unless something is at `path` already.
    pub fn symlink(&mut self, path: &str, target: &str) {
        if !self.entries.contains_key(path) {
            self.own(path, 0o777, Kind::Symlink(target.to_owned()));
        }
    }

    /// Content of a file.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.entries.get(path)?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Files below `prefix`, in order.
    pub fn files_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.entries.range(prefix.to_owned()..).take_while(move |(path, _)| path.starts_with(prefix)).filter_map(
            |(path, entry)| match &entry.kind {
                Kind::File(content) => Some((path.as_str(), content.as_slice())),
                _ => None,
            },
        )
    }

    /// Removes everything below `prefix` (a path with its slash) for which `keep` is false.
    pub fn drop_below(&mut self, prefix: &str, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|path, _| !path.starts_with(prefix) || keep(path));
    }

    /// Writes the layer as a tar: sorted, at the epoch.
    pub fn to_tar(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        // A second name can only follow the first one.
        let (links, others): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|(_, entry)| matches!(entry.kind, Kind::Hardlink(_)));
        for (path, entry) in others.into_iter().chain(links) {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode & 0o7777);
            header.set_uid(entry.uid);
            header.set_gid(entry.gid);
            header.set_mtime(0);
            header.set_size(0);
            match &entry.kind {
                Kind::Directory => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), &[][..])?;
                }
                Kind::File(content) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Kind::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                Kind::Hardlink(target) => {
                    ensure!(self.content(target).is_some(), "{path} is a second name of nothing: {target}");
                    header.set_entry_type(EntryType::Link);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    fn own(&mut self, path: &str, mode: u32, kind: Kind) {
        self.entries.insert(path.to_owned(), Entry { kind, mode, uid: 0, gid: 0 });
    }

    /// Where a package's path belongs: relative, and through the links that stand for directories (/bin -> usr/bin).
    fn place(&self, path: &str) -> Result<Option<String>> {
        let mut parts: Vec<String> = clean(path)?;
        let Some(last) = parts.pop() else { return Ok(None) };
        let mut place = String::new();
        for part in parts {
            let next = if place.is_empty() { part } else { format!("{place}/{part}") };
            place = self.follow(next)?;
        }
        Ok(Some(if place.is_empty() { last } else { format!("{place}/{last}") }))
    }

    fn follow(&self, mut path: String) -> Result<String> {
        for _ in 0..SYMLINK_LIMIT {
            let Some(Entry { kind: Kind::Symlink(target), .. }) = self.entries.get(&path) else { return Ok(path) };
            let base = match (target.strip_prefix('/'), path.rsplit_once('/')) {
                (Some(absolute), _) => absolute.to_owned(),
                (None, Some((parent, _))) => format!("{parent}/{target}"),
                (None, None) => target.clone(),
            };
            path = clean(&base)?.join("/");
        }
        bail!("{path}: too many links")
    }
}

/// The parts of a path, without `.`, and with `..` resolved; it may not leave the root.
fn clean(path: &str) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => ensure!(parts.pop().is_some(), "{path} leaves the root"),
            part => parts.push(part.to_owned()),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layer: &Layer) -> Vec<String> {
        let tar = layer.to_tar().unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn packages_land_behind_links_for_directories() {
        let mut inner = Layer::default();
        inner.directory("bin", 0o755);
        inner.file("bin/tool", 0o755, "x");
        let mut layer = Layer::default();
        layer.symlink("bin", "usr/bin");
        layer.add_tar(inner.to_tar().unwrap().as_slice()).unwrap();
        assert_eq!(names(&layer), ["bin", "usr/bin/tool"]);
    }

    #[test]
    fn second_names_follow_the_first() {
        let mut layer = Layer::default();
        layer.file("z", 0o644, "x");
        layer.own("a", 0o644, Kind::Hardlink("z".into()));
        assert_eq!(names(&layer), ["z", "a"]);
        layer.own("b", 0o644, Kind::Hardlink("missing".into()));
        assert!(layer.to_tar().is_err());
    }

    #[test]
    fn paths_cannot_leave_the_root() {
        assert!(clean("usr/../../etc/passwd").is_err());
        assert_eq!(clean("./usr//bin/.").unwrap(), ["usr", "bin"]);
    }

    #[test]
    fn same_content_same_bytes() {
        let mut one = Layer::default();
        one.file("b", 0o644, "2");
        one.directory("a", 0o755);
        let mut two = Layer::default();
        two.directory("a", 0o755);
        two.file("b", 0o644, "2");
        assert_eq!(one.to_tar().unwrap(), two.to_tar().unwrap());
    }
}
