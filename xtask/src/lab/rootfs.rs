//! What the lab boots: the kernel of Debian, an initramfs with the modules it needs, and a root file system of Debian's packages for
//! ppc64el. Nothing of another architecture is executed: packages are unpacked, what their scripts would do is done here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{AptRoot, Deb, Suite};
use crate::cache::{Inputs, digest, remove_tree};
use crate::cli::LabMachine;
use crate::ctx::{Ctx, Step};
use crate::initramfs::{Archive, Node};
use crate::run::{Log, capture};

/// The release that the lab is made of.
const RELEASE: &str = "trixie";
/// Raised when the recipe changes.
const RECIPE: &str = "3";
/// Debian's kernel with pages of 64 KiB; one with 4 KiB pages cannot back a guest's larger ones.
const KERNEL: &str = "linux-image-powerpc64le-64k";
/// The one with 4 KiB pages, for the host that says so.
const SMALL_KERNEL: &str = "linux-image-powerpc64le";
/// Tools, and the engines that the shim works for.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bsdutils",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "coreutils",
    "dash",
    "docker-cli",
    "docker.io",
    "findutils",
    "grep",
    "iproute2",
    "iptables",
    "libc-bin",
    "mawk",
    "mount",
    "procps",
    "runc",
    "sed",
    "tini",
    "util-linux",
];
/// What the lab's disk, share, containers and Docker's firewall need, and KVM; what these depend on is found in them.
const MODULES: &[&str] = &[
    "virtio_blk",
    "ext4",
    "crc32c_generic",
    "9p",
    "9pnet_virtio",
    "overlay",
    "kvm_hv",
    "tun",
    "veth",
    "bridge",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nf_nat",
    "nf_conntrack_netlink",
    "xt_addrtype",
    "xt_conntrack",
    "xt_MASQUERADE",
    "xt_comment",
    "xt_mark",
    "xt_nat",
    "xt_tcpudp",
];
/// Names that packages' scripts would make.
const LINKS: [(&str, &str); 6] = [
    ("usr/bin/sh", "dash"),
    ("usr/bin/awk", "mawk"),
    ("usr/sbin/iptables", "xtables-nft-multi"),
    ("usr/sbin/iptables-save", "xtables-nft-multi"),
    ("usr/sbin/ip6tables-save", "xtables-nft-multi"),
    ("usr/sbin/ip6tables", "xtables-nft-multi"),
];
/// Size of the disk, of which packages fill a quarter.
const DISK_BYTES: u64 = 2 << 30;

/// What the lab boots.
pub struct Guest {
    /// The kernel.
    pub vmlinux: PathBuf,
    /// Modules and first process.
    pub initramfs: PathBuf,
    /// Root file system.
    pub disk: PathBuf,
}

/// Makes or finds it, with packages `more` on the disk besides the usual ones.
pub fn prepare(ctx: &Ctx, machine: LabMachine, more: &[&str]) -> Result<Guest> {
    let apt = AptRoot::open(ctx, Suite { release: RELEASE.into(), arch: "ppc64el".into(), security: false })?;
    // The package of this name is empty and depends on the newest kernel.
    let (package, step) = match machine {
        LabMachine::Powernv9With4k => (SMALL_KERNEL, "lab-boot-4k"),
        _ => (KERNEL, "lab-boot"),
    };
    let kernel = apt.depends(package)?;
    let kernel = kernel.iter().find(|name| name.starts_with("linux-image-")).with_context(|| format!("{package} is empty"))?;
    let kernel = apt.packages(&[kernel])?;
    let system = apt.closure(&[PACKAGES, more].concat())?;
    let boot_inputs = inputs(&kernel).with("init", digest(include_bytes!("init.sh"))).with("modules", MODULES.join(" "));
    let busybox =
        system.iter().find(|deb| deb.file.starts_with("busybox-static_")).context("busybox-static has no file")?.clone();
    let boot = ctx.step(step, &boot_inputs.with(&busybox.file, &busybox.sha256), None, |step| {
        apt.fetch(&kernel)?;
        apt.fetch(std::slice::from_ref(&busybox))?;
        boot_files(&apt, step, &kernel, &busybox)
    })?;
    let disk_inputs = inputs(&system).with("system", digest(include_bytes!("system.sh")));
    let disk = ctx.step("lab-disk", &disk_inputs, None, |step| {
        apt.fetch(&system)?;
        disk(&apt, step, &system)
    })?;
    Ok(Guest { vmlinux: boot.join("vmlinux"), initramfs: boot.join("initramfs.cpio"), disk: disk.join("disk.img") })
}

fn inputs(debs: &[Deb]) -> Inputs {
    debs.iter().fold(Inputs::new().with("recipe", RECIPE), |inputs, deb| inputs.with(&deb.file, &deb.sha256))
}

