//! Loops that copy memory, many turns at once.
//!
//! Linux and the C library copy with loops of one block, or two where a page ends in between: as many loads as make up a stride, the source moved on, as many stores, the
//! destination moved on, `bdnz`. Their decoded blocks end in a branch of its own ([`Uop::CopyingBdnz`]), which does whole turns on the host as long
//! as both strides lie in pages that the soft TLB knows. Each turn loads all of its stride before it stores any, as the instructions do,
//! and leaves the registers that they would leave; turns that touch a page's end, a page unknown or a device are the interpreter's.

use super::block::{CodeCache, MAX_BLOCK};
use super::tlb::PAGE_SIZE;
use super::uop::Uop;
use super::{Cpu, Ram};
use crate::vector::{first_of_row, from_byte};

/// How a loop copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Copying {
    /// ld …, addi, std …, addi.
    Doublewords,
    /// lvx …, addi, stvx …, addi.
    Quadwords,
    /// lvx and vperm with the quadword before …, addi, stvx …, addi: the source is not aligned as the destination is.
    Shifted,
}

/// Most doublewords of a turn: one for each register.
const MAX_WORDS: usize = 64;
const QUAD_BYTES: u64 = 16;

/// Gives the block's copying loop, if it begins with one, its own branch. Returns how many micro-ops the loop has with it: they are to
/// stay as they are.
pub fn mark(uops: &mut [Uop]) -> usize {
    let Some(end) = uops.iter().position(|uop| matches!(uop, Uop::Bdnz { .. })) else { return 0 };
    let Uop::Bdnz { offset } = uops[end] else { return 0 };
    if i64::from(offset) != -4 * end as i64 {
        return 0;
    }
    let Some(kind) = kind_of(&uops[..end]) else { return 0 };
    uops[end] = Uop::CopyingBdnz { kind, offset };
    end + 1
}

/// The same for a loop that ends in this block, which begins a page, and begins in the page before: whether it copies is seen when it runs.
pub fn mark_across(uops: &mut [Uop]) -> usize {
    let Some(end) = uops.iter().position(|uop| matches!(uop, Uop::Bdnz { .. })) else { return 0 };
    let Uop::Bdnz { offset } = uops[end] else { return 0 };
    let turns_back = -4 * MAX_BLOCK as i64 <= i64::from(offset) && i64::from(offset) < -4 * end as i64;
    // As every copying loop does just before.
    let moves_on = end > 0 && matches!(uops[end - 1], Uop::Addi { rt, ra, .. } if rt == ra);
    if !turns_back || !moves_on {
        return 0;
    }
    uops[end] = Uop::FarCopyingBdnz { offset };
    end + 1
}

/// Bits of the register numbers in `registers`, if none is there twice.
fn distinct(registers: impl IntoIterator<Item = u8>) -> Option<u32> {
    registers.into_iter().try_fold(0u32, |seen, register| {
        let bit = 1 << (register & 31);
        (seen & bit == 0).then_some(seen | bit)
    })
}

/// The loads and the stores of a body, and the registers with the addresses, if strides and their order are a copy's.
struct Body<'a> {
    loads: &'a [Uop],
    stores: &'a [Uop],
    from: u8,
    to: u8,
}

/// Takes a body apart that has `per_load` micro-ops for each of its loads, which take `bytes` each.
fn apart(body: &[Uop], per_load: usize, bytes: u64) -> Option<Body<'_>> {
    let count = body.len().checked_sub(2)? / (per_load + 1);
    if count == 0 || body.len() != count * (per_load + 1) + 2 || count as u64 * bytes > 8 * MAX_WORDS as u64 {
        return None;
    }
    let (loads, rest) = body.split_at(count * per_load);
    let (stores, last) = rest.get(1..)?.split_at(count);
    let stride = |uop: &Uop| match *uop {
        Uop::Addi { rt, ra, imm } if rt == ra && i64::from(imm) == (count as u64 * bytes) as i64 => Some(rt),
        _ => None,
    };
    let (from, to) = (stride(&rest[0])?, stride(last.first()?)?);
    (from != to).then_some(Body { loads, stores, from, to })
}

/// The vector register and, for all but the first, the index register of the load or store number `k` at `base`.
fn quad(uop: Uop, k: usize, base: u8) -> Option<(u8, Option<u8>)> {
    match uop {
        Uop::LvxAt { rt: register, rb } | Uop::StvxAt { rs: register, rb } if k == 0 && rb == base => Some((register, None)),
        Uop::Lvx { rt: register, ra, rb } | Uop::Stvx { rs: register, ra, rb } if k != 0 && ra == base => {
            Some((register, Some(rb)))
        }
        _ => None,
    }
}

fn is_load(uop: Uop) -> bool {
    matches!(uop, Uop::LvxAt { .. } | Uop::Lvx { .. })
}

fn kind_of(body: &[Uop]) -> Option<Copying> {
    doublewords(body).or_else(|| quadwords(body)).or_else(|| shifted(body))
}

