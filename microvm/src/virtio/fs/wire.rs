//! A FUSE request as it lies in a chain, and its answer.
//!
//! Parsing is where a hostile guest is stopped: every length is checked against what is there and against a named limit, and a name is one
//! component of a path or an error. The file system behind trusts both.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};

use libc::{EINVAL, ENAMETOOLONG};
use paperboat_hypervisor::CodePages;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{Context, ZeroCopyReader, ZeroCopyWriter};
use virtiofsd::fuse::{InHeader, OutHeader};
use virtiofsd::oslib::{ReadvFlags, WritevFlags};
use vm_memory::{Address, ByteValued, Bytes};

use crate::virtio::queue::{Chain, ChainFault, Ram};

/// Bytes of the header before a request.
pub(super) const IN_HEADER_BYTES: usize = size_of::<InHeader>();
/// Bytes of the header before an answer.
pub(super) const OUT_HEADER_BYTES: usize = size_of::<OutHeader>();

/// Longest name of one path component (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;
/// Longest symlink target with its NUL (PATH_MAX).
const MAX_TARGET_BYTES: usize = 4096;
/// Longest extended attribute value (XATTR_SIZE_MAX); its name is a component's length at most.
pub(super) const MAX_XATTR_BYTES: usize = 64 << 10;

/// Most bytes of names and values that follow the fixed part of any request.
const MAX_TRAILER_BYTES: usize = MAX_XATTR_BYTES + MAX_TARGET_BYTES;

pub(super) fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The operation number of the request in a chain, if its header is in one piece.
pub(super) fn operation(memory: &Ram, chain: Chain<'_>) -> Option<u32> {
    let first = chain.readable().next().filter(|first| first.len() as usize >= IN_HEADER_BYTES)?;
    memory.read_obj(first.addr().checked_add(4)?).ok().map(u32::from_le)
}

/// A request: its header, and the part of its chain that follows.
pub(super) struct Request<'a> {
    pub(super) header: InHeader,
    reader: Reader<'a, CodePages>,
    /// Bytes of the body not read yet.
    left: usize,
}

impl<'a> Request<'a> {
    pub(super) fn new(memory: &'a Ram, chain: Chain<'a>) -> Result<Self, ChainFault> {
        let mut reader = Reader::new(memory, chain).map_err(|_| ChainFault::Buffers)?;
        let present = reader.available_bytes();
        let header: InHeader = reader.read_obj().map_err(|_| ChainFault::Short)?;
        // A length beyond the buffers is a lie; one below them leaves the rest unread.
        let left = (header.len as usize).min(present).checked_sub(IN_HEADER_BYTES).ok_or(ChainFault::Short)?;
        Ok(Self { header, reader, left })
    }

    pub(super) fn context(&self) -> Context {
        Context::from(self.header)
    }

    pub(super) fn inode(&self) -> u64 {
        self.header.nodeid
    }

    /// The next fixed structure.
    pub(super) fn object<T: ByteValued>(&mut self) -> io::Result<T> {
        self.left = self.left.checked_sub(size_of::<T>()).ok_or_else(|| error(EINVAL))?;
        self.reader.read_obj()
    }

    /// Everything that follows: names and values.
    pub(super) fn trailer(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_TRAILER_BYTES {
            return Err(error(ENAMETOOLONG));
        }
        let mut bytes = vec![0; self.left];
        self.reader.read_exact(&mut bytes)?;
        self.left = 0;
        Ok(bytes)
    }

    /// How many bytes of data follow.
    pub(super) fn data_bytes(&self) -> usize {
        self.left
    }

    /// The data that follows, to be written to a file without a copy.
    pub(super) fn into_data(self) -> Data<'a> {
        Data(self.reader)
    }
}

/// Splits a trailer after its first NUL: the string with it, and what follows.
pub(super) fn split_string(bytes: &[u8]) -> io::Result<(&CStr, &[u8])> {
    let string = CStr::from_bytes_until_nul(bytes).map_err(|_| error(EINVAL))?;
    Ok((string, &bytes[string.to_bytes_with_nul().len()..]))
}

/// One component of a path. Anything else could lead out of its directory.
pub(super) fn component(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        bytes if bytes.len() > MAX_NAME_BYTES => Err(error(ENAMETOOLONG)),
        b"" | b"." | b".." => Err(error(EINVAL)),
        bytes if bytes.contains(&b'/') => Err(error(EINVAL)),
        _ => Ok(name),
    }
}

/// Takes one component off a trailer.
pub(super) fn split_component(bytes: &[u8]) -> io::Result<(&CStr, &[u8])> {
    let (name, rest) = split_string(bytes)?;
    Ok((component(name)?, rest))
}

