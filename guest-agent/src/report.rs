//! What a helper tells PID 1: a few messages over a sequenced-packet socket pair, whose helper's end is passed on to the container's
//! process and closes by itself when that executes its program. So the end of the conversation without a failure means
//! that the program runs.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::{received_fd, watch};

/// Longest message in bytes.
const MESSAGE_MAX: usize = 16 * 1024;

/// Longest text of a failure in bytes; leaves room for the escapes of JSON.
const FAILURE_MAX: usize = 2 * 1024;

/// A message of the helper or, after it, of the process that is to become the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The master side of the process' terminal comes along.
    Terminal,
    /// The process exists, with this pid in the guest.
    Created {
        /// Pid as PID 1 sees it.
        pid: i32,
    },
    /// It does not, or will not run.
    Failed {
        /// For a person: field, value, cause.
        error: String,
    },
}

/// The helper's end.
#[derive(Clone, Debug)]
pub struct Reporter(Rc<OwnedFd>);

/// PID 1's end.
pub struct Reports(AsyncFd<OwnedFd>);

/// A pair of ends. PID 1's does not pass to children, the helper's does.
///
/// # Errors
/// Out of descriptors.
pub fn channel() -> io::Result<(Reports, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?;
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((Reports(watch(ours, Interest::READABLE)?), theirs))
}

impl Reporter {
    /// Takes the end handed down as descriptor `raw`; it closes at the next exec.
    ///
    /// # Errors
    /// When there is no such descriptor.
    pub fn inherited(raw: RawFd) -> io::Result<Self> {
        let fd = crate::sys::inherited_fd(raw)?;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        Ok(Self(Rc::new(fd)))
    }

    /// Sends `report`, with `terminal` when there is one.
    ///
    /// # Errors
    /// When PID 1 has closed its end.
    pub fn send(&self, report: &Report, terminal: Option<&OwnedFd>) -> io::Result<()> {
        let mut report = report.clone();
        if let Report::Failed { error } = &mut report {
            let cut = (0..=error.len().min(FAILURE_MAX)).rev().find(|&at| error.is_char_boundary(at)).unwrap_or(0);
            error.truncate(cut);
        }
        let message = serde_json::to_vec(&report)?;
        let fds: Vec<RawFd> = terminal.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(&message)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Sends a failure; a PID 1 that does not listen has given up on us already.
    pub fn fail(&self, error: String) {
        let _ = self.send(&Report::Failed { error }, None);
    }
}

impl Reports {
    /// The next message and its descriptor; `None` when every copy of the other end is closed.
    ///
    /// # Errors
    /// The socket's, and `InvalidData` for a message that is none.
    pub async fn next(&self) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, receive).await
    }
}

fn receive(fd: &OwnedFd) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let mut control = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<UnixAddr>(
        fd.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    let mut terminal = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for raw in fds {
                terminal = Some(received_fd(raw));
            }
        }
    }
    let len = message.bytes;
    if len == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..len])?, terminal)))
}

/// Waits for a descriptor on a connection of `listener`: how libcontainer hands over a terminal's master side.
///
/// # Errors
/// The socket's, and `InvalidData` when none comes.
pub fn receive_terminal(listener: &std::os::unix::net::UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = listener.accept()?;
    let mut name = [0; 64];
    let mut control = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut name)];
    let message = recvmsg::<UnixAddr>(connection.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = message.cmsgs()?.flat_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds,
        _ => Vec::new(),
    });
    fds.next()
        .map(received_fd)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the terminal's master side did not come"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn messages_keep_their_bounds_and_the_end_shows() {
        let (reports, fd) = channel().expect("socket pair");
        let helper = Reporter(Rc::new(fd));
        let (terminal, _other) = nix::unistd::pipe().expect("pipe");
        helper.send(&Report::Terminal, Some(&terminal)).expect("send");
        helper.send(&Report::Created { pid: 42 }, None).expect("send");
        helper.fail("é".repeat(MESSAGE_MAX));
        drop(helper);

        let (report, fd) = reports.next().await.expect("socket").expect("first");
        assert_eq!(report, Report::Terminal);
        assert!(fd.is_some());
        let (report, fd) = reports.next().await.expect("socket").expect("second");
        assert_eq!(report, Report::Created { pid: 42 });
        assert!(fd.is_none());
        let (report, fd) = reports.next().await.expect("socket").expect("third");
        assert!(matches!(report, Report::Failed { error } if error.len() == FAILURE_MAX), "cut to the limit");
        assert!(fd.is_none());
        assert!(reports.next().await.expect("socket").is_none());
    }
}
