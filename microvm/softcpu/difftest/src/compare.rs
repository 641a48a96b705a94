//! Which differences count, and how they are shown.

use std::fmt::Write;

use paperboat_softcpu::table::disasm::disassemble;
use paperboat_softcpu::table::operand::fields;
use paperboat_softcpu::table::{Facility, Insn, Op, Row, decode};

use crate::case::{Case, Ending, Outcome, Snapshot};

/// Bits of the state after an instruction that the architecture leaves undefined, or that QEMU is known to get wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    gpr: u64,
    vsr: u128,
    cr: u32,
    xer: u64,
    fpscr: u64,
}

/// SO, OV, CA, OV32, CA32 and the byte count.
const XER_DEFINED: u64 = 0xe00c_007f;
/// SO, OV and OV32.
const OVERFLOW: u64 = 0xc008_0000;
/// NJ and SAT.
const VSCR_DEFINED: u128 = 0x1_0001;
const FPRF: u64 = 0x1_f000;
const FPRF_C: u64 = 0x1_0000;
const FR: u64 = 0x4_0000;
const FI: u64 = 0x2_0000;
const FX: u64 = 0x8000_0000;
const OX: u64 = 0x1000_0000;
const UX: u64 = 0x0800_0000;
const XX: u64 = 0x0200_0000;
const VXSNAN: u64 = 0x0100_0000;
const VXIMZ: u64 = 0x0010_0000;
const VXSQRT: u64 = 0x200;
const VXCVI: u64 = 0x100;
const NI: u64 = 0x4;

/// Estimates: the result only has to be near (ISA 3.0B I 4.6.6.1, 6.10.6, 7.6.3).
const ESTIMATES: &[&str] = &[
    "fre",
    "fres",
    "frsqrte",
    "frsqrtes",
    "xsredp",
    "xsresp",
    "xsrsqrtedp",
    "xsrsqrtesp",
    "xvredp",
    "xvresp",
    "xvrsqrtedp",
    "xvrsqrtesp",
    "vrefp",
    "vrsqrtefp",
    "vexptefp",
    "vlogefp",
];

/// What does not count after `case`.
pub fn mask(op: Op, case: &Case) -> Mask {
    let row = op.row();
    let insn = Insn(case.word);
    let mut mask = Mask { gpr: 0, vsr: 0, cr: 0, xer: 0, fpscr: 0 };
    if case.is_program() {
        return mask;
    }
    let name = row.mnemonic;
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    // I 7.2.1.1 and the instruction pages: a scalar result leaves the second doubleword undefined.
    let scalar_vsx = matches!(op, Op::Vsx(_))
        && (starts(&["xs", "lxsd", "lxssp", "lxsiw", "lxsib", "lxsih", "mtvsrd", "mtvsrw"]))
        && !name.contains("qp")
        && !["mtvsrdd", "mtvsrws"].contains(&name);
    if matches!(op, Op::Float(_)) || scalar_vsx {
        mask.vsr |= u128::from(u64::MAX);
    }
    if ESTIMATES.contains(&name) {
        mask.vsr = u128::MAX;
        mask.fpscr |= !(VXSNAN | VXSQRT);
        mask.cr |= 0x0f00_0000;
    }
    undefined_status(op, &mut mask);
    if name == "vrldmi" {
        // QEMU 7.2 leaves out the insertion: bits outside of the mask become zero (I 6.9.4).
        mask.vsr = u128::MAX;
    }
    undefined_decimal(row, insn, case, &mut mask);
    undefined_index(row, insn, case, &mut mask);
    undefined_fixed(row, insn, case, &mut mask);
    mask
}

/// What of FPSCR is undefined, or wrong in QEMU 7.2.
fn undefined_status(op: Op, mask: &mut Mask) {
    let name = op.row().mnemonic;
    // QEMU never sets FR and leaves it as it was (I 4.2.2: it tells whether the fraction was incremented).
    mask.fpscr |= FR;
    let compares = name.starts_with("fcmp") || name.starts_with("xscmp");
    if compares {
        // QEMU clears FI and, for an invalid operand, sets C. I 4.6.8: a compare changes neither.
        mask.fpscr |= FI | FPRF_C;
    }
    let to_integer = name.starts_with("fcti") || (name.starts_with("xscv") && (name.contains("dpsx") || name.contains("dpux")));
    if to_integer {
        // I 4.6.7.2: undefined, and the upper half of a word result too.
        mask.fpscr |= FPRF;
        if name.starts_with("fctiw") || name.ends_with("ws") {
            mask.vsr |= u128::from(u32::MAX) << 96;
        }
    }
    if ["fcfids", "fcfidu", "fcfidus"].contains(&name) {
        // QEMU leaves FPRF and FI as they were.
        mask.fpscr |= FPRF | FI;
    }
}

