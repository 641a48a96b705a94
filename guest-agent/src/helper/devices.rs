//! Device rules. Control groups v2 have no file for them: a BPF program on the cgroup answers each use of a device node
//! (linux/bpf.h, `BPF_PROG_TYPE_CGROUP_DEVICE`). It asks the rules from the last to the first; the first that fits decides.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use paperboat_bpf::insn::{
    AND_IMMEDIATE, EXIT, JUMP_IF_IMMEDIATE, JUMP_IF_NOT_IMMEDIATE, JUMP_IF_NOT_REGISTER, LOAD_WORD, MOVE_IMMEDIATE, MOVE_WORD,
    SHIFT_RIGHT_IMMEDIATE,
};
use paperboat_bpf::{Attach, Insn, Program};

/// Most rules of one container; each takes at most nine of the 4096 instructions a program may have.
const RULES_MAX: usize = 400;

// Registers of the program: the answer, a scratch, and the four parts of a request.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 1;

// linux/bpf.h: BPF_DEVCG_*.
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MAKE | ACCESS_READ | ACCESS_WRITE;

/// A rule as the program asks it; `None` fits everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    access: i32,
    major: Option<i32>,
    minor: Option<i32>,
}

/// Why the rules do not hold.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// More than the program can hold.
    #[error("linux.resources.devices: {0} rules, at most {RULES_MAX}")]
    TooMany(usize),
    /// A rule that is none.
    #[error("linux.resources.devices: {field} {value} is not valid")]
    Rule {
        /// Which part of the rule.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// The kernel's refusal.
    #[error("device rules: {what}: {source}")]
    Kernel {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes `rules` hold in the cgroup at `path`, on top of what every container may use. No rules at all restrict nothing.
///
/// # Errors
/// [`DeviceError`].
pub fn apply(rules: &[LinuxDeviceCgroup], path: &Path) -> Result<(), DeviceError> {
    if rules.is_empty() {
        return Ok(());
    }
    if rules.len() > RULES_MAX {
        return Err(DeviceError::TooMany(rules.len()));
    }
    let mut all = rules.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    // What engines expect to be usable whatever they list: making nodes, and the devices of every container.
    let always = |kind, access, major, minor| Rule { allow: true, kind: Some(kind), access, major, minor };
    all.push(always(KIND_CHARACTER, ACCESS_MAKE, None, None));
    all.push(always(KIND_BLOCK, ACCESS_MAKE, None, None));
    // null, zero, full, random, urandom, tty, console, ptmx, and pseudo terminals.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        all.push(always(KIND_CHARACTER, ACCESS_ALL, Some(major), Some(minor)));
    }
    all.push(always(KIND_CHARACTER, ACCESS_ALL, Some(136), None));
    attach(&program(&all), path)
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule, DeviceError> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(KIND_BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(KIND_CHARACTER),
        Some(LinuxDeviceType::P) => return Err(DeviceError::Rule { field: "type", value: "p".into() }),
    };
    let number = |field, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|&number| number >= 0)
            .map(Some)
            .ok_or_else(|| DeviceError::Rule { field, value: number.to_string() }),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            'm' => ACCESS_MAKE,
            other => return Err(DeviceError::Rule { field: "access", value: other.to_string() }),
        };
    }
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    // An empty access list means all of it.
    Ok(Rule { allow: rule.allow(), kind, access: if access == 0 { ACCESS_ALL } else { access }, major, minor })
}

