//! The ring and its table of operations.

// UNSAFETY: the kernel reads and writes memory by address after the call that named it has returned. The rules
// that make this sound are kept here and nowhere else: a payload is stored before its addresses are taken, is
// neither moved nor touched until its completion was seen, and a ring with operations in flight is not torn down
// before they are back.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, opcode, types};

/// Values whose memory the kernel works on.
///
/// The slices must lie in memory that belongs to the value (or that the value keeps alive) and must not depend on
/// where the value itself is stored, so that nothing changes while the ring holds it untouched.
pub trait Payload {
    /// Shows the memory to write out, slice by slice, in order.
    fn each_slice(&self, see: &mut dyn FnMut(&[u8]));
    /// Shows the memory to read into, slice by slice, in order.
    fn each_slice_mut(&mut self, see: &mut dyn FnMut(&mut [u8]));
}

/// What to do with a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read into the payload from this offset in the file; a socket has only offset 0.
    Read {
        /// Bytes from the start of the file.
        offset: u64,
    },
    /// Write the payload to this offset in the file; a socket has only offset 0.
    Write {
        /// Bytes from the start of the file.
        offset: u64,
        /// Durable before it is done (RWF_DSYNC).
        durable: bool,
    },
    /// Make all that was written durable (fdatasync).
    Sync,
    /// Deallocate; reads as zeros afterwards.
    PunchHole {
        /// Bytes from the start of the file.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Reads as zeros afterwards, without deallocation where the file system can.
    ZeroRange {
        /// Bytes from the start of the file.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// Names an operation in flight, to cancel it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(u32);

/// A file of a ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileSlot(u16);

/// Why a ring could not be made.
#[derive(Debug)]
pub struct RingError(pub io::Error);

impl std::fmt::Display for RingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "io_uring: {}", self.0)
    }
}

impl std::error::Error for RingError {}

/// Whether this process may use io_uring (containers often forbid it).
pub fn available() -> bool {
    IoUring::new(2).is_ok()
}

/// User data of a cancellation: its own completion says nothing that the operation's does not.
const CANCEL: u64 = u64::MAX;
/// Slices the kernel takes in one operation (UIO_MAXIOV).
const SLICES_MAX: usize = 1024;

/// An io_uring of one thread, with room for a fixed number of operations.
pub struct Ring<P: Payload> {
    ring: IoUring,
    slots: Box<[Slot<P>]>,
    free: Vec<u32>,
    files: Vec<Option<File>>,
    in_flight: u32,
    /// Queued and not yet told to the kernel.
    unkicked: u32,
}

struct Slot<P> {
    payload: Option<P>,
    vectors: Vec<libc::iovec>,
    file: FileSlot,
}

struct File {
    fd: OwnedFd,
    users: u32,
    eager: bool,
}

impl<P: Payload> Ring<P> {
    /// A ring with room for `depth` operations (rounded up to a power of two).
    pub fn new(depth: u32) -> Result<Ring<P>, RingError> {
        let depth = depth.next_power_of_two();
        // Completions are delivered when we enter the kernel for them, not by interrupting us; older kernels do
        // not know these wishes and do without.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_cqsize(depth * 2)
            .build(depth)
            .or_else(|_| IoUring::builder().setup_cqsize(depth * 2).build(depth))
            .map_err(RingError)?;
        let slots = (0..depth)
            .map(|_| Slot { payload: None, vectors: Vec::new(), file: FileSlot(0) })
            .collect::<Vec<_>>()
            .into_boxed_slice();
        Ok(Ring {
            ring,
            slots,
            free: (0..depth).rev().collect(),
            files: Vec::new(),
            in_flight: 0,
            unkicked: 0,
        })
    }

    /// Lets the ring work on a file. `eager`: what is behind it begins to work as soon as it is told of one operation, and
    /// would be idle until the kick.
    pub fn add_file(&mut self, fd: OwnedFd, eager: bool) -> FileSlot {
        let file = Some(File { fd, users: 0, eager });
        let at = match self.files.iter().position(Option::is_none) {
            Some(at) => {
                self.files[at] = file;
                at
            }
            None => {
                self.files.push(file);
                self.files.len() - 1
            }
        };
        FileSlot(u16::try_from(at).expect("a core has fewer than 65,536 files"))
    }

