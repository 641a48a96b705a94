//! Just enough of an assembler for the program that runs the cases.

use std::collections::HashMap;

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// Where the program starts.
    Start,
    /// Loads the state of the case that GPR 1 points to and jumps to its instruction.
    Load,
    /// Stores the state after the instruction.
    After,
    /// Goes on to the next case.
    Next,
    /// All cases are done.
    Exit,
    /// The instruction raised a signal or an interrupt; the status is in GPR 3.
    Trap,
}

/// Special register numbers.
pub const XER: u32 = 1;
/// See [`XER`].
pub const LR: u32 = 8;
/// See [`XER`].
pub const CTR: u32 = 9;
/// See [`XER`].
pub const TAR: u32 = 815;
/// See [`XER`].
pub const FSCR: u32 = 153;
/// See [`XER`].
pub const SRR1: u32 = 27;

/// A program under construction.
#[derive(Debug)]
pub struct Program {
    base: u64,
    words: Vec<u32>,
    labels: HashMap<Label, u64>,
    branches: Vec<(usize, Label)>,
}

impl Program {
    /// An empty program at address `base`.
    pub fn new(base: u64) -> Self {
        Self { base, words: Vec::new(), labels: HashMap::new(), branches: Vec::new() }
    }

    /// Address of the next instruction.
    pub fn here(&self) -> u64 {
        self.base + 4 * self.words.len() as u64
    }

    /// The next instruction is `label`.
    pub fn label(&mut self, label: Label) {
        self.labels.insert(label, self.here());
    }

    /// Address of a label that has been placed.
    pub fn address_of(&self, label: Label) -> u64 {
        self.labels[&label]
    }

    /// The instruction words, branches resolved.
    pub fn finish(mut self) -> (Vec<u32>, HashMap<Label, u64>) {
        for (index, label) in self.branches {
            let from = self.base + 4 * index as u64;
            let offset = self.labels[&label].wrapping_sub(from) as u32;
            let field = if self.words[index] >> 26 == 18 { 0x03ff_fffc } else { 0xfffc };
            self.words[index] |= offset & field;
        }
        (self.words, self.labels)
    }

    /// Appends an instruction word.
    pub fn word(&mut self, word: u32) {
        self.words.push(word);
    }

    fn d(&mut self, po: u32, rt: u32, ra: u32, immediate: i64) {
        self.word(po << 26 | rt << 21 | ra << 16 | immediate as u32 & 0xffff);
    }

    /// `addi`.
    pub fn addi(&mut self, rt: u32, ra: u32, immediate: i64) {
        self.d(14, rt, ra, immediate);
    }

    /// A constant below 2^31.
    pub fn constant(&mut self, rt: u32, value: u64) {
        assert!(value < 1 << 31, "{value:#x} needs more than lis and ori");
        self.d(15, rt, 0, (value >> 16) as i64);
        self.word(24 << 26 | rt << 21 | rt << 16 | value as u32 & 0xffff);
    }

    /// `ld`.
    pub fn ld(&mut self, rt: u32, ra: u32, offset: i64) {
        self.d(58, rt, ra, offset);
    }

    /// `std`.
    pub fn std(&mut self, rs: u32, ra: u32, offset: i64) {
        self.d(62, rs, ra, offset);
    }

    /// `lfd`.
    pub fn lfd(&mut self, frt: u32, ra: u32, offset: i64) {
        self.d(50, frt, ra, offset);
    }

    /// `stfd`.
    pub fn stfd(&mut self, frs: u32, ra: u32, offset: i64) {
        self.d(54, frs, ra, offset);
    }

    /// `lxv`.
    pub fn lxv(&mut self, xt: u32, ra: u32, offset: i64) {
        self.d(61, xt & 31, ra, offset & 0xfff0 | i64::from(xt >> 5) << 3 | 1);
    }

    /// `stxv`.
    pub fn stxv(&mut self, xs: u32, ra: u32, offset: i64) {
        self.d(61, xs & 31, ra, offset & 0xfff0 | i64::from(xs >> 5) << 3 | 5);
    }

    /// X form.
    pub fn x(&mut self, po: u32, rt: u32, ra: u32, rb: u32, xo: u32) {
        self.word(po << 26 | rt << 21 | ra << 16 | rb << 11 | xo << 1);
    }

    /// `mtspr`.
    pub fn mtspr(&mut self, spr: u32, rs: u32) {
        self.x(31, rs, spr & 31, spr >> 5, 467);
    }

    /// `mfspr`.
    pub fn mfspr(&mut self, rt: u32, spr: u32) {
        self.x(31, rt, spr & 31, spr >> 5, 339);
    }

    /// `cmpdi cr0`.
    pub fn cmpdi(&mut self, ra: u32, immediate: i64) {
        self.d(11, 1, ra, immediate);
    }

    /// `b`.
    pub fn b(&mut self, label: Label) {
        self.branches.push((self.words.len(), label));
        self.word(18 << 26);
    }

    /// `beq cr0`.
    pub fn beq(&mut self, label: Label) {
        self.branches.push((self.words.len(), label));
        self.word(16 << 26 | 12 << 21 | 2 << 16);
    }

    /// `bne cr0`.
    pub fn bne(&mut self, label: Label) {
        self.branches.push((self.words.len(), label));
        self.word(16 << 26 | 4 << 21 | 2 << 16);
    }

    /// `bctar`.
    pub fn btar(&mut self) {
        self.word(0x4e80_0460);
    }

    /// `bctr`.
    pub fn bctr(&mut self) {
        self.word(0x4e80_0420);
    }
}
