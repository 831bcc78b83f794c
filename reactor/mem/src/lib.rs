//! spindle-mem.
