//! Login Request and Login Response (RFC 7143 §11.12, §11.13).

use crate::bhs::{self, Bhs, CONTINUE, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode};
use crate::code::to_bhs;
use crate::error::{Fault, WireError};
use crate::scsi::flag;
use crate::serial::SerialNumber;

/// The only version of the protocol there is.
pub const VERSION: u8 = 0;

/// Stages of a connection (CSG, NSG).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Stage {
    /// SecurityNegotiation.
    SecurityNegotiation = 0,
    /// LoginOperationalNegotiation.
    LoginOperationalNegotiation = 1,
    /// FullFeaturePhase. Only ever the *next* stage of a login PDU.
    FullFeaturePhase = 3,
}

/// Initiator session identifier: with the initiator's name, the name of an initiator port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Isid(pub [u8; 6]);

/// Stage, next stage and continuation of a login PDU; together because they limit each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginFlags {
    /// CSG: where the connection is.
    pub stage: Stage,
    /// T and NSG: where it wants to go (request) or goes (response).
    pub transit: Option<Stage>,
    /// C: the text goes on in the next PDU.
    pub more: bool,
}

impl LoginFlags {
    #[inline]
    fn parse(b: &Bhs) -> Result<Self, WireError> {
        let stage = match (b[1] >> 2) & 3 {
            0 => Stage::SecurityNegotiation,
            1 => Stage::LoginOperationalNegotiation,
            _ => return Err(WireError::new(Fault::ReservedValue, "CSG", 1)),
        };
        let transit = match (b[1] & FINAL != 0, b[1] & 3) {
            (false, _) => None,
            (true, 1) => Some(Stage::LoginOperationalNegotiation),
            (true, 3) => Some(Stage::FullFeaturePhase),
            (true, _) => return Err(WireError::new(Fault::ReservedValue, "NSG", 1)),
        };
        // RFC 7143 §11.12.3: a transit leads forward.
        if transit.is_some_and(|next| next <= stage) {
            return Err(WireError::new(Fault::Contradiction, "CSG and NSG", 1));
        }
        let more = b[1] & CONTINUE != 0;
        // §11.12.2: unfinished text cannot end a stage.
        if more && transit.is_some() {
            return Err(WireError::new(Fault::Contradiction, "T and C", 1));
        }
        Ok(Self { stage, transit, more })
    }

    #[inline]
    fn byte(self) -> u8 {
        let transit = self.transit.map_or(0, |next| FINAL | next as u8);
        transit | flag(self.more, CONTINUE) | (self.stage as u8) << 2
    }
}

/// A Login Request PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// CSG, T and NSG, C.
    pub flags: LoginFlags,
    /// Version-max.
    pub version_max: u8,
    /// Version-min.
    pub version_min: u8,
    /// Bytes of text.
    pub data_len: u32,
    /// ISID.
    pub isid: Isid,
    /// TSIH: 0 for a new session.
    pub tsih: u16,
    /// Initiator Task Tag, the same all through one login.
    pub itt: Itt,
    /// Connection identifier.
    pub cid: u16,
    /// CmdSN, the same all through one login.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN; in the first request of a connection only when it is reinstated.
    pub exp_stat_sn: SerialNumber,
}

impl LoginRequest {
    /// Reads a header whose opcode is Login Request. An error here is answered with
    /// [`LoginStatus::INITIATOR_ERROR`], since a login knows no Reject.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        Ok(Self {
            flags: LoginFlags::parse(b)?,
            version_max: b[2],
            version_min: b[3],
            data_len: bhs::data_bytes(b),
            isid: isid(b),
            tsih: bhs::be16(b, 14),
            itt: bhs::itt(b),
            cid: bhs::be16(b, 20),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
        })
    }

    /// Writes all 48 bytes. The I bit is set: a login is always immediate (RFC 7143 §11.12).
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        let opcode = InitiatorOpcode::LoginRequest as u8 | IMMEDIATE;
        let versions = [self.version_max, self.version_min];
        bhs::put_start(out, opcode, self.flags.byte(), versions, 0, self.data_len);
        out[8..14].copy_from_slice(&self.isid.0);
        bhs::put16(out, 14, self.tsih);
        bhs::put32(out, 16, self.itt.0);
        bhs::put16(out, 20, self.cid);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
    }
}
to_bhs!(LoginRequest);

/// A Login Response PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginResponse {
    /// CSG, T and NSG, C.
    pub flags: LoginFlags,
    /// Version-max.
    pub version_max: u8,
    /// Version-active.
    pub version_active: u8,
    /// Bytes of text.
    pub data_len: u32,
    /// ISID of the request.
    pub isid: Isid,
    /// TSIH: not 0 in the response that ends a login.
    pub tsih: u16,
    /// Initiator Task Tag of the request.
    pub itt: Itt,
    /// StatSN.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Status-Class and Status-Detail.
    pub status: LoginStatus,
}

impl LoginResponse {
    /// Reads a header whose opcode is Login Response.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        Ok(Self {
            flags: LoginFlags::parse(b)?,
            version_max: b[2],
            version_active: b[3],
            data_len: bhs::data_bytes(b),
            isid: isid(b),
            tsih: bhs::be16(b, 14),
            itt: bhs::itt(b),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            status: LoginStatus { class: b[36], detail: b[37] },
        })
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        let versions = [self.version_max, self.version_active];
        let opcode = TargetOpcode::LoginResponse as u8;
        bhs::put_start(out, opcode, self.flags.byte(), versions, 0, self.data_len);
        out[8..14].copy_from_slice(&self.isid.0);
        bhs::put16(out, 14, self.tsih);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        out[36..38].copy_from_slice(&[self.status.class, self.status.detail]);
    }
}
to_bhs!(LoginResponse);

