//! Fixed-point instructions, loads and stores, cache management (ISA 3.0B I 3, II 4).

use super::encoding::*;

instruction_class! {
    /// Fixed-point instructions, loads and stores, cache management (ISA 3.0B I 3, II 4).
    pub enum FixedOp {
        // I 3.3.2, 3.3.3: loads.
        Lbz = "lbz", po(34), "RT,D(RA)", V206, Base;
        Lbzu = "lbzu", po(35), "RT,D(RA)", V206, Base;
        Lbzx = "lbzx", x(31, 87), "RT,RA,RB", V206, Base;
        Lbzux = "lbzux", x(31, 119), "RT,RA,RB", V206, Base;
        Lhz = "lhz", po(40), "RT,D(RA)", V206, Base;
        Lhzu = "lhzu", po(41), "RT,D(RA)", V206, Base;
        Lhzx = "lhzx", x(31, 279), "RT,RA,RB", V206, Base;
        Lhzux = "lhzux", x(31, 311), "RT,RA,RB", V206, Base;
        Lha = "lha", po(42), "RT,D(RA)", V206, Base;
        Lhau = "lhau", po(43), "RT,D(RA)", V206, Base;
        Lhax = "lhax", x(31, 343), "RT,RA,RB", V206, Base;
        Lhaux = "lhaux", x(31, 375), "RT,RA,RB", V206, Base;
        Lwz = "lwz", po(32), "RT,D(RA)", V206, Base;
        Lwzu = "lwzu", po(33), "RT,D(RA)", V206, Base;
        Lwzx = "lwzx", x(31, 23), "RT,RA,RB", V206, Base;
        Lwzux = "lwzux", x(31, 55), "RT,RA,RB", V206, Base;
        Lwa = "lwa", ds(58, 2), "RT,DS(RA)", V206, Base;
        Lwax = "lwax", x(31, 341), "RT,RA,RB", V206, Base;
        Lwaux = "lwaux", x(31, 373), "RT,RA,RB", V206, Base;
        Ld = "ld", ds(58, 0), "RT,DS(RA)", V206, Base;
        Ldu = "ldu", ds(58, 1), "RT,DS(RA)", V206, Base;
        Ldx = "ldx", x(31, 21), "RT,RA,RB", V206, Base;
        Ldux = "ldux", x(31, 53), "RT,RA,RB", V206, Base;
        // I 3.3.4: stores.
        Stb = "stb", po(38), "RS,D(RA)", V206, Base;
        Stbu = "stbu", po(39), "RS,D(RA)", V206, Base;
        Stbx = "stbx", x(31, 215), "RS,RA,RB", V206, Base;
        Stbux = "stbux", x(31, 247), "RS,RA,RB", V206, Base;
        Sth = "sth", po(44), "RS,D(RA)", V206, Base;
        Sthu = "sthu", po(45), "RS,D(RA)", V206, Base;
        Sthx = "sthx", x(31, 407), "RS,RA,RB", V206, Base;
        Sthux = "sthux", x(31, 439), "RS,RA,RB", V206, Base;
        Stw = "stw", po(36), "RS,D(RA)", V206, Base;
        Stwu = "stwu", po(37), "RS,D(RA)", V206, Base;
        Stwx = "stwx", x(31, 151), "RS,RA,RB", V206, Base;
        Stwux = "stwux", x(31, 183), "RS,RA,RB", V206, Base;
        Std = "std", ds(62, 0), "RS,DS(RA)", V206, Base;
        Stdu = "stdu", ds(62, 1), "RS,DS(RA)", V206, Base;
        Stdx = "stdx", x(31, 149), "RS,RA,RB", V206, Base;
        Stdux = "stdux", x(31, 181), "RS,RA,RB", V206, Base;
        // I 3.3.5 to 3.3.8: quadword, byte-reversed, multiple, string.
        Lq = "lq", po(56), "RTp,DQ(RA)", V206, Base;
        Stq = "stq", ds(62, 2), "RSp,DS(RA)", V206, Base;
        Lhbrx = "lhbrx", x(31, 790), "RT,RA,RB", V206, Base;
        Lwbrx = "lwbrx", x(31, 534), "RT,RA,RB", V206, Base;
        Ldbrx = "ldbrx", x(31, 532), "RT,RA,RB", V206, Base;
        Sthbrx = "sthbrx", x(31, 918), "RS,RA,RB", V206, Base;
        Stwbrx = "stwbrx", x(31, 662), "RS,RA,RB", V206, Base;
        Stdbrx = "stdbrx", x(31, 660), "RS,RA,RB", V206, Base;
        Lmw = "lmw", po(46), "RT,D(RA)", V206, Base;
        Stmw = "stmw", po(47), "RS,D(RA)", V206, Base;
        Lswi = "lswi", x(31, 597), "RT,RA,NB", V206, Base;
        Lswx = "lswx", x(31, 533), "RT,RA,RB", V206, Base;
        Stswi = "stswi", x(31, 725), "RS,RA,NB", V206, Base;
        Stswx = "stswx", x(31, 661), "RS,RA,RB", V206, Base;
        // I 3.3.9: arithmetic.
        Addi = "addi", po(14), "RT,RA,SI", V206, Base;
        Addis = "addis", po(15), "RT,RA,SI", V206, Base;
        Addpcis = "addpcis", a(19, 2), "RT,D", V300, Base;
        Add = "add", xo(31, 266), "RT,RA,RB", V206, Base, rc, oe;
        Subf = "subf", xo(31, 40), "RT,RA,RB", V206, Base, rc, oe;
        Addic = "addic", po(12), "RT,RA,SI", V206, Base;
        AddicRecord = "addic.", po(13), "RT,RA,SI", V206, Base;
        Subfic = "subfic", po(8), "RT,RA,SI", V206, Base;
        Addc = "addc", xo(31, 10), "RT,RA,RB", V206, Base, rc, oe;
        Subfc = "subfc", xo(31, 8), "RT,RA,RB", V206, Base, rc, oe;
        Adde = "adde", xo(31, 138), "RT,RA,RB", V206, Base, rc, oe;
        Subfe = "subfe", xo(31, 136), "RT,RA,RB", V206, Base, rc, oe;
        Addme = "addme", xo(31, 234), "RT,RA", V206, Base, rc, oe;
        Subfme = "subfme", xo(31, 232), "RT,RA", V206, Base, rc, oe;
        Addze = "addze", xo(31, 202), "RT,RA", V206, Base, rc, oe;
        Subfze = "subfze", xo(31, 200), "RT,RA", V206, Base, rc, oe;
        Addex = "addex", z23(31, 170), "RT,RA,RB,CY", V300, Base;
        Neg = "neg", xo(31, 104), "RT,RA", V206, Base, rc, oe;
        Mulli = "mulli", po(7), "RT,RA,SI", V206, Base;
        Mullw = "mullw", xo(31, 235), "RT,RA,RB", V206, Base, rc, oe;
        Mulhw = "mulhw", xo(31, 75), "RT,RA,RB", V206, Base, rc;
        Mulhwu = "mulhwu", xo(31, 11), "RT,RA,RB", V206, Base, rc;
        Divw = "divw", xo(31, 491), "RT,RA,RB", V206, Base, rc, oe;
        Divwu = "divwu", xo(31, 459), "RT,RA,RB", V206, Base, rc, oe;
        Divwe = "divwe", xo(31, 427), "RT,RA,RB", V206, Base, rc, oe;
        Divweu = "divweu", xo(31, 395), "RT,RA,RB", V206, Base, rc, oe;
        Modsw = "modsw", x(31, 779), "RT,RA,RB", V300, Base;
        Moduw = "moduw", x(31, 267), "RT,RA,RB", V300, Base;
        Darn = "darn", x(31, 755), "RT,L", V300, Base;
        Mulld = "mulld", xo(31, 233), "RT,RA,RB", V206, Base, rc, oe;
        Mulhd = "mulhd", xo(31, 73), "RT,RA,RB", V206, Base, rc;
        Mulhdu = "mulhdu", xo(31, 9), "RT,RA,RB", V206, Base, rc;
        Maddhd = "maddhd", va(48), "RT,RA,RB,RC", V300, Base;
        Maddhdu = "maddhdu", va(49), "RT,RA,RB,RC", V300, Base;
        Maddld = "maddld", va(51), "RT,RA,RB,RC", V300, Base;
        Divd = "divd", xo(31, 489), "RT,RA,RB", V206, Base, rc, oe;
        Divdu = "divdu", xo(31, 457), "RT,RA,RB", V206, Base, rc, oe;
        Divde = "divde", xo(31, 425), "RT,RA,RB", V206, Base, rc, oe;
        Divdeu = "divdeu", xo(31, 393), "RT,RA,RB", V206, Base, rc, oe;
        Modsd = "modsd", x(31, 777), "RT,RA,RB", V300, Base;
        Modud = "modud", x(31, 265), "RT,RA,RB", V300, Base;
        // I 3.3.10 to 3.3.12: compare, select.
        Cmpi = "cmpi", po(11), "BF,L,RA,SI", V206, Base;
        Cmp = "cmp", x(31, 0), "BF,L,RA,RB", V206, Base;
        Cmpli = "cmpli", po(10), "BF,L,RA,UI", V206, Base;
        Cmpl = "cmpl", x(31, 32), "BF,L,RA,RB", V206, Base;
        Cmprb = "cmprb", x(31, 192), "BF,L,RA,RB", V300, Base;
        Cmpeqb = "cmpeqb", x(31, 224), "BF,RA,RB", V300, Base;
        Setb = "setb", x(31, 128), "RT,BFA", V300, Base;
        Isel = "isel", a(31, 15), "RT,RA,RB,BC", V206, Base;
        // I 3.3.11: traps.
        Tdi = "tdi", po(2), "TO,RA,SI", V206, Base;
        Twi = "twi", po(3), "TO,RA,SI", V206, Base;
        Td = "td", x(31, 68), "TO,RA,RB", V206, Base;
        Tw = "tw", x(31, 4), "TO,RA,RB", V206, Base;
        // I 3.3.13: logical.
        AndiRecord = "andi.", po(28), "RA,RS,UI", V206, Base;
        AndisRecord = "andis.", po(29), "RA,RS,UI", V206, Base;
        Ori = "ori", po(24), "RA,RS,UI", V206, Base;
        Oris = "oris", po(25), "RA,RS,UI", V206, Base;
        Xori = "xori", po(26), "RA,RS,UI", V206, Base;
        Xoris = "xoris", po(27), "RA,RS,UI", V206, Base;
        And = "and", x(31, 28), "RA,RS,RB", V206, Base, rc;
        Xor = "xor", x(31, 316), "RA,RS,RB", V206, Base, rc;
        Nand = "nand", x(31, 476), "RA,RS,RB", V206, Base, rc;
        Or = "or", x(31, 444), "RA,RS,RB", V206, Base, rc;
        Orc = "orc", x(31, 412), "RA,RS,RB", V206, Base, rc;
        Nor = "nor", x(31, 124), "RA,RS,RB", V206, Base, rc;
        Eqv = "eqv", x(31, 284), "RA,RS,RB", V206, Base, rc;
        Andc = "andc", x(31, 60), "RA,RS,RB", V206, Base, rc;
        Extsb = "extsb", x(31, 954), "RA,RS", V206, Base, rc;
        Extsh = "extsh", x(31, 922), "RA,RS", V206, Base, rc;
        Extsw = "extsw", x(31, 986), "RA,RS", V206, Base, rc;
        Cntlzw = "cntlzw", x(31, 26), "RA,RS", V206, Base, rc;
        Cntlzd = "cntlzd", x(31, 58), "RA,RS", V206, Base, rc;
        Cnttzw = "cnttzw", x(31, 538), "RA,RS", V300, Base, rc;
        Cnttzd = "cnttzd", x(31, 570), "RA,RS", V300, Base, rc;
        Cmpb = "cmpb", x(31, 508), "RA,RS,RB", V206, Base;
        Popcntb = "popcntb", x(31, 122), "RA,RS", V206, Base;
        Popcntw = "popcntw", x(31, 378), "RA,RS", V206, Base;
        Popcntd = "popcntd", x(31, 506), "RA,RS", V206, Base;
        Prtyw = "prtyw", x(31, 154), "RA,RS", V206, Base;
        Prtyd = "prtyd", x(31, 186), "RA,RS", V206, Base;
        Bpermd = "bpermd", x(31, 252), "RA,RS,RB", V206, Base;
        // I 3.3.14: rotate and shift.
        Rlwinm = "rlwinm", po(21), "RA,RS,SH,MB,ME", V206, Base, rc;
        Rlwnm = "rlwnm", po(23), "RA,RS,RB,MB,ME", V206, Base, rc;
        Rlwimi = "rlwimi", po(20), "RA,RS,SH,MB,ME", V206, Base, rc;
        Rldicl = "rldicl", md(30, 0), "RA,RS,sh,mb", V206, Base, rc;
        Rldicr = "rldicr", md(30, 1), "RA,RS,sh,me", V206, Base, rc;
        Rldic = "rldic", md(30, 2), "RA,RS,sh,mb", V206, Base, rc;
        Rldimi = "rldimi", md(30, 3), "RA,RS,sh,mb", V206, Base, rc;
        Rldcl = "rldcl", mds(30, 8), "RA,RS,RB,mb", V206, Base, rc;
        Rldcr = "rldcr", mds(30, 9), "RA,RS,RB,me", V206, Base, rc;
        Slw = "slw", x(31, 24), "RA,RS,RB", V206, Base, rc;
        Srw = "srw", x(31, 536), "RA,RS,RB", V206, Base, rc;
        Srawi = "srawi", x(31, 824), "RA,RS,SH", V206, Base, rc;
        Sraw = "sraw", x(31, 792), "RA,RS,RB", V206, Base, rc;
        Sld = "sld", x(31, 27), "RA,RS,RB", V206, Base, rc;
        Srd = "srd", x(31, 539), "RA,RS,RB", V206, Base, rc;
        Sradi = "sradi", xs(31, 413), "RA,RS,sh", V206, Base, rc;
        Srad = "srad", x(31, 794), "RA,RS,RB", V206, Base, rc;
        Extswsli = "extswsli", xs(31, 445), "RA,RS,sh", V300, Base, rc;
        // I 3.3.15, 3.3.16: binary coded decimal assists.
        Cdtbcd = "cdtbcd", x(31, 282), "RA,RS", V206, Base;
        Cbcdtd = "cbcdtd", x(31, 314), "RA,RS", V206, Base;
        Addg6s = "addg6s", xo(31, 74), "RT,RA,RB", V206, Base;
        // I 3.3.17: move to and from CR.
        Mtcrf = "mtcrf", x(31, 144).and(11, 11, 0), "FXM,RS", V206, Base;
        Mtocrf = "mtocrf", x(31, 144).and(11, 11, 1), "FXM,RS", V206, Base;
        Mfcr = "mfcr", x(31, 19).and(11, 11, 0), "RT", V206, Base;
        Mfocrf = "mfocrf", x(31, 19).and(11, 11, 1), "RT,FXM", V206, Base;
        Mcrxrx = "mcrxrx", x(31, 576), "BF", V300, Base;
        // II 4.3: cache management.
        Icbi = "icbi", x(31, 982), "RA,RB", V206, Base;
        Icbt = "icbt", x(31, 22), "CT,RA,RB", V207, Base;
        Dcbt = "dcbt", x(31, 278), "TH,RA,RB", V206, Base;
        Dcbtst = "dcbtst", x(31, 246), "TH,RA,RB", V206, Base;
        Dcbz = "dcbz", x(31, 1014), "RA,RB", V206, Base;
        Dcbst = "dcbst", x(31, 54), "RA,RB", V206, Base;
        Dcbf = "dcbf", x(31, 86), "RA,RB,L", V206, Base;
        // Data streams of the original vector facility: gone from ISA 3.0, kept by the processors as no operation.
        Dst = "dst", x(31, 342), "RA,RB,STRM", V206, Base;
        Dstst = "dstst", x(31, 374), "RA,RB,STRM", V206, Base;
        Dss = "dss", x(31, 822), "STRM", V206, Base;
        // II 4.4: copy-paste.
        Copy = "copy", x(31, 774).and(10, 10, 1), "RA,RB", V300, Base;
        PasteRecord = "paste.", x_dot(31, 902).and(10, 10, 1), "RA,RB", V300, Base;
        CpAbort = "cp_abort", x(31, 838), "", V300, Base;
        // II 4.5: atomic memory operations.
        Lwat = "lwat", x(31, 582), "RT,RA,FC", V300, Base;
        Ldat = "ldat", x(31, 614), "RT,RA,FC", V300, Base;
        Stwat = "stwat", x(31, 710), "RS,RA,FC", V300, Base;
        Stdat = "stdat", x(31, 742), "RS,RA,FC", V300, Base;
        // II 4.6.2: load and reserve, store conditional.
        Lbarx = "lbarx", x(31, 52), "RT,RA,RB,EH", V207, Base;
        Lharx = "lharx", x(31, 116), "RT,RA,RB,EH", V207, Base;
        Lwarx = "lwarx", x(31, 20), "RT,RA,RB,EH", V206, Base;
        Ldarx = "ldarx", x(31, 84), "RT,RA,RB,EH", V206, Base;
        Lqarx = "lqarx", x(31, 276), "RTp,RA,RB,EH", V207, Base;
        StbcxRecord = "stbcx.", x_dot(31, 694), "RS,RA,RB", V207, Base;
        SthcxRecord = "sthcx.", x_dot(31, 726), "RS,RA,RB", V207, Base;
        StwcxRecord = "stwcx.", x_dot(31, 150), "RS,RA,RB", V206, Base;
        StdcxRecord = "stdcx.", x_dot(31, 214), "RS,RA,RB", V206, Base;
        StqcxRecord = "stqcx.", x_dot(31, 182), "RSp,RA,RB", V207, Base;
        // II 4.6.3: barriers.
        Sync = "sync", x(31, 598), "L", V206, Base;
        Eieio = "eieio", x(31, 854), "", V206, Base;
    }
}
