//! Mistakes that can be planted in the transport ([`spindle_reactor::planted`]), and found.

spindle_reactor::planted_bugs! {
    /// The tag of an earlier transfer is taken for the one that holds its row now.
    StaleTtt = "stale-ttt",
    /// A connection stops reading while one of its commands waits for memory.
    ReaderStops = "reader-stops",
    /// Data that nobody wants is not looked for where it was received ahead.
    AheadUnseen = "ahead-unseen",
    /// A task management response overtakes the statuses it should follow.
    TmfOvertakes = "tmf-overtakes",
}
