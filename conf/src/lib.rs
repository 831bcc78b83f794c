//! spindle-conf.
