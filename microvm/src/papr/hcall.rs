//! The hypercalls that no backend serves, one row each.
//!
//! The other half of LoPAR chapter 14, the hashed page table, H_CEDE and their like, is the backend's (see
//! `paperboat_hypervisor`).

use paperboat_hypervisor::{BackendError, HypercallReply, InterruptMode};
use vm_memory::{Bytes, GuestAddress};

use super::status::{H_BUSY, H_FUNCTION, H_HARDWARE, H_P2, H_P3, H_P4, H_PARAMETER, H_SUCCESS, H_UNSUPPORTED_FLAG};
use super::tce::{TCE_PAGE_SIZE, TCES_PER_CALL_MAX, TceError};
use super::vty::CHARS_MAX;
use super::xics::Xics;
use super::{Action, Call, Outcome, hpt, rtas};

/// One hypercall.
pub struct Hypercall {
    /// GPR 3.
    pub token: u64,
    /// As the specification spells it.
    pub name: &'static str,
    /// The section of LoPAR's Logical Partitioning chapter that defines it, by title (`H_RTAS` is our blob's own).
    pub section: &'static str,
    /// Serves it.
    pub handler: fn(&Call<'_>) -> Outcome,
}

macro_rules! hypercalls {
    ($($token:literal $name:ident $section:literal $handler:path;)*) => {
        /// The table.
        pub const CALLS: &[Hypercall] = &[
            $(Hypercall { token: $token, name: stringify!($name), section: $section, handler: $handler },)*
        ];
    };
}

hypercalls! {
    0x1c   H_GET_TCE                  "Translation Control Entry Access" get_tce;
    0x20   H_PUT_TCE                  "Translation Control Entry Access" put_tce;
    0x24   H_SET_SPRG0                "Processor Register Access"  set_sprg0;
    0x3c   H_LOGICAL_CI_LOAD          "Debugger Support" logical_ci_load;
    0x40   H_LOGICAL_CI_STORE         "Debugger Support" logical_ci_store;
    0x44   H_LOGICAL_CACHE_LOAD       "Debugger Support" logical_cache_load;
    0x48   H_LOGICAL_CACHE_STORE      "Debugger Support" logical_cache_store;
    0x4c   H_LOGICAL_ICBI             "Debugger Support" logical_block;
    0x50   H_LOGICAL_DCBF             "Debugger Support" logical_block;
    0x54   H_GET_TERM_CHAR            "Virtual Terminal Support" get_term_char;
    0x58   H_PUT_TERM_CHAR            "Virtual Terminal Support" put_term_char;
    0x64   H_EOI                      "Interrupt Support" eoi;
    0x68   H_CPPR                     "Interrupt Support" cppr;
    0x6c   H_IPI                      "Interrupt Support" ipi;
    0x70   H_IPOLL                    "Interrupt Support" ipoll;
    0x74   H_XIRR                     "Interrupt Support" xirr;
    0xfc   H_XIRR_X                   "Interrupt Support" xirr_x;
    0x138  H_STUFF_TCE                "Translation Control Entry Access" stuff_tce;
    0x13c  H_PUT_TCE_INDIRECT         "Translation Control Entry Access" put_tce_indirect;
    0x1c8  H_GET_CPU_CHARACTERISTICS  "Logical Partitioning" cpu_characteristics;
    0x298  H_JOIN                     "Thread Join Option"  join;
    0x2ec  H_HOME_NODE_ASSOCIATIVITY  "Virtual Processor Home Node"  home_node_associativity;
    0x31c  H_SET_MODE                 "Processor Register Access"  set_mode;
    0x36c  H_RESIZE_HPT_PREPARE       "Page Frame Table Access" hpt::prepare;
    0x370  H_RESIZE_HPT_COMMIT        "Page Frame Table Access" hpt::commit;
    0x37c  H_REGISTER_PROC_TBL        "Page Frame Table Access" register_process_table;
    0x380  H_SIGNAL_SYS_RESET         "Logical Partitioning"  signal_sys_reset;
    0xf000 H_RTAS                     "boot::RTAS_BLOB"  rtas::hypercall;
}

fn get_term_char(call: &Call<'_>) -> Outcome {
    let vty = &call.platform.vty;
    if !vty.is_mine(call.args[0]) {
        return H_PARAMETER.into();
    }
    let bytes = vty.take();
    let mut packed = [0; CHARS_MAX];
    packed[..bytes.len()].copy_from_slice(&bytes);
    let [high, low] = [0, 8].map(|at| be_word(&packed[at..]));
    HypercallReply::with(H_SUCCESS, &[bytes.len() as u64, high, low]).into()
}

/// The value of up to eight bytes, the first of them the most significant.
fn be_word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn put_term_char(call: &Call<'_>) -> Outcome {
    let [number, length, high, low, ..] = *call.args;
    let vty = &call.platform.vty;
    if !vty.is_mine(number) || length > CHARS_MAX as u64 {
        return H_PARAMETER.into();
    }
    let mut bytes = [0; CHARS_MAX];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    if vty.put(&bytes[..length as usize]) { H_SUCCESS.into() } else { H_BUSY.into() }
}

/// The machine's presentation layer, and what is asked of it. With the backend's controller these calls do not come here.
fn present(call: &Call<'_>, ask: impl FnOnce(&Xics) -> Outcome) -> Outcome {
    call.platform.xics.as_deref().map_or_else(|| H_FUNCTION.into(), ask)
}

fn xirr(call: &Call<'_>) -> Outcome {
    present(call, |xics| HypercallReply::with(H_SUCCESS, &[xics.accept(call.cpu).into()]).into())
}

/// As H_XIRR, with the time base at which the interrupt came; the machine does not see the guest's time base and reports none.
fn xirr_x(call: &Call<'_>) -> Outcome {
    present(call, |xics| HypercallReply::with(H_SUCCESS, &[xics.accept(call.cpu).into(), 0]).into())
}

fn cppr(call: &Call<'_>) -> Outcome {
    present(call, |xics| {
        xics.set_cppr(call.cpu, call.args[0] as u8);
        H_SUCCESS.into()
    })
}

fn eoi(call: &Call<'_>) -> Outcome {
    present(call, |xics| match xics.end(call.cpu, call.args[0] as u32) {
        Ok(()) => H_SUCCESS.into(),
        Err(_) => H_PARAMETER.into(),
    })
}

fn ipi(call: &Call<'_>) -> Outcome {
    let [server, mfrr, ..] = *call.args;
    let Ok(server) = u32::try_from(server) else { return H_PARAMETER.into() };
    present(call, |xics| match xics.set_mfrr(server, mfrr as u8) {
        Ok(()) => H_SUCCESS.into(),
        Err(_) => H_PARAMETER.into(),
    })
}

fn ipoll(call: &Call<'_>) -> Outcome {
    let Ok(server) = u32::try_from(call.args[0]) else { return H_PARAMETER.into() };
    present(call, |xics| match xics.poll(server) {
        Ok((xirr, mfrr)) => HypercallReply::with(H_SUCCESS, &[xirr.into(), mfrr.into()]).into(),
        Err(_) => H_PARAMETER.into(),
    })
}

fn tce_status(result: Result<(), TceError>) -> Outcome {
    match result {
        Ok(()) => H_SUCCESS.into(),
        Err(_) => H_PARAMETER.into(),
    }
}

fn get_tce(call: &Call<'_>) -> Outcome {
    match call.platform.tce.entry(call.args[0], call.args[1]) {
        Ok(tce) => HypercallReply::with(H_SUCCESS, &[tce]).into(),
        Err(_) => H_PARAMETER.into(),
    }
}

fn put_tce(call: &Call<'_>) -> Outcome {
    let [liobn, ioba, tce, ..] = *call.args;
    tce_status(call.platform.tce.put(liobn, ioba, 1, |_| tce))
}

fn stuff_tce(call: &Call<'_>) -> Outcome {
    let [liobn, ioba, tce, count, ..] = *call.args;
    if count > TCES_PER_CALL_MAX {
        return H_PARAMETER.into();
    }
    tce_status(call.platform.tce.put(liobn, ioba, count, |_| tce))
}

fn put_tce_indirect(call: &Call<'_>) -> Outcome {
    let [liobn, ioba, list, count, ..] = *call.args;
    if count > TCES_PER_CALL_MAX || !list.is_multiple_of(TCE_PAGE_SIZE) {
        return H_PARAMETER.into();
    }
    let mut bytes = vec![0; count as usize * 8];
    if call.platform.ram.memory().read_slice(&mut bytes, GuestAddress(list)).is_err() {
        return H_PARAMETER.into();
    }
    let entries = bytes.as_chunks::<8>().0;
    let entry = |index: u64| entries.get(index as usize).map_or(0, |bytes| u64::from_be_bytes(*bytes));
    tce_status(call.platform.tce.put(liobn, ioba, count, entry))
}

/// Cache-inhibited access by real address: the host bridge's windows are all there is.
fn logical_ci_load(call: &Call<'_>) -> Outcome {
    let [size, address, ..] = *call.args;
    if !ci_access_is_good(call, size, address) {
        return H_PARAMETER.into();
    }
    let data = call.platform.mmio_read(call.cpu, address, size as u8);
    HypercallReply::with(H_SUCCESS, &[be_word(&data[..size as usize])]).into()
}

fn logical_ci_store(call: &Call<'_>) -> Outcome {
    let [size, address, value, ..] = *call.args;
    if !ci_access_is_good(call, size, address) {
        return H_PARAMETER.into();
    }
    let mut data = [0; 8];
    data[..size as usize].copy_from_slice(&value.to_be_bytes()[8 - size as usize..]);
    call.platform.mmio_write(call.cpu, address, size as u8, &data);
    H_SUCCESS.into()
}

fn ci_access_is_good(call: &Call<'_>, size: u64, address: u64) -> bool {
    logical_size_is_good(size, address) && call.platform.phb.covers(address)
}

fn logical_size_is_good(size: u64, address: u64) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && address.is_multiple_of(size)
}

