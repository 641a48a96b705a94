//! `--trace`: kinds of events and filters, in one comma-separated list.

use std::str::FromStr;

use paperboat_microvm::backend::{CpuOptions, TraceFilter};
use paperboat_microvm::papr::trace::TraceKinds;

use crate::numbers::Address;

/// What is shown by `--help`.
pub const HELP: &str = "\
Print events to standard error: a comma-separated list of kinds and filters.

Kinds: hcall (hypercalls, with their answers), rtas (RTAS calls), mmio (device registers), exc (exceptions),
insn (every instruction, disassembled).
Filters: user or kernel (state the CPU is in), cpu=N, pc=FROM-TO (effective addresses, TO not included),
after=N (only once the CPU has executed N instructions). They apply to all kinds that know the value:
mmio, rtas and hypercalls served by the machine know only the CPU.";

/// The list.
#[derive(Clone, Default)]
pub struct TraceChoice {
    pub machine: TraceKinds,
    pub cpu: CpuOptions,
}

impl FromStr for TraceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut choice = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                None => choice.kind_or_state(word)?,
                Some((name, value)) => choice.filter(name, value)?,
            }
        }
        if choice.cpu.filter != TraceFilter::default() && !choice.has_kind() {
            return Err("a filter without a kind prints nothing: add hcall, rtas, mmio, exc or insn".to_owned());
        }
        choice.machine.cpu = choice.cpu.filter.cpu;
        Ok(choice)
    }
}

impl TraceChoice {
    fn has_kind(&self) -> bool {
        let (machine, cpu) = (&self.machine, &self.cpu);
        machine.hypercalls || machine.rtas || machine.mmio || cpu.exceptions || cpu.instructions
    }

    fn kind_or_state(&mut self, word: &str) -> Result<(), String> {
        match word {
            "hcall" => (self.machine.hypercalls, self.cpu.hypercalls) = (true, true),
            "rtas" => self.machine.rtas = true,
            "mmio" => self.machine.mmio = true,
            "exc" => self.cpu.exceptions = true,
            "insn" => self.cpu.instructions = true,
            "user" => self.cpu.filter.problem_state = Some(true),
            "kernel" => self.cpu.filter.problem_state = Some(false),
            _ => {
                return Err(format!(
                    "unknown word {word:?}: kinds are hcall, rtas, mmio, exc, insn; filters user, kernel, cpu=N, pc=FROM-TO, after=N"
                ));
            }
        }
        Ok(())
    }

    fn filter(&mut self, name: &str, value: &str) -> Result<(), String> {
        let filter = &mut self.cpu.filter;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}={value}: not a number"));
        match name {
            "cpu" => filter.cpu = Some(u32::try_from(number()?).map_err(|_| format!("cpu={value}: no such CPU"))?),
            "after" => filter.after = number()?,
            "pc" => {
                let (from, to) = value.split_once('-').ok_or_else(|| format!("pc={value}: must be FROM-TO"))?;
                let (Address(from), Address(to)) = (from.parse()?, to.parse()?);
                if from >= to {
                    return Err(format!("pc={value}: an empty range"));
                }
                filter.addresses = Some((from, to));
            }
            _ => return Err(format!("unknown filter {name:?}: user, kernel, cpu=N, pc=FROM-TO, after=N")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_filters_are_read() {
        let choice: TraceChoice = "insn,hcall,user,cpu=1,pc=0x100-0x200,after=5000".parse().unwrap();
        assert!(choice.cpu.instructions && choice.cpu.hypercalls && choice.machine.hypercalls && !choice.machine.mmio);
        let expected = TraceFilter { problem_state: Some(true), cpu: Some(1), addresses: Some((0x100, 0x200)), after: 5000 };
        assert_eq!(choice.cpu.filter, expected);
        assert_eq!(choice.machine.cpu, Some(1));
        assert!(TraceChoice::from_str("").is_ok());
    }

    #[test]
    fn wrong_words_are_named() {
        for (text, needle) in [
            ("everything", "everything"),
            ("insn,cpu=x", "cpu=x"),
            ("insn,pc=5", "FROM-TO"),
            ("insn,pc=0x200-0x100", "empty range"),
            ("insn,colour=red", "colour"),
            ("user", "without a kind"),
        ] {
            let error = TraceChoice::from_str(text).err().unwrap();
            assert!(error.contains(needle) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
