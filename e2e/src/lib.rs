//! End-to-end tests: real clients, a real containerd of our own, the shim as containerd finds it, and the guest behind it.
//!
//! What is tested comes by environment variables; `cargo xtask test` and `cargo xtask demo` set them, and
//! `eval "$(cargo xtask env)"` does so for a shell:
//!
//! | variable | what |
//! |---|---|
//! | `PAPERBOAT_BIN` | directory with containerd-shim-paperboat-v1, paperboat-vmm, paperboat |
//! | `PAPERBOAT_KERNEL` | guest kernel |
//! | `PAPERBOAT_INITRAMFS` | guest initial RAM file system |
//! | `PAPERBOAT_IMAGES` | directory of NAME.tar, each holding the reference paperboat.local/NAME:latest |
//! | `PAPERBOAT_CONTAINERD_BIN` | directory with containerd and ctr; `…_1_6_BIN` and `…_2_BIN` have other lines of it |
//! | `PAPERBOAT_RUNC_BIN` | directory with runc |
//! | `PAPERBOAT_DOCKER_26`, `PAPERBOAT_DOCKER_28` | prefix with Docker |
//! | `PAPERBOAT_CNI_BIN` | directory with the CNI plugins |
//! | `PAPERBOAT_SHELL` | initramfs with a shell on the console, for tests of the machine by hand |
//! | `PAPERBOAT_PROBES` | programs that ask a file system what it does, `guest/NAME` and `host/NAME` |
//! | `PAPERBOAT_STOCK_6_1`, `PAPERBOAT_STOCK_6_12_4K`, `PAPERBOAT_STOCK_6_12_64K` | kernels of Debian's; the last two with `--all` |
//! | `PAPERBOAT_PROGRAMS` | a tree of Debian's programs for ppc64le; with `--all` |
//! | `PAPERBOAT_XTASK` | the program behind `cargo xtask` |
//!
//! Tests of the runtime that do not choose an engine run with the first one, or with that of `PAPERBOAT_E2E_CONTAINERD` (1.6, 1.7, 2).
//! `PAPERBOAT_E2E_KEEP=1` leaves the private containerd's directory for a look afterwards.
//!
//! [`host`] is the fixture, [`docker`] a Docker and [`cri`] a Kubernetes node on top of it, [`running`] a container in it ([`spec`] for
//! what `ctr` has no options for, [`task_api`] for what it has no words for), [`events`] what containerd tells of it, [`leaks`] the check
//! that nothing is left, [`guest`] what a program in the guest can prove about where it
//! runs, [`demo`] the transcript of `cargo xtask demo`.

#![forbid(unsafe_code)]

pub mod command;
pub mod cri;
pub mod demo;
pub mod docker;
pub mod events;
pub mod expect;
pub mod guest;
pub mod host;
pub mod leaks;
pub mod net;
pub mod products;
pub mod running;
pub mod spec;
pub mod start;
pub mod task_api;
pub mod vmm;

pub use command::Output;
pub use host::Host;
pub use products::Products;
pub use running::Running;

/// What went wrong around a test, as opposed to in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of the Container Runtime Interface failed.
    #[error(transparent)]
    Call(#[from] cri::CallError),
    /// A product was not handed over.
    #[error("{0} is not set: run this through `cargo xtask test`, or `eval \"$(cargo xtask env)\"` first")]
    Unset(&'static str),
    /// A line of containerd that is not tested.
    #[error("PAPERBOAT_E2E_CONTAINERD={0}: 1.6, 1.7 or 2 expected")]
    NoSuchContainerd(String),
    /// A product is not where its variable says.
    #[error("{variable}: {} does not exist", path.display())]
    Missing {
        /// The variable.
        variable: &'static str,
        /// The path.
        path: std::path::PathBuf,
    },
    /// A step of the fixture failed.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A daemon did not come up.
    #[error("{0} does not answer; its log:\n{1}")]
    NoDaemon(&'static str, String),
    /// A command that prepares a test failed.
    #[error("{command} failed:\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// All it printed.
        output: String,
    },
}

/// A step's error with its name.
fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    |source| Error::Io { what: what.into(), source }
}
