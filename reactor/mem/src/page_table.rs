//! The pages of a RAM disk: shared by all cores, exchanged without copying.
//!
//! A write of whole pages *exchanges*: the pages that the data was received into become the disk's, and the
//! disk's old ones take their place in the vector. A read sends out of the disk's own pages, counted until the
//! vector is put back. Writes of parts of a page make a new page of the old bytes and theirs, and start over
//! when another core was quicker. So nobody ever sees half a block, and no core waits for another.
//!
//! A page that is replaced while it is read cannot go to the writer at once. The disk has a bounded *stock* of
//! spare pages: the writer gets one of them, and the old page joins the stock when its last reader has gone.
//! With no spare left the write stops at a page's edge and says how far it got ([`Busy`]): back-pressure, never
//! a torn block.
//!
//! How the counting works stands in `page_entry`; cores use the table through their pools
//! ([`crate::SgvPool::lend`] and its neighbours), which keep one spare each in hand, so that the stock is
//! touched only when readers are in the way.

// UNSAFETY: copies between pages whose owners the compiler does not know. A page is written only while it is
// in nobody's hands but the caller's (a spare in hand), and read only under a count.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_queue::ArrayQueue;

use crate::PAGE_BYTES;
use crate::arena::{Arena, ArenaFull};
use crate::fetch::{fetch, fetch_head, fetch_lines};
use crate::page_entry::{AtomicI64, Detached, Entry, Pages, View, release};
use crate::sgv::{Kind, Seg, Sgv};

/// No spare page: readers hold them all. The first `done` bytes were taken; try the rest later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy {
    /// Bytes of the request that are done.
    pub done: u64,
}

/// All pages of a RAM disk. See the module's page.
pub struct PageTable {
    arena: Arc<Arena>,
    /// Of the pages that the disk was made with: just as many, and found by one look.
    entries: Box<[Entry]>,
    /// Of those it has grown by: each chunk twice as long as the one before, made when it is needed, so that no
    /// entry ever moves.
    grown: [OnceLock<Box<[Entry]>>; GROWN_CHUNKS],
    /// Only ever grows: ranges that were in bounds once stay so.
    bytes: AtomicU64,
    growing: Mutex<()>,
    stock: ArrayQueue<u32>,
    spares: u32,
    zeroes: Seg,
    fold_at: u32,
}

// SAFETY: the one thing that is not `Sync` by itself is the address of the zero page, which nobody writes.
unsafe impl Sync for PageTable {}
// SAFETY: as above.
unsafe impl Send for PageTable {}

impl PageTable {
    /// A disk of `bytes` bytes, all zeroes, with memory reserved for all of it and `spares` pages besides.
    /// A spare is held by every core that uses the table, and by every page that is overwritten while read.
    pub fn new(arena: &Arc<Arena>, bytes: u64, spares: u32) -> Result<Arc<PageTable>, ArenaFull> {
        Self::with_fold_at(arena, bytes, spares, FOLD_AT)
    }

    pub(crate) fn with_fold_at(
        arena: &Arc<Arena>,
        bytes: u64,
        spares: u32,
        fold_at: u32,
    ) -> Result<Arc<PageTable>, ArenaFull> {
        assert!(spares > 0, "a disk without a spare page can never be written");
        let pages = bytes.div_ceil(PAGE);
        if pages > PAGES_MAX {
            return Err(too_large(arena));
        }
        let taken = arena.take_pages((pages as u32).saturating_add(spares))?;
        let zeroes = arena.take_zeroes()?;
        let mut taken = taken.into_pages();
        let stock = ArrayQueue::new(spares as usize);
        for page in taken.by_ref().take(spares as usize) {
            assert!(stock.push(page).is_ok(), "the stock has room for all spares");
        }
        let entries = taken.map(Entry::hole).collect();
        let (grown, bytes, growing) = ([const { OnceLock::new() }; _], AtomicU64::new(bytes), Mutex::new(()));
        let arena = arena.clone();
        Ok(Arc::new(PageTable { arena, entries, grown, bytes, growing, stock, spares, zeroes, fold_at }))
    }

