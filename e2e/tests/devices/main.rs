//! The devices in guests' hands: the project's kernel and Debian's own find each of them and use it, with message interrupts and with pins, behind
//! translation tables, and after their drivers have let go and taken them again. Streams over vsock of every kind, and all of it at once.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use paperboat_e2e::net::{HOST_V4, Net, WEB_PORT};
use paperboat_e2e::vmm::{Ended, Machine, MachineProducts, optional};
use sha2::{Digest, Sha256};

/// What is waited for comes within this time, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(240);
/// The guest's drivers, one device each.
const DRIVERS: [&str; 5] = ["virtiofs", "vmw_vsock_virtio_transport", "virtio_net", "virtio_rng", "virtio_balloon"];
/// Bytes that the web server behind the switch serves.
const PAGE_BYTES: usize = 3 << 20;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A guest with a share, vsock, and a tap at a switch.
struct Guest {
    machine: Machine,
    directory: tempfile::TempDir,
    /// Goes with the guest.
    _net: Net,
    /// Bytes that the web server serves, and their sum.
    page: String,
}

impl Guest {
    /// Boots `kernel`, whose drivers may be modules.
    fn boot(kernel: &Path, modules: Option<&Path>, cmdline: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let share = directory.path().join("share");
        std::fs::create_dir_all(share.join("bin")).unwrap();
        for program in std::fs::read_dir(optional("PAPERBOAT_PROBES").unwrap().join("guest")).unwrap() {
            let program = program.unwrap();
            std::fs::copy(program.path(), share.join("bin").join(program.file_name())).unwrap();
        }
        let net = Net::new().unwrap();
        net.inside("ip tuntap add dev tap0 mode tap vnet_hdr; ip link set tap0 master sw0 up").unwrap();
        let page: Vec<u8> = (0..PAGE_BYTES as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sum = sha256(&page);
        net.serve(page).unwrap();

        let mut products = MachineProducts::from_environment().unwrap();
        products.through = ["ip", "netns", "exec", net.name()].map(str::to_owned).into();
        if let Some(modules) = modules {
            let both = [std::fs::read(&products.shell).unwrap(), std::fs::read(modules).unwrap()].concat();
            products.shell = directory.path().join("initramfs.cpio");
            std::fs::write(&products.shell, both).unwrap();
        }
        let vsock = directory.path().join("vsock");
        let paths = ["--share", share.to_str().unwrap(), "--vsock", vsock.to_str().unwrap(), "--net", "tap=tap0", "--stats"];
        let mut machine = Machine::start(&products, kernel, cmdline, &[&paths, options].concat()).unwrap();
        machine.wait_for_shell();
        let mut guest = Self { machine, directory, _net: net, page: sum };
        if modules.is_some() {
            guest.machine.run("for module in /modules/*.ko; do insmod $module || echo $module; done");
        }
        guest
    }

    /// The project's kernel, where every driver is built in.
    fn own(cmdline: &str, options: &[&str]) -> Self {
        let kernel = MachineProducts::from_environment().unwrap().kernel;
        Self::boot(&kernel, None, cmdline, options)
    }

    fn run(&mut self, line: &str) -> String {
        self.machine.run(line)
    }

    fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    fn vsock(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    /// Where a guest that connects to `port` of the host ends up.
    fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A stream to a listener in the guest that may still be on its way.
    fn connect(&self, port: u32) -> UnixStream {
        connect(&self.vsock(), port)
    }

    /// Uses each device, and sees that its driver is the one at work.
    fn use_everything(&mut self, round: u32) {
        for driver in DRIVERS {
            let bound = self.run(&format!("ls /sys/bus/virtio/drivers/{driver} | grep -c '^virtio[0-9]'"));
            assert_eq!(bound, "1", "{driver}");
        }
        std::fs::write(self.share().join("fact"), format!("round {round}\n")).unwrap();
        self.run("mkdir -p /mnt && mount -t virtiofs paperboat /mnt");
        assert_eq!(self.run("cat /mnt/fact"), format!("round {round}"));
        self.run("head -c 1000000 /bin/busybox > /mnt/copy");
        let sum = sha256(&std::fs::read(self.share().join("copy")).unwrap());
        assert_eq!(self.run("head -c 1000000 /bin/busybox | sha256sum | cut -c1-64"), sum);

        let port = 1000 + round;
        let listener = self.listener(port);
        let heard = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut words = String::new();
            stream.read_to_string(&mut words).unwrap();
            stream.write_all(words.to_uppercase().as_bytes()).unwrap();
        });
        assert_eq!(self.run(&format!("echo over vsock | /mnt/bin/talk connect {port}")), "OVER VSOCK");
        heard.join().unwrap();
        self.run(&format!("(sleep 1000 | /mnt/bin/talk listen {port} > /tmp/heard; echo over >> /tmp/heard) &"));
        let mut stream = self.connect(port);
        stream.write_all(b"from the host\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        self.run("until grep -q host /tmp/heard; do sleep 0.1; done; killall sleep");

        self.run("ip link set eth0 up && ip address add 10.88.0.9/24 dev eth0");
        self.run(&format!("ping -c 2 -s 3000 -w 200 {HOST_V4}"));
        let page = self.page.clone();
        assert_eq!(self.run(&format!("wget -q -O - http://{HOST_V4}:{WEB_PORT}/ | sha256sum | cut -c1-64")), page);
        let posted = self.run(&format!(
            "(printf 'POST / HTTP/1.0\\r\\nContent-Length: 1000000\\r\\n\\r\\n'; cat /mnt/copy) | nc {HOST_V4} {WEB_PORT} | tail -n 1"
        ));
        assert_eq!(posted, "1000000");
        self.run("ip address flush dev eth0; ip link set eth0 down");

        assert!(self.run("cat /sys/class/misc/hw_random/rng_current").starts_with("virtio_rng"));
        assert_eq!(self.run("head -c 4096 /dev/hwrng | wc -c"), "4096");
        self.run("umount /mnt");
    }

    fn power_off(mut self) -> Ended {
        self.machine.type_line("poweroff -f");
        let ended = self.machine.end();
        assert_eq!(ended.status, Some(0), "{}{}", ended.console, ended.messages);
        ended
    }
}

/// A counter as `--stats` prints it; 0 where it prints none.
fn counter(ended: &Ended, name: &str) -> u64 {
    let line = ended.messages.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

fn connect(socket: &Path, port: u32) -> UnixStream {
    let begun = Instant::now();
    loop {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while answer.last() != Some(&b'\n') && stream.read(&mut byte).is_ok_and(|count| count == 1) {
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") {
            return stream;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody listens at port {port}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn all_devices_counted(ended: &Ended) {
    for name in ["fs.requests", "fs.queue_depth", "vsock.bytes_to_guest", "rng.bytes_to_guest", "net0.packets_from_guest"] {
        assert!(counter(ended, name) > 0, "{name}: {}", ended.messages);
    }
    for device in ["fs", "vsock", "net0", "rng", "balloon"] {
        assert_eq!(counter(ended, &format!("{device}.broken")), 0, "{device}: {}", ended.messages);
    }
}

#[test]
fn own_kernel_uses_every_device_again_after_its_driver_let_go() {
    let mut guest = Guest::own("", &["--memory", "1G"]);
    guest.use_everything(0);
    assert_ne!(guest.run("grep -c MSI /proc/interrupts"), "0");
    for round in 1..3 {
        for driver in DRIVERS {
            guest.run(&format!(
                "cd /sys/bus/virtio/drivers/{driver} && name=$(ls | grep '^virtio[0-9]') && echo $name > unbind && echo $name > bind"
            ));
        }
        guest.use_everything(round);
    }
    let ended = guest.power_off();
    all_devices_counted(&ended);
    assert!(counter(&ended, "fs.resets") >= 3 && counter(&ended, "net0.resets") >= 3, "{}", ended.messages);
}

#[test]
fn own_kernel_uses_every_device_by_interrupt_pins() {
    let mut guest = Guest::own("pci=nomsi", &[]);
    guest.use_everything(0);
    let (_, status) = guest.machine.command("grep MSI /proc/interrupts");
    assert_eq!(status, 1, "no message interrupts");
    assert_ne!(guest.run("grep -c 'Level.*virtio' /proc/interrupts"), "0");
    all_devices_counted(&guest.power_off());
}

#[test]
fn own_kernel_uses_every_device_behind_translation_tables() {
    let mut guest = Guest::own("", &["--enforce-dma"]);
    guest.use_everything(0);
    // VIRTIO_F_ACCESS_PLATFORM, taken by all but the balloon's driver.
    assert_eq!(guest.run("cut -c34 /sys/bus/virtio/devices/virtio*/features | sort | uniq -c | tr -s ' '"), " 1 0\n 4 1");
    all_devices_counted(&guest.power_off());
}

/// A kernel of Debian's with its modules beside it.
fn stock(variable: &'static str) {
    let Some(kernel) = optional(variable) else { return };
    let kernel = std::fs::canonicalize(kernel).unwrap();
    let mut guest = Guest::boot(&kernel, Some(&kernel.with_file_name("modules.cpio")), "", &["--memory", "1G"]);
    guest.use_everything(0);
    all_devices_counted(&guest.power_off());
}

#[test]
fn a_stock_kernel_uses_every_device() {
    stock("PAPERBOAT_STOCK_6_1");
}

/// Streams to a guest that reads nothing stop, and go on when it reads; the other way round too.
#[test]
fn streams_wait_for_readers_and_end_as_they_should() {
    let mut guest = Guest::own("", &[]);
    guest.run("mount -t virtiofs paperboat /mnt");
    // To the guest: nobody reads until its standard input ends.
    guest.run("mkfifo /tmp/go; (/mnt/bin/talk hold 2000 < /tmp/go > /tmp/held) & exec 9> /tmp/go");
    let stream = guest.connect(2000);
    stream.set_nonblocking(true).unwrap();
    let (chunk, mut written, mut idle) = (vec![7; 64 << 10], 0u64, 0);
    while idle < 20 {
        match (&stream).write(&chunk) {
            Ok(count) => (written, idle) = (written + count as u64, 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                idle += 1;
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(written < 8 << 20, "nobody reads, and {written} bytes are taken");
    }
    stream.set_nonblocking(false).unwrap();
    guest.run("exec 9>&-");
    let mut rest = stream.try_clone().unwrap();
    let more = thread::spawn(move || {
        rest.write_all(&vec![8; 4 << 20]).unwrap();
        rest.shutdown(Shutdown::Write).unwrap();
    });
    more.join().unwrap();
    let total = written + (4 << 20);
    guest.run(&format!("until grep -q '^{total} bytes' /tmp/held; do sleep 0.1; done"));

    // From the guest: the host accepts and waits.
    let listener = guest.listener(2001);
    guest.run("(/mnt/bin/talk generate 3 16000000 | /mnt/bin/talk connect 2001; echo ended > /tmp/sent) &");
    let (mut stream, _) = listener.accept().unwrap();
    guest.run("sleep 1; [ ! -e /tmp/sent ]");
    let mut got = Vec::new();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 16_000_000);
    assert_eq!(guest.run("/mnt/bin/talk generate 3 16000000 | sha256sum | cut -c1-64"), sha256(&got));

    // A far end that goes away while the guest sends.
    let listener = guest.listener(2002);
    guest.run("(/mnt/bin/talk generate 3 16000000 | /mnt/bin/talk connect 2002 2> /tmp/why; echo ended > /tmp/reset) &");
    drop(listener.accept().unwrap());
    guest.run("until [ -e /tmp/reset ]; do sleep 0.1; done");
    // Nobody there.
    let (_, status) = guest.machine.command("/mnt/bin/talk connect 2999 < /dev/null");
    assert_eq!(status, 1);

    many(&mut guest, 200);
    let ended = guest.power_off();
    assert_eq!(counter(&ended, "vsock.connections_open"), 0, "{}", ended.messages);
    assert!(
        counter(&ended, "vsock.connections_opened") > 400 && counter(&ended, "vsock.connections_refused") > 0,
        "{}",
        ended.messages
    );
}

/// Streams open at once, `count` each way.
fn many(guest: &mut Guest, count: usize) {
    let listener = guest.listener(2100);
    let echo = thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 8];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
            streams.push(stream);
        }
        streams.len()
    });
    assert_eq!(guest.run(&format!("/mnt/bin/talk many 2100 {count}")), format!("{count} of {count}"));
    assert_eq!(echo.join().unwrap(), count);
    std::fs::remove_file(guest.directory.path().join("vsock_2100")).unwrap();

    guest.run("/mnt/bin/talk echo 2101 > /tmp/echo & until grep -q listening /tmp/echo; do sleep 0.1; done");
    let mut streams: Vec<UnixStream> = (0..count).map(|_| guest.connect(2101)).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&index.to_le_bytes()).unwrap();
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut word = [0; size_of::<usize>()];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(usize::from_le_bytes(word), index);
    }
    drop(streams);
    guest.run("killall talk");
}

