//! The configuration's files: one that may be named, and the files of its drop-in directory.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, Layer, Origin, layer};

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/paperboat/config.yaml";

/// Environment variable that names another configuration file.
pub const PATH_VARIABLE: &str = "PAPERBOAT_CONFIG";

/// Largest configuration file read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Most files of a drop-in directory: each is read at every start of a pod.
pub const MAX_DROP_INS: usize = 64;

impl Config {
    /// Loads the file that `explicit` names, else the one in the environment, else [`DEFAULT_PATH`], and then the files of its drop-in
    /// directory. Only the last of the three files may be absent; the directory always may.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, named) = file(explicit);
        let mut config = Self::default();
        match read(&path) {
            Ok(layer) => layer.apply(&mut config, &Origin::File(path.clone())),
            Err(ConfigError::Read { source, .. }) if !named && source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for path in drop_ins(&path)? {
            read(&path)?.apply(&mut config, &Origin::File(path));
        }
        config.check()
    }

    /// Parses a configuration's text, without drop-ins; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        layer(text, path)?.apply(&mut config, &Origin::File(path.to_owned()));
        config.check()
    }

    /// Reads and checks one file, without drop-ins.
    pub fn check_file(path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        read(path)?.apply(&mut config, &Origin::File(path.to_owned()));
        config.check()
    }

    /// The file that [`Self::load`] reads, and whether somebody named it.
    pub fn path(explicit: Option<&Path>) -> PathBuf {
        file(explicit).0
    }
}

fn file(explicit: Option<&Path>) -> (PathBuf, bool) {
    let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os(PATH_VARIABLE).map(PathBuf::from));
    let is_named = named.is_some();
    (named.unwrap_or_else(|| DEFAULT_PATH.into()), is_named)
}

fn read(path: &Path) -> Result<Layer, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    layer(&std::fs::read_to_string(path).map_err(failed)?, path)
}

/// The files of the drop-in directory of `path` (`config.yaml` has `config.d`) in the order of their names: later ones win.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = path.with_extension("d");
    let failed = |source| ConfigError::Read { path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) if directory != path => entries,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound && directory != path => return Err(failed(error)),
        _ => return Ok(Vec::new()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path();
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") if !hidden => files.push(file),
            // The likely mistake. Leftovers of editors and package managers mean nothing.
            Some("yml") if !hidden => return Err(ConfigError::Overlooked(file)),
            _ => {}
        }
        if files.len() > MAX_DROP_INS {
            return Err(ConfigError::TooMany(directory));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_must_exist() {
        assert!(matches!(Config::load(Some(Path::new("/nonexistent/c.yaml"))), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn drop_ins_win_in_the_order_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yaml");
        let drop_in = |name: &str| directory.path().join("c.d").join(name);
        std::fs::create_dir(directory.path().join("c.d")).unwrap();
        std::fs::write(&path, "vcpus: 2\nmemory_mib: 128\nbackend: soft\n").unwrap();
        std::fs::write(drop_in("10-a.yaml"), "vcpus: 3\nmemory_mib: 256\n").unwrap();
        std::fs::write(drop_in("20-b.yaml"), "vcpus: 4\n").unwrap();
        std::fs::write(drop_in("30-c.yaml.dpkg-old"), "nonsense").unwrap();
        std::fs::write(drop_in(".40-d.yaml"), "nonsense").unwrap();
        let config = Config::load(Some(&path)).unwrap();
        assert_eq!((config.vcpus, config.memory_mib), (4, 256));
        assert_eq!(config.origin("vcpus"), Origin::File(drop_in("20-b.yaml")));
        assert_eq!(config.origin("memory_mib"), Origin::File(drop_in("10-a.yaml")));
        assert_eq!(config.origin("backend"), Origin::File(path.clone()));

        std::fs::write(drop_in("20-b.yaml"), "vcpus: 4\nvcpsu: 5\n").unwrap();
        let message = Config::load(Some(&path)).unwrap_err().to_string();
        assert!(message.contains("20-b.yaml") && message.contains("line 2"), "{message}");
        std::fs::remove_file(drop_in("20-b.yaml")).unwrap();
        std::fs::write(drop_in("50-e.yml"), "").unwrap();
        assert!(matches!(Config::load(Some(&path)), Err(ConfigError::Overlooked(_))));
    }
}
