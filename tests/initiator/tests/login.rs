//! Login: stages, continuation, CHAP, and a target that breaks the rules of it.

mod peer;

use std::time::Duration;

use peer::{ChapPeer, INITIATOR, Peer, TARGET, agreed, log_in, talk, violations};
use spindle_initiator::{
    Algorithm, BinaryForm, ChapConfig, Config, DiscoveredTarget, Event, InitiatorConn, LoginPath, MutualChap,
    Offers, State, What,
};
use spindle_iscsi_wire::{InitiatorPdu, LoginStatus, Stage, TargetPdu};

#[test]
fn the_first_request_is_this_byte_by_byte() {
    let mut config = Config::normal(INITIATOR, TARGET);
    config.path = LoginPath::OperationalOnly;
    config.offers = Offers::none();
    let conn = InitiatorConn::new(config, Duration::ZERO);
    #[rustfmt::skip]
    let header = [
        0x43, 0x87, 0, 0,  0, 0, 0, 107,
        0x80, 0, 0, 0, 0, 1,  0, 0,
        0, 0, 0, 1,  0, 1, 0, 0,
        0, 0, 0, 1,  0, 0, 0, 0,
        0, 0, 0, 0,  0, 0, 0, 0,
        0, 0, 0, 0,  0, 0, 0, 0,
    ];
    let text = b"InitiatorName=iqn.2026-01.org.example:initiator\0TargetName=iqn.2026-01.org.example:disk\0SessionType=Normal\0\0";
    assert_eq!(conn.output()[..48], header);
    assert_eq!(&conn.output()[48..], text);
}

#[test]
fn every_path_leads_to_full_feature_phase() {
    for path in [LoginPath::SecurityThenOperational, LoginPath::OperationalOnly, LoginPath::SecurityOnly] {
        let (mut config, mut peer) = agreed(&[]);
        config.path = path;
        let conn = log_in(config, &mut peer);
        assert_eq!((conn.state(), conn.tsih()), (State::FullFeature, 7));
        assert_eq!(conn.params().portal_group_tag, Some(1));
    }
}

#[test]
fn text_in_small_pieces_both_ways_says_the_same() {
    for (ours, theirs) in [(1000, 9), (9, 1000), (11, 7)] {
        let (mut config, mut peer) = agreed(&[("MaxBurstLength", "65536"), ("ImmediateData", "No")]);
        config.login_text_max = ours;
        peer.text_max = theirs;
        let conn = log_in(config, &mut peer);
        assert_eq!((conn.params().max_burst, conn.params().immediate_data), (65_536, false));
    }
}

#[test]
fn chap_proves_both_sides_with_every_algorithm() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256] {
        for (form, text_max) in [(BinaryForm::Hex, 8192), (BinaryForm::Base64, 20)] {
            let (config, mut peer) = agreed(&[]);
            let mut chap = ChapConfig::one_way("me", b"my secret secret");
            chap.form = form;
            chap.mutual = Some(MutualChap {
                name: Some("target".into()),
                secret: b"the target's secret".to_vec(),
                identifier: 3,
                challenge: vec![9; 24],
            });
            peer.text_max = text_max;
            peer.chap = Some(ChapPeer {
                algorithm,
                secret: b"my secret secret".to_vec(),
                own_secret: Some(b"the target's secret".to_vec()),
            });
            log_in(config.with_chap(chap), &mut peer);
        }
    }
}

#[test]
fn a_wrong_secret_ends_the_login_on_either_side() {
    let run = |mine: &[u8], own: Option<&[u8]>| {
        let (config, mut peer) = agreed(&[]);
        let mut chap = ChapConfig::one_way("me", mine);
        chap.mutual = Some(MutualChap {
            name: None,
            secret: b"target".to_vec(),
            identifier: 3,
            challenge: vec![9; 24],
        });
        peer.chap = Some(ChapPeer {
            algorithm: Algorithm::Sha256,
            secret: b"right".to_vec(),
            own_secret: own.map(<[u8]>::to_vec),
        });
        let mut conn = InitiatorConn::new(config.with_chap(chap), Duration::ZERO);
        (talk(&mut conn, &mut peer, 100), conn.state())
    };
    let failed = Event::LoginFailed { status: LoginStatus::AUTHENTICATION_FAILURE, address: None };
    assert_eq!(run(b"wrong", Some(b"target")), (vec![failed], State::Refused));
    for own in [Some(&b"impostor"[..]), None] {
        let (events, state) = run(b"right", own);
        assert_eq!((violations(&events), state), (vec![What::TargetNotAuthentic], State::Broken));
    }
    assert_eq!(run(b"right", Some(b"target")).1, State::FullFeature);
}

