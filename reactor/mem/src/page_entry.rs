//! One word for each page of a RAM disk: which memory it is, and how many are reading it.
//!
//! ```text
//! 63            32 31   30                     0
//! |   readers     | H |        arena page       |
//! ```
//!
//! Split reference counts. A reader takes page and count with one addition to the *entry*. A writer that
//! swaps in another page gets the readers so far and hands them to the count of the *page* itself, which lies
//! in the arena; there readers give their share back, so that they never touch the entry again. For a page
//!
//! ```text
//! count = 2 * (readers handed over) + 1 if detached - 2 * (readers released)
//! ```
//!
//! which is even while the page is in an entry, and exactly 1 when it is out of it and nobody reads: whoever
//! brings it to 1, detaching or releasing, has the page for himself. It is then set to nought for the next use.
//!
//! An entry that says *no readers* was never read since its page came: handing over leaves one behind. Such a page's count
//! is nought, and need not be looked at, which spares a write of a block that nobody reads a line from far memory.
//!
//! H says that the page is a *hole*: it reads as zeroes, whatever the memory behind it holds. Readers of a hole
//! get the shared zero page and no count. A page under a hole may still have readers from before.
//!
//! Everything here is safe code; what the proofs in `page_table` rest on is checked by loom below.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What the entries need to know of the pages.
pub(crate) trait Pages {
    /// The page's own count: nought when it enters an entry.
    fn count(&self, page: u32) -> &AtomicI64;
    /// The last reader of a detached page has gone. Nobody else has it.
    fn freed(&self, page: u32);
}

/// What stands in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    /// This page; the viewer is counted as a reader.
    Page(u32),
    /// Zeroes; the viewer is not counted. The page behind it, for comparison only.
    Hole(u32),
}

/// What became of the page that was taken out of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detached {
    /// It belongs to the caller.
    Free(u32),
    /// It is still read; the last reader hands it to [`Pages::freed`].
    Read,
}

pub(crate) struct Entry(AtomicU64);

impl Entry {
    /// Beyond the end of the disk: not to be used before [`Entry::begin`].
    pub(crate) fn none() -> Entry {
        Entry(AtomicU64::new(u64::MAX))
    }

    /// A hole with a page kept behind it.
    pub(crate) fn hole(page: u32) -> Entry {
        let entry = Entry::none();
        entry.begin(page);
        entry
    }

    /// A hole with a page kept behind it, from now on. Whoever publishes the disk's size publishes this.
    pub(crate) fn begin(&self, page: u32) {
        debug_assert!(page & HOLE == 0, "page numbers have 31 bits");
        self.0.store(u64::from(page | HOLE), Ordering::Relaxed);
    }

    /// Looks at the entry, and becomes a reader if it is a page. Ends with [`release`].
    ///
    /// `fold_at`: from so many readers on they are handed to the page's count, so that the field never
    /// overflows: it has room for three times as many lends as are needed to fill it, while one caller folds.
    pub(crate) fn lend(&self, pages: &impl Pages, fold_at: u32) -> View {
        // Nobody need be counted for zeroes; this look keeps readers of holes off each other's line.
        let seen = Word(self.0.load(Ordering::Relaxed));
        if seen.is_hole() {
            return View::Hole(seen.page());
        }
        // Acquire: what the writer put into the page before the swap.
        let old = Word(self.0.fetch_add(READER, Ordering::Acquire));
        if old.readers() + 1 >= fold_at {
            self.fold(pages, old.page(), fold_at);
        }
        if old.is_hole() {
            // Discarded between look and count.
            release(pages, old.page());
            return View::Hole(old.page());
        }
        View::Page(old.page())
    }

    /// Hands the readers of the entry to the page. The caller is one of them, so the page cannot go meanwhile.
    #[cold]
    fn fold(&self, pages: &impl Pages, page: u32, fold_at: u32) {
        let seen = Word(self.0.load(Ordering::Relaxed));
        if seen.page() != page || seen.readers() < fold_at.max(2) {
            return;
        }
        // One stays: see `detach`.
        let shares = 2 * i64::from(seen.readers() - 1);
        // The page first: it may be counted too high for a moment, never too low.
        if !cfg!(planted_late_fold) {
            pages.count(page).fetch_add(shares, Ordering::AcqRel);
        }
        let folded =
            self.0.compare_exchange(seen.0, seen.low() | READER, Ordering::AcqRel, Ordering::Relaxed);
        if cfg!(planted_late_fold) {
            if folded.is_ok() {
                pages.count(page).fetch_add(shares, Ordering::AcqRel);
            }
        } else if folded.is_err() {
            let left = pages.count(page).fetch_sub(shares, Ordering::AcqRel) - shares;
            debug_assert!(left != 1, "the caller itself is still a reader");
        }
    }

