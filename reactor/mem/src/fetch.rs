//! Hints to the processor: what will be read soon.

// UNSAFETY: the instruction takes any address. It reads and writes nothing that a program could see and cannot fault.
#![allow(unsafe_code)]

use crate::PAGE_BYTES;

/// What processors bring into their caches at a time.
const LINE_BYTES: usize = 64;
/// Hints given before the processor waits until it has taken them.
const BURST_LINES: usize = 8;

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

/// Brings so many bytes into the cache, beginning with a line, not faster than they can come: a processor forgets hints
/// when it has more of them than room for lines under way, and a page of 4 KiB is more.
#[inline]
pub(crate) fn fetch_lines(from: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(BURST_LINES * LINE_BYTES) {
        for line in 0..BURST_LINES {
            fetch(from.wrapping_add(at + line * LINE_BYTES));
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it orders and does nothing else.
        unsafe {
            std::arch::x86_64::_mm_lfence();
        }
    }
}

/// These bytes will be read soon, and others before them. A processor sees no further than the page it
/// is in, and the pages of a disk lie anywhere once they have been exchanged, so somebody has to tell it. All of the first
/// page is asked for: with its head alone and the rest left to the processor, large reads are slower.
#[inline]
pub fn fetch_page(bytes: &[u8]) {
    fetch_lines(bytes.as_ptr(), bytes.len().min(PAGE_BYTES));
}
