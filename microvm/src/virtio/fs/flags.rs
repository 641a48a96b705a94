//! Open flags, from the guest's numbers to the host's.
//!
//! FUSE carries open(2) flags as the guest's architecture numbers them, and powerpc swaps four of them around: what it
//! calls O_LARGEFILE is O_DIRECTORY on x86, what it calls O_NOFOLLOW is O_LARGEFILE. So they are translated before anything
//! looks at them. A flag that is not in the table is dropped: O_CREAT, O_NOCTTY and O_CLOEXEC have done their work in
//! the guest, O_PATH and O_TMPFILE have requests of their own, and bit 0o40 is the guest kernel's FMODE_EXEC.

/// The access mode: the same two bits everywhere.
const ACCESS_MODE: u32 = 0o3;

/// Guest flag (arch/powerpc/include/uapi/asm/fcntl.h, asm-generic/fcntl.h), host flag.
const TABLE: [(u32, i32); 11] = [
    (0o200, libc::O_EXCL),
    (0o1000, libc::O_TRUNC),
    (0o2000, libc::O_APPEND),
    (0o4000, libc::O_NONBLOCK),
    (0o10000, libc::O_DSYNC),
    (0o40000, libc::O_DIRECTORY),
    (0o100000, libc::O_NOFOLLOW),
    (0o400000, libc::O_DIRECT),
    (0o1000000, libc::O_NOATIME),
    // O_SYNC is this bit and O_DSYNC's, on every architecture here.
    (0o4000000, libc::O_SYNC & !libc::O_DSYNC),
    // O_LARGEFILE says nothing on a 64-bit host.
    (0o200000, 0),
];

/// The host's open flags for a powerpc guest's.
#[must_use]
pub fn to_host(guest: u32) -> u32 {
    let translated = TABLE.iter().filter(|(bit, _)| guest & bit != 0).fold(0, |flags, (_, host)| flags | *host);
    translated.cast_unsigned() | guest & ACCESS_MODE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_open_of_a_powerpc_guest_carries_disappears() {
        assert_eq!(to_host(0o200000), 0, "O_LARGEFILE");
        assert_eq!(to_host(0o200000 | 0o40), 0, "O_LARGEFILE | FMODE_EXEC");
        assert_eq!(to_host(0o2), libc::O_RDWR as u32);
    }

    #[test]
    fn the_four_that_differ() {
        assert_eq!(to_host(0o40000), libc::O_DIRECTORY as u32);
        assert_eq!(to_host(0o100000), libc::O_NOFOLLOW as u32);
        assert_eq!(to_host(0o400000), libc::O_DIRECT as u32);
        assert_eq!(to_host(0o4010000), libc::O_SYNC as u32);
    }

    #[test]
    fn flags_with_power_over_the_server_do_not_pass() {
        assert_eq!(to_host(0o100), 0, "O_CREAT");
        assert_eq!(to_host(0o10000000), 0, "O_PATH");
        assert_eq!(to_host(0o20040000), libc::O_DIRECTORY as u32, "O_TMPFILE without its directory bit");
        assert_eq!(to_host(0o20000), 0, "O_ASYNC");
        assert_eq!(to_host(0o2000000), 0, "O_CLOEXEC");
    }
}
