//! Sending: header, payload and padding of many PDUs by one sendmsg.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use spindle_mem::SgvRef;

use super::EpollNet;
use crate::net::{Body, CloseReason, ConnId, NetEvent};

/// The kernel takes at most 1,024 slices at once (UIO_MAXIOV).
const SLICES_MAX: usize = 1_024;
/// Header bytes kept in place: a BHS with its digest. Longer ones (text, sense) go to the heap; they are rare.
const HEAD_INLINE: usize = 56;

/// What waits to be sent on one connection.
pub(super) struct SendQueue {
    items: VecDeque<Item>,
    /// Bytes of the first item that are out already.
    sent: usize,
    queued: usize,
}

struct Item {
    head: Head,
    body: Option<Body>,
    tail: ArrayVec<u8, 8>,
}

enum Head {
    Inline(ArrayVec<u8, HEAD_INLINE>),
    Long(Box<[u8]>),
}

impl Head {
    fn bytes(&self) -> &[u8] {
        match self {
            Head::Inline(b) => b,
            Head::Long(b) => b,
        }
    }
}

impl Item {
    fn len(&self) -> usize {
        let body = self.body.as_ref().map_or(0, |(_, r)| (r.end - r.start) as usize);
        self.head.bytes().len() + body + self.tail.len()
    }
}

impl SendQueue {
    pub fn new() -> SendQueue {
        SendQueue { items: VecDeque::new(), sent: 0, queued: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn queued_bytes(&self) -> u32 {
        u32::try_from(self.queued).unwrap_or(u32::MAX)
    }

    pub fn take_bodies(&mut self) -> impl Iterator<Item = SgvRef> + '_ {
        self.sent = 0;
        self.queued = 0;
        self.items.drain(..).filter_map(|item| item.body.map(|(sgv, _)| sgv))
    }

    fn push(&mut self, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let head = match ArrayVec::try_from(head) {
            Ok(inline) => Head::Inline(inline),
            Err(_) => Head::Long(head.into()),
        };
        let mut kept = ArrayVec::new();
        kept.try_extend_from_slice(tail).expect("padding and a data digest are at most 7 bytes");
        let item = Item { head, body, tail: kept };
        self.queued += item.len();
        self.items.push_back(item);
    }

    /// The slices of what is next, as many as one call takes.
    fn slices<'a>(&'a self, out: &mut ArrayVec<IoSlice<'a>, SLICES_MAX>) {
        let mut skip = self.sent;
        for item in &self.items {
            let body = item.body.as_ref().map(|(sgv, range)| sgv.slices(range.clone()));
            let parts = std::iter::once(item.head.bytes())
                .chain(body.into_iter().flatten())
                .chain(std::iter::once(item.tail.as_slice()));
            for part in parts {
                if skip >= part.len() {
                    skip -= part.len();
                    continue;
                }
                if out.try_push(IoSlice::new(&part[skip..])).is_err() {
                    return;
                }
                skip = 0;
            }
        }
    }

    /// `n` more bytes are out: whole items are dropped, their bodies released.
    fn advance(&mut self, mut n: usize, mut released: impl FnMut(SgvRef)) {
        self.queued -= n;
        n += self.sent;
        while let Some(first) = self.items.front() {
            let len = first.len();
            if n < len {
                break;
            }
            n -= len;
            if let Some(Item { body: Some((sgv, _)), .. }) = self.items.pop_front() {
                released(sgv);
            }
        }
        self.sent = n;
    }
}

impl EpollNet {
    /// Queues a PDU; sends early when so much waits that the peer would.
    pub(super) fn queue(&mut self, id: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let early = self.config.early_flush_bytes as usize;
        let Some(conn) = self.conn_mut(id) else {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn: id, body });
            }
            return;
        };
        conn.tx.push(head, body, tail);
        let first = !std::mem::replace(&mut conn.dirty, true);
        let full = conn.tx.queued >= early && !conn.blocked;
        if first {
            self.dirty.push(id.slot() as u32);
        }
        if full {
            self.send_some(id.slot());
        }
    }

    /// Sends what a connection has queued, at the end of a turn.
    pub(super) fn send_now(&mut self, slot: usize) {
        if let Some(conn) = self.conns[slot].conn.as_mut() {
            conn.dirty = false;
        }
        self.send_some(slot);
    }

    fn send_some(&mut self, slot: usize) {
        let id = ConnId((self.conns[slot].generation << 20) | slot as u32);
        loop {
            let Some(conn) = self.conns[slot].conn.as_mut() else { return };
            if conn.blocked || conn.tx.is_empty() {
                return;
            }
            let mut slices = ArrayVec::new();
            conn.tx.slices(&mut slices);
            let offered: usize = slices.iter().map(|s| s.len()).sum();
            let result = rustix::net::sendmsg(
                &conn.fd,
                &slices,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            );
            drop(slices);
            match result {
                Ok(n) => {
                    let pending = &mut self.pending;
                    conn.tx.advance(n, |body| pending.push(NetEvent::Released { conn: id, body }));
                    if n < offered {
                        // The kernel's buffer is full; it will say when there is room again.
                        conn.blocked = true;
                        Self::interest(&self.epoll, id, conn);
                        return;
                    }
                }
                Err(Errno::AGAIN) => {
                    conn.blocked = true;
                    Self::interest(&self.epoll, id, conn);
                    return;
                }
                Err(Errno::INTR) => {}
                Err(e) => {
                    self.end(id, CloseReason::Failed(e.raw_os_error()));
                    return;
                }
            }
        }
    }
}
