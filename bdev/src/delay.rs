//! A decorator that takes its time: for watching queues, aborts, timers and watchdogs at work.
//!
//! Two forms, as devices have them. [`DelayForm::Queued`]: an operation waits *before* it reaches the device;
//! an abort takes it out, and it has had no effect. [`DelayForm::Late`]: the device carries it out at once and
//! keeps the answer back; neither abort nor reset moves it, as with a device that does not hear. Delay and form
//! change at any time; a delay without end is a device that hangs, until it is changed again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use spindle_reactor::{CoreId, Tick, WakeSet};

use crate::channel::{ChannelSeed, CoreEnv, IoChannel, IoCx, ResetScope};
use crate::device::{Bdev, BdevInfo, OpenError, ResizeError};
use crate::io::{BlockError, BlockIo, IoDone, IoKey, IoResult};

/// Where operations spend their time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DelayForm {
    /// In front of the device; can be aborted.
    Queued,
    /// Behind it; cannot.
    Late,
}

/// How slow the device is, now.
#[derive(Debug)]
pub struct Delays {
    ns: AtomicU64,
    late: AtomicBool,
}

impl Delays {
    /// From now on, also for what waits already. `Duration::MAX` is for ever.
    pub fn set(&self, delay: Duration, form: DelayForm) {
        self.late.store(form == DelayForm::Late, Ordering::Relaxed);
        self.ns.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// As it is.
    pub fn now(&self) -> (Duration, DelayForm) {
        let form = if self.late.load(Ordering::Relaxed) { DelayForm::Late } else { DelayForm::Queued };
        (Duration::from_nanos(self.ns.load(Ordering::Relaxed)), form)
    }
}

/// A slow device.
pub struct DelayBdev {
    name: String,
    uuid: [u8; 16],
    inner: Arc<dyn Bdev>,
    delays: Arc<Delays>,
}

impl DelayBdev {
    /// Puts a device of another name and identity in front of `inner`.
    pub fn new(
        name: &str,
        uuid: [u8; 16],
        inner: Arc<dyn Bdev>,
        delay: Duration,
        form: DelayForm,
    ) -> DelayBdev {
        let delays = Delays { ns: AtomicU64::new(0), late: AtomicBool::new(false) };
        delays.set(delay, form);
        DelayBdev { name: name.into(), uuid, inner, delays: Arc::new(delays) }
    }

    /// To change it.
    pub fn delays(&self) -> &Arc<Delays> {
        &self.delays
    }
}

impl Bdev for DelayBdev {
    fn info(&self) -> BdevInfo {
        BdevInfo { name: self.name.clone(), uuid: self.uuid, ..self.inner.info() }
    }

    fn driver(&self) -> &'static str {
        "delay"
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let (delay, form) = self.delays.now();
        vec![
            ("base_bdev", self.inner.info().name),
            ("delay_us", delay.as_micros().to_string()),
            ("cancellable", (form == DelayForm::Queued).to_string()),
        ]
    }

    fn prepare(&self, core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        let inner = self.inner.prepare(core)?;
        Ok(Box::new(DelaySeed { inner, delays: self.delays.clone() }))
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        self.inner.resize(blocks)
    }
}

struct DelaySeed {
    inner: Box<dyn ChannelSeed>,
    delays: Arc<Delays>,
}

impl ChannelSeed for DelaySeed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let inner = self.inner.bind(env)?;
        let (queued, late) = (VecDeque::with_capacity(LINE_MAX), VecDeque::with_capacity(LINE_MAX));
        Ok(Box::new(DelayChannel { inner, delays: self.delays, queued, late, last: Tick::ZERO }))
    }
}

struct DelayChannel {
    inner: Box<dyn IoChannel>,
    delays: Arc<Delays>,
    /// In front of the device, in order of arrival.
    queued: VecDeque<Queued>,
    /// Done, and kept back.
    late: VecDeque<(Tick, IoDone)>,
    /// When we were last told the time.
    last: Tick,
}

struct Queued {
    since: Tick,
    io: BlockIo,
    aborted: bool,
}

