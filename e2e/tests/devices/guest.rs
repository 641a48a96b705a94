//! A guest with every device, as a person would use it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use paperboat_e2e::net::{HOST_V4, Net, WEB_PORT};
use paperboat_e2e::vmm::{Ended, Machine, MachineProducts, optional};
use sha2::{Digest, Sha256};

/// What is waited for comes within this time, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// The guest's drivers, one device each.
pub const DRIVERS: [&str; 5] = ["virtiofs", "vmw_vsock_virtio_transport", "virtio_net", "virtio_rng", "virtio_balloon"];
/// Bytes that the web server behind the switch serves.
const PAGE_BYTES: usize = 3 << 20;

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A guest with a share, vsock, and a tap at a switch.
pub struct Guest {
    pub machine: Machine,
    pub directory: tempfile::TempDir,
    /// Goes with the guest.
    pub net: Net,
    /// The sum of what the web server serves.
    pub page: String,
}

impl Guest {
    /// Boots `kernel`, whose drivers may be modules, with a network card of one pair of queues.
    pub fn boot(kernel: &Path, modules: Option<&Path>, cmdline: &str, options: &[&str]) -> Self {
        Self::boot_with_queues(kernel, modules, cmdline, options, 1)
    }

    fn boot_with_queues(kernel: &Path, modules: Option<&Path>, cmdline: &str, options: &[&str], pairs: u32) -> Self {
        // On the host's disk: a tmpfs cannot do all that files are asked.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let share = directory.path().join("share");
        std::fs::create_dir_all(share.join("bin")).unwrap();
        for program in std::fs::read_dir(optional("PAPERBOAT_PROBES").unwrap().join("guest")).unwrap() {
            let program = program.unwrap();
            std::fs::copy(program.path(), share.join("bin").join(program.file_name())).unwrap();
        }
        let net = Net::new().unwrap();
        let several = if pairs > 1 { "multi_queue" } else { "" };
        net.inside(&format!("ip tuntap add dev tap0 mode tap vnet_hdr {several}; ip link set tap0 master sw0 up")).unwrap();
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
        let tap = format!("tap=tap0,queues={pairs}");
        let paths = ["--share", share.to_str().unwrap(), "--vsock", vsock.to_str().unwrap(), "--net", &tap, "--stats"];
        let mut machine = Machine::start(&products, kernel, cmdline, &[&paths, options].concat()).unwrap();
        machine.wait_for_shell();
        let mut guest = Self { machine, directory, net, page: sum };
        if modules.is_some() {
            guest.machine.run("for module in /modules/*.ko; do insmod $module || echo $module; done");
        }
        // They outlive the share.
        guest.run("mkdir -p /mnt && mount -t virtiofs paperboat /mnt && cp /mnt/bin/talk /mnt/bin/misuse /bin/ && umount /mnt");
        guest
    }

    /// The project's kernel with as many CPUs as its network card has pairs of queues.
    pub fn with_queues(pairs: u32) -> Self {
        let kernel = MachineProducts::from_environment().unwrap().kernel;
        Self::boot_with_queues(&kernel, None, "", &["--cpus", &pairs.to_string()], pairs)
    }

    /// The project's kernel, where every driver is built in.
    pub fn own(cmdline: &str, options: &[&str]) -> Self {
        let kernel = MachineProducts::from_environment().unwrap().kernel;
        Self::boot(&kernel, None, cmdline, options)
    }

    pub fn run(&mut self, line: &str) -> String {
        self.machine.run(line)
    }

