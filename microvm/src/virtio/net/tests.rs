//! The device against a driver that is honest and one that is not; the host's end is a socket of packets, or a real tap.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::super::testkit::{Buffer, Driver, Random, wait_for};
use super::super::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use super::header::{FRAME_BYTES_MAX, HEADER_BYTES};
use super::tap::HostLink;
use super::*;

/// The host's end as sockets that keep packets apart, one per pair.
struct Sockets {
    device: Vec<OwnedFd>,
    offload: AtomicU32,
    active: AtomicU32,
}

impl HostLink for Sockets {
    fn queue(&self, index: usize) -> BorrowedFd<'_> {
        self.device[index].as_fd()
    }

    fn set_offload(&self, offload: u32) -> io::Result<()> {
        self.offload.store(offload, Ordering::SeqCst);
        Ok(())
    }

    fn set_active_queues(&self, active: usize) -> io::Result<()> {
        self.active.store(active as u32, Ordering::SeqCst);
        Ok(())
    }
}

/// A device, its slot and the far side of its link.
struct Bench {
    nic: Arc<Nic>,
    driver: Driver,
    host: Arc<Sockets>,
    far: Vec<OwnedFd>,
}

impl Bench {
    fn unbound(pairs: u32) -> Self {
        let nic = Nic::new(3, pairs).unwrap();
        let driver = Driver::start(Box::new(NetDevice::new(Arc::clone(&nic))));
        let (mut device, mut far) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (one, other) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC)
                    .unwrap();
            device.push(one);
            far.push(other);
        }
        let host = Arc::new(Sockets { device, offload: AtomicU32::new(u32::MAX), active: AtomicU32::new(0) });
        Self { nic, driver, host, far }
    }

    fn bound(pairs: u32) -> Self {
        let bench = Self::unbound(pairs);
        bench.nic.bind_host(bench.host.clone(), BindOptions::default()).unwrap();
        bench
    }

    /// Gives the guest's receive queue buffers of that many bytes.
    fn room(&mut self, queue: usize, sizes: &[usize]) -> Vec<Buffer> {
        let buffers: Vec<_> = sizes.iter().map(|size| self.driver.space(*size)).collect();
        for buffer in &buffers {
            self.driver.offer(queue, &[*buffer]);
        }
        self.driver.notify(queue);
        buffers
    }

    /// A packet arrives from the host.
    fn arrive(&self, pair: usize, packet: &[u8]) {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(packet);
        nix::unistd::write(&self.far[pair], &frame).unwrap();
    }

    /// The next packet that the guest sent.
    fn sent(&self, pair: usize) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        let length = wait_for("a packet", || nix::unistd::read(&self.far[pair], &mut bytes).ok());
        bytes.truncate(length);
        bytes
    }

    fn send(&mut self, queue: usize, parts: &[&[u8]]) {
        self.driver.request(queue, parts, 0);
    }

    fn command(&mut self, queue: usize, command: [u8; 2], data: &[u8]) -> u8 {
        self.driver.request(queue, &[&command, data], 1)[0]
    }

    fn link_up(&self) -> bool {
        self.driver.device_config(8)[6] & 1 != 0
    }
}

fn packet(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn the_link_follows_binding_and_says_so() {
    let bench = Bench::unbound(1);
    assert_eq!(bench.driver.device_config(6), [2, 0x70, 0x62, 0, 0, 3]);
    assert!(!bench.link_up());
    let generation = bench.driver.read(0x15, 1);
    bench.driver.write16(0x10, 0);
    bench.driver.function.bar_write(0, 0x8000 + 12, &0u32.to_le_bytes());
    let edges = bench.driver.line.edges();
    bench.nic.bind_host(bench.host.clone(), BindOptions { mac: Some([2, 1, 2, 3, 4, 5]), mtu: Some(1500) }).unwrap();
    assert!(bench.link_up());
    assert_eq!(bench.driver.device_config(6), [2, 1, 2, 3, 4, 5]);
    assert_ne!(bench.driver.read(0x15, 1), generation);
    assert_eq!(bench.driver.line.edges(), edges + 1, "a configuration interrupt");
    assert_eq!(bench.host.offload.load(Ordering::SeqCst), 15, "what the driver took is known to the tap");
    let again = bench.nic.bind_host(bench.host.clone(), BindOptions::default());
    assert!(matches!(again, Err(NetError::Bound { slot: 3 })));
    assert!(bench.nic.unbind());
    assert!(!bench.nic.unbind());
    assert!(!bench.link_up());
    assert_eq!(bench.driver.device_config(6), [2, 0x70, 0x62, 0, 0, 3]);
    assert_eq!(bench.driver.line.edges(), edges + 2);
    assert_eq!(bench.host.offload.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&bench.host), 1, "the tap is let go of");
}

