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
    let asked = cfg!(target_arch = "powerpc64") && config.backend != Backend::Soft;
    findings.push(backend(config.backend, if asked { ask_for_kvm(&vmm) } else { None }));
    findings
}

/// What the machine's program says about KVM on this POWER host; `Err` holds reason and cure.
fn ask_for_kvm(vmm: &Path) -> Option<Result<String, String>> {
    let first_line = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
    Some(match std::process::Command::new(vmm).arg("probe").output() {
        Ok(output) if output.status.success() => Ok(first_line(&output.stdout)),
        Ok(output) => Err(first_line(&output.stderr)),
        Err(error) => Err(format!("{} probe: {error}", vmm.display())),
    })
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

/// `kvm` is what was found on a POWER host, `None` elsewhere.
fn backend(wanted: Backend, kvm: Option<Result<String, String>>) -> Finding {
    let (good, detail) = match (wanted, kvm) {
        (Backend::Soft, _) => (true, "soft: the software POWER CPU, as configured".into()),
        (Backend::Kvm | Backend::Auto, Some(Ok(found))) => (true, found),
        (Backend::Kvm, Some(Err(why))) => (false, why),
        (Backend::Kvm, None) => (false, "kvm is configured, but this host is not POWER".into()),
        (Backend::Auto, Some(Err(why))) => (true, format!("soft: the software POWER CPU, because: {why}")),
        (Backend::Auto, None) => (true, "soft: the software POWER CPU, for want of KVM on POWER".into()),
    };
    Finding { what: "backend", good, detail }
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
    fn kvm_is_never_promised_where_it_cannot_run() {
        assert!(!backend(Backend::Kvm, None).good);
        assert!(backend(Backend::Auto, None).detail.starts_with("soft"));
        assert!(backend(Backend::Auto, Some(Ok("kvm: hash guests".into()))).detail.starts_with("kvm"));
        let refused = Some(Err("backend kvm: there is no /dev/kvm; run modprobe".to_owned()));
        assert!(!backend(Backend::Kvm, refused.clone()).good);
        let auto = backend(Backend::Auto, refused);
        assert!(auto.good && auto.detail.contains("no /dev/kvm"), "{}", auto.detail);
        assert!(backend(Backend::Soft, None).good);
    }

    #[test]
    fn the_machines_program_is_asked() {
        let refused = ask_for_kvm(Path::new("/bin/false")).unwrap();
        assert_eq!(refused, Err(String::new()));
        let missing = ask_for_kvm(Path::new("/nonexistent/vmm")).unwrap().unwrap_err();
        assert!(missing.contains("/nonexistent/vmm probe"), "{missing}");
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
