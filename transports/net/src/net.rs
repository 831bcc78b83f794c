//! The trait and its events.

use std::net::SocketAddr;
use std::ops::Range;

use spindle_mem::{Sgv, SgvPool, SgvRef};
use spindle_reactor::{Tick, WakeSet};

/// A connection of one Net on one core: slot (low 20 bits) and generation (high 12 bits). A stale one is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId(pub u32);

impl ConnId {
    /// Its place in the Net's table; small and dense, fit to index a table beside it.
    #[inline]
    pub const fn slot(self) -> usize {
        (self.0 & 0xF_FFFF) as usize
    }
}

/// A listening address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// Payload of one PDU: a range of a shared vector.
pub type Body = (SgvRef, Range<u32>);

/// Ordered bytes for many connections of one core. Nothing here blocks.
///
/// The receive side of a connection is in one of two states: *staging* (bytes gather where `bytes` shows
/// them) or *landing* (the next bytes of the stream belong to a vector). The owner reads headers out of
/// staging, says where the payload behind them goes, and goes on.
pub trait Net {
    /// A connection as a value that can move to another core, with what was received of it and not read.
    type Socket: Send;

    /// Starts to listen. The address may name port 0; the answer says which was given.
    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError>;

    /// Stops listening. Connections that were accepted stay.
    fn unlisten(&mut self, listener: ListenerId);

    /// Takes a connection over. Its events are reported from now on.
    fn attach(&mut self, socket: Self::Socket, now: Tick) -> Result<ConnId, NetError>;

    /// Gives a connection up for another core to attach: staged bytes travel along and are reported there. Nothing more
    /// is reported for it here. `None`: something of it cannot travel (bytes to be sent, a landing, a vector that was
    /// lent, staging to the brim, an end that is about to be reported), and nothing has changed.
    fn detach(&mut self, _conn: ConnId) -> Option<Self::Socket> {
        None
    }

    /// Reports what happened, bounded by `budget` connections. Level-triggered for `Readable`: a connection
    /// whose staging still grows is reported again.
    fn poll(&mut self, now: Tick, budget: u32, out: &mut Vec<NetEvent<Self::Socket>>) -> u32;

    /// Staged bytes not yet consumed, contiguous. Empty while landing.
    fn bytes(&self, conn: ConnId) -> &[u8];

    /// The first `n` staged bytes have been read.
    fn consume(&mut self, conn: ConnId, n: u32);

    /// Takes in more at once, without waiting for the next `poll`, if the last read left something behind. Returns
    /// whether `bytes` shows more; what else happened is reported by the next `poll`. Not while landing.
    fn read_more(&mut self, conn: ConnId) -> bool;

    /// A look at what was received `at` bytes behind the first of [`Net::bytes`], beyond their end, too, and without the
    /// payload that lies in vectors which were lent: what is likely to be read there. It may turn out differently.
    fn glance(&self, _conn: ConnId, _at: usize) -> &[u8] {
        &[]
    }

    /// How many bytes may be read ahead into staging behind what is there: a small figure (the length of a
    /// header) when large payload is likely to follow, so that it can land without a copy; a large one when
    /// many small PDUs come in a batch.
    fn read_ahead(&mut self, conn: ConnId, bytes_max: u32);

    /// From now on `gap` bytes are expected between one data segment and the next (the tail of one, the header of the
    /// other), and segments of the length of the vectors that were lent: they may be received into these at once,
    /// as far as `read_ahead` bytes reach to the end of the first header. Nought: nothing is expected. A Net may
    /// ignore this.
    fn expect(&mut self, _conn: ConnId, _gap: u32) {}

    /// Lends a vector to receive expected payload into; its length is the length expected. `Some`: not wanted.
    /// `NetEvent::Spare` gives it back when the connection ends.
    fn lend(&mut self, _conn: ConnId, buf: Sgv) -> Option<Sgv> {
        Some(buf)
    }