#[test]
fn addresses_and_sizes_that_cannot_be_are_refused() {
    let bench = Bench::unbound(1);
    for mac in [[1, 0, 0, 0, 0, 1], [0; 6], [0xff; 6]] {
        let bound = bench.nic.bind_host(bench.host.clone(), BindOptions { mac: Some(mac), mtu: None });
        assert!(matches!(bound, Err(NetError::Mac { .. })));
    }
    for mtu in [0, 67, 65536, u32::MAX] {
        let bound = bench.nic.bind_host(bench.host.clone(), BindOptions { mac: None, mtu: Some(mtu) });
        assert!(matches!(bound, Err(NetError::Mtu { .. })));
    }
    assert!(matches!(Nic::new(8, 1), Err(NetError::Slots { .. })));
    assert!(matches!(Nic::new(0, 9), Err(NetError::QueuePairs { .. })));
    assert!(!bench.nic.is_bound());
}

#[test]
fn packets_go_both_ways() {
    let mut bench = Bench::bound(1);
    bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 1)]);
    assert_eq!(bench.sent(0)[HEADER_BYTES..], packet(60, 1));
    let buffers = bench.room(0, &[2048, 2048]);
    bench.arrive(0, &packet(1500, 2));
    let (_, length) = bench.driver.wait_used(0);
    assert_eq!(length as usize, HEADER_BYTES + 1500);
    let bytes = bench.driver.bytes(buffers[0], length as usize);
    assert_eq!(bytes[10..12], [1, 0], "one buffer");
    assert_eq!(bytes[HEADER_BYTES..], packet(1500, 2));
    for (name, count) in [("packets_to_guest", 1), ("packets_from_guest", 1), ("bytes_to_guest", 1500), ("bytes_from_guest", 60)]
    {
        assert_eq!(bench.driver.statistic(name), count, "{name}");
    }
}

#[test]
fn the_guest_hears_of_sent_packets_in_the_end() {
    let mut bench = Bench::bound(1);
    for _ in 0..100 {
        bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 1)]);
    }
    // Without looking at the ring, which would say that it needs no word.
    let packet = bench.driver.place(&[0; HEADER_BYTES + 60]);
    bench.driver.offer(1, &[packet]);
    let told = bench.driver.line.edges();
    bench.driver.notify(1);
    wait_for("an interrupt for the last", || (bench.driver.line.edges() > told).then_some(()));
}

#[test]
fn a_large_packet_is_spread_over_buffers() {
    let mut bench = Bench::bound(1);
    bench.arrive(0, &packet(5000, 7));
    let mut buffers = bench.room(0, &[1536]);
    bench.driver.wait_nothing(0);
    // Not before there is room for all of it.
    buffers.extend(bench.room(0, &[1536]));
    bench.driver.wait_nothing(0);
    buffers.extend(bench.room(0, &[1536, 1536]));
    let mut bytes = Vec::new();
    for buffer in &buffers {
        let (_, length) = bench.driver.wait_used(0);
        bytes.extend(bench.driver.bytes(*buffer, length as usize));
    }
    assert_eq!(bytes[10..12], [4, 0]);
    assert_eq!(bytes[HEADER_BYTES..], packet(5000, 7));
}

