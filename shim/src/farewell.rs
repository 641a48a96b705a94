//! What `delete` does when the shim it was to clean up after still lives: containerd runs the command for every shim it could not reach in
//! time or found without a task, and forgets the container with it. So its processes are ended through the shim, and the
//! shim goes unless other containers need it.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use ttrpc::context;

/// containerd gives the command five seconds (`io.containerd.timeout.shim.cleanup`).
const LIMIT: Duration = Duration::from_secs(4);

/// A shim that lives answers a question about a name within this time.
const STATE_TIMEOUT: Duration = Duration::from_secs(1);

const SIGKILL: u32 = 9;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Nobody answers.
    Unanswered,
    /// The shim lives; it has removed the container, if it had one of that name, whose exit status this is.
    Answered(Option<u32>),
}

/// Ends and removes container `id` through the shim at `socket`, and asks that shim to go.
pub fn say(socket: &Path, id: &str) -> Farewell {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Farewell::Unanswered };
    let said = runtime.block_on(async { tokio::time::timeout(LIMIT, say_async(socket, id)).await });
    runtime.shutdown_background();
    // It answered at first, or each step would have ended sooner.
    said.unwrap_or(Farewell::Answered(None))
}

async fn say_async(socket: &Path, id: &str) -> Farewell {
    let Ok(client) = Client::connect(&format!("unix://{}", socket.display())).await else { return Farewell::Unanswered };
    let client = TaskClient::new(client);
    let soon = || context::with_duration(STATE_TIMEOUT);
    let state = client.state(soon(), &api::StateRequest { id: id.into(), ..Default::default() }).await;
    let status = match state {
        Ok(_) => remove(&client, id).await,
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::NOT_FOUND => None,
        Err(_) => return Farewell::Unanswered,
    };
    // Several containers may share it: it goes with the last one.
    let _ = client.shutdown(soon(), &api::ShutdownRequest { id: id.into(), ..Default::default() }).await;
    Farewell::Answered(status)
}

async fn remove(client: &TaskClient, id: &str) -> Option<u32> {
    let limit = || context::with_duration(LIMIT);
    // Ended already, or not started: both can be deleted.
    let kill = api::KillRequest { id: id.into(), signal: SIGKILL, all: true, ..Default::default() };
    if client.kill(limit(), &kill).await.is_ok() {
        let _ = client.wait(limit(), &api::WaitRequest { id: id.into(), ..Default::default() }).await;
    }
    let deleted = client.delete(limit(), &api::DeleteRequest { id: id.into(), ..Default::default() }).await;
    match deleted {
        Ok(answer) => Some(answer.exit_status),
        Err(error) => {
            eprintln!("paperboat: container {id} is not removed: {error}");
            None
        }
    }
}
