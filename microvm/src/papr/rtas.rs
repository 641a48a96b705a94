//! RTAS: one row per call (LoPAR chapter 7).
//!
//! The guest calls the blob at `linux,rtas-entry`; the blob passes the argument buffer's address on as the private hypercall
//! `H_RTAS`. The buffer holds big-endian words: token, argument count, return count, arguments, returns; the first return
//! is the status.

use vm_memory::{Bytes, GuestAddress};

use paperboat_hypervisor::EntryState;

use super::calendar::DateTime;
use super::cpus::CpuState;
use super::nvram;
use super::phb::{self, BadPciCall, ConfigAccess};
use super::status::{H_PARAMETER, H_SUCCESS};
use super::xics::NoSuch;
use super::{Action, Call, GuestEnd, Outcome, Platform};
use crate::boot::{MSR_ME, MSR_SF};

/// Largest error log that RTAS would return, in bytes (`rtas-error-log-max`).
pub const ERROR_LOG_MAX: u32 = 2048;

/// Most arguments, and most returns, of any call: Linux's argument buffer holds 16 words for both.
const WORDS_MAX: usize = 16;

/// Longest panic text that is taken from the guest, in bytes.
const PANIC_TEXT_MAX: usize = 2048;

/// Status words (LoPAR table 7.2).
const SUCCESS: i32 = 0;
const NO_EVENT: i32 = 1;
const HARDWARE_ERROR: i32 = -1;
const PARAMETER_ERROR: i32 = -3;
const NOT_AUTHORIZED: i32 = -9002;
/// System parameters have codes of their own.
const NO_SUCH_PARAMETER: i32 = -3;
const PARAMETER_BUFFER_ERROR: i32 = -9999;
const SUSPEND_ABORTED: i32 = 9000;

/// One call.
pub struct RtasCall {
    /// As the device tree and the specification spell it.
    pub name: &'static str,
    /// Its value in the device tree.
    pub token: u32,
    /// Number of arguments.
    pub nargs: u32,
    /// Least and most returns, the status included.
    pub nrets: (u32, u32),
    /// The section of LoPAR's RTAS chapter that defines it, by title.
    pub section: &'static str,
    /// Serves it and returns the status.
    pub handler: fn(&mut Request<'_>) -> i32,
}

macro_rules! rtas_calls {
    ($($token:literal $name:literal ($nargs:literal) -> ($min:literal $max:literal) $section:literal $handler:path;)*) => {
        /// The table.
        pub const CALLS: &[RtasCall] = &[$(RtasCall {
            name: $name,
            token: $token,
            nargs: $nargs,
            nrets: ($min, $max),
            section: $section,
            handler: $handler,
        },)*];
    };
}

rtas_calls! {
    0x2000 "nvram-fetch"                        (3) -> (2 2) "NVRAM Access"               nvram_fetch;
    0x2001 "nvram-store"                        (3) -> (2 2) "NVRAM Access"               nvram_store;
    0x2002 "get-time-of-day"                    (0) -> (8 8) "Time of Day"                get_time_of_day;
    0x2003 "set-time-of-day"                    (7) -> (1 1) "Time of Day"                set_time_of_day;
    0x2004 "check-exception"                    (6) -> (1 1) "Error and Event Reporting"  no_event_check;
    0x2005 "event-scan"                         (4) -> (1 1) "Error and Event Reporting"  no_event_scan;
    0x2006 "read-pci-config"                    (2) -> (2 2) "PCI Configuration Space"    read_pci_config;
    0x2007 "write-pci-config"                   (3) -> (1 1) "PCI Configuration Space"    write_pci_config;
    0x2008 "ibm,read-pci-config"                (4) -> (2 2) "PCI Configuration Space"    ibm_read_pci_config;
    0x2009 "ibm,write-pci-config"               (5) -> (1 1) "PCI Configuration Space"    ibm_write_pci_config;
    0x200a "display-character"                  (1) -> (1 1) "Operator Interfaces"        display_character;
    0x200b "power-off"                          (2) -> (1 1) "Power Control"              power_off;
    0x200c "system-reboot"                      (0) -> (1 1) "System Reboot"              system_reboot;
    0x200d "stop-self"                          (0) -> (1 1) "Manage Stopped Processors"  stop_self;
    0x200e "start-cpu"                          (3) -> (1 1) "Manage Stopped Processors"  start_cpu;
    0x200f "query-cpu-stopped-state"            (1) -> (2 2) "Manage Stopped Processors"  query_cpu_stopped_state;
    0x2010 "ibm,suspend-me"                     (0) -> (1 1) "Partition Suspension"       suspend_me;
    0x2011 "ibm,os-term"                        (1) -> (1 1) "OS Termination"             os_term;
    0x2012 "ibm,get-xive"                       (1) -> (3 3) "Interrupt Source Control"   get_xive;
    0x2013 "ibm,set-xive"                       (3) -> (1 1) "Interrupt Source Control"   set_xive;
    0x2014 "ibm,int-off"                        (1) -> (1 1) "Interrupt Source Control"   int_off;
    0x2015 "ibm,int-on"                         (1) -> (1 1) "Interrupt Source Control"   int_on;
    0x2016 "ibm,change-msi"                     (6) -> (3 4) "MSI Support"                change_msi;
    0x2017 "ibm,query-interrupt-source-number"  (4) -> (3 3) "MSI Support"                query_interrupt_source_number;
    0x2018 "ibm,get-system-parameter"           (3) -> (1 1) "System Parameters"          get_system_parameter;
    0x2019 "ibm,set-system-parameter"           (2) -> (1 1) "System Parameters"          set_system_parameter;
}

/// A call with its arguments; the handler fills the returns behind the status.
pub struct Request<'a> {
    platform: &'a Platform,
    cpu: u32,
    args: [u32; WORDS_MAX],
    rets: [u32; WORDS_MAX],
    action: Action,
}

