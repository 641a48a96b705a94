//! What is tested, and with which engines, from the environment.

use std::path::PathBuf;

use crate::Error;

/// Lines of containerd that the runtime is tested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Containerd {
    /// 1.6, of bookworm.
    V1_6,
    /// 1.7, of trixie: the first engine.
    #[default]
    V1_7,
    /// 2.x, of forky.
    V2,
}

impl Containerd {
    /// The variable that tells where it is.
    fn variable(self) -> &'static str {
        match self {
            Self::V1_6 => "PAPERBOAT_CONTAINERD_1_6_BIN",
            Self::V1_7 => "PAPERBOAT_CONTAINERD_BIN",
            Self::V2 => "PAPERBOAT_CONTAINERD_2_BIN",
        }
    }

    /// The line for tests that are for every line: as `PAPERBOAT_E2E_CONTAINERD` says, else the first engine.
    pub fn of_tests() -> Result<Self, Error> {
        match std::env::var("PAPERBOAT_E2E_CONTAINERD").as_deref() {
            Err(_) | Ok("" | "1.7") => Ok(Self::V1_7),
            Ok("1.6") => Ok(Self::V1_6),
            Ok("2") => Ok(Self::V2),
            Ok(other) => Err(Error::NoSuchContainerd(other.to_owned())),
        }
    }

    /// Directory of `containerd` and `ctr`.
    pub fn directory(self) -> Result<PathBuf, Error> {
        from_environment(self.variable())
    }
}

/// Lines of Docker that the runtime is tested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docker {
    /// 26, of trixie: hands the network over by a hook.
    V26,
    /// 28, of forky: hands it over between Create and Start.
    V28,
}

impl Docker {
    /// The line for tests that are for every line: as `PAPERBOAT_E2E_DOCKER` says, else the first.
    pub fn of_tests() -> Self {
        match std::env::var("PAPERBOAT_E2E_DOCKER").as_deref() {
            Ok("28") => Self::V28,
            _ => Self::V26,
        }
    }

    /// Prefix with `bin/docker` and `sbin/dockerd`.
    pub fn prefix(self) -> Result<PathBuf, Error> {
        from_environment(match self {
            Self::V26 => "PAPERBOAT_DOCKER_26",
            Self::V28 => "PAPERBOAT_DOCKER_28",
        })
    }

    /// The containerd it is released with.
    pub fn containerd(self) -> Containerd {
        match self {
            Self::V26 => Containerd::V1_7,
            Self::V28 => Containerd::V2,
        }
    }
}

/// Directory of the CNI plugins.
pub fn cni() -> Result<PathBuf, Error> {
    from_environment("PAPERBOAT_CNI_BIN")
}

/// The initramfs whose agent is hostile.
pub fn hostile_initramfs() -> Result<PathBuf, Error> {
    from_environment("PAPERBOAT_HOSTILE")
}

/// Paths of everything each test needs.
#[derive(Debug, Clone)]
pub struct Products {
    /// Directory of the project's programs.
    pub bin: PathBuf,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Guest initial RAM file system.
    pub initramfs: PathBuf,
    /// Directory of image archives.
    pub images: PathBuf,
    /// Directory with runc.
    pub runc: PathBuf,
    /// The backend that every machine is to have; without it the runtime chooses.
    pub backend: Option<String>,
}

impl Products {
    /// Reads the environment; every path must exist.
    pub fn from_environment() -> Result<Self, Error> {
        Ok(Self {
            bin: from_environment("PAPERBOAT_BIN")?,
            kernel: from_environment("PAPERBOAT_KERNEL")?,
            initramfs: from_environment("PAPERBOAT_INITRAMFS")?,
            images: from_environment("PAPERBOAT_IMAGES")?,
            runc: from_environment("PAPERBOAT_RUNC_BIN")?,
            backend: std::env::var("PAPERBOAT_BACKEND").ok(),
        })
    }
}

fn from_environment(variable: &'static str) -> Result<PathBuf, Error> {
    let path = PathBuf::from(std::env::var_os(variable).ok_or(Error::Unset(variable))?);
    if path.exists() { Ok(path) } else { Err(Error::Missing { variable, path }) }
}