impl DelayChannel {
    /// Keeps back what has ended since `from`, if that is the form; how many were let through.
    fn keep_back(&mut self, from: usize, cx: &mut IoCx<'_>) -> u32 {
        let (delay, form) = self.delays.now();
        if form == DelayForm::Late && !delay.is_zero() {
            let now = cx.now;
            self.late.extend(cx.done.drain(from..).map(|done| (now, done)));
        }
        (cx.done.len() - from) as u32
    }
}

impl IoChannel for DelayChannel {
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        self.last = cx.now;
        if self.in_flight() as usize >= LINE_MAX {
            return Err(io);
        }
        let (delay, form) = self.delays.now();
        // None overtakes those that wait, also when the delay was just taken away.
        if (form == DelayForm::Queued && !delay.is_zero()) || !self.queued.is_empty() {
            self.queued.push_back(Queued { since: cx.now, io, aborted: false });
            return Ok(());
        }
        let from = cx.done.len();
        self.inner.submit(io, cx)?;
        self.keep_back(from, cx);
        Ok(())
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        self.last = cx.now;
        let (delay, _) = self.delays.now();
        let mut ended = 0;
        while self.late.front().is_some_and(|(since, _)| cx.now.since(*since) >= delay) {
            cx.done.extend(self.late.pop_front().map(|(_, done)| done));
            ended += 1;
        }
        // Aborted ones leave the line wherever they stand.
        for _ in 0..self.queued.len() {
            let Some(queued) = self.queued.pop_front() else { break };
            if queued.aborted {
                cx.done.push(IoDone::of(queued.io, IoResult::Err(BlockError::Aborted)));
                ended += 1;
            } else {
                self.queued.push_back(queued);
            }
        }
        let from = cx.done.len();
        let mut submitted = false;
        while let Some(first) = self.queued.pop_front_if(|q| cx.now.since(q.since) >= delay) {
            match self.inner.submit(first.io, cx) {
                Ok(()) => submitted = true,
                Err(io) => {
                    self.queued.push_front(Queued { io, ..first });
                    break;
                }
            }
        }
        if submitted {
            self.inner.kick();
        }
        self.inner.poll(cx);
        ended + self.keep_back(from, cx)
    }

    fn abort(&mut self, key: IoKey) {
        match self.queued.iter_mut().find(|q| q.io.key == key) {
            Some(queued) => queued.aborted = true,
            None => self.inner.abort(key),
        }
    }

    fn reset(&mut self, scope: ResetScope, cx: &mut IoCx<'_>) {
        self.last = cx.now;
        let from = cx.done.len();
        self.inner.reset(scope, cx);
        self.keep_back(from, cx);
        for queued in self.queued.drain(..) {
            cx.done.push(IoDone::of(queued.io, IoResult::Err(BlockError::Aborted)));
        }
    }

    fn in_flight(&self) -> u32 {
        (self.queued.len() + self.late.len()) as u32 + self.inner.in_flight()
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        let (delay, _) = self.delays.now();
        let oldest = [self.late.front().map(|(since, _)| *since), self.queued.front().map(|q| q.since)];
        for since in oldest.into_iter().flatten() {
            // Nothing rings when the delay is changed, so we look now and then.
            wake.at((since + delay).min(self.last + LOOK_EVERY));
        }
        !self.queued.iter().any(|q| q.aborted) & self.inner.arm(wake)
    }

    fn close(&mut self, env: &mut CoreEnv<'_>) {
        self.inner.close(env);
    }
}

