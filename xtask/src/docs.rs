//! Holds the documentation to the program: every `cargo xtask` in a shell block must be a command that exists.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::cli::Cli;

/// Lines of the shell blocks of a page.
fn shell_lines(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.trim().strip_prefix("```") {
            inside = !inside && language == "sh";
        } else if inside {
            lines.push(line.trim());
        }
    }
    lines
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|ext| ext == "md")));
    pages
}

#[test]
fn documented_chores_exist() {
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in shell_lines(&text) {
            let Some((_, words)) = line.split_once("cargo xtask ") else { continue };
            let words = words.split(')').next().unwrap_or_default().split_whitespace();
            let parsed = Cli::try_parse_from(std::iter::once("xtask").chain(words));
            assert!(parsed.is_ok(), "{}: {line}: {}", page.display(), parsed.err().unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} commands found");
}

#[test]
fn linked_files_exist() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {link}", page.display());
        }
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    for chore in Cli::command().get_subcommands() {
        let help = chore.get_long_about().map(|text| text.to_string()).unwrap_or_default();
        assert!(
            help.contains("ake") && help.contains("ache"),
            "{} does not say how long it takes and what it caches",
            chore.get_name()
        );
    }
}