fn boot_files(apt: &AptRoot<'_>, step: &mut Step, kernel: &[Deb], busybox: &Deb) -> Result<()> {
    let work = step.stage.join("work");
    fs::create_dir_all(&work)?;
    apt.unpack(kernel, &work)?;
    apt.unpack(std::slice::from_ref(busybox), &work)?;
    let vmlinux = fs::read_dir(work.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinux-")))
        .context("the kernel's package has no vmlinux")?;
    fs::rename(vmlinux, step.stage.join("vmlinux"))?;

    let mut archive = Archive::default();
    for dir in ["bin", "dev", "modules", "newroot", "proc"] {
        archive.push(dir, Node::Directory { mode: 0o755 })?;
    }
    archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
    archive.push("bin/busybox", Node::File { mode: 0o755, content: fs::read(work.join("usr/bin/busybox"))? })?;
    archive.push("init", Node::File { mode: 0o755, content: include_bytes!("init.sh").to_vec() })?;
    let mut modules = Modules::below(&work.join("usr/lib/modules"))?;
    for name in MODULES {
        modules.load(name, &step.log)?;
    }
    archive.push("modules/order", Node::File { mode: 0o644, content: (modules.order.join("\n") + "\n").into_bytes() })?;
    for name in &modules.order {
        let content = modules.loaded.remove(name).context("a module is listed twice")?;
        archive.push(&format!("modules/{name}.ko"), Node::File { mode: 0o644, content })?;
    }
    fs::write(step.stage.join("initramfs.cpio"), archive.finish()?)?;
    remove_tree(&work)
}

/// The kernel's modules, and those that are wanted in the order in which they can be loaded.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    loaded: BTreeMap<String, Vec<u8>>,
    order: Vec<String>,
}

impl Modules {
    fn below(dir: &Path) -> Result<Self> {
        let list = capture(Command::new("find").arg(dir).args(["-name", "*.ko.xz"]))?;
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).trim_end_matches(".ko.xz").replace('-', "_");
        let files: BTreeMap<String, PathBuf> = list.lines().map(|path| (name(path), PathBuf::from(path))).collect();
        ensure!(!files.is_empty(), "the kernel's package has no modules");
        Ok(Self { files, loaded: BTreeMap::new(), order: Vec::new() })
    }

    fn load(&mut self, name: &str, log: &Log) -> Result<()> {
        if self.loaded.contains_key(name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else { bail!("the kernel has no module {name}") };
        let content = log.output(Command::new("xz").args(["--decompress", "--stdout"]).arg(path))?;
        let needs = dependencies(&content);
        self.loaded.insert(name.to_owned(), content);
        for needed in needs {
            self.load(&needed, log)?;
        }
        self.order.push(name.to_owned());
        Ok(())
    }
}

/// The field `depends=` of a module's description, a list of strings that end in NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let rest = &module[at + FIELD.len()..];
    let text = String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn disk(apt: &AptRoot<'_>, step: &mut Step, debs: &[Deb]) -> Result<()> {
    let root = step.stage.join("root");
    fs::create_dir_all(&root)?;
    // base-files brings /bin -> usr/bin and the like: the others land behind them.
    let (first, rest): (Vec<Deb>, Vec<Deb>) = debs.iter().cloned().partition(|deb| deb.file.starts_with("base-files_"));
    apt.unpack(&first, &root)?;
    apt.unpack(&rest, &root)?;
    for below in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
        remove_tree(&root.join(below))?;
    }
    for (from, to) in [
        ("usr/share/base-passwd/passwd.master", "etc/passwd"),
        ("usr/share/base-passwd/group.master", "etc/group"),
        ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
    ] {
        fs::copy(root.join(from), root.join(to)).with_context(|| format!("copy {from}"))?;
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    // The CRI plugin copies it for pods. The lab reaches no name server.
    fs::write(root.join("etc/resolv.conf"), "")?;
    for (link, target) in LINKS {
        if !root.join(link).exists() {
            symlink(target, root.join(link))?;
        }
    }
    for dir in ["jobs", "products"] {
        fs::create_dir_all(root.join("lab").join(dir))?;
    }
    let init = root.join("lab/init");
    fs::write(&init, include_bytes!("system.sh"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let image = step.stage.join("disk.img");
    fs::File::create(&image)?.set_len(DISK_BYTES)?;
    let mut mkfs = Command::new("/sbin/mke2fs");
    // A disk for one boot: changes are thrown away, nothing needs a journal.
    mkfs.args(["-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-E", "root_owner=0:0,lazy_itable_init=1", "-d"]);
    step.log.run(mkfs.arg(&root).arg(&image), None)?;
    remove_tree(&root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_needs_are_read() {
        assert_eq!(dependencies(b"x\0depends=jbd2,mbcache,crc-16\0intree=Y\0"), ["jbd2", "mbcache", "crc_16"]);
        assert!(dependencies(b"x\0depends=\0intree=Y\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }
}
