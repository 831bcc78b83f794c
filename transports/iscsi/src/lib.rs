//! The iSCSI target engine (RFC 7143) over whatever carries ordered bytes.
#![forbid(unsafe_code)]

pub mod chap;
pub mod config;
pub mod digest;
pub mod discovery;
pub mod login;
pub mod negotiate;