    /// Closes a file; `false`, and nothing happens, while operations on it are in flight.
    pub fn remove_file(&mut self, file: FileSlot) -> bool {
        match self.files.get_mut(file.0 as usize) {
            Some(slot) if slot.as_ref().is_some_and(|f| f.users == 0) => {
                *slot = None;
                true
            }
            _ => false,
        }
    }

    /// Operations the kernel has, or will get at the next kick.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Readable when completions wait.
    pub fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Queues an operation; hands the payload back when there is no room, or no such file. The kernel is told with the
    /// next kick, of an eager file's at once if it has little to do: after the first, the second, the fourth, and so on.
    pub fn submit(&mut self, file: FileSlot, op: Op, payload: P) -> Result<Token, P> {
        let Some(Some(target)) = self.files.get_mut(file.0 as usize) else { return Err(payload) };
        let Some(slot) = self.free.pop() else { return Err(payload) };
        let fd = types::Fd(target.fd.as_raw_fd());
        let place = &mut self.slots[slot as usize];
        place.file = file;
        let held = place.payload.insert(payload);
        place.vectors.clear();
        let vectors = &mut place.vectors;
        let mut note = |base: *mut u8, length: usize| {
            if vectors.len() < SLICES_MAX {
                vectors.push(libc::iovec { iov_base: base.cast(), iov_len: length });
            }
        };
        match op {
            Op::Read { .. } => held.each_slice_mut(&mut |part| note(part.as_mut_ptr(), part.len())),
            Op::Write { .. } => held.each_slice(&mut |part| note(part.as_ptr().cast_mut(), part.len())),
            Op::Sync | Op::PunchHole { .. } | Op::ZeroRange { .. } => {}
        }
        let (base, count) = (place.vectors.as_ptr(), place.vectors.len() as u32);
        let entry = match op {
            Op::Read { offset } => opcode::Readv::new(fd, base, count).offset(offset).build(),
            Op::Write { offset, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, base, count).offset(offset).rw_flags(flags).build()
            }
            Op::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Op::PunchHole { offset, length } => opcode::Fallocate::new(fd, length)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            Op::ZeroRange { offset, length } => opcode::Fallocate::new(fd, length)
                .offset(offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        };
        let entry = entry.user_data(u64::from(slot));
        if !self.push(&entry) {
            self.free.push(slot);
            let place = &mut self.slots[slot as usize];
            return Err(place.payload.take().expect("stored just above"));
        }
        let file = self.files[file.0 as usize].as_mut().expect("looked up above");
        file.users += 1;
        self.in_flight += 1;
        // As much waits as the kernel has: told now, a device starts on the first while the rest is still being
        // queued. One that has plenty hears of more at the kick.
        if file.eager && self.unkicked >= (self.in_flight - self.unkicked).max(1) {
            self.kick();
        }
        Ok(Token(slot))
    }

    /// The first operation in flight whose payload is the one looked for.
    pub fn find(&self, mut wanted: impl FnMut(&P) -> bool) -> Option<Token> {
        let at = self.slots.iter().position(|s| s.payload.as_ref().is_some_and(&mut wanted))?;
        Some(Token(at as u32))
    }