#[test]
fn without_mergeable_buffers_a_packet_that_does_not_fit_is_dropped() {
    let nic = Nic::new(0, 1).unwrap();
    let mut driver = Driver::discover(Box::new(NetDevice::new(Arc::clone(&nic))));
    driver.write8(0x14, 3);
    driver.accept_features(F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_MAC | F_STATUS);
    driver.write8(0x14, 0x0b);
    driver.set_up_queues();
    driver.write8(0x14, 0x0f);
    let mut bench = Bench { driver, nic, ..Bench::unbound(1) };
    bench.nic.bind_host(bench.host.clone(), BindOptions::default()).unwrap();
    assert_eq!(bench.host.offload.load(Ordering::SeqCst), 0);
    let buffers = bench.room(0, &[1536]);
    bench.arrive(0, &packet(4000, 1));
    bench.arrive(0, &packet(900, 2));
    let (_, length) = bench.driver.wait_used(0);
    assert_eq!(bench.driver.bytes(buffers[0], length as usize)[HEADER_BYTES..], packet(900, 2));
    assert_eq!(bench.driver.statistic("dropped_to_guest"), 1);
    // Kinds that were not negotiated.
    let mut header = [0; HEADER_BYTES];
    header[0] = 1;
    bench.send(1, &[&header, &packet(60, 1)]);
    assert_eq!((bench.driver.statistic("errors"), bench.driver.statistic("dropped_from_guest")), (1, 1));
}

#[test]
fn what_the_guest_sends_without_a_link_or_beyond_measure_is_dropped_and_counted() {
    let mut bench = Bench::unbound(1);
    bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 1)]);
    assert_eq!(bench.driver.statistic("dropped_from_guest"), 1);
    bench.nic.bind_host(bench.host.clone(), BindOptions { mac: None, mtu: Some(1500) }).unwrap();
    bench.send(1, &[&[0; HEADER_BYTES], &packet(9000, 1)]);
    bench.send(1, &[&[0; HEADER_BYTES], &packet(13, 1)]);
    bench.send(1, &[&vec![0; FRAME_BYTES_MAX + 1]]);
    assert_eq!((bench.driver.statistic("dropped_from_guest"), bench.driver.statistic("errors")), (4, 3));
    // Shorter than its header: nothing that a driver does.
    let cut = bench.driver.place(&[0; 5]);
    bench.driver.offer(1, &[cut]);
    bench.driver.notify(1);
    wait_for("DEVICE_NEEDS_RESET", || (bench.driver.status() & 0x40 != 0).then_some(()));
    bench.driver.bring_up();
    bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 9)]);
    assert_eq!(bench.sent(0)[HEADER_BYTES..], packet(60, 9));
}

#[test]
fn receive_buffers_without_room_for_a_header_break_the_device_until_it_is_reset() {
    let mut bench = Bench::bound(1);
    bench.room(0, &[8]);
    bench.arrive(0, &packet(60, 1));
    wait_for("DEVICE_NEEDS_RESET", || (bench.driver.status() & 0x40 != 0).then_some(()));
    bench.driver.bring_up();
    let buffers = bench.room(0, &[256]);
    bench.arrive(0, &packet(61, 2));
    let (_, length) = bench.driver.wait_used(0);
    assert_eq!(bench.driver.bytes(buffers[0], length as usize)[HEADER_BYTES..], packet(61, 2));
}

