//! The hypercalls that this backend serves itself, by name: for traces, documentation and the contract with KVM-HV, which serves the same
//! ones in the kernel.

/// Token (GPR 3), name, and the section of LoPAR's Logical Partitioning chapter, by title.
pub const SERVED: &[(u64, &str, &str)] = &[
    (0x04, "H_REMOVE", "Page Frame Table Access"),
    (0x08, "H_ENTER", "Page Frame Table Access"),
    (0x0c, "H_READ", "Page Frame Table Access"),
    (0x10, "H_CLEAR_MOD", "Page Frame Table Access"),
    (0x14, "H_CLEAR_REF", "Page Frame Table Access"),
    (0x18, "H_PROTECT", "Page Frame Table Access"),
    (0x28, "H_SET_DABR", "Processor Register Access"),
    (0x2c, "H_PAGE_INIT", "Page Frame Table Access"),
    (0xdc, "H_REGISTER_VPA", "Virtual Processor Areas"),
    (0xe0, "H_CEDE", "Shared Processor Operation"),
    (0xe4, "H_CONFER", "Shared Processor Operation"),
    (0xe8, "H_PROD", "Shared Processor Operation"),
    (0x124, "H_BULK_REMOVE", "Page Frame Table Access"),
    (0x134, "H_SET_XDABR", "Processor Register Access"),
    (0x300, "H_RANDOM", "Random Number Generation"),
    // Breakpoints (CIABR) and watchpoints (DAWR); its other resources are the machine's.
    (0x31c, "H_SET_MODE", "Processor Register Access"),
];

/// The name of a hypercall that is served here.
pub(crate) fn name(token: u64) -> &'static str {
    SERVED.iter().find(|row| row.0 == token).map_or("hypercall", |row| row.1)
}

#[cfg(test)]
mod tests {
    use paperboat_hypervisor::{ClockMode, EntryState, Exit, GuestRam, Vcpu, VmConfig};
    use vm_memory::{Bytes, GuestAddress};

    use crate::SoftVm;

    /// A hypercall that nobody serves inside.
    const OUTSIDE: u64 = 0x7ff4;

    /// Makes the hypercall `token` with `resource` in r5; true if the backend served it.
    fn is_served(token: u64, resource: u64) -> bool {
        let ram = GuestRam::new(1 << 20).unwrap();
        // li r3,OUTSIDE; sc 1
        let outside = [0x3860_0000 | OUTSIDE as u32, 0x4400_0022];
        let write = |address: u64, code: &[u32]| {
            let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_be_bytes()).collect();
            ram.memory().write_slice(&bytes, GuestAddress(address)).unwrap();
        };
        write(0x1000, &[0x4400_0022, outside[0], outside[1]]);
        // H_CEDE ends with the decrementer's interrupt.
        write(0x900, &outside);
        let config = VmConfig {
            ram,
            vcpu_count: 1,
            hpt_order: 18,
            clock: ClockMode::Deterministic,
            budget_instructions: None,
            processor: Default::default(),
            threads_per_core: 1,
            presentation: Default::default(),
        };
        let vm = SoftVm::new(config).unwrap();
        let mut vcpu = vm.create_soft_vcpu(0).unwrap();
        vcpu.enter(EntryState { pc: 0x1000, msr: 1 << 63, r3: token, r4: u64::MAX });
        vcpu.cpu().st.gpr[5] = resource;
        let Exit::Hypercall { nr, .. } = vcpu.run().unwrap() else { panic!("{token:#x} does not come back") };
        assert!(nr == token || nr == OUTSIDE);
        nr == OUTSIDE
    }

    #[test]
    fn the_list_is_what_is_served() {
        for token in (0..0x400).step_by(4) {
            let listed = super::SERVED.iter().any(|row| row.0 == token);
            // H_SET_MODE's first resource is the breakpoint, served here.
            assert_eq!(is_served(token, 1), listed, "{token:#x}");
        }
    }
}
