//! The loop that drives a shard on its core.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use spindle_ffi_os::{PollFd, cpu, poll};

use crate::clock::Clock;
use crate::core_id::CoreId;
use crate::mailbox::Mailbox;
use crate::pace::{Pace, Rest};
use crate::shard::{Shard, Turn, Work};
use crate::stats::{CoreLoad, CoreStats};
use crate::tick::Tick;
use crate::timer::Timers;
use crate::wake::{WAKE_FDS_MAX, WakeSet};

/// Timers a core has room for at once, unless [`Reactor::with_timers`] says otherwise; and its limit.
const TIMERS: usize = 1024;
const TIMERS_MAX: usize = 1 << 20;
/// A sleep shorter than this costs more than it saves.
const NAP: Duration = Duration::from_micros(5);

/// One core: a shard, its mailbox, its timers and a clock. Made on the thread that runs it, so that a shard may
/// hold what cannot cross threads.
pub struct Reactor<S: Shard, C: Clock> {
    core: CoreId,
    cpu: Option<u32>,
    shard: S,
    mail: Mailbox<S::Msg>,
    timers: Timers,
    clock: C,
    pace: Pace,
    wake: WakeSet,
    load: CoreLoad,
    stats: Arc<CoreStats>,
}

impl<S: Shard, C: Clock> Reactor<S, C> {
    /// A reactor for `core`, tied to processor `cpu` when it runs (`None`: wherever the system puts it).
    pub fn new(
        core: CoreId,
        cpu: Option<u32>,
        shard: S,
        mail: Mailbox<S::Msg>,
        clock: C,
        pace: Pace,
    ) -> Reactor<S, C> {
        assert_eq!(core, mail.core(), "a core reads its own mail");
        Reactor {
            core,
            cpu,
            shard,
            mail,
            timers: Timers::new(TIMERS, TIMERS_MAX),
            clock,
            pace,
            wake: WakeSet::new(),
            load: CoreLoad::default(),
            stats: Arc::default(),
        }
    }

    /// Replaces the timers, with room and limit as computed by the program.
    pub fn with_timers(mut self, timers: Timers) -> Reactor<S, C> {
        assert!(self.timers.is_empty(), "armed timers would be lost");
        self.timers = timers;
        self
    }

    /// The counters, for others to read at any time.
    pub fn stats(&self) -> Arc<CoreStats> {
        self.stats.clone()
    }

    /// The shard, between turns.
    pub fn shard_mut(&mut self) -> &mut S {
        &mut self.shard
    }

    /// The shard, when the reactor has stopped.
    pub fn into_shard(self) -> S {
        self.shard
    }

    /// Takes turns until the shard says [`Work::Stop`]. Fails if the thread cannot be tied to its processor or
    /// cannot sleep on what the shard has named.
    pub fn run(&mut self) -> io::Result<()> {
        if let Some(cpu) = self.cpu {
            cpu::pin_to(&[cpu]).map_err(|e| {
                io::Error::new(e.kind(), format!("{} cannot be tied to processor {cpu}: {e}", self.core))
            })?;
        }
        // Deadlines of a data path are not to be stretched by the 50 µs the system allows itself.
        cpu::set_timer_slack(Duration::from_micros(1))?;
        let mut began = self.clock.now();
        // Counted from the end of the last busy turn: it may have taken longer than a core is patient.
        let (mut worked_until, mut busy_ns) = (began, 0);
        loop {
            let handled = self.load.messages + self.load.events;
            let work = self.turn(began);
            let busy = self.load.messages + self.load.events != handled;
            let asleep_before = self.load.asleep_ns;
            if work == Work::Stop {
                self.account(busy, self.clock.now().0.saturating_sub(began.0));
                return Ok(());
            }
            if !busy {
                let owed = if let Work::Owed { by, .. } = work { Some(by) } else { None };
                match self.pace.rest(worked_until, busy_ns, owed, began) {
                    Rest::Spin => std::hint::spin_loop(),
                    Rest::Yield => cpu::yield_now(),
                    Rest::Sleep => self.sleep(work)?,
                }
            }
            // The end of one turn is the beginning of the next: one look at the clock for both.
            let now = self.clock.now();
            let slept = self.load.asleep_ns - asleep_before;
            let took = now.0.saturating_sub(began.0).saturating_sub(slept);
            self.account(busy, took);
            if busy {
                (worked_until, busy_ns) = (now, busy_ns + took);
            } else if slept > 0 {
                busy_ns = 0;
            }
            began = now;
        }
    }

    /// Takes one turn at `now`: messages, the shard's pass, one flush. This is all that a simulation needs.
    pub fn turn(&mut self, now: Tick) -> Work {
        let Reactor { core, shard, mail, timers, load, .. } = self;
        if mail.begin() {
            for _ in 0..self.pace.mail_budget {
                let Some((from, message)) = mail.take() else { break };
                load.messages += 1;
                shard.on_message(from, message, &mut Turn { now, core: *core, mail, timers });
            }
            mail.finish();
        }
        let work = shard.turn(&mut Turn { now, core: *core, mail, timers });
        if let Work::Busy(events) = work {
            load.events += u64::from(events);
        }
        mail.flush();
        load.turns += 1;
        work
    }

    fn account(&mut self, busy: bool, ns: u64) {
        if busy {
            self.load.busy_turns += 1;
            self.load.busy_ns += ns;
        } else {
            self.load.idle_ns += ns;
        }
        self.stats.publish(&self.load);
    }

    /// Sleeps until something named by the shard, a message, a timer or the end of `work`'s patience; returns at
    /// once if any of them has come already.
    fn sleep(&mut self, work: Work) -> io::Result<()> {
        self.wake.clear();
        if let Work::Idle { next: Some(next) } | Work::Owed { next: Some(next), .. } = work {
            self.wake.at(next);
        }
        if let Some(next) = self.timers.next() {
            self.wake.at(next);
        }
        if !self.shard.arm(&mut self.wake) {
            return Ok(());
        }
        let began = self.clock.now();
        let timeout = self.wake.deadline().map(|deadline| deadline.since(began));
        // From here on every post rings, unless it was there before: then we do not sleep.
        if timeout.is_some_and(|t| t < NAP) || !self.mail.fall_asleep() {
            return Ok(());
        }
        self.stats.set_asleep_since(Some(began));
        let mut fds = ArrayVec::<PollFd, { WAKE_FDS_MAX + 1 }>::new();
        fds.push(PollFd::readable(self.mail.wake_fd()));
        fds.extend(self.wake.fds().iter().map(|&fd| PollFd::readable(fd)));
        let ready = poll::wait(&mut fds, timeout);
        self.mail.wake_up(fds[0].is_ready());
        self.stats.set_asleep_since(None);
        self.load.sleeps += 1;
        self.load.wakes += u64::from(*ready.as_ref().unwrap_or(&0) > 0);
        self.load.asleep_ns += self.clock.now().0.saturating_sub(began.0);
        if let Some(closed) = fds.iter().find(|f| f.is_invalid()) {
            // Going on would be a busy loop that looks like sleep.
            let text = format!("{} was to wait for descriptor {}, which is not open", self.core, closed.fd());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        ready.map(drop)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
