//! Full feature phase: data both ways, the window, and every rule that a target can break.

mod peer;

use std::sync::Arc;
use std::time::Duration;

use peer::{BLOCK, Peer, agreed, cdb_10, log_in, talk, violations};
use proptest::prelude::*;
use spindle_initiator::{Command, Direction, Event, InitiatorConn, R2tPolicy, Refused, State, What};
use spindle_iscsi_wire::*;

const NOW: Duration = Duration::ZERO;
const LUN: [u8; 8] = [0, 3, 0, 0, 0, 0, 0, 0];

fn read(block: u32, blocks: u16, expected: usize) -> Command {
    Command::new(LUN, &cdb_10(0x28, block, blocks), Direction::Read(expected as u32))
}

fn write(block: u32, data: &[u8]) -> Command {
    let blocks = (data.len() / BLOCK) as u16;
    Command::new(LUN, &cdb_10(0x2A, block, blocks), Direction::Write(Arc::from(data)))
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

#[test]
fn a_write_is_these_pdus_byte_by_byte() {
    let (config, mut peer) = agreed(&[
        ("InitialR2T", "No"),
        ("FirstBurstLength", "1024"),
        ("MaxBurstLength", "1024"),
        ("HeaderDigest", "CRC32C"),
    ]);
    let mut conn = log_in(config, &mut peer);
    peer.mute = true;
    let mut command = write(5, &[0xAB; 1536]);
    command.immediate_data_max = Some(512);
    conn.command(NOW, command).unwrap();
    #[rustfmt::skip]
    let header = [
        0x01, 0x21, 0, 0,  0, 0, 2, 0,
        0, 3, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 2,  0, 0, 6, 0,
        0, 0, 0, 1,  0, 0, 0, 102,
        0x2A, 0, 0, 0, 0, 5, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
    ];
    #[rustfmt::skip]
    let data_out = [
        0x05, 0x80, 0, 0,  0, 0, 2, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 2,  0xFF, 0xFF, 0xFF, 0xFF,
        0, 0, 0, 0,  0, 0, 0, 102,
        0, 0, 0, 0,  0, 0, 0, 0,
        0, 0, 2, 0,  0, 0, 0, 0,
    ];
    let out = conn.output();
    assert_eq!(out.len(), 2 * (48 + 4 + 512));
    assert_eq!(out[..48], header);
    assert_eq!(out[48..52], spindle_initiator::crc32c(&header));
    assert_eq!(out[564..564 + 48], data_out);
    assert_eq!(out[616..], [0xAB; 512]);
}

#[test]
fn a_long_cdb_goes_into_an_ahs() {
    let (config, mut peer) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    let mut cdb = [7; 32];
    cdb[0] = 0x7F;
    conn.command(NOW, Command::new(LUN, &cdb, Direction::None)).unwrap();
    let out = conn.output().to_vec();
    assert_eq!((out.len(), out[4]), (48 + 20, 5));
    assert_eq!(out[48..52], [0, 17, 1, 0]);
    assert_eq!(out[52..], cdb[16..]);
    let events = talk(&mut conn, &mut peer, 5);
    assert!(
        matches!(&events[..], [Event::Done(done)] if done.status == 2 && done.sense[2] == 5),
        "{events:?}"
    );
    assert_eq!(conn.command(NOW, Command::new(LUN, &[0; 261], Direction::None)), Err(Refused::TooLong));
}

#[test]
fn residuals_of_both_kinds_are_reported() {
    let (config, mut peer) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    for (blocks, expected, residual) in [
        (2, 4 * BLOCK, Residual::Underflow(1024)),
        (4, 2 * BLOCK, Residual::Overflow(1024)),
        (4, 0, Residual::Overflow(2048)),
        (0, BLOCK, Residual::Underflow(512)),
    ] {
        for collapse in [true, false] {
            peer.collapse = collapse;
            conn.command(NOW, read(1, blocks, expected)).unwrap();
            let events = talk(&mut conn, &mut peer, 1000);
            let [Event::Done(done)] = &events[..] else { panic!("{events:?}") };
            let len = expected.min(usize::from(blocks) * BLOCK);
            assert_eq!((done.residual, &done.data[..]), (residual, &peer.memory[BLOCK..BLOCK + len]));
        }
    }
}

#[test]
fn the_window_holds_commands_back_but_not_immediate_ones() {
    let (config, mut peer) = agreed(&[]);
    peer.window = 2;
    let mut conn = log_in(config, &mut peer);
    assert_eq!(conn.window().room(), 2);
    conn.command(NOW, read(0, 1, BLOCK)).unwrap();
    conn.command(NOW, read(0, 1, BLOCK)).unwrap();
    assert_eq!(conn.command(NOW, read(0, 1, BLOCK)), Err(Refused::WindowClosed));
    let mut urgent = read(0, 1, BLOCK);
    urgent.immediate = true;
    conn.command(NOW, urgent).unwrap();
    assert_eq!(conn.outstanding(), 3);
    let events = talk(&mut conn, &mut peer, 1000);
    assert_eq!((events.len(), violations(&events).len(), conn.outstanding()), (3, 0, 0));
    conn.command(NOW, read(0, 1, BLOCK)).unwrap();
}

#[test]
fn pings_go_both_ways() {
    let (config, mut peer) = agreed(&[("DataDigest", "CRC32C")]);
    let mut conn = log_in(config, &mut peer);
    let itt = conn.ping(NOW, b"hello").unwrap();
    assert_eq!(talk(&mut conn, &mut peer, 3), [Event::Pong { itt, data: b"hello".to_vec() }]);
    let ping = NopIn {
        data_len: 0,
        lun: LUN,
        itt: Itt::RESERVED,
        ttt: Ttt(77),
        stat_sn: peer.peek_stat_sn(),
        exp_cmd_sn: peer.exp(),
        max_cmd_sn: peer.max(),
    };
    let bytes = peer.say(TargetPdu::NopIn(ping), Vec::new());
    conn.on_bytes(NOW, &bytes);
    assert_eq!(talk(&mut conn, &mut peer, 100), [Event::Ping]);
    let Some((InitiatorPdu::NopOut(answer), _)) = peer.heard.last() else { panic!("no answer") };
    assert_eq!((answer.ttt, answer.itt, answer.lun, answer.immediate), (Ttt(77), Itt::RESERVED, LUN, true));
}

#[test]
fn a_task_management_function_ends_its_tasks_and_late_answers_are_found() {
    let (config, mut peer) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    let mut other = read(0, 1, BLOCK);
    other.lun = [0; 8];
    peer.mute = true;
    let here = conn.command(NOW, read(0, 1, BLOCK)).unwrap();
    let there = conn.command(NOW, other).unwrap();
    assert!(talk(&mut conn, &mut peer, 1000).is_empty());
    let (tmf, after) = (
        conn.tmf(NOW, TmfFunction::LogicalUnitReset, LUN, None, true).unwrap(),
        conn.command(NOW, read(0, 1, BLOCK)).unwrap(),
    );
    assert!(talk(&mut conn, &mut peer, 1000).is_empty());
    let answer = TmfResponse {
        result: TmfResult::Complete,
        additional: [0; 3],
        itt: tmf,
        stat_sn: peer.next_stat_sn(),
        exp_cmd_sn: peer.exp(),
        max_cmd_sn: peer.max(),
    };
    let bytes = peer.say(TargetPdu::TmfResponse(answer), Vec::new());
    conn.on_bytes(NOW, &bytes);
    let ended = vec![here];
    assert_eq!(conn.next_event(), Some(Event::TmfDone { itt: tmf, result: TmfResult::Complete, ended }));
    assert_eq!(conn.outstanding(), 2, "another unit and a later command go on: {there:?}, {after:?}");
    let late = ScsiResponse {
        response: ServiceResponse::CommandCompleted,
        status: 0,
        status_qualifier: 0,
        residual: Residual::None,
        bidi_residual: Residual::None,
        data_len: 0,
        itt: here,
        snack_tag: 0,
        stat_sn: peer.next_stat_sn(),
        exp_cmd_sn: peer.exp(),
        max_cmd_sn: peer.max(),
        exp_data_sn: SerialNumber(0),
    };
    let bytes = peer.say(TargetPdu::ScsiResponse(late), Vec::new());
    conn.on_bytes(NOW, &bytes);
    let events: Vec<Event> = std::iter::from_fn(|| conn.next_event()).collect();
    assert_eq!(violations(&events), [What::UnknownTask { opcode: 0x21 }]);
}

#[test]
fn a_reject_ends_the_request_it_names() {
    let (config, mut peer) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    peer.mute = true;
    let itt = conn.command(NOW, read(0, 1, BLOCK)).unwrap();
    let header: Bhs = conn.output()[..48].try_into().unwrap();
    conn.consume(48);
    let reject = Reject {
        reason: RejectReason::InvalidPduField,
        data_len: 48,
        stat_sn: peer.next_stat_sn(),
        exp_cmd_sn: peer.exp(),
        max_cmd_sn: peer.max(),
        data_sn: SerialNumber(0),
    };
    let bytes = peer.say(TargetPdu::Reject(reject), header.to_vec());
    conn.on_bytes(NOW, &bytes);
    let (reason, header) = (RejectReason::InvalidPduField, Some(header));
    assert_eq!(conn.next_event(), Some(Event::Rejected { reason, header, itt: Some(itt) }));
    assert_eq!(conn.outstanding(), 0);
}

#[test]
fn events_and_logout_reach_the_owner() {
    let (config, mut peer) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    let message = AsyncMessage {
        event: AsyncEvent::LogoutRequest,
        vendor_code: 0,
        data_len: 0,
        lun: [0; 8],
        stat_sn: peer.next_stat_sn(),
        exp_cmd_sn: peer.exp(),
        max_cmd_sn: peer.max(),
        parameters: [0, 0, 10],
    };
    let bytes = peer.say(TargetPdu::AsyncMessage(message), Vec::new());
    conn.on_bytes(NOW, &bytes);
    assert_eq!(conn.next_event(), Some(Event::Async(message, Vec::new())));
    conn.logout(NOW, LogoutReason::CloseSession, 0).unwrap();
    let events = talk(&mut conn, &mut peer, 10);
    assert!(matches!(&events[..], [Event::LoggedOut(pdu)] if pdu.result == LogoutResult::Success));
    assert_eq!(conn.state(), State::LoggedOut);
    assert_eq!(conn.command(NOW, read(0, 1, BLOCK)), Err(Refused::NotLoggedIn));
}

#[test]
fn silence_is_noticed_once() {
    let (mut config, mut peer) = agreed(&[]);
    config.silence_max = Some(Duration::from_secs(3));
    let mut conn = log_in(config, &mut peer);
    let itt = conn.command(Duration::from_secs(1), read(0, 1, BLOCK)).unwrap();
    assert_eq!(conn.next_deadline(), Some(Duration::from_secs(4)));
    conn.on_tick(Duration::from_millis(3999));
    assert_eq!(conn.next_event(), None);
    conn.on_tick(Duration::from_secs(4));
    assert_eq!(conn.next_event(), Some(Event::Silent { itt }));
    conn.on_tick(Duration::from_secs(9));
    assert_eq!((conn.next_event(), conn.next_deadline()), (None, None));
}

#[test]
fn held_r2ts_are_answered_in_any_order_and_stale_ones_through_the_raw_door() {
    let (mut config, mut peer) =
        agreed(&[("MaxOutstandingR2T", "4"), ("ImmediateData", "No"), ("MaxBurstLength", "512")]);
    config.r2t = R2tPolicy::Hold;
    peer.r2ts_at_once = 4;
    let mut conn = log_in(config, &mut peer);
    let data = pattern(4 * BLOCK, 1);
    let itt = conn.command(NOW, write(9, &data)).unwrap();
    let events = talk(&mut conn, &mut peer, 1000);
    let r2ts: Vec<R2t> =
        events.iter().map(|event| if let Event::R2t(r2t) = event { *r2t } else { panic!() }).collect();
    assert_eq!(r2ts.len(), 4);
    for at in [2, 0, 3, 1] {
        conn.answer_r2t(&r2ts[at]);
    }
    let events = talk(&mut conn, &mut peer, 1000);
    assert!(matches!(&events[..], [Event::Done(done)] if done.itt == itt && done.r2ts == 4), "{events:?}");
    assert_eq!(peer.memory[9 * BLOCK..13 * BLOCK], data);
    let stale = DataOut {
        is_final: true,
        data_len: 4,
        lun: LUN,
        itt,
        ttt: r2ts[0].ttt,
        exp_stat_sn: conn.exp_stat_sn(),
        data_sn: SerialNumber(0),
        buffer_offset: 0,
    };
    peer.mute = true;
    conn.raw_pdu(&stale.to_bhs(), &[], &[1, 2, 3, 4]);
    talk(&mut conn, &mut peer, 1000);
    assert_eq!(peer.heard.last(), Some(&(InitiatorPdu::DataOut(stale), vec![1, 2, 3, 4])));
}

/// Runs one READ or WRITE of 32 blocks under a hook that spoils a PDU, and gives the rules found broken.
fn spoiled(
    writes: bool,
    collapse: bool,
    spoil: impl FnMut(&mut TargetPdu, &mut Vec<u8>, usize) + 'static,
) -> Vec<What> {
    let (config, mut peer) = agreed(&[
        ("MaxRecvDataSegmentLength", "2048"),
        ("MaxBurstLength", "4096"),
        ("FirstBurstLength", "1024"),
    ]);
    let mut conn = log_in(config, &mut peer);
    peer.collapse = collapse;
    let mut spoil = spoil;
    let before = peer.sent();
    peer.hook = Some(Box::new(move |pdu, data, sent| spoil(pdu, data, sent - before)));
    let command = if writes { write(0, &pattern(32 * BLOCK, 3)) } else { read(0, 32, 32 * BLOCK) };
    conn.command(NOW, command).unwrap();
    // What the initiator makes of a spoiled PDU is its matter; the peer must not judge it.
    let out = conn.output().to_vec();
    conn.consume(out.len());
    let mut events = Vec::new();
    let bytes = peer.on_bytes(&out);
    conn.on_bytes(NOW, &bytes);
    events.extend(std::iter::from_fn(|| conn.next_event()));
    violations(&events)
}

#[test]
fn broken_rules_of_data_in_are_found() {
    fn data_in(
        at: usize,
        spoil: impl Fn(&mut DataIn) + 'static,
    ) -> impl FnMut(&mut TargetPdu, &mut Vec<u8>, usize) {
        move |pdu, _, sent| {
            if let (TargetPdu::DataIn(pdu), true) = (pdu, sent == at) {
                spoil(pdu);
            }
        }
    }
    assert_eq!(spoiled(false, true, |_, _, _| {}), []);
    let found = spoiled(false, true, data_in(2, |pdu| pdu.data_sn.0 = 7));
    assert_eq!(found[0], What::DataSn { expected: SerialNumber(2), got: SerialNumber(7) });
    let found = spoiled(false, true, data_in(1, |pdu| pdu.buffer_offset += 512));
    assert_eq!(found[0], What::DataOrder { expected: 2048, got: 2560 });
    let found = spoiled(false, true, data_in(1, |pdu| pdu.buffer_offset = 0));
    assert!(found.contains(&What::DataRepeated { offset: 0, len: 2048 }) && found.len() >= 3, "{found:?}");
    let found = spoiled(false, true, data_in(1, |pdu| pdu.buffer_offset = u32::MAX));
    assert_eq!(found[0], What::BeyondExpected { end: (1 << 32) + 2047, edtl: 16_384 });
    let found = spoiled(false, true, data_in(1, |pdu| pdu.is_final = false));
    assert_eq!(found, [What::BurstTooLong { len: 6144, max: 4096 }]);
    let found = spoiled(false, false, data_in(7, |pdu| pdu.is_final = false));
    assert_eq!(found, [What::SequenceNotClosed]);
    assert_eq!(spoiled(false, true, data_in(1, |pdu| pdu.ack = true)), [What::AckWithoutRecovery]);
    let found = spoiled(false, true, data_in(3, |pdu| pdu.itt.0 = 99));
    assert_eq!(found[0], What::UnknownTask { opcode: 0x25 });
    let claimed = Residual::Underflow(512);
    let found = spoiled(false, true, data_in(7, move |pdu| pdu.status.as_mut().unwrap().residual = claimed));
    assert_eq!(found, [What::Residual { edtl: 16_384, transferred: 16_384, claimed }]);
    let found = spoiled(false, true, data_in(7, |pdu| pdu.status.as_mut().unwrap().status = 2));
    assert_eq!(found, [What::StatusInData { status: 2 }]);
    let found = spoiled(false, true, data_in(7, |pdu| pdu.status.as_mut().unwrap().stat_sn.0 += 1));
    assert!(matches!(found[..], [What::StatSn { .. }]));
    let found = spoiled(false, true, data_in(0, |pdu| pdu.max_cmd_sn = SerialNumber(0).prev()));
    assert!(matches!(found[..], [What::Window { .. }]));
    let found = spoiled(false, true, data_in(0, |pdu| pdu.exp_cmd_sn.0 = 3));
    assert!(matches!(found[..], [What::AcknowledgesUnsent { .. }]));
    let longer = |_: &mut TargetPdu, data: &mut Vec<u8>, sent: usize| {
        data.resize(if sent == 0 { 2049 } else { 2048 }, 0)
    };
    assert_eq!(spoiled(false, true, longer), [What::SegmentTooLong { len: 2049, max: 2048 }]);
}

#[test]
fn broken_rules_of_responses_are_found() {
    fn response(
        spoil: impl Fn(&mut ScsiResponse) + 'static,
    ) -> impl FnMut(&mut TargetPdu, &mut Vec<u8>, usize) {
        move |pdu, _, _| {
            if let TargetPdu::ScsiResponse(pdu) = pdu {
                spoil(pdu);
            }
        }
    }
    assert_eq!(spoiled(false, false, |_, _, _| {}), []);
    let found = spoiled(false, false, response(|pdu| pdu.exp_data_sn.0 = 7));
    assert_eq!(found, [What::ExpDataSn { expected: SerialNumber(8), got: SerialNumber(7) }]);
    let found = spoiled(false, false, response(|pdu| pdu.itt.0 = 99));
    assert_eq!(found, [What::UnknownTask { opcode: 0x21 }]);
    let broken_sense = |pdu: &mut TargetPdu, data: &mut Vec<u8>, _: usize| {
        if let TargetPdu::ScsiResponse(_) = pdu {
            *data = vec![0, 9, 1];
        }
    };
    assert!(matches!(
        spoiled(false, false, broken_sense)[..],
        [What::Pdu(WireError { field: "SenseLength", .. })]
    ));
    // GOOD for a read of which the last Data-In never came: turned into a ping.
    let lost = |pdu: &mut TargetPdu, data: &mut Vec<u8>, sent: usize| {
        if let (TargetPdu::DataIn(lost), true) = (&*pdu, sent == 7) {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = (SerialNumber(102), lost.exp_cmd_sn, lost.max_cmd_sn);
            let (itt, ttt) = (Itt::RESERVED, Ttt::RESERVED);
            *pdu = TargetPdu::NopIn(NopIn {
                data_len: 0,
                lun: [0; 8],
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
            });
            data.clear();
        }
    };
    let found = spoiled(false, false, lost);
    assert!(found.iter().any(|what| matches!(what, What::Residual { transferred: 14_336, .. })), "{found:?}");
}

#[test]
fn broken_rules_of_r2ts_are_found() {
    fn r2t(spoil: impl Fn(&mut R2t) + 'static) -> impl FnMut(&mut TargetPdu, &mut Vec<u8>, usize) {
        move |pdu, _, _| {
            if let TargetPdu::R2t(pdu) = pdu {
                spoil(pdu);
            }
        }
    }
    assert_eq!(spoiled(true, true, |_, _, _| {}), []);
    let found = spoiled(true, true, r2t(|pdu| pdu.r2t_sn.0 = 1));
    assert_eq!(found, [What::R2tSn { expected: SerialNumber(0), got: SerialNumber(1) }]);
    assert_eq!(spoiled(true, true, r2t(|pdu| pdu.ttt = Ttt::RESERVED)), [What::R2tTag]);
    let found = spoiled(true, true, r2t(|pdu| pdu.desired_len = 0));
    assert_eq!(found, [What::R2tLength { len: 0, max: 4096 }]);
    let found = spoiled(true, true, r2t(|pdu| pdu.desired_len = 4097));
    assert_eq!(found, [What::R2tLength { len: 4097, max: 4096 }]);
    let found = spoiled(true, true, r2t(|pdu| pdu.buffer_offset += 4));
    assert_eq!(found, [What::R2tOrder { expected: 1024, got: 1028 }]);
    let found = spoiled(true, true, r2t(|pdu| pdu.buffer_offset = 0));
    assert!(
        found.contains(&What::DataRepeated { offset: 0, len: 4096 }),
        "immediate data is there: {found:?}"
    );
    let found = spoiled(true, true, r2t(|pdu| pdu.buffer_offset = u32::MAX - 4));
    assert!(matches!(found[..], [What::BeyondExpected { edtl: 16_384, .. }]));
    assert!(matches!(spoiled(true, true, r2t(|pdu| pdu.stat_sn.0 += 1))[..], [What::StatSn { .. }]));
    // GOOD before the data was asked for.
    let early = |pdu: &mut TargetPdu, _: &mut Vec<u8>, _: usize| {
        if let TargetPdu::R2t(r2t) = *pdu {
            *pdu = TargetPdu::ScsiResponse(ScsiResponse {
                response: ServiceResponse::CommandCompleted,
                status: 0,
                status_qualifier: 0,
                residual: Residual::None,
                bidi_residual: Residual::None,
                data_len: 0,
                itt: r2t.itt,
                snack_tag: 0,
                stat_sn: r2t.stat_sn,
                exp_cmd_sn: r2t.exp_cmd_sn,
                max_cmd_sn: r2t.max_cmd_sn,
                exp_data_sn: SerialNumber(0),
            });
        }
    };
    let claimed = Residual::None;
    assert_eq!(spoiled(true, true, early), [What::WriteUnderfed { edtl: 16_384, sent: 1024, claimed }]);
}

#[test]
fn more_r2ts_than_agreed_are_found() {
    let (config, mut peer) =
        agreed(&[("MaxOutstandingR2T", "2"), ("ImmediateData", "No"), ("MaxBurstLength", "512")]);
    let mut config = config;
    config.r2t = R2tPolicy::Hold;
    peer.r2ts_at_once = 3;
    let mut conn = log_in(config, &mut peer);
    conn.command(NOW, write(0, &[1; 4 * BLOCK])).unwrap();
    assert_eq!(violations(&talk(&mut conn, &mut peer, 1000)), [What::TooManyR2t { max: 2 }]);
}

#[test]
fn a_wrong_digest_breaks_the_stream() {
    for (key, at, expected) in
        [("HeaderDigest", 50, What::HeaderDigest), ("DataDigest", 60, What::DataDigest)]
    {
        let (config, mut peer) = agreed(&[(key, "CRC32C")]);
        let mut conn = log_in(config, &mut peer);
        conn.command(NOW, read(0, 1, BLOCK)).unwrap();
        let out = conn.output().to_vec();
        let mut bytes = peer.on_bytes(&out);
        bytes[at] ^= 1;
        conn.on_bytes(NOW, &bytes);
        let events: Vec<Event> = std::iter::from_fn(|| conn.next_event()).collect();
        assert_eq!(violations(&events), [expected]);
        assert_eq!((events.last(), conn.state()), (Some(&Event::Broken), State::Broken));
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn connection(bytes: &[u8], logged_in: bool) -> InitiatorConn {
    let (config, mut peer) = agreed(&[]);
    let mut conn = if logged_in { log_in(config, &mut peer) } else { InitiatorConn::new(config, NOW) };
    if logged_in {
        conn.command(NOW, read(0, 8, 8 * BLOCK)).unwrap();
        conn.command(NOW, write(0, &[5; 4096])).unwrap();
        conn.ping(NOW, b"x").unwrap();
        conn.send_targets(NOW, "All").unwrap();
    }
    conn.on_bytes(NOW, bytes);
    conn
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever was negotiated, and however the stream is cut: data arrives, and a good target breaks no rule.
    #[test]
    fn data_comes_back_as_it_was_written(
        digests in any::<[bool; 2]>(), switches in any::<[bool; 3]>(), cut in 1usize..3000,
        recv in 512usize..3000, burst in 512usize..9000, first in 512usize..9000, r2t_max in 1usize..5000,
        r2ts_at_once in 1usize..5, data_out_max in proptest::option::of(1u32..2000),
        immediate_data_max in proptest::option::of(0u32..2000), blocks in 0usize..20, block in 0u32..100,
        seed: u8,
    ) {
        let crc = |on| if on { "CRC32C" } else { "None" };
        let (recv, burst, first) = (recv.to_string(), burst.to_string(), first.min(burst).to_string());
        let outstanding = r2ts_at_once.to_string();
        let (mut config, mut peer) = agreed(&[
            ("HeaderDigest", crc(digests[0])),
            ("DataDigest", crc(digests[1])),
            ("InitialR2T", yes_no(switches[0])),
            ("ImmediateData", yes_no(switches[1])),
            ("DataSequenceInOrder", yes_no(!switches[2])),
            ("MaxRecvDataSegmentLength", &recv),
            ("MaxBurstLength", &burst),
            ("FirstBurstLength", &first),
            ("MaxOutstandingR2T", &outstanding),
        ]);
        config.data_out_max = data_out_max;
        peer.r2t_max = peer.r2t_max.min(r2t_max as u32);
        peer.r2ts_at_once = r2ts_at_once;
        peer.reverse_r2ts = switches[2];
        let mut conn = log_in(config, &mut peer);
        let data = pattern(blocks * BLOCK, seed);
        let mut command = write(block, &data);
        command.immediate_data_max = immediate_data_max;
        conn.command(NOW, command).unwrap();
        let events = talk(&mut conn, &mut peer, cut);
        prop_assert!(matches!(&events[..], [Event::Done(done)] if done.status == 0), "{:?}", events);
        conn.command(NOW, read(block, blocks as u16, data.len())).unwrap();
        let events = talk(&mut conn, &mut peer, cut);
        prop_assert!(matches!(&events[..], [Event::Done(done)] if done.data == data), "{:?}", events);
        prop_assert_eq!(conn.outstanding(), 0);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), logged_in: bool) {
        connection(&bytes, logged_in);
    }

    /// Headers that are nearly right lead deeper than noise does.
    #[test]
    fn arbitrary_pdus_do_not_panic(
        pdus in proptest::collection::vec((0usize..10, any::<[u8; 32]>(), 0usize..40), 1..8), logged_in: bool,
    ) {
        const OPCODES: [u8; 10] = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F];
        let mut bytes = Vec::new();
        for (opcode, fields, len) in pdus {
            let mut header = [0; 48];
            header[16..].copy_from_slice(&fields);
            header[8..16].copy_from_slice(&fields[..8]);
            (header[0], header[1], header[7]) = (OPCODES[opcode], fields[8] | 0x80, len as u8);
            // Mostly tags that are in use.
            header[16..20].copy_from_slice(&u32::from(fields[0] % 8).to_be_bytes());
            header[40..44].copy_from_slice(&u32::from(fields[1]).to_be_bytes());
            bytes.extend_from_slice(&header);
            bytes.resize(bytes.len() + len.next_multiple_of(4), 0x41);
        }
        let conn = connection(&bytes, logged_in);
        prop_assert!(conn.outstanding() <= 4);
    }
}

#[test]
fn a_read_that_comes_byte_by_byte_is_put_together() {
    let mut peer = Peer::new(&[]);
    peer.memory[0] = 0x5A;
    let (config, _) = agreed(&[]);
    let mut conn = log_in(config, &mut peer);
    conn.command(NOW, read(0, 1, BLOCK)).unwrap();
    let events = talk(&mut conn, &mut peer, 1);
    assert!(matches!(&events[..], [Event::Done(done)] if done.data[0] == 0x5A && done.collapsed));
}
