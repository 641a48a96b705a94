//! `start` and `delete`: the two commands containerd runs for a container, as short-lived processes in its bundle.
//!
//! containerd 1.6 and 1.7 speak Task API v2 and expect `start` to print a plain address; 2.x accepts that too. All containers of a pod
//! share one server, found again by its socket, whose name is a hash of containerd's address, namespace and pod.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message, MessageField};
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::cleanup::{self, CleanupError};
use crate::config::{Config, ConfigError};
use crate::farewell::{self, Farewell};
use crate::paths::{self, PodPaths};
use crate::spec::{Spec, SpecError};

/// Largest options message read from standard input, in bytes.
const MAX_OPTIONS_BYTES: u64 = 1 << 20;

/// Attempts at the pod's socket: between two looks another shim of the pod may come or go.
const MAX_BIND_ATTEMPTS: usize = 8;

/// How long a dying server may still seem to listen, and how often is looked.
const DYING_TIME: Duration = Duration::from_secs(2);
const DYING_POLL: Duration = Duration::from_millis(20);

/// Left in the bundle by `start`, so that `delete` finds the pod whatever the configuration says by then.
const NOTE_NAME: &str = "paperboat.json";

/// containerd 1.6 finds a running shim again by this file of the bundle.
const ADDRESS_NAME: &str = "address";

/// Exit status that `delete` reports for a container whose shim is gone.
const KILLED: u32 = 128 + 9;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The specification is unusable.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something is left on the host.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The options on standard input are no message.
    #[error("runtime options: {0}")]
    Options(#[source] protobuf::Error),
    /// A step failed.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Other shims keep taking and leaving the pod's socket.
    #[error("{} keeps changing hands", .0.display())]
    Contended(PathBuf),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BootstrapError {
    |source| BootstrapError::Io { what: what.into(), source }
}

/// What `start` notes for `delete`.
#[derive(Serialize, Deserialize)]
struct Note {
    pod: PathBuf,
    socket: PathBuf,
    pod_id: String,
}

/// Finds or makes the pod's server and returns its address.
pub fn start(args: &Args) -> Result<String, BootstrapError> {
    let bundle = std::env::current_dir().map_err(io("current directory"))?;
    let config_path = options_config_path()?;
    // Errors of the configuration show here, where containerd passes them on, not in a server that nobody hears.
    let config = Config::load(config_path.as_deref())?;
    let pod_id = match Spec::load(&bundle) {
        Ok(spec) => spec.sandbox_id().unwrap_or(&args.id).to_owned(),
        // containerd's sandbox API describes the pod later.
        Err(SpecError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => args.id.clone(),
        Err(error) => return Err(error.into()),
    };
    let socket = paths::task_socket(&config.state_dir, &args.address, &args.namespace, &pod_id);
    let note =
        Note { pod: PodPaths::new(&config.state_dir, &args.namespace, &pod_id).root().into(), socket: socket.clone(), pod_id };
    let note_path = bundle.join(NOTE_NAME);
    let note_text = serde_json::to_vec(&note).map_err(|error| io("note")(error.into()))?;
    std::fs::write(&note_path, note_text).map_err(io(note_path.display().to_string()))?;
    if let Some(listener) = claim(&socket)? {
        spawn_server(args, &note.pod_id, config_path.as_deref(), &bundle, listener).inspect_err(|_| {
            let _ = std::fs::remove_file(&socket);
        })?;
    }
    let address = format!("unix://{}", socket.display());
    let address_path = bundle.join(ADDRESS_NAME);
    std::fs::write(&address_path, &address).map_err(io(address_path.display().to_string()))?;
    Ok(address)
}

/// Binds the pod's socket; `None` if a living server has it.
fn claim(socket: &Path) -> Result<Option<UnixListener>, BootstrapError> {
    for _ in 0..MAX_BIND_ATTEMPTS {
        if let Some(directory) = socket.parent() {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(directory);
            made.map_err(io(directory.display().to_string()))?;
        }
        match UnixListener::bind(socket) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                if UnixStream::connect(socket).is_ok() {
                    return Ok(None);
                }
                // Left by a server that was killed.
                let _ = std::fs::remove_file(socket);
            }
            // The last shim of this state directory removed it between our two steps.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io(socket.display().to_string())(source)),
        }
    }
    Err(BootstrapError::Contended(socket.to_owned()))
}

/// Leaves the server behind. It gets the listening socket as standard input, and no other stream of this process: containerd reads
/// output and errors of `start` to their end.
fn spawn_server(
    args: &Args,
    pod_id: &str,
    config: Option<&Path>,
    bundle: &Path,
    listener: UnixListener,
) -> Result<(), BootstrapError> {
    let program = std::env::current_exe().map_err(io("own program"))?;
    let mut command = Command::new(&program);
    command.args([
        "-namespace",
        &args.namespace,
        "-id",
        pod_id,
        "-address",
        &args.address,
        "-publish-binary",
        &args.publish_binary,
    ]);
    command.arg("-bundle").arg(bundle);
    if let Some(config) = config {
        command.arg("-config").arg(config);
    }
    if args.debug {
        command.arg("-debug");
    }
    command.arg("serve").current_dir(bundle);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(io(program.display().to_string()))?;
    outlive_containers(child.id());
    Ok(())
}

