//! A decorator that makes operations fail: to see what everything above does when a disk does.
//!
//! Rules say which operations (kind, block range, after how many, how many times, how likely) meet which
//! [`Fault`]. They are set on the control thread at any time; channels notice by one number and take them
//! over. Chances are drawn from a seed, so a run can be repeated.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spindle_reactor::{CoreId, WakeSet};

use crate::channel::{ChannelSeed, CoreEnv, IoChannel, IoCx, ResetScope};
use crate::device::{Bdev, BdevInfo, OpenError, ResizeError};
use crate::io::{BlockError, BlockIo, IoDone, IoKey, IoResult, Op};

/// What happens to an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The device does nothing, and answers with this.
    Fail(BlockError),
    /// The device does what it was told, and answers with this nevertheless: a write may have been stored.
    Misreport(BlockError),
    /// Handed back as if the queue were full.
    Refuse,
}

/// A set of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpSet(u8);

impl OpSet {
    /// All of them.
    pub const ALL: OpSet = OpSet(u8::MAX);

    /// These.
    pub fn of(ops: &[Op]) -> OpSet {
        OpSet(ops.iter().fold(0, |set, op| set | 1 << *op as u8))
    }

    /// Is it one of them?
    pub fn has(self, op: Op) -> bool {
        self.0 & 1 << op as u8 != 0
    }
}

/// Which operations meet a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultRule {
    /// Kinds of operation.
    pub ops: OpSet,
    /// Operations that touch any of these blocks (a flush touches all).
    pub lbas: Range<u64>,
    /// So many that match go through first.
    pub skip: u64,
    /// So many meet the fault, then the rule is spent.
    pub count: u64,
    /// Of those after the skipped ones, so many in a million.
    pub per_million: u32,
    /// What they meet.
    pub fault: Fault,
}

impl FaultRule {
    /// Every operation of these kinds, for ever.
    pub fn every(ops: OpSet, fault: Fault) -> FaultRule {
        FaultRule { ops, lbas: 0..u64::MAX, skip: 0, count: u64::MAX, per_million: MILLION, fault }
    }

    fn matches(&self, io: &BlockIo) -> bool {
        let end = io.lba.saturating_add(u64::from(io.blocks.max(1)));
        self.ops.has(io.op) && (io.op == Op::Flush || io.lba < self.lbas.end && self.lbas.start < end)
    }
}

/// Names a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RuleId(pub u64);

/// The rules of one device: shared by its channels and whoever sets them.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    /// Goes up with every change.
    epoch: AtomicU64,
    rules: Mutex<Vec<Arc<Active>>>,
}

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: FaultRule,
    seen: AtomicU64,
    hits: AtomicU64,
}

impl Faults {
    fn new(seed: u64) -> Faults {
        Faults { seed, epoch: AtomicU64::new(1), rules: Mutex::default() }
    }

    /// Adds a rule behind those there are; the first that applies decides.
    pub fn add(&self, rule: FaultRule) -> RuleId {
        let mut rules = self.lock();
        let id = RuleId(self.epoch.load(Ordering::Relaxed));
        rules.push(Arc::new(Active { id, rule, seen: AtomicU64::new(0), hits: AtomicU64::new(0) }));
        self.epoch.fetch_add(1, Ordering::Release);
        id
    }

