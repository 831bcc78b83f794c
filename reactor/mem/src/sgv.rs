//! The scatter-gather vector: owned memory of one command.
//!
//! An [`Sgv`] is a pointer to a header that its home pool made at start; the header names the segments. Own
//! memory is made of whole pages, one segment each, so that a RAM disk can exchange a page of it for one of
//! its own; neighbours are merged only when an iovec is built ([`Sgv::runs`]). Lent memory is read-only pages
//! of a RAM disk; its first and last segment may begin and end inside a page.

// UNSAFETY: the vector hands out references into memory the compiler does not know of. The proof is
// ownership: one value per header, one header per page.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use spindle_reactor::CoreId;

use crate::home::Home;
use crate::lend::LenderId;
use crate::pool::ShareId;
use crate::{PAGE_BYTES, POISON};

/// Whose pages a vector is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Pages of the pool; the holder may write them.
    Own,
    /// Pages of a RAM disk, read-only and counted as long as the vector lives.
    Lent,
    /// Memory of somebody else, read-only: received packets, user handlers. No pool makes these yet.
    Foreign,
}

/// A stretch of memory inside one page, and where devices know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Seg {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// How many bytes.
    pub len: u32,
    /// Region of the arena: a ring's fixed buffer, the key of a memory registration, an I/O address base.
    pub region: u16,
    /// For whoever made the vector. A lent segment has [`Seg::COUNTED`] here if it holds a count on its page.
    pub cookie: u16,
}

impl Seg {
    /// The page behind this lent segment is held by a count.
    pub const COUNTED: u16 = 1;
}

const _: () = assert!(size_of::<Seg>() == 16);

/// Neighbouring segments of one region, merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// How many bytes.
    pub len: u32,
    /// Region of the arena.
    pub region: u16,
}

/// Owned scatter-gather vector: an eight-byte handle. Whoever holds it owns the bytes.
///
/// It goes back with [`crate::SgvPool::put`]. Dropping one instead is a mistake: debug builds assert, release
/// builds count it and send the memory home. (After its pool is gone, dropping is the right end.)
#[repr(transparent)]
pub struct Sgv(NonNull<SgvHeader>);

const _: () = assert!(size_of::<Option<Sgv>>() == 8);

// SAFETY: a vector is the only name of its header and its pages; moving it moves that ownership whole. It is
// not `Sync`: counters inside are plain cells.
unsafe impl Send for Sgv {}

pub(crate) struct SgvHeader {
    pub len: u32,
    pub capacity: u32,
    /// Bytes of the first segment; all others but the last are whole pages.
    pub first: u32,
    pub kind: Kind,
    pub class: u8,
    pub share: ShareId,
    /// Which of the home pool's lenders the pages belong to (lent vectors only).
    pub lender: LenderId,
    /// The lender's pages are counted: it is told when they are back (lent vectors only).
    pub counted: bool,
    pub copied: Cell<u32>,
    /// Shares out (see `SgvRef`).
    pub refs: Cell<u32>,
    pub segs: Vec<Seg>,
    pub home: Arc<Home>,
    /// The next in the line of those on their way home.
    pub next: *mut SgvHeader,
}

impl Sgv {
    /// Bytes in use.
    #[inline]
    pub fn len(&self) -> u32 {
        self.header().len
    }

