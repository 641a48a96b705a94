//! The two tables of calls: any sequence of calls with any arguments gets answers, and nothing else happens.

use std::sync::Arc;

use paperboat_hypervisor::{ClockMode, GuestRam, HypercallArgs, Processor, VmConfig};
use paperboat_microvm::backend::{BackendChoice, CpuOptions, create_vm};
use paperboat_microvm::console::Console;
use paperboat_microvm::devices::DeviceConfig;
use paperboat_microvm::papr::calendar::PartitionClock;
use paperboat_microvm::papr::phb::{BUID, DmaPolicy, LIOBN};
use paperboat_microvm::papr::trace::Trace;
use paperboat_microvm::papr::{Platform, PlatformParts, hcall, rtas as rtas_table, status};
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;

const MEMORY_BYTES: u64 = 1 << 20;
const VCPUS: u32 = 2;
/// Calls of one input; more show nothing new.
const CALLS_MAX: usize = 64;
/// Where RTAS buffers usually stand.
const BUFFER: u64 = 0x8000;
const H_RTAS: u64 = 0xf000;
/// Numbers that mean something to the tables: bus, DMA window, addresses at the edges of memory.
const KNOWN: [u64; 8] = [BUID >> 32, BUID & 0xffff_ffff, LIOBN as u64, BUFFER, MEMORY_BYTES, MEMORY_BYTES - 8, 0x1000, 0x1200];

/// A machine with the software CPU and two devices, without threads of its own.
fn platform() -> Platform {
    let ram = GuestRam::new(MEMORY_BYTES).expect("a MiB of memory");
    let config = VmConfig {
        ram: ram.clone(),
        vcpu_count: VCPUS,
        hpt_order: 18,
        clock: ClockMode::Host,
        budget_instructions: None,
        processor: Processor::Native,
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let vm = create_vm(BackendChoice::Soft, config, CpuOptions::default()).expect("the software CPU").vm;
    let functions = DeviceConfig { helpers: true, ..DeviceConfig::default() }.make(&ram).expect("two devices");
    let parts = PlatformParts {
        ram,
        vm,
        vcpus: VCPUS,
        console: Arc::new(Console::in_memory()),
        functions,
        dma: DmaPolicy::Identity,
        clock: PartitionClock::deterministic(),
        trace: Trace::default(),
    };
    Platform::new(parts).expect("a platform")
}

fn end(platform: &Platform) {
    for slot in platform.phb.slots() {
        slot.function.shutdown();
    }
}

/// Hypercalls: a byte for the CPU, one for the row (behind the last: any number), nine arguments.
pub fn hypercalls(data: &[u8]) {
    let platform = platform();
    let mut input = Input::new(data);
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        let cpu = u32::from(input.byte()) % VCPUS;
        let row = hcall::CALLS.get(usize::from(input.byte()) % (hcall::CALLS.len() + 1));
        let nr = row.map_or_else(|| input.value(&KNOWN), |row| row.token);
        let args: HypercallArgs = std::array::from_fn(|_| input.value(&KNOWN));
        let reply = platform.hypercall(cpu, nr, &args).reply;
        assert!(reply.count <= args.len(), "{nr:#x} answers {} registers", reply.count);
        let served = hcall::CALLS.iter().any(|row| row.token == nr);
        assert!(served || reply.status == status::H_FUNCTION, "{nr:#x} is in no table and answers {}", reply.status);
    }
    end(&platform);
}

/// RTAS calls: a byte for the CPU, one for the row (behind the last: any token), whether the counts fit and where the buffer stands; arguments.
pub fn rtas(data: &[u8]) {
    let platform = platform();
    let mut input = Input::new(data);
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        let cpu = u32::from(input.byte()) % VCPUS;
        let row = rtas_table::CALLS.get(usize::from(input.byte()) % (rtas_table::CALLS.len() + 1));
        let shape = input.byte();
        let token = row.map_or_else(|| input.value(&KNOWN) as u32, |row| row.token);
        let (nargs, nrets) = match row {
            Some(row) if shape & 1 == 0 => (row.nargs, row.nrets.1),
            _ => (input.value(&KNOWN) as u32, input.value(&KNOWN) as u32),
        };
        let address = if shape & 2 == 0 { BUFFER } else { input.value(&KNOWN) };
        let arguments: Vec<u32> = (0..nargs.min(20)).map(|_| input.value(&KNOWN) as u32).collect();
        let words = [token, nargs, nrets].into_iter().chain(arguments);
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        // Outside memory there is nothing to write to.
        let _ = platform.ram.memory().write_slice(&bytes, GuestAddress(address));
        let outcome = platform.hypercall(cpu, H_RTAS, &[address, 0, 0, 0, 0, 0, 0, 0, 0]);
        let inside = address.checked_add(12).is_some_and(|end| end <= MEMORY_BYTES);
        assert!(inside || outcome.reply.status != status::H_SUCCESS, "a buffer at {address:#x} was served");
    }
    end(&platform);
}
