//! Commands that a device does at once come to the same as those it does by operations: two worlds get into the same
//! state by one program, then each command is served either way and everything that is left behind is compared. (Names
//! of tasks are not: what is served at once has none.)

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use spindle_bdev::{Channels, IoChannel, IoCx};
use spindle_reactor::WakeSet;

use super::both_ways::{Step, Transfer, Walker, setting, step, transfer};
use super::*;
use crate::Direct;

/// The disk of a world as a channel that does everything at once, and nothing else.
struct Memory {
    disk: Rc<RefCell<Vec<u8>>>,
    block: usize,
    served: Rc<Cell<usize>>,
}

impl Memory {
    fn range(&self, lba: u64, blocks: u32) -> std::ops::Range<usize> {
        let start = lba as usize * self.block;
        start..start + blocks as usize * self.block
    }
}

impl IoChannel for Memory {
    fn submit(&mut self, io: BlockIo, _: &mut IoCx<'_>) -> Result<(), BlockIo> {
        panic!("nothing is submitted here: {io:?}");
    }

    fn poll(&mut self, _: &mut IoCx<'_>) -> u32 {
        0
    }

    fn in_flight(&self) -> u32 {
        0
    }

    fn arm(&mut self, _: &mut WakeSet) -> bool {
        true
    }

    fn serves_at_once(&self) -> bool {
        true
    }

    fn read_at_once(&mut self, lba: u64, blocks: u32, pool: &mut SgvPool) -> Option<Sgv> {
        let range = self.range(lba, blocks);
        let mut data = pool.take(range.len() as u32, ShareId::default())?;
        data.copy_from(0, &self.disk.borrow()[range]);
        self.served.set(self.served.get() + 1);
        Some(data)
    }

    fn write_at_once(&mut self, lba: u64, blocks: u32, data: &mut Sgv, _: IoFlags, _: &mut SgvPool) -> bool {
        let range = self.range(lba, blocks);
        assert_eq!(data.len() as usize, range.len(), "a whole vector");
        data.copy_to(0, &mut self.disk.borrow_mut()[range]);
        self.served.set(self.served.get() + 1);
        true
    }
}

impl World {
    pub fn read_at_once(&mut self, command: &Command<'_>) -> Option<Sgv> {
        self.at_once.then_some(())?;
        self.directly(command.nexus.core(), |mid| mid.read_at_once(command))
    }

    pub fn received_at_once(&mut self, core: u8, task: TaskId, buf: Sgv) -> bool {
        self.directly(core, |mid| mid.received_at_once(task, buf))
    }

    /// Does something with an engine that has the disk beside it.
    fn directly<T>(&mut self, core: u8, does: impl FnOnce(&mut Direct<'_, ()>) -> T) -> T {
        let disk = Rc::new(RefCell::new(std::mem::take(&mut self.disk)));
        let served = Rc::new(Cell::new(0));
        let mut channels = Channels::new();
        let memory = Memory { disk: Rc::clone(&disk), block: self.block, served: Rc::clone(&served) };
        channels.open(ChannelId(3), Box::new(memory));
        let engine = &mut self.cores[usize::from(core)];
        let done = does(&mut Direct { engine, channels: &mut channels, witness: () });
        drop(channels);
        self.disk = Rc::into_inner(disk).expect("the channel has gone").into_inner();
        self.served += served.get();
        done
    }
}

/// What is left behind when all is quiet.
fn left(walker: &mut Walker) -> String {
    let w = &mut walker.w;
    let answers: Vec<_> = w.cmds.iter().map(|c| (&c.answer, c.revoked)).collect();
    let mut out = format!("{answers:?} {:?} {:?}\n", w.gone, w.closed);
    for engine in &mut w.cores {
        let known: Vec<_> = walker.nexuses.iter().map(|n| engine.nexus_stats(*n)).collect();
        let unit = engine.lu_slots.contains_key(&LU).then(|| engine.lu_stats(LU));
        let grants: Vec<_> = engine.nexuses.iter().map(|n| (n.tasks, n.granted)).collect();
        let itls: Vec<_> = engine.itls.iter().map(|itl| (itl.tasks, itl.set.is_simple())).collect();
        out += &format!("{:?} {known:?} {unit:?} {grants:?} {itls:?} {} ", engine.stats(), engine.promised);
        let free: Vec<_> = engine.pool_mut().stats().classes.iter().map(|c| c.free).collect();
        out += &format!("{} {free:?}\n", engine.tasks_alive());
    }
    out
}

#[test]
fn what_is_served_at_once_leaves_behind_what_an_operation_does() {
    let (served, all) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let program = (setting(), vec(step(), 0..20), vec(transfer(), 1..20));
    let judged = TestRunner::new(config).run(
        &program,
        |(setting, steps, transfers): (_, Vec<Step>, Vec<Transfer>)| {
            let (mut now, mut later) = (Walker::new(&setting, false), Walker::new(&setting, false));
            for step in steps.iter().chain([&Step::Fail(None), &Step::Run]) {
                now.take(step);
                later.take(step);
            }
            now.w.at_once = true;
            for (n, transfer) in transfers.into_iter().enumerate() {
                // A tag that is used twice ends tasks, which what is over already is not.
                let mut transfer = transfer;
                transfer.same_tag = None;
                for walker in [&mut now, &mut later] {
                    walker.take(&Step::Transfer(transfer.clone()));
                    walker.take(&Step::Run);
                }
                prop_assert_eq!(left(&mut now), left(&mut later), "after command {}, {:?}", n, transfer);
                prop_assert!(now.w.disk == later.w.disk, "the disks differ after command {n}");
                all.set(all.get() + 1);
            }
            served.set(served.get() + now.w.served);
            now.w.assert_quiet();
            later.w.assert_quiet();
            Ok(())
        },
    );
    judged.unwrap();
    let (served, all) = (served.get(), all.get());
    assert!(served * 8 > all && served < all, "{served} of {all} were served at once: this proves nothing");
}
