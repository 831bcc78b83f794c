//! Memory for I/O: mapped regions, huge pages where granted, shareable by descriptor.
//!
//! A region is a `memfd`, so that it can be handed to another process or registered with a device by
//! descriptor. Its size is sealed: no holder of the descriptor can shrink it under our feet (which would turn
//! a memory access into SIGBUS). It is kept out of core dumps, since it holds the data of initiators.

// UNSAFETY: mapping and unmapping memory is unsafe by nature: the compiler does not know of it. This module
// makes each mapping an owned value, hands out its base and length only, and unmaps once, in `Drop`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{
    Advice, MapFlags, MlockFlags, ProtFlags, madvise, mlock_with, mmap, mmap_anonymous, munmap,
};

const KIB_4: usize = 4 << 10;
const MIB_2: usize = 2 << 20;
const GIB_1: usize = 1 << 30;

/// What to ask of the system, best first; what was granted is [`MappedRegion::kind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HugePolicy {
    /// Reserved 1 GiB pages if the length is a multiple of 1 GiB, then as [`HugePolicy::Prefer2M`].
    Prefer1G,
    /// Reserved 2 MiB pages, then ordinary pages with an advice to use transparent huge pages.
    #[default]
    Prefer2M,
    /// No reserved pages: leave them to others on this host.
    Transparent,
    /// Ordinary pages without locking: for tests and tools.
    Small,
}

/// What a region is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Reserved 1 GiB pages, present and never swapped.
    Huge1G,
    /// Reserved 2 MiB pages, present and never swapped.
    Huge2M,
    /// Ordinary pages, locked from their first touch on, on a system that makes huge pages of them where it can.
    Thp,
    /// Ordinary pages, locked from their first touch on.
    Locked,
    /// Ordinary pages that could not be locked: fine for sockets and files, not for DMA.
    Unlocked,
}

impl MemoryKind {
    /// Once touched, present in memory for good, as a device that reads or writes it by itself requires.
    pub const fn is_pinned(self) -> bool {
        !matches!(self, MemoryKind::Unlocked)
    }

    /// The page size that can be counted on.
    pub const fn page_bytes(self) -> usize {
        match self {
            MemoryKind::Huge1G => GIB_1,
            MemoryKind::Huge2M => MIB_2,
            MemoryKind::Thp | MemoryKind::Locked | MemoryKind::Unlocked => KIB_4,
        }
    }
}

/// An owned mapping: readable, writable, shared, filled with nought when made, aligned to at least 2 MiB.
/// Dropping it unmaps it, so its owner must know that nobody uses the memory any more.
#[derive(Debug)]
pub struct MappedRegion {
    base: NonNull<u8>,
    len: usize,
    kind: MemoryKind,
    fd: OwnedFd,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this value never dereferences its pointer.
unsafe impl Send for MappedRegion {}
// SAFETY: `&MappedRegion` gives out numbers and a pointer; whoever dereferences it makes their own proof.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// First byte; valid for [`MappedRegion::len`] bytes while this value lives.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes: what was asked for, rounded up to the page size of the kind.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Has the system give the pages of `range` now instead of at their first touch; they stay. An error says that it
    /// cannot. Whole pages; does nothing where they are present, or on a system that does not know how (Linux before 5.14).
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        match advise(self, range, Advice::LinuxPopulateWrite) {
            // There we touch at first use, as everybody did.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// What the system granted.
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }
}

impl AsFd for MappedRegion {
    /// The memory as a file of exactly [`MappedRegion::len`] bytes, for whoever is to share it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: `base..base + len` is the mapping made by `map_region`, whole, and unmapped here only. That
        // nobody uses it any more is the owner's promise, as the type says.
        let done = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(done.is_ok(), "unmapping what was mapped: {done:?}");
    }
}

