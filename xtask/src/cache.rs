//! The cache: finished products of steps, keyed by the content of their inputs.
//!
//! A product is a directory `store/<step>/<key>`. It is built in a directory of `tmp/` and renamed when it is
//! whole, so an interrupted step leaves nothing that looks finished. `entry.json` in it lists every file with its
//! size, and the small ones with their digest: a product that was damaged later is built again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Files up to this size are compared by digest when a product is reused, larger ones by size alone:
/// hashing the compiler's 800 MB would cost more than most steps.
const DIGEST_LIMIT_BYTES: u64 = 64 << 20;
/// Products with more files than this are compared by size alone.
const DIGEST_LIMIT_FILES: usize = 200;
/// How often, and after which pause, a directory that was filled while it was removed is removed again.
const REMOVE_ATTEMPTS: usize = 20;
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// Name of the list of files inside each product.
const MANIFEST: &str = "entry.json";

/// A product's inputs: names a person understands, with what identifies their content.
#[derive(Default)]
pub struct Inputs(Vec<(String, String)>);

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input by its identity: a version, a digest, an option.
    pub fn with(mut self, label: impl Into<String>, identity: impl Into<String>) -> Self {
        self.0.push((label.into(), identity.into()));
        self
    }

    /// Adds a file by the digest of its content.
    pub fn with_file(self, path: &Path) -> Result<Self> {
        let label = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = file_digest(path)?;
        Ok(self.with(label, digest))
    }

    /// The key: a digest over all names and identities, in order.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for (label, identity) in &self.0 {
            hash.update((label.len() as u64).to_le_bytes());
            hash.update(label.as_bytes());
            hash.update((identity.len() as u64).to_le_bytes());
            hash.update(identity.as_bytes());
        }
        hex(&hash.finalize())[..20].to_owned()
    }

    /// The inputs as one line for people: digests are shortened.
    pub fn summary(&self) -> String {
        let mut parts: Vec<String> = self
            .0
            .iter()
            .take(6)
            .map(|(label, identity)| {
                let short = if identity.len() == 64 { &identity[..8] } else { identity };
                format!("{label} {short}")
            })
            .collect();
        if self.0.len() > parts.len() {
            parts.push(format!("and {} more", self.0.len() - parts.len()));
        }
        parts.join(", ")
    }
}