/// Files, network, vsock and memory at once, each compared with what must be there.
fn stress(guest: &mut Guest, operations: u32, rounds: u32) {
    guest.run(
        "mount -t virtiofs paperboat /mnt; mount -t tmpfs none /tmp; ip link set eth0 up; ip address add 10.88.0.9/24 dev eth0",
    );
    guest.run("mkdir /mnt/files /tmp/memory");
    guest.run(&format!("(cd /mnt/files; /mnt/bin/shuffle 5 {operations} drop > /tmp/files) &"));
    guest.run(&format!("(cd /tmp/memory; /mnt/bin/shuffle 6 {operations} no-zero > /tmp/shuffled) &"));
    let url = format!("http://{HOST_V4}:{WEB_PORT}/");
    let page = guest.page.clone();
    guest.run(&format!(
        "(for round in $(seq {rounds}); do [ $(wget -q -O - {url} | sha256sum | cut -c1-64) = {page} ] || echo wrong; done > /tmp/net; echo done >> /tmp/net) &"
    ));
    let listener = guest.listener(2200);
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().take(rounds as usize) {
            let mut bytes = Vec::new();
            stream.unwrap().read_to_end(&mut bytes).unwrap();
            sender.send(sha256(&bytes)).unwrap();
        }
    });
    let expected = guest.run("/mnt/bin/talk generate 9 3000000 | sha256sum | cut -c1-64");
    guest.run(&format!(
        "(for round in $(seq {rounds}); do /mnt/bin/talk generate 9 3000000 | /mnt/bin/talk connect 2200; done) &"
    ));
    for round in 0..rounds {
        assert_eq!(received.recv_timeout(PATIENCE).unwrap(), expected, "round {round}");
    }
    guest.run("until grep -q done /tmp/net && [ -s /tmp/files ] && [ -s /tmp/shuffled ]; do sleep 0.2; done");
    assert_eq!(guest.run("cat /tmp/net"), "done");
    for name in ["files", "shuffled"] {
        let told = guest.run(&format!("cat /tmp/{name}"));
        assert!(told.ends_with("as they must be"), "{told}");
    }
}

