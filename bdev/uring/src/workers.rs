//! Threads for what has no asynchronous form, and for everything where io_uring is forbidden.
//!
//! A worker runs the whole operation with plain system calls and hands it back; an event descriptor wakes the
//! core. The lock is held for moments, on a path that enters the kernel anyway.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use arrayvec::ArrayVec;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use spindle_bdev::{BlockError, BlockIo, IoDone, IoFlags, IoResult, Op, Provisioning};
use spindle_ffi_os::EventFd;

use crate::errors;
use crate::file::Shared;

/// Threads of one core: blocking calls overlap, and a machine of many cores does not drown in threads.
const THREADS: usize = 4;
/// Jobs of one core at once; more are refused and wait in the channel's line.
const JOBS_MAX: usize = 1024;

pub(crate) struct Job {
    pub shared: Arc<Shared>,
    pub io: BlockIo,
    /// Which channel of the core gets it back.
    pub owner: u32,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    ended: Vec<(u32, IoDone)>,
    under_way: usize,
    stop: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    more: Condvar,
    bell: EventFd,
}

/// A core's worker threads.
pub(crate) struct Workers {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub fn start() -> io::Result<Workers> {
        let inner = Arc::new(Inner { queue: Mutex::default(), more: Condvar::new(), bell: EventFd::new()? });
        let threads = (0..THREADS)
            .map(|n| {
                let inner = inner.clone();
                std::thread::Builder::new().name(format!("blocking-{n}")).spawn(move || serve(&inner))
            })
            .collect::<io::Result<_>>()?;
        Ok(Workers { inner, threads })
    }

    /// Takes a job, or hands it back when too many are under way.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        let mut queue = lock(&self.inner);
        if queue.under_way >= JOBS_MAX {
            return Err(job);
        }
        queue.under_way += 1;
        queue.jobs.push_back(job);
        drop(queue);
        self.inner.more.notify_one();
        Ok(())
    }

    /// Takes in what has ended.
    pub fn reap(&self, mut ended: impl FnMut(u32, IoDone)) -> u32 {
        self.inner.bell.drain();
        let list = std::mem::take(&mut lock(&self.inner).ended);
        let count = list.len() as u32;
        list.into_iter().for_each(|(owner, done)| ended(owner, done));
        count
    }

    /// Takes a job out that no thread has begun.
    pub fn cancel(&self, key: spindle_bdev::IoKey) {
        let mut queue = lock(&self.inner);
        if let Some(at) = queue.jobs.iter().position(|j| j.io.key == key)
            && let Some(job) = queue.jobs.remove(at)
        {
            queue.under_way -= 1;
            queue.ended.push((job.owner, IoDone::of(job.io, IoResult::Err(BlockError::Aborted))));
            self.inner.bell.ring();
        }
    }

    pub fn fd(&self) -> RawFd {
        use std::os::fd::AsRawFd;
        self.inner.bell.as_raw_fd()
    }

    pub fn has_ended(&self) -> bool {
        !lock(&self.inner).ended.is_empty()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        lock(&self.inner).stop = true;
        self.inner.more.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(inner: &Inner) -> std::sync::MutexGuard<'_, Queue> {
    inner.queue.lock().expect("nothing panics while it holds the queue")
}

fn serve(inner: &Inner) {
    loop {
        let mut queue = lock(inner);
        let job = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if queue.stop {
                return;
            }
            queue = inner.more.wait(queue).expect("nothing panics while it holds the queue");
        };
        drop(queue);
        let Job { shared, mut io, owner } = job;
        let result = run(&shared, &mut io);
        let done = IoDone::of(io, result);
        let mut queue = lock(inner);
        queue.under_way -= 1;
        queue.ended.push((owner, done));
        drop(queue);
        inner.bell.ring();
    }
}

/// Pieces of memory in one call: 256 KiB if no two pages lie together.
const PARTS_MAX: usize = 64;

/// One whole operation, blocking.
pub(crate) fn run(shared: &Shared, io: &mut BlockIo) -> IoResult {
    let op = io.op;
    let result = match op {
        Op::Read => read(shared, io),
        Op::Write => write(shared, io),
        Op::Verify => verify(shared, io),
        Op::Flush => return shared.flush_with(|| rustix::fs::fdatasync(&shared.file).map_err(Into::into)),
        Op::Unmap | Op::WriteZeroes => zero(shared, io),
        Op::Extent => return extent(shared, io),
    };
    match result {
        Ok(()) if shared.must_sync(op, io.flags) => {
            shared.flush_with(|| rustix::fs::fdatasync(&shared.file).map_err(Into::into))
        }
        Ok(()) => IoResult::Ok,
        Err(e) => IoResult::Err(shared.failed(&e, op, io.flags)),
    }
}

