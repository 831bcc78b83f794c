//! What a connection has to send: slots written in place, gathered into one call.
//!
//! Everything sendable lives in one allocation: header slots, *wide* slots (a header with its data behind it,
//! filled in advance, so that a batch of small writes is one contiguous run and nothing is copied), tails (padding
//! and digests) and the data itself. The queue holds ranges of it; neighbours join, so that thirty-two reads or
//! fifteen 4 KiB writes are one range. Slots are given out in a row and all come back when the queue runs empty.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

use arrayvec::ArrayVec;
use spindle_iscsi_wire::BHS_LEN;

/// Ranges in one call.
const RANGES_MAX: usize = 128;
/// Wide slots together: a send of about this length is long enough to cost little, and short enough to stay in
/// the cache and let the peer begin.
const WIDE_BYTES: usize = 64 * 1024;
/// Header slots.
const HEADS: usize = 1024;
const TAIL_LEN: usize = 8;

#[derive(Clone, Copy, Default)]
struct Area {
    base: usize,
    stride: usize,
    count: usize,
    used: usize,
}

impl Area {
    fn new(base: usize, stride: usize, count: usize) -> Self {
        Self { base, stride, count, used: 0 }
    }

    fn end(&self) -> usize {
        self.base + self.stride * self.count
    }

    fn has_room(&self) -> bool {
        self.used < self.count
    }

    fn take(&mut self) -> usize {
        debug_assert!(self.has_room());
        self.used += 1;
        self.base + (self.used - 1) * self.stride
    }
}

/// How much to set aside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Bytes behind a header that are its digest: 0 or 4.
    pub header_digest: usize,
    /// Data of a wide slot; 0 for none.
    pub wide_data: usize,
    /// Bytes behind the data of a wide slot.
    pub wide_tail: usize,
    /// Bytes of data.
    pub data: usize,
    /// Whether there will be many PDUs at once.
    pub busy: bool,
}

/// The send side of a connection.
pub struct Tx {
    mem: Vec<u8>,
    heads: Area,
    wide: Area,
    tails: Area,
    data_base: usize,
    queue: VecDeque<(usize, usize)>,
    queued_bytes: usize,
}

impl Tx {
    /// Sets memory aside.
    pub fn new(sizes: Sizes) -> Self {
        let heads = Area::new(0, BHS_LEN + sizes.header_digest, if sizes.busy { HEADS } else { 4 });
        let stride = BHS_LEN + sizes.header_digest + sizes.wide_data + sizes.wide_tail;
        let wide_count = if sizes.wide_data == 0 { 0 } else { (WIDE_BYTES / stride).max(1) };
        let wide = Area::new(heads.end(), stride, wide_count);
        let tails = Area::new(wide.end().next_multiple_of(TAIL_LEN), TAIL_LEN, heads.count);
        // Data begins on a page, as a target's would.
        let data_base = tails.end().next_multiple_of(4096);
        let mem = vec![0; data_base + sizes.data];
        Self { mem, heads, wide, tails, data_base, queue: VecDeque::with_capacity(256), queued_bytes: 0 }
    }

    /// Room for a header, a tail, and a wide slot if they exist.
    pub fn has_room(&self) -> bool {
        self.heads.has_room() && self.tails.has_room() && (self.wide.count == 0 || self.wide.has_room())
    }

    /// Room for a header and a tail.
    pub fn has_head(&self) -> bool {
        self.heads.has_room() && self.tails.has_room()
    }

    /// Bytes not sent yet.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether all has been sent.
    pub fn is_empty(&self) -> bool {
        self.queued_bytes == 0
    }

    /// Data at an offset.
    pub fn data(&mut self, at: usize, len: usize) -> &mut [u8] {
        &mut self.mem[self.data_base + at..self.data_base + at + len]
    }

    /// The places of all wide slots' data and tails, to be filled once.
    pub fn fill_wide(&mut self, header_len: usize, data: &[u8], tail: &[u8]) {
        for n in 0..self.wide.count {
            let at = self.wide.base + n * self.wide.stride + header_len;
            self.mem[at..at + data.len()].copy_from_slice(data);
            self.mem[at + data.len()..at + data.len() + tail.len()].copy_from_slice(tail);
        }
    }

    /// Queues a header; there must be room.
    #[inline]
    pub fn push_head(&mut self) -> &mut [u8] {
        let at = self.heads.take();
        self.push(at, self.heads.stride);
        &mut self.mem[at..at + self.heads.stride]
    }

    /// Queues a wide slot; returns the header's place in it.
    #[inline]
    pub fn push_wide(&mut self) -> &mut [u8] {
        let at = self.wide.take();
        self.push(at, self.wide.stride);
        &mut self.mem[at..at + self.heads.stride]
    }