#[test]
fn commands_are_obeyed_or_refused() {
    let mut bench = Bench::bound(2);
    let control = 4;
    assert_eq!(bench.driver.device_config(10)[8..], [2, 0]);
    assert_eq!(bench.command(control, [1, 1], &[2, 9, 8, 7, 6, 5]), 0);
    assert_eq!(bench.driver.device_config(6), [2, 9, 8, 7, 6, 5]);
    assert_eq!(bench.command(control, [1, 1], &[1, 9, 8, 7, 6, 5]), 1, "a group's address");
    assert_eq!(bench.command(control, [1, 1], &[2, 9]), 1);
    assert_eq!(bench.host.active.load(Ordering::SeqCst), 1);
    assert_eq!(bench.command(control, [4, 0], &2u16.to_le_bytes()), 0);
    assert_eq!(bench.host.active.load(Ordering::SeqCst), 2);
    for pairs in [0u16, 3, u16::MAX] {
        assert_eq!(bench.command(control, [4, 0], &pairs.to_le_bytes()), 1);
    }
    assert_eq!(bench.command(control, [5, 0], &(F_GUEST_CSUM | F_GUEST_TSO4).to_le_bytes()), 0);
    assert_eq!(bench.host.offload.load(Ordering::SeqCst), 3);
    assert_eq!(bench.command(control, [5, 0], &u64::MAX.to_le_bytes()), 1);
    for command in [[0, 0], [2, 0], [3, 0], [9, 9], [0xff, 0xff]] {
        assert_eq!(bench.command(control, command, &[0; 200]), 1);
    }
    assert!(bench.driver.statistic("errors") >= 11);
    assert_eq!(bench.driver.status(), 0x0f, "a refused command is not a broken device");
    // Without room for the answer it is.
    let (command, none) = (bench.driver.place(&[1, 1]), bench.driver.place(&[2, 0, 0, 0, 0, 1]));
    bench.driver.offer(control, &[command, none]);
    bench.driver.notify(control);
    wait_for("DEVICE_NEEDS_RESET", || (bench.driver.status() & 0x40 != 0).then_some(()));
}

#[test]
fn only_active_pairs_carry_packets() {
    let mut bench = Bench::bound(2);
    bench.room(2, &[2048]);
    bench.arrive(1, &packet(70, 1));
    bench.driver.wait_nothing(2);
    assert_eq!(bench.command(4, [4, 0], &2u16.to_le_bytes()), 0);
    assert_eq!(bench.driver.wait_used(2).1 as usize, HEADER_BYTES + 70);
    bench.send(3, &[&[0; HEADER_BYTES], &packet(60, 1)]);
    assert_eq!(bench.sent(1)[HEADER_BYTES..], packet(60, 1));
    // A reset goes back to one.
    bench.driver.bring_up();
    assert_eq!(bench.host.active.load(Ordering::SeqCst), 1);
}

#[test]
fn a_link_that_goes_away_under_traffic_goes_down() {
    let mut bench = Bench::bound(1);
    bench.room(0, &[256; 8]);
    bench.far.clear();
    wait_for("the loss of the link", || (!bench.link_up()).then_some(()));
    assert_eq!(bench.driver.statistic("lost"), 1);
    bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 1)]);
    assert_eq!(bench.driver.status(), 0x0f);
}