/// Cached access by real address: to memory. Values stand in big-endian order there, whatever the caller's.
fn logical_cache_load(call: &Call<'_>) -> Outcome {
    let [size, address, ..] = *call.args;
    if !logical_size_is_good(size, address) {
        return H_PARAMETER.into();
    }
    let mut data = [0; 8];
    let data = &mut data[..size as usize];
    match call.platform.ram.memory().read_slice(data, GuestAddress(address)) {
        Ok(()) => HypercallReply::with(H_SUCCESS, &[be_word(data)]).into(),
        Err(_) => H_PARAMETER.into(),
    }
}

fn logical_cache_store(call: &Call<'_>) -> Outcome {
    let [size, address, value, ..] = *call.args;
    if !logical_size_is_good(size, address) {
        return H_PARAMETER.into();
    }
    let data = value.to_be_bytes();
    match call.platform.ram.memory().write_slice(&data[8 - size as usize..], GuestAddress(address)) {
        Ok(()) => H_SUCCESS.into(),
        Err(_) => H_PARAMETER.into(),
    }
}

/// H_LOGICAL_ICBI and H_LOGICAL_DCBF: what was stored by any of these calls is seen by instruction fetches and devices as it is.
fn logical_block(call: &Call<'_>) -> Outcome {
    if call.args[0] < call.platform.ram.size_bytes() { H_SUCCESS.into() } else { H_PARAMETER.into() }
}

