//! What the start of a pod costs, measured through the real containerd, each figure in turn with its peer.
//!
//! Processor time comes from the kernel's accounts of finished processes. This process is made the reaper of its descendants' orphans, so a
//! pod's shim, which containerd lets go of, ends in its accounts with the machine that the shim has waited for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::host::{Host, RUNTIME, image};
use crate::{Error, Running, io};

/// Programs added in one measurement: the kernel counts processor time of living processes in hundredths of a second.
const EXECS: usize = 10;

/// Pods that start at once.
const PARALLEL: usize = 10;

/// Pods that start one after the other before them, and how often both are done.
const ALONE: usize = 5;
const ROUNDS: usize = 3;

/// A pod that has nothing to do gives free memory back within this time.
const SETTLE: Duration = Duration::from_secs(3);

/// A shim whose pod is gone ends within this time.
const SHIM_END: Duration = Duration::from_secs(15);

/// A boot takes no longer even on a busy machine.
const BOOT: Duration = Duration::from_secs(120);

/// What the peer's guest prints when the agent's services listen.
const REACHED: [&str; 2] = ["paperboat-agent: info", "listening"];

/// The runtime that containers usually have.
const RUNC: &str = "io.containerd.runc.v2";

/// Clock ticks in a second, as /proc counts (USER_HZ of Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// A figure's values, and its peer's where there is one.
#[derive(Debug, Default)]
pub struct Sample {
    /// Its name.
    pub figure: &'static str,
    /// A value for each run.
    pub values: Vec<f64>,
    /// The peer's, for each run.
    pub peer: Vec<f64>,
}

impl Sample {
    fn new(figure: &'static str) -> Self {
        Self { figure, ..Self::default() }
    }
}

/// Measures everything `runs` times. `peer` is the command that boots the same kernel and initramfs on QEMU.
pub fn measure(runs: usize, peer: &[String]) -> Result<Vec<Sample>, Error> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| io("become the reaper")(errno.into()))?;
    let mut samples = starts(runs, peer)?;
    samples.push(idle(runs)?);
    samples.extend(agent()?);
    samples.push(execs(runs)?);
    samples.extend(parallel()?);
    Ok(samples)
}

fn failed(command: &str, output: String) -> Error {
    Error::Command { command: command.into(), output }
}

/// Cold starts of `true`: processor time beside QEMU's boot to the agent, and guest instructions from the log.
fn starts(runs: usize, peer: &[String]) -> Result<Vec<Sample>, Error> {
    let host = Host::start()?;
    let mut cpu = Sample::new("start.ctr_run.cpu_seconds");
    let mut ready = Sample::new("start.agent_ready.guest_instructions");
    let mut container = Sample::new("start.container.guest_instructions");
    for run in 0..runs {
        let id = format!("start-{run}");
        let before = ticks_of_children(host.containerd_pid());
        let output = host.run(&id, &["true"])?;
        if !output.status.success() {
            return Err(failed("ctr run true", output.stderr));
        }
        let shims = reap_shims()?;
        cpu.values.push(shims + (ticks_of_children(host.containerd_pid()) - before) / TICKS_PER_SECOND);
        let count = |stage: &str| -> Result<f64, Error> {
            let line = host.wait_for_log(&[stage, &format!("pod={id}")])?;
            let digits =
                line.split_once("guest_instructions=").map(|(_, rest)| rest.split([' ', '"']).next().unwrap_or_default());
            digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| failed("guest_instructions", line))
        };
        let agent = count("agent ready")?;
        ready.values.push(agent);
        container.values.push(count("container started")? - agent);
        if let [program, arguments @ ..] = peer {
            cpu.peer.push(boot(program, arguments)?);
        }
    }
    Ok(vec![cpu, ready, container])
}

/// Processor seconds of the peer's boot, up to the agent's readiness: without devices it has nobody to tell, and waits.
fn boot(program: &str, arguments: &[String]) -> Result<f64, Error> {
    let before = finished_children()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(io(program))?;
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
            // The other side goes once it has what it waits for.
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + BOOT;
    let mut console = String::new();
    let reached = loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if REACHED.iter().all(|words| line.contains(words)) => break true,
            Ok(line) => console += &(line + "\n"),
            Err(_) => break false,
        }
    };
    child.kill().and_then(|()| child.wait()).map_err(io(program))?;
    let _ = reader.join();
    if reached { Ok(finished_children()? - before) } else { Err(failed(program, console)) }
}

