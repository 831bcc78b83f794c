//! Deterministic simulation: several cores, sessions and faults in one thread, out of one seed.
#![forbid(unsafe_code)]

pub mod disk;
pub mod net;
pub mod trace;
