//! spindle-scsi-port.
