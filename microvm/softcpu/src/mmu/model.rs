//! A slow model of SLB, page table and hypercalls, written from the text of ISA 3.0B III 5.7 and LoPAR 14.5.4 with bits
//! numbered as there (0 is the most significant), and a random test that drives it and the real thing side by side.

use super::*;
use paperboat_hypervisor::GuestRam;

/// Bits `first..=last` of a doubleword in the ISA's numbering.
fn bits(word: u64, first: u32, last: u32) -> u64 {
    let mut value = 0;
    for bit in first..=last {
        value = value << 1 | (word >> (63 - bit) & 1);
    }
    value
}

fn bit(word: u64, n: u32) -> bool {
    bits(word, n, n) == 1
}

#[derive(Clone, Copy, Default)]
struct Segment {
    esid: u64,
    valid: bool,
    b: u64,
    vsid: u64,
    ks: bool,
    kp: bool,
    n: bool,
    l: bool,
    class: bool,
    lp: u64,
}

impl Segment {
    fn size_log2(&self) -> Option<u32> {
        match self.b {
            0b00 => Some(28),
            0b01 => Some(40),
            _ => None,
        }
    }

    fn holds(&self, ea: u64) -> bool {
        match self.size_log2() {
            Some(28) => self.valid && bits(ea, 0, 35) == self.esid,
            Some(_) => self.valid && bits(ea, 0, 23) == self.esid >> 12,
            None => false,
        }
    }

    fn base_page_log2(&self) -> Option<u32> {
        match (self.l, self.lp) {
            (false, 0b00) => Some(12),
            (true, 0b01) => Some(16),
            (true, 0b00) => Some(24),
            _ => None,
        }
    }
}

/// Page size of an entry found through a segment of base page size 2^b (the table of POWER9's user manual).
fn page_log2(dw0: u64, dw1: u64, b: u32) -> Option<u32> {
    if !bit(dw0, 61) {
        return if b == 12 { Some(12) } else { None };
    }
    let sixteen_mega = bits(dw1, 40, 51);
    let sixty_four_kilo = bits(dw1, 48, 51);
    match b {
        12 if sixty_four_kilo == 0b0111 => Some(16),
        12 if sixteen_mega == 0b0000_0011_1000 => Some(24),
        16 if sixty_four_kilo == 0b0001 => Some(16),
        16 if sixteen_mega == 0b0000_0000_1000 => Some(24),
        24 if sixteen_mega == 0 => Some(24),
        _ => None,
    }
}

struct Model {
    slb: Vec<Segment>,
    table: Vec<(u64, u64)>,
    ram_bytes: u64,
}

impl Model {
    fn new(order: u32, ram_bytes: u64) -> Self {
        Self { slb: vec![Segment::default(); 32], table: vec![(0, 0); 1 << (order - 4)], ram_bytes }
    }

    fn slbmte(&mut self, rs: u64, rb: u64) {
        self.slb[bits(rb, 59, 63) as usize] = Segment {
            esid: bits(rb, 0, 35),
            valid: bit(rb, 36),
            b: bits(rs, 0, 1),
            vsid: bits(rs, 2, 51),
            ks: bit(rs, 52),
            kp: bit(rs, 53),
            n: bit(rs, 54),
            l: bit(rs, 55),
            class: bit(rs, 56),
            lp: bits(rs, 58, 59),
        };
    }

    fn slbie(&mut self, rb: u64) {
        for segment in &mut self.slb {
            let whole = Segment { esid: segment.esid, valid: true, b: bits(rb, 37, 38), ..*segment };
            if segment.b == bits(rb, 37, 38) && whole.holds(rb) {
                segment.valid = false;
            }
        }
    }

    fn slbia(&mut self, ih: u32) {
        for (index, segment) in self.slb.iter_mut().enumerate() {
            match ih {
                0b111 => {}
                0b100 => segment.valid = false,
                0b011 => segment.valid &= !segment.class,
                _ => segment.valid &= index == 0,
            }
        }
    }

    fn vsid_word(segment: &Segment) -> u64 {
        segment.b << 62
            | segment.vsid << 12
            | u64::from(segment.ks) << 11
            | u64::from(segment.kp) << 10
            | u64::from(segment.n) << 9
            | u64::from(segment.l) << 8
            | u64::from(segment.class) << 7
            | segment.lp << 4
    }

