//! Connections that the host side brings to the guest's localhost (`paperboat_protocol::forward` describes the conversation). The agent
//! lives in the network namespace that all containers of the pod share, so its localhost is theirs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use paperboat_protocol::forward::{ANSWER_MAX, GRANTED, REQUEST_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::transport::{Connection, Listener};

/// Connections at once, each with two buffers: at most 16 MiB of the guest's memory.
const CONNECTIONS_MAX: usize = 256;
const BUFFER_BYTES: usize = 32 << 10;

/// How long the host side may take to name an address.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the agent ends.
pub async fn serve(listener: Listener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                crate::warn!("forwarded connection failed error={error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let places = places.clone();
        tokio::spawn(async move {
            let Ok(_place) = places.try_acquire() else {
                return refuse(connection, &format!("{CONNECTIONS_MAX} connections are forwarded already")).await;
            };
            forward(connection).await;
        });
    }
}

async fn forward(mut host: Connection) {
    let called = match timeout(REQUEST_TIMEOUT, request(&mut host)).await {
        Ok(Ok(called)) => called,
        Ok(Err(error)) => return refuse(host, &error.to_string()).await,
        Err(_) => return refuse(host, "no address was named").await,
    };
    match dial(called).await {
        Ok(mut local) => {
            if host.write_all(GRANTED).await.is_ok() {
                let _ = copy_bidirectional_with_sizes(&mut host, &mut local, BUFFER_BYTES, BUFFER_BYTES).await;
            }
        }
        Err(error) => refuse(host, &error.to_string()).await,
    }
}

async fn refuse(mut host: Connection, why: &str) {
    let mut line: String = why.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(ANSWER_MAX - 1).collect();
    line.push('\n');
    let _ = host.write_all(line.as_bytes()).await;
    let _ = host.shutdown().await;
}

/// Reads the address, byte by byte: what follows its newline belongs to the connection.
async fn request(host: &mut Connection) -> io::Result<SocketAddr> {
    let mut line = Vec::new();
    loop {
        match host.read_u8().await? {
            b'\n' => break,
            _ if line.len() + 1 == REQUEST_MAX => return Err(io::Error::other("the address does not end")),
            byte => line.push(byte),
        }
    }
    let text = String::from_utf8_lossy(&line);
    let address: Option<SocketAddr> = text.parse().ok();
    let local = address.filter(|address| address.ip().is_loopback() && address.port() != 0);
    local.ok_or_else(|| io::Error::other(format!("{text:?} is no address of localhost")))
}

/// Whoever dials localhost means either family: a server may listen on one of them alone.
async fn dial(called: SocketAddr) -> io::Result<TcpStream> {
    let other: IpAddr = if called.is_ipv4() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    match TcpStream::connect(called).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect((other, called.port())).await.map_err(|_| error)
        }
        dialled => dialled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixStream};

    async fn ask(request: &[u8]) -> Vec<u8> {
        let (mut host, agent) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(forward(Box::new(agent)));
        host.write_all(request).await.unwrap();
        host.shutdown().await.unwrap();
        let mut answer = Vec::new();
        host.read_to_end(&mut answer).await.unwrap();
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_port_of_localhost_is_dialled_in_either_family() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let echo = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = server.accept().await.unwrap();
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            }
        });
        for ip in ["127.0.0.1", "[::1]"] {
            assert_eq!(ask(format!("{ip}:{port}\nhello").as_bytes()).await, b"OK\nhello", "{ip}");
        }
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn other_addresses_nonsense_and_silence_are_refused() {
        for request in ["10.0.0.1:80\n", "127.0.0.1:0\n", "localhost\n", &"1".repeat(REQUEST_MAX), ""] {
            let answer = ask(request.as_bytes()).await;
            assert!(!answer.starts_with(GRANTED) && answer.ends_with(b"\n"), "{request:?}: {answer:?}");
        }
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let answer = String::from_utf8(ask(format!("{unused}\n").as_bytes()).await).unwrap();
        assert!(answer.contains("refused"), "{answer}");
    }
}
