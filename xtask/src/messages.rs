//! Holds the troubleshooting page to the sources: every message that a person can be shown has an entry there, and every entry is about
//! words that the sources still have.
//!
//! A message is the text of an `#[error("…")]`, its parts that vary written as `…`. An entry is text in back quotes in the first column of
//! a table; its `…` stand for anything. It is about a message that has all of its other words in their order.

use std::path::{Path, PathBuf};

/// Sources whose errors reach people.
const SOURCES: [&str; 7] = [
    "shim/src",
    "microvm/src",
    "microvm/kvm/src",
    "microvm/hypervisor/src",
    "microvm/softcpu/src/mmu",
    "netlink/src",
    "guest-agent/src",
];

/// Errors that nobody is shown, with the reason.
const UNSEEN: [(&str, &str); 7] = [
    ("microvm/src/papr/tce.rs", "become return codes of hypercalls"),
    ("microvm/src/papr/cpus.rs", "become return codes of RTAS calls"),
    ("microvm/src/papr/xics.rs", "become return codes of RTAS calls"),
    ("microvm/src/virtio/queue.rs", "become answers to the guest's driver"),
    ("microvm/src/virtio/translated.rs", "become answers to the guest's driver"),
    ("microvm/hypervisor/src/table.rs", "become return codes of hypercalls"),
    ("microvm/hypervisor/src/contract.rs", "are failures of the backends' own tests"),
];

/// Words of other programs that the page explains.
const FOREIGN: [&str; 3] =
    ["Too many open files in system", "runtime \"io.containerd.paperboat.v1\" binary not installed", "Unknown runtime"];

/// Letters of its own that a message or an entry must have to say something.
const LETTERS_MIN: usize = 5;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A source with its broken string literals joined.
fn joined(source: &str) -> String {
    let mut text = String::new();
    let mut lines = source.lines();
    while let Some(mut line) = lines.next() {
        let mut whole = String::new();
        while let Some(start) = line.strip_suffix('\\') {
            whole.push_str(start);
            line = lines.next().unwrap_or_default().trim_start();
        }
        text.push_str(&(whole + line + "\n"));
    }
    text
}

/// The string literal at the start of `text`, after white space: its content with `…` for the parts in braces.
fn literal(text: &str) -> Option<String> {
    let mut letters = text.trim_start().strip_prefix('"')?.chars();
    let mut content = String::new();
    let mut braces = 0;
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some(content),
            '{' => {
                braces += 1;
                content.push('…');
            }
            '}' => braces -= 1,
            '\\' if braces == 0 => content.extend(letters.next()),
            letter if braces == 0 => content.push(letter),
            _ => {}
        }
    }
    None
}

/// Messages of a source.
fn messages(source: &str) -> Vec<String> {
    joined(source).split("#[error(").skip(1).filter_map(literal).collect()
}

/// Entries of the page.
fn entries(page: &str) -> Vec<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn letters(text: &str) -> usize {
    text.chars().filter(|letter| letter.is_alphabetic()).count()
}

/// Whether an entry is about a message: it begins like it and has its words in their order. Back quotes of a message are no part of it.
fn is_about(entry: &str, message: &str) -> bool {
    let message = message.replace('`', "");
    let mut rest = message.as_str();
    for (index, part) in entry.split('…').enumerate() {
        match rest.find(part) {
            Some(at) if index > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    true
}

#[test]
fn every_message_has_its_entry() {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let entries: Vec<String> = entries(&page).into_iter().filter(|entry| letters(entry) >= LETTERS_MIN).collect();
    let (mut seen, mut missing) = (0, Vec::new());
    for directory in SOURCES {
        let mut files = Vec::new();
        rust_files(&root().join(directory), &mut files);
        for file in files {
            let name = file.strip_prefix(root()).unwrap().display().to_string();
            if UNSEEN.iter().any(|(unseen, _)| *unseen == name) {
                continue;
            }
            for message in messages(&std::fs::read_to_string(&file).unwrap()) {
                // Without words of its own it only passes on what another one says.
                if letters(&message) < LETTERS_MIN {
                    continue;
                }
                seen += 1;
                if !entries.iter().any(|entry| is_about(entry, &message)) {
                    missing.push(format!("{name}: {message}"));
                }
            }
        }
    }
    assert!(seen > 150, "only {seen} messages found");
    assert!(missing.is_empty(), "docs/troubleshooting.md has no entry for\n{}", missing.join("\n"));
    for (file, _) in UNSEEN {
        assert!(root().join(file).exists(), "{file} is gone");
    }
}

#[test]
fn every_entry_is_about_words_of_the_sources() {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut files = Vec::new();
    for directory in SOURCES.into_iter().chain(["xtask/src"]) {
        rust_files(&root().join(directory), &mut files);
    }
    let mut words: String =
        files.iter().map(|file| joined(&std::fs::read_to_string(file).unwrap()).replace("\\\"", "\"").replace('`', "")).collect();
    words.extend(FOREIGN);
    for entry in entries(&page) {
        let part = entry.split('…').max_by_key(|part| letters(part)).unwrap_or_default().trim_end_matches('.');
        assert!(letters(part) == 0 || words.contains(part), "`{entry}`: no source says {part:?}");
    }
}

#[test]
fn messages_are_read_and_compared() {
    let source = "#[error(\"limit of {a} \\\"x\\\", \\\n    and {b:?}\", .0)]\n#[error(\n  \"{0}\"\n)]\n#[error(transparent)]\n";
    assert_eq!(messages(source), ["limit of … \"x\", and …", "…"]);
    assert!(is_about("limit of …", "limit of … and …"));
    assert!(is_about("… and …", "limit of … and …"));
    assert!(!is_about("of …", "limit of … and …"));
    assert!(!is_about("… and … limit", "limit of … and …"));
    assert_eq!(entries("| `a …`, `b` | `c` | d |\n|---|\ntext `e`\n"), ["a …", "b"]);
}