    /// Groups to search: the 78-bit virtual address cut into VSID, page and byte, hashed to 39 bits.
    fn groups(&self, segment: &Segment, ea: u64) -> Option<(u128, [u64; 2])> {
        let s = segment.size_log2()?;
        let b = segment.base_page_log2()?;
        let offset = ea & ((1 << s) - 1);
        let page = offset >> b;
        let (va, hash) = if s == 28 {
            ((segment.vsid as u128) << 28 | offset as u128, segment.vsid ^ page)
        } else {
            let vsid = segment.vsid >> 12;
            ((vsid as u128) << 40 | offset as u128, vsid ^ (vsid << 25) ^ page)
        };
        let hash = hash & ((1 << 39) - 1);
        let complement = !hash & ((1 << 39) - 1);
        let count = self.table.len() as u64 / 8;
        Some((va, [hash % count, complement % count]))
    }

    fn find(&self, segment: &Segment, ea: u64) -> Option<(usize, u32)> {
        let (va, groups) = self.groups(segment, ea)?;
        let b = segment.base_page_log2()?;
        // VA bits 0 to 54 stand in the entry; bits inside the page are zero there.
        let wanted = (va >> b << b) >> 23;
        for (h, group) in groups.into_iter().enumerate() {
            for slot in 0..8 {
                let ptex = group as usize * 8 + slot;
                let (dw0, dw1) = self.table[ptex];
                let same = bit(dw0, 63)
                    && bits(dw0, 62, 62) == h as u64
                    && bits(dw0, 0, 1) == segment.b
                    && bits(dw0, 2, 56) as u128 == wanted;
                if let (true, Some(page)) = (same, page_log2(dw0, dw1, b)) {
                    return Some((ptex, page));
                }
            }
        }
        None
    }

    /// Real address, page size and rights (load, store without asking again, fetch), or the fault.
    #[allow(clippy::type_complexity, reason = "a tuple compares well in a test")]
    fn translate(
        &mut self,
        context: &TranslationContext,
        ea: u64,
        access: Access,
    ) -> Result<(u64, u32, bool, bool, bool, usize), Fault> {
        let Some(segment) = self.slb.iter().find(|segment| segment.holds(ea)).copied() else {
            return Err(if access == Access::Fetch { Fault::InstructionSegment } else { Fault::DataSegment { ea } });
        };
        let fault = |isa_bits: &[u32]| {
            let mut word = 0u64;
            for isa_bit in isa_bits {
                word |= 1 << (63 - isa_bit);
            }
            match access {
                Access::Fetch => Fault::InstructionStorage { srr1: word },
                Access::Load => Fault::DataStorage { dsisr: word as u32, ea },
                Access::Store => Fault::DataStorage { dsisr: word as u32 | 1 << (63 - 38), ea },
            }
        };
        if access == Access::Fetch && segment.n {
            return Err(fault(&[35]));
        }
        let Some((ptex, page)) = self.find(&segment, ea) else {
            return Err(fault(&[33]));
        };
        let (dw0, dw1) = self.table[ptex];
        let key = if context.problem_state { segment.kp } else { segment.ks };
        let rights = match (bit(dw1, 0), bits(dw1, 62, 63), key) {
            (false, 0b00 | 0b01, false) | (false, 0b10, _) => "rw",
            (false, 0b11, _) | (false, 0b01, true) | (true, 0b10, false) => "r",
            _ => "",
        };
        let class_key = (bits(dw1, 2, 3) << 3 | bits(dw1, 52, 54)) as u32;
        let load = rights.contains('r');
        let store = rights.contains('w');
        let amr_store = bit(context.amr, 2 * class_key);
        let amr_load = bit(context.amr, 2 * class_key + 1);
        let iamr_fetch = bit(context.iamr, 2 * class_key + 1);
        let no_execute = bit(dw1, 61) || bit(dw1, 60);
        let mut why = Vec::new();
        match access {
            Access::Fetch => {
                why.extend(no_execute.then_some(35));
                why.extend((!load).then_some(36));
                why.extend(iamr_fetch.then_some(42));
            }
            Access::Load => {
                why.extend((!load).then_some(36));
                why.extend(amr_load.then_some(42));
            }
            Access::Store => {
                why.extend((!store).then_some(36));
                why.extend(amr_store.then_some(42));
            }
        }
        if !why.is_empty() {
            return Err(fault(&why));
        }
        let mut dw1 = dw1 | 1 << (63 - 55);
        if access == Access::Store {
            dw1 |= 1 << (63 - 56);
        }
        self.table[ptex] = (dw0, dw1);
        let page_bytes = 1u64 << page;
        let ra = (bits(dw1, 4, 51) << 12) / page_bytes * page_bytes + ea % page_bytes;
        Ok((
            ra,
            page,
            load && !amr_load,
            store && !amr_store && bit(dw1, 56),
            load && !no_execute && !segment.n && !iamr_fetch,
            ptex,
        ))
    }

