//! What each lab runs, and what it must say.

use std::time::Duration;

use crate::cli::LabMachine;

/// What hangs ends then: a case of a few pods, and a suite of dozens, on a host that has something else to do. Each test of a suite has limits
/// of its own.
const CASE_LIMIT: Duration = Duration::from_secs(1800);
const SUITE_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// One test program, or one command, run in the lab.
pub struct Case {
    pub name: String,
    /// For the lab's shell; the programs are in /opt/paperboat.
    pub script: String,
    /// What the output must contain, besides status 0.
    expect: &'static [&'static str],
    pub limit: Duration,
    /// Its output is shown as it comes.
    pub shown: bool,
}

/// What shows KVM and the machine on it, in the order of what rests on what: name, script, expected words.
const BASE: &[(&str, &str, &[&str])] = &[
    (
        "the host is told apart",
        concat!(include_str!("engine.sh"), include_str!("says.sh"), include_str!("hosts.sh")),
        &["kvm: hash guests", "a container without kvm_hv says so", "a container without the device says so", "pods is 0"],
    ),
    (
        "kvm: guests of a few instructions, and the contract of the backends",
        "/opt/paperboat/tests/kvm-guest --test-threads=1",
        &["test result: ok.", "who_serves_which_hypercall ... ok"],
    ),
    (
        "the kernel boots to a program",
        "/opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --stats --memory 512M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        &["userland reached", "hash-mmu: Initializing hash mmu"],
    ),
    (
        "the kernel boots on two CPUs, with devices",
        "/opt/paperboat/bin/paperboat-vmm run --backend kvm --cpus 2 --memory 256M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        &["userland reached", "smp: Brought up 1 node, 2 CPUs"],
    ),
    (
        "a core of its own for each CPU, interrupts presented by the machine, a POWER8",
        concat!(include_str!("boot.sh"), "boot --cpus 4 && boot --cpus 2 --xics machine && boot --cpu power8"),
        &["smp: Brought up 1 node, 4 CPUs", "smp: Brought up 1 node, 2 CPUs", "POWER8 (architected)"],
    ),
    (
        "a container's life through containerd",
        concat!(include_str!("engine.sh"), include_str!("container.sh")),
        &["the exit status is 7", "POWER", "an exec's status is 3", "machines left is 0"],
    ),
];

/// The kernels of Debian's take minutes each, nearly all of it in their drivers' own beginnings: part of everything only.
const STOCK: (&str, &str, &[&str]) = (
    "Debian's kernels come to a shell",
    include_str!("stock.sh"),
    &["-paperboat with 1", "here is 6.1.", "-powerpc64le with 2", "-powerpc64le-64k with 2", "left is 0"],
);

/// The end-to-end suites that run in the lab, and how their tests are chosen there; with `--all` also what they have in modules `slow`.
const SUITES: &[(&str, &str)] = &[
    // Debian's kernels have a case of their own, only the software CPU repeats itself, and 64 CPUs on an emulated one take for ever.
    ("machine", "--skip stock --skip bit_for_bit --skip all_cpus --skip slow::"),
    ("thin_cut", ""),
    ("tasks", ""),
    ("pods", ""),
    ("streams", ""),
    ("files", ""),
    ("confinement", ""),
    // A machine that is killed in its first moments is told there as a network namespace that is not.
    ("deaths", "--skip every_death_at_every_moment"),
    ("input", "--skip slow::"),
    ("storage", ""),
    ("mounts", ""),
    // Debian's kernels have a case of their own.
    ("devices", "--skip stock --skip slow::"),
    ("posix", "--skip slow::"),
    ("network", ""),
    // Of the operator's command what does not need bash, a screen that keeps up, or counts that KVM does not make.
    ("operator", "a_client_names a_program_runs a_stranger annotations_are configuration_files"),
    ("programs", "--skip slow::"),
    // The sandbox API is containerd 2's.
    ("cri", "--skip containerd_2 --skip sandbox_api --skip both_sandboxers"),
    // How far Docker goes is shown with the software CPU; here, that its pods run under KVM.
    ("docker", "a_container_runs_in a_container_lives_in networks_connect_with_docker_26 --skip slow::"),
    WORKLOADS,
];

