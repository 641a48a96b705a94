//! Docker's resolver, for the guest. It answers for the names of a user-defined network's containers at 127.0.0.11 of the pod's network
//! namespace on the host, which the guest cannot reach: the agent listens there in its stead, and here its questions come out.

use std::io;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use paperboat_protocol::resolver::{DATAGRAM, RESOLVER_ADDRESS, STREAM};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::NetworkError;
use super::namespace::Namespace;
use crate::paths::PodPaths;

/// Questions under way at once; more wait in the socket's backlog.
const QUESTIONS_MAX: usize = 128;

/// Bytes moved at once, each way.
const BUFFER_BYTES: usize = 8 << 10;

/// The resolver asks others for names it does not know, each for some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest datagram.
const DATAGRAM_MAX_BYTES: usize = 65_535;

/// Pause after a connection that could not be accepted: out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest resolv.conf looked at.
const CONFIGURATION_MAX_BYTES: u64 = 64 << 10;

/// Whether a resolv.conf sends its readers to Docker's resolver.
pub fn is_named_in(resolv_conf: &Path) -> bool {
    use std::io::Read;
    let mut text = Vec::new();
    let read = std::fs::File::open(resolv_conf).and_then(|file| file.take(CONFIGURATION_MAX_BYTES).read_to_end(&mut text));
    let address = RESOLVER_ADDRESS.ip().to_string();
    read.is_ok() && String::from_utf8_lossy(&text).lines().any(|line| names(line, &address))
}

fn names(line: &str, address: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    words.next() == Some("nameserver") && words.next() == Some(address)
}

/// Takes the guest's questions to the resolver as long as it lives.
pub struct Resolver {
    _serving: JoinSet<()>,
}

impl Resolver {
    /// Listens on the host side of the guest's vsock.
    ///
    /// # Errors
    /// [`NetworkError`] when the pod's directory takes no socket.
    pub fn open(paths: &PodPaths, namespace: Namespace) -> Result<Self, NetworkError> {
        let path = paths.resolver_socket();
        let listener =
            UnixListener::bind(&path).map_err(|source| NetworkError::Io { what: path.display().to_string(), source })?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, namespace));
        Ok(Self { _serving: serving })
    }
}

async fn serve(listener: UnixListener, namespace: Namespace) {
    // They end with this task.
    let mut questions = JoinSet::new();
    loop {
        while questions.try_join_next().is_some() {}
        if questions.len() >= QUESTIONS_MAX {
            questions.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((guest, _)) => drop(questions.spawn(carry(guest, namespace.clone()))),
            Err(error) => {
                log::warn!("the guest's questions for names: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn carry(mut guest: UnixStream, namespace: Namespace) {
    let carried = async {
        match tokio::time::timeout(ANSWER_TIMEOUT, guest.read_u8()).await?? {
            DATAGRAM => tokio::time::timeout(ANSWER_TIMEOUT, datagram(&mut guest, &namespace)).await?,
            STREAM => stream(&mut guest, &namespace).await,
            other => Err(io::Error::other(format!("the guest sends kind {other}"))),
        }
    };
    if let Err(error) = carried.await {
        log::info!("a question for a name: {error}");
    }
}

async fn datagram(guest: &mut UnixStream, namespace: &Namespace) -> io::Result<()> {
    let mut question = vec![0; guest.read_u16().await?.into()];
    guest.read_exact(&mut question).await?;
    let socket = namespace.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(RESOLVER_ADDRESS)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    });
    let socket = tokio::net::UdpSocket::from_std(socket.await.map_err(io::Error::other)??)?;
    socket.send(&question).await?;
    let mut answer = vec![0; DATAGRAM_MAX_BYTES];
    let length = socket.recv(&mut answer).await?;
    let prefix = u16::try_from(length).map_err(io::Error::other)?;
    guest.write_all(&prefix.to_be_bytes()).await?;
    guest.write_all(&answer[..length]).await
}

async fn stream(guest: &mut UnixStream, namespace: &Namespace) -> io::Result<()> {
    let socket = namespace.run(|| {
        let socket = TcpStream::connect_timeout(&RESOLVER_ADDRESS.into(), ANSWER_TIMEOUT)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    });
    let mut socket = tokio::net::TcpStream::from_std(socket.await.map_err(io::Error::other)??)?;
    copy_bidirectional_with_sizes(guest, &mut socket, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_found_in_resolv_conf() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        for (text, named) in [
            ("search example\nnameserver 127.0.0.11\noptions ndots:0\n", true),
            ("nameserver\t127.0.0.11", true),
            ("# nameserver 127.0.0.11\nnameserver 127.0.0.111\n", false),
            ("", false),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(is_named_in(&file), named, "{text:?}");
        }
        assert!(!is_named_in(&directory.path().join("missing")));
    }

    /// In a namespace of its own, where port 53 is free.
    #[tokio::test]
    async fn questions_of_both_kinds_reach_the_resolver() {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: network namespaces take root ({errno})");
                return;
            }
            let mut kernel = paperboat_netlink::Connection::open().unwrap();
            kernel.change_link(1, &paperboat_netlink::LinkChange { up: Some(true), ..Default::default() }).unwrap();
            let names = UdpSocket::bind(RESOLVER_ADDRESS).unwrap();
            let streams = std::net::TcpListener::bind(RESOLVER_ADDRESS).unwrap();
            sender.send(Namespace::at("/proc/thread-self/ns/net".into()).unwrap()).unwrap();
            let mut question = [0; 64];
            let (length, from) = names.recv_from(&mut question).unwrap();
            names.send_to(&[b"answer to ", &question[..length]].concat(), from).unwrap();
            let (mut stream, _) = streams.accept().unwrap();
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        });
        let Ok(namespace) = receiver.recv() else { return };
        let ask = async |request: &[u8]| {
            let (mut guest, host) = UnixStream::pair().unwrap();
            let carried = tokio::spawn(carry(host, namespace.clone()));
            guest.write_all(request).await.unwrap();
            guest.shutdown().await.unwrap();
            let mut answer = Vec::new();
            guest.read_to_end(&mut answer).await.unwrap();
            carried.await.unwrap();
            answer
        };
        assert_eq!(ask(b"d\0\x04name").await, b"\0\x0eanswer to name");
        assert_eq!(ask(b"sname").await, b"name");
        assert_eq!(ask(b"x").await, b"");
    }
}
