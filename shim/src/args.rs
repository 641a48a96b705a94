//! The command line containerd gives to a shim: flags in Go's style (`-id x`, `-id=x`, `--id x`), then one action.

use std::path::PathBuf;

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    /// A flag this shim does not know.
    #[error("unknown flag -{0}")]
    UnknownFlag(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    MissingValue(String),
    /// An action this shim does not know.
    #[error("unknown action {0:?} (known: start, delete)")]
    UnknownAction(String),
    /// Something after the action.
    #[error("unexpected argument {0:?} after the action")]
    Surplus(String),
    /// A flag the action cannot do without.
    #[error("flag -{0} is required")]
    Required(&'static str),
}

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leave a server behind (or find the pod's) and print its address.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Be the server; the listening socket is standard input.
    Serve,
    /// Print the version.
    Version,
    /// Describe the runtime to containerd (2.0 and later).
    Info,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// containerd's GRPC socket.
    pub address: String,
    /// containerd's binary, for publishing events the old way.
    pub publish_binary: String,
    /// Bundle directory, where given.
    pub bundle: Option<PathBuf>,
    /// Configuration file that `start` chose for the server.
    pub config: Option<PathBuf>,
    /// Verbose logging.
    pub debug: bool,
}

impl Args {
    /// Parses the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: None,
            config: None,
            debug: false,
        };
        let mut action = None;
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                if action.is_some() {
                    return Err(ArgsError::Surplus(argument));
                }
                action = Some(match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "serve" => Action::Serve,
                    _ => return Err(ArgsError::UnknownAction(argument)),
                });
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => args.debug = inline.as_deref() != Some("false"),
                "v" | "version" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                "namespace" | "id" | "address" | "publish-binary" | "bundle" | "config" => {
                    let value = inline.or_else(|| rest.next()).ok_or_else(|| ArgsError::MissingValue(name.to_owned()))?;
                    match name {
                        "namespace" => args.namespace = value,
                        "id" => args.id = value,
                        "address" => args.address = value,
                        "publish-binary" => args.publish_binary = value,
                        "bundle" => args.bundle = Some(value.into()),
                        _ => args.config = Some(value.into()),
                    }
                }
                _ => return Err(ArgsError::UnknownFlag(name.to_owned())),
            }
        }
        args.action = action.unwrap_or(Action::Serve);
        if !matches!(args.action, Action::Version | Action::Info) {
            for (name, value) in [("namespace", &args.namespace), ("id", &args.id)] {
                if value.is_empty() {
                    return Err(ArgsError::Required(name));
                }
            }
        }
        args.bundle = args.bundle.filter(|path| !path.as_os_str().is_empty());
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerd_start_line_is_understood() {
        let args =
            parse("-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id first -debug start").unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str(), args.address.as_str()), ("default", "first", "/run/c.sock"));
        assert!(args.debug);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn delete_carries_the_bundle_in_any_flag_style() {
        let args = parse("--namespace=n -id=x -bundle /b delete").unwrap();
        assert_eq!((args.action, args.bundle), (Action::Delete, Some(PathBuf::from("/b"))));
        assert_eq!(parse("-namespace n -id x -bundle= delete").unwrap().bundle, None);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("-namespace n -id"), Err(ArgsError::MissingValue("id".into())));
        assert_eq!(parse("-namespace n start"), Err(ArgsError::Required("id")));
        assert_eq!(parse("-namespace n -id x stop"), Err(ArgsError::UnknownAction("stop".into())));
        assert_eq!(parse("-colour red"), Err(ArgsError::UnknownFlag("colour".into())));
        assert_eq!(parse("-namespace n -id x start now"), Err(ArgsError::Surplus("now".into())));
    }
}
