//! OCI hooks that are programs of the host (runtime-spec, config.md, "POSIX-platform Hooks"): network tools hang on them. They run on the
//! host and learn the process id of the machine, which lives in the pod's network namespace. createContainer and startContainer hooks
//! belong into the container's own mount namespace: the guest's agent runs the latter.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::spec::Spec;

/// A hook without a limit of its own gets this one: nothing hangs for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Characters of a failed hook's output put into the error.
const MAX_TEXT: usize = 1024;

/// One hook.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// The program.
    path: PathBuf,
    /// Its arguments, its name first.
    args: Vec<String>,
    /// Its environment as `KEY=value`; empty means the shim's.
    env: Vec<String>,
    /// Limit in seconds; 0 for none.
    timeout: u64,
}

/// The hooks of a specification that run on the host.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hooks {
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The namespaces are there, the container is not yet (prestart, createRuntime).
    Creating,
    /// The container's program runs (poststart).
    Started,
    /// The container is gone (poststop).
    Stopped,
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("hook {}: {message}", path.display())]
pub struct HookError {
    path: PathBuf,
    message: String,
}

/// Runs the hooks of a moment one after the other. `pid` is the machine's.
///
/// # Errors
/// [`HookError`] of the first one that fails; those after it do not run.
pub async fn run(spec: &Spec, moment: Moment, id: &str, pid: u32, bundle: &Path) -> Result<(), HookError> {
    let hooks = spec.hooks();
    let (status, lists) = match moment {
        Moment::Creating => ("creating", [hooks.prestart.as_slice(), &hooks.create_runtime]),
        Moment::Started => ("running", [hooks.poststart.as_slice(), &[]]),
        Moment::Stopped => ("stopped", [hooks.poststop.as_slice(), &[]]),
    };
    let mut state = json!({
        "ociVersion": spec.oci_version(), "id": id, "status": status, "bundle": bundle, "annotations": spec.annotations(),
    });
    if moment != Moment::Stopped {
        state["pid"] = json!(pid);
    }
    for hook in lists.into_iter().flatten() {
        let limit = if hook.timeout > 0 { Duration::from_secs(hook.timeout) } else { DEFAULT_TIMEOUT };
        let failed = |message| HookError { path: hook.path.clone(), message };
        let ended = tokio::time::timeout(limit, call(hook, state.to_string().as_bytes())).await;
        let output =
            ended.map_err(|_| failed(format!("not finished after {limit:?}")))?.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
            let text: String = text.trim().chars().take(MAX_TEXT).collect();
            return Err(failed(format!("{}: {text}", output.status)));
        }
    }
    Ok(())
}

async fn call(hook: &Hook, state: &[u8]) -> std::io::Result<std::process::Output> {
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    if !hook.env.is_empty() {
        command.env_clear().envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    }
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read it.
        let _ = input.write_all(state).await;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hooks: serde_json::Value) -> Spec {
        Spec::parse(json!({"ociVersion": "1.0.2", "hooks": hooks, "annotations": {"a": "b"}}).to_string().as_bytes()).unwrap()
    }

    fn sh(script: &str) -> serde_json::Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    }

    #[tokio::test]
    async fn hooks_read_the_state_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let append = |mark: &str| sh(&format!("echo {mark} >> {0}; cat >> {0}; echo >> {0}", out.display()));
        let spec =
            spec(json!({"prestart": [append("first")], "createRuntime": [append("second")], "poststop": [append("last")]}));
        run(&spec, Moment::Creating, "c", 77, Path::new("/bundle")).await.unwrap();
        run(&spec, Moment::Started, "c", 77, Path::new("/bundle")).await.unwrap();
        run(&spec, Moment::Stopped, "c", 77, Path::new("/bundle")).await.unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines[2], lines[4], lines.len()), ("first", "second", "last", 6), "{text}");
        let state: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        let wanted = json!({"ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": 77, "bundle": "/bundle", "annotations": {"a": "b"}});
        assert_eq!(state, wanted);
        assert!(lines[5].contains("stopped") && !lines[5].contains("pid"), "{text}");
    }

    #[tokio::test]
    async fn a_failure_is_told_with_what_the_hook_said() {
        let spec = spec(json!({"prestart": [sh("echo no such network >&2; exit 3")]}));
        let message = run(&spec, Moment::Creating, "c", 1, Path::new("/")).await.unwrap_err().to_string();
        assert!(message.contains("/bin/sh") && message.contains("no such network") && message.contains('3'), "{message}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_ended() {
        let spec = spec(json!({"poststart": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}));
        let message = run(&spec, Moment::Started, "c", 1, Path::new("/")).await.unwrap_err().to_string();
        assert!(message.contains("not finished after 1s"), "{message}");
    }
}
