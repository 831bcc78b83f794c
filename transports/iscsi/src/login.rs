//! The login phase of one connection as a state machine (RFC 7143 §6.3, §11.12, §11.13).
//!
//! [`Login::request`] takes one Login Request with its text and says what to do: send a response, refuse and
//! close, or finish. It knows no socket and no session; what only others can decide (is there a session of
//! the same name? is there room for one more?) is asked when it says [`LoginStep::Finish`].
//!
//! ```text
//!   SecurityNegotiation ──────► LoginOperationalNegotiation ──────► FullFeaturePhase
//!     AuthMethod, CHAP_*          all other keys                      Finish
//!        └───────────────────────────────────────────────────────────────▲
//! ```

use std::net::SocketAddr;

use spindle_iscsi_wire::keys::{TextBuf, TextList, name};
use spindle_iscsi_wire::login::{LoginFlags, VERSION};
use spindle_iscsi_wire::{Isid, Itt, LoginRequest, LoginStatus, SerialNumber, Stage};

use crate::chap::{Chap, Proof};
use crate::config::{AuthPolicy, ChapRule, IscsiConfig, TargetNode};
use crate::negotiate::{self, Answers, KeyError, Negotiator, Params};

/// Text in one login PDU, either way: no MaxRecvDataSegmentLength is in force yet.
pub const LOGIN_TEXT_MAX: u32 = 8192;
/// Login Requests of one login; more are no login but an occupation.
const REQUESTS_MAX: u32 = 64;

/// One connection's login.
#[derive(Debug)]
pub struct Login {
    portal_group: u16,
    peer: SocketAddr,
    local: SocketAddr,
    /// What the first request said and the others must repeat.
    fixed: Option<Fixed>,
    requests: u32,
    stage: Stage,
    negotiator: Negotiator,
    /// Text of requests with the C bit, so far.
    text_in: Vec<u8>,
    /// Text of ours that did not fit, and the step that follows when it is out.
    text_out: Vec<u8>,
    transit_later: Option<Stage>,
    /// Names were looked at.
    identified: bool,
    target: Option<Destination>,
    auth: AuthPolicy,
    proof: Auth,
    declared_segment: bool,
    declared_tag: bool,
    declared_alias: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fixed {
    itt: Itt,
    isid: Isid,
    tsih: u16,
    cid: u16,
    cmd_sn: SerialNumber,
}

/// Where a normal session leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The target's number.
    pub target: u32,
    /// Its name.
    pub name: String,
    /// Its LUNs, for this initiator.
    pub lun_map: u32,
    /// Most commands a session may have in flight.
    pub queue_depth: u32,
    alias: Option<String>,
}

/// How far authentication has come.
#[derive(Debug)]
enum Auth {
    /// Nothing was said.
    Open,
    /// AuthMethod=CHAP was agreed; CHAP_A is awaited.
    Chosen,
    /// Our challenge is out.
    Asked(Chap),
    /// Done (`true`: by CHAP).
    Done(bool),
}

/// What to do about a Login Request.
#[derive(Debug)]
pub enum LoginStep {
    /// Answer and go on.
    Reply {
        /// Stage, transit, continuation.
        flags: LoginFlags,
        /// The text of this PDU.
        text: Vec<u8>,
    },
    /// Answer with a status that ends the connection.
    Refuse(LoginStatus),
    /// All is agreed: ask whoever must be asked, then answer with these and enter full feature phase.
    Finish {
        /// Stage, transit.
        flags: LoginFlags,
        /// The text of this PDU.
        text: Vec<u8>,
        /// What was agreed.
        done: Box<LoginDone>,
    },
}

/// What a login agreed on.
#[derive(Clone, Debug)]
pub struct LoginDone {
    /// InitiatorName, lower case.
    pub initiator_name: String,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// ISID.
    pub isid: Isid,
    /// TSIH of the request; not 0: a session to join.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
    /// Initiator Task Tag of the login.
    pub itt: Itt,
    /// CmdSN of the login, which is that of the first command.
    pub cmd_sn: SerialNumber,
    /// Negotiated values.
    pub params: Params,
    /// `None`: a discovery session.
    pub target: Option<Destination>,
    /// Target portal group tag.
    pub portal_group: u16,
    /// Whether CHAP was done.
    pub authenticated: bool,
}

