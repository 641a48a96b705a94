//! Questions for names at 127.0.0.11, handed to the host (`paperboat_protocol::resolver` describes the conversation). The agent listens
//! only in pods whose resolv.conf names that address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paperboat_protocol::resolver::{DATAGRAM, RESOLVER_ADDRESS, RESOLVER_PORT, STREAM};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use crate::transport::Transport;

/// Questions and connections under way at once. One beyond is dropped; whoever asks, asks again.
const QUESTIONS_MAX: usize = 128;

/// Longest question over UDP that is read: programs ask with far less.
const QUESTION_MAX_BYTES: usize = 4096;

/// Bytes moved at once, each way.
const BUFFER_BYTES: usize = 8 << 10;

/// Nobody waits longer for a name.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after a question that could not be received.
const PAUSE: Duration = Duration::from_millis(100);

/// The guest's end of the resolver.
pub struct Resolver {
    transport: Transport,
    open: Mutex<bool>,
}

impl Resolver {
    /// Not open yet.
    pub fn new(transport: Transport) -> Self {
        Self { transport, open: Mutex::new(false) }
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// The socket's: a container has the port.
    pub async fn open(&self) -> io::Result<()> {
        let mut open = self.open.lock().await;
        if !*open {
            let (datagrams, streams) = (UdpSocket::bind(RESOLVER_ADDRESS).await?, TcpListener::bind(RESOLVER_ADDRESS).await?);
            let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
            tokio::spawn(serve_datagrams(Arc::new(datagrams), self.transport.clone(), places.clone()));
            tokio::spawn(serve_streams(streams, self.transport.clone(), places));
            *open = true;
        }
        Ok(())
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, transport: Transport, places: Arc<Semaphore>) {
    let mut question = vec![0; QUESTION_MAX_BYTES];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (socket, transport, question) = (socket.clone(), transport.clone(), question[..length].to_vec());
        tokio::spawn(async move {
            match timeout(ANSWER_TIMEOUT, answer(&socket, &transport, &question, from)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => crate::warn!("a question for a name: {error}"),
                Err(_) => crate::warn!("a question for a name: no answer within {ANSWER_TIMEOUT:?}"),
            }
            drop(place);
        });
    }
}

async fn answer(socket: &UdpSocket, transport: &Transport, question: &[u8], from: SocketAddr) -> io::Result<()> {
    let mut host = transport.connect_host(RESOLVER_PORT).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    host.write_all(&[&[DATAGRAM][..], &length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; host.read_u16().await?.into()];
    host.read_exact(&mut answer).await?;
    socket.send_to(&answer, from).await.map(drop)
}

async fn serve_streams(listener: TcpListener, transport: Transport, places: Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let transport = transport.clone();
        tokio::spawn(async move {
            if let Err(error) = carry(stream, &transport).await {
                crate::warn!("a question for a name: {error}");
            }
            drop(place);
        });
    }
}

async fn carry(mut stream: TcpStream, transport: &Transport) -> io::Result<()> {
    let mut host = transport.connect_host(RESOLVER_PORT).await?;
    host.write_all(&[STREAM]).await?;
    copy_bidirectional_with_sizes(&mut stream, &mut host, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}
