//! Two cores that fall asleep at random moments, a stream of messages between them and of events on a
//! descriptor: whatever the timing, nothing waits for ever. No timer is armed and no sleep has a deadline, so a
//! lost wake-up stops the test; the watchdog then ends it with what each side was waiting for.
//!
//! `cargo test` runs a part; the full million runs with `SPINDLE_WAKE_ROUNDS=1000000` or as the ignored test.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use spindle_ffi_os::EventFd;
use spindle_reactor::{
    CoreId, HardwareClock, Mailbox, Mesh, Pace, PollMode, Reactor, Shard, Turn, WakeSet, Work,
};

#[derive(Clone, Copy, Debug)]
enum Msg {
    /// One round of the game; answered.
    Ball(u64),
    Back(u64),
    /// No more rounds come.
    Over,
}

/// What the watchdog looks at.
#[derive(Default)]
struct Progress {
    rounds: AtomicU64,
    rings: AtomicU64,
    done: AtomicBool,
}

/// One side. The server asks, by message or by descriptor as chance has it, and waits for the answer to come
/// the same way; in between both do random amounts of nothing, so that sleeps begin at all distances from posts.
struct Side {
    server: bool,
    rounds: u64,
    random: fastrand::Rng,
    progress: Arc<Progress>,
    /// Ours to read, and the peer's to ring.
    mine: Arc<EventFd>,
    theirs: Arc<EventFd>,
    served: u64,
    waiting: bool,
    over: bool,
}

impl Side {
    fn dawdle(&mut self) {
        // Around the length of a turn, of a sleep, and nothing at all.
        let spins = match self.random.u8(0..4) {
            0 => 0,
            1 => self.random.u32(0..20),
            2 => self.random.u32(0..100),
            _ => self.random.u32(0..400),
        };
        for _ in 0..spins {
            std::hint::spin_loop();
        }
    }

    fn answered(&mut self) {
        assert!(self.server && self.waiting, "an answer to a question nobody asked");
        self.waiting = false;
    }
}

impl Shard for Side {
    type Msg = Msg;

    fn on_message(&mut self, from: CoreId, msg: Msg, cx: &mut Turn<'_, Msg>) {
        match msg {
            Msg::Ball(n) => {
                self.dawdle();
                cx.mail.reply(from, Msg::Back(n));
            }
            Msg::Back(n) => {
                assert_eq!(n, self.served, "each answer comes once and in order");
                self.answered();
            }
            Msg::Over => self.over = true,
        }
    }

    fn turn(&mut self, cx: &mut Turn<'_, Msg>) -> Work {
        if self.over {
            return Work::Stop;
        }
        let rung = self.mine.drain();
        if rung {
            self.progress.rings.fetch_add(1, Ordering::Relaxed);
            if self.server {
                self.answered();
            } else {
                self.dawdle();
                self.theirs.ring();
            }
        }
        if self.server && !self.waiting {
            if self.served == self.rounds {
                cx.mail.notify(CoreId(1), Msg::Over);
                return Work::Stop;
            }
            self.dawdle();
            self.served += 1;
            self.progress.rounds.store(self.served, Ordering::Relaxed);
            self.waiting = true;
            if self.random.bool() {
                cx.mail.request(CoreId(1), Msg::Ball(self.served));
            } else {
                self.theirs.ring();
            }
            return Work::Busy(1);
        }
        if rung { Work::Busy(1) } else { Work::Idle { next: None } }
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        self.dawdle();
        wake.fd(self.mine.as_raw_fd());
        true
    }
}

fn play(rounds: u64, seed: u64) {
    let progress = Arc::new(Progress::default());
    let fds = [Arc::new(EventFd::new().unwrap()), Arc::new(EventFd::new().unwrap())];
    let mails: Vec<Mailbox<Msg>> = Mesh::new(2, 1);
    let cores: Vec<_> = mails
        .into_iter()
        .enumerate()
        .map(|(n, mail)| {
            let side = Side {
                server: n == 0,
                rounds,
                random: fastrand::Rng::with_seed(seed + n as u64),
                progress: progress.clone(),
                mine: fds[n].clone(),
                theirs: fds[1 - n].clone(),
                served: 0,
                waiting: false,
                over: false,
            };
            thread::spawn(move || {
                // No spinning: every idle turn tries to sleep at once.
                let zero = Duration::ZERO;
                let pace = Pace {
                    mode: PollMode::Adaptive,
                    spin: zero,
                    spin_max: zero,
                    yielding: zero,
                    yielding_owed: zero,
                    mail_budget: 4,
                };
                let mut reactor = Reactor::new(CoreId(n as u8), None, side, mail, HardwareClock, pace);
                reactor.run().unwrap();
                reactor.stats().load(spindle_reactor::Clock::now(&HardwareClock))
            })
        })
        .collect();
    let watchdog = thread::spawn({
        let progress = progress.clone();
        move || {
            let mut last = (0, 0);
            while !progress.done.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_secs(20));
                let seen = (progress.rounds.load(Ordering::Relaxed), progress.rings.load(Ordering::Relaxed));
                if seen == last && !progress.done.load(Ordering::Relaxed) {
                    eprintln!("an event was lost (seed {seed}): nothing moves after round {seen:?}");
                    std::process::abort();
                }
                last = seen;
            }
        }
    });
    let loads: Vec<_> = cores.into_iter().map(|c| c.join().unwrap()).collect();
    progress.done.store(true, Ordering::Relaxed);
    watchdog.thread().unpark();
    watchdog.join().unwrap();
    assert_eq!(progress.rounds.load(Ordering::Relaxed), rounds);
    let sleeps: u64 = loads.iter().map(|l| l.sleeps).sum();
    eprintln!("{rounds} rounds, {sleeps} sleeps, {} rings", progress.rings.load(Ordering::Relaxed));
    assert!(sleeps > rounds / 100, "the cores hardly slept: {loads:?}");
}

fn rounds() -> u64 {
    match std::env::var("SPINDLE_WAKE_ROUNDS") {
        Ok(text) => text.parse().expect("SPINDLE_WAKE_ROUNDS is a number of rounds"),
        Err(_) => 30_000,
    }
}

#[test]
fn random_sleeps_lose_no_event() {
    play(rounds(), 0x5EED);
}

#[test]
#[ignore = "ten seconds on an idle machine: the step `wake` of ci/test"]
fn a_million_random_sleeps_lose_no_event() {
    play(1_000_000, 0xB0B5);
}

#[test]
fn the_handles_that_cross_threads_are_send() {
    fn send<T: Send>() {}
    send::<Mailbox<Msg>>();
    send::<spindle_reactor::Poster<Msg>>();
    send::<Arc<spindle_reactor::CoreStats>>();
}