/// Proportional memory of machine and shim of one pod that sleeps.
fn idle(runs: usize) -> Result<Sample, Error> {
    let host = Host::start_with("memory_mib: 128")?;
    let mut sample = Sample::new("start.idle_pod.pss_bytes");
    for run in 0..runs {
        let id = format!("idle-{run}");
        let pod = Sleeper::start(&host, RUNTIME, "busybox", &id)?;
        thread::sleep(SETTLE);
        let machine = host.wait_for_machine(&id)?;
        let shim = parent(machine).ok_or_else(|| failed("parent of the machine", machine.to_string()))?;
        sample.values.push(pss_bytes(machine)? + pss_bytes(shim)?);
        drop(pod);
        reap_shims()?;
    }
    Ok(sample)
}

/// The agent's program, and what of it is resident in a guest with one container: as a container sees it that shares its processes.
fn agent() -> Result<[Sample; 2], Error> {
    let host = Host::start()?;
    let guest = Running::start(&host, "guest", &["--privileged", "--with-ns", "pid:/proc/1/ns/pid"], &["sleep", "1000"])?;
    let text = guest.shell("agent", "wc -c < /proc/1/exe; grep VmRSS /proc/1/status")?;
    guest.remove()?;
    reap_shims()?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [program, resident_kib] = numbers[..] else { return Err(failed("the agent's size", text)) };
    let sample = |figure, value| Sample { values: vec![value], ..Sample::new(figure) };
    Ok([sample("start.agent.program_bytes", program), sample("start.agent.resident_bytes", resident_kib * 1024.0)])
}

/// Processor time of one added `true`, client, containerd and shim included, beside runc's.
fn execs(runs: usize) -> Result<Sample, Error> {
    let host = Host::start()?;
    host.import("platforms", NATIVE)?;
    let mut sample = Sample::new("start.exec.cpu_seconds");
    let ours = Sleeper::start(&host, RUNTIME, "busybox", "ours")?;
    let theirs = Sleeper::start(&host, RUNC, "platforms", "theirs")?;
    let machine = host.wait_for_machine("ours")?;
    let shim = parent(machine).ok_or_else(|| failed("parent of the machine", machine.to_string()))?;
    let theirs_pid = task_pid(&host, "theirs")?;
    let runc_shim = parent(theirs_pid).ok_or_else(|| failed("parent of runc's container", theirs_pid.to_string()))?;
    for run in 0..runs {
        sample.values.push(exec(&host, "ours", run, &[machine, shim])?);
        sample.peer.push(exec(&host, "theirs", run, &[runc_shim])?);
    }
    drop(theirs);
    drop(ours);
    reap_shims()?;
    Ok(sample)
}

/// The platform of this machine, whose image runc runs.
const NATIVE: &str = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/ppc64le" };

fn exec(host: &Host, id: &str, run: usize, processes: &[i32]) -> Result<f64, Error> {
    let all = || {
        let pids = processes.iter().copied().chain([host.containerd_pid().cast_signed()]);
        pids.map(ticks).sum::<f64>() / TICKS_PER_SECOND
    };
    let (before, clients) = (all(), finished_children()?);
    for number in 0..EXECS {
        let output = host.ctr(&["task", "exec", "--exec-id", &format!("e{run}-{number}"), id, "true"])?;
        if !output.status.success() {
            return Err(failed("ctr task exec true", output.stderr));
        }
    }
    Ok((all() - before + finished_children()? - clients) / EXECS as f64)
}

/// Wall time of a pod among many that start at once, and of one alone; and what each of them costs in processor time, client and
/// containerd included. Rounds of both take turns, so that what else the machine does hits both.
fn parallel() -> Result<[Sample; 2], Error> {
    let host = Host::start()?;
    let mut wall = Sample::new("start.parallel.wall_seconds");
    let mut cpu = Sample::new("start.parallel.cpu_seconds");
    let used = || -> Result<f64, Error> {
        reap_shims()?;
        Ok(finished_children()? + ticks(host.containerd_pid().cast_signed()) / TICKS_PER_SECOND)
    };
    for round in 0..ROUNDS {
        let before = used()?;
        for number in 0..ALONE {
            wall.peer.push(start(&host, &format!("alone-{round}-{number}"))?);
        }
        let between = used()?;
        let walls = thread::scope(|scope| {
            let host = &host;
            let pods: Vec<_> =
                (0..PARALLEL).map(|number| scope.spawn(move || start(host, &format!("together-{round}-{number}")))).collect();
            let joined =
                pods.into_iter().map(|pod| pod.join().unwrap_or_else(|_| Err(failed("ctr run true", "panicked".into()))));
            joined.collect::<Result<Vec<f64>, Error>>()
        })?;
        wall.values.extend(walls);
        cpu.peer.push((between - before) / ALONE as f64);
        cpu.values.push((used()? - between) / PARALLEL as f64);
    }
    Ok([wall, cpu])
}

