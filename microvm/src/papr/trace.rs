//! What `--trace` prints: one line per exit of the chosen kinds.

use std::io::Write;
use std::sync::Mutex;

use paperboat_hypervisor::HypercallArgs;

use super::Outcome;

/// Kinds of exits that are printed. Nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceKinds {
    /// Hypercalls that reach the machine.
    pub hypercalls: bool,
    /// RTAS calls.
    pub rtas: bool,
    /// MMIO.
    pub mmio: bool,
    /// Only those of this vCPU.
    pub cpu: Option<u32>,
}

/// The printer.
#[derive(Default)]
pub struct Trace {
    kinds: TraceKinds,
    sink: Option<Mutex<Box<dyn Write + Send>>>,
}

impl Trace {
    /// Prints `kinds` to `sink`.
    pub fn new(kinds: TraceKinds, sink: Box<dyn Write + Send>) -> Self {
        Self { kinds, sink: Some(Mutex::new(sink)) }
    }

    /// A hypercall with its answer.
    pub fn hypercall(&self, cpu: u32, name: &str, args: &HypercallArgs, outcome: &Outcome) {
        if self.kinds.hypercalls {
            let reply = &outcome.reply;
            let outputs = &reply.outputs[..reply.count.min(reply.outputs.len())];
            self.line(cpu, &format!("{name}({}) = {} {}", hex(&args[..4]), reply.status, hex(outputs)));
        }
    }

    /// A hypercall that no table has.
    pub fn unknown_hypercall(&self, cpu: u32, nr: u64, args: &HypercallArgs) {
        if self.kinds.hypercalls {
            self.line(cpu, &format!("unknown hypercall {nr:#x}({})", hex(&args[..4])));
        }
    }

    /// An RTAS call with its answer.
    pub fn rtas(&self, cpu: u32, name: &str, args: &[u32], rets: &[u32]) {
        if self.kinds.rtas {
            self.line(cpu, &format!("rtas {name}({}) = {}", hex(args), hex(rets)));
        }
    }

    /// A load or store outside RAM.
    pub fn mmio(&self, cpu: u32, what: &str, addr: u64, data: &[u8]) {
        if self.kinds.mmio {
            self.line(cpu, &format!("mmio {what} {addr:#x} [{}]", hex(data)));
        }
    }

    fn line(&self, cpu: u32, text: &str) {
        if self.kinds.cpu.is_some_and(|only| only != cpu) {
            return;
        }
        if let Some(Ok(mut sink)) = self.sink.as_ref().map(Mutex::lock) {
            // A trace nobody reads any more is no reason to stop the guest.
            let _ = writeln!(sink, "cpu{cpu} {text}");
        }
    }
}

fn hex<T: std::fmt::LowerHex>(values: &[T]) -> String {
    values.iter().map(|value| format!("{value:#x}")).collect::<Vec<_>>().join(" ")
}
