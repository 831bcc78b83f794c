//! The Basic Header Segment (RFC 7143 §11.2.1): what all PDUs have in common.
//!
//! ```text
//!  byte 0   .|I|opcode      I: immediate delivery (requests only)
//!       1   F|opcode-specific
//!       4   TotalAHSLength  in words of four bytes
//!     5-7   DataSegmentLength in bytes, without padding
//!    8-15   LUN or opcode-specific
//!   16-19   Initiator Task Tag
//! ```

use core::fmt;

/// Bytes in a Basic Header Segment.
pub const BHS_LEN: usize = 48;
/// Bytes of a header or data digest.
pub const DIGEST_LEN: u32 = 4;
/// The largest DataSegmentLength, 24 bits.
pub const DATA_LEN_MAX: u32 = 0x00FF_FFFF;
/// The largest sum of Additional Header Segments: 255 words.
pub const AHS_LEN_MAX: u32 = 255 * 4;

/// A Basic Header Segment as it stands on the wire.
pub type Bhs = [u8; BHS_LEN];

/// Initiator Task Tag: the name an initiator gives a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Itt(pub u32);

/// Target Transfer Tag: the name a target gives a transfer it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ttt(pub u32);

impl Itt {
    /// No task.
    pub const RESERVED: Itt = Itt(0xFFFF_FFFF);
}

impl Ttt {
    /// No transfer: unsolicited data, or nothing to answer.
    pub const RESERVED: Ttt = Ttt(0xFFFF_FFFF);
}

impl Default for Itt {
    fn default() -> Self {
        Self::RESERVED
    }
}

impl Default for Ttt {
    fn default() -> Self {
        Self::RESERVED
    }
}

impl fmt::Debug for Itt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "itt:{:08x}", self.0)
    }
}

impl fmt::Debug for Ttt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ttt:{:08x}", self.0)
    }
}

