//! `cargo xtask demo`: a tour of the system in steps, each with its transcript and its time. Everything is real: a private containerd,
//! the shim as containerd finds it, guests of their own for every pod.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::guest::{PROOF_SCRIPT, Proof, ThisHost};
use crate::host::{Host, RUNTIME, finish, image};
use crate::net::Net;
use crate::{Error, Output, io, leaks};

/// The command of the first step, and the exit status it must come back with.
const FIRST: &str = "uname -a; cat /proc/cpuinfo; exit 7";
const EXPECTED: i32 = 7;

/// A command of the tour ends within this time.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the tour and prints it. Returns whether everything was as it should be.
pub fn run() -> Result<bool, Error> {
    let tour = Instant::now();
    let mut guide = Guide { number: 0, failures: Vec::new() };
    println!("# a private containerd, with images for ppc64le");
    let started = Instant::now();
    let host = Host::start()?;
    host.import("debian", "linux/ppc64le")?;
    println!("  {}\n", seconds(started.elapsed()));
    let before = host.leftovers();

    guide.step("a container in a micro-VM: its kernel, its POWER CPU, its exit status", || first(&host))?;
    guide.step("proof that it was not this machine", || proof(&host))?;
    guide.step("Debian, with Python", || debian(&host))?;
    guide.step("a pod of two containers that talk over localhost", || pod(&host))?;
    guide.step("a volume: the guest writes, the host reads", || volume(&host))?;
    guide.step("a network of its own: the pod serves a page, a neighbour fetches it", || network(&host))?;
    guide.step("exec, and what the operator sees", || operator(&host))?;
    guide.step("what is left of it", || {
        let left = leaks::settle(&host, &before);
        left.iter().for_each(|entry| println!("LEFT: {entry}"));
        if left.is_empty() {
            println!("nothing: no process, mount, socket, cgroup or directory");
        }
        Ok(left.is_empty())
    })?;

    println!("the tour took {}", seconds(tour.elapsed()));
    for failure in &guide.failures {
        println!("NOT AS IT SHOULD BE: {failure}");
    }
    if guide.failures.is_empty() {
        println!("\n# to try next");
        println!("cargo xtask test       all tests; README.md says what they are");
        println!("cargo xtask bench      figures, beside QEMU's and runc's");
        println!("docs/first-pod.md      the same by hand, with a containerd of your own");
        println!("docs/machine.md        how the machine works");
    }
    Ok(guide.failures.is_empty())
}

/// Numbers the steps and remembers which went wrong.
struct Guide {
    number: u32,
    failures: Vec<String>,
}

impl Guide {
    fn step(&mut self, what: &str, body: impl FnOnce() -> Result<bool, Error>) -> Result<(), Error> {
        self.number += 1;
        println!("# {}. {what}", self.number);
        let started = Instant::now();
        let good = body()?;
        println!("  {}\n", seconds(started.elapsed()));
        if !good {
            self.failures.push(format!("step {}, {what}", self.number));
        }
        Ok(())
    }
}

/// Prints a command of `ctr` as a person would type it, runs it, prints what it printed.
fn show(host: &Host, options: &[&str], name: &str, id: &str, command: &[&str]) -> Result<Output, Error> {
    let quoted = |word: &&str| if word.contains([' ', ';', '\'', '(', '*']) { format!("\"{word}\"") } else { (*word).to_owned() };
    let options_text = options.iter().map(|option| format!("{option} ")).collect::<String>();
    let words: Vec<String> = command.iter().map(quoted).collect();
    println!("$ ctr run --rm --runtime {RUNTIME} {options_text}{} {id} {}", image(name), words.join(" "));
    let output = host.run_with(options, &image(name), id, command)?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    Ok(output)
}

fn first(host: &Host) -> Result<bool, Error> {
    let output = show(host, &[], "busybox", "first", &["sh", "-c", FIRST])?;
    println!("$ echo $?\n{}", output.code().map_or_else(|| output.status.to_string(), |code| code.to_string()));
    let log = host.log();
    for stage in ["agent ready", "container started", "container ended"] {
        match log.lines().rfind(|line| line.contains(stage)) {
            Some(line) => println!("{stage:<18} {}", figures(line)),
            None => println!("{stage:<18} not in the log"),
        }
    }
    Ok(output.code() == Some(EXPECTED) && output.stdout.contains("POWER9") && output.stdout.contains("Hash"))
}

fn proof(host: &Host) -> Result<bool, Error> {
    let this = ThisHost::look().map_err(io("/proc"))?;
    let output = host.run("proof", &["sh", "-c", PROOF_SCRIPT])?;
    let doubt = match Proof::parse(&output.stdout) {
        Some(proof) => {
            println!("guest kernel       {} (host {})", proof.release, this.release);
            println!("guest boot id      {} (host {})", proof.boot_id, this.boot_id);
            println!("guest CPU          {}", proof.cpu);
            proof.doubt(&this)
        }
        None => Some(format!("the proof is incomplete:\n{}{}", output.stdout, output.stderr)),
    };
    if let Some(doubt) = &doubt {
        println!("DOUBT: {doubt}");
    }
    Ok(doubt.is_none())
}

