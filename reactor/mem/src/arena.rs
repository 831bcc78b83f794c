//! The arena: all memory that devices and peers may touch, in a few large regions.
//!
//! A region is at most 1 GiB (io_uring's limit for one fixed buffer). The first is small, further ones are
//! mapped when somebody asks for more pages than are free, up to a limit. A page has a number: the region in
//! the upper bits, the place within it in the lower 18. Regions stay until the arena goes, so the address of a
//! page is looked up without a lock; taking and giving back pages goes through a mutex and belongs to the
//! control path (pools, RAM disks), never to a command.

// UNSAFETY: regions are shared between cores by address. What lies behind a page number belongs to whoever
// took the page; this module only does the arithmetic.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use spindle_ffi_os::{HugePolicy, MemoryKind};
#[cfg(not(miri))]
use spindle_ffi_os::{MappedRegion, map_region};

use crate::PAGE_BYTES;
#[cfg(miri)]
use crate::heap::{MappedRegion, map_region};
use crate::page_entry::AtomicI64;
use crate::sgv::Seg;

/// A region holds at most 2^18 pages: 1 GiB.
pub const REGION_PAGES_MAX: u32 = 1 << REGION_SHIFT;
/// As many regions as one arena may have.
pub const REGIONS_MAX: usize = 1024;

const REGION_SHIFT: u32 = 18;
/// Some half a millisecond's work of the system.
const POPULATE_BYTES: usize = 512 << 10;
const _: () = assert!(REGION_PAGES_MAX as usize * PAGE_BYTES == 1 << 30);
// A page number needs at most 31 bits: page tables keep a flag in the last one.
const _: () = assert!((REGIONS_MAX as u64) << REGION_SHIFT <= 1 << 31);

/// How large an arena may be and what to ask the kernel for.
#[derive(Clone, Debug)]
pub struct ArenaConfig {
    /// Size of the first region, mapped at start.
    pub first_bytes: u64,
    /// All regions together stay below this.
    pub bytes_max: u64,
    /// What to ask the kernel for.
    pub policy: HugePolicy,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        ArenaConfig { first_bytes: 64 << 20, bytes_max: 1 << 30, policy: HugePolicy::Prefer2M }
    }
}

impl ArenaConfig {
    /// A small arena of ordinary memory, for tests and tools.
    pub fn plain(first_bytes: u64, bytes_max: u64) -> Self {
        ArenaConfig { first_bytes, bytes_max, policy: HugePolicy::Small }
    }
}

/// Why an arena could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The limits contradict each other.
    #[error("arena sizes make no sense: first region {first_bytes} bytes, at most {bytes_max} bytes in all")]
    Sizes {
        /// As configured.
        first_bytes: u64,
        /// As configured.
        bytes_max: u64,
    },
    /// The system gave no memory.
    #[error("no memory for the arena's first region of {bytes} bytes: {reason}")]
    Map {
        /// What was asked for.
        bytes: u64,
        /// The system's answer.
        reason: String,
    },
}

/// There are not that many pages, and no more can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("arena is full: {wanted} pages wanted, {free} free, limit {bytes_max} bytes")]
pub struct ArenaFull {
    /// Pages asked for.
    pub wanted: u32,
    /// Pages free now.
    pub free: u32,
    /// The arena's limit.
    pub bytes_max: u64,
}

/// What the arena got from the system.
#[derive(Clone, Debug)]
pub struct ArenaReport {
    /// Mapped so far.
    pub bytes: u64,
    /// Free now.
    pub bytes_free: u64,
    /// The weakest kind among the regions.
    pub kind: MemoryKind,
    /// Sentences for the operator: where the memory is less than what was asked for.
    pub warnings: Vec<String>,
}

/// One region, for registration with rings and devices.
#[derive(Clone, Copy, Debug)]
pub struct RegionInfo {
    /// Its number; [`crate::Seg::region`] refers to it.
    pub region: u16,
    /// First byte.
    pub base: NonNull<u8>,
    /// Size.
    pub bytes: usize,
    /// What it is made of.
    pub kind: MemoryKind,
}

