//! The control service of `paperboat-vmm serve`: `machine.proto` over ttrpc.
//!
//! The service runs on a single-threaded runtime; the machine's threads never wait for it. Calls that wait for vCPUs or devices run on
//! blocking threads; `Wait` and `Stop` need none, so that they get through at any time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paperboat_hypervisor::{Backing, ClockMode, Presentation, Processor};
use paperboat_protocol::machine as api;
use paperboat_protocol::machine_ttrpc::{self, create_machine};
use protobuf::MessageField;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use ttrpc::asynchronous::TtrpcContext;

use crate::backend::{BackendChoice, CpuOptions, create_vm};
use crate::boot::{BootFile, BootSource, Topology};
use crate::console::{Console, FILE_BYTES_MAX};
use crate::devices::{DEFAULT_CID, DeviceConfig, VsockConfig, device_error};
use crate::give_up::GiveUp;
use crate::jail::{self, JailError};
use crate::machine::{EndReason, Machine, MachineConfig, MachineError, STOP_LIMIT, Status};
use crate::papr::phb::DmaPolicy;
use crate::papr::trace::Trace;
use crate::stats::MachineStats;
use crate::virtio::fs::{Bell, FsError, ShareOptions};
use crate::virtio::net::{BindOptions, NetError, Nic, TunDevice};

/// Console lines in the answer of `Wait`.
const TAIL_LINES: usize = 40;

/// Most bytes in an answer of `ReadConsole`.
const READ_BYTES_MAX: usize = 64 << 10;
/// Longest that `ReadConsole` waits: a reader whose connection is gone holds its thread no longer.
const READ_WAIT_MAX: Duration = Duration::from_secs(10);
/// Readers of the console that may wait at once: each holds a thread.
const READERS_MAX: usize = 8;

/// How long [`Control::quit`] waits for a machine to end. Together with the last answers it is less than [`STOP_LIMIT`]; what still runs then ends
/// with the process.
const QUIT_LIMIT: Duration = Duration::from_millis(700);
const _: () = assert!(QUIT_LIMIT.as_millis() < STOP_LIMIT.as_millis());

/// Why `Start` fails.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("a machine was started already")]
    Again,
    #[error("the machine was stopped")]
    Stopped,
    #[error("console file {path}")]
    Console {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Share(#[from] FsError),
}

/// Where the service stands.
#[derive(Clone)]
enum Slot {
    /// No machine yet.
    Empty,
    /// `Start` is at work.
    Taken,
    /// The machine.
    Machine(Running),
}

/// A machine with what can be done to it beyond its own life.
#[derive(Clone)]
struct Running {
    machine: Machine,
    network: Arc<Network>,
    forget_bell: Arc<Bell>,
    /// Why it is over, once every thread has left.
    over: watch::Receiver<Option<EndReason>>,
}

impl Running {
    /// Waits for the end.
    async fn over(&self) -> EndReason {
        let mut over = self.over.clone();
        match over.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The machine holds the sender until it is over.
            _ => EndReason::Failed("the machine was lost".to_owned()),
        }
    }
}

/// The network slots, and the way to taps if there are any.
#[derive(Default)]
struct Network {
    nics: Vec<Arc<Nic>>,
    tun: Option<TunDevice>,
}

