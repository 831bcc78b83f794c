//! spindle-scsi.

pub mod reserve;
