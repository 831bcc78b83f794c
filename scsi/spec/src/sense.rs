//! Sense data: why a command ended in CHECK CONDITION (SPC-5 §4.4).

use crate::{Asc, Emit, FieldError, ListError, be, emit::flag};

/// The kind of condition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to tell.
    NoSense = 0x0,
    /// Done, after the device helped itself.
    RecoveredError = 0x1,
    /// The logical unit cannot be accessed.
    NotReady = 0x2,
    /// Something is wrong with the medium or the data on it.
    MediumError = 0x3,
    /// Something is wrong with the device.
    HardwareError = 0x4,
    /// The CDB or its parameter list cannot be accepted.
    IllegalRequest = 0x5,
    /// A condition the initiator has to know about before it goes on.
    UnitAttention = 0x6,
    /// The medium is protected.
    DataProtect = 0x7,
    /// Blank medium.
    BlankCheck = 0x8,
    /// Vendor specific.
    VendorSpecific = 0x9,
    /// A copy function failed.
    CopyAborted = 0xA,
    /// The device server gave the command up; it may be tried again.
    AbortedCommand = 0xB,
    /// Reserved or obsolete; seen only in what others send.
    Reserved = 0xC,
    /// No place left on the medium.
    VolumeOverflow = 0xD,
    /// Data compared unequal.
    Miscompare = 0xE,
    /// Completed, with something worth telling.
    Completed = 0xF,
}

impl SenseKey {
    /// The key in the low four bits of `code`.
    pub const fn from_code(code: u8) -> SenseKey {
        match code & 0x0F {
            0x0 => SenseKey::NoSense,
            0x1 => SenseKey::RecoveredError,
            0x2 => SenseKey::NotReady,
            0x3 => SenseKey::MediumError,
            0x4 => SenseKey::HardwareError,
            0x5 => SenseKey::IllegalRequest,
            0x6 => SenseKey::UnitAttention,
            0x7 => SenseKey::DataProtect,
            0x8 => SenseKey::BlankCheck,
            0x9 => SenseKey::VendorSpecific,
            0xA => SenseKey::CopyAborted,
            0xB => SenseKey::AbortedCommand,
            0xC => SenseKey::Reserved,
            0xD => SenseKey::VolumeOverflow,
            0xE => SenseKey::Miscompare,
            _ => SenseKey::Completed,
        }
    }
}

/// Fixed (70h, 71h) or descriptor (72h, 73h) format; D_SENSE of the control mode page chooses, DESC for
/// REQUEST SENSE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SenseFormat {
    /// 18 bytes; INFORMATION has 32 bits.
    #[default]
    Fixed,
    /// 8 bytes and descriptors; INFORMATION has 64 bits.
    Descriptor,
}

/// Where the wrong field is (SPC-5 §4.4.2.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FieldPointer {
    /// In the CDB (C/D set to one), else in the parameter list.
    pub in_cdb: bool,
    /// First byte of the field.
    pub byte: u16,
    /// Its most significant bit, where that is not the whole byte's.
    pub bit: Option<u8>,
}

/// The sense-key-specific field: its meaning hangs on the sense key, so there is one of these at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Specific {
    #[default]
    None,
    Field(FieldPointer),
    Progress(u16),
    Retries(u16),
}

/// Sense data as a value: 32 bytes, built by chaining.
///
/// ```
/// use spindle_scsi_spec::{Asc, Sense, SenseFormat, SenseKey};
/// let s = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(512);
/// let mut room = [0; Sense::MAX_BYTES];
/// assert_eq!(s.emit_into(SenseFormat::Fixed, &mut room), 18);
/// assert_eq!(Sense::parse(&room), Some(s));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sense {
    information: u64,
    command_specific: u64,
    specific: Specific,
    /// What the additional sense code says.
    pub asc: Asc,
    /// The sense key.
    pub key: SenseKey,
    flags: u8,
}

const _: () = assert!(size_of::<Sense>() <= 40);

const HAS_INFORMATION: u8 = 1;
const HAS_COMMAND_SPECIFIC: u8 = 2;
const DEFERRED: u8 = 4;
const ILI: u8 = 8;

const DESCRIPTOR_INFORMATION: u8 = 0x00;
const DESCRIPTOR_COMMAND_SPECIFIC: u8 = 0x01;
const DESCRIPTOR_SENSE_KEY_SPECIFIC: u8 = 0x02;
const DESCRIPTOR_BLOCK_COMMANDS: u8 = 0x05;

