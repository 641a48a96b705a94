//! `paperboat check`: whether this host has what pods need, said before the first pod is started. Each miss comes with its cure.

mod engine;
mod network;
mod power;

use std::path::Path;

use serde::Serialize;

use crate::config::{Backend, Config};

/// What a finding means for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Pods start; something is not as it could be.
    Note,
    /// Pods cannot start.
    Bad,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, detail: detail.into(), cure: None }
    }

    fn note(what: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Note, detail: detail.into(), cure: Some(cure.into()) }
    }

    fn bad(what: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Bad, detail: detail.into(), cure: Some(cure.into()) }
    }
}

/// Looks at everything a pod's start depends on.
pub fn check(config: &Config) -> Vec<Finding> {
    let vmm = config.vmm_path();
    let mut findings = vec![
        file("kernel", &config.kernel, "`cargo xtask kernel` builds one; `kernel` in the configuration says where it is"),
        file("initramfs", &config.initramfs, "`cargo xtask images` makes one; `initramfs` in the configuration says where it is"),
        file("machine", &vmm, "install paperboat-vmm beside the shim, or say where it is by `vmm` in the configuration"),
    ];
    if findings[0].verdict == Verdict::Good {
        findings.push(kernel_format(&config.kernel));
    }
    if let Some(tools) = config.debug_tools.as_deref().filter(|_| config.debug_console) {
        findings.push(file("debug tools", tools, "`debug_tools` in the configuration names a static ppc64le busybox"));
    }
    findings.push(user());
    findings.push(state_directory(&config.state_dir));
    findings.extend(network::findings());
    let host = power::Host::look();
    if host.power {
        findings.extend(power::findings(&host, &power::kvm_access()));
    }
    let asked = cfg!(target_arch = "powerpc64") && config.backend != Backend::Soft;
    findings.push(backend(config.backend, if asked { ask_for_kvm(&vmm) } else { None }));
    findings.extend(engine::findings());
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

fn file(what: &'static str, path: &Path, cure: &str) -> Finding {
    let found = std::fs::File::open(path).and_then(|file| file.metadata());
    match found {
        Ok(metadata) if metadata.is_file() => Finding::good(what, format!("{} ({} bytes)", path.display(), metadata.len())),
        Ok(_) => Finding::bad(what, format!("{}: is not a file", path.display()), cure),
        Err(error) => Finding::bad(what, format!("{}: {error}", path.display()), cure),
    }
}

/// A boot image (zImage, or for another architecture) is a likely mistake; its ELF header tells.
fn kernel_format(path: &Path) -> Finding {
    use std::io::Read;
    const WHAT: &str = "kernel format";
    let mut head = [0; 20];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // ELF, 64 bits, little-endian, EM_PPC64 (System V ABI, ELF header).
    if read.is_ok() && head[..6] == *b"\x7fELF\x02\x01" && head[18..20] == [21, 0] {
        return Finding::good(WHAT, "a ppc64le ELF image");
    }
    Finding::bad(WHAT, "is not a ppc64le ELF image", "name the vmlinux itself, not a zImage, and one for ppc64le")
}

fn user() -> Finding {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Finding::good("user", "root, as containerd and its shims are");
    }
    Finding::note("user", format!("user {user}, who cannot see all that root's containerd sees"), "run `sudo paperboat check`")
}

/// The state directory, or the directory it is to be made in.
fn state_directory(path: &Path) -> Finding {
    const WHAT: &str = "state directory";
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let cure = "let root write there, or say another place by `state_dir` in the configuration";
    if !existing.is_dir() {
        return Finding::bad(WHAT, format!("{}: is not a directory", existing.display()), cure);
    }
    match nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Finding::good(WHAT, path.display().to_string()),
        Err(nix::errno::Errno::EACCES) if !nix::unistd::geteuid().is_root() => {
            Finding::note(WHAT, format!("{}: only root may write there", path.display()), "run `sudo paperboat check`")
        }
        Err(errno) => Finding::bad(WHAT, format!("{}: {}", existing.display(), errno.desc()), cure),
    }
}

/// `kvm` is what was found on a POWER host, `None` elsewhere.
fn backend(wanted: Backend, kvm: Option<Result<String, String>>) -> Finding {
    const WHAT: &str = "backend";
    const CURE: &str = "follow its advice, or set `backend: auto` to run on the software CPU";
    match (wanted, kvm) {
        (Backend::Soft, _) => Finding::good(WHAT, "soft: the software POWER CPU, as configured"),
        (Backend::Kvm | Backend::Auto, Some(Ok(found))) => Finding::good(WHAT, found),
        (Backend::Kvm, Some(Err(why))) => Finding::bad(WHAT, why, CURE),
        (Backend::Kvm, None) => Finding::bad(WHAT, "kvm is configured, but this host is not POWER", "`backend: auto`"),
        (Backend::Auto, Some(Err(why))) => Finding::note(WHAT, format!("soft: the software POWER CPU, because: {why}"), CURE),
        (Backend::Auto, None) => Finding::good(WHAT, "soft: the software POWER CPU, for want of KVM on POWER"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_found_with_its_cure() {
        let config = Config { kernel: "/nonexistent/vmlinux".into(), ..Default::default() };
        let findings = check(&config);
        let kernel = findings.iter().find(|finding| finding.what == "kernel").unwrap();
        assert_eq!(kernel.verdict, Verdict::Bad);
        assert!(kernel.detail.contains("/nonexistent/vmlinux"));
        let uncured: Vec<_> = findings.iter().filter(|f| f.verdict != Verdict::Good && f.cure.is_none()).collect();
        assert!(uncured.is_empty(), "{uncured:?}");
    }

    #[test]
    fn kvm_is_never_promised_where_it_cannot_run() {
        assert_eq!(backend(Backend::Kvm, None).verdict, Verdict::Bad);
        assert!(backend(Backend::Auto, None).detail.starts_with("soft"));
        assert!(backend(Backend::Auto, Some(Ok("kvm: hash guests".into()))).detail.starts_with("kvm"));
        let refused = Some(Err("backend kvm: there is no /dev/kvm; run modprobe".to_owned()));
        assert_eq!(backend(Backend::Kvm, refused.clone()).verdict, Verdict::Bad);
        let auto = backend(Backend::Auto, refused);
        assert!(auto.verdict == Verdict::Note && auto.detail.contains("no /dev/kvm"), "{}", auto.detail);
        assert_eq!(backend(Backend::Soft, None).verdict, Verdict::Good);
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
        assert_eq!(kernel_format(file.path()).verdict, Verdict::Bad);
        std::fs::write(file.path(), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x15\0").unwrap();
        assert_eq!(kernel_format(file.path()).verdict, Verdict::Good);
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(state_directory(&file.path().join("state")).verdict, Verdict::Bad);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(state_directory(&directory.path().join("a/b")).verdict, Verdict::Good);
    }
}
