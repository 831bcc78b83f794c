//! spindle-scsi-spec.
