//! Floating-point instructions (ISA 3.0B I 4), and the decimal ones of I 5, which this CPU does not offer.

use super::encoding::*;

/// PO 63, XO 583: the FRA field selects among the instructions that read the FPSCR.
const fn mffs(sub: u32) -> Encoding {
    x(63, 583).and(11, 15, sub)
}

/// Z22 form: XO in bits 22 to 30.
const fn z22(po: u32, field: u32) -> Encoding {
    xo(po, field)
}

instruction_class! {
    /// Floating-point instructions (ISA 3.0B I 4), and the decimal ones of I 5, which this CPU does not offer.
    pub enum FloatOp {
        // Storage access (I 4.6.2 to 4.6.4).
        Lfs = "lfs", po(48), "FRT,D(RA)", V206, Fp;
        Lfsu = "lfsu", po(49), "FRT,D(RA)", V206, Fp;
        Lfsx = "lfsx", x(31, 535), "FRT,RA,RB", V206, Fp;
        Lfsux = "lfsux", x(31, 567), "FRT,RA,RB", V206, Fp;
        Lfd = "lfd", po(50), "FRT,D(RA)", V206, Fp;
        Lfdu = "lfdu", po(51), "FRT,D(RA)", V206, Fp;
        Lfdx = "lfdx", x(31, 599), "FRT,RA,RB", V206, Fp;
        Lfdux = "lfdux", x(31, 631), "FRT,RA,RB", V206, Fp;
        Lfiwax = "lfiwax", x(31, 855), "FRT,RA,RB", V206, Fp;
        Lfiwzx = "lfiwzx", x(31, 887), "FRT,RA,RB", V206, Fp;
        Stfs = "stfs", po(52), "FRS,D(RA)", V206, Fp;
        Stfsu = "stfsu", po(53), "FRS,D(RA)", V206, Fp;
        Stfsx = "stfsx", x(31, 663), "FRS,RA,RB", V206, Fp;
        Stfsux = "stfsux", x(31, 695), "FRS,RA,RB", V206, Fp;
        Stfd = "stfd", po(54), "FRS,D(RA)", V206, Fp;
        Stfdu = "stfdu", po(55), "FRS,D(RA)", V206, Fp;
        Stfdx = "stfdx", x(31, 727), "FRS,RA,RB", V206, Fp;
        Stfdux = "stfdux", x(31, 759), "FRS,RA,RB", V206, Fp;
        Stfiwx = "stfiwx", x(31, 983), "FRS,RA,RB", V206, Fp;
        Lfdp = "lfdp", ds(57, 0).and(10, 10, 0), "FRTp,DS(RA)", V206, Fp;
        Lfdpx = "lfdpx", x(31, 791).and(10, 10, 0), "FRTp,RA,RB", V206, Fp;
        Stfdp = "stfdp", ds(61, 0).and(10, 10, 0), "FRSp,DS(RA)", V206, Fp;
        Stfdpx = "stfdpx", x(31, 919).and(10, 10, 0), "FRSp,RA,RB", V206, Fp;

        // Move (I 4.6.5).
        Fmr = "fmr", x(63, 72), "FRT,FRB", V206, Fp, rc;
        Fneg = "fneg", x(63, 40), "FRT,FRB", V206, Fp, rc;
        Fabs = "fabs", x(63, 264), "FRT,FRB", V206, Fp, rc;
        Fnabs = "fnabs", x(63, 136), "FRT,FRB", V206, Fp, rc;
        Fcpsgn = "fcpsgn", x(63, 8), "FRT,FRA,FRB", V206, Fp, rc;
        Fmrgew = "fmrgew", x(63, 966), "FRT,FRA,FRB", V207, Fp;
        Fmrgow = "fmrgow", x(63, 838), "FRT,FRA,FRB", V207, Fp;

        // Arithmetic (I 4.6.6).
        Fadd = "fadd", a(63, 21), "FRT,FRA,FRB", V206, Fp, rc;
        Fadds = "fadds", a(59, 21), "FRT,FRA,FRB", V206, Fp, rc;
        Fsub = "fsub", a(63, 20), "FRT,FRA,FRB", V206, Fp, rc;
        Fsubs = "fsubs", a(59, 20), "FRT,FRA,FRB", V206, Fp, rc;
        Fmul = "fmul", a(63, 25), "FRT,FRA,FRC", V206, Fp, rc;
        Fmuls = "fmuls", a(59, 25), "FRT,FRA,FRC", V206, Fp, rc;
        Fdiv = "fdiv", a(63, 18), "FRT,FRA,FRB", V206, Fp, rc;
        Fdivs = "fdivs", a(59, 18), "FRT,FRA,FRB", V206, Fp, rc;
        Fsqrt = "fsqrt", a(63, 22), "FRT,FRB", V206, Fp, rc;
        Fsqrts = "fsqrts", a(59, 22), "FRT,FRB", V206, Fp, rc;
        Fre = "fre", a(63, 24), "FRT,FRB", V206, Fp, rc;
        Fres = "fres", a(59, 24), "FRT,FRB", V206, Fp, rc;
        Frsqrte = "frsqrte", a(63, 26), "FRT,FRB", V206, Fp, rc;
        Frsqrtes = "frsqrtes", a(59, 26), "FRT,FRB", V206, Fp, rc;
        Ftdiv = "ftdiv", x(63, 128), "BF,FRA,FRB", V206, Fp;
        Ftsqrt = "ftsqrt", x(63, 160), "BF,FRB", V206, Fp;
        Fmadd = "fmadd", a(63, 29), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fmadds = "fmadds", a(59, 29), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fmsub = "fmsub", a(63, 28), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fmsubs = "fmsubs", a(59, 28), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fnmadd = "fnmadd", a(63, 31), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fnmadds = "fnmadds", a(59, 31), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fnmsub = "fnmsub", a(63, 30), "FRT,FRA,FRC,FRB", V206, Fp, rc;
        Fnmsubs = "fnmsubs", a(59, 30), "FRT,FRA,FRC,FRB", V206, Fp, rc;

        // Rounding and conversion (I 4.6.7).
        Frsp = "frsp", x(63, 12), "FRT,FRB", V206, Fp, rc;
        Fctid = "fctid", x(63, 814), "FRT,FRB", V206, Fp, rc;
        Fctidz = "fctidz", x(63, 815), "FRT,FRB", V206, Fp, rc;
        Fctidu = "fctidu", x(63, 942), "FRT,FRB", V206, Fp, rc;
        Fctiduz = "fctiduz", x(63, 943), "FRT,FRB", V206, Fp, rc;
        Fctiw = "fctiw", x(63, 14), "FRT,FRB", V206, Fp, rc;
        Fctiwz = "fctiwz", x(63, 15), "FRT,FRB", V206, Fp, rc;
        Fctiwu = "fctiwu", x(63, 142), "FRT,FRB", V206, Fp, rc;
        Fctiwuz = "fctiwuz", x(63, 143), "FRT,FRB", V206, Fp, rc;
        Fcfid = "fcfid", x(63, 846), "FRT,FRB", V206, Fp, rc;
        Fcfidu = "fcfidu", x(63, 974), "FRT,FRB", V206, Fp, rc;
        Fcfids = "fcfids", x(59, 846), "FRT,FRB", V206, Fp, rc;
        Fcfidus = "fcfidus", x(59, 974), "FRT,FRB", V206, Fp, rc;
        Frin = "frin", x(63, 392), "FRT,FRB", V206, Fp, rc;
        Friz = "friz", x(63, 424), "FRT,FRB", V206, Fp, rc;
        Frip = "frip", x(63, 456), "FRT,FRB", V206, Fp, rc;
        Frim = "frim", x(63, 488), "FRT,FRB", V206, Fp, rc;

        // Compare and select (I 4.6.8, 4.6.9).
        Fcmpu = "fcmpu", x(63, 0), "BF,FRA,FRB", V206, Fp;
        Fcmpo = "fcmpo", x(63, 32), "BF,FRA,FRB", V206, Fp;
        Fsel = "fsel", a(63, 23), "FRT,FRA,FRC,FRB", V206, Fp, rc;

        // Status and control (I 4.6.10).
        Mffs = "mffs", mffs(0), "FRT", V206, Fp, rc;
        Mffsce = "mffsce", mffs(1), "FRT", V300, Fp;
        Mffscdrn = "mffscdrn", mffs(20), "FRT,FRB", V300, Fp;
        Mffscdrni = "mffscdrni", mffs(21), "FRT,DRM", V300, Fp;
        Mffscrn = "mffscrn", mffs(22), "FRT,FRB", V300, Fp;
        Mffscrni = "mffscrni", mffs(23), "FRT,RM", V300, Fp;
        Mffsl = "mffsl", mffs(24), "FRT", V300, Fp;
        Mcrfs = "mcrfs", x(63, 64), "BF,BFA", V206, Fp;
        Mtfsfi = "mtfsfi", x(63, 134), "BF,U,W", V206, Fp, rc;
        Mtfsf = "mtfsf", x(63, 711), "FLM,FRB,L,W", V206, Fp, rc;
        Mtfsb0 = "mtfsb0", x(63, 70), "BT", V206, Fp, rc;
        Mtfsb1 = "mtfsb1", x(63, 38), "BT", V206, Fp, rc;

        // Decimal (I 5): facility unavailable.
        Dadd = "dadd", x(59, 2), "FRT,FRA,FRB", V206, Dfp, rc;
        Daddq = "daddq", x(63, 2), "FRTp,FRAp,FRBp", V206, Dfp, rc;
        Dsub = "dsub", x(59, 514), "FRT,FRA,FRB", V206, Dfp, rc;
        Dsubq = "dsubq", x(63, 514), "FRTp,FRAp,FRBp", V206, Dfp, rc;
        Dmul = "dmul", x(59, 34), "FRT,FRA,FRB", V206, Dfp, rc;
        Dmulq = "dmulq", x(63, 34), "FRTp,FRAp,FRBp", V206, Dfp, rc;
        Ddiv = "ddiv", x(59, 546), "FRT,FRA,FRB", V206, Dfp, rc;
        Ddivq = "ddivq", x(63, 546), "FRTp,FRAp,FRBp", V206, Dfp, rc;
        Dcmpo = "dcmpo", x(59, 130), "BF,FRA,FRB", V206, Dfp;
        Dcmpoq = "dcmpoq", x(63, 130), "BF,FRAp,FRBp", V206, Dfp;
        Dcmpu = "dcmpu", x(59, 642), "BF,FRA,FRB", V206, Dfp;
        Dcmpuq = "dcmpuq", x(63, 642), "BF,FRAp,FRBp", V206, Dfp;
        Dtstdc = "dtstdc", z22(59, 194), "BF,FRA,DCM", V206, Dfp;
        Dtstdcq = "dtstdcq", z22(63, 194), "BF,FRAp,DCM", V206, Dfp;
        Dtstdg = "dtstdg", z22(59, 226), "BF,FRA,DGM", V206, Dfp;
        Dtstdgq = "dtstdgq", z22(63, 226), "BF,FRAp,DGM", V206, Dfp;
        Dtstex = "dtstex", x(59, 162), "BF,FRA,FRB", V206, Dfp;
        Dtstexq = "dtstexq", x(63, 162), "BF,FRAp,FRBp", V206, Dfp;
        Dtstsf = "dtstsf", x(59, 674), "BF,FRA,FRB", V206, Dfp;
        Dtstsfq = "dtstsfq", x(63, 674), "BF,FRA,FRBp", V206, Dfp;
        Dtstsfi = "dtstsfi", x(59, 675), "BF,UIM,FRB", V300, Dfp;
        Dtstsfiq = "dtstsfiq", x(63, 675), "BF,UIM,FRBp", V300, Dfp;
        Dquai = "dquai", z23(59, 67), "TE,FRT,FRB,RMC", V206, Dfp, rc;
        Dquaiq = "dquaiq", z23(63, 67), "TE,FRTp,FRBp,RMC", V206, Dfp, rc;
        Dqua = "dqua", z23(59, 3), "FRT,FRA,FRB,RMC", V206, Dfp, rc;
        Dquaq = "dquaq", z23(63, 3), "FRTp,FRAp,FRBp,RMC", V206, Dfp, rc;
        Drrnd = "drrnd", z23(59, 35), "FRT,FRA,FRB,RMC", V206, Dfp, rc;
        Drrndq = "drrndq", z23(63, 35), "FRTp,FRA,FRBp,RMC", V206, Dfp, rc;
        Drintx = "drintx", z23(59, 99), "R,FRT,FRB,RMC", V206, Dfp, rc;
        Drintxq = "drintxq", z23(63, 99), "R,FRTp,FRBp,RMC", V206, Dfp, rc;
        Drintn = "drintn", z23(59, 227), "R,FRT,FRB,RMC", V206, Dfp, rc;
        Drintnq = "drintnq", z23(63, 227), "R,FRTp,FRBp,RMC", V206, Dfp, rc;
        Dctdp = "dctdp", x(59, 258), "FRT,FRB", V206, Dfp, rc;
        Dctqpq = "dctqpq", x(63, 258), "FRTp,FRB", V206, Dfp, rc;
        Drsp = "drsp", x(59, 770), "FRT,FRB", V206, Dfp, rc;
        Drdpq = "drdpq", x(63, 770), "FRTp,FRBp", V206, Dfp, rc;
        Dcffix = "dcffix", x(59, 802), "FRT,FRB", V206, Dfp, rc;
        Dcffixq = "dcffixq", x(63, 802), "FRTp,FRB", V206, Dfp, rc;
        Dctfix = "dctfix", x(59, 290), "FRT,FRB", V206, Dfp, rc;
        Dctfixq = "dctfixq", x(63, 290), "FRT,FRBp", V206, Dfp, rc;
        Ddedpd = "ddedpd", x(59, 322), "SP,FRT,FRB", V206, Dfp, rc;
        Ddedpdq = "ddedpdq", x(63, 322), "SP,FRTp,FRBp", V206, Dfp, rc;
        Denbcd = "denbcd", x(59, 834), "S,FRT,FRB", V206, Dfp, rc;
        Denbcdq = "denbcdq", x(63, 834), "S,FRTp,FRBp", V206, Dfp, rc;
        Dxex = "dxex", x(59, 354), "FRT,FRB", V206, Dfp, rc;
        Dxexq = "dxexq", x(63, 354), "FRT,FRBp", V206, Dfp, rc;
        Diex = "diex", x(59, 866), "FRT,FRA,FRB", V206, Dfp, rc;
        Diexq = "diexq", x(63, 866), "FRTp,FRA,FRBp", V206, Dfp, rc;
        Dscli = "dscli", z22(59, 66), "FRT,FRA,SH", V206, Dfp, rc;
        Dscliq = "dscliq", z22(63, 66), "FRTp,FRAp,SH", V206, Dfp, rc;
        Dscri = "dscri", z22(59, 98), "FRT,FRA,SH", V206, Dfp, rc;
        Dscriq = "dscriq", z22(63, 98), "FRTp,FRAp,SH", V206, Dfp, rc;
    }
}
