//! The compiler for the guest.
//!
//! Rust's own distribution offers ppc64le's standard library only by download; Debian's backported compiler comes
//! with the library's source, under apt's signatures. The compiler is unpacked into a private prefix, its standard
//! library is compiled for ppc64le once, and the result is used like any toolchain: no nightly flags afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{AptRoot, Suite};
use crate::cache::{Inputs, remove_tree};
use crate::ctx::{Ctx, Step};
use crate::run::capture;
use crate::setup::Host;

/// The guest's target.
pub const GUEST_TARGET: &str = "powerpc64le-unknown-linux-gnu";
/// Raised when the way the prefix is made changes.
const RECIPE: &str = "4";
/// How many lines unpacking and compiling print.
const USUAL_LINES: u64 = 45;

/// The compiler, the linker and the C libraries for the guest.
pub struct Toolchain {
    /// `None` on ppc64le, where the machine's own compiler does.
    rustc: Option<PathBuf>,
    /// Static C libraries of ppc64el.
    libs: PathBuf,
}

/// Makes or finds the toolchain.
pub fn prepare(ctx: &Ctx, host: &Host) -> Result<Toolchain> {
    let libs = libraries(ctx, host)?;
    if host.is_power() {
        return Ok(Toolchain { rustc: None, libs });
    }
    let apt = AptRoot::open(ctx, Suite { release: host.release.clone(), arch: host.arch.clone(), security: true })?;
    let version = apt.candidate("rustc-web")?;
    // libstd-rust-web-1.96 holds the compiler's own libraries; its name carries the version.
    let libstd = apt
        .depends("libstd-rust-web-dev")?
        .into_iter()
        .find(|name| name.starts_with("libstd-rust-web-"))
        .context("libstd-rust-web-dev depends on no libstd-rust-web-VERSION")?;
    let llvm = apt
        .depends(&libstd)?
        .into_iter()
        .find(|name| name.starts_with("libllvm"))
        .with_context(|| format!("{libstd} depends on no libllvm"))?;
    let pinned = ["rustc-web", "libstd-rust-web-dev", "rust-web-src", &libstd].map(|name| format!("{name}={version}"));
    let mut names: Vec<&str> = pinned.iter().map(String::as_str).collect();
    names.push(&llvm);
    let debs = apt.packages(&names)?;

    let mut inputs = Inputs::new().with("recipe", RECIPE).with("rustc", &version);
    for deb in &debs {
        inputs = inputs.with(&deb.file, &deb.sha256);
    }
    let dir = ctx.step("toolchain", &inputs, Some(USUAL_LINES), |step| {
        apt.fetch(&debs)?;
        let prefix = step.stage.join("usr");
        apt.unpack(&debs, &step.stage)?;
        wrap_compilers(&prefix)?;
        build_std(step, &prefix)
    })?;
    Ok(Toolchain { rustc: Some(dir.join("usr/bin/rustc")), libs })
}

impl Toolchain {
    /// Prepares `command` (a cargo) to build for the guest's architecture.
    pub fn apply(&self, command: &mut Command, linkage: Linkage) {
        let upper = GUEST_TARGET.to_uppercase().replace('-', "_");
        let under = GUEST_TARGET.replace('-', "_");
        let mut flags = Vec::new();
        // Paths of this machine do not belong into binaries. Those of the workspace are relative already.
        if let Some(home) = cargo_home() {
            flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
        }
        if linkage == Linkage::Static {
            flags.push("-C target-feature=+crt-static".into());
        }
        command.env(format!("CARGO_TARGET_{upper}_RUSTFLAGS"), flags.join(" "));
        if let Some(rustc) = &self.rustc {
            command
                .env("RUSTC", rustc)
                .env("RUSTDOC", rustc.with_file_name("rustdoc"))
                .env(format!("CARGO_TARGET_{upper}_LINKER"), "powerpc64le-linux-gnu-gcc")
                .env(format!("CARGO_TARGET_{upper}_RUNNER"), "qemu-ppc64le-static")
                .env(format!("CC_{under}"), "powerpc64le-linux-gnu-gcc")
                .env(format!("AR_{under}"), "powerpc64le-linux-gnu-ar");
        }
        command.env("LIBSECCOMP_LINK_TYPE", "static").env("LIBSECCOMP_LIB_PATH", &self.libs);
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC_WRAPPER").env_remove("CARGO_ENCODED_RUSTFLAGS");
    }

    /// Prefix of the C tools: empty on ppc64le.
    pub fn cross_compile(host: &Host) -> &'static str {
        if host.is_power() { "" } else { "powerpc64le-linux-gnu-" }
    }
}

