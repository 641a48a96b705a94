//! Files, network, vsock and memory at once, and much of each.

use std::io::Read;
use std::sync::mpsc;
use std::thread;

use paperboat_e2e::net::{HOST_V4, WEB_PORT};
use paperboat_e2e::vmm::{Ended, optional};
use sha2::{Digest, Sha256};

use crate::guest::{Guest, PATIENCE, counter, sha256};
use crate::streams::many;

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