    /// Puts `new` in, whatever was there.
    pub(crate) fn exchange(&self, pages: &impl Pages, new: u32) -> Detached {
        // Release: what the caller wrote into `new`. Acquire: the count of the old page begins with its swap.
        let old = Word(self.0.swap(u64::from(new), Ordering::AcqRel));
        detach(pages, old, 0)
    }

    /// Puts `new` in if the entry still shows what `seen` says; `Err` otherwise. Ends the reading of `seen`
    /// either way.
    ///
    /// A page that is read cannot be given back and come again, so the same page means the same bytes. A
    /// hole may come again, and is zeroes again.
    pub(crate) fn replace(&self, pages: &impl Pages, seen: View, new: u32) -> Result<Detached, Changed> {
        let (low, reading) = match seen {
            View::Page(page) => (u64::from(page), 1),
            View::Hole(page) => (u64::from(page | HOLE), 0),
        };
        let mut now = Word(self.0.load(Ordering::Relaxed));
        // Ends: only readers change the word without changing its lower half.
        while now.low() == low || cfg!(planted_blind_patch) {
            match self.0.compare_exchange_weak(now.0, u64::from(new), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(detach(pages, now, reading)),
                Err(other) => now = Word(other),
            }
        }
        if let View::Page(page) = seen {
            release(pages, page);
        }
        Err(Changed)
    }

    /// Makes it a hole. The page stays behind it, with its readers.
    pub(crate) fn discard(&self) {
        self.0.fetch_or(u64::from(HOLE), Ordering::AcqRel);
    }

    /// What it shows at this moment; the viewer is not counted, so the page may be anybody's by now.
    pub(crate) fn glance(&self) -> View {
        let seen = Word(self.0.load(Ordering::Relaxed));
        if seen.is_hole() { View::Hole(seen.page()) } else { View::Page(seen.page()) }
    }

    /// Is it a hole now?
    pub(crate) fn is_hole(&self) -> bool {
        Word(self.0.load(Ordering::Relaxed)).is_hole()
    }

    /// The end of the entry, when nobody else knows it any more: its page, with the count set to nought.
    pub(crate) fn end(&self, pages: &impl Pages) -> u32 {
        let old = Word(self.0.load(Ordering::Acquire));
        let count = pages.count(old.page());
        let left = count.load(Ordering::Acquire) + 2 * i64::from(old.readers());
        assert!(left == 0, "page {:#x} ends with {left} half-readers", old.page());
        count.store(0, Ordering::Relaxed);
        old.page()
    }
}

/// The entry showed something else by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed;

/// A reader has finished with a page.
pub(crate) fn release(pages: &impl Pages, page: u32) {
    // Release: our reads come before the next writer's writes. Acquire: so do everybody's, if we are the last.
    if pages.count(page).fetch_sub(2, Ordering::AcqRel) - 2 == 1 {
        pages.count(page).store(0, Ordering::Relaxed);
        pages.freed(page);
    }
}

/// `reading`: readers counted in `old` that end here.
fn detach(pages: &impl Pages, old: Word, reading: i64) -> Detached {
    if old.readers() == 0 {
        return Detached::Free(old.page());
    }
    let shares = 2 * (i64::from(old.readers()) - reading) + 1;
    if pages.count(old.page()).fetch_add(shares, Ordering::AcqRel) + shares == 1 {
        pages.count(old.page()).store(0, Ordering::Relaxed);
        Detached::Free(old.page())
    } else {
        Detached::Read
    }
}

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn readers(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn low(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }

    fn page(self) -> u32 {
        self.0 as u32 & !HOLE
    }

    fn is_hole(self) -> bool {
        self.0 as u32 & HOLE != 0
    }
}