/// Why a network slot cannot be bound or unbound.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("network slot {slot}: the machine has {slots}")]
    Slot { slot: u32, slots: usize },
    #[error("MAC address of {length} bytes: must have 6, or none")]
    MacLength { length: usize },
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Network {
    fn new(request: &api::StartRequest) -> Result<Self, MachineError> {
        if request.nic_slots == 0 {
            return Ok(Self::default());
        }
        let tun = TunDevice::open().map_err(|error| device_error("net", error))?;
        let nics = DeviceConfig::network_slots(request.nic_slots, request.nic_queue_pairs.max(1))?;
        Ok(Self { nics, tun: Some(tun) })
    }

    fn slot(&self, slot: u32) -> Result<(&Nic, &TunDevice), BindError> {
        let nic = self.nics.get(slot as usize).zip(self.tun.as_ref());
        nic.map(|(nic, tun)| (&**nic, tun)).ok_or(BindError::Slot { slot, slots: self.nics.len() })
    }

    fn bind(&self, request: &api::BindNicRequest) -> Result<(), BindError> {
        let (nic, tun) = self.slot(request.slot)?;
        let mac = match request.mac.as_slice() {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| BindError::MacLength { length: bytes.len() })?),
        };
        let mtu = Some(request.mtu).filter(|mtu| *mtu > 0);
        // Before the tap is touched, which is in use otherwise and answers with something less clear.
        if nic.is_bound() {
            return Err(NetError::Bound { slot: request.slot }.into());
        }
        let tap = tun.attach(&request.tap_name, nic.queue_pairs())?;
        Ok(nic.bind(tap, BindOptions { mac, mtu })?)
    }

    fn unbind(&self, slot: u32) -> Result<(), BindError> {
        self.slot(slot)?.0.unbind();
        Ok(())
    }
}

/// The service: one machine in its life.
pub struct Control {
    slot: watch::Sender<Slot>,
    /// Ends a `Start` that is at work.
    give_up: GiveUp,
    /// True when the process is to end.
    quit: watch::Sender<bool>,
    /// Calls of `Wait` that have no answer yet.
    waiting: watch::Sender<usize>,
    readers: Semaphore,
}

impl Control {
    /// A service without a machine.
    pub fn new() -> Arc<Self> {
        let (slot, quit) = (watch::Sender::new(Slot::Empty), watch::Sender::new(false));
        let (waiting, readers) = (watch::Sender::new(0), Semaphore::new(READERS_MAX));
        Arc::new(Self { slot, give_up: GiveUp::default(), quit, waiting, readers })
    }

    /// Ends the machine, also one that is being made, and asks the process to end: somebody called `Stop`, the lifeline is gone, a signal came.
    /// It waits for the end, but not for ever.
    pub async fn quit(&self) {
        self.give_up.ask();
        let deadline = Instant::now() + QUIT_LIMIT;
        let ended = async {
            let mut slot = self.slot.subscribe();
            let made = slot.wait_for(|slot| !matches!(slot, Slot::Taken)).await.map(|slot| slot.clone());
            if let Ok(Slot::Machine(running)) = made {
                running.machine.stop();
                running.over().await;
            }
        };
        if timeout_at(deadline, ended).await.is_err() {
            log::warn!("the machine did not end within {} ms; it ends with its process", QUIT_LIMIT.as_millis());
        }
        self.quit.send_replace(true);
    }

    /// Becomes true when the process is to end.
    pub fn quitting(&self) -> watch::Receiver<bool> {
        self.quit.subscribe()
    }

