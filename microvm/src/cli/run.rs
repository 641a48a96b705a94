//! `paperboat-vmm run`: a machine with its console here.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Args;
use paperboat_hypervisor::{Backing, ClockMode, GuestRam, Presentation, Processor};
use paperboat_microvm::backend::{BackendChoice, CompileAfter, Coverage, CpuOptions, create_vm};
use paperboat_microvm::boot::{BootFile, BootSource, Topology, dts_from_dtb};
use paperboat_microvm::console::{Console, FILE_BYTES_MAX};
use paperboat_microvm::devices::{DEFAULT_CID, DeviceConfig, VsockConfig};
use paperboat_microvm::jail;
use paperboat_microvm::machine::{EndReason, Machine, MachineConfig, MachineError, Status};
use paperboat_microvm::papr::phb::DmaPolicy;
use paperboat_microvm::papr::trace::{Trace, TraceKinds};
use paperboat_microvm::stats::final_state;
use paperboat_microvm::virtio::net::{BindOptions, Nic, TunDevice};

use crate::numbers::{Address, Size};
use crate::stopper::Stopper;
use crate::terminal::{RawMode, forward_input};
use crate::trace::{self, TraceChoice};

/// The command line or a file is wrong.
pub const EXIT_USAGE: u8 = 1;
/// The guest asked for a reboot.
const EXIT_REBOOT: u8 = 3;
/// The guest's kernel panicked.
const EXIT_PANIC: u8 = 4;
/// The machine or its CPU failed.
const EXIT_FAILED: u8 = 5;
/// The instruction budget is used up.
const EXIT_BUDGET: u8 = 6;
/// Stopped by the escape key or a signal.
pub const EXIT_STOPPED: u8 = 7;

/// Console lines shown after a panic or failure when the console is not on the terminal.
const TAIL_LINES: usize = 20;

const AFTER_HELP: &str = "\
Exit status: 0 the guest powered off; 1 wrong usage; 3 the guest rebooted; 4 the guest's kernel panicked;
5 the machine failed; 6 the instruction budget is used up; 7 stopped by Ctrl-A x or a signal.

Keys with --console stdio: Ctrl-A x ends the machine, Ctrl-A Ctrl-A types Ctrl-A.

Examples:
  A Linux kernel with an initramfs; the console is this terminal:
    paperboat-vmm run --kernel vmlinux --initrd initramfs.cpio --cmdline 'console=hvc0 quiet' --memory 512M
  The same run every time, its registers and memory compared afterwards:
    paperboat-vmm run --kernel vmlinux --deterministic --bare --dump-state state.txt
  A bare-metal program (r3 holds the device tree), every instruction and hypercall shown:
    paperboat-vmm run --bare --kernel program.elf --trace insn,hcall
  Which instructions a program uses, most frequent first:
    paperboat-vmm run --bare --kernel program.elf --coverage rows.txt
  What the device tree says:
    paperboat-vmm run --kernel vmlinux --dump-dts /dev/stdout --budget 0 --console null";

