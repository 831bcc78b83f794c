//! One core's path to a file or block device.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use spindle_bdev::{
    BlockError, BlockIo, ChannelSeed, CoreEnv, IoChannel, IoCx, IoDone, IoFlags, IoKey, IoResult, Op,
    OpenError,
};
use spindle_ffi_uring as uring;
use spindle_reactor::WakeSet;

use crate::errors;
use crate::file::Shared;
use crate::ring::{Flight, Owner, UringCore};
use crate::workers::{Job, run};

/// What the kernel is doing for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The operation itself.
    Main,
    /// Making it durable.
    Sync,
}

/// A channel on its way to its core.
pub(crate) struct Seed {
    pub shared: Arc<Shared>,
    pub file: std::os::fd::OwnedFd,
    pub ring_allowed: bool,
}

impl ChannelSeed for Seed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let Seed { shared, file, ring_allowed } = *self;
        let core = UringCore::of(env.shared, ring_allowed);
        let slot = match &core.ring {
            Some(ring) if ring_allowed => Some(ring.borrow_mut().add_file(file, shared.by_itself)),
            _ => None,
        };
        let owner = core.register(shared, slot);
        Ok(Box::new(FileChannel { core, owner }))
    }
}

struct FileChannel {
    core: Rc<UringCore>,
    owner: Rc<Owner>,
}

impl FileChannel {
    /// What io_uring does for an operation; `None`: a thread has to.
    fn ring_op(&self, io: &BlockIo) -> Option<uring::Op> {
        let shared = &self.owner.shared;
        let offset = io.lba * u64::from(shared.block_bytes);
        let length = u64::from(io.blocks) * u64::from(shared.block_bytes);
        Some(match io.op {
            Op::Read => uring::Op::Read { offset },
            Op::Write => uring::Op::Write { offset, durable: shared.writes_durably(io.flags) },
            Op::Flush => uring::Op::Sync,
            Op::Unmap => uring::Op::PunchHole { offset, length },
            Op::WriteZeroes if io.flags.has(IoFlags::MAY_UNMAP) => uring::Op::PunchHole { offset, length },
            Op::WriteZeroes => uring::Op::ZeroRange { offset, length },
            Op::Verify | Op::Extent => return None,
        })
    }

    fn to_workers(&self, io: BlockIo) -> Result<(), BlockIo> {
        let Ok(workers) = self.core.workers() else { return Err(io) };
        workers
            .submit(Job { shared: self.owner.shared.clone(), io, owner: self.owner.id })
            .map_err(|job| job.io)?;
        self.owner.one_more();
        Ok(())
    }
}

impl IoChannel for FileChannel {
    fn submit(&mut self, mut io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        let shared = &self.owner.shared;
        if io.lba.checked_add(u64::from(io.blocks)).is_none_or(|end| end > shared.blocks()) {
            cx.done.push(IoDone::of(io, IoResult::Err(BlockError::OutOfRange)));
            return Ok(());
        }
        if let Some(result) = shared.at_once(&io) {
            cx.done.push(IoDone::of(io, result));
            return Ok(());
        }
        if shared.is_done_here(&io) {
            let result = run(shared, &mut io);
            cx.done.push(IoDone::of(io, result));
            return Ok(());
        }
        let (Some(ring), Some(file), Some(op)) = (&self.core.ring, self.owner.file, self.ring_op(&io)) else {
            return self.to_workers(io);
        };
        let flight = Flight { io, owner: self.owner.clone(), stage: Stage::Main, done: 0 };
        match ring.borrow_mut().submit(file, op, flight) {
            Ok(_) => {
                self.owner.one_more();
                Ok(())
            }
            Err(flight) => Err(flight.io),
        }
    }

    fn works_by_threads(&self) -> bool {
        self.owner.file.is_none() || !self.owner.shared.by_itself
    }