/// The suite with an image of its own, and nothing that is not slow.
const WORKLOADS: (&str, &str) = ("workloads", "databases git_clones");

/// Tests of a suite that the routine run does: one of each kind. All of the first takes four times as long.
const ROUTINE: &[(&str, &str)] = &[
    ("thin_cut", "a_command_runs_in a_missing_kernel a_guest_that_panics_while_it_works a_shim_that_is_killed"),
    ("cri", "a_container_is_looked_after_while_it_runs"),
];

/// The scripts of cases.
pub const SCRIPTS: [&str; 7] = [
    include_str!("boot.sh"),
    include_str!("engine.sh"),
    include_str!("says.sh"),
    include_str!("hosts.sh"),
    include_str!("unable.sh"),
    include_str!("container.sh"),
    include_str!("stock.sh"),
];

/// Where the suites find everything in the lab.
const PLACES: &str = "export PAPERBOAT_BACKEND=kvm PAPERBOAT_BIN=/opt/paperboat/bin PAPERBOAT_KERNEL=/opt/paperboat/vmlinux \
    PAPERBOAT_INITRAMFS=/opt/paperboat/initramfs.cpio PAPERBOAT_SHELL=/opt/paperboat/shell.cpio PAPERBOAT_PROBES=/opt/paperboat/probes \
    PAPERBOAT_HOSTILE=/opt/paperboat/hostile.cpio \
    PAPERBOAT_IMAGES=/opt/paperboat/images PAPERBOAT_CONTAINERD_BIN=/usr/bin \
    PAPERBOAT_RUNC_BIN=/usr/sbin PAPERBOAT_CNI_BIN=/usr/lib/cni PAPERBOAT_DOCKER_26=/usr PATH=/opt/paperboat/bin:$PATH";

/// One end-to-end test program with its arguments.
fn suite(name: &str, arguments: &str) -> Case {
    Case {
        name: format!("end-to-end: {name}"),
        script: format!("{PLACES}\n/opt/paperboat/tests/e2e-{name} --test-threads=1 {arguments}"),
        expect: &["test result: ok."],
        limit: SUITE_LIMIT,
        shown: true,
    }
}

/// Names of the end-to-end suites, without which a case has no program.
pub fn suite_names() -> impl Iterator<Item = &'static str> {
    SUITES.iter().map(|&(name, _)| name)
}

/// Every end-to-end suite, without what is slow.
pub fn suites(machine: LabMachine) -> Vec<Case> {
    SUITES.iter().filter(|&&suite| suite != WORKLOADS).map(|suite| whole(machine, suite, "--skip slow::")).collect()
}

/// A suite, but for what this machine cannot do.
fn whole(machine: LabMachine, &(name, choice): &(&str, &str), less: &str) -> Case {
    // Two threads of one core.
    let less_here = if machine == LabMachine::Powernv8 && name == "machine" { "--skip takes_cpus_away" } else { "" };
    suite(name, &format!("{choice} {less} {less_here}"))
}

/// What a machine runs.
pub fn of(machine: LabMachine, all: bool) -> Vec<Case> {
    if LabMachine::UNABLE.contains(&machine) {
        return vec![unable(machine)];
    }
    let base = BASE.iter().chain(all.then_some(&STOCK)).map(|&(name, script, expect)| Case {
        name: name.into(),
        script: script.into(),
        expect,
        limit: CASE_LIMIT,
        shown: false,
    });
    let base = base.chain([threads(machine)]);
    if all {
        base.chain(SUITES.iter().map(|suite| whole(machine, suite, ""))).collect()
    } else {
        base.chain(ROUTINE.iter().map(|&(name, tests)| suite(name, tests))).collect()
    }
}

/// Threads of one core. An emulated POWER8 has one in each, and KVM gives guests no more there.
fn threads(machine: LabMachine) -> Case {
    let (not, expect): (_, &[&str]) = match machine {
        LabMachine::Powernv8 => ("! ", &["threads of a core is 4", "KVM adds none on a POWER8"]),
        _ => ("", &["smp: Brought up 1 node, 4 CPUs"]),
    };
    Case {
        name: "threads of one core".into(),
        script: format!("{}{not}boot --cpus 4 --threads 4", include_str!("boot.sh")),
        expect,
        limit: CASE_LIMIT,
        shown: false,
    }
}

