//! Real programs on the software CPU, with exact answers: busybox always; with `cargo xtask test --all` Debian's bash, coreutils, bc, awk, perl,
//! openssl, sqlite, python with its own tests, a program in Go, one in Rust, and a compiler whose product runs.

use paperboat_e2e::vmm::{Machine, MachineProducts, optional};

fn shell(options: &[&str]) -> Machine {
    let products = MachineProducts::from_environment().unwrap();
    let kernel = products.kernel.clone();
    let mut machine = Machine::start(&products, &kernel, "", options).unwrap();
    machine.wait_for_shell();
    machine
}

fn power_off(mut machine: Machine) {
    machine.type_line("poweroff -f");
    assert_eq!(machine.end().status, Some(0));
}

/// Runs each command and compares what it prints.
fn answers(machine: &mut Machine, table: &[(&str, &str)]) {
    for (command, answer) in table {
        assert_eq!(machine.run(command), *answer, "{command}");
    }
}

#[test]
fn busybox() {
    let mut machine = shell(&["--bare", "--memory", "128M"]);
    answers(
        &mut machine,
        &[
            ("echo $((2**62 - 1)) $((-7 / 2)) $((-7 % 3))", "4611686018427387903 -3 -1"),
            ("printf abc | md5sum", "900150983cd24fb0d6963f7d28e17f72  -"),
            ("printf abc | sha1sum", "a9993e364706816aba3e25717850c26c9cd0d89d  -"),
            ("printf abc | sha256sum", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -"),
            ("printf abc | sha3sum -a 256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532  -"),
            (
                "awk 'BEGIN { printf \"%.15f %.10e %.0f\", 1/3, 2/7*1e100, 1024*1024*1024*1024 }'",
                "0.333333333333333 2.8571428571e+99 1099511627776",
            ),
            ("echo 'scale=30; 2/3; sqrt(2)' | bc", ".666666666666666666666666666666\n1.414213562373095048801688724209"),
            ("seq 1 5000 | gzip | gunzip | sha256sum | cut -c1-16", "23f90f8b2c3a4b5f"),
            ("seq 1 5000 | bzip2 | bunzip2 | wc", "     5000      5000     23893"),
            ("seq 1 300 | sort -r | sort -n | tail -1", "300"),
            ("printf 'b\\na\\nc\\n' | sort | tr -d '\\n' | sed 's/abc/sorted/'", "sorted"),
            ("factor 1000000016000000063", "1000000016000000063: 1000000007 1000000009"),
        ],
    );
    power_off(machine);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    /// A guest with Debian's programs at /mnt and a command `p` that runs them there; `None` when they are not made.
    fn with_programs() -> Option<Machine> {
        let programs = optional("PAPERBOAT_PROGRAMS")?;
        let mut machine = shell(&["--memory", "1G", "--cpus", "2", "--share", programs.to_str().unwrap()]);
        machine.run("mount -t virtiofs paperboat /mnt");
        // What they write stays in the guest.
        machine.run("mount -t proc proc /mnt/proc; mount -t tmpfs tmp /mnt/tmp; mount -t devtmpfs dev /mnt/dev");
        let environment = "PATH=/usr/bin LC_ALL=C HOME=/tmp TMPDIR=/tmp PYTHONDONTWRITEBYTECODE=1";
        machine.run(&format!("p() {{ chroot /mnt /usr/bin/env -i {environment} \"$@\"; }}"));
        Some(machine)
    }

    #[test]
    fn debians_programs() {
        let Some(mut machine) = with_programs() else { return };
        answers(
            &mut machine,
            &[
                ("p bash -c 'for i in {1..10}; do s=$((s+i*i)); done; echo $s'", "385"),
                ("p bash -c '[[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo ${BASH_REMATCH[2]}; printf %s {a..e}'", "123\nabcde"),
                ("p seq 1 1000 | p sha512sum | cut -c1-32", "33d2768487a466e69c6399cdadc8c4db"),
                ("p factor 18446744073709551557", "18446744073709551557: 18446744073709551557"),
                ("p numfmt --to=iec 123456789", "118M"),
                ("echo 'scale=50; 4*a(1)' | p bc -l", "3.14159265358979323846264338327950288419716939937508"),
                ("p gawk 'BEGIN { printf \"%.10f %d\", atan2(0, -1), 2**40 }'", "3.1415926536 1099511627776"),
                (
                    "p perl -MDigest::SHA=sha256_hex -e 'print sha256_hex(\"abc\")'",
                    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                ),
                (
                    "p perl -MMath::BigInt -e 'print Math::BigInt->new(2)->bpow(200)'",
                    "1606938044258990275541962092341162602522202993782792835301376",
                ),
                (
                    "p perl -e 'printf \"%.17g %.15g %.15g %.15g\", 0.1+0.2, exp(1), atan2(1,1)*4, sqrt(2)'",
                    "0.30000000000000004 2.71828182845905 3.14159265358979 1.4142135623731",
                ),
                // FIPS 180-4, FIPS 202, FIPS 197 appendix C.1.
                (
                    "printf abc | p openssl dgst -sha256 -r",
                    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad *stdin",
                ),
                (
                    "printf abc | p openssl dgst -sha3-256 -r",
                    "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532 *stdin",
                ),
                (
                    "printf '\\000\\021\\042\\063\\104\\125\\146\\167\\210\\231\\252\\273\\314\\335\\356\\377' | \
                     p openssl enc -aes-128-ecb -K 000102030405060708090a0b0c0d0e0f -nopad | p od -An -tx1",
                    " 69 c4 e0 d8 6a 7b 04 30 d8 cd b7 80 70 b4 c5 5a",
                ),
                (
                    "p sqlite3 :memory: 'with recursive c(n) as (select 1 union all select n+1 from c where n<1000) \
                     select sum(n*n), printf(\"%.12f\", avg(n)/7) from c'",
                    "333833500|71.500000000000",
                ),
                // Go and Rust.
                ("echo '{\"a\":[1,{\"b\":\"x\"}]}' | p gron -m | tail -1", "json.a[1].b = \"x\";"),
                ("printf 'alpha\\nbeta\\ngamma\\n' | p rg -n '^.a.*a$'", "3:gamma"),
            ],
        );
        power_off(machine);
    }

    #[test]
    fn a_compiler_and_its_product() {
        const SOURCE: &str = "#include <stdio.h>\\nint main(void) { double s = 0; for (int i = 1; i <= 100000; i++) s += 1.0 / i; \
            __int128 p = 1; for (int i = 1; i < 30; i++) p *= i; \
            printf(\"%%.12f %%.12Lf %%llx %%016llx\\\\n\", s, 2.0L / 3, (unsigned long long)(p >> 64), (unsigned long long)p); return 7; }\\n";
        let Some(mut machine) = with_programs() else { return };
        machine.run(&format!("printf '{SOURCE}' > /mnt/tmp/t.c"));
        for level in ["-O0", "-O2"] {
            machine.run(&format!("p gcc {level} -Wall -Werror -o /tmp/t /tmp/t.c"));
            // The harmonic number of 100000; two thirds in the long double of POWER; 29!.
            let (output, status) = machine.command("p /tmp/t");
            assert_eq!((output.as_str(), status), ("12.090146129863 0.666666666667 6f99461a1e 9e1432dcb6000000\n", 7), "{level}");
        }
        power_off(machine);
    }

    /// Python's own tests of what a CPU can get wrong.
    fn python_tests(modules: &str) {
        let Some(mut machine) = with_programs() else { return };
        let (output, status) = machine.command(&format!("p python3 -m test -v --timeout 3000 {modules} 2>&1"));
        assert!(status == 0 && output.contains("Result: SUCCESS"), "{output}");
        power_off(machine);
    }

    #[test]
    fn pythons_tests_of_numbers() {
        python_tests("test_math test_cmath test_struct test_float test_int test_complex");
    }

    #[test]
    fn pythons_tests_of_decimals() {
        python_tests("test_decimal");
    }

    #[test]
    fn pythons_tests_of_compression_and_digests() {
        python_tests("test_zlib test_hashlib");
    }

    #[test]
    fn pythons_tests_of_threads() {
        python_tests("test_threading");
    }
}
