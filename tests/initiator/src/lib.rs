//! spindle-initiator.