macro_rules! opcodes {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// The opcode in a header; `None` if this side sends no such PDU.
            #[inline]
            pub const fn of(bhs: &Bhs) -> Option<Self> {
                match bhs[0] & OPCODE_MASK { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

opcodes! {
    /// Opcodes of requests (RFC 7143 §11.2.1.2).
    InitiatorOpcode {
        /// NOP-Out.
        NopOut = 0x00,
        /// SCSI Command.
        ScsiCommand = 0x01,
        /// SCSI Task Management Function Request.
        TmfRequest = 0x02,
        /// Login Request.
        LoginRequest = 0x03,
        /// Text Request.
        TextRequest = 0x04,
        /// SCSI Data-Out.
        DataOut = 0x05,
        /// Logout Request.
        LogoutRequest = 0x06,
        /// SNACK Request.
        SnackRequest = 0x10,
    }
}

opcodes! {
    /// Opcodes of responses (RFC 7143 §11.2.1.2).
    TargetOpcode {
        /// NOP-In.
        NopIn = 0x20,
        /// SCSI Response.
        ScsiResponse = 0x21,
        /// SCSI Task Management Function Response.
        TmfResponse = 0x22,
        /// Login Response.
        LoginResponse = 0x23,
        /// Text Response.
        TextResponse = 0x24,
        /// SCSI Data-In.
        DataIn = 0x25,
        /// Logout Response.
        LogoutResponse = 0x26,
        /// Ready To Transfer.
        R2t = 0x31,
        /// Asynchronous Message.
        AsyncMessage = 0x32,
        /// Reject.
        Reject = 0x3F,
    }
}

/// The bits of byte 0 that are the opcode.
pub const OPCODE_MASK: u8 = 0x3F;
/// The I bit of byte 0.
pub const IMMEDIATE: u8 = 0x40;
/// The F bit of byte 1 (T in login PDUs).
pub const FINAL: u8 = 0x80;
/// The C bit of byte 1 in login and text PDUs.
pub const CONTINUE: u8 = 0x40;

/// The six bits of the opcode.
#[inline]
pub const fn opcode(bhs: &Bhs) -> u8 {
    bhs[0] & OPCODE_MASK
}

/// The I bit: deliver at once, outside of the CmdSN order.
#[inline]
pub const fn is_immediate(bhs: &Bhs) -> bool {
    bhs[0] & IMMEDIATE != 0
}

/// The F bit: the last PDU of a sequence.
#[inline]
pub const fn is_final(bhs: &Bhs) -> bool {
    bhs[1] & FINAL != 0
}

/// Bytes of Additional Header Segments after this header.
#[inline]
pub const fn ahs_bytes(bhs: &Bhs) -> u32 {
    bhs[4] as u32 * 4
}

/// Bytes of data after the headers, without padding.
#[inline]
pub const fn data_bytes(bhs: &Bhs) -> u32 {
    be24(bhs, 5)
}

/// Eight bytes of LUN, where the PDU has one.
#[inline]
pub const fn lun(bhs: &Bhs) -> [u8; 8] {
    [bhs[8], bhs[9], bhs[10], bhs[11], bhs[12], bhs[13], bhs[14], bhs[15]]
}

/// The Initiator Task Tag.
#[inline]
pub const fn itt(bhs: &Bhs) -> Itt {
    Itt(be32(bhs, 16))
}

/// Padding after `n` bytes up to the next word: 0 to 3.
#[inline]
pub const fn pad(n: u32) -> u32 {
    n.wrapping_neg() & 3
}

/// `n` rounded up to a whole word. `n` is a length of a PDU, at most 2³² - 4.
#[inline]
pub const fn padded(n: u32) -> u32 {
    n + pad(n)
}

/// Which digests a connection agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// HeaderDigest=CRC32C.
    pub header: bool,
    /// DataDigest=CRC32C.
    pub data: bool,
}

/// Everything of the PDU on the wire in bytes: headers, digests, data, padding. At most about 16 MiB + 1 KiB.
/// A data digest is only there when data is (RFC 7143 §11.2.3).
#[inline]
pub const fn pdu_bytes(bhs: &Bhs, digests: Digests) -> u32 {
    let data = data_bytes(bhs);
    let data_digest = if digests.data && data != 0 { DIGEST_LEN } else { 0 };
    let header_digest = if digests.header { DIGEST_LEN } else { 0 };
    BHS_LEN as u32 + ahs_bytes(bhs) + header_digest + padded(data) + data_digest
}

#[inline(always)]
pub(crate) const fn be16(bhs: &Bhs, at: usize) -> u16 {
    u16::from_be_bytes([bhs[at], bhs[at + 1]])
}

#[inline(always)]
pub(crate) const fn be24(bhs: &Bhs, at: usize) -> u32 {
    u32::from_be_bytes([0, bhs[at], bhs[at + 1], bhs[at + 2]])
}

/// Four bytes in network order at `at`, a number known when this is compiled.
#[inline(always)]
pub const fn be32(bhs: &Bhs, at: usize) -> u32 {
    u32::from_be_bytes([bhs[at], bhs[at + 1], bhs[at + 2], bhs[at + 3]])
}

/// The first eight bytes: opcode, flags, two opcode-specific bytes, AHS length in words, data length. The length
/// must fit 24 bits; what is above them would be lost, so it is our own mistake to ask.
#[inline(always)]
pub(crate) fn put_start(out: &mut Bhs, opcode: u8, flags: u8, two: [u8; 2], ahs_words: u8, data_len: u32) {
    assert!(data_len <= DATA_LEN_MAX, "a data segment is at most 2^24 - 1 bytes");
    let words = u64::from(opcode) << 56
        | u64::from(flags) << 48
        | u64::from(u16::from_be_bytes(two)) << 32
        | u64::from(ahs_words) << 24
        | u64::from(data_len);
    out[..8].copy_from_slice(&words.to_be_bytes());
}

#[inline(always)]
pub(crate) fn put16(out: &mut Bhs, at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
pub(crate) fn put32(out: &mut Bhs, at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

const _: () = assert!(size_of::<Bhs>() == 48 && align_of::<Bhs>() == 1);
const _: () = assert!(pad(0) == 0 && pad(1) == 3 && pad(2) == 2 && pad(3) == 1 && padded(4) == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_in_their_units() {
        let mut bhs = [0; BHS_LEN];
        bhs[4] = 3;
        bhs[5..8].copy_from_slice(&[0x01, 0x02, 0x03]);
        assert_eq!(ahs_bytes(&bhs), 12);
        assert_eq!(data_bytes(&bhs), 0x010203);
        let both = Digests { header: true, data: true };
        assert_eq!(pdu_bytes(&bhs, both), 48 + 12 + 4 + 0x010204 + 4);
        assert_eq!(pdu_bytes(&bhs, Digests::default()), 48 + 12 + 0x010204);
    }

    #[test]
    fn an_empty_data_segment_has_no_digest() {
        let bhs = [0; BHS_LEN];
        assert_eq!(pdu_bytes(&bhs, Digests { header: true, data: true }), 52);
    }

    #[test]
    fn the_longest_pdu_is_counted_without_overflow() {
        let bhs = [0xFF; BHS_LEN];
        assert_eq!(pdu_bytes(&bhs, Digests { header: true, data: true }), 48 + 1020 + 4 + 0x0100_0000 + 4);
    }

    #[test]
    fn opcodes_of_one_side_are_unknown_to_the_other() {
        let mut bhs = [0; BHS_LEN];
        for code in 0..=0xFF {
            bhs[0] = code;
            assert!(InitiatorOpcode::of(&bhs).is_none() || TargetOpcode::of(&bhs).is_none());
            if let Some(opcode) = InitiatorOpcode::of(&bhs) {
                assert_eq!(opcode as u8, code & 0x3F);
            }
            if let Some(opcode) = TargetOpcode::of(&bhs) {
                assert_eq!(opcode as u8, code & 0x3F);
            }
        }
        bhs[0] = 0x41;
        assert_eq!(InitiatorOpcode::of(&bhs), Some(InitiatorOpcode::ScsiCommand));
        assert!(is_immediate(&bhs));
    }
}
