//! What happens to tasks, told to containerd's event service: one queue in order, each event kept until containerd acknowledged it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task as event;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::{Notify, watch};
use ttrpc::context;

/// Environment variable with the path of containerd's event socket.
pub const ADDRESS_VARIABLE: &str = "TTRPC_ADDRESS";

/// Events kept while containerd is away. A pod makes some ten per process; beyond this the oldest go, with an error in the log.
const MAX_QUEUED: usize = 65_536;

/// Longest wait for one acknowledgement.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// First and longest pause between attempts.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// One event of containerd's `containerd.events` package.
#[derive(Debug, Clone)]
pub enum Event {
    /// The task exists.
    Create(event::TaskCreate),
    /// Its init runs.
    Start(event::TaskStart),
    /// A process was added.
    ExecAdded(event::TaskExecAdded),
    /// An added process runs.
    ExecStarted(event::TaskExecStarted),
    /// A process ended.
    Exit(event::TaskExit),
    /// The guest's kernel ended a process for want of memory.
    Oom(event::TaskOOM),
    /// The task is frozen.
    Paused(event::TaskPaused),
    /// The task runs again.
    Resumed(event::TaskResumed),
    /// A process, or with its init the task, is gone.
    Delete(event::TaskDelete),
}

impl Event {
    /// Topic, type name and encoding.
    fn encode(&self) -> Option<(&'static str, &'static str, Vec<u8>)> {
        fn bytes(message: &impl Message) -> Option<Vec<u8>> {
            message.write_to_bytes().inspect_err(|error| log::error!("an event cannot be encoded: {error}")).ok()
        }
        Some(match self {
            Self::Create(e) => (topics::TASK_CREATE_EVENT_TOPIC, "containerd.events.TaskCreate", bytes(e)?),
            Self::Start(e) => (topics::TASK_START_EVENT_TOPIC, "containerd.events.TaskStart", bytes(e)?),
            Self::ExecAdded(e) => (topics::TASK_EXEC_ADDED_EVENT_TOPIC, "containerd.events.TaskExecAdded", bytes(e)?),
            Self::ExecStarted(e) => (topics::TASK_EXEC_STARTED_EVENT_TOPIC, "containerd.events.TaskExecStarted", bytes(e)?),
            Self::Exit(e) => (topics::TASK_EXIT_EVENT_TOPIC, "containerd.events.TaskExit", bytes(e)?),
            Self::Oom(e) => (topics::TASK_OOM_EVENT_TOPIC, "containerd.events.TaskOOM", bytes(e)?),
            Self::Paused(e) => (topics::TASK_PAUSED_EVENT_TOPIC, "containerd.events.TaskPaused", bytes(e)?),
            Self::Resumed(e) => (topics::TASK_RESUMED_EVENT_TOPIC, "containerd.events.TaskResumed", bytes(e)?),
            Self::Delete(e) => (topics::TASK_DELETE_EVENT_TOPIC, "containerd.events.TaskDelete", bytes(e)?),
        })
    }
}

/// Hands events to containerd. Clones share one queue.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: String,
    queue: Mutex<VecDeque<ForwardRequest>>,
    added: Notify,
    /// Events queued and not yet acknowledged.
    pending: watch::Sender<usize>,
}

impl Publisher {
    /// Starts delivering to the event socket at `address`; without one events go nowhere.
    pub fn start(namespace: &str, address: Option<String>) -> Self {
        let shared = Arc::new(Shared {
            namespace: namespace.into(),
            queue: Mutex::new(VecDeque::new()),
            added: Notify::new(),
            pending: watch::channel(0).0,
        });
        match address.filter(|address| !address.is_empty()) {
            Some(address) => {
                tokio::spawn(deliver(shared.clone(), address));
            }
            None => log::warn!("{ADDRESS_VARIABLE} is not set: events go nowhere"),
        }
        Self { shared }
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// Queues an event behind all earlier ones.
    pub fn publish(&self, event: Event) {
        log::debug!("event {event:?}");
        let Some((topic, type_name, value)) = event.encode() else { return };
        let envelope = Envelope {
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: self.shared.namespace.clone(),
            topic: topic.into(),
            event: MessageField::some(Any { type_url: type_name.into(), value, ..Default::default() }),
            ..Default::default()
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        let mut queue = lock(&self.shared.queue);
        if queue.len() == MAX_QUEUED {
            queue.pop_front();
            log::error!("containerd took none of the last {MAX_QUEUED} events: the oldest is dropped");
        }
        queue.push_back(request);
        self.shared.pending.send_replace(queue.len());
        drop(queue);
        self.shared.added.notify_one();
    }

    /// Waits until everything queued was acknowledged, `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let mut pending = self.shared.pending.subscribe();
        if tokio::time::timeout(limit, pending.wait_for(|count| *count == 0)).await.is_err() {
            log::warn!("{} events were not acknowledged in time", *self.shared.pending.borrow());
        }
    }
}

/// A poisoned queue is still a queue: nothing between lock and unlock can leave it half changed.
fn lock(queue: &Mutex<VecDeque<ForwardRequest>>) -> std::sync::MutexGuard<'_, VecDeque<ForwardRequest>> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn deliver(shared: Arc<Shared>, address: String) {
    let address = if address.contains("://") { address } else { format!("unix://{address}") };
    let mut client: Option<EventsClient> = None;
    let mut pause = RETRY_FIRST;
    loop {
        // The event stays at the head until it is acknowledged: order and completeness survive a restart of containerd.
        let Some(request) = lock(&shared.queue).front().cloned() else {
            shared.added.notified().await;
            continue;
        };
        match forward(&mut client, &address, &request).await {
            Ok(()) => {
                let mut queue = lock(&shared.queue);
                // The overflow rule may have dropped the head meanwhile.
                if queue.front() == Some(&request) {
                    queue.pop_front();
                }
                shared.pending.send_replace(queue.len());
                pause = RETRY_FIRST;
            }
            Err(error) => {
                log::debug!("an event waits for containerd: {error}");
                client = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
        }
    }
}

async fn forward(client: &mut Option<EventsClient>, address: &str, request: &ForwardRequest) -> ttrpc::Result<()> {
    let connected = match client {
        Some(connected) => connected,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    connected.forward(context::with_duration(FORWARD_TIMEOUT), request).await.map(drop)
}