/// Maps `len` bytes (more than nought; rounded up) of the best memory the policy and the system allow. Ordinary pages
/// come into being as they are touched, and stay from then on: a region of any size is mapped in no time.
pub fn map_region(len: usize, policy: HugePolicy) -> io::Result<MappedRegion> {
    if len == 0 || len > isize::MAX as usize - GIB_1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot map a region of {len} bytes"),
        ));
    }
    if policy == HugePolicy::Prefer1G
        && len.is_multiple_of(GIB_1)
        && let Ok(region) = map_reserved(len, MemoryKind::Huge1G)
    {
        return Ok(region);
    }
    if matches!(policy, HugePolicy::Prefer1G | HugePolicy::Prefer2M)
        && let Ok(region) = map_reserved(len, MemoryKind::Huge2M)
    {
        return Ok(region);
    }
    map_ordinary(len, policy)
}

/// Pages the administrator set aside (`vm.nr_hugepages`). All are made present here: without that, a control
/// group's limit would show as SIGBUS at the first touch instead of as an error.
fn map_reserved(len: usize, kind: MemoryKind) -> io::Result<MappedRegion> {
    let size = if kind == MemoryKind::Huge1G { MemfdFlags::HUGE_1GB } else { MemfdFlags::HUGE_2MB };
    let len = len.next_multiple_of(kind.page_bytes());
    let fd = sealed_memfd(len, MemfdFlags::HUGETLB | size)?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: no address is asked for, so the kernel picks a free range: no existing memory is replaced.
    let base = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }?;
    let region = MappedRegion { base: non_null(base), len, kind, fd };
    region.populate(0..region.len)?;
    keep_out_of_dumps(&region);
    Ok(region)
}

fn map_ordinary(len: usize, policy: HugePolicy) -> io::Result<MappedRegion> {
    let len = len.next_multiple_of(KIB_4);
    let fd = sealed_memfd(len, MemfdFlags::empty())?;
    let base = map_aligned(len, &fd)?;
    let mut region = MappedRegion { base, len, kind: MemoryKind::Unlocked, fd };
    keep_out_of_dumps(&region);
    if policy == HugePolicy::Small {
        return Ok(region);
    }
    let huge = shared_memory_may_be_huge() && advise(&region, 0..region.len, Advice::LinuxHugepage).is_ok();
    // SAFETY: the range is a live mapping of ours; locking changes nothing a pointer can see.
    let locked = unsafe { mlock_with(region.base.as_ptr().cast(), region.len, MlockFlags::ONFAULT) };
    if locked.is_ok() {
        region.kind = if huge { MemoryKind::Thp } else { MemoryKind::Locked };
    }
    Ok(region)
}