impl Login {
    /// At the first byte of a connection.
    pub fn new(config: &IscsiConfig, portal_group: u16, peer: SocketAddr, local: SocketAddr) -> Self {
        Login {
            portal_group,
            peer,
            local,
            fixed: None,
            requests: 0,
            stage: Stage::SecurityNegotiation,
            negotiator: Negotiator::new(&config.limits),
            text_in: Vec::new(),
            text_out: Vec::new(),
            transit_later: None,
            identified: false,
            target: None,
            auth: AuthPolicy::default(),
            proof: Auth::Open,
            declared_segment: false,
            declared_tag: false,
            declared_alias: false,
        }
    }

    /// The address the initiator used.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The initiator's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Takes one request with the whole of its text.
    pub fn request(&mut self, config: &IscsiConfig, request: &LoginRequest, text: &[u8]) -> LoginStep {
        match self.step(config, request, text) {
            Ok(step) => step,
            Err(status) => LoginStep::Refuse(status),
        }
    }

    fn step(&mut self, c: &IscsiConfig, r: &LoginRequest, text: &[u8]) -> Result<LoginStep, LoginStatus> {
        // RFC 7143 §11.12.4: only version 0 exists.
        if r.version_min > VERSION {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        self.requests += 1;
        let now = Fixed { itt: r.itt, isid: r.isid, tsih: r.tsih, cid: r.cid, cmd_sn: r.cmd_sn };
        let first = self.fixed.is_none();
        if first {
            self.stage = r.flags.stage;
            self.fixed = Some(now);
        }
        // §11.12.6 to §11.12.9: these stay the same all through one login; §6.3.1: no stage is left without a
        // transit.
        if self.fixed != Some(now) || r.flags.stage != self.stage || self.requests > REQUESTS_MAX {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        if r.data_len > LOGIN_TEXT_MAX {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        if !self.text_out.is_empty() {
            // §6.2: a text that goes on is asked for with an empty request.
            if !text.is_empty() || r.flags.more {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
            return self.send(c, Vec::new(), self.transit_later.or(r.flags.transit));
        }
        if self.text_in.len() + text.len() > c.limits.text_bytes_max as usize {
            return Err(LoginStatus::OUT_OF_RESOURCES);
        }
        self.text_in.extend_from_slice(text);
        if r.flags.more {
            let flags = LoginFlags { stage: self.stage, transit: None, more: false };
            return Ok(LoginStep::Reply { flags, text: Vec::new() });
        }
        let whole = std::mem::take(&mut self.text_in);
        let list = TextList::parse(&whole).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        let answers = self.answer(c, &list)?;
        let transit = r.flags.transit.filter(|_| self.may_leave());
        let mut out = TextBuf::new();
        for (key, value) in &answers {
            out.pair(key, value);
        }
        self.declare(c, &mut out);
        self.send(c, out.into_bytes(), transit)
    }

    /// Answers the keys of a complete text.
    fn answer(&mut self, c: &IscsiConfig, list: &TextList<'_>) -> Result<Answers, LoginStatus> {
        let stage = match self.stage {
            Stage::SecurityNegotiation => negotiate::Stage::Security,
            _ => negotiate::Stage::Operational,
        };
        let of_auth = |key: &str| key == name::AUTH_METHOD || key.starts_with("CHAP_");
        // What names the session stands before what depends on it.
        let names = |key: &str| {
            matches!(
                key,
                name::INITIATOR_NAME | name::TARGET_NAME | name::SESSION_TYPE | name::INITIATOR_ALIAS
            )
        };
        let pairs = || list.pairs().iter().map(|p| (p.key, p.value));
        let before = self.identified.then(|| self.who());
        let first = self.negotiator.offers(stage, pairs().filter(|(k, _)| names(k)));
        let mut answers = first.map_err(refusal)?;
        if !self.identified {
            self.identify(c)?;
        } else if before != Some(self.who()) {
            // RFC 7143 §13.4, §13.5, §13.21: said in the first request. Who is asked for a secret, and for what, hangs on
            // them: initiators may repeat what they said, and cannot take it back.
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let rest = self.negotiator.offers(stage, pairs().filter(|(k, _)| !names(k) && !of_auth(k)));
        answers.extend(rest.map_err(refusal)?);
        if pairs().any(|(k, _)| of_auth(k)) {
            if stage != negotiate::Stage::Security {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
            answers.extend(self.authenticate(c, list)?);
        }
        // §6.3.2: a login that begins with, or moves on to, the operational stage has said that it needs no
        // authentication.
        if stage == negotiate::Stage::Operational && !self.authenticated() {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        }
        Ok(answers)
    }

    /// Who wants to go where, as said until now: the initiator, its target, and whether it only looks for targets.
    fn who(&self) -> (Option<String>, Option<String>, bool) {
        let declared = self.negotiator.declared();
        (declared.initiator_name.clone(), declared.target_name.clone(), self.negotiator.params().discovery)
    }

    /// Who wants to go where: checked once, with the first complete text.
    fn identify(&mut self, c: &IscsiConfig) -> Result<(), LoginStatus> {
        let declared = self.negotiator.declared();
        let initiator = declared.initiator_name.clone().ok_or(LoginStatus::MISSING_PARAMETER)?;
        self.identified = true;
        if self.negotiator.params().discovery {
            self.auth = c.discovery_auth;
            return Ok(());
        }
        let wanted = declared.target_name.as_deref().ok_or(LoginStatus::MISSING_PARAMETER)?;
        let target = c.target(wanted).ok_or(LoginStatus::NOT_FOUND)?;
        if !target.maps.iter().any(|m| m.portal_group == self.portal_group) {
            return Err(LoginStatus::NOT_FOUND);
        }
        let map = c
            .access(target, self.portal_group, &initiator, self.peer.ip())
            .ok_or(LoginStatus::AUTHORIZATION_FAILURE)?;
        self.auth = target.auth;
        self.negotiator.digest_policy(target.header_digest, target.data_digest);
        self.target = Some(Destination::of(target, map.lun_map));
        Ok(())
    }

    fn authenticate(&mut self, c: &IscsiConfig, list: &TextList<'_>) -> Result<Answers, LoginStatus> {
        let mut answers = Answers::new();
        if let Some(offer) = list.find(name::AUTH_METHOD) {
            if !matches!(self.proof, Auth::Open) {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
            let chap_possible = self.auth.chap != ChapRule::Disabled && !c.secrets(&self.auth).is_empty();
            let pick = offer.split(',').find(|method| match *method {
                "CHAP" => chap_possible,
                "None" => self.auth.chap != ChapRule::Required,
                _ => false,
            });
            self.proof = match pick {
                Some("CHAP") => Auth::Chosen,
                Some(_) => Auth::Done(false),
                None => return Err(LoginStatus::AUTHENTICATION_FAILURE),
            };
            answers.push((name::AUTH_METHOD.into(), pick.unwrap_or("None").into()));
        }
        if let Some(algorithms) = list.find(name::CHAP_A) {
            // §12.1.3: CHAP_A may come with AuthMethod only if CHAP was its first and only choice; we take it
            // whenever CHAP was agreed.
            if !matches!(self.proof, Auth::Chosen) {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
            let (chap, asked) =
                Chap::challenge(algorithms).map_err(|_| LoginStatus::AUTHENTICATION_FAILURE)?;
            self.proof = Auth::Asked(chap);
            answers.extend(asked);
            return Ok(answers);
        }
        let proof = Proof {
            name: list.find(name::CHAP_N),
            response: list.find(name::CHAP_R),
            id: list.find(name::CHAP_I),
            challenge: list.find(name::CHAP_C),
        };
        if proof.name.is_some() || proof.response.is_some() || proof.id.is_some() || proof.challenge.is_some()
        {
            let Auth::Asked(chap) = &self.proof else { return Err(LoginStatus::INITIATOR_ERROR) };
            let verdict = chap.judge(&proof, c.secrets(&self.auth), self.auth.mutual);
            answers.extend(verdict.map_err(|_| LoginStatus::AUTHENTICATION_FAILURE)?);
            self.proof = Auth::Done(true);
        }
        Ok(answers)
    }

    /// Whether enough was proven to go on.
    fn authenticated(&self) -> bool {
        match self.proof {
            Auth::Done(chap) => chap || self.auth.chap != ChapRule::Required,
            // Nothing was said of AuthMethod at all.
            Auth::Open => self.auth.chap != ChapRule::Required,
            Auth::Chosen | Auth::Asked(_) => false,
        }
    }

    fn may_leave(&self) -> bool {
        self.stage != Stage::SecurityNegotiation || self.authenticated()
    }

    /// What we say of ourselves.
    fn declare(&mut self, c: &IscsiConfig, out: &mut TextBuf) {
        // §13.9: the tag stands in the first response of a login that named a target.
        if self.target.is_some() && !self.declared_tag {
            self.declared_tag = true;
            out.pair(name::TARGET_PORTAL_GROUP_TAG, self.portal_group);
        }
        if self.stage != Stage::LoginOperationalNegotiation {
            return;
        }
        if let Some(alias) = self.target.as_ref().and_then(|t| t.alias.as_ref())
            && !self.declared_alias
        {
            self.declared_alias = true;
            out.pair(name::TARGET_ALIAS, alias);
        }
        if !self.declared_segment {
            self.declared_segment = true;
            out.pair(name::MAX_RECV_DATA_SEGMENT_LENGTH, c.limits.max_recv_data_segment_length);
        }
    }

    /// Sends as much of the text as fits; the step to the next stage goes with its end.
    fn send(
        &mut self,
        c: &IscsiConfig,
        text: Vec<u8>,
        transit: Option<Stage>,
    ) -> Result<LoginStep, LoginStatus> {
        let mut text = if self.text_out.is_empty() { text } else { std::mem::take(&mut self.text_out) };
        let stage = self.stage;
        if text.len() > LOGIN_TEXT_MAX as usize {
            self.text_out = text.split_off(LOGIN_TEXT_MAX as usize);
            self.transit_later = transit;
            let flags = LoginFlags { stage, transit: None, more: true };
            return Ok(LoginStep::Reply { flags, text });
        }
        self.transit_later = None;
        let flags = LoginFlags { stage, transit, more: false };
        match transit {
            Some(Stage::FullFeaturePhase) => {
                self.negotiator.settled().map_err(refusal)?;
                let done = Box::new(self.done(c)?);
                Ok(LoginStep::Finish { flags, text, done })
            }
            Some(next) => {
                self.stage = next;
                Ok(LoginStep::Reply { flags, text })
            }
            None => Ok(LoginStep::Reply { flags, text }),
        }
    }

    fn done(&self, c: &IscsiConfig) -> Result<LoginDone, LoginStatus> {
        let fixed = self.fixed.ok_or(LoginStatus::TARGET_ERROR)?;
        let declared = self.negotiator.declared().clone();
        // The configuration may have changed since the names were looked at.
        if self.target.as_ref().is_some_and(|t| c.target_by_id(t.target).is_none()) {
            return Err(LoginStatus::TARGET_REMOVED);
        }
        let mut params = self.negotiator.params().clone();
        if !self.declared_segment {
            // Straight from the security stage: what was not declared is the default.
            params.max_recv_data_segment_length = 8192;
        }
        Ok(LoginDone {
            initiator_name: declared.initiator_name.ok_or(LoginStatus::MISSING_PARAMETER)?,
            initiator_alias: declared.initiator_alias,
            isid: fixed.isid,
            tsih: fixed.tsih,
            cid: fixed.cid,
            itt: fixed.itt,
            cmd_sn: fixed.cmd_sn,
            params,
            target: self.target.clone(),
            portal_group: self.portal_group,
            authenticated: matches!(self.proof, Auth::Done(true)),
        })
    }
}

impl Destination {
    fn of(target: &TargetNode, lun_map: u32) -> Self {
        Destination {
            target: target.id,
            name: target.name.clone(),
            lun_map,
            queue_depth: target.queue_depth,
            alias: target.alias.clone(),
        }
    }
}

/// Whatever is wrong with a key, the login ends (RFC 7143 §6.2, §11.13.5).
fn refusal(e: KeyError) -> LoginStatus {
    match e {
        KeyError::TooMany => LoginStatus::OUT_OF_RESOURCES,
        KeyError::Twice | KeyError::WrongStage | KeyError::BadValue | KeyError::PolicyRefused => {
            LoginStatus::INITIATOR_ERROR
        }
    }
}

#[cfg(test)]
mod tests;
