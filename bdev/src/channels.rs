//! The channels of one core, and the line in front of each.
//!
//! A channel may refuse an operation when its queue is full. Nothing is lost by that: the operation waits here,
//! in order, and is offered again each turn. An abort takes a waiting operation out and ends it at once; what
//! the device already has is only hinted at (see [`IoChannel::abort`]).
//!
//! A turn looks at the channels that have something to do, so that a thousand units cost no more than those that are used.

use std::collections::VecDeque;

use spindle_mem::{Sgv, SgvPool};
use spindle_reactor::{Debtor, WakeSet};

use crate::channel::{Hint, IoChannel, IoCx, ResetScope};
use crate::io::{BlockError, BlockIo, IoDone, IoFlags, IoKey, IoResult};

/// A channel in the table of its core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ChannelId(pub u16);

/// All channels of one core.
#[derive(Default)]
pub struct Channels {
    slots: Vec<Option<Slot>>,
    /// Those that were given something, until they have given all of it back.
    active: Vec<ChannelId>,
    /// Operations waiting in all lines together: nought means the common case has nothing to look for.
    waiting: usize,
    /// Channels that make something of hints.
    hinted: u32,
}

struct Slot {
    channel: Box<dyn IoChannel>,
    line: VecDeque<BlockIo>,
    touched: bool,
    /// In the list of active ones.
    active: bool,
    /// It is worth asking it to do something at once.
    at_once: bool,
    /// It makes something of hints.
    hinted: bool,
    /// Threads do its work.
    threads: bool,
}

impl Slot {
    /// Nothing is in flight, and nobody waits.
    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.channel.in_flight() == 0
    }
}

/// What a channel is busy with, for RPC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelLoad {
    /// Operations the device has.
    pub in_flight: u32,
    /// Operations waiting for room.
    pub waiting: u32,
}

impl Channels {
    /// An empty table.
    pub fn new() -> Channels {
        Channels::default()
    }

    /// Puts a channel under the number `id`, which the control plane has chosen alike on every core.
    ///
    /// # Panics
    /// If the number is taken: the control plane gives each number once.
    pub fn open(&mut self, id: ChannelId, channel: Box<dyn IoChannel>) {
        let at = id.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        assert!(self.slots[at].is_none(), "channel {} is open already", id.0);
        let slot = Slot {
            at_once: channel.serves_at_once(),
            hinted: channel.takes_hints(),
            threads: channel.works_by_threads(),
            channel,
            line: VecDeque::new(),
            touched: false,
            active: false,
        };
        self.hinted += u32::from(slot.hinted);
        self.slots[at] = Some(slot);
    }

