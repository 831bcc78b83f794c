//! Sending: header, payload and padding of many PDUs by one sendmsg.
//!
//! What waits is sent when the turn ends, and before that as soon as it fills a *unit*: the kernel sends segments of
//! up to 64 KiB, each a whole number of MSS (TSO; over loopback one MSS is that large), and what a call brings beyond
//! becomes a segment of its own that costs as much as a full one. So early sends end where a segment does, and the
//! rest goes with what follows. Over loopback this is a third of the cost of small reads.
//!
//! At the end of such a turn the rest waits for the end of the next: the peer has several PDUs to work on, and the answers of
//! one turn more make the rest a full segment, too, where it would have been one of a few hundred bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use spindle_ffi_os::socket::tcp_path;
use spindle_mem::{SgvRef, fetch_page};

use super::EpollNet;
use crate::net::{Body, CloseReason, ConnId, NetEvent};

/// The kernel takes at most 1,024 slices at once (UIO_MAXIOV).
const SLICES_MAX: usize = 1_024;
/// Header bytes kept in place: a BHS with its digest. Longer ones (text, sense) go to the heap; they are rare.
const HEAD_INLINE: usize = 56;
/// A PDU as long as this is large. Nobody has announced its pages: they are fetched while those before them are copied.
const LARGE_BYTES: usize = 16 * 1024;
/// So much is fetched before one send: what the kernel may take at once, and the cache keeps until it does. A queue that a slow
/// peer lets grow is longer, and most of it is not sent by this call.
const FETCH_BYTES_MAX: usize = 256 * 1024;
/// Early sends until the MSS is looked up again: it grows with the peer's window, and paths change.
const LOOK_EVERY: u32 = 64;

/// PDUs of nothing but a header that follow each other, as answers to WRITEs do, lie in one piece of at most so many bytes: the
/// kernel takes one range of memory for less than as many as there are PDUs. It is what one turn takes in of a connection.
const RUN_BYTES: usize = 64 * 52;
/// Pieces of a core that wait to be used again.
const RUNS_SPARE: usize = 16;

/// Memory for such pieces.
#[derive(Default)]
pub(super) struct Runs(Vec<Vec<u8>>);

impl Runs {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(RUN_BYTES))
    }

    fn put(&mut self, mut run: Vec<u8>) {
        if self.0.len() < RUNS_SPARE {
            run.clear();
            self.0.push(run);
        }
    }
}

/// What waits to be sent on one connection.
pub(super) struct SendQueue {
    items: VecDeque<Item>,
    /// Bytes of the first item that are out already.
    sent: usize,
    queued: usize,
    /// Bytes that fill whole segments; not known before much waits.
    unit: usize,
    /// Early sends until it is looked up.
    look_in: u32,
    /// What waits is the rest behind an early send of this turn, by which the peer got several whole PDUs.
    rest: bool,
}

/// The most whole segments that `early` holds, but one at least.
fn unit_of(mss: usize, early: usize) -> usize {
    let mss = mss.max(1);
    (early / mss).max(1) * mss
}

struct Item {
    /// Bytes of all three together.
    len: usize,
    head: Head,
    body: Option<Body>,
    tail: ArrayVec<u8, 8>,
}

enum Head {
    Inline(ArrayVec<u8, HEAD_INLINE>),
    Long(Box<[u8]>),
    /// Those of several PDUs.
    Run(Vec<u8>),
}

impl Head {
    fn bytes(&self) -> &[u8] {
        match self {
            Head::Inline(b) => b,
            Head::Long(b) => b,
            Head::Run(b) => b,
        }
    }
}

/// Slices of one call, as they are put together.
struct Cut<'a, 'b> {
    out: &'b mut ArrayVec<IoSlice<'a>, SLICES_MAX>,
    /// Bytes that are out already.
    skip: usize,
    /// Bytes that may still be added.
    left: usize,
    /// Bytes that may still be fetched, and the page that was fetched last.
    fetch_left: usize,
    fetched: *const u8,
}

