//! `cargo xtask demo`: one ppc64le image through the whole system, with its transcript and what it took.

use std::time::Duration;

use crate::guest::{PROOF_SCRIPT, Proof, ThisHost};
use crate::host::{Host, RUNTIME, image};
use crate::{Error, leaks};

/// The command that is shown.
const COMMAND: &str = "uname -a; cat /proc/cpuinfo; exit 7";

/// The exit status it must come back with.
const EXPECTED: i32 = 7;

/// Runs the demonstration and prints it. Returns whether everything was as it should be.
pub fn run() -> Result<bool, Error> {
    let host = Host::start()?;
    let before = host.leftovers();
    println!("$ ctr run --rm --runtime {RUNTIME} {} first sh -c '{COMMAND}'", image("busybox"));
    let output = host.run("first", &["sh", "-c", COMMAND])?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    println!("$ echo $?\n{}", output.code().map_or_else(|| output.status.to_string(), |code| code.to_string()));

    println!("\n# the life of the pod");
    let log = host.log();
    for stage in ["agent ready", "container started", "container ended"] {
        match log.lines().rfind(|line| line.contains(stage)) {
            Some(line) => println!("{stage:<18} {}", figures(line)),
            None => println!("{stage:<18} not in the log"),
        }
    }
    println!("wall time of ctr   {}", seconds(output.wall));

    println!("\n# where it ran");
    let this = ThisHost::look().map_err(crate::io("/proc"))?;
    let proof = host.run("proof", &["sh", "-c", PROOF_SCRIPT])?;
    let doubt = match Proof::parse(&proof.stdout) {
        Some(proof) => {
            println!("guest kernel       {} (host {})", proof.release, this.release);
            println!("guest boot id      {} (host {})", proof.boot_id, this.boot_id);
            println!("guest CPU          {}", proof.cpu);
            proof.doubt(&this)
        }
        None => Some(format!("the proof is incomplete:\n{}{}", proof.stdout, proof.stderr)),
    };
    if let Some(doubt) = &doubt {
        println!("DOUBT: {doubt}");
    }

    println!("\n# what is left of it");
    let left = leaks::settle(&host, &before);
    if left.is_empty() {
        println!("nothing: no process, mount, socket, cgroup or directory");
    }
    left.iter().for_each(|entry| println!("LEFT: {entry}"));
    Ok(output.code() == Some(EXPECTED) && doubt.is_none() && left.is_empty())
}

/// The figures at the end of a log line, made readable.
fn figures(line: &str) -> String {
    let value = |key: &str| line.split([' ', '"']).find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let instructions = value("guest_instructions").and_then(|text| text.parse::<u64>().ok());
    let cpu_ms = value("machine_cpu_ms").and_then(|text| text.parse::<u64>().ok());
    let instructions = instructions.map_or_else(|| "unknown".into(), |count| format!("{:.1} M", count as f64 / 1e6));
    let cpu = cpu_ms.map_or_else(|| "unknown".into(), |ms| seconds(Duration::from_millis(ms)));
    format!("guest instructions {instructions:>10}   CPU time of the machine {cpu}")
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_the_log_line() {
        let line = r#"time="x" level=info msg="container ended id=first status=7 guest_instructions=41500000 machine_cpu_ms=1234" pod=first"#;
        assert_eq!(figures(line), "guest instructions     41.5 M   CPU time of the machine 1.23 s");
        assert!(figures("msg=\"agent ready\"").contains("unknown"));
    }
}
