//! What is tested, from the environment.

use std::path::PathBuf;

use crate::Error;

/// Paths of everything a test needs.
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
    /// Directory with containerd and ctr.
    pub containerd: PathBuf,
}

impl Products {
    /// Reads the environment; every path must exist.
    pub fn from_environment() -> Result<Self, Error> {
        let path = |variable: &'static str| {
            let path = PathBuf::from(std::env::var_os(variable).ok_or(Error::Unset(variable))?);
            if path.exists() { Ok(path) } else { Err(Error::Missing { variable, path }) }
        };
        Ok(Self {
            bin: path("PAPERBOAT_BIN")?,
            kernel: path("PAPERBOAT_KERNEL")?,
            initramfs: path("PAPERBOAT_INITRAMFS")?,
            images: path("PAPERBOAT_IMAGES")?,
            containerd: path("PAPERBOAT_CONTAINERD_BIN")?,
        })
    }
}
