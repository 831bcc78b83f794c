//! One core's ready-made vectors, by size class.
//!
//! All memory is taken from the arena when the pool is made; [`SgvPool::take`] and [`SgvPool::put`] move
//! handles between lists and never allocate. When a class is empty a vector of a larger class serves; when
//! none is left the answer is `None`, and the caller waits in line.

use std::sync::Arc;

use spindle_reactor::CoreId;

use crate::PAGE_BYTES;
use crate::arena::{Arena, ArenaFull, PageRun};
use crate::home::Home;
use crate::lend::{LENT_PAGES, Lender, LenderId};
use crate::planted::{self, Bug};
use crate::sgv::{Kind, Seg, Sgv, SgvHeader};

/// Sizes of the ready-made vectors.
pub const CLASS_BYTES: [u32; CLASSES] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// No vector is larger; Block Limits must keep a command's data below this.
pub const SGV_BYTES_MAX: u32 = CLASS_BYTES[CLASSES - 1];

const CLASSES: usize = 6;

/// Under whose name memory is counted: a logical unit, or whatever else gets a limit of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShareId(pub u16);

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Vectors of each class ([`CLASS_BYTES`]).
    pub vectors: [u32; CLASSES],
    /// Vectors to lend pages of RAM disks with: up to 64 KiB, 1 MiB, 4 MiB. They have no pages of their own, and are
    /// made when they are first needed. As many as there may be reads under way: more wait in line.
    pub lent: [u32; LENT_PAGES.len()],
    /// Shares 0 to this (exclusive) exist; others get nothing.
    pub shares: u16,
    /// Overwrite memory as it is put back, to find bytes of one tenant sent to another. Costs a pass over
    /// each vector; on by default in debug builds.
    pub poison: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            vectors: [64, 32, 16, 8, 4, 1],
            lent: [128, 16, 4],
            shares: 256,
            poison: cfg!(debug_assertions),
        }
    }
}

impl PoolConfig {
    /// Spreads about `bytes` (never more) over the classes: an eighth in 4 KiB vectors, a quarter each in 16,
    /// 64 and 256 KiB, the rest in larger ones as far as it reaches.
    pub fn spread(bytes: u64) -> PoolConfig {
        let mut left = bytes;
        let mut vectors = [0; CLASSES];
        // Largest first, and what is too little for one of a class goes to the smaller ones.
        for (class, parts) in [(5, 16), (4, 16), (3, 4), (2, 4), (1, 4)] {
            let size = u64::from(CLASS_BYTES[class]);
            let n = (bytes / parts / size).min(left / size).min(u64::from(u32::MAX));
            vectors[class] = n as u32;
            left -= n * size;
        }
        vectors[0] = (left / u64::from(CLASS_BYTES[0])).min(bytes / 8 / 4096 + 64) as u32;
        PoolConfig { vectors, ..PoolConfig::default() }
    }

    /// Bytes of the arena the pool will take.
    pub fn bytes(&self) -> u64 {
        self.vectors.iter().zip(CLASS_BYTES).map(|(n, size)| u64::from(*n) * u64::from(size)).sum()
    }
}

/// The vectors of one size.
#[derive(Default)]
pub(crate) struct Class {
    pub free: Vec<Sgv>,
    /// As many as there may be, and as there are.
    pub total: u32,
    made: u32,
    pub low: u32,
    pub refused: u64,
}

impl Class {
    #[inline]
    pub fn pop(&mut self) -> Option<Sgv> {
        let sgv = self.free.pop();
        self.low = self.low.min(self.free.len() as u32);
        sgv
    }

    #[inline]
    pub fn push(&mut self, sgv: Sgv) {
        assert!(self.free.len() < self.free.capacity(), "more vectors came back than were made");
        self.free.push(sgv);
    }

    fn stats(&self, bytes: u32) -> ClassStats {
        let Class { free, total, low, refused, .. } = self;
        ClassStats { bytes, total: *total, free: free.len() as u32, low: *low, refused: *refused }
    }

    /// Of a class whose vectors are made when none is free: as many are there as were ever out at once.
    fn stats_of_lent(&self, bytes: u32) -> ClassStats {
        let unmade = self.total - self.made;
        ClassStats { low: unmade, free: self.free.len() as u32 + unmade, ..self.stats(bytes) }
    }
}