/// Run one machine with its console here.
///
/// The machine is a PAPR partition without firmware: the kernel, a raw ELF vmlinux, is entered directly with a device tree
/// in r3. Where the host is no POWER machine with KVM, a software POWER9 executes it.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct RunArguments {
    /// ELF64 image for PowerPC of either byte order: a raw vmlinux or a bare-metal program.
    #[arg(long, value_name = "FILE")]
    kernel: String,
    /// Initramfs.
    #[arg(long, value_name = "FILE")]
    initrd: Option<String>,
    /// Kernel command line.
    #[arg(long, default_value = "console=hvc0", value_name = "TEXT")]
    cmdline: String,
    /// Number of CPUs, 1 to 64.
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Threads of one core: 1, 2, 4 or 8.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: u32,
    /// Memory, with K, M or G; a multiple of 16M.
    #[arg(long, default_value = "512M", value_name = "SIZE")]
    memory: Size,
    /// Where the guest's console goes: stdio, null, or file=PATH.
    #[arg(long, default_value = "stdio", value_name = "WHERE")]
    console: ConsoleChoice,
    /// What executes the guest: auto, kvm or soft.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    backend: BackendChoice,
    /// Which processor the guest finds: native (what executes it) or power8 (a logical POWER8).
    #[arg(long, default_value = "native", value_name = "NAME")]
    cpu: CpuChoice,
    /// Guest memory in huge pages of the host's default size, all taken at the start.
    #[arg(long)]
    huge_pages: bool,
    /// Who presents interrupts: kernel (KVM), machine, or auto, which is kernel where it can.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    xics: XicsChoice,
    /// Time follows executed instructions: the same run every time (one CPU).
    #[arg(long)]
    deterministic: bool,
    /// Directory shared with the guest over virtio-fs.
    #[arg(long, value_name = "DIR")]
    share: Option<String>,
    /// Unix socket at which the host side of vsock listens.
    #[arg(long, value_name = "PATH")]
    vsock: Option<String>,
    /// The guest's vsock context id.
    #[arg(long, default_value_t = DEFAULT_CID, value_name = "N")]
    cid: u64,
    /// A network interface on a tap of this network namespace, for example tap=tap0; once for each interface. With queues=N (1 to 8) the tap
    /// must have been made with multi_queue.
    #[arg(long, value_name = "tap=NAME[,queues=N]")]
    net: Vec<NetChoice>,
    /// Devices offer to reach memory through translation tables only, each through its own. Slower; Linux takes the offer.
    #[arg(long)]
    enforce_dma: bool,
    /// No devices but the terminal, unless asked for by --share, --vsock or --net.
    #[arg(long)]
    bare: bool,
    /// Where a position-independent bare-metal program is loaded.
    #[arg(long, value_name = "ADDRESS")]
    load_address: Option<Address>,
    /// Write the device tree in its binary form and go on.
    #[arg(long, value_name = "FILE")]
    dump_dtb: Option<String>,
    /// Write the device tree as readable source and go on.
    #[arg(long, value_name = "FILE")]
    dump_dts: Option<String>,
    /// Stop after this many guest instructions of a CPU.
    #[arg(long, value_name = "N")]
    budget: Option<u64>,
    /// Write every CPU's registers and a digest of guest memory when the machine is over.
    #[arg(long, value_name = "FILE")]
    dump_state: Option<String>,
    /// Print events to standard error: hcall, rtas, mmio, exc, insn and filters.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "LIST", long_help = trace::HELP)]
    trace: TraceChoice,
    /// Write how often each row of the CPU's instruction table was executed when the machine is over. Slow: instructions run one by one.
    #[arg(long, value_name = "FILE")]
    coverage: Option<String>,
    /// Compile a block of guest code once it ran so many times (2, 4, 8 … 128), or never (the software CPU on x86-64).
    #[arg(long, value_name = "RUNS")]
    compile_after: Option<CompileAfter>,
    /// Print instructions, CPU time, exits and device counters at the end.
    #[arg(long)]
    stats: bool,
}

#[derive(Clone, Copy)]
struct CpuChoice(Processor);

impl FromStr for CpuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "native" => Ok(Self(Processor::Native)),
            "power8" => Ok(Self(Processor::Power8)),
            _ => Err("must be native or power8".to_owned()),
        }
    }
}

#[derive(Clone, Copy)]
struct XicsChoice(Presentation);

impl FromStr for XicsChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self(Presentation::Auto)),
            "kernel" => Ok(Self(Presentation::Backend)),
            "machine" => Ok(Self(Presentation::Machine)),
            _ => Err("must be auto, kernel or machine".to_owned()),
        }
    }
}

#[derive(Clone)]
enum ConsoleChoice {
    Stdio,
    Null,
    File(String),
}

