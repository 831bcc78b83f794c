//! One core's path to a device.

use std::any::{Any, TypeId};
use std::collections::HashMap;

use spindle_mem::{Sgv, SgvPool};
use spindle_reactor::{CoreId, Tick, WakeSet};

use crate::device::OpenError;
use crate::io::{BlockIo, IoDone, IoFlags, IoKey};

/// What a channel may use while it works: the time of this turn, the core's pool, and the place where ended
/// operations go.
pub struct IoCx<'a> {
    /// Now; stands still within a turn.
    pub now: Tick,
    /// The core's memory, for vectors that are lent.
    pub pool: &'a mut SgvPool,
    /// Ended operations, in any order.
    pub done: &'a mut Vec<IoDone>,
}

/// How far a reset reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetScope {
    /// This core's queue only.
    Queue,
    /// The logical unit.
    Unit,
    /// The whole device.
    Device,
}

/// What is likely to be wanted soon of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    /// To find it.
    Find,
    /// So many bytes from its first on, to be sent. `Find` came before.
    Send(u32),
}

/// One core's path to a device. Used by that core only; never blocks.
///
/// Contract: every operation that `submit` accepted comes back exactly once through `IoCx::done`, from
/// `submit` or from `poll`, also when it was aborted, the channel was reset, or the device vanished. An
/// operation that may still write is never reported ended.
pub trait IoChannel {
    /// Takes the operation, or hands it back unchanged when there is no room now (try again after a `poll`
    /// that completed something, or on the next turn).
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo>;

    /// Whether it ever does something at once; asked when the channel is opened.
    fn serves_at_once(&self) -> bool {
        false
    }

    /// Whether it makes anything of [`IoChannel::hint`]; asked when the channel is opened.
    fn takes_hints(&self) -> bool {
        false
    }

    /// Whether its operations are done by threads of this machine, which need a processor and perhaps this core's; asked when
    /// the channel is opened.
    fn works_by_threads(&self) -> bool {
        false
    }

    /// Something is likely to be wanted soon: a device in memory may fetch it into the cache. There may be no such block.
    fn hint(&self, _lba: u64, _hint: Hint) {}

    /// Lends the caller what is stored in these blocks, if it can be had at once: a READ without an operation. `None`:
    /// not so, for whatever reason; nothing has happened, and `submit` tells more. Reads that `submit` may still have to
    /// do first are no hindrance; whoever must not pass an operation under way does not ask.
    fn read_at_once(&mut self, _lba: u64, _blocks: u32, _pool: &mut SgvPool) -> Option<Sgv> {
        None
    }

    /// Stores all of a vector from its first byte on, if that can be done at once, as durably as a completed write with
    /// these flags: a WRITE without an operation. The vector may hold anything afterwards. `false`: nothing has happened.
    fn write_at_once(
        &mut self,
        _lba: u64,
        _blocks: u32,
        _data: &mut Sgv,
        _flags: IoFlags,
        _pool: &mut SgvPool,
    ) -> bool {
        false
    }

    /// Makes this turn's submissions visible to the device: one doorbell, one system call.
    fn kick(&mut self) {}

    /// Takes in what has ended; returns how many operations did.
    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32;

    /// A hint that nobody wants this any more. The operation still completes, as
    /// [`crate::BlockError::Aborted`] or as it would have.
    fn abort(&mut self, _key: IoKey) {}

    /// Tries to get stuck operations back (queue, unit or device). They complete through `poll`.
    fn reset(&mut self, _scope: ResetScope, _cx: &mut IoCx<'_>) {}

    /// Operations accepted and not yet given back. A channel is closed (dropped) only at nought.
    fn in_flight(&self) -> u32;

    /// Names what would wake this core for the channel's sake. `false`: something came meanwhile.
    fn arm(&mut self, wake: &mut WakeSet) -> bool;

    /// Called once before the channel is dropped, with nothing in flight: gives back what it registered.
    fn close(&mut self, _env: &mut CoreEnv<'_>) {}
}

/// The slow half of opening a channel is done on the control thread; this half is carried to the core.
pub trait ChannelSeed: Send {
    /// Makes the channel. Quick; no blocking calls.
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError>;
}

/// What a core lends to the channels that are bound to it.
pub struct CoreEnv<'a> {
    /// Which core this is.
    pub core: CoreId,
    /// Its memory pool.
    pub pool: &'a mut SgvPool,
    /// Things that channels of one driver share on a core (the core's io_uring, for example).
    pub shared: &'a mut CoreShared,
}

/// Per-core state of drivers, one value of each type: made by the first channel that asks, shared by the rest.
#[derive(Default)]
pub struct CoreShared {
    by_type: HashMap<TypeId, Box<dyn Any>>,
}

impl CoreShared {
    /// The core's value of type `T`, made by `make` the first time.
    pub fn of<T: Any, E>(&mut self, make: impl FnOnce() -> Result<T, E>) -> Result<&mut T, E> {
        let slot = match self.by_type.entry(TypeId::of::<T>()) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => e.insert(Box::new(make()?)),
        };
        Ok(slot.downcast_mut().expect("the map is keyed by the value's own type"))
    }
}