// SAFETY: an address and numbers; nothing is done with the address here.
unsafe impl Send for RegionInfo {}
// SAFETY: as above.
unsafe impl Sync for RegionInfo {}

struct Region {
    memory: MappedRegion,
    pages: u32,
    /// Each page's own count of readers (see `page_entry`); nought unless a RAM disk has it.
    counts: Box<[AtomicI64]>,
}

/// All memory for I/O of this process. See the module's page.
pub struct Arena {
    regions: Box<[OnceLock<Region>]>,
    mapped: AtomicUsize,
    config: ArenaConfig,
    space: Mutex<Space>,
}

/// Which pages are free: extents by first page, neighbours merged within a region.
#[derive(Default)]
struct Space {
    free: BTreeMap<u32, u32>,
    free_pages: u32,
    mapped_bytes: u64,
    warnings: Vec<String>,
    /// The page of zeroes, and how many have it.
    zeroes: Option<(u32, u32)>,
}

impl Arena {
    /// Maps the first region.
    pub fn new(config: ArenaConfig) -> Result<Arc<Arena>, ArenaError> {
        let page = PAGE_BYTES as u64;
        let region_max = u64::from(REGION_PAGES_MAX) * page;
        if config.first_bytes < page || config.first_bytes > config.bytes_max.min(region_max) {
            return Err(ArenaError::Sizes { first_bytes: config.first_bytes, bytes_max: config.bytes_max });
        }
        let arena = Arena {
            regions: (0..REGIONS_MAX).map(|_| OnceLock::new()).collect(),
            mapped: AtomicUsize::new(0),
            space: Mutex::new(Space::default()),
            config,
        };
        let pages = (arena.config.first_bytes / page) as u32;
        arena
            .grow(&mut arena.lock(), pages)
            .map_err(|reason| ArenaError::Map { bytes: arena.config.first_bytes, reason })?;
        Ok(Arc::new(arena))
    }

    /// Takes `pages` pages, neighbours where possible; maps another region if too few are free.
    pub fn take_pages(self: &Arc<Self>, pages: u32) -> Result<PageSet, ArenaFull> {
        let runs = self.take_in(&mut self.lock(), pages)?;
        Ok(PageSet { arena: self.clone(), runs })
    }

    fn take_in(&self, space: &mut Space, pages: u32) -> Result<Vec<PageRun>, ArenaFull> {
        while space.free_pages < pages {
            let full = ArenaFull { wanted: pages, free: space.free_pages, bytes_max: self.config.bytes_max };
            let room = self.config.bytes_max.saturating_sub(space.mapped_bytes) / PAGE_BYTES as u64;
            let missing = pages - space.free_pages;
            if u64::from(missing) > room {
                return Err(full);
            }
            // An eighth of what there is, and no less than the first: few regions are needed, and little is mapped that
            // nobody asked for. (Reserved huge pages are all present from then on: a tenth of a second for each GiB.)
            let step = (space.mapped_bytes / 8).max(self.config.first_bytes) / PAGE_BYTES as u64;
            let next = step.max(missing.into()).min(room);
            let next = u32::try_from(next).unwrap_or(u32::MAX).min(REGION_PAGES_MAX);
            if let Err(reason) = self.grow(space, next) {
                space.warnings.push(format!("no further region of {next} pages: {reason}"));
                // Less may still be had.
                self.grow(space, missing.min(REGION_PAGES_MAX)).map_err(|_| full)?;
            }
        }
        Ok(space.take(pages))
    }

    /// The page of zeroes that nobody writes: one for all who want it, until the last has given it back.
    pub(crate) fn take_zeroes(&self) -> Result<Seg, ArenaFull> {
        let mut space = self.lock();
        if let Some((page, users)) = &mut space.zeroes {
            *users += 1;
            return Ok(self.seg(*page));
        }
        let page = self.take_in(&mut space, 1)?[0].first;
        // SAFETY: just taken, so nobody else has it; it may hold what its last owner wrote.
        unsafe { self.page(page).as_ptr().write_bytes(0, PAGE_BYTES) };
        space.zeroes = Some((page, 1));
        Ok(self.seg(page))
    }