/// Scalar arithmetic with a single-precision result.
fn is_single(name: &str) -> bool {
    name == "frsp" || (name.starts_with('f') && name.ends_with('s')) || (name.starts_with("xs") && name.ends_with("sp"))
}

/// What QEMU 7.2 gets wrong, where it depends on operands or result.
fn wrong_in_qemu(op: Op, case: &Case, ours: &Snapshot, mask: &mut Mask) {
    let name = op.row().mnemonic;
    let insn = Insn(case.word);
    let result = vsr_target(op, insn).map(|target| f64::from_bits((ours.vsr[target] >> 64) as u64));
    // I 7.6: FPRF is the class of a single-precision result as such; QEMU takes that of its double format.
    if is_single(name) && result.is_some_and(|result| result != 0.0 && result.abs() < f64::from(f32::MIN_POSITIVE)) {
        // It rounds twice, first to double precision, and misses that the first step lost something.
        mask.fpscr |= FPRF_C | UX | FX;
        mask.cr |= 0x0800_0000;
    }
    let arithmetic = ["add", "sub", "mul", "div", "sqrt"].iter().any(|part| name.contains(part));
    if is_single(name) && name.starts_with("xs") && arithmetic {
        // Twice rounded is not the same as once, unless the operands are single precision.
        let wide = [insn.xa(), insn.xb(), insn.xt()].iter().any(|register| {
            let value = f64::from_bits((case.before.vsr[*register] >> 64) as u64);
            value.is_finite() && f64::from(value as f32) != value
        });
        if wide {
            mask.vsr = u128::MAX;
            mask.fpscr |= FI | UX | OX | XX | FX | FPRF;
        }
    }
    match name {
        // I 4.2.2: setting an exception bit sets FX. NI has no meaning on POWER9 and QEMU does not keep it.
        "mtfsb1" => {
            mask.fpscr |= FX | NI;
            mask.cr |= 0x0800_0000;
        }
        // An exponent below single precision's counts as denormal; QEMU confuses the two signs then.
        "xststdcsp" => {
            let exponent = case.before.vsr[insn.xb()] >> 116 & 0x7ff;
            if (1..0x381).contains(&exponent) {
                mask.cr |= 0x2222_2222;
                mask.fpscr |= 0x2000;
            }
        }
        // A signaling second operand after a quiet first one.
        // I 7.6: not greater and not less means the second operand, whatever the signs of zeros.
        "xsmaxcdp" | "xsmincdp" => {
            let magnitudes = [insn.xa(), insn.xb()].map(|register| case.before.vsr[register] << 1 >> 65);
            if magnitudes == [0, 0] {
                mask.vsr = u128::MAX;
            }
        }
        // Rounding to odd must end in an odd bit; QEMU rounds this one to nearest.
        "xsnmsubqpo" if ours.fpscr & FI != 0 => {
            mask.vsr = u128::MAX;
            mask.fpscr |= FPRF | UX | FX;
        }
        "xsmaxjdp" | "xsminjdp" => mask.fpscr |= FX | 0x2000_0000 | VXSNAN,
        _ => {}
    }
    if (name.contains("madd") || name.contains("msub")) && ours.fpscr & VXIMZ != 0 {
        // Infinity times zero plus a signaling NaN raises both.
        mask.fpscr |= VXSNAN;
    }
    if name.starts_with("xv") {
        // QEMU changes FI, forgets underflow of one element when another overflows, and lets an invalid element spoil the
        // conversions of those after it.
        mask.fpscr |= FI;
        if ours.fpscr & OX != 0 {
            mask.fpscr |= UX;
        }
        if name.starts_with("xvcv") && ours.fpscr & VXCVI != 0 {
            mask.vsr = u128::MAX;
        }
    }
}

/// QEMU sets FX with every exception; I 4.2.2 wants it only when an exception bit goes from 0 to 1.
fn spurious_fx(before: u64, ours: u64) -> (u64, u32) {
    const EXCEPTIONS: u64 = 0x1ff8_0700;
    const CR1_FX: u32 = 0x0800_0000;
    if ours & !before & EXCEPTIONS == 0 && before & FX == 0 { (FX, CR1_FX) } else { (0, 0) }
}