/// A symlink's target: any string, of the length that a path may have.
pub(super) fn target(bytes: &[u8]) -> io::Result<&CStr> {
    let (target, _) = split_string(bytes)?;
    if target.to_bytes_with_nul().len() > MAX_TARGET_BYTES { Err(error(ENAMETOOLONG)) } else { Ok(target) }
}

/// Where the answer goes.
pub(super) struct Answer<'a> {
    unique: u64,
    head: Writer<'a, CodePages>,
    body: Writer<'a, CodePages>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(memory: &'a Ram, chain: Chain<'a>, unique: u64) -> Result<Self, ChainFault> {
        let mut head = Writer::new(memory, chain).map_err(|_| ChainFault::Buffers)?;
        let body = head.split_at(OUT_HEADER_BYTES).map_err(|_| ChainFault::NoRoom)?;
        Ok(Self { unique, head, body })
    }

    /// Bytes of payload that fit.
    pub(super) fn room(&self) -> usize {
        self.body.available_bytes()
    }

    /// The payload's place, to be filled from a file without a copy.
    pub(super) fn payload(&mut self, only_cached: bool) -> Payload<'_, 'a> {
        Payload { writer: &mut self.body, only_cached }
    }

    /// Writes payload from memory.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body.write_all(bytes)
    }

    /// Writes the header for what happened; answers how many bytes the chain now holds.
    pub(super) fn finish(mut self, result: io::Result<()>) -> Result<u32, ChainFault> {
        let (number, payload) = match result {
            Ok(()) => (0, self.body.bytes_written()),
            // What a failed request had written already does not count.
            Err(failure) => (-failure.raw_os_error().unwrap_or(libc::EIO), 0),
        };
        let length = u32::try_from(OUT_HEADER_BYTES + payload).map_err(|_| ChainFault::NoRoom)?;
        let header = OutHeader { len: length, error: number, unique: self.unique };
        self.head.write_all(header.as_slice()).map_err(|_| ChainFault::NoRoom)?;
        Ok(length)
    }
}

/// Data of a write request.
pub(super) struct Data<'a>(Reader<'a, CodePages>);

impl ZeroCopyReader for Data<'_> {
    fn write_to_file_at(&mut self, file: &File, count: usize, offset: u64, flags: Option<WritevFlags>) -> io::Result<usize> {
        let end = checked_end(offset, count)?;
        let mut at = offset;
        while at < end {
            match self.0.write_to_file_at(file, (end - at) as usize, at, flags) {
                Ok(0) => break,
                Ok(written) => at += written as u64,
                // What is written is written: a later error shows at the next request.
                Err(failure) if at == offset => return Err(failure),
                Err(_) => break,
            }
        }
        Ok((at - offset) as usize)
    }
}

/// Room for the data of a read request.
pub(super) struct Payload<'p, 'a> {
    writer: &'p mut Writer<'a, CodePages>,
    /// Fail with EAGAIN instead of waiting for data that is not in memory.
    only_cached: bool,
}

impl ZeroCopyWriter for Payload<'_, '_> {
    fn read_from_file_at(&mut self, file: &File, count: usize, offset: u64, flags: Option<ReadvFlags>) -> io::Result<usize> {
        let end = checked_end(offset, count)?;
        let flags = if self.only_cached { Some(ReadvFlags::RWF_NOWAIT) } else { flags };
        let mut at = offset;
        while at < end {
            // A short answer means the end of the file to the guest, so that an error in the middle fails the whole read.
            match self.writer.read_from_file_at(file, (end - at) as usize, at, flags)? {
                0 => break,
                read => at += read as u64,
            }
        }
        Ok((at - offset) as usize)
    }
}

/// The end of a transfer, which has to be a file offset: the layer below takes nothing else.
fn checked_end(offset: u64, count: usize) -> io::Result<u64> {
    offset.checked_add(count as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| error(EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"../etc\0"] {
            assert_eq!(split_component(bad).unwrap_err().raw_os_error(), Some(EINVAL), "{bad:?}");
        }
        assert!(split_component(b"no end").is_err());
        assert_eq!(split_component(b"...\0rest\0").unwrap(), (c"...", &b"rest\0"[..]));
        let long = [vec![b'a'; 256], vec![0]].concat();
        assert_eq!(split_component(&long).unwrap_err().raw_os_error(), Some(ENAMETOOLONG));
        assert!(split_component(&long[1..]).is_ok());
    }

    #[test]
    fn targets_may_be_anything_of_a_paths_length() {
        assert_eq!(target(b"../../etc/passwd\0").unwrap(), c"../../etc/passwd");
        assert!(target(&[vec![b'a'; 4096], vec![0]].concat()).is_err());
    }

    #[test]
    fn transfers_end_within_file_offsets() {
        assert!(checked_end(u64::MAX, 1).is_err());
        assert!(checked_end(i64::MAX as u64, 1).is_err());
        assert_eq!(checked_end(5, 5).unwrap(), 10);
    }
}
