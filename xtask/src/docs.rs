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

/// Whether every option in `words` is a field of the machine's command line.
fn are_machine_options(words: &str) -> bool {
    let sources = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../microvm/src/cli")).unwrap();
    let fields: String = sources.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let mut options = words.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    options.all(|option| fields.contains(&format!("    {}: ", option.replace('-', "_"))))
}

/// Whether the words begin with a target of the fuzzer.
fn is_fuzz_target(words: &str) -> bool {
    let targets = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../microvm/fuzz/src/lib.rs")).unwrap();
    words.split_whitespace().next().is_some_and(|target| targets.contains(&format!("name: \"{target}\"")))
}

/// Pages whose shell blocks `e2e/tests/docs.rs` runs as they stand.
const FOLLOWED: [&str; 4] = ["configuration.md", "first-pod.md", "install.md", "troubleshooting.md"];

/// Pages whose commands need a network or an engine set up for them, with the tests that do the same in their own way.
const TESTED: [(&str, &str); 3] = [("docker.md", "docker/main.rs"), ("network.md", "network.rs"), ("runtime.md", "thin_cut.rs")];

#[test]
fn every_command_is_run_or_checked() {
    for (page, test) in TESTED {
        let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tests").join(test);
        assert!(test.exists(), "{page}: {} is gone", test.display());
    }
    let followed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tests/docs.rs")).unwrap();
    for page in FOLLOWED {
        assert!(followed.contains(&format!("\"{page}\"")), "e2e/tests/docs.rs does not follow {page}");
    }
    for page in pages() {
        let is_page = |name: &&str| page.file_name().is_some_and(|file| file == *name);
        if FOLLOWED.iter().any(is_page) || TESTED.iter().any(|(name, _)| is_page(name)) {
            continue;
        }
        for line in shell_lines(&std::fs::read_to_string(&page).unwrap()) {
            // The first kind is parsed here, the second by the tests of the command itself; the machine's options must exist.
            let known = line.contains("cargo xtask ")
                || line.starts_with("paperboat ")
                || line.strip_prefix("cargo run --release -p paperboat-fuzz -- ").is_some_and(is_fuzz_target)
                || line.split_once("paperboat-vmm run ").is_some_and(|(_, words)| are_machine_options(words));
            assert!(known, "{}: nothing runs or checks: {line}", page.display());
        }
    }
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
fn the_map_has_every_page() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    for page in pages().iter().filter(|page| page.parent().is_some_and(|parent| parent.ends_with("docs"))) {
        let name = page.file_name().unwrap().to_string_lossy();
        assert!(readme.contains(&format!("](docs/{name})")), "README.md does not link to docs/{name}");
    }
}

#[test]
fn the_recorded_tour_is_the_tour() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tour = std::fs::read_to_string(root.join("e2e/src/demo.rs")).unwrap();
    let recording = std::fs::read_to_string(root.join("docs/demo.md")).unwrap();
    let steps: Vec<&str> = tour.split("guide.step(\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect();
    assert!(steps.len() >= 7, "{steps:?}");
    for (index, step) in steps.iter().enumerate() {
        let heading = format!("# {}. {step}\n", index + 1);
        assert!(recording.contains(&heading), "docs/demo.md does not show {heading:?}: record the tour again");
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
