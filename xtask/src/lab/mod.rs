//! The POWER lab: a whole bare-metal POWER machine under emulation, with KVM-HV, containerd and Paperboat's programs for ppc64le.
//!
//! | file | what |
//! |---|---|
//! | `qemu.rs` | the emulator |
//! | `rootfs.rs`, `init.sh`, `system.sh` | what the lab boots |
//! | `programs.rs` | what it is given to run |
//! | `session.rs`, `terminal.rs` | a running lab: jobs, console, end |
//! | `lifeline.rs` | what ends it when its chore is killed |
//! | `suite.rs`, `cases.rs`, `engine.sh`, `says.sh`, `hosts.sh`, `unable.sh`, `boot.sh`, `container.sh`, `stock.sh` | the tests |
//! | `report.rs` | what they came to |
//! | `figures.rs`, `figures.sh` | the benchmark |

mod cases;
mod figures;
mod lifeline;
mod programs;
mod qemu;
mod report;
mod rootfs;
mod session;
mod suite;
mod terminal;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

pub use figures::measure;
pub use suite::{stage, suites};

use crate::cli::{LabArgs, LabChore, LabMachine};
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::setup::{self, Host};
use lifeline::Lifeline;
use programs::Programs;
use qemu::Qemu;
use session::Session;

/// How long copying the programs into the lab may take.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// A lab that this process has booted; it ends with this value, and with this process.
struct Booted<'a> {
    ctx: &'a Ctx,
    session: Session,
    /// Until it is to stay.
    lifeline: Option<Lifeline>,
}

impl<'a> Booted<'a> {
    /// Boots it with those of the programs whose names in the lab are `wanted`.
    fn new(ctx: &'a Ctx, machine: LabMachine, programs: &Programs, wanted: impl Fn(&str) -> bool, parts: &Parts) -> Result<Self> {
        Self::of(ctx, Session::of(ctx, machine), programs, wanted, parts)
    }

    /// The same with a session of a certain kind.
    fn of(ctx: &'a Ctx, session: Session, programs: &Programs, wanted: impl Fn(&str) -> bool, parts: &Parts) -> Result<Self> {
        session.ensure_down()?;
        programs.publish(&session.products(), wanted)?;
        let lifeline = Some(session.boot(ctx, &parts.qemu, &parts.guest)?);
        let booted = Self { ctx, session, lifeline };
        // To the lab's own disk, where running them does not go through the share.
        booted.session.must("copying the programs", "cp -r /lab/products/. /opt/paperboat/", COPY_LIMIT)?;
        Ok(booted)
    }

    /// The lab stays when this process is gone.
    fn stay(mut self) -> Result<()> {
        self.lifeline.take().map_or(Ok(()), Lifeline::let_go)
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        let Some(lifeline) = self.lifeline.take() else { return };
        let ended = self.session.end();
        if ended.is_ok() {
            // The guard may have gone with it.
            let _ = lifeline.let_go();
        }
        match ended {
            Ok(true) => self.ctx.ui.line("lab", "ended"),
            Ok(false) => {}
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
}

/// What a lab boots.
struct Parts {
    qemu: Qemu,
    guest: rootfs::Guest,
}

impl Parts {
    fn prepare(ctx: &Ctx, host: &Host, machine: LabMachine, more: &[&str]) -> Result<Self> {
        Ok(Self { qemu: Qemu::prepare(ctx, host)?, guest: rootfs::prepare(ctx, machine, more)? })
    }
}

/// `cargo xtask lab …`.
pub fn run(ctx: &Ctx, args: &LabArgs) -> Result<ExitCode> {
    let machine = args.machine.unwrap_or(LabMachine::Powernv9);
    let session = Session::of(ctx, machine);
    match &args.chore {
        LabChore::Up => up(ctx, machine, session)?,
        LabChore::Run { command, seconds } => {
            ensure!(!command.is_empty(), "give a command after `--`");
            let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
            let done =
                session.run(&words.join(" "), Duration::from_secs(*seconds), Some(&mut std::io::stdout() as &mut dyn Write))?;
            return Ok(ExitCode::from(u8::try_from(done.status).unwrap_or(u8::MAX)));
        }
        LabChore::Shell => session.shell()?,
        LabChore::Down => {
            let what = if session.end()? { "ended" } else { "was not up" };
            ctx.ui.line("lab", what);
        }
        LabChore::Test { all } => return suite::run(ctx, args.machine, *all),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(ctx: &Ctx, machine: LabMachine, session: Session) -> Result<()> {
    session.ensure_down()?;
    let (programs, parts) = {
        let _lock = ctx.lock()?;
        let host = Host::detect()?;
        setup::ensure_packages(ctx, &host)?;
        // Every test that can run here; what needs most is part of `test --all`.
        let given = |name: &str| name.starts_with("tests/");
        (Programs::prepare(ctx, &host, given, Scope::Routine)?, Parts::prepare(ctx, &host, machine, &[])?)
    };
    Booted::of(ctx, session, &programs, |_| true, &parts)?.stay()?;
    ctx.ui.line("lab", "`cargo xtask lab run -- COMMAND`, `cargo xtask lab shell`, `cargo xtask lab down`");
    Ok(())
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_labs_shell_as_they_are() {
        for word in ["a b", "it's", "$HOME", ""] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
