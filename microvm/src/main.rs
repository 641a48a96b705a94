//! `paperboat-vmm`: one process, one micro-VM.
fn main() {}