fn debian(host: &Host) -> Result<bool, Error> {
    let script = "grep PRETTY_NAME /etc/os-release; uname -rm; grep -e ^cpu -e ^MMU /proc/cpuinfo; getconf PAGE_SIZE; \
                  python3 -c 'import platform; print(platform.machine(), sum(n * n for n in range(1000)))'";
    let output = show(host, &[], "debian", "debian", &["sh", "-c", script])?;
    let wanted = ["trixie", "-paperboat ppc64le", "POWER9", "Hash", "65536", "ppc64le 332833500"];
    Ok(output.code() == Some(0) && wanted.iter().all(|word| output.stdout.contains(word)))
}

/// A pod that goes on in the background until it is ended.
struct Background<'a> {
    host: &'a Host,
    id: &'a str,
    child: Child,
}

impl<'a> Background<'a> {
    fn start(host: &'a Host, options: &[&str], id: &'a str, command: &[&str], sign: &str) -> Result<Self, Error> {
        let mut run = host.run_command(options, &image("busybox"), id, command);
        let child = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io("ctr"))?;
        let background = Self { host, id, child };
        host.wait_for_log(&[&format!("{sign} id={id}")])?;
        Ok(background)
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let _ = self.host.ctr(&["task", "kill", "--signal", "SIGKILL", self.id]);
        let _ = self.child.wait();
    }
}

fn pod(host: &Host) -> Result<bool, Error> {
    const SANDBOX: [&str; 4] =
        ["--annotation", "io.kubernetes.cri.container-type=sandbox", "--annotation", "io.kubernetes.cri.sandbox-id=pod"];
    const MEMBER: [&str; 4] =
        ["--annotation", "io.kubernetes.cri.container-type=container", "--annotation", "io.kubernetes.cri.sandbox-id=pod"];
    let _sandbox = Background::start(host, &SANDBOX, "pod", &["true"], "container created")?;
    println!("$ … server: httpd -f -p 127.0.0.1:8080 -h /etc");
    let server = ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"];
    let _server = Background::start(host, &MEMBER, "server", &server, "container started")?;
    println!("$ … client: wget -qO- http://127.0.0.1:8080/passwd");
    let fetch = "for n in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1:8080/passwd && exit; sleep 0.2; done; exit 1";
    let output = host.run_with(&MEMBER, &image("busybox"), "client", &["sh", "-c", fetch])?;
    print!("{}{}", output.stdout, output.stderr);
    Ok(output.code() == Some(0) && output.stdout.starts_with("root:"))
}

fn volume(host: &Host) -> Result<bool, Error> {
    let directory = tempfile::tempdir().map_err(io("volume"))?;
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", directory.path().display());
    let output = show(host, &["--mount", &mount], "busybox", "writer", &["sh", "-c", "uname -m > /data/from-the-guest"])?;
    let file = directory.path().join("from-the-guest");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    print!("$ cat {}\n{text}", file.display());
    Ok(output.code() == Some(0) && text == "ppc64le\n")
}

fn network(host: &Host) -> Result<bool, Error> {
    // What a network plug-in does: a namespace with an interface, and a cable from it to a switch.
    const PORT: u8 = 2;
    const PAGE: &str = "/index.html";
    let mut net = Net::new()?;
    let namespace = format!("network:{}", net.pod(PORT)?.display());
    let address = IpAddr::from([10, 88, 0, PORT]);
    let site = "mkdir /www; uname -mr > /www/index.html; exec httpd -f -p 80 -h /www";
    println!("$ ctr run … --with-ns {namespace} … web sh -c \"{site}\"");
    let _web = Background::start(host, &["--with-ns", &namespace], "web", &["sh", "-c", site], "container started")?;
    let look = "ip -o -4 address show dev eth0; until wget -q -O /dev/null http://127.0.0.1/; do sleep 0.1; done";
    println!("$ ctr task exec --exec-id look web ip -o -4 address show dev eth0");
    let interface = host.ctr(&["task", "exec", "--exec-id", "look", "web", "sh", "-c", look])?;
    print!("{}{}", interface.stdout, interface.stderr);
    println!("$ … neighbour: wget -qO- http://{address}{PAGE}");
    let page = net.get(address, PAGE)?;
    let page = String::from_utf8_lossy(&page);
    print!("{page}");
    Ok(interface.stdout.contains("10.88.0.2/24") && page.ends_with("-paperboat ppc64le\n"))
}

fn operator(host: &Host) -> Result<bool, Error> {
    let _pod = Background::start(host, &[], "sleeper", &["sleep", "1000"], "container started")?;
    println!("$ ctr task exec --exec-id look sleeper ps");
    let exec = host.ctr(&["task", "exec", "--exec-id", "look", "sleeper", "ps"])?;
    print!("{}{}", exec.stdout, exec.stderr);
    println!("$ paperboat ps");
    let mut ps = Command::new(host.products().bin.join("paperboat"));
    ps.arg("--config").arg(host.directory().join("paperboat.yaml")).arg("ps");
    let ps = finish(ps, LIMIT)?;
    print!("{}{}", ps.stdout, ps.stderr);
    Ok(exec.stdout.contains("sleep 1000") && ps.stdout.contains("sleeper") && ps.stdout.contains("running"))
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
