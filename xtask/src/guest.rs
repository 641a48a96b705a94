//! What runs in the guest: the agent, and the initramfs that holds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::initramfs::{Archive, Node};
use crate::run::{Log, capture};
use crate::setup::Host;
use crate::toolchain::{GUEST_TARGET, Linkage, Toolchain};

/// The guest's PID 1.
const AGENT: &str = "paperboat-agent";

/// Builds the agent: static, stripped. Cargo decides what is to be compiled.
pub fn agent(ctx: &Ctx, host: &Host, tools: &Toolchain) -> Result<PathBuf> {
    let built = cargo_build(ctx, tools, "agent", &["-p", AGENT, "--bin", AGENT], Linkage::Static)?;
    let inputs = Inputs::new().with_file(&built.join(AGENT))?;
    let dir = ctx.step("agent", &inputs, None, |step| {
        let strip = format!("{}strip", Toolchain::cross_compile(host));
        let product = step.stage.join(AGENT);
        step.log.run(Command::new(strip).arg("-s").arg("-o").arg(product).arg(built.join(AGENT)), None)
    })?;
    ctx.cache.publish(AGENT, &dir.join(AGENT))
}

/// Packs the agent as /init. The image is stored uncompressed: the kernel copies it, which costs a tenth of the
/// guest instructions that unpacking costs.
pub fn initramfs(ctx: &Ctx, agent: &Path) -> Result<PathBuf> {
    let inputs = Inputs::new().with("format", "2").with_file(agent)?;
    let dir = ctx.step("initramfs", &inputs, None, |step| {
        let mut archive = Archive::default();
        archive.push("dev", Node::Directory { mode: 0o755 })?;
        // PID 1's standard streams, before anything is mounted; Rust's start opens /dev/null where one is closed.
        archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
        archive.push("dev/null", Node::CharDevice { mode: 0o666, major: 1, minor: 3 })?;
        archive.push("init", Node::File { mode: 0o755, content: fs::read(agent)? })?;
        fs::write(step.stage.join("initramfs.cpio"), archive.finish()?).context("write the initramfs")
    })?;
    ctx.cache.publish("initramfs.cpio", &dir.join("initramfs.cpio"))
}

/// Flags of a C program that is to be small.
pub const SMALL: &[&str] = &["-Os"];

/// Compiles `images/NAME.c` for the guest, static, with `flags` besides.
pub fn c_program(ctx: &Ctx, host: &Host, name: &str, flags: &[&str]) -> Result<PathBuf> {
    compile(ctx, &format!("{}gcc", Toolchain::cross_compile(host)), name, name, flags)
}

/// The same for this machine.
pub fn native_c_program(ctx: &Ctx, name: &str, flags: &[&str]) -> Result<PathBuf> {
    compile(ctx, "gcc", &format!("{name}-native"), name, flags)
}

fn compile(ctx: &Ctx, compiler: &str, step: &str, name: &str, flags: &[&str]) -> Result<PathBuf> {
    let directory = ctx.root.join("images");
    let source = directory.join(format!("{name}.c"));
    let text = fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
    let headers = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let version = capture(Command::new(compiler).arg("--version"))?;
    let version = version.lines().next().unwrap_or_default().to_owned();
    let inputs = Inputs::new().with_file(&source)?.with("compiler", version).with("flags", flags.join(" "));
    let inputs = headers.map(|header| directory.join(header)).try_fold(inputs, |inputs, header| inputs.with_file(&header))?;
    let dir = ctx.step(step, &inputs, None, |step| {
        let mut gcc = Command::new(compiler);
        gcc.args(["-static", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-o"]);
        step.log.run(gcc.arg(step.stage.join(name)).arg(&source).args(flags), None)
    })?;
    Ok(dir.join(name))
}

/// Builds packages for ppc64le; returns where cargo puts the programs.
pub fn cargo_build(ctx: &Ctx, tools: &Toolchain, what: &str, packages: &[&str], linkage: Linkage) -> Result<PathBuf> {
    ctx.ui.line(what, &format!("cargo build for {GUEST_TARGET}"));
    let mut cargo = cross_cargo(ctx, tools, "build", linkage)?;
    cargo.args(packages);
    if linkage == Linkage::Static {
        // Every byte of the agent is copied at each boot: small comes before fast.
        cargo.args(["--config", "profile.release.opt-level='s'", "--config", "profile.release.lto='fat'"]);
        cargo.args(["--config", "profile.release.codegen-units=1", "--config", "profile.release.debug=false"]);
    }
    let log = Log::create(ctx.cache.logs().join(format!("{what}-build.log")))?;
    log.run(&mut cargo, Some(&mut ctx.ui.progress(what, None)))?;
    Ok(cross_target(ctx, linkage).join(GUEST_TARGET).join("release"))
}

/// A cargo that does `chore` (build, test) for ppc64le.
pub fn cross_cargo(ctx: &Ctx, tools: &Toolchain, chore: &str, linkage: Linkage) -> Result<Command> {
    let target = cross_target(ctx, linkage);
    forget_other_tree(ctx, &target)?;
    let mut cargo = cargo(ctx);
    cargo.args([chore, "--release", "--target", GUEST_TARGET]).env("CARGO_TARGET_DIR", &target);
    tools.apply(&mut cargo, linkage);
    Ok(cargo)
}

fn cross_target(ctx: &Ctx, linkage: Linkage) -> PathBuf {
    ctx.cache.target().join(match linkage {
        Linkage::Static => "guest",
        Linkage::Dynamic => "ppc64le",
    })
}

/// Cargo tells by file times what it has to compile, and takes two trees for one: what another tree compiled of the workspace goes,
/// the dependencies stay.
fn forget_other_tree(ctx: &Ctx, target: &Path) -> Result<()> {
    let note = target.join("tree");
    let root = ctx.root.as_os_str().as_encoded_bytes();
    if fs::read(&note).is_ok_and(|noted| noted == root) {
        return Ok(());
    }
    if target.exists() {
        let mut clean = cargo(ctx);
        clean.args(["clean", "--quiet", "--workspace", "--target", GUEST_TARGET]).env("CARGO_TARGET_DIR", target);
        capture(&mut clean)?;
    }
    fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
    fs::write(&note, root).with_context(|| format!("write {}", note.display()))
}

/// The cargo that runs this program, in the tree, offline when asked.
pub fn cargo(ctx: &Ctx) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&ctx.root).env_remove("CARGO_MANIFEST_DIR").env("CARGO_TERM_COLOR", "never");
    if ctx.offline {
        cargo.env("CARGO_NET_OFFLINE", "true");
    }
    cargo
}
