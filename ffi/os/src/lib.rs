//! spindle-ffi-os.
