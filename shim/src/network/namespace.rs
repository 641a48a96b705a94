//! Work inside the pod's network namespace: in threads that enter it for one task and end with it, so that nothing else ever runs there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use paperboat_netlink::Monitor;
use tokio::io::unix::AsyncFd;

use super::{NetworkError, sys};

/// Why a namespace cannot be worked in.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// It cannot be opened.
    #[error("network namespace {}: {source}", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("enter the pod's network namespace: {0}")]
    Enter(#[source] io::Error),
    /// The thread for it ended early.
    #[error("a thread in the pod's network namespace ended early")]
    Thread,
}

/// A network namespace, kept alive.
#[derive(Clone)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// The one a process lives in.
    ///
    /// # Errors
    /// [`NamespaceError::Open`].
    pub fn of_process(pid: u32) -> Result<Self, NamespaceError> {
        Self::at(format!("/proc/{pid}/ns/net").into())
    }

    /// The one that a file stands for.
    ///
    /// # Errors
    /// [`NamespaceError::Open`].
    pub fn at(path: PathBuf) -> Result<Self, NamespaceError> {
        match std::fs::File::open(&path) {
            Ok(file) => Ok(Self(Arc::new(file.into()))),
            Err(source) => Err(NamespaceError::Open { path, source }),
        }
    }

    /// Device and number of its inode: what tells namespaces apart as long as they live.
    ///
    /// # Errors
    /// The system's.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = nix::sys::stat::fstat(self.0.as_fd())?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Does `task` inside.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn run_blocking<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> Result<T, NamespaceError> {
        let thread = std::thread::spawn(inside(self.clone(), task));
        thread.join().map_err(|_| NamespaceError::Thread)?
    }

    /// The same, while others go on.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub async fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> Result<T, NetworkError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let work = inside(self.clone(), task);
        // Not a thread of the runtime's pool: those are used again.
        std::thread::spawn(move || {
            let _ = sender.send(work());
        });
        Ok(receiver.await.unwrap_or(Err(NamespaceError::Thread))?)
    }

    /// Listens for changes from now on.
    ///
    /// # Errors
    /// The system's.
    pub async fn changes(&self) -> Result<Changes, NetworkError> {
        let failed = |source| NetworkError::Io { what: "listen for changes".into(), source };
        let monitor = self.run(Monitor::open).await?.map_err(failed)?;
        Ok(Changes(sys::watch(monitor).map_err(failed)?))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn inside<T>(namespace: Namespace, task: impl FnOnce() -> T) -> impl FnOnce() -> Result<T, NamespaceError> {
    move || {
        setns(namespace.0.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Enter(errno.into()))?;
        Ok(task())
    }
}

/// News of a namespace.
pub struct Changes(AsyncFd<Monitor>);

impl Changes {
    /// Returns once something has changed.
    ///
    /// # Errors
    /// The system's.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let news = self.0.get_ref().drain()?;
            ready.clear_ready();
            if news {
                return Ok(());
            }
        }
    }
}