impl Request<'_> {
    /// The 64-bit value in arguments `at` (high) and `at + 1`.
    fn wide(&self, at: usize) -> u64 {
        u64::from(self.args[at]) << 32 | u64::from(self.args[at + 1])
    }

    fn is_our_bridge(&self, at: usize) -> bool {
        self.wide(at) == phb::BUID
    }
}

/// `H_RTAS`: GPR 4 has the argument buffer's real address.
pub(super) fn hypercall(call: &Call<'_>) -> Outcome {
    let memory = call.platform.ram.memory();
    let base = call.args[0];
    let read_words = |at: u64, words: &mut [u32]| -> Option<()> {
        let mut bytes = vec![0; words.len() * 4];
        memory.read_slice(&mut bytes, GuestAddress(at)).ok()?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        Some(())
    };
    let mut header = [0; 3];
    // Blobs are called in 32-bit real mode: a buffer above 4 GiB cannot be meant.
    if base > u64::from(u32::MAX) || read_words(base, &mut header).is_none() {
        return H_PARAMETER.into();
    }
    let [token, nargs, nrets] = header;
    if nargs as usize > WORDS_MAX || nrets as usize > WORDS_MAX {
        return too_many(call, base + 12 + u64::from(nargs) * 4, nrets).into();
    }
    let mut request =
        Request { platform: call.platform, cpu: call.cpu, args: [0; WORDS_MAX], rets: [0; WORDS_MAX], action: Action::None };
    let args = base + 12;
    let rets = args + u64::from(nargs) * 4;
    let mut previous = [0; WORDS_MAX];
    // The returns have to be writable before anything is done: a call that cannot answer must not act.
    if read_words(args, &mut request.args[..nargs as usize]).is_none()
        || read_words(rets, &mut previous[..nrets as usize]).is_none()
    {
        return H_PARAMETER.into();
    }
    let status = dispatch(&mut request, token, nargs, nrets);
    request.rets[0] = status as u32;
    let bytes: Vec<u8> = request.rets[..nrets as usize].iter().flat_map(|word| word.to_be_bytes()).collect();
    if memory.write_slice(&bytes, GuestAddress(rets)).is_err() {
        return H_PARAMETER.into();
    }
    let name = CALLS.iter().find(|row| row.token == token).map_or("unknown", |row| row.name);
    call.platform.trace.rtas(call.cpu, name, &request.args[..nargs as usize], &request.rets[..nrets as usize]);
    Outcome { action: request.action, ..H_SUCCESS.into() }
}

