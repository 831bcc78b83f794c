//! RAM disks as a core's pool uses them: lending their pages, exchanging and discarding them.
//!
//! A pool knows its lenders by small numbers that stand in the headers of lent vectors: putting such a vector
//! back, on whatever core, brings it to the pool that lent it, which tells the lender. No counting of `Arc`s
//! per command.

use std::ops::Range;
use std::sync::Arc;

use crate::page_table::{Busy, Hand, PageTable};
use crate::pool::SgvPool;
use crate::sgv::{Kind, Seg, Sgv};
use crate::{PAGE_BYTES, SGV_BYTES_MAX};

/// A lender in one pool's list. It means nothing to another pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LenderId(pub(crate) u16);

/// Vectors lent out of a table are not back yet, so it cannot leave the pool's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{out} lent vectors are not back yet")]
pub struct StillLent {
    /// How many.
    pub out: u32,
}

pub(crate) struct Lender {
    pub table: Arc<PageTable>,
    pub out: u32,
    /// So many may be out at once.
    pub out_max: u32,
    /// Leaves the list when the last vector is back.
    pub retired: bool,
    pub hand: Hand,
}

/// Pages that a lent vector may have, by class: 64 KiB, 1 MiB and 4 MiB that begin inside a page.
pub(crate) const LENT_PAGES: [u32; 3] = [17, 257, SGV_BYTES_MAX / PAGE_BYTES as u32 + 1];

impl SgvPool {
    /// Adds a table to the list. Allocates: control path. `None`: 65,535 lenders are enough.
    pub fn register(&mut self, table: Arc<PageTable>) -> Option<LenderId> {
        let lender = Lender { table, out: 0, out_max: u32::MAX, retired: false, hand: Hand::default() };
        if let Some(n) = self.lenders.iter().position(Option::is_none) {
            self.lenders[n] = Some(lender);
            return Some(LenderId(n as u16));
        }
        let id = u16::try_from(self.lenders.len()).ok()?;
        self.lenders.push(Some(lender));
        Some(LenderId(id))
    }

    /// Takes a table off the list, unless vectors lent out of it are still about.
    pub fn unregister(&mut self, id: LenderId) -> Result<Arc<PageTable>, StillLent> {
        self.reclaim();
        let slot = &mut self.lenders[usize::from(id.0)];
        let out = slot.as_ref().expect("a lender is unregistered once").out;
        if out > 0 {
            return Err(StillLent { out });
        }
        let Lender { table, mut hand, .. } = slot.take().expect("looked at above");
        hand.empty(&table);
        Ok(table)
    }

    /// Takes a table off the list, now or when the last vector lent out of it is back. The number must not be
    /// used again by the caller.
    #[cold]
    pub fn retire(&mut self, id: LenderId) {
        self.lender(id).retired = true;
        // An error means that vectors are out: the last one back tries again.
        let _ = self.unregister(id);
    }

    /// So many vectors lent out of this table may be out at once: a disk whose readers do not take what they
    /// asked for must not keep the others from lending. No limit at first.
    pub fn set_lend_limit(&mut self, id: LenderId, vectors_max: u32) {
        self.lender(id).out_max = vectors_max;
    }

    /// The bytes of the disk itself, to read: `len` bytes at `offset`, counted until the vector is put back.
    /// `None`: no vector to lend them with now, the table's limit is reached, or more than [`SGV_BYTES_MAX`].
    #[inline]
    pub fn lend(&mut self, id: LenderId, offset: u64, len: u32) -> Option<Sgv> {
        let first = (PAGE_BYTES - (offset % PAGE_BYTES as u64) as usize).min(len as usize) as u32;
        self.lend_with(id, first, len, |table, segs| {
            table.lend(offset, len, segs);
            true
        })
    }

