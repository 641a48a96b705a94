//! What the command understands. Its help, its completions and its manual pages are made from this.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Look at and look after container pods in micro-VMs.
///
/// POD is a pod's id, the beginning of one, or its name. All commands but config, version, completions and man look at files
/// of root.
#[derive(Parser)]
#[command(name = "paperboat", version, max_term_width = 110)]
pub struct Cli {
    /// Configuration file; without it the one in PAPERBOAT_CONFIG, else /etc/paperboat/config.yaml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Say whether this host can run pods, and with which backend
    ///
    /// Looks at configuration, kernel, initramfs, machine, KVM, page size, memory and threads of a POWER host, permissions,
    /// and containerd. Each miss comes with its cure. Exit status 0 when pods can start, else 1.
    Check,
    /// List pods with what they use
    Ps,
    /// Show pods and what they use, live; look at consoles, stop and kill
    Top(TopArguments),
    /// Print what a pod's guest, machine and shim have said
    ///
    /// A pod's logs go with the pod.
    Logs(LogsArguments),
    /// Run a shell, or another program, in a pod's guest, outside of its containers
    ///
    /// Only for pods that were started with `debug_console: true` in the configuration.
    ExecVm(ExecVmArguments),
    /// Print all counters of one pod or of all
    Stats(StatsArguments),
    /// Count a pod's exits, hypercalls and faults by kind, live
    Trace(TraceArguments),
    /// Print, check or explain the configuration
    Config(ConfigArguments),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
    /// Write the manual pages
    Man(ManArguments),
}

/// Options of `top`.
#[derive(Args)]
pub struct TopArguments {
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
}

/// Options of `logs`.
#[derive(Args)]
pub struct LogsArguments {
    /// The pod
    pub pod: String,
    /// Only this one's words
    #[arg(long, value_enum)]
    pub from: Option<Source>,
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
    /// At most this many lines of each from its end
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub lines: Option<usize>,
}

/// Who writes logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Source {
    /// The guest's console: kernel and agent
    Console,
    /// The agent's lines of the console
    Agent,
    /// The machine's process
    Machine,
    /// The pod's shim
    Shim,
}

/// Options of `exec-vm`.
#[derive(Args)]
pub struct ExecVmArguments {
    /// The pod
    pub pod: String,
    /// Program and arguments; without them a shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Options of `stats`.
#[derive(Args)]
pub struct StatsArguments {
    /// The pod; all without it
    pub pod: Option<String>,
}

/// Options of `trace`.
#[derive(Args)]
pub struct TraceArguments {
    /// The pod
    pub pod: String,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    /// End after this many looks
    #[arg(long)]
    pub count: Option<u64>,
}

/// Options of `config`.
#[derive(Args)]
pub struct ConfigArguments {
    /// What to do with it
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What can be done with the configuration.
#[derive(Subcommand)]
pub enum ConfigAction {
    /// Print the default configuration with a comment for each key
    Default,
    /// Check a file, or what this host has; errors have line and column
    Check {
        /// The file; without it the host's file and its drop-in directory
        file: Option<PathBuf>,
    },
    /// Print every value and where it came from
    Show {
        /// Of this running pod, as it was started
        #[arg(long, value_name = "POD")]
        pod: Option<String>,
    },
}

/// Options of `completions`.
#[derive(Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Args)]
pub struct ManArguments {
    /// Directory for paperboat.1, paperboat-ps.1 and so on; without it paperboat.1 goes to standard output
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A machine that is asked more often does nothing else.
const INTERVAL_MIN_S: f64 = 0.1;
const INTERVAL_MAX_S: f64 = 3600.0;

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (INTERVAL_MIN_S..=INTERVAL_MAX_S).contains(&seconds) => Ok(seconds),
        _ => Err(format!("seconds from {INTERVAL_MIN_S} to {INTERVAL_MAX_S} expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["paperboat", "top", "--interval", "0"]).is_err());
        assert!(Cli::try_parse_from(["paperboat", "exec-vm", "pod", "--", "ps", "-l"]).is_ok());
    }

    /// Every `paperboat …` of the documentation must be a command that exists.
    #[test]
    fn documented_commands_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages = vec![root.join("README.md")];
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            let mut shell = false;
            for line in text.lines() {
                if let Some(language) = line.trim().strip_prefix("```") {
                    shell = !shell && language == "sh";
                }
                let command = line.trim().trim_start_matches("sudo ");
                if shell && command.starts_with("paperboat ") {
                    let words = command.split(['|', '>', ';']).next().unwrap_or_default().split_whitespace();
                    let parsed = Cli::try_parse_from(words.map(|word| word.trim_matches('"')));
                    assert!(parsed.is_ok(), "{}: {line}: {}", page.display(), parsed.err().unwrap());
                }
            }
        }
    }
}
