//! `paperboat check`.

use std::process::ExitCode;

use paperboat_shim::check::{self, Finding, Verdict};
use paperboat_shim::config::Config;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::table;

/// Prints what was found; fails when pods cannot start.
pub fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let findings = check::check(&config);
    if cli.json {
        table::print_json(&findings)?;
    } else {
        table::print(&text(&findings, table::colours()))?;
    }
    let good = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(findings: &[Finding], colours: bool) -> String {
    const GREEN: u8 = 32;
    const YELLOW: u8 = 33;
    const RED: u8 = 31;
    let mut text = String::new();
    for Finding { what, verdict, detail, cure } in findings {
        let (word, colour) = match verdict {
            Verdict::Good => ("ok  ", GREEN),
            Verdict::Note => ("note", YELLOW),
            Verdict::Bad => ("FAIL", RED),
        };
        text.push_str(&format!("{} {what}: {detail}\n", table::coloured(word, colour, colours)));
        if let Some(cure) = cure {
            text.push_str(&format!("     cure: {cure}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_miss_has_its_cure_below_it() {
        let finding = Finding { what: "kernel", verdict: Verdict::Bad, detail: "gone".into(), cure: Some("build it".into()) };
        assert_eq!(text(std::slice::from_ref(&finding), false), "FAIL kernel: gone\n     cure: build it\n");
        assert!(text(&[finding], true).starts_with("\x1b[31mFAIL\x1b[0m kernel"));
    }
}
