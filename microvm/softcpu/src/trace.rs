//! The execution trace: instructions, interrupts, hypercalls and exits as text, switchable, free of cost when off.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use paperboat_hypervisor::{Exit, HypercallArgs};

use crate::exec::{Interrupt, msr};
use crate::state::State;
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
    /// Hypercalls, served inside or not, and exits.
    pub hypercalls: bool,
    /// Only instructions in problem state (`Some(true)`) or only privileged ones.
    pub problem_state: Option<bool>,
    /// Receives the lines.
    pub writer: TraceWriter,
}

impl TraceConfig {
    /// What `list` names, comma-separated out of `insn`, `hcall`, `exc`; `None` if it names something else.
    pub fn parse(list: &str, writer: TraceWriter) -> Option<Self> {
        let mut config = Self { instructions: false, interrupts: false, hypercalls: false, problem_state: None, writer };
        for word in list.split(',').filter(|word| !word.is_empty()) {
            match word {
                "insn" => config.instructions = true,
                "exc" => config.interrupts = true,
                "hcall" => config.hypercalls = true,
                "user" => config.problem_state = Some(true),
                "kernel" => config.problem_state = Some(false),
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
}

impl Tracer {
    /// The trace of vCPU `id`.
    pub fn new(id: u32, config: TraceConfig) -> Self {
        Self { id, config }
    }

    /// True if instructions are traced.
    pub fn instructions(&self) -> bool {
        self.config.instructions
    }

    fn line(&self, text: std::fmt::Arguments<'_>) {
        let mut writer = self.config.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A trace that cannot be written must not stop the guest.
        let _ = writeln!(writer, "{}: {text}", self.id);
    }

    /// An instruction is about to be executed.
    pub fn instruction(&mut self, st: &State, insn: Insn) {
        let problem = st.msr & msr::PR != 0;
        if self.config.instructions && self.config.problem_state.is_none_or(|only| only == problem) {
            self.line(format_args!("{:016x}  {:08x}  {}", st.pc, insn.0, disasm::disassemble(insn.0, st.pc)));
        }
    }

    /// An interrupt is taken.
    pub fn interrupt(&mut self, interrupt: Interrupt, srr0: u64, old_msr: u64, dar: u64) {
        if self.config.interrupts {
            let vector = interrupt.vector();
            self.line(format_args!("exc {vector:#05x} at {srr0:016x} msr {old_msr:016x} dar {dar:016x} {interrupt:x?}"));
        }
    }

    /// A hypercall is made.
    pub fn hypercall(&mut self, pc: u64, nr: u64, args: &HypercallArgs) {
        if self.config.hypercalls {
            self.line(format_args!("hcall {nr:#x} before {pc:016x} {:x?}", &args[..6]));
        }
    }

    /// A hypercall was served inside.
    pub fn reply(&mut self, status: u64) {
        if self.config.hypercalls {
            self.line(format_args!("hcall -> {}", status as i64));
        }
    }

    /// The vCPU leaves.
    pub fn exit(&mut self, exit: &Exit) {
        if self.config.hypercalls && !matches!(exit, Exit::Kicked) {
            self.line(format_args!("exit {exit:x?}"));
        }
    }
}
