//! spindle-bdev.
