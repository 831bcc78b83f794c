//! Mistakes that can be planted in the engine ([`spindle_reactor::planted`]), and found.

spindle_reactor::planted_bugs! {
    /// A task management function is answered before its tasks have ended.
    EarlyTmfAnswer = "early-tmf-answer",
    /// The status of an aborted command is sent all the same.
    StatusAfterAbort = "status-after-abort",
    /// PERSISTENT RESERVE OUT is answered before all cores know.
    ReservationPublishedLate = "reservation-published-late",
    /// Tasks that wait at a gate are not woken when it opens.
    LostWakeUp = "lost-wake-up",
    /// An aborted write that still waits at a gate is sent to the device afterwards.
    LateWrite = "late-write",
    /// A failed read sends what its buffer holds.
    StaleData = "stale-data",
    /// Those who wait for memory are not told that some came free.
    PoolForgotten = "pool-forgotten",
    /// An ORDERED task starts while older ones still run.
    OrderIgnored = "order-ignored",
    /// A failed write is answered with GOOD.
    WriteErrorHidden = "write-error-hidden",
    /// COMPARE AND WRITE starts before others have left its blocks.
    GateClosedEarly = "gate-closed-early",
    /// SYNCHRONIZE CACHE is answered without a flush.
    FlushSkipped = "flush-skipped",
    /// SYNCHRONIZE CACHE with IMMED is answered, and no flush follows.
    FlushBehindSkipped = "flush-behind-skipped",
    /// A unit is said to be ready to shrink while commands reach beyond its new end.
    ShrunkEarly = "shrunk-early",
    /// A write that was to be durable with its status goes down without FUA.
    FuaForgotten = "fua-forgotten",
    /// A nexus moves to another core without the unit attentions that wait for it.
    AttentionsLeftBehind = "attentions-left-behind",
}
