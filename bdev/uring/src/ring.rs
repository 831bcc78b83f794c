//! A core's io_uring, shared by its channels.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use spindle_bdev::{BlockIo, CoreShared};
use spindle_ffi_uring::{FileSlot, Payload, Ring};

use crate::channel::Stage;
use crate::file::Shared;
use crate::workers::Workers;

/// Operations of one core that may be with the kernel at once.
const DEPTH: u32 = 1024;

/// What the channels of one core share: a ring (unless forbidden) and threads (once somebody needs them).
pub(crate) struct UringCore {
    pub ring: Option<RefCell<Ring<Flight>>>,
    workers: RefCell<Option<Rc<Workers>>>,
    /// Channels by number: a thread's work names its channel so.
    owners: RefCell<HashMap<u32, Rc<Owner>>>,
    next_owner: Cell<u32>,
}

impl UringCore {
    pub fn of(shared: &mut CoreShared, ring_allowed: bool) -> Rc<UringCore> {
        let made: Result<&mut Rc<UringCore>, std::convert::Infallible> = shared.of(|| {
            // A core whose ring cannot be made (no more memory to lock, forbidden) serves through threads.
            let ring = if ring_allowed { Ring::new(DEPTH).ok().map(RefCell::new) } else { None };
            let (workers, owners, next_owner) = Default::default();
            Ok(Rc::new(UringCore { ring, workers, owners, next_owner }))
        });
        match made {
            Ok(core) => core.clone(),
            Err(never) => match never {},
        }
    }

    pub fn workers(&self) -> std::io::Result<Rc<Workers>> {
        let mut slot = self.workers.borrow_mut();
        if let Some(workers) = slot.as_ref() {
            return Ok(workers.clone());
        }
        let made = Rc::new(Workers::start()?);
        *slot = Some(made.clone());
        Ok(made)
    }

    pub fn register(&self, shared: Arc<Shared>, file: Option<FileSlot>) -> Rc<Owner> {
        let id = self.next_owner.replace(self.next_owner.get() + 1);
        let owner = Rc::new(Owner { id, shared, file, in_flight: Cell::new(0) });
        self.owners.borrow_mut().insert(id, owner.clone());
        owner
    }

    pub fn unregister(&self, id: u32) {
        self.owners.borrow_mut().remove(&id);
    }

    pub fn job_ended(&self, id: u32) {
        if let Some(owner) = self.owners.borrow().get(&id) {
            owner.one_less();
        }
    }

    pub fn started_workers(&self) -> Option<Rc<Workers>> {
        self.workers.borrow().clone()
    }
}

/// What one channel and its operations in flight both know.
pub(crate) struct Owner {
    pub id: u32,
    pub shared: Arc<Shared>,
    pub file: Option<FileSlot>,
    pub in_flight: Cell<u32>,
}

impl Owner {
    pub fn one_more(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub fn one_less(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

/// An operation with the kernel.
pub(crate) struct Flight {
    pub io: BlockIo,
    pub owner: Rc<Owner>,
    pub stage: Stage,
    /// Bytes of it that are done: the kernel may do less than it was asked.
    pub done: u32,
}

impl Flight {
    pub fn bytes(&self) -> u32 {
        self.io.blocks * self.owner.shared.block_bytes
    }

    fn range(&self) -> std::ops::Range<u32> {
        self.io.at + self.done..self.io.at + self.bytes()
    }
}

impl Payload for Flight {
    fn each_slice(&self, see: &mut dyn FnMut(&[u8])) {
        if let Some(data) = &self.io.data {
            data.slices(self.range()).for_each(see);
        }
    }

    fn each_slice_mut(&mut self, see: &mut dyn FnMut(&mut [u8])) {
        let range = self.range();
        if let Some(data) = &mut self.io.data {
            data.slices_mut(range).for_each(see);
        }
    }
}
