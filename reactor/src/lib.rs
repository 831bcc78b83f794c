//! spindle-reactor.
