//! Whether containerd finds this runtime, and whether Kubernetes and Docker have been told of it.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::RUNTIME_NAME;

/// The shim's name, as containerd derives it from the runtime's.
const SHIM: &str = "containerd-shim-paperboat-v1";

/// Where containerd of a distribution and of a release archive look for shims besides their PATH.
const DIRECTORIES: [&str; 5] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/opt/containerd/bin"];

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const DOCKER_CONFIG: &str = "/etc/docker/daemon.json";

/// Looks at this host's engines.
pub fn findings() -> Vec<Finding> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(SHIM));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = DIRECTORIES.iter().map(PathBuf::from).chain(std::env::split_paths(&path)).map(|place| place.join(SHIM));
    let mut findings = vec![shim(places.find(|place| place.is_file()), beside.filter(|place| place.is_file()))];
    findings.push(match Path::new(CONTAINERD_SOCKET).exists() {
        true => Finding::good("containerd", CONTAINERD_SOCKET),
        false => {
            Finding::note("containerd", format!("{CONTAINERD_SOCKET} is not there"), "install and start containerd 1.6 or later")
        }
    });
    findings.push(kubernetes(std::fs::read_to_string(CONTAINERD_CONFIG).ok().as_deref()));
    if let Ok(text) = std::fs::read_to_string(DOCKER_CONFIG) {
        findings.push(docker(&text));
    }
    findings
}

fn shim(found: Option<PathBuf>, beside: Option<PathBuf>) -> Finding {
    match (found, beside) {
        (Some(path), _) => Finding::good("shim", path.display().to_string()),
        (None, Some(path)) => Finding::note(
            "shim",
            format!("{} is in none of the directories where containerd looks", path.display()),
            "install it in /usr/local/bin, or add its directory to containerd's PATH",
        ),
        (None, None) => Finding::bad("shim", format!("there is no {SHIM}"), "install it in /usr/local/bin"),
    }
}

/// Whether containerd's configuration names the runtime for Kubernetes. Nothing else needs it there.
fn kubernetes(text: Option<&str>) -> Finding {
    const WHAT: &str = "runtime for Kubernetes";
    let Some(text) = text else {
        return Finding::note(
            WHAT,
            format!("there is no {CONTAINERD_CONFIG}"),
            "docs/containerd.md has the lines; ctr and Docker do not need them",
        );
    };
    match text.parse::<toml::Table>() {
        Err(error) => Finding::note(WHAT, format!("{CONTAINERD_CONFIG}: {}", error.message()), "correct the file"),
        Ok(table) if names_runtime(&table) => Finding::good(WHAT, format!("{CONTAINERD_CONFIG} names {RUNTIME_NAME}")),
        Ok(_) => Finding::note(
            WHAT,
            format!("{CONTAINERD_CONFIG} does not name {RUNTIME_NAME}"),
            "docs/containerd.md has the lines; ctr and Docker do not need them",
        ),
    }
}

/// Whether any `runtime_type` in the table or below is ours: its place differs between versions of containerd.
fn names_runtime(table: &toml::Table) -> bool {
    table.iter().any(|(key, value)| match value {
        toml::Value::String(text) => key == "runtime_type" && text == RUNTIME_NAME,
        toml::Value::Table(table) => names_runtime(table),
        _ => false,
    })
}

fn docker(text: &str) -> Finding {
    const WHAT: &str = "runtime for Docker";
    let named = |value: &serde_json::Value| {
        let runtimes = value.get("runtimes").and_then(|runtimes| runtimes.as_object());
        runtimes.is_some_and(|runtimes| {
            let ours =
                |runtime: &serde_json::Value| runtime["runtimeType"].as_str().is_some_and(|kind| kind.contains("paperboat"));
            runtimes.values().any(ours)
        })
    };
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => Finding::note(WHAT, format!("{DOCKER_CONFIG}: {error}"), "correct the file"),
        Ok(value) if named(&value) => Finding::good(WHAT, format!("{DOCKER_CONFIG} names it")),
        Ok(_) => Finding::good(WHAT, format!("`docker run --runtime {RUNTIME_NAME}` needs no configuration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn the_runtime_is_found_wherever_the_version_of_containerd_has_it() {
        for plugin in ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"] {
            let text = format!("[plugins.\"{plugin}\".containerd.runtimes.paperboat]\nruntime_type = \"{RUNTIME_NAME}\"\n");
            assert_eq!(kubernetes(Some(&text)).verdict, Verdict::Good, "{plugin}");
        }
        let other = "[plugins.x.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n";
        assert_eq!(kubernetes(Some(other)).verdict, Verdict::Note);
        assert_eq!(kubernetes(Some("[[")).verdict, Verdict::Note);
        assert_eq!(kubernetes(None).verdict, Verdict::Note);
    }

    #[test]
    fn a_shim_that_containerd_does_not_see_is_noted() {
        assert_eq!(shim(Some("/usr/bin/x".into()), None).verdict, Verdict::Good);
        assert_eq!(shim(None, Some("/opt/x".into())).verdict, Verdict::Note);
        assert_eq!(shim(None, None).verdict, Verdict::Bad);
    }

    #[test]
    fn dockers_file_is_read() {
        assert!(docker(r#"{"runtimes":{"pb":{"runtimeType":"io.containerd.paperboat.v1"}}}"#).detail.contains("names it"));
        assert_eq!(docker("{").verdict, Verdict::Note);
        assert_eq!(docker("{}").verdict, Verdict::Good);
    }
}