    /// Makes the disk at least `bytes` long; what is new is holes, with memory reserved for all of it.
    pub fn grow(&self, bytes: u64) -> Result<(), ArenaFull> {
        let _one_at_a_time = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = (self.pages(), bytes.div_ceil(PAGE));
        if after > PAGES_MAX {
            return Err(too_large(&self.arena));
        }
        if after > before {
            let taken = self.arena.take_pages((after - before) as u32)?.into_pages();
            for (n, page) in (before as usize..).zip(taken) {
                let (chunk, at) = place_grown(n - self.entries.len());
                let entries = || (0..GROWN_PAGES << chunk).map(|_| Entry::none()).collect();
                self.grown[chunk].get_or_init(entries)[at].begin(page);
            }
        }
        // Release: who sees the new size sees the entries.
        self.bytes.fetch_max(bytes, Ordering::Release);
        Ok(())
    }

    /// Everything from `offset` on reads as zeroes from now on, except that the page around `offset` keeps its
    /// bytes if it cannot be replaced now. For a disk that becomes smaller: its memory stays reserved.
    pub fn forget_from(&self, offset: u64) {
        let mut hand = Hand::default();
        let bytes = self.bytes();
        let first = offset.next_multiple_of(PAGE).min(bytes);
        let _ = self.discard(&mut hand, first, bytes - first);
        if offset < first {
            let _ = self.discard(&mut hand, offset, first - offset);
        }
        hand.empty(self);
    }

    /// Size of the disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Spare pages that are neither held by a core nor waiting for a reader.
    pub fn spares_free(&self) -> u32 {
        self.stock.len() as u32
    }

    /// Spare pages in all.
    pub fn spares(&self) -> u32 {
        self.spares
    }

    /// Pages of the disk.
    pub fn pages(&self) -> u64 {
        self.bytes().div_ceil(PAGE)
    }

    /// Does page number `page` of the disk read as zeroes because nothing was written since it was discarded?
    pub fn is_hole(&self, page: u64) -> bool {
        self.entry(page as usize).is_hole()
    }

    /// The page at `offset` is likely to be looked up soon: its entry may come into the cache meanwhile. What lies beyond
    /// the disk, or in a part it has grown by, is passed over.
    #[inline]
    pub fn fetch_entry(&self, offset: u64) {
        if let Some(entry) = self.entries.get((offset / PAGE) as usize) {
            fetch(std::ptr::from_ref(entry).cast());
        }
    }

    /// `len` bytes at `offset` are likely to be sent soon: those in the first page may come into the cache meanwhile, if
    /// its entry is there. Passed over as above.
    #[inline]
    pub fn fetch_data(&self, offset: u64, len: u32) {
        let Some(View::Page(page)) = self.entries.get((offset / PAGE) as usize).map(Entry::glance) else {
            return;
        };
        let from = (offset % PAGE) as usize;
        let page = self.arena.page(page).as_ptr();
        fetch_lines(page.wrapping_add(from), (PAGE_BYTES - from).min(len as usize));
    }

    /// Appends the pages of `len` bytes at `offset` to `segs`, each counted until [`PageTable::release`].
    pub(crate) fn lend(&self, offset: u64, len: u32, segs: &mut Vec<Seg>) {
        self.check(offset, u64::from(len));
        for part in parts(offset, u64::from(len)) {
            let seg = match self.entry(part.page).lend(self, self.fold_at) {
                View::Page(page) => {
                    // It will be needed when the reader has done.
                    fetch(std::ptr::from_ref(self.arena.count(page)).cast());
                    Seg { cookie: Seg::COUNTED, ..self.arena.seg(page) }
                }
                View::Hole(_) => self.zeroes,
            };
            // SAFETY: `from` lies below the page's size.
            let ptr = unsafe { seg.ptr.add(part.from) };
            segs.push(Seg { ptr, len: part.len as u32, ..seg });
        }
    }

    /// Ends the reading of lent segments.
    pub(crate) fn release(&self, segs: &[Seg]) {
        for seg in segs {
            if seg.cookie == Seg::COUNTED {
                release(self, self.arena.page_of(seg.region, seg.ptr));
            }
        }
    }