impl FromStr for ConsoleChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "null" => Ok(Self::Null),
            _ => match text.strip_prefix("file=") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.to_owned())),
                _ => Err("must be stdio, null or file=PATH".to_owned()),
            },
        }
    }
}

#[derive(Clone)]
struct NetChoice {
    tap: String,
    queue_pairs: u32,
}

impl FromStr for NetChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut tap, mut queue_pairs) = (None, 1);
        for word in text.split(',') {
            match word.split_once('=') {
                Some(("tap", name)) => tap = Some(name.to_owned()),
                Some(("queues", number)) => queue_pairs = number.parse().map_err(|_| format!("queues={number}: not a number"))?,
                _ => return Err(format!("unknown {word:?}: tap=NAME, queues=N")),
            }
        }
        Ok(Self { tap: tap.ok_or("tap=NAME is missing")?, queue_pairs })
    }
}

pub fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let stopper = Stopper::default();
    stopper.on_signals()?;
    let coverage = arguments.coverage.as_ref().map(|_| Arc::new(Coverage::default()));
    let machine = match build(arguments, coverage.clone(), &stopper) {
        Ok(machine) => machine,
        Err(error) if matches!(error.downcast_ref(), Some(MachineError::GivenUp)) => {
            eprintln!("paperboat-vmm: {error}");
            return Ok(ExitCode::from(EXIT_STOPPED));
        }
        Err(error) => return Err(error),
    };
    stopper.machine_made(&machine);
    dump(arguments, &machine)?;
    jail::enter_jail()?;
    let stdio = matches!(arguments.console, ConsoleChoice::Stdio);
    if stdio {
        stopper.terminal_taken(RawMode::enter().context("setting up the terminal")?);
    }
    match machine.start() {
        // Stopped before.
        Ok(()) | Err(MachineError::State { status: Status::Ended }) => {}
        Err(error) => return Err(error.into()),
    }
    let done = Arc::new(AtomicBool::new(false));
    let input = stdio.then(|| {
        let (machine, stopper, done) = (machine.clone(), stopper.clone(), Arc::clone(&done));
        std::thread::Builder::new().name("input".into()).spawn(move || forward_input(&machine, &stopper, &done))
    });
    let input = input.transpose().context("starting the input thread")?;
    let reason = machine.wait();
    done.store(true, Ordering::Relaxed);
    if let Some(input) = input {
        // A panic there was reported already.
        let _ = input.join();
    }
    stopper.terminal_back();
    let code = report(&machine, &reason, stdio);
    stopper.over();
    if let Some(path) = &arguments.dump_state {
        std::fs::write(path, final_state(&machine)).with_context(|| format!("writing {path}"))?;
    }
    if let (Some(path), Some(coverage)) = (&arguments.coverage, coverage) {
        std::fs::write(path, coverage.to_string()).with_context(|| format!("writing {path}"))?;
    }
    if arguments.stats {
        eprint!("{}", machine.stats());
    }
    Ok(ExitCode::from(code))
}

