//! Sizes and lists as people write them on a command line.

use anyhow::{Context, Result, bail};

/// A size in bytes: `512`, `4k`, `1M`, `2G`; powers of 1,024.
pub fn size(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().with_context(|| format!("{text:?} is not a size"))?;
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        unit => bail!("{unit:?} is not a unit of size"),
    };
    number.checked_mul(1 << shift).with_context(|| format!("{text:?} is too large"))
}

/// The same, where 32 bits must hold it.
pub fn size_u32(text: &str) -> Result<u32> {
    u32::try_from(size(text)?).with_context(|| format!("{text:?} is too large"))
}

/// `1,000` operations as `1 k`, `1.2 M`: three significant digits.
pub fn thousands(n: f64) -> String {
    match n {
        n if n >= 10e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 100e3 => format!("{:.0} k", n / 1e3),
        n if n >= 10e3 => format!("{:.1} k", n / 1e3),
        n if n >= 1e3 => format!("{:.2} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// A size as it would be typed.
pub fn size_text(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{} GiB", b >> 30),
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(size("4k").unwrap(), 4096);
        assert_eq!(size("128KiB").unwrap(), 131_072);
        assert_eq!(size("1G").unwrap(), 1 << 30);
        assert!(size("4x").is_err());
        assert!(size("k").is_err());
        assert!(size("99999999999T").is_err());
        assert!(size_u32("4G").is_err());
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(thousands(1_234_567.0), "1.23 M");
        assert_eq!(thousands(655_900.0), "656 k");
        assert_eq!(thousands(12_345.0), "12.3 k");
        assert_eq!(thousands(7.0), "7");
        assert_eq!(size_text(4096), "4 KiB");
        assert_eq!(size_text(1000), "1000 B");
    }
}
