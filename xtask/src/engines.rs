//! Container engines for demo and tests, unpacked into a private prefix: the machine's own ones are not touched.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::apt::{AptRoot, Suite};
use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::setup::Host;

/// The release whose containerd (1.7) is the first engine Paperboat is tested with.
const RELEASE: &str = "trixie";

/// The programs of the engine set.
pub struct Engines {
    /// Directory that holds containerd, its default shim and ctr.
    pub containerd_bin: PathBuf,
    /// Directory that holds runc, for comparison.
    pub runc_bin: PathBuf,
}

/// Unpacks or finds the engines.
pub fn prepare(ctx: &Ctx, host: &Host) -> Result<Engines> {
    let containerd = unpack(ctx, "containerd", RELEASE, host, "containerd")?;
    // A runc of a newer release needs a newer C library than this machine has.
    let runc = unpack(ctx, "runc", &host.release, host, "runc")?;
    let engines = Engines {
        containerd_bin: ctx.cache.publish("containerd", &containerd)?.join("usr/bin"),
        runc_bin: ctx.cache.publish("runc", &runc)?.join("usr/sbin"),
    };
    for program in [engines.containerd_bin.join("containerd"), engines.containerd_bin.join("ctr"), engines.runc_bin.join("runc")]
    {
        ensure!(program.exists(), "the package lacks {}", program.display());
    }
    Ok(engines)
}

fn unpack(ctx: &Ctx, name: &str, release: &str, host: &Host, package: &str) -> Result<PathBuf> {
    let apt = AptRoot::open(ctx, Suite { release: release.to_owned(), arch: host.arch.clone(), security: true })?;
    let debs = apt.packages(&[package])?;
    let inputs = debs.iter().fold(Inputs::new(), |inputs, deb| inputs.with(&deb.file, &deb.sha256));
    ctx.step(name, &inputs, None, |step| {
        apt.fetch(&debs)?;
        apt.unpack(&debs, &step.stage)
    })
}
