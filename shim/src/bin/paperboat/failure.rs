//! What a command can fail by. Each message ends with what to do about it, where there is something.

use std::path::{Path, PathBuf};

use paperboat_shim::agent::AgentError;
use paperboat_shim::config::ConfigError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Pods' files belong to root.
    #[error("{}: permission denied: pods and their sockets belong to root: run `sudo paperboat {command}`", path.display())]
    Permission {
        /// What cannot be looked at.
        path: PathBuf,
        /// The command to repeat.
        command: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No pod by that name.
    #[error("no pod {0}: `paperboat ps` lists those that are there")]
    NoPod(String),
    /// Several pods by that name.
    #[error("{wanted} may be any of {}: give more of the id", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Pods it may mean.
        candidates: Vec<String>,
    },
    /// A machine does not answer.
    #[error("pod {pod}: its machine does not answer: {reason}; `paperboat logs {pod}` may say why")]
    Machine {
        /// The pod.
        pod: String,
        /// What went wrong.
        reason: String,
    },
    /// The guest's agent.
    #[error("pod {pod}: {source}")]
    Agent {
        /// The pod.
        pod: String,
        /// What went wrong.
        source: AgentError,
    },
    /// The pod was started without the debug console.
    #[error("pod {pod} was started without `debug_console: true`: set it in {} and start the pod again", config.display())]
    NoDebugConsole {
        /// The pod.
        pod: String,
        /// The configuration file.
        config: PathBuf,
    },
    /// The guest refused to run the program.
    #[error("pod {pod}: {reason}")]
    Refused {
        /// The pod.
        pod: String,
        /// The guest's words.
        reason: String,
    },
    /// A live view without a terminal.
    #[error("top needs a terminal; `paperboat ps` and `paperboat stats --json` do not")]
    NoTerminal,
    /// Nothing can be printed.
    #[error("output: {0}")]
    Output(#[source] std::io::Error),
    /// Standard streams, runtime.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Failure {
    /// A file's failure, told apart from one of permissions.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => {
                let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
                Self::Permission { path: path.to_owned(), command }
            }
            _ => Self::File { path: path.to_owned(), source },
        }
    }
}