fn read(shared: &Shared, io: &mut BlockIo) -> io::Result<()> {
    let bytes = io.blocks * shared.block_bytes;
    let Some(data) = io.data.as_mut() else { return Err(Errno::INVAL.into()) };
    let mut done = 0;
    while done < bytes {
        let offset = io.lba * u64::from(shared.block_bytes) + u64::from(done);
        let mut parts: ArrayVec<IoSliceMut<'_>, PARTS_MAX> =
            data.slices_mut(io.at + done..io.at + bytes).take(PARTS_MAX).map(IoSliceMut::new).collect();
        match rustix::io::preadv(&shared.file, &mut parts, offset) {
            Ok(0) => return Err(Errno::IO.into()), // the file has become shorter
            Ok(n) => done += n as u32,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn write(shared: &Shared, io: &BlockIo) -> io::Result<()> {
    let bytes = io.blocks * shared.block_bytes;
    let Some(data) = io.data.as_ref() else { return Err(Errno::INVAL.into()) };
    let flags = if shared.writes_durably(io.flags) { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    let mut done = 0;
    while done < bytes {
        let offset = io.lba * u64::from(shared.block_bytes) + u64::from(done);
        let parts: ArrayVec<IoSlice<'_>, PARTS_MAX> =
            data.slices(io.at + done..io.at + bytes).take(PARTS_MAX).map(IoSlice::new).collect();
        match rustix::io::pwritev2(&shared.file, &parts, offset, flags) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(n) => done += n as u32,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A buffer at an address that direct I/O accepts.
#[repr(align(4096))]
struct Aligned([u8; 64 * 1024]);

fn verify(shared: &Shared, io: &BlockIo) -> io::Result<()> {
    let mut scratch = Box::new(Aligned([0; 64 * 1024]));
    let mut at = io.lba * u64::from(shared.block_bytes);
    let end = at + u64::from(io.blocks) * u64::from(shared.block_bytes);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(scratch.0.len());
        match rustix::io::pread(&shared.file, &mut scratch.0[..want], at) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Zeros by deallocation, by marking, or, where the file system knows neither, by writing them.
fn zero(shared: &Shared, io: &BlockIo) -> io::Result<()> {
    let at = io.lba * u64::from(shared.block_bytes);
    let bytes = u64::from(io.blocks) * u64::from(shared.block_bytes);
    if bytes == 0 {
        return Ok(());
    }
    let punch = io.op == Op::Unmap || io.flags.has(IoFlags::MAY_UNMAP);
    let mode = if punch { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
    match rustix::fs::fallocate(&shared.file, mode | FallocateFlags::KEEP_SIZE, at, bytes) {
        Ok(()) => return Ok(()),
        Err(e) if io.op == Op::Unmap => return Err(e.into()),
        Err(e) if errors::is_unsupported(&e.into()) => {}
        Err(e) => return Err(e.into()),
    }
    let zeros = Box::new(Aligned([0; 64 * 1024]));
    let mut done = 0;
    while done < bytes {
        let want = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(zeros.0.len());
        match rustix::io::pwrite(&shared.file, &zeros.0[..want], at + done) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Where data and holes begin tells the state of a block and for how long it lasts.
fn extent(shared: &Shared, io: &BlockIo) -> IoResult {
    let block = u64::from(shared.block_bytes);
    let all = io.blocks.max(1);
    let mapped = IoResult::Extent { state: Provisioning::Mapped, blocks: all };
    if !shared.sparse {
        return mapped;
    }
    // The offset of a descriptor is shared by its duplicates: one search at a time.
    let _searching = shared.seeking.lock().expect("nothing panics while it seeks");
    let start = io.lba * block;
    let limit = |offset: u64| u32::try_from((offset - start).div_ceil(block)).unwrap_or(all).clamp(1, all);
    match rustix::fs::seek(&shared.file, SeekFrom::Data(start)) {
        // A block that is partly data is mapped: holes count from the next block border.
        Ok(data) if data / block > io.lba => {
            let blocks = u32::try_from(data / block - io.lba).unwrap_or(all).clamp(1, all);
            IoResult::Extent { state: Provisioning::Deallocated, blocks }
        }
        Ok(_) => match rustix::fs::seek(&shared.file, SeekFrom::Hole(start)) {
            Ok(hole) if hole > start => IoResult::Extent { state: Provisioning::Mapped, blocks: limit(hole) },
            _ => IoResult::Extent { state: Provisioning::Mapped, blocks: 1 },
        },
        Err(Errno::NXIO) => IoResult::Extent { state: Provisioning::Deallocated, blocks: all },
        Err(_) => mapped,
    }
}