fn doublewords(body: &[Uop]) -> Option<Copying> {
    let Body { loads, stores, from, to } = apart(body, 1, 8)?;
    let mut registers = vec![from, to];
    for (k, (load, store)) in loads.iter().zip(stores).enumerate() {
        let at = 8 * k as i32;
        match (*load, *store) {
            (Uop::Ld { rt, ra, imm }, Uop::Std { rs, ra: ra2, imm: imm2 })
                if rt == rs && ra == from && ra2 == to && imm == at && imm2 == at =>
            {
                registers.push(rt);
            }
            _ => return None,
        }
    }
    distinct(registers).map(|_| Copying::Doublewords)
}

fn quadwords(body: &[Uop]) -> Option<Copying> {
    let Body { loads, stores, from, to } = apart(body, 1, QUAD_BYTES)?;
    let mut vectors = Vec::new();
    for (k, (load, store)) in loads.iter().zip(stores).enumerate() {
        let ((loaded, index), (stored, index2)) = (quad(*load, k, from)?, quad(*store, k, to)?);
        if !is_load(*load)
            || is_load(*store)
            || loaded != stored
            || [index, index2].iter().flatten().any(|i| [from, to].contains(i))
        {
            return None;
        }
        vectors.push(loaded);
    }
    distinct(vectors).map(|_| Copying::Quadwords)
}

fn shifted(body: &[Uop]) -> Option<Copying> {
    let Body { loads, stores, from, to } = apart(body, 2, QUAD_BYTES)?;
    let count = stores.len();
    if count < 2 {
        // The one load would overwrite the quadword before.
        return None;
    }
    let (mut before, _) = quad(loads[2 * count - 2], count - 1, from)?;
    let mut vectors = Vec::new();
    let mut control = None;
    for (k, (pair, store)) in loads.chunks_exact(2).zip(stores).enumerate() {
        let ((loaded, index), (stored, index2)) = (quad(pair[0], k, from)?, quad(*store, k, to)?);
        let Uop::Vperm { rt, ra, rb, rc } = pair[1] else { return None };
        let chained = rt == stored && ra == loaded && rb == before && control.replace(rc).is_none_or(|rc2| rc2 == rc);
        if !is_load(pair[0]) || is_load(*store) || !chained || [index, index2].iter().flatten().any(|i| [from, to].contains(i)) {
            return None;
        }
        before = loaded;
        vectors.extend([loaded, stored]);
    }
    vectors.push(control?);
    distinct(vectors).map(|_| Copying::Shifted)
}

/// Does as many turns of the loop with this `body` as can be done now, all but the last: CTR counts them, and `cpu.instructions` has them.
/// `uncounted` instructions, the branch among them, are still to be counted.
#[inline(never)]
pub(super) fn repeat(cpu: &mut Cpu, body: &[Uop], kind: Copying, uncounted: u64) {
    let length = body.len() as u64 + 1;
    // A check that is due within a turn finds the interpreter at work, at the boundary where it would have found it without this.
    let until_check = cpu.check_at.saturating_sub(cpu.instructions + uncounted + 1) / length;
    let most = (cpu.st.ctr - 1).min(until_check);
    let turns = match kind {
        Copying::Doublewords => apart(body, 1, 8).map_or(0, |body| copy_doublewords(cpu, &body, most)),
        Copying::Quadwords => apart(body, 1, QUAD_BYTES).map_or(0, |body| copy_quadwords(cpu, &body, most)),
        Copying::Shifted => apart(body, 2, QUAD_BYTES).map_or(0, |body| copy_shifted(cpu, &body, most)),
    };
    cpu.st.ctr -= turns;
    cpu.instructions += turns * length;
}

/// The same for a loop whose beginning is in the page before: at `target`, which `end` branches to.
#[inline(never)]
pub(super) fn repeat_across(cpu: &mut Cpu, code: &CodeCache, mode: u32, end: &[Uop], target: u64) {
    let count = ((PAGE_SIZE - target % PAGE_SIZE) / 4) as usize;
    let Some(begin) = cpu.storage.fetch_fast(target, mode).and_then(|page| code.block(page, target)) else { return };
    if begin.len() != count || count + end.len() > MAX_BLOCK {
        return;
    }
    let mut body = [Uop::Nop; MAX_BLOCK];
    for (into, uop) in body.iter_mut().zip(begin) {
        // The second of a pair stands behind it as it was.
        *into = match *uop {
            Uop::LdLd { rt, ra, imm, .. } => Uop::Ld { rt, ra, imm: imm.into() },
            Uop::StdStd { rs, ra, imm, .. } => Uop::Std { rs, ra, imm: imm.into() },
            other => other,
        };
    }
    body[count..count + end.len()].copy_from_slice(end);
    let body = &body[..count + end.len()];
    if let Some(kind) = kind_of(body) {
        repeat(cpu, body, kind, end.len() as u64 + 1);
    }
}

