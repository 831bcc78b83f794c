//! A RAM disk under several cores at once: readers hold what they lend for a while, writers exchange whole
//! pages, write single blocks, discard. Each block carries its writer's name and count, so that a reader knows
//! a torn, foreign or old block when it sees one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spindle_mem::{Arena, ArenaConfig, Busy, LenderId, PageTable, PoolConfig, Sgv, SgvPool, ShareId};
use spindle_reactor::CoreId;

const BLOCK: usize = 512;
const PER_PAGE: usize = 8;
const CORES: usize = 4;
const STEPS: usize = if cfg!(miri) { 60 } else { 20_000 };

/// A block filled with one number: writer in the upper byte, its count below. Nought was never written, or
/// discarded.
fn fill(sgv: &mut Sgv, at: u32, stamp: u64) {
    sgv.fill_pattern(at..at + BLOCK as u32, &stamp.to_le_bytes());
}

fn stamp_of(block: &[u8]) -> u64 {
    let stamp = &block[..8];
    assert!(block.chunks(8).all(|c| c == stamp), "torn block: {:?}", &block[..64]);
    u64::from_le_bytes(stamp.try_into().unwrap())
}

struct Core {
    me: usize,
    pool: SgvPool,
    id: LenderId,
    rng: fastrand::Rng,
    held: VecDeque<(Sgv, Vec<u8>)>,
    busy: u64,
}

impl Core {
    fn new(me: usize, arena: &Arc<Arena>, table: &Arc<PageTable>) -> Core {
        let config = PoolConfig { vectors: [2, 2, 2, 0, 0, 0], lent: [16, 0, 0], shares: 1, poison: true };
        let mut pool = SgvPool::new(CoreId(me as u8), arena.clone(), &config).unwrap();
        let id = pool.register(table.clone()).unwrap();
        Core { me, pool, id, rng: fastrand::Rng::with_seed(me as u64 + 7), held: VecDeque::new(), busy: 0 }
    }

    /// Lends a range, keeps it for a while, and checks that it did not change meanwhile.
    fn look(&mut self, offset: u64, len: u32) -> Option<Vec<u64>> {
        let lent = self.pool.lend(self.id, offset, len)?;
        let bytes = lent.to_vec();
        let stamps = bytes.chunks(BLOCK).map(stamp_of).collect();
        self.held.push_back((lent, bytes));
        while self.held.len() > self.rng.usize(0..12) {
            let (lent, bytes) = self.held.pop_front().unwrap();
            assert!(lent.to_vec() == bytes, "lent memory has changed");
            self.pool.put(lent);
        }
        Some(stamps)
    }

    fn let_go(&mut self) {
        for (lent, bytes) in self.held.drain(..) {
            assert!(lent.to_vec() == bytes, "lent memory has changed");
            self.pool.put(lent);
        }
    }

    /// Stores the vector; while the disk is busy it lets its own readings go and tries the rest again.
    fn store(&mut self, offset: u64, mut sgv: Sgv) {
        let (mut at, end) = (0, sgv.len());
        while let Err(Busy { done }) = self.pool.exchange(self.id, offset + u64::from(at), &mut sgv, at..end)
        {
            at += done as u32;
            self.busy += 1;
            self.let_go();
            std::thread::yield_now();
        }
        self.pool.put(sgv);
    }

    fn end(mut self) -> u64 {
        self.let_go();
        assert!(self.pool.is_full());
        self.pool.unregister(self.id).unwrap();
        self.busy
    }
}

