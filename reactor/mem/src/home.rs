//! What vectors know of the pool that made them: where to go when they are put on another core, or dropped.
//!
//! The return line is a stack through the vectors' own headers: putting is one compare-and-swap, the home
//! takes all of it with one swap. So it needs no memory, cannot be full, and has no ABA problem. When the pool
//! goes, a mark in its place tells late comers to end themselves.

// UNSAFETY: vectors in the line are named by raw pointers between `into_raw` and `from_raw`.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use spindle_reactor::CoreId;

use crate::arena::Arena;
use crate::lend::LenderId;
use crate::page_table::PageTable;
use crate::sgv::{Seg, Sgv, SgvHeader};

pub(crate) struct Home {
    core: CoreId,
    arena: Arc<Arena>,
    line: AtomicPtr<SgvHeader>,
    lost: AtomicU64,
    /// Lenders whose vectors are still out, once the pool is gone.
    lenders: OnceLock<Vec<Option<Arc<PageTable>>>>,
}

impl Home {
    pub(crate) fn new(core: CoreId, arena: Arc<Arena>) -> Arc<Home> {
        let line = AtomicPtr::new(ptr::null_mut());
        Arc::new(Home { core, arena, line, lost: AtomicU64::new(0), lenders: OnceLock::new() })
    }

    pub(crate) fn core(&self) -> CoreId {
        self.core
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Vectors that were dropped instead of put.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Sends a vector home, from any core. `false`: home is gone, and so is the vector.
    pub(crate) fn send(&self, mut sgv: Sgv) -> bool {
        // Acquire: whoever finds the line closed needs the lenders that were written down before.
        let mut head = self.line.load(Ordering::Acquire);
        loop {
            if head == closed() {
                sgv.free();
                return false;
            }
            sgv.header_mut().next = head;
            let raw = sgv.into_raw();
            // Release: the home must see what the last holder did to the header and to the pages.
            match self.line.compare_exchange_weak(head, raw.as_ptr(), Ordering::Release, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => {
                    head = now;
                    // SAFETY: given up three lines above and not published.
                    sgv = unsafe { Sgv::from_raw(raw) };
                }
            }
        }
    }

    /// As [`Home::send`], for a vector that was dropped. `true`: that was a mistake, now counted.
    pub(crate) fn send_lost(&self, sgv: Sgv) -> bool {
        let lost = self.send(sgv);
        if lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        lost
    }

    /// All that came home since the last call. Called by the pool only.
    pub(crate) fn returned(&self) -> Returned {
        if self.line.load(Ordering::Relaxed).is_null() {
            return Returned { next: ptr::null_mut() };
        }
        Returned { next: self.line.swap(ptr::null_mut(), Ordering::Acquire) }
    }

    /// The pool goes: from now on vectors end where they are, and lent ones find their lender here.
    pub(crate) fn close(&self, lenders: Vec<Option<Arc<PageTable>>>) -> Returned {
        assert!(self.lenders.set(lenders).is_ok(), "a pool goes once");
        let next = self.line.swap(closed(), Ordering::AcqRel);
        Returned { next }
    }

    /// Pages of an own vector that ends.
    pub(crate) fn give_back(&self, segs: &[Seg]) {
        self.arena.give_back(segs.iter().map(|s| self.arena.page_of(s.region, s.ptr)));
    }

    /// Pages of a lent vector that ends.
    pub(crate) fn release(&self, lender: LenderId, segs: &[Seg]) {
        if !segs.is_empty() {
            let lenders = self.lenders.get().expect("vectors end only after their pool");
            let lender = lenders[usize::from(lender.0)].as_ref();
            lender.expect("lenders stay while they lend").release(segs);
        }
    }
}

/// Vectors that came home.
pub(crate) struct Returned {
    next: *mut SgvHeader,
}

impl Iterator for Returned {
    type Item = Sgv;

    fn next(&mut self) -> Option<Sgv> {
        let raw = NonNull::new(self.next)?;
        // SAFETY: it was given up into the line by `send` and taken out of it by one swap.
        let sgv = unsafe { Sgv::from_raw(raw) };
        self.next = sgv.header().next;
        Some(sgv)
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        self.for_each(Sgv::free);
    }
}

/// Stands in the line of a home whose pool is gone. Never dereferenced, and never the address of a header.
fn closed() -> *mut SgvHeader {
    ptr::without_provenance_mut(usize::MAX)
}