/// Operations that a channel keeps; more are handed back.
const LINE_MAX: usize = 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;
    use crate::io::Op;
    use crate::{RamBdev, RamConfig};

    const MS: Duration = Duration::from_millis(1);

    fn bench(delay: Duration, form: DelayForm) -> (Bench, DelayBdev) {
        let mut bench = Bench::new();
        let config = RamConfig {
            name: "Malloc0".into(),
            uuid: [1; 16],
            block_bytes: 512,
            blocks: 64,
            physical_exponent: 0,
            spares: Some(8),
        };
        let ram = Arc::new(RamBdev::new(&bench.arena, config).unwrap());
        let bdev = DelayBdev::new("Slow0", [9; 16], ram, delay, form);
        bench.open(&bdev);
        (bench, bdev)
    }

    fn after(b: &mut Bench, ms: u64) -> Vec<(IoKey, IoResult)> {
        b.now = Tick::ZERO.plus_ms(ms);
        b.poll();
        b.take_done()
    }

    fn contents(b: &mut Bench, bdev: &DelayBdev) -> Vec<u8> {
        bdev.delays().set(Duration::ZERO, DelayForm::Queued);
        b.read_bytes(0, 1)
    }

    #[test]
    fn operations_end_in_order_and_not_before_their_time_in_both_forms() {
        for form in [DelayForm::Queued, DelayForm::Late] {
            let (mut b, bdev) = bench(5 * MS, form);
            b.submit_write(1, 0, &[1; 512]).unwrap();
            assert_eq!(after(&mut b, 2), []);
            b.submit_write(2, 0, &[2; 512]).unwrap();
            assert_eq!((after(&mut b, 4), b.channel().in_flight()), (vec![], 2));
            let mut wake = WakeSet::new();
            assert!(b.channel().arm(&mut wake));
            assert_eq!(wake.deadline(), Some(Tick::ZERO.plus_ms(5)), "{form:?}");
            assert_eq!(after(&mut b, 5), [(IoKey(1), IoResult::Ok)]);
            assert_eq!(after(&mut b, 9), [(IoKey(2), IoResult::Ok)]);
            assert_eq!(contents(&mut b, &bdev), [2; 512]);
            b.end(bdev);
        }
    }

    #[test]
    fn a_queued_operation_can_be_aborted_and_has_had_no_effect() {
        let (mut b, bdev) = bench(5 * MS, DelayForm::Queued);
        b.submit_write(1, 0, &[1; 512]).unwrap();
        b.submit_write(2, 8, &[1; 512]).unwrap();
        b.channel().abort(IoKey(2));
        assert!(!b.channel().arm(&mut WakeSet::new()), "there is something to do");
        assert_eq!(after(&mut b, 1), [(IoKey(2), IoResult::Err(BlockError::Aborted))]);
        b.reset();
        assert_eq!(b.take_done(), [(IoKey(1), IoResult::Err(BlockError::Aborted))]);
        assert_eq!(contents(&mut b, &bdev), [0; 512]);
        b.end(bdev);
    }

    #[test]
    fn a_late_operation_hears_nothing_and_was_carried_out() {
        let (mut b, bdev) = bench(Duration::MAX, DelayForm::Late);
        b.submit_write(1, 0, &[1; 512]).unwrap();
        b.channel().abort(IoKey(1));
        b.reset();
        assert_eq!((after(&mut b, 1 << 40), b.channel().in_flight()), (vec![], 1));
        bdev.delays().set(MS, DelayForm::Queued);
        assert_eq!(after(&mut b, 1 << 40), [(IoKey(1), IoResult::Ok)]);
        assert_eq!(contents(&mut b, &bdev), [1; 512]);
        b.end(bdev);
    }

    #[test]
    fn a_hanging_device_is_looked_at_now_and_then() {
        let (mut b, bdev) = bench(Duration::MAX, DelayForm::Queued);
        b.submit_write(1, 0, &[1; 512]).unwrap();
        let mut wake = WakeSet::new();
        assert!(b.channel().arm(&mut wake));
        assert_eq!(wake.deadline(), Some(Tick::ZERO.plus_ms(100)));
        bdev.delays().set(Duration::ZERO, DelayForm::Queued);
        b.submit_write(2, 0, &[2; 512]).unwrap();
        assert_eq!(after(&mut b, 0), [(IoKey(1), IoResult::Ok), (IoKey(2), IoResult::Ok)], "none overtakes");
        assert_eq!(b.read_bytes(0, 1), [2; 512]);
        b.end(bdev);
    }

    #[test]
    fn its_line_is_bounded() {
        let (mut b, bdev) = bench(MS, DelayForm::Queued);
        for n in 0..LINE_MAX as u64 {
            b.submit(BlockIo { key: IoKey(n), ..Bench::io(Op::Verify, 0, 1) }).unwrap();
        }
        assert!(b.submit(Bench::io(Op::Verify, 0, 1)).is_err());
        assert_eq!(after(&mut b, 1).len(), LINE_MAX);
        b.end(bdev);
    }
}
