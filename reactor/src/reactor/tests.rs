//! Tests of the loop, in one thread with a simulated clock and in threads with the real one.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Instant;

use spindle_ffi_os::EventFd;

use crate::clock::{HardwareClock, SimClock};
use crate::mailbox::Mesh;
use crate::pace::PollMode;
use crate::timer::TimerToken;

use super::*;

/// Does what the test tells it, and writes down what happens.
#[derive(Default)]
struct Script {
    works: VecDeque<Work>,
    got: Vec<(u8, u32)>,
    fired: Vec<TimerToken>,
    fds: Vec<RawFd>,
    turns: u32,
    arms: u32,
    refuse_arm: u32,
    stop_at_message: Option<u32>,
    stop_at_timer: bool,
    /// What a busy turn takes.
    busy_for: Duration,
}

impl Shard for Script {
    type Msg = u32;

    fn on_message(&mut self, from: CoreId, msg: u32, cx: &mut Turn<'_, u32>) {
        self.got.push((from.0, msg));
        if from != CoreId::OUTSIDE {
            cx.mail.reply(from, msg + 1000);
        }
    }

    fn turn(&mut self, cx: &mut Turn<'_, u32>) -> Work {
        self.turns += 1;
        let fired = self.fired.len();
        cx.timers.expire(cx.now, &mut self.fired);
        if self.stop_at_message.is_some_and(|m| self.got.iter().any(|g| g.1 == m)) {
            return Work::Stop;
        }
        if self.fired.len() > fired {
            return if self.stop_at_timer { Work::Stop } else { Work::Busy(1) };
        }
        let work = self.works.pop_front().unwrap_or(Work::Idle { next: None });
        if matches!(work, Work::Busy(_)) {
            thread::sleep(self.busy_for);
        }
        work
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        self.arms += 1;
        self.fds.iter().for_each(|&fd| wake.fd(fd));
        self.refuse_arm = self.refuse_arm.saturating_sub(1);
        self.refuse_arm == 0
    }
}

const ZERO: Duration = Duration::ZERO;
const SLEEPY: Pace = Pace {
    mode: PollMode::Adaptive,
    spin: ZERO,
    spin_max: ZERO,
    yielding: ZERO,
    yielding_owed: ZERO,
    mail_budget: 4,
};

fn alone(shard: Script, pace: Pace) -> Reactor<Script, HardwareClock> {
    let mail = Mesh::new(1, 4).pop().unwrap();
    Reactor::new(CoreId(0), None, shard, mail, HardwareClock, pace)
}

#[test]
fn a_turn_takes_messages_within_its_budget_and_flushes_what_they_cause() {
    let clock = SimClock::new(Tick(5));
    let mut boxes = Mesh::new(2, 16);
    let mut peer = boxes.pop().unwrap();
    let mail = boxes.pop().unwrap();
    let mut reactor = Reactor::new(CoreId(0), None, Script::default(), mail, clock, SLEEPY);
    (0..6).for_each(|n| peer.request(CoreId(0), n));
    peer.flush();
    reactor.turn(Tick(5));
    let mut answers = Vec::new();
    peer.drain(100, |from, m| answers.push((from.0, m)));
    assert_eq!(answers, [(0, 1000), (0, 1001), (0, 1002), (0, 1003)]);
    reactor.turn(Tick(6));
    assert_eq!(reactor.shard_mut().got.len(), 6);
    assert_eq!(reactor.load.messages, 6);
}

#[test]
fn a_timer_ends_the_sleep_in_time() {
    let script = Script { stop_at_timer: true, ..Script::default() };
    let mut reactor = alone(script, SLEEPY);
    let start = HardwareClock.now();
    reactor.timers.arm(start + Duration::from_millis(100), TimerToken(7));
    reactor.run().unwrap();
    let took = HardwareClock.now().since(start);
    assert!(took >= Duration::from_millis(100), "{took:?}");
    let load = reactor.stats().load(HardwareClock.now());
    assert!(load.sleeps >= 1 && load.asleep_ns > 10_000_000, "{load:?}");
    assert_eq!(load.wakes, 0);
    let shard = reactor.into_shard();
    assert_eq!(shard.fired, [TimerToken(7)]);
    // A handful of turns: one before, one after, a few when the wheel sorts more finely.
    assert!(shard.turns < 20, "{} turns", shard.turns);
}

#[test]
fn the_patience_of_an_idle_shard_bounds_the_sleep() {
    let start = Instant::now();
    let next = Some(HardwareClock.now() + Duration::from_millis(100));
    let works = VecDeque::from([Work::Idle { next }, Work::Stop]);
    let mut reactor = alone(Script { works, ..Script::default() }, SLEEPY);
    reactor.run().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(reactor.stats().load(HardwareClock.now()).sleeps, 1);
}