/// Starts a pod that ends at once; seconds of wall time.
fn start(host: &Host, id: &str) -> Result<f64, Error> {
    let output = host.run(id, &["true"])?;
    if output.status.success() { Ok(output.wall.as_secs_f64()) } else { Err(failed("ctr run true", output.stderr)) }
}

/// A container that sleeps until this is dropped.
struct Sleeper<'a> {
    host: &'a Host,
    id: &'a str,
    client: Child,
}

impl<'a> Sleeper<'a> {
    fn start(host: &'a Host, runtime: &str, image_name: &str, id: &'a str) -> Result<Self, Error> {
        let fifos = host.directory().join("fifo").display().to_string();
        let name = image(image_name);
        let mut run = host.ctr_command(&["run", "--rm", "--runtime", runtime, "--fifo-dir", &fifos, &name, id, "sleep", "1000"]);
        let client = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io("ctr run"))?;
        let sleeper = Self { host, id, client };
        let deadline = Instant::now() + BOOT;
        while !host.ctr(&["task", "list"])?.stdout.lines().any(|line| line.starts_with(id) && line.contains("RUNNING")) {
            if Instant::now() > deadline {
                return Err(failed("ctr run sleep", host.log()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(sleeper)
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let _ = self.host.ctr(&["task", "kill", "--signal", "SIGKILL", self.id]);
        let _ = self.client.wait();
    }
}

fn task_pid(host: &Host, id: &str) -> Result<i32, Error> {
    let listed = host.ctr(&["task", "list"])?.stdout;
    let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|digits| digits.parse().ok());
    pid.ok_or_else(|| failed("ctr task list", listed))
}

/// Processor seconds of this process's finished children, and of theirs that they have waited for.
fn finished_children() -> Result<f64, Error> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|errno| io("getrusage")(errno.into()))?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Waits for all shims that were left to this process, and returns what they and their machines have used.
fn reap_shims() -> Result<f64, Error> {
    let before = finished_children()?;
    let deadline = Instant::now() + SHIM_END;
    loop {
        let shims = orphaned_shims();
        for pid in shims.iter().filter(|pid| stat(**pid).is_some_and(|fields| fields[0] == "Z")) {
            let _ = waitpid(Pid::from_raw(*pid), None);
        }
        if shims.is_empty() {
            return Ok(finished_children()? - before);
        }
        if Instant::now() > deadline {
            return Err(failed("end of the shims", format!("{shims:?} are still there")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Children of this process that are shims of the runtime that is measured.
fn orphaned_shims() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| parent(pid) == Some(own) && name(pid).is_some_and(|name| name.starts_with("containerd-shim"))).collect()
}

/// Fields of /proc/PID/stat from the state on (proc(5), field 3).
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn name(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.split_once('(')?;
    Some(rest.rsplit_once(')')?.0.to_owned())
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn tick_fields(pid: i32, fields: std::ops::Range<usize>) -> f64 {
    let stat = stat(pid).unwrap_or_default();
    stat.get(fields).unwrap_or_default().iter().filter_map(|digits| digits.parse::<f64>().ok()).sum()
}

/// utime, stime, cutime, cstime (fields 14 to 17): a process and the children it has waited for.
fn ticks(pid: i32) -> f64 {
    tick_fields(pid, 11..15)
}

/// cutime and cstime alone.
fn ticks_of_children(pid: u32) -> f64 {
    tick_fields(pid.cast_signed(), 13..15)
}

fn pss_bytes(pid: i32) -> Result<f64, Error> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(io(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|digits| digits.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| failed(&path, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let own = std::process::id().cast_signed();
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id().cast_signed()));
        assert!(pss_bytes(own).unwrap() > 100_000.0);
        assert!(ticks(own) >= 0.0);
        assert!(name(own).is_some_and(|name| !name.is_empty()));
    }

    #[test]
    fn a_finished_child_is_counted() {
        let before = finished_children().unwrap();
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]);
        assert!(busy.status().unwrap().success());
        assert!(finished_children().unwrap() > before);
    }
}