/// Counts that belong to no call: the status is said where its place is in memory, as for any other wrong count.
fn too_many(call: &Call<'_>, status: u64, nrets: u32) -> i64 {
    let memory = call.platform.ram.memory();
    let said = nrets > 0 && memory.write_slice(&PARAMETER_ERROR.to_be_bytes(), GuestAddress(status)).is_ok();
    if said { H_SUCCESS } else { H_PARAMETER }
}

fn dispatch(request: &mut Request<'_>, token: u32, nargs: u32, nrets: u32) -> i32 {
    let Some(index) = CALLS.iter().position(|row| row.token == token) else {
        // Above all hypercall numbers, so that the two kinds of unknown calls do not meet.
        let key = 1 << 32 | u64::from(token);
        request.platform.note_unknown(request.cpu, key, || format!("RTAS token {token:#x}"));
        return PARAMETER_ERROR;
    };
    let row = &CALLS[index];
    request.platform.count_rtas(request.cpu, index);
    if nargs != row.nargs || nrets < row.nrets.0 || nrets > row.nrets.1 {
        return PARAMETER_ERROR;
    }
    (row.handler)(request)
}

fn nvram_range(request: &Request<'_>) -> Option<std::ops::Range<usize>> {
    nvram::range(request.args[0], request.args[2])
}

fn nvram_fetch(request: &mut Request<'_>) -> i32 {
    let Some(range) = nvram_range(request) else { return PARAMETER_ERROR };
    let bytes = request.platform.nvram.fetch(range);
    let buffer = GuestAddress(request.args[1].into());
    if request.platform.ram.memory().write_slice(&bytes, buffer).is_err() {
        return PARAMETER_ERROR;
    }
    request.rets[1] = bytes.len() as u32;
    SUCCESS
}

fn nvram_store(request: &mut Request<'_>) -> i32 {
    let Some(range) = nvram_range(request) else { return PARAMETER_ERROR };
    let mut bytes = vec![0; range.len()];
    let buffer = GuestAddress(request.args[1].into());
    if request.platform.ram.memory().read_slice(&mut bytes, buffer).is_err() {
        return PARAMETER_ERROR;
    }
    request.platform.nvram.store(range.start, &bytes);
    request.rets[1] = bytes.len() as u32;
    SUCCESS
}

fn get_time_of_day(request: &mut Request<'_>) -> i32 {
    let now = request.platform.clock.now();
    let words = [now.year, now.month, now.day, now.hour, now.minute, now.second, now.nanosecond];
    request.rets[1..8].copy_from_slice(&words);
    SUCCESS
}

fn set_time_of_day(request: &mut Request<'_>) -> i32 {
    let [year, month, day, hour, minute, second, nanosecond, ..] = request.args;
    if request.platform.clock.set(DateTime { year, month, day, hour, minute, second, nanosecond }) {
        SUCCESS
    } else {
        PARAMETER_ERROR
    }
}

/// This machine has no errors to report and nothing that reports them.
fn no_event_check(_: &mut Request<'_>) -> i32 {
    NO_EVENT
}

fn no_event_scan(_: &mut Request<'_>) -> i32 {
    NO_EVENT
}

fn config_status<T>(result: Result<T, BadPciCall>) -> Result<T, i32> {
    result.map_err(|BadPciCall| PARAMETER_ERROR)
}

