//! The answering end of the wire: counts the bytes of whole requests, sends the bytes of as many answers.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use arrayvec::ArrayVec;

use super::{COLD_BYTES, Direction, Shape};

/// Ranges of memory the kernel takes in one call.
pub const RANGES_MAX: usize = 1024;

/// Answers until told to stop. `ready` is called when the memory is there: making it takes longer than a sample.
pub fn run(shape: &Shape, streams: Vec<TcpStream>, stop: &AtomicBool, ready: impl FnOnce()) -> Result<()> {
    let mut memory = Memory::new(shape);
    ready();
    let mut conns: Vec<Conn> = streams.into_iter().map(Conn::new).collect();
    while !stop.load(Ordering::Relaxed) {
        for conn in &mut conns {
            if !conn.turn(shape, &mut memory)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What is sent from and received into.
struct Memory {
    bytes: Vec<u8>,
    /// Length of a place for an answer or a batch.
    place: usize,
    places: usize,
    chance: fastrand::Rng,
}

/// Bytes of a place of memory, and how many there are.
pub fn places(shape: &Shape) -> (usize, usize) {
    let place = match shape.direction {
        // Header and data lie together: the least a target can do is one range for each answer.
        Direction::Read => shape.answer_bytes().next_multiple_of(64),
        Direction::Write => shape.batch.max(4096),
    };
    (place, if shape.cold { COLD_BYTES / place } else { 1 })
}

impl Memory {
    fn new(shape: &Shape) -> Self {
        let (place, places) = places(shape);
        // Pages that were never written all show the same page of zeros: write them.
        Self { bytes: vec![0xA5; place * places], place, places, chance: fastrand::Rng::with_seed(7) }
    }

    fn next(&mut self) -> usize {
        if self.places == 1 { 0 } else { self.chance.usize(0..self.places) * self.place }
    }
}

struct Conn {
    stream: TcpStream,
    /// Of the request that is coming in.
    received: usize,
    /// Answers to be sent: ranges of memory, and how much of the first is gone.
    queue: VecDeque<usize>,
    sent_of_first: usize,
    small: Vec<u8>,
    small_to_send: usize,
}

impl Conn {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            received: 0,
            queue: VecDeque::new(),
            sent_of_first: 0,
            small: vec![0; 64 * 1024],
            small_to_send: 0,
        }
    }

    /// `false` when the other end is gone.
    fn turn(&mut self, shape: &Shape, memory: &mut Memory) -> Result<bool> {
        match shape.direction {
            Direction::Read => self.answer_reads(shape, memory),
            Direction::Write => self.answer_writes(shape, memory),
        }
    }

    fn receive(stream: &mut TcpStream, into: &mut [u8]) -> Result<Option<usize>> {
        match stream.read(into) {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(n)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Some(0))
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn answer_reads(&mut self, shape: &Shape, memory: &mut Memory) -> Result<bool> {
        let Some(n) = Self::receive(&mut self.stream, &mut self.small)? else { return Ok(false) };
        self.received += n;
        let (request, answer) = (shape.request_bytes(), shape.answer_bytes());
        while self.received >= request {
            self.received -= request;
            self.queue.push_back(memory.next());
            if self.queue.len() * answer - self.sent_of_first >= shape.batch {
                self.send_answers(answer, shape.batch, memory)?;
            }
        }
        while !self.queue.is_empty() && self.send_answers(answer, shape.batch, memory)? {}
        Ok(true)
    }

    /// One call of at most a batch, but at least one answer's rest.
    fn send_answers(&mut self, answer: usize, batch: usize, memory: &Memory) -> Result<bool> {
        let count = (batch / answer).clamp(1, RANGES_MAX).min(self.queue.len());
        let sent = if count == 1 {
            let at = self.queue[0];
            self.stream.write(&memory.bytes[at + self.sent_of_first..at + answer])
        } else {
            let mut skip = self.sent_of_first;
            let slices: ArrayVec<IoSlice<'_>, RANGES_MAX> = self
                .queue
                .iter()
                .take(count)
                .map(|&at| IoSlice::new(&memory.bytes[at + std::mem::take(&mut skip)..at + answer]))
                .collect();
            self.stream.write_vectored(&slices)
        };
        match sent {
            Ok(n) => {
                let total = self.sent_of_first + n;
                self.queue.drain(..total / answer);
                self.sent_of_first = total % answer;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn answer_writes(&mut self, shape: &Shape, memory: &mut Memory) -> Result<bool> {
        let at = memory.next();
        let place = &mut memory.bytes[at..at + memory.place];
        let Some(n) = Self::receive(&mut self.stream, place)? else { return Ok(false) };
        self.received += n;
        let whole = self.received / shape.request_bytes();
        self.received -= whole * shape.request_bytes();
        self.small_to_send += whole * shape.answer_bytes();
        while self.small_to_send > 0 {
            let len = self.small_to_send.min(self.small.len());
            match self.stream.write(&self.small[..len]) {
                Ok(0) => bail!("nothing was sent"),
                Ok(n) => self.small_to_send -= n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
