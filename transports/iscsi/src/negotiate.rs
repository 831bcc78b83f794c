//! Text negotiation: one table of keys, one way to answer (RFC 7143 §6.2 and §13, RFC 7144 §7, RFC 7145 §6).
//!
//! [`TABLE`] says of each key who may send it, when, what its values are and how the result is formed.
//! [`Negotiator::offers`] takes all keys of one complete text at once and answers them in their order; what
//! depends on another key (FirstBurstLength on MaxBurstLength, InitialR2T and ImmediateData) is formed after
//! the whole text was read, so that the order of keys within a text does not matter.

use spindle_iscsi_wire::values::{boolean, number, yes_no};

use crate::config::{DigestPolicy, IscsiLimits};

/// What a login settles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Params {
    /// Discovery session.
    pub discovery: bool,
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data.
    pub data_digest: bool,
    /// MaxConnections.
    pub max_connections: u32,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxRecvDataSegmentLength of the initiator: the most we may send in one PDU.
    pub max_send_data_segment_length: u32,
    /// MaxRecvDataSegmentLength we declared.
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength.
    pub max_burst_length: u32,
    /// FirstBurstLength.
    pub first_burst_length: u32,
    /// DefaultTime2Wait, seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain, seconds.
    pub time2retain: u16,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
    /// iSCSIProtocolLevel.
    pub protocol_level: u8,
}

impl Params {
    /// What holds before anything was said (RFC 7143 §13).
    pub fn defaults(limits: &IscsiLimits) -> Self {
        Params {
            discovery: false,
            header_digest: false,
            data_digest: false,
            max_connections: 1,
            initial_r2t: true,
            immediate_data: true,
            max_send_data_segment_length: 8192,
            max_recv_data_segment_length: limits.max_recv_data_segment_length,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            time2wait: 2,
            time2retain: 20,
            max_outstanding_r2t: 1,
            error_recovery_level: 0,
            protocol_level: 1,
        }
    }

    /// Unsolicited data a command may bring: never more than a burst (RFC 7143 §13.14).
    pub fn unsolicited_max(&self) -> u32 {
        self.first_burst_length.min(self.max_burst_length)
    }
}

/// Where in the life of a connection a text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Login, SecurityNegotiation.
    Security,
    /// Login, LoginOperationalNegotiation.
    Operational,
    /// Text Request after the login.
    FullFeature,
}

/// Why a text ends the negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// A key came twice (RFC 7143 §6.2: not to be negotiated more than once).
    Twice,
    /// A key that this stage does not know (RFC 7143 §12).
    WrongStage,
    /// A declared value that cannot be.
    BadValue,
    /// More keys than anybody needs.
    TooMany,
    /// The target demands what the initiator did not offer.
    PolicyRefused,
}

/// What the initiator said of itself and its wish.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Declared {
    /// InitiatorName, in lower case.
    pub initiator_name: Option<String>,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// TargetName, in lower case.
    pub target_name: Option<String>,
}

/// The answer to a text.
pub type Answers = Vec<(String, String)>;

/// The state of one connection's negotiation.
#[derive(Debug)]
pub struct Negotiator {
    params: Params,
    declared: Declared,
    seen: u64,
    count: u32,
    ours: Ours,
}

/// What we would agree to.
#[derive(Clone, Debug)]
struct Ours {
    header_digest: DigestPolicy,
    data_digest: DigestPolicy,
    max_burst_length: u32,
    first_burst_length: u32,
    max_outstanding_r2t: u16,
    initial_r2t: bool,
    immediate_data: bool,
    time2wait: u16,
    time2retain: u16,
}

