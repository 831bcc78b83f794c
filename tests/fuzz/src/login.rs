//! The login phase of the target: stages, negotiation of every key, CHAP.
//!
//! The first byte chooses a configuration; then follows a program of requests. One step answers the target's
//! challenge with the right secret, since nobody guesses that; so whatever lies behind CHAP is reached too.
//!
//! What must hold, whatever is sent: texts are readable and fit a login PDU, no stage is entered that was not asked
//! for, and nobody is called authenticated who did not prove it.

use spindle_iscsi::chap::Algorithm;
use spindle_iscsi::config::{AuthPolicy, ChapGroup, ChapRule, ChapSecret, DigestPolicy, IscsiConfig, Secret};
use spindle_iscsi::login::{LOGIN_TEXT_MAX, Login, LoginDone, LoginStep};
use spindle_iscsi::negotiate::TABLE;
use spindle_iscsi_wire::keys::TextPairs;
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{Isid, Itt, LoginRequest, SerialNumber, Stage, values};

use crate::input::{Input, long};

const USER: &str = "anna";
const SECRET: &[u8] = b"annas-secret-1";
/// More requests than any login is allowed.
const STEPS_MAX: u32 = 80;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(choice) = input.byte() else { return };
    let config = config(choice);
    let at = |port: u16| ([127, 0, 0, 1], port).into();
    let mut world = World {
        login: Login::new(&config, 1, at(50_000), at(3260)),
        config,
        stage: Stage::SecurityNegotiation,
        heard: Vec::new(),
        proved: false,
        started: false,
        wants: None,
    };
    for _ in 0..STEPS_MAX {
        let Some(step) = input.byte() else { return };
        if !world.step(step, &mut input).unwrap_or(false) {
            return;
        }
    }
    panic!("a login of {STEPS_MAX} requests is still going on");
}

struct World {
    config: IscsiConfig,
    login: Login,
    stage: Stage,
    /// The text of the target's last answers.
    heard: Vec<u8>,
    /// The right response to the challenge was sent.
    proved: bool,
    started: bool,
    /// The stage that was last asked for.
    wants: Option<Stage>,
}

