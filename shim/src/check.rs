//! `paperboat check`: whether this host has what pods need, said before the first pod is started.

use std::path::Path;

use crate::config::{Backend, Config};

/// One thing looked at.
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether pods can start with it.
    pub good: bool,
    /// What was found.
    pub detail: String,
}

/// Looks at everything a pod's start depends on.
pub fn check(config: &Config) -> Vec<Finding> {
    let vmm = config.vmm_path();
    let mut findings: Vec<Finding> = [("kernel", config.kernel.as_path()), ("initrd", &config.initrd), ("vmm", &vmm)]
        .map(|(what, path)| file(what, path))
        .into();
    if findings[0].good {
        findings.push(kernel_format(&config.kernel));
    }
    findings.push(backend(config.backend, cfg!(target_arch = "powerpc64"), Path::new("/dev/kvm").exists()));
    findings
}

fn file(what: &'static str, path: &Path) -> Finding {
    let found = std::fs::File::open(path).and_then(|file| file.metadata());
    let (good, detail) = match found {
        Ok(metadata) if metadata.is_file() => (true, format!("{} ({} bytes)", path.display(), metadata.len())),
        Ok(_) => (false, format!("{}: is not a file", path.display())),
        Err(error) => (false, format!("{}: {error}", path.display())),
    };
    Finding { what, good, detail }
}

/// A boot image (zImage, or for another architecture) is a likely mistake; its ELF header tells.
fn kernel_format(path: &Path) -> Finding {
    use std::io::Read;
    let mut head = [0; 20];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // ELF, 64 bits, little-endian, EM_PPC64 (System V ABI, ELF header).
    let good = read.is_ok() && head[..6] == *b"\x7fELF\x02\x01" && head[18..20] == [21, 0];
    let detail = if good { "a ppc64le ELF image".into() } else { "is not a ppc64le ELF image (a vmlinux is expected)".into() };
    Finding { what: "kernel format", good, detail }
}

fn backend(wanted: Backend, power_host: bool, kvm: bool) -> Finding {
    let (good, detail) = match (wanted, power_host && kvm) {
        (Backend::Kvm, true) | (Backend::Auto, true) => (true, "kvm: /dev/kvm on a POWER host"),
        (Backend::Kvm, false) if power_host => (false, "kvm is configured, but there is no /dev/kvm"),
        (Backend::Kvm, false) => (false, "kvm is configured, but this host is not POWER"),
        (Backend::Soft, _) => (true, "soft: the software POWER CPU, as configured"),
        (Backend::Auto, false) => (true, "soft: the software POWER CPU, for want of KVM on POWER"),
    };
    Finding { what: "backend", good, detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_found() {
        let config = Config { kernel: "/nonexistent/vmlinux".into(), ..Default::default() };
        let findings = check(&config);
        let kernel = findings.iter().find(|finding| finding.what == "kernel").unwrap();
        assert!(!kernel.good && kernel.detail.contains("/nonexistent/vmlinux"));
    }

    #[test]
    fn kvm_is_never_promised_off_power() {
        assert!(!backend(Backend::Kvm, false, true).good);
        assert!(backend(Backend::Auto, false, true).detail.starts_with("soft"));
        assert!(backend(Backend::Auto, true, true).detail.starts_with("kvm"));
    }

    #[test]
    fn a_kernel_for_another_architecture_is_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0").unwrap();
        assert!(!kernel_format(file.path()).good);
        std::fs::write(file.path(), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x15\0").unwrap();
        assert!(kernel_format(file.path()).good);
    }
}
