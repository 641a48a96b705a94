//! The server process of a pod's shim.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Args;
use crate::config::{Config, ConfigError};
use crate::events::{ADDRESS_VARIABLE, Publisher};
use crate::service::Service;
use crate::{cleanup, logging};

/// The service that containerd 1.6 and 1.7 ask for. Its messages are those of v3, which 2.x asks for.
const TASK_V2: &str = "containerd.task.v2.Task";

/// The last events get this long to be acknowledged before the process goes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for Shutdown's answer to be written.
const ANSWER_GRACE: Duration = Duration::from_millis(20);

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Standard input is no listening socket.
    #[error("listening socket: {0}")]
    Socket(#[source] std::io::Error),
    /// The server did not start.
    #[error("ttrpc server: {0}")]
    Server(#[from] ttrpc::Error),
}

/// Serves until containerd has no more use for the pod.
pub async fn serve(args: &Args) -> Result<(), ServeError> {
    let (listener, socket) = take_listener().map_err(ServeError::Socket)?;
    let config = Config::load(args.config.as_deref())?;
    logging::start(&args.namespace, &args.id, args.debug || config.debug);
    let publisher = Publisher::start(&args.namespace, std::env::var(ADDRESS_VARIABLE).ok());
    let service = Service::new(&args.namespace, &args.id, socket.clone(), config, publisher.clone());
    let task = Arc::new(service.clone());
    let mut v2 = create_task(task.clone());
    let v2 = v2.drain().map(|(_, methods)| (TASK_V2.to_owned(), methods)).collect();
    let listener = Listener::try_from(listener).map_err(ServeError::Socket)?;
    let sandbox = create_sandbox(Arc::new(service.clone()));
    let mut server =
        Server::new().add_listener(listener).register_service(create_task(task)).register_service(v2).register_service(sandbox);
    server.start().await?;
    service.done().await;
    service.close().await;
    publisher.flush(FLUSH_TIMEOUT).await;
    tokio::time::sleep(ANSWER_GRACE).await;
    // First the name, so that a new shim of this pod finds it free; then the connections.
    let _ = std::fs::remove_file(&socket);
    cleanup::remove_empty_parents(&socket, 2);
    let _ = server.shutdown().await;
    Ok(())
}

/// The listening socket from standard input, which becomes /dev/null; and the socket's name.
fn take_listener() -> std::io::Result<(UnixListener, PathBuf)> {
    // A session of its own: signals to containerd's process group are not for pods.
    let _ = nix::unistd::setsid();
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    listener.set_nonblocking(true)?;
    let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
    Ok((listener, path.ok_or(std::io::ErrorKind::AddrNotAvailable)?))
}