/// Which key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// HeaderDigest.
    HeaderDigest,
    /// DataDigest.
    DataDigest,
    /// MaxConnections.
    MaxConnections,
    /// SendTargets.
    SendTargets,
    /// TargetName.
    TargetName,
    /// InitiatorName.
    InitiatorName,
    /// TargetAlias.
    TargetAlias,
    /// InitiatorAlias.
    InitiatorAlias,
    /// TargetAddress.
    TargetAddress,
    /// TargetPortalGroupTag.
    TargetPortalGroupTag,
    /// InitialR2T.
    InitialR2T,
    /// ImmediateData.
    ImmediateData,
    /// MaxRecvDataSegmentLength.
    MaxRecvDataSegmentLength,
    /// MaxBurstLength.
    MaxBurstLength,
    /// FirstBurstLength.
    FirstBurstLength,
    /// DefaultTime2Wait.
    DefaultTime2Wait,
    /// DefaultTime2Retain.
    DefaultTime2Retain,
    /// MaxOutstandingR2T.
    MaxOutstandingR2T,
    /// DataPDUInOrder.
    DataPduInOrder,
    /// DataSequenceInOrder.
    DataSequenceInOrder,
    /// ErrorRecoveryLevel.
    ErrorRecoveryLevel,
    /// SessionType.
    SessionType,
    /// iSCSIProtocolLevel (RFC 7144 §7.1.1).
    ProtocolLevel,
    /// TaskReporting.
    TaskReporting,
    /// NodeArchitecture.
    NodeArchitecture,
    /// AuthMethod.
    AuthMethod,
    /// IFMarker, OFMarker (obsolete, RFC 7143 §13.25).
    Marker,
    /// IFMarkInt, OFMarkInt (obsolete).
    MarkInt,
    /// RDMAExtensions (RFC 7145 §6.3).
    RdmaExtensions,
    /// The other keys of RFC 7145, which mean something with RDMAExtensions=Yes only.
    RdmaOnly,
}

/// When a key may stand in a text (RFC 7143 §13: use).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Any login stage (names, aliases, session type).
    Login,
    /// Login, security stage only.
    Security,
    /// Login, operational stage only.
    Operational,
    /// Operational stage, and after the login.
    Any,
    /// Any login stage, and after the login.
    Always,
    /// After the login only.
    FullFeature,
}

/// How the result is formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The first value of a list that both know.
    List,
    /// Yes if either says so.
    Or,
    /// Yes if both say so.
    And,
    /// The lower of two numbers within a range.
    Least(u64, u64),
    /// The greater of two numbers within a range.
    Most(u64, u64),
    /// A declared number within a range; no answer.
    Number(u64, u64),
    /// Declared text; no answer.
    Text,
    /// Only targets say this.
    TargetSays,
    /// Always answered with this value.
    Fixed(&'static str),
    /// Handled elsewhere (SendTargets, AuthMethod).
    Elsewhere,
}

/// One key of the table.
#[derive(Clone, Copy, Debug)]
pub struct KeyRow {
    /// Which key.
    pub key: Key,
    /// As it is spelled.
    pub name: &'static str,
    /// When it may stand in a text.
    pub when: Use,
    /// How the result is formed.
    pub form: Form,
    /// Without meaning in a discovery session.
    pub normal_only: bool,
}

const fn row(key: Key, name: &'static str, when: Use, form: Form, normal_only: bool) -> KeyRow {
    KeyRow { key, name, when, form, normal_only }
}

const SEGMENT_MAX: u64 = (1 << 24) - 1;
const KEYS_MAX: u32 = 256;

