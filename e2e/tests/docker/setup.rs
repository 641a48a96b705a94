//! How the runtime is set up in Docker, and what Docker says when it is set up wrongly.

use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::products::Docker as Release;

use crate::ship::Ship;

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    /// All ways to name the runtime lead to it.
    #[test]
    fn the_runtime_is_named_in_daemon_json() {
        let ship = Ship::start_with(
            Release::of_tests(),
            r#"{"default-runtime": "by-name", "runtimes": {
                "by-name": {"runtimeType": "io.containerd.paperboat.v1"},
                "by-path": {"runtimeType": "@SHIM@"},
                "with-options": {"runtimeType": "io.containerd.paperboat.v1",
                    "options": {"TypeUrl": "containerd.runtimeoptions.v1.Options", "ConfigPath": "@DIRECTORY@/other.yaml"}}
            }}"#,
            &["--network", "none"],
        );
        let directory = ship.docker.host().directory();
        let configuration = std::fs::read_to_string(directory.join("paperboat.yaml")).unwrap();
        std::fs::write(directory.join("other.yaml"), format!("{configuration}\nmemory_mib: 320\n")).unwrap();
        expect::guest(&ship.script(&[], PROOF_SCRIPT));
        expect::guest(&ship.script(&["--runtime", "by-path"], PROOF_SCRIPT));
        let total = |options: &[&str]| ship.script(options, "awk '/MemTotal/ {print $2}' /proc/meminfo").parse::<u64>().unwrap();
        let (usual, other) = (total(&[]), total(&["--runtime", "with-options"]));
        assert!(other < 320 << 10 && usual != other, "{usual} KiB and {other} KiB");
        ship.expect_nothing_left();
    }

    #[test]
    fn images_may_be_containerds() {
        let daemon = r#"{"features": {"containerd-snapshotter": true}}"#;
        let options = ["--runtime", RUNTIME, "--network", "none", "--platform", "linux/ppc64le"];
        let ship = Ship::start_with(Release::of_tests(), daemon, &options);
        let driver = ship.done(&["info", "--format", "{{json .DriverStatus}}"]);
        assert!(driver.contains("io.containerd.snapshotter.v1"), "{driver}");
        expect::guest(&ship.script(&[], PROOF_SCRIPT));
        ship.detached(&["--name", "kept"], &["sh", "-c", "echo kept > /file; exec sleep 1000"]);
        assert_eq!(ship.exec("kept", "cat /file"), "kept");
        ship.done(&["rm", "--force", "kept"]);
        ship.expect_nothing_left();
    }

    /// An image of two platforms runs by the one that is asked for; the host's own is refused by both names.
    #[test]
    fn the_platform_is_the_guests() {
        let ship = Ship::start(Release::of_tests());
        let options = ["--rm", "--platform", "linux/ppc64le"];
        let output = ship.run(&options, &["sh", "-c", PROOF_SCRIPT]);
        expect::code(ship.docker.host(), &output, 0);
        expect::guest(&output.stdout);
        assert!(!output.stderr.contains("platform"), "no warning: {output:?}");
        if cfg!(target_arch = "x86_64") {
            ship.docker.load("platforms").unwrap();
            let foreign = ship.docker(&ship.words(&["--rm"], "paperboat.local/platforms:amd64", &["true"]));
            assert_eq!(foreign.code(), Some(125), "{foreign:?}");
            assert!(foreign.stderr.contains("amd64") && foreign.stderr.contains("ppc64le"), "{foreign:?}");
        }
        ship.expect_nothing_left();
    }

    #[test]
    fn a_broken_configuration_leaves_running_containers_alone() {
        let ship = Ship::start(Release::of_tests());
        ship.detached(&["--name", "early"], &["sleep", "1000"]);
        let proof = expect::guest(&ship.exec("early", PROOF_SCRIPT));
        let file = ship.docker.host().directory().join("paperboat.yaml");
        let sound = std::fs::read_to_string(&file).unwrap();
        let without = |key: &str| sound.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
        // A word that is none, a host without a kernel image, one without a way to run POWER code.
        let mut cases = vec![
            (format!("{sound}\nno_such_key: 1\n"), "no_such_key"),
            (format!("{}\nkernel: /nonexistent/vmlinux\n", without("kernel:")), "/nonexistent/vmlinux"),
        ];
        if cfg!(target_arch = "x86_64") {
            cases.push((format!("{}\nbackend: kvm\n", without("backend:")), "kvm"));
        }
        for (broken, word) in cases {
            std::fs::write(&file, broken).unwrap();
            let refused = ship.run(&["--rm"], &["true"]);
            assert!(refused.code() == Some(125) && refused.stderr.contains(word), "{word}: {refused:?}");
            assert_eq!(expect::guest(&ship.exec("early", PROOF_SCRIPT)), proof);
        }
        ship.done(&["stop", "-t", "0", "early"]);
        ship.done(&["rm", "early"]);
        std::fs::write(&file, &sound).unwrap();
        expect::guest(&ship.script(&[], PROOF_SCRIPT));
        ship.expect_nothing_left();
    }

    #[test]
    fn an_image_is_built_upon_and_kept() {
        let ship = Ship::start(Release::of_tests());
        let output = ship.run(&["--name", "changed"], &["sh", "-c", "echo changed > /file"]);
        expect::code(ship.docker.host(), &output, 0);
        assert!(ship.done(&["diff", "changed"]).contains("A /file"));
        ship.done(&["commit", "changed", "paperboat.local/changed:latest"]);
        let output = ship.docker(&ship.words(&["--rm"], &image("changed"), &["cat", "/file"]));
        assert_eq!(output.stdout, "changed\n", "{output:?}");
        ship.done(&["rm", "changed"]);
        ship.expect_nothing_left();
    }
}