    /// Zeroes to read: the lender's zero page over and over. `None` as for [`SgvPool::lend`].
    #[inline]
    pub fn lend_zeroes(&mut self, id: LenderId, len: u32) -> Option<Sgv> {
        if len <= PAGE_BYTES as u32
            && let Some(sgv) = self.lend_of(0, id, len, len, |table, segs| table.lend_zero_page(len, segs))
        {
            return Some(sgv);
        }
        self.lend_many_zeroes(id, len)
    }

    #[inline(never)]
    fn lend_many_zeroes(&mut self, id: LenderId, len: u32) -> Option<Sgv> {
        let first = (PAGE_BYTES as u32).min(len);
        self.lend_with(id, first, len, |table, segs| table.lend_zeroes(len, segs))
    }

    /// A vector of `len` bytes, `first` of them in its first page; `fill` names the pages, and says whether they are
    /// counted.
    #[inline]
    fn lend_with(
        &mut self,
        id: LenderId,
        first: u32,
        len: u32,
        fill: impl Fn(&PageTable, &mut Vec<Seg>) -> bool + Copy,
    ) -> Option<Sgv> {
        let pages = (len - first).div_ceil(PAGE_BYTES as u32) + 1;
        if pages <= LENT_PAGES[0]
            && let Some(sgv) = self.lend_of(0, id, first, len, fill)
        {
            return Some(sgv);
        }
        let fits = LENT_PAGES.iter().position(|&max| pages <= max)?;
        let class = self.lend_elsewhere(id, fits)?;
        self.lend_of(class, id, first, len, fill)
    }

    /// A vector of this class, if there is one and the lender has not reached its limit.
    #[inline(always)]
    fn lend_of(
        &mut self,
        class: usize,
        id: LenderId,
        first: u32,
        len: u32,
        fill: impl Fn(&PageTable, &mut Vec<Seg>) -> bool,
    ) -> Option<Sgv> {
        let lender = self.lenders[usize::from(id.0)].as_mut().expect("the lender is registered");
        if lender.out >= lender.out_max {
            return None;
        }
        let mut sgv = self.lent[class].pop()?;
        lender.out += 1;
        let h = sgv.header_mut();
        (h.len, h.capacity, h.first, h.lender) = (len, len, first, id);
        h.counted = fill(&lender.table, &mut h.segs);
        Some(sgv)
    }

    /// What is on its way home, vectors not made yet, and larger ones are looked at: a class to lend from.
    fn lend_elsewhere(&mut self, id: LenderId, fits: usize) -> Option<usize> {
        let lender = self.lender(id);
        if lender.out >= lender.out_max || self.lent[fits].free.is_empty() {
            self.reclaim();
        }
        let lender = self.lender(id);
        (lender.out < lender.out_max).then_some(())?;
        let class = (fits..LENT_PAGES.len()).find(|&c| !self.lent[c].free.is_empty() || self.make_lent(c));
        if class.is_none() {
            self.lent[fits].refused += 1;
        }
        class
    }

    /// Stores `range` of the vector at `offset` of the disk: pages are exchanged where both have their borders
    /// in the same places, the rest is copied. Afterwards the range holds old bytes of the disk.
    pub fn exchange(
        &mut self,
        id: LenderId,
        offset: u64,
        sgv: &mut Sgv,
        range: Range<u32>,
    ) -> Result<(), Busy> {
        let Lender { table, hand, .. } = self.lender(id);
        table.write(hand, offset, sgv, range, true)
    }

    /// Stores `range` of the vector at `offset` and leaves the vector as it is: copies.
    pub fn copy_in(
        &mut self,
        id: LenderId,
        offset: u64,
        sgv: &mut Sgv,
        range: Range<u32>,
    ) -> Result<(), Busy> {
        let Lender { table, hand, .. } = self.lender(id);
        table.write(hand, offset, sgv, range, false)
    }

