//! spindle-ffi-uring.
