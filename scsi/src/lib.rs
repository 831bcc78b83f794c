//! spindle-scsi.

pub mod config;
pub mod device_server;
pub mod reserve;
