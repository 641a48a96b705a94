//! A running lab: its process, its console, its jobs.
//!
//! A job is a directory that host and lab share. One line through a FIFO announces it to the lab; script, output and exit status are files, so
//! nothing is lost on the way, whatever the bytes are and however slow the machine is.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::lifeline::Lifeline;
use super::qemu::Qemu;
use super::rootfs::Guest;
use crate::cache::remove_tree;
use crate::cli::LabMachine;
use crate::ctx::Ctx;
use crate::ui::duration;

/// A lab that has not booted by then hangs, even on a busy machine: it needs 6 processor seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(900);
/// How long after its limit an answer to a job may come.
const JOB_GRACE: Duration = Duration::from_secs(60);
/// How long QEMU may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Lines of the console that an error shows.
const TAIL_LINES: usize = 15;
/// The lab's memory; it is taken as it is used.
const MEMORY: &str = "4G";
/// What `timeout` of the lab exits with.
const STATUS_TIMEOUT: i32 = 124;

/// The files of a lab, running or not. One for each kind of machine.
pub struct Session {
    machine: LabMachine,
    dir: PathBuf,
    counted: bool,
}

/// What a job left.
pub struct Done {
    /// Exit status.
    pub status: i32,
    /// Standard output and error.
    pub output: String,
}

impl Session {
    /// The lab of this kind.
    pub fn of(ctx: &Ctx, machine: LabMachine) -> Self {
        Self { machine, dir: ctx.cache.root().join("lab").join(machine.name()), counted: false }
    }

    /// Its clock counts instructions, one a nanosecond, and jumps over idle time: what a program needs is then the same on any host, however
    /// busy, and does not hold what the emulator does behind the machine's back.
    pub fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    /// Directory that the lab sees as /lab/products, read-only.
    pub fn products(&self) -> PathBuf {
        self.dir.join("products")
    }

