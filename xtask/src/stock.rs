//! What the machine's own tests boot besides the guest kernel: kernels of Debian's, as installed systems have them; an initramfs with a
//! shell; and a tree of Debian's programs for ppc64el.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apt::{AptRoot, Suite};
use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::initramfs::{Archive, Node};
use crate::probes;
use crate::setup::Host;
use crate::{guest, images};

/// A kernel of Debian's.
struct Stock {
    /// Name of the step, of its link in `products/`.
    name: &'static str,
    release: &'static str,
    /// The package that depends on the newest one.
    package: &'static str,
    scope: Scope,
    /// The variable that tells where it is.
    variable: &'static str,
}

const KERNELS: &[Stock] = &[
    Stock {
        name: "stock-6.1",
        release: "bookworm",
        package: "linux-image-powerpc64le",
        scope: Scope::Routine,
        variable: "PAPERBOAT_STOCK_6_1",
    },
    Stock {
        name: "stock-6.12-4k",
        release: "trixie",
        package: "linux-image-powerpc64le",
        scope: Scope::All,
        variable: "PAPERBOAT_STOCK_6_12_4K",
    },
    Stock {
        name: "stock-6.12-64k",
        release: "trixie",
        package: "linux-image-powerpc64le-64k",
        scope: Scope::All,
        variable: "PAPERBOAT_STOCK_6_12_64K",
    },
];

/// The programs that run in the guest to prove its CPU, and what they need to be tested by their own tests.
const PROGRAMS: &[&str] = &[
    "base-files",
    "bash",
    "bc",
    "coreutils",
    "dash",
    "gawk",
    "gcc",
    "gron",
    "libc6-dev",
    "libpython3.13-testsuite",
    "openssl",
    "perl",
    "python3",
    "ripgrep",
    "sqlite3",
    "xz-utils",
];

/// Prepares what tests of `scope` need; returns each with the variable that tells where it is.
pub fn prepare(ctx: &Ctx, host: &Host, scope: Scope) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut variables = Vec::new();
    if scope >= Scope::Routine {
        variables.push(("PAPERBOAT_SHELL", shell(ctx, host)?));
        variables.push(("PAPERBOAT_PROBES", probes::prepare(ctx, host)?));
        variables.push(("PAPERBOAT_HOSTILE", hostile(ctx, host)?));
    }
    variables.extend(kernels(ctx, scope)?.into_iter().map(|(_, variable, path)| (variable, path)));
    if scope >= Scope::All {
        variables.push(("PAPERBOAT_PROGRAMS", programs(ctx)?));
    }
    Ok(variables)
}

/// The kernels of `scope`: name, variable, file.
pub fn kernels(ctx: &Ctx, scope: Scope) -> Result<Vec<(&'static str, &'static str, PathBuf)>> {
    let wanted = KERNELS.iter().filter(|stock| stock.scope <= scope);
    wanted.map(|stock| Ok((stock.name, stock.variable, kernel(ctx, stock)?))).collect()
}

/// The stock kernel that the boot benchmark runs beside QEMU.
pub fn benchmark_kernel(ctx: &Ctx) -> Result<PathBuf> {
    let stock = KERNELS.iter().find(|stock| stock.name == "stock-6.12-4k").context("the list has it")?;
    kernel(ctx, stock)
}

fn open<'a>(ctx: &'a Ctx, release: &str) -> Result<AptRoot<'a>> {
    AptRoot::open(ctx, Suite { release: release.to_owned(), arch: "ppc64el".into(), security: false })
}

fn kernel(ctx: &Ctx, stock: &Stock) -> Result<PathBuf> {
    let apt = open(ctx, stock.release)?;
    let package = apt.depends(stock.package)?.into_iter().find(|name| name.starts_with("linux-image-"));
    let debs = apt.packages(&[&package.with_context(|| format!("{} depends on no kernel", stock.package))?])?;
    let inputs =
        debs.iter().fold(Inputs::new().with("modules", MODULES.join(" ")), |inputs, deb| inputs.with(&deb.file, &deb.sha256));
    let dir = ctx.step(stock.name, &inputs, None, |step| {
        apt.fetch(&debs)?;
        for deb in &debs {
            fs::write(step.stage.join("vmlinux"), image_in(&deb.path)?).context("write the kernel")?;
            fs::write(step.stage.join("modules.cpio"), modules_in(&deb.path)?).context("write the modules")?;
        }
        Ok(())
    })?;
    ctx.cache.publish(stock.name, &dir.join("vmlinux"))
}

/// Drivers of our devices that are modules in some of Debian's kernels, each after what it needs.
const MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "failover",
    "net_failover",
    "virtio_net",
    "rng-core",
    "virtio-rng",
    "virtio_balloon",
];

