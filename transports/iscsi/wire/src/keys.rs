//! Text of login and Text PDUs (RFC 7143 §6.1): `key=value` pairs, each ended by a NUL.
//!
//! A text may span PDUs (C bit); whoever receives puts the data segments together, within a limit of its own,
//! and reads the whole here. [`TextPairs`] walks in one pass without allocation; [`TextList`] collects the pairs of
//! a negotiation, where no key may come twice. [`TextBuf`] writes.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::reject::RejectReason;

/// Longest key name (RFC 7143 §6.1, standard-label).
pub const KEY_LEN_MAX: usize = 63;
/// Longest simple value, and longest item of a list.
pub const VALUE_LEN_MAX: usize = 255;
/// Longest value of the keys that carry large binary values.
pub const LARGE_VALUE_LEN_MAX: usize = 8192;
/// Text that every receiver must be able to take in one negotiation.
pub const TEXT_LEN_MIN: usize = 8192;
/// Pairs taken in one negotiation: several times the keys that exist, few enough to compare each with each.
pub const PAIRS_MAX: usize = 256;

/// One `key=value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'a> {
    /// Key name, as sent: case counts.
    pub key: &'a str,
    /// Value; may be empty.
    pub value: &'a str,
    /// Where the pair begins in its text.
    pub offset: u32,
}

/// Text that cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextError {
    /// In which way it is wrong.
    pub fault: TextFault,
    /// The pair that is wrong begins at this byte of the text.
    pub offset: u32,
}

/// Ways for text to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextFault {
    /// The last pair has no NUL.
    Unterminated,
    /// No `=`.
    NoEquals,
    /// Not UTF-8.
    NotUtf8,
    /// Nothing before the `=`.
    EmptyKey,
    /// More than [`KEY_LEN_MAX`] bytes before the `=`.
    KeyTooLong,
    /// A character no key has.
    KeyCharacter,
    /// A control character.
    ValueCharacter,
    /// More than [`VALUE_LEN_MAX`] or [`LARGE_VALUE_LEN_MAX`] bytes.
    ValueTooLong,
    /// A key for the second time.
    Repeated,
    /// More than [`PAIRS_MAX`] pairs.
    TooMany,
}

impl TextError {
    /// The reason a Reject gives for it in full feature phase. During login the answer is
    /// [`crate::LoginStatus::INITIATOR_ERROR`].
    pub const fn reject_reason(&self) -> RejectReason {
        RejectReason::ProtocolError
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            TextFault::Unterminated => "a pair without its NUL",
            TextFault::NoEquals => "a pair without =",
            TextFault::NotUtf8 => "a pair that is not UTF-8",
            TextFault::EmptyKey => "a value without a key",
            TextFault::KeyTooLong => "a key longer than 63 bytes",
            TextFault::KeyCharacter => "a key with a character no key has",
            TextFault::ValueCharacter => "a value with a control character",
            TextFault::ValueTooLong => "a value that is too long",
            TextFault::Repeated => "a key for the second time",
            TextFault::TooMany => "more pairs than keys exist",
        };
        write!(f, "{what} at byte {} of the text", self.offset)
    }
}

impl core::error::Error for TextError {}

/// Walks a text in one pass; ends after the first error. Repeated keys are given out as they come, since a
/// SendTargets response repeats TargetName.
#[derive(Clone, Debug)]
pub struct TextPairs<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> TextPairs<'a> {
    /// Walks `text`, the data segments of one exchange put together, without padding.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }
}

impl<'a> Iterator for TextPairs<'a> {
    type Item = Result<Pair<'a>, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some initiators count their padding into the length: a run of NULs says nothing and is passed over.
        while self.text.get(self.at) == Some(&0) {
            self.at += 1;
        }
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let offset = self.at as u32;
        let step = match rest.iter().position(|&byte| byte == 0) {
            None => Err(TextFault::Unterminated),
            Some(len) => {
                self.at += len + 1;
                pair(&rest[..len])
            }
        };
        Some(match step {
            Ok((key, value)) => Ok(Pair { key, value, offset }),
            Err(fault) => {
                self.at = self.text.len();
                Err(TextError { fault, offset })
            }
        })
    }
}

fn pair(bytes: &[u8]) -> Result<(&str, &str), TextFault> {
    let pair = core::str::from_utf8(bytes).map_err(|_| TextFault::NotUtf8)?;
    let (key, value) = pair.split_once('=').ok_or(TextFault::NoEquals)?;
    check_key(key)?;
    if value.chars().any(char::is_control) {
        return Err(TextFault::ValueCharacter);
    }
    let too_long = if is_large(key) {
        value.len() > LARGE_VALUE_LEN_MAX
    } else {
        value.split(',').any(|item| item.len() > VALUE_LEN_MAX)
    };
    if too_long {
        return Err(TextFault::ValueTooLong);
    }
    Ok((key, value))
}

