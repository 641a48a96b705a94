//! Instruction formats (ISA 3.0B I 1.6): which bits are fixed.

/// The fixed bits of an instruction: a word is this instruction if `word & mask == value`.
/// Where two rows fit a word, the one with more mask bits is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// Which bits are fixed.
    pub mask: u32,
    /// What they are.
    pub value: u32,
}

const PO: u32 = 0xfc00_0000;

const fn with(po: u32, field_mask: u32, field: u32) -> Encoding {
    assert!(po < 64 && field & !field_mask == 0);
    Encoding { mask: PO | field_mask, value: po << 26 | field }
}

/// Primary opcode only: D, I, B, M and similar forms.
pub const fn po(po: u32) -> Encoding {
    with(po, 0, 0)
}

/// DS form: XO in bits 30 and 31.
pub const fn ds(po: u32, xo: u32) -> Encoding {
    with(po, 0x3, xo)
}

/// DQ form with XO in bits 29 to 31.
pub const fn dq(po: u32, xo: u32) -> Encoding {
    with(po, 0x7, xo)
}

/// X, XL, XFX forms: XO in bits 21 to 30.
pub const fn x(po: u32, xo: u32) -> Encoding {
    with(po, 0x7fe, xo << 1)
}

/// X form with the record bit fixed to one.
pub const fn x_dot(po: u32, xo: u32) -> Encoding {
    with(po, 0x7ff, xo << 1 | 1)
}

/// XO form: XO in bits 22 to 30, bit 21 is OE.
pub const fn xo(po: u32, xo: u32) -> Encoding {
    with(po, 0x3fe, xo << 1)
}

/// XS form (sradi): XO in bits 21 to 29.
pub const fn xs(po: u32, xo: u32) -> Encoding {
    with(po, 0x7fc, xo << 2)
}

/// A form: XO in bits 26 to 30.
pub const fn a(po: u32, xo: u32) -> Encoding {
    with(po, 0x3e, xo << 1)
}

/// MD form: XO in bits 27 to 29.
pub const fn md(po: u32, xo: u32) -> Encoding {
    with(po, 0x1c, xo << 2)
}

/// MDS form: XO in bits 27 to 30.
pub const fn mds(po: u32, xo: u32) -> Encoding {
    with(po, 0x1e, xo << 1)
}

/// VX form: XO in bits 21 to 31.
pub const fn vx(xo: u32) -> Encoding {
    with(4, 0x7ff, xo)
}

/// VC form: XO in bits 22 to 31, bit 21 records to CR6.
pub const fn vc(xo: u32) -> Encoding {
    with(4, 0x3ff, xo)
}

/// VA form: XO in bits 26 to 31.
pub const fn va(xo: u32) -> Encoding {
    with(4, 0x3f, xo)
}

/// XX2 form: XO in bits 21 to 29.
pub const fn xx2(po: u32, xo: u32) -> Encoding {
    with(po, 0x7fc, xo << 2)
}

/// XX3 form: XO in bits 21 to 28.
pub const fn xx3(po: u32, xo: u32) -> Encoding {
    with(po, 0x7f8, xo << 3)
}

/// XX3 form with a record bit in bit 21: XO in bits 22 to 28.
pub const fn xx3_rc(po: u32, xo: u32) -> Encoding {
    with(po, 0x3f8, xo << 3)
}

/// XX4 form (xxsel): XO in bits 26 and 27.
pub const fn xx4(po: u32, xo: u32) -> Encoding {
    with(po, 0x30, xo << 4)
}

/// Z22 form (dscli …): XO in bits 22 to 30. Z23 form: XO in bits 23 to 30.
pub const fn z23(po: u32, xo: u32) -> Encoding {
    with(po, 0x1fe, xo << 1)
}

impl Encoding {
    /// The same with further bits fixed, `first..=last` in the ISA's numbering.
    pub const fn and(self, first: u32, last: u32, value: u32) -> Encoding {
        let field_mask = (((1u64 << (last - first + 1)) - 1) as u32) << (31 - last);
        assert!(value << (31 - last) & !field_mask == 0 && self.mask & field_mask == 0);
        Encoding { mask: self.mask | field_mask, value: self.value | value << (31 - last) }
    }

    /// True if `word` has these fixed bits.
    pub const fn matches(self, word: u32) -> bool {
        word & self.mask == self.value
    }
}