    /// Asks the kernel to give an operation back early. It completes in any case, as cancelled or as it would
    /// have.
    pub fn cancel(&mut self, token: Token) {
        if self.slots.get(token.0 as usize).is_some_and(|s| s.payload.is_some()) {
            let entry = opcode::AsyncCancel::new(u64::from(token.0)).build().user_data(CANCEL);
            self.push(&entry);
        }
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: the entry names a descriptor that `files` keeps open, an array of vectors that its slot
            // keeps unchanged, and memory of the payload that the slot keeps untouched, all until the completion
            // with this slot's number has been seen by `reap` (or, at the end, by `drop`).
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.unkicked += 1;
                return true;
            }
            // The submission queue is full: tell the kernel, which empties it.
            if self.enter().is_err() {
                return false;
            }
        }
        false
    }

    fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => {
                self.unkicked = 0;
                Ok(())
            }
            // Interrupted, or the completion queue wants emptying first: the entries stay queued.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Tells the kernel what was queued: one system call, or none.
    pub fn kick(&mut self) {
        if self.unkicked > 0 {
            // What was queued stays queued on an error and is offered again at the next kick.
            let _ = self.enter();
        }
    }

    /// Tells the kernel what was queued, and lets it deliver what has ended: always one system call. For a thread that
    /// polls and enters the kernel for nothing else.
    pub fn turn(&mut self) {
        // As in `kick`: nothing is lost on an error.
        let _ = self.enter();
    }

    /// Takes in what has ended: the token, the result (bytes, or an error), the payload.
    pub fn reap(&mut self, mut ended: impl FnMut(Token, io::Result<u32>, P)) -> u32 {
        if self.unkicked > 0 {
            self.kick();
        }
        let mut count = 0;
        loop {
            let Some(entry) = self.ring.completion().next() else {
                // With cooperative delivery the kernel holds completions back until we enter it.
                let flags = self.ring.submission();
                let waiting = flags.taskrun() || flags.cq_overflow();
                drop(flags);
                if !waiting || self.enter_for_events().is_err() {
                    return count;
                }
                if self.ring.completion().is_empty() {
                    return count;
                }
                continue;
            };
            if entry.user_data() == CANCEL {
                continue;
            }
            let slot = entry.user_data() as usize;
            let place = &mut self.slots[slot];
            let Some(payload) = place.payload.take() else { continue };
            let file = place.file;
            if let Some(Some(file)) = self.files.get_mut(file.0 as usize) {
                file.users -= 1;
            }
            self.free.push(slot as u32);
            self.in_flight -= 1;
            count += 1;
            let result = entry.result();
            let result =
                if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) };
            ended(Token(slot as u32), result, payload);
        }
    }

    fn enter_for_events(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(0) {
            Ok(_) => {
                self.unkicked = 0;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Whether completions wait to be reaped.
    pub fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }
}

impl<P: Payload> Drop for Ring<P> {
    fn drop(&mut self) {
        // The kernel may still write into payloads: wait for all of them. Should it refuse to say, the memory
        // is leaked rather than freed under its hands.
        while self.in_flight > 0 {
            let before = self.in_flight;
            if self.reap(|_, _, _| {}) == 0
                && self.ring.submit_and_wait(1).is_err()
                && self.in_flight == before
            {
                for slot in &mut self.slots {
                    std::mem::forget(slot.payload.take());
                    std::mem::forget(std::mem::take(&mut slot.vectors));
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    struct Bytes(Vec<Vec<u8>>);

    impl Payload for Bytes {
        fn each_slice(&self, see: &mut dyn FnMut(&[u8])) {
            self.0.iter().for_each(|b| see(b));
        }
        fn each_slice_mut(&mut self, see: &mut dyn FnMut(&mut [u8])) {
            self.0.iter_mut().for_each(|b| see(b));
        }
    }

    fn ring_and_file(depth: u32) -> Option<(Ring<Bytes>, FileSlot, std::fs::File)> {
        if !available() {
            eprintln!("io_uring is not to be had here: nothing to test");
            return None;
        }
        let mut ring = Ring::new(depth).unwrap();
        let file = tempfile::tempfile().unwrap();
        let slot = ring.add_file(file.as_fd().try_clone_to_owned().unwrap(), false);
        Some((ring, slot, file))
    }

    fn one(ring: &mut Ring<Bytes>) -> (io::Result<u32>, Bytes) {
        let mut got = None;
        while got.is_none() {
            ring.kick();
            ring.reap(|_, result, payload| got = Some((result, payload)));
        }
        got.unwrap()
    }

    #[test]
    fn a_kernel_with_little_to_do_is_told_before_the_kick() {
        let Some((mut ring, patient, f)) = ring_and_file(16) else { return };
        let eager = ring.add_file(f.as_fd().try_clone_to_owned().unwrap(), true);
        for (file, early) in [(eager, &[1, 2, 4, 8, 16][..]), (patient, &[])] {
            let told = (1..=16).filter(|_| {
                ring.submit(file, Op::Sync, Bytes(vec![])).ok().unwrap();
                ring.unkicked == 0
            });
            assert_eq!(told.collect::<Vec<_>>(), early);
            while ring.in_flight() > 0 {
                ring.reap(|_, result, _| assert!(result.is_ok()));
            }
        }
    }

    #[test]
    fn what_was_written_durably_is_read_back_in_pieces() {
        let Some((mut ring, file, _f)) = ring_and_file(4) else { return };
        let data = Bytes(vec![vec![1; 100], vec![2; 4000]]);
        ring.submit(file, Op::Write { offset: 512, durable: true }, data).ok().unwrap();
        assert_eq!(one(&mut ring).0.unwrap(), 4100);
        ring.submit(file, Op::Sync, Bytes(vec![])).ok().unwrap();
        one(&mut ring).0.unwrap();
        ring.submit(file, Op::Read { offset: 512 }, Bytes(vec![vec![0; 4000], vec![0; 100]])).ok().unwrap();
        let (n, back) = one(&mut ring);
        assert_eq!(n.unwrap(), 4100);
        assert_eq!(back.0[0][..100], [1; 100]);
        assert_eq!(back.0[1], [2; 100]);
    }

    #[test]
    fn a_full_table_hands_the_payload_back_and_recovers() {
        let Some((mut ring, file, _f)) = ring_and_file(2) else { return };
        for _ in 0..2 {
            ring.submit(file, Op::Write { offset: 0, durable: false }, Bytes(vec![vec![7; 10]]))
                .ok()
                .unwrap();
        }
        let back = ring.submit(file, Op::Sync, Bytes(vec![vec![9]])).unwrap_err();
        assert_eq!(back.0, [[9]]);
        assert!(!ring.remove_file(file), "a file in use stays");
        while ring.in_flight() > 0 {
            ring.reap(|_, r, _| assert_eq!(r.unwrap(), 10));
        }
        ring.submit(file, Op::Sync, Bytes(vec![])).ok().unwrap();
        one(&mut ring).0.unwrap();
        assert!(ring.remove_file(file));
        assert!(ring.submit(file, Op::Sync, Bytes(vec![])).is_err(), "a closed file is refused");
    }

    #[test]
    fn a_ring_that_goes_waits_for_its_operations() {
        let Some((mut ring, file, f)) = ring_and_file(64) else { return };
        for i in 0..64 {
            let data = Bytes(vec![vec![i as u8 + 1; 4096]]);
            ring.submit(file, Op::Write { offset: i * 4096, durable: false }, data).ok().unwrap();
        }
        drop(ring);
        let mut back = vec![0; 4096];
        use std::os::unix::fs::FileExt;
        f.read_exact_at(&mut back, 63 * 4096).unwrap();
        assert_eq!(back, [64; 4096]);
    }

    #[test]
    fn a_hole_reads_as_zeros() {
        let Some((mut ring, file, _f)) = ring_and_file(4) else { return };
        ring.submit(file, Op::Write { offset: 0, durable: false }, Bytes(vec![vec![5; 8192]])).ok().unwrap();
        one(&mut ring).0.unwrap();
        ring.submit(file, Op::PunchHole { offset: 0, length: 4096 }, Bytes(vec![])).ok().unwrap();
        one(&mut ring).0.unwrap();
        ring.submit(file, Op::Read { offset: 0 }, Bytes(vec![vec![9; 8192]])).ok().unwrap();
        let back = one(&mut ring).1;
        assert_eq!(back.0[0][..4096], [0; 4096]);
        assert_eq!(back.0[0][4096..], [5; 4096]);
    }
}