    /// No bytes in use?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many bytes as there is memory for.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.header().capacity
    }

    /// Uses the first `bytes` bytes, at most [`Sgv::capacity`]. Bytes that come into use hold anything.
    #[inline]
    pub fn set_len(&mut self, bytes: u32) {
        assert!(bytes <= self.capacity(), "{bytes} bytes do not fit into {}", self.capacity());
        self.header_mut().len = bytes;
    }

    /// Whose pages these are.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.header().kind
    }

    /// The core whose pool made it.
    #[inline]
    pub fn home(&self) -> CoreId {
        self.header().home.core()
    }

    /// The share it is counted under.
    #[inline]
    pub fn share(&self) -> ShareId {
        self.header().share
    }

    /// The segments of the whole capacity, whatever the length in use.
    #[inline]
    pub fn segs(&self) -> &[Seg] {
        &self.header().segs
    }

    /// Payload bytes copied into or out of this vector by the processor since it was taken.
    pub fn copied(&self) -> u32 {
        self.header().copied.get()
    }

    /// Counts payload bytes that were copied by other means than [`Sgv::copy_payload_from`].
    pub fn count_copied(&self, bytes: u32) {
        let copied = &self.header().copied;
        copied.set(copied.get().saturating_add(bytes));
    }

    /// The bytes of `range`, piece by piece, as they lie in memory (neighbouring segments merged).
    pub fn slices(&self, range: Range<u32>) -> Slices<'_> {
        Slices { runs: self.runs(range), of: PhantomData }
    }

    /// As [`Sgv::slices`], to write. Own memory only: a lent page has other readers.
    pub fn slices_mut(&mut self, range: Range<u32>) -> SlicesMut<'_> {
        assert!(self.kind() == Kind::Own, "only own memory is written, this is {:?}", self.kind());
        SlicesMut { runs: self.runs_unbound(range), of: PhantomData }
    }

    /// The bytes of `range` as few stretches of one region each: for iovecs, fixed buffers, DMA.
    pub fn runs(&self, range: Range<u32>) -> Runs<'_> {
        self.runs_unbound(range)
    }

    /// Appends `range` to an iovec, as far as at most `max` entries reach; tells how many bytes that were.
    pub fn io_slices<'a>(&'a self, range: Range<u32>, max: usize, out: &mut Vec<IoSlice<'a>>) -> u32 {
        let mut bytes = 0;
        for slice in self.slices(range).take(max) {
            bytes += slice.len() as u32;
            out.push(IoSlice::new(slice));
        }
        bytes
    }

    /// As [`Sgv::io_slices`], to receive into.
    pub fn io_slices_mut<'a>(
        &'a mut self,
        range: Range<u32>,
        max: usize,
        out: &mut Vec<IoSliceMut<'a>>,
    ) -> u32 {
        let mut bytes = 0;
        for slice in self.slices_mut(range).take(max) {
            bytes += slice.len() as u32;
            out.push(IoSliceMut::new(slice));
        }
        bytes
    }

    /// Copies `from` to the bytes at `at`. For what is not payload (parameter data, tests).
    pub fn copy_from(&mut self, at: u32, from: &[u8]) {
        let mut left = from;
        for slice in self.slices_mut(span(at, from.len())) {
            let (now, later) = left.split_at(slice.len());
            slice.copy_from_slice(now);
            left = later;
        }
    }

    /// Copies the bytes at `at` into `to`. For what is not payload.
    pub fn copy_to(&self, at: u32, to: &mut [u8]) {
        let mut left = to;
        for slice in self.slices(span(at, left.len())) {
            let (now, later) = left.split_at_mut(slice.len());
            now.copy_from_slice(slice);
            left = later;
        }
    }

    /// [`Sgv::copy_from`] on the data path: counted, so that copies of payload show per command and per pool.
    pub fn copy_payload_from(&mut self, at: u32, from: &[u8]) {
        self.copy_from(at, from);
        self.count_copied(from.len() as u32);
    }

    /// [`Sgv::copy_to`] on the data path: counted.
    pub fn copy_payload_to(&self, at: u32, to: &mut [u8]) {
        self.copy_to(at, to);
        self.count_copied(to.len() as u32);
    }

    /// Copies `len` bytes of `from` here, vector to vector; counted in both.
    pub fn copy_payload_between(&mut self, at: u32, from: &Sgv, from_at: u32, len: u32) {
        let mut to = at;
        for slice in from.slices(span(from_at, len as usize)) {
            self.copy_from(to, slice);
            to += slice.len() as u32;
        }
        self.count_copied(len);
        from.count_copied(len);
    }

    /// Sets `range` to nought.
    pub fn zero(&mut self, range: Range<u32>) {
        for slice in self.slices_mut(range) {
            slice.fill(0);
        }
    }

    /// Repeats `pattern` over `range`, beginning with its first byte at `range.start` (WRITE SAME, FORMAT UNIT
    /// initialization patterns, tests).
    pub fn fill_pattern(&mut self, range: Range<u32>, pattern: &[u8]) {
        assert!(!pattern.is_empty(), "an empty pattern fills nothing");
        let mut phase = 0;
        for mut slice in self.slices_mut(range) {
            while !slice.is_empty() {
                let n = slice.len().min(pattern.len() - phase);
                let (now, later) = slice.split_at_mut(n);
                now.copy_from_slice(&pattern[phase..phase + n]);
                phase = (phase + n) % pattern.len();
                slice = later;
            }
        }
    }

    /// The bytes in use as one piece: for tests and cold paths.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices(0..self.len()).flatten().copied().collect()
    }

    fn runs_unbound<'a>(&self, range: Range<u32>) -> Runs<'a> {
        let h = self.header();
        assert!(range.start <= range.end && range.end <= h.len, "{range:?} outside of {} bytes", h.len);
        let (index, offset) = h.locate(range.start);
        // SAFETY: the segments lie in the header's own vector, which is not resized while a vector is out; the
        // public signatures tie `'a` to a borrow of this value, so it is neither changed nor given up meanwhile.
        let segs: &'a [Seg] = unsafe { std::slice::from_raw_parts(h.segs.as_ptr(), h.segs.len()) };
        Runs { segs: &segs[index..], offset, left: range.end - range.start }
    }

    #[inline]
    pub(crate) fn header(&self) -> &SgvHeader {
        // SAFETY: the header lives until `free` takes this value; only this value names it.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn header_mut(&mut self) -> &mut SgvHeader {
        // SAFETY: as in `header`; `&mut self` makes it exclusive.
        unsafe { self.0.as_mut() }
    }

    pub(crate) fn new(header: SgvHeader) -> Sgv {
        Sgv(NonNull::from(Box::leak(Box::new(header))))
    }

    /// Gives up the value but not the memory; [`Sgv::from_raw`] takes it up again.
    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<SgvHeader> {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    /// # Safety
    /// `raw` came from [`Sgv::into_raw`] and is taken up once.
    pub(crate) unsafe fn from_raw(raw: NonNull<SgvHeader>) -> Sgv {
        Sgv(raw)
    }

    /// The end of the vector itself: pages go back to whom they belong.
    pub(crate) fn free(self) {
        let raw = self.into_raw();
        // SAFETY: made by `Box::leak` in `new`, and `self` was its only name.
        let header = unsafe { Box::from_raw(raw.as_ptr()) };
        let SgvHeader { kind, segs, home, lender, .. } = *header;
        match kind {
            Kind::Own => home.give_back(&segs),
            Kind::Lent => home.release(lender, &segs),
            Kind::Foreign => {}
        }
    }

    /// Overwrites all of it with [`POISON`].
    #[cold]
    pub(crate) fn poison(&mut self) {
        self.set_len(self.capacity());
        for slice in self.slices_mut(0..self.capacity()) {
            slice.fill(POISON);
        }
    }
}

