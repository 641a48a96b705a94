//! What the lab is given to run: Paperboat's programs and tests, cross-built, beside what every pod needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cache::{Inputs, file_digest, remove_tree};
use crate::chores::HOST_PACKAGES;
use crate::ctx::Ctx;
use crate::initramfs::{Archive, Node};
use crate::run::Log;
use crate::setup::Host;
use crate::toolchain::{Linkage, Toolchain};
use crate::{guest, images, kernel, toolchain};

/// Programs of a host.
const PROGRAMS: &[&str] = &["containerd-shim-paperboat-v1", "paperboat-vmm", "paperboat"];
/// The crate whose tests run in the lab.
const TESTED: &str = "paperboat-kvm";

/// Files by the name that they have below /lab/products.
pub struct Programs {
    files: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds what is missing.
    pub fn prepare(ctx: &Ctx, host: &Host) -> Result<Self> {
        let tools = toolchain::prepare(ctx, host)?;
        let packages: Vec<&str> = HOST_PACKAGES.iter().flat_map(|name| ["-p", name]).collect();
        let built = guest::cargo_build(ctx, &tools, "ppc64le", &packages, Linkage::Dynamic)?;
        let mut files: Vec<(String, PathBuf)> = PROGRAMS.iter().map(|name| (format!("bin/{name}"), built.join(name))).collect();
        for test in build_tests(ctx, &tools)? {
            files.push((format!("tests/kvm-{}", test.target.name), test.executable));
        }
        for (_, path) in &mut files {
            *path = strip(ctx, host, path)?;
        }
        let agent = guest::agent(ctx, host, &tools)?;
        files.push(("initramfs.cpio".into(), guest::initramfs(ctx, &agent)?));
        files.push(("userland.cpio".into(), userland(ctx, host)?));
        files.push(("vmlinux".into(), kernel::prepare(ctx, host)?.vmlinux));
        let busybox = images::busybox(ctx, host)?;
        files.push(("images/busybox.tar".into(), busybox));
        Ok(Self { files })
    }

    /// Puts everything below `dir`, where the lab finds it, and nothing else.
    pub fn publish(&self, dir: &Path) -> Result<()> {
        remove_tree(dir)?;
        for (name, source) in &self.files {
            let target = dir.join(name);
            fs::create_dir_all(target.parent().context("a file has a directory")?)?;
            fs::copy(source, &target).with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
        }
        Ok(())
    }

    /// Identity of every byte that the lab is given.
    pub fn inputs(&self) -> Result<Inputs> {
        self.files.iter().try_fold(Inputs::new(), |inputs, (name, path)| Ok(inputs.with(name, file_digest(path)?)))
    }
}

/// A test program, as cargo reports it.
#[derive(Deserialize)]
struct Built {
    target: BuiltTarget,
    executable: PathBuf,
}

#[derive(Deserialize)]
struct BuiltTarget {
    name: String,
}

fn build_tests(ctx: &Ctx, tools: &Toolchain) -> Result<Vec<Built>> {
    let mut cargo = guest::cross_cargo(ctx, tools, "test", Linkage::Dynamic)?;
    cargo.args(["--no-run", "--message-format=json-render-diagnostics", "-p", TESTED, "--test", "*"]);
    let log = Log::create(ctx.cache.logs().join(format!("{TESTED}-tests.log")))?;
    ctx.ui.line("ppc64le", &format!("tests of {TESTED}"));
    let output = log.output(&mut cargo)?;
    let text = String::from_utf8_lossy(&output);
    // Lines of other kinds name no executable.
    let built: Vec<Built> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(!built.is_empty(), "cargo built no tests of {TESTED}; its log: {}", log.path().display());
    Ok(built)
}

/// A program without its symbols: the lab reads it through an emulated disk.
fn strip(ctx: &Ctx, host: &Host, program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let short = name.rsplit_once('-').filter(|(_, hash)| hash.len() == 16).map_or(name.as_str(), |(short, _)| short);
    let dir = ctx.step(&format!("lab-{short}"), &Inputs::new().with_file(program)?, None, |step| {
        let strip = format!("{}strip", Toolchain::cross_compile(host));
        let target = step.stage.join(short);
        step.log.run(Command::new(strip).arg("-s").arg("-o").arg(&target).arg(program), None)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context("make it executable")
    })?;
    Ok(dir.join(short))
}

/// The smallest guest: says that it runs, and powers off.
fn userland(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let program = guest::c_program(ctx, host, "userland", guest::SMALL)?;
    let dir = ctx.step("lab-userland", &Inputs::new().with_file(&program)?, None, |step| {
        let mut archive = Archive::default();
        archive.push("dev", Node::Directory { mode: 0o755 })?;
        archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
        archive.push("init", Node::File { mode: 0o755, content: fs::read(&program)? })?;
        fs::write(step.stage.join("userland.cpio"), archive.finish()?).context("write the initramfs")
    })?;
    Ok(dir.join("userland.cpio"))
}
