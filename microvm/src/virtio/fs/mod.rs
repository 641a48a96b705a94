//! The file system device (virtio 1.2 §5.11): a directory of the host, served in this process.
//!
//! Every inode the guest knows is an O_PATH descriptor, and every name is resolved as one component below one of them, so
//! no name, symlink, `..` or rename race leads out of the shared directory. File systems mounted below it after the start are
//! entered; they are announced as submounts, so that the guest gives them a device number of their own. The descriptors pin
//! them: unmount in the guest first (its kernel then forgets the inodes), and on the host afterwards.
//!
//! Files belong to the guest user who makes them: a thread takes that user's ids for the one system call. Both that and the current
//! directory are per thread here, which is why each thread that serves first unshares its file system attributes. Requests that are
//! short work are served by the vCPU that asks.

mod census;
mod flags;
mod server;
mod wire;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::fchdir;
use virtiofsd::passthrough::{CachePolicy, Config, NegotiationMode, PassthroughFs};

use super::queue::{Chain, ChainFault, Counters, DeviceQueue, Ram};
use super::worker::{DirectQueue, Served, Service, Workers};
use super::{Activation, DirectService, VirtioDevice, VirtioError, copy_config};
pub use census::Bell;
use census::Census;
pub use flags::to_host;
use server::Server;

const DEVICE_TYPE: u16 = 26;
/// "Mass storage controller, other".
const CLASS_CODE: u32 = 0x01_80_00;

/// Bytes of the tag in the device configuration (§5.11.4).
const TAG_BYTES: usize = 36;
/// Queues for requests, after the one for what must not wait behind them.
const REQUEST_QUEUES: u16 = 1;
/// Entries of the queue for FORGET.
const PRIORITY_QUEUE_SIZE: u16 = 128;
/// Entries of a request queue. Linux takes this minus four as the largest number of pages in a request.
const REQUEST_QUEUE_SIZE: u16 = 1024;

/// How long the guest may use a name or attributes without asking again, unless told otherwise. Volumes change on the host's side (the
/// kubelet swaps secrets by renaming a symlink), and nothing must stay stale for longer than a second.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Descriptors kept back from the guest's inodes and handles, for sockets and everything else in this process.
const RESERVED_DESCRIPTORS: u64 = 8192;

/// How the guest may remember what it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOptions {
    /// File content.
    pub cache: CacheMode,
    /// How long names and attributes are used without asking again.
    pub remember: Duration,
    /// Whether there are extended attributes.
    pub xattr: bool,
}

impl Default for ShareOptions {
    fn default() -> Self {
        Self { cache: CacheMode::Auto, remember: TIMEOUT, xattr: true }
    }
}

/// What the guest keeps of file content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Nothing.
    Never,
    /// As long as the file does not change.
    Auto,
    /// Until the guest needs its memory.
    Always,
}

impl From<CacheMode> for CachePolicy {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Never => Self::Never,
            CacheMode::Auto => Self::Auto,
            CacheMode::Always => Self::Always,
        }
    }
}

impl FromStr for CacheMode {
    type Err = FsError;

    fn from_str(text: &str) -> Result<Self, FsError> {
        match text {
            "never" => Ok(Self::Never),
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            other => Err(FsError::Cache(other.chars().take(32).collect())),
        }
    }
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag does not fit.
    #[error("tag {tag:?}: must be of 1 to {TAG_BYTES} bytes")]
    Tag {
        /// The tag asked for.
        tag: String,
    },
    /// No way to keep file content.
    #[error("share cache {0:?}: never, auto or always expected")]
    Cache(String),
    /// The file system could not be set up.
    #[error("cannot {what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl FsError {
    fn setup(what: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |source| Self::Setup { what, source: source.into() }
    }
}

/// The file system device.
pub struct FsDevice {
    tag: [u8; TAG_BYTES],
    root: Arc<OwnedFd>,
    server: Arc<Server>,
    workers: Workers,
    queues: Vec<Arc<DirectQueue<FsQueue>>>,
}