impl World {
    /// One request. `false`: the login is over; `None`: so are the bytes.
    fn step(&mut self, step: u8, input: &mut Input<'_>) -> Option<bool> {
        let mut r = LoginRequest {
            flags: LoginFlags { stage: self.stage, transit: stage(step >> 2 & 3), more: step & 2 != 0 },
            version_max: 0,
            version_min: 0,
            data_len: 0,
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            tsih: 0,
            itt: Itt(1),
            cid: 1,
            cmd_sn: SerialNumber(1),
            exp_stat_sn: SerialNumber(0),
        };
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.stage = stage(step >> 6 & 1).unwrap_or(Stage::SecurityNegotiation);
            r.flags.stage = self.stage;
        }
        if step & 0x10 != 0 {
            // A request that lies about what must stay the same.
            let [which, to] = input.array()?;
            match which % 7 {
                0 => r.version_min = to,
                1 => r.isid = Isid([to; 6]),
                2 => r.tsih = to.into(),
                3 => r.cid = to.into(),
                4 => r.cmd_sn = SerialNumber(to.into()),
                5 => r.itt = Itt(to.into()),
                _ => r.flags.stage = stage(to & 3)?,
            }
        }
        if first {
            self.stage = r.flags.stage;
        }
        let text = if step & 1 != 0 { self.proof(input)? } else { input.long()?.to_vec() };
        r.data_len = text.len() as u32;
        // Headers that make no sense end at the door.
        let Ok(r) = LoginRequest::parse(&r.to_bhs()) else { return Some(false) };
        self.wants = r.flags.transit.or(self.wants);
        Some(match self.login.request(&self.config, &r, &text) {
            LoginStep::Reply { flags, text } => {
                self.check_reply(flags, &text);
                true
            }
            LoginStep::Refuse(status) => {
                assert!(!status.is_success(), "{status:?} is no refusal");
                false
            }
            LoginStep::Finish { flags, text, done } => {
                assert_eq!(flags.transit, Some(Stage::FullFeaturePhase));
                self.check_reply(flags, &text);
                self.check_done(&done);
                false
            }
        })
    }

    /// The answer to the target's challenge, right unless a byte says otherwise.
    fn proof(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let [form, more] = input.array()?;
        let heard = |key: &str| {
            let pairs = TextPairs::new(&self.heard).filter_map(Result::ok);
            pairs.filter(|p| p.key == key).last().map(|p| p.value.to_owned())
        };
        let mut challenge = [0; 1024];
        let id = heard("CHAP_I").and_then(|v| values::number(&v).ok()).unwrap_or(0) as u8;
        let n = heard("CHAP_C").and_then(|v| values::binary(&v, &mut challenge).ok()).unwrap_or(0);
        let algorithm = heard("CHAP_A").and_then(|v| values::number(&v).ok()).and_then(Algorithm::of);
        let mut response = algorithm.unwrap_or(Algorithm::Md5).response(id, SECRET, &challenge[..n]);
        let right = form & 2 == 0;
        if !right {
            response[0] ^= 1;
        }
        self.proved |= right && algorithm.is_some();
        let shown = if form & 1 == 0 { values::to_hex(&response) } else { values::to_base64(&response) };
        let mut text = format!("CHAP_N={USER}\0CHAP_R={shown}\0").into_bytes();
        if form & 4 != 0 {
            text.extend_from_slice(format!("CHAP_I={more}\0CHAP_C=0x{more:032x}\0").as_bytes());
        }
        if form & 8 != 0 {
            text.extend_from_slice(input.long()?);
        }
        Some(text)
    }

    fn check_reply(&mut self, flags: LoginFlags, text: &[u8]) {
        assert!(text.len() <= LOGIN_TEXT_MAX as usize, "{} bytes in one login PDU", text.len());
        assert_eq!(flags.stage, self.stage, "the answer belongs to the stage of the request");
        assert!(!(flags.more && flags.transit.is_some()), "what goes on is not the end of a stage");
        self.heard.extend_from_slice(text);
        if flags.more {
            return;
        }
        for pair in TextPairs::new(&self.heard) {
            pair.expect("what the target says can be read");
        }
        if let Some(next) = flags.transit {
            assert!(next > self.stage, "stages go forward only");
            // Text that did not fit one PDU brings the step that was asked for with its end.
            assert!(self.wants == Some(next), "nobody asked to go to {next:?}");
            self.stage = next;
        }
        // What CHAP asked for is kept, everything before it forgotten.
        if self.heard.len() > 2 * LOGIN_TEXT_MAX as usize {
            self.heard.clear();
        }
    }

    fn check_done(&self, done: &LoginDone) {
        let auth = match &done.target {
            Some(_) => self.config.targets[0].auth,
            None => self.config.discovery_auth,
        };
        assert!(!done.authenticated || self.proved, "authenticated without a proof");
        assert!(done.authenticated || auth.chap != ChapRule::Required, "let in without a proof");
        assert!(!done.initiator_name.is_empty());
        let p = &done.params;
        assert!(
            done.target.is_some() != p.discovery,
            "a normal session has a target, a discovery session none"
        );
        let limits = &self.config.limits;
        assert!((512..=limits.max_burst_length).contains(&p.max_burst_length), "{p:?}");
        assert!((512..=limits.first_burst_length.max(512)).contains(&p.first_burst_length), "{p:?}");
        assert!(p.unsolicited_max() <= p.max_burst_length);
        assert!((512..1 << 24).contains(&p.max_send_data_segment_length), "{p:?}");
        assert!((1..=limits.max_outstanding_r2t).contains(&p.max_outstanding_r2t), "{p:?}");
        assert_eq!((p.error_recovery_level, p.max_connections), (0, 1));
        assert!(p.initial_r2t || !limits.initial_r2t);
        let target = &self.config.targets[0];
        if done.target.is_some() {
            assert!(p.header_digest || target.header_digest != DigestPolicy::Require);
            assert!(!p.data_digest || target.data_digest != DigestPolicy::Never);
        }
    }
}

fn stage(code: u8) -> Option<Stage> {
    match code {
        0 => Some(Stage::SecurityNegotiation),
        1 => Some(Stage::LoginOperationalNegotiation),
        2 => None,
        _ => Some(Stage::FullFeaturePhase),
    }
}

