//! System linkage, special purpose registers, storage control (ISA 3.0B II, III).

use super::encoding::*;

instruction_class! {
    /// System linkage, special purpose registers, storage control (ISA 3.0B II, III).
    pub enum SystemOp {
        // III 3.3: system linkage, power saving.
        Sc = "sc", po(17).and(30, 30, 1), "LEV", V206, Base;
        Scv = "scv", po(17).and(30, 31, 1), "LEV", V300, Base;
        Rfscv = "rfscv", x(19, 82), "", V300, Base, supervisor;
        Rfid = "rfid", x(19, 18), "", V206, Base, supervisor;
        Hrfid = "hrfid", x(19, 274), "", V206, Base, hypervisor;
        Stop = "stop", x(19, 370), "", V300, Base, supervisor;
        Rfebb = "rfebb", x(19, 146), "S", V207, Base;
        Wait = "wait", x(31, 30), "WC", V206, Base;
        Isync = "isync", x(19, 150), "", V206, Base;
        // III 4.4: moves to and from special registers. mtspr and mfspr check privilege by register.
        Mtspr = "mtspr", x(31, 467), "SPR,RS", V206, Base;
        Mfspr = "mfspr", x(31, 339), "RT,SPR", V206, Base;
        Mftb = "mftb", x(31, 371), "RT,TBR", V206, Base;
        Mtmsr = "mtmsr", x(31, 146), "RS,L", V206, Base, supervisor;
        Mtmsrd = "mtmsrd", x(31, 178), "RS,L", V206, Base, supervisor;
        Mfmsr = "mfmsr", x(31, 83), "RT", V206, Base, supervisor;
        // III 5.9.3: lookaside buffers. Without LPCR[GTSE] the TLB belongs to the hypervisor.
        Slbie = "slbie", x(31, 434), "RB", V206, Base, supervisor;
        Slbieg = "slbieg", x(31, 466), "RS,RB", V300, Base, supervisor;
        Slbia = "slbia", x(31, 498), "IH", V206, Base, supervisor;
        Slbmte = "slbmte", x(31, 402), "RS,RB", V206, Base, supervisor;
        Slbmfev = "slbmfev", x(31, 851), "RT,RB", V206, Base, supervisor;
        Slbmfee = "slbmfee", x(31, 915), "RT,RB", V206, Base, supervisor;
        SlbfeeRecord = "slbfee.", x_dot(31, 979), "RT,RB", V206, Base, supervisor;
        Slbsync = "slbsync", x(31, 338), "", V300, Base, supervisor;
        Tlbie = "tlbie", x(31, 306), "RB,RS,RIC,PRS,R", V206, Base, hypervisor;
        // The local form is the partition's: Linux flushes this way when it takes a CPU offline.
        Tlbiel = "tlbiel", x(31, 274), "RB,RS,RIC,PRS,R", V206, Base, supervisor;
        Tlbsync = "tlbsync", x(31, 566), "", V206, Base, hypervisor;
        // III 11: processor control.
        Msgsnd = "msgsnd", x(31, 206), "RB", V207, Base, hypervisor;
        Msgclr = "msgclr", x(31, 238), "RB", V207, Base, hypervisor;
        Msgsndp = "msgsndp", x(31, 142), "RB", V207, Base, supervisor;
        Msgclrp = "msgclrp", x(31, 174), "RB", V207, Base, supervisor;
        Msgsync = "msgsync", x(31, 886), "", V300, Base, hypervisor;
        // III 4.4.1: caching-inhibited accesses of the hypervisor.
        Lbzcix = "lbzcix", x(31, 853), "RT,RA,RB", V206, Base, hypervisor;
        Lhzcix = "lhzcix", x(31, 821), "RT,RA,RB", V206, Base, hypervisor;
        Lwzcix = "lwzcix", x(31, 789), "RT,RA,RB", V206, Base, hypervisor;
        Ldcix = "ldcix", x(31, 885), "RT,RA,RB", V206, Base, hypervisor;
        Stbcix = "stbcix", x(31, 981), "RS,RA,RB", V206, Base, hypervisor;
        Sthcix = "sthcix", x(31, 949), "RS,RA,RB", V206, Base, hypervisor;
        Stwcix = "stwcix", x(31, 917), "RS,RA,RB", V206, Base, hypervisor;
        Stdcix = "stdcix", x(31, 1013), "RS,RA,RB", V206, Base, hypervisor;
    }
}
