//! Network cards: several pairs of queues, packets of other sizes, cables that are pulled.

use paperboat_e2e::net::{HOST_V4, WEB_PORT};

use crate::guest::{Guest, counter};

#[test]
fn each_cpu_has_its_queues_of_a_network_card() {
    const PAIRS: u32 = 2;
    let mut guest = Guest::with_queues(PAIRS);
    assert_eq!(guest.run("ls -1 /sys/class/net/eth0/queues"), "rx-0\nrx-1\ntx-0\ntx-1");
    guest.run("ip link set eth0 up && ip address add 10.88.0.9/24 dev eth0");
    // Both at once, each from its CPU; what comes back takes the queue that its connection went out by.
    let page = guest.page.clone();
    guest.run(&format!(
        "for cpu in 1 2; do \
            (for round in 1 2 3; do taskset $cpu wget -q -O - http://{HOST_V4}:{WEB_PORT}/ | sha256sum | cut -c1-64; done > /tmp/sums$cpu) & \
         done; wait"
    ));
    assert_eq!(guest.run("sort -u /tmp/sums1 /tmp/sums2"), page);
    assert_eq!(guest.run("cat /tmp/sums1 /tmp/sums2 | wc -l"), "6");
    // The interrupts of each queue have a line of their own.
    for queue in 0..PAIRS {
        let told = guest.run(&format!("awk '/virtio[0-9]+-input.{queue}$/ {{ print $2 + $3 }}' /proc/interrupts"));
        assert!(told.parse::<u64>().unwrap() > 0, "queue {queue}: {told}");
    }
    let ended = guest.power_off();
    assert_eq!(counter(&ended, "net0.pairs_used"), u64::from(PAIRS), "{}", ended.messages);
    assert_eq!(counter(&ended, "net0.broken"), 0, "{}", ended.messages);
}

#[test]
fn large_packets_cross_in_one_piece_and_a_link_without_a_tap_is_down() {
    let mut guest = Guest::own("", &[]);
    guest.net.inside("ip link set sw0 mtu 9000; ip link set tap0 mtu 9000").unwrap();
    guest.run("ip link set eth0 up && ip address add 10.88.0.9/24 dev eth0");
    let mut packets = |mtu: u32| {
        guest.run(&format!("ip link set eth0 mtu {mtu}; ping -c 1 -w 200 {HOST_V4}"));
        let sent = |guest: &mut Guest| guest.run("cat /sys/class/net/eth0/statistics/tx_packets").parse::<u64>().unwrap();
        let before = sent(&mut guest);
        guest.run(&format!("ping -c 5 -s 8000 -w 200 {HOST_V4}"));
        sent(&mut guest) - before
    };
    let (whole, pieces) = (packets(9000), packets(1400));
    // Five or a few more that were repeated, against six pieces of each.
    assert!(whole < 20 && pieces >= 30, "{whole} packets, {pieces} pieces");

    assert_eq!(guest.run("cat /sys/class/net/eth0/carrier"), "1");
    guest.net.inside("ip link del tap0").unwrap();
    guest.run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done");
    let ended = guest.power_off();
    assert_eq!((counter(&ended, "net0.link_up"), counter(&ended, "net0.lost")), (0, 1), "{}", ended.messages);
    assert_eq!(counter(&ended, "net0.broken"), 0, "{}", ended.messages);
}