/// RFC 7143 §6.1 lets key names begin with a capital, but §13 itself registers `iSCSIProtocolLevel`; so any
/// letter will do. `#` stands in the names of registered extensions (`X#name`, §13.22).
fn check_key(key: &str) -> Result<(), TextFault> {
    let Some(&first) = key.as_bytes().first() else { return Err(TextFault::EmptyKey) };
    if key.len() > KEY_LEN_MAX {
        return Err(TextFault::KeyTooLong);
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
    if !first.is_ascii_alphabetic() || !key.bytes().all(known) {
        return Err(TextFault::KeyCharacter);
    }
    Ok(())
}

/// Keys of authentication methods that carry large binary values (RFC 7143 §12).
fn is_large(key: &str) -> bool {
    matches!(key, name::CHAP_C | name::CHAP_R) || key.starts_with("SRP_") || key.starts_with("KRB_")
}

/// The pairs of one negotiation step: checked, at most [`PAIRS_MAX`], no key twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextList<'a> {
    pairs: Vec<Pair<'a>>,
}

impl<'a> TextList<'a> {
    /// Reads a text. RFC 7143 §6.2: a key is negotiated at most once, so its second coming is an error.
    pub fn parse(text: &'a [u8]) -> Result<Self, TextError> {
        let mut pairs: Vec<Pair<'a>> = Vec::new();
        for pair in TextPairs::new(text) {
            let pair = pair?;
            let refuse = |fault| Err(TextError { fault, offset: pair.offset });
            if pairs.len() == PAIRS_MAX {
                return refuse(TextFault::TooMany);
            }
            if pairs.iter().any(|earlier| earlier.key == pair.key) {
                return refuse(TextFault::Repeated);
            }
            pairs.push(pair);
        }
        Ok(Self { pairs })
    }

    /// The value of a key.
    pub fn find(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value)
    }

    /// All pairs in the order they came.
    pub fn pairs(&self) -> &[Pair<'a>] {
        &self.pairs
    }
}

/// A text being written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextBuf {
    bytes: Vec<u8>,
}

impl TextBuf {
    /// An empty text.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds a pair. A control character in the value (an alias out of a configuration, say) becomes `?`: it
    /// must not end the pair early.
    pub fn pair(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        debug_assert!(check_key(key).is_ok(), "key names are written by us");
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(b'=');
        write!(Printable(&mut self.bytes), "{value}").expect("writing to memory does not fail");
        self.bytes.push(0);
        self
    }

    /// The text so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the text, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

struct Printable<'a>(&'a mut Vec<u8>);

impl Write for Printable<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let mut utf8 = [0; 4];
        for c in s.chars() {
            let c = if c.is_control() { '?' } else { c };
            self.0.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
        Ok(())
    }
}

