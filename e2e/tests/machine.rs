//! The machine by hand: the project's kernel and Debian's own, few and many CPUs, little and much memory, and every way to end. Each guest
//! comes to a shell in which commands run.

use std::path::{Path, PathBuf};

use paperboat_e2e::vmm::{Ended, Machine, MachineProducts, optional};

fn products() -> MachineProducts {
    MachineProducts::from_environment().unwrap()
}

fn start(products: &MachineProducts, kernel: &Path, cmdline: &str, options: &[&str]) -> Machine {
    let mut machine = Machine::start(products, kernel, cmdline, options).unwrap();
    machine.wait_for_shell();
    machine
}

fn power_off(mut machine: Machine) -> Ended {
    machine.type_line("poweroff -f");
    let ended = machine.end();
    assert_eq!(ended.status, Some(0), "{}{}", ended.console, ended.messages);
    ended
}

/// Boots, looks around, computes, powers off.
fn boots(kernel: &Path, release: &str, cpus: u32, memory_mib: u64) {
    let products = products();
    let (cpus_text, memory) = (cpus.to_string(), format!("{memory_mib}M"));
    let mut machine = start(&products, kernel, "", &["--bare", "--cpus", &cpus_text, "--memory", &memory]);
    let uname = machine.run("uname -srm");
    assert!(uname.starts_with("Linux ") && uname.contains(release) && uname.ends_with(" ppc64le"), "{uname}");
    assert_eq!(machine.run("nproc"), cpus_text);
    let total: u64 = machine.run("awk '/^MemTotal:/ { print $2 }' /proc/meminfo").parse().unwrap();
    assert!(total <= memory_mib << 10 && total > memory_mib * 1024 * 2 / 5, "{total} KiB of {memory_mib} MiB");
    // Each CPU works, all at once.
    machine.run("for n in $(seq $(nproc)); do (seq 1 20000 | sha256sum > /tmp/sum$n) & done; wait");
    assert_eq!(machine.run("cat /tmp/sum* | sort -u | wc -l"), "1");
    // As sha256sum says of the same lines anywhere.
    let sum = "f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a";
    assert_eq!(machine.run("cut -c1-64 /tmp/sum1"), sum);
    power_off(machine);
}

const OWN: &str = "-paperboat";

/// Few and many CPUs, the least and much memory; every combination is in `slow`.
#[test]
fn own_kernel_boots() {
    for (cpus, memory) in [(1, 64), (8, 512), (2, 8192)] {
        boots(&products().kernel, OWN, cpus, memory);
    }
}

/// As many CPUs as there can be, in cores of `threads`.
fn boots_with_all_cpus(threads: u32) {
    let products = products();
    let threads_text = threads.to_string();
    let options = ["--bare", "--cpus", "64", "--threads", &threads_text, "--memory", "1G"];
    let mut machine = start(&products, &products.kernel, "", &options);
    assert_eq!(machine.run("nproc"), "64");
    assert_eq!(machine.run("cat /sys/devices/system/cpu/online"), "0-63");
    let siblings = if threads == 1 { "63".to_owned() } else { format!("{}-63", 64 - threads) };
    assert_eq!(machine.run("cat /sys/devices/system/cpu/cpu63/topology/thread_siblings_list"), siblings);
    machine.run("for n in $(seq 0 63); do taskset -c $n sha256sum /bin/busybox > /tmp/sum$n & done; wait");
    assert_eq!(machine.run("cat /tmp/sum* | wc -l; cat /tmp/sum* | sort -u | wc -l"), "64\n1");
    power_off(machine);
}

#[test]
fn own_kernel_boots_with_all_cpus() {
    boots_with_all_cpus(4);
}

/// Linux may stand still without a word when it has next to no memory. The machine says so before.
#[test]
fn too_little_memory_for_linux_is_said_beforehand() {
    let products = products();
    let junk = tempfile::NamedTempFile::new().unwrap();
    junk.as_file().set_len(12 << 20).unwrap();
    let options = ["--kernel", products.kernel.to_str().unwrap(), "--initrd", junk.path().to_str().unwrap(), "--budget", "1"];
    let run = |memory| {
        let mut command = std::process::Command::new(&products.program);
        command.args(["run", "--backend", "soft", "--bare", "--console", "null", "--memory", memory]).args(options);
        String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned()
    };
    let said = run("32M");
    assert!(said.contains("kernel and initramfs leave ") && said.contains("give it more memory"), "{said}");
    let said = run("64M");
    assert!(!said.contains("leave"), "{said}");
}

