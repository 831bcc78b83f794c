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
mod tests {
    use super::*;
    use crate::chap::Algorithm;
    use crate::config::{ChapGroup, ChapSecret, DigestPolicy, Secret};

    const SECURITY: Stage = Stage::SecurityNegotiation;
    const OPERATIONAL: Stage = Stage::LoginOperationalNegotiation;
    const FULL: Stage = Stage::FullFeaturePhase;
    const NAMES: &[&str] =
        &["InitiatorName=iqn.2000-01.com.example:h", "TargetName=iqn.2000-01.com.example:d"];

    fn config() -> IscsiConfig {
        let mut c = IscsiConfig::open_target("iqn.2000-01.com.example:d", "127.0.0.1:3260".parse().unwrap());
        let secret = |s: &str| Secret(s.as_bytes().to_vec());
        c.chap_groups.push(ChapGroup {
            tag: 7,
            secrets: vec![ChapSecret {
                user: "anna".into(),
                secret: secret("annas-secret-1"),
                mutual: Some(("disk".into(), secret("disks-secret-1"))),
            }],
        });
        c
    }

    fn with_chap(chap: ChapRule, mutual: bool) -> IscsiConfig {
        let mut c = config();
        c.targets[0].auth = AuthPolicy { chap, mutual, chap_group: Some(7) };
        c
    }

    fn login(c: &IscsiConfig) -> Login {
        Login::new(c, 1, "127.0.0.1:999".parse().unwrap(), "127.0.0.1:3260".parse().unwrap())
    }

    fn request(stage: Stage, transit: Option<Stage>, more: bool, len: usize) -> LoginRequest {
        LoginRequest {
            flags: LoginFlags { stage, transit, more },
            version_max: 0,
            version_min: 0,
            data_len: len as u32,
            isid: Isid([0x40, 0, 0, 0, 0, 1]),
            tsih: 0,
            itt: Itt(5),
            cid: 0,
            cmd_sn: SerialNumber(9),
            exp_stat_sn: SerialNumber(0),
        }
    }

    /// One request; the answer as text: stage, transit, pairs, or a status.
    fn ask(l: &mut Login, c: &IscsiConfig, stage: Stage, transit: Option<Stage>, pairs: &[&str]) -> String {
        let text: Vec<u8> = pairs.iter().flat_map(|p| [p.as_bytes(), b"\0"].concat()).collect();
        show(l.request(c, &request(stage, transit, false, text.len()), &text))
    }

    fn show(step: LoginStep) -> String {
        let line = |flags: LoginFlags, text: Vec<u8>| {
            let pairs = String::from_utf8(text).unwrap().replace('\0', " ");
            format!("{}{:?} {}", flags.stage as u8, flags.transit.map(|t| t as u8), pairs)
        };
        match step {
            LoginStep::Reply { flags, text } => line(flags, text),
            LoginStep::Finish { flags, text, .. } => format!("done {}", line(flags, text)),
            LoginStep::Refuse(s) => format!("{:02x}{:02x}", s.class, s.detail),
        }
    }

    #[test]
    fn a_login_without_security_takes_one_request() {
        let c = config();
        let mut l = login(&c);
        let got = ask(&mut l, &c, OPERATIONAL, Some(FULL), &[NAMES, &["InitialR2T=No"]].concat());
        assert_eq!(
            got,
            "done 1Some(3) InitialR2T=No TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144 "
        );
    }

    #[test]
    fn security_then_operational_is_answered_stage_by_stage() {
        let c = config();
        let mut l = login(&c);
        let got = ask(&mut l, &c, SECURITY, Some(OPERATIONAL), &[NAMES, &["AuthMethod=CHAP,None"]].concat());
        assert_eq!(got, "0Some(1) AuthMethod=None TargetPortalGroupTag=1 ");
        let got = ask(&mut l, &c, OPERATIONAL, None, &["HeaderDigest=CRC32C,None"]);
        assert_eq!(got, "1None HeaderDigest=CRC32C MaxRecvDataSegmentLength=262144 ");
        let got = ask(&mut l, &c, OPERATIONAL, Some(FULL), &[]);
        assert_eq!(got, "done 1Some(3) ");
    }

