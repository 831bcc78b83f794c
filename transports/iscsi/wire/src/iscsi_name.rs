//! iSCSI names (RFC 7143 §4.2.7, RFC 3722): `iqn.`, `eui.` and `naa.`.
//!
//! Names are compared after normalization: lower case, and none of the characters that RFC 3722 forbids. Letters
//! outside of ASCII are lower-cased one by one; full NFKC normalization is left to whoever wrote the
//! configuration, so two spellings of one accented name are two names here.

use alloc::string::String;
use core::fmt;

/// Longest name, in bytes of UTF-8.
pub const NAME_LEN_MAX: usize = 223;

/// What is wrong with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// More than [`NAME_LEN_MAX`] bytes.
    TooLong,
    /// Neither `iqn.` nor `eui.` nor `naa.`.
    Kind,
    /// `iqn.` without a year and month: `iqn.2026-01.`.
    Date,
    /// `iqn.` without a reversed domain name, or one with an empty label.
    Authority,
    /// `eui.` without 16, `naa.` without 16 or 32 hexadecimal digits.
    Digits,
    /// A character that no name has.
    Character(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a name has at most {NAME_LEN_MAX} bytes"),
            Self::Kind => f.write_str("a name begins with iqn., eui. or naa."),
            Self::Date => f.write_str("iqn. is followed by year and month, as in iqn.2026-01."),
            Self::Authority => f.write_str("iqn.yyyy-mm. is followed by a reversed domain name"),
            Self::Digits => f.write_str("eui. has 16, naa. 16 or 32 hexadecimal digits"),
            Self::Character(c) => write!(f, "{c:?} cannot stand in a name"),
        }
    }
}

impl core::error::Error for NameError {}

/// The form of a name in which names are stored and compared.
pub fn normalize(name: &str) -> Result<String, NameError> {
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong);
    }
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        let known =
            if c.is_ascii() { c.is_ascii_alphanumeric() || "-.:".contains(c) } else { c.is_alphanumeric() };
        if !known {
            return Err(NameError::Character(c));
        }
        normal.extend(c.to_lowercase());
    }
    // Lower case may take more bytes than upper case did.
    if normal.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong);
    }
    check_form(&normal)?;
    Ok(normal)
}

fn check_form(name: &str) -> Result<(), NameError> {
    let (kind, rest) = name.split_at_checked(4).ok_or(NameError::Kind)?;
    let hex = |lens: &[usize]| {
        let ok = lens.contains(&rest.len()) && rest.bytes().all(|digit| digit.is_ascii_hexdigit());
        if ok { Ok(()) } else { Err(NameError::Digits) }
    };
    match kind {
        "iqn." => check_iqn(rest),
        "eui." => hex(&[16]),
        "naa." => hex(&[16, 32]),
        _ => Err(NameError::Kind),
    }
}

/// `yyyy-mm.reversed.domain[:anything]`.
fn check_iqn(rest: &str) -> Result<(), NameError> {
    let Some((date, rest)) = rest.split_at_checked(8) else { return Err(NameError::Date) };
    let [y1, y2, y3, y4, b'-', m1, m2, b'.'] = *date.as_bytes() else { return Err(NameError::Date) };
    let month = (m1.wrapping_sub(b'0') as u32 * 10) + m2.wrapping_sub(b'0') as u32;
    if ![y1, y2, y3, y4, m1, m2].iter().all(u8::is_ascii_digit) || !(1..=12).contains(&month) {
        return Err(NameError::Date);
    }
    let authority = rest.split_once(':').map_or(rest, |(authority, _)| authority);
    if authority.split('.').any(str::is_empty) {
        return Err(NameError::Authority);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_all_kinds_are_lowered_and_taken() {
        for (name, normal) in [
            ("iqn.2001-04.com.example:storage:diskarrays-sn-a8675309", None),
            ("iqn.2001-04.com.example", None),
            ("IQN.2001-04.com.Example:Disk", Some("iqn.2001-04.com.example:disk")),
            ("iqn.1991-05.com.microsoft:host-1", None),
            ("eui.02004567A425678D", Some("eui.02004567a425678d")),
            ("naa.52004567BA64678D", Some("naa.52004567ba64678d")),
            ("naa.62004567ba64678d0123456789abcdef", None),
            ("iqn.2001-04.org.ÄRGER:π", Some("iqn.2001-04.org.ärger:π")),
        ] {
            assert_eq!(normalize(name).as_deref(), Ok(normal.unwrap_or(name)));
        }
    }

    #[test]
    fn names_of_no_kind_are_refused_with_the_reason() {
        for (name, error) in [
            ("", NameError::Kind),
            ("iqn", NameError::Kind),
            ("wwn.2001-04.com.example", NameError::Kind),
            ("iqn.", NameError::Date),
            ("iqn.2001-13.com.example", NameError::Date),
            ("iqn.2001-00.com.example", NameError::Date),
            ("iqn.20a1-04.com.example", NameError::Date),
            ("iqn.2001-04", NameError::Date),
            ("iqn.2001-04.", NameError::Authority),
            ("iqn.2001-04.:disk", NameError::Authority),
            ("iqn.2001-04.com..example", NameError::Authority),
            ("eui.02004567A425678", NameError::Digits),
            ("eui.02004567A425678G", NameError::Digits),
            ("naa.02004567A425678D00", NameError::Digits),
            ("iqn.2001-04.com.example:a b", NameError::Character(' ')),
            ("iqn.2001-04.com.example:a_b", NameError::Character('_')),
            ("iqn.2001-04.com.example:a\u{ad}b", NameError::Character('\u{ad}')),
        ] {
            assert_eq!(normalize(name), Err(error), "{name}");
        }
    }

    #[test]
    fn a_name_has_223_bytes_at_most() {
        let name = format!("iqn.2001-04.com.example:{}", "x".repeat(NAME_LEN_MAX - 24));
        assert_eq!(normalize(&name).map(|name| name.len()), Ok(NAME_LEN_MAX));
        assert_eq!(normalize(&format!("{name}x")), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn a_normal_name_is_its_own_normal_form(name in "(iqn\\.2001-04\\.[A-Za-zÄπİ:.-]{1,40}|\\PC{0,60})") {
            if let Ok(normal) = normalize(&name) {
                prop_assert!(normal.len() <= NAME_LEN_MAX);
                // A combining mark left over from lower-casing is refused the second time, never changed.
                if let Ok(again) = normalize(&normal) {
                    prop_assert_eq!(again, normal);
                }
            }
        }
    }
}
