//! `paperboat-vmm serve` as the shim starts it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use paperboat_protocol::machine as api;
use paperboat_protocol::machine_ttrpc::MachineClient;
use ttrpc::context;

use super::{Program, Scratch, vmm};

/// Longer than anything here takes on a busy host.
pub const HANG_LIMIT: Duration = Duration::from_secs(20);
/// An initramfs of that many bytes of nothing takes a while to load.
pub const LARGE_INITRD: u64 = 990 << 20;
/// How often that while may be missed on a busy host.
pub const TRIES: usize = 10;
const LARGE_MEMORY: u64 = 8 << 30;

/// A process that serves a machine.
pub struct Served {
    pub child: Child,
    pub client: MachineClient,
    pub lifeline: Option<OwnedFd>,
    /// A file that was open in the parent without close-on-exec.
    pub stray: PathBuf,
    /// What it complained of.
    stderr: PathBuf,
    pub scratch: Scratch,
}

impl Served {
    pub async fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let socket = scratch.path("control");
        let listener = UnixListener::bind(&socket).unwrap();
        let (reader, lifeline) = std::io::pipe().unwrap();
        let stray = scratch.path("stray");
        let mut command = Command::new(vmm());
        command.args(["serve", "--control-fd", "3", "--lifeline-fd", "4"]).stdin(Stdio::null());
        let stderr = scratch.path("stderr");
        command.stderr(std::fs::File::create(&stderr).unwrap());
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: listener.into(), child_fd: 3 },
                FdMapping { parent_fd: reader.into(), child_fd: 4 },
                FdMapping { parent_fd: std::fs::File::create(&stray).unwrap().into(), child_fd: 9 },
            ])
            .unwrap();
        let child = command.spawn().unwrap();
        let client = ttrpc::asynchronous::Client::connect(&format!("unix://{}", socket.display())).await.unwrap();
        Self { child, client: MachineClient::new(client), lifeline: Some(lifeline.into()), stray, stderr, scratch }
    }

    pub fn request(&self, program: &Program) -> api::StartRequest {
        api::StartRequest {
            kernel_path: self.scratch.program(program),
            vcpus: 2,
            memory_bytes: 32 << 20,
            backend: "soft".into(),
            console_path: self.scratch.path("console").to_str().unwrap().to_owned(),
            vsock_path: self.scratch.path("vsock").to_str().unwrap().to_owned(),
            share_path: self.scratch.0.to_str().unwrap().to_owned(),
            ..Default::default()
        }
    }

    /// The process ends by itself and without complaints, and leaves nothing.
    pub fn ends(&mut self) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < HANG_LIMIT, "the process lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(std::fs::read_to_string(&self.stderr).unwrap(), "");
        assert!(!self.scratch.path("vsock").exists(), "the vsock socket is left behind");
    }

    pub async fn status(&self) -> api::state_response::Status {
        self.client.state(call(), &api::Empty::default()).await.unwrap().status.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A call that is answered soon.
pub fn call() -> ttrpc::context::Context {
    context::with_timeout(Duration::from_secs(20).as_nanos() as i64)
}

pub fn empty() -> api::Empty {
    api::Empty::default()
}

/// A machine that loads what takes a while, and is at it when this returns.
pub async fn starting() -> (Served, tokio::task::JoinHandle<ttrpc::Result<api::StartResponse>>) {
    for _ in 0..TRIES {
        let served = Served::new("making").await;
        let initrd = served.scratch.path("initrd");
        std::fs::File::create(&initrd).unwrap().set_len(LARGE_INITRD).unwrap();
        let request = api::StartRequest {
            initrd_path: initrd.to_str().unwrap().to_owned(),
            memory_bytes: LARGE_MEMORY,
            ..served.request(&Program::new().spin())
        };
        let client = served.client.clone();
        let starting = tokio::spawn(async move { client.start(call(), &request).await });
        let begun = Instant::now();
        // The socket is made before anything is loaded.
        while !served.scratch.path("vsock").exists() {
            assert!(begun.elapsed() < HANG_LIMIT, "its devices are not made");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if served.status().await == api::state_response::Status::NEW {
            return (served, starting);
        }
    }
    panic!("it was loaded faster than seen, {TRIES} times");
}