#[test]
fn files_network_and_memory_hold_under_stress() {
    let mut guest = Guest::own("", &["--cpus", "2"]);
    stress(&mut guest, 700, 4);
    all_but_random_counted(&guest.power_off());
}

fn all_but_random_counted(ended: &Ended) {
    for name in ["fs.requests", "vsock.bytes_from_guest", "net0.packets_to_guest"] {
        assert!(counter(ended, name) > 0, "{name}: {}", ended.messages);
    }
    for device in ["fs", "vsock", "net0"] {
        assert_eq!(counter(ended, &format!("{device}.broken")), 0, "{device}: {}", ended.messages);
    }
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn stock_6_12_with_4k_pages_uses_every_device() {
        stock("PAPERBOAT_STOCK_6_12_4K");
    }

    #[test]
    fn stock_6_12_with_64k_pages_uses_every_device() {
        stock("PAPERBOAT_STOCK_6_12_64K");
    }

    #[test]
    fn files_network_and_memory_hold_under_long_stress() {
        let mut guest = Guest::own("", &["--cpus", "4", "--memory", "1G"]);
        stress(&mut guest, 50_000, 200);
        all_but_random_counted(&guest.power_off());
    }

    #[test]
    fn thousands_of_streams_are_open_at_once() {
        let mut guest = Guest::own("", &["--memory", "1G"]);
        guest.run("mount -t virtiofs paperboat /mnt");
        many(&mut guest, 4000);
    }

    const GIBIBYTES_2: u64 = 2 << 30;

    #[test]
    fn two_gibibytes_of_stream_and_of_files_arrive_as_they_left() {
        let mut guest = Guest::own("", &[]);
        guest.run("mount -t virtiofs paperboat /mnt");
        let listener = guest.listener(2300);
        guest.run(&format!("/mnt/bin/talk generate 11 {GIBIBYTES_2} | /mnt/bin/talk connect 2300 &"));
        let (mut stream, _) = listener.accept().unwrap();
        let (mut sum, mut total, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            sum.update(&chunk[..count]);
            total += count as u64;
        }
        let streamed: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(total, GIBIBYTES_2);
        assert_eq!(streamed, generated(11, GIBIBYTES_2));
        // Piece by piece: a console that is silent for minutes passes for a guest that hangs.
        for piece in 0..PIECES {
            let (seed, size) = (20 + piece, GIBIBYTES_2 / PIECES);
            guest.run(&format!("/mnt/bin/talk generate {seed} {size} > /mnt/piece{piece}"));
            let mut sum = Sha256::new();
            std::io::copy(&mut std::fs::File::open(guest.share().join(format!("piece{piece}"))).unwrap(), &mut sum).unwrap();
            let written: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(written, generated(seed, size), "piece {piece}");
            guest.run("echo 3 > /proc/sys/vm/drop_caches");
            // A sum of it in the guest would take the software CPU minutes.
            guest.run(&format!("/mnt/bin/talk generate {seed} {size} | cmp - /mnt/piece{piece}"));
            guest.run(&format!("rm /mnt/piece{piece}"));
        }
    }

    const PIECES: u64 = 16;

    /// The sum of what the host's own program makes.
    fn generated(seed: u64, size: u64) -> String {
        let program = optional("PAPERBOAT_PROBES").unwrap().join("host/talk");
        let mut child = std::process::Command::new(program)
            .args(["generate", &seed.to_string(), &size.to_string()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut sum = Sha256::new();
        std::io::copy(child.stdout.as_mut().unwrap(), &mut sum).unwrap();
        assert!(child.wait().unwrap().success());
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
