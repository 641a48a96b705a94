//! Version, completions and manual pages: all made from [`crate::cli`].

use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;
use serde_json::json;

use crate::cli::{Cli, CompletionsArguments, ManArguments};
use crate::failure::Failure;
use crate::table;

/// Prints the version.
pub fn version(cli: &Cli) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if cli.json {
        let protocol = paperboat_protocol::PROTOCOL_VERSION;
        table::print_json(&json!({"version": version, "protocol": protocol, "runtime": paperboat_shim::RUNTIME_NAME}))?;
    } else {
        table::print(&format!("paperboat {version}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a completion script.
pub fn completions(arguments: &CompletionsArguments) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "paperboat", &mut script);
    table::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manual pages, one for the command and one for each of its commands.
pub fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    let Some(directory) = &arguments.dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(Failure::Output)?;
        table::print(&String::from_utf8_lossy(&page))?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(directory).map_err(|error| Failure::file(directory, error))?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(|error| Failure::file(directory, error))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        man(&ManArguments { dir: Some(directory.path().join("man1")) }).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = directory.path().join(format!("man1/paperboat-{}.1", command.get_name()));
            assert!(std::fs::read_to_string(&page).is_ok_and(|text| text.contains(".TH")), "{}", page.display());
        }
        assert!(directory.path().join("man1/paperboat.1").exists());
    }
}
