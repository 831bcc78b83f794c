//! Mistakes that can be planted in memory for I/O ([`spindle_reactor::planted`]), and found.

spindle_reactor::planted_bugs! {
    /// A pool takes a vector back twice.
    DoublePut = "double-put",
}