impl<'a> Cut<'a, '_> {
    /// `false`: nothing more goes in.
    #[inline]
    fn add(&mut self, part: &'a [u8], is_cold: bool) -> bool {
        if self.skip >= part.len() {
            self.skip -= part.len();
            return true;
        }
        let part = &part[std::mem::take(&mut self.skip)..];
        let part = &part[..part.len().min(self.left)];
        // Holes are one page, time and again.
        if is_cold && self.fetch_left > 0 && part.as_ptr() != self.fetched {
            self.fetched = part.as_ptr();
            self.fetch_left = self.fetch_left.saturating_sub(part.len());
            fetch_page(part);
        }
        self.left -= part.len();
        !part.is_empty() && self.out.try_push(IoSlice::new(part)).is_ok()
    }
}

impl SendQueue {
    pub fn new() -> SendQueue {
        SendQueue { items: VecDeque::new(), sent: 0, queued: 0, unit: usize::MAX, look_in: 0, rest: false }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn queued_bytes(&self) -> u32 {
        u32::try_from(self.queued).unwrap_or(u32::MAX)
    }

    /// What waits is to be joined by the answers to come, for one turn.
    #[inline]
    pub fn is_rest(&self) -> bool {
        self.rest
    }

    /// The turn ends: whether that is so, for the last time.
    #[inline]
    pub fn waits_once_more(&mut self) -> bool {
        std::mem::take(&mut self.rest) && !self.is_empty()
    }

    pub fn take_bodies(&mut self) -> impl Iterator<Item = SgvRef> + '_ {
        self.sent = 0;
        self.queued = 0;
        self.items.drain(..).filter_map(|item| item.body.map(|(sgv, _)| sgv))
    }

    fn push(&mut self, runs: &mut Runs, head: &[u8], body: Option<Body>, tail: &[u8]) {
        if body.is_none() && tail.is_empty() && self.join(runs, head) {
            return;
        }
        let head = match ArrayVec::try_from(head) {
            Ok(inline) => Head::Inline(inline),
            Err(_) => Head::Long(head.into()),
        };
        let mut kept = ArrayVec::new();
        kept.try_extend_from_slice(tail).expect("padding and a data digest are at most 7 bytes");
        let payload = body.as_ref().map_or(0, |(_, range)| range.len());
        let item = Item { len: head.bytes().len() + payload + kept.len(), head, body, tail: kept };
        self.queued += item.len;
        self.items.push_back(item);
    }

    /// A PDU without data joins the one before, if that has none either. Some of that one may be out already: what is left
    /// of the stream stays the same.
    #[inline]
    fn join(&mut self, runs: &mut Runs, head: &[u8]) -> bool {
        let Some(last) = self.items.back_mut().filter(|last| last.body.is_none() && last.tail.is_empty())
        else {
            return false;
        };
        match &mut last.head {
            Head::Run(run) if run.len() + head.len() <= RUN_BYTES => run.extend_from_slice(head),
            Head::Inline(first) if head.len() <= HEAD_INLINE => {
                let mut run = runs.take();
                run.extend_from_slice(first);
                run.extend_from_slice(head);
                last.head = Head::Run(run);
            }
            _ => return false,
        }
        last.len += head.len();
        self.queued += head.len();
        true
    }

    /// Bytes to be sent before the turn ends: whole units, if about `early` bytes wait, and `least` at least.
    #[inline]
    fn worth_sending(&mut self, early: usize, least: usize, mss: impl FnOnce() -> Option<u32>) -> usize {
        if self.queued < self.unit.min(early).max(least) {
            return 0;
        }
        if self.look_in == 0 {
            self.look_in = LOOK_EVERY;
            self.unit = mss().map_or(early, |mss| unit_of(mss as usize, early)).max(1);
        }
        self.look_in -= 1;
        self.queued / self.unit * self.unit
    }

    /// The slices of what is next: at most so many bytes, as many slices as one call takes.
    fn slices<'a>(&'a self, bytes_max: usize, out: &mut ArrayVec<IoSlice<'a>, SLICES_MAX>) {
        let mut cut = Cut {
            out,
            skip: self.sent,
            left: bytes_max,
            fetch_left: FETCH_BYTES_MAX,
            fetched: std::ptr::null(),
        };
        for item in &self.items {
            // Whoever made a digest has just read all of it.
            let is_cold = item.len >= LARGE_BYTES && item.tail.is_empty();
            if !cut.add(item.head.bytes(), false) {
                return;
            }
            if let Some((sgv, range)) = &item.body
                && !sgv.slices(range.clone()).all(|part| cut.add(part, is_cold))
            {
                return;
            }
            if !item.tail.is_empty() && !cut.add(&item.tail, false) {
                return;
            }
        }
    }

    /// `n` more bytes are out: whole items are dropped, their bodies released.
    fn advance(&mut self, mut n: usize, runs: &mut Runs, mut released: impl FnMut(SgvRef)) {
        self.queued -= n;
        n += self.sent;
        while let Some(first) = self.items.front() {
            if n < first.len {
                break;
            }
            n -= first.len;
            match self.items.pop_front() {
                Some(Item { body: Some((sgv, _)), .. }) => released(sgv),
                Some(Item { head: Head::Run(run), .. }) => runs.put(run),
                _ => {}
            }
        }
        self.sent = n;
    }
}

