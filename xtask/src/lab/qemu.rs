//! The emulator, in a version that emulates hypervisor mode well: unpacked into a private prefix with the libraries it was built with, and
//! started by their own loader, so that the machine's release does not matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::lifeline;
use crate::apt::{AptRoot, Suite};
use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::run::capture;
use crate::setup::Host;

/// The release whose QEMU runs the lab.
const RELEASE: &str = "trixie";
/// Oldest QEMU that is taken.
const MAJOR_MIN: u32 = 9;
/// What is needed of the packages: the rest are package managers and their helpers.
const PACKAGES: &[&str] = &["qemu-system-ppc"];

/// The program in its package.
const PROGRAM: &str = "usr/bin/qemu-system-ppc64";
/// Raised when the way it is unpacked changes.
const RECIPE: &str = "1";

/// The emulator.
pub struct Qemu {
    loader: PathBuf,
    libraries: PathBuf,
    prefix: PathBuf,
}

impl Qemu {
    /// Unpacks or finds it.
    pub fn prepare(ctx: &Ctx, host: &Host) -> Result<Self> {
        let apt = AptRoot::open(ctx, Suite { release: RELEASE.into(), arch: host.arch.clone(), security: true })?;
        let debs = apt.closure(PACKAGES)?;
        let inputs = Inputs::new().with("recipe", RECIPE);
        let inputs = debs.iter().fold(inputs, |inputs, deb| inputs.with(&deb.file, &deb.sha256));
        let triplet = if host.is_power() { "powerpc64le-linux-gnu" } else { "x86_64-linux-gnu" };
        let dir = ctx.step("lab-qemu", &inputs, None, |step| {
            apt.fetch(&debs)?;
            apt.unpack(&debs, &step.stage)?;
            ignore_modules(&step.stage.join(PROGRAM), triplet)
        })?;
        let libraries = dir.join("usr/lib").join(triplet);
        let loader = fs::read_dir(&libraries)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld")))
            .filter(|path| path.to_string_lossy().contains(".so"))
            .context("the C library has no loader")?;
        let qemu = Self { loader, libraries, prefix: dir.join("usr") };
        qemu.check_version()?;
        Ok(qemu)
    }

    /// A command that starts it, without arguments; it ends with its lifeline.
    pub fn command(&self) -> Command {
        self.with_libraries(lifeline::guarded(&self.loader))
    }

    fn with_libraries(&self, mut command: Command) -> Command {
        command.arg("--library-path").arg(&self.libraries).arg(self.prefix.join("..").join(PROGRAM));
        command.arg("-L").arg(self.firmware());
        command
    }

    fn firmware(&self) -> PathBuf {
        self.prefix.join("share/qemu")
    }

    fn check_version(&self) -> Result<()> {
        let text = capture(self.with_libraries(Command::new(&self.loader)).arg("--version"))?;
        let major = text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
        ensure!(major.is_some_and(|major| major >= MAJOR_MIN), "the lab needs QEMU {MAJOR_MIN} or later, this one says: {text}");
        let firmware = self.firmware().join("skiboot.lid");
        ensure!(firmware.exists(), "QEMU's packages lack {}", firmware.display());
        Ok(())
    }
}

/// Debian's build looks for its modules at a fixed place, where those of another QEMU that this machine has installed end it. The lab needs none:
/// the name is changed to one of the same length that nothing has.
fn ignore_modules(program: &Path, triplet: &str) -> Result<()> {
    let name = format!("/usr/lib/{triplet}/qemu\0").into_bytes();
    let mut bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let found: Vec<usize> = (0..bytes.len().saturating_sub(name.len())).filter(|at| bytes[*at..].starts_with(&name)).collect();
    ensure!(!found.is_empty(), "QEMU's program does not name the directory of its modules: the lab's recipe does not fit it");
    for at in found {
        let end = at + name.len() - 1;
        bytes[end - 4..end].copy_from_slice(b"none");
    }
    fs::write(program, bytes).with_context(|| format!("write {}", program.display()))
}
