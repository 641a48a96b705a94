//! Sizes and addresses as people write them.

use std::str::FromStr;

/// Bytes: a number with K, M or G behind it, or none.
#[derive(Clone, Copy)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
            Some((at, _)) => text.split_at(at),
            None => (text, ""),
        };
        let shift = match unit {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            _ => return Err(format!("unknown unit {unit:?}: K, M or G")),
        };
        let number: u64 = digits.parse().map_err(|_| "not a number".to_owned())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "too large".to_owned())
    }
}

/// Decimal, or hexadecimal with 0x.
#[derive(Clone, Copy)]
pub struct Address(pub u64);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map(Self).map_err(|_| format!("{text:?} is not an address"))
    }
}
