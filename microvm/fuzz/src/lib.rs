//! Fuzz targets: what a guest or an image can hand to the machine, made from bytes. A target panics when the machine breaks a promise; its
//! corpus is in `corpus/NAME/`, hexadecimal, with comments. `tests/corpus.rs` runs all of it and some mutations of it; `paperboat-fuzz`
//! goes on for as long as one likes.

pub mod calls;
pub mod corpus;
pub mod devices;
pub mod elf;
pub mod input;
pub mod inside;
pub mod mutate;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also of its corpus.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "devices", run: devices::run },
    Target { name: "elf", run: elf::run },
    Target { name: "hypercalls", run: calls::hypercalls },
    Target { name: "inside", run: inside::run },
    Target { name: "rtas", run: calls::rtas },
];
