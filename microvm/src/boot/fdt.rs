//! Writes flattened trees (DTSpec chapter 5). `vm-fdt` refuses property names longer than 31 characters, and PAPR has
//! `ibm,query-interrupt-source-number`.

use std::collections::BTreeMap;
use std::ops::Range;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const HEADER_BYTES: usize = 40;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// A tree being written. Nodes are opened and closed in order; properties come before the children of their node.
#[derive(Debug, Default)]
pub struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    offsets: BTreeMap<String, u32>,
    depth: usize,
}

impl Writer {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens node `name`.
    pub fn begin_node(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.structure.push(0);
        self.align();
        self.depth += 1;
    }

    /// Closes the node opened last.
    pub fn end_node(&mut self) {
        debug_assert!(self.depth > 0);
        self.depth -= 1;
        self.word(END_NODE);
    }

    /// A property of any bytes.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        let next = self.strings.len() as u32;
        let offset = *self.offsets.entry(name.to_owned()).or_insert(next);
        if offset == next {
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
        }
        self.word(PROPERTY);
        self.word(value.len() as u32);
        self.word(offset);
        self.structure.extend_from_slice(value);
        self.align();
    }

    /// A property whose presence is its value.
    pub fn flag(&mut self, name: &str) {
        self.property(name, &[]);
    }

    /// A list of NUL-terminated strings.
    pub fn strings(&mut self, name: &str, values: &[&str]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.bytes().chain(std::iter::once(0))).collect();
        self.property(name, &bytes);
    }

    /// One string.
    pub fn string(&mut self, name: &str, value: &str) {
        self.strings(name, &[value]);
    }

    /// A list of 32-bit cells.
    pub fn cells(&mut self, name: &str, values: &[u32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    /// One cell.
    pub fn cell(&mut self, name: &str, value: u32) {
        self.cells(name, &[value]);
    }

    /// A list of 64-bit values.
    pub fn wide(&mut self, name: &str, values: &[u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    /// The finished blob, with `reserved` physical ranges in its reserve map.
    pub fn finish(mut self, boot_cpu: u32, reserved: &[Range<u64>]) -> Vec<u8> {
        debug_assert_eq!(self.depth, 0);
        self.word(END);
        let reserve_at = HEADER_BYTES;
        let structure_at = reserve_at + (reserved.len() + 1) * 16;
        let strings_at = structure_at + self.structure.len();
        let total = strings_at + self.strings.len();
        let header = [
            MAGIC,
            total as u32,
            structure_at as u32,
            strings_at as u32,
            reserve_at as u32,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            boot_cpu,
            self.strings.len() as u32,
            self.structure.len() as u32,
        ];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        for range in reserved {
            blob.extend(range.start.to_be_bytes());
            blob.extend((range.end - range.start).to_be_bytes());
        }
        blob.extend([0; 16]);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }

    fn word(&mut self, value: u32) {
        self.structure.extend(value.to_be_bytes());
    }

    fn align(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }
}
