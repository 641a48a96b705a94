//! The packet header of the socket device (virtio 1.2 §5.10.6).

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;

/// The host's well-known context id (§5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const TYPE_STREAM: u16 = 1;

/// Most payload one packet may carry. Linux stays at or below it in both directions.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// "Will not receive any more" in the flags of [`Operation::Shutdown`].
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// "Will not send any more" in the flags of [`Operation::Shutdown`].
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both of them.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for (§5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A connection's two ports: of the host's end and of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// A header, in the order of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) socket_type: u16,
    /// `None`: one that the specification does not define.
    pub(super) operation: Option<Operation>,
    pub(super) flags: u32,
    pub(super) buffer_bytes: u32,
    pub(super) forwarded: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source_port: u32_at(16),
            destination_port: u32_at(20),
            length: u32_at(24),
            socket_type: u16_at(28),
            operation: Operation::from_raw(u16_at(30)),
            flags: u32_at(32),
            buffer_bytes: u32_at(36),
            forwarded: u32_at(40),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.source_cid.to_le_bytes());
        put(8, &self.destination_cid.to_le_bytes());
        put(16, &self.source_port.to_le_bytes());
        put(20, &self.destination_port.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &self.socket_type.to_le_bytes());
        put(30, &self.operation.map_or(0, |operation| operation as u16).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer_bytes.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }

    /// The connection a packet from the guest belongs to.
    pub(super) fn ports(&self) -> Ports {
        Ports { host: self.destination_port, guest: self.source_port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header {
            source_cid: 3,
            destination_cid: HOST_CID,
            source_port: 0x1234_5678,
            destination_port: 1024,
            length: 65536,
            socket_type: TYPE_STREAM,
            operation: Some(Operation::Data),
            flags: 3,
            buffer_bytes: 0x8000_0001,
            forwarded: u32::MAX,
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes), header);
        assert_eq!(&bytes[24..32], &[0, 0, 1, 0, 1, 0, 5, 0], "length, type, operation are little-endian at 24");
    }

    #[test]
    fn operations_that_do_not_exist_are_none() {
        let mut bytes = [0; HEADER_BYTES];
        for raw in [0u16, 8, 0xffff] {
            bytes[30..32].copy_from_slice(&raw.to_le_bytes());
            assert_eq!(Header::parse(&bytes).operation, None);
        }
    }
}
