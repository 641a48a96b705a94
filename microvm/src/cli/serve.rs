//! `paperboat-vmm serve`: the control API on an inherited listening socket, for as long as the lifeline is open.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use paperboat_microvm::control::Control;
use paperboat_microvm::jail;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::inherited;

#[derive(Args)]
pub struct ServeArguments {
    /// Descriptor of a listening unix socket: ttrpc, service paperboat.machine.v1.Machine.
    #[arg(long, default_value_t = 3)]
    control_fd: RawFd,
    /// Descriptor whose end of file ends the machine and this process.
    #[arg(long, default_value_t = 4)]
    lifeline_fd: RawFd,
}

pub fn serve(arguments: &ServeArguments) -> Result<ExitCode> {
    let listener = inherited::take(arguments.control_fd).context("--control-fd")?;
    let lifeline = inherited::take(arguments.lifeline_fd).context("--lifeline-fd")?;
    jail::close_inherited(arguments.control_fd.max(arguments.lifeline_fd) + 1)?;
    for fd in [&listener, &lifeline] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("marking inherited descriptors")?;
    }
    let control = Control::new();
    let lifeline = watch_lifeline(lifeline)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the control runtime")?;
    runtime.block_on(control_loop(listener, lifeline, control))?;
    // Calls that wait on blocking threads must not keep the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// A thread that tells when the parent is gone.
fn watch_lifeline(lifeline: OwnedFd) -> Result<oneshot::Receiver<()>> {
    // The other end may have made it non-blocking; this thread is to sleep.
    let flags = OFlag::from_bits_truncate(fcntl(lifeline.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(lifeline.as_fd(), FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    let (gone, told) = oneshot::channel();
    let body = move || {
        let mut file = File::from(lifeline);
        let mut byte = [0];
        loop {
            match file.read(&mut byte) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        // The process is ending anyway if nobody listens.
        let _ = gone.send(());
    };
    std::thread::Builder::new().name("lifeline".into()).spawn(body).context("starting the lifeline thread")?;
    Ok(told)
}

async fn control_loop(listener: OwnedFd, lifeline: oneshot::Receiver<()>, control: Arc<Control>) -> Result<()> {
    let mut quitting = control.quitting();
    // Before anybody can ask for anything: a signal that comes earlier ends a process without a machine.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut server = ttrpc_server(listener)?.register_service(control.service());
    server.start().await.context("serving the control socket")?;
    tokio::select! {
        _ = quitting.wait_for(|quit| *quit) => {}
        _ = terminate.recv() => control.quit().await,
        _ = interrupt.recv() => control.quit().await,
        _ = lifeline => control.quit().await,
    }
    // Answers that are on their way (of Stop, of Wait) go out before the connections close.
    let _ = tokio::time::timeout(ANSWER_LIMIT, control.answered()).await;
    tokio::time::sleep(ANSWER_GRACE).await;
    server.stop_listen().await;
    // Bounded: a client that does not close its side is not waited for.
    let _ = tokio::time::timeout(CLOSE_LIMIT, server.disconnect()).await;
    Ok(())
}

/// Longest that answers may take which a busy host has not made yet; many in a row look at a console each.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_millis(100);
/// Time for the last answers to be sent.
const ANSWER_GRACE: std::time::Duration = std::time::Duration::from_millis(20);
/// Time for connections to close.
const CLOSE_LIMIT: std::time::Duration = std::time::Duration::from_millis(100);

#[allow(unsafe_code)]
fn ttrpc_server(listener: OwnedFd) -> Result<ttrpc::asynchronous::Server> {
    // SAFETY: the descriptor is owned here and given away by into_raw_fd: nobody else uses or closes it.
    let server = unsafe { ttrpc::asynchronous::Server::new().add_unix_listener(listener.into_raw_fd()) };
    server.context("--control-fd is not a listening unix socket")
}