/// The keys of RFC 7143 §13, RFC 7144 and RFC 7145.
pub const TABLE: &[KeyRow] = &[
    row(Key::HeaderDigest, "HeaderDigest", Use::Operational, Form::List, false),
    row(Key::DataDigest, "DataDigest", Use::Operational, Form::List, false),
    row(Key::MaxConnections, "MaxConnections", Use::Operational, Form::Least(1, 65_535), true),
    row(Key::SendTargets, "SendTargets", Use::FullFeature, Form::Elsewhere, false),
    row(Key::TargetName, "TargetName", Use::Login, Form::Text, false),
    row(Key::InitiatorName, "InitiatorName", Use::Login, Form::Text, false),
    row(Key::TargetAlias, "TargetAlias", Use::Always, Form::TargetSays, false),
    row(Key::InitiatorAlias, "InitiatorAlias", Use::Always, Form::Text, false),
    row(Key::TargetAddress, "TargetAddress", Use::Always, Form::TargetSays, false),
    row(Key::TargetPortalGroupTag, "TargetPortalGroupTag", Use::Login, Form::TargetSays, false),
    row(Key::InitialR2T, "InitialR2T", Use::Operational, Form::Or, true),
    row(Key::ImmediateData, "ImmediateData", Use::Operational, Form::And, true),
    row(
        Key::MaxRecvDataSegmentLength,
        "MaxRecvDataSegmentLength",
        Use::Any,
        Form::Number(512, SEGMENT_MAX),
        false,
    ),
    row(Key::MaxBurstLength, "MaxBurstLength", Use::Operational, Form::Least(512, SEGMENT_MAX), true),
    row(Key::FirstBurstLength, "FirstBurstLength", Use::Operational, Form::Least(512, SEGMENT_MAX), true),
    row(Key::DefaultTime2Wait, "DefaultTime2Wait", Use::Operational, Form::Most(0, 3600), false),
    row(Key::DefaultTime2Retain, "DefaultTime2Retain", Use::Operational, Form::Least(0, 3600), false),
    row(Key::MaxOutstandingR2T, "MaxOutstandingR2T", Use::Operational, Form::Least(1, 65_535), true),
    row(Key::DataPduInOrder, "DataPDUInOrder", Use::Operational, Form::Or, true),
    row(Key::DataSequenceInOrder, "DataSequenceInOrder", Use::Operational, Form::Or, true),
    row(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Use::Operational, Form::Least(0, 2), false),
    row(Key::SessionType, "SessionType", Use::Login, Form::Text, false),
    row(Key::ProtocolLevel, "iSCSIProtocolLevel", Use::Operational, Form::Least(0, 31), true),
    row(Key::TaskReporting, "TaskReporting", Use::Operational, Form::List, true),
    row(Key::NodeArchitecture, "X#NodeArchitecture", Use::Operational, Form::Text, false),
    row(Key::AuthMethod, "AuthMethod", Use::Security, Form::Elsewhere, false),
    // RFC 7143 §13.25: answered with No or Reject, never with NotUnderstood.
    row(Key::Marker, "IFMarker", Use::Operational, Form::Fixed("No"), false),
    row(Key::Marker, "OFMarker", Use::Operational, Form::Fixed("No"), false),
    row(Key::MarkInt, "IFMarkInt", Use::Operational, Form::Fixed("Reject"), false),
    row(Key::MarkInt, "OFMarkInt", Use::Operational, Form::Fixed("Reject"), false),
    row(Key::RdmaExtensions, "RDMAExtensions", Use::Operational, Form::Fixed("No"), false),
    row(Key::RdmaOnly, "TargetRecvDataSegmentLength", Use::Operational, Form::Fixed("Irrelevant"), false),
    row(Key::RdmaOnly, "InitiatorRecvDataSegmentLength", Use::Operational, Form::Fixed("Irrelevant"), false),
    row(Key::RdmaOnly, "MaxAHSLength", Use::Operational, Form::Fixed("Irrelevant"), false),
    row(
        Key::RdmaOnly,
        "TaggedBufferForSolicitedDataOnly",
        Use::Operational,
        Form::Fixed("Irrelevant"),
        false,
    ),
    row(Key::RdmaOnly, "iSERHelloRequired", Use::Operational, Form::Fixed("Irrelevant"), false),
    row(Key::RdmaOnly, "MaxOutstandingUnexpectedPDUs", Use::Operational, Form::Fixed("Irrelevant"), false),
];

const _: () = assert!(TABLE.len() <= 64, "one bit of `seen` for each key");

impl Negotiator {
    /// At the first Login Request.
    pub fn new(limits: &IscsiLimits) -> Self {
        Negotiator {
            params: Params::defaults(limits),
            declared: Declared::default(),
            seen: 0,
            count: 0,
            ours: Ours {
                header_digest: DigestPolicy::AsOffered,
                data_digest: DigestPolicy::AsOffered,
                max_burst_length: limits.max_burst_length,
                first_burst_length: limits.first_burst_length.min(limits.max_burst_length),
                max_outstanding_r2t: limits.max_outstanding_r2t.clamp(1, 32),
                initial_r2t: limits.initial_r2t,
                immediate_data: limits.immediate_data,
                time2wait: limits.time2wait,
                time2retain: limits.time2retain,
            },
        }
    }

    /// For texts after the login: what was settled holds, and each text may declare anew.
    pub fn after_login(limits: &IscsiLimits, params: &Params) -> Self {
        Negotiator { params: params.clone(), ..Negotiator::new(limits) }
    }

    /// What the target wants of digests, once it is known which target.
    pub fn digest_policy(&mut self, header: DigestPolicy, data: DigestPolicy) {
        self.ours.header_digest = header;
        self.ours.data_digest = data;
    }

