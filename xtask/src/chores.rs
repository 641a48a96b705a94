//! The chores that prepare and show things; tests, benchmarks and lint have files of their own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::cli::{BuildArgs, DifftestArgs, EnvArgs, KernelArgs, SetupArgs, Target};
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::run::Log;
use crate::setup::Host;
use crate::toolchain::{self, Linkage};
use crate::{engines, guest, images, kernel, setup, stock, ui};

/// Packages whose programs a host runs.
pub const HOST_PACKAGES: [&str; 2] = ["paperboat-shim", "paperboat-microvm"];

/// Everything a pod needs, built and in place.
pub struct Products {
    variables: Vec<(&'static str, PathBuf)>,
}

impl Products {
    /// Builds what is missing, from the machine's packages to the programs, with the engines of `scope`. Takes the cache's lock
    /// meanwhile.
    pub fn prepare(ctx: &Ctx, scope: Scope) -> Result<Self> {
        let _lock = ctx.lock()?;
        Self::prepare_locked(ctx, scope)
    }

    fn prepare_locked(ctx: &Ctx, scope: Scope) -> Result<Self> {
        let host = Host::detect()?;
        setup::ensure_packages(ctx, &host)?;
        let engines = engines::prepare(ctx, &host, scope)?;
        images::prepare(ctx, &host, scope)?;
        let tools = toolchain::prepare(ctx, &host)?;
        let agent = guest::agent(ctx, &host, &tools)?;
        let initramfs = guest::initramfs(ctx, &agent)?;
        let programs = host_programs(ctx)?;
        // Last, because it is the longest: an error in the sources shows before it.
        let kernel = kernel::prepare(ctx, &host)?;
        let mut variables = vec![
            ("PAPERBOAT_BIN", programs),
            ("PAPERBOAT_KERNEL", kernel.vmlinux),
            ("PAPERBOAT_INITRAMFS", initramfs),
            ("PAPERBOAT_IMAGES", ctx.cache.products().join("images")),
            ("PAPERBOAT_XTASK", std::env::current_exe().context("find this program")?),
        ];
        variables.extend(engines);
        variables.extend(stock::prepare(ctx, &host, scope)?);
        Ok(Self { variables })
    }

    /// Tells a command where everything is.
    pub fn apply(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, path)| (name, path)));
    }

    /// One of the variables.
    pub fn path(&self, name: &str) -> Option<&PathBuf> {
        self.variables.iter().find(|(key, _)| *key == name).map(|(_, path)| path)
    }
}

/// `cargo xtask setup`.
pub fn setup(ctx: &Ctx, args: &SetupArgs) -> Result<()> {
    let host = Host::detect()?;
    if args.refresh {
        ensure!(!ctx.offline, "--refresh and --offline exclude each other");
        crate::cache::remove_tree(&ctx.cache.root().join("apt"))?;
    }
    setup::ensure_packages(ctx, &host)?;
    engines::prepare(ctx, &host, Scope::All)?;
    toolchain::prepare(ctx, &host)?;
    Ok(())
}

/// `cargo xtask kernel`.
pub fn kernel(ctx: &Ctx, args: &KernelArgs) -> Result<()> {
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    let kernel = kernel::prepare(ctx, &host)?;
    if args.twice {
        kernel::check_reproducible(ctx, &host, &kernel)?;
    }
    for path in [&kernel.vmlinux, &kernel.system_map, &kernel.config] {
        println!("{}", path.display());
    }
    Ok(())
}

/// `cargo xtask images`.
pub fn images(ctx: &Ctx) -> Result<()> {
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    let archives = images::prepare(ctx, &host, Scope::All)?;
    let tools = toolchain::prepare(ctx, &host)?;
    let agent = guest::agent(ctx, &host, &tools)?;
    let initramfs = guest::initramfs(ctx, &agent)?;
    println!("{}", initramfs.display());
    for (name, path) in archives {
        println!("{}\t{}", path.display(), images::reference(name));
    }
    Ok(())
}

/// `cargo xtask build`.
pub fn build(ctx: &Ctx, args: &BuildArgs) -> Result<()> {
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    match args.target {
        Target::Host => println!("{}", host_programs(ctx)?.display()),
        Target::Guest => {
            let tools = toolchain::prepare(ctx, &host)?;
            println!("{}", guest::agent(ctx, &host, &tools)?.display());
        }
        Target::Ppc64le => {
            let tools = toolchain::prepare(ctx, &host)?;
            let packages: Vec<&str> = HOST_PACKAGES.iter().flat_map(|name| ["-p", name]).collect();
            println!("{}", guest::cargo_build(ctx, &tools, "ppc64le", &packages, Linkage::Dynamic)?.display());
        }
    }
    Ok(())
}

/// `cargo xtask env`.
pub fn env(ctx: &Ctx, args: &EnvArgs) -> Result<()> {
    for (name, path) in Products::prepare_locked(ctx, Scope::of_tests(args.all))?.variables {
        println!("export {name}='{}'", path.display());
    }
    Ok(())
}

/// `cargo xtask demo`: the end-to-end crate has the private containerd, its program `demo` uses it.
pub fn demo(ctx: &Ctx) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo starts containerd, which needs root: run it as root");
    let products = Products::prepare(ctx, Scope::Demo)?;
    let mut cargo = guest::cargo(ctx);
    cargo.args(["run", "--quiet", "--release", "-p", "paperboat-e2e", "--bin", "demo"]);
    products.apply(&mut cargo);
    let status = cargo.status().context("run the demo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask difftest`.
pub fn difftest(ctx: &Ctx, args: &DifftestArgs) -> Result<ExitCode> {
    setup::ensure_packages(ctx, &Host::detect()?)?;
    let mut cargo = guest::cargo(ctx);
    cargo.args(["run", "--quiet", "--release", "-p", "paperboat-difftest", "--"]).args(&args.options);
    let status = cargo.status().context("run the differential tester")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask clean`.
pub fn clean(ctx: &Ctx) -> Result<()> {
    let freed = ctx.cache.clean()?;
    ctx.ui.line("clean", &format!("removed {} from {}", ui::size(freed), ctx.cache.root().display()));
    Ok(())
}

/// Builds shim, machine and operator's command for this machine; returns the directory they are in.
fn host_programs(ctx: &Ctx) -> Result<PathBuf> {
    ctx.ui.line("programs", "cargo build for this machine");
    let mut cargo = guest::cargo(ctx);
    cargo.args(["build", "--release", "--bins"]).args(HOST_PACKAGES.iter().flat_map(|name| ["-p", name]));
    let log = Log::create(ctx.cache.logs().join("programs-build.log"))?;
    log.run(&mut cargo, Some(&mut ctx.ui.progress("programs", None)))?;
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => ctx.root.join(dir),
        None => ctx.root.join("target"),
    };
    let programs = target.join("release");
    fs::canonicalize(&programs).with_context(|| format!("find {}", programs.display()))
}