    /// Takes a rule away. `false`: there is none such.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut rules = self.lock();
        let before = rules.len();
        rules.retain(|active| active.id != id);
        self.epoch.fetch_add(1, Ordering::Release);
        rules.len() < before
    }

    /// Takes all rules away: the device is well.
    pub fn clear(&self) {
        self.lock().clear();
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// The rules, and how many operations met each.
    pub fn list(&self) -> Vec<(RuleId, FaultRule, u64)> {
        let show = |a: &Arc<Active>| (a.id, a.rule.clone(), a.hits.load(Ordering::Relaxed));
        self.lock().iter().map(show).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Active>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn strikes(&self, io: &BlockIo, chance: &mut Chance) -> bool {
        if !self.rule.matches(io) || self.seen.fetch_add(1, Ordering::Relaxed) < self.rule.skip {
            return false;
        }
        if self.rule.per_million < MILLION && chance.draw(MILLION) >= self.rule.per_million {
            return false;
        }
        let count = |hits: u64| (hits < self.rule.count).then_some(hits + 1);
        self.hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

/// A device that fails as its rules say.
pub struct FaultBdev {
    name: String,
    uuid: [u8; 16],
    inner: Arc<dyn Bdev>,
    faults: Arc<Faults>,
}

impl FaultBdev {
    /// Puts a device of another name and identity in front of `inner`.
    pub fn new(name: &str, uuid: [u8; 16], inner: Arc<dyn Bdev>, seed: u64) -> FaultBdev {
        FaultBdev { name: name.into(), uuid, inner, faults: Arc::new(Faults::new(seed)) }
    }

    /// Its rules.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }
}

impl Bdev for FaultBdev {
    fn info(&self) -> BdevInfo {
        BdevInfo { name: self.name.clone(), uuid: self.uuid, ..self.inner.info() }
    }

    fn driver(&self) -> &'static str {
        "error"
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let hits: u64 = self.faults.list().iter().map(|(_, _, hits)| hits).sum();
        vec![("base_bdev", self.inner.info().name), ("faults", hits.to_string())]
    }

    fn prepare(&self, core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        let inner = self.inner.prepare(core)?;
        Ok(Box::new(FaultSeed { inner, faults: self.faults.clone() }))
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        self.inner.resize(blocks)
    }
}

struct FaultSeed {
    inner: Box<dyn ChannelSeed>,
    faults: Arc<Faults>,
}

impl ChannelSeed for FaultSeed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let inner = self.inner.bind(env)?;
        let chance = Chance(self.faults.seed ^ u64::from(env.core.0) << 56);
        Ok(Box::new(FaultChannel {
            inner,
            faults: self.faults,
            epoch: 0,
            rules: Vec::new(),
            chance,
            misreport: Vec::new(),
        }))
    }
}

struct FaultChannel {
    inner: Box<dyn IoChannel>,
    faults: Arc<Faults>,
    /// The rules as of this epoch.
    epoch: u64,
    rules: Vec<Arc<Active>>,
    chance: Chance,
    /// Operations that the device has and whose end will be misreported.
    misreport: Vec<(IoKey, BlockError)>,
}

impl FaultChannel {
    fn fault_for(&mut self, io: &BlockIo) -> Option<Fault> {
        if self.faults.epoch.load(Ordering::Acquire) != self.epoch {
            let rules = self.faults.lock();
            self.epoch = self.faults.epoch.load(Ordering::Acquire);
            self.rules.clone_from(&rules);
        }
        let chance = &mut self.chance;
        self.rules.iter().find(|active| active.strikes(io, chance)).map(|active| active.rule.fault)
    }

    fn falsify(&mut self, ended: &mut [IoDone]) {
        if self.misreport.is_empty() {
            return;
        }
        for done in ended {
            if let Some(at) = self.misreport.iter().position(|(key, _)| *key == done.key) {
                done.result = IoResult::Err(self.misreport.swap_remove(at).1);
            }
        }
    }
}

impl IoChannel for FaultChannel {
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        let from = cx.done.len();
        match self.fault_for(&io) {
            Some(Fault::Refuse) => return Err(io),
            Some(Fault::Fail(error)) => {
                cx.done.push(IoDone::of(io, IoResult::Err(error)));
                return Ok(());
            }
            Some(Fault::Misreport(error)) => {
                let key = io.key;
                self.inner.submit(io, cx)?;
                self.misreport.push((key, error));
            }
            None => self.inner.submit(io, cx)?,
        }
        self.falsify(&mut cx.done[from..]);
        Ok(())
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let from = cx.done.len();
        let ended = self.inner.poll(cx);
        self.falsify(&mut cx.done[from..]);
        ended
    }

    fn abort(&mut self, key: IoKey) {
        self.inner.abort(key);
    }

    fn reset(&mut self, scope: ResetScope, cx: &mut IoCx<'_>) {
        let from = cx.done.len();
        self.inner.reset(scope, cx);
        self.falsify(&mut cx.done[from..]);
    }

    fn in_flight(&self) -> u32 {
        self.inner.in_flight()
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        self.inner.arm(wake)
    }

    fn close(&mut self, env: &mut CoreEnv<'_>) {
        self.inner.close(env);
    }
}

/// Repeatable chance: a counter that is mixed well (Vigna's splitmix64).
struct Chance(u64);

impl Chance {
    fn draw(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % u64::from(below)) as u32
    }
}

