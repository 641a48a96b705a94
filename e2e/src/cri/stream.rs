//! Exec, attach and port-forward: containerd answers each with the URL of a stream, here spoken as a web socket whose messages begin
//! with the number of a channel (`v4.channel.k8s.io`).

use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

use crate::{Error, Host, io};

/// Channel of standard input.
pub const STDIN: u8 = 0;
/// Channel of standard output; all output with a terminal.
pub const STDOUT: u8 = 1;
/// Channel on which the status of a command comes, as JSON.
pub const STATUS: u8 = 3;
/// Channel for the size of the terminal, as JSON.
pub const RESIZE: u8 = 4;

/// The kubelet's protocol.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// What is waited for comes within this time even on a busy machine.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause of a reader that finds nothing.
const POLL: Duration = Duration::from_millis(200);

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    /// What has come, per channel.
    received: Vec<Vec<u8>>,
    ended: bool,
}

impl Stream {
    /// Opens the stream of a URL that containerd gave; it listens in its own network namespace only.
    pub fn open(host: &Host, url: &str) -> Result<Self, Error> {
        let failed = |what: String| Error::Command { command: format!("web socket {url}"), output: what };
        let address = url.strip_prefix("http://").ok_or_else(|| failed("not http".into()))?;
        let server = address.split('/').next().unwrap_or_default().to_owned();
        let connection = host.inside(move || TcpStream::connect(&server))?;
        connection.set_read_timeout(Some(POLL)).map_err(io(url))?;
        let mut request = format!("ws://{address}").into_client_request().map_err(|error| failed(error.to_string()))?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
        let mut handshake = tungstenite::client(request, connection);
        let deadline = Instant::now() + READ_TIMEOUT;
        loop {
            match handshake {
                Ok((socket, _)) => return Ok(Self { socket, received: Vec::new(), ended: false }),
                Err(tungstenite::HandshakeError::Interrupted(unfinished)) if Instant::now() < deadline => {
                    handshake = unfinished.handshake();
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }

    /// Sends on a channel.
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Error> {
        let message = [&[channel], data].concat();
        self.socket.send(Message::binary(message)).map_err(|error| broken(&error))
    }

    /// Reads until the channel has brought this text; returns all that it has brought.
    pub fn wait_for(&mut self, channel: u8, text: &str) -> Result<String, Error> {
        self.read_until(|stream| stream.text(channel).contains(text) || stream.ended)?;
        let all = self.text(channel);
        if all.contains(text) {
            return Ok(all);
        }
        Err(Error::Command { command: format!("waiting for {text:?} on channel {channel}"), output: all })
    }

    /// Reads to the end of the stream; returns what a channel has brought.
    pub fn read_to_end(&mut self, channel: u8) -> Result<String, Error> {
        self.read_until(|stream| stream.ended)?;
        Ok(self.text(channel))
    }

    fn read_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + READ_TIMEOUT;
        while !done(self) {
            match self.socket.read() {
                Ok(Message::Binary(message)) => self.take(&message),
                Ok(Message::Text(message)) => self.take(message.as_bytes()),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => self.ended = true,
                Err(tungstenite::Error::Protocol(_)) => self.ended = true,
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(broken(&error)),
            }
            if Instant::now() > deadline {
                let output = format!("{:?}", self.received.iter().map(|data| String::from_utf8_lossy(data)).collect::<Vec<_>>());
                return Err(Error::Command { command: "reading a web socket".into(), output });
            }
        }
        Ok(())
    }

    fn take(&mut self, message: &[u8]) {
        let Some((&channel, data)) = message.split_first() else { return };
        let channel = usize::from(channel);
        if self.received.len() <= channel {
            self.received.resize(channel + 1, Vec::new());
        }
        self.received[channel].extend_from_slice(data);
    }

    fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.received.get(usize::from(channel)).map_or(&[][..], Vec::as_slice)).into_owned()
    }
}

fn broken(error: &tungstenite::Error) -> Error {
    Error::Command { command: "web socket".into(), output: error.to_string() }
}