    /// Queues data.
    #[inline]
    pub fn push_data(&mut self, at: usize, len: usize) {
        self.push(self.data_base + at, len);
    }

    /// Queues padding and digest.
    pub fn push_tail(&mut self, pad: usize, digest: &[u8]) {
        let at = self.tails.take();
        self.mem[at..at + pad].fill(0);
        self.mem[at + pad..at + pad + digest.len()].copy_from_slice(digest);
        self.push(at, pad + digest.len());
    }

    #[inline]
    fn push(&mut self, at: usize, len: usize) {
        self.queued_bytes += len;
        match self.queue.back_mut() {
            Some((start, have)) if *start + *have == at => *have += len,
            _ => self.queue.push_back((at, len)),
        }
    }

    /// Sends until all is sent or the socket is full; counts calls.
    pub fn flush(&mut self, stream: &mut TcpStream, sends: &mut u64) -> io::Result<bool> {
        while self.queued_bytes > 0 {
            let sent = if let [(at, len)] = *self.queue.make_contiguous() {
                stream.write(&self.mem[at..at + len])
            } else {
                let slices: ArrayVec<IoSlice<'_>, RANGES_MAX> = self
                    .queue
                    .iter()
                    .take(RANGES_MAX)
                    .map(|&(at, len)| IoSlice::new(&self.mem[at..at + len]))
                    .collect();
                stream.write_vectored(&slices)
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    *sends += 1;
                    self.sent(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn sent(&mut self, mut n: usize) {
        self.queued_bytes -= n;
        if self.queued_bytes == 0 {
            self.queue.clear();
            (self.heads.used, self.wide.used, self.tails.used) = (0, 0, 0);
            return;
        }
        while let Some((at, len)) = self.queue.front_mut() {
            if n < *len {
                *at += n;
                *len -= n;
                return;
            }
            n -= *len;
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    #[test]
    fn neighbouring_slots_are_one_range_and_all_arrive_in_order() {
        let (mut a, mut b) = pair();
        let mut tx = Tx::new(Sizes { wide_data: 16, data: 8, busy: true, ..Sizes::default() });
        tx.fill_wide(48, &[7; 16], &[]);
        tx.data(0, 8).fill(9);
        tx.push_wide().fill(1);
        tx.push_wide().fill(2);
        assert_eq!(tx.queue.len(), 1);
        tx.push_head().fill(3);
        tx.push_data(0, 7);
        tx.push_tail(1, &[4; 4]);
        assert_eq!((tx.queue.len(), tx.queued_bytes()), (4, 64 + 64 + 48 + 7 + 5));
        let mut sends = 0;
        assert!(tx.flush(&mut a, &mut sends).unwrap());
        assert_eq!(sends, 1);
        let mut got = vec![0; 188];
        b.read_exact(&mut got).unwrap();
        let mut expected = vec![1; 48];
        expected.extend([7; 16]);
        expected.extend([2; 48]);
        expected.extend([7; 16]);
        expected.extend([3; 48]);
        expected.extend([9; 7]);
        expected.extend([0, 4, 4, 4, 4]);
        assert_eq!(got, expected);
    }

    #[test]
    fn what_a_full_socket_leaves_over_is_sent_later_and_nothing_twice() {
        let (mut a, mut b) = pair();
        a.set_nonblocking(true).unwrap();
        let mut tx = Tx::new(Sizes { data: 1 << 20, busy: true, ..Sizes::default() });
        for (n, byte) in tx.data(0, 1 << 20).iter_mut().enumerate() {
            *byte = (n % 251) as u8;
        }
        for _ in 0..32 {
            tx.push_head().fill(0xEE);
            tx.push_data(0, 1 << 20);
        }
        let total = tx.queued_bytes();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            b.read_to_end(&mut all).unwrap();
            all
        });
        let (mut sends, mut partial) = (0, 0);
        while !tx.flush(&mut a, &mut sends).unwrap() {
            partial += 1;
            assert!(!tx.is_empty());
            std::thread::yield_now();
        }
        drop(a);
        let all = reader.join().unwrap();
        assert!(partial > 0, "the socket never filled up: the test shows nothing");
        assert_eq!(all.len(), total);
        for part in all.chunks(48 + (1 << 20)) {
            assert!(part[..48].iter().all(|&b| b == 0xEE));
            assert!(part[48..].iter().enumerate().all(|(n, &b)| b == (n % 251) as u8));
        }
        assert!(tx.has_room() && tx.is_empty());
    }
}
