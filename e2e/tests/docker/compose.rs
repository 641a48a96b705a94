//! Docker Compose.

use paperboat_e2e::command::{COMMAND_TIMEOUT, finish};
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::RUNTIME;
use paperboat_e2e::products::Docker as Release;

use crate::ship::Ship;

/// Two services and a volume: one writes a page there and serves it, the other fetches it by the first one's name and reads it from the
/// volume too.
const PROJECT: &str = r#"
services:
  web:
    image: paperboat.local/busybox:latest
    runtime: @RUNTIME@
    command: [sh, -c, "cat /proc/sys/kernel/random/boot_id > /pages/index.html; exec httpd -f -p 80 -h /pages"]
    volumes: ["pages:/pages"]
    ports: ["127.0.0.1:8081:80"]
    healthcheck: {test: [CMD, test, -s, /pages/index.html], interval: 1s, retries: 60}
  reader:
    image: paperboat.local/busybox:latest
    runtime: @RUNTIME@
    command: [sh, -c, "until wget -q -T 10 -O /tmp/page http://web/; do sleep 1; done; cmp /tmp/page /pages/index.html || exit 1; @PROOF@"]
    volumes: ["pages:/pages:ro"]
    depends_on: {web: {condition: service_healthy}}
volumes:
  pages: {}
"#;

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn two_services_share_a_network_and_a_volume() {
        let ship = Ship::start_with(Release::of_tests(), "{}", &[]);
        let host = ship.docker.host();
        let project = host.directory().join("compose.yaml");
        let text = PROJECT.replace("@RUNTIME@", RUNTIME).replace("@PROOF@", PROOF_SCRIPT);
        std::fs::write(&project, text).unwrap();
        let compose = |words: &[&str]| {
            let file = project.display().to_string();
            let arguments = [&["--project-name", "two", "--file", &file], words].concat();
            let output = finish(ship.docker.compose(&arguments), COMMAND_TIMEOUT).unwrap();
            expect::code(host, &output, 0);
            output.stdout
        };
        compose(&["up", "--detach"]);
        let web = ship.fetch("127.0.0.1:8081");
        let reader = "two-reader-1";
        ship.wait_until(reader, "{{.State.Status}} {{.State.ExitCode}}", "exited 0");
        let proof = expect::guest(&ship.done(&["logs", reader]));
        assert_ne!(proof.boot_id, web, "each service has a machine of its own");
        assert_eq!(compose(&["exec", "-T", "web", "cat", "/proc/sys/kernel/random/boot_id"]).trim_end(), web);
        compose(&["down", "--volumes"]);
        ship.expect_nothing_left();
    }
}
