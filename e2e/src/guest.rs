//! What a program in the guest can prove about where it runs. `uname -m` alone proves nothing: a user-mode emulator says the same.

/// Prints the proof, between marks.
pub const PROOF_SCRIPT: &str = "uname -a; uname -r; cat /proc/sys/kernel/random/boot_id; cat /proc/cpuinfo";

/// The machine this test runs on.
#[derive(Debug)]
pub struct ThisHost {
    /// Kernel release.
    pub release: String,
    /// Boot id.
    pub boot_id: String,
    /// The processor that guests see here: `POWER9` on the software CPU, the host's own under KVM.
    pub guest_cpu: String,
}

impl ThisHost {
    /// Looks at /proc.
    pub fn look() -> std::io::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        let guest_cpu = match std::env::var("PAPERBOAT_BACKEND").as_deref() {
            Ok("kvm") => generation(&read("/proc/cpuinfo")?).unwrap_or_default(),
            _ => SOFT_CPU.to_owned(),
        };
        Ok(Self { release: read("/proc/sys/kernel/osrelease")?, boot_id: read("/proc/sys/kernel/random/boot_id")?, guest_cpu })
    }
}

/// The processor of the software CPU.
const SOFT_CPU: &str = "POWER9";

/// `POWER` and its number, of the first processor in /proc/cpuinfo.
fn generation(cpuinfo: &str) -> Option<String> {
    let mut pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let (_, cpu) = pairs.find(|(key, _)| key.trim() == "cpu")?;
    let digits: String = cpu.trim().strip_prefix("POWER")?.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("POWER{digits}"))
}

/// What [`PROOF_SCRIPT`] printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// `uname -a`.
    pub uname: String,
    /// `uname -r`.
    pub release: String,
    /// Boot id.
    pub boot_id: String,
    /// The `cpu` line of /proc/cpuinfo.
    pub cpu: String,
}

impl Proof {
    /// Reads the script's output; `None` if a part is missing.
    pub fn parse(output: &str) -> Option<Self> {
        let mut lines = output.lines();
        let (uname, release, boot_id) = (lines.next()?, lines.next()?, lines.next()?);
        let cpu = lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "cpu")?.1;
        Some(Self { uname: uname.into(), release: release.into(), boot_id: boot_id.into(), cpu: cpu.trim().into() })
    }

    /// Why this is not proof of a guest of ours on this host; `None` if it is.
    pub fn doubt(&self, host: &ThisHost) -> Option<String> {
        if !self.uname.contains(" ppc64le ") {
            return Some(format!("the machine is not ppc64le: {}", self.uname));
        }
        if self.release == host.release || !self.release.contains("paperboat") {
            return Some(format!("the kernel release is {}, the host's {}", self.release, host.release));
        }
        if self.boot_id == host.boot_id || self.boot_id.len() != 36 {
            return Some(format!("the boot id is {}, the host's {}", self.boot_id, host.boot_id));
        }
        if host.guest_cpu.is_empty() || !self.cpu.contains(&host.guest_cpu) {
            return Some(format!("the CPU is {}, not {}", self.cpu, host.guest_cpu));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Linux first 6.12.1-paperboat #1 SMP ppc64le GNU/Linux\n6.12.1-paperboat\n\
        01234567-89ab-cdef-0123-456789abcdef\nprocessor\t: 0\ncpu\t\t: POWER9 (architected), altivec supported\n";

    fn host() -> ThisHost {
        ThisHost {
            release: "6.1.0-host".into(),
            boot_id: "ffffffff-89ab-cdef-0123-456789abcdef".into(),
            guest_cpu: SOFT_CPU.into(),
        }
    }

    #[test]
    fn a_guest_of_ours_is_believed() {
        let proof = Proof::parse(OUTPUT).unwrap();
        assert_eq!(proof.cpu, "POWER9 (architected), altivec supported");
        assert_eq!(proof.doubt(&host()), None);
    }

    #[test]
    fn under_kvm_the_guest_has_the_hosts_processor() {
        let power8 = "processor\t: 0\ncpu\t\t: POWER8E, altivec supported\n";
        assert_eq!(generation(power8).as_deref(), Some("POWER8"));
        assert_eq!(generation("processor\t: 0\nmodel name\t: Xeon\n"), None);
        let host = ThisHost { guest_cpu: "POWER8".into(), ..host() };
        assert!(Proof::parse(OUTPUT).unwrap().doubt(&host).is_some());
    }

    #[test]
    fn an_emulator_on_the_host_is_not() {
        let proof = Proof::parse(OUTPUT).unwrap();
        assert!(Proof { release: host().release, ..proof.clone() }.doubt(&host()).is_some());
        assert!(Proof { boot_id: host().boot_id, ..proof.clone() }.doubt(&host()).is_some());
        assert!(Proof { cpu: "POWER8E".into(), ..proof.clone() }.doubt(&host()).is_some());
        assert!(Proof { uname: "Linux x86_64".into(), ..proof }.doubt(&host()).is_some());
        assert_eq!(Proof::parse("Linux\n"), None);
    }
}
