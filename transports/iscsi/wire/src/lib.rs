//! spindle-iscsi-wire.
