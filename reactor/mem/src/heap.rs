//! Regions from the heap, where there is no system to map them: under Miri.

// UNSAFETY: allocates and frees raw memory; the safe face is a value that owns it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

use spindle_ffi_os::{HugePolicy, MemoryKind};

/// As the crate for Linux has it.
pub(crate) struct MappedRegion {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an address range owned by the value; access to the bytes is ruled by who took the pages.
unsafe impl Send for MappedRegion {}
// SAFETY: as above.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn kind(&self) -> MemoryKind {
        MemoryKind::Unlocked
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: allocated below with this layout, freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

pub(crate) fn map_region(bytes: usize, _policy: HugePolicy) -> io::Result<MappedRegion> {
    let layout = Layout::from_size_align(bytes, crate::PAGE_BYTES).map_err(io::Error::other)?;
    // SAFETY: the arena asserts that a region has pages.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) });
    base.map(|base| MappedRegion { base, layout }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