#[derive(Clone, Copy)]
struct Share {
    in_use: u64,
    limit: u64,
    refused: u64,
    copied: u64,
}

/// The memory of a pool: any thread may have the system give it, while the pool is in use.
#[derive(Debug)]
pub struct PoolMemory {
    arena: Arc<Arena>,
    places: Vec<PageRun>,
}

impl PoolMemory {
    /// Has the system give all of it now instead of at its first touch. The error says what could not be had.
    pub fn populate(&self) -> Result<(), String> {
        self.arena.populate(&self.places)
    }
}

/// One core's memory for I/O. See the module's page.
pub struct SgvPool {
    home: Arc<Home>,
    classes: [Class; CLASSES],
    pub(crate) lent: [Class; LENT_PAGES.len()],
    pub(crate) lenders: Vec<Option<Lender>>,
    shares: Box<[Share]>,
    /// Where the memory is that the pool was made of.
    places: Vec<PageRun>,
    poison: bool,
    pub(crate) copied_bytes: u64,
    refused_size: u64,
}

impl SgvPool {
    /// Takes all its memory from the arena and cuts it into vectors.
    pub fn new(core: CoreId, arena: Arc<Arena>, config: &PoolConfig) -> Result<SgvPool, ArenaFull> {
        let home = Home::new(core, arena);
        let share = Share { in_use: 0, limit: u64::MAX, refused: 0, copied: 0 };
        let shares = vec![share; usize::from(config.shares)].into_boxed_slice();
        let poison = config.poison;
        let mut pool = SgvPool {
            home,
            classes: Default::default(),
            lent: Default::default(),
            lenders: Vec::new(),
            shares,
            places: Vec::new(),
            poison,
            copied_bytes: 0,
            refused_size: 0,
        };
        for class in 0..CLASSES {
            // An error drops the pool, which gives back what was taken.
            pool.stock(class, config.vectors[class])?;
        }
        for (class, count) in pool.lent.iter_mut().zip(config.lent) {
            class.free.reserve_exact(count as usize);
            class.total = count;
        }
        Ok(pool)
    }

    fn stock(&mut self, class: usize, count: u32) -> Result<(), ArenaFull> {
        let pages_each = CLASS_BYTES[class] / PAGE_BYTES as u32;
        let arena = self.home.arena().clone();
        let bytes_max = arena.limit_bytes();
        let pages = count.checked_mul(pages_each);
        let pages = pages.ok_or(ArenaFull { wanted: u32::MAX, free: 0, bytes_max })?;
        let pages = arena.take_pages(pages)?;
        self.places.extend(pages.places());
        let mut pages = pages.into_pages();
        self.classes[class].free.reserve_exact(count as usize);
        for _ in 0..count {
            let segs = pages.by_ref().take(pages_each as usize).map(|page| arena.seg(page)).collect();
            let mut sgv = self.make(Kind::Own, class, segs);
            sgv.header_mut().capacity = CLASS_BYTES[class];
            if self.poison {
                sgv.poison();
            }
            self.classes[class].free.push(sgv);
        }
        let class = &mut self.classes[class];
        (class.total, class.made, class.low) = (count, count, count);
        Ok(())
    }

    /// Makes one more vector to lend with. `false`: there are as many as there may be.
    pub(crate) fn make_lent(&mut self, class: usize) -> bool {
        let more = self.lent[class].made < self.lent[class].total;
        if more {
            let empty = self.make(Kind::Lent, class, Vec::with_capacity(LENT_PAGES[class] as usize));
            self.lent[class].made += 1;
            self.lent[class].push(empty);
        }
        more
    }

    fn make(&self, kind: Kind, class: usize, segs: Vec<Seg>) -> Sgv {
        Sgv::new(SgvHeader {
            len: 0,
            capacity: 0,
            first: PAGE_BYTES as u32,
            kind,
            class: class as u8,
            share: ShareId::default(),
            lender: LenderId::default(),
            counted: false,
            copied: 0.into(),
            refs: 0.into(),
            segs,
            home: self.home.clone(),
            next: std::ptr::null_mut(),
        })
    }