fn sealed_memfd(len: usize, flags: MemfdFlags) -> io::Result<OwnedFd> {
    let fd = memfd_create("spindle", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
    ftruncate(&fd, len as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Maps `fd` at an address that is a multiple of 2 MiB, so that huge pages can be formed from the first byte.
fn map_aligned(len: usize, fd: &OwnedFd) -> io::Result<NonNull<u8>> {
    let room = len + MIB_2;
    // SAFETY: no address is asked for; this only reserves a free range, without access.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE) }?;
    let lead = start.cast::<u8>().align_offset(MIB_2);
    assert!(lead < MIB_2, "an address of byte granularity can always be aligned");
    let base = start.cast::<u8>().wrapping_add(lead);
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: `base..base + len` lies inside the range reserved above, which holds no object.
    let mapped = unsafe { mmap(base.cast(), len, prot, MapFlags::SHARED | MapFlags::FIXED, fd, 0) };
    let (head, tail) = (lead, room - lead - len);
    if let Err(e) = mapped {
        // SAFETY: the reservation is ours and holds no object.
        let _ = unsafe { munmap(start, room) };
        return Err(e.into());
    }
    if head > 0 {
        // SAFETY: the part of our reservation before the mapping; holds no object.
        let _ = unsafe { munmap(start, head) };
    }
    if tail > 0 {
        // SAFETY: the part of our reservation behind the mapping; holds no object.
        let _ = unsafe { munmap(base.wrapping_add(len).cast(), tail) };
    }
    Ok(non_null(base.cast()))
}

/// A core dump of a target would otherwise be as large as its memory and full of other people's data.
fn keep_out_of_dumps(region: &MappedRegion) {
    let _ = advise(region, 0..region.len, Advice::LinuxDontDump);
}

fn advise(region: &MappedRegion, range: Range<usize>, advice: Advice) -> io::Result<()> {
    assert!(range.start <= range.end && range.end <= region.len, "{range:?} of {} bytes", region.len);
    let base = region.base.as_ptr().wrapping_add(range.start);
    // SAFETY: the range lies in a live mapping of ours (asserted), and the advices used here keep its contents.
    unsafe { madvise(base.cast(), range.len(), advice) }.map_err(Into::into)
}

fn non_null(base: *mut c_void) -> NonNull<u8> {
    NonNull::new(base.cast()).expect("the kernel never maps the page at address nought unasked")
}

/// Whether the kernel forms huge pages in shared memory when advised to; the default of most systems is no.
fn shared_memory_may_be_huge() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").is_ok_and(|modes| {
        ["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|m| modes.contains(m))
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    fn bytes_of(region: &mut MappedRegion) -> &mut [u8] {
        // SAFETY: the region is live for the borrow, initialised by the kernel, and nobody else maps it here.
        unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), region.len()) }
    }

    #[test]
    fn every_policy_gives_zeroed_writable_aligned_memory_of_the_length_asked_for() {
        for policy in [HugePolicy::Prefer1G, HugePolicy::Prefer2M, HugePolicy::Transparent, HugePolicy::Small]
        {
            let mut region = map_region(5 * MIB_2 + 1, policy).unwrap();
            assert!(region.len() > 5 * MIB_2 && region.len().is_multiple_of(KIB_4));
            assert_eq!(region.base().as_ptr() as usize % MIB_2, 0, "{policy:?}");
            let bytes = bytes_of(&mut region);
            assert!(bytes.iter().all(|&b| b == 0));
            bytes[0] = 1;
            *bytes.last_mut().unwrap() = 2;
            assert_eq!(fstat(region.as_fd()).unwrap().st_size as usize, region.len());
        }
    }

    #[test]
    fn ordinary_pages_come_into_being_when_touched_or_asked_for() {
        for policy in [HugePolicy::Transparent, HugePolicy::Small] {
            let mut region = map_region(4 * MIB_2, policy).unwrap();
            let present = |region: &MappedRegion| fstat(region.as_fd()).unwrap().st_blocks as usize * 512;
            assert_eq!(present(&region), 0, "{policy:?}");
            bytes_of(&mut region)[MIB_2] = 1;
            assert!((1..=MIB_2).contains(&present(&region)), "{policy:?}");
            region.populate(2 * MIB_2..4 * MIB_2).unwrap();
            assert!((2 * MIB_2..=3 * MIB_2).contains(&present(&region)), "{policy:?}");
        }
    }

    #[test]
    fn a_dropped_region_is_no_longer_mapped() {
        let region = map_region(MIB_2, HugePolicy::Small).unwrap();
        // By inode: other tests map at the same time and may be given the same addresses.
        let inode = fstat(region.as_fd()).unwrap().st_ino.to_string();
        let listed = || {
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().any(|l| l.contains("memfd:spindle") && l.split_whitespace().nth(4) == Some(&inode))
        };
        assert!(listed());
        drop(region);
        assert!(!listed());
    }

    #[test]
    fn a_holder_of_the_descriptor_cannot_shrink_the_region() {
        let region = map_region(MIB_2, HugePolicy::Small).unwrap();
        let refused = ftruncate(region.as_fd(), 0).unwrap_err();
        assert_eq!(refused.raw_os_error(), libc::EPERM);
    }

    #[test]
    fn a_second_mapping_of_the_descriptor_sees_the_same_bytes() {
        let mut region = map_region(MIB_2, HugePolicy::Prefer2M).unwrap();
        bytes_of(&mut region)[4096] = 0xA5;
        let again = map_aligned(region.len(), &region.fd.try_clone().unwrap()).unwrap();
        // SAFETY: a live mapping of the same file, at least one page long; unmapped below.
        assert_eq!(unsafe { again.as_ptr().add(4096).read() }, 0xA5);
        // SAFETY: mapped above, not used any more.
        unsafe { munmap(again.as_ptr().cast(), region.len()) }.unwrap();
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for len in [0, usize::MAX, isize::MAX as usize] {
            assert_eq!(map_region(len, HugePolicy::Small).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(map_region(1 << 50, HugePolicy::Small).is_err());
    }
}
