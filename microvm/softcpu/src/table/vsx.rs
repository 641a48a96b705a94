//! Vector-scalar (VSX) instructions (ISA 3.0B I 7).

use super::encoding::*;

/// lxvx: bit 25 is reserved.
const fn xvx(xo: u32) -> Encoding {
    let all = x(31, xo);
    Encoding { mask: all.mask & !(1 << 6), value: all.value }
}

/// XX3 form with an immediate in bits 22 and 23: XO in bits 24 to 28, bit 21 is zero.
const fn xx3_imm(field: u32) -> Encoding {
    assert!(field < 0x20);
    Encoding { mask: 0xfc00_04f8, value: 60 << 26 | field << 3 }
}

/// XX2 form, PO 60: bits 11 to 15 select the operation.
const fn xx2_sub(xo: u32, sub: u32) -> Encoding {
    xx2(60, xo).and(11, 15, sub)
}

instruction_class! {
    /// Vector-scalar (VSX) instructions (ISA 3.0B I 7).
    pub enum VsxOp {
        // Storage access (I 7.6.2).
        Lxsdx = "lxsdx", x(31, 588), "XT,RA,RB", V206, Vsx;
        Lxsspx = "lxsspx", x(31, 524), "XT,RA,RB", V207, Vsx;
        Lxsiwax = "lxsiwax", x(31, 76), "XT,RA,RB", V207, Vsx;
        Lxsiwzx = "lxsiwzx", x(31, 12), "XT,RA,RB", V207, Vsx;
        Lxsibzx = "lxsibzx", x(31, 781), "XT,RA,RB", V300, VsxOrVec;
        Lxsihzx = "lxsihzx", x(31, 813), "XT,RA,RB", V300, VsxOrVec;
        Lxvd2x = "lxvd2x", x(31, 844), "XT,RA,RB", V206, Vsx;
        Lxvdsx = "lxvdsx", x(31, 332), "XT,RA,RB", V206, Vsx;
        Lxvw4x = "lxvw4x", x(31, 780), "XT,RA,RB", V206, Vsx;
        Lxvh8x = "lxvh8x", x(31, 812), "XT,RA,RB", V300, VsxOrVec;
        Lxvb16x = "lxvb16x", x(31, 876), "XT,RA,RB", V300, VsxOrVec;
        Lxvx = "lxvx", xvx(268), "XT,RA,RB", V300, VsxOrVec;
        Lxvwsx = "lxvwsx", x(31, 364), "XT,RA,RB", V300, VsxOrVec;
        Lxvl = "lxvl", x(31, 269), "XT,RA,RB", V300, VsxOrVec;
        Lxvll = "lxvll", x(31, 301), "XT,RA,RB", V300, VsxOrVec;
        Lxv = "lxv", dq(61, 1), "XT,DQ(RA)", V300, VsxOrVec;
        Lxsd = "lxsd", ds(57, 2), "VRT,DS(RA)", V300, Vec;
        Lxssp = "lxssp", ds(57, 3), "VRT,DS(RA)", V300, Vec;
        Stxsdx = "stxsdx", x(31, 716), "XS,RA,RB", V206, Vsx;
        Stxsspx = "stxsspx", x(31, 652), "XS,RA,RB", V207, Vsx;
        Stxsiwx = "stxsiwx", x(31, 140), "XS,RA,RB", V207, Vsx;
        Stxsibx = "stxsibx", x(31, 909), "XS,RA,RB", V300, VsxOrVec;
        Stxsihx = "stxsihx", x(31, 941), "XS,RA,RB", V300, VsxOrVec;
        Stxvd2x = "stxvd2x", x(31, 972), "XS,RA,RB", V206, Vsx;
        Stxvw4x = "stxvw4x", x(31, 908), "XS,RA,RB", V206, Vsx;
        Stxvh8x = "stxvh8x", x(31, 940), "XS,RA,RB", V300, VsxOrVec;
        Stxvb16x = "stxvb16x", x(31, 1004), "XS,RA,RB", V300, VsxOrVec;
        Stxvx = "stxvx", x(31, 396), "XS,RA,RB", V300, VsxOrVec;
        Stxvl = "stxvl", x(31, 397), "XS,RA,RB", V300, VsxOrVec;
        Stxvll = "stxvll", x(31, 429), "XS,RA,RB", V300, VsxOrVec;
        Stxv = "stxv", dq(61, 5), "XS,DQ(RA)", V300, VsxOrVec;
        Stxsd = "stxsd", ds(61, 2), "VRS,DS(RA)", V300, Vec;
        Stxssp = "stxssp", ds(61, 3), "VRS,DS(RA)", V300, Vec;

        // Moves to and from general registers (I 3.3.19).
        Mfvsrd = "mfvsrd", x(31, 51), "RA,XS", V207, VsxOrVec;
        Mfvsrwz = "mfvsrwz", x(31, 115), "RA,XS", V207, VsxOrVec;
        Mfvsrld = "mfvsrld", x(31, 307), "RA,XS", V300, VsxOrVec;
        Mtvsrd = "mtvsrd", x(31, 179), "XT,RA", V207, VsxOrVec;
        Mtvsrwa = "mtvsrwa", x(31, 211), "XT,RA", V207, VsxOrVec;
        Mtvsrwz = "mtvsrwz", x(31, 243), "XT,RA", V207, VsxOrVec;
        Mtvsrdd = "mtvsrdd", x(31, 435), "XT,RA,RB", V300, VsxOrVec;
        Mtvsrws = "mtvsrws", x(31, 403), "XT,RA", V300, VsxOrVec;

        // Logical, merge, permute, shift, splat, byte reversal (I 7.6.3).
        Xxland = "xxland", xx3(60, 130), "XT,XA,XB", V206, Vsx;
        Xxlandc = "xxlandc", xx3(60, 138), "XT,XA,XB", V206, Vsx;
        Xxlor = "xxlor", xx3(60, 146), "XT,XA,XB", V206, Vsx;
        Xxlxor = "xxlxor", xx3(60, 154), "XT,XA,XB", V206, Vsx;
        Xxlnor = "xxlnor", xx3(60, 162), "XT,XA,XB", V206, Vsx;
        Xxlorc = "xxlorc", xx3(60, 170), "XT,XA,XB", V207, Vsx;
        Xxlnand = "xxlnand", xx3(60, 178), "XT,XA,XB", V207, Vsx;
        Xxleqv = "xxleqv", xx3(60, 186), "XT,XA,XB", V207, Vsx;
        Xxmrghw = "xxmrghw", xx3(60, 18), "XT,XA,XB", V206, Vsx;
        Xxmrglw = "xxmrglw", xx3(60, 50), "XT,XA,XB", V206, Vsx;
        Xxperm = "xxperm", xx3(60, 26), "XT,XA,XB", V300, Vsx;
        Xxpermr = "xxpermr", xx3(60, 58), "XT,XA,XB", V300, Vsx;
        Xxpermdi = "xxpermdi", xx3_imm(10), "XT,XA,XB,DM", V206, Vsx;
        Xxsldwi = "xxsldwi", xx3_imm(2), "XT,XA,XB,SHW", V206, Vsx;
        Xxsel = "xxsel", xx4(60, 3), "XT,XA,XB,XC", V206, Vsx;
        Xxspltw = "xxspltw", xx2(60, 164), "XT,XB,UIM", V206, Vsx;
        Xxspltib = "xxspltib", x(60, 360).and(11, 12, 0), "XT,IMM8", V300, VsxOrVec;
        Xxextractuw = "xxextractuw", xx2(60, 165), "XT,XB,UIM", V300, Vsx;
        Xxinsertw = "xxinsertw", xx2(60, 181), "XT,XB,UIM", V300, Vsx;
        Xxbrh = "xxbrh", xx2_sub(475, 7), "XT,XB", V300, Vsx;
        Xxbrw = "xxbrw", xx2_sub(475, 15), "XT,XB", V300, Vsx;
        Xxbrd = "xxbrd", xx2_sub(475, 23), "XT,XB", V300, Vsx;
        Xxbrq = "xxbrq", xx2_sub(475, 31), "XT,XB", V300, Vsx;
    }
}
