//! spindle-iscsi.
