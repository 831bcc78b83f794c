//! spindle-scsi.