    /// Calls `look` with each piece of `len` bytes at `offset`, until it says no. Told: where in the range the
    /// piece begins.
    pub(crate) fn read(&self, offset: u64, len: u64, mut look: impl FnMut(u64, &[u8]) -> bool) -> bool {
        self.check(offset, len);
        for part in parts(offset, len) {
            let view = self.entry(part.page).lend(self, self.fold_at);
            let at = match view {
                View::Page(page) => self.arena.page(page),
                View::Hole(_) => self.zeroes.ptr,
            };
            // SAFETY: inside one page, which is counted until the release below, or the zero page; such pages are
            // not written.
            let bytes = unsafe { std::slice::from_raw_parts(at.add(part.from).as_ptr(), part.len) };
            let go_on = look(part.at, bytes);
            if let View::Page(page) = view {
                release(self, page);
            }
            if !go_on {
                return false;
            }
        }
        true
    }

    /// Stores `range` of the vector at `offset`: whole pages by exchange, if that is allowed and vector and disk have
    /// their page borders in the same places, the rest by copying. After an exchange the vector holds old bytes of
    /// the disk.
    pub(crate) fn write(
        &self,
        hand: &mut Hand,
        offset: u64,
        sgv: &mut Sgv,
        range: Range<u32>,
        may_exchange: bool,
    ) -> Result<(), Busy> {
        assert!(range.start <= range.end && range.end <= sgv.len(), "{range:?} outside of {sgv:?}");
        self.check(offset, u64::from(range.end - range.start));
        let ours =
            may_exchange && sgv.kind() == Kind::Own && Arc::ptr_eq(sgv.header().home.arena(), &self.arena);
        for part in parts(offset, u64::from(range.end - range.start)) {
            let at = range.start + part.at as u32;
            let entry = self.entry(part.page);
            if part.len == PAGE_BYTES && ours && at.is_multiple_of(PAGE_BYTES as u32) {
                // The swap cannot be taken back, so the spare it may need comes first.
                let spare = hand.take(self).ok_or(Busy { done: part.at })?;
                let n = at as usize / PAGE_BYTES;
                let seg = sgv.segs()[n];
                let back = match entry.exchange(self, self.arena.page_of(seg.region, seg.ptr)) {
                    Detached::Free(old) => {
                        hand.put(spare);
                        old
                    }
                    Detached::Read => spare,
                };
                let seg = self.arena.seg(back);
                // Vectors that come back are taken first: the next data is likely to be received into this page.
                fetch_head(seg.ptr.as_ptr());
                sgv.header_mut().segs[n] = seg;
            } else {
                let source = |mut to: &mut [u8]| {
                    for from in sgv.slices(at..at + part.len as u32) {
                        let (now, later) = to.split_at_mut(from.len());
                        now.copy_from_slice(from);
                        to = later;
                    }
                };
                self.patch(hand, part, source).ok_or(Busy { done: part.at })?;
                sgv.count_copied(part.len as u32);
            }
        }
        Ok(())
    }

    /// `len` bytes at `offset` read as zeroes from now on. Whole pages become holes, the edges are written.
    pub(crate) fn discard(&self, hand: &mut Hand, offset: u64, len: u64) -> Result<(), Busy> {
        self.check(offset, len);
        for part in parts(offset, len) {
            let entry = self.entry(part.page);
            // The last page may be shorter than a page: all that is left of the disk is all of it.
            let end = (part.page as u64 * PAGE + PAGE).min(self.bytes()) - part.page as u64 * PAGE;
            if part.from == 0 && part.len as u64 == end {
                entry.discard();
            } else if !entry.is_hole() {
                self.patch(hand, part, |to| to.fill(0)).ok_or(Busy { done: part.at })?;
            }
        }
        Ok(())
    }

    /// Writes zeroes, so that the range is backed by pages of its own.
    pub(crate) fn zero(&self, hand: &mut Hand, offset: u64, len: u64) -> Result<(), Busy> {
        self.check(offset, len);
        for part in parts(offset, len) {
            self.patch(hand, part, |to| to.fill(0)).ok_or(Busy { done: part.at })?;
        }
        Ok(())
    }

