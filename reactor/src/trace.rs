//! The flight recorder: what a core did last, always on.
//!
//! Each core writes 32-byte records into a ring of its own, overwriting the oldest; that costs a few stores and
//! no branch. Anybody may read the ring at any time, also while the process dies of a panic: a reader takes what
//! it finds and leaves out the records that may have been overwritten meanwhile.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;

use crate::core_id::CoreId;
use crate::tick::Tick;

/// What happened; the crates of the program agree on the numbers and give them names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId(pub u16);

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub at: Tick,
    /// What.
    pub event: EventId,
    /// A small argument of the event.
    pub small: u16,
    /// To which task, or whatever the event is about.
    pub task: u32,
    /// Two arguments of the event.
    pub args: [u64; 2],
}

type Words = [AtomicU64; 4];
const _: () = assert!(size_of::<Words>() == 32);

struct Ring {
    core: CoreId,
    /// Records whose writing has begun, and has ended, since the start.
    begun: CachePadded<AtomicU64>,
    ended: AtomicU64,
    records: Box<[Words]>,
}

/// The writing end; one per core.
pub struct Recorder {
    ring: Arc<Ring>,
    written: u64,
}

impl Recorder {
    /// Room for the last `records`, rounded up to a power of two.
    pub fn new(core: CoreId, records: usize) -> Recorder {
        let records = (0..records.max(2).next_power_of_two()).map(|_| Words::default()).collect();
        let begun = CachePadded::new(AtomicU64::new(0));
        let ring = Ring { core, begun, ended: AtomicU64::new(0), records };
        Recorder { ring: Arc::new(ring), written: 0 }
    }

    /// A reading end.
    pub fn log(&self) -> FlightLog {
        FlightLog(self.ring.clone())
    }

    /// Writes a record over the oldest.
    #[inline]
    pub fn record(&mut self, r: Record) {
        let ring = &*self.ring;
        // `new` makes at least two records, so the index is always inside.
        let at = self.written as usize & ring.records.len().wrapping_sub(1);
        let Some(words) = ring.records.get(at) else { return };
        let head = u64::from(r.event.0) | u64::from(r.small) << 16 | u64::from(r.task) << 32;
        self.written += 1;
        // A reader that sees one of the words below sees this too (its fence meets ours) and knows which record
        // has been written over.
        ring.begun.store(self.written, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in words.iter().zip([r.at.0, head, r.args[0], r.args[1]]) {
            word.store(value, Ordering::Relaxed);
        }
        ring.ended.store(self.written, Ordering::Release);
    }
}

/// The reading end: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct FlightLog(Arc<Ring>);

impl FlightLog {
    /// Whose records these are.
    pub fn core(&self) -> CoreId {
        self.0.core
    }

    /// The records, oldest first, without those that were being overwritten while they were read.
    pub fn records(&self) -> Vec<Record> {
        let ring = &*self.0;
        let capacity = ring.records.len() as u64;
        let end = ring.ended.load(Ordering::Acquire);
        let start = end.saturating_sub(capacity);
        let copied: Vec<[u64; 4]> = (start..end)
            .map(|n| {
                let words = &ring.records[(n % capacity) as usize];
                std::array::from_fn(|w| words[w].load(Ordering::Relaxed))
            })
            .collect();
        fence(Ordering::Acquire);
        let begun = ring.begun.load(Ordering::Relaxed);
        let overwritten = begun.saturating_sub(capacity).saturating_sub(start).min(end - start);
        copied[overwritten as usize..]
            .iter()
            .map(|&[at, head, a, b]| Record {
                at: Tick(at),
                event: EventId(head as u16),
                small: (head >> 16) as u16,
                task: (head >> 32) as u32,
                args: [a, b],
            })
            .collect()
    }

    /// The records as text, a line each; `name` gives events their names.
    pub fn dump(&self, out: &mut impl Write, name: impl Fn(EventId) -> Option<&'static str>) -> fmt::Result {
        let records = self.records();
        writeln!(out, "{}: last {} records", self.core(), records.len())?;
        for r in records {
            write!(out, "{:>20} ", r.at)?;
            match name(r.event) {
                Some(name) => write!(out, "{name:<24}")?,
                None => write!(out, "event {:<18}", r.event.0)?,
            }
            writeln!(out, " task {:08x} {:04x} {:#x} {:#x}", r.task, r.small, r.args[0], r.args[1])?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn record(n: u64) -> Record {
        Record {
            at: Tick(n),
            event: EventId(n as u16),
            small: !n as u16,
            task: n as u32,
            args: [n, n.wrapping_mul(31)],
        }
    }

    #[test]
    fn the_last_records_are_kept_in_order() {
        let mut recorder = Recorder::new(CoreId(3), 4);
        let log = recorder.log();
        assert_eq!(log.records(), []);
        recorder.record(record(1));
        assert_eq!(log.records(), [record(1)]);
        (2..=10).for_each(|n| recorder.record(record(n)));
        assert_eq!(log.records(), [7, 8, 9, 10].map(record));
    }

    #[test]
    fn the_dump_names_events_and_shows_their_arguments() {
        let mut recorder = Recorder::new(CoreId(3), 4);
        let seen =
            Record { at: Tick(1_500_000), event: EventId(1), small: 0x28, task: 0xAB, args: [16, 255] };
        recorder.record(seen);
        recorder.record(Record { event: EventId(9), ..seen });
        let mut text = String::new();
        recorder.log().dump(&mut text, |e| (e.0 == 1).then_some("command")).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["core", "3:", "last", "2", "records"]);
        assert_eq!(lines[1], ["1.500000ms", "command", "task", "000000ab", "0028", "0x10", "0xff"]);
        assert_eq!(lines[2][1..3], ["event", "9"]);
    }

    #[test]
    fn a_reader_on_another_thread_never_sees_a_mixture_of_two_records() {
        let mut recorder = Recorder::new(CoreId(0), 8);
        let (log, done) = (recorder.log(), AtomicBool::new(false));
        thread::scope(|s| {
            s.spawn(|| {
                for n in 0..400_000 {
                    recorder.record(record(n));
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let records = log.records();
                assert!(records.iter().all(|r| *r == record(r.at.0)));
                assert!(records.windows(2).all(|w| w[0].at.0 + 1 == w[1].at.0));
                if let Some(newest) = records.last() {
                    assert!(newest.at.0 >= last);
                    last = newest.at.0;
                }
            }
        });
        assert_eq!(log.records().len(), 8);
    }
}
