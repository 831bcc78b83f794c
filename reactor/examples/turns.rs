//! What the reactor itself costs: `cargo run --release -p spindle-reactor --example turns`.
//!
//! Numbers are the best of several runs, in nanoseconds per operation; a shared machine shows more.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use spindle_reactor::trace::{EventId, Record, Recorder};
use spindle_reactor::{
    Clock, CoreId, HardwareClock, Mesh, Pace, PollMode, Reactor, Shard, Tick, TimerToken, Timers, Turn,
    WakeSet, Work, ring,
};

/// The largest message of the data path: one cache line.
type Message = [u64; 8];

const RUNS: u32 = 7;

fn main() {
    report("clock read", best(1_000_000, clock_reads));
    report("empty turn, clock and accounting included", best(1_000_000, empty_turns));
    report("empty turn, one of 64 cores", best(1_000_000, empty_turns_of_many));
    report("ring: push and pop, 64 bytes, batches of 32", best(1_000_000, ring_batches));
    report("mailbox: request, reply and two flushes, one thread", best(300_000, round_trips));
    report("timers: arm and cancel among 10,000", best(1_000_000, timers_cancelled));
    report("timers: arm and fire among 10,000", best(1_000_000, timers_fired));
    report("flight recorder: one record", best(1_000_000, records));
    report("core to core and back, both polling", best(100_000, |n| ping_pong(n, PollMode::Always)));
    report("core to core and back, both asleep", best(20_000, |n| ping_pong(n, PollMode::Adaptive)));
}

fn report(what: &str, ns: f64) {
    println!("{ns:>9.1} ns  {what}");
}

fn best(count: u64, mut work: impl FnMut(u64)) -> f64 {
    (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            work(count);
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .fold(f64::INFINITY, f64::min)
}

/// A shard with nothing to do, for a number of turns.
struct Nothing {
    left: u64,
}

impl Shard for Nothing {
    type Msg = Message;

    fn on_message(&mut self, _: CoreId, _: Message, _: &mut Turn<'_, Message>) {}

    fn turn(&mut self, _: &mut Turn<'_, Message>) -> Work {
        self.left -= 1;
        if self.left == 0 { Work::Stop } else { Work::Idle { next: None } }
    }

    fn arm(&mut self, _: &mut WakeSet) -> bool {
        true
    }
}

fn always() -> Pace {
    Pace { mode: PollMode::Always, ..Pace::default() }
}

fn empty_turns(n: u64) {
    let mail = Mesh::new(1, 64).pop().expect("one core");
    Reactor::new(CoreId(0), None, Nothing { left: n }, mail, HardwareClock, always()).run().expect("runs");
}

fn empty_turns_of_many(n: u64) {
    let mail = Mesh::new(64, 1).remove(0);
    Reactor::new(CoreId(0), None, Nothing { left: n }, mail, HardwareClock, always()).run().expect("runs");
}

fn ring_batches(n: u64) {
    let (mut tx, mut rx) = ring::ring::<Message>(64);
    for batch in 0..n / 32 {
        for _ in 0..32 {
            tx.push([batch; 8]).expect("room for a batch");
        }
        tx.publish();
        while let Some(message) = rx.pop() {
            black_box(message);
        }
    }
}

fn round_trips(n: u64) {
    let mut boxes = Mesh::<Message>::new(2, 64);
    let mut b = boxes.pop().expect("two cores");
    let mut a = boxes.pop().expect("two cores");
    for n in 0..n {
        a.request(CoreId(1), [n; 8]);
        a.flush();
        b.begin();
        while let Some((from, message)) = b.take() {
            b.reply(from, message);
        }
        b.finish();
        b.flush();
        a.drain(64, |_, message| {
            black_box(message);
        });
    }
}

fn clock_reads(n: u64) {
    for _ in 0..n {
        black_box(HardwareClock.now());
    }
}

fn ten_thousand() -> Timers {
    let mut timers = Timers::new(16_384, 16_384);
    for n in 0..10_000 {
        timers.arm(Tick::ZERO.plus_ms(600_000 + n), TimerToken(n));
    }
    timers
}

fn timers_cancelled(n: u64) {
    let mut timers = ten_thousand();
    for n in 0..n {
        let id = timers.arm(Tick::ZERO.plus_ms(30_000 + n % 64), TimerToken(n));
        black_box(timers.cancel(id));
    }
}

fn timers_fired(n: u64) {
    let (mut timers, mut fired) = (ten_thousand(), Vec::new());
    for ms in 0..n / 16 {
        for token in 0..16 {
            timers.arm(Tick::ZERO.plus_ms(ms + 100 + token), TimerToken(token));
        }
        timers.expire(Tick::ZERO.plus_ms(ms), &mut fired);
        fired.clear();
    }
}

fn records(n: u64) {
    let mut recorder = Recorder::new(CoreId(0), 4096);
    for n in 0..n {
        recorder.record(Record { at: Tick(n), event: EventId(1), small: 2, task: 3, args: [n, 4] });
    }
}

/// Sends a ball back and forth; core 0 counts.
struct Player {
    left: u64,
    serve: bool,
    over: bool,
}

impl Shard for Player {
    type Msg = Message;

    fn on_message(&mut self, from: CoreId, ball: Message, cx: &mut Turn<'_, Message>) {
        if from == CoreId(0) {
            self.over = ball[0] == 0;
            cx.mail.reply(from, ball);
        } else {
            self.left -= 1;
            self.serve = true;
        }
    }

    fn turn(&mut self, cx: &mut Turn<'_, Message>) -> Work {
        if self.over || (self.left == 0 && cx.core == CoreId(0)) {
            return Work::Stop;
        }
        if std::mem::take(&mut self.serve) {
            cx.mail.request(CoreId(1), [self.left - 1; 8]);
        }
        Work::Idle { next: None }
    }

    fn arm(&mut self, _: &mut WakeSet) -> bool {
        true
    }
}

fn ping_pong(n: u64, mode: PollMode) {
    // Asleep at once in one case, never in the other.
    let pace = Pace {
        mode,
        spin: Duration::ZERO,
        spin_max: Duration::ZERO,
        yielding: Duration::ZERO,
        yielding_owed: Duration::ZERO,
        ..Pace::default()
    };
    let players: Vec<_> = Mesh::new(2, 64)
        .into_iter()
        .enumerate()
        .map(|(core, mail)| {
            thread::spawn(move || {
                let player = Player { left: n, serve: core == 0, over: false };
                let core = CoreId(core as u8);
                Reactor::new(core, None, player, mail, HardwareClock, pace).run().expect("runs");
            })
        })
        .collect();
    players.into_iter().for_each(|p| p.join().expect("plays to the end"));
}
