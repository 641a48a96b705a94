//! What guests meet over vsock and over the network: one connection at a time, its first byte says what is done.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, bail};

const CHUNK: usize = 128 << 10;

/// A connection with two directions that end separately.
trait Stream: Read + Write {
    fn finish(&self);
}

impl Stream for TcpStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Serves connections at a unix socket until the process is ended.
pub fn serve_unix(path: &str) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {path}"))?;
    for stream in listener.incoming() {
        report(serve(stream?));
    }
    Ok(())
}

/// The same over TCP.
pub fn serve_tcp(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        report(serve(stream));
    }
    Ok(())
}

/// A guest that breaks off fails by itself; the next one is served.
fn report(served: Result<()>) {
    if let Err(error) = served {
        eprintln!("{error:#}");
    }
}

fn serve(mut stream: impl Stream) -> Result<()> {
    let mut buffer = vec![0x5a; CHUNK];
    let mut what = [0];
    stream.read_exact(&mut what)?;
    match what[0] {
        b's' => {
            let mut arrived = 0u64;
            while let count @ 1.. = read(&mut stream, &mut buffer)? {
                arrived += count as u64;
            }
            stream.write_all(&arrived.to_le_bytes())?;
        }
        b'g' => {
            let mut wanted = [0; 8];
            stream.read_exact(&mut wanted)?;
            let mut left = u64::from_le_bytes(wanted);
            while left > 0 {
                let count = left.min(CHUNK as u64) as usize;
                stream.write_all(&buffer[..count])?;
                left -= count as u64;
            }
        }
        b'e' => {
            while let count @ 1.. = read(&mut stream, &mut buffer)? {
                stream.write_all(&buffer[..count])?;
            }
        }
        other => bail!("a connection begins with {other:#x}"),
    }
    stream.finish();
    Ok(())
}

fn read(stream: &mut impl Stream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return Ok(outcome?),
        }
    }
}