    /// As [`PageTable::lend`], of nothing but the zero page, which is not counted.
    pub(crate) fn lend_zeroes(&self, len: u32, segs: &mut Vec<Seg>) -> bool {
        let mut left = len;
        while left > 0 {
            let now = left.min(PAGE_BYTES as u32);
            segs.push(Seg { len: now, ..self.zeroes });
            left -= now;
        }
        false
    }

    /// The same within one page.
    #[inline]
    pub(crate) fn lend_zero_page(&self, len: u32, segs: &mut Vec<Seg>) -> bool {
        assert!(segs.len() < segs.capacity(), "a vector to lend with has room for its pages");
        segs.push(Seg { len, ..self.zeroes });
        false
    }

    /// Replaces a page by one that differs in one part. `None`: no spare, or others kept being quicker.
    fn patch(&self, hand: &mut Hand, part: Part, fill: impl Fn(&mut [u8])) -> Option<()> {
        for _ in 0..PATCH_TRIES {
            let spare = hand.take(self)?;
            let seen = self.entry(part.page).lend(self, self.fold_at);
            // SAFETY: a spare in hand is nobody else's, and no reference to it outlives this turn of the loop.
            let to = unsafe { std::slice::from_raw_parts_mut(self.arena.page(spare).as_ptr(), PAGE_BYTES) };
            let inside = part.from..part.from + part.len;
            match seen {
                View::Page(page) if part.len < PAGE_BYTES => {
                    // SAFETY: counted as read until `replace`, so not written; another page than the spare.
                    let old =
                        unsafe { std::slice::from_raw_parts(self.arena.page(page).as_ptr(), PAGE_BYTES) };
                    to[..inside.start].copy_from_slice(&old[..inside.start]);
                    to[inside.end..].copy_from_slice(&old[inside.end..]);
                }
                View::Page(_) => {}
                View::Hole(_) => {
                    to[..inside.start].fill(0);
                    to[inside.end..].fill(0);
                }
            }
            fill(&mut to[inside]);
            match self.entry(part.page).replace(self, seen, spare) {
                Ok(Detached::Free(old)) => {
                    hand.put(old);
                    return Some(());
                }
                Ok(Detached::Read) => return Some(()),
                Err(_) => hand.put(spare),
            }
        }
        None
    }

    #[inline]
    fn entry(&self, page: usize) -> &Entry {
        match self.entries.get(page) {
            Some(entry) => entry,
            None => self.grown_entry(page - self.entries.len()),
        }
    }

    #[cold]
    fn grown_entry(&self, n: usize) -> &Entry {
        let (chunk, at) = place_grown(n);
        &self.grown[chunk].get().expect("ranges are checked against the size")[at]
    }

    fn check(&self, offset: u64, len: u64) {
        let bytes = self.bytes();
        let inside = offset.checked_add(len).is_some_and(|end| end <= bytes);
        assert!(inside, "{len} bytes at {offset} lie outside of {bytes} bytes");
    }
}

impl Pages for PageTable {
    fn count(&self, page: u32) -> &AtomicI64 {
        self.arena.count(page)
    }

    fn freed(&self, page: u32) {
        assert!(self.stock.push(page).is_ok(), "there are only so many spares");
    }
}

impl Drop for PageTable {
    /// All pools have let go, so no spare is in a hand, and no page is read.
    fn drop(&mut self) {
        let mut all: Vec<u32> = std::iter::from_fn(|| self.stock.pop()).collect();
        debug_assert!(all.len() == self.spares as usize, "{} spares came back", all.len());
        all.extend((0..self.pages() as usize).map(|n| self.entry(n).end(self)));
        self.arena.give_back(all);
        self.arena.put_zeroes();
    }
}

impl std::fmt::Debug for PageTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageTable({} bytes, {} of {} spares free)", self.bytes(), self.spares_free(), self.spares)
    }
}