/// One file of a product, as it was when it was finished.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Recorded {
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// The cache directory of this user.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME/paperboat`, or `~/.cache/paperboat`, making it if it is missing.
    pub fn open() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
            _ => {
                let home = std::env::var_os("HOME")
                    .context("neither XDG_CACHE_HOME nor HOME is set: set one to a writable directory")?;
                PathBuf::from(home).join(".cache")
            }
        };
        Self::at(base.join("paperboat"))
    }

    /// Opens a cache at `root`.
    pub fn at(root: PathBuf) -> Result<Self> {
        let unwritable = || {
            format!(
                "the cache {} cannot be written: make it writable, or set XDG_CACHE_HOME to a directory that is",
                root.display()
            )
        };
        for dir in ["store", "tmp", "logs", "debs", "products"] {
            fs::create_dir_all(root.join(dir)).with_context(unwritable)?;
        }
        let probe = root.join(format!(".probe.{}", std::process::id()));
        fs::write(&probe, b"probe").with_context(unwritable)?;
        fs::remove_file(&probe).with_context(unwritable)?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where logs of steps are kept.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Downloads, each named by its digest.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("debs")
    }

    /// Where the newest product of each kind is found under a name that does not change.
    pub fn products(&self) -> PathBuf {
        self.root.join("products")
    }

    /// Cargo's target directory for what xtask builds.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Takes the cache for this process; `waiting` is called when another one holds it.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Flock<File>> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                waiting();
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| errno)
                    .with_context(|| format!("lock {}", path.display()))
            }
            Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// Directory of the finished product, if it is there and whole.
    pub fn find(&self, step: &str, key: &str) -> Found {
        let dir = self.entry(step, key);
        match verify(&dir) {
            Ok(true) => Found::Whole(dir),
            Ok(false) => Found::Missing,
            Err(why) => Found::Damaged(format!("{why:#}")),
        }
    }

    /// An empty directory for a step to fill. What an interrupted step of the same name left is removed.
    pub fn stage(&self, step: &str, key: &str) -> Result<PathBuf> {
        let dir = self.root.join("tmp").join(format!("{step}-{key}"));
        remove_tree(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// Removes what interrupted steps have left. Only for the holder of the lock.
    pub fn remove_stages(&self) -> Result<()> {
        for entry in fs::read_dir(self.root.join("tmp"))? {
            remove_tree(&entry?.path())?;
        }
        Ok(())
    }

    /// Makes a filled stage the product of `step`; older products of the step beyond `keep` are removed.
    pub fn finish(&self, stage: &Path, step: &str, key: &str, keep: usize) -> Result<PathBuf> {
        let files = record(stage)?;
        let list = serde_json::to_vec_pretty(&files)?;
        fs::write(stage.join(MANIFEST), list).context("write the list of files")?;
        let dir = self.entry(step, key);
        remove_tree(&dir)?;
        let parent = dir.parent().context("a product has a parent directory")?;
        fs::create_dir_all(parent)?;
        fs::rename(stage, &dir).with_context(|| format!("rename {} to {}", stage.display(), dir.display()))?;
        self.prune(parent, &dir, keep)?;
        Ok(dir)
    }

    /// Points `products/<name>` at `target`.
    pub fn publish(&self, name: &str, target: &Path) -> Result<PathBuf> {
        let link = self.products().join(name);
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent)?;
        }
        let fresh = link.with_file_name(format!(".{}.new", name.rsplit('/').next().unwrap_or(name)));
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(target, &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .with_context(|| format!("link {}", link.display()))?;
        Ok(link)
    }

    /// Removes everything but the lock.
    pub fn clean(&self) -> Result<u64> {
        let mut freed = 0;
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "lock") {
                continue;
            }
            freed += tree_size(&path);
            remove_tree(&path)?;
        }
        Ok(freed)
    }

    fn entry(&self, step: &str, key: &str) -> PathBuf {
        self.root.join("store").join(step).join(key)
    }

    fn prune(&self, parent: &Path, newest: &Path, keep: usize) -> Result<()> {
        let mut others: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(parent)?
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path() != newest)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        others.sort();
        while others.len() + 1 > keep.max(1) {
            let (_, oldest) = others.remove(0);
            remove_tree(&oldest)?;
        }
        Ok(())
    }
}

/// What the cache holds under a key.
pub enum Found {
    /// The finished product.
    Whole(PathBuf),
    /// Nothing.
    Missing,
    /// A product whose files are not what they were; the reason.
    Damaged(String),
}

/// SHA-256 of a file, in hexadecimal.
pub fn file_digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).with_context(|| format!("read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes a file or a tree, whatever it is; a missing one is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    let remove = || match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    // Helpers of a program that failed may write a last file meanwhile.
    let mut result = remove();
    for _ in 0..REMOVE_ATTEMPTS {
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {
            break;
        }
        std::thread::sleep(REMOVE_PAUSE);
        result = remove();
    }
    result.with_context(|| format!("remove {}", path.display()))
}

fn tree_size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| tree_size(&entry.path())).sum()
}