/// Those of [`MODULES`] that a package has, as an archive of `modules/NN-NAME.ko` in their order, to stand behind an initramfs.
fn modules_in(deb: &Path) -> Result<Vec<u8>> {
    let mut child =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn().context("start dpkg-deb")?;
    let mut archive = tar::Archive::new(child.stdout.take().context("dpkg-deb has an output")?);
    let mut found = std::collections::BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let file = path.rsplit('/').next().unwrap_or_default();
        let Some((name, packing)) = file.split_once(".ko") else { continue };
        if let Some(place) = MODULES.iter().position(|module| *module == name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            found.insert(format!("modules/{place:02}-{name}.ko"), unpacked(bytes, packing)?);
        }
    }
    ensure!(child.wait()?.success(), "dpkg-deb cannot read {}", deb.display());
    let mut modules = Archive::default();
    modules.push("modules", Node::Directory { mode: 0o755 })?;
    for (name, content) in found {
        modules.push(&name, Node::File { mode: 0o644, content })?;
    }
    modules.finish()
}

/// A module that may be packed with xz.
fn unpacked(bytes: Vec<u8>, packing: &str) -> Result<Vec<u8>> {
    if packing.is_empty() {
        return Ok(bytes);
    }
    ensure!(packing == ".xz", "a module is packed as {packing}");
    let mut xz = Command::new("xz").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start xz")?;
    let mut input = xz.stdin.take().context("xz has an input")?;
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = xz.wait_with_output()?;
    ensure!(output.status.success() && writer.join().is_ok_and(|written| written.is_ok()), "xz cannot unpack a module");
    Ok(output.stdout)
}

/// The kernel's image in a package whose modules, ten times its size, come after it.
fn image_in(deb: &Path) -> Result<Vec<u8>> {
    let mut child =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn().context("start dpkg-deb")?;
    let mut archive = tar::Archive::new(child.stdout.take().context("dpkg-deb has an output")?);
    let mut image = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./").starts_with("boot/vmlinux-") {
            entry.read_to_end(&mut image)?;
            break;
        }
    }
    // It is not read to its end.
    let _ = child.kill();
    child.wait()?;
    ensure!(image.starts_with(b"\x7fELF"), "{} holds no ELF kernel in boot/", deb.display());
    Ok(image)
}

/// Busybox with a PID 1 that executes what is typed, line by line, and prints each line's status.
pub fn shell(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let (busybox, tools, inputs) = images::busybox_tools(ctx, host)?;
    let init = ctx.root.join("images/shell-init");
    let inputs = inputs.with_file(&init)?;
    let dir = ctx.step("shell", &inputs, None, |step| {
        let mut archive = Archive::default();
        for dir in ["bin", "dev", "etc", "mnt", "proc", "root", "sys", "tmp"] {
            archive.push(dir, Node::Directory { mode: 0o755 })?;
        }
        archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
        archive.push("dev/null", Node::CharDevice { mode: 0o666, major: 1, minor: 3 })?;
        archive.push("bin/busybox", Node::File { mode: 0o755, content: busybox })?;
        for tool in tools {
            archive.push(&format!("bin/{tool}"), Node::Symlink("busybox".into()))?;
        }
        archive.push("init", Node::File { mode: 0o755, content: fs::read(&init)? })?;
        fs::write(step.stage.join("shell.cpio"), archive.finish()?).context("write the initramfs")
    })?;
    ctx.cache.publish("shell.cpio", &dir.join("shell.cpio"))
}

/// A guest whose agent is hostile, in the way that the last word of the kernel's parameters names.
pub fn hostile(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let initramfs = one_program(ctx, "hostile", &guest::c_program(ctx, host, "hostile", guest::SMALL)?)?;
    ctx.cache.publish("hostile.cpio", &initramfs)
}

/// An initramfs of one program.
pub fn one_program(ctx: &Ctx, name: &str, program: &Path) -> Result<PathBuf> {
    let file = format!("{name}.cpio");
    let dir = ctx.step(&format!("initramfs-{name}"), &Inputs::new().with_file(program)?, None, |step| {
        let mut archive = Archive::default();
        archive.push("dev", Node::Directory { mode: 0o755 })?;
        archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
        archive.push("init", Node::File { mode: 0o755, content: fs::read(program)? })?;
        fs::write(step.stage.join(&file), archive.finish()?).context("write the initramfs")
    })?;
    Ok(dir.join(file))
}

/// A tree with the programs and all they depend on, unpacked; nothing in it is executed here.
fn programs(ctx: &Ctx) -> Result<PathBuf> {
    let apt = open(ctx, "trixie")?;
    let debs = apt.closure(PROGRAMS)?;
    let inputs = debs.iter().fold(Inputs::new(), |inputs, deb| inputs.with(&deb.file, &deb.sha256));
    let dir = ctx.step("programs-ppc64el", &inputs, None, |step| {
        apt.fetch(&debs)?;
        // It brings bin -> usr/bin and the like: the others land behind them.
        let (first, rest): (Vec<_>, Vec<_>) = debs.iter().cloned().partition(|deb| deb.file.starts_with("base-files_"));
        apt.unpack(&first, &step.stage)?;
        apt.unpack(&rest, &step.stage)?;
        fs::write(step.stage.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
        fs::write(step.stage.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").context("write the groups")
    })?;
    ctx.cache.publish("programs-ppc64el", &dir)
}
