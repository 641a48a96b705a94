//! The chores and their options. What `--help` prints is written here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The one door for every chore of Paperboat.
///
/// Products are kept in $XDG_CACHE_HOME/paperboat (~/.cache/paperboat), keyed by the content of their inputs: a
/// chore repeats only what changed. Logs of every step are in its directory logs/.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
pub struct Cli {
    /// Use only what is cached: no network
    #[arg(long, global = true)]
    pub offline: bool,
    /// The chore
    #[command(subcommand)]
    pub chore: Chore,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Chore {
    /// Prepare the machine: packages, cross toolchain, container engines
    ///
    /// Installs missing Debian packages as root (as another user it names them), unpacks the compiler for ppc64le
    /// and containerd into the cache; nothing installed is upgraded. Takes 3 minutes once, then a second. Caches
    /// the toolchain, the engines and every package file.
    Setup(SetupArgs),

    /// A tour: containers in micro-VMs, from nothing to exit status, pod, volume, network and exec
    ///
    /// Does what setup, kernel, images and build do, starts a private containerd, imports images for ppc64le and runs
    /// them through io.containerd.paperboat.v1, each step with its time. Takes 25 minutes in an empty cache (most of
    /// it the guest kernel and the compilation), under two minutes afterwards. Needs root, as containerd does. Leaves
    /// no process, mount or directory behind.
    Demo,

    /// Run all tests: lint, unit, end to end
    ///
    /// Takes 30 to 60 minutes in an empty cache, under 20 afterwards. Prints how long each stage took and ends
    /// with the test runner's summary. Caches what the other chores cache, and compiled crates.
    Test(TestArgs),

    /// Measure, beside a peer where there is one
    ///
    /// Prints figure, value, unit, peer's value, ratio, target, and whether it was met. Without a name every
    /// benchmark runs; how long each takes is in `cargo xtask bench --list`. Caches nothing of its own.
    Bench(BenchArgs),

    /// A POWER machine under emulation, with KVM: boot it, use it, test in it
    ///
    /// Boots a whole bare-metal POWER machine in QEMU with Debian's kernel, KVM, containerd and Paperboat's programs for
    /// ppc64le. The first time takes 15 minutes of processor time (compilation), a boot 6 seconds of it. Caches QEMU,
    /// the lab's disk, kernel and programs. `up` leaves the lab running until `down`. See docs/lab.md.
    Lab(LabArgs),

    /// Compare the software CPU with QEMU, instruction by instruction
    ///
    /// Random instances of the instruction table run on both, every register is compared. Two minutes with the
    /// usual count; options after `--` go to the tester (`--count`, `--seed`, `--class`, `--mnemonic`). Takes its
    /// QEMU from the machine's packages; caches only compiled crates.
    Difftest(DifftestArgs),

    /// Build the guest kernel
    ///
    /// Debian's source of Linux 6.12 with the options of kernel-configs/; every option asked for is checked in the
    /// result. Takes 12 minutes of processor time once. Caches the stripped ELF image, its symbols, its configuration.
    Kernel(KernelArgs),

    /// Make the guest's initramfs and the OCI images
    ///
    /// The initramfs holds the agent; the images (busybox, debian, workbench, pause, platforms) are made of Debian's ppc64el
    /// packages without emulation. Takes 3 minutes once (compiling the agent), then seconds. Caches each archive.
    Images,

    /// Build Paperboat's programs
    ///
    /// Takes 2 to 4 minutes the first time. Cross-compiled crates are cached, those for this machine are where
    /// cargo puts them.
    Build(BuildArgs),

    /// Print the variables by which end-to-end tests find everything, as a shell reads them
    ///
    /// Builds what is missing, so the first time takes as long as the demo; caches what that
    /// caches. Use: eval "$(cargo xtask env)"
    Env(EnvArgs),

    /// Check format, clippy, documentation, licences and sources of dependencies
    ///
    /// Takes 3 minutes the first time, then seconds. Advisories are checked where cargo-deny and its database are
    /// there, else they are printed as not run. Caches compiled crates.
    Lint,

    /// Empty the cache
    ///
    /// Takes a second. The next chore starts from nothing.
    Clean,
}

/// Options of `setup`.
#[derive(Args)]
pub struct SetupArgs {
    /// Fetch Debian's package lists again, and with them newer packages
    #[arg(long)]
    pub refresh: bool,
}

/// Options of `env`.
#[derive(Args)]
pub struct EnvArgs {
    /// With what only `test --all` needs
    #[arg(long)]
    pub all: bool,
}

/// Options of `kernel`.
#[derive(Args)]
pub struct KernelArgs {
    /// Build it a second time and compare the bytes
    #[arg(long)]
    pub twice: bool,
}

/// Options of `difftest`.
#[derive(Args)]
pub struct DifftestArgs {
    /// Options of the tester
    #[arg(last = true)]
    pub options: Vec<String>,
}

/// Options of `build`.
#[derive(Args)]
pub struct BuildArgs {
    /// For whom
    #[arg(long, value_enum, default_value_t = Target::Guest)]
    pub target: Target,
}

/// Whom programs are built for.
#[derive(Clone, Copy, ValueEnum)]
pub enum Target {
    /// The agent, static, for the guest
    Guest,
    /// Shim, machine and operator's command for this machine
    Host,
    /// Shim, machine and operator's command for a ppc64le host
    Ppc64le,
}

/// Options of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// Also what takes long: the kernel built twice, repetitions beyond the usual
    #[arg(long)]
    pub all: bool,
    /// Only this stage
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// What executes the end-to-end tests' guests: KVM is this machine's on POWER, the lab's elsewhere
    #[arg(long, value_enum, default_value_t = TestBackend::Soft)]
    pub backend: TestBackend,
}