    /// The memory that the pool was made of, which may not be present yet.
    pub fn memory(&self) -> PoolMemory {
        PoolMemory { arena: self.home.arena().clone(), places: self.places.clone() }
    }

    /// The core it serves.
    pub fn core(&self) -> CoreId {
        self.home.core()
    }

    /// A vector with `len() == bytes`, counted under `share`; its bytes hold anything. `None`: there is no
    /// memory now, or the share is at its limit, or `bytes` exceeds [`SGV_BYTES_MAX`]. Never allocates.
    #[inline]
    pub fn take(&mut self, bytes: u32, share: ShareId) -> Option<Sgv> {
        match class_for(bytes) {
            Some(fits) => {
                self.take_of(fits, bytes, share).or_else(|| self.take_elsewhere(fits, bytes, share))
            }
            None => {
                self.refused_size += 1;
                None
            }
        }
    }

    /// A vector of this class, if there is one and the share may have it.
    #[inline]
    fn take_of(&mut self, class: usize, bytes: u32, share: ShareId) -> Option<Sgv> {
        let account = self.shares.get_mut(usize::from(share.0))?;
        let in_use = account.in_use + u64::from(CLASS_BYTES[class]);
        if in_use > account.limit {
            return None;
        }
        let mut sgv = self.classes[class].pop()?;
        account.in_use = in_use;
        let h = sgv.header_mut();
        h.len = bytes;
        h.share = share;
        Some(sgv)
    }

    /// What is on its way home, and larger vectors, are looked at; refusals are counted.
    #[cold]
    fn take_elsewhere(&mut self, fits: usize, bytes: u32, share: ShareId) -> Option<Sgv> {
        if self.classes[fits].free.is_empty() {
            self.reclaim();
        }
        let Some(class) = (fits..CLASSES).find(|&c| !self.classes[c].free.is_empty()) else {
            self.classes[fits].refused += 1;
            return None;
        };
        let sgv = self.take_of(class, bytes, share);
        if sgv.is_none() {
            self.shares.get_mut(usize::from(share.0))?.refused += 1;
        }
        sgv
    }

    /// Another vector with the length, room and share of this one, to be kept ready for what is only expected. `None`
    /// unless half of its class is free, and half of what its share may hold.
    pub fn spare(&mut self, like: &Sgv) -> Option<Sgv> {
        let h = like.header();
        let (class, account) =
            (self.classes.get(usize::from(h.class))?, self.shares.get(usize::from(h.share.0))?);
        let plenty = h.kind == Kind::Own
            && class_for(h.len) == Some(usize::from(h.class))
            && class.free.len() > class.total as usize / 2
            && account.in_use < account.limit / 2;
        if plenty { self.take(h.len, h.share) } else { None }
    }

    /// Takes a vector back, whichever core's it is.
    #[inline]
    pub fn put(&mut self, sgv: Sgv) {
        if Arc::ptr_eq(&sgv.header().home, &self.home) {
            self.shelve(sgv);
        } else {
            send_home(sgv);
        }
    }

    /// Shelves what other cores sent home; tells how many. Worth calling once a turn; `take` does when it must.
    pub fn reclaim(&mut self) -> u32 {
        let mut n = 0;
        for sgv in self.home.returned() {
            self.shelve(sgv);
            n += 1;
        }
        n
    }

    #[inline]
    fn shelve(&mut self, sgv: Sgv) {
        match sgv.kind() {
            Kind::Lent => self.shelve_lent(sgv),
            _ => self.shelve_own(sgv),
        }
    }

    #[inline]
    fn shelve_own(&mut self, mut sgv: Sgv) {
        let h = sgv.header_mut();
        let copied = u64::from(h.copied.take());
        self.copied_bytes += copied;
        let (class, share) = (usize::from(h.class), usize::from(h.share.0));
        let account = &mut self.shares[share];
        account.copied += copied;
        account.in_use -= u64::from(CLASS_BYTES[class]);
        if self.poison {
            sgv.poison();
        }
        let shelf = &self.classes[class].free;
        if planted::on(Bug::DoublePut) && shelf.len() + 1 < shelf.capacity() {
            let mut again = self.make(Kind::Own, class, sgv.header().segs.clone());
            again.header_mut().capacity = CLASS_BYTES[class];
            self.classes[class].push(again);
        }
        self.classes[class].push(sgv);
    }