/// I 6.17: from an operand that is no decimal number comes an undefined result. QEMU 7.2 then misses some of them in CR6:
/// it looks no further than the digits it needs.
fn undefined_decimal(row: &Row, insn: Insn, case: &Case, mask: &mut Mask) {
    const CR6: u32 = 0xf0;
    let name = row.mnemonic;
    let (a, b) = (case.before.vsr[32 + insn.ra()], case.before.vsr[32 + insn.rb()]);
    let digits = |value: u128, from: u32| (from..32).all(|nibble| value >> (4 * nibble) & 0xf < 10);
    let signed = |value: u128| digits(value, 1) && value & 0xf >= 10;
    let valid = match name {
        "bcdadd." | "bcdsub." | "bcdcpsgn." => signed(a) && signed(b),
        "bcdctn." | "bcdctz." | "bcdctsq." | "bcdsetsgn." | "bcds." | "bcdsr." | "bcdtrunc." => signed(b),
        "bcdus." | "bcdutrunc." => digits(b, 0),
        "bcdcfsq." => (b as i128).unsigned_abs() < 10u128.pow(31),
        "bcdcfn." | "bcdcfz." => return undefined_from_characters(name, insn, b, mask),
        _ => return,
    };
    if !valid {
        mask.vsr = u128::MAX;
        mask.cr |= CR6;
    }
    // QEMU 7.2 reads operands after it wrote a result over them, takes the sign of an unsigned result from its last digit, and
    // a length from 2^15 on as negative.
    let overwritten = insn.rt() == insn.rb() || insn.rt() == insn.ra();
    match name {
        "bcdus." => mask.cr |= CR6,
        "bcdctsq." | "bcdadd." | "bcdsub." if overwritten => mask.cr |= CR6,
        // It calls the sum of two zeros positive as well as zero, and lets it keep their sign.
        "bcdadd." | "bcdsub." if a >> 4 == 0 && b >> 4 == 0 => {
            mask.vsr |= 0xf;
            mask.cr |= CR6;
        }
        "bcdcpsgn." if overwritten => {
            mask.vsr |= 0xf;
            mask.cr |= CR6;
        }
        // It rounds by the 31st digit when more are shifted out.
        "bcdsr." if (a >> 64) as i8 <= -32 => {
            mask.vsr |= u128::MAX;
            mask.cr |= CR6;
        }
        "bcdtrunc." | "bcdutrunc." if a >> 64 & 0xffff >= 0x7fff => {
            mask.vsr = u128::MAX;
            mask.cr |= CR6;
        }
        _ => {}
    }
}

/// I 6.17.2: national and zoned decimal with a wrong zone, digit or sign.
fn undefined_from_characters(name: &str, insn: Insn, value: u128, mask: &mut Mask) {
    let preferred = insn.bits(22, 22) != 0;
    let valid = if name == "bcdcfn." {
        let sign = value as u16;
        [0x2b, 0x2d].contains(&sign) && (1..8).all(|digit| (0x30..0x3a).contains(&((value >> (16 * digit)) as u16)))
    } else {
        let zone = if preferred { 0xf } else { 0x3 };
        let digits = (0..16).all(|byte| value >> (8 * byte) & 0xf < 10);
        let zones = (1..16).all(|byte| value >> (8 * byte + 4) & 0xf == zone);
        let sign = value >> 4 & 0xf;
        digits && zones && (!preferred || sign >= 10)
    };
    if !valid {
        mask.vsr = u128::MAX;
    }
}

/// I 6.8.8: an index beyond the last element that lies in the register as a whole.
fn undefined_index(row: &Row, insn: Insn, case: &Case, mask: &mut Mask) {
    let last = match row.mnemonic {
        "vextublx" | "vextubrx" => 15,
        "vextuhlx" | "vextuhrx" => 14,
        "vextuwlx" | "vextuwrx" => 12,
        _ => return,
    };
    if case.before.gpr[insn.ra()] & 0xf > last {
        mask.gpr = u64::MAX;
    }
}