    /// Takes a vector back that was lent and holds nothing that was received.
    fn take_spare(&mut self, _conn: ConnId) -> Option<Sgv> {
        None
    }

    /// The next `range.len()` bytes of the stream go to `buf[range]`; `Landed` gives the vector back. Bytes
    /// that are staged already are copied (and counted); if they suffice, `Landed` comes from the return value.
    /// If the bytes were received into a vector that was lent, of the same length, room, share and home, that one
    /// comes instead, and `buf` is what is lent from now on.
    fn land(&mut self, conn: ConnId, buf: Sgv, range: Range<u32>) -> Option<Sgv>;

    /// Takes the vector of an unfinished landing back, with how far it was filled (an offset into the vector).
    /// The rest of the stream's bytes will be staged.
    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)>;

    /// The shortest round trip to the peer that was seen, in microseconds, if the layer below knows.
    fn round_trip_us(&self, _conn: ConnId) -> Option<u32> {
        None
    }

    /// Queues `head`, then the body's bytes, then `tail` (padding and digest). `Released` gives the body's share
    /// back. Nothing is sent before `flush` or `send_now`, except when so much is queued that the peer would wait for it.
    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]);

    /// Bytes queued and not yet taken by the layer below.
    fn queued_bytes(&self, conn: ConnId) -> u32;

    /// Sends what is queued for one connection without waiting for `flush`. A Net may ignore this.
    fn send_now(&mut self, _conn: ConnId) {}

    /// Sends what is queued, one system call per connection that has something to say. Where something has left before, a
    /// Net may keep what is behind it for one turn more, and is not armed until then.
    fn flush(&mut self, now: Tick);

    /// Stops reading (`true`) or goes on: back-pressure of a connection whose commands find no room.
    fn pause(&mut self, conn: ConnId, paused: bool);

    /// Ends a connection. `Closed` follows when the last byte is out (`Graceful`, bounded in time) or at once;
    /// bodies and an unfinished landing come back before it.
    fn close(&mut self, conn: ConnId, how: Close);

    /// Names what would wake the core. `false`: something came meanwhile.
    fn arm(&mut self, wake: &mut WakeSet) -> bool;

    /// Bytes of payload copied between staging and vectors so far on this core.
    fn copied_bytes(&self) -> u64;

    /// Gives back vectors of connections that are gone: called when the owner shuts down.
    fn drain(&mut self, pool: &mut SgvPool);
}

/// What happened. Not `Send`: bodies are shared within the core.
#[derive(Debug)]
pub enum NetEvent<S> {
    /// A connection was accepted; `attach` it here or on another core.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// The connection.
        socket: S,
        /// The initiator's address.
        peer: SocketAddr,
        /// The address it connected to.
        local: SocketAddr,
    },
    /// There are staged bytes to read.
    Readable(ConnId),
    /// A landing is complete.
    Landed {
        /// Which connection.
        conn: ConnId,
        /// The vector that was given.
        buf: Sgv,
    },
    /// A vector that was lent for expected payload, of a connection that has ended.
    Spare {
        /// Which connection.
        conn: ConnId,
        /// The vector.
        buf: Sgv,
    },
    /// A body is no longer needed.
    Released {
        /// Which connection.
        conn: ConnId,
        /// The share that was given.
        body: SgvRef,
    },
    /// The connection has ended; nothing more will be reported for it. The identifier is free. An unfinished
    /// landing is reported before it, in the same `poll`, so that nobody takes it for a complete one.
    Closed {
        /// Which connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// How to end a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Send what is queued first, for at most the given time.
    Graceful,
    /// Drop it.
    Abort,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// We closed it.
    Local,
    /// The peer closed its side in order.
    PeerClosed,
    /// Reset, unreachable, keep-alive or send time-out (errno).
    Failed(i32),
}

/// Why listening or taking over failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Os {
        /// Doing what, at which address.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The table of connections is full.
    #[error("no room for another connection (limit {0})")]
    Full(u32),
}