    /// Whether its limit, and not want of memory, keeps `bytes` more from the share.
    pub fn share_is_full(&self, bytes: u32, share: ShareId) -> bool {
        let account = self.shares.get(usize::from(share.0));
        let class = class_for(bytes).map(|class| u64::from(CLASS_BYTES[class]));
        account.zip(class).is_none_or(|(account, class)| account.in_use + class > account.limit)
    }

    /// Bytes of payload that the processor copied for this share since [`SgvPool::open_share`], as far as its vectors
    /// are back.
    pub fn share_copied_bytes(&self, share: ShareId) -> u64 {
        self.shares.get(usize::from(share.0)).map_or(0, |account| account.copied)
    }

    /// The share has a new tenant, who may hold at most `bytes_max` and has copied nothing yet. What the last one still
    /// holds counts until it is back.
    pub fn open_share(&mut self, share: ShareId, bytes_max: u64) {
        if let Some(account) = self.shares.get_mut(usize::from(share.0)) {
            (account.limit, account.refused, account.copied) = (bytes_max, 0, 0);
        }
    }

    /// Bytes of payload that the processor copied into or out of vectors of this pool, as far as they are back.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// How the pool stands. For the control path: allocates.
    pub fn stats(&self) -> PoolStats {
        let used = |(n, s): (usize, &Share)| {
            let share = ShareStats {
                share: ShareId(n as u16),
                in_use_bytes: s.in_use,
                limit_bytes: s.limit,
                refused: s.refused,
            };
            (s.in_use > 0 || s.limit < u64::MAX || s.refused > 0).then_some(share)
        };
        PoolStats {
            core: self.core(),
            classes: self.classes.iter().zip(CLASS_BYTES).map(|(c, bytes)| c.stats(bytes)).collect(),
            lent: self
                .lent
                .iter()
                .zip(LENT_PAGES)
                .map(|(c, n)| c.stats_of_lent((n - 1) * PAGE_BYTES as u32))
                .collect(),
            shares: self.shares.iter().enumerate().filter_map(used).collect(),
            lost: self.home.lost(),
            refused_size: self.refused_size,
            copied_bytes: self.copied_bytes,
        }
    }

    /// Is every vector home? What tests ask when all is quiet.
    pub fn is_full(&mut self) -> bool {
        self.reclaim();
        self.classes.iter().chain(&self.lent).all(|c| c.free.len() == c.made as usize)
    }
}

impl Drop for SgvPool {
    /// Vectors still out end by themselves when they are put or dropped.
    fn drop(&mut self) {
        let left = self.lenders.drain(..).map(|lender| {
            let mut lender = lender?;
            lender.hand.empty(&lender.table);
            Some(lender.table)
        });
        drop(self.home.close(left.collect()));
        for class in self.classes.iter_mut().chain(&mut self.lent) {
            class.free.drain(..).for_each(Sgv::free);
        }
    }
}

impl std::fmt::Debug for SgvPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SgvPool").field(&self.stats()).finish()
    }
}

/// How a pool stands; see [`SgvPool::stats`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolStats {
    /// Whose pool.
    pub core: CoreId,
    /// Each size class, smallest first.
    pub classes: Vec<ClassStats>,
    /// Vectors to lend pages with, by the bytes they reach.
    pub lent: Vec<ClassStats>,
    /// Shares that hold memory, have a limit, or were refused.
    pub shares: Vec<ShareStats>,
    /// Vectors dropped instead of put back. Not nought: a mistake in the program.
    pub lost: u64,
    /// Requests beyond [`SGV_BYTES_MAX`].
    pub refused_size: u64,
    /// Payload bytes copied by the processor.
    pub copied_bytes: u64,
}

/// Vectors of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassStats {
    /// The size.
    pub bytes: u32,
    /// Made.
    pub total: u32,
    /// On the shelf now (others may be on their way home).
    pub free: u32,
    /// The least that was ever on the shelf.
    pub low: u32,
    /// Requests for this size that found it and all larger ones empty.
    pub refused: u64,
}

