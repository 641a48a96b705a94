//! Container engines for demo and tests, unpacked into private prefixes: the machine's own ones are not touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::apt::{AptRoot, Suite};
use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::setup::Host;

/// How many of the engines a chore needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// One container through containerd.
    Demo,
    /// What `cargo xtask test` runs.
    Routine,
    /// What `cargo xtask test --all` runs.
    All,
}

impl Scope {
    /// What tests need, all of them or the usual ones.
    pub fn of_tests(all: bool) -> Self {
        if all { Self::All } else { Self::Routine }
    }
}

/// An engine: packages of one release in one prefix.
struct Engine {
    /// Name of the step, of its link in `products/`.
    name: &'static str,
    /// Debian's release; the machine's own without one.
    release: Option<&'static str>,
    packages: &'static [&'static str],
    /// The smallest scope that needs it.
    scope: Scope,
    /// The variable that tells where `directory` is.
    variable: &'static str,
    /// Directory in the prefix that the variable names.
    directory: &'static str,
    /// Programs below it; the first is asked for its version, which also proves that it runs with this machine's C library.
    programs: &'static [&'static str],
}

const ENGINES: &[Engine] = &[
    // The first engine: the last line of containerd with Task API v2 as the newest.
    Engine {
        name: "containerd",
        release: Some("trixie"),
        packages: &["containerd"],
        scope: Scope::Demo,
        variable: "PAPERBOAT_CONTAINERD_BIN",
        directory: "usr/bin",
        programs: &["containerd", "ctr"],
    },
    // For comparison. A runc of a newer release needs a newer C library than this machine has.
    Engine {
        name: "runc",
        release: None,
        packages: &["runc"],
        scope: Scope::Demo,
        variable: "PAPERBOAT_RUNC_BIN",
        directory: "usr/sbin",
        programs: &["runc"],
    },
    Engine {
        name: "containerd-1.6",
        release: Some("bookworm"),
        packages: &["containerd"],
        scope: Scope::Routine,
        variable: "PAPERBOAT_CONTAINERD_1_6_BIN",
        directory: "usr/bin",
        programs: &["containerd", "ctr"],
    },
    Engine {
        name: "containerd-2",
        release: Some("forky"),
        packages: &["containerd"],
        scope: Scope::Routine,
        variable: "PAPERBOAT_CONTAINERD_2_BIN",
        directory: "usr/bin",
        programs: &["containerd", "ctr"],
    },
    Engine {
        name: "cni",
        release: None,
        packages: &["containernetworking-plugins"],
        scope: Scope::Routine,
        variable: "PAPERBOAT_CNI_BIN",
        directory: "usr/lib/cni",
        programs: &["loopback", "bridge", "host-local", "portmap"],
    },
    // `tini` has docker-init.
    Engine {
        name: "docker-26",
        release: Some("trixie"),
        packages: &["docker.io", "docker-cli", "docker-compose", "tini"],
        scope: Scope::Routine,
        variable: "PAPERBOAT_DOCKER_26",
        directory: "usr",
        programs: &["sbin/dockerd", "sbin/docker-proxy", "bin/docker", "bin/tini-static"],
    },
    Engine {
        name: "docker-28",
        release: Some("forky"),
        packages: &["docker.io", "docker-cli", "docker-compose", "tini-static"],
        scope: Scope::All,
        variable: "PAPERBOAT_DOCKER_28",
        directory: "usr",
        programs: &["sbin/dockerd", "sbin/docker-proxy", "bin/docker", "bin/tini-static"],
    },
];

/// Unpacks or finds the engines of `scope`; returns each with the variable that tells where it is.
pub fn prepare(ctx: &Ctx, host: &Host, scope: Scope) -> Result<Vec<(&'static str, PathBuf)>> {
    let wanted = ENGINES.iter().filter(|engine| engine.scope <= scope);
    wanted.map(|engine| Ok((engine.variable, unpack(ctx, host, engine)?))).collect()
}

fn unpack(ctx: &Ctx, host: &Host, engine: &Engine) -> Result<PathBuf> {
    let release = engine.release.unwrap_or(&host.release);
    let apt = AptRoot::open(ctx, Suite { release: release.to_owned(), arch: host.arch.clone(), security: true })?;
    let debs = apt.packages(engine.packages)?;
    let inputs = debs.iter().fold(Inputs::new(), |inputs, deb| inputs.with(&deb.file, &deb.sha256));
    let prefix = ctx.step(engine.name, &inputs, None, |step| {
        apt.fetch(&debs)?;
        apt.unpack(&debs, &step.stage)?;
        let directory = step.stage.join(engine.directory);
        check_programs(&directory, engine.programs)?;
        let version = step.log.output(Command::new(directory.join(engine.programs[0])).arg("--version"))?;
        let version = String::from_utf8_lossy(&version);
        ctx.ui.line(engine.name, version.lines().next().unwrap_or("runs"));
        Ok(())
    })?;
    Ok(ctx.cache.publish(engine.name, &prefix)?.join(engine.directory))
}

fn check_programs(directory: &Path, programs: &[&str]) -> Result<()> {
    for program in programs.iter().map(|program| directory.join(program)) {
        ensure!(program.exists(), "the package lacks {}", program.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_a_name_and_a_variable_of_its_own() {
        for (index, engine) in ENGINES.iter().enumerate() {
            assert!(!engine.programs.is_empty(), "{}", engine.name);
            for other in &ENGINES[..index] {
                assert!(engine.name != other.name && engine.variable != other.variable, "{}", engine.name);
            }
        }
    }
}
