//! Flushes that no command waits for (IMMED).

use super::*;

const SYNC: [u8; 10] = [0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0];
const STOP: [u8; 6] = [0x1B, 1, 0, 0, 0, 0];

fn request_sense(w: &mut World, n: NexusId) -> Vec<u8> {
    w.ask(n, &[0x03, 0, 0, 0, 252, 0], 252, &[]).data
}

fn is_flush(e: &Event) -> bool {
    matches!(e, Event::Io(..))
}

/// Sends a command that does not wait for its flush, which is held at the device.
fn flush(w: &mut World, n: NexusId, cdb: &[u8]) {
    let at = w.send(n, cdb, 0, &[]);
    w.run_but(is_flush);
    assert_eq!(w.cmds[at].answer.as_ref().unwrap().status, Status::Good, "{cdb:02X?}");
}

fn two(cores: u8) -> (World, [NexusId; 2]) {
    let mut w = World::new(cores);
    let n = [w.nexus(0, 1), w.nexus(cores - 1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    (w, n)
}

#[test]
fn immed_is_answered_before_the_flush_and_many_share_the_next() {
    for cdb in [&SYNC[..], &STOP[..], &[0x91, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0]] {
        let (mut w, [a, b]) = two(1);
        flush(&mut w, a, cdb);
        assert_eq!(w.io[0].len(), 1);
        for _ in 0..50 {
            flush(&mut w, a, cdb);
            flush(&mut w, b, cdb);
        }
        assert_eq!(w.io[0].len(), 1, "one at a time");
        w.happen(Event::Io(0, 0));
        assert_eq!(w.io[0].len(), 1, "one more for all who asked meanwhile");
        w.run();
        assert_eq!(w.log, [(Op::Flush, 0, DISK_BLOCKS as u32, IoFlags::NONE); 2]);
        w.assert_quiet();
    }
}

#[test]
fn immed_is_refused_as_any_other_and_flushes_nothing_where_nothing_is_to_be_flushed() {
    let (mut w, n) = World::ready();
    let mut beyond = SYNC;
    beyond[2] = 1;
    let out_of_range = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE));
    assert_eq!(w.ask(n, &beyond, 0, &[]).asc(), out_of_range);
    // Start; stop with NO_FLUSH; a power condition.
    for byte in [0x01, 0x04, 0x30] {
        assert_eq!(w.ask(n, &[0x1B, 1, 0, 0, byte, 0], 0, &[]).status, Status::Good);
    }
    assert_eq!(w.log, []);
    w.assert_quiet();
}

#[test]
fn a_flush_that_fails_afterwards_is_told_once_to_each_who_asked_for_it() {
    let (mut w, [a, b]) = two(1);
    flush(&mut w, a, &SYNC);
    flush(&mut w, a, &STOP);
    flush(&mut w, b, &SYNC);
    w.fail = Some((Op::Flush, BlockError::MediumWrite));
    w.happen(Event::Io(0, 0));
    w.fail = None;
    // INQUIRY passes it by; the command that tells of it is not performed.
    assert_eq!(w.ask(a, &[0x12, 0, 0, 0, 36, 0], 36, &[]).status, Status::Good);
    let told = w.ask(a, &write(0, 1), 0, &blocks(7, 1));
    assert_eq!(told.asc(), Some((SenseKey::MediumError, Asc::WRITE_ERROR)));
    assert!(told.sense.unwrap().is_deferred());
    assert!(w.log.iter().all(|(op, ..)| *op == Op::Flush), "{:?}", w.log);
    assert_eq!(w.ask(a, &write(0, 1), 0, &blocks(7, 1)).status, Status::Good);
    assert_eq!(w.ask(b, &TUR, 0, &[]).status, Status::Good, "its own flush went well");
    // By REQUEST SENSE it is told as data.
    flush(&mut w, b, &SYNC);
    w.fail = Some((Op::Flush, BlockError::Os(5)));
    w.run();
    let data = request_sense(&mut w, b);
    assert_eq!((data[0] & 0x7F, data[2], data[12]), (0x71, SenseKey::HardwareError as u8, 0x44));
    assert_eq!(request_sense(&mut w, b)[2], 0);
    w.assert_quiet();
}

#[test]
fn a_flush_that_fails_tells_nobody_who_came_into_the_place_of_one_who_asked() {
    let (mut w, [a, _]) = two(1);
    flush(&mut w, a, &SYNC);
    flush(&mut w, a, &SYNC);
    w.lose(a);
    w.run_but(is_flush);
    assert_eq!(w.gone, [a], "a session does not wait for it");
    let again = w.nexus(0, 1);
    w.run_but(is_flush);
    w.fail = Some((Op::Flush, BlockError::MediumWrite));
    w.run();
    let power_on = Some((SenseKey::UnitAttention, Asc::POWER_ON_OR_RESET_OCCURRED));
    assert_eq!(w.ask(again, &TUR, 0, &[]).asc(), power_on);
    assert_eq!(w.ask(again, &TUR, 0, &[]).status, Status::Good);
    assert_eq!(w.engine(0).lu_stats(LU).unwrap().errors, 2, "both were tried");
    w.assert_quiet();
}

#[test]
fn no_task_management_waits_for_it_and_a_reset_takes_no_error_away() {
    use TmfFunction::*;
    let (mut w, [a, b]) = two(2);
    flush(&mut w, b, &SYNC);
    for function in [AbortTaskSet, ClearTaskSet, LogicalUnitReset, TargetWarmReset, ITNexusReset] {
        let tmf = w.tmf(a, function);
        w.run_but(is_flush);
        assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete), "{function:?}");
    }
    assert_eq!(w.hinted, []);
    assert_eq!(w.engine(1).list_tasks(), []);
    w.fail = Some((Op::Flush, BlockError::MediumWrite));
    w.run();
    let reset = Some((SenseKey::UnitAttention, Asc::POWER_ON_OR_RESET_OCCURRED));
    assert_eq!(w.ask(b, &TUR, 0, &[]).asc(), reset);
    assert!(w.ask(b, &TUR, 0, &[]).sense.unwrap().is_deferred());
    let tmf = w.tmf(b, QueryAsyncEvent);
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    w.assert_quiet();
}

#[test]
fn a_unit_that_is_to_go_waits_for_its_flushes() {
    let (mut w, [a, _]) = two(1);
    flush(&mut w, a, &SYNC);
    flush(&mut w, a, &SYNC);
    w.engine(0).set_lun_map(1, &[]);
    w.engine(0).close_lu(LU);
    w.drain(0);
    for _ in 0..2 {
        w.run_but(is_flush);
        assert_eq!(w.closed, []);
        w.happen(Event::Io(0, 0));
    }
    w.run();
    assert_eq!(w.closed, [(0, LU)]);
    assert_eq!(w.log.len(), 2);
}
