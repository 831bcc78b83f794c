//! One core's ready-made vectors, by size class.
//!
//! All memory is taken from the arena when the pool is made; [`SgvPool::take`] and [`SgvPool::put`] move
//! handles between lists and never allocate. When a class is empty a vector of a larger class serves; when
//! none is left the answer is `None`, and the caller waits in line.

mod config;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use spindle_reactor::CoreId;

use crate::PAGE_BYTES;
use crate::arena::{Arena, ArenaFull, PageRun};
use crate::home::Home;
use crate::lend::{LENT_PAGES, Lender, LenderId};
use crate::planted::{self, Bug};
use crate::sgv::{Kind, Seg, Sgv, SgvHeader};
pub use config::{CLASS_BYTES, PoolConfig, SGV_BYTES_MAX};
use config::{CLASSES, class_for};
pub use stats::{ClassStats, PoolStats, ShareStats};

/// Under whose name memory is counted: a logical unit, or whatever else gets a limit of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShareId(pub u16);

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

/// It belongs to another core.
#[cold]
fn send_home(sgv: Sgv) {
    let home = sgv.header().home.clone();
    home.send(sgv);
}

const _: () = assert!(size_of::<Seg>() * (SGV_BYTES_MAX as usize / PAGE_BYTES) <= 16 << 10);