const READER: u64 = 1 << 32;
const HOLE: u32 = 1 << 31;

/// Every interleaving of small cases: `RUSTFLAGS="--cfg loom" cargo test -p spindle-mem --release page_entry`.
#[cfg(all(test, loom))]
mod loom_tests {
    // UNSAFETY: pages are loom cells, which find two threads at the same bytes.
    #![allow(unsafe_code)]

    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;

    const HALVES: usize = 2;

    struct World {
        entry: Entry,
        counts: Vec<AtomicI64>,
        bytes: Vec<UnsafeCell<[u8; HALVES]>>,
        stock: Mutex<Vec<u32>>,
        fold_at: u32,
    }

    // SAFETY: access to `bytes` is what is being tested; loom reports two accesses that are not ordered.
    unsafe impl Sync for World {}
    // SAFETY: as above.
    unsafe impl Send for World {}

    impl Pages for World {
        fn count(&self, page: u32) -> &AtomicI64 {
            &self.counts[page as usize]
        }
        fn freed(&self, page: u32) {
            // Whoever is told a page is free may write it at once.
            self.write(page, [0xEE; HALVES]);
            let mut stock = self.stock.lock().unwrap();
            assert!(!stock.contains(&page), "freed twice");
            stock.push(page);
        }
    }

    impl World {
        /// Page 0 is in the entry, and no hole; pages from 1 on belong to the test.
        fn new(pages: usize, fold_at: u32) -> Arc<World> {
            let world = World {
                entry: Entry::none(),
                counts: (0..pages).map(|_| AtomicI64::new(0)).collect(),
                bytes: (0..pages).map(|_| UnsafeCell::new([0; HALVES])).collect(),
                stock: Mutex::new(Vec::new()),
                fold_at,
            };
            world.entry.begin(0);
            world.entry.0.store(0, Ordering::Relaxed);
            Arc::new(world)
        }

        fn write(&self, page: u32, to: [u8; HALVES]) {
            // SAFETY: loom checks.
            self.bytes[page as usize].with_mut(|p| unsafe { *p = to });
        }

        fn read(&self, page: u32) -> [u8; HALVES] {
            // SAFETY: loom checks.
            self.bytes[page as usize].with(|p| unsafe { *p })
        }

        /// A read command: what it saw.
        fn lend_and_read(&self) -> [u8; HALVES] {
            match self.entry.lend(self, self.fold_at) {
                View::Hole(_) => [0; HALVES],
                View::Page(page) => {
                    let seen = self.read(page);
                    release(self, page);
                    seen
                }
            }
        }

        /// A whole-page write with memory of its own; the page it got back, if any.
        fn write_whole(&self, page: u32, value: u8) -> Option<u32> {
            self.write(page, [value; HALVES]);
            match self.entry.exchange(self, page) {
                Detached::Free(old) => {
                    self.write(old, [0xEE; HALVES]);
                    Some(old)
                }
                Detached::Read => None,
            }
        }

        /// A write of one half, with memory of its own; the page it got back, if any.
        fn write_half(&self, spare: u32, half: usize, value: u8) -> Option<u32> {
            loop {
                let seen = self.entry.lend(self, self.fold_at);
                let mut bytes = match seen {
                    View::Page(page) => self.read(page),
                    View::Hole(_) => [0; HALVES],
                };
                bytes[half] = value;
                self.write(spare, bytes);
                match self.entry.replace(self, seen, spare) {
                    Ok(Detached::Free(old)) => {
                        self.write(old, [0xEE; HALVES]);
                        return Some(old);
                    }
                    Ok(Detached::Read) => return None,
                    Err(Changed) => thread::yield_now(),
                }
            }
        }

        /// When all is quiet every page is in exactly one place, and every count is nought.
        fn settle(&self, got: impl IntoIterator<Item = Option<u32>>) -> [u8; HALVES] {
            let hole = self.entry.is_hole();
            let last = self.entry.end(self);
            let mut all: Vec<u32> = got.into_iter().flatten().collect();
            all.extend(self.stock.lock().unwrap().iter());
            all.push(last);
            all.sort_unstable();
            assert_eq!(all, (0..self.counts.len() as u32).collect::<Vec<_>>(), "each page in one place");
            assert!(self.counts.iter().all(|c| c.load(Ordering::Relaxed) == 0));
            if hole { [0; HALVES] } else { self.read(last) }
        }
    }