    /// What QEMU and the lab's kernel print.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.process().is_some()
    }

    /// It does not run: one of a kind does at a time.
    pub fn ensure_down(&self) -> Result<()> {
        let machine = self.machine.name();
        ensure!(!self.is_up(), "the lab {machine} runs already: `cargo xtask lab down --machine {machine}` ends it");
        Ok(())
    }

    /// Boots it and waits until it takes jobs. It ends with this process, unless its lifeline is let go.
    pub fn boot(&self, ctx: &Ctx, qemu: &Qemu, guest: &Guest) -> Result<Lifeline> {
        self.ensure_down()?;
        let started = Instant::now();
        for stale in ["jobs", "console.sock", "jobs.fifo.in", "jobs.fifo.out"] {
            let path = self.dir.join(stale);
            remove_tree(&path)?;
        }
        fs::create_dir_all(self.dir.join("jobs"))?;
        fs::create_dir_all(self.products())?;
        for direction in ["in", "out"] {
            nix::unistd::mkfifo(&self.dir.join(format!("jobs.fifo.{direction}")), Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        let (mut child, lifeline) = self.start(&mut self.command(qemu, guest))?;
        let ready = self.dir.join("jobs/ready");
        while !ready.exists() {
            if let Some(status) = child.try_wait()? {
                bail!("the lab ended while it booted ({status}):\n{}", self.tail());
            }
            if started.elapsed() > BOOT_LIMIT {
                self.end()?;
                bail!("the lab did not boot within {}:\n{}", duration(BOOT_LIMIT), self.tail());
            }
            sleep(POLL);
        }
        ctx.ui.line("lab", &format!("{} took jobs after {}", self.machine.name(), duration(started.elapsed())));
        Ok(lifeline)
    }

    /// Starts a guarded program and notes it as the lab's.
    fn start(&self, command: &mut Command) -> Result<(Child, Lifeline)> {
        let mut child = command.spawn().context("start the lab's QEMU")?;
        let lifeline = Lifeline::of(&mut child)?;
        self.note(&child)?;
        Ok((child, lifeline))
    }

    fn command(&self, qemu: &Qemu, guest: &Guest) -> Command {
        let mut command = qemu.command();
        // Paths below this directory stay short: sockets have a limit.
        command.current_dir(&self.dir);
        let (kind, slots) = emulated(self.machine);
        let slot = |number: usize| slots.get(number).map(|bus| format!(",bus={bus}")).unwrap_or_default();
        command.args(["-machine", kind, "-smp", "1", "-m", MEMORY]);
        if self.machine == LabMachine::Pseries {
            // QEMU's own choice is a later one, which has another kind of nested KVM.
            command.args(["-cpu", "power9"]);
        }
        if self.counted {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        // A whole machine, not a chosen one: without its defaults it has no PCI root ports.
        command.args(["-vga", "none", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-chardev", "socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log"]);
        command.args(["-serial", "chardev:console", "-append", "console=hvc0 quiet panic=-1"]);
        command.arg("-kernel").arg(&guest.vmlinux).arg("-initrd").arg(&guest.initramfs);
        // One slot behind each root port, and powernv8 has three. What the lab writes to its disk is thrown away.
        command.arg("-drive").arg(format!("if=none,id=disk,file={},format=raw,snapshot=on", guest.disk.display()));
        command.arg("-device").arg(format!("virtio-blk-pci,drive=disk{}", slot(0)));
        command.args(["-fsdev", "local,id=jobs,path=jobs,security_model=none"]);
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev=jobs,mount_tag=jobs{}", slot(1)));
        command.args(["-fsdev", "local,id=products,path=products,security_model=none,readonly=on"]);
        let (first, second) = if slots.is_empty() { ("", "") } else { (",addr=0.0,multifunction=on", ",addr=0.1") };
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev=products,mount_tag=products{}{first}", slot(2)));
        command.arg("-device").arg(format!("virtio-serial-pci{}{second}", slot(2)));
        command.args(["-chardev", "pipe,id=port,path=jobs.fifo"]);
        command.args(["-device", "virtserialport,chardev=port,name=jobs"]);
        let log = File::create(self.dir.join("qemu.log")).map_or(Stdio::null(), Stdio::from);
        command.stdout(Stdio::null()).stderr(log);
        command
    }

    /// Runs a script as a job. Its output goes to `screen` as it comes, too.
    ///
    /// # Errors
    /// When the lab is not up or ends, and when the job takes longer than `limit`.
    pub fn run(&self, script: &str, limit: Duration, mut screen: Option<&mut dyn Write>) -> Result<Done> {
        let name = self.new_job(script)?;
        let dir = self.dir.join("jobs").join(&name);
        let line = format!("{name} {}\n", limit.as_secs().max(1));
        let fifo = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(self.dir.join("jobs.fifo.in"));
        fifo.and_then(|mut fifo| fifo.write_all(line.as_bytes())).with_context(|| self.not_up())?;
        let started = Instant::now();
        let mut shown = 0;
        let status = loop {
            let status = fs::read_to_string(dir.join("status")).ok();
            if let Some(screen) = screen.as_deref_mut() {
                shown += copy_from(&dir.join("output"), shown, screen)?;
            }
            if let Some(status) = status {
                break status.trim().parse().with_context(|| format!("the lab's status of a job: {status:?}"))?;
            }
            ensure!(self.is_up(), "the lab ended while a job ran:\n{}", self.tail());
            if started.elapsed() > limit + JOB_GRACE {
                bail!("the lab did not answer within {}:\n{}", duration(limit + JOB_GRACE), self.tail());
            }
            sleep(POLL);
        };
        let output = String::from_utf8_lossy(&fs::read(dir.join("output")).unwrap_or_default()).into_owned();
        remove_tree(&dir)?;
        if status == STATUS_TIMEOUT && started.elapsed() >= limit {
            bail!("the job took longer than {}; its output:\n{output}", duration(limit));
        }
        Ok(Done { status, output })
    }

    /// Runs a script that has to succeed; returns its output.
    pub fn must(&self, what: &str, script: &str, limit: Duration) -> Result<String> {
        let done = self.run(script, limit, None)?;
        ensure!(done.status == 0, "{what} in the lab: exit status {}:\n{}", done.status, done.output);
        Ok(done.output)
    }

    fn new_job(&self, script: &str) -> Result<String> {
        let jobs = self.dir.join("jobs");
        ensure!(jobs.join("ready").exists() && self.is_up(), self.not_up());
        for number in 0.. {
            let name = format!("job{}-{number}", std::process::id());
            match fs::create_dir(jobs.join(&name)) {
                Ok(()) => {
                    fs::write(jobs.join(&name).join("script"), script)?;
                    return Ok(name);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("make a job's directory"),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Connects this terminal to a shell on the lab's console. Ctrl-] leaves it.
    pub fn shell(&self) -> Result<()> {
        ensure!(self.is_up(), self.not_up());
        super::terminal::attach(&self.dir, "console.sock")
    }

    /// Ends the lab, if it runs.
    pub fn end(&self) -> Result<bool> {
        let Some(pid) = self.process() else { return Ok(false) };
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Gone meanwhile: no error.
            let _ = kill(pid, signal);
            let asked = Instant::now();
            while asked.elapsed() < END_LIMIT {
                // A child of this process stays in the table until it is waited for.
                let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
                if self.process().is_none() {
                    remove_tree(&self.dir.join("process"))?;
                    return Ok(true);
                }
                sleep(POLL);
            }
        }
        bail!("the lab's process {pid} does not end")
    }

    fn note(&self, child: &Child) -> Result<()> {
        let begun = start_time(child.id() as i32).context("the lab's process ended at once")?;
        fs::write(self.dir.join("process"), format!("{} {begun}\n", child.id())).context("note the lab's process")
    }

    /// The lab's process: number and start time are both as noted, so it is no stranger that got the number later.
    fn process(&self) -> Option<Pid> {
        let note = fs::read_to_string(self.dir.join("process")).ok()?;
        let (pid, begun) = note.trim().split_once(' ')?;
        let pid: i32 = pid.parse().ok()?;
        (start_time(pid)? == begun.parse::<u64>().ok()?).then(|| Pid::from_raw(pid))
    }

    fn not_up(&self) -> String {
        let machine = self.machine.name();
        format!("the lab {machine} is not up: `cargo xtask lab up --machine {machine}` boots it")
    }

    /// The end of the console, for errors.
    fn tail(&self) -> String {
        let text = fs::read(self.console_log()).unwrap_or_default();
        let text =
            String::from_utf8_lossy(&text).into_owned() + &fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
        format!("    {tail}\n  the whole console: {}", self.console_log().display())
    }
}

/// Start time of a live process in clock ticks after boot (proc(5), field 22 of stat; the name before it may hold anything).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Copies what a file has beyond `offset`; returns how much.
fn copy_from(path: &Path, offset: u64, screen: &mut dyn Write) -> Result<u64> {
    let Ok(mut file) = File::open(path) else { return Ok(0) };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    screen.write_all(&bytes)?;
    screen.flush()?;
    Ok(bytes.len() as u64)
}

/// How QEMU makes the machine, and its root ports in order; a partition has one bus for everything.
fn emulated(machine: LabMachine) -> (&'static str, &'static [&'static str]) {
    const PORTS: &[&str] = &["pcie.0", "pcie.1", "pcie.2"];
    match machine {
        LabMachine::Powernv8 => ("powernv8", PORTS),
        LabMachine::Powernv9 | LabMachine::Powernv9With4k => ("powernv9", PORTS),
        LabMachine::Powernv10 => ("powernv10", PORTS),
        LabMachine::Pseries => ("pseries,cap-nested-hv=on", &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::lifeline::guarded;
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let begun = start_time(std::process::id() as i32).unwrap();
        assert_eq!(start_time(std::process::id() as i32), Some(begun));
        assert!(start_time(1).is_some_and(|first| first <= begun));
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn a_stranger_with_the_number_is_not_the_lab() {
        let dir = std::env::temp_dir().join(format!("paperboat-session-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let session = Session { machine: LabMachine::Powernv9, dir: dir.clone(), counted: false };
        assert!(!session.is_up());
        fs::write(dir.join("process"), format!("{} 1\n", std::process::id())).unwrap();
        assert!(!session.is_up() && !session.end().unwrap(), "this test lives on");
        let begun = start_time(std::process::id() as i32).unwrap();
        fs::write(dir.join("process"), format!("{} {begun}\n", std::process::id())).unwrap();
        assert!(session.is_up());
        let error = session.run("true", Duration::from_secs(1), None).err().unwrap().to_string();
        assert!(error.contains("lab up --machine powernv9"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    /// A session in a directory of its own.
    fn scratch(name: &str) -> Session {
        let dir = std::env::temp_dir().join(format!("paperboat-session-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Session { machine: LabMachine::Powernv8, dir, counted: false }
    }

    /// A program in QEMU's place: it would run for long.
    fn stand_in() -> Command {
        let mut command = guarded("sleep");
        command.arg("1000");
        command
    }

    /// Waits until the lab runs, or does not; fails if that never happens.
    fn wait_until(session: &Session, up: bool) {
        let begun = Instant::now();
        while session.is_up() != up {
            assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for: up is {up}");
            sleep(POLL);
        }
    }

    #[test]
    fn the_lab_is_ended_by_its_number() {
        let session = scratch("end");
        let (mut child, lifeline) = session.start(&mut stand_in()).unwrap();
        assert!(session.is_up());
        assert!(session.end().unwrap());
        assert!(!session.is_up());
        // The end may have come before the guard.
        let _ = lifeline.let_go();
        // Waited for already.
        assert!(child.wait().is_err());
        fs::remove_dir_all(session.dir).unwrap();
    }

    /// Names of the processes of a group.
    fn members(group: u32) -> Vec<String> {
        let stats =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        let of_group = |stat: String| {
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            (rest.split_whitespace().nth(2)?.parse() == Ok(group)).then(|| name.to_owned())
        };
        stats.filter_map(of_group).collect()
    }

    #[test]
    fn without_its_lifeline_the_lab_ends_unless_it_was_let_go() {
        let session = scratch("lifeline");
        let (mut child, lifeline) = session.start(&mut stand_in()).unwrap();
        drop(lifeline);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        wait_until(&session, false);

        let (mut child, lifeline) = session.start(&mut stand_in()).unwrap();
        lifeline.let_go().unwrap();
        // The guard goes, the program stays.
        while members(child.id()) != ["sleep"] {
            sleep(POLL);
        }
        assert!(session.is_up() && child.try_wait().unwrap().is_none());
        assert!(session.end().unwrap());
        let _ = child.wait();
        fs::remove_dir_all(session.dir).unwrap();
    }

    /// By this variable the test below knows that it is the chore, and where its session is.
    const CHORE: &str = "PAPERBOAT_TEST_OF_A_CHORE";

    #[test]
    fn a_chore_that_is_killed_takes_its_lab_with_it() {
        if let Some(dir) = std::env::var_os(CHORE) {
            let session = Session { machine: LabMachine::Powernv9, dir: dir.into(), counted: false };
            let (mut child, _lifeline) = session.start(&mut stand_in()).unwrap();
            child.wait().unwrap();
            return;
        }
        let session = scratch("chore");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let mut chore = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "lab::session::tests::a_chore_that_is_killed_takes_its_lab_with_it"])
                .env(CHORE, &session.dir)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            wait_until(&session, true);
            kill(Pid::from_raw(chore.id() as i32), signal).unwrap();
            assert_eq!(chore.wait().unwrap().signal(), Some(signal as i32));
            wait_until(&session, false);
        }
        fs::remove_dir_all(session.dir).unwrap();
    }
}
