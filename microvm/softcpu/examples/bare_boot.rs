//! Boots a kernel on the bare CPU: no devices, a terminal and power-off only. For CPU work without the machine.
//!
//! `bare_boot VMLINUX DTB INITRD` with the tree naming the RTAS blob at 0x1f000000 and the initrd at 0x08000000.
//! `MEMORY_MIB`, `BUDGET` (instructions) and `HOST_CLOCK` change the run;
//! `PAPERBOAT_TRACE=insn,exc,hcall` writes a trace to standard error.

use std::io::Write;
use std::sync::{Arc, Mutex};

use paperboat_hypervisor::{ClockMode, EntryState, Exit, GuestRam, HypercallReply, InterruptMode, Vm, VmConfig};
use paperboat_softcpu::{SoftVm, TraceConfig};
use vm_memory::{Bytes, GuestAddress};

const DEFAULT_MEMORY_MIB: u64 = 512;
const TREE: u64 = 0x1e00_0000;
const RTAS: u64 = 0x1f00_0000;
const INITRD: u64 = 0x0800_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let ram = GuestRam::new(number("MEMORY_MIB").unwrap_or(DEFAULT_MEMORY_MIB) << 20)?;
    let elf = std::fs::read(&args[1])?;
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap_or_default());
    // The first program header: offset, physical address, file size.
    let (offset, target, size) = (word(72) as usize, word(88), word(96) as usize);
    let memory = ram.memory();
    memory.write_slice(&elf[offset..offset + size], GuestAddress(target))?;
    memory.write_slice(&std::fs::read(&args[2])?, GuestAddress(TREE))?;
    if let Some(initrd) = args.get(3) {
        memory.write_slice(&std::fs::read(initrd)?, GuestAddress(INITRD))?;
    }
    let blob = [0x7c64_1b78u32, 0x3c60_0000, 0x6063_f000, 0x4400_0022, 0x4e80_0020];
    for (i, insn) in blob.iter().enumerate() {
        memory.write_slice(&insn.to_be_bytes(), GuestAddress(RTAS + 4 * i as u64))?;
    }
    let clock = if std::env::var_os("HOST_CLOCK").is_some() { ClockMode::Host } else { ClockMode::Deterministic };
    let budget = number("BUDGET");
    let vm = SoftVm::new(VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: number("HPT_ORDER").map_or(22, |order| order as u32),
        clock,
        budget_instructions: budget,
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    })?;
    if let Ok(list) = std::env::var("PAPERBOAT_TRACE")
        && let Some(config) = TraceConfig::parse(&list, Arc::new(Mutex::new(std::io::stderr())))
    {
        vm.set_trace(config);
    }
    let mut vcpu = vm.create_soft_vcpu(0)?;
    let vcpu: &mut paperboat_softcpu::SoftVcpu = &mut vcpu;
    use paperboat_hypervisor::Vcpu;
    vcpu.enter(EntryState { pc: 0, msr: 1 << 63 | 1 << 12, r3: TREE, r4: 0 });
    let start = std::time::Instant::now();
    loop {
        match vcpu.run()? {
            Exit::Hypercall { nr, args } => {
                let reply = serve(&vm, &ram, nr, &args);
                match reply {
                    Some(reply) => vcpu.complete_hypercall(reply)?,
                    None => break,
                }
            }
            other => {
                eprintln!("{other:?}\n{}", vcpu.dump());
                break;
            }
        }
    }
    let instructions = vcpu.handle().stats().instructions.unwrap_or(0);
    let elapsed = start.elapsed();
    eprintln!("{:?}", vcpu.handle().stats());
    eprintln!("{instructions} instructions in {elapsed:?}: {} MIPS", instructions as u128 / elapsed.as_micros().max(1));
    Ok(())
}

fn serve(vm: &SoftVm, ram: &GuestRam, nr: u64, args: &[u64; 9]) -> Option<HypercallReply> {
    Some(match nr {
        0x58 => {
            let text = [args[2].to_be_bytes(), args[3].to_be_bytes()].concat();
            let _ = std::io::stdout().write_all(&text[..(args[1] as usize).min(16)]);
            let _ = std::io::stdout().flush();
            HypercallReply::status(0)
        }
        0x54 => HypercallReply::with(0, &[0, 0, 0]),
        0x1c8 => HypercallReply::with(0, &[0, 0x01c0_0000_0000_0000]),
        0x31c => match args[1] {
            3 => {
                let _ = vm.set_interrupt_mode(InterruptMode { ail: Some(args[0] as u8), little_endian: None });
                HypercallReply::status(0)
            }
            4 => {
                let _ = vm.set_interrupt_mode(InterruptMode { ail: None, little_endian: Some(args[0] != 0) });
                HypercallReply::status(0)
            }
            _ => HypercallReply::status(-55),
        },
        0x37c | 0x68 | 0x64 => HypercallReply::status(0),
        0x74 => HypercallReply::with(0, &[0]),
        0xf000 => {
            let at = args[0] & 0xffff_ffff;
            let word =
                |i: u64| -> u32 { ram.memory().read_obj::<[u8; 4]>(GuestAddress(at + 4 * i)).map_or(0, u32::from_be_bytes) };
            let (token, inputs) = (word(0), u64::from(word(1)));
            eprintln!("[rtas {token:#x}]");
            if token == 0x2003 || token == 0x2004 {
                return None;
            }
            let status: i32 = if matches!(token, 0x200a | 0x200c | 0x200d) { 0 } else { -3 };
            let _ = ram.memory().write_slice(&status.to_be_bytes(), GuestAddress(at + 12 + 4 * inputs));
            HypercallReply::status(0)
        }
        _ => {
            eprintln!("[hcall {nr:#x} {args:x?}]");
            HypercallReply::status(-2)
        }
    })
}
