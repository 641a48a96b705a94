//! Bare-metal guests of a few instructions, made here: what they do is in the test that uses them.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod served;

use std::path::{Path, PathBuf};

use paperboat_microvm::papr::{hcall, rtas};

/// Where the programs stand.
const BASE: u64 = 0x1_0000;
/// Where their data stands.
const DATA: u64 = BASE + 0x1000;

/// A directory that goes with its owner.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("paperboat-vmm-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a program and returns its path.
    pub fn program(&self, program: &Program) -> String {
        let path = self.path("program.elf");
        std::fs::write(&path, program.elf()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A big-endian program being put together.
#[derive(Default)]
pub struct Program {
    code: Vec<u32>,
    data: Vec<u8>,
}

impl Program {
    pub fn new() -> Self {
        Self::default()
    }

    /// One instruction.
    pub fn word(mut self, instruction: u32) -> Self {
        self.code.push(instruction);
        self
    }

    /// `register` = `value` (64 bits: lis, ori, sldi 32, oris, ori).
    fn load(mut self, register: u32, value: u64) -> Self {
        let part = |shift: u32| (value >> shift) as u32 & 0xffff;
        let (target, both) = (register << 21, register << 21 | register << 16);
        self.code.extend([
            0x3c00_0000 | target | part(48),
            0x6000_0000 | both | part(32),
            0x7800_07c6 | both,
            0x6400_0000 | both | part(16),
            0x6000_0000 | both | part(0),
        ]);
        self
    }

    /// A hypercall by name.
    pub fn hypercall(self, name: &str, args: &[u64]) -> Self {
        let token = hcall::CALLS.iter().find(|row| row.name == name).unwrap().token;
        let mut program = self.load(3, token);
        for (index, value) in args.iter().enumerate() {
            program = program.load(4 + index as u32, *value);
        }
        program.word(0x4400_0022)
    }

    /// Prints up to 16 bytes.
    pub fn print(self, text: &str) -> Self {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        self.hypercall("H_PUT_TERM_CHAR", &[0, text.len() as u64, word(0), word(8)])
    }

    /// Waits for characters from the terminal and prints them: H_GET_TERM_CHAR until there are any, then H_PUT_TERM_CHAR of the same.
    pub fn echo_one_character(self) -> Self {
        let again = self.code.len();
        let mut program = self.hypercall("H_GET_TERM_CHAR", &[0]);
        // cmpdi r4,0; beq again.
        let back = (again as i32 - (program.code.len() as i32 + 1)) * 4;
        program = program.word(0x2c24_0000).word(0x4182_0000 | back as u32 & 0xfffc);
        // mr r7,r6; mr r6,r5; mr r5,r4; then the call with r4 = terminal 0.
        program = program.word(0x7cc7_3378).word(0x7ca6_2b78).word(0x7c85_2378);
        let token = hcall::CALLS.iter().find(|row| row.name == "H_PUT_TERM_CHAR").unwrap().token;
        program.load(3, token).load(4, 0).word(0x4400_0022)
    }

    /// An RTAS call by name, with one return.
    pub fn rtas(mut self, name: &str, args: &[u32]) -> Self {
        let token = rtas::CALLS.iter().find(|row| row.name == name).unwrap().token;
        let address = DATA + self.data.len() as u64;
        let words = [token, args.len() as u32, 1].into_iter().chain(args.iter().copied()).chain([0]);
        self.data.extend(words.flat_map(|word| word.to_be_bytes()));
        self.hypercall("H_RTAS", &[address])
    }

    /// Text in the program's data; the address for what comes next.
    pub fn text(mut self, text: &str) -> (Self, u32) {
        let address = DATA + self.data.len() as u64;
        self.data.extend(text.bytes().chain([0]));
        self.data.resize(self.data.len().next_multiple_of(4), 0);
        (self, address as u32)
    }

    /// Where [`Self::cede_for_ever`] stands.
    pub const CEDE_ENTRY: u32 = BASE as u32 + 0x800;

    /// At [`Self::CEDE_ENTRY`]: H_CEDE in a loop.
    pub fn cede_for_ever(mut self) -> Self {
        assert!(self.code.len() <= 0x200);
        self.code.resize(0x200, 0);
        // li r3,0xe0; sc 1; b .-8
        self.word(0x3860_00e0).word(0x4400_0022).word(0x4bff_fff8)
    }

    /// Stores to `address` for ever: a device's registers, if that is what is there.
    pub fn store_for_ever(self, address: u64) -> Self {
        // std r3,0(r4); b .-4
        self.load(4, address).word(0xf864_0000).word(0x4bff_fffc)
    }

    /// System resets of all other CPUs, one after the other, for ever.
    pub fn reset_for_ever(self) -> Self {
        const ALL_OTHERS: u64 = -2_i64 as u64;
        let first = self.code.len();
        let program = self.hypercall("H_SIGNAL_SYS_RESET", &[ALL_OTHERS]);
        let back = 4 * (first as i32 - program.code.len() as i32);
        program.word(0x4800_0000 | back as u32 & 0x03ff_fffc)
    }

    /// Everything from the start again, for ever.
    pub fn again(self) -> Self {
        let back = -4 * self.code.len() as i32;
        self.word(0x4800_0000 | back as u32 & 0x03ff_fffc)
    }

    /// `b .`
    pub fn spin(self) -> Self {
        self.word(0x4800_0000)
    }

    fn elf(&self) -> Vec<u8> {
        let mut image: Vec<u8> = self.code.iter().flat_map(|word| word.to_be_bytes()).collect();
        assert!(image.len() <= (DATA - BASE) as usize);
        image.resize((DATA - BASE) as usize, 0);
        image.extend(&self.data);
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(2u16.to_be_bytes());
        out.extend(21u16.to_be_bytes());
        out.extend(1u32.to_be_bytes());
        for field in [BASE, 64, 0] {
            out.extend(field.to_be_bytes());
        }
        out.extend(1u32.to_be_bytes());
        for field in [64u16, 56, 1, 64, 0, 0] {
            out.extend(field.to_be_bytes());
        }
        out.extend([1u32, 7].iter().flat_map(|field| field.to_be_bytes()));
        for field in [120, BASE, BASE, image.len() as u64, image.len() as u64, 0x1_0000] {
            out.extend(field.to_be_bytes());
        }
        out.extend(image);
        out
    }
}

/// The program under test.
pub fn vmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_paperboat-vmm"))
}