/// How a guest binary finds its C library.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Contains it: the agent is alone in its initramfs.
    Static,
    /// Loads it: programs for ppc64le hosts.
    Dynamic,
}

/// C libraries of ppc64el that the agent contains, of the release whose C library the cross compiler has.
fn libraries(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let apt = AptRoot::open(ctx, Suite { release: host.release.clone(), arch: "ppc64el".into(), security: false })?;
    let debs = apt.packages(&["libseccomp-dev"])?;
    let mut inputs = Inputs::new();
    for deb in &debs {
        inputs = inputs.with(&deb.file, &deb.sha256);
    }
    let dir = ctx.step("guest-libs", &inputs, None, |step| {
        apt.fetch(&debs)?;
        apt.unpack(&debs, &step.stage)
    })?;
    let libs = dir.join("usr/lib/powerpc64le-linux-gnu");
    ensure!(libs.join("libseccomp.a").exists(), "libseccomp-dev has no static library");
    Ok(libs)
}

/// The compiler's libraries are not where the system looks: a wrapper says where.
fn wrap_compilers(prefix: &Path) -> Result<()> {
    for tool in ["rustc", "rustdoc"] {
        let path = prefix.join("bin").join(tool);
        fs::rename(&path, path.with_extension("real")).with_context(|| format!("rename {}", path.display()))?;
        let script = format!(
            "#!/bin/sh\nprefix=$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")\n\
             export LD_LIBRARY_PATH=\"$prefix/lib/$(uname -m)-linux-gnu${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n\
             exec \"$prefix/bin/{tool}.real\" --sysroot \"$prefix\" \"$@\"\n"
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Compiles the standard library for the guest and puts it beside the host's.
fn build_std(step: &mut Step, prefix: &Path) -> Result<()> {
    let source = prefix.join("lib/rustlib/src/rust");
    let vendor = source.join("library/vendor");
    ensure!(vendor.exists(), "rust-web-src comes without the library's dependencies: {}", vendor.display());
    let seed = step.stage.join("seed");
    fs::create_dir_all(seed.join("src"))?;
    // An empty program in a workspace of its own: only its standard library is wanted.
    fs::write(seed.join("src/lib.rs"), "#![no_std]\n")?;
    fs::write(seed.join("Cargo.toml"), "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n")?;
    let remap = format!("--remap-path-prefix={}=/rust", fs::canonicalize(&source)?.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&seed)
        .env("RUSTC", prefix.join("bin/rustc"))
        // The standard library's unstable parts, with a stable compiler: this is how it is always built.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", seed.join("target"))
        // With bitcode in the library, the agent can be optimised as a whole.
        .env("RUSTFLAGS", format!("{remap} -Cembed-bitcode=yes"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--release", "--offline", "-Zbuild-std=std,proc_macro,test,panic_abort,panic_unwind"])
        .args(["--target", GUEST_TARGET])
        .args(["--config", "source.crates-io.replace-with=\"vendored\""])
        .args(["--config", &format!("source.vendored.directory=\"{}\"", vendor.display())]);
    step.log.run(&mut command, Some(&mut step.progress))?;

    let libs = prefix.join("lib/rustlib").join(GUEST_TARGET).join("lib");
    fs::create_dir_all(&libs)?;
    for entry in fs::read_dir(seed.join("target").join(GUEST_TARGET).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_library = name.ends_with(".rlib") || name.ends_with(".rmeta");
        if is_library && !name.starts_with("libseed-") && !name.starts_with("libpanic_abort-") {
            fs::copy(&path, libs.join(&name))?;
        }
    }
    remove_tree(&seed)?;
    // Cargo compiles the whole library to unwind; the runtime of programs that abort must itself abort.
    let mut abort = Command::new(prefix.join("bin/rustc"));
    abort
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["--crate-name=panic_abort", "--edition=2024", "--crate-type=rlib", "--target", GUEST_TARGET])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Cembed-bitcode=yes", "-Cmetadata=abort", "-Cextra-filename=-abort"])
        .args(["-Zforce-unstable-if-unmarked", "--cap-lints=allow", &remap, "--out-dir"])
        .arg(&libs)
        .arg(source.join("library/panic_abort/src/lib.rs"));
    step.log.run(&mut abort, Some(&mut step.progress))?;
    // The sources have done their work: 600 MB.
    remove_tree(&fs::canonicalize(&source)?)?;
    remove_tree(&source)?;
    capture(Command::new(prefix.join("bin/rustc")).args(["--target", GUEST_TARGET, "--print", "cfg"]))
        .context("the unpacked compiler does not run")?;
    Ok(())
}

fn cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Some(home.into()),
        None => std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")),
    }
}