/// When memory runs out, the shim goes before its containerd and long before its containers, as containerd's own shims do.
fn outlive_containers(server: u32) {
    let of = |pid: u32| format!("/proc/{pid}/oom_score_adj");
    let containerd = std::fs::read_to_string(of(nix::unistd::getppid().as_raw().unsigned_abs()));
    if let Some(score) = containerd.ok().and_then(|text| text.trim().parse::<i32>().ok()) {
        // Fails only where lowering it is not permitted, and then it stays what it was.
        let _ = std::fs::write(of(server), (score + 1).min(1000).to_string());
    }
}

/// Cleans up for a container whose shim is gone or of no use to containerd any more, and answers for it. May be repeated.
pub fn delete(args: &Args) -> Result<DeleteResponse, BootstrapError> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(io("current directory"))?,
    };
    let mut exit_status = KILLED;
    if let Some(note) = read_note(&bundle) {
        match farewell::say(&note.socket, &args.id) {
            Farewell::Answered(status) => exit_status = status.unwrap_or(KILLED),
            Farewell::Unanswered if server_is_gone(&note.socket) => {
                cleanup::remove_pod(&PodPaths::at(note.pod))?;
                let _ = std::fs::remove_file(&note.socket);
                cleanup::remove_empty_parents(&note.socket, 2);
            }
            Farewell::Unanswered => eprintln!("paperboat: the shim at {} neither answers nor ends", note.socket.display()),
        }
    }
    Ok(DeleteResponse { exit_status, exited_at: MessageField::some(SystemTime::now().into()), ..Default::default() })
}

/// What containerd's introspection service tells of this runtime.
pub fn info() -> RuntimeInfo {
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    RuntimeInfo { name: crate::RUNTIME_NAME.into(), version: MessageField::some(version), ..Default::default() }
}

/// Whether nobody listens at the pod's socket. A killed server's connections end before its listening socket does, and containerd
/// is quick: it gets a moment.
fn server_is_gone(socket: &Path) -> bool {
    let deadline = Instant::now() + DYING_TIME;
    loop {
        if UnixStream::connect(socket).is_err() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(DYING_POLL);
    }
}

fn read_note(bundle: &Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(bundle.join(NOTE_NAME)).ok()?).ok()
}

/// The configuration file that the client names in its runtime options, if any.
fn options_config_path() -> Result<Option<PathBuf>, BootstrapError> {
    let mut bytes = Vec::new();
    std::io::stdin().take(MAX_OPTIONS_BYTES).read_to_end(&mut bytes).map_err(io("standard input"))?;
    let any = Any::parse_from_bytes(&bytes).map_err(BootstrapError::Options)?;
    // Clients send other runtimes' options by habit (Docker: runc's); they mean nothing here.
    if !any.type_url.ends_with("runtimeoptions.v1.Options") {
        return Ok(None);
    }
    config_path(&any.value).map_err(BootstrapError::Options)
}

/// Field 2, `config_path`, of `runtimeoptions.v1.Options`.
fn config_path(message: &[u8]) -> protobuf::Result<Option<PathBuf>> {
    const CONFIG_PATH: u32 = 2;
    const LENGTH_DELIMITED: u32 = 2;
    let mut input = CodedInputStream::from_bytes(message);
    let mut path = None;
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if tag == CONFIG_PATH << 3 | LENGTH_DELIMITED {
            path = Some(input.read_string()?).filter(|text| !text.is_empty()).map(PathBuf::from);
        } else {
            match tag & 7 {
                0 => drop(input.read_raw_varint64()?),
                1 => drop(input.read_fixed64()?),
                LENGTH_DELIMITED => drop(input.read_bytes()?),
                _ => drop(input.read_fixed32()?),
            }
        }
    }
    Ok(path)
}

/// Prints an answer for containerd, whole.
pub fn print(answer: &[u8]) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(answer)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_path_is_found_among_other_fields() {
        // type_url = "t" (1), config_path = "/c" (2), config_body = "b" (3).
        assert_eq!(config_path(b"\x0a\x01t\x12\x02/c\x1a\x01b").unwrap(), Some(PathBuf::from("/c")));
        assert_eq!(config_path(b"\x0a\x01t\x08\x07").unwrap(), None);
        assert!(config_path(b"\x12\x7f/c").is_err());
    }

    #[test]
    fn a_pods_socket_is_claimed_once_and_taken_over_from_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s/hash");
        let listener = claim(&socket).unwrap().expect("nobody has it");
        assert!(claim(&socket).unwrap().is_none(), "a living server has it");
        drop(listener);
        assert!(socket.exists());
        assert!(claim(&socket).unwrap().is_some(), "a dead server's socket is taken over");
    }

    #[test]
    fn delete_cleans_once_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        let pod = directory.path().join("state/ns/pod");
        std::fs::create_dir_all(pod.join("files")).unwrap();
        let note = Note { pod: pod.clone(), socket: directory.path().join("state/s/x"), pod_id: "pod".into() };
        std::fs::write(bundle.join(NOTE_NAME), serde_json::to_vec(&note).unwrap()).unwrap();
        let mut args = Args::parse(["-namespace", "ns", "-id", "pod", "delete"].map(str::to_owned)).unwrap();
        args.bundle = Some(bundle);
        for _ in 0..2 {
            assert_eq!(delete(&args).unwrap().exit_status, KILLED);
            assert!(!pod.exists());
        }
    }
}
