//! How much R2Ts ask for at a time, and who waits for one.

mod support;

use std::collections::VecDeque;

use spindle_iscsi_wire::{Itt, R2t, SerialNumber, TargetPdu, TmfFunction, TmfRequest, TmfResult};
use support::{Host, Pdu, World, config};

const MIN: u32 = 16_384;
const KEYS: [&str; 3] = ["ImmediateData=No", "InitialR2T=Yes", "MaxBurstLength=65536"];

fn world() -> World {
    let mut config = config();
    (config.limits.solicited_min, config.limits.solicited_max) = (MIN, MIN);
    World::new(config, None, [64, 32, 16, 4, 2, 0])
}

fn r2ts(pdus: &[Pdu]) -> Vec<R2t> {
    pdus.iter().filter_map(|p| if let TargetPdu::R2t(r) = p.parse() { Some(r) } else { None }).collect()
}

fn good(pdus: &[Pdu]) -> Vec<Itt> {
    let end = |p: &Pdu| match p.parse() {
        TargetPdu::ScsiResponse(r) => Some((r.itt, r.status)),
        _ => None,
    };
    pdus.iter().filter_map(end).inspect(|(_, status)| assert_eq!(*status, 0)).map(|(itt, _)| itt).collect()
}

/// Sends so many writes of `blocks` blocks, each filled with its number.
fn writes(w: &mut World, h: &mut Host, count: u8, blocks: u16) -> Vec<Itt> {
    let send = |n: u8| {
        let c = h.write10(u32::from(n) * u32::from(blocks), blocks);
        h.send(w, &c.to_bhs(), &[]);
        c.itt
    };
    (0..count).map(send).collect()
}

fn answer(w: &mut World, h: &Host, r: &R2t, fill: u8) {
    let bhs = h.data_out(r.itt, r.ttt, 0, r.buffer_offset, r.desired_len, true);
    h.send(w, &bhs, &vec![fill; r.desired_len as usize]);
    w.run();
}

#[test]
fn no_more_is_out_than_may_be_and_all_get_their_turn_in_order() {
    let mut w = world();
    let mut h = Host::login(&mut w, 1, &KEYS);
    let itts = writes(&mut w, &mut h, 6, 64);
    w.run();
    let (mut out, mut begun, mut ended) = (VecDeque::new(), Vec::new(), Vec::new());
    loop {
        let sent = h.sent(&mut w);
        ended.extend(good(&sent));
        for r in r2ts(&sent) {
            if r.buffer_offset == 0 {
                begun.push(r.itt);
            }
            out.push_back(r);
        }
        // The first had the way for itself when it began; a piece of half the bound may go beyond it.
        let bytes: u32 = out.iter().map(|r| r.desired_len).sum();
        assert!(
            bytes <= if ended.is_empty() { 32_768 + MIN / 2 } else { MIN + MIN / 2 },
            "{bytes} bytes are out"
        );
        let Some(r) = out.pop_front() else { break };
        answer(&mut w, &h, &r, r.itt.0 as u8);
    }
    assert_eq!((&begun, &ended), (&itts, &itts));
    for (n, itt) in itts.iter().enumerate() {
        assert!(w.mid.disk[n * 32_768..][..32_768].iter().all(|b| *b == itt.0 as u8), "write {n}");
    }
    w.check_quiet();
}

/// Three writes: the first was asked for, the second too, the third waits.
fn third_waits(w: &mut World) -> (Host, Vec<Itt>, Vec<R2t>) {
    let mut h = Host::login(w, 1, &KEYS);
    let itts = writes(w, &mut h, 3, 16);
    w.run();
    let asked = r2ts(&h.sent(w));
    assert_eq!(asked.iter().map(|r| r.itt).collect::<Vec<_>>(), itts[..2]);
    (h, itts, asked)
}

fn abort(w: &mut World, h: &mut Host, itt: Itt) -> Vec<Pdu> {
    h.itt += 1;
    let request = TmfRequest {
        immediate: true,
        function: TmfFunction::AbortTask,
        lun: [0; 8],
        itt: Itt(h.itt),
        referenced_itt: itt,
        cmd_sn: SerialNumber(h.cmd_sn),
        exp_stat_sn: SerialNumber(h.exp_stat_sn),
        ref_cmd_sn: SerialNumber(h.cmd_sn - 1),
        exp_data_sn: SerialNumber(0),
    };
    h.send(w, &request.to_bhs(), &[]);
    w.run();
    w.pass_ms(2_000);
    let sent = h.sent(w);
    let done = |p: &Pdu| matches!(p.parse(), TargetPdu::TmfResponse(r) if r.result == TmfResult::Complete);
    assert!(sent.iter().any(done), "{sent:?}");
    sent
}

fn log_out(w: &mut World, h: &mut Host) {
    let bhs = h.logout();
    h.send(w, &bhs, &[]);
    w.run();
    w.check_quiet();
}

/// RFC 7143 §11.5.1 lets the initiator send what an aborted task was asked for; many do not.
#[test]
fn nobody_waits_for_data_of_a_task_that_was_aborted() {
    let mut w = world();
    let (mut h, itts, asked) = third_waits(&mut w);
    let sent = abort(&mut w, &mut h, itts[0]);
    let next = r2ts(&sent);
    assert_eq!(next.iter().map(|r| r.itt).collect::<Vec<_>>(), [itts[2]], "{sent:?}");
    // What comes all the same counts for nobody.
    for (r, fill) in [(asked[0], 9), (asked[1], 1), (next[0], 2)] {
        answer(&mut w, &h, &r, fill);
    }
    assert_eq!(good(&h.sent(&mut w)), [itts[1], itts[2]]);
    let blocks = [0, 8_192, 16_384].map(|at| w.mid.disk[at]);
    assert_eq!(blocks, [0, 1, 2]);
    w.check_quiet();
    // Nothing is left over: the next four are asked for as the first three were.
    let itts = writes(&mut w, &mut h, 4, 16);
    w.run();
    let asked = r2ts(&h.sent(&mut w));
    assert_eq!(asked.iter().map(|r| r.itt).collect::<Vec<_>>(), itts[..2]);
    log_out(&mut w, &mut h);
}

#[test]
fn a_task_that_is_aborted_in_line_is_forgotten() {
    let mut w = world();
    let (mut h, itts, asked) = third_waits(&mut w);
    assert!(r2ts(&abort(&mut w, &mut h, itts[2])).is_empty());
    for (r, fill) in asked.iter().zip(1..) {
        answer(&mut w, &h, r, fill);
    }
    let sent = h.sent(&mut w);
    assert_eq!(good(&sent), itts[..2]);
    assert!(r2ts(&sent).is_empty());
    w.check_quiet();
}

/// A session that ends takes its line along.
#[test]
fn a_session_may_end_while_tasks_wait() {
    let mut w = world();
    let (mut h, ..) = third_waits(&mut w);
    log_out(&mut w, &mut h);
}
