//! A guest whose agent is hostile: the client gets a clear error, and nothing is left. What each does stands in `images/hostile.c`.

use paperboat_e2e::host::image;
use paperboat_e2e::products::hostile_initramfs;
use paperboat_e2e::{Host, expect};

/// Runs a container with each of these agents; what `ctr` prints has these words.
fn meet(agents: &[(&str, &[&str])]) {
    let initramfs = hostile_initramfs().unwrap().display().to_string();
    let configuration = format!("initramfs: {initramfs}\nannotations: [kernel_parameters, boot_timeout_s]");
    let host = Host::start_with(&configuration).unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    for (agent, words) in agents {
        let how = format!("io.paperboat.kernel_parameters={agent}");
        let mut options = vec!["--annotation", how.as_str()];
        if *agent == "silent" {
            options.extend(["--annotation", "io.paperboat.boot_timeout_s=5"]);
        }
        let output = host.run_with(&options, &image("busybox"), agent, &["true"]).unwrap();
        expect::code(&host, &output, 1);
        expect::words(&host, &output.stderr, words);
        expect::nothing_left(&host, &before);
    }
}

#[test]
fn an_agent_that_ends_is_silent_or_is_foreign_is_an_error() {
    meet(&[("exits", &["panic", "init"]), ("silent", &["5s", "last lines of its console"]), ("foreign", &["protocol 0"])]);
}

/// What takes a call's whole time.
mod slow {
    use super::*;

    #[test]
    fn an_agent_that_talks_nonsense_crowds_falls_silent_or_lies_is_an_error() {
        meet(&[
            ("nonsense", &["hello", "the guest's agent does not answer"]),
            ("crowd", &["something else"]),
            ("mute", &["create", "the guest's agent does not answer"]),
            ("liar", &["vsock port 1025"]),
        ]);
    }
}