    /// One of those who have the page of zeroes does not want it any more.
    pub(crate) fn put_zeroes(&self) {
        let mut space = self.lock();
        let (page, users) = space.zeroes.expect("put back once for each time it was taken");
        space.zeroes = (users > 1).then_some((page, users - 1));
        if users == 1 {
            space.give(page, 1);
        }
    }

    /// The address of a page. The page must have been taken from this arena.
    pub(crate) fn page(&self, page: u32) -> NonNull<u8> {
        let region = self.region(page >> REGION_SHIFT);
        let place = page & (REGION_PAGES_MAX - 1);
        assert!(place < region.pages, "page {page:#x} lies outside its region");
        // SAFETY: `place` is below the number of pages in the region (asserted above), so the sum stays inside
        // one mapping.
        unsafe { region.memory.base().add(place as usize * PAGE_BYTES) }
    }

    /// The number of the page that holds `at`, which lies in `region`.
    pub(crate) fn page_of(&self, region: u16, at: NonNull<u8>) -> u32 {
        let base = self.region(u32::from(region)).memory.base().as_ptr() as usize;
        let place = (at.as_ptr() as usize - base) / PAGE_BYTES;
        assert!(place < REGION_PAGES_MAX as usize, "address lies outside its region");
        u32::from(region) << REGION_SHIFT | place as u32
    }

    /// The page's own count of readers.
    pub(crate) fn count(&self, page: u32) -> &AtomicI64 {
        &self.region(page >> REGION_SHIFT).counts[(page & (REGION_PAGES_MAX - 1)) as usize]
    }

    /// A page as the segment of a vector.
    pub(crate) fn seg(&self, page: u32) -> Seg {
        let region = (page >> REGION_SHIFT) as u16;
        Seg { ptr: self.page(page), len: PAGE_BYTES as u32, region, cookie: 0 }
    }

    /// All regions together stay below this.
    pub fn limit_bytes(&self) -> u64 {
        self.config.bytes_max
    }

    /// The regions mapped so far. They only ever become more.
    pub fn regions(&self) -> Vec<RegionInfo> {
        let mapped = self.mapped.load(Ordering::Acquire);
        let info = |n: usize| {
            let r = self.region(n as u32);
            RegionInfo {
                region: n as u16,
                base: r.memory.base(),
                bytes: r.pages as usize * PAGE_BYTES,
                kind: r.memory.kind(),
            }
        };
        (0..mapped).map(info).collect()
    }

    /// What the arena got from the system, and what it did not get.
    pub fn report(&self) -> ArenaReport {
        let regions = self.regions();
        let kind =
            regions.iter().map(|r| r.kind).max_by_key(weakness).expect("the first region is mapped in `new`");
        let space = self.lock();
        ArenaReport {
            bytes: space.mapped_bytes,
            bytes_free: u64::from(space.free_pages) * PAGE_BYTES as u64,
            kind,
            warnings: space.warnings.clone(),
        }
    }

    /// Pages come back one by one: they may have been exchanged since they were taken.
    pub(crate) fn give_back(&self, pages: impl IntoIterator<Item = u32>) {
        let mut space = self.lock();
        for page in pages {
            space.give(page, 1);
        }
    }

    /// Has the system give pages now instead of at their first touch, so that none is found missing in the middle of a
    /// command. Whoever has them may use them meanwhile. The error says what could not be had.
    pub(crate) fn populate(&self, runs: &[PageRun]) -> Result<(), String> {
        for run in runs {
            // A run lies within one region: extents are joined within regions only.
            let region = self.region(run.first >> REGION_SHIFT);
            let start = (run.first & (REGION_PAGES_MAX - 1)) as usize * PAGE_BYTES;
            let end = start + run.pages as usize * PAGE_BYTES;
            // In steps, so that other threads get at the address space in between.
            for step in (start..end).step_by(POPULATE_BYTES) {
                let done = region.memory.populate(step..end.min(step + POPULATE_BYTES));
                done.map_err(|e| format!("{} MiB of a pool are not present yet: {e}", (end - step) >> 20))?;
            }
        }
        Ok(())
    }

