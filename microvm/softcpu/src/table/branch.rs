//! Branches and condition register logic (ISA 3.0B I 2).

use super::encoding::*;

instruction_class! {
    /// Branches and condition register logic (ISA 3.0B I 2).
    pub enum BranchOp {
        B = "b", po(18).and(30, 31, 0), "LI", V206, Base;
        Bl = "bl", po(18).and(30, 31, 1), "LI", V206, Base;
        Ba = "ba", po(18).and(30, 31, 2), "LI", V206, Base;
        Bla = "bla", po(18).and(30, 31, 3), "LI", V206, Base;
        Bc = "bc", po(16).and(30, 31, 0), "BO,BI,BD", V206, Base;
        Bcl = "bcl", po(16).and(30, 31, 1), "BO,BI,BD", V206, Base;
        Bca = "bca", po(16).and(30, 31, 2), "BO,BI,BD", V206, Base;
        Bcla = "bcla", po(16).and(30, 31, 3), "BO,BI,BD", V206, Base;
        Bclr = "bclr", x(19, 16).and(31, 31, 0), "BO,BI,BH", V206, Base;
        Bclrl = "bclrl", x(19, 16).and(31, 31, 1), "BO,BI,BH", V206, Base;
        Bcctr = "bcctr", x(19, 528).and(31, 31, 0), "BO,BI,BH", V206, Base;
        Bcctrl = "bcctrl", x(19, 528).and(31, 31, 1), "BO,BI,BH", V206, Base;
        Bctar = "bctar", x(19, 560).and(31, 31, 0), "BO,BI,BH", V207, Base;
        Bctarl = "bctarl", x(19, 560).and(31, 31, 1), "BO,BI,BH", V207, Base;
        // I 2.5: condition register logic.
        Crand = "crand", x(19, 257), "BT,BA,BB", V206, Base;
        Crnand = "crnand", x(19, 225), "BT,BA,BB", V206, Base;
        Cror = "cror", x(19, 449), "BT,BA,BB", V206, Base;
        Crxor = "crxor", x(19, 193), "BT,BA,BB", V206, Base;
        Crnor = "crnor", x(19, 33), "BT,BA,BB", V206, Base;
        Creqv = "creqv", x(19, 289), "BT,BA,BB", V206, Base;
        Crandc = "crandc", x(19, 129), "BT,BA,BB", V206, Base;
        Crorc = "crorc", x(19, 417), "BT,BA,BB", V206, Base;
        Mcrf = "mcrf", x(19, 0), "BF,BFA", V206, Base;
    }
}