fn config_read(request: &mut Request<'_>, size: u32) -> i32 {
    // Linux takes the value even from a failed call: all ones then, as from an empty slot.
    request.rets[1] = u32::MAX;
    match config_status(request.platform.phb.config_read(ConfigAccess { address: request.args[0], size })) {
        Ok(value) => {
            request.rets[1] = value;
            SUCCESS
        }
        Err(status) => status,
    }
}

fn config_write(request: &mut Request<'_>, size: u32, value: u32) -> i32 {
    let access = ConfigAccess { address: request.args[0], size };
    config_status(request.platform.phb.config_write(access, value)).map_or_else(|status| status, |()| SUCCESS)
}

fn read_pci_config(request: &mut Request<'_>) -> i32 {
    config_read(request, request.args[1])
}

fn write_pci_config(request: &mut Request<'_>) -> i32 {
    config_write(request, request.args[1], request.args[2])
}

fn ibm_read_pci_config(request: &mut Request<'_>) -> i32 {
    if !request.is_our_bridge(1) {
        request.rets[1] = u32::MAX;
        return PARAMETER_ERROR;
    }
    config_read(request, request.args[3])
}

fn ibm_write_pci_config(request: &mut Request<'_>) -> i32 {
    if !request.is_our_bridge(1) {
        return PARAMETER_ERROR;
    }
    config_write(request, request.args[3], request.args[4])
}

fn display_character(request: &mut Request<'_>) -> i32 {
    // A full sink loses the character: RTAS callers do not retry.
    request.platform.vty.put(&[request.args[0] as u8]);
    SUCCESS
}

fn power_off(request: &mut Request<'_>) -> i32 {
    request.action = Action::End(GuestEnd::PowerOff);
    SUCCESS
}

fn system_reboot(request: &mut Request<'_>) -> i32 {
    request.action = Action::End(GuestEnd::Reboot);
    SUCCESS
}

fn stop_self(request: &mut Request<'_>) -> i32 {
    request.platform.cpus.stopping(request.cpu);
    request.action = Action::StopSelf;
    SUCCESS
}

fn start_cpu(request: &mut Request<'_>) -> i32 {
    let [id, start, argument, ..] = request.args;
    // The partition's AIL and ILE are every vCPU's already; the new one begins in 64-bit big-endian real mode.
    let entry = EntryState { pc: start.into(), msr: MSR_SF | MSR_ME, r3: argument.into(), r4: 0 };
    match request.platform.cpus.start(id, entry) {
        Ok(()) => SUCCESS,
        Err(super::cpus::StartError::NoSuch) => PARAMETER_ERROR,
        Err(super::cpus::StartError::NotStopped) => HARDWARE_ERROR,
    }
}

fn query_cpu_stopped_state(request: &mut Request<'_>) -> i32 {
    let Some(state) = request.platform.cpus.state(request.args[0]) else { return PARAMETER_ERROR };
    request.rets[1] = match state {
        CpuState::Stopped => 0,
        CpuState::Stopping => 1,
        CpuState::Starting(_) | CpuState::Running => 2,
    };
    SUCCESS
}

/// Suspending a partition is migration's first step; there is no migration.
fn suspend_me(_: &mut Request<'_>) -> i32 {
    SUSPEND_ABORTED
}

fn os_term(request: &mut Request<'_>) -> i32 {
    let text = guest_text(request.platform, request.args[0].into());
    request.action = Action::End(GuestEnd::Panic(text));
    SUCCESS
}

