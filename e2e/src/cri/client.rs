//! gRPC to containerd's socket, as far as unary calls need it: <https://grpc.github.io/grpc/core/md_doc__p_r_o_t_o_c_o_l-_h_t_t_p2.html>.

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// No call of a test takes longer; a hanging one becomes a failure with a name.
const CALL_TIMEOUT: Duration = Duration::from_secs(180);

/// Largest answer read.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A message's frame: compressed or not, and its length.
const PREFIX_BYTES: usize = 5;

/// Status of a call that went well.
const OK: u32 = 0;

/// A call that did not go well.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("{method}: {source}")]
    Transport {
        /// The call.
        method: String,
        /// What happened.
        source: h2::Error,
    },
    /// The server refused; `code` is gRPC's.
    #[error("{method}: code {code}: {message}")]
    Status {
        /// The call.
        method: String,
        /// Status code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The answer is no gRPC.
    #[error("{method}: the answer is malformed: {what}")]
    Malformed {
        /// The call.
        method: String,
        /// Which part.
        what: String,
    },
    /// No answer.
    #[error("{0}: no answer within {CALL_TIMEOUT:?}")]
    TimedOut(String),
}

/// A connection to containerd.
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

impl Client {
    /// Connects to the socket.
    pub fn connect(socket: &Path) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(CallError::Connect)?;
        let stream = runtime.block_on(UnixStream::connect(socket)).map_err(CallError::Connect)?;
        let transport = |source| CallError::Transport { method: "handshake".into(), source };
        let (sender, connection) = runtime.block_on(h2::client::handshake(stream)).map_err(transport)?;
        // Its error is the error of the call that meets it.
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { runtime, sender })
    }

    /// Calls `runtime.v1.SERVICE/METHOD`.
    pub fn call<A: Message>(&self, service: &str, method: &str, request: &impl Message) -> Result<A, CallError> {
        let malformed = |what: String| CallError::Malformed { method: method.into(), what };
        let message = request.write_to_bytes().map_err(|error| malformed(error.to_string()))?;
        let answer = self.runtime.block_on(async {
            let call = self.unary(service, method, &message);
            tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| CallError::TimedOut(method.into()))?
        })?;
        A::parse_from_bytes(&answer).map_err(|error| malformed(error.to_string()))
    }

    async fn unary(&self, service: &str, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let transport = |source| CallError::Transport { method: method.into(), source };
        let malformed = |what: &str| CallError::Malformed { method: method.into(), what: what.into() };
        let request = Request::post(format!("http://containerd/runtime.v1.{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| malformed(&error.to_string()))?;
        let mut sender = self.sender.clone().ready().await.map_err(transport)?;
        let (response, mut body) = sender.send_request(request, false).map_err(transport)?;
        body.send_data(frame(message), true).map_err(transport)?;

        let response = response.await.map_err(transport)?;
        if response.status() != StatusCode::OK {
            return Err(malformed(response.status().as_str()));
        }
        let (head, mut body) = response.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(transport)?;
            let _ = body.flow_control().release_capacity(piece.len());
            if bytes.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(malformed("it is too large"));
            }
            bytes.extend_from_slice(&piece);
        }
        // A call that fails at once has its status in the headers, and no trailers.
        let trailers = body.trailers().await.map_err(transport)?.unwrap_or(head.headers);
        let (code, text) = status(&trailers).ok_or_else(|| malformed("it has no status"))?;
        if code != OK {
            return Err(CallError::Status { method: method.into(), code, message: text });
        }
        unframe(bytes.freeze()).ok_or_else(|| malformed("its frame is cut off"))
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // Messages of tests are small.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

fn unframe(mut framed: Bytes) -> Option<Bytes> {
    let prefix = framed.get(..PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    let message = framed.split_off(PREFIX_BYTES);
    (prefix_is_plain(&framed) && u32::try_from(message.len()) == Ok(length)).then_some(message)
}

fn prefix_is_plain(prefix: &[u8]) -> bool {
    prefix.first() == Some(&0)
}

fn status(trailers: &HeaderMap) -> Option<(u32, String)> {
    let code = trailers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = trailers.get("grpc-message").map(|value| percent_decoded(value.as_bytes())).unwrap_or_default();
    Some((code, message))
}

fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_made_and_taken_apart() {
        assert_eq!(frame(b"ab"), Bytes::from_static(b"\0\0\0\0\x02ab"));
        assert_eq!(unframe(frame(b"ab")), Some(Bytes::from_static(b"ab")));
        assert_eq!(unframe(Bytes::from_static(b"\0\0\0\0\x03ab")), None);
        assert_eq!(unframe(Bytes::from_static(b"\x01\0\0\0\x02ab")), None);
        assert_eq!(unframe(Bytes::from_static(b"\0\0")), None);
    }

    #[test]
    fn messages_of_errors_are_decoded() {
        assert_eq!(percent_decoded(b"50%25 of %zz%"), "50% of %zz%");
        let mut trailers = HeaderMap::new();
        assert_eq!(status(&trailers), None);
        trailers.insert("grpc-status", "5".parse().unwrap());
        assert_eq!(status(&trailers), Some((5, String::new())));
    }
}