    /// Takes a channel out, provided that nothing is in flight or waiting; the caller calls
    /// [`IoChannel::close`] on it. `None`: not open, or still busy.
    pub fn close(&mut self, id: ChannelId) -> Option<Box<dyn IoChannel>> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        let gone = slot.take_if(|s| s.is_idle())?;
        self.hinted -= u32::from(gone.hinted);
        if gone.active {
            self.active.retain(|other| *other != id);
        }
        Some(gone.channel)
    }

    /// How busy a channel is; `None` if it is not open.
    pub fn load(&self, id: ChannelId) -> Option<ChannelLoad> {
        let slot = self.slots.get(id.0 as usize)?.as_ref()?;
        Some(ChannelLoad { in_flight: slot.channel.in_flight(), waiting: slot.line.len() as u32 })
    }

    /// Submits an operation, or puts it in line. An operation for a channel that is not open ends as `Gone`.
    #[inline]
    pub fn submit(&mut self, id: ChannelId, io: BlockIo, cx: &mut IoCx<'_>) {
        let Some(slot) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            cx.done.push(IoDone::of(io, IoResult::Err(BlockError::Gone)));
            return;
        };
        slot.touched = true;
        if !slot.active {
            slot.active = true;
            self.active.push(id);
        }
        // Those in line come first: operations reach the device in the order they were submitted.
        let refused = if slot.line.is_empty() { slot.channel.submit(io, cx).err() } else { Some(io) };
        if let Some(io) = refused {
            slot.line.push_back(io);
            self.waiting += 1;
        }
    }

    /// Whether it is worth asking a channel to do something at once.
    #[inline]
    pub fn serves_at_once(&self, id: ChannelId) -> bool {
        self.slots.get(id.0 as usize).and_then(Option::as_ref).is_some_and(|slot| slot.at_once)
    }

    /// Whether any channel makes something of hints.
    #[inline]
    pub fn takes_hints(&self) -> bool {
        self.hinted > 0
    }

    /// [`IoChannel::hint`].
    #[inline]
    pub fn hint(&self, id: ChannelId, lba: u64, hint: Hint) {
        if let Some(slot) = self.slots.get(id.0 as usize).and_then(Option::as_ref).filter(|slot| slot.hinted)
        {
            slot.channel.hint(lba, hint);
        }
    }

    /// [`IoChannel::read_at_once`] of a channel that nobody waits for.
    #[inline]
    pub fn read_at_once(&mut self, id: ChannelId, lba: u64, blocks: u32, pool: &mut SgvPool) -> Option<Sgv> {
        let slot = self.slots.get_mut(id.0 as usize)?.as_mut().filter(|slot| slot.line.is_empty())?;
        slot.channel.read_at_once(lba, blocks, pool)
    }

    /// [`IoChannel::write_at_once`] of a channel that nobody waits for.
    #[inline]
    pub fn write_at_once(
        &mut self,
        id: ChannelId,
        lba: u64,
        blocks: u32,
        data: &mut Sgv,
        flags: IoFlags,
        pool: &mut SgvPool,
    ) -> bool {
        let slot = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut);
        slot.is_some_and(|slot| {
            slot.line.is_empty() && slot.channel.write_at_once(lba, blocks, data, flags, pool)
        })
    }

    /// Nobody wants this operation any more: a waiting one ends now, as `Aborted`; the device is told about the
    /// other.
    pub fn abort(&mut self, id: ChannelId, key: IoKey, cx: &mut IoCx<'_>) {
        let Some(slot) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        if let Some(at) = slot.line.iter().position(|io| io.key == key) {
            let io = slot.line.remove(at).expect("position() just found it");
            self.waiting -= 1;
            cx.done.push(IoDone::of(io, IoResult::Err(BlockError::Aborted)));
        } else {
            slot.channel.abort(key);
        }
    }

    /// Tries to get stuck operations of a channel back.
    pub fn reset(&mut self, id: ChannelId, scope: ResetScope, cx: &mut IoCx<'_>) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
            slot.channel.reset(scope, cx);
        }
    }

    /// Rings the doorbells of the channels that were given something this turn.
    #[inline]
    pub fn kick(&mut self) {
        for id in &self.active {
            let slot = active(&mut self.slots, *id);
            if std::mem::take(&mut slot.touched) {
                slot.channel.kick();
            }
        }
    }

    /// Takes in what ended and offers what waits. Returns how many operations ended or moved.
    pub fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let Channels { slots, active: list, waiting, .. } = self;
        let mut work = 0;
        list.retain(|id| {
            let slot = active(slots, *id);
            if slot.channel.in_flight() != 0 {
                work += slot.channel.poll(cx);
            }
            while let Some(io) = slot.line.pop_front() {
                match slot.channel.submit(io, cx) {
                    Ok(()) => {
                        slot.touched = true;
                        *waiting -= 1;
                        work += 1;
                    }
                    Err(io) => {
                        slot.line.push_front(io);
                        break;
                    }
                }
            }
            // With a doorbell still to ring it stays, whatever came back at once.
            slot.active = slot.touched || !slot.is_idle();
            slot.active
        });
        work
    }

    /// Names what would wake this core for its channels' sake. `false`: something came meanwhile.
    pub fn arm(&mut self, wake: &mut WakeSet) -> bool {
        let mut quiet = true;
        for id in &self.active {
            quiet &= active(&mut self.slots, *id).channel.arm(wake);
        }
        quiet
    }

    /// Who has operations on their way: threads, if nobody else has.
    #[inline]
    pub fn owed_by(&self) -> Option<Debtor> {
        if self.active.is_empty() {
            return None;
        }
        let threads = |id: &ChannelId| self.slots[id.0 as usize].as_ref().is_some_and(|slot| slot.threads);
        Some(if self.active.iter().all(threads) { Debtor::Threads } else { Debtor::Device })
    }

    /// Operations waiting in line on this core.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A channel by number, for the control plane.
    pub fn channel_mut(&mut self, id: ChannelId) -> Option<&mut dyn IoChannel> {
        match self.slots.get_mut(id.0 as usize)? {
            Some(slot) => Some(slot.channel.as_mut()),
            None => None,
        }
    }
}