impl EpollNet {
    /// Queues a PDU; sends whole segments early when so much waits that the peer would.
    pub(super) fn queue(&mut self, id: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let early = self.config.early_flush_bytes as usize;
        let large = body.as_ref().is_some_and(|(_, range)| range.len() >= LARGE_BYTES);
        let least = if large { self.config.early_flush_large_bytes as usize } else { 0 };
        self.lone.answered();
        let slot = self.conns.get_mut(id.slot()).filter(|slot| slot.generation == id.0 >> 20);
        let Some(conn) = slot.and_then(|slot| slot.conn.as_mut()) else {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn: id, body });
            }
            return;
        };
        conn.tx.push(&mut self.runs, head, body, tail);
        let first = !std::mem::replace(&mut conn.dirty, true);
        let whole = if conn.blocked {
            0
        } else {
            let fd = &conn.fd;
            conn.tx.worth_sending(early, least, || tcp_path(fd).ok().map(|path| path.mss_bytes))
        };
        if first {
            self.dirty.push(id.slot() as u32);
        }
        if whole > 0 {
            self.send_early(id, whole);
        }
    }

    /// Whole segments before the turn ends.
    fn send_early(&mut self, id: ConnId, bytes: usize) {
        let waiting = |net: &Self| net.conn(id).map_or(0, |conn| conn.tx.items.len());
        let before = waiting(self);
        self.send_some(id.slot(), bytes);
        let left = waiting(self);
        if let Some(conn) = self.conn_mut(id) {
            conn.tx.rest |= before - left > 1;
        }
    }

    /// Sends what a connection has queued, at the end of a turn.
    pub(super) fn flush_slot(&mut self, slot: usize) {
        if let Some(conn) = self.conns[slot].conn.as_mut() {
            conn.dirty = false;
        }
        self.send_some(slot, usize::MAX);
    }

    pub(super) fn send_some(&mut self, slot: usize, mut bytes_max: usize) {
        let id = ConnId((self.conns[slot].generation << 20) | slot as u32);
        loop {
            let Some(conn) = self.conns[slot].conn.as_mut() else { return };
            if conn.blocked || conn.tx.is_empty() || bytes_max == 0 {
                return;
            }
            let mut slices = ArrayVec::new();
            conn.tx.slices(bytes_max, &mut slices);
            let offered: usize = slices.iter().map(|s| s.len()).sum();
            let result = match &slices[..] {
                // A lone header: the kernel need not take a list apart.
                [one] => rustix::net::send(&conn.fd, one, SendFlags::NOSIGNAL),
                many => {
                    let mut nothing = SendAncillaryBuffer::default();
                    rustix::net::sendmsg(&conn.fd, many, &mut nothing, SendFlags::NOSIGNAL)
                }
            };
            drop(slices);
            match result {
                Ok(n) => {
                    bytes_max -= n;
                    let (runs, pending) = (&mut self.runs, &mut self.pending);
                    conn.tx.advance(n, runs, |body| pending.push(NetEvent::Released { conn: id, body }));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(lens: &[usize]) -> (SendQueue, Vec<u8>) {
        let (mut queue, mut all) = (SendQueue::new(), Vec::new());
        for (n, &len) in lens.iter().enumerate() {
            let head: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
            queue.push(&mut Runs::default(), &head, None, &[n as u8; 3]);
            all.extend(&head);
            all.extend([n as u8; 3]);
        }
        (queue, all)
    }

    #[test]
    fn units_are_whole_segments_and_one_at_least() {
        assert_eq!(unit_of(1_448, 65_536), 65_160);
        assert_eq!(unit_of(8_948, 65_536), 62_636);
        assert_eq!(unit_of(65_483, 65_536), 65_483);
        assert_eq!(unit_of(65_483, 1_024), 65_483);
        assert_eq!(unit_of(0, 10), 10);
    }

    #[test]
    fn early_sends_are_whole_units_and_the_mss_is_looked_up_now_and_then() {
        let (mut queue, _) = queued(&[3_000; 3]);
        let mut looks = 0;
        let mut look = |mss| {
            looks += 1;
            Some(mss)
        };
        assert_eq!(queue.worth_sending(4_096, 0, || look(1_448)), 3 * 2_896);
        // A larger MSS counts when it is looked up again.
        for _ in 1..LOOK_EVERY {
            assert_eq!(queue.worth_sending(4_096, 0, || look(4_000)), 3 * 2_896);
        }
        assert_eq!(queue.worth_sending(4_096, 1 << 20, || look(4_000)), 0, "large ones wait for more");
        assert_eq!(queue.worth_sending(4_096, 9_000, || look(4_000)), 8_000);
        queue.advance(8_000, &mut Runs::default(), |_| {});
        assert_eq!(queue.worth_sending(4_096, 0, || look(1)), 0);
        assert_eq!(looks, 2);
    }

    #[test]
    fn any_cut_of_the_queue_gives_the_same_stream() {
        let lens = [48, 1, 500, 56, 57, 3_000, 48];
        for step in [1, 2, 3, 47, 48, 51, 52, 1_000, usize::MAX] {
            let (mut queue, all) = queued(&lens);
            let mut got = Vec::new();
            while !queue.is_empty() {
                let mut slices = ArrayVec::new();
                queue.slices(step, &mut slices);
                let n: usize = slices.iter().map(|s| s.len()).sum();
                assert!(n > 0 && n <= step);
                got.extend(slices.iter().flat_map(|s| s.iter().copied()));
                drop(slices);
                queue.advance(n, &mut Runs::default(), |_| {});
            }
            assert_eq!(got, all, "cut by {step}");
        }
    }

    /// The next `step` bytes, and how many slices they came in.
    fn drained(queue: &mut SendQueue, runs: &mut Runs, step: usize) -> (Vec<u8>, usize) {
        let mut slices = ArrayVec::new();
        queue.slices(step, &mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
        let count = slices.len();
        drop(slices);
        queue.advance(bytes.len(), runs, |_| {});
        (bytes, count)
    }

    #[test]
    fn headers_that_follow_each_other_are_one_slice_and_their_memory_is_used_again() {
        let (mut queue, mut runs) = (SendQueue::new(), Runs::default());
        for round in 0..3u8 {
            let heads: Vec<[u8; 48]> = (0..10).map(|n| [round * 16 + n; 48]).collect();
            heads.iter().for_each(|head| queue.push(&mut runs, head, None, &[]));
            assert_eq!(queue.queued_bytes(), 480);
            assert_eq!(drained(&mut queue, &mut runs, usize::MAX), (heads.concat(), 1));
            assert_eq!((queue.is_empty(), runs.0.len(), runs.0[0].len()), (true, 1, 0));
        }
    }

    #[test]
    fn what_joins_a_header_that_is_partly_out_comes_behind_it() {
        for step in [1, 47, 48, 49, 95, 96, 1_000] {
            let (mut queue, mut runs, mut got, mut all) =
                (SendQueue::new(), Runs::default(), Vec::new(), Vec::new());
            for n in 0..200u8 {
                let head = [n; 52];
                queue.push(&mut runs, &head, None, &[]);
                all.extend(head);
                // A PDU of another kind now and then: longer, or with something behind it.
                match n % 16 {
                    3 => queue.push(&mut runs, &[n; 60], None, &[]),
                    7 => queue.push(&mut runs, &[n; 40], None, &[n; 4]),
                    _ => continue,
                }
                all.extend(vec![n; if n % 16 == 3 { 60 } else { 44 }]);
                got.extend(drained(&mut queue, &mut runs, step).0);
            }
            while !queue.is_empty() {
                got.extend(drained(&mut queue, &mut runs, step).0);
            }
            assert!(got == all, "cut by {step}");
            assert!(runs.0.len() <= RUNS_SPARE && runs.0.iter().all(|run| run.capacity() == RUN_BYTES));
        }
    }
}