fn cpu_characteristics(call: &Call<'_>) -> Outcome {
    let (character, behaviour) = call.platform.vm.capabilities().cpu_characteristics;
    HypercallReply::with(H_SUCCESS, &[character, behaviour]).into()
}

/// One memory node: every CPU has the same home. The answer is a list of 16-bit fields, the top bit marking a value of 15 bits, ended by
/// all ones: four levels above the CPU, then the CPU.
fn home_node_associativity(call: &Call<'_>) -> Outcome {
    const BY_SERVER_NUMBER: u64 = 1;
    const BY_PROCESSOR: u64 = 2;
    const FIELD: u64 = 0x8000;
    let [flags, id, ..] = *call.args;
    if !matches!(flags, BY_SERVER_NUMBER | BY_PROCESSOR) {
        return H_PARAMETER.into();
    }
    if id >= u64::from(call.platform.cpus.count()) {
        return H_P2.into();
    }
    let levels = FIELD << 48 | FIELD << 32 | FIELD << 16 | FIELD;
    let cpu = (FIELD | id) << 48 | 0xffff_ffff_ffff;
    HypercallReply::with(H_SUCCESS, &[levels, cpu, u64::MAX, u64::MAX, u64::MAX, u64::MAX]).into()
}

/// Resources 1, 2 and 5 (CIABR, DAWR0, DAWR1) never come here: the backend serves them.
fn set_mode(call: &Call<'_>) -> Outcome {
    const ADDRESS_TRANSLATION: u64 = 3;
    const ENDIAN: u64 = 4;
    let [flags, resource, value1, value2, ..] = *call.args;
    if !matches!(resource, ADDRESS_TRANSLATION | ENDIAN) {
        return H_P2.into();
    }
    if value1 != 0 {
        return H_P3.into();
    }
    if value2 != 0 {
        return H_P4.into();
    }
    let change = match (resource, flags) {
        // 1 is reserved since POWER8.
        (ADDRESS_TRANSLATION, 0 | 2 | 3) => InterruptMode { ail: Some(flags as u8), little_endian: None },
        (ENDIAN, 0 | 1) => InterruptMode { ail: None, little_endian: Some(flags == 1) },
        _ => return H_UNSUPPORTED_FLAG.into(),
    };
    match call.platform.vm.set_interrupt_mode(change) {
        Ok(()) => H_SUCCESS.into(),
        Err(BackendError::Config { .. }) => H_UNSUPPORTED_FLAG.into(),
        Err(error) => {
            log::error!("H_SET_MODE: {error}");
            H_HARDWARE.into()
        }
    }
}

