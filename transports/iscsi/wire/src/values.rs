//! Values of text keys (RFC 7143 §6.1): numbers, ranges, booleans, lists and binary values.

use alloc::string::String;
use core::fmt::{self, Write};

/// The answer to a key one does not know.
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// The answer to a key that does not matter here.
pub const IRRELEVANT: &str = "Irrelevant";
/// The answer to an offer one cannot take.
pub const REJECT: &str = "Reject";
/// Nothing of the kind: the lowest choice of most lists.
pub const NONE: &str = "None";

/// A value not written as its kind must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueError {
    /// Not a number, or one beyond 64 bits.
    Number,
    /// A number outside of what the key allows.
    OutOfRange,
    /// Neither `Yes` nor `No`.
    Boolean,
    /// Not `0x…` or `0b…`, or digits that do not decode.
    Binary,
    /// More bytes than there is room for.
    BinaryTooLong,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "not a number",
            Self::OutOfRange => "a number outside of its range",
            Self::Boolean => "neither Yes nor No",
            Self::Binary => "not a binary value",
            Self::BinaryTooLong => "a binary value that is too long",
        })
    }
}

impl core::error::Error for ValueError {}

/// A numerical value: decimal or `0x` hexadecimal, below 2⁶⁴.
pub fn number(value: &str) -> Result<u64, ValueError> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // `from_str_radix` would take a sign.
    if !digits.as_bytes().first().is_some_and(u8::is_ascii_hexdigit) {
        return Err(ValueError::Number);
    }
    u64::from_str_radix(digits, radix).map_err(|_| ValueError::Number)
}

/// A numerical value within `min ..= max`.
pub fn number_in(value: &str, min: u32, max: u32) -> Result<u32, ValueError> {
    let n = u32::try_from(number(value)?).map_err(|_| ValueError::OutOfRange)?;
    if n < min || n > max { Err(ValueError::OutOfRange) } else { Ok(n) }
}

/// A numeric range `a~b`, in order.
pub fn range(value: &str) -> Result<(u64, u64), ValueError> {
    let (low, high) = value.split_once('~').ok_or(ValueError::Number)?;
    let (low, high) = (number(low)?, number(high)?);
    if low > high { Err(ValueError::OutOfRange) } else { Ok((low, high)) }
}

/// `Yes` or `No`.
pub fn boolean(value: &str) -> Result<bool, ValueError> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(ValueError::Boolean),
    }
}

/// How a boolean is written.
pub const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// The items of a list, in the order of preference in which the sender put them.
pub fn list(value: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    value.split(',')
}

/// Decodes a binary value, `0x` hexadecimal or `0b` base64, into the front of `out`; returns how many bytes it is.
/// An odd number of hexadecimal digits begins with half a byte.
pub fn binary(value: &str, out: &mut [u8]) -> Result<usize, ValueError> {
    let (prefix, digits) = value.as_bytes().split_at_checked(2).ok_or(ValueError::Binary)?;
    match prefix {
        b"0x" | b"0X" => hex(digits, out),
        b"0b" | b"0B" => base64(digits, out),
        _ => Err(ValueError::Binary),
    }
}

fn hex(digits: &[u8], out: &mut [u8]) -> Result<usize, ValueError> {
    let nibble = |digit: u8| (digit as char).to_digit(16).map(|n| n as u8).ok_or(ValueError::Binary);
    if digits.is_empty() {
        return Err(ValueError::Binary);
    }
    let len = digits.len().div_ceil(2);
    let out = out.get_mut(..len).ok_or(ValueError::BinaryTooLong)?;
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    let (first, rest) = out.split_at_mut(odd.len());
    if let ([byte], [digit]) = (first, odd) {
        *byte = nibble(*digit)?;
    }
    for (byte, pair) in rest.iter_mut().zip(pairs.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(len)
}

/// RFC 4648 §4 with padding; bits that fall off the end must be 0, so that a value has one spelling.
fn base64(digits: &[u8], out: &mut [u8]) -> Result<usize, ValueError> {
    if digits.is_empty() || !digits.len().is_multiple_of(4) {
        return Err(ValueError::Binary);
    }
    let body = match digits {
        [body @ .., b'=', b'='] | [body @ .., b'='] => body,
        body => body,
    };
    let len = body.len() * 3 / 4;
    let out = out.get_mut(..len).ok_or(ValueError::BinaryTooLong)?;
    for (bytes, group) in out.chunks_mut(3).zip(body.chunks(4)) {
        let mut bits = 0u32;
        for at in 0..4 {
            bits = bits << 6 | group.get(at).map_or(Ok(0), |&digit| sextet(digit))?;
        }
        let decoded = bits.to_be_bytes();
        if decoded[1 + bytes.len()..].iter().any(|&byte| byte != 0) {
            return Err(ValueError::Binary);
        }
        bytes.copy_from_slice(&decoded[1..1 + bytes.len()]);
    }
    Ok(len)
}

fn sextet(digit: u8) -> Result<u32, ValueError> {
    Ok(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return Err(ValueError::Binary),
    }))
}