/// The partition's memory that outlives a kernel: programs read and write it, and a kernel that panics leaves its last words there.
#[test]
fn a_stock_kernel_keeps_what_is_written_to_nvram() {
    let products = products();
    let mut machine = start(&products, &stock(), "", &["--bare"]);
    assert_eq!(machine.run("wc -c < /dev/nvram"), "16384");
    machine.run("echo 'kept by the partition' | dd of=/dev/nvram bs=1 seek=8192 2> /dev/null");
    assert_eq!(machine.run("dd if=/dev/nvram bs=22 skip=8192 iflag=skip_bytes count=1 2> /dev/null"), "kept by the partition");
    // The logs that were there are there.
    assert_eq!(machine.run("dd if=/dev/nvram bs=12 skip=4 iflag=skip_bytes count=1 2> /dev/null"), "ibm,rtas-log");
    power_off(machine);
}

/// The kernel that is always there: Debian bookworm's, in the least memory.
#[test]
fn a_stock_kernel_boots() {
    boots(&stock(), STOCK, 2, 96);
}

const STOCK: &str = "6.1.0-";

fn stock() -> PathBuf {
    optional("PAPERBOAT_STOCK_6_1").expect("cargo xtask env makes it")
}

/// Every way to end has its status, and the last lines of a console that nobody saw are shown.
fn ends(kernel: &Path, panic_command: &str, panic_text: &str) {
    let products = products();
    let mut machine = start(&products, kernel, "", &["--bare"]);
    machine.type_line("reboot -f");
    let ended = machine.end();
    assert_eq!(ended.status, Some(3), "{}", ended.messages);
    assert!(ended.messages.contains("the guest rebooted"), "{}", ended.messages);

    let mut machine = start(&products, kernel, "panic=0", &["--bare"]);
    machine.type_line(panic_command);
    let ended = machine.end();
    assert_eq!(ended.status, Some(4), "{}{}", ended.console, ended.messages);
    assert!(ended.messages.contains("panicked") && ended.messages.contains(panic_text), "{}", ended.messages);
    power_off(start(&products, kernel, "", &["--bare"]));
}

#[test]
fn own_kernel_ends_in_every_way() {
    // It has no SysRq: PID 1 dies.
    ends(&products().kernel, "exit 5", "Attempted to kill init");
}

#[test]
fn a_panic_nobody_saw_is_shown_afterwards() {
    let products = products();
    let console = tempfile::NamedTempFile::new().unwrap();
    let file = format!("file={}", console.path().display());
    // No init in it: the kernel panics by itself.
    let machine = Machine::start(&products, &products.kernel, "rdinit=/none root=/dev/none", &["--bare", "--console", &file]);
    let ended = machine.unwrap().end();
    assert_eq!(ended.status, Some(4), "{}", ended.messages);
    assert!(ended.messages.contains("the last lines of the console:"), "{}", ended.messages);
    assert!(ended.messages.matches("Kernel panic - not syncing").count() >= 1, "{}", ended.messages);
    assert!(std::fs::read_to_string(console.path()).unwrap().contains("Kernel panic"));
}

/// CPUs go and come back by the guest's own doing, and work afterwards.
fn cpus_go_and_come(kernel: &Path) {
    let products = products();
    let mut machine = start(&products, kernel, "", &["--bare", "--cpus", "4", "--threads", "2"]);
    assert_eq!(machine.run("cat /sys/devices/system/cpu/cpu2/topology/thread_siblings_list"), "2-3");
    for round in 0..3 {
        for cpu in [3, 1] {
            machine.run(&format!("echo 0 > /sys/devices/system/cpu/cpu{cpu}/online"));
        }
        assert_eq!(machine.run("cat /sys/devices/system/cpu/online"), "0,2", "round {round}");
        for cpu in [1, 3] {
            machine.run(&format!("echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"));
        }
        assert_eq!(machine.run("cat /sys/devices/system/cpu/online"), "0-3", "round {round}");
        machine.run("for n in 0 1 2 3; do taskset $((1 << n)) sha256sum /bin/busybox > /tmp/sum$n & done; wait");
        assert_eq!(machine.run("cat /tmp/sum* | sort -u | wc -l"), "1", "round {round}");
    }
    power_off(machine);
}