#[test]
fn a_redirection_says_where_to() {
    let (config, mut peer) = agreed(&[]);
    peer.login_status = LoginStatus::TARGET_MOVED_TEMPORARILY;
    peer.hook = Some(Box::new(|_, data, _| *data = b"TargetAddress=10.0.0.2:3260,1\0".to_vec()));
    let mut conn = InitiatorConn::new(config, Duration::ZERO);
    let events = talk(&mut conn, &mut peer, 100);
    let address = Some("10.0.0.2:3260,1".to_owned());
    assert_eq!(events, [Event::LoginFailed { status: LoginStatus::TARGET_MOVED_TEMPORARILY, address }]);
}

#[test]
fn broken_login_rules_are_found() {
    type Spoil = fn(&mut spindle_iscsi_wire::LoginResponse, &mut Vec<u8>);
    let cases: [(Spoil, What); 7] = [
        (|pdu, _| pdu.isid.0[5] = 9, What::LoginField { field: "ISID" }),
        (|pdu, _| pdu.version_active = 1, What::LoginField { field: "Version-active" }),
        (|pdu, _| pdu.flags.stage = Stage::SecurityNegotiation, What::LoginStage),
        (|pdu, _| pdu.itt.0 += 1, What::UnknownTask { opcode: 0x23 }),
        (|pdu, _| pdu.tsih = 0, What::Tsih { got: 0 }),
        (|_, data| data.clear(), What::NoPortalGroupTag),
        (
            |_, data| data.extend(b"MaxConnections=2\0"),
            What::Negotiation { key: "MaxConnections".into(), offered: "1".into(), answered: "2".into() },
        ),
    ];
    for (spoil, expected) in cases {
        let (mut config, mut peer) = agreed(&[]);
        config.path = LoginPath::OperationalOnly;
        config.offers = Offers::none().with("MaxConnections", "1");
        peer.hook = Some(Box::new(move |pdu, data, _| {
            if let TargetPdu::LoginResponse(pdu) = pdu {
                spoil(pdu, data);
            }
        }));
        let mut conn = InitiatorConn::new(config, Duration::ZERO);
        let found = violations(&talk(&mut conn, &mut peer, 1000));
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
}

#[test]
fn an_offer_without_an_answer_is_found_unless_it_decides_alone() {
    let (mut config, mut peer) = agreed(&[]);
    config.offers = Offers::none().with("InitialR2T", "Yes").with("MaxConnections", "4");
    let mut conn = InitiatorConn::new(config, Duration::ZERO);
    let found = violations(&talk(&mut conn, &mut peer, 1000));
    assert_eq!(found, [What::Unanswered { key: "MaxConnections".into() }]);
}

#[test]
fn a_login_that_never_ends_is_given_up() {
    let (config, mut peer) = agreed(&[]);
    peer.hook = Some(Box::new(|pdu, _, _| {
        if let TargetPdu::LoginResponse(pdu) = pdu {
            pdu.flags.transit = None;
        }
    }));
    let mut conn = InitiatorConn::new(config, Duration::ZERO);
    assert_eq!(violations(&talk(&mut conn, &mut peer, 1000)), [What::LoginEndless]);
    assert_eq!(conn.state(), State::Broken);
}

#[test]
fn discovery_brings_targets_and_addresses_in_any_number_of_pdus() {
    for text_max in [8192, 30] {
        let mut peer = Peer::new(&[("HeaderDigest", "None"), ("DataDigest", "None")]);
        let mut conn = log_in(Config::discovery(INITIATOR), &mut peer);
        assert!(
            matches!(&peer.heard[0], (InitiatorPdu::LoginRequest(_), text) if text.ends_with(b"AuthMethod=None\0"))
        );
        peer.text_max = text_max;
        let itt = conn.send_targets(Duration::ZERO, "All").unwrap();
        let events = talk(&mut conn, &mut peer, 13);
        let [Event::Text { itt: done, pairs }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(*done, itt);
        let targets = DiscoveredTarget::list(pairs);
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[0].name, TARGET);
        assert_eq!(targets[0].addresses, ["10.0.0.1:3260,1", "[fe80::1]:3260,1"]);
    }
}
