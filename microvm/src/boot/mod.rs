//! From an ELF image to the state in which a vCPU enters it.