#[test]
fn a_message_from_another_thread_wakes_the_core() {
    let mut reactor = alone(Script { stop_at_message: Some(9), ..Script::default() }, SLEEPY);
    let (poster, stats) = (reactor.mail.poster(), reactor.stats());
    let helper = thread::spawn(move || {
        while stats.load(HardwareClock.now()).asleep_ns == 0 {
            thread::yield_now();
        }
        poster.post(9).unwrap();
    });
    reactor.run().unwrap();
    helper.join().unwrap();
    assert_eq!(reactor.stats().load(Tick(u64::MAX)).wakes, 1);
    assert_eq!(reactor.into_shard().got, [(255, 9)]);
}

#[test]
fn a_descriptor_the_shard_named_wakes_the_core() {
    let event = EventFd::new().unwrap();
    event.ring();
    let works = VecDeque::from([Work::Idle { next: None }, Work::Stop]);
    let mut reactor = alone(Script { works, fds: vec![event.as_raw_fd()], ..Script::default() }, SLEEPY);
    reactor.run().unwrap();
    let load = reactor.stats().load(HardwareClock.now());
    assert_eq!((load.sleeps, load.wakes), (1, 1));
}

#[test]
fn a_shard_that_refuses_to_arm_gets_another_turn_instead_of_sleep() {
    let works = VecDeque::from([Work::Idle { next: None }, Work::Idle { next: None }, Work::Stop]);
    let mut reactor = alone(Script { works, refuse_arm: 10, ..Script::default() }, SLEEPY);
    reactor.run().unwrap();
    assert_eq!(reactor.stats().load(HardwareClock.now()).sleeps, 0);
    assert_eq!(reactor.into_shard().arms, 2);
}

#[test]
fn a_closed_descriptor_is_an_error_and_not_a_busy_loop() {
    let mut reactor = alone(Script { fds: vec![1_000_000], ..Script::default() }, SLEEPY);
    let error = reactor.run().unwrap_err();
    assert!(error.to_string().contains("core 0 was to wait for descriptor 1000000"), "{error}");
}

#[test]
fn a_processor_that_does_not_exist_is_an_error_that_names_it() {
    let mail = Mesh::new(1, 4).pop().unwrap();
    let mut reactor =
        Reactor::new(CoreId(0), Some(5000), Script::default(), mail, HardwareClock, Pace::default());
    assert!(reactor.run().unwrap_err().to_string().contains("processor 5000"));
}

#[test]
fn always_polling_never_sleeps_and_counts_empty_turns_as_idle() {
    let works =
        (0..1000).map(|_| Work::Idle { next: None }).chain([Work::Busy(3), Work::Busy(0), Work::Stop]);
    let pace = Pace { mode: PollMode::Always, ..SLEEPY };
    let mut reactor = alone(Script { works: works.collect(), ..Script::default() }, pace);
    let start = HardwareClock.now();
    reactor.run().unwrap();
    let end = HardwareClock.now();
    let load = reactor.stats().load(end);
    assert_eq!((load.turns, load.busy_turns, load.events, load.sleeps), (1003, 1, 3, 0));
    assert!(load.idle_ns > 0, "{load:?}");
    assert!(load.idle_ns + load.busy_ns <= end.since(start).as_nanos() as u64);
    assert_eq!(reactor.into_shard().arms, 0);
}

#[test]
fn an_adaptive_core_spins_and_yields_before_it_sleeps() {
    let ms = Duration::from_millis;
    let pace = Pace { spin: ms(2), spin_max: ms(2), yielding: ms(2), ..Pace::default() };
    let mut reactor = alone(Script { stop_at_timer: true, ..Script::default() }, pace);
    reactor.timers.arm(HardwareClock.now() + Duration::from_millis(150), TimerToken(1));
    reactor.run().unwrap();
    let load = reactor.stats().load(HardwareClock.now());
    assert!(load.idle_ns >= 4_000_000, "polls for the time of spinning and yielding: {load:?}");
    assert!(load.sleeps >= 1 && load.turns > 10, "{load:?}");
}

#[test]
fn a_core_is_as_patient_after_a_long_turn_as_after_a_short_one() {
    let ms = Duration::from_millis;
    let pace = Pace { spin: ms(200), spin_max: ms(200), yielding: ZERO, ..Pace::default() };
    // A turn longer than its patience: it must not sleep right after it, when the answer to what it sent is on the way.
    let works =
        [Work::Busy(1)].into_iter().chain((0..1000).map(|_| Work::Idle { next: None })).chain([Work::Stop]);
    let mut reactor = alone(Script { works: works.collect(), busy_for: ms(300), ..Script::default() }, pace);
    reactor.run().unwrap();
    let load = reactor.stats().load(HardwareClock.now());
    assert_eq!((load.turns, load.busy_turns, load.sleeps), (1002, 1, 0));
}