/// Status-Class and Status-Detail (RFC 7143 §11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub class: u8,
    /// Which one.
    pub detail: u8,
}

impl LoginStatus {
    /// The login goes on, or is done.
    pub const SUCCESS: Self = Self::new(0, 0);
    /// Target moved temporarily; TargetAddress says where.
    pub const TARGET_MOVED_TEMPORARILY: Self = Self::new(1, 1);
    /// Target moved permanently; TargetAddress says where.
    pub const TARGET_MOVED_PERMANENTLY: Self = Self::new(1, 2);
    /// Any other error of the initiator.
    pub const INITIATOR_ERROR: Self = Self::new(2, 0);
    /// Authentication failure.
    pub const AUTHENTICATION_FAILURE: Self = Self::new(2, 1);
    /// Authorization failure: known, but not allowed here.
    pub const AUTHORIZATION_FAILURE: Self = Self::new(2, 2);
    /// No such target at this address.
    pub const NOT_FOUND: Self = Self::new(2, 3);
    /// The target has been removed, without a new address.
    pub const TARGET_REMOVED: Self = Self::new(2, 4);
    /// Unsupported version.
    pub const UNSUPPORTED_VERSION: Self = Self::new(2, 5);
    /// Too many connections on this SSID.
    pub const TOO_MANY_CONNECTIONS: Self = Self::new(2, 6);
    /// A key that must be there is missing.
    pub const MISSING_PARAMETER: Self = Self::new(2, 7);
    /// The target does not support a session spanning to this connection.
    pub const CANNOT_INCLUDE_IN_SESSION: Self = Self::new(2, 8);
    /// Session type not supported.
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self::new(2, 9);
    /// The session to be joined does not exist.
    pub const SESSION_DOES_NOT_EXIST: Self = Self::new(2, 10);
    /// A request that has no place in a login.
    pub const INVALID_DURING_LOGIN: Self = Self::new(2, 11);
    /// Hardware or software error of the target.
    pub const TARGET_ERROR: Self = Self::new(3, 0);
    /// The service is not available at present.
    pub const SERVICE_UNAVAILABLE: Self = Self::new(3, 1);
    /// Out of resources.
    pub const OUT_OF_RESOURCES: Self = Self::new(3, 2);

    /// A status of two bytes.
    pub const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }

    /// Whether the login may go on.
    pub const fn is_success(self) -> bool {
        self.class == 0
    }
}

fn isid(b: &Bhs) -> Isid {
    Isid([b[8], b[9], b[10], b[11], b[12], b[13]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const REQUEST: Bhs = [
        0x43, 0x87, 0, 0,  0, 0, 1, 0x20,
        0x80, 0x12, 0x34, 0x56, 0, 1,  0, 0,
        0, 0, 0, 1,  0, 2, 0, 0,
        0, 0, 0, 1,  0, 0, 0, 0,
        0, 0, 0, 0,  0, 0, 0, 0,
        0, 0, 0, 0,  0, 0, 0, 0,
    ];

    #[test]
    fn a_request_is_read_and_written_byte_by_byte() {
        let pdu = LoginRequest::parse(&REQUEST).unwrap();
        assert_eq!(pdu.flags.stage, Stage::LoginOperationalNegotiation);
        assert_eq!(pdu.flags.transit, Some(Stage::FullFeaturePhase));
        assert!(!pdu.flags.more);
        assert_eq!((pdu.isid, pdu.tsih, pdu.cid), (Isid([0x80, 0x12, 0x34, 0x56, 0, 1]), 0, 2));
        assert_eq!(pdu.data_len, 0x120);
        assert_eq!(pdu.to_bhs(), REQUEST);
    }

    #[test]
    fn a_response_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x23, 0x40, 0, 0,  0, 0, 0, 8,
            0x80, 0x12, 0x34, 0x56, 0, 1,  0, 3,
            0, 0, 0, 1,  0, 0, 0, 0,
            0, 0, 0, 7,  0, 0, 0, 1,
            0, 0, 0, 8,  2, 1, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = LoginResponse::parse(&golden).unwrap();
        assert_eq!(pdu.flags, LoginFlags { stage: Stage::SecurityNegotiation, transit: None, more: true });
        assert_eq!(pdu.status, LoginStatus::AUTHENTICATION_FAILURE);
        assert!(!pdu.status.is_success());
        assert_eq!((pdu.tsih, pdu.stat_sn.0), (3, 7));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn stages_that_lead_nowhere_are_refused() {
        let with = |flags: u8| {
            let mut bhs = REQUEST;
            bhs[1] = flags;
            LoginRequest::parse(&bhs).map(|pdu| pdu.flags)
        };
        assert_eq!(with(0x08).unwrap_err().field, "CSG");
        assert_eq!(with(0x0C).unwrap_err().field, "CSG");
        assert_eq!(with(0x82).unwrap_err().field, "NSG");
        assert_eq!(with(0x80).unwrap_err().field, "NSG");
        assert_eq!(with(0x85).unwrap_err().field, "CSG and NSG");
        assert_eq!(with(0xC7).unwrap_err().field, "T and C");
        assert_eq!(with(0x03).unwrap().transit, None, "NSG means nothing without T");
        assert_eq!(with(0x83).unwrap().transit, Some(Stage::FullFeaturePhase));
    }
}