    /// What holds now.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What the initiator declared.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// Takes the keys of a complete text, in the order they came, and answers them in that order. Keys that
    /// are handled elsewhere (SendTargets, AuthMethod, CHAP_*) are not to be shown here.
    pub fn offers<'a>(
        &mut self,
        stage: Stage,
        pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Answers, KeyError> {
        // What decides whether other keys mean anything comes first.
        for (name, value) in pairs.clone() {
            if name == "SessionType" {
                self.params.discovery = match value {
                    "Discovery" => true,
                    "Normal" => false,
                    _ => return Err(KeyError::BadValue),
                };
            }
        }
        let mut answers = Answers::new();
        let mut first_burst = None;
        for (name, value) in pairs {
            self.count += 1;
            if self.count > KEYS_MAX {
                return Err(KeyError::TooMany);
            }
            let Some(at) = TABLE.iter().position(|r| r.name == name) else {
                // RFC 7143 §6.2: keys not understood, X- keys among them, are answered as such.
                answers.push((name.into(), "NotUnderstood".into()));
                continue;
            };
            let row = &TABLE[at];
            self.check_stage(row, stage)?;
            let bit = 1u64 << at;
            if self.seen & bit != 0 && row.key != Key::InitiatorAlias {
                return Err(KeyError::Twice);
            }
            self.seen |= bit;
            // An answer to something we declared is no offer.
            if matches!(value, "NotUnderstood") {
                continue;
            }
            if row.normal_only && self.params.discovery {
                answers.push((name.into(), "Irrelevant".into()));
                continue;
            }
            if row.key == Key::FirstBurstLength {
                first_burst = Some((answers.len(), value));
                answers.push((name.into(), String::new()));
                continue;
            }
            if let Some(answer) = self.answer(row, value)? {
                answers.push((name.into(), answer));
            }
        }
        if let Some((at, value)) = first_burst {
            answers[at].1 = self.first_burst(value);
        }
        Ok(answers)
    }

    /// Called when the login is about to end: demands of ours that were not met.
    pub fn settled(&self) -> Result<(), KeyError> {
        let unmet = |policy, on: bool| policy == DigestPolicy::Require && !on;
        if !self.params.discovery
            && (unmet(self.ours.header_digest, self.params.header_digest)
                || unmet(self.ours.data_digest, self.params.data_digest))
        {
            return Err(KeyError::PolicyRefused);
        }
        Ok(())
    }

    fn check_stage(&self, row: &KeyRow, stage: Stage) -> Result<(), KeyError> {
        let fits = match row.when {
            Use::Login => stage != Stage::FullFeature,
            Use::Security => stage == Stage::Security,
            Use::Operational => stage == Stage::Operational,
            Use::Any => stage != Stage::Security,
            Use::Always => true,
            Use::FullFeature => stage == Stage::FullFeature,
        };
        if fits { Ok(()) } else { Err(KeyError::WrongStage) }
    }

    fn answer(&mut self, row: &KeyRow, value: &str) -> Result<Option<String>, KeyError> {
        let reject = || Ok(Some("Reject".into()));
        Ok(Some(match row.form {
            Form::Fixed(answer) => answer.into(),
            Form::Elsewhere | Form::TargetSays => "Reject".into(),
            Form::Text => {
                self.declare(row.key, value)?;
                return Ok(None);
            }
            Form::Number(low, high) => {
                let n = number(value).ok().filter(|n| (low..=high).contains(n)).ok_or(KeyError::BadValue)?;
                // The one declared number of the table; its range fits.
                self.params.max_send_data_segment_length = u32::try_from(n).unwrap_or(u32::MAX);
                return Ok(None);
            }
            Form::Or | Form::And => {
                let Ok(offered) = boolean(value) else { return reject() };
                let ours = self.our_flag(row.key);
                let result = if row.form == Form::Or { offered || ours } else { offered && ours };
                match row.key {
                    Key::InitialR2T => self.params.initial_r2t = result,
                    Key::ImmediateData => self.params.immediate_data = result,
                    _ => {}
                }
                yes_no(result).into()
            }
            Form::Least(low, high) | Form::Most(low, high) => {
                // RFC 7143 §6.2.2: a value outside the range is answered with Reject.
                let Some(n) = number(value).ok().filter(|n| (low..=high).contains(n)) else {
                    return reject();
                };
                let ours = self.our_number(row.key);
                let n = if matches!(row.form, Form::Least(..)) { n.min(ours) } else { n.max(ours) };
                self.settle_number(row.key, n);
                n.to_string()
            }
            Form::List => match self.pick(row.key, value) {
                Some(pick) => pick.into(),
                None => return reject(),
            },
        }))
    }

