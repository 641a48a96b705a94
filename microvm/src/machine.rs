//! The machine: one thread per vCPU, its states, its end.
//!
//! ```text
//! New ──start──▶ Running ◀──pause/resume──▶ Paused
//!                   └───────── end ───────────┘──▶ Ended
//! ```
//!
//! The first reason to end wins. Ending kicks every vCPU; the last thread that leaves shuts the devices down, and only
//! then do waiters see the end.

mod hold;
mod outcome;
mod vcpu;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use outcome::{EndReason, MachineError, Status};
use paperboat_hypervisor::{
    Backing, ClockMode, EntryState, GuestRam, Presentation, Processor, Vcpu, VcpuHandle, VcpuRegs, VmConfig,
};

use crate::backend::{ChoiceError, ChosenVm};
use crate::boot::{self, BootMachine, BootSource, Topology};
use crate::console::Console;
use crate::give_up::GiveUp;
use crate::papr::calendar::PartitionClock;
use crate::papr::phb::{DmaPolicy, WINDOWS};
use crate::papr::trace::Trace;
use crate::papr::{Platform, PlatformParts};
use crate::pci::PciFunction;
use crate::stats::{DeviceCounter, MachineStats, VcpuCounters, VcpuReport};

/// Least guest memory in bytes; bare-metal programs fit, Linux needs four times as much.
pub const MEMORY_MIN: u64 = 16 << 20;

/// Most guest memory in bytes: the host bridge's windows lie above.
pub const MEMORY_MAX: u64 = 16 << 40;
const _: () = assert!(MEMORY_MAX <= WINDOWS[0].real_base);

/// Guest memory comes in multiples of this, so that the kernel's linear mapping of 16 MiB pages ends where memory ends.
pub const MEMORY_STEP: u64 = 16 << 20;

/// Every thread has left within this time after the end.
pub const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How many console lines are searched for the reason of a panic: registers and call traces follow it.
const PANIC_LOOK_LINES: usize = 200;

/// What a machine is made of.
pub struct MachineConfig {
    /// What to boot.
    pub source: BootSource,
    /// vCPUs and cores.
    pub topology: Topology,
    /// Guest memory in bytes, a multiple of [`MEMORY_STEP`].
    pub memory_bytes: u64,
    /// What it is made of.
    pub backing: Backing,
    /// Host clock, or repeatable.
    pub clock: ClockMode,
    /// End after that many guest instructions per vCPU.
    pub budget_instructions: Option<u64>,
    /// Which processor the guest finds.
    pub processor: Processor,
    /// Who presents interrupts.
    pub presentation: Presentation,
    /// Where the terminal writes.
    pub console: Console,
    /// How devices reach memory.
    pub dma: DmaPolicy,
    /// What is printed of the guest's calls.
    pub trace: Trace,
    /// Ends the making of it.
    pub give_up: GiveUp,
}

/// Makes devices for a guest memory.
pub type DeviceMaker<'a> = dyn FnOnce(&GuestRam) -> Result<Vec<Arc<dyn PciFunction>>, MachineError> + 'a;

/// Makes the partition.
pub type VmMaker<'a> = dyn FnOnce(VmConfig) -> Result<ChosenVm, ChoiceError> + 'a;

/// A machine. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    platform: Platform,
    console: Arc<Console>,
    backend: &'static str,
    vcpus: Vec<VcpuSide>,
    boot_entry: EntryState,
    hold_release: Option<u64>,
    dtb: Vec<u8>,
    control: Mutex<Control>,
    changed: Condvar,
}

/// What other threads see of a vCPU.
struct VcpuSide {
    handle: Arc<dyn VcpuHandle>,
    counters: VcpuCounters,
    system_reset: AtomicBool,
    /// As its thread left them.
    last_regs: Mutex<Option<VcpuRegs>>,
}

struct Control {
    status: Status,
    end: Option<EndReason>,
    /// vCPUs waiting for their thread (before start).
    idle: Vec<Box<dyn Vcpu>>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that have not left yet.
    alive: usize,
    /// Threads that execute the guest, not parked.
    executing: usize,
    devices: Devices,
    /// Told the end.
    when_over: Vec<Box<dyn FnOnce(EndReason) + Send>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Devices {
    Up,
    /// Some thread is at it.
    GoingDown,
    Down,
}

impl Machine {
    /// Makes memory, partition, devices and vCPUs, and loads the boot files. Nothing runs yet.
    ///
    /// # Errors
    /// [`MachineError`], one clear line each.
    pub fn new(
        config: MachineConfig,
        make_vm: Box<VmMaker<'_>>,
        make_devices: Box<DeviceMaker<'_>>,
    ) -> Result<Self, MachineError> {
        let give_up = config.give_up.clone();
        let made = Self::make(config, make_vm, make_devices);
        // Whatever went wrong, that was why.
        if give_up.is_asked() { Err(MachineError::GivenUp) } else { made }
    }