/// The spare page that one core keeps of one table.
#[derive(Debug, Default)]
pub(crate) struct Hand(Option<u32>);

impl Hand {
    fn take(&mut self, table: &PageTable) -> Option<u32> {
        self.0.take().or_else(|| table.stock.pop())
    }

    fn put(&mut self, page: u32) {
        debug_assert!(self.0.is_none(), "one spare at a time");
        self.0 = Some(page);
    }

    /// The core does not use the table any more.
    pub(crate) fn empty(&mut self, table: &PageTable) {
        if let Some(page) = self.0.take() {
            table.freed(page);
        }
    }
}

/// A range's part within one page.
#[derive(Clone, Copy)]
struct Part {
    page: usize,
    /// Where in the page it begins.
    from: usize,
    len: usize,
    /// Where in the range it begins.
    at: u64,
}

fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let (page, from) = ((offset + at) / PAGE, (offset + at) % PAGE);
        let part = (PAGE - from).min(len - at);
        at += part;
        Some(Part { page: page as usize, from: from as usize, len: part as usize, at: at - part })
    })
}

/// Chunk, and place in it, of the entry of page `n` of those that a disk has grown by.
fn place_grown(n: usize) -> (usize, usize) {
    let chunk = (n / GROWN_PAGES + 1).ilog2() as usize;
    (chunk, n - GROWN_PAGES * ((1 << chunk) - 1))
}

fn too_large(arena: &Arena) -> ArenaFull {
    ArenaFull { wanted: u32::MAX, free: 0, bytes_max: arena.limit_bytes() }
}

const PAGE: u64 = PAGE_BYTES as u64;
/// No RAM disk is larger than 256 GiB.
const PAGES_MAX: u64 = 1 << 26;
/// The first chunk of pages that a disk grows by: 4 MiB of disk, 8 KiB of entries.
const GROWN_PAGES: usize = 1 << 10;
/// So many chunks that all pages of the largest disk find a place in them.
const GROWN_CHUNKS: usize = (PAGES_MAX as usize / GROWN_PAGES).ilog2() as usize + 1;
/// Each failed try means that another core's write got through; so many in a row and the request waits.
const PATCH_TRIES: u32 = 64;
/// A quarter of what the readers' field holds.
const FOLD_AT: u32 = 1 << 30;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pages_grown_by_fill_one_chunk_after_the_other() {
        let mut last = (0, 0);
        for n in 1..GROWN_PAGES * 40 {
            let (chunk, at) = place_grown(n);
            let next =
                if last.1 + 1 == GROWN_PAGES << last.0 { (last.0 + 1, 0) } else { (last.0, last.1 + 1) };
            assert_eq!((chunk, at), next, "page {n}");
            last = next;
        }
        let (chunk, at) = place_grown(PAGES_MAX as usize - 1);
        assert!(chunk < GROWN_CHUNKS && at < GROWN_PAGES << chunk, "the last page: {chunk}, {at}");
    }

    #[test]
    fn a_disk_that_grew_by_many_chunks_keeps_each_page_apart() {
        let arena = Arena::new(crate::ArenaConfig::plain(1 << 20, 64 << 20)).unwrap();
        let table = PageTable::new(&arena, 3 * PAGE, 1).unwrap();
        for pages in [4, 1027, 1028, 3075, 3076, 7000] {
            table.grow(pages * PAGE).unwrap();
        }
        let mut pages: Vec<u32> = (0..7000).map(|n| table.entry(n).end(&*table)).collect();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 7000);
    }

    #[test]
    fn tables_share_a_page_of_zeroes() {
        let arena = Arena::new(crate::ArenaConfig::plain(1 << 20, 1 << 20)).unwrap();
        let free = || arena.report().bytes_free / PAGE;
        let before = free();
        let tables = [(); 2].map(|()| PageTable::new(&arena, 0, 1).unwrap());
        assert_eq!(tables[0].zeroes.ptr, tables[1].zeroes.ptr);
        assert_eq!(before - free(), 3, "a spare each, and the zeroes of both");
        drop(tables);
        assert_eq!(before, free(), "the last takes them along");
    }
}