fn active(slots: &mut [Option<Slot>], id: ChannelId) -> &mut Slot {
    slots[id.0 as usize].as_mut().expect("a channel that is closed is active no more")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool};
    use spindle_reactor::{CoreId, Tick};

    use super::*;
    use crate::bench::Bench;
    use crate::io::Op;

    /// Holds what it is given until `release` is set; counts how often it is asked anything.
    #[derive(Default)]
    struct Slow {
        asked: Rc<Cell<u32>>,
        release: Rc<Cell<bool>>,
        held: Vec<BlockIo>,
        threads: bool,
    }

    impl Slow {
        fn ask(&self) {
            self.asked.set(self.asked.get() + 1);
        }
    }

    impl IoChannel for Slow {
        fn submit(&mut self, io: BlockIo, _cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
            if self.held.len() == 2 {
                return Err(io);
            }
            self.held.push(io);
            Ok(())
        }

        fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
            self.ask();
            let ended = if self.release.get() { self.held.len() } else { 0 };
            cx.done.extend(self.held.drain(..ended).map(|io| IoDone::of(io, IoResult::Ok)));
            ended as u32
        }

        fn works_by_threads(&self) -> bool {
            self.threads
        }

        fn kick(&mut self) {
            self.ask();
        }

        fn in_flight(&self) -> u32 {
            self.ask();
            self.held.len() as u32
        }

        fn arm(&mut self, _wake: &mut WakeSet) -> bool {
            self.ask();
            true
        }
    }

    fn pool() -> SgvPool {
        let arena = Arena::new(ArenaConfig::plain(4 << 20, 4 << 20)).unwrap();
        let config = PoolConfig { vectors: [1, 0, 0, 0, 0, 0], ..PoolConfig::default() };
        SgvPool::new(CoreId(0), arena, &config).unwrap()
    }

    #[test]
    fn threads_owe_only_where_nobody_else_does() {
        let (mut pool, mut done) = (pool(), Vec::new());
        let mut cx = IoCx { now: Tick::ZERO, pool: &mut pool, done: &mut done };
        let mut channels = Channels::new();
        let release = Rc::new(Cell::new(false));
        for (n, threads) in [true, true, false].into_iter().enumerate() {
            let release = if threads { Rc::default() } else { release.clone() };
            channels.open(ChannelId(n as u16), Box::new(Slow { threads, release, ..Slow::default() }));
        }
        assert_eq!(channels.owed_by(), None);
        for (n, by) in [(1, Debtor::Threads), (2, Debtor::Device), (0, Debtor::Device)] {
            channels.submit(ChannelId(n), Bench::io(Op::Read, 0, 1), &mut cx);
            assert_eq!(channels.owed_by(), Some(by));
        }
        channels.kick();
        release.set(true);
        assert_eq!(channels.poll(&mut cx), 1);
        assert_eq!(channels.owed_by(), Some(Debtor::Threads));
    }

    #[test]
    fn a_turn_asks_no_channel_that_has_nothing_to_do() {
        let (mut pool, mut done) = (pool(), Vec::new());
        let mut cx = IoCx { now: Tick::ZERO, pool: &mut pool, done: &mut done };
        let mut channels = Channels::new();
        let (asked, release) = (Rc::default(), Rc::default());
        for n in 0..1000 {
            let slow = match n {
                500 => Slow { release: Rc::clone(&release), ..Slow::default() },
                _ => Slow { asked: Rc::clone(&asked), ..Slow::default() },
            };
            channels.open(ChannelId(n), Box::new(slow));
        }
        let (busy, mut wake) = (ChannelId(500), WakeSet::new());
        for key in 0..5 {
            channels.submit(busy, BlockIo { key: IoKey(key), ..Bench::io(Op::Read, 0, 1) }, &mut cx);
            channels.kick();
            assert_eq!(channels.poll(&mut cx), 0);
            assert!(channels.arm(&mut wake));
        }
        assert_eq!(channels.load(busy), Some(ChannelLoad { in_flight: 2, waiting: 3 }));
        assert!(channels.close(busy).is_none(), "it is busy");
        release.set(true);
        while channels.poll(&mut cx) != 0 {
            channels.kick();
        }
        let order: Vec<u64> = cx.done.iter().map(|d| d.key.0).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert!(
            channels.active.is_empty() && asked.get() == 0,
            "the others were asked {} times",
            asked.get()
        );
        assert!(channels.close(busy).is_some());
        channels.submit(ChannelId(7), Bench::io(Op::Read, 0, 1), &mut cx);
        assert!(asked.get() == 0 && channels.active == [ChannelId(7)]);
    }
}