    fn make(config: MachineConfig, make_vm: Box<VmMaker<'_>>, make_devices: Box<DeviceMaker<'_>>) -> Result<Self, MachineError> {
        let memory_bytes = config.memory_bytes;
        if memory_bytes < MEMORY_MIN {
            return Err(MachineError::MemoryTooSmall { memory_bytes });
        }
        if memory_bytes > MEMORY_MAX {
            return Err(MachineError::MemoryTooLarge { memory_bytes });
        }
        if !memory_bytes.is_multiple_of(MEMORY_STEP) {
            return Err(MachineError::MemoryStep { memory_bytes });
        }
        let topology = Topology::new(config.topology.vcpus, config.topology.threads_per_core)?;
        let vcpus = topology.vcpus;
        let deterministic = config.clock == ClockMode::Deterministic;
        if deterministic && vcpus != 1 {
            return Err(MachineError::Deterministic { vcpus });
        }
        let ram = GuestRam::with_backing(memory_bytes, config.backing, &|| !config.give_up.is_asked())?;
        let chosen = make_vm(VmConfig {
            ram: ram.clone(),
            vcpu_count: vcpus,
            hpt_order: hpt_order(memory_bytes),
            clock: config.clock,
            budget_instructions: config.budget_instructions,
            processor: config.processor,
            threads_per_core: topology.threads_per_core,
            presentation: config.presentation,
        })?;
        let console = Arc::new(config.console);
        let platform = Platform::new(PlatformParts {
            ram: ram.clone(),
            vm: chosen.vm,
            vcpus,
            console: Arc::clone(&console),
            functions: make_devices(&ram)?,
            dma: config.dma,
            clock: if deterministic { PartitionClock::deterministic() } else { PartitionClock::host() },
            trace: config.trace,
        })?;
        let mut idle = Vec::new();
        let mut sides = Vec::new();
        for id in 0..vcpus {
            let vcpu = platform.vm.create_vcpu(id).map_err(|source| MachineError::Vcpu { id, source })?;
            let handle = vcpu.handle();
            if let Some(xics) = &platform.xics {
                xics.connect(id, Arc::clone(&handle));
            }
            sides.push(VcpuSide {
                handle,
                counters: VcpuCounters::default(),
                system_reset: AtomicBool::new(false),
                last_regs: Mutex::default(),
            });
            idle.push(vcpu);
        }
        let booted = boot::load(
            &ram,
            &config.source,
            &BootMachine {
                capabilities: platform.vm.capabilities(),
                topology,
                slots: platform.phb.slots(),
                rng_seed: rng_seed(deterministic)?,
                give_up: config.give_up,
            },
        )?;
        let control = Control {
            status: Status::New,
            end: None,
            idle,
            threads: Vec::new(),
            alive: 0,
            executing: 0,
            devices: Devices::Up,
            when_over: Vec::new(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                platform,
                console,
                backend: chosen.name,
                vcpus: sides,
                boot_entry: booted.entry,
                hold_release: booted.hold_release.filter(|_| vcpus > 1),
                dtb: booted.dtb,
                control: Mutex::new(control),
                changed: Condvar::new(),
            }),
        })
    }

    /// Starts every thread; the boot vCPU enters the image.
    ///
    /// # Errors
    /// [`MachineError::State`] when it was started before, [`MachineError::Thread`].
    pub fn start(&self) -> Result<(), MachineError> {
        let inner = &self.inner;
        let mut control = inner.lock();
        if control.status != Status::New {
            return Err(MachineError::State { status: control.status });
        }
        control.status = Status::Running;
        // A fresh machine has every vCPU stopped: this cannot be refused.
        let started = inner.platform.cpus.start(0, inner.boot_entry);
        debug_assert!(started.is_ok());
        let spawned = inner.spawn_all(&mut control);
        if spawned.is_err() {
            // The threads that run already leave; it may be that there is none.
            inner.devices_down(control);
        }
        spawned
    }

    /// Brings every vCPU to a stand. Pausing twice is no error.
    ///
    /// # Errors
    /// [`MachineError::State`] when it does not run, [`MachineError::Stuck`].
    pub fn pause(&self) -> Result<(), MachineError> {
        let inner = &self.inner;
        let mut control = inner.lock();
        match control.status {
            Status::Paused => return Ok(()),
            Status::Running => control.status = Status::Paused,
            status => return Err(MachineError::State { status }),
        }
        inner.kick_all();
        let deadline = Instant::now() + STOP_LIMIT;
        while control.executing > 0 && control.status == Status::Paused {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                // As if nobody had asked.
                control.status = Status::Running;
                inner.changed.notify_all();
                return Err(MachineError::Stuck);
            };
            control = inner.changed.wait_timeout(control, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// [`MachineError::State`] when it is not paused.
    pub fn resume(&self) -> Result<(), MachineError> {
        let mut control = self.inner.lock();
        if control.status != Status::Paused {
            return Err(MachineError::State { status: control.status });
        }
        control.status = Status::Running;
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Ends the machine, whatever it does. Does not wait.
    pub fn stop(&self) {
        self.inner.end(EndReason::Stopped);
    }

    /// Ends the machine because something around it failed. Does not wait.
    pub fn fail(&self, reason: String) {
        self.inner.end(EndReason::Failed(reason));
    }

    /// Waits until the machine is over and every thread has left; says why.
    pub fn wait(&self) -> EndReason {
        let inner = &self.inner;
        let mut control = inner.lock();
        loop {
            if let (Some(reason), Devices::Down) = (control.end.clone(), control.devices) {
                let threads = std::mem::take(&mut control.threads);
                drop(control);
                for thread in threads {
                    // A panicking thread has ended the machine with its message already.
                    let _ = thread.join();
                }
                return reason;
            }
            control = inner.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has `act` called when the machine is over and its devices are down, by the last of its threads; at once when it is over already.
    pub fn when_over(&self, act: Box<dyn FnOnce(EndReason) + Send>) {
        let mut control = self.inner.lock();
        match (control.end.clone(), control.devices) {
            (Some(reason), Devices::Down) => {
                drop(control);
                act(reason);
            }
            _ => control.when_over.push(act),
        }
    }

    /// What the machine does now.
    pub fn status(&self) -> Status {
        self.inner.lock().status
    }

    /// Why it is over, if it is.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.inner.lock().end.clone()
    }

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        self.inner.backend
    }

    /// The flattened tree that the guest got.
    pub fn dtb(&self) -> &[u8] {
        &self.inner.dtb
    }

    /// The guest's console.
    pub fn console(&self) -> &Console {
        &self.inner.console
    }

    /// Types into the guest's terminal; returns how many bytes it took.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        self.inner.platform.vty.type_in(bytes)
    }

    /// Registers of every vCPU as they were when it last left the guest, `None` for one that never ran; for a machine that is over.
    pub fn final_registers(&self) -> Vec<Option<VcpuRegs>> {
        let last = |side: &VcpuSide| side.last_regs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.inner.vcpus.iter().map(last).collect()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestRam {
        &self.inner.platform.ram
    }

    /// Counters of now.
    pub fn stats(&self) -> MachineStats {
        let inner = &self.inner;
        let vcpus = inner.vcpus.iter().enumerate().map(|(id, side)| {
            let id = id as u32;
            let hypercalls = inner.platform.counters(id).map(|counters| counters.by_name()).unwrap_or_default();
            VcpuReport::new(id, side.handle.stats(), &side.counters, hypercalls)
        });
        let devices = inner.platform.phb.slots().iter().flat_map(|slot| {
            let device = slot.function.name().to_owned();
            let counters = slot.function.statistics();
            counters.into_iter().map(move |(counter, value)| DeviceCounter { device: device.clone(), counter, value })
        });
        MachineStats::new(&inner.platform.ram, vcpus.collect(), devices.collect())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn_all(self: &Arc<Self>, control: &mut Control) -> Result<(), MachineError> {
        for vcpu in std::mem::take(&mut control.idle) {
            let name = format!("vcpu{}", vcpu.id());
            self.spawn(control, name, move |inner| vcpu::thread(inner, vcpu))?;
        }
        match self.hold_release {
            Some(address) => self.spawn(control, "hold-watch".into(), move |inner| hold::watch(inner, address)),
            None => Ok(()),
        }
    }

    fn spawn(
        self: &Arc<Self>,
        control: &mut Control,
        name: String,
        body: impl FnOnce(&Inner) + Send + 'static,
    ) -> Result<(), MachineError> {
        let inner = Arc::clone(self);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let leaving = Leaving { inner: &inner };
            body(&inner);
            drop(leaving);
        });
        match thread {
            Ok(thread) => {
                control.alive += 1;
                control.threads.push(thread);
                Ok(())
            }
            Err(source) => {
                // Threads that run already leave by the end below.
                self.end_locked(control, EndReason::Failed("a thread could not be started".into()));
                Err(MachineError::Thread(source))
            }
        }
    }

    /// Linux (6.12) passes no text to ibm,os-term; its reason stands on the console then.
    fn with_panic_text(&self, reason: EndReason) -> EndReason {
        const MARK: &str = "Kernel panic - not syncing";
        let EndReason::Panic(text) = &reason else { return reason };
        if !text.is_empty() {
            return reason;
        }
        let lines = self.console.tail_lines(PANIC_LOOK_LINES);
        let found = lines.iter().rev().find_map(|line| line.find(MARK).map(|at| line[at..].to_owned()));
        EndReason::Panic(found.unwrap_or_else(|| "no reason given".to_owned()))
    }

    fn kick_all(&self) {
        for side in &self.vcpus {
            side.handle.kick();
        }
    }

    fn end(&self, reason: EndReason) {
        let mut control = self.lock();
        self.end_locked(&mut control, reason);
        self.devices_down(control);
    }

    fn end_locked(&self, control: &mut Control, reason: EndReason) {
        if control.end.is_some() {
            return;
        }
        control.end = Some(reason);
        control.status = Status::Ended;
        control.idle.clear();
        self.platform.cpus.close();
        self.kick_all();
        self.changed.notify_all();
    }

    /// Takes the devices down once nobody executes any more. Without the lock: a device's thread may be waiting for the host.
    fn devices_down(&self, mut control: MutexGuard<'_, Control>) {
        let Some(reason) = control.end.clone().filter(|_| control.alive == 0 && control.devices == Devices::Up) else { return };
        control.devices = Devices::GoingDown;
        drop(control);
        for slot in self.platform.phb.slots() {
            slot.function.shutdown();
        }
        self.console.close();
        let mut control = self.lock();
        control.devices = Devices::Down;
        let when_over = std::mem::take(&mut control.when_over);
        drop(control);
        self.changed.notify_all();
        for act in when_over {
            act(reason.clone());
        }
    }

    /// Where a vCPU thread stands still while the machine is paused. False: the machine ends.
    fn checkpoint(&self) -> bool {
        let mut control = self.lock();
        if control.status == Status::Paused {
            control.executing -= 1;
            self.changed.notify_all();
            while control.status == Status::Paused {
                control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
            }
            control.executing += 1;
        }
        control.status == Status::Running
    }
}

/// Counts a thread out, also when it panics.
struct Leaving<'a> {
    inner: &'a Inner,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut control = self.inner.lock();
        if std::thread::panicking() {
            self.inner.end_locked(&mut control, EndReason::Failed("a thread of the machine panicked".into()));
        }
        control.alive -= 1;
        self.inner.devices_down(control);
    }
}

/// Counts a vCPU as executing for as long as it lives.
struct Executing<'a> {
    inner: &'a Inner,
}

impl<'a> Executing<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.lock().executing += 1;
        Self { inner }
    }
}

impl Drop for Executing<'_> {
    fn drop(&mut self) {
        self.inner.lock().executing -= 1;
        self.inner.changed.notify_all();
    }
}

/// Log2 of the hashed page table's size: 1/128 of memory, rounded up, as PAPR recommends, and at least 256 KiB.
pub fn hpt_order(memory_bytes: u64) -> u32 {
    const HPT_ORDER_MIN: u32 = 18;
    (memory_bytes / 128).max(1).next_power_of_two().ilog2().max(HPT_ORDER_MIN)
}

fn rng_seed(deterministic: bool) -> Result<[u8; 32], MachineError> {
    use std::io::Read;
    let mut seed = *b"paperboat deterministic machine.";
    if !deterministic {
        let mut file = std::fs::File::open("/dev/urandom").map_err(MachineError::Entropy)?;
        file.read_exact(&mut seed).map_err(MachineError::Entropy)?;
    }
    Ok(seed)
}

/// Counts things that other threads read.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