impl SgvHeader {
    /// The segment that holds byte `at`, and where in it.
    fn locate(&self, at: u32) -> (usize, u32) {
        if self.kind == Kind::Foreign {
            let mut left = at;
            for (n, seg) in self.segs.iter().enumerate() {
                if left < seg.len {
                    return (n, left);
                }
                left -= seg.len;
            }
            return (self.segs.len(), 0);
        }
        if at < self.first {
            return (0, at);
        }
        let (pages, offset) =
            ((at - self.first) as usize / PAGE_BYTES, (at - self.first) % PAGE_BYTES as u32);
        // A range that begins at the very end has no segment; the empty rest of the list stands for it.
        ((1 + pages).min(self.segs.len()), offset)
    }
}

impl Drop for Sgv {
    fn drop(&mut self) {
        // SAFETY: the value is being dropped and not used again; its raw part is taken up once, here.
        let sgv = unsafe { Sgv::from_raw(self.0) };
        let home = sgv.header().home.clone();
        let lost = home.send_lost(sgv);
        debug_assert!(
            !lost || std::thread::panicking(),
            "a vector of {} was dropped instead of put back",
            home.core()
        );
    }
}

impl std::fmt::Debug for Sgv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let h = self.header();
        write!(f, "Sgv({:?} of {}, {} of {} bytes)", h.kind, h.home.core(), h.len, h.capacity)
    }
}

/// See [`Sgv::runs`].
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    segs: &'a [Seg],
    offset: u32,
    left: u32,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.left == 0 {
            return None;
        }
        let (seg, mut rest) = self.segs.split_first()?;
        // SAFETY: `offset` is below the segment's length, so this stays inside the segment.
        let ptr = unsafe { seg.ptr.add(self.offset as usize) };
        let mut run = Run { ptr, len: (seg.len - self.offset).min(self.left), region: seg.region };
        self.left -= run.len;
        while self.left > 0
            && let Some((seg, later)) = rest.split_first()
            && seg.region == run.region
            && std::ptr::eq(run.ptr.as_ptr().wrapping_add(run.len as usize), seg.ptr.as_ptr())
        {
            let more = seg.len.min(self.left);
            run.len += more;
            self.left -= more;
            rest = later;
        }
        self.segs = rest;
        self.offset = 0;
        Some(run)
    }
}

/// See [`Sgv::slices`].
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    runs: Runs<'a>,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let run = self.runs.next()?;
        // SAFETY: a run lies inside pages of one region that this vector owns, or reads under a count; regions
        // are initialised, and nobody writes the pages while the vector is borrowed.
        Some(unsafe { std::slice::from_raw_parts(run.ptr.as_ptr(), run.len as usize) })
    }
}

/// See [`Sgv::slices_mut`].
#[derive(Debug)]
pub struct SlicesMut<'a> {
    runs: Runs<'a>,
    of: PhantomData<&'a mut [u8]>,
}

impl<'a> Iterator for SlicesMut<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        let run = self.runs.next()?;
        // SAFETY: as in `Slices`; the memory is the vector's own (asserted in `slices_mut`), the vector is
        // borrowed exclusively, and no two runs of one walk overlap since no page is twice in a vector.
        Some(unsafe { std::slice::from_raw_parts_mut(run.ptr.as_ptr(), run.len as usize) })
    }
}

