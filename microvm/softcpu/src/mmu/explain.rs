//! The walk as text, step by step, as one would draw it on a board.

use std::fmt::Write;

use super::Access;
use super::hpt::{GROUP, HPTE_C, HPTE_H, HPTE_R, Hpt, Hpte};
use super::page::{HPTE_RPN, SegmentSize};
use super::slb::{Slb, SlbEntry};
use super::translate::{Probe, Rights, TranslationContext, search};

/// Describes how `ea` is translated: ESID → VSID → hash → group → slot → real address, and what may be done there.
/// Nothing is recorded in R or C.
pub fn explain(context: &TranslationContext, slb: &Slb, hpt: &Hpt, ea: u64) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = walk(&mut out, context, slb, hpt, ea);
    out
}

fn walk(out: &mut String, context: &TranslationContext, slb: &Slb, hpt: &Hpt, ea: u64) -> std::fmt::Result {
    writeln!(out, "EA    {ea:#018x}")?;
    if !context.relocate {
        let ra = ea & !(0xf << 60);
        let place = if ra < context.ram_bytes { "in RAM" } else { "beyond RAM: storage interrupt" };
        return writeln!(out, "RA    {ra:#018x}  real mode, {place}");
    }
    let Some((index, segment)) = slb.lookup(ea) else {
        return writeln!(out, "SLB   no entry covers it: segment interrupt");
    };
    explain_segment(out, index, segment, ea)?;
    let Some(probe) = Probe::new(segment, ea) else {
        return writeln!(out, "      unknown page size encoding: storage interrupt");
    };
    writeln!(out, "hash  primary {:#x}, secondary {:#x}", probe.hash, !probe.hash)?;
    let found = search(hpt, segment, ea);
    for (name, hash, h) in [("primary", probe.hash, 0), ("secondary", !probe.hash, HPTE_H)] {
        let group = hpt.group(hash);
        writeln!(
            out,
            "PTEG  {name} group {:#x}, table offset {:#x}, looking for {:#018x}",
            group / GROUP,
            group * 16,
            probe.v | h
        )?;
        for ptex in group..group + GROUP {
            let entry = hpt.entry(ptex);
            let matched = found.as_ref().is_some_and(|found| found.ptex == ptex);
            if entry.is_valid() {
                let mark = if matched { "→" } else { " " };
                writeln!(out, "    {mark} slot {} {:#018x} {:#018x}", ptex % GROUP, entry.v, entry.r)?;
            }
            if matched {
                break;
            }
        }
        if found.as_ref().is_some_and(|found| (group..group + GROUP).contains(&found.ptex)) {
            break;
        }
    }
    let Some(found) = found else {
        return writeln!(out, "      no entry matches: storage interrupt");
    };
    let offset = (1u64 << found.page_shift) - 1;
    let ra = found.entry.r & HPTE_RPN & !offset | ea & offset;
    writeln!(
        out,
        "PTE   index {:#x}, page of {} KiB, {}",
        found.ptex,
        (1u64 << found.page_shift) >> 10,
        attributes(found.entry)
    )?;
    let rights = Rights::of(context, segment, found.entry);
    let may = |access| if rights.refuses(access).is_none() { "yes" } else { "no" };
    let fetch = if segment.no_execute() { "no" } else { may(Access::Fetch) };
    writeln!(out, "may   load {}, store {}, fetch {fetch}", may(Access::Load), may(Access::Store))?;
    let place = if ra < context.ram_bytes { "RAM" } else { "device" };
    writeln!(out, "RA    {ra:#018x}  {place}")
}

fn explain_segment(out: &mut String, index: usize, segment: &SlbEntry, ea: u64) -> std::fmt::Result {
    let (size, name) = match segment.segment_size() {
        Some(SegmentSize::T1) => (40, "1T"),
        _ => (28, "256M"),
    };
    let base = match segment.base_page() {
        Some(base) => format!("{}K", (1u64 << base.shift) >> 10),
        None => "unknown".to_owned(),
    };
    writeln!(
        out,
        "SLB   entry {index}: {name} segment, ESID {:#x} → VSID {:#x}, base page {base}, Ks {} Kp {} N {} C {}",
        ea >> size,
        segment.vsid(),
        u8::from(segment.key(false)),
        u8::from(segment.key(true)),
        u8::from(segment.no_execute()),
        u8::from(segment.class())
    )?;
    let va = u128::from(segment.vsid()) << size | u128::from(ea & ((1 << size) - 1));
    writeln!(out, "VA    {va:#022x}")
}

fn attributes(entry: Hpte) -> String {
    let bit = |mask: u64, name: &str| if entry.r & mask != 0 { name.to_owned() } else { "-".repeat(name.len()) };
    let pp = (entry.r >> 61 & 4) | entry.r & 3;
    let key = (entry.r >> 57 & 0x18) | (entry.r >> 9 & 7);
    let wimg: String = [(0x40, "W"), (0x20, "I"), (0x10, "M"), (0x08, "G")].iter().map(|(mask, name)| bit(*mask, name)).collect();
    format!("pp {pp:03b}, key {key}, {wimg}, {}{}{}", bit(4, "N"), bit(HPTE_R, "R"), bit(HPTE_C, "C"))
}