    fn kick(&mut self) {
        if let Some(ring) = &self.core.ring {
            ring.borrow_mut().kick();
        }
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let before = cx.done.len();
        // The ring and the threads serve all channels of the core: whoever polls first takes in everybody's.
        if let Some(ring) = &self.core.ring {
            let mut again: Vec<(uring::Op, Flight)> = Vec::new();
            let mut elsewhere: Vec<Flight> = Vec::new();
            ring.borrow_mut().reap(|_, result, flight| match next(result, flight) {
                Next::Done(done, owner) => {
                    owner.one_less();
                    cx.done.push(done);
                }
                Next::Again(op, flight) => again.push((op, flight)),
                Next::Elsewhere(flight) => elsewhere.push(flight),
            });
            for (op, flight) in again {
                let file = flight.owner.file.expect("it came from the ring");
                // Its slot has just come free, so this is refused only if the kernel takes nothing any more.
                if let Err(flight) = ring.borrow_mut().submit(file, op, flight) {
                    flight.owner.one_less();
                    cx.done.push(IoDone::of(flight.io, IoResult::Err(BlockError::TimedOut)));
                }
            }
            for flight in elsewhere {
                let owner = flight.owner;
                let job = Job { shared: owner.shared.clone(), io: flight.io, owner: owner.id };
                let refused = match self.core.workers() {
                    Ok(workers) => workers.submit(job).err(),
                    Err(_) => Some(job),
                };
                if let Some(job) = refused {
                    owner.one_less();
                    cx.done.push(IoDone::of(job.io, IoResult::Err(BlockError::Unsupported)));
                }
            }
            ring.borrow_mut().kick();
        }
        if let Some(workers) = self.core.started_workers() {
            workers.reap(|owner, done| {
                self.core.job_ended(owner);
                cx.done.push(done);
            });
        }
        (cx.done.len() - before) as u32
    }

    fn abort(&mut self, key: IoKey) {
        if let Some(ring) = &self.core.ring {
            let mut ring = ring.borrow_mut();
            if let Some(token) = ring.find(|f| f.io.key == key) {
                ring.cancel(token);
                ring.kick();
                return;
            }
        }
        if let Some(workers) = self.core.started_workers() {
            workers.cancel(key);
        }
    }

    fn in_flight(&self) -> u32 {
        self.owner.in_flight.get()
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        let mut quiet = true;
        if let Some(ring) = &self.core.ring {
            let mut ring = ring.borrow_mut();
            wake.fd(ring.fd());
            quiet &= !ring.has_completions();
        }
        if let Some(workers) = self.core.started_workers() {
            wake.fd(workers.fd());
            quiet &= !workers.has_ended();
        }
        quiet
    }

    fn close(&mut self, _env: &mut CoreEnv<'_>) {
        if let (Some(ring), Some(file)) = (&self.core.ring, self.owner.file) {
            ring.borrow_mut().remove_file(file);
        }
        self.core.unregister(self.owner.id);
    }
}

/// What follows a completion of the ring.
enum Next {
    Done(IoDone, Rc<Owner>),
    Again(uring::Op, Flight),
    /// The kernel does not know this for this file: a thread does it by other means.
    Elsewhere(Flight),
}

fn next(result: io::Result<u32>, mut flight: Flight) -> Next {
    let shared = flight.owner.shared.clone();
    let owner = flight.owner.clone();
    let (op, flags) = (flight.io.op, flight.io.flags);
    let failed = |flight: Flight, e: &io::Error| {
        let error = if flight.stage == Stage::Sync || op == Op::Flush {
            shared.flush_failed(e)
        } else {
            shared.failed(e, op, flags)
        };
        Next::Done(IoDone::of(flight.io, IoResult::Err(error)), owner.clone())
    };
    let offset = flight.io.lba * u64::from(shared.block_bytes) + u64::from(flight.done);
    let n = match result {
        Ok(n) => n,
        Err(e) if flight.stage == Stage::Main && errors::is_passing(&e) => {
            return match op {
                Op::Read => Next::Again(uring::Op::Read { offset }, flight),
                Op::Write => {
                    let durable = shared.writes_durably(flags);
                    Next::Again(uring::Op::Write { offset, durable }, flight)
                }
                _ => Next::Elsewhere(flight),
            };
        }
        Err(e) if op == Op::WriteZeroes && flight.stage == Stage::Main && errors::is_unsupported(&e) => {
            return Next::Elsewhere(flight);
        }
        Err(e) => return failed(flight, &e),
    };
    if flight.stage == Stage::Main && matches!(op, Op::Read | Op::Write) {
        if n == 0 {
            // Nothing there to read, or nothing taken: the file has become shorter than the device it is.
            return failed(flight, &rustix::io::Errno::IO.into());
        }
        flight.done += n;
        if flight.done < flight.bytes() {
            let offset = offset + u64::from(n);
            let again = match op {
                Op::Read => uring::Op::Read { offset },
                _ => uring::Op::Write { offset, durable: shared.writes_durably(flags) },
            };
            return Next::Again(again, flight);
        }
    }
    if flight.stage == Stage::Main && shared.must_sync(op, flags) {
        flight.stage = Stage::Sync;
        return Next::Again(uring::Op::Sync, flight);
    }
    Next::Done(IoDone::of(flight.io, IoResult::Ok), owner)
}