/// Regular files below `dir`, relative to it, without the list itself.
fn files_below(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    fn walk(base: &Path, dir: &Path, found: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let path = entry.path();
            if meta.is_dir() {
                walk(base, &path, found)?;
            } else if meta.is_file() {
                let relative = path.strip_prefix(base).unwrap_or(&path).to_owned();
                if relative != Path::new(MANIFEST) {
                    found.push((relative, meta.len()));
                }
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found).with_context(|| format!("list {}", dir.display()))?;
    found.sort();
    Ok(found)
}

fn record(dir: &Path) -> Result<BTreeMap<String, Recorded>> {
    let files = files_below(dir)?;
    let with_digest = files.len() <= DIGEST_LIMIT_FILES;
    files
        .into_iter()
        .map(|(path, size_bytes)| {
            let sha256 =
                if with_digest && size_bytes <= DIGEST_LIMIT_BYTES { Some(file_digest(&dir.join(&path))?) } else { None };
            Ok((path.to_string_lossy().into_owned(), Recorded { size_bytes, sha256 }))
        })
        .collect()
}

/// Whether `dir` is a finished product; an error says how it is damaged.
fn verify(dir: &Path) -> Result<bool> {
    let mut list = String::new();
    match File::open(dir.join(MANIFEST)) {
        Err(_) => return Ok(false),
        Ok(mut file) => file.read_to_string(&mut list)?,
    };
    let wanted: BTreeMap<String, Recorded> = serde_json::from_str(&list).context("its list of files is unreadable")?;
    for (name, recorded) in wanted {
        let path = dir.join(&name);
        let size = fs::metadata(&path).map(|meta| meta.len()).unwrap_or(u64::MAX);
        if size != recorded.size_bytes {
            bail!("{name} has another size");
        }
        if let Some(sha256) = recorded.sha256
            && file_digest(&path)? != sha256
        {
            bail!("{name} has another content");
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("paperboat-cache-{name}-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        dir
    }

    #[test]
    fn key_depends_on_every_name_and_identity() {
        let key = |a: &str, b: &str| Inputs::new().with(a, b).key();
        assert_eq!(key("gcc", "12"), key("gcc", "12"));
        assert_ne!(key("gcc", "12"), key("gcc", "13"));
        assert_ne!(key("gcc", "12"), key("gcc1", "2"));
    }

    #[test]
    fn product_is_found_only_when_whole() {
        let root = scratch("whole");
        let cache = Cache::at(root.clone()).unwrap();
        assert!(matches!(cache.find("step", "k"), Found::Missing));
        let interrupted = cache.stage("step", "other").unwrap();
        cache.remove_stages().unwrap();
        assert!(!interrupted.exists());
        let stage = cache.stage("step", "k").unwrap();
        fs::write(stage.join("a"), b"one").unwrap();
        assert!(matches!(cache.find("step", "k"), Found::Missing));
        let dir = cache.finish(&stage, "step", "k", 2).unwrap();
        assert!(matches!(cache.find("step", "k"), Found::Whole(_)));
        fs::write(dir.join("a"), b"two").unwrap();
        assert!(matches!(cache.find("step", "k"), Found::Damaged(_)));
        fs::remove_file(dir.join("a")).unwrap();
        assert!(matches!(cache.find("step", "k"), Found::Damaged(_)));
        remove_tree(&root).unwrap();
    }

    #[test]
    fn only_the_newest_products_are_kept() {
        let root = scratch("prune");
        let cache = Cache::at(root.clone()).unwrap();
        for key in ["k1", "k2", "k3"] {
            let stage = cache.stage("step", key).unwrap();
            fs::write(stage.join("a"), key).unwrap();
            cache.finish(&stage, "step", key, 2).unwrap();
        }
        assert!(matches!(cache.find("step", "k1"), Found::Missing));
        assert!(matches!(cache.find("step", "k3"), Found::Whole(_)));
        remove_tree(&root).unwrap();
    }

    #[test]
    fn unwritable_cache_names_the_cure() {
        let root = scratch("unwritable");
        fs::write(&root, b"a file where a directory should be").unwrap();
        let error = Cache::at(root.join("paperboat")).err().unwrap();
        assert!(error.to_string().contains("XDG_CACHE_HOME"), "{error}");
        remove_tree(&root).unwrap();
    }
}
