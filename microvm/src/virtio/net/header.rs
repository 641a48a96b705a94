//! The header before each packet (virtio 1.2 §5.1.6), and what a guest may put there.

use super::{F_CSUM, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6};

/// Bytes of `struct virtio_net_hdr` with num_buffers, which VERSION_1 always has.
pub(super) const HEADER_BYTES: usize = 12;
/// Bytes of an Ethernet header without a VLAN tag.
pub(super) const ETHERNET_BYTES: usize = 14;
/// Bytes that VLAN tags may add: two of them.
const TAGS_BYTES: usize = 8;
/// Most bytes of a packet with its header: the largest IP packet.
pub(super) const FRAME_BYTES_MAX: usize = HEADER_BYTES + ETHERNET_BYTES + TAGS_BYTES + 65535;

/// Where num_buffers is.
pub(super) const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Why a packet from the guest is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Shorter than its headers, or longer than any packet.
    Length,
    /// Longer than the link's MTU allows, and not to be segmented.
    Mtu,
    /// Flags or a kind of segmentation that were not negotiated, or that do not exist.
    Kind,
    /// Checksum or header positions outside the packet, segments without a size.
    Position,
}

/// What the driver negotiated about the packets it sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    features: u64,
}

impl Rules {
    pub(super) fn new(features: u64) -> Self {
        Self { features }
    }

    /// Checks `frame`, a packet behind its header, for a link that carries `mtu` bytes behind the Ethernet header.
    pub(super) fn check(self, frame: &[u8], mtu: u32) -> Result<(), Refusal> {
        let Some((header, packet)) = frame.split_first_chunk::<HEADER_BYTES>() else { return Err(Refusal::Length) };
        if packet.len() < ETHERNET_BYTES || frame.len() > FRAME_BYTES_MAX {
            return Err(Refusal::Length);
        }
        let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (flags, gso_type) = (header[0], header[1]);
        let (header_length, gso_size, csum_start, csum_offset) = (word(2), word(4), word(6), word(8));
        let needs_csum = flags & FLAG_NEEDS_CSUM != 0;
        if flags & !FLAG_NEEDS_CSUM != 0 || needs_csum && !self.has(F_CSUM) {
            return Err(Refusal::Kind);
        }
        if needs_csum && csum_start + csum_offset + 2 > packet.len() {
            return Err(Refusal::Position);
        }
        let segmented = match gso_type & !GSO_ECN {
            GSO_NONE if gso_type == GSO_NONE => false,
            GSO_TCPV4 if self.has(F_HOST_TSO4) => true,
            GSO_TCPV6 if self.has(F_HOST_TSO6) => true,
            _ => return Err(Refusal::Kind),
        };
        if gso_type & GSO_ECN != 0 && !self.has(F_HOST_ECN) {
            return Err(Refusal::Kind);
        }
        if segmented && (gso_size == 0 || !needs_csum || header_length > packet.len()) {
            return Err(Refusal::Position);
        }
        if !segmented && packet.len() > ETHERNET_BYTES + TAGS_BYTES + mtu as usize {
            return Err(Refusal::Mtu);
        }
        Ok(())
    }

    fn has(self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testkit::Random;
    use super::*;

    const ALL: Rules = Rules { features: F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN };
    const NONE: Rules = Rules { features: 0 };

    /// A packet of `length` bytes behind a header of these fields: flags, kind, header length, segment size, checksum start and offset.
    fn frame(flags: u8, kind: u8, words: [u16; 4], length: usize) -> Vec<u8> {
        let mut frame = vec![flags, kind];
        frame.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        frame.extend([0, 0]);
        frame.resize(HEADER_BYTES + length, 0x55);
        frame
    }

    #[test]
    fn what_was_negotiated_passes() {
        assert_eq!(NONE.check(&frame(0, 0, [0; 4], 60), 1500), Ok(()));
        assert_eq!(ALL.check(&frame(1, 0, [0, 0, 34, 16], 1514), 1500), Ok(()));
        assert_eq!(ALL.check(&frame(1, 1, [54, 1448, 34, 16], 65000), 1500), Ok(()));
        assert_eq!(ALL.check(&frame(1, 0x84, [74, 1428, 54, 16], 65000), 1500), Ok(()));
        assert_eq!(ALL.check(&frame(0, 0, [0; 4], 1522), 1500), Ok(()), "two VLAN tags");
    }

    #[test]
    fn what_was_not_negotiated_does_not() {
        assert_eq!(NONE.check(&frame(1, 0, [0, 0, 34, 16], 60), 1500), Err(Refusal::Kind));
        assert_eq!(NONE.check(&frame(1, 1, [54, 1448, 34, 16], 3000), 1500), Err(Refusal::Kind));
        let without_ecn = Rules { features: ALL.features & !F_HOST_ECN };
        assert_eq!(without_ecn.check(&frame(1, 0x81, [54, 1448, 34, 16], 3000), 1500), Err(Refusal::Kind));
        for kind in [2, 3, 5, 0x7f, 0x80, 0xff] {
            assert_eq!(ALL.check(&frame(1, kind, [54, 1448, 34, 16], 3000), 1500), Err(Refusal::Kind), "{kind:#x}");
        }
        assert_eq!(ALL.check(&frame(2, 0, [0; 4], 60), 1500), Err(Refusal::Kind));
    }

    #[test]
    fn lengths_and_positions_are_checked() {
        assert_eq!(ALL.check(&[], 1500), Err(Refusal::Length));
        assert_eq!(ALL.check(&frame(0, 0, [0; 4], 13), 1500), Err(Refusal::Length));
        assert_eq!(ALL.check(&frame(0, 0, [0; 4], 65558), 65535), Err(Refusal::Length));
        assert_eq!(ALL.check(&frame(0, 0, [0; 4], 1523), 1500), Err(Refusal::Mtu));
        assert_eq!(ALL.check(&frame(1, 0, [0, 0, 59, 0], 60), 1500), Err(Refusal::Position));
        assert_eq!(ALL.check(&frame(1, 0, [0, 0, u16::MAX, u16::MAX], 60), 1500), Err(Refusal::Position));
        assert_eq!(ALL.check(&frame(1, 1, [54, 0, 34, 16], 3000), 1500), Err(Refusal::Position));
        assert_eq!(ALL.check(&frame(1, 1, [3001, 1448, 34, 16], 3000), 1500), Err(Refusal::Position));
        assert_eq!(ALL.check(&frame(0, 1, [54, 1448, 34, 16], 3000), 1500), Err(Refusal::Position));
    }

    #[test]
    fn random_headers_are_judged_without_harm() {
        let mut random = Random::new();
        for _ in 0..20_000 {
            let length = random.below(128) as usize;
            let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            let rules = Rules { features: random.next() };
            if rules.check(&bytes, random.below(1 << 17) as u32).is_ok() {
                assert!(length >= HEADER_BYTES + ETHERNET_BYTES);
            }
        }
    }
}
