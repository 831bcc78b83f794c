//! spindle-net.
