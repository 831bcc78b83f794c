//! The channels of one core, and the line in front of each.
//!
//! A channel may refuse an operation when its queue is full. Nothing is lost by that: the operation waits here,
//! in order, and is offered again each turn. An abort takes a waiting operation out and ends it at once; what
//! the device already has is only hinted at (see [`IoChannel::abort`]).

use std::collections::VecDeque;

use spindle_reactor::WakeSet;

use crate::channel::{IoChannel, IoCx, ResetScope};
use crate::io::{BlockError, BlockIo, IoDone, IoKey, IoResult};

/// A channel in the table of its core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ChannelId(pub u16);

/// All channels of one core.
#[derive(Default)]
pub struct Channels {
    slots: Vec<Option<Slot>>,
    /// Operations waiting in all lines together: nought means the common case has nothing to look for.
    waiting: usize,
}

struct Slot {
    channel: Box<dyn IoChannel>,
    line: VecDeque<BlockIo>,
    touched: bool,
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
        self.slots[at] = Some(Slot { channel, line: VecDeque::new(), touched: false });
    }

    /// Takes a channel out, provided that nothing is in flight or waiting; the caller calls
    /// [`IoChannel::close`] on it. `None`: not open, or still busy.
    pub fn close(&mut self, id: ChannelId) -> Option<Box<dyn IoChannel>> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        if slot.as_ref().is_some_and(|s| s.channel.in_flight() == 0 && s.line.is_empty()) {
            return slot.take().map(|s| s.channel);
        }
        None
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
        // Those in line come first: operations reach the device in the order they were submitted.
        let refused = if slot.line.is_empty() { slot.channel.submit(io, cx).err() } else { Some(io) };
        if let Some(io) = refused {
            slot.line.push_back(io);
            self.waiting += 1;
        }
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
        for slot in self.slots.iter_mut().flatten() {
            if std::mem::take(&mut slot.touched) {
                slot.channel.kick();
            }
        }
    }

    /// Takes in what ended and offers what waits. Returns how many operations ended or moved.
    pub fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let mut work = 0;
        for slot in self.slots.iter_mut().flatten() {
            if slot.channel.in_flight() != 0 {
                work += slot.channel.poll(cx);
            }
            while let Some(io) = slot.line.pop_front() {
                match slot.channel.submit(io, cx) {
                    Ok(()) => {
                        slot.touched = true;
                        self.waiting -= 1;
                        work += 1;
                    }
                    Err(io) => {
                        slot.line.push_front(io);
                        break;
                    }
                }
            }
        }
        work
    }

    /// Names what would wake this core for its channels' sake. `false`: something came meanwhile.
    pub fn arm(&mut self, wake: &mut WakeSet) -> bool {
        let mut quiet = true;
        for slot in self.slots.iter_mut().flatten() {
            quiet &= slot.channel.arm(wake);
        }
        quiet
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