fn build(arguments: &RunArguments, coverage: Option<Arc<Coverage>>, stopper: &Stopper) -> Result<Machine> {
    let share = arguments.share.as_deref().map(DeviceConfig::open_share).transpose()?;
    let vsock = arguments.vsock.as_ref().map(|path| VsockConfig { cid: arguments.cid, socket_path: path.into() });
    let nics = network(&arguments.net)?;
    let devices = DeviceConfig { share, vsock, nics, helpers: !arguments.bare, ..DeviceConfig::default() };
    let kinds = arguments.trace.machine;
    let traces = kinds != TraceKinds::default();
    let initrd = arguments.initrd.as_deref().map(|path| BootFile::open("initramfs", path)).transpose()?;
    let config = MachineConfig {
        source: BootSource {
            kernel: BootFile::open("kernel", &arguments.kernel)?,
            initrd,
            cmdline: arguments.cmdline.clone(),
            load_address: arguments.load_address.map(|address| address.0),
        },
        topology: Topology::new(arguments.cpus, arguments.threads)?,
        memory_bytes: arguments.memory.0,
        clock: if arguments.deterministic { ClockMode::Deterministic } else { ClockMode::Host },
        budget_instructions: arguments.budget,
        processor: arguments.cpu.0,
        backing: if arguments.huge_pages { Backing::Huge } else { Backing::Usual },
        presentation: arguments.xics.0,
        dma: if arguments.enforce_dma { DmaPolicy::Enforced } else { DmaPolicy::Identity },
        console: console(&arguments.console)?,
        trace: if traces { Trace::new(kinds, Box::new(std::io::stderr())) } else { Trace::default() },
        give_up: stopper.give_up.clone(),
    };
    let compile_after = arguments.compile_after.unwrap_or_default();
    let (backend, options) = (arguments.backend, CpuOptions { coverage, compile_after, ..arguments.trace.cpu.clone() });
    let make_vm = Box::new(move |config| create_vm(backend, config, options));
    let make_devices = |ram: &GuestRam| {
        let made = devices.make(ram)?;
        stopper.socket_made(arguments.vsock.as_ref().map(Into::into));
        Ok(made)
    };
    Ok(Machine::new(config, make_vm, Box::new(make_devices))?)
}

/// The interfaces, bound to their taps.
fn network(choices: &[NetChoice]) -> Result<Vec<Arc<Nic>>> {
    if choices.is_empty() {
        return Ok(Vec::new());
    }
    let tun = TunDevice::open()?;
    let bound = (0..).zip(choices).map(|(slot, choice)| {
        let nic = Nic::new(slot, choice.queue_pairs)?;
        nic.bind(tun.attach(&choice.tap, nic.queue_pairs())?, BindOptions::default())?;
        Ok(nic)
    });
    bound.collect()
}

fn console(choice: &ConsoleChoice) -> Result<Console> {
    match choice {
        ConsoleChoice::Null => Ok(Console::in_memory()),
        ConsoleChoice::File(path) => Console::to_path(path, true, FILE_BYTES_MAX).with_context(|| format!("console file {path}")),
        ConsoleChoice::Stdio => {
            let output = std::io::stdout().as_fd().try_clone_to_owned().context("duplicating standard output")?;
            Console::to_stream(File::from(output)).context("starting the console thread")
        }
    }
}

fn dump(arguments: &RunArguments, machine: &Machine) -> Result<()> {
    if let Some(path) = &arguments.dump_dtb {
        std::fs::write(path, machine.dtb()).with_context(|| format!("writing {path}"))?;
    }
    if let Some(path) = &arguments.dump_dts {
        let source = dts_from_dtb(machine.dtb())?;
        std::fs::write(path, source).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

fn report(machine: &Machine, reason: &EndReason, console_shown: bool) -> u8 {
    let (code, message) = match reason {
        EndReason::PowerOff => (0, None),
        EndReason::Reboot => (EXIT_REBOOT, Some("the guest rebooted".to_owned())),
        EndReason::Panic(text) => (EXIT_PANIC, Some(format!("the guest's kernel panicked: {text}"))),
        EndReason::Stopped => (EXIT_STOPPED, Some("stopped".to_owned())),
        EndReason::Budget => (EXIT_BUDGET, Some("the instruction budget is used up".to_owned())),
        EndReason::Failed(text) => (EXIT_FAILED, Some(format!("the machine failed: {text}"))),
    };
    let Some(message) = message else { return code };
    if !console_shown && matches!(code, EXIT_PANIC | EXIT_FAILED) {
        eprintln!("the last lines of the console:");
        for line in machine.console().tail_lines(TAIL_LINES) {
            eprintln!("  {line}");
        }
    }
    eprintln!("paperboat-vmm: {message}");
    code
}
