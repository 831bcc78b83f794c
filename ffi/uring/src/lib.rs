//! io_uring with a safe face.
//!
//! A [`Ring`] owns everything the kernel may touch: the files it works on, and the *payload* of each operation
//! until its completion has been seen. A payload is any value that can show its memory as slices; it moves into a
//! slot of the ring's fixed table, stays there unmoved and untouched, and comes back with the result. So no
//! caller can free or reuse memory that the kernel may still write, and none needs `unsafe`.
//!
//! One ring serves one thread. Submissions gather until [`Ring::kick`], which is one system call (those of eager files are
//! told earlier while the kernel has little to do);
//! completions are taken by [`Ring::reap`], which looks into shared memory first and enters the kernel only when
//! it must. The ring's descriptor becomes readable when completions wait, so that a core can sleep on it.

mod ring;

pub use ring::{FileSlot, Op, Payload, Ring, RingError, Token, available};