macro_rules! names {
    ($($constant:ident = $text:literal,)+) => {
        /// Names of the keys of RFC 7143 §12 and §13, RFC 7144 and RFC 7145, spelled as there.
        pub mod name {
            $(#[doc = concat!("`", $text, "`")] pub const $constant: &str = $text;)+
        }
    };
}

names! {
    AUTH_METHOD = "AuthMethod",
    CHAP_A = "CHAP_A",
    CHAP_C = "CHAP_C",
    CHAP_I = "CHAP_I",
    CHAP_N = "CHAP_N",
    CHAP_R = "CHAP_R",
    DATA_DIGEST = "DataDigest",
    DATA_PDU_IN_ORDER = "DataPDUInOrder",
    DATA_SEQUENCE_IN_ORDER = "DataSequenceInOrder",
    DEFAULT_TIME2RETAIN = "DefaultTime2Retain",
    DEFAULT_TIME2WAIT = "DefaultTime2Wait",
    ERROR_RECOVERY_LEVEL = "ErrorRecoveryLevel",
    FIRST_BURST_LENGTH = "FirstBurstLength",
    HEADER_DIGEST = "HeaderDigest",
    IF_MARKER = "IFMarker",
    IF_MARK_INT = "IFMarkInt",
    IMMEDIATE_DATA = "ImmediateData",
    INITIAL_R2T = "InitialR2T",
    INITIATOR_ALIAS = "InitiatorAlias",
    INITIATOR_NAME = "InitiatorName",
    INITIATOR_RECV_DATA_SEGMENT_LENGTH = "InitiatorRecvDataSegmentLength",
    ISCSI_PROTOCOL_LEVEL = "iSCSIProtocolLevel",
    ISER_HELLO_REQUIRED = "iSERHelloRequired",
    MAX_AHS_LENGTH = "MaxAHSLength",
    MAX_BURST_LENGTH = "MaxBurstLength",
    MAX_CONNECTIONS = "MaxConnections",
    MAX_OUTSTANDING_R2T = "MaxOutstandingR2T",
    MAX_OUTSTANDING_UNEXPECTED_PDUS = "MaxOutstandingUnexpectedPDUs",
    MAX_RECV_DATA_SEGMENT_LENGTH = "MaxRecvDataSegmentLength",
    OF_MARKER = "OFMarker",
    OF_MARK_INT = "OFMarkInt",
    RDMA_EXTENSIONS = "RDMAExtensions",
    SEND_TARGETS = "SendTargets",
    SESSION_TYPE = "SessionType",
    TAGGED_BUFFER_FOR_SOLICITED_DATA_ONLY = "TaggedBufferForSolicitedDataOnly",
    TARGET_ADDRESS = "TargetAddress",
    TARGET_ALIAS = "TargetAlias",
    TARGET_NAME = "TargetName",
    TARGET_PORTAL_GROUP_TAG = "TargetPortalGroupTag",
    TARGET_RECV_DATA_SEGMENT_LENGTH = "TargetRecvDataSegmentLength",
    TASK_REPORTING = "TaskReporting",
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString};

    use proptest::prelude::*;

    use super::*;

    fn fault(text: &[u8]) -> (TextFault, u32) {
        let error = TextList::parse(text).unwrap_err();
        (error.fault, error.offset)
    }

    #[test]
    fn a_login_text_is_read_and_written_byte_by_byte() {
        let golden = b"InitiatorName=iqn.2026-01.org.example:a\0SessionType=Normal\0TargetAlias=\0";
        let list = TextList::parse(golden).unwrap();
        assert_eq!(list.find("SessionType"), Some("Normal"));
        assert_eq!(list.find("TargetAlias"), Some(""));
        assert_eq!(list.find("sessiontype"), None, "case counts");
        assert_eq!(list.pairs()[1].offset, 40);
        let mut text = TextBuf::new();
        for pair in list.pairs() {
            text.pair(pair.key, pair.value);
        }
        assert_eq!(text.as_bytes(), golden);
    }

    #[test]
    fn every_fault_has_its_name_and_place() {
        assert_eq!(fault(b"A=1\0B=2"), (TextFault::Unterminated, 4));
        assert_eq!(fault(b"A=1\0B\0"), (TextFault::NoEquals, 4));
        assert_eq!(fault(b"A=\xFF\0"), (TextFault::NotUtf8, 0));
        assert_eq!(fault(b"=1\0"), (TextFault::EmptyKey, 0));
        assert_eq!(fault(b"A B=1\0"), (TextFault::KeyCharacter, 0));
        assert_eq!(fault(b"1A=1\0"), (TextFault::KeyCharacter, 0));
        assert_eq!(fault(b"A=\n\0"), (TextFault::ValueCharacter, 0));
        assert_eq!(fault(b"A=1\0\0B=1\0A=2\0"), (TextFault::Repeated, 9));
        assert_eq!(fault(format!("{}=1\0", "A".repeat(64)).as_bytes()), (TextFault::KeyTooLong, 0));
        assert!(TextList::parse(format!("{}=1\0", "A".repeat(63)).as_bytes()).is_ok());
    }

    #[test]
    fn values_have_the_length_their_kind_allows() {
        let item = "a".repeat(255);
        assert!(TextList::parse(format!("A={item},{item}\0").as_bytes()).is_ok());
        assert_eq!(fault(format!("A={item}a\0").as_bytes()).0, TextFault::ValueTooLong);
        let large = "a".repeat(8192);
        assert!(TextList::parse(format!("CHAP_C={large}\0").as_bytes()).is_ok());
        assert_eq!(fault(format!("CHAP_C={large}a\0").as_bytes()).0, TextFault::ValueTooLong);
    }

    #[test]
    fn a_flood_of_keys_is_cut_off() {
        let flood: String = (0..PAIRS_MAX + 1).map(|i| format!("X-{i}=\0")).collect();
        assert_eq!(fault(flood.as_bytes()).0, TextFault::TooMany);
    }

    #[test]
    fn send_targets_repeats_keys_and_walks() {
        let text = b"TargetName=iqn.a:1\0TargetAddress=10.0.0.1:3260,1\0TargetName=iqn.a:2\0";
        let names = TextPairs::new(text).filter_map(Result::ok).filter(|pair| pair.key == "TargetName");
        assert_eq!(names.map(|pair| pair.value.to_string()).collect::<Vec<_>>(), ["iqn.a:1", "iqn.a:2"]);
    }

    #[test]
    fn a_written_value_cannot_begin_a_pair_of_its_own() {
        let mut text = TextBuf::new();
        text.pair(name::TARGET_ALIAS, "a\0TargetName=b");
        assert_eq!(text.as_bytes(), b"TargetAlias=a?TargetName=b\0");
        assert_eq!(text.clone().into_bytes(), text.as_bytes());
        text.clear();
        assert!(text.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_text_ends_without_panic(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(TextPairs::new(&text).count() <= text.len());
            let _ = TextList::parse(&text);
        }

        #[test]
        fn pairs_come_out_as_they_went_in(
            pairs in proptest::collection::btree_map("[A-Z][a-zA-Z0-9.+@_-]{0,62}", "[ -~äß€]{0,60}", 0..20),
        ) {
            let mut text = TextBuf::new();
            for (key, value) in &pairs {
                text.pair(key, value);
            }
            let list = TextList::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(list.pairs().len(), pairs.len());
            for (key, value) in &pairs {
                prop_assert_eq!(list.find(key), Some(value.as_str()));
            }
        }
    }
}
