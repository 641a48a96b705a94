//! Vector (VMX) instructions (ISA 3.0B I 6).

use super::encoding::*;

/// PO 4, XO 1538: the VRA field selects the operation.
const fn vx_unary(sub: u32) -> Encoding {
    vx(1538).and(11, 15, sub)
}

/// Decimal with a preferred-sign bit (22); bit 21, which records to CR6, is one.
const fn vx_decimal(xo: u32) -> Encoding {
    assert!(xo < 0x200);
    Encoding { mask: 0xfc00_05ff, value: 4 << 26 | 0x400 | xo }
}

/// PO 4, XO 385 with record: the VRA field selects the operation.
const fn vx_decimal_unary(sub: u32) -> Encoding {
    vx_decimal(385).and(11, 15, sub)
}

instruction_class! {
    /// Vector (VMX) instructions (ISA 3.0B I 6).
    pub enum VmxOp {
        // Storage access (I 6.7).
        Lvebx = "lvebx", x(31, 7), "VRT,RA,RB", V206, Vec;
        Lvehx = "lvehx", x(31, 39), "VRT,RA,RB", V206, Vec;
        Lvewx = "lvewx", x(31, 71), "VRT,RA,RB", V206, Vec;
        Lvx = "lvx", x(31, 103), "VRT,RA,RB", V206, Vec;
        Lvxl = "lvxl", x(31, 359), "VRT,RA,RB", V206, Vec;
        Stvebx = "stvebx", x(31, 135), "VRS,RA,RB", V206, Vec;
        Stvehx = "stvehx", x(31, 167), "VRS,RA,RB", V206, Vec;
        Stvewx = "stvewx", x(31, 199), "VRS,RA,RB", V206, Vec;
        Stvx = "stvx", x(31, 231), "VRS,RA,RB", V206, Vec;
        Stvxl = "stvxl", x(31, 487), "VRS,RA,RB", V206, Vec;
        Lvsl = "lvsl", x(31, 6), "VRT,RA,RB", V206, Vec;
        Lvsr = "lvsr", x(31, 38), "VRT,RA,RB", V206, Vec;

        // Pack, unpack, merge, splat, permute (I 6.8).
        Vpkpx = "vpkpx", vx(782), "VRT,VRA,VRB", V206, Vec;
        Vpkshss = "vpkshss", vx(398), "VRT,VRA,VRB", V206, Vec;
        Vpkshus = "vpkshus", vx(270), "VRT,VRA,VRB", V206, Vec;
        Vpkswss = "vpkswss", vx(462), "VRT,VRA,VRB", V206, Vec;
        Vpkswus = "vpkswus", vx(334), "VRT,VRA,VRB", V206, Vec;
        Vpksdss = "vpksdss", vx(1486), "VRT,VRA,VRB", V207, Vec;
        Vpksdus = "vpksdus", vx(1358), "VRT,VRA,VRB", V207, Vec;
        Vpkuhum = "vpkuhum", vx(14), "VRT,VRA,VRB", V206, Vec;
        Vpkuhus = "vpkuhus", vx(142), "VRT,VRA,VRB", V206, Vec;
        Vpkuwum = "vpkuwum", vx(78), "VRT,VRA,VRB", V206, Vec;
        Vpkuwus = "vpkuwus", vx(206), "VRT,VRA,VRB", V206, Vec;
        Vpkudum = "vpkudum", vx(1102), "VRT,VRA,VRB", V207, Vec;
        Vpkudus = "vpkudus", vx(1230), "VRT,VRA,VRB", V207, Vec;
        Vupkhpx = "vupkhpx", vx(846), "VRT,VRB", V206, Vec;
        Vupklpx = "vupklpx", vx(974), "VRT,VRB", V206, Vec;
        Vupkhsb = "vupkhsb", vx(526), "VRT,VRB", V206, Vec;
        Vupkhsh = "vupkhsh", vx(590), "VRT,VRB", V206, Vec;
        Vupkhsw = "vupkhsw", vx(1614), "VRT,VRB", V207, Vec;
        Vupklsb = "vupklsb", vx(654), "VRT,VRB", V206, Vec;
        Vupklsh = "vupklsh", vx(718), "VRT,VRB", V206, Vec;
        Vupklsw = "vupklsw", vx(1742), "VRT,VRB", V207, Vec;
        Vmrghb = "vmrghb", vx(12), "VRT,VRA,VRB", V206, Vec;
        Vmrghh = "vmrghh", vx(76), "VRT,VRA,VRB", V206, Vec;
        Vmrghw = "vmrghw", vx(140), "VRT,VRA,VRB", V206, Vec;
        Vmrglb = "vmrglb", vx(268), "VRT,VRA,VRB", V206, Vec;
        Vmrglh = "vmrglh", vx(332), "VRT,VRA,VRB", V206, Vec;
        Vmrglw = "vmrglw", vx(396), "VRT,VRA,VRB", V206, Vec;
        Vmrgew = "vmrgew", vx(1932), "VRT,VRA,VRB", V207, Vec;
        Vmrgow = "vmrgow", vx(1676), "VRT,VRA,VRB", V207, Vec;
        Vspltb = "vspltb", vx(524), "VRT,VRB,UIM", V206, Vec;
        Vsplth = "vsplth", vx(588), "VRT,VRB,UIM", V206, Vec;
        Vspltw = "vspltw", vx(652), "VRT,VRB,UIM", V206, Vec;
        Vspltisb = "vspltisb", vx(780), "VRT,SIM", V206, Vec;
        Vspltish = "vspltish", vx(844), "VRT,SIM", V206, Vec;
        Vspltisw = "vspltisw", vx(908), "VRT,SIM", V206, Vec;
        Vperm = "vperm", va(43), "VRT,VRA,VRB,VRC", V206, Vec;
        Vpermr = "vpermr", va(59), "VRT,VRA,VRB,VRC", V300, Vec;
        Vsel = "vsel", va(42), "VRT,VRA,VRB,VRC", V206, Vec;
        Vsl = "vsl", vx(452), "VRT,VRA,VRB", V206, Vec;
        Vslo = "vslo", vx(1036), "VRT,VRA,VRB", V206, Vec;
        Vslv = "vslv", vx(1860), "VRT,VRA,VRB", V300, Vec;
        Vsldoi = "vsldoi", va(44).and(21, 21, 0), "VRT,VRA,VRB,SHB", V206, Vec;
        Vsr = "vsr", vx(708), "VRT,VRA,VRB", V206, Vec;
        Vsro = "vsro", vx(1100), "VRT,VRA,VRB", V206, Vec;
        Vsrv = "vsrv", vx(1796), "VRT,VRA,VRB", V300, Vec;
        Vextractub = "vextractub", vx(525), "VRT,VRB,UIM", V300, Vec;
        Vextractuh = "vextractuh", vx(589), "VRT,VRB,UIM", V300, Vec;
        Vextractuw = "vextractuw", vx(653), "VRT,VRB,UIM", V300, Vec;
        Vextractd = "vextractd", vx(717), "VRT,VRB,UIM", V300, Vec;
        Vinsertb = "vinsertb", vx(781), "VRT,VRB,UIM", V300, Vec;
        Vinserth = "vinserth", vx(845), "VRT,VRB,UIM", V300, Vec;
        Vinsertw = "vinsertw", vx(909), "VRT,VRB,UIM", V300, Vec;
        Vinsertd = "vinsertd", vx(973), "VRT,VRB,UIM", V300, Vec;
        Vextublx = "vextublx", vx(1549), "RT,RA,VRB", V300, Vec;
        Vextuhlx = "vextuhlx", vx(1613), "RT,RA,VRB", V300, Vec;
        Vextuwlx = "vextuwlx", vx(1677), "RT,RA,VRB", V300, Vec;
        Vextubrx = "vextubrx", vx(1805), "RT,RA,VRB", V300, Vec;
        Vextuhrx = "vextuhrx", vx(1869), "RT,RA,VRB", V300, Vec;
        Vextuwrx = "vextuwrx", vx(1933), "RT,RA,VRB", V300, Vec;

        // Integer add and subtract (I 6.9.1).
        Vaddcuw = "vaddcuw", vx(384), "VRT,VRA,VRB", V206, Vec;
        Vaddsbs = "vaddsbs", vx(768), "VRT,VRA,VRB", V206, Vec;
        Vaddshs = "vaddshs", vx(832), "VRT,VRA,VRB", V206, Vec;
        Vaddsws = "vaddsws", vx(896), "VRT,VRA,VRB", V206, Vec;
        Vaddubm = "vaddubm", vx(0), "VRT,VRA,VRB", V206, Vec;
        Vadduhm = "vadduhm", vx(64), "VRT,VRA,VRB", V206, Vec;
        Vadduwm = "vadduwm", vx(128), "VRT,VRA,VRB", V206, Vec;
        Vaddudm = "vaddudm", vx(192), "VRT,VRA,VRB", V207, Vec;
        Vaddubs = "vaddubs", vx(512), "VRT,VRA,VRB", V206, Vec;
        Vadduhs = "vadduhs", vx(576), "VRT,VRA,VRB", V206, Vec;
        Vadduws = "vadduws", vx(640), "VRT,VRA,VRB", V206, Vec;
        Vadduqm = "vadduqm", vx(256), "VRT,VRA,VRB", V207, Vec;
        Vaddcuq = "vaddcuq", vx(320), "VRT,VRA,VRB", V207, Vec;
        Vaddeuqm = "vaddeuqm", va(60), "VRT,VRA,VRB,VRC", V207, Vec;
        Vaddecuq = "vaddecuq", va(61), "VRT,VRA,VRB,VRC", V207, Vec;
        Vsubcuw = "vsubcuw", vx(1408), "VRT,VRA,VRB", V206, Vec;
        Vsubsbs = "vsubsbs", vx(1792), "VRT,VRA,VRB", V206, Vec;
        Vsubshs = "vsubshs", vx(1856), "VRT,VRA,VRB", V206, Vec;
        Vsubsws = "vsubsws", vx(1920), "VRT,VRA,VRB", V206, Vec;
        Vsububm = "vsububm", vx(1024), "VRT,VRA,VRB", V206, Vec;
        Vsubuhm = "vsubuhm", vx(1088), "VRT,VRA,VRB", V206, Vec;
        Vsubuwm = "vsubuwm", vx(1152), "VRT,VRA,VRB", V206, Vec;
        Vsubudm = "vsubudm", vx(1216), "VRT,VRA,VRB", V207, Vec;
        Vsububs = "vsububs", vx(1536), "VRT,VRA,VRB", V206, Vec;
        Vsubuhs = "vsubuhs", vx(1600), "VRT,VRA,VRB", V206, Vec;
        Vsubuws = "vsubuws", vx(1664), "VRT,VRA,VRB", V206, Vec;
        Vsubuqm = "vsubuqm", vx(1280), "VRT,VRA,VRB", V207, Vec;
        Vsubcuq = "vsubcuq", vx(1344), "VRT,VRA,VRB", V207, Vec;
        Vsubeuqm = "vsubeuqm", va(62), "VRT,VRA,VRB,VRC", V207, Vec;
        Vsubecuq = "vsubecuq", va(63), "VRT,VRA,VRB,VRC", V207, Vec;

        // Multiply, multiply-add, sum across (I 6.9.1).
        Vmulesb = "vmulesb", vx(776), "VRT,VRA,VRB", V206, Vec;
        Vmulesh = "vmulesh", vx(840), "VRT,VRA,VRB", V206, Vec;
        Vmulesw = "vmulesw", vx(904), "VRT,VRA,VRB", V207, Vec;
        Vmuleub = "vmuleub", vx(520), "VRT,VRA,VRB", V206, Vec;
        Vmuleuh = "vmuleuh", vx(584), "VRT,VRA,VRB", V206, Vec;
        Vmuleuw = "vmuleuw", vx(648), "VRT,VRA,VRB", V207, Vec;
        Vmulosb = "vmulosb", vx(264), "VRT,VRA,VRB", V206, Vec;
        Vmulosh = "vmulosh", vx(328), "VRT,VRA,VRB", V206, Vec;
        Vmulosw = "vmulosw", vx(392), "VRT,VRA,VRB", V207, Vec;
        Vmuloub = "vmuloub", vx(8), "VRT,VRA,VRB", V206, Vec;
        Vmulouh = "vmulouh", vx(72), "VRT,VRA,VRB", V206, Vec;
        Vmulouw = "vmulouw", vx(136), "VRT,VRA,VRB", V207, Vec;
        Vmuluwm = "vmuluwm", vx(137), "VRT,VRA,VRB", V207, Vec;
        Vmhaddshs = "vmhaddshs", va(32), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmhraddshs = "vmhraddshs", va(33), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmladduhm = "vmladduhm", va(34), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsumudm = "vmsumudm", va(35), "VRT,VRA,VRB,VRC", V300, Vec;
        Vmsumubm = "vmsumubm", va(36), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsummbm = "vmsummbm", va(37), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsumuhm = "vmsumuhm", va(38), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsumuhs = "vmsumuhs", va(39), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsumshm = "vmsumshm", va(40), "VRT,VRA,VRB,VRC", V206, Vec;
        Vmsumshs = "vmsumshs", va(41), "VRT,VRA,VRB,VRC", V206, Vec;
        Vsum4sbs = "vsum4sbs", vx(1800), "VRT,VRA,VRB", V206, Vec;
        Vsum4shs = "vsum4shs", vx(1608), "VRT,VRA,VRB", V206, Vec;
        Vsum4ubs = "vsum4ubs", vx(1544), "VRT,VRA,VRB", V206, Vec;
        Vsum2sws = "vsum2sws", vx(1672), "VRT,VRA,VRB", V206, Vec;
        Vsumsws = "vsumsws", vx(1928), "VRT,VRA,VRB", V206, Vec;

        // Negate, extend sign, average, absolute difference, maximum, minimum (I 6.9.1).
        Vnegw = "vnegw", vx_unary(6), "VRT,VRB", V300, Vec;
        Vnegd = "vnegd", vx_unary(7), "VRT,VRB", V300, Vec;
        Vextsb2w = "vextsb2w", vx_unary(16), "VRT,VRB", V300, Vec;
        Vextsh2w = "vextsh2w", vx_unary(17), "VRT,VRB", V300, Vec;
        Vextsb2d = "vextsb2d", vx_unary(24), "VRT,VRB", V300, Vec;
        Vextsh2d = "vextsh2d", vx_unary(25), "VRT,VRB", V300, Vec;
        Vextsw2d = "vextsw2d", vx_unary(26), "VRT,VRB", V300, Vec;
        Vavgsb = "vavgsb", vx(1282), "VRT,VRA,VRB", V206, Vec;
        Vavgsh = "vavgsh", vx(1346), "VRT,VRA,VRB", V206, Vec;
        Vavgsw = "vavgsw", vx(1410), "VRT,VRA,VRB", V206, Vec;
        Vavgub = "vavgub", vx(1026), "VRT,VRA,VRB", V206, Vec;
        Vavguh = "vavguh", vx(1090), "VRT,VRA,VRB", V206, Vec;
        Vavguw = "vavguw", vx(1154), "VRT,VRA,VRB", V206, Vec;
        Vabsdub = "vabsdub", vx(1027), "VRT,VRA,VRB", V300, Vec;
        Vabsduh = "vabsduh", vx(1091), "VRT,VRA,VRB", V300, Vec;
        Vabsduw = "vabsduw", vx(1155), "VRT,VRA,VRB", V300, Vec;
        Vmaxsb = "vmaxsb", vx(258), "VRT,VRA,VRB", V206, Vec;
        Vmaxsh = "vmaxsh", vx(322), "VRT,VRA,VRB", V206, Vec;
        Vmaxsw = "vmaxsw", vx(386), "VRT,VRA,VRB", V206, Vec;
        Vmaxsd = "vmaxsd", vx(450), "VRT,VRA,VRB", V207, Vec;
        Vmaxub = "vmaxub", vx(2), "VRT,VRA,VRB", V206, Vec;
        Vmaxuh = "vmaxuh", vx(66), "VRT,VRA,VRB", V206, Vec;
        Vmaxuw = "vmaxuw", vx(130), "VRT,VRA,VRB", V206, Vec;
        Vmaxud = "vmaxud", vx(194), "VRT,VRA,VRB", V207, Vec;
        Vminsb = "vminsb", vx(770), "VRT,VRA,VRB", V206, Vec;
        Vminsh = "vminsh", vx(834), "VRT,VRA,VRB", V206, Vec;
        Vminsw = "vminsw", vx(898), "VRT,VRA,VRB", V206, Vec;
        Vminsd = "vminsd", vx(962), "VRT,VRA,VRB", V207, Vec;
        Vminub = "vminub", vx(514), "VRT,VRA,VRB", V206, Vec;
        Vminuh = "vminuh", vx(578), "VRT,VRA,VRB", V206, Vec;
        Vminuw = "vminuw", vx(642), "VRT,VRA,VRB", V206, Vec;
        Vminud = "vminud", vx(706), "VRT,VRA,VRB", V207, Vec;

        // Integer compare (I 6.9.2). The record bit is bit 21.
        Vcmpequb = "vcmpequb", vc(6), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpequh = "vcmpequh", vc(70), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpequw = "vcmpequw", vc(134), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpequd = "vcmpequd", vc(199), "VRT,VRA,VRB", V207, Vec, rc;
        Vcmpgtsb = "vcmpgtsb", vc(774), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtsh = "vcmpgtsh", vc(838), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtsw = "vcmpgtsw", vc(902), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtsd = "vcmpgtsd", vc(967), "VRT,VRA,VRB", V207, Vec, rc;
        Vcmpgtub = "vcmpgtub", vc(518), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtuh = "vcmpgtuh", vc(582), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtuw = "vcmpgtuw", vc(646), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtud = "vcmpgtud", vc(711), "VRT,VRA,VRB", V207, Vec, rc;
        Vcmpneb = "vcmpneb", vc(7), "VRT,VRA,VRB", V300, Vec, rc;
        Vcmpneh = "vcmpneh", vc(71), "VRT,VRA,VRB", V300, Vec, rc;
        Vcmpnew = "vcmpnew", vc(135), "VRT,VRA,VRB", V300, Vec, rc;
        Vcmpnezb = "vcmpnezb", vc(263), "VRT,VRA,VRB", V300, Vec, rc;
        Vcmpnezh = "vcmpnezh", vc(327), "VRT,VRA,VRB", V300, Vec, rc;
        Vcmpnezw = "vcmpnezw", vc(391), "VRT,VRA,VRB", V300, Vec, rc;

        // Logical, parity, rotate, shift (I 6.9.3 to 6.9.5).
        Vand = "vand", vx(1028), "VRT,VRA,VRB", V206, Vec;
        Vandc = "vandc", vx(1092), "VRT,VRA,VRB", V206, Vec;
        Veqv = "veqv", vx(1668), "VRT,VRA,VRB", V207, Vec;
        Vnand = "vnand", vx(1412), "VRT,VRA,VRB", V207, Vec;
        Vnor = "vnor", vx(1284), "VRT,VRA,VRB", V206, Vec;
        Vor = "vor", vx(1156), "VRT,VRA,VRB", V206, Vec;
        Vorc = "vorc", vx(1348), "VRT,VRA,VRB", V207, Vec;
        Vxor = "vxor", vx(1220), "VRT,VRA,VRB", V206, Vec;
        Vprtybw = "vprtybw", vx_unary(8), "VRT,VRB", V300, Vec;
        Vprtybd = "vprtybd", vx_unary(9), "VRT,VRB", V300, Vec;
        Vprtybq = "vprtybq", vx_unary(10), "VRT,VRB", V300, Vec;
        Vrlb = "vrlb", vx(4), "VRT,VRA,VRB", V206, Vec;
        Vrlh = "vrlh", vx(68), "VRT,VRA,VRB", V206, Vec;
        Vrlw = "vrlw", vx(132), "VRT,VRA,VRB", V206, Vec;
        Vrld = "vrld", vx(196), "VRT,VRA,VRB", V207, Vec;
        Vrlwmi = "vrlwmi", vx(133), "VRT,VRA,VRB", V300, Vec;
        Vrldmi = "vrldmi", vx(197), "VRT,VRA,VRB", V300, Vec;
        Vrlwnm = "vrlwnm", vx(389), "VRT,VRA,VRB", V300, Vec;
        Vrldnm = "vrldnm", vx(453), "VRT,VRA,VRB", V300, Vec;
        Vslb = "vslb", vx(260), "VRT,VRA,VRB", V206, Vec;
        Vslh = "vslh", vx(324), "VRT,VRA,VRB", V206, Vec;
        Vslw = "vslw", vx(388), "VRT,VRA,VRB", V206, Vec;
        Vsld = "vsld", vx(1476), "VRT,VRA,VRB", V207, Vec;
        Vsrb = "vsrb", vx(516), "VRT,VRA,VRB", V206, Vec;
        Vsrh = "vsrh", vx(580), "VRT,VRA,VRB", V206, Vec;
        Vsrw = "vsrw", vx(644), "VRT,VRA,VRB", V206, Vec;
        Vsrd = "vsrd", vx(1732), "VRT,VRA,VRB", V207, Vec;
        Vsrab = "vsrab", vx(772), "VRT,VRA,VRB", V206, Vec;
        Vsrah = "vsrah", vx(836), "VRT,VRA,VRB", V206, Vec;
        Vsraw = "vsraw", vx(900), "VRT,VRA,VRB", V206, Vec;
        Vsrad = "vsrad", vx(964), "VRT,VRA,VRB", V207, Vec;

        // Floating point (I 6.10).
        Vaddfp = "vaddfp", vx(10), "VRT,VRA,VRB", V206, Vec;
        Vsubfp = "vsubfp", vx(74), "VRT,VRA,VRB", V206, Vec;
        Vmaddfp = "vmaddfp", va(46), "VRT,VRA,VRC,VRB", V206, Vec;
        Vnmsubfp = "vnmsubfp", va(47), "VRT,VRA,VRC,VRB", V206, Vec;
        Vmaxfp = "vmaxfp", vx(1034), "VRT,VRA,VRB", V206, Vec;
        Vminfp = "vminfp", vx(1098), "VRT,VRA,VRB", V206, Vec;
        Vctsxs = "vctsxs", vx(970), "VRT,VRB,UIM", V206, Vec;
        Vctuxs = "vctuxs", vx(906), "VRT,VRB,UIM", V206, Vec;
        Vcfsx = "vcfsx", vx(842), "VRT,VRB,UIM", V206, Vec;
        Vcfux = "vcfux", vx(778), "VRT,VRB,UIM", V206, Vec;
        Vrfim = "vrfim", vx(714), "VRT,VRB", V206, Vec;
        Vrfin = "vrfin", vx(522), "VRT,VRB", V206, Vec;
        Vrfip = "vrfip", vx(650), "VRT,VRB", V206, Vec;
        Vrfiz = "vrfiz", vx(586), "VRT,VRB", V206, Vec;
        Vcmpbfp = "vcmpbfp", vc(966), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpeqfp = "vcmpeqfp", vc(198), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgefp = "vcmpgefp", vc(454), "VRT,VRA,VRB", V206, Vec, rc;
        Vcmpgtfp = "vcmpgtfp", vc(710), "VRT,VRA,VRB", V206, Vec, rc;
        Vexptefp = "vexptefp", vx(394), "VRT,VRB", V206, Vec;
        Vlogefp = "vlogefp", vx(458), "VRT,VRB", V206, Vec;
        Vrefp = "vrefp", vx(266), "VRT,VRB", V206, Vec;
        Vrsqrtefp = "vrsqrtefp", vx(330), "VRT,VRB", V206, Vec;

        // Cryptography, exclusive-or, gather, count, bit permute (I 6.11 to 6.16).
        Vcipher = "vcipher", vx(1288), "VRT,VRA,VRB", V207, Vec;
        Vcipherlast = "vcipherlast", vx(1289), "VRT,VRA,VRB", V207, Vec;
        Vncipher = "vncipher", vx(1352), "VRT,VRA,VRB", V207, Vec;
        Vncipherlast = "vncipherlast", vx(1353), "VRT,VRA,VRB", V207, Vec;
        Vsbox = "vsbox", vx(1480), "VRT,VRA", V207, Vec;
        Vshasigmaw = "vshasigmaw", vx(1666), "VRT,VRA,ST,SIX", V207, Vec;
        Vshasigmad = "vshasigmad", vx(1730), "VRT,VRA,ST,SIX", V207, Vec;
        Vpmsumb = "vpmsumb", vx(1032), "VRT,VRA,VRB", V207, Vec;
        Vpmsumh = "vpmsumh", vx(1096), "VRT,VRA,VRB", V207, Vec;
        Vpmsumw = "vpmsumw", vx(1160), "VRT,VRA,VRB", V207, Vec;
        Vpmsumd = "vpmsumd", vx(1224), "VRT,VRA,VRB", V207, Vec;
        Vpermxor = "vpermxor", va(45), "VRT,VRA,VRB,VRC", V207, Vec;
        Vgbbd = "vgbbd", vx(1292), "VRT,VRB", V207, Vec;
        Vclzb = "vclzb", vx(1794), "VRT,VRB", V207, Vec;
        Vclzh = "vclzh", vx(1858), "VRT,VRB", V207, Vec;
        Vclzw = "vclzw", vx(1922), "VRT,VRB", V207, Vec;
        Vclzd = "vclzd", vx(1986), "VRT,VRB", V207, Vec;
        Vctzb = "vctzb", vx_unary(28), "VRT,VRB", V300, Vec;
        Vctzh = "vctzh", vx_unary(29), "VRT,VRB", V300, Vec;
        Vctzw = "vctzw", vx_unary(30), "VRT,VRB", V300, Vec;
        Vctzd = "vctzd", vx_unary(31), "VRT,VRB", V300, Vec;
        Vclzlsbb = "vclzlsbb", vx_unary(0), "RT,VRB", V300, Vec;
        Vctzlsbb = "vctzlsbb", vx_unary(1), "RT,VRB", V300, Vec;
        Vpopcntb = "vpopcntb", vx(1795), "VRT,VRB", V207, Vec;
        Vpopcnth = "vpopcnth", vx(1859), "VRT,VRB", V207, Vec;
        Vpopcntw = "vpopcntw", vx(1923), "VRT,VRB", V207, Vec;
        Vpopcntd = "vpopcntd", vx(1987), "VRT,VRB", V207, Vec;
        Vbpermq = "vbpermq", vx(1356), "VRT,VRA,VRB", V207, Vec;
        Vbpermd = "vbpermd", vx(1484), "VRT,VRA,VRB", V300, Vec;

        // Decimal integer (I 6.17).
        Bcdadd = "bcdadd.", vx_decimal(1), "VRT,VRA,VRB,PS", V207, Vec;
        Bcdsub = "bcdsub.", vx_decimal(65), "VRT,VRA,VRB,PS", V207, Vec;
        Bcdcfn = "bcdcfn.", vx_decimal_unary(7), "VRT,VRB,PS", V300, Vec;
        Bcdcfz = "bcdcfz.", vx_decimal_unary(6), "VRT,VRB,PS", V300, Vec;
        Bcdctn = "bcdctn.", vx_decimal_unary(5).and(22, 22, 0), "VRT,VRB", V300, Vec;
        Bcdctz = "bcdctz.", vx_decimal_unary(4), "VRT,VRB,PS", V300, Vec;
        Bcdcfsq = "bcdcfsq.", vx_decimal_unary(2), "VRT,VRB,PS", V300, Vec;
        Bcdctsq = "bcdctsq.", vx_decimal_unary(0).and(22, 22, 0), "VRT,VRB", V300, Vec;
        Bcdsetsgn = "bcdsetsgn.", vx_decimal_unary(31), "VRT,VRB,PS", V300, Vec;
        Bcdcpsgn = "bcdcpsgn.", vx(833), "VRT,VRA,VRB", V300, Vec;
        Bcds = "bcds.", vx_decimal(193), "VRT,VRA,VRB,PS", V300, Vec;
        Bcdus = "bcdus.", vx(1153), "VRT,VRA,VRB", V300, Vec;
        Bcdsr = "bcdsr.", vx_decimal(449), "VRT,VRA,VRB,PS", V300, Vec;
        Bcdtrunc = "bcdtrunc.", vx_decimal(257), "VRT,VRA,VRB,PS", V300, Vec;
        Bcdutrunc = "bcdutrunc.", vx(1345), "VRT,VRA,VRB", V300, Vec;
        Vmul10uq = "vmul10uq", vx(513), "VRT,VRA", V300, Vec;
        Vmul10cuq = "vmul10cuq", vx(1), "VRT,VRA", V300, Vec;
        Vmul10euq = "vmul10euq", vx(577), "VRT,VRA,VRB", V300, Vec;
        Vmul10ecuq = "vmul10ecuq", vx(65), "VRT,VRA,VRB", V300, Vec;

        // Status and control (I 6.18).
        Mfvscr = "mfvscr", vx(1540), "VRT", V206, Vec;
        Mtvscr = "mtvscr", vx(1604), "VRB", V206, Vec;
    }
}
