//! ttrpc definitions shared by shim, machine and agent (the `.proto` files are the reference), and the constants of the
//! vsock handshake around them.

pub mod debug;
pub mod forward;
pub mod resolver;

mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub use generated::{agent, agent_ttrpc, machine, machine_ttrpc};

/// Version of both protocols; `Hello` compares it. Raised with every incompatible change.
pub const PROTOCOL_VERSION: u32 = 1;

/// Guest vsock port of the agent's ttrpc service.
pub const AGENT_PORT: u32 = 1024;

/// Guest vsock port for standard streams: a connection opens with a stream token and a newline.
pub const STREAM_PORT: u32 = 1025;

/// Host vsock port (context id 2) to which the agent connects when its services listen; it sends
/// [`READY_MESSAGE`] and closes.
pub const READY_PORT: u32 = 1026;

/// What the agent sends on [`READY_PORT`].
pub const READY_MESSAGE: &[u8] = b"paperboat-agent ready\n";

/// Longest stream token in bytes, newline excluded.
pub const STREAM_TOKEN_MAX: usize = 128;

/// virtio-fs tag of the pod's shared directory.
pub const SHARE_TAG: &str = "paperboat";

/// Where the agent mounts the shared directory in the guest.
pub const SHARE_MOUNT: &str = "/run/paperboat/share";

/// Where the agent mounts the pod's memory volumes in the guest, each below its name.
pub const MEMORY_MOUNT: &str = "/run/paperboat/memory";

/// Where the guest has the program that stands in for an engine's own init (`docker run --init`).
pub const INIT_PROGRAM: &str = "/run/paperboat/init";

/// Hardware address with which the guest's network slot number `slot` is born.
pub const fn slot_mac(slot: u8) -> [u8; 6] {
    [0x02, 0x70, 0x62, 0, 0, slot]
}