/// Memory counted under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareStats {
    /// The name.
    pub share: ShareId,
    /// Bytes of the vectors it holds (whole classes, not lengths in use).
    pub in_use_bytes: u64,
    /// Its limit; `u64::MAX` is none.
    pub limit_bytes: u64,
    /// Requests refused because of the limit.
    pub refused: u64,
}

/// It belongs to another core.
#[cold]
fn send_home(sgv: Sgv) {
    let home = sgv.header().home.clone();
    home.send(sgv);
}

#[inline]
fn class_for(bytes: u32) -> Option<usize> {
    CLASS_BYTES.iter().position(|&size| bytes <= size)
}

const _: () = assert!(size_of::<Seg>() * (SGV_BYTES_MAX as usize / PAGE_BYTES) <= 16 << 10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ArenaConfig, POISON};

    const NONE: ShareId = ShareId(0);

    #[test]
    fn memory_may_be_given_while_it_is_used() {
        let vectors = [8, 0, 0, 0, 1, 0];
        let mut pool =
            SgvPool::new(CoreId(0), arena(), &PoolConfig { vectors, ..PoolConfig::default() }).unwrap();
        let memory = pool.memory();
        let pages: u32 = memory.places.iter().map(|run| run.pages).sum();
        assert_eq!(pages, 8 + 256);
        let mut sgv = pool.take(1 << 20, NONE).unwrap();
        sgv.copy_from(0, &[7; 1 << 20]);
        std::thread::scope(|s| s.spawn(|| memory.populate()).join().unwrap()).unwrap();
        assert!(sgv.to_vec().iter().all(|byte| *byte == 7));
        pool.put(sgv);
    }

    fn arena() -> Arc<Arena> {
        Arena::new(ArenaConfig::plain(1 << 20, 64 << 20)).unwrap()
    }

    fn pool(core: u8, arena: &Arc<Arena>, vectors: [u32; CLASSES]) -> SgvPool {
        let config = PoolConfig { vectors, shares: 4, poison: true, ..PoolConfig::default() };
        SgvPool::new(CoreId(core), arena.clone(), &config).unwrap()
    }

    #[test]
    fn a_spare_is_given_only_while_there_is_plenty() {
        let mut pool = pool(0, &arena(), [4, 4, 0, 0, 0, 0]);
        let like = pool.take(3000, ShareId(1)).unwrap();
        let spare = pool.spare(&like).unwrap();
        assert_eq!((spare.len(), spare.capacity(), spare.share()), (3000, 4096, ShareId(1)));
        assert!(pool.spare(&like).is_none(), "half of the class is out");
        pool.put(spare);
        pool.open_share(ShareId(1), 8192);
        assert!(pool.spare(&like).is_none(), "half of the share is out");
        pool.put(like);
        assert!(pool.is_full());
    }

    #[test]
    fn the_smallest_class_that_fits_serves_and_a_larger_one_when_it_is_empty() {
        let mut pool = pool(0, &arena(), [1, 1, 1, 0, 0, 0]);
        let a = pool.take(4096, NONE).unwrap();
        let b = pool.take(1, NONE).unwrap();
        let c = pool.take(0, NONE).unwrap();
        assert_eq!([a.capacity(), b.capacity(), c.capacity()], [4096, 16384, 65536]);
        assert_eq!([a.len(), b.len(), c.len()], [4096, 1, 0]);
        assert!(pool.take(1, NONE).is_none());
        pool.put(b);
        assert!(pool.take(16385, NONE).is_none(), "a smaller class never serves");
        assert!(pool.take(SGV_BYTES_MAX + 1, NONE).is_none());
        pool.put(a);
        pool.put(c);
        let stats = pool.stats();
        assert!(pool.is_full());
        assert_eq!((stats.classes[0].refused, stats.classes[2].refused, stats.refused_size), (1, 1, 1));
        assert_eq!((stats.classes[0].low, stats.classes[0].free), (0, 1));
    }

    #[test]
    fn a_share_at_its_limit_waits_while_others_are_served() {
        let mut pool = pool(0, &arena(), [4, 0, 0, 0, 0, 0]);
        pool.open_share(ShareId(1), 8192);
        let held: Vec<Sgv> = (0..2).map(|_| pool.take(512, ShareId(1)).unwrap()).collect();
        assert!(pool.take(512, ShareId(1)).is_none());
        assert!(pool.share_is_full(512, ShareId(1)) && !pool.share_is_full(512, ShareId(2)));
        let other = pool.take(512, ShareId(2)).unwrap();
        assert_eq!(pool.stats().shares[0].in_use_bytes, 8192);
        assert_eq!(pool.stats().shares[0].refused, 1);
        for sgv in held {
            pool.put(sgv);
        }
        let again = pool.take(512, ShareId(1)).unwrap();
        assert!(pool.take(512, ShareId(4)).is_none(), "a share that was not made");
        pool.put(again);
        pool.put(other);
        assert!(pool.stats().shares.iter().all(|s| s.in_use_bytes == 0));
    }

    #[test]
    fn memory_put_on_another_core_comes_home_and_serves_again() {
        let arena = arena();
        let (mut ours, mut theirs) =
            (pool(0, &arena, [2, 0, 0, 0, 0, 0]), pool(1, &arena, [1, 0, 0, 0, 0, 0]));
        let (a, b) = (ours.take(1, NONE).unwrap(), ours.take(2, NONE).unwrap());
        assert_eq!((a.home(), a.share()), (CoreId(0), NONE));
        let mut theirs = std::thread::spawn(move || {
            theirs.put(a);
            theirs.put(b);
            theirs
        })
        .join()
        .unwrap();
        assert!(theirs.is_full());
        let again = ours.take(3, NONE).unwrap();
        assert_eq!((again.home(), again.len()), (CoreId(0), 3));
        assert_eq!(ours.stats().shares[0].in_use_bytes, 4096);
        ours.put(again);
        assert!(ours.is_full());
    }

    #[test]
    fn returns_from_many_threads_lose_nothing() {
        let arena = arena();
        let mut home = pool(0, &arena, [64, 0, 0, 0, 0, 0]);
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Sgv>(16);
        let receiver = std::sync::Mutex::new(receiver);
        std::thread::scope(|scope| {
            for core in 1..4 {
                let mut pool = pool(core, &arena, [0; CLASSES]);
                let receiver = &receiver;
                scope.spawn(move || {
                    while let Ok(sgv) = { receiver.lock().unwrap().recv() } {
                        assert_eq!(sgv.to_vec(), sgv.len().to_le_bytes().repeat(2));
                        pool.put(sgv);
                    }
                });
            }
            for _ in 0..20_000 {
                let mut sgv = loop {
                    match home.take(8, NONE) {
                        Some(sgv) => break sgv,
                        None => std::thread::yield_now(),
                    }
                };
                sgv.copy_from(0, &8u32.to_le_bytes().repeat(2));
                sender.send(sgv).unwrap();
            }
            drop(sender);
        });
        assert!(home.is_full());
        assert_eq!(home.stats().lost, 0);
    }

    #[test]
    fn memory_put_back_is_overwritten_where_poisoning_is_on() {
        let mut pool = pool(0, &arena(), [1, 0, 0, 0, 0, 0]);
        let mut sgv = pool.take(4096, NONE).unwrap();
        sgv.copy_from(100, b"a tenant's secret");
        sgv.set_len(10);
        pool.put(sgv);
        let sgv = pool.take(4096, NONE).unwrap();
        assert!(sgv.to_vec().iter().all(|&b| b == POISON));
        pool.put(sgv);
    }

    #[test]
    fn copies_of_payload_are_counted_per_vector_and_per_pool() {
        let mut pool = pool(0, &arena(), [2, 0, 0, 0, 0, 0]);
        let (mut a, mut b) = (pool.take(512, NONE).unwrap(), pool.take(512, NONE).unwrap());
        a.copy_payload_from(0, &[7; 512]);
        a.copy_from(0, &[8; 8]);
        b.copy_payload_between(12, &a, 0, 500);
        assert_eq!((a.copied(), b.copied()), (1012, 500));
        pool.put(a);
        pool.put(b);
        assert_eq!(pool.copied_bytes(), 1512);
        let a = pool.take(1, NONE).unwrap();
        assert_eq!((pool.share_copied_bytes(NONE), pool.share_copied_bytes(ShareId(1))), (1512, 0));
        assert_eq!(a.copied(), 0, "counted anew for each command");
        pool.put(a);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "dropped instead of put back"))]
    fn a_dropped_vector_is_noticed_and_its_memory_is_not_lost() {
        let mut pool = pool(0, &arena(), [1, 0, 0, 0, 0, 0]);
        drop(pool.take(1, NONE).unwrap());
        assert_eq!(pool.stats().lost, 1);
        assert!(pool.is_full());
    }

    #[test]
    fn vectors_may_outlive_their_pool() {
        let arena = arena();
        let mut first = pool(0, &arena, [2, 1, 0, 0, 0, 0]);
        let mut other = pool(1, &arena, [0; CLASSES]);
        let (a, b, c) =
            (first.take(1, NONE).unwrap(), first.take(1, NONE).unwrap(), first.take(5000, NONE).unwrap());
        other.put(a);
        drop(first);
        assert_eq!(c.len(), 5000);
        other.put(b);
        drop(c);
        let report = arena.report();
        assert_eq!(report.bytes, report.bytes_free);
    }

    #[test]
    fn a_pool_larger_than_the_arena_is_refused_and_gives_back_what_it_took() {
        let arena = Arena::new(ArenaConfig::plain(1 << 20, 1 << 20)).unwrap();
        let config = PoolConfig { vectors: [200, 0, 0, 0, 1, 0], ..PoolConfig::default() };
        assert!(SgvPool::new(CoreId(0), arena.clone(), &config).is_err());
        assert_eq!(arena.report().bytes_free, 1 << 20);
    }

    #[test]
    fn spreading_never_exceeds_the_bytes_given() {
        for bytes in [0, 1, 4095, 4096, 100_000, 1 << 20, 10 << 20, 64 << 20, 1 << 30, 7 << 30] {
            let config = PoolConfig::spread(bytes);
            assert!(config.bytes() <= bytes, "{bytes}: {config:?}");
            assert!(config.bytes() * 10 >= bytes * 8 || bytes < 1 << 20, "{bytes}: {config:?}");
        }
        assert!(PoolConfig::spread(64 << 20).vectors.iter().all(|&n| n > 0));
    }

    proptest! {
        #[test]
        fn what_is_out_and_what_is_home_is_all_there_is(ops in prop::collection::vec((0..3u8, 0..300_000u32, 0..3u16), 1..200)) {
            let arena = arena();
            let mut pools = [pool(0, &arena, [3, 2, 2, 1, 0, 0]), pool(1, &arena, [1, 1, 1, 1, 0, 0])];
            pools[0].open_share(ShareId(2), 100_000);
            let mut out: Vec<Sgv> = Vec::new();
            for (op, n, share) in ops {
                let at = n as usize % 2;
                if op < 2 {
                    if let Some(sgv) = pools[at].take(n, ShareId(share)) {
                        prop_assert_eq!(sgv.len(), n);
                        out.push(sgv);
                    }
                } else if !out.is_empty() {
                    let sgv = out.swap_remove(n as usize % out.len());
                    pools[at].put(sgv);
                }
                for pool in &mut pools {
                    pool.reclaim();
                    let core = pool.core();
                    for (share, stats) in (0..4).map(|n| (ShareId(n), pool.stats())) {
                        let held: u64 = out.iter().filter(|s| s.home() == core && s.share() == share)
                            .map(|s| u64::from(s.capacity())).sum();
                        let counted = stats.shares.iter().find(|s| s.share == share).map_or(0, |s| s.in_use_bytes);
                        prop_assert_eq!(held, counted);
                        prop_assert!(counted <= 100_000 || share != ShareId(2) || core != CoreId(0));
                    }
                }
                let mut pages: Vec<_> = out.iter().flat_map(|s| s.segs()).map(|s| s.ptr).collect();
                let all = pages.len();
                pages.sort();
                pages.dedup();
                prop_assert_eq!(pages.len(), all, "no page is in two vectors");
            }
            for sgv in out {
                pools[1].put(sgv);
            }
            prop_assert!(pools.iter_mut().all(SgvPool::is_full));
        }
    }
}
