//! The execution trace: instructions, interrupts and hypercalls as text, filtered, free of cost when off.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use paperboat_hypervisor::HypercallArgs;

use crate::calls;
use crate::exec::{Interrupt, msr};
use crate::table::{Insn, disasm};

/// Where traces of all vCPUs go.
pub type TraceWriter = Arc<Mutex<dyn Write + Send>>;

/// What to trace. Instructions make execution slow, the rest hardly.
#[derive(Clone)]
pub struct TraceConfig {
    /// Every instruction, with its address.
    pub instructions: bool,
    /// Interrupts with their vector, SRR0 and SRR1.
    pub interrupts: bool,
    /// Hypercalls that are served inside, with their answers.
    pub hypercalls: bool,
    /// Of these, only what passes.
    pub filter: TraceFilter,
    /// Receives the lines.
    pub writer: TraceWriter,
}

/// Which instructions, interrupts and hypercalls are printed; all by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// Only in problem state (`Some(true)`) or only in privileged state.
    pub problem_state: Option<bool>,
    /// Only this vCPU.
    pub cpu: Option<u32>,
    /// Only at effective addresses from the first up to, but not including, the second.
    pub addresses: Option<(u64, u64)>,
    /// Only after the vCPU has executed so many instructions.
    pub after: u64,
}

impl TraceFilter {
    fn passes(&self, id: u32, at: &Place) -> bool {
        self.problem_state.is_none_or(|only| only == (at.msr & msr::PR != 0))
            && self.cpu.is_none_or(|only| only == id)
            && self.addresses.is_none_or(|(from, to)| (from..to).contains(&at.pc))
            && at.instructions >= self.after
    }
}

/// Where a vCPU is when something happens to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// Effective address.
    pub pc: u64,
    /// Its MSR there.
    pub msr: u64,
    /// Instructions it has executed so far.
    pub instructions: u64,
}

impl TraceConfig {
    /// What `list` names, comma-separated out of `insn`, `hcall`, `exc`; `None` if it names something else.
    pub fn parse(list: &str, writer: TraceWriter) -> Option<Self> {
        let filter = TraceFilter::default();
        let mut config = Self { instructions: false, interrupts: false, hypercalls: false, filter, writer };
        for word in list.split(',').filter(|word| !word.is_empty()) {
            match word {
                "insn" => config.instructions = true,
                "exc" => config.interrupts = true,
                "hcall" => config.hypercalls = true,
                "user" => config.filter.problem_state = Some(true),
                "kernel" => config.filter.problem_state = Some(false),
                _ => return None,
            }
        }
        Some(config)
    }
}

/// The trace of one vCPU.
pub struct Tracer {
    id: u32,
    config: TraceConfig,
    /// The hypercall that waits for its answer.
    call: Option<(Place, u64, HypercallArgs)>,
}

impl Tracer {
    /// The trace of vCPU `id`.
    pub fn new(id: u32, config: TraceConfig) -> Self {
        Self { id, config, call: None }
    }

    /// True if instructions are traced.
    pub fn instructions(&self) -> bool {
        self.config.instructions
    }

    fn line(&self, at: &Place, text: std::fmt::Arguments<'_>) {
        if !self.config.filter.passes(self.id, at) {
            return;
        }
        let mut writer = self.config.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A trace that cannot be written must not stop the guest.
        let _ = writeln!(writer, "cpu{} {:016x} {text}", self.id, at.pc);
    }

    /// An instruction is about to be executed.
    pub fn instruction(&mut self, at: Place, insn: Insn) {
        if self.config.instructions {
            self.line(&at, format_args!("{:08x}  {}", insn.0, disasm::disassemble(insn.0, at.pc)));
        }
    }

    /// An interrupt is taken: `at` is where the guest will return to.
    pub fn interrupt(&mut self, at: Place, interrupt: Interrupt, dar: u64) {
        if self.config.interrupts {
            let vector = interrupt.vector();
            self.line(&at, format_args!("exc {vector:#05x} msr {:016x} dar {dar:016x} {interrupt:x?}", at.msr));
        }
    }

    /// A hypercall is made; it is printed with its answer.
    pub fn hypercall(&mut self, at: Place, nr: u64, args: &HypercallArgs) {
        self.call = self.config.hypercalls.then_some((at, nr, *args));
    }

    /// It was served inside.
    pub fn reply(&mut self, status: u64) {
        if let Some((at, nr, args)) = self.call.take() {
            let name = calls::name(nr);
            self.line(
                &at,
                format_args!("{name}({:#x} {:#x} {:#x} {:#x}) = {}", args[0], args[1], args[2], args[3], status as i64),
            );
        }
    }
}
