//! The generator against the responder of this crate: every way of reading and writing, verified.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use spindle_perf::load;
use spindle_perf::report::Report;
use spindle_perf::respond::{self, Disk};
use spindle_perf::workload::{Mix, Order, Rate, Workload, WriteOffers};

/// Both sides poll: one pair at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a workload against a responder of its own.
fn run(disk: Disk, work: &Workload) -> anyhow::Result<Report> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("iscsi://{}/{}/0", listener.local_addr().unwrap(), respond::TARGET).parse().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| respond::serve(&listener, disk, &stop));
        let report = load::run(&url, work);
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        report
    })
}

fn verified(change: impl FnOnce(&mut Workload)) -> Report {
    let mut work = Workload {
        mix: Mix { write_percent: 40 },
        depth: 8,
        verify: true,
        ops: Some(4000),
        time: Duration::from_secs(60),
        ..Workload::default()
    };
    change(&mut work);
    let report = run(Disk::ram(4 << 20), &work).unwrap();
    assert_eq!(report.latency.count, work.ops.unwrap());
    assert!(report.verified > 0 && report.verified == report.read.count, "{report:?}");
    assert_eq!(report.outstanding_max, u32::from(work.depth) * work.sessions);
    report
}

#[test]
fn what_was_written_is_read_back_at_random() {
    let report = verified(|_| {});
    assert_eq!(report.r2ts, 0, "4 KiB fit into immediate data");
}

#[test]
fn what_was_written_is_read_back_in_sequence_by_several_sessions() {
    verified(|w| {
        w.order = Order::Sequential;
        w.sessions = 3;
    });
}

#[test]
fn what_was_written_is_read_back_under_both_digests() {
    verified(|w| (w.header_digest, w.data_digest) = (true, true));
    verified(|w| (w.header_digest, w.data_digest, w.offers.immediate) = (false, true, false));
    verified(|w| (w.header_digest, w.data_digest) = (true, false));
}

#[test]
fn solicited_writes_answer_an_r2t_each() {
    let report =
        verified(|w| w.offers = WriteOffers { initial_r2t: true, immediate: false, unsolicited: false });
    assert_eq!(report.r2ts, report.write.count);
}

#[test]
fn unsolicited_data_needs_no_r2t() {
    let report =
        verified(|w| w.offers = WriteOffers { initial_r2t: false, immediate: false, unsolicited: true });
    assert_eq!(report.r2ts, 0);
}

#[test]
fn long_commands_go_through_immediate_unsolicited_and_solicited_data() {
    // FirstBurstLength is 64 KiB, an R2T asks for at most 256 KiB.
    for (immediate, unsolicited, r2ts) in
        [(true, false, 2), (true, true, 2), (false, true, 2), (false, false, 2)]
    {
        let report = verified(|w| {
            (w.bs, w.depth, w.ops) = (512 << 10, 4, Some(200));
            w.offers = WriteOffers { initial_r2t: false, immediate, unsolicited };
        });
        assert_eq!(report.r2ts, report.write.count * r2ts);
    }
}

#[test]
fn writes_laid_out_beforehand_carry_correct_digests() {
    let work = Workload {
        mix: Mix::WRITE,
        header_digest: true,
        data_digest: true,
        ops: Some(5000),
        ..Workload::default()
    };
    assert_eq!(run(Disk::null(), &work).unwrap().write.count, 5000);
}

#[test]
fn a_target_that_returns_other_data_is_caught() {
    // The memory is smaller than what is claimed: addresses fall on each other.
    let work =
        Workload { mix: Mix { write_percent: 50 }, verify: true, ops: Some(20_000), ..Workload::default() };
    let disk = Disk { bytes: 1 << 20, claimed: 4 << 20 };
    let error = run(disk, &work).expect_err("nothing was found");
    assert!(format!("{error:#}").contains("returned wrong data"), "{error:#}");
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let work = Workload {
        rate: Some(Rate { per_second: 5000.0, poisson: true }),
        warmup: Duration::ZERO,
        time: Duration::from_millis(600),
        ..Workload::default()
    };
    let report = run(Disk::null(), &work).unwrap();
    let expected = 5000.0 * 0.6;
    // On a machine that is busy otherwise some are late, but none may be forgotten.
    let due = (report.latency.count + report.unsent) as f64;
    assert!((due - expected).abs() < expected * 0.2, "{report:?}");
}

#[test]
fn the_latency_of_an_overloaded_target_counts_from_when_commands_were_due() {
    // No target on loopback does 50 million a second: the queue grows all the time, and so must the latency.
    let work = Workload {
        rate: Some(Rate { per_second: 5e7, poisson: false }),
        warmup: Duration::from_millis(10),
        time: Duration::from_millis(400),
        depth: 4,
        ..Workload::default()
    };
    let report = run(Disk::null(), &work).unwrap();
    assert!(report.unsent > 0);
    assert!(report.latency.max > 200_000.0, "{report:?}");
}

#[test]
fn idle_sessions_stay_beside_a_busy_one() {
    let work = Workload { idle_sessions: 40, ops: Some(2000), ..Workload::default() };
    assert_eq!(run(Disk::null(), &work).unwrap().latency.count, 2000);
}

#[test]
fn a_logical_unit_that_is_not_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url =
        format!("iscsi://{}/iqn.2026-01.org.example:x/0", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    assert!(load::run(&url, &Workload::default()).is_err());
}