fn run(pages: u64, spares: u32, work: impl Fn(&mut Core, usize) + Sync) -> u64 {
    let arena = Arena::new(ArenaConfig::plain(8 << 20, 8 << 20)).unwrap();
    let table = PageTable::new(&arena, pages * 4096, spares).unwrap();
    let busy = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for me in 0..CORES {
            let (arena, table, work, busy) = (&arena, &table, &work, &busy);
            scope.spawn(move || {
                let mut core = Core::new(me, arena, table);
                for step in 0..STEPS {
                    work(&mut core, step);
                }
                busy.fetch_add(core.end(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(table.spares_free(), spares, "every spare is back");
    drop(table);
    assert_eq!(arena.report().bytes, arena.report().bytes_free, "every page is back");
    busy.into_inner()
}

#[test]
fn blocks_of_one_page_written_by_different_cores_are_all_kept() {
    // Each core owns two blocks of every page, and must always find there what it wrote last.
    const PAGES: u64 = 3;
    let last: Vec<AtomicU64> = (0..PAGES as usize * PER_PAGE).map(|_| AtomicU64::new(0)).collect();
    run(PAGES, 16, |core, step| {
        let page = core.rng.u64(0..PAGES);
        let block = page as usize * PER_PAGE + core.me + CORES * core.rng.usize(0..2);
        let offset = (block * BLOCK) as u64;
        if core.rng.bool() {
            let mut sgv = core.pool.take(BLOCK as u32, ShareId(0)).unwrap();
            fill(&mut sgv, 0, (core.me as u64) << 56 | step as u64);
            last[block].store((core.me as u64) << 56 | step as u64, Ordering::Relaxed);
            core.store(offset, sgv);
        } else if let Some(seen) = core.look(offset, BLOCK as u32) {
            assert_eq!(seen, [last[block].load(Ordering::Relaxed)], "a write was lost");
        }
    });
}

#[test]
fn under_exchanges_patches_and_discards_no_block_is_torn_and_none_goes_back_in_time() {
    // Everybody writes everywhere. A core that saw a count of a writer in a block may see another writer's, or
    // nought, but from the same writer nothing older than it has seen before.
    const PAGES: u64 = 6;
    const BLOCKS: usize = PAGES as usize * PER_PAGE;
    let newest: Vec<Vec<AtomicU64>> =
        (0..CORES).map(|_| (0..CORES * BLOCKS).map(|_| AtomicU64::new(0)).collect()).collect();
    let busy = run(PAGES, 6, |core, step| {
        let stamp = ((core.me as u64) + 1) << 56 | step as u64;
        match core.rng.u8(0..10) {
            0..3 => {
                let first = core.rng.u64(0..PAGES);
                let pages = core.rng.u64(1..=(PAGES - first).min(3));
                let mut sgv = core.pool.take(pages as u32 * 4096, ShareId(0)).unwrap();
                for block in 0..pages as u32 * PER_PAGE as u32 {
                    fill(&mut sgv, block * BLOCK as u32, stamp);
                }
                core.store(first * 4096, sgv);
            }
            3..5 => {
                let first = core.rng.usize(0..BLOCKS);
                let blocks = core.rng.usize(1..=(BLOCKS - first).min(11));
                let mut sgv = core.pool.take((blocks * BLOCK) as u32, ShareId(0)).unwrap();
                for block in 0..blocks {
                    fill(&mut sgv, (block * BLOCK) as u32, stamp);
                }
                core.store((first * BLOCK) as u64, sgv);
            }
            5 => {
                let first = core.rng.usize(0..BLOCKS);
                let blocks = core.rng.usize(1..=BLOCKS - first);
                // A busy discard may stay undone: discarding is a permission.
                let _ = core.pool.discard(core.id, (first * BLOCK) as u64, (blocks * BLOCK) as u64);
            }
            _ => {
                let first = core.rng.usize(0..BLOCKS);
                let blocks = core.rng.usize(1..=BLOCKS - first);
                let Some(seen) = core.look((first * BLOCK) as u64, (blocks * BLOCK) as u32) else {
                    return core.let_go();
                };
                for (block, stamp) in seen.into_iter().enumerate().filter(|(_, s)| *s != 0) {
                    let (writer, count) = ((stamp >> 56) as usize, stamp & ((1 << 56) - 1));
                    assert!(
                        (1..=CORES).contains(&writer) && count < STEPS as u64,
                        "foreign bytes: {stamp:#x}"
                    );
                    let mine = &newest[core.me][(writer - 1) * BLOCKS + first + block];
                    let before = mine.swap(count, Ordering::Relaxed);
                    assert!(before <= count, "block {} went back from {before} to {count}", first + block);
                }
            }
        }
    });
    assert!(busy > 0 || cfg!(miri), "the case without a spare page was never met");
}
