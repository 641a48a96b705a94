//! The debug console: a program in the guest outside of its containers, over one vsock connection to [`DEBUG_PORT`].
//!
//! Both sides send frames: a kind, the length of what follows as four bytes (big-endian), and that. The host begins with a request; the
//! guest ends with an exit status or a refusal. Closing the connection ends the program.

/// Guest vsock port. The agent listens there only if its kernel's command line has [`DEBUG_PARAMETER`].
pub const DEBUG_PORT: u32 = 1027;

/// Word of the guest kernel's command line that opens the console. The kernel takes a word with a dot for a module's and leaves it alone.
pub const DEBUG_PARAMETER: &str = "paperboat.debug_console";

/// Where the host puts a static program with many names (busybox), relative to the share.
pub const DEBUG_TOOLS: &str = "debug/tools";

/// Longest content of a frame, in bytes.
pub const FRAME_MAX: usize = 32 << 10;

/// Bytes before a frame's content.
pub const HEADER_BYTES: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A `DebugRequest`; host to guest, first.
    Request = 0,
    /// Standard input to the guest, output to the host. Empty input is its end.
    Data = 1,
    /// Standard error; guest to host.
    ErrorData = 2,
    /// The terminal's columns and rows, two bytes each (big-endian); host to guest.
    Resize = 3,
    /// Four bytes (big-endian) of exit status as a shell tells it; guest to host, last.
    Exit = 4,
    /// Text for a person; guest to host, last.
    Refused = 5,
}

/// A frame's bytes. Content beyond [`FRAME_MAX`] does not fit into one frame and is cut.
pub fn frame(kind: FrameKind, content: &[u8]) -> Vec<u8> {
    let content = &content[..content.len().min(FRAME_MAX)];
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.push(kind as u8);
    bytes.extend((content.len() as u32).to_be_bytes());
    bytes.extend(content);
    bytes
}

/// Kind and length of the frame that begins with `header`; `None` if it cannot be one.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Option<(FrameKind, usize)> {
    use FrameKind::{Data, ErrorData, Exit, Refused, Request, Resize};
    let [kind, length @ ..] = header;
    let kind = [Request, Data, ErrorData, Resize, Exit, Refused].into_iter().find(|known| *known as u8 == kind)?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= FRAME_MAX)?;
    Some((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let bytes = frame(FrameKind::Data, b"hello");
        let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
        assert_eq!(parse_header(header), Some((FrameKind::Data, 5)));
        assert_eq!(&bytes[HEADER_BYTES..], b"hello");
        assert_eq!(frame(FrameKind::Data, &[0; FRAME_MAX + 1]).len(), HEADER_BYTES + FRAME_MAX);
    }

    #[test]
    fn strange_headers_are_none() {
        assert_eq!(parse_header([9, 0, 0, 0, 0]), None);
        assert_eq!(parse_header([1, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(parse_header([1, 0, 0, 0x80, 1]), None);
    }
}