impl FsDevice {
    /// Serves the directory that `root` stands for (O_PATH is enough) under the name `tag`. `/proc` is needed now and not later.
    ///
    /// Raises this process's soft limit of descriptors to its hard limit: the guest's inodes are descriptors. `bell` rings when the guest should
    /// forget some.
    ///
    /// # Errors
    /// [`FsError`] names the tag or what could not be done.
    pub fn new(tag: &str, root: OwnedFd, options: &ShareOptions, bell: Arc<Bell>) -> Result<Self, FsError> {
        let mut padded = [0; TAG_BYTES];
        match padded.get_mut(..tag.len()) {
            Some(place) if !tag.is_empty() => place.copy_from_slice(tag.as_bytes()),
            _ => return Err(FsError::Tag { tag: tag.to_owned() }),
        }
        let root = Arc::new(root);
        let for_thread = Arc::clone(&root);
        let options = options.clone();
        let census = Census::new(guest_descriptors()?, bell);
        let limit = census.limit();
        // The file system notes the current directory of the thread that makes it.
        let made = std::thread::spawn(move || {
            enter(&for_thread)?;
            make(limit, &options)
        });
        let fs = made
            .join()
            .map_err(|_| FsError::Setup { what: "set up the file system", source: io::Error::other("its thread panicked") })??;
        Ok(Self { tag: padded, root, server: Arc::new(Server::new(fs, census)), workers: Workers::default(), queues: Vec::new() })
    }

    fn start(&mut self, name: &str, queue: DeviceQueue) -> Result<(), VirtioError> {
        let service = FsQueue { server: Arc::clone(&self.server), root: Arc::clone(&self.root), counters: queue.counters() };
        self.queues.push(DirectQueue::start(&mut self.workers, name, queue, service)?);
        Ok(())
    }
}

/// How the requests of one queue are served.
struct FsQueue {
    server: Arc<Server>,
    root: Arc<OwnedFd>,
    counters: Arc<Counters>,
}

thread_local! {
    /// Whether this thread has file system attributes of its own.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

impl Service for FsQueue {
    fn serve<'a>(&self, memory: &'a Ram, chain: Chain<'a>, direct: bool) -> Result<Served, ChainFault> {
        self.server.handle(memory, chain, &self.counters, direct)
    }

    fn enter(&self) -> bool {
        if !ENTERED.get() {
            match enter(&self.root) {
                Ok(()) => ENTERED.set(true),
                Err(error) => log::error!("{error}"),
            }
        }
        ENTERED.get()
    }
}

/// Gives the calling thread a current directory and a file mode mask of its own: the shared directory, and none.
fn enter(root: &OwnedFd) -> Result<(), FsError> {
    unshare(CloneFlags::CLONE_FS).map_err(FsError::setup("give a thread its own current directory"))?;
    fchdir(root.as_fd()).map_err(FsError::setup("enter the shared directory"))?;
    // The guest's kernel has applied its umask already.
    umask(Mode::empty());
    Ok(())
}

/// Raises the limit of descriptors and answers the guest's part of them.
fn guest_descriptors() -> Result<u64, FsError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(FsError::setup("read the limit of open files"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(FsError::setup("raise the limit of open files"))?;
    }
    Ok(hard - RESERVED_DESCRIPTORS.min(hard / 4))
}

fn make(guest_fd_limit: u64, options: &ShareOptions) -> Result<PassthroughFs, FsError> {
    let descriptors = File::open("/proc/self/fd").map_err(|source| FsError::Setup { what: "open /proc/self/fd", source })?;
    let config = Config {
        // The current directory of the thread that serves INIT, see `enter`.
        root_dir: ".".to_owned(),
        proc_sfd_rawfd: Some(descriptors),
        entry_timeout: options.remember,
        attr_timeout: options.remember,
        cache_policy: options.cache.into(),
        announce_submounts: true,
        xattr: options.xattr,
        posix_acl: if options.xattr { NegotiationMode::Auto } else { NegotiationMode::Never },
        readdirplus: true,
        // Without it the guest asks for security.capability before every write.
        killpriv_v2: true,
        guest_fd_limit,
        ..Config::default()
    };
    PassthroughFs::new(config).map_err(|source| FsError::Setup { what: "set up the file system", source })
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class_code(&self) -> u32 {
        CLASS_CODE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![REQUEST_QUEUE_SIZE; usize::from(1 + REQUEST_QUEUES)];
        sizes[0] = PRIORITY_QUEUE_SIZE;
        sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = self.tag.to_vec();
        config.extend_from_slice(&u32::from(REQUEST_QUEUES).to_le_bytes());
        copy_config(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), VirtioError> {
        let priority = activation.take_queue(0)?;
        self.start("fs-priority", priority)?;
        for index in 1..=REQUEST_QUEUES {
            let queue = activation.take_queue(index)?;
            self.start(&format!("fs-request-{index}"), queue)?;
        }
        Ok(())
    }

    fn direct(&self, index: u16) -> Option<Arc<dyn DirectService>> {
        let queue = self.queues.get(usize::from(index))?;
        Some(Arc::clone(queue) as Arc<dyn DirectService>)
    }

    fn reset(&mut self) {
        self.server.close();
        self.workers.stop();
        self.queues.drain(..).for_each(|queue| queue.close());
        self.server.forget_everything();
    }
}

#[cfg(test)]
mod tests;