    /// Makes `len` bytes at `offset` read as zeroes: whole pages become holes.
    pub fn discard(&mut self, id: LenderId, offset: u64, len: u64) -> Result<(), Busy> {
        let Lender { table, hand, .. } = self.lender(id);
        table.discard(hand, offset, len)
    }

    /// Writes zeroes; no holes.
    pub fn write_zeroes(&mut self, id: LenderId, offset: u64, len: u64) -> Result<(), Busy> {
        let Lender { table, hand, .. } = self.lender(id);
        table.zero(hand, offset, len)
    }

    /// Copies `range.len()` bytes at `offset` of the disk into the vector: for who cannot take a lent one.
    pub fn read_into(&mut self, id: LenderId, offset: u64, sgv: &mut Sgv, range: Range<u32>) {
        let Lender { table, .. } = self.lender(id);
        table.read(offset, u64::from(range.end - range.start), |at, bytes| {
            sgv.copy_payload_from(range.start + at as u32, bytes);
            true
        });
    }

    #[inline]
    fn lender(&mut self, id: LenderId) -> &mut Lender {
        self.lenders[usize::from(id.0)].as_mut().expect("the lender is registered")
    }

    /// A lent vector is back.
    #[inline]
    pub(crate) fn shelve_lent(&mut self, mut sgv: Sgv) {
        debug_assert!(sgv.kind() == Kind::Lent);
        if sgv.header().counted {
            self.lender(sgv.header().lender).table.release(sgv.segs());
        }
        let h = sgv.header_mut();
        self.copied_bytes += u64::from(h.copied.take());
        h.segs.clear();
        let id = h.lender;
        self.lent[usize::from(h.class)].push(sgv);
        let lender = self.lender(id);
        lender.out -= 1;
        if lender.retired {
            self.retire(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use spindle_reactor::CoreId;

    use super::*;
    use crate::{Arena, ArenaConfig, PoolConfig, ShareId};

    const DISK: u64 = 64 << 10;
    const NONE: ShareId = ShareId(0);

    struct World {
        arena: Arc<Arena>,
        table: Arc<PageTable>,
        pool: SgvPool,
        id: LenderId,
    }

    fn world(bytes: u64, spares: u32, fold_at: u32) -> World {
        let arena = Arena::new(ArenaConfig::plain(4 << 20, 4 << 20)).unwrap();
        let table = PageTable::with_fold_at(&arena, bytes, spares, fold_at).unwrap();
        let mut pool = pool(0, &arena);
        let id = pool.register(table.clone()).unwrap();
        World { arena, table, pool, id }
    }

    fn pool(core: u8, arena: &Arc<Arena>) -> SgvPool {
        let config = PoolConfig { vectors: [8, 4, 2, 0, 0, 0], lent: [4, 1, 0], shares: 1, poison: true };
        SgvPool::new(CoreId(core), arena.clone(), &config).unwrap()
    }

    impl World {
        fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Busy> {
            let mut sgv = self.pool.take(bytes.len() as u32, NONE).unwrap();
            sgv.copy_from(0, bytes);
            let done = self.pool.exchange(self.id, offset, &mut sgv, 0..bytes.len() as u32);
            self.pool.put(sgv);
            done
        }

        fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
            let sgv = self.pool.lend(self.id, offset, len).unwrap();
            let bytes = sgv.to_vec();
            self.pool.put(sgv);
            let mut copy = self.pool.take(len, NONE).unwrap();
            self.pool.read_into(self.id, offset, &mut copy, 0..len);
            assert_eq!(copy.to_vec(), bytes);
            self.pool.put(copy);
            bytes
        }

        /// Everything back where it came from.
        fn end(mut self) {
            assert!(self.pool.is_full());
            self.pool.unregister(self.id).unwrap();
            assert_eq!(self.table.spares_free(), self.table.spares());
            drop((self.table, self.pool));
            let report = self.arena.report();
            assert_eq!(report.bytes, report.bytes_free);
        }
    }

    fn pages(sgv: &Sgv) -> Vec<Seg> {
        sgv.segs().iter().map(|s| Seg { cookie: 0, ..*s }).collect()
    }

    #[test]
    fn a_new_disk_reads_as_zeroes_though_its_memory_does_not() {
        let mut w = world(DISK, 2, u32::MAX);
        let dirty = w.pool.take(65536, NONE).unwrap();
        w.pool.put(dirty);
        assert_eq!(w.read(512, 9000), vec![0; 9000]);
        assert!(w.table.is_hole(0));
        w.end();
    }

    #[test]
    fn whole_pages_are_exchanged_without_a_copy_and_the_old_ones_go_to_the_writer() {
        let mut w = world(DISK, 2, u32::MAX);
        let mut sgv = w.pool.take(16384, NONE).unwrap();
        sgv.fill_pattern(0..16384, b"abc");
        let (bytes, given) = (sgv.to_vec(), pages(&sgv));
        w.pool.exchange(w.id, 8192, &mut sgv, 0..16384).unwrap();
        assert_eq!(sgv.copied(), 0);
        let lent = w.pool.lend(w.id, 8192, 16384).unwrap();
        assert_eq!((lent.kind(), pages(&lent)), (Kind::Lent, given));
        assert_eq!(lent.to_vec(), bytes);
        assert!(pages(&sgv).iter().all(|p| !pages(&lent).contains(p)));
        w.pool.put(sgv);
        w.pool.put(lent);
        assert_eq!(w.pool.copied_bytes(), 0);
        w.end();
    }

    #[test]
    fn blocks_inside_pages_are_copied_and_neighbours_stay() {
        let mut w = world(DISK, 2, u32::MAX);
        w.write(0, &[1; 12288]).unwrap();
        w.write(3584, &[2; 4096 + 1024]).unwrap();
        let seen = w.read(0, 12288);
        assert!(seen[..3584].iter().all(|&b| b == 1));
        assert!(seen[3584..8704].iter().all(|&b| b == 2));
        assert!(seen[8704..].iter().all(|&b| b == 1));
        assert_eq!(w.pool.copied_bytes() % 512, 0);
        assert_eq!(w.read(3072, 1024)[..513], [&[1; 512][..], &[2; 1]].concat());
        w.end();
    }

    #[test]
    fn what_is_lent_stays_as_it_was_while_others_write() {
        let mut w = world(DISK, 4, u32::MAX);
        w.write(0, &[1; 8192]).unwrap();
        let lent = w.pool.lend(w.id, 512, 4096).unwrap();
        w.write(0, &[2; 8192]).unwrap();
        assert_eq!(w.read(0, 8192), vec![2; 8192]);
        w.pool.discard(w.id, 0, 8192).unwrap();
        assert_eq!(w.read(0, 8192), vec![0; 8192]);
        w.write(512, &[3; 512]).unwrap();
        assert_eq!(lent.to_vec(), vec![1; 4096]);
        w.pool.put(lent);
        assert_eq!(w.table.spares_free(), 3, "one is in the pool's hand");
        w.end();
    }

    #[test]
    fn without_a_spare_a_write_stops_at_a_page_and_goes_on_when_the_reader_is_gone() {
        let mut w = world(DISK, 2, u32::MAX);
        w.write(0, &[1; 16384]).unwrap();
        let lent = w.pool.lend(w.id, 0, 16384).unwrap();
        let mut sgv = w.pool.take(16384, NONE).unwrap();
        sgv.fill_pattern(0..16384, &[2]);
        assert_eq!(w.pool.exchange(w.id, 0, &mut sgv, 0..16384), Err(Busy { done: 8192 }));
        assert_eq!(w.read(0, 16384), [[2; 8192], [1; 8192]].concat());
        assert_eq!(w.pool.exchange(w.id, 8192, &mut sgv, 8192..16384), Err(Busy { done: 0 }));
        assert_eq!(w.pool.discard(w.id, 8192, 512), Err(Busy { done: 0 }));
        assert_eq!(w.write(8192, &[9; 512]), Err(Busy { done: 0 }));
        assert_eq!(lent.to_vec(), vec![1; 16384]);
        w.pool.put(lent);
        w.pool.exchange(w.id, 8192, &mut sgv, 8192..16384).unwrap();
        w.pool.put(sgv);
        assert_eq!(w.read(0, 16384), vec![2; 16384]);
        w.end();
    }

    #[test]
    fn discarding_leaves_the_edges_of_its_range_alone() {
        let mut w = world(12288 + 512, 2, u32::MAX);
        w.write(0, &[1; 12800]).unwrap();
        w.pool.discard(w.id, 3584, 9216).unwrap();
        let seen = w.read(0, 12800);
        assert!(seen[..3584].iter().all(|&b| b == 1) && seen[3584..].iter().all(|&b| b == 0));
        assert_eq!(
            [0, 1, 2, 3].map(|n| w.table.is_hole(n)),
            [false, true, true, true],
            "the short last page"
        );
        w.end();
    }

    #[test]
    fn vectors_that_do_not_share_the_page_grid_are_copied() {
        let mut w = world(DISK, 2, u32::MAX);
        let mut sgv = w.pool.take(16384, NONE).unwrap();
        sgv.fill_pattern(0..16384, &[5, 6, 7]);
        let bytes = sgv.to_vec();
        w.pool.exchange(w.id, 4096, &mut sgv, 100..8292).unwrap();
        assert_eq!(sgv.copied(), 8192);
        assert_eq!(w.read(4096, 8192), bytes[100..8292]);
        assert_eq!(sgv.to_vec(), bytes, "a copied range keeps its bytes");
        w.pool.put(sgv);
        // A lent vector as the source: from one disk to another.
        let mut lent = w.pool.lend(w.id, 4096, 4096).unwrap();
        w.pool.exchange(w.id, 32768, &mut lent, 0..4096).unwrap();
        w.pool.put(lent);
        assert_eq!(w.read(32768, 4096), bytes[100..4196]);
        w.end();
    }

    #[test]
    fn lent_vectors_put_on_another_core_release_their_pages_at_home() {
        let mut w = world(DISK, 2, 1);
        let mut other = pool(1, &w.arena);
        w.write(0, &[1; 4096]).unwrap();
        let lent = w.pool.lend(w.id, 0, 4096).unwrap();
        assert_eq!(w.pool.unregister(w.id).unwrap_err(), StillLent { out: 1 });
        other.put(lent);
        drop(other);
        w.end();
    }

    #[test]
    fn a_retired_lender_leaves_with_its_last_vector() {
        let mut w = world(DISK, 2, u32::MAX);
        let lent = w.pool.lend(w.id, 0, 4096).unwrap();
        w.pool.retire(w.id);
        assert_eq!(Arc::strong_count(&w.table), 2);
        w.pool.put(lent);
        assert_eq!(Arc::strong_count(&w.table), 1);
        assert_eq!(w.pool.register(w.table.clone()), Some(w.id), "its number is free again");
        w.end();
    }

    #[test]
    fn a_disk_grows_in_use_and_forgets_what_is_cut_off() {
        let mut w = world(8192, 2, u32::MAX);
        w.write(0, &[1; 8192]).unwrap();
        let lent = w.pool.lend(w.id, 0, 8192).unwrap();
        w.table.grow(1 << 20).unwrap();
        w.table.grow(4096).unwrap();
        assert_eq!(w.table.bytes(), 1 << 20);
        assert_eq!(w.read(4096, 8192), [[1; 4096], [0; 4096]].concat());
        w.write((1 << 20) - 4096, &[2; 4096]).unwrap();
        w.table.forget_from(512);
        assert_eq!(w.read(0, 8192), [&[1; 512][..], &[0; 7680]].concat());
        assert_eq!(w.read((1 << 20) - 4096, 4096), [0; 4096]);
        assert_eq!(lent.to_vec(), [1; 8192]);
        w.pool.put(lent);
        assert!(w.table.grow(1 << 40).is_err() && w.table.grow(u64::MAX).is_err());
        w.end();
    }

    #[test]
    fn zeroes_are_lent_without_a_disk_and_written_without_making_holes() {
        let mut w = world(DISK, 2, u32::MAX);
        let lent = w.pool.lend_zeroes(w.id, 10_000).unwrap();
        assert_eq!(lent.to_vec(), [0; 10_000]);
        assert!(lent.slices(5000..9000).flatten().all(|&b| b == 0));
        w.pool.put(lent);
        w.write(0, &[1; 8192]).unwrap();
        w.pool.write_zeroes(w.id, 512, 12288).unwrap();
        assert_eq!(w.read(0, 16384), [&[1; 512][..], &[0; 15872]].concat());
        assert_eq!([1, 2, 3, 4].map(|n| w.table.is_hole(n)), [false, false, false, true]);
        w.end();
    }

    #[test]
    fn too_few_vectors_to_lend_with_is_back_pressure() {
        let mut w = world(DISK, 2, u32::MAX);
        let held: Vec<Sgv> = (0..5).map(|_| w.pool.lend(w.id, 0, 512).unwrap()).collect();
        assert!(w.pool.lend(w.id, 0, 512).is_none());
        assert_eq!(w.pool.stats().lent[0].refused, 1);
        held.into_iter().for_each(|sgv| w.pool.put(sgv));
        assert_eq!(w.read(0, 512), [0; 512]);
        w.end();
    }

    #[test]
    fn a_disk_at_its_limit_lends_no_more_while_others_do() {
        let mut w = world(DISK, 2, u32::MAX);
        let other = w.pool.register(PageTable::new(&w.arena, 4096, 1).unwrap()).unwrap();
        w.pool.set_lend_limit(w.id, 1);
        let one = w.pool.lend(w.id, 0, 512).unwrap();
        assert!(w.pool.lend(w.id, 0, 512).is_none());
        let two = w.pool.lend(other, 0, 512).unwrap();
        pool(1, &w.arena).put(one);
        let again = w.pool.lend(w.id, 0, 512).unwrap();
        w.pool.put(again);
        w.pool.put(two);
        w.pool.unregister(other).unwrap();
        w.end();
    }

    #[test]
    fn lent_vectors_may_outlive_pool_and_disk() {
        let mut w = world(DISK, 2, u32::MAX);
        w.write(0, &[1; 8192]).unwrap();
        let lent = w.pool.lend(w.id, 0, 8192).unwrap();
        drop((w.pool, w.table));
        assert_eq!(lent.to_vec(), vec![1; 8192]);
        drop(lent);
        let report = w.arena.report();
        assert_eq!(report.bytes, report.bytes_free);
    }

    #[test]
    fn the_readers_of_a_page_are_folded_again_and_again() {
        let mut w = world(4096, 2, 3);
        w.write(0, &[1; 4096]).unwrap();
        for n in 0..50 {
            let lent: Vec<Sgv> = (0..4).map(|_| w.pool.lend(w.id, 0, 4096).unwrap()).collect();
            if n % 7 == 0 {
                w.write(0, &[n; 4096]).unwrap();
            }
            lent.into_iter().for_each(|sgv| w.pool.put(sgv));
            assert_eq!(w.read(0, 1), [n / 7 * 7]);
        }
        w.end();
    }

    #[test]
    #[should_panic(expected = "lie outside")]
    fn a_range_beyond_the_disk_is_a_mistake() {
        let mut w = world(DISK, 2, u32::MAX);
        let _ = w.pool.lend(w.id, DISK - 512, 1024);
    }
}