/// Calls `turn(memory, source, destination)`, real addresses, for up to `most` turns of `stride` bytes; both address registers move on. `mask` is what is
/// used of an address. Returns how many turns.
fn turns(cpu: &mut Cpu, body: &Body<'_>, stride: u64, mask: u64, most: u64, mut turn: impl FnMut(&Ram, u64, u64)) -> u64 {
    let (from, to) = (usize::from(body.from & 31), usize::from(body.to & 31));
    let mut done = 0;
    while done < most {
        let (source, destination) = (cpu.st.gpr[from] & mask, cpu.st.gpr[to] & mask);
        let Some((mut source_ra, mut destination_ra)) = cpu.storage.known(source, destination) else { break };
        let left = |ea: u64| (PAGE_SIZE - ea % PAGE_SIZE) / stride;
        let count = left(source).min(left(destination)).min(most - done);
        if count == 0 {
            break;
        }
        let ram = cpu.storage.ram();
        for _ in 0..count {
            turn(ram, source_ra, destination_ra);
            source_ra += stride;
            destination_ra += stride;
        }
        cpu.st.gpr[from] = cpu.st.gpr[from].wrapping_add(count * stride);
        cpu.st.gpr[to] = cpu.st.gpr[to].wrapping_add(count * stride);
        done += count;
    }
    done
}

fn copy_doublewords(cpu: &mut Cpu, body: &Body<'_>, most: u64) -> u64 {
    let mut words = [0; MAX_WORDS];
    let words = &mut words[..body.loads.len()];
    let done = turns(cpu, body, 8 * words.len() as u64, u64::MAX, most, |ram, source, destination| {
        ram.load_doublewords(source, words);
        ram.store_doublewords(destination, words);
    });
    if done != 0 {
        for (load, word) in body.loads.iter().zip(words) {
            if let Uop::Ld { rt, .. } = *load {
                cpu.st.gpr[usize::from(rt & 31)] = *word;
            }
        }
    }
    done
}

/// True if the index registers of loads or stores say one quadword after the other.
fn in_order<'a>(cpu: &Cpu, mut uops: impl Iterator<Item = &'a Uop>) -> bool {
    uops.next();
    (1..).zip(uops).all(|(k, uop)| match *uop {
        Uop::Lvx { rb, .. } | Uop::Stvx { rb, .. } => cpu.st.gpr[usize::from(rb & 31)] == k * QUAD_BYTES,
        _ => false,
    })
}

/// A quadword of a turn.
fn quad_at(words: &[u64], k: usize) -> u128 {
    u128::from(words[2 * k]) | u128::from(words[2 * k + 1]) << 64
}

/// The vector register that a load, a store or a permute names first.
fn vector(uop: Uop) -> usize {
    match uop {
        Uop::LvxAt { rt: n, .. } | Uop::Lvx { rt: n, .. } | Uop::StvxAt { rs: n, .. } | Uop::Stvx { rs: n, .. } => {
            32 + usize::from(n & 31)
        }
        _ => unreachable!("the loop was looked at when it was decoded"),
    }
}

fn copy_quadwords(cpu: &mut Cpu, body: &Body<'_>, most: u64) -> u64 {
    if !in_order(cpu, body.loads.iter()) || !in_order(cpu, body.stores.iter()) {
        return 0;
    }
    let mut words = [0; MAX_WORDS];
    let words = &mut words[..2 * body.loads.len()];
    let done = turns(cpu, body, 8 * words.len() as u64, !(QUAD_BYTES - 1), most, |ram, source, destination| {
        ram.load_doublewords(source, words);
        ram.store_doublewords(destination, words);
    });
    if done != 0 {
        for (k, load) in body.loads.iter().enumerate() {
            cpu.st.vsr[vector(*load)] = quad_at(words, k);
        }
    }
    done
}

fn copy_shifted(cpu: &mut Cpu, body: &Body<'_>, most: u64) -> u64 {
    let (loads, permutes) = (body.loads.iter().step_by(2), body.loads.iter().skip(1).step_by(2));
    let Some(Uop::Vperm { rb: before, rc, .. }) = permutes.clone().next().copied() else { return 0 };
    let Some(first) = first_of_row(cpu.st.vsr[32 + usize::from(rc & 31)]) else { return 0 };
    if !in_order(cpu, loads.clone()) || !in_order(cpu, body.stores.iter()) {
        return 0;
    }
    let mut before = cpu.st.vsr[32 + usize::from(before & 31)];
    let (mut words, mut moved) = ([0; MAX_WORDS], [0; MAX_WORDS]);
    let (words, moved) = (&mut words[..2 * body.stores.len()], &mut moved[..2 * body.stores.len()]);
    let done = turns(cpu, body, 8 * words.len() as u64, !(QUAD_BYTES - 1), most, |ram, source, destination| {
        ram.load_doublewords(source, words);
        for k in 0..words.len() / 2 {
            let loaded = quad_at(words, k);
            let both = from_byte(loaded, before, first);
            (moved[2 * k], moved[2 * k + 1]) = (both as u64, (both >> 64) as u64);
            before = loaded;
        }
        ram.store_doublewords(destination, moved);
    });
    if done != 0 {
        for (k, (load, store)) in loads.zip(body.stores).enumerate() {
            cpu.st.vsr[vector(*load)] = quad_at(words, k);
            cpu.st.vsr[vector(*store)] = quad_at(moved, k);
        }
    }
    done
}

#[cfg(test)]
mod tests;
