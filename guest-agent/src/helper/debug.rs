//! The helper that becomes a program of the debug console: in the guest itself, with all that PID 1 may do.

use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use nix::unistd::{chdir, setsid};
use serde::{Deserialize, Serialize};

use super::HelperError;
use super::program::ProgramError;
use crate::sys;

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebugOrder {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// Its environment, `NAME=value` each.
    pub environment: Vec<String>,
    /// Whether standard input is a terminal, to be the controlling one.
    pub terminal: bool,
}

/// Runs it. Returns only its failure; while it runs, this process is the program.
///
/// # Errors
/// [`HelperError`] names what could not be done.
pub fn run(order: &DebugOrder) -> Result<std::convert::Infallible, HelperError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source: std::io::Error| HelperError::Call { what, source }
    };
    setsid().map_err(|errno| failed("setsid")(errno.into()))?;
    if order.terminal {
        sys::set_controlling_terminal(std::io::stdin().as_fd()).map_err(failed("controlling terminal"))?;
    }
    chdir("/").map_err(|errno| failed("chdir /")(errno.into()))?;
    sys::close_on_exec_from_3().map_err(failed("closing descriptors"))?;
    let c_string = |text: &str| CString::new(text).map_err(|_| HelperError::Value { field: "args", value: format!("{text:?}") });
    let strings = |texts: &[String]| texts.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>();
    if order.args.is_empty() {
        return Err(ProgramError::NoArguments.into());
    }
    let shown = order.program.display().to_string();
    let errno = sys::execve(&c_string(&shown)?, &strings(&order.args)?, &strings(&order.environment)?);
    Err(failed(&shown)(errno.into()))
}