/// A hash guest has no process table: keeping or dropping none is all that can be asked for (H_REGISTER_PROC_TBL's flags). Linux calls it once
/// with flags 0 and takes anything but success as a bug.
fn register_process_table(call: &Call<'_>) -> Outcome {
    const OPERATION: u64 = 0x18;
    const NEW: u64 = 0x18;
    const TRANSLATION: u64 = 0x06;
    const TRANSLATION_SHOOTDOWN: u64 = 0x01;
    let flags = call.args[0];
    let known = flags & !(OPERATION | TRANSLATION | TRANSLATION_SHOOTDOWN) == 0;
    if !known || flags & OPERATION == NEW || flags & TRANSLATION != 0 { H_PARAMETER.into() } else { H_SUCCESS.into() }
}

/// The caller's SPRG0, for kernels that run with it out of reach.
fn set_sprg0(call: &Call<'_>) -> Outcome {
    Outcome { reply: HypercallReply::status(H_SUCCESS), action: Action::SetSprg0(call.args[0]) }
}

/// The thread answers: it knows MSR\[EE\] and can sleep.
fn join(_: &Call<'_>) -> Outcome {
    Outcome { reply: HypercallReply::status(H_SUCCESS), action: Action::Join }
}

fn signal_sys_reset(call: &Call<'_>) -> Outcome {
    const ALL: i64 = -1;
    const ALL_OTHERS: i64 = -2;
    let count = call.platform.cpus.count();
    let targets: Vec<u32> = match call.args[0] as i64 {
        ALL => (0..count).collect(),
        ALL_OTHERS => (0..count).filter(|id| *id != call.cpu).collect(),
        id if (0..i64::from(count)).contains(&id) => vec![id as u32],
        _ => return H_PARAMETER.into(),
    };
    Outcome { reply: HypercallReply::status(H_SUCCESS), action: Action::SystemReset(targets) }
}

#[cfg(test)]
#[path = "hcall_tests.rs"]
mod tests;
