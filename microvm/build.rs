//! How `paperboat-vmm` is linked: relocations in their compact form (DT_RELR). The table is otherwise half a megabyte that every machine reads
//! when it starts. Needs binutils 2.39 and glibc 2.36, which is Debian 12.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
