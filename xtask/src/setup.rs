//! The machine: which packages it must have, and getting them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ctx::Ctx;
use crate::run::{Log, capture};

/// Needed everywhere: the kernel's build tools, a C compiler for build scripts, tools that tests call.
const COMMON: &[&str] = &[
    "bc",
    "bison",
    "busybox-static",
    "debian-archive-keyring",
    "device-tree-compiler",
    "e2fsprogs",
    "flex",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "libseccomp-dev",
    "make",
    "xz-utils",
];
/// Needed where ppc64le is foreign.
const CROSS: &[&str] =
    &["gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross", "linux-libc-dev-ppc64el-cross", "qemu-user-static"];

/// Needed by benchmarks: their peers.
pub const BENCH: &[&str] = &["qemu-system-ppc"];

/// Debian's view of this machine.
pub struct Host {
    /// Name of the release: `bookworm`.
    pub release: String,
    /// Debian's name of the architecture: `amd64`, `ppc64el`.
    pub arch: String,
}

impl Host {
    /// Asks dpkg and /etc/os-release.
    pub fn detect() -> Result<Self> {
        let arch = capture(Command::new("dpkg").arg("--print-architecture"))
            .context("Debian's dpkg is needed: build on Debian 12 or later")?;
        if !["amd64", "ppc64el"].contains(&arch.as_str()) {
            bail!("Paperboat builds on amd64 and ppc64el, not on {arch}");
        }
        let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let release = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("/etc/os-release names no Debian release")?;
        Ok(Self { release: release.trim_matches('"').to_owned(), arch })
    }

    /// Whether programs for the guest run here as they are.
    pub fn is_power(&self) -> bool {
        self.arch == "ppc64el"
    }
}

/// Installs what is missing. As a normal user it says what to install instead.
pub fn ensure_packages(ctx: &Ctx, host: &Host) -> Result<()> {
    let cross = if host.is_power() { &[][..] } else { CROSS };
    let wanted: Vec<&str> = COMMON.iter().chain(cross).copied().collect();
    ensure_installed(ctx, &wanted)
}

/// Installs those of `wanted` that are missing.
pub fn ensure_installed(ctx: &Ctx, wanted: &[&str]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        ctx.ui.line("packages", &format!("all {} installed", wanted.len()));
        return Ok(());
    }
    let names = missing.join(" ");
    if ctx.offline {
        bail!("packages are missing and --offline forbids fetching them: apt-get install {names}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("packages are missing: run as root: apt-get install --no-install-recommends {names}");
    }
    ctx.ui.line("packages", &format!("installing {names}"));
    let log = Log::create(ctx.cache.logs().join("packages.log"))?;
    let mut progress = ctx.ui.progress("packages", None);
    let mut apt = |args: &[&str], names: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]).args(args).args(names);
        log.run(&mut command, Some(&mut progress))
    };
    apt(&["update"], &[])?;
    apt(&["install", "-y", "--no-install-recommends", "--no-upgrade"], &missing)
}

/// Those of `wanted` that are not installed.
fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).output().context("run dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(wanted.iter().copied().filter(|name| !installed.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_named() {
        let missing = missing(&["dpkg", "paperboat-no-such-package"]).unwrap();
        assert_eq!(missing, ["paperboat-no-such-package"]);
    }
}
