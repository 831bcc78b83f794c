//! Deterministic simulation: several cores, sessions and faults in one thread, out of one seed.
#![forbid(unsafe_code)]

pub mod actor;
pub mod cdb;
pub mod counters;
pub mod disk;
pub mod judge;
pub mod net;
pub mod oracle;
pub mod pattern;
pub mod plan;
#[cfg(feature = "planted")]
pub mod planted;
pub mod trace;
pub mod world;
