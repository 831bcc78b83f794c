//! Hints to the processor: what will be read or written soon.
//!
//! A processor fetches by itself what lies behind what is being read, but sees no further than the page it is in, and the
//! pages of a disk lie anywhere once they have been exchanged. So somebody has to tell it. How it wants to be told differs
//! from maker to maker; what was measured stands in docs/performance-notes.md.

// UNSAFETY: the instructions take any address. They read and write nothing that a program could see and cannot fault.
#![allow(unsafe_code)]

use std::sync::LazyLock;

use crate::PAGE_BYTES;

/// What processors bring into their caches at a time.
const LINE_BYTES: usize = 64;
/// Hints given before a processor that forgets them waits until it has taken these.
const BURST_LINES: usize = 8;
/// The head of a page: a copy that meets these lines finds the way to the page walked, and the processor sees from them
/// where it goes. More of them only delay what comes next.
const HEAD_BYTES: usize = 8 * LINE_BYTES;

/// What a processor makes of more hints than it has room for lines under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Excess {
    /// They wait for room, and what does not depend on them goes on: all can be given at once.
    Waits,
    /// They are forgotten: they have to be given as they can be taken.
    Forgotten,
}

/// What this one makes of them.
static EXCESS: LazyLock<Excess> = LazyLock::new(|| of_vendor(vendor()));

/// Of the makers that were measured, AMD's forget. Who is not known is told all at once: then nothing is waited for that may
/// not come.
fn of_vendor(vendor: [u8; 12]) -> Excess {
    match &vendor {
        b"AuthenticAMD" | b"HygonGenuine" => Excess::Forgotten,
        _ => Excess::Waits,
    }
}

#[cfg(target_arch = "x86_64")]
fn vendor() -> [u8; 12] {
    let leaf = std::arch::x86_64::__cpuid(0);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    name
}

#[cfg(not(target_arch = "x86_64"))]
fn vendor() -> [u8; 12] {
    [0; 12]
}

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

/// As [`fetch`], not into the smallest cache: for more than it holds beside what is in use.
#[inline]
fn fetch_beside(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Brings so many bytes into the cache, beginning with a line.
#[inline]
pub(crate) fn fetch_lines(from: *const u8, bytes: usize) {
    let lines =
        |from: *const u8, bytes: usize| (0..bytes).step_by(LINE_BYTES).map(move |at| from.wrapping_add(at));
    match *EXCESS {
        Excess::Waits => lines(from, bytes).for_each(fetch_beside),
        Excess::Forgotten => {
            for at in (0..bytes).step_by(BURST_LINES * LINE_BYTES) {
                lines(from.wrapping_add(at), BURST_LINES * LINE_BYTES).for_each(fetch);
                #[cfg(target_arch = "x86_64")]
                // SAFETY: it orders and does nothing else.
                unsafe {
                    std::arch::x86_64::_mm_lfence();
                }
            }
        }
    }
}

/// A page that will be overwritten soon: its head comes into the cache.
#[inline]
pub(crate) fn fetch_head(page: *const u8) {
    for at in (0..HEAD_BYTES).step_by(LINE_BYTES) {
        fetch(page.wrapping_add(at));
    }
}

/// These bytes will be read soon, and others before them. All of the first page is asked for: with its head alone and
/// the rest left to the processor, large reads are slower.
#[inline]
pub fn fetch_page(bytes: &[u8]) {
    fetch_lines(bytes.as_ptr(), bytes.len().min(PAGE_BYTES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_told_apart() {
        assert_eq!(of_vendor(*b"AuthenticAMD"), Excess::Forgotten);
        assert_eq!(of_vendor(*b"GenuineIntel"), Excess::Waits);
        assert_eq!(of_vendor([0; 12]), Excess::Waits);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_maker_of_this_processor_has_a_name() {
        assert!(vendor().iter().all(|c| c.is_ascii_graphic() || *c == b' '), "{:?}", vendor());
    }
}