    #[test]
    fn what_is_missing_unknown_or_forbidden_has_a_status_of_its_own() {
        let mut c = config();
        for (pairs, status) in [
            (&["TargetName=iqn.2000-01.com.example:d"][..], "0207"),
            (&["InitiatorName=iqn.2000-01.com.example:h"], "0207"),
            (&["InitiatorName=iqn.x", "TargetName=iqn.y"], "0203"),
            (&["InitiatorName=iqn.x", "SessionType=Strange"], "0200"),
            (&["InitiatorName=", "TargetName=iqn.y"], "0200"),
            (&["InitiatorName=iqn.x", "InitiatorName=iqn.x", "TargetName=iqn.y"], "0200"),
            (&["nonsense"], "0200"),
        ] {
            assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), pairs), status, "{pairs:?}");
        }
        c.initiator_groups[0].names = vec!["iqn.other".parse().unwrap()];
        assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), NAMES), "0202");
        c.targets[0].maps[0].portal_group = 2;
        assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), NAMES), "0203");
        let mut r = request(OPERATIONAL, Some(FULL), false, 0);
        r.version_min = 1;
        assert_eq!(show(login(&c).request(&c, &r, b"")), "0205");
    }

    #[test]
    fn what_a_login_must_repeat_may_not_change() {
        let c = config();
        let text = b"InitiatorName=iqn.x\0SessionType=Discovery\0";
        let change: [fn(&mut LoginRequest); 6] = [
            |r| r.itt = Itt(6),
            |r| r.isid = Isid([1; 6]),
            |r| r.tsih = 1,
            |r| r.cid = 1,
            |r| r.cmd_sn = SerialNumber(10),
            |r| r.flags.stage = SECURITY,
        ];
        for change in change {
            let mut l = login(&c);
            let mut r = request(OPERATIONAL, None, false, text.len());
            assert!(show(l.request(&c, &r, text)).starts_with("1None"));
            r.data_len = 0;
            change(&mut r);
            assert_eq!(show(l.request(&c, &r, b"")), "0200");
        }
    }

    #[test]
    fn text_over_several_requests_is_put_together() {
        let c = config();
        let mut l = login(&c);
        let text = [NAMES[0].as_bytes(), b"\0", NAMES[1].as_bytes(), b"\0InitialR2T=No\0"].concat();
        for (n, part) in text.chunks(10).enumerate() {
            let last = (n + 1) * 10 >= text.len();
            let r = request(OPERATIONAL, last.then_some(FULL), !last, part.len());
            let got = show(l.request(&c, &r, part));
            assert_eq!(got == "1None ", !last, "{got}");
        }
        let mut l = login(&c);
        let part = vec![b'A'; 8192];
        let mut last = String::new();
        for _ in 0..9 {
            last = show(l.request(&c, &request(OPERATIONAL, None, true, 8192), &part));
        }
        assert_eq!(last, "0302", "text has a limit");
    }

    #[test]
    fn an_answer_that_does_not_fit_goes_on_in_the_next_response() {
        let c = config();
        let mut l = login(&c);
        let mut text = Vec::new();
        for n in 0..200 {
            text.extend_from_slice(format!("X-a-key-that-nobody-ever-heard-of-{n:03}=1\0").as_bytes());
        }
        text.extend_from_slice([NAMES[0], "\0", NAMES[1], "\0"].concat().as_bytes());
        let (one, two) = text.split_at(8000);
        assert_eq!(show(l.request(&c, &request(OPERATIONAL, None, true, one.len()), one)), "1None ");
        let step = l.request(&c, &request(OPERATIONAL, Some(FULL), false, two.len()), two);
        let LoginStep::Reply { flags, text: first } = step else { panic!("{step:?}") };
        assert!(flags.more && flags.transit.is_none() && first.len() == 8192);
        let step = l.request(&c, &request(OPERATIONAL, Some(FULL), false, 0), b"");
        let LoginStep::Finish { flags, text: rest, .. } = step else { panic!("{step:?}") };
        assert_eq!(flags.transit, Some(FULL));
        let whole = String::from_utf8([first, rest].concat()).unwrap();
        assert_eq!(whole.matches("=NotUnderstood\0").count(), 200);
        assert!(whole.ends_with("MaxRecvDataSegmentLength=262144\0"));
    }

    /// Goes through CHAP; `secret` is what the initiator believes.
    fn chap(c: &IscsiConfig, secret: &str, mutual: bool) -> String {
        let mut l = login(c);
        let first = [NAMES, &["AuthMethod=CHAP,None"]].concat();
        let got = ask(&mut l, c, SECURITY, None, &first);
        if got != "0None AuthMethod=CHAP TargetPortalGroupTag=1 " {
            return got;
        }
        let asked = ask(&mut l, c, SECURITY, None, &["CHAP_A=7"]);
        let value = |key: &str| asked.split([' ']).find_map(|p| p.strip_prefix(key)).unwrap();
        let mut challenge = [0; 64];
        let n = spindle_iscsi_wire::values::binary(value("CHAP_C="), &mut challenge).unwrap();
        let id = value("CHAP_I=").parse().unwrap();
        let response = Algorithm::Sha256.response(id, secret.as_bytes(), &challenge[..n]);
        let response = format!("CHAP_R={}", spindle_iscsi_wire::values::to_hex(&response));
        let mut last = vec!["CHAP_N=anna", &response];
        if mutual {
            last.extend(["CHAP_I=1", "CHAP_C=0x0102030405060708090a0b0c0d0e0f10"]);
        }
        ask(&mut l, c, SECURITY, Some(OPERATIONAL), &last)
    }

    #[test]
    fn chap_lets_in_who_knows_the_secret() {
        let c = with_chap(ChapRule::Required, false);
        assert_eq!(chap(&c, "annas-secret-1", false), "0Some(1) ");
        assert_eq!(chap(&c, "annas-secret-2", false), "0201");
        let c = with_chap(ChapRule::Required, true);
        assert_eq!(chap(&c, "annas-secret-1", false), "0201", "mutual is demanded");
        let got = chap(&c, "annas-secret-1", true);
        assert!(got.starts_with("0Some(1) CHAP_N=disk CHAP_R=0x"), "{got}");
    }

    #[test]
    fn required_chap_cannot_be_walked_around() {
        let c = with_chap(ChapRule::Required, false);
        assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), NAMES), "0201");
        let none = [NAMES, &["AuthMethod=None"]].concat();
        assert_eq!(ask(&mut login(&c), &c, SECURITY, Some(FULL), &none), "0201");
        let mut l = login(&c);
        let got = ask(&mut l, &c, SECURITY, Some(FULL), NAMES);
        assert_eq!(got, "0None TargetPortalGroupTag=1 ", "no step without a proof");
        let mut l = login(&c);
        ask(&mut l, &c, SECURITY, None, &[NAMES, &["AuthMethod=CHAP"]].concat());
        assert_eq!(ask(&mut l, &c, SECURITY, Some(FULL), &[]), "0None ", "no step without a proof");
        let mut l = login(&c);
        ask(&mut l, &c, SECURITY, None, &[NAMES, &["AuthMethod=CHAP"]].concat());
        assert_eq!(ask(&mut l, &c, SECURITY, Some(FULL), &["CHAP_N=anna", "CHAP_R=0x00"]), "0200");
        let mut l = login(&c);
        ask(&mut l, &c, SECURITY, None, &[NAMES, &["AuthMethod=CHAP"]].concat());
        assert_eq!(ask(&mut l, &c, SECURITY, None, &["AuthMethod=None"]), "0200", "once only");
    }

    #[test]
    fn discovery_has_rules_of_its_own() {
        let mut c = with_chap(ChapRule::Required, false);
        let names = ["InitiatorName=iqn.x", "SessionType=Discovery"];
        let got = ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), &names);
        assert_eq!(got, "done 1Some(3) MaxRecvDataSegmentLength=262144 ");
        c.discovery_auth = AuthPolicy { chap: ChapRule::Required, mutual: false, chap_group: Some(7) };
        assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), &names), "0201");
    }

    #[test]
    fn a_demanded_digest_that_is_not_offered_ends_the_login() {
        let mut c = config();
        c.targets[0].data_digest = DigestPolicy::Require;
        assert_eq!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), NAMES), "0200");
        let with = [NAMES, &["DataDigest=None,CRC32C"]].concat();
        assert!(ask(&mut login(&c), &c, OPERATIONAL, Some(FULL), &with).starts_with("done"));
    }

    #[test]
    fn a_login_that_never_ends_is_ended() {
        let c = config();
        let mut l = login(&c);
        let mut got = ask(&mut l, &c, OPERATIONAL, None, NAMES);
        for _ in 0..REQUESTS_MAX {
            got = ask(&mut l, &c, OPERATIONAL, None, &[]);
        }
        assert_eq!(got, "0200");
    }

    proptest::proptest! {
        /// Any requests with any text, in any order: an answer each, never a panic, and nobody gets through
        /// without what is required.
        #[test]
        fn no_text_gets_past_a_required_proof(
            seed in proptest::prelude::any::<u64>(), rounds in 1usize..12, raw in proptest::prelude::any::<bool>(),
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let c = with_chap(ChapRule::Required, false);
            let mut l = login(&c);
            let words = [
                NAMES[0], NAMES[1], "AuthMethod=CHAP", "AuthMethod=None", "AuthMethod=CHAP,None", "CHAP_A=5",
                "CHAP_A=7,8", "CHAP_N=anna", "CHAP_R=0x00", "CHAP_R=0b", "CHAP_I=1", "CHAP_C=0x01",
                "SessionType=Normal", "HeaderDigest=CRC32C", "MaxBurstLength=0", "InitialR2T=No", "=", "X-a=b",
            ];
            for _ in 0..rounds {
                let mut text = Vec::new();
                for _ in 0..rng.usize(0..8) {
                    if raw && rng.u8(0..4) == 0 {
                        text.extend((0..rng.usize(0..40)).map(|_| rng.u8(..)));
                    }
                    text.extend_from_slice(words[rng.usize(0..words.len())].as_bytes());
                    text.push(0);
                }
                let stage = if rng.bool() { SECURITY } else { OPERATIONAL };
                let transit = [None, Some(OPERATIONAL), Some(FULL)][rng.usize(0..3)];
                let more = transit.is_none() && rng.bool();
                match l.request(&c, &request(stage, transit, more, text.len()), &text) {
                    LoginStep::Finish { .. } => panic!("no proof was given"),
                    LoginStep::Refuse(status) => {
                        assert!(!status.is_success());
                        break;
                    }
                    LoginStep::Reply { flags, text } => {
                        assert!(text.len() <= LOGIN_TEXT_MAX as usize);
                        assert_ne!(flags.transit, Some(FULL));
                    }
                }
            }
        }
    }
}
