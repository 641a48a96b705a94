//! Networks made by hand: a switch with a host behind it, and namespaces for pods at its ports. Everything goes with the value.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::{Error, io};

/// The host's addresses on the switch.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The same for IPv6.
pub const HOST_V6: &str = "fd88::1";
/// Where the host's web server listens.
pub const WEB_PORT: u16 = 8000;

/// No answer over a cable of one machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A switch, and the host behind it.
pub struct Net {
    name: String,
    pods: Vec<String>,
}

impl Net {
    /// Lays it out.
    pub fn new() -> Result<Self, Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("pb{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let net = Self { name, pods: Vec::new() };
        sh(&format!("ip netns add {}", net.name))?;
        net.inside(
            "ip link set lo up; ip link add sw0 address 02:00:00:00:88:01 mtu 1400 type bridge; ip link set sw0 up
             ip address add 10.88.0.1/24 dev sw0; ip address add fd88::1/64 dev sw0 nodad",
        )?;
        Ok(net)
    }

    /// A namespace for a pod at port `number`, with addresses 10.88.0.NUMBER and fd88::NUMBER on `eth0`; returns its file.
    pub fn pod(&mut self, number: u8) -> Result<PathBuf, Error> {
        let pod = format!("{}p{number}", self.name);
        sh(&format!("ip netns add {pod}"))?;
        self.pods.push(pod.clone());
        sh(&format!("ip -n {pod} link set lo up"))?;
        self.plug(number, "eth0", &format!("10.88.0.{number}/24"))?;
        sh(&format!(
            "ip -n {pod} address add fd88::{number}/64 dev eth0 nodad
             ip -n {pod} route add default via {HOST_V4}; ip -n {pod} -6 route add default via {HOST_V6}"
        ))?;
        Ok(format!("/run/netns/{pod}").into())
    }

    /// A further cable from port `number` to its pod, as interface `name` with `address`.
    pub fn plug(&self, number: u8, name: &str, address: &str) -> Result<(), Error> {
        let (switch, pod) = (&self.name, format!("{}p{number}", self.name));
        sh(&format!(
            "ip -n {switch} link add {name}-{number} mtu 1400 type veth peer name {name} netns {pod}
             ip -n {switch} link set {name}-{number} master sw0 up
             ip -n {pod} link set {name} mtu 1400 up; ip -n {pod} address add {address} dev {name}"
        ))
        .map(drop)
    }

    /// Pulls that cable.
    pub fn unplug(&self, number: u8, name: &str) -> Result<(), Error> {
        sh(&format!("ip -n {} link del {name}-{number}", self.name)).map(drop)
    }

    /// The namespace behind the switch, by its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a shell behind the switch prints.
    pub fn inside(&self, script: &str) -> Result<String, Error> {
        sh_in(&self.name, script)
    }

    /// What a shell in a pod's namespace, on the host's side, prints.
    pub fn inside_pod(&self, number: u8, script: &str) -> Result<String, Error> {
        sh_in(&format!("{}p{number}", self.name), script)
    }

    /// Runs `task` behind the switch, in a thread of its own.
    pub fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>, Error> {
        let path = format!("/run/netns/{}", self.name);
        let file = std::fs::File::open(&path).map_err(io(path))?;
        let (entered, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let _ = entered.send(setns(file, CloneFlags::CLONE_NEWNET));
            task()
        });
        told.recv().unwrap_or(Err(nix::errno::Errno::ESRCH)).map_err(|errno| io("enter a namespace")(errno.into()))?;
        Ok(thread)
    }

    /// Serves the web and names (over UDP alone) behind the switch until the process ends: GET answers with `page`, POST with the number
    /// of bytes that came, and every name has the host's address.
    pub fn serve(&self, page: Vec<u8>) -> Result<(), Error> {
        let (ready, served) = std::sync::mpsc::channel();
        self.run(move || {
            let bound = (|| {
                let web = TcpListener::bind(("::", WEB_PORT))?;
                Ok((web, UdpSocket::bind(("0.0.0.0", 53))?))
            })();
            let result = match bound {
                Ok((web, names)) => {
                    thread::spawn(move || web.incoming().flatten().for_each(|stream| answer(stream, &page)));
                    thread::spawn(move || reply(&names));
                    Ok(())
                }
                Err(error) => Err(error),
            };
            let _ = ready.send(result);
        })?;
        served.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into())).map_err(io("serve"))
    }

    /// Asks a web server in a pod for a page, from behind the switch.
    pub fn get(&self, address: IpAddr, path: &str) -> Result<Vec<u8>, Error> {
        let path = path.to_owned();
        let got = self.run(move || {
            let mut stream = TcpStream::connect_timeout(&(address, 80).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
            Ok(bytes.split_off(body))
        })?;
        got.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())).map_err(io(format!("get from {address}")))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.pods.iter().chain([&self.name]) {
            let _ = sh(&format!("ip netns del {name}"));
        }
    }
}

fn sh_in(namespace: &str, script: &str) -> Result<String, Error> {
    let mut command = Command::new("ip");
    run(command.args(["netns", "exec", namespace, "sh", "-ec", script]), script)
}

fn sh(script: &str) -> Result<String, Error> {
    run(Command::new("sh").args(["-ec", script]), script)
}

fn run(command: &mut Command, shown: &str) -> Result<String, Error> {
    let output = command.output().map_err(io(shown))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(Error::Command { command: shown.into(), output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)) })
}

/// One request of HTTP/1.0.
fn answer(mut stream: TcpStream, page: &[u8]) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
    let body = match length {
        Some(length) => {
            let received = std::io::copy(&mut (&stream).take(length), &mut std::io::sink()).unwrap_or(0);
            format!("{received}\n").into_bytes()
        }
        None => page.to_vec(),
    };
    let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(&body);
}

fn reply(socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&name(&buffer[..length]), from);
    }
}

/// The answer to a question for a name (RFC 1035 §4): the host's IPv4 address, and nothing for other kinds.
fn name(question: &[u8]) -> Vec<u8> {
    let end = question.iter().skip(12).position(|&byte| byte == 0).map_or(question.len(), |at| (12 + at + 5).min(question.len()));
    let asks_for_v4 = question.get(end.saturating_sub(4)..end).is_some_and(|kind| kind == [0, 1, 0, 1]);
    let mut answer = question[..end].to_vec();
    if answer.len() >= 12 {
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_v4), 0, 0, 0, 0]);
    }
    if asks_for_v4 {
        answer.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&HOST_V4.octets());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_a_name_is_answered_with_the_host() {
        let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x01a\x04test\x00\x00\x01\x00\x01");
        let answer = name(&question);
        assert_eq!((&answer[..2], &answer[6..8]), (&[7, 7][..], &[0, 1][..]));
        assert!(answer.ends_with(&[10, 88, 0, 1]));
        let length = question.len();
        question[length - 3] = 28;
        assert!(!name(&question).ends_with(&[10, 88, 0, 1]));
    }
}
