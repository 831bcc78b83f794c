//! What is judged, and by which memory.

pub mod blocks;
pub mod reserve;

/// A point in the order of everything that initiators sent and saw. Greater is later.
pub type Moment = u64;