fn span(at: u32, len: usize) -> Range<u32> {
    let end = u32::try_from(len).ok().and_then(|len| at.checked_add(len));
    at..end.expect("no vector is that long")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{Arena, ArenaConfig, PoolConfig, SgvPool, SgvRef};

    fn pool() -> SgvPool {
        let arena: Arc<Arena> = Arena::new(ArenaConfig::plain(2 << 20, 2 << 20)).unwrap();
        let config = PoolConfig { vectors: [4, 4, 2, 0, 0, 0], ..PoolConfig::default() };
        SgvPool::new(CoreId(3), arena, &config).unwrap()
    }

    /// A vector of four pages that are no neighbours in this order.
    fn scattered(pool: &mut SgvPool) -> Sgv {
        let mut sgv = pool.take(16384, ShareId(0)).unwrap();
        sgv.header_mut().segs.swap(1, 3);
        sgv
    }

    #[test]
    fn neighbouring_pages_make_one_run_and_others_do_not() {
        let mut pool = pool();
        let sgv = pool.take(16384, ShareId(0)).unwrap();
        assert_eq!(sgv.runs(0..16384).map(|r| r.len).collect::<Vec<_>>(), [16384]);
        assert_eq!(sgv.runs(5..5).count(), 0);
        assert_eq!(sgv.runs(16384..16384).count(), 0);
        assert_eq!(sgv.segs().len(), 4);
        let other = scattered(&mut pool);
        assert_eq!(other.runs(4000..16000).map(|r| r.len).collect::<Vec<_>>(), [96, 4096, 4096, 3712]);
        pool.put(sgv);
        pool.put(other);
    }

    #[test]
    fn an_iovec_stops_at_its_bound_and_says_how_far_it_reaches() {
        let mut pool = pool();
        let mut sgv = scattered(&mut pool);
        let mut iovec = Vec::new();
        assert_eq!(sgv.io_slices(100..16384, 2, &mut iovec), 3996 + 4096);
        assert_eq!(iovec.iter().map(|s| s.len()).collect::<Vec<_>>(), [3996, 4096]);
        drop(iovec);
        let mut iovec = Vec::new();
        assert_eq!(sgv.io_slices_mut(0..16384, 9, &mut iovec), 16384);
        iovec[3][0] = 0x5A;
        drop(iovec);
        assert_eq!(sgv.to_vec()[12288], 0x5A);
        pool.put(sgv);
    }

    #[test]
    fn the_last_share_gives_the_vector_up() {
        let mut pool = pool();
        let mut sgv = pool.take(4, ShareId(0)).unwrap();
        sgv.copy_from(0, b"abcd");
        let first = SgvRef::new(sgv);
        let second = first.clone();
        assert_eq!((first.shares(), second.to_vec()), (2, b"abcd".to_vec()));
        assert!(first.release().is_none());
        drop(second.clone());
        let sgv = second.release().unwrap();
        assert_eq!(sgv.to_vec(), b"abcd");
        pool.put(sgv);
        assert!(pool.is_full());
    }

    #[test]
    #[should_panic(expected = "outside of")]
    fn bytes_beyond_the_length_are_out_of_reach() {
        let mut pool = pool();
        let sgv = pool.take(100, ShareId(0)).unwrap();
        let _ = sgv.slices(0..101);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_byte_array(ops in prop::collection::vec((0..4u8, 0..16384u32, 0..9000u32, any::<u8>()), 1..60)) {
            let mut pool = pool();
            let mut sgv = scattered(&mut pool);
            sgv.zero(0..16384);
            let mut model = vec![0u8; 16384];
            for (op, at, len, byte) in ops {
                let end = (at + len).min(16384);
                let range = at as usize..end as usize;
                match op {
                    0 => {
                        let data: Vec<u8> = range.clone().map(|n| (n as u8).wrapping_mul(byte)).collect();
                        sgv.copy_from(at, &data);
                        model[range].copy_from_slice(&data);
                    }
                    1 => {
                        sgv.zero(at..end);
                        model[range].fill(0);
                    }
                    2 => {
                        let pattern = [byte, 1, 2];
                        sgv.fill_pattern(at..end, &pattern);
                        model[range].iter_mut().zip(pattern.iter().cycle()).for_each(|(m, p)| *m = *p);
                    }
                    _ => {
                        let mut read = vec![0; range.len()];
                        sgv.copy_to(at, &mut read);
                        prop_assert_eq!(&read, &model[range.clone()]);
                        let sliced: Vec<u8> = sgv.slices(at..end).flatten().copied().collect();
                        prop_assert_eq!(&sliced, &model[range]);
                    }
                }
            }
            prop_assert_eq!(sgv.to_vec(), model);
            pool.put(sgv);
        }
    }
}
