//! Shares of one vector within one connection: several PDUs in flight, retransmission, SNACK.

// UNSAFETY: several shares name one header. The count makes it sound: shares only read, and only the last one
// turns back into an owner.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use crate::sgv::Sgv;

/// A counted share of an [`Sgv`]. The count is a plain number in the vector's header, so a share stays on its
/// thread; the last one to be released gives the vector up. While shared it can only be read.
pub struct SgvRef {
    // Never dropped through this field: all shares name the same vector.
    sgv: ManuallyDrop<Sgv>,
    // Not `Send`: the count is not atomic.
    here: PhantomData<*const ()>,
}

impl SgvRef {
    /// The first share.
    #[inline]
    pub fn new(sgv: Sgv) -> SgvRef {
        sgv.header().refs.set(1);
        SgvRef { sgv: ManuallyDrop::new(sgv), here: PhantomData }
    }

    /// How many shares there are.
    pub fn shares(&self) -> u32 {
        self.sgv.header().refs.get()
    }

    /// Gives this share up; the vector comes back if it was the last.
    #[inline]
    #[must_use = "the last share gives the vector up: put it into the pool"]
    pub fn release(self) -> Option<Sgv> {
        let mut share = ManuallyDrop::new(self);
        share.give_up()
    }

    #[inline]
    fn give_up(&mut self) -> Option<Sgv> {
        let refs = &self.sgv.header().refs;
        refs.set(refs.get() - 1);
        // SAFETY: this was the last share, and neither `release` nor `drop` uses its name again.
        (refs.get() == 0).then(|| unsafe { ManuallyDrop::take(&mut self.sgv) })
    }
}

impl Clone for SgvRef {
    #[inline]
    fn clone(&self) -> SgvRef {
        let refs = &self.sgv.header().refs;
        refs.set(refs.get().checked_add(1).expect("shares are bounded by the PDUs of one connection"));
        // SAFETY: a second name of the same header, never dropped as an `Sgv` (`ManuallyDrop`); all names only read
        // until the last share is taken back as the owner.
        let again = unsafe { std::ptr::read(&self.sgv) };
        SgvRef { sgv: again, here: PhantomData }
    }
}

impl Deref for SgvRef {
    type Target = Sgv;
    #[inline]
    fn deref(&self) -> &Sgv {
        &self.sgv
    }
}

impl Drop for SgvRef {
    /// The last share, dropped instead of released, drops the vector: a mistake, treated as [`Sgv`]'s own.
    fn drop(&mut self) {
        drop(self.give_up());
    }
}

impl std::fmt::Debug for SgvRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} shared by {}", &*self.sgv, self.shares())
    }
}
