//! Spindle, put together: the only crate that knows everybody.
#![forbid(unsafe_code)]

pub mod control;