fn undefined_fixed(row: &Row, insn: Insn, case: &Case, mask: &mut Mask) {
    let name = row.mnemonic;
    let (ra, rb) = (case.before.gpr[insn.ra()], case.before.gpr[insn.rb()]);
    const CR0_RELATION: u32 = 0xe000_0000;
    // I 3.3.9: the high word of a 32-bit multiply-high, divide or modulo, and CR0 with it.
    let word_result = ["mulhw", "mulhwu", "divw", "divwu", "divwe", "divweu", "modsw", "moduw"].contains(&name);
    if word_result {
        mask.gpr |= 0xffff_ffff_0000_0000;
        if row.has_rc && insn.record() {
            mask.cr |= CR0_RELATION;
        }
    }
    let (a32, b32) = (ra as u32, rb as u32);
    let undefined_quotient = match name {
        "divw" | "modsw" => b32 == 0 || (a32 == 1 << 31 && b32 == u32::MAX),
        "divwu" | "moduw" => b32 == 0,
        "divd" | "modsd" => rb == 0 || (ra == 1 << 63 && rb == u64::MAX),
        "divdu" | "modud" => rb == 0,
        "divwe" => divwe_overflows(a32, b32),
        "divweu" => b32 == 0 || a32 >= b32,
        "divde" => divde_overflows(ra, rb),
        "divdeu" => rb == 0 || ra >= rb,
        _ => false,
    };
    if name == "divde" && undefined_quotient {
        // QEMU 7.2 misses overflows of quotients from 2^63 on.
        mask.xer |= OVERFLOW;
        mask.cr |= 0x1000_0000;
    }
    if undefined_quotient {
        mask.gpr = u64::MAX;
        mask.cr |= CR0_RELATION;
    }
}

fn divwe_overflows(a: u32, b: u32) -> bool {
    let b = i64::from(b as i32);
    (i64::from(a as i32) << 32).checked_div(b).is_none_or(|quotient| i32::try_from(quotient).is_err())
}

fn divde_overflows(a: u64, b: u64) -> bool {
    let b = i128::from(b as i64);
    (i128::from(a as i64) << 64).checked_div(b).is_none_or(|quotient| i64::try_from(quotient).is_err())
}

/// True if the two outcomes agree as far as the architecture defines them.
pub fn agree(op: Op, case: &Case, ours: &Outcome, theirs: &Outcome) -> bool {
    if ours.ending != theirs.ending {
        return wrong_signal_in_qemu(op, case, ours.ending, theirs.ending);
    }
    differences(op, case, ours, theirs).is_empty()
}

/// QEMU 7.2 keeps an exception of an instruction that does not look for it (vector comparisons) until another one does, looks at
/// one kind only for all elements, forgets the exceptions of estimates, takes a denormal maximum for an underflow, and misses
/// underflows of single precision by rounding to double precision first.
fn wrong_signal_in_qemu(op: Op, case: &Case, ours: Ending, theirs: Ending) -> bool {
    const SIGFPE: Ending = Ending::Signal(8);
    const ENABLES: u64 = 0xf8;
    let name = op.row().mnemonic;
    let moves_to_fpscr = name.starts_with("mt") || name.starts_with("mffs");
    match (ours, theirs) {
        (SIGFPE, Ending::Completed) => {
            case.before.fpscr & ENABLES != 0
                && (name.starts_with("xv")
                    || is_single(name)
                    || ESTIMATES.contains(&name)
                    || ["xsmaxjdp", "xsminjdp"].contains(&name))
        }
        (Ending::Completed, SIGFPE) if !moves_to_fpscr => {
            case.before.fpscr & ENABLES == 0 || ["xv", "xsmax", "xsmin"].iter().any(|start| name.starts_with(start))
        }
        _ => false,
    }
}

