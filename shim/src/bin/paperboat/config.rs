//! `paperboat config`.

use std::path::Path;
use std::process::ExitCode;

use paperboat_shim::config::{Config, ConfigError, Setting};
use serde_json::json;

use crate::cli::{Cli, ConfigAction, ConfigArguments};
use crate::failure::Failure;
use crate::pods;
use crate::table;

/// Prints, checks or explains.
pub fn run(cli: &Cli, arguments: &ConfigArguments) -> Result<ExitCode, Failure> {
    match &arguments.action {
        ConfigAction::Default => table::print(&Config::default().document())?,
        ConfigAction::Check { file } => return check(cli, file.as_deref()),
        ConfigAction::Show { pod: None } => show(cli, &Config::load(cli.config.as_deref())?.settings())?,
        ConfigAction::Show { pod: Some(pod) } => {
            let config = Config::load(cli.config.as_deref())?;
            show(cli, &pods::find(&config, pod)?.note.settings)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(cli: &Cli, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let (path, checked) = match file {
        Some(path) => (path.to_owned(), Config::check_file(path)),
        None => (Config::path(cli.config.as_deref()), Config::load(cli.config.as_deref())),
    };
    match checked {
        Ok(_) if cli.json => table::print_json(&json!({"file": path, "good": true}))?,
        Ok(_) => table::print(&format!("{}: good\n", path.display()))?,
        Err(error) if cli.json => {
            let place = match &error {
                ConfigError::Parse { source, .. } => source.location(),
                _ => None,
            };
            table::print_json(&json!({
                "file": path,
                "good": false,
                "line": place.as_ref().map(|place| place.line()),
                "column": place.as_ref().map(|place| place.column()),
                "error": error.to_string(),
            }))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(cli: &Cli, settings: &[Setting]) -> Result<(), Failure> {
    if cli.json {
        return table::print_json(&settings);
    }
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|setting| vec![setting.key.clone(), table::harmless(&setting.value), table::harmless(&setting.origin)])
        .collect();
    table::print(&table::format(&[("KEY", false), ("VALUE", false), ("FROM", false)], &rows))
}