/// The NUL-terminated text at `address`, bounded, with control characters made harmless for whoever prints it.
fn guest_text(platform: &Platform, address: u64) -> String {
    let mut bytes = Vec::new();
    for offset in 0..PANIC_TEXT_MAX as u64 {
        match platform.ram.memory().read_obj::<u8>(GuestAddress(address.saturating_add(offset))) {
            Ok(0) | Err(_) => break,
            Ok(byte) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn source_status(result: Result<(), NoSuch>) -> i32 {
    if result.is_ok() { SUCCESS } else { PARAMETER_ERROR }
}

fn get_xive(request: &mut Request<'_>) -> i32 {
    let Ok((server, priority)) = request.platform.sources.xive(request.args[0]) else { return PARAMETER_ERROR };
    request.rets[1] = server;
    request.rets[2] = priority.into();
    SUCCESS
}

fn set_xive(request: &mut Request<'_>) -> i32 {
    let [source, server, priority, ..] = request.args;
    let Ok(priority) = u8::try_from(priority) else { return PARAMETER_ERROR };
    source_status(request.platform.sources.set_xive(source, server, priority))
}

fn int_off(request: &mut Request<'_>) -> i32 {
    source_status(request.platform.sources.set_enabled(request.args[0], false))
}

fn int_on(request: &mut Request<'_>) -> i32 {
    source_status(request.platform.sources.set_enabled(request.args[0], true))
}

fn change_msi(request: &mut Request<'_>) -> i32 {
    const QUERY: u32 = 0;
    const CHANGE: u32 = 1;
    const RESET: u32 = 2;
    const CHANGE_MSI: u32 = 3;
    const CHANGE_MSIX: u32 = 4;
    const CHANGE_32BIT_MSI: u32 = 5;
    const TYPE_MSIX: u32 = 2;
    if !request.is_our_bridge(1) {
        return PARAMETER_ERROR;
    }
    let [address, _, _, function, count, sequence, ..] = request.args;
    let phb = &request.platform.phb;
    let result = match (function, count) {
        (QUERY, _) => phb.msix_count(address),
        (CHANGE | CHANGE_MSIX, _) => phb.change_msix(address, count),
        // No function here has plain MSI; turning it off is turning everything off.
        (CHANGE_MSI | CHANGE_32BIT_MSI, 0) => phb.change_msix(address, 0),
        (RESET, _) => phb.msix_count(address).and_then(|count| phb.change_msix(address, count)),
        _ => Err(BadPciCall),
    };
    let Ok(count) = result else { return PARAMETER_ERROR };
    request.rets[1] = count;
    request.rets[2] = sequence.wrapping_add(1);
    request.rets[3] = TYPE_MSIX;
    SUCCESS
}

fn query_interrupt_source_number(request: &mut Request<'_>) -> i32 {
    const EDGE: u32 = 1;
    if !request.is_our_bridge(1) {
        return PARAMETER_ERROR;
    }
    let Ok(source) = request.platform.phb.msix_source(request.args[0], request.args[3]) else { return PARAMETER_ERROR };
    request.rets[1] = source;
    request.rets[2] = EDGE;
    SUCCESS
}

/// `SPLPAR characteristics` is the one parameter that tools and kernels of a guest look for.
const SPLPAR_CHARACTERISTICS: u32 = 20;

fn get_system_parameter(request: &mut Request<'_>) -> i32 {
    const LENGTH_BYTES: u32 = 2;
    let [parameter, buffer, length, ..] = request.args;
    if parameter != SPLPAR_CHARACTERISTICS {
        return NO_SUCH_PARAMETER;
    }
    if length < LENGTH_BYTES {
        return PARAMETER_BUFFER_ERROR;
    }
    let cpus = request.platform.cpus.count();
    let megabytes = request.platform.ram.size_bytes() >> 20;
    let text = format!("MaxEntCap={cpus}00,DesMem={megabytes},DesProcs={cpus},MaxPlatProcs={cpus}");
    let mut value = (text.len() as u16 + 1).to_be_bytes().to_vec();
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    // What does not fit is cut off; the length field keeps the whole length (LoPAR, System Parameters).
    value.truncate(length as usize);
    match request.platform.ram.memory().write_slice(&value, GuestAddress(buffer.into())) {
        Ok(()) => SUCCESS,
        Err(_) => PARAMETER_BUFFER_ERROR,
    }
}

fn set_system_parameter(request: &mut Request<'_>) -> i32 {
    if request.args[0] == SPLPAR_CHARACTERISTICS { NOT_AUTHORIZED } else { NO_SUCH_PARAMETER }
}

#[cfg(test)]
#[path = "rtas_tests.rs"]
mod tests;
