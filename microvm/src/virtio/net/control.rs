//! The control queue (virtio 1.2 §5.1.6.5): commands of a few bytes, each answered with one.

use std::io::{Read, Write};
use std::sync::Arc;

use super::super::queue::{Chain, ChainFault, Counters, Ram};
use super::super::worker::{Served, Service};
use super::link::Nic;
use super::{F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_MQ, offload};

const OK: u8 = 0;
const ERR: u8 = 1;

/// Class and command of what is understood.
const MAC_ADDR_SET: [u8; 2] = [1, 1];
const MQ_VQ_PAIRS_SET: [u8; 2] = [4, 0];
const GUEST_OFFLOADS_SET: [u8; 2] = [5, 0];

/// Most bytes of a command's data that are looked at; what is understood has 8.
const DATA_BYTES_MAX: usize = 16;

/// The service of a control queue.
pub(super) struct Control {
    nic: Arc<Nic>,
    features: u64,
    counters: Arc<Counters>,
}

impl Control {
    pub(super) fn new(nic: Arc<Nic>, features: u64, counters: Arc<Counters>) -> Self {
        Self { nic, features, counters }
    }

    fn execute(&self, command: [u8; 2], data: &[u8]) -> bool {
        match command {
            MAC_ADDR_SET if self.has(F_CTRL_MAC_ADDR) => data.try_into().is_ok_and(|mac| self.nic.set_mac(mac)),
            MQ_VQ_PAIRS_SET if self.has(F_MQ) => {
                let pairs = data.try_into().map(u16::from_le_bytes).unwrap_or(0);
                (1..=self.nic.queue_pairs()).contains(&pairs) && self.nic.set_active_pairs(pairs).is_ok()
            }
            GUEST_OFFLOADS_SET if self.has(F_CTRL_GUEST_OFFLOADS) => {
                let Ok(wanted) = data.try_into().map(u64::from_le_bytes) else { return false };
                let negotiated = self.features & (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN);
                wanted & !negotiated == 0 && self.nic.set_offload(offload(wanted)).is_ok()
            }
            _ => false,
        }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

impl Service for Control {
    fn serve<'a>(&self, memory: &'a Ram, chain: Chain<'a>, _direct: bool) -> Result<Served, ChainFault> {
        let mut writer = chain.clone().writer(memory).map_err(|_| ChainFault::Buffers)?;
        let mut reader = chain.reader(memory).map_err(|_| ChainFault::Buffers)?;
        let mut command = [0; 2];
        reader.read_exact(&mut command).map_err(|_| ChainFault::Short)?;
        let mut data = [0; DATA_BYTES_MAX];
        let length = reader.available_bytes();
        // More data than any command has is none of those that are understood.
        let data = data.get_mut(..length).unwrap_or_default();
        reader.read_exact(data).map_err(|_| ChainFault::Buffers)?;
        let done = self.execute(command, data);
        if !done {
            log::debug!("network command {command:?} with {length} bytes refused");
            Counters::count(&self.counters.errors);
        }
        writer.write_all(&[if done { OK } else { ERR }]).map_err(|_| ChainFault::NoRoom)?;
        Ok(Served::Now(1))
    }

    fn enter(&self) -> bool {
        true
    }
}