    #[test]
    fn a_reader_sees_one_write_whole_and_each_page_is_freed_once() {
        loom::model(|| {
            let w = World::new(3, u32::MAX);
            let (a, b) = (w.clone(), w.clone());
            let reader = thread::spawn(move || a.lend_and_read());
            let writer = thread::spawn(move || b.write_whole(1, 1));
            let second = w.write_whole(2, 2);
            let seen = reader.join().unwrap();
            let first = writer.join().unwrap();
            assert!(seen[0] == seen[1] && seen[0] < 3, "torn or stale: {seen:?}");
            let last = w.settle([first, second]);
            assert!(last == [1; 2] || last == [2; 2]);
        });
    }

    #[test]
    fn reader_writer_and_discard_agree() {
        loom::model(|| {
            let w = World::new(2, u32::MAX);
            let (a, b) = (w.clone(), w.clone());
            let reader = thread::spawn(move || (a.lend_and_read(), a.lend_and_read()));
            let writer = thread::spawn(move || b.write_whole(1, 1));
            w.entry.discard();
            let (one, two) = reader.join().unwrap();
            let got = writer.join().unwrap();
            assert!(one[0] == one[1] && two[0] == two[1] && one[0] < 2 && two[0] < 2);
            let last = w.settle([got]);
            assert!(last == [0; 2] || last == [1; 2]);
        });
    }

    #[test]
    fn two_writers_of_halves_lose_nothing() {
        loom::model(|| {
            let w = World::new(3, u32::MAX);
            let a = w.clone();
            let left = thread::spawn(move || a.write_half(1, 0, 7));
            let right = w.write_half(2, 1, 9);
            let left = left.join().unwrap();
            assert_eq!(w.settle([left, right]), [7, 9]);
        });
    }

    #[test]
    fn half_a_write_against_a_whole_one_is_before_or_after_it() {
        loom::model(|| {
            let w = World::new(3, u32::MAX);
            let a = w.clone();
            let half = thread::spawn(move || a.write_half(1, 0, 7));
            let whole = w.write_whole(2, 2);
            let half = half.join().unwrap();
            let last = w.settle([half, whole]);
            assert!(last == [7, 2] || last == [2, 2], "{last:?}");
        });
    }

    #[test]
    fn half_a_write_against_a_discard_is_before_or_after_it() {
        loom::model(|| {
            let w = World::new(3, u32::MAX);
            assert_eq!(w.write_whole(1, 5), Some(0));
            let a = w.clone();
            let half = thread::spawn(move || a.write_half(2, 0, 7));
            w.entry.discard();
            let half = half.join().unwrap();
            let last = w.settle([Some(0), half]);
            assert!(last == [7, 0] || last == [0, 0], "{last:?}");
        });
    }

    #[test]
    fn readers_that_are_folded_into_the_page_still_hold_it() {
        // Three threads with five steps each are too many for every interleaving; three preemptions at any
        // place show what a wrong order of the two steps of folding does.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let w = World::new(2, 1);
            let (a, b) = (w.clone(), w.clone());
            let one = thread::spawn(move || a.lend_and_read());
            let two = thread::spawn(move || b.lend_and_read());
            let got = w.write_whole(1, 1);
            for seen in [one.join().unwrap(), two.join().unwrap()] {
                assert!(seen[0] == seen[1] && seen[0] < 2);
            }
            assert_eq!(w.settle([got]), [1; 2]);
        });
    }

    #[test]
    fn a_page_read_under_a_hole_is_handed_over_like_any_other() {
        loom::model(|| {
            let w = World::new(3, 2);
            assert_eq!(w.write_whole(1, 5), Some(0));
            let seen = w.entry.lend(&*w, 2);
            let a = w.clone();
            let writer = thread::spawn(move || {
                a.entry.discard();
                a.write_half(2, 1, 6)
            });
            assert_eq!(seen, View::Page(1));
            assert_eq!(w.read(1), [5; 2]);
            release(&*w, 1);
            let got = writer.join().unwrap();
            assert_eq!(w.settle([Some(0), got]), [0, 6]);
        });
    }
}