    fn declare(&mut self, key: Key, value: &str) -> Result<(), KeyError> {
        match key {
            Key::InitiatorName => self.declared.initiator_name = Some(iscsi_name(value)?),
            Key::TargetName => self.declared.target_name = Some(iscsi_name(value)?),
            Key::InitiatorAlias => {
                if value.len() > 255 {
                    return Err(KeyError::BadValue);
                }
                self.declared.initiator_alias = Some(value.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn our_flag(&self, key: Key) -> bool {
        match key {
            Key::InitialR2T => self.ours.initial_r2t,
            Key::ImmediateData => self.ours.immediate_data,
            // DataPDUInOrder, DataSequenceInOrder: we keep order and ask for it.
            _ => true,
        }
    }

    fn our_number(&self, key: Key) -> u64 {
        match key {
            Key::MaxBurstLength => self.ours.max_burst_length.into(),
            Key::DefaultTime2Wait => self.ours.time2wait.into(),
            Key::DefaultTime2Retain => self.ours.time2retain.into(),
            Key::MaxOutstandingR2T => self.ours.max_outstanding_r2t.into(),
            Key::MaxConnections => 1,
            Key::ErrorRecoveryLevel => 0,
            // RFC 7144: 2 brings the task management functions 9 to 12.
            Key::ProtocolLevel => 2,
            _ => 0,
        }
    }

    fn settle_number(&mut self, key: Key, n: u64) {
        let p = &mut self.params;
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let short = u16::try_from(n).unwrap_or(u16::MAX);
        match key {
            Key::MaxBurstLength => p.max_burst_length = n,
            Key::DefaultTime2Wait => p.time2wait = short,
            Key::DefaultTime2Retain => p.time2retain = short,
            Key::MaxOutstandingR2T => p.max_outstanding_r2t = short,
            Key::MaxConnections => p.max_connections = n,
            Key::ErrorRecoveryLevel => p.error_recovery_level = n as u8,
            Key::ProtocolLevel => p.protocol_level = n as u8,
            _ => {}
        }
    }

    fn first_burst(&mut self, value: &str) -> String {
        if self.params.initial_r2t && !self.params.immediate_data {
            return "Irrelevant".into();
        }
        match number(value).ok().filter(|n| (512..=SEGMENT_MAX).contains(n)) {
            Some(n) => {
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                let n = n.min(self.ours.first_burst_length).min(self.params.max_burst_length);
                self.params.first_burst_length = n;
                n.to_string()
            }
            None => "Reject".into(),
        }
    }

    fn pick(&mut self, key: Key, value: &str) -> Option<&'static str> {
        let mut offered = value.split(',');
        if key == Key::TaskReporting {
            // Statuses queued before a task management response reach the initiator before it, and the
            // response waits for Data-Out as RFC 3720 had it: both names fit.
            return offered.find_map(|v| ["RFC3720", "ResponseFence"].into_iter().find(|k| *k == v));
        }
        let policy = if key == Key::HeaderDigest { self.ours.header_digest } else { self.ours.data_digest };
        let all = || value.split(',');
        let pick = match policy {
            DigestPolicy::AsOffered => offered.find_map(|v| ["CRC32C", "None"].into_iter().find(|k| *k == v)),
            DigestPolicy::Prefer if all().any(|v| v == "CRC32C") => Some("CRC32C"),
            DigestPolicy::Prefer | DigestPolicy::Never => all().any(|v| v == "None").then_some("None"),
            DigestPolicy::Require => all().any(|v| v == "CRC32C").then_some("CRC32C"),
        };
        let on = pick == Some("CRC32C");
        match key {
            Key::HeaderDigest => self.params.header_digest = on,
            _ => self.params.data_digest = on,
        }
        pick
    }
}

/// RFC 7143 §4.2.7: at most 223 bytes; nothing that could be mistaken for a separator when it is printed.
fn iscsi_name(value: &str) -> Result<String, KeyError> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '=' | '"' | '\'' | '/');
    if value.is_empty() || value.len() > 223 || !value.chars().all(plain) {
        return Err(KeyError::BadValue);
    }
    Ok(value.to_lowercase())
}

#[cfg(test)]
mod tests;