    /// Returns when every `Wait` has its answer.
    pub async fn answered(&self) {
        // The sender lives as long as this.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// The service table for a ttrpc server.
    pub fn service(self: &Arc<Self>) -> std::collections::HashMap<String, ttrpc::asynchronous::Service> {
        create_machine(Arc::new(Service { control: Arc::clone(self) }))
    }

    fn start(&self, request: api::StartRequest) -> Result<Machine, StartError> {
        let mut refused = StartError::Again;
        let taken = self.slot.send_if_modified(|slot| match slot {
            Slot::Empty if self.give_up.is_asked() => {
                refused = StartError::Stopped;
                false
            }
            Slot::Empty => {
                *slot = Slot::Taken;
                true
            }
            Slot::Taken | Slot::Machine(_) => false,
        });
        if !taken {
            return Err(refused);
        }
        let running = match build(request, self.give_up.clone()) {
            Ok(running) => running,
            Err(error) => {
                // Nothing was made that outlives its error: the caller may try again with a better description.
                self.slot.send_replace(Slot::Empty);
                return Err(error);
            }
        };
        let machine = running.machine.clone();
        self.slot.send_replace(Slot::Machine(running));
        // The one place where rights are given up: everything is open, nothing of the guest has run.
        if let Err(error) = jail::enter_jail() {
            machine.fail(error.to_string());
            return Err(error.into());
        }
        match machine.start() {
            // Somebody was faster.
            Err(MachineError::State { status: Status::Ended }) => Err(StartError::Stopped),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(machine),
        }
    }
}

fn build(request: api::StartRequest, give_up: GiveUp) -> Result<Running, StartError> {
    let backend: BackendChoice = request.backend.parse().map_err(MachineError::from)?;
    let kernel = BootFile::open("kernel", &request.kernel_path).map_err(MachineError::from)?;
    let initrd = match request.initrd_path.as_str() {
        "" => None,
        path => Some(BootFile::open("initramfs", path).map_err(MachineError::from)?),
    };
    let console = match request.console_path.as_str() {
        "" => Console::in_memory(),
        path => {
            let limit = if request.console_max_bytes == 0 { FILE_BYTES_MAX } else { request.console_max_bytes };
            Console::to_path(path, false, limit).map_err(|source| StartError::Console { path: path.to_owned(), source })?
        }
    };
    let share = match request.share_path.as_str() {
        "" => None,
        path => Some(DeviceConfig::open_share(path)?),
    };
    let vsock = match request.vsock_path.as_str() {
        "" => None,
        path => {
            let cid = if request.guest_cid == 0 { DEFAULT_CID } else { request.guest_cid };
            Some(VsockConfig { cid, socket_path: path.into() })
        }
    };
    let network = Network::new(&request)?;
    let share_options = match request.share_options.into_option() {
        None => ShareOptions::default(),
        Some(options) => ShareOptions {
            cache: options.cache.parse()?,
            remember: Duration::from_millis(options.cache_ms),
            xattr: options.xattr,
        },
    };
    let forget_bell = Arc::<Bell>::default();
    let nics = network.nics.clone();
    let devices = DeviceConfig { share, share_options, forget_bell: Arc::clone(&forget_bell), vsock, nics, helpers: true };
    let config = MachineConfig {
        source: BootSource { kernel, initrd, cmdline: request.cmdline, load_address: None },
        topology: Topology::new(request.vcpus, 1).map_err(MachineError::from)?,
        memory_bytes: request.memory_bytes,
        clock: if request.deterministic { ClockMode::Deterministic } else { ClockMode::Host },
        budget_instructions: None,
        processor: Processor::Native,
        backing: if request.huge_pages { Backing::Huge } else { Backing::Usual },
        presentation: Presentation::default(),
        dma: if request.enforce_dma { DmaPolicy::Enforced } else { DmaPolicy::Identity },
        console,
        trace: Trace::default(),
        give_up,
    };
    let make_vm = Box::new(move |config| create_vm(backend, config, CpuOptions::default()));
    let machine = Machine::new(config, make_vm, Box::new(|ram| devices.make(ram))).map_err(|error| match error {
        MachineError::GivenUp => StartError::Stopped,
        error => StartError::Machine(error),
    })?;
    let (tell, over) = watch::channel(None);
    machine.when_over(Box::new(move |reason| {
        tell.send_replace(Some(reason));
    }));
    Ok(Running { machine, network: Arc::new(network), forget_bell, over })
}

/// Counts a call of `Wait` for as long as it lives.
struct Waiting<'a> {
    control: &'a Control,
}