/// The program that asks `rules` from the last to the first, and denies what none fits.
fn program(rules: &[Rule]) -> Vec<Insn> {
    let insn = Insn::new;
    let mut code = vec![
        // struct bpf_cgroup_dev_ctx: access_type (kind low, access high), major, minor.
        insn(LOAD_WORD, KIND, CONTEXT, 0, 0),
        insn(MOVE_WORD, ACCESS, KIND, 0, 0),
        insn(AND_IMMEDIATE, KIND, 0, 0, 0xffff),
        insn(SHIFT_RIGHT_IMMEDIATE, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        let tests = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        for (register, value) in tests.into_iter().filter_map(|(register, value)| Some((register, value?))) {
            block.push(insn(JUMP_IF_NOT_IMMEDIATE, register, 0, 0, value));
        }
        if rule.access != ACCESS_ALL {
            block.push(insn(MOVE_WORD, SCRATCH, ACCESS, 0, 0));
            block.push(insn(AND_IMMEDIATE, SCRATCH, 0, 0, rule.access));
            // All that is asked for must be allowed; any that is denied denies it.
            block.push(match rule.allow {
                true => insn(JUMP_IF_NOT_REGISTER, SCRATCH, ACCESS, 0, 0),
                false => insn(JUMP_IF_IMMEDIATE, SCRATCH, 0, 0, 0),
            });
        }
        block.push(insn(MOVE_IMMEDIATE, ANSWER, 0, 0, i32::from(rule.allow)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        // Every test leads on to the next rule.
        let len = block.len();
        for (at, insn) in block.iter_mut().enumerate() {
            if matches!(insn.code, JUMP_IF_NOT_IMMEDIATE | JUMP_IF_NOT_REGISTER | JUMP_IF_IMMEDIATE) {
                // A block has at most nine instructions.
                insn.offset = (len - at - 1) as i16;
            }
        }
        code.extend(block);
        let fits_all = rule.kind.is_none() && rule.major.is_none() && rule.minor.is_none() && rule.access == ACCESS_ALL;
        if fits_all {
            // What follows could not be reached, which the verifier refuses.
            return code;
        }
    }
    code.push(insn(MOVE_IMMEDIATE, ANSWER, 0, 0, 0));
    code.push(insn(EXIT, 0, 0, 0, 0));
    code
}

fn attach(program: &[Insn], path: &Path) -> Result<(), DeviceError> {
    let failed = |what| move |source| DeviceError::Kernel { what, source };
    let cgroup = File::open(path).map_err(failed("cgroup"))?;
    let program = Program::load(Attach::CgroupDevice, program).map_err(failed("loading"))?;
    program.attach(cgroup.as_fd()).map_err(failed("attaching"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would: the request's kind, access and numbers to allowed or not.
    fn run(program: &[Insn], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut r = [0i32; 6];
        let mut at = 0usize;
        for _ in 0..program.len() {
            let i = program[at];
            let (to, from) = (usize::from(i.to()), usize::from(i.from()));
            let jump = match i.code {
                LOAD_WORD => {
                    r[to] = [access << 16 | kind, major, minor][i.offset as usize / 4];
                    false
                }
                MOVE_WORD => {
                    r[to] = r[from];
                    false
                }
                MOVE_IMMEDIATE => {
                    r[to] = i.immediate;
                    false
                }
                AND_IMMEDIATE => {
                    r[to] &= i.immediate;
                    false
                }
                SHIFT_RIGHT_IMMEDIATE => {
                    r[to] >>= i.immediate;
                    false
                }
                JUMP_IF_NOT_IMMEDIATE => r[to] != i.immediate,
                JUMP_IF_NOT_REGISTER => r[to] != r[from],
                JUMP_IF_IMMEDIATE => r[to] == i.immediate,
                EXIT => return r[0] != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += 1 + if jump { i.offset as usize } else { 0 };
        }
        panic!("no exit");
    }

    fn rule(allow: bool, kind: Option<i32>, access: i32, major: Option<i32>, minor: Option<i32>) -> Rule {
        Rule { allow, kind, access, major, minor }
    }

    #[test]
    fn the_last_fitting_rule_decides() {
        let program = program(&[
            rule(false, None, ACCESS_ALL, None, None),
            rule(true, Some(KIND_CHARACTER), ACCESS_READ | ACCESS_WRITE, Some(10), Some(229)),
            rule(true, Some(KIND_BLOCK), ACCESS_READ, Some(8), None),
            rule(false, Some(KIND_BLOCK), ACCESS_WRITE, Some(8), Some(3)),
        ]);
        assert!(run(&program, KIND_CHARACTER, ACCESS_READ | ACCESS_WRITE, 10, 229));
        assert!(!run(&program, KIND_CHARACTER, ACCESS_MAKE, 10, 229), "more than is allowed");
        assert!(!run(&program, KIND_BLOCK, ACCESS_READ, 10, 229), "of the other kind");
        assert!(!run(&program, KIND_CHARACTER, ACCESS_READ, 10, 228));
        assert!(run(&program, KIND_BLOCK, ACCESS_READ, 8, 77), "any minor");
        assert!(!run(&program, KIND_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 3), "a part is denied");
        assert!(run(&program, KIND_BLOCK, ACCESS_READ, 8, 3), "that part was not asked for");
    }

    #[test]
    fn nothing_follows_a_rule_for_everything() {
        let program = program(&[rule(true, None, ACCESS_ALL, None, None), rule(false, None, ACCESS_ALL, None, None)]);
        assert!(!run(&program, KIND_BLOCK, ACCESS_READ, 1, 1));
        assert_eq!(program.iter().filter(|insn| insn.code == EXIT).count(), 1);
    }

    #[test]
    fn rules_are_parsed_or_named() {
        let parsed = |text: &str| parse(&serde_json::from_str(text).expect("JSON"));
        let all = parsed(r#"{"allow": false, "access": "rwm"}"#).expect("valid");
        assert_eq!(all, rule(false, None, ACCESS_ALL, None, None));
        let one = parsed(r#"{"allow": true, "type": "c", "major": 1, "minor": -1, "access": "r"}"#).expect("valid");
        assert_eq!(one, rule(true, Some(KIND_CHARACTER), ACCESS_READ, Some(1), None));
        for (bad, word) in [(r#"{"allow": true, "access": "x"}"#, "access"), (r#"{"allow": true, "major": -2}"#, "major")] {
            let error = parsed(bad).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
