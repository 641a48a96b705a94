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

/// xvtstdcdp, xvtstdcsp: the class mask is in bits 25, 29 and 11 to 15.
const fn test_class(field: u32) -> Encoding {
    assert!(field < 0x10);
    Encoding { mask: 0xfc00_07b8, value: 60 << 26 | field << 7 | 0b101 << 3 }
}

/// X form, PO 63: bits 11 to 15 select the operation on quad precision.
const fn quad(xo: u32, sub: u32) -> Encoding {
    x(63, xo).and(11, 15, sub)
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

        // Scalar arithmetic (I 7.6.4).
        Xsadddp = "xsadddp", xx3(60, 32), "XT,XA,XB", V206, Vsx;
        Xssubdp = "xssubdp", xx3(60, 40), "XT,XA,XB", V206, Vsx;
        Xsmuldp = "xsmuldp", xx3(60, 48), "XT,XA,XB", V206, Vsx;
        Xsdivdp = "xsdivdp", xx3(60, 56), "XT,XA,XB", V206, Vsx;
        Xsaddsp = "xsaddsp", xx3(60, 0), "XT,XA,XB", V207, Vsx;
        Xssubsp = "xssubsp", xx3(60, 8), "XT,XA,XB", V207, Vsx;
        Xsmulsp = "xsmulsp", xx3(60, 16), "XT,XA,XB", V207, Vsx;
        Xsdivsp = "xsdivsp", xx3(60, 24), "XT,XA,XB", V207, Vsx;
        Xssqrtdp = "xssqrtdp", xx2(60, 75), "XT,XB", V206, Vsx;
        Xsredp = "xsredp", xx2(60, 90), "XT,XB", V206, Vsx;
        Xsrsqrtedp = "xsrsqrtedp", xx2(60, 74), "XT,XB", V206, Vsx;
        Xssqrtsp = "xssqrtsp", xx2(60, 11), "XT,XB", V207, Vsx;
        Xsresp = "xsresp", xx2(60, 26), "XT,XB", V207, Vsx;
        Xsrsqrtesp = "xsrsqrtesp", xx2(60, 10), "XT,XB", V207, Vsx;
        Xsmaddadp = "xsmaddadp", xx3(60, 33), "XT,XA,XB", V206, Vsx;
        Xsmaddmdp = "xsmaddmdp", xx3(60, 41), "XT,XA,XB", V206, Vsx;
        Xsmsubadp = "xsmsubadp", xx3(60, 49), "XT,XA,XB", V206, Vsx;
        Xsmsubmdp = "xsmsubmdp", xx3(60, 57), "XT,XA,XB", V206, Vsx;
        Xsnmaddadp = "xsnmaddadp", xx3(60, 161), "XT,XA,XB", V206, Vsx;
        Xsnmaddmdp = "xsnmaddmdp", xx3(60, 169), "XT,XA,XB", V206, Vsx;
        Xsnmsubadp = "xsnmsubadp", xx3(60, 177), "XT,XA,XB", V206, Vsx;
        Xsnmsubmdp = "xsnmsubmdp", xx3(60, 185), "XT,XA,XB", V206, Vsx;
        Xsmaddasp = "xsmaddasp", xx3(60, 1), "XT,XA,XB", V207, Vsx;
        Xsmaddmsp = "xsmaddmsp", xx3(60, 9), "XT,XA,XB", V207, Vsx;
        Xsmsubasp = "xsmsubasp", xx3(60, 17), "XT,XA,XB", V207, Vsx;
        Xsmsubmsp = "xsmsubmsp", xx3(60, 25), "XT,XA,XB", V207, Vsx;
        Xsnmaddasp = "xsnmaddasp", xx3(60, 129), "XT,XA,XB", V207, Vsx;
        Xsnmaddmsp = "xsnmaddmsp", xx3(60, 137), "XT,XA,XB", V207, Vsx;
        Xsnmsubasp = "xsnmsubasp", xx3(60, 145), "XT,XA,XB", V207, Vsx;
        Xsnmsubmsp = "xsnmsubmsp", xx3(60, 153), "XT,XA,XB", V207, Vsx;
        Xstdivdp = "xstdivdp", xx3(60, 61), "BF,XA,XB", V206, Vsx;
        Xstsqrtdp = "xstsqrtdp", xx2(60, 106), "BF,XB", V206, Vsx;
        Xsabsdp = "xsabsdp", xx2(60, 345), "XT,XB", V206, Vsx;
        Xsnabsdp = "xsnabsdp", xx2(60, 361), "XT,XB", V206, Vsx;
        Xsnegdp = "xsnegdp", xx2(60, 377), "XT,XB", V206, Vsx;
        Xscpsgndp = "xscpsgndp", xx3(60, 176), "XT,XA,XB", V206, Vsx;
        Xsmaxdp = "xsmaxdp", xx3(60, 160), "XT,XA,XB", V206, Vsx;
        Xsmindp = "xsmindp", xx3(60, 168), "XT,XA,XB", V206, Vsx;
        Xsmaxcdp = "xsmaxcdp", xx3(60, 128), "XT,XA,XB", V300, Vsx;
        Xsmincdp = "xsmincdp", xx3(60, 136), "XT,XA,XB", V300, Vsx;
        Xsmaxjdp = "xsmaxjdp", xx3(60, 144), "XT,XA,XB", V300, Vsx;
        Xsminjdp = "xsminjdp", xx3(60, 152), "XT,XA,XB", V300, Vsx;
        Xscmpeqdp = "xscmpeqdp", xx3(60, 3), "XT,XA,XB", V300, Vsx;
        Xscmpgtdp = "xscmpgtdp", xx3(60, 11), "XT,XA,XB", V300, Vsx;
        Xscmpgedp = "xscmpgedp", xx3(60, 19), "XT,XA,XB", V300, Vsx;
        Xscmpodp = "xscmpodp", xx3(60, 43), "BF,XA,XB", V206, Vsx;
        Xscmpudp = "xscmpudp", xx3(60, 35), "BF,XA,XB", V206, Vsx;
        Xscmpexpdp = "xscmpexpdp", xx3(60, 59), "BF,XA,XB", V300, Vsx;

        // Scalar conversion and rounding (I 7.6.5, 7.6.6).
        Xscvdpsp = "xscvdpsp", xx2(60, 265), "XT,XB", V206, Vsx;
        Xscvspdp = "xscvspdp", xx2(60, 329), "XT,XB", V206, Vsx;
        Xscvdpspn = "xscvdpspn", xx2(60, 267), "XT,XB", V207, Vsx;
        Xscvspdpn = "xscvspdpn", xx2(60, 331), "XT,XB", V207, Vsx;
        Xsrsp = "xsrsp", xx2(60, 281), "XT,XB", V207, Vsx;
        Xscvdpsxds = "xscvdpsxds", xx2(60, 344), "XT,XB", V206, Vsx;
        Xscvdpsxws = "xscvdpsxws", xx2(60, 88), "XT,XB", V206, Vsx;
        Xscvdpuxds = "xscvdpuxds", xx2(60, 328), "XT,XB", V206, Vsx;
        Xscvdpuxws = "xscvdpuxws", xx2(60, 72), "XT,XB", V206, Vsx;
        Xscvsxddp = "xscvsxddp", xx2(60, 376), "XT,XB", V206, Vsx;
        Xscvuxddp = "xscvuxddp", xx2(60, 360), "XT,XB", V206, Vsx;
        Xscvsxdsp = "xscvsxdsp", xx2(60, 312), "XT,XB", V207, Vsx;
        Xscvuxdsp = "xscvuxdsp", xx2(60, 296), "XT,XB", V207, Vsx;
        Xsrdpi = "xsrdpi", xx2(60, 73), "XT,XB", V206, Vsx;
        Xsrdpic = "xsrdpic", xx2(60, 107), "XT,XB", V206, Vsx;
        Xsrdpim = "xsrdpim", xx2(60, 121), "XT,XB", V206, Vsx;
        Xsrdpip = "xsrdpip", xx2(60, 105), "XT,XB", V206, Vsx;
        Xsrdpiz = "xsrdpiz", xx2(60, 89), "XT,XB", V206, Vsx;
        Xscvhpdp = "xscvhpdp", xx2_sub(347, 16), "XT,XB", V300, Vsx;
        Xscvdphp = "xscvdphp", xx2_sub(347, 17), "XT,XB", V300, Vsx;
        Xsxexpdp = "xsxexpdp", xx2_sub(347, 0), "RT,XB", V300, Vsx;
        Xsxsigdp = "xsxsigdp", xx2_sub(347, 1), "RT,XB", V300, Vsx;
        Xsiexpdp = "xsiexpdp", x(60, 918), "XT,RA,RB", V300, Vsx;
        Xststdcdp = "xststdcdp", xx2(60, 362), "BF,XB,DCMX", V300, Vsx;
        Xststdcsp = "xststdcsp", xx2(60, 298), "BF,XB,DCMX", V300, Vsx;

        // Vector arithmetic (I 7.6.4).
        Xvadddp = "xvadddp", xx3(60, 96), "XT,XA,XB", V206, Vsx;
        Xvsubdp = "xvsubdp", xx3(60, 104), "XT,XA,XB", V206, Vsx;
        Xvmuldp = "xvmuldp", xx3(60, 112), "XT,XA,XB", V206, Vsx;
        Xvdivdp = "xvdivdp", xx3(60, 120), "XT,XA,XB", V206, Vsx;
        Xvmaddadp = "xvmaddadp", xx3(60, 97), "XT,XA,XB", V206, Vsx;
        Xvmaddmdp = "xvmaddmdp", xx3(60, 105), "XT,XA,XB", V206, Vsx;
        Xvmsubadp = "xvmsubadp", xx3(60, 113), "XT,XA,XB", V206, Vsx;
        Xvmsubmdp = "xvmsubmdp", xx3(60, 121), "XT,XA,XB", V206, Vsx;
        Xvnmaddadp = "xvnmaddadp", xx3(60, 225), "XT,XA,XB", V206, Vsx;
        Xvnmaddmdp = "xvnmaddmdp", xx3(60, 233), "XT,XA,XB", V206, Vsx;
        Xvnmsubadp = "xvnmsubadp", xx3(60, 241), "XT,XA,XB", V206, Vsx;
        Xvnmsubmdp = "xvnmsubmdp", xx3(60, 249), "XT,XA,XB", V206, Vsx;
        Xvmaxdp = "xvmaxdp", xx3(60, 224), "XT,XA,XB", V206, Vsx;
        Xvmindp = "xvmindp", xx3(60, 232), "XT,XA,XB", V206, Vsx;
        Xvcpsgndp = "xvcpsgndp", xx3(60, 240), "XT,XA,XB", V206, Vsx;
        Xvcmpeqdp = "xvcmpeqdp", xx3_rc(60, 99), "XT,XA,XB", V206, Vsx, rc;
        Xvcmpgtdp = "xvcmpgtdp", xx3_rc(60, 107), "XT,XA,XB", V206, Vsx, rc;
        Xvcmpgedp = "xvcmpgedp", xx3_rc(60, 115), "XT,XA,XB", V206, Vsx, rc;
        Xvtdivdp = "xvtdivdp", xx3(60, 125), "BF,XA,XB", V206, Vsx;
        Xvaddsp = "xvaddsp", xx3(60, 64), "XT,XA,XB", V206, Vsx;
        Xvsubsp = "xvsubsp", xx3(60, 72), "XT,XA,XB", V206, Vsx;
        Xvmulsp = "xvmulsp", xx3(60, 80), "XT,XA,XB", V206, Vsx;
        Xvdivsp = "xvdivsp", xx3(60, 88), "XT,XA,XB", V206, Vsx;
        Xvmaddasp = "xvmaddasp", xx3(60, 65), "XT,XA,XB", V206, Vsx;
        Xvmaddmsp = "xvmaddmsp", xx3(60, 73), "XT,XA,XB", V206, Vsx;
        Xvmsubasp = "xvmsubasp", xx3(60, 81), "XT,XA,XB", V206, Vsx;
        Xvmsubmsp = "xvmsubmsp", xx3(60, 89), "XT,XA,XB", V206, Vsx;
        Xvnmaddasp = "xvnmaddasp", xx3(60, 193), "XT,XA,XB", V206, Vsx;
        Xvnmaddmsp = "xvnmaddmsp", xx3(60, 201), "XT,XA,XB", V206, Vsx;
        Xvnmsubasp = "xvnmsubasp", xx3(60, 209), "XT,XA,XB", V206, Vsx;
        Xvnmsubmsp = "xvnmsubmsp", xx3(60, 217), "XT,XA,XB", V206, Vsx;
        Xvmaxsp = "xvmaxsp", xx3(60, 192), "XT,XA,XB", V206, Vsx;
        Xvminsp = "xvminsp", xx3(60, 200), "XT,XA,XB", V206, Vsx;
        Xvcpsgnsp = "xvcpsgnsp", xx3(60, 208), "XT,XA,XB", V206, Vsx;
        Xvcmpeqsp = "xvcmpeqsp", xx3_rc(60, 67), "XT,XA,XB", V206, Vsx, rc;
        Xvcmpgtsp = "xvcmpgtsp", xx3_rc(60, 75), "XT,XA,XB", V206, Vsx, rc;
        Xvcmpgesp = "xvcmpgesp", xx3_rc(60, 83), "XT,XA,XB", V206, Vsx, rc;
        Xvtdivsp = "xvtdivsp", xx3(60, 93), "BF,XA,XB", V206, Vsx;
        Xvabsdp = "xvabsdp", xx2(60, 473), "XT,XB", V206, Vsx;
        Xvnabsdp = "xvnabsdp", xx2(60, 489), "XT,XB", V206, Vsx;
        Xvnegdp = "xvnegdp", xx2(60, 505), "XT,XB", V206, Vsx;
        Xvabssp = "xvabssp", xx2(60, 409), "XT,XB", V206, Vsx;
        Xvnabssp = "xvnabssp", xx2(60, 425), "XT,XB", V206, Vsx;
        Xvnegsp = "xvnegsp", xx2(60, 441), "XT,XB", V206, Vsx;
        Xvsqrtdp = "xvsqrtdp", xx2(60, 203), "XT,XB", V206, Vsx;
        Xvredp = "xvredp", xx2(60, 218), "XT,XB", V206, Vsx;
        Xvrsqrtedp = "xvrsqrtedp", xx2(60, 202), "XT,XB", V206, Vsx;
        Xvsqrtsp = "xvsqrtsp", xx2(60, 139), "XT,XB", V206, Vsx;
        Xvresp = "xvresp", xx2(60, 154), "XT,XB", V206, Vsx;
        Xvrsqrtesp = "xvrsqrtesp", xx2(60, 138), "XT,XB", V206, Vsx;
        Xvtsqrtdp = "xvtsqrtdp", xx2(60, 234), "BF,XB", V206, Vsx;
        Xvtsqrtsp = "xvtsqrtsp", xx2(60, 170), "BF,XB", V206, Vsx;

        // Vector conversion and rounding (I 7.6.5, 7.6.6).
        Xvcvdpsp = "xvcvdpsp", xx2(60, 393), "XT,XB", V206, Vsx;
        Xvcvspdp = "xvcvspdp", xx2(60, 457), "XT,XB", V206, Vsx;
        Xvcvdpsxds = "xvcvdpsxds", xx2(60, 472), "XT,XB", V206, Vsx;
        Xvcvdpsxws = "xvcvdpsxws", xx2(60, 216), "XT,XB", V206, Vsx;
        Xvcvdpuxds = "xvcvdpuxds", xx2(60, 456), "XT,XB", V206, Vsx;
        Xvcvdpuxws = "xvcvdpuxws", xx2(60, 200), "XT,XB", V206, Vsx;
        Xvcvspsxds = "xvcvspsxds", xx2(60, 408), "XT,XB", V206, Vsx;
        Xvcvspsxws = "xvcvspsxws", xx2(60, 152), "XT,XB", V206, Vsx;
        Xvcvspuxds = "xvcvspuxds", xx2(60, 392), "XT,XB", V206, Vsx;
        Xvcvspuxws = "xvcvspuxws", xx2(60, 136), "XT,XB", V206, Vsx;
        Xvcvsxddp = "xvcvsxddp", xx2(60, 504), "XT,XB", V206, Vsx;
        Xvcvsxwdp = "xvcvsxwdp", xx2(60, 248), "XT,XB", V206, Vsx;
        Xvcvuxddp = "xvcvuxddp", xx2(60, 488), "XT,XB", V206, Vsx;
        Xvcvuxwdp = "xvcvuxwdp", xx2(60, 232), "XT,XB", V206, Vsx;
        Xvcvsxdsp = "xvcvsxdsp", xx2(60, 440), "XT,XB", V206, Vsx;
        Xvcvsxwsp = "xvcvsxwsp", xx2(60, 184), "XT,XB", V206, Vsx;
        Xvcvuxdsp = "xvcvuxdsp", xx2(60, 424), "XT,XB", V206, Vsx;
        Xvcvuxwsp = "xvcvuxwsp", xx2(60, 168), "XT,XB", V206, Vsx;
        Xvrdpi = "xvrdpi", xx2(60, 201), "XT,XB", V206, Vsx;
        Xvrdpic = "xvrdpic", xx2(60, 235), "XT,XB", V206, Vsx;
        Xvrdpim = "xvrdpim", xx2(60, 249), "XT,XB", V206, Vsx;
        Xvrdpip = "xvrdpip", xx2(60, 233), "XT,XB", V206, Vsx;
        Xvrdpiz = "xvrdpiz", xx2(60, 217), "XT,XB", V206, Vsx;
        Xvrspi = "xvrspi", xx2(60, 137), "XT,XB", V206, Vsx;
        Xvrspic = "xvrspic", xx2(60, 171), "XT,XB", V206, Vsx;
        Xvrspim = "xvrspim", xx2(60, 185), "XT,XB", V206, Vsx;
        Xvrspip = "xvrspip", xx2(60, 169), "XT,XB", V206, Vsx;
        Xvrspiz = "xvrspiz", xx2(60, 153), "XT,XB", V206, Vsx;
        Xvcvhpsp = "xvcvhpsp", xx2_sub(475, 24), "XT,XB", V300, Vsx;
        Xvcvsphp = "xvcvsphp", xx2_sub(475, 25), "XT,XB", V300, Vsx;
        Xvxexpdp = "xvxexpdp", xx2_sub(475, 0), "XT,XB", V300, Vsx;
        Xvxsigdp = "xvxsigdp", xx2_sub(475, 1), "XT,XB", V300, Vsx;
        Xvxexpsp = "xvxexpsp", xx2_sub(475, 8), "XT,XB", V300, Vsx;
        Xvxsigsp = "xvxsigsp", xx2_sub(475, 9), "XT,XB", V300, Vsx;
        Xviexpdp = "xviexpdp", xx3(60, 248), "XT,XA,XB", V300, Vsx;
        Xviexpsp = "xviexpsp", xx3(60, 216), "XT,XA,XB", V300, Vsx;
        Xvtstdcdp = "xvtstdcdp", test_class(0b1111), "XT,XB,DCMX", V300, Vsx;
        Xvtstdcsp = "xvtstdcsp", test_class(0b1101), "XT,XB,DCMX", V300, Vsx;

        // Quad precision (I 7.6.4 to 7.6.7). Bit 31 of the arithmetic ones asks for rounding to odd.
        Xsaddqp = "xsaddqp", x(63, 4).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsaddqpo = "xsaddqpo", x(63, 4).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsmulqp = "xsmulqp", x(63, 36).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsmulqpo = "xsmulqpo", x(63, 36).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xssubqp = "xssubqp", x(63, 516).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xssubqpo = "xssubqpo", x(63, 516).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsdivqp = "xsdivqp", x(63, 548).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsdivqpo = "xsdivqpo", x(63, 548).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsmaddqp = "xsmaddqp", x(63, 388).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsmaddqpo = "xsmaddqpo", x(63, 388).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsmsubqp = "xsmsubqp", x(63, 420).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsmsubqpo = "xsmsubqpo", x(63, 420).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsnmaddqp = "xsnmaddqp", x(63, 452).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsnmaddqpo = "xsnmaddqpo", x(63, 452).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xsnmsubqp = "xsnmsubqp", x(63, 484).and(31, 31, 0), "VRT,VRA,VRB", V300, Vsx;
        Xsnmsubqpo = "xsnmsubqpo", x(63, 484).and(31, 31, 1), "VRT,VRA,VRB", V300, Vsx;
        Xssqrtqp = "xssqrtqp", quad(804, 27).and(31, 31, 0), "VRT,VRB", V300, Vsx;
        Xssqrtqpo = "xssqrtqpo", quad(804, 27).and(31, 31, 1), "VRT,VRB", V300, Vsx;
        Xscpsgnqp = "xscpsgnqp", x(63, 100), "VRT,VRA,VRB", V300, Vsx;
        Xscmpoqp = "xscmpoqp", x(63, 132), "BF,VRA,VRB", V300, Vsx;
        Xscmpuqp = "xscmpuqp", x(63, 644), "BF,VRA,VRB", V300, Vsx;
        Xscmpexpqp = "xscmpexpqp", x(63, 164), "BF,VRA,VRB", V300, Vsx;
        Xststdcqp = "xststdcqp", x(63, 708), "BF,VRB,DCMX", V300, Vsx;
        Xsiexpqp = "xsiexpqp", x(63, 868), "VRT,VRA,VRB", V300, Vsx;
        Xsabsqp = "xsabsqp", quad(804, 0), "VRT,VRB", V300, Vsx;
        Xsxexpqp = "xsxexpqp", quad(804, 2), "VRT,VRB", V300, Vsx;
        Xsnabsqp = "xsnabsqp", quad(804, 8), "VRT,VRB", V300, Vsx;
        Xsnegqp = "xsnegqp", quad(804, 16), "VRT,VRB", V300, Vsx;
        Xsxsigqp = "xsxsigqp", quad(804, 18), "VRT,VRB", V300, Vsx;
        Xscvqpuwz = "xscvqpuwz", quad(836, 1), "VRT,VRB", V300, Vsx;
        Xscvudqp = "xscvudqp", quad(836, 2), "VRT,VRB", V300, Vsx;
        Xscvqpswz = "xscvqpswz", quad(836, 9), "VRT,VRB", V300, Vsx;
        Xscvsdqp = "xscvsdqp", quad(836, 10), "VRT,VRB", V300, Vsx;
        Xscvqpudz = "xscvqpudz", quad(836, 17), "VRT,VRB", V300, Vsx;
        Xscvdpqp = "xscvdpqp", quad(836, 22), "VRT,VRB", V300, Vsx;
        Xscvqpsdz = "xscvqpsdz", quad(836, 25), "VRT,VRB", V300, Vsx;
        Xscvqpdp = "xscvqpdp", quad(836, 20).and(31, 31, 0), "VRT,VRB", V300, Vsx;
        Xscvqpdpo = "xscvqpdpo", quad(836, 20).and(31, 31, 1), "VRT,VRB", V300, Vsx;
        Xsrqpi = "xsrqpi", z23(63, 5).and(31, 31, 0), "R,VRT,VRB,RMC", V300, Vsx;
        Xsrqpix = "xsrqpix", z23(63, 5).and(31, 31, 1), "R,VRT,VRB,RMC", V300, Vsx;
        Xsrqpxp = "xsrqpxp", z23(63, 37), "R,VRT,VRB,RMC", V300, Vsx;
    }
}