/// The differences that count between two outcomes with one ending: name, our value, QEMU's value. Of a signal only that it
/// came: its handler finds FPSCR cleared, and targets that QEMU writes where the ISA keeps them.
fn differences(op: Op, case: &Case, ours: &Outcome, theirs: &Outcome) -> Vec<(String, String, String)> {
    if ours.ending != Ending::Completed {
        return Vec::new();
    }
    let (ours, theirs) = (&ours.after, &theirs.after);
    let mut mask = mask(op, case);
    let insn = Insn(case.word);
    if op.row().facility != Facility::Base && !case.is_program() {
        wrong_in_qemu(op, case, ours, &mut mask);
        let (fx, cr1_fx) = spurious_fx(case.before.fpscr, ours.fpscr);
        mask.fpscr |= fx;
        if matches!(op, Op::Float(_)) && insn.record() {
            mask.cr |= cr1_fx;
        }
    }
    let mut found = Vec::new();
    let mut check = |name: String, ours: u128, theirs: u128, ignored: u128, digits: usize| {
        if (ours ^ theirs) & !ignored != 0 {
            found.push((name, format!("{ours:0digits$x}"), format!("{theirs:0digits$x}")));
        }
    };
    let vsr_target = vsr_target(op, insn);
    for (index, (ours, theirs)) in ours.vsr.iter().zip(&theirs.vsr).enumerate() {
        let ignored = if Some(index) == vsr_target { mask.vsr } else { 0 };
        check(format!("vs{index}"), *ours, *theirs, ignored, 32);
    }
    check("fpscr".into(), u128::from(ours.fpscr), u128::from(theirs.fpscr), u128::from(mask.fpscr), 8);
    let gpr_target = insn.rt();
    for (index, (ours, theirs)) in ours.gpr.iter().zip(&theirs.gpr).enumerate() {
        let ignored = if index == gpr_target { mask.gpr } else { 0 };
        check(format!("r{index}"), u128::from(*ours), u128::from(*theirs), u128::from(ignored), 16);
    }
    check("lr".into(), u128::from(ours.lr), u128::from(theirs.lr), 0, 16);
    check("ctr".into(), u128::from(ours.ctr), u128::from(theirs.ctr), 0, 16);
    check("cr".into(), u128::from(ours.cr), u128::from(theirs.cr), u128::from(mask.cr), 8);
    let reserved = u128::from(!XER_DEFINED);
    check("xer".into(), u128::from(ours.xer), u128::from(theirs.xer), u128::from(mask.xer) | reserved, 8);
    // Reserved bits read as zero or as what was written.
    check("vscr".into(), u128::from(ours.vscr), u128::from(theirs.vscr), !VSCR_DEFINED, 8);
    for (index, (ours, theirs)) in ours.scratch.chunks(16).zip(theirs.scratch.chunks(16)).enumerate() {
        if ours != theirs {
            found.push((format!("scratch+{}", 16 * index), hex(ours), hex(theirs)));
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The VSR that an instruction writes, if it writes one.
fn vsr_target(op: Op, insn: Insn) -> Option<usize> {
    fields(op.row()).into_iter().find_map(|field| {
        let number = field.get(insn.0) as usize;
        match field.name {
            "FRT" | "FRTp" | "XT" => Some(number),
            "VRT" => Some(32 + number),
            _ => None,
        }
    })
}

/// A mismatch as text: the instruction, its operands before, and what differs after.
pub fn describe(case: &Case, endian: crate::case::Endian, ours: &Outcome, theirs: &Outcome) -> String {
    let mut text = String::new();
    let Some(op) = decode(Insn(case.word)) else {
        return format!("{:#010x} is no instruction", case.word);
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{endian:?}-endian");
    for (index, word) in case.words().enumerate() {
        let _ = writeln!(text, "  {word:08x}  {}", disassemble(word, 4 * index as u64));
    }
    if case.is_program() {
        let _ = writeln!(text, "  before  {}", registers_before(case));
    } else {
        let _ = writeln!(text, "  before  {}", operands_before(op, case));
    }
    if ours.ending != theirs.ending {
        let _ = writeln!(text, "  ended   ours {:?}, QEMU {:?}", ours.ending, theirs.ending);
    } else {
        for (name, ours, theirs) in differences(op, case, ours, theirs) {
            let _ = writeln!(text, "  {name:<9} ours {ours}\n            QEMU {theirs}");
        }
    }
    text
}

fn registers_before(case: &Case) -> String {
    let before = &case.before;
    let registers: Vec<String> = before.gpr.iter().enumerate().map(|(n, value)| format!("r{n}={value:x}")).collect();
    format!("{} lr={:x} ctr={:x} cr={:08x} xer={:08x}", registers.join(" "), before.lr, before.ctr, before.cr, before.xer)
}

fn operands_before(op: Op, case: &Case) -> String {
    use paperboat_softcpu::table::operand::Kind;
    let before = &case.before;
    let mut parts: Vec<String> = fields(op.row())
        .into_iter()
        .filter_map(|field| {
            let n = field.get(case.word) as usize;
            match field.kind {
                Kind::Gpr | Kind::GprPair | Kind::GprOrZero => Some(format!("r{n}={:x}", before.gpr[n])),
                Kind::Fpr | Kind::FprPair => Some(format!("f{n}={:016x}", before.vsr[n] >> 64)),
                Kind::Vr => Some(format!("v{n}={:032x}", before.vsr[32 + n])),
                Kind::Vsr => Some(format!("vs{n}={:032x}", before.vsr[n])),
                _ => None,
            }
        })
        .collect();
    parts.push(format!("cr={:08x} xer={:08x}", before.cr, before.xer));
    if matches!(op, Op::Branch(_)) {
        parts.push(format!("lr={:x} ctr={:x}", before.lr, before.ctr));
    }
    if op.row().facility != Facility::Base {
        parts.push(format!("fpscr={:08x} vscr={:08x}", before.fpscr, before.vscr));
    }
    parts.join(" ")
}