/// Bytes written as `0x…`.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory does not fail");
    }
    text
}

/// Bytes written as `0b…`.
pub fn to_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(2 + bytes.len().div_ceil(3) * 4);
    text.push_str("0b");
    for group in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..1 + group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(three);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn decoded(value: &str) -> Result<Vec<u8>, ValueError> {
        let mut out = [0; 64];
        binary(value, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("262144"), Ok(262_144));
        assert_eq!(number("0x40000"), Ok(262_144));
        assert_eq!(number("0XfF"), Ok(255));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "0x", "+5", "-5", "5 ", "12a", "18446744073709551616", "0x+5", "fF"] {
            assert_eq!(number(bad), Err(ValueError::Number), "{bad}");
        }
        assert_eq!(number_in("512", 512, 1024), Ok(512));
        assert_eq!(number_in("511", 512, 1024), Err(ValueError::OutOfRange));
        assert_eq!(number_in("4294967808", 512, 1024), Err(ValueError::OutOfRange));
    }

    #[test]
    fn ranges_booleans_and_lists_are_read() {
        assert_eq!(range("1~65535"), Ok((1, 65_535)));
        assert_eq!(range("7~0x7"), Ok((7, 7)));
        assert_eq!(range("8~7"), Err(ValueError::OutOfRange));
        assert_eq!(range("8"), Err(ValueError::Number));
        assert_eq!((boolean("Yes"), boolean("No")), (Ok(true), Ok(false)));
        assert_eq!(boolean("yes"), Err(ValueError::Boolean));
        assert_eq!(yes_no(true), "Yes");
        assert!(list("CRC32C,None").eq(["CRC32C", "None"]));
    }

    #[test]
    fn binary_values_are_hexadecimal_or_base64() {
        assert_eq!(decoded("0x0aFF"), Ok([0x0A, 0xFF].to_vec()));
        assert_eq!(decoded("0xaFF"), Ok([0x0A, 0xFF].to_vec()));
        assert_eq!(decoded("0bZm9vYmFy"), Ok(b"foobar".to_vec()));
        assert_eq!(decoded("0bZm9vYg=="), Ok(b"foob".to_vec()));
        assert_eq!(decoded("0BZm9vYmE="), Ok(b"fooba".to_vec()));
        for bad in
            ["", "0", "0x", "0b", "0xg0", "12", "0bZm9", "0bZm9vYh==", "0bZ===", "0bZm=v", "0bZ m9", "0b===="]
        {
            assert_eq!(decoded(bad), Err(ValueError::Binary), "{bad}");
        }
        assert_eq!(binary("0x0102", &mut [0]), Err(ValueError::BinaryTooLong));
        assert_eq!(binary("0bZm9vYmFy", &mut [0; 5]), Err(ValueError::BinaryTooLong));
        assert_eq!(to_base64(b"foob"), "0bZm9vYg==");
        assert_eq!(to_hex(&[0, 0xAB]), "0x00ab");
    }

    proptest! {
        #[test]
        fn binary_values_come_out_as_they_went_in(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(decoded(&to_hex(&bytes)), Ok(bytes.clone()));
            prop_assert_eq!(decoded(&to_base64(&bytes)), Ok(bytes));
        }

        #[test]
        fn arbitrary_values_do_not_panic(value in "(0[xXbB])?[ -~]{0,40}") {
            let _ = (decoded(&value), number(&value), range(&value), boolean(&value), list(&value).count());
        }
    }
}
