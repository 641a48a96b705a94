//! A flattened tree as readable source, for `--dump-dts`. Property types are not stored in the binary form; they
//! are guessed as `dtc` does: printable strings, then 32-bit cells, then bytes.

use std::fmt::Write;

/// Deepest nesting that is followed; a PAPR tree has three levels.
const DEPTH_MAX: usize = 32;

/// Why a blob is not a flattened tree (DTSpec 5).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DtsError {
    /// No or another magic number.
    #[error("not a flattened device tree")]
    Magic,
    /// An offset or length leads outside the blob.
    #[error("damaged device tree at offset {0:#x}")]
    Damaged(usize),
}

/// Prints `dtb` as source.
///
/// # Errors
/// [`DtsError`].
pub fn dts_from_dtb(dtb: &[u8]) -> Result<String, DtsError> {
    if word(dtb, 0)? != 0xd00d_feed {
        return Err(DtsError::Magic);
    }
    let structure = word(dtb, 8)? as usize;
    let strings = word(dtb, 12)? as usize;
    let mut reserve = word(dtb, 16)? as usize;
    let mut out = String::from("/dts-v1/;\n");
    loop {
        let (address, size) = (double(dtb, reserve)?, double(dtb, reserve.saturating_add(8))?);
        if (address, size) == (0, 0) {
            break;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "/memreserve/ {address:#x} {size:#x};");
        reserve = reserve.saturating_add(16);
    }
    let _ = writeln!(out, "// boot_cpuid_phys = {:#x}", word(dtb, 28)?);

    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROPERTY: u32 = 3;
    const NOP: u32 = 4;
    let mut at = structure;
    let mut depth = 0usize;
    loop {
        let token = word(dtb, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(dtb, at)?;
                if depth >= DEPTH_MAX {
                    return Err(DtsError::Damaged(at));
                }
                let shown = if name.is_empty() { "/" } else { name };
                let _ = writeln!(out, "{}{shown} {{", "\t".repeat(depth));
                depth += 1;
                at = (at + name.len() + 1).next_multiple_of(4);
            }
            END_NODE => {
                depth = depth.checked_sub(1).ok_or(DtsError::Damaged(at))?;
                let _ = writeln!(out, "{}}};", "\t".repeat(depth));
            }
            PROPERTY => {
                let length = word(dtb, at)? as usize;
                let name = text(dtb, strings.saturating_add(word(dtb, at + 4)? as usize))?;
                at += 8;
                let end = at.checked_add(length).ok_or(DtsError::Damaged(at))?;
                let value = dtb.get(at..end).ok_or(DtsError::Damaged(at))?;
                let _ = writeln!(out, "{}{name}{};", "\t".repeat(depth), value_text(value));
                at = end.next_multiple_of(4);
            }
            NOP => {}
            9 => break,
            _ => return Err(DtsError::Damaged(at)),
        }
    }
    Ok(out)
}

fn value_text(value: &[u8]) -> String {
    if value.is_empty() {
        return String::new();
    }
    if let Some(strings) = printable(value) {
        let quoted: Vec<String> =
            strings.iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))).collect();
        return format!(" = {}", quoted.join(", "));
    }
    let (words, rest) = value.as_chunks::<4>();
    if rest.is_empty() {
        let cells: Vec<String> = words.iter().map(|cell| format!("{:#x}", u32::from_be_bytes(*cell))).collect();
        return format!(" = <{}>", cells.join(" "));
    }
    let bytes: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(" = [{}]", bytes.join(" "))
}

/// The strings of a value that is a list of non-empty printable ones.
fn printable(value: &[u8]) -> Option<Vec<&str>> {
    let body = value.strip_suffix(&[0])?;
    let strings: Vec<&str> = std::str::from_utf8(body).ok()?.split('\0').collect();
    let good = |text: &&str| !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    strings.iter().all(good).then_some(strings)
}

fn word(data: &[u8], at: usize) -> Result<u32, DtsError> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(DtsError::Damaged(at))?;
    Ok(u32::from_be_bytes(*bytes))
}

fn double(data: &[u8], at: usize) -> Result<u64, DtsError> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or(DtsError::Damaged(at))?;
    Ok(u64::from_be_bytes(*bytes))
}

fn text(data: &[u8], at: usize) -> Result<&str, DtsError> {
    let rest = data.get(at..).ok_or(DtsError::Damaged(at))?;
    let length = rest.iter().position(|byte| *byte == 0).ok_or(DtsError::Damaged(at))?;
    std::str::from_utf8(&rest[..length]).map_err(|_| DtsError::Damaged(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut fdt = super::super::fdt::Writer::new();
        fdt.begin_node("");
        fdt.string("model", "a\"b");
        fdt.property("bytes", &[1, 2, 3]);
        fdt.flag("flag");
        fdt.begin_node("child@1");
        fdt.cells("cells", &[1, 0xffff_ffff]);
        fdt.end_node();
        fdt.end_node();
        fdt.finish(0, &[])
    }

    #[test]
    fn values_print_as_strings_cells_or_bytes() {
        let dts = dts_from_dtb(&small()).unwrap();
        for line in ["\tmodel = \"a\\\"b\";", "\tbytes = [01 02 03];", "\tflag;", "\tchild@1 {", "\t\tcells = <0x1 0xffffffff>;"]
        {
            assert!(dts.lines().any(|printed| printed == line), "{line} in\n{dts}");
        }
    }

    #[test]
    fn damaged_blobs_are_errors() {
        let good = small();
        assert_eq!(dts_from_dtb(b"hello, world"), Err(DtsError::Magic));
        for length in 0..good.len() {
            let _ = dts_from_dtb(&good[..length]);
        }
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0xff;
            let _ = dts_from_dtb(&bad);
        }
    }
}
