//! The asking end of the wire: counts bytes, keeps the depth, times requests in the order they were sent.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Result, bail, ensure};
use spindle_ffi_os::cpu::monotonic_ns;

use super::{Direction, Shape};
use crate::report::Stats;

/// Bytes sent from again and again: one send carries at most these.
const SEND_BYTES: usize = 64 * 1024;
const RECEIVE_BYTES: usize = 256 * 1024;
const SILENCE_MAX_NS: u64 = 10_000_000_000;

struct Conn {
    stream: TcpStream,
    /// Of requests already due.
    to_send: usize,
    /// Of the answer that is coming in.
    received: usize,
    started: VecDeque<u64>,
}

/// Runs for the time given.
pub fn run(shape: &Shape, streams: Vec<TcpStream>, gone: impl Fn() -> bool) -> Result<(Stats, f64)> {
    let (request, answer) = (shape.request_bytes(), shape.answer_bytes());
    let read = shape.direction == Direction::Read;
    // A whole number of requests where one send holds several; a long one is sent as it is.
    let out = vec![0x5A; if request < SEND_BYTES { SEND_BYTES / request * request } else { request }];
    let mut buffer = vec![0; RECEIVE_BYTES];
    let (mut stats, mut counted) = (Stats::default(), Stats::touched());
    let zero = monotonic_ns();
    let new = |stream| Conn {
        stream,
        to_send: shape.depth * request,
        received: 0,
        started: std::iter::repeat_n(zero, shape.depth).collect(),
    };
    let mut conns: Vec<Conn> = streams.into_iter().map(new).collect();
    let begin = zero + shape.warmup.as_nanos() as u64;
    let end = begin + shape.time.as_nanos() as u64;
    let (mut began, mut last_heard) = (begin, zero);
    loop {
        let mut now = monotonic_ns();
        if !stats.counting && now >= begin {
            std::mem::swap(&mut stats, &mut counted);
            began = now;
        }
        if now >= end {
            return Ok((stats, (now - began) as f64 / 1e9));
        }
        for conn in &mut conns {
            let n = match conn.stream.read(&mut buffer) {
                Ok(0) => bail!("the responder closed the connection"),
                Ok(n) => n,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                Err(error) => return Err(error.into()),
            };
            if n > 0 {
                now = monotonic_ns();
                last_heard = now;
                stats.receives += 1;
                conn.received += n;
                let mut answers = 0;
                while conn.received >= answer {
                    conn.received -= answer;
                    let Some(start) = conn.started.pop_front() else { bail!("an answer to nothing") };
                    if stats.counting {
                        let histogram = if read { &mut stats.read } else { &mut stats.write };
                        histogram.saturating_record(now - start);
                        stats.bytes += shape.bs as u64;
                    }
                    answers += 1;
                }
                conn.to_send += answers * request;
                conn.started.extend(std::iter::repeat_n(monotonic_ns(), answers));
            }
            while conn.to_send > 0 {
                // The place within the buffer keeps to the place within the stream, as real headers would.
                let at = (out.len() - conn.to_send % out.len()) % out.len();
                let len = conn.to_send.min(out.len() - at);
                match conn.stream.write(&out[at..at + len]) {
                    Ok(n) => {
                        conn.to_send -= n;
                        stats.sends += 1;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if now.saturating_sub(last_heard) > SILENCE_MAX_NS || gone() {
            ensure!(!gone(), "the responder ended");
            bail!("no answer for ten seconds");
        }
    }
}
