//! What an initiator brings to a login.

use std::time::Duration;

use spindle_iscsi_wire::keys::name;
use spindle_iscsi_wire::{Isid, SerialNumber};

use crate::chap::{Algorithm, BinaryForm};

/// SessionType.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionType {
    /// For SCSI commands.
    Normal,
    /// For SendTargets only.
    Discovery,
}

/// Through which stages the login goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginPath {
    /// SecurityNegotiation, then LoginOperationalNegotiation. The only one with CHAP.
    SecurityThenOperational,
    /// Straight into LoginOperationalNegotiation.
    OperationalOnly,
    /// SecurityNegotiation, then full feature phase: every operational key at its default.
    SecurityOnly,
}

/// What to do with an R2T.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum R2tPolicy {
    /// Send the data at once.
    #[default]
    Answer,
    /// Check it, give it out as an event, and leave the rest to the caller.
    Hold,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias, if any.
    pub initiator_alias: Option<String>,
    /// TargetName; discovery sessions may do without.
    pub target_name: Option<String>,
    /// SessionType.
    pub session: SessionType,
    /// ISID.
    pub isid: Isid,
    /// TSIH: 0 for a new session, else the one to join.
    pub tsih: u16,
    /// CID.
    pub cid: u16,
    /// CmdSN of the login and of the first command.
    pub cmd_sn: SerialNumber,
    /// First Initiator Task Tag; they count up from there.
    pub itt: u32,
    /// Stages.
    pub path: LoginPath,
    /// AuthMethod offered in SecurityNegotiation.
    pub auth_methods: String,
    /// Names and secrets, if CHAP may be chosen.
    pub chap: Option<ChapConfig>,
    /// Operational keys, in the order they are sent.
    pub offers: Offers,
    /// Text bytes in one login PDU; smaller ones exercise the C bit.
    pub login_text_max: usize,
    /// Answers to R2Ts.
    pub r2t: R2tPolicy,
    /// Data bytes in one Data-Out PDU, if less than the target takes.
    pub data_out_max: Option<u32>,
    /// Whether pings of the target are answered.
    pub answer_pings: bool,
    /// After so long without an answer a request is reported as silent.
    pub silence_max: Option<Duration>,
}

impl Config {
    /// A session for SCSI commands, without authentication, with [`Offers::default`].
    pub fn normal(initiator_name: &str, target_name: &str) -> Self {
        Self {
            initiator_name: initiator_name.to_owned(),
            initiator_alias: None,
            target_name: Some(target_name.to_owned()),
            session: SessionType::Normal,
            // RFC 7143 §11.12.5: type 10b, random; the tests choose it themselves.
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            tsih: 0,
            cid: 1,
            cmd_sn: SerialNumber(1),
            itt: 1,
            path: LoginPath::SecurityThenOperational,
            auth_methods: "None".to_owned(),
            chap: None,
            offers: Offers::default(),
            login_text_max: 8192,
            r2t: R2tPolicy::Answer,
            data_out_max: None,
            answer_pings: true,
            silence_max: None,
        }
    }

    /// A discovery session.
    pub fn discovery(initiator_name: &str) -> Self {
        let mut config = Self::normal(initiator_name, "");
        config.target_name = None;
        config.session = SessionType::Discovery;
        config.offers = Offers::discovery();
        config
    }

    /// The same with CHAP offered, and nothing else.
    #[must_use]
    pub fn with_chap(mut self, chap: ChapConfig) -> Self {
        self.auth_methods = "CHAP".to_owned();
        self.chap = Some(chap);
        self
    }
}

/// CHAP of the initiator, and of the target if it is to prove itself.
#[derive(Clone, Debug)]
pub struct ChapConfig {
    /// CHAP_N.
    pub name: String,
    /// Secret of the initiator.
    pub secret: Vec<u8>,
    /// CHAP_A in order of preference.
    pub algorithms: Vec<Algorithm>,
    /// Challenge for the target.
    pub mutual: Option<MutualChap>,
    /// How binary values are written.
    pub form: BinaryForm,
}

impl ChapConfig {
    /// One-way CHAP with every algorithm, strongest first.
    pub fn one_way(name: &str, secret: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            secret: secret.to_owned(),
            algorithms: vec![Algorithm::Sha3_256, Algorithm::Sha256, Algorithm::Sha1, Algorithm::Md5],
            mutual: None,
            form: BinaryForm::Hex,
        }
    }
}

/// How the target is asked to prove itself.
#[derive(Clone, Debug)]
pub struct MutualChap {
    /// The name the target must give, if it matters.
    pub name: Option<String>,
    /// Secret of the target.
    pub secret: Vec<u8>,
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C.
    pub challenge: Vec<u8>,
}

/// Operational keys and values to send, in order. Whatever is not offered keeps its default.
#[derive(Clone, Debug)]
pub struct Offers {
    pairs: Vec<(String, String)>,
}

impl Offers {
    /// No key at all.
    pub fn none() -> Self {
        Self { pairs: Vec::new() }
    }

    /// What makes sense in a discovery session.
    pub fn discovery() -> Self {
        let digests = Self::none().with(name::HEADER_DIGEST, "None").with(name::DATA_DIGEST, "None");
        digests.with(name::MAX_RECV_DATA_SEGMENT_LENGTH, "32768")
    }

    /// The same with one more pair, in place of an earlier one of that key.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        match self.pairs.iter_mut().find(|(have, _)| have == key) {
            Some((_, have)) => *have = value.to_owned(),
            None => self.pairs.push((key.to_owned(), value.to_owned())),
        }
        self
    }

    /// The same without a key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.pairs.retain(|(have, _)| have != key);
        self
    }

    /// Keys and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Default for Offers {
    /// Every key of RFC 7143 at a value that lets a good target show what it can, without digests.
    fn default() -> Self {
        Self::none()
            .with(name::HEADER_DIGEST, "None")
            .with(name::DATA_DIGEST, "None")
            .with(name::MAX_CONNECTIONS, "1")
            .with(name::INITIAL_R2T, "No")
            .with(name::IMMEDIATE_DATA, "Yes")
            .with(name::MAX_RECV_DATA_SEGMENT_LENGTH, "262144")
            .with(name::MAX_BURST_LENGTH, "1048576")
            .with(name::FIRST_BURST_LENGTH, "65536")
            .with(name::DEFAULT_TIME2WAIT, "2")
            .with(name::DEFAULT_TIME2RETAIN, "0")
            .with(name::MAX_OUTSTANDING_R2T, "8")
            .with(name::DATA_PDU_IN_ORDER, "Yes")
            .with(name::DATA_SEQUENCE_IN_ORDER, "Yes")
            .with(name::ERROR_RECOVERY_LEVEL, "0")
    }
}