#[test]
fn links_come_and_go_while_packets_fly() {
    let mut bench = Bench::bound(1);
    bench.room(0, &[2048; 64]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let outcomes = Mutex::new((0u32, 0u32));
    std::thread::scope(|scope| {
        let (nic, host, stop) = (&bench.nic, &bench.host, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                nic.unbind();
                nic.bind_host(host.clone(), BindOptions::default()).unwrap();
            }
        });
        let far = &bench.far;
        scope.spawn(move || {
            let mut bytes = [0; 4096];
            while !stop.load(Ordering::SeqCst) {
                let _ = nix::unistd::write(&far[0], &[0; HEADER_BYTES + 60]);
                while nix::unistd::read(&far[0], &mut bytes).is_ok() {}
            }
        });
        for _ in 0..500 {
            bench.driver.request(1, &[&[0; HEADER_BYTES], &packet(60, 1)], 0);
            outcomes.lock().unwrap().0 += 1;
            while bench.driver.take_used(0).is_some() {
                let buffer = bench.driver.space(2048);
                bench.driver.offer(0, &[buffer]);
                outcomes.lock().unwrap().1 += 1;
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(outcomes.lock().unwrap().0, 500);
    assert_eq!(bench.driver.status(), 0x0f);
}

#[test]
fn random_chains_never_end_the_device() {
    let mut random = Random::new();
    let mut bench = Bench::bound(2);
    for round in 0..400 {
        let queue = random.below(5) as usize;
        let mut buffers = Vec::new();
        for _ in 0..1 + random.below(3) {
            let length = [0, 1, 11, 12, 26, 100, 2000, 70_000][random.below(8) as usize];
            let mut buffer = bench.driver.space(length);
            buffer.writable = random.below(2) == 0;
            if random.below(16) == 0 {
                buffer.address = random.next();
            }
            buffers.push(buffer);
        }
        bench.driver.offer(queue, &buffers);
        bench.driver.notify(queue);
        let _ = nix::unistd::write(&bench.far[round % 2], &[0x5a; HEADER_BYTES + 300]);
        if random.below(8) == 0 || bench.driver.queues.len() < 5 {
            bench.driver.bring_up();
        }
        while nix::unistd::read(&bench.far[0], &mut [0; 16]).is_ok() {}
        while nix::unistd::read(&bench.far[1], &mut [0; 16]).is_ok() {}
        (0..5).for_each(|queue| while bench.driver.take_used(queue).is_some() {});
    }
    bench.driver.bring_up();
    while nix::unistd::read(&bench.far[0], &mut [0; 16]).is_ok() {}
    bench.send(1, &[&[0; HEADER_BYTES], &packet(60, 77)]);
    assert_eq!(bench.sent(0)[HEADER_BYTES..], packet(60, 77));
}

/// A tap in a network namespace of this thread's own; `None` where that is not allowed.
fn namespace_with_tap(name: &str, multi_queue: bool) -> Option<()> {
    if !nix::unistd::geteuid().is_root() || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
        eprintln!("not run: needs root");
        return None;
    }
    let mut add = vec!["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"];
    add.extend(multi_queue.then_some("multi_queue"));
    for arguments in [&add[..], &["link", "set", "dev", name, "up"]] {
        let status = std::process::Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }
    Some(())
}

#[test]
fn a_real_tap_is_attached_used_and_lost() {
    let Some(()) = namespace_with_tap("t0", false) else { return };
    let tun = TunDevice::open().unwrap();
    assert!(matches!(tun.attach("nobody", 1), Err(NetError::NoTap { .. })));
    assert!(matches!(tun.attach("a/b", 1), Err(NetError::TapName { .. })));
    assert!(matches!(tun.attach("", 1), Err(NetError::TapName { .. })));
    assert!(matches!(tun.attach("sixteen-letters-", 1), Err(NetError::TapName { .. })));
    assert!(matches!(tun.attach("t0", 2), Err(NetError::Attach { .. })), "not a multi-queue tap");
    let mut bench = Bench::unbound(1);
    for _ in 0..3 {
        bench.nic.bind(tun.attach("t0", 1).unwrap(), BindOptions::default()).unwrap();
        assert!(matches!(tun.attach("t0", 1), Err(NetError::Attach { .. })), "in use");
        assert!(bench.nic.unbind());
    }
    bench.nic.bind(tun.attach("t0", 1).unwrap(), BindOptions::default()).unwrap();
    // The kernel announces its own IPv6 address on an interface that comes up; this packet is the guest's.
    let mut sent = packet(60, 0);
    sent[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x70, 0x62, 0, 0, 3, 0x88, 0xb5]);
    let before = received("t0");
    bench.send(1, &[&[0; HEADER_BYTES], &sent]);
    assert!(received("t0") > before);
    let status = std::process::Command::new("ip").args(["link", "del", "dev", "t0"]).status().unwrap();
    assert!(status.success());
    wait_for("the loss of the link", || (!bench.link_up()).then_some(()));
    assert_eq!(bench.driver.statistic("lost"), 1);
}

#[test]
fn a_real_tap_with_several_queues_follows_the_driver() {
    let Some(()) = namespace_with_tap("t1", true) else { return };
    let tun = TunDevice::open().unwrap();
    let mut bench = Bench::unbound(2);
    bench.nic.bind(tun.attach("t1", 2).unwrap(), BindOptions::default()).unwrap();
    for pairs in [2u16, 1, 2] {
        assert_eq!(bench.command(4, [4, 0], &pairs.to_le_bytes()), 0);
        let shown = std::process::Command::new("ip").args(["-d", "link", "show", "dev", "t1"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(&format!("numqueues {pairs} numdisabled {}", 2 - pairs)), "{shown}");
    }
    assert_eq!(bench.driver.statistic("lost"), 0);
    assert!(bench.link_up());
}

/// Packets that the kernel received from interface `name` of this thread's namespace.
fn received(name: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