#[test]
fn own_kernel_takes_cpus_away_and_brings_them_back() {
    cpus_go_and_come(&products().kernel);
}

/// What a guest finds when it is to find an older processor.
#[test]
fn a_logical_power8_boots() {
    let products = products();
    let mut machine = start(&products, &products.kernel, "", &["--bare", "--cpu", "power8"]);
    assert_eq!(machine.run("sed -n 's/^cpu[[:space:]]*: //p' /proc/cpuinfo"), "POWER8 (architected), altivec supported");
    assert_eq!(machine.run("printf abc | sha1sum"), "a9993e364706816aba3e25717850c26c9cd0d89d  -");
    power_off(machine);
}

/// Deterministic runs end with the same registers, instruction count and memory. The guest powers itself off: what is typed comes
/// when a person types it.
fn repeats(kernel: &Path) {
    let products = products();
    let state = |runs| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let options = ["--bare", "--deterministic", "--dump-state", &path, "--compile-after", runs];
        let ended = Machine::start(&products, kernel, "rdinit=/bin/poweroff -- -f", &options).unwrap().end();
        assert_eq!(ended.status, Some(0), "{}{}", ended.console, ended.messages);
        std::fs::read_to_string(file.path()).unwrap()
    };
    let (first, second) = (state("64"), state("64"));
    assert!(first.contains("cpu0 instructions ") && first.contains("memory "), "{first}");
    assert_eq!(first, second);
    // What is compiled does what is interpreted, to the instruction.
    for runs in ["2", "never"] {
        assert_eq!(first, state(runs), "compiled after {runs} runs");
    }
}

#[test]
fn own_kernel_repeats_itself_bit_for_bit() {
    repeats(&products().kernel);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    const CPUS: [u32; 3] = [1, 2, 8];

    #[test]
    fn own_kernel_boots_with_all_cpus_in_cores_of_any_size() {
        for threads in [1, 2, 8] {
            boots_with_all_cpus(threads);
        }
    }

    #[test]
    fn own_kernel_in_every_size() {
        for cpus in CPUS {
            for memory in [64, 512, 8192] {
                boots(&products().kernel, OWN, cpus, memory);
            }
        }
    }

    /// With pages of 64 KiB what Linux keeps for each CPU makes `least` larger where there are eight.
    fn every_size(variable: &'static str, release: &str, least_with_eight: u64) {
        let Some(kernel) = optional(variable) else { return };
        for cpus in CPUS {
            let least = if cpus == 8 { least_with_eight } else { 96 };
            for memory in [least, 512, 8192] {
                boots(&kernel, release, cpus, memory);
            }
        }
    }

    #[test]
    fn stock_6_1_in_every_size() {
        every_size("PAPERBOAT_STOCK_6_1", STOCK, 160);
    }

    #[test]
    fn stock_6_12_with_4k_pages_in_every_size() {
        every_size("PAPERBOAT_STOCK_6_12_4K", "6.12.", 96);
    }

    #[test]
    fn stock_6_12_with_64k_pages_in_every_size() {
        every_size("PAPERBOAT_STOCK_6_12_64K", "6.12.", 160);
    }

    #[test]
    fn a_stock_kernel_finds_a_power8() {
        let Some(kernel) = optional("PAPERBOAT_STOCK_6_12_64K") else { return };
        let products = products();
        let mut machine = start(&products, &kernel, "", &["--bare", "--cpu", "power8"]);
        assert!(machine.run("cat /proc/cpuinfo").contains("POWER8 (architected)"));
        power_off(machine);
    }

    #[test]
    fn a_stock_kernel_ends_in_every_way() {
        ends(&stock(), "echo c > /proc/sysrq-trigger", "sysrq triggered crash");
    }

    #[test]
    fn a_stock_kernel_takes_cpus_away_and_brings_them_back() {
        cpus_go_and_come(&stock());
    }

    #[test]
    fn stock_kernels_repeat_themselves_bit_for_bit() {
        for variable in ["PAPERBOAT_STOCK_6_1", "PAPERBOAT_STOCK_6_12_4K", "PAPERBOAT_STOCK_6_12_64K"] {
            if let Some(kernel) = optional(variable) {
                repeats(&kernel);
            }
        }
    }
}