    fn region(&self, region: u32) -> &Region {
        self.regions[region as usize].get().expect("page numbers are handed out after their region is mapped")
    }

    fn grow(&self, space: &mut Space, pages: u32) -> Result<(), String> {
        assert!(pages > 0 && pages <= REGION_PAGES_MAX, "a region of {pages} pages");
        let n = self.mapped.load(Ordering::Acquire);
        if n == REGIONS_MAX {
            return Err(format!("there are {REGIONS_MAX} regions already"));
        }
        let bytes = pages as usize * PAGE_BYTES;
        let memory = map_region(bytes, self.config.policy).map_err(|e| e.to_string())?;
        if let Some(short) = shortfall(self.config.policy, memory.kind()) {
            space.warnings.push(format!("region {n} of {} MiB {short}", bytes >> 20));
        }
        let counts = (0..pages).map(|_| AtomicI64::new(0)).collect();
        // The system may have rounded up; the rest stays unused, so that the limit holds.
        assert!(
            self.regions[n].set(Region { memory, pages, counts }).is_ok(),
            "regions are mapped under the lock"
        );
        self.mapped.store(n + 1, Ordering::Release);
        space.mapped_bytes += bytes as u64;
        space.give((n as u32) << REGION_SHIFT, pages);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        // Nothing panics half-way through a change of `Space` but an assertion that ends the process.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weakness(kind: &MemoryKind) -> u8 {
    match kind {
        MemoryKind::Huge1G => 0,
        MemoryKind::Huge2M => 1,
        MemoryKind::Thp => 2,
        MemoryKind::Locked => 3,
        MemoryKind::Unlocked => 4,
    }
}

fn shortfall(policy: HugePolicy, kind: MemoryKind) -> Option<&'static str> {
    match (policy, kind) {
        (HugePolicy::Small, _) => None,
        (_, MemoryKind::Unlocked) => {
            Some("could not be locked: raise the locked-memory limit; no device can use it for DMA")
        }
        (HugePolicy::Prefer1G, MemoryKind::Huge2M | MemoryKind::Thp | MemoryKind::Locked) => {
            Some("has no 1 GiB pages: reserve some, if devices are to reach it with few translations")
        }
        (HugePolicy::Prefer2M, MemoryKind::Thp | MemoryKind::Locked) => {
            Some("has no reserved 2 MiB pages: raise vm.nr_hugepages")
        }
        _ => None,
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("report", &self.report()).finish()
    }
}

impl Space {
    /// The caller made sure that so many are free.
    fn take(&mut self, pages: u32) -> Vec<PageRun> {
        let mut runs = Vec::new();
        if pages == 0 {
            return runs;
        }
        // The first extent that holds all of them; else from the front, piece by piece.
        let fits = self.free.iter().find(|(_, len)| **len >= pages).map(|(first, _)| *first);
        let mut left = pages;
        while left > 0 {
            let first = fits.or_else(|| self.free.keys().next().copied()).expect("enough pages are free");
            let len = self.free.remove(&first).expect("extent was found above");
            let taken = len.min(left);
            if taken < len {
                self.free.insert(first + taken, len - taken);
            }
            runs.push(PageRun { first, pages: taken });
            left -= taken;
        }
        self.free_pages -= pages;
        runs
    }

    fn give(&mut self, first: u32, pages: u32) {
        let same_region = |a: u32, b: u32| a >> REGION_SHIFT == b >> REGION_SHIFT;
        let (mut start, mut len) = (first, pages);
        if let Some((&before, &n)) = self.free.range(..=first).next_back() {
            assert!(before + n <= first, "page {first:#x} was given back twice");
            if before + n == first && same_region(before, first) {
                self.free.remove(&before);
                (start, len) = (before, n + len);
            }
        }
        if let Some((&after, &n)) = self.free.range(first + 1..).next() {
            assert!(first + pages <= after, "page {after:#x} was given back twice");
            if first + pages == after && same_region(first, after) {
                self.free.remove(&after);
                len += n;
            }
        }
        self.free.insert(start, len);
        self.free_pages += pages;
    }
}

