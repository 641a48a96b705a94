//! Programs that ask a file system what it does, talk over vsock, and misuse devices, for guest and host from the same sources.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::guest;
use crate::setup::Host;

/// Their sources in `images/`.
const PROGRAMS: [&str; 5] = ["misuse", "posix", "posix-data", "shuffle", "talk"];
/// They ask for much whose answer they tell by other means.
const FLAGS: &[&str] = &["-O2", "-Wno-unused-result"];

/// Compiles them: `guest/NAME` and `host/NAME` in the directory that is returned.
pub fn prepare(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let mut files = Vec::new();
    for name in PROGRAMS {
        files.push((format!("guest/{name}"), guest::c_program(ctx, host, name, FLAGS)?));
        files.push((format!("host/{name}"), guest::native_c_program(ctx, name, FLAGS)?));
    }
    let inputs = files.iter().try_fold(Inputs::new(), |inputs, (_, path)| inputs.with_file(path))?;
    let dir = ctx.step("probes", &inputs, None, |step| {
        for (name, path) in &files {
            let target = step.stage.join(name);
            fs::create_dir_all(target.parent().context("a file has a directory")?)?;
            fs::copy(path, &target).with_context(|| format!("copy {}", path.display()))?;
        }
        Ok(())
    })?;
    ctx.cache.publish("probes", &dir)
}

/// The guest's, by the names that they have below the directory: both sides of a POWER machine.
pub fn on_power(ctx: &Ctx, host: &Host) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for name in PROGRAMS {
        let program = guest::c_program(ctx, host, name, FLAGS)?;
        files.extend(["guest", "host"].map(|side| (format!("probes/{side}/{name}"), program.clone())));
    }
    Ok(files)
}
