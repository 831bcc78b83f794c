//! The answering end of the wire over io_uring: a receive is always outstanding on each connection, at most one send, and
//! one system call a turn submits and collects for all of them.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use spindle_ffi_uring::{FileSlot, Op, Payload, Ring};

use super::responder::{RANGES_MAX, places};
use super::{Direction, Shape};

/// Requests of reads, and answers to writes, pass through so much at once.
const SMALL_BYTES: usize = 64 * 1024;

/// Answers until told to stop. `ready` is called when the memory is there.
pub fn run(shape: &Shape, streams: Vec<TcpStream>, stop: &AtomicBool, ready: impl FnOnce()) -> Result<()> {
    let mut memory = Memory::new(shape, streams.len());
    ready();
    let mut ring = Ring::new(2 * streams.len() as u32).context("a ring")?;
    let mut conns = Vec::new();
    for (number, stream) in streams.into_iter().enumerate() {
        // What is not there yet is waited for by the ring; a socket that may not wait would be asked in vain.
        stream.set_nonblocking(false)?;
        let conn = Conn::new(number, ring.add_file(stream.into(), false));
        conn.receive(&mut ring, &mut memory)?;
        conns.push(conn);
    }
    let mut ended = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ring.turn();
        ring.reap(|_, result, what| ended.push((result, what)));
        for (result, what) in ended.drain(..) {
            let n = match result {
                Ok(n) => n as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match what {
                Work::Receive { conn, into } => {
                    memory.give_back(into);
                    if n == 0 {
                        return Ok(());
                    }
                    conns[conn].received(n, shape, &mut memory);
                    conns[conn].receive(&mut ring, &mut memory)?;
                }
                Work::Send { conn, ranges, .. } => conns[conn].sent(n, shape, ranges),
            }
        }
        for conn in &mut conns {
            conn.send(shape, &mut ring, &memory)?;
        }
    }
    Ok(())
}

/// What the ring holds while the kernel works on it.
enum Work {
    Receive { conn: usize, into: Vec<u8> },
    Send { conn: usize, from: Arc<Vec<u8>>, ranges: Vec<(usize, usize)> },
}

impl Payload for Work {
    fn each_slice(&self, see: &mut dyn FnMut(&[u8])) {
        if let Self::Send { from, ranges, .. } = self {
            ranges.iter().for_each(|&(at, end)| see(&from[at..end]));
        }
    }

    fn each_slice_mut(&mut self, see: &mut dyn FnMut(&mut [u8])) {
        if let Self::Receive { into, .. } = self {
            see(into);
        }
    }
}

/// What is sent from and received into.
struct Memory {
    /// Answers to reads; a few zeros for those to writes.
    answers: Arc<Vec<u8>>,
    place: usize,
    places: usize,
    /// Where to receive next.
    free: Vec<Vec<u8>>,
    chance: fastrand::Rng,
}

impl Memory {
    fn new(shape: &Shape, conns: usize) -> Self {
        let (place, places) = places(shape);
        // Pages that were never written all show the same page of zeros: write them.
        let (answers, free) = match shape.direction {
            Direction::Read => (vec![0xA5; place * places], vec![vec![0xA5; SMALL_BYTES]; conns]),
            Direction::Write => (vec![0; SMALL_BYTES], vec![vec![0xA5; place]; places.max(conns)]),
        };
        Self { answers: Arc::new(answers), place, places, free, chance: fastrand::Rng::with_seed(7) }
    }

    /// The place of an answer to a read.
    fn next(&mut self) -> usize {
        if self.places == 1 { 0 } else { self.chance.usize(0..self.places) * self.place }
    }

    fn take(&mut self) -> Vec<u8> {
        let at = self.chance.usize(0..self.free.len());
        self.free.swap_remove(at)
    }

    fn give_back(&mut self, place: Vec<u8>) {
        self.free.push(place);
    }
}

struct Conn {
    number: usize,
    file: FileSlot,
    /// Of the request that is coming in.
    received: usize,
    /// Answers to reads to be sent, and how much of the first is gone.
    queue: VecDeque<usize>,
    sent_of_first: usize,
    /// Bytes of answers to writes to be sent.
    small_to_send: usize,
    /// Used by no send at present; `None` while one is under way.
    ranges: Option<Vec<(usize, usize)>>,
}

impl Conn {
    fn new(number: usize, file: FileSlot) -> Self {
        let ranges = Some(Vec::with_capacity(RANGES_MAX));
        let queue = VecDeque::new();
        Self { number, file, received: 0, queue, sent_of_first: 0, small_to_send: 0, ranges }
    }

    fn receive(&self, ring: &mut Ring<Work>, memory: &mut Memory) -> Result<()> {
        let work = Work::Receive { conn: self.number, into: memory.take() };
        submit(ring, self.file, Op::Read { offset: 0 }, work)
    }

    fn received(&mut self, n: usize, shape: &Shape, memory: &mut Memory) {
        self.received += n;
        let whole = self.received / shape.request_bytes();
        self.received %= shape.request_bytes();
        match shape.direction {
            Direction::Read => self.queue.extend((0..whole).map(|_| memory.next())),
            Direction::Write => self.small_to_send += whole * shape.answer_bytes(),
        }
    }

    /// One send of at most a batch, but at least one answer's rest.
    fn send(&mut self, shape: &Shape, ring: &mut Ring<Work>, memory: &Memory) -> Result<()> {
        if self.queue.is_empty() && self.small_to_send == 0 {
            return Ok(());
        }
        let Some(mut ranges) = self.ranges.take() else { return Ok(()) };
        ranges.clear();
        match shape.direction {
            Direction::Read => {
                let answer = shape.answer_bytes();
                let count = (shape.batch / answer).clamp(1, RANGES_MAX);
                let mut skip = self.sent_of_first;
                ranges.extend(
                    self.queue.iter().take(count).map(|&at| (at + std::mem::take(&mut skip), at + answer)),
                );
            }
            Direction::Write => ranges.push((0, self.small_to_send.min(SMALL_BYTES))),
        }
        let work = Work::Send { conn: self.number, from: memory.answers.clone(), ranges };
        submit(ring, self.file, Op::Write { offset: 0, durable: false }, work)
    }

    fn sent(&mut self, n: usize, shape: &Shape, ranges: Vec<(usize, usize)>) {
        self.ranges = Some(ranges);
        match shape.direction {
            Direction::Read => {
                let total = self.sent_of_first + n;
                self.queue.drain(..total / shape.answer_bytes());
                self.sent_of_first = total % shape.answer_bytes();
            }
            Direction::Write => self.small_to_send -= n,
        }
    }
}

fn submit(ring: &mut Ring<Work>, file: FileSlot, op: Op, work: Work) -> Result<()> {
    ring.submit(file, op, work)
        .map(drop)
        .map_err(|_| anyhow!("the ring has room for two operations a connection"))
}