/// Neighbouring pages of one region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRun {
    first: u32,
    pub pages: u32,
}

/// Pages taken from an arena. They go back when the set is dropped.
pub struct PageSet {
    arena: Arc<Arena>,
    runs: Vec<PageRun>,
}

impl PageSet {
    /// How many pages.
    pub fn len(&self) -> u32 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    /// Is it the empty set?
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many pieces of neighbouring pages.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Where the pages are, for as long as the arena is there: whoever has them then.
    pub(crate) fn places(&self) -> impl Iterator<Item = PageRun> {
        self.runs.iter().copied()
    }

    /// The pages one by one; from now on the caller has to give them back.
    pub(crate) fn into_pages(mut self) -> impl Iterator<Item = u32> {
        std::mem::take(&mut self.runs).into_iter().flat_map(|r| r.first..r.first + r.pages)
    }
}

impl Drop for PageSet {
    fn drop(&mut self) {
        let mut space = self.arena.lock();
        for run in &self.runs {
            space.give(run.first, run.pages);
        }
    }
}

impl std::fmt::Debug for PageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PageSet").field(&self.runs).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pages_taken_and_given_back_merge_into_one_extent() {
        let arena = Arena::new(ArenaConfig::plain(MIB, MIB)).unwrap();
        let sets: Vec<PageSet> = (0..8).map(|_| arena.take_pages(32).unwrap()).collect();
        assert_eq!(arena.report().bytes_free, 0);
        let (odd, even): (Vec<_>, Vec<_>) = sets.into_iter().enumerate().partition(|(n, _)| n % 2 == 1);
        drop(odd);
        let pieces = arena.take_pages(64).unwrap();
        assert_eq!(pieces.runs(), 2, "only pieces are free, so pieces are given");
        drop(pieces);
        drop(even);
        let whole = arena.take_pages(256).unwrap();
        assert_eq!((whole.runs(), whole.len()), (1, 256));
    }

    #[test]
    fn it_grows_up_to_its_limit_and_says_so_beyond() {
        let arena = Arena::new(ArenaConfig::plain(MIB, 4 * MIB)).unwrap();
        let first = arena.take_pages(256).unwrap();
        let more = arena.take_pages(512).unwrap();
        assert_eq!(arena.report().bytes, 3 * MIB);
        let full = arena.take_pages(257).unwrap_err();
        assert_eq!(full, ArenaFull { wanted: 257, free: 0, bytes_max: 4 * MIB });
        assert_eq!(arena.report().bytes, 3 * MIB, "a refused request maps nothing");
        let last = arena.take_pages(256).unwrap();
        assert_eq!(arena.regions().len(), 3);
        drop((first, more, last));
        assert_eq!(arena.report().bytes_free, 4 * MIB);
    }

    #[test]
    fn an_address_leads_back_to_its_page() {
        let arena = Arena::new(ArenaConfig::plain(MIB, 4 * MIB)).unwrap();
        let set = arena.take_pages(600).unwrap();
        let pages: Vec<u32> = set.into_pages().collect();
        for &page in &pages {
            let at = arena.page(page);
            assert_eq!(at.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!(arena.page_of((page >> REGION_SHIFT) as u16, at), page);
        }
        arena.give_back(pages);
        assert_eq!(arena.report().bytes, arena.report().bytes_free);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_a_page_back_twice_is_noticed() {
        let arena = Arena::new(ArenaConfig::plain(MIB, MIB)).unwrap();
        let pages: Vec<u32> = arena.take_pages(2).unwrap().into_pages().collect();
        arena.give_back(pages.iter().copied());
        arena.give_back(pages);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for (first, max) in [(0, MIB), (2 * MIB, MIB), (2 << 30, 8 << 30)] {
            assert!(matches!(Arena::new(ArenaConfig::plain(first, max)), Err(ArenaError::Sizes { .. })));
        }
    }
}
