//! Hints to the processor: what will be read soon.

// UNSAFETY: the instruction takes any address. It reads and writes nothing that a program could see and cannot fault.
#![allow(unsafe_code)]

/// What processors bring into their caches at a time.
pub(crate) const LINE_BYTES: usize = 64;
/// So many lines at the head of a page, and the processor goes on by itself.
const HEAD_LINES: usize = 4;

/// Brings the line with this address into the cache, or does nothing.
#[inline]
pub(crate) fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// These bytes, of one page, will be copied soon, and other pages before them. A processor sees no further than the page it
/// is in, and the pages of a disk lie anywhere once they have been exchanged, so somebody has to tell it.
#[inline]
pub fn fetch_head(bytes: &[u8]) {
    for line in bytes.chunks(LINE_BYTES).take(HEAD_LINES) {
        fetch(line.as_ptr());
    }
}