const MILLION: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;
    use crate::{RamBdev, RamConfig};

    const BAD: IoResult = IoResult::Err(BlockError::MediumRead);

    fn bench(seed: u64) -> (Bench, FaultBdev) {
        let mut bench = Bench::new();
        let config = RamConfig {
            name: "Malloc0".into(),
            uuid: [1; 16],
            block_bytes: 512,
            blocks: 64,
            physical_exponent: 0,
            spares: Some(1),
        };
        let ram = Arc::new(RamBdev::new(&bench.arena, config).unwrap());
        let bdev = FaultBdev::new("EE_Malloc0", [9; 16], ram, seed);
        bench.open(&bdev);
        (bench, bdev)
    }

    fn verify(b: &mut Bench, lba: u64, blocks: u32) -> IoResult {
        b.run(Bench::io(Op::Verify, lba, blocks)).result
    }

    #[test]
    fn without_rules_it_is_the_device_behind_it() {
        let (mut b, bdev) = bench(0);
        assert_eq!(
            (bdev.info().name.as_str(), bdev.info().uuid, bdev.info().blocks),
            ("EE_Malloc0", [9; 16], 64)
        );
        assert_eq!(b.write(3, &[5; 512]), IoResult::Ok);
        assert_eq!(b.read_bytes(3, 1), [5; 512]);
        b.end(bdev);
    }

    #[test]
    fn a_rule_strikes_its_operations_in_its_range_and_no_others() {
        let (mut b, bdev) = bench(0);
        let ops = OpSet::of(&[Op::Verify, Op::Flush]);
        bdev.faults()
            .add(FaultRule { lbas: 10..12, ..FaultRule::every(ops, Fault::Fail(BlockError::MediumRead)) });
        let seen = [(9, 1), (9, 2), (11, 1), (11, 9), (12, 1)].map(|(lba, n)| verify(&mut b, lba, n));
        assert_eq!(seen, [IoResult::Ok, BAD, BAD, BAD, IoResult::Ok]);
        assert_eq!(b.run(Bench::io(Op::Flush, 0, 0)).result, BAD);
        assert_eq!(b.write(10, &[1; 512]), IoResult::Ok);
        assert_eq!(bdev.faults().list()[0].2, 4);
        bdev.faults().clear();
        assert_eq!(verify(&mut b, 10, 1), IoResult::Ok, "switched off while the channel is open");
        b.end(bdev);
    }

    #[test]
    fn a_rule_skips_then_strikes_then_is_spent() {
        let (mut b, bdev) = bench(0);
        let rule = FaultRule::every(OpSet::ALL, Fault::Fail(BlockError::MediumRead));
        let id = bdev.faults().add(FaultRule { skip: 2, count: 3, ..rule.clone() });
        let seen: Vec<bool> = (0..8).map(|_| verify(&mut b, 0, 1) == BAD).collect();
        assert_eq!(seen, [false, false, true, true, true, false, false, false]);
        assert!(bdev.faults().remove(id) && !bdev.faults().remove(id));
        b.end(bdev);
    }

    #[test]
    fn chance_is_about_as_likely_as_asked_and_repeats_with_its_seed() {
        let run = |seed| {
            let (mut b, bdev) = bench(seed);
            let rule = FaultRule::every(OpSet::ALL, Fault::Fail(BlockError::MediumRead));
            bdev.faults().add(FaultRule { per_million: 250_000, ..rule });
            let seen: Vec<bool> = (0..2000).map(|_| verify(&mut b, 0, 1) == BAD).collect();
            b.end(bdev);
            seen
        };
        let (one, again, other) = (run(1), run(1), run(2));
        assert!(one == again && one != other);
        let hits = one.iter().filter(|hit| **hit).count();
        assert!((400..600).contains(&hits), "{hits} of 2000");
    }

    #[test]
    fn a_misreported_write_is_stored_also_when_it_had_to_wait() {
        let (mut b, bdev) = bench(0);
        b.write(0, &[1; 8192]);
        let held = b.read(0, 16).data.unwrap();
        let fault = Fault::Misreport(BlockError::MediumWrite);
        bdev.faults().add(FaultRule { count: 1, ..FaultRule::every(OpSet::of(&[Op::Write]), fault) });
        b.submit_write(7, 0, &[2; 8192]).unwrap();
        assert_eq!(b.take_done(), []);
        b.pool.put(held);
        assert_eq!(b.poll(), 1);
        assert_eq!(b.take_done(), [(IoKey(7), IoResult::Err(BlockError::MediumWrite))]);
        assert_eq!(b.read_bytes(0, 16), [2; 8192]);
        b.end(bdev);
    }

    #[test]
    fn a_refused_operation_comes_back_with_its_buffer() {
        let (mut b, bdev) = bench(0);
        bdev.faults().add(FaultRule { count: 1, ..FaultRule::every(OpSet::ALL, Fault::Refuse) });
        let io = b.submit_write(1, 0, &[3; 512]).unwrap_err();
        b.submit(io).unwrap();
        assert_eq!(b.take_done(), [(IoKey(1), IoResult::Ok)]);
        b.end(bdev);
    }
}