/// One target, with and without CHAP, with every digest policy.
fn config(choice: u8) -> IscsiConfig {
    let mut c = IscsiConfig::open_target("iqn.2026-01.org.example:disk", ([127, 0, 0, 1], 3260).into());
    let secret = |bytes: &[u8]| Secret(bytes.to_vec());
    c.chap_groups.push(ChapGroup {
        tag: 7,
        secrets: vec![ChapSecret {
            user: USER.into(),
            secret: secret(SECRET),
            mutual: Some(("disk".into(), secret(b"disks-secret-1"))),
        }],
    });
    let chap = [ChapRule::Disabled, ChapRule::Optional, ChapRule::Required, ChapRule::Required];
    let auth =
        AuthPolicy { chap: chap[usize::from(choice & 3)], mutual: choice & 3 == 3, chap_group: Some(7) };
    c.targets[0].auth = auth;
    if choice & 4 != 0 {
        c.discovery_auth = auth;
    }
    let digests = [DigestPolicy::AsOffered, DigestPolicy::Prefer, DigestPolicy::Require, DigestPolicy::Never];
    c.targets[0].header_digest = digests[usize::from(choice >> 3 & 3)];
    c.targets[0].data_digest = digests[usize::from(choice >> 5 & 3)];
    if choice & 0x80 != 0 {
        c.targets[0].alias = Some("a disk\0of \u{1} everybody".into());
        c.limits.initial_r2t = true;
        c.limits.immediate_data = false;
    }
    c
}

const SECURITY_AND_GO: u8 = 0b0000_0100;
const SECURITY_AND_STAY: u8 = 0b0000_1000;
const OPERATIONAL_AND_GO: u8 = 0b0100_1100;
const GO_ON: u8 = 0b0000_1100;

/// Logins of each kind, through to their end.
pub fn seeds() -> Vec<Vec<u8>> {
    let names = "InitiatorName=iqn.2026-01.org.example:host\0TargetName=iqn.2026-01.org.example:disk\0";
    let keys = "HeaderDigest=CRC32C,None\0DataDigest=None,CRC32C\0MaxConnections=1\0InitialR2T=No\0\
                ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0MaxBurstLength=1048576\0\
                FirstBurstLength=65536\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0MaxOutstandingR2T=8\0\
                DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0";
    let request = |step: u8, text: &str| [&[step][..], &long(text.as_bytes())].concat();
    let one = |config: u8, steps: &[Vec<u8>]| [vec![config], steps.concat()].concat();
    let chap = format!("{names}AuthMethod=CHAP,None\0");
    let right = vec![SECURITY_AND_GO | 1, 0, 0];
    let mutual = vec![SECURITY_AND_GO | 1, 4, 9];
    vec![
        one(0, &[request(OPERATIONAL_AND_GO, &format!("{names}{keys}"))]),
        one(0, &[request(SECURITY_AND_GO, &format!("{names}AuthMethod=None\0")), request(GO_ON, keys)]),
        one(
            0x2A,
            &[
                request(SECURITY_AND_STAY, &chap),
                request(SECURITY_AND_STAY, "CHAP_A=8,7,6,5\0"),
                right,
                request(GO_ON, keys),
            ],
        ),
        one(
            0x83,
            &[
                request(SECURITY_AND_STAY, &chap),
                request(SECURITY_AND_STAY, "CHAP_A=5\0"),
                mutual,
                request(GO_ON, keys),
            ],
        ),
        one(
            0,
            &[request(
                OPERATIONAL_AND_GO,
                "InitiatorName=iqn.2026-01.org.example:host\0SessionType=Discovery\0",
            )],
        ),
        // Text over two requests.
        one(
            0,
            &[request(OPERATIONAL_AND_GO | 2, names.split_at(30).0), request(GO_ON, names.split_at(30).1)],
        ),
    ]
}

/// Every key and the values that mean something.
pub fn words() -> Vec<String> {
    let mut words: Vec<String> = TABLE.iter().map(|row| format!("{}=", row.name)).collect();
    let more = ["CHAP_A=", "CHAP_N=", "CHAP_R=", "CHAP_I=", "CHAP_C=", "CHAP", "None", "CRC32C", "Yes", "No"];
    words.extend(more.map(String::from));
    words.extend(
        ["Normal", "Discovery", "NotUnderstood", "Reject", "Irrelevant", "0x", "0b"].map(String::from),
    );
    words
}
