//! What KVM on a POWER host depends on: KVM-HV, hash guests, page size, the contiguous memory for hashed page tables, and threads.

use std::fs;
use std::io;

use super::Finding;

/// What a POWER host says of itself.
#[derive(Debug, Default, Clone)]
pub struct Host {
    /// A POWER processor.
    pub power: bool,
    /// The `cpu` line of /proc/cpuinfo: `POWER9, altivec supported`.
    cpu: String,
    /// The `platform` line: PowerNV or pSeries.
    platform: String,
    /// The `MMU` line: Hash or Radix.
    mmu: String,
    /// Bytes of a page.
    page_bytes: u64,
    /// Bytes reserved for contiguous allocations, of /proc/meminfo.
    cma_bytes: u64,
    /// Whether more than one thread of a core is online.
    smt_active: bool,
    /// Whether the module for hypervisor mode is loaded or built in.
    kvm_hv: bool,
}

impl Host {
    /// Looks at this host.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        Self::parse(
            &read("/proc/cpuinfo"),
            &read("/proc/meminfo"),
            &read("/sys/devices/system/cpu/smt/active"),
            page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            std::path::Path::new("/sys/module/kvm_hv").exists(),
        )
    }

    fn parse(cpuinfo: &str, meminfo: &str, smt: &str, page_bytes: u64, kvm_hv: bool) -> Self {
        let field = |text: &str, name: &str| {
            let line = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
            line.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let cpu = field(cpuinfo, "cpu");
        let cma_kib: u64 = field(meminfo, "CmaTotal").split(' ').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Self {
            power: cpu.starts_with("POWER"),
            platform: field(cpuinfo, "platform"),
            mmu: field(cpuinfo, "MMU"),
            cpu,
            page_bytes,
            cma_bytes: cma_kib << 10,
            smt_active: smt.trim() == "1",
            kvm_hv,
        }
    }
}

/// Whether this process may open /dev/kvm.
pub fn kvm_access() -> io::Result<()> {
    fs::File::options().read(true).write(true).open("/dev/kvm").map(drop)
}

/// A page table for a 64 GiB guest is 512 MiB (a 128th); smaller pods need less, more pods need it again.
const CMA_ENOUGH_BYTES: u64 = 512 << 20;

/// Everything about KVM on this POWER host.
pub fn findings(host: &Host, kvm: &io::Result<()>) -> Vec<Finding> {
    let mut findings = vec![Finding::good("processor", format!("{}, {}, {} MMU", host.cpu, host.platform, host.mmu))];
    findings.push(match kvm {
        Ok(()) => Finding::good("/dev/kvm", "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::note(
            "/dev/kvm",
            "is not there: pods run on the software CPU",
            "`modprobe kvm_hv`; in a partition, ask for nested KVM",
        ),
        Err(error) => Finding::note("/dev/kvm", format!("{error}"), "run as root, or add the user to the group kvm"),
    });
    if host.kvm_hv || kvm.is_ok() {
        findings.push(match host.kvm_hv {
            true => Finding::good("KVM-HV", "the module kvm_hv is there"),
            false => {
                Finding::note("KVM-HV", "/dev/kvm is not of kvm_hv: KVM-PR is slow", "`modprobe -r kvm_pr; modprobe kvm_hv`")
            }
        });
    }
    findings.push(match host.platform.as_str() {
        "PowerNV" => Finding::good("hash guests", "bare metal: guests may have hashed page tables"),
        _ => Finding::note(
            "hash guests",
            "a partition: its KVM gives guests radix page tables only, pods want hashed ones",
            "use bare metal for KVM; on this host the software CPU runs pods",
        ),
    });
    findings.push(match host.page_bytes {
        65536 => Finding::good("page size", "64 KiB"),
        bytes => Finding::note(
            "page size",
            format!("{bytes} bytes cannot back a guest's pages of 64 KiB: pods run on the software CPU"),
            "boot a kernel with 64 KiB pages (Debian's ends in -64k)",
        ),
    });
    findings.push(match host.cma_bytes {
        CMA_ENOUGH_BYTES.. => Finding::good("contiguous memory", format!("{} MiB for guests' page tables", host.cma_bytes >> 20)),
        bytes => Finding::note(
            "contiguous memory",
            format!("{} MiB: large guests' page tables may not fit", bytes >> 20),
            "boot with kvm_cma_resv_ratio=5 on the kernel's command line",
        ),
    });
    let power8 = host.cpu.starts_with("POWER8");
    findings.push(match host.smt_active {
        true if power8 => {
            Finding::bad("threads", "POWER8 with several threads online: guests do not run", "`ppc64_cpu --smt=off`")
        }
        true => Finding::good("threads", "several per core, as POWER9 and later may have"),
        false => Finding::good("threads", "one per core online"),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    const POWER9: &str = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n\nplatform\t: PowerNV\nMMU\t\t: Radix\n";
    const MEMINFO: &str = "MemTotal:  1000 kB\nCmaTotal:        6684672 kB\n";

    fn verdict(findings: &[Finding], what: &str) -> Verdict {
        findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("{what}: {findings:?}")).verdict
    }

    #[test]
    fn bare_metal_power9_is_as_it_should_be() {
        let host = Host::parse(POWER9, MEMINFO, "1\n", 65536, true);
        let findings = findings(&host, &Ok(()));
        assert!(host.power && findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
    }

    #[test]
    fn power8_must_have_its_threads_off() {
        let host = Host::parse(&POWER9.replace("POWER9", "POWER8E"), MEMINFO, "1\n", 65536, true);
        assert_eq!(verdict(&findings(&host, &Ok(())), "threads"), Verdict::Bad);
        let off = Host { smt_active: false, ..host };
        assert_eq!(verdict(&findings(&off, &Ok(())), "threads"), Verdict::Good);
    }

    #[test]
    fn partitions_and_small_pages_are_noted() {
        let host = Host::parse(&POWER9.replace("PowerNV", "pSeries"), "MemTotal: 1 kB\n", "0", 4096, false);
        let findings = findings(&host, &Err(io::ErrorKind::NotFound.into()));
        for what in ["hash guests", "page size", "contiguous memory", "/dev/kvm"] {
            assert_eq!(verdict(&findings, what), Verdict::Note, "{what}");
        }
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good || finding.cure.is_some()));
    }

    #[test]
    fn an_x86_host_is_no_power_host() {
        assert!(!Host::parse("processor\t: 0\nmodel name\t: some x86\n", MEMINFO, "1", 4096, false).power);
    }
}