/// What executes guests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum TestBackend {
    /// The software POWER CPU
    Soft,
    /// KVM on POWER
    Kvm,
}

/// Stages of the tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum Stage {
    /// Format, clippy, documentation, dependencies
    Lint,
    /// Unit tests of every crate
    Unit,
    /// Real clients, real guests
    E2e,
    /// The POWER lab: KVM
    Lab,
}

/// Options of `lab`.
#[derive(Args)]
pub struct LabArgs {
    /// What to do
    #[command(subcommand)]
    pub chore: LabChore,
    /// Which machine; powernv9 without it, but for `test --all`, which takes all in turn
    #[arg(long, value_enum, global = true)]
    pub machine: Option<LabMachine>,
}

/// What can be done with the lab.
#[derive(Subcommand)]
pub enum LabChore {
    /// Build what it needs, boot it, wait until it takes commands
    Up,
    /// Run a command in it; its exit status becomes this one's
    Run {
        /// Time limit
        #[arg(long, default_value_t = 120, value_name = "N")]
        seconds: u64,
        /// The command, after `--`
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Boot one, run the tests of KVM and of containers in it, end it
    Test {
        /// Every end-to-end suite, on each kind of machine in turn or on the one that is named
        #[arg(long)]
        all: bool,
    },
    /// Connect this terminal to a shell on its console; Ctrl-] leaves it
    Shell,
    /// End it
    Down,
}

/// POWER hosts that QEMU emulates.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum LabMachine {
    /// POWER8
    Powernv8,
    /// POWER9
    Powernv9,
    /// POWER10
    Powernv10,
    /// POWER9 whose kernel has pages of 4 KiB: it cannot back a guest's pages
    #[value(name = "powernv9-4k")]
    Powernv9With4k,
    /// A partition of a POWER9 machine, with nested KVM: it has no guests with hashed page tables
    Pseries,
}

impl LabMachine {
    /// Those that cannot run guests with hashed page tables, and say why.
    pub const UNABLE: [Self; 2] = [Self::Powernv9With4k, Self::Pseries];

    /// Its name here.
    pub fn name(self) -> &'static str {
        match self {
            Self::Powernv8 => "powernv8",
            Self::Powernv9 => "powernv9",
            Self::Powernv10 => "powernv10",
            Self::Powernv9With4k => "powernv9-4k",
            Self::Pseries => "pseries",
        }
    }
}

/// Options of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Which benchmark; all without a name
    pub name: Option<String>,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Seed of benchmarks that draw random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// List the benchmarks
    #[arg(long)]
    pub list: bool,
}