impl<'a> Waiting<'a> {
    fn new(control: &'a Control) -> Self {
        control.waiting.send_modify(|waiting| *waiting += 1);
        Self { control }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.control.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

struct Service {
    control: Arc<Control>,
}

impl Service {
    fn machine(&self) -> ttrpc::Result<Machine> {
        Ok(self.running()?.machine)
    }

    fn running(&self) -> ttrpc::Result<Running> {
        match &*self.control.slot.borrow() {
            Slot::Machine(running) => Ok(running.clone()),
            Slot::Empty | Slot::Taken => Err(refused(ttrpc::Code::FAILED_PRECONDITION, "no machine was started")),
        }
    }

    /// One that is not over.
    fn living(&self) -> ttrpc::Result<Running> {
        let running = self.running()?;
        match running.machine.status() {
            Status::Ended => Err(state_error(&MachineError::State { status: Status::Ended })),
            _ => Ok(running),
        }
    }
}

fn refused(code: ttrpc::Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Messages that show their cause already are not repeated.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn state_error(error: &MachineError) -> ttrpc::Error {
    let code = match error {
        MachineError::State { .. } => ttrpc::Code::FAILED_PRECONDITION,
        _ => ttrpc::Code::INTERNAL,
    };
    refused(code, chain(error))
}

fn bind_error(error: &BindError) -> ttrpc::Error {
    let code = match error {
        BindError::Net(NetError::NoTap { .. }) => ttrpc::Code::NOT_FOUND,
        BindError::Net(NetError::Bound { .. } | NetError::Attach { .. }) => ttrpc::Code::FAILED_PRECONDITION,
        BindError::Net(NetError::Device(_) | NetError::Descriptor(_) | NetError::Configure(_)) => ttrpc::Code::INTERNAL,
        BindError::Slot { .. } | BindError::MacLength { .. } | BindError::Net(_) => ttrpc::Code::INVALID_ARGUMENT,
    };
    refused(code, chain(error))
}

async fn blocking<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> ttrpc::Result<T> {
    let joined = tokio::task::spawn_blocking(body).await;
    joined.map_err(|error| refused(ttrpc::Code::INTERNAL, error.to_string()))
}

#[async_trait]
impl machine_ttrpc::Machine for Service {
    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let control = Arc::clone(&self.control);
        let started = blocking(move || control.start(request)).await?;
        let machine = started.map_err(|error| {
            let code = match error {
                StartError::Again | StartError::Stopped => ttrpc::Code::FAILED_PRECONDITION,
                _ => ttrpc::Code::INVALID_ARGUMENT,
            };
            refused(code, chain(&error))
        })?;
        Ok(api::StartResponse { backend: machine.backend().to_owned(), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::StateResponse> {
        let status = match self.machine() {
            Ok(machine) => match machine.status() {
                Status::New => api::state_response::Status::NEW,
                Status::Running => api::state_response::Status::RUNNING,
                Status::Paused => api::state_response::Status::PAUSED,
                Status::Ended => api::state_response::Status::ENDED,
            },
            Err(_) => api::state_response::Status::NEW,
        };
        Ok(api::StateResponse { status: status.into(), ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::EndedResponse> {
        let running = self.running()?;
        let _waiting = Waiting::new(&self.control);
        let reason = running.over().await;
        blocking(move || ended(&running.machine, reason)).await
    }

    async fn pause(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Empty> {
        let machine = self.machine()?;
        blocking(move || machine.pause()).await?.map_err(|error| state_error(&error))?;
        Ok(api::Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Empty> {
        self.machine()?.resume().map_err(|error| state_error(&error))?;
        Ok(api::Empty::default())
    }

    async fn stop(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Empty> {
        self.control.quit().await;
        Ok(api::Empty::default())
    }

    async fn stats(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::StatsResponse> {
        let machine = self.machine()?;
        blocking(move || stats(&machine.stats())).await
    }

    async fn bind_nic(&self, _: &TtrpcContext, request: api::BindNicRequest) -> ttrpc::Result<api::Empty> {
        let network = self.living()?.network;
        blocking(move || network.bind(&request)).await?.map_err(|error| bind_error(&error))?;
        Ok(api::Empty::default())
    }

    async fn unbind_nic(&self, _: &TtrpcContext, request: api::UnbindNicRequest) -> ttrpc::Result<api::Empty> {
        let network = self.running()?.network;
        blocking(move || network.unbind(request.slot)).await?.map_err(|error| bind_error(&error))?;
        Ok(api::Empty::default())
    }

    async fn wait_forget(&self, _: &TtrpcContext, request: api::WaitForgetRequest) -> ttrpc::Result<api::WaitForgetResponse> {
        let running = self.living()?;
        tokio::select! {
            ring = running.forget_bell.wait(request.answered) => Ok(api::WaitForgetResponse { ring, ..Default::default() }),
            _ = running.over() => Err(state_error(&MachineError::State { status: Status::Ended })),
        }
    }

    async fn console(&self, _: &TtrpcContext, request: api::ConsoleRequest) -> ttrpc::Result<api::ConsoleResponse> {
        let text = self.machine()?.console().tail(request.lines as usize);
        Ok(api::ConsoleResponse { text, ..Default::default() })
    }

    async fn read_console(&self, _: &TtrpcContext, request: api::ReadConsoleRequest) -> ttrpc::Result<api::ReadConsoleResponse> {
        let machine = self.machine()?;
        let too_many =
            |_| refused(ttrpc::Code::RESOURCE_EXHAUSTED, format!("{READERS_MAX} readers wait for the console already"));
        let permit = self.control.readers.try_acquire().map_err(too_many)?;
        let wait = Duration::from_millis(request.wait_ms.into()).min(READ_WAIT_MAX);
        let piece = blocking(move || machine.console().read_from(request.from, READ_BYTES_MAX, wait)).await?;
        drop(permit);
        Ok(api::ReadConsoleResponse { text: piece.bytes, next: piece.next, ended: piece.ended, ..Default::default() })
    }

    async fn type_console(&self, _: &TtrpcContext, request: api::TypeConsoleRequest) -> ttrpc::Result<api::TypeConsoleResponse> {
        let taken = self.living()?.machine.type_in(&request.text) as u32;
        Ok(api::TypeConsoleResponse { taken, ..Default::default() })
    }
}

fn ended(machine: &Machine, reason: EndReason) -> api::EndedResponse {
    use api::ended_response::Reason;
    let (reason, message) = match reason {
        EndReason::PowerOff => (Reason::POWER_OFF, String::new()),
        EndReason::Reboot => (Reason::REBOOT, String::new()),
        EndReason::Panic(text) => (Reason::PANIC, text),
        EndReason::Stopped => (Reason::STOPPED, String::new()),
        EndReason::Budget => (Reason::FAILED, "the instruction budget is used up".to_owned()),
        EndReason::Failed(text) => (Reason::FAILED, text),
    };
    api::EndedResponse {
        reason: reason.into(),
        message,
        console_tail: machine.console().tail_lines(TAIL_LINES),
        stats: MessageField::some(stats(&machine.stats())),
        ..Default::default()
    }
}

fn stats(stats: &MachineStats) -> api::StatsResponse {
    let named = |map: &std::collections::BTreeMap<&'static str, u64>| map.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let vcpus = stats.vcpus.iter().map(|vcpu| api::stats_response::Vcpu {
        id: vcpu.id,
        instructions: vcpu.instructions.unwrap_or(0),
        exits: named(&vcpu.exits),
        hypercalls: named(&vcpu.hypercalls),
        interrupts: named(&vcpu.interrupts),
        cedes: vcpu.cedes,
        ..Default::default()
    });
    let devices = stats.devices.iter().map(|counter| (format!("{}.{}", counter.device, counter.counter), counter.value));
    api::StatsResponse {
        vcpus: vcpus.collect(),
        memory_resident_bytes: stats.memory_resident_bytes,
        devices: devices.collect(),
        cpu_time_ns: u64::try_from(stats.cpu_time.as_nanos()).unwrap_or(u64::MAX),
        ..Default::default()
    }
}
