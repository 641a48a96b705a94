//! Where the agent listens: vsock in the guest, unix sockets for tests on a host. Everything above sees byte streams.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// A connected byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A connection of either kind.
pub type Connection = Box<dyn Duplex>;

/// How the host side reaches the agent.
#[derive(Clone, Debug)]
pub enum Transport {
    /// vsock ports.
    Vsock,
    /// Unix sockets `port-N` in this directory.
    Unix(PathBuf),
}

/// A bound port.
pub enum Listener {
    /// A vsock port.
    Vsock(VsockListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Transport {
    /// Binds `port`.
    ///
    /// # Errors
    /// The socket's: no vsock device, port taken.
    pub fn listen(&self, port: u32) -> io::Result<Listener> {
        match self {
            // Any context id: the local one would take an ioctl whose number is wrong on powerpc in the vsock crate.
            Transport::Vsock => VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map(Listener::Vsock),
            Transport::Unix(_) => UnixListener::bind(self.unix_path(port)).map(Listener::Unix),
        }
    }

    /// Connects to `port` of the host.
    ///
    /// # Errors
    /// The socket's, `ECONNREFUSED` or `ECONNRESET` when nobody listens there.
    pub async fn connect_host(&self, port: u32) -> io::Result<Connection> {
        Ok(match self {
            Transport::Vsock => Box::new(VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await?),
            Transport::Unix(_) => Box::new(UnixStream::connect(self.unix_path(port)).await?),
        })
    }

    fn unix_path(&self, port: u32) -> PathBuf {
        match self {
            Transport::Unix(directory) => directory.join(format!("port-{port}")),
            Transport::Vsock => PathBuf::new(),
        }
    }
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// The socket's; transient ones (a peer gone already) included.
    pub async fn accept(&self) -> io::Result<Connection> {
        Ok(match self {
            Listener::Vsock(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }

    /// The connections as ttrpc's server takes them.
    pub fn into_ttrpc(self) -> ttrpc::asynchronous::transport::Listener {
        ttrpc::asynchronous::transport::Listener::new(futures::stream::unfold(self, |listener| async {
            Some((listener.accept().await, listener))
        }))
    }
}