impl Sense {
    /// No sense data this crate emits is longer: 8 bytes and the descriptors 00h, 01h, 02h and 05h.
    pub const MAX_BYTES: usize = 8 + 12 + 12 + 8 + 4;

    /// NO SENSE: the answer to REQUEST SENSE when there is nothing to tell.
    pub const NONE: Sense = Sense::new(SenseKey::NoSense, Asc::NO_ADDITIONAL_SENSE_INFORMATION);

    /// Key and code alone.
    pub const fn new(key: SenseKey, asc: Asc) -> Sense {
        Sense { information: 0, command_specific: 0, specific: Specific::None, asc, key, flags: 0 }
    }

    /// ILLEGAL REQUEST.
    pub const fn illegal_request(asc: Asc) -> Sense {
        Sense::new(SenseKey::IllegalRequest, asc)
    }

    /// NOT READY.
    pub const fn not_ready(asc: Asc) -> Sense {
        Sense::new(SenseKey::NotReady, asc)
    }

    /// UNIT ATTENTION.
    pub const fn unit_attention(asc: Asc) -> Sense {
        Sense::new(SenseKey::UnitAttention, asc)
    }

    /// ABORTED COMMAND.
    pub const fn aborted_command(asc: Asc) -> Sense {
        Sense::new(SenseKey::AbortedCommand, asc)
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN CDB, pointing at the field.
    pub const fn invalid_field_in_cdb(at: FieldError) -> Sense {
        Sense::illegal_request(Asc::INVALID_FIELD_IN_CDB).with_field(FieldPointer {
            in_cdb: true,
            byte: at.byte,
            bit: at.bit,
        })
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST, pointing at the field.
    pub const fn invalid_field_in_parameter_list(at: FieldError) -> Sense {
        Sense::illegal_request(Asc::INVALID_FIELD_IN_PARAMETER_LIST).with_field(FieldPointer {
            in_cdb: false,
            byte: at.byte,
            bit: at.bit,
        })
    }

    /// With INFORMATION: an LBA, or the offset of a miscompare.
    #[must_use]
    pub const fn with_information(mut self, value: u64) -> Sense {
        self.information = value;
        self.flags |= HAS_INFORMATION;
        self
    }

    /// With COMMAND-SPECIFIC INFORMATION.
    #[must_use]
    pub const fn with_command_specific(mut self, value: u64) -> Sense {
        self.command_specific = value;
        self.flags |= HAS_COMMAND_SPECIFIC;
        self
    }

    /// With a field pointer. Only ILLEGAL REQUEST has one on the wire.
    #[must_use]
    pub const fn with_field(mut self, at: FieldPointer) -> Sense {
        self.specific = Specific::Field(at);
        self
    }

    /// With a progress indication, in 65 536ths. Only NO SENSE and NOT READY have one on the wire.
    #[must_use]
    pub const fn with_progress(mut self, part: u16) -> Sense {
        self.specific = Specific::Progress(part);
        self
    }

    /// With an actual retry count. Only RECOVERED, HARDWARE and MEDIUM ERROR have one on the wire.
    #[must_use]
    pub const fn with_retries(mut self, count: u16) -> Sense {
        self.specific = Specific::Retries(count);
        self
    }

    /// About an earlier command (71h, 73h), not the one that carries it.
    #[must_use]
    pub const fn deferred(mut self) -> Sense {
        self.flags |= DEFERRED;
        self
    }

    /// With the ILI bit: a length that does not match the medium's (READ LONG, WRITE LONG).
    #[must_use]
    pub const fn with_ili(mut self) -> Sense {
        self.flags |= ILI;
        self
    }

    /// INFORMATION, if valid.
    pub const fn information(&self) -> Option<u64> {
        if self.flags & HAS_INFORMATION != 0 { Some(self.information) } else { None }
    }

    /// COMMAND-SPECIFIC INFORMATION, if there.
    pub const fn command_specific(&self) -> Option<u64> {
        if self.flags & HAS_COMMAND_SPECIFIC != 0 { Some(self.command_specific) } else { None }
    }

    /// The field pointer, if there.
    pub const fn field(&self) -> Option<FieldPointer> {
        if let Specific::Field(at) = self.specific { Some(at) } else { None }
    }

    /// The progress indication, if there.
    pub const fn progress(&self) -> Option<u16> {
        if let Specific::Progress(part) = self.specific { Some(part) } else { None }
    }

    /// The actual retry count, if there.
    pub const fn retries(&self) -> Option<u16> {
        if let Specific::Retries(count) = self.specific { Some(count) } else { None }
    }

    /// Is it about an earlier command?
    pub const fn is_deferred(&self) -> bool {
        self.flags & DEFERRED != 0
    }

    /// Is the ILI bit set?
    pub const fn ili(&self) -> bool {
        self.flags & ILI != 0
    }

    /// Writes the sense data in `format`.
    pub fn emit(&self, format: SenseFormat, w: &mut Emit<'_>) {
        match format {
            SenseFormat::Fixed => self.emit_fixed(w),
            SenseFormat::Descriptor => self.emit_descriptor(w),
        }
    }

    /// Writes into `buf`; returns how many bytes are there.
    pub fn emit_into(&self, format: SenseFormat, buf: &mut [u8]) -> usize {
        let mut w = Emit::new(buf);
        self.emit(format, &mut w);
        w.written()
    }

    fn emit_fixed(&self, w: &mut Emit<'_>) {
        // SPC-5 §4.4.3: VALID tells whether INFORMATION is defined; a value that 32 bits cannot hold is left
        // out rather than cut. COMMAND-SPECIFIC INFORMATION has no such bit and is zero then.
        let information = self.information().and_then(|v| u32::try_from(v).ok());
        let command_specific = self.command_specific().and_then(|v| u32::try_from(v).ok());
        w.u8(0x70 | flag(self.is_deferred(), 0) | flag(information.is_some(), 7)).u8(0);
        w.u8(self.key as u8 | flag(self.ili(), 5));
        w.u32(information.unwrap_or(0)).u8(18 - 8).u32(command_specific.unwrap_or(0));
        w.u8(self.asc.code).u8(self.asc.qualifier).u8(0);
        w.bytes(&self.specific_bytes().unwrap_or_default());
    }

    fn emit_descriptor(&self, w: &mut Emit<'_>) {
        let start = w.full_len();
        w.u8(0x72 | flag(self.is_deferred(), 0)).u8(self.key as u8);
        w.u8(self.asc.code).u8(self.asc.qualifier).zeros(4);
        if let Some(v) = self.information() {
            w.u8(DESCRIPTOR_INFORMATION).u8(10).u8(0x80).u8(0).u64(v);
        }
        if let Some(v) = self.command_specific() {
            w.u8(DESCRIPTOR_COMMAND_SPECIFIC).u8(10).zeros(2).u64(v);
        }
        if let Some(bytes) = self.specific_bytes() {
            w.u8(DESCRIPTOR_SENSE_KEY_SPECIFIC).u8(6).zeros(2).bytes(&bytes).u8(0);
        }
        if self.ili() {
            w.u8(DESCRIPTOR_BLOCK_COMMANDS).u8(2).u8(0).u8(0x20);
        }
        let additional = w.full_len() - start - 8;
        w.patch_u8(start + 7, additional as u8); // at most MAX_BYTES - 8
    }

    /// The three sense-key-specific bytes, SKSV first. What the key has no place for is not sent.
    fn specific_bytes(&self) -> Option<[u8; 3]> {
        let (first, value) = match (self.specific, kind_of_specific(self.key)) {
            (Specific::Field(at), Kind::Field) => {
                let bit = at.bit.map_or(0, |b| 0x08 | b & 0x07);
                (flag(at.in_cdb, 6) | bit, at.byte)
            }
            (Specific::Progress(v), Kind::Progress) | (Specific::Retries(v), Kind::Retries) => (0, v),
            _ => return None,
        };
        let [high, low] = value.to_be_bytes();
        Some([0x80 | first, high, low])
    }

    /// Sense data of either format, as a device or another target sent it, maybe cut short. `None` if it is
    /// no sense data of a format we know.
    pub fn parse(bytes: &[u8]) -> Option<Sense> {
        let response_code = *bytes.first()? & 0x7F;
        let mut sense = match response_code {
            0x70 | 0x71 if bytes.len() >= 3 => Sense::parse_fixed(bytes),
            0x72 | 0x73 if bytes.len() >= 4 => Sense::parse_descriptors(bytes),
            _ => return None,
        };
        sense.flags |= if response_code & 1 == 1 { DEFERRED } else { 0 };
        Some(sense)
    }

    fn parse_fixed(bytes: &[u8]) -> Sense {
        // What lies beyond ADDITIONAL SENSE LENGTH is not sense data.
        let end = if bytes.len() > 7 { bytes.len().min(8 + usize::from(bytes[7])) } else { bytes.len() };
        let bytes = &bytes[..end];
        let mut sense =
            Sense::new(SenseKey::from_code(bytes[2]), Asc::new(be::u8(bytes, 12), be::u8(bytes, 13)));
        if be::bit(bytes, 0, 7) && bytes.len() >= 7 {
            sense = sense.with_information(be::u32(bytes, 3).into());
        }
        if be::u32(bytes, 8) != 0 {
            sense = sense.with_command_specific(be::u32(bytes, 8).into());
        }
        if be::bit(bytes, 2, 5) {
            sense = sense.with_ili();
        }
        sense.specific = specific_from(sense.key, be::array(bytes, 15));
        sense
    }

    fn parse_descriptors(bytes: &[u8]) -> Sense {
        let mut sense = Sense::new(SenseKey::from_code(bytes[1]), Asc::new(bytes[2], bytes[3]));
        let end = bytes.len().min(8 + usize::from(be::u8(bytes, 7)));
        let mut rest = bytes.get(8..end).unwrap_or(&[]);
        // Each turn takes at least two bytes off at most 255.
        while let [kind, length, tail @ ..] = rest {
            let Some((body, next)) = tail.split_at_checked(usize::from(*length)) else { break };
            match *kind {
                DESCRIPTOR_INFORMATION if body.len() >= 10 && be::bit(body, 0, 7) => {
                    sense = sense.with_information(be::u64(body, 2));
                }
                DESCRIPTOR_COMMAND_SPECIFIC if body.len() >= 10 => {
                    sense = sense.with_command_specific(be::u64(body, 2));
                }
                DESCRIPTOR_SENSE_KEY_SPECIFIC if body.len() >= 5 => {
                    sense.specific = specific_from(sense.key, be::array(body, 2));
                }
                DESCRIPTOR_BLOCK_COMMANDS if be::bit(body, 1, 5) => sense = sense.with_ili(),
                _ => {}
            }
            rest = next;
        }
        sense
    }
}

impl From<FieldError> for Sense {
    /// A field of a CDB: CDB parsers return nothing else.
    fn from(e: FieldError) -> Sense {
        Sense::invalid_field_in_cdb(e)
    }
}

impl From<ListError> for Sense {
    fn from(e: ListError) -> Sense {
        match e {
            ListError::Length => Sense::illegal_request(Asc::PARAMETER_LIST_LENGTH_ERROR),
            ListError::Field(at) => Sense::invalid_field_in_parameter_list(at),
        }
    }
}

enum Kind {
    Field,
    Progress,
    Retries,
    Other,
}

/// SPC-5 §4.4.2.4.1: which sense-key-specific field goes with which key.
fn kind_of_specific(key: SenseKey) -> Kind {
    match key {
        SenseKey::IllegalRequest => Kind::Field,
        SenseKey::NoSense | SenseKey::NotReady => Kind::Progress,
        SenseKey::RecoveredError | SenseKey::HardwareError | SenseKey::MediumError => Kind::Retries,
        _ => Kind::Other,
    }
}

fn specific_from(key: SenseKey, [first, high, low]: [u8; 3]) -> Specific {
    let value = u16::from_be_bytes([high, low]);
    if first & 0x80 == 0 {
        return Specific::None;
    }
    match kind_of_specific(key) {
        Kind::Field => Specific::Field(FieldPointer {
            in_cdb: first & 0x40 != 0,
            byte: value,
            bit: (first & 0x08 != 0).then_some(first & 0x07),
        }),
        Kind::Progress => Specific::Progress(value),
        Kind::Retries => Specific::Retries(value),
        Kind::Other => Specific::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(sense: Sense, format: SenseFormat) -> std::vec::Vec<u8> {
        let mut room = [0xEE; Sense::MAX_BYTES];
        let n = sense.emit_into(format, &mut room);
        room[..n].to_vec()
    }

    #[test]
    fn invalid_field_in_cdb_points_at_byte_and_bit() {
        let s = Sense::from(FieldError::bit(1, 7));
        let fixed = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCF, 0, 1];
        assert_eq!(bytes(s, SenseFormat::Fixed), fixed);
        let descriptor = [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xCF, 0, 1, 0];
        assert_eq!(bytes(s, SenseFormat::Descriptor), descriptor);
    }

    #[test]
    fn a_whole_byte_in_the_parameter_list_has_no_bit_pointer() {
        let s = Sense::from(ListError::Field(FieldError::byte(0x0102)));
        assert_eq!(bytes(s, SenseFormat::Fixed)[12..], [0x26, 0, 0, 0x80, 1, 2]);
    }

    #[test]
    fn information_beyond_32_bits_is_not_valid_in_fixed_format() {
        let s =
            Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR).with_information(0x1_0000_0000);
        assert_eq!(bytes(s, SenseFormat::Fixed)[..8], [0x70, 0, 3, 0, 0, 0, 0, 10]);
        let descriptor = [0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(bytes(s, SenseFormat::Descriptor), descriptor);
        let zero =
            Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(0xFFFF_FFFF);
        assert_eq!(bytes(zero, SenseFormat::Fixed)[..8], [0xF0, 0, 0xE, 0xFF, 0xFF, 0xFF, 0xFF, 10]);
    }

    #[test]
    fn information_zero_is_valid_information() {
        let s = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(0);
        assert_eq!(bytes(s, SenseFormat::Fixed)[0], 0xF0);
        assert_eq!(Sense::parse(&bytes(s, SenseFormat::Fixed)), Some(s));
    }

    #[test]
    fn a_unit_attention_sends_no_field_pointer() {
        let s = Sense::unit_attention(Asc::I_T_NEXUS_LOSS_OCCURRED).with_progress(7);
        assert_eq!(bytes(s, SenseFormat::Descriptor), [0x72, 6, 0x29, 7, 0, 0, 0, 0]);
        assert_eq!(bytes(s, SenseFormat::Fixed).len(), 18);
    }

    #[test]
    fn what_lies_beyond_the_additional_length_is_not_read() {
        let mut b = bytes(Sense::from(FieldError::byte(3)), SenseFormat::Fixed);
        b[7] = 6; // up to ASCQ
        assert_eq!(Sense::parse(&b), Some(Sense::illegal_request(Asc::INVALID_FIELD_IN_CDB)));
        assert_eq!(Sense::parse(&[0x70, 0]), None);
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(Sense::parse(&[0x7F; 18]), None);
    }

    fn any_sense() -> impl Strategy<Value = Sense> {
        let keys = (0u8..16).prop_map(SenseKey::from_code);
        (keys, any::<(u8, u8)>(), any::<(Option<u64>, Option<u64>, bool, bool)>(), any::<(u8, u16, u8)>())
            .prop_map(|(key, (code, qualifier), (info, special, deferred, ili), (kind, value, bit))| {
                let mut s = Sense::new(key, Asc::new(code, qualifier));
                s = info.map_or(s, |v| s.with_information(v));
                s = special.map_or(s, |v| s.with_command_specific(v));
                s = if deferred { s.deferred() } else { s };
                s = if ili { s.with_ili() } else { s };
                match (kind % 2, kind_of_specific(key)) {
                    (0, Kind::Field) => s.with_field(FieldPointer {
                        in_cdb: kind & 4 != 0,
                        byte: value,
                        bit: (kind & 8 != 0).then_some(bit % 8),
                    }),
                    (0, Kind::Progress) => s.with_progress(value),
                    (0, Kind::Retries) => s.with_retries(value),
                    _ => s,
                }
            })
    }

    proptest! {
        #[test]
        fn descriptor_format_loses_nothing(s in any_sense()) {
            prop_assert_eq!(Sense::parse(&bytes(s, SenseFormat::Descriptor)), Some(s));
        }

        #[test]
        fn fixed_format_loses_only_what_32_bits_cannot_hold(s in any_sense()) {
            let back = Sense::parse(&bytes(s, SenseFormat::Fixed)).unwrap();
            prop_assert_eq!(back.information(), s.information().filter(|v| *v <= u32::MAX.into()));
            let special = s.command_specific().filter(|v| *v <= u32::MAX.into() && *v != 0);
            prop_assert_eq!(back.command_specific(), special);
            prop_assert_eq!((back.key, back.asc, back.specific), (s.key, s.asc, s.specific));
            prop_assert_eq!((back.ili(), back.is_deferred()), (s.ili(), s.is_deferred()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..260)) {
            if let Some(s) = Sense::parse(&b) {
                let again = bytes(s, SenseFormat::Descriptor);
                prop_assert_eq!(Sense::parse(&again), Some(s));
            }
        }
    }
}