    pub fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    pub fn vsock(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    /// Where a guest that connects to `port` of the host ends up.
    pub fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A stream to a listener in the guest that may still be on its way.
    pub fn connect(&self, port: u32) -> UnixStream {
        connect(&self.vsock(), port)
    }

    /// Uses each device, and sees that its driver is the one at work. `round` is another each time.
    pub fn use_everything(&mut self, round: u32) {
        for driver in DRIVERS {
            self.use_device(driver, round);
        }
    }

    /// Uses the device of `driver`.
    pub fn use_device(&mut self, driver: &str, round: u32) {
        let bound = self.run(&format!("ls /sys/bus/virtio/drivers/{driver} | grep -c '^virtio[0-9]'"));
        assert_eq!(bound, "1", "{driver}");
        match driver {
            "virtiofs" => self.use_share(round),
            "vmw_vsock_virtio_transport" => self.use_vsock(1000 + round),
            "virtio_net" => self.use_network(),
            "virtio_rng" => {
                assert!(self.run("cat /sys/class/misc/hw_random/rng_current").starts_with("virtio_rng"));
                assert_eq!(self.run("head -c 4096 /dev/hwrng | wc -c"), "4096");
            }
            // The balloon works by itself.
            _ => {}
        }
    }

    fn use_share(&mut self, round: u32) {
        std::fs::write(self.share().join("fact"), format!("round {round}\n")).unwrap();
        self.run("mount -t virtiofs paperboat /mnt");
        assert_eq!(self.run("cat /mnt/fact"), format!("round {round}"));
        self.run("head -c 1000000 /bin/busybox > /mnt/copy");
        let sum = sha256(&std::fs::read(self.share().join("copy")).unwrap());
        assert_eq!(self.run("head -c 1000000 /bin/busybox | sha256sum | cut -c1-64"), sum);
        self.run("umount /mnt");
    }

    fn use_vsock(&mut self, port: u32) {
        let listener = self.listener(port);
        let heard = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut words = String::new();
            stream.read_to_string(&mut words).unwrap();
            stream.write_all(words.to_uppercase().as_bytes()).unwrap();
        });
        assert_eq!(self.run(&format!("echo over vsock | talk connect {port}")), "OVER VSOCK");
        heard.join().unwrap();
        self.run(&format!("(sleep 1000 | talk listen {port} > /tmp/heard; echo over >> /tmp/heard) &"));
        let mut stream = self.connect(port);
        stream.write_all(b"from the host\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        self.run("until grep -q host /tmp/heard; do sleep 0.1; done; killall sleep; wait");
    }

    fn use_network(&mut self) {
        self.run("ip link set eth0 up && ip address add 10.88.0.9/24 dev eth0");
        self.run(&format!("ping -c 2 -s 3000 -w 200 {HOST_V4}"));
        self.fetch_page();
        let posted = self.run(&format!(
            "(printf 'POST / HTTP/1.0\\r\\nContent-Length: 500000\\r\\n\\r\\n'; head -c 500000 /bin/busybox) | nc {HOST_V4} {WEB_PORT} | tail -n 1"
        ));
        assert_eq!(posted, "500000");
        self.run("ip address flush dev eth0; ip link set eth0 down");
    }

    /// Fetches what the web server serves.
    pub fn fetch_page(&mut self) {
        let page = self.page.clone();
        assert_eq!(self.run(&format!("wget -q -O - http://{HOST_V4}:{WEB_PORT}/ | sha256sum | cut -c1-64")), page);
    }

    pub fn power_off(mut self) -> Ended {
        self.machine.type_line("poweroff -f");
        let ended = self.machine.end();
        assert_eq!(ended.status, Some(0), "{}{}", ended.console, ended.messages);
        ended
    }
}

/// A counter as `--stats` prints it; 0 where it prints none.
pub fn counter(ended: &Ended, name: &str) -> u64 {
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

pub fn all_devices_counted(ended: &Ended) {
    for name in ["fs.requests", "fs.queue_depth", "vsock.bytes_to_guest", "rng.bytes_to_guest", "net0.packets_from_guest"] {
        assert!(counter(ended, name) > 0, "{name}: {}", ended.messages);
    }
    for device in ["fs", "vsock", "net0", "rng", "balloon"] {
        assert_eq!(counter(ended, &format!("{device}.broken")), 0, "{device}: {}", ended.messages);
    }
}