/// What a host says that cannot run hash guests: `paperboat check`, the machine's own probe, and the creation of a container.
fn unable(machine: LabMachine) -> Case {
    let words = if machine == LabMachine::Pseries { "bare-metal (powernv) host" } else { "kernel of 64 KiB pages" };
    Case {
        name: format!("{} says why it cannot", machine.name()),
        script: format!("WORDS='{words}'\n{}{}{}", include_str!("engine.sh"), include_str!("says.sh"), include_str!("unable.sh")),
        expect: &["the probe says so", "the check says so", "a container says so", "pods is 0"],
        limit: CASE_LIMIT,
        shown: true,
    }
}

/// Whether a file of this name in the lab is one that these cases use: of test programs, Debian's kernels and the image of one suite those that
/// they need.
pub fn used(cases: &[Case], name: &str) -> bool {
    let run = |name: &str| cases.iter().any(|case| case.script.contains(&format!("/opt/paperboat/{name} ")));
    match name {
        "images/workbench.tar" => run("tests/e2e-workloads"),
        _ if name.starts_with("tests/") || name.starts_with("kernels/") => run(name),
        _ => true,
    }
}

impl Case {
    /// What is wrong with how it ended.
    pub fn problem(&self, status: i32, output: &str) -> Option<String> {
        if status != 0 {
            return Some(format!("exit status {status}"));
        }
        if output.contains("test result: ok. 0 passed") {
            return Some("no test has the name".into());
        }
        let missing = self.expect.iter().find(|words| !output.contains(*words))?;
        Some(format!("{missing:?} is not in its output"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routine_run_is_a_part_of_everything() {
        let (routine, all) = (of(LabMachine::Powernv9, false), of(LabMachine::Powernv9, true));
        assert_eq!(all.len(), BASE.len() + 2 + SUITES.len());
        for case in &routine {
            assert!(all.iter().any(|of_all| of_all.name == case.name), "{}", case.name);
        }
        assert!(
            used(&routine, "tests/e2e-thin_cut")
                && used(&routine, "tests/e2e-cri")
                && used(&routine, "tests/kvm-guest")
                && used(&routine, "bin/paperboat")
        );
        assert!(!used(&routine, "tests/e2e-storage") && used(&all, "tests/e2e-storage") && used(&all, "tests/e2e-docker"));
        assert!(
            !used(&routine, "images/workbench.tar") && used(&all, "images/workbench.tar") && used(&routine, "images/debian.tar")
        );
        assert!(!used(&suites(LabMachine::Powernv9), "images/workbench.tar"));
        assert!(!used(&routine, "kernels/stock-6.1") && used(&all, "kernels/stock-6.1") && used(&all, "kernels/stock-6.12-4k"));
    }

    #[test]
    fn every_suite_that_a_case_runs_is_built() {
        for machine in [LabMachine::Powernv8, LabMachine::Powernv9] {
            for case in of(machine, true).iter().chain(&of(machine, false)).chain(&suites(machine)) {
                let runs = case.script.split("/opt/paperboat/tests/e2e-").nth(1).and_then(|rest| rest.split(' ').next());
                assert!(runs.is_none_or(|name| suite_names().any(|known| known == name)), "{runs:?}");
            }
        }
        let on_power8 = of(LabMachine::Powernv8, true);
        assert!(
            on_power8.iter().any(|case| case.name == "end-to-end: machine" && case.script.contains("--skip takes_cpus_away"))
        );
    }

    #[test]
    fn a_case_needs_status_and_words() {
        let case = Case { name: String::new(), script: String::new(), expect: &["one", "two"], limit: CASE_LIMIT, shown: false };
        assert_eq!(case.problem(0, "one two"), None);
        assert!(case.problem(1, "one two").unwrap().contains("exit status 1"));
        assert!(case.problem(0, "one two\ntest result: ok. 0 passed; 0 failed").unwrap().contains("no test has the name"));
        assert!(case.problem(0, "one").unwrap().contains("\"two\" is not in"));
    }
}
