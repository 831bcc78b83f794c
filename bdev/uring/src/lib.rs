//! spindle-bdev-uring.
