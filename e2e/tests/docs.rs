//! The pages that people follow by hand, followed: each shell block is run as it stands, in the order of the page.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use paperboat_e2e::expect::{code as expect_code, nothing_left as expect_nothing_left, words as expect_words};
use paperboat_e2e::host::finish;
use paperboat_e2e::{Host, Output};

/// A page is done within this time even on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The shell blocks of a page as one script.
fn script(page: &str) -> String {
    let text = std::fs::read_to_string(root().join("docs").join(page)).unwrap();
    let mut script = String::from("set -eux\n");
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(language) => inside = !inside && language == "sh",
            None if inside => {
                script.push_str(line);
                script.push('\n');
            }
            None => {}
        }
    }
    assert!(script.lines().count() > 2, "{page} has no commands");
    script
}

/// Runs a page's commands as somebody would whose containerd, configuration and PATH are those of `host`.
fn follow(host: &Host, script: &str, directory: &Path, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(directory);
    command.env("PATH", host.engine_path());
    command.env("CONTAINERD_ADDRESS", host.directory().join("c.sock")).env("CONTAINERD_NAMESPACE", host.namespace());
    command.env("PAPERBOAT_CONFIG", host.directory().join("paperboat.yaml"));
    command.env("PAPERBOAT_IMAGES", &host.products().images);
    command.envs(more.iter().copied());
    finish(command, LIMIT).unwrap()
}

#[test]
fn the_first_pod_works_as_written() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let output = follow(&host, &script("first-pod.md"), root(), &[]);
    expect_code(&host, &output, 0);
    expect_words(&host, &output.stdout, &["ppc64le", "POWER9", "second", "annotation", "default", "\n2\n"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn installing_puts_every_file_in_its_place() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let place = tempfile::tempdir().unwrap();
    // Building is what made the products of this test; the page finds them where they are.
    let tree = place.path().join("tree");
    let cache = place.path().join("cache/paperboat");
    std::fs::create_dir_all(tree.join("target")).unwrap();
    std::fs::create_dir_all(&cache).unwrap();
    std::os::unix::fs::symlink(&host.products().bin, tree.join("target/release")).unwrap();
    let products = host.products().images.parent().unwrap();
    std::os::unix::fs::symlink(products, cache.join("products")).unwrap();
    let script: String =
        script("install.md").lines().filter(|line| !line.starts_with("cargo ")).map(|line| format!("{line}\n")).collect();
    let destination = place.path().join("root");
    let cache = place.path().join("cache").display().to_string();
    let more = [("DESTDIR", destination.to_str().unwrap()), ("XDG_CACHE_HOME", cache.as_str())];
    let output = follow(&host, &script, &tree, &more);
    expect_code(&host, &output, 0);
    for file in [
        "usr/local/bin/containerd-shim-paperboat-v1",
        "usr/local/bin/paperboat-vmm",
        "usr/local/bin/paperboat",
        "usr/share/paperboat/vmlinux",
        "usr/share/paperboat/initramfs.cpio",
        "usr/share/paperboat/debug-tools",
        "usr/local/share/man/man1/paperboat-exec-vm.1",
        "usr/share/bash-completion/completions/paperboat",
    ] {
        assert!(std::fs::metadata(destination.join(file)).is_ok_and(|metadata| metadata.len() > 0), "{file}");
    }
    // What was installed works where it is.
    let mut command = Command::new(destination.join("usr/local/bin/paperboat"));
    let configuration = destination.join("paperboat.yaml");
    let share = destination.join("usr/share/paperboat");
    let text = format!("kernel: {0}/vmlinux\ninitramfs: {0}/initramfs.cpio\n", share.display());
    std::fs::write(&configuration, text).unwrap();
    command.arg("--config").arg(&configuration).arg("check");
    let output = finish(command, LIMIT).unwrap();
    expect_code(&host, &output, 0);
    expect_words(&host, &output.stdout, &["ok   kernel:", "ok   initramfs:", "ok   machine:"]);
}

#[test]
fn configuration_and_troubleshooting_pages_have_commands_that_run() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    for page in ["configuration.md", "troubleshooting.md"] {
        let output = follow(&host, &script(page), root(), &[]);
        expect_code(&host, &output, 0);
    }
}