    fn h_enter(&mut self, exact: bool, ptex: u64, dw0: u64, dw1: u64) -> (i64, Vec<u64>) {
        let Some(page) = [12, 16, 24].into_iter().find_map(|b| page_log2(dw0, dw1, b)) else {
            return (-4, vec![]);
        };
        let start = (bits(dw1, 4, 51) << 12) >> page << page;
        let end = start + (1 << page);
        if ptex >= self.table.len() as u64 || (start < self.ram_bytes && end > self.ram_bytes) {
            return (-4, vec![]);
        }
        for slot in 0..8 {
            let candidate = ptex / 8 * 8 + slot;
            if (!exact || candidate == ptex) && !bit(self.table[candidate as usize].0, 63) {
                self.table[candidate as usize] = ((dw0 & !0b110_0000) | 1, dw1 & !(1 << 62));
                return (0, vec![candidate]);
            }
        }
        (-6, vec![])
    }

    fn remove_if(&mut self, ptex: u64, meant: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        let entry = self.table[ptex as usize];
        if !bit(entry.0, 63) || !meant(entry.0) {
            return None;
        }
        self.table[ptex as usize] = (0, 0);
        Some(entry)
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const ORDER: u32 = 18;
const RAM: u64 = 96 << 20;

/// Few segments and pages, so that accesses hit often.
fn some_ea(rng: &mut Rng) -> u64 {
    let segment = rng.pick(&[0u64, 0x1000_0000, 0x100_0000_0000, 0xc000_0000_0000_0000, 0xc000_0100_0000_0000]);
    let page = rng.pick(&[0u64, 0x1000, 0x1_0000, 0x2_3000, 0x80_0000, 0x100_0000, 0xfff_f000]);
    segment + page + rng.below(0x1000)
}

fn some_segment(rng: &mut Rng) -> (u64, u64) {
    let b = rng.pick(&[0u64, 0, 1, 1, 2]);
    let vsid = rng.pick(&[0u64, 1, 0x1234_5678, 0x3_ffff_ffff_ffff]) << if b == 1 { 24 } else { 12 };
    let size = rng.pick(&[0u64, 0x110, 0x110, 0x100, 0x100, 0x120]);
    let rs = b << 62 | vsid & 0x3fff_ffff_ffff_f000 | size | rng.next() & 0xe80 & rng.next();
    let rb = some_ea(rng) & 0xffff_ffff_f000_0000 | if rng.below(8) == 0 { 0 } else { 0x800_0000 } | rng.below(32);
    (rs, rb)
}

/// An entry that would translate `ea` through one of the segments, or noise.
fn some_entry(rng: &mut Rng, model: &Model) -> (u64, u64, u64) {
    let valid: Vec<Segment> = model.slb.iter().copied().filter(|segment| segment.valid).collect();
    let ea = some_ea(rng);
    let noise = (rng.below(2100 * 8), rng.next(), rng.next());
    if valid.is_empty() || rng.below(16) == 0 {
        return noise;
    }
    let holds: Vec<Segment> = valid.iter().copied().filter(|segment| segment.holds(ea)).collect();
    let segment = if holds.is_empty() { rng.pick(&valid) } else { rng.pick(&holds) };
    let (Some((va, groups)), Some(b)) = (model.groups(&segment, ea), segment.base_page_log2()) else {
        return noise;
    };
    let h = rng.below(2);
    let (large, lp) = match b {
        12 => rng.pick(&[(0, 0), (0, 0), (4, 0x7 << 12), (4, 0x38 << 12)]),
        16 => rng.pick(&[(4, 0x1 << 12), (4, 0x8 << 12), (4, 0x7 << 12)]),
        _ => rng.pick(&[(4, 0), (4, 0x8 << 12)]),
    };
    let dw0 = segment.b << 62 | ((va >> b << b) >> 23 << 7) as u64 | rng.next() & 0x78 | large | h << 1 | rng.below(2);
    let frame = rng.below(0x80) << 20;
    let low = rng.pick(&[0u64, 0x1_0000, 0x100_0000]);
    let dw1 = (frame + low) & !0xff_ffff | lp | rng.pick(&[0x190, 0x194, 0x10, 0x2a, 0x80]) | rng.below(4);
    let dw1 = dw1 | if rng.below(4) == 0 { rng.next() & 0xf000_0000_0000_0e00 } else { 0 };
    (groups[h as usize] * 8 + rng.below(8), dw0, dw1)
}

fn compare_walk(rng: &mut Rng, model: &mut Model, slb: &Slb, hpt: &Hpt) -> bool {
    let context = TranslationContext {
        relocate: true,
        problem_state: rng.below(2) == 0,
        amr: rng.pick(&[0, 0, rng.0]),
        iamr: rng.pick(&[0, 0, rng.0 >> 3]),
        ram_bytes: RAM,
    };
    let ea = some_ea(rng);
    let access = rng.pick(&[Access::Fetch, Access::Load, Access::Store]);
    let real = translate(&context, slb, hpt, ea, access);
    let wanted = model.translate(&context, ea, access);
    let flat = real.map(|to| {
        let ptex = to.ptex.unwrap_or(u64::MAX) as usize;
        (to.ra, to.page_shift, to.readable, to.writable, to.executable, ptex)
    });
    assert_eq!(flat, wanted, "{access:?} {ea:#x} {context:x?}\n{}", explain(&context, slb, hpt, ea));
    if let (Ok(to), true) = (real, access != Access::Store) {
        assert_eq!(to.ra & 0xfff, ea & 0xfff);
    }
    flat.is_ok()
}

fn compare_call(rng: &mut Rng, model: &mut Model, hpt: &Hpt, ram: &GuestRam) {
    let (ptex, dw0, dw1) = some_entry(rng, model);
    let inside = (ptex as usize) < model.table.len();
    let current = if inside { model.table[ptex as usize] } else { (0, 0) };
    let avpn = if rng.below(2) == 0 { current.0 >> 7 << 7 } else { rng.next() & 0x1f };
    let mut args = [0; 9];
    let (nr, status, outputs): (u64, i64, Vec<u64>) = match rng.below(16) {
        0..=7 => {
            let exact = rng.below(4) == 0;
            args[..4].copy_from_slice(&[u64::from(exact) << (63 - 24), ptex, dw0, dw1]);
            let (status, outputs) = model.h_enter(exact, ptex, dw0, dw1);
            (0x08, status, outputs)
        }
        8 | 9 => {
            let flags = rng.below(4) << 30;
            args[..3].copy_from_slice(&[flags, ptex, avpn]);
            let meant = |word: u64| {
                (!bit(flags, 32) || bits(word, 0, 56) == bits(avpn, 0, 56) && bits(avpn, 57, 63) == 0)
                    && (!bit(flags, 33) || word & avpn == 0)
            };
            match inside.then(|| model.remove_if(ptex, meant)) {
                None => (0x04, -4, vec![]),
                Some(None) => (0x04, -7, vec![]),
                Some(Some((old0, old1))) => (0x04, 0, vec![old0, old1]),
            }
        }
        10 => {
            let four = rng.below(2) == 0;
            args[..2].copy_from_slice(&[u64::from(four) << (63 - 26), ptex]);
            let range = if four { ptex / 4 * 4..ptex / 4 * 4 + 4 } else { ptex..ptex + 1 };
            let words = |i: u64| [model.table[i as usize].0, model.table[i as usize].1];
            if inside { (0x0c, 0, range.flat_map(words).collect()) } else { (0x0c, -4, vec![]) }
        }
        11 | 12 => {
            let flags = rng.next() & 0xffff_ffff;
            args[..3].copy_from_slice(&[flags, ptex, avpn]);
            let wrong = bit(flags, 32) && (bits(current.0, 0, 56) != bits(avpn, 0, 56) || bits(avpn, 57, 63) != 0);
            if !inside {
                (0x18, -4, vec![])
            } else if !bit(current.0, 63) || wrong {
                (0x18, -7, vec![])
            } else {
                // LoPAR: flag bits 55 (pp0), 50 and 51 (key 0 and 1), 52 to 54 (key 2 to 4), 61 (n), 62 and 63 (pp).
                let kept = current.1 & !(1 << 63 | 3 << 60 | 7 << 9 | 7);
                model.table[ptex as usize].1 =
                    kept | bits(flags, 55, 55) << 63 | bits(flags, 50, 51) << 60 | flags & (7 << 9 | 7);
                (0x18, 0, vec![])
            }
        }
        13 | 14 => {
            let (nr, isa_bit) = rng.pick(&[(0x14, 55), (0x10, 56)]);
            args[1] = ptex;
            if !inside {
                (nr, -4, vec![])
            } else if !bit(current.0, 63) {
                (nr, -7, vec![])
            } else {
                model.table[ptex as usize].1 &= !(1 << (63 - isa_bit));
                (nr, 0, vec![current.1])
            }
        }
        _ => bulk_remove(rng, model, &mut args),
    };
    let before: Vec<u64> = (0..hpt.entry_count()).filter(|i| hpt.entry(*i).is_valid()).collect();
    let real = hpt.hypercall(nr, &args, ram).expect("a page table hypercall");
    assert_eq!(real.reply.status, status, "hypercall {nr:#x} {args:x?}");
    assert_eq!(real.reply.outputs[..real.reply.count], outputs[..], "hypercall {nr:#x} {args:x?}");
    for ptex in before {
        let gone = !hpt.entry(ptex).is_valid();
        assert!(!gone || real.dropped.as_slice().contains(&ptex), "entry {ptex:#x} went without being reported");
    }
}

fn bulk_remove(rng: &mut Rng, model: &mut Model, args: &mut [u64; 9]) -> (u64, i64, Vec<u64>) {
    let mut status = 0;
    for pair in 0..4 {
        let (ptex, _, _) = some_entry(rng, model);
        let request = rng.pick(&[0b01u64, 0b01, 0b01, 0b11, 0b00]);
        args[2 * pair] = (request << 6 | rng.below(4)) << 56 | ptex;
        let current = model.table.get(ptex as usize).map_or(0, |entry| entry.0);
        args[2 * pair + 1] = rng.pick(&[current >> 7 << 7, 0x10, 0]);
    }
    let mut words = args[..8].to_vec();
    for pair in 0..4 {
        let (word, condition) = (words[2 * pair], words[2 * pair + 1]);
        let (request, flags, ptex) = (bits(word, 0, 1), bits(word, 6, 7), bits(word, 8, 63));
        if request == 0b11 {
            break;
        }
        if request != 0b01 || flags == 3 || ptex >= model.table.len() as u64 {
            words[2 * pair] = 0b1010_0000 << 56 | flags << 56 | ptex;
            status = -4;
            break;
        }
        let meant = |dw0: u64| match flags {
            1 => dw0 & condition == 0,
            2 => bits(dw0, 0, 56) << 7 == condition,
            _ => true,
        };
        words[2 * pair] = match model.remove_if(ptex, meant) {
            None => 0b1001_0000 << 56 | flags << 56 | ptex,
            Some((_, dw1)) => 0b1000_0000 << 56 | bits(dw1, 55, 56) << 58 | flags << 56 | ptex,
        };
    }
    (0x124, status, words)
}

#[test]
fn random_operations_agree_with_the_model() {
    let seed = std::env::var("PAPERBOAT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_0001);
    println!("PAPERBOAT_SEED={seed}");
    let mut rng = Rng(seed | 1);
    let ram = GuestRam::new(RAM).expect("guest memory");
    let (mut hits, mut calls) = (0, 0);
    for _ in 0..40 {
        let mut model = Model::new(ORDER, RAM);
        let mut slb = Slb::default();
        let hpt = Hpt::new(ORDER).expect("a small table");
        for _ in 0..3000 {
            match rng.below(64) {
                0..=2 => {
                    let (rs, rb) = some_segment(&mut rng);
                    slb.slbmte(rs, rb);
                    model.slbmte(rs, rb);
                }
                3 => {
                    let rb = some_ea(&mut rng) & !0xfff_ffff | rng.below(4) << 25;
                    let _ = slb.slbie(rb);
                    model.slbie(rb);
                }
                4 if rng.below(8) == 0 => {
                    let ih = rng.below(8) as u32;
                    slb.slbia(ih);
                    model.slbia(ih);
                }
                5..=7 => {
                    let index = rng.below(32);
                    let segment = model.slb[index as usize];
                    assert_eq!(slb.slbmfev(index), Model::vsid_word(&segment));
                    assert_eq!(slb.slbmfee(index), segment.esid << 28 | u64::from(segment.valid) << 27);
                    let ea = some_ea(&mut rng);
                    let found = model.slb.iter().find(|segment| segment.holds(ea)).map(Model::vsid_word);
                    assert_eq!(slb.slbfee(ea), found);
                }
                8..=24 => {
                    compare_call(&mut rng, &mut model, &hpt, &ram);
                    calls += 1;
                }
                _ => hits += u64::from(compare_walk(&mut rng, &mut model, &slb, &hpt)),
            }
        }
        for (ptex, entry) in model.table.iter().enumerate() {
            let real = hpt.entry(ptex as u64);
            assert_eq!((real.v, real.r), *entry, "entry {ptex:#x}");
        }
    }
    println!("{hits} translations, {calls} hypercalls");
    assert!(hits > 4000 && calls > 10_000, "{hits} translations, {calls} hypercalls: the test hits too little");
}
