use super::*;
use crate::chap::Algorithm;
use crate::config::{ChapGroup, ChapSecret, DigestPolicy, Secret};

const SECURITY: Stage = Stage::SecurityNegotiation;
const OPERATIONAL: Stage = Stage::LoginOperationalNegotiation;
const FULL: Stage = Stage::FullFeaturePhase;
const NAMES: &[&str] = &["InitiatorName=iqn.2000-01.com.example:h", "TargetName=iqn.2000-01.com.example:d"];

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
    assert_eq!(got, "done 1Some(3) InitialR2T=No TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144 ");
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
