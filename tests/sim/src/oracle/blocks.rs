//! The history of every block: which values a read may show, and which must be there after a power cut.
//!
//! A write has an interval: from the moment its command was sent to the moment its initiator learnt the end. It
//! took effect somewhere inside, if it did. A write that was not answered has no end yet; it gets one when
//! somebody is told that it can no longer happen (a task management answer, the next login of the session, a
//! power cut). From this follow the rules:
//!
//! * a read shows a value that was written, and not one whose write was over before another began that is known
//!   to have happened before the read began;
//! * a write whose end is known never reaches the disk again (the disk shows every block that it stores);
//! * a write that was refused never reaches it at all;
//! * of two COMPARE AND WRITE that found the same value only one succeeds, for the other finds another value;
//! * after a power cut a block holds a value that is not older than the last one that was promised durable.

use std::collections::{HashMap, HashSet};

use super::Moment;
use crate::pattern::{self, Value};

/// How a write came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// GOOD.
    Done,
    /// It failed or was aborted after it may have stored something.
    Unsure,
    /// It was refused: nothing of it was ever stored.
    Refused,
}

#[derive(Clone, Debug)]
struct Write {
    zero: bool,
    lba: u64,
    invoked: Moment,
    ended: Option<Moment>,
    how: Option<End>,
    fua: bool,
    /// It has reached the disk, at least in part.
    touched: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    /// From this moment on everybody sees it, or something newer.
    visible: Option<Moment>,
    /// From this moment on a power cut does not bring anything older back.
    durable: Option<Moment>,
    /// A read that ended then has shown that another value is there for good.
    hidden: Option<Moment>,
}

/// The blocks of one logical unit.
pub struct Blocks {
    block_bytes: usize,
    write_cache: bool,
    writes: HashMap<u64, Write>,
    entries: Vec<Vec<Entry>>,
    consumed: HashSet<(u64, u64)>,
    next: u64,
}

impl Blocks {
    /// Blocks full of zeros.
    pub fn new(blocks: u64, block_bytes: u32, write_cache: bool, first_id: u64) -> Blocks {
        let blank = Write {
            zero: true,
            lba: 0,
            invoked: 0,
            ended: Some(0),
            how: Some(End::Done),
            fua: true,
            touched: true,
        };
        let entry = Entry { id: 0, visible: Some(0), durable: Some(0), hidden: None };
        Blocks {
            block_bytes: block_bytes as usize,
            write_cache,
            writes: HashMap::from([(0, blank)]),
            entries: vec![vec![entry]; blocks as usize],
            consumed: HashSet::new(),
            next: first_id,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Capacity.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// No blocks at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A write is about to be sent. Gives it its number, which goes into its blocks.
    pub fn begin(&mut self, now: Moment, lba: u64, blocks: u64, zero: bool, fua: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        let write = Write { zero, lba, invoked: now, ended: None, how: None, fua, touched: false };
        self.writes.insert(id, write);
        for lba in self.range(lba, blocks) {
            self.entries[lba].push(Entry { id, visible: None, durable: None, hidden: None });
        }
        id
    }

    /// Adds a range to a write (UNMAP with several descriptors).
    pub fn also(&mut self, id: u64, lba: u64, blocks: u64) {
        for lba in self.range(lba, blocks) {
            self.entries[lba].push(Entry { id, visible: None, durable: None, hidden: None });
        }
    }

    /// The blocks of a write as it is sent.
    pub fn data(&self, id: u64, lba: u64, blocks: u64) -> Vec<u8> {
        let mut out = vec![0; blocks as usize * self.block_bytes];
        for (n, block) in out.chunks_exact_mut(self.block_bytes).enumerate() {
            pattern::fill(id, lba + n as u64, block);
        }
        out
    }

    /// A write has come to its end, or will certainly not happen any more.
    pub fn end(&mut self, now: Moment, id: u64, how: End) -> Result<(), String> {
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        if write.ended.is_some() {
            return Ok(());
        }
        write.ended = Some(now);
        write.how = Some(how);
        let durable = write.fua || !self.write_cache;
        match how {
            End::Done => {
                for entry in self.entries.iter_mut().flatten().filter(|e| e.id == id) {
                    entry.visible = Some(now);
                    entry.durable = durable.then_some(now);
                }
            }
            End::Refused => {
                if write.touched {
                    return Err(format!("write {id} was refused, but has reached the disk"));
                }
                self.entries.iter_mut().for_each(|block| block.retain(|e| e.id != id));
            }
            End::Unsure => {}
        }
        Ok(())
    }

    /// Whether a write is known to be over.
    pub fn is_over(&self, id: u64) -> bool {
        self.writes.get(&id).is_some_and(|w| w.ended.is_some())
    }

    /// A flush that was sent at `invoked` has been answered with GOOD.
    pub fn flushed(&mut self, now: Moment, invoked: Moment, lba: u64, blocks: u64) {
        for lba in self.range(lba, blocks) {
            for entry in &mut self.entries[lba] {
                // What was visible before the flush was sent is covered by it.
                if entry.visible.is_some_and(|at| at <= invoked) && entry.durable.is_none() {
                    entry.durable = Some(now);
                }
            }
        }
    }

    /// A read of these bytes, sent at `invoked`, has been answered.
    pub fn read(&mut self, now: Moment, invoked: Moment, lba: u64, bytes: &[u8]) -> Result<(), String> {
        for (n, block) in bytes.chunks_exact(self.block_bytes).enumerate() {
            self.observe(now, invoked, lba + n as u64, pattern::value(lba + n as u64, block))
                .map_err(|why| format!("block {}: {why}", lba + n as u64))?;
        }
        Ok(())
    }

    fn observe(&mut self, now: Moment, invoked: Moment, lba: u64, value: Value) -> Result<(), String> {
        let Some(entries) = self.entries.get(lba as usize) else { return Err("read beyond the end".into()) };
        let fits = |e: &Entry| match value {
            Value::Zero => self.writes[&e.id].zero,
            Value::Of(id) => e.id == id && !self.writes[&e.id].zero,
            Value::Garbage => false,
        };
        let found: Vec<usize> = (0..entries.len()).filter(|&n| fits(&entries[n])).collect();
        if found.is_empty() {
            return Err(format!(
                "shows {value:?}, which was never written there; possible: {}",
                self.show(lba)
            ));
        }
        let alive: Vec<usize> =
            found.into_iter().filter(|&n| !self.is_dead(lba as usize, n, invoked)).collect();
        if alive.is_empty() {
            return Err(format!(
                "shows {value:?}, which was overwritten before the read began (at {invoked}); history: {}",
                self.show(lba)
            ));
        }
        let quiet = self.entries[lba as usize]
            .iter()
            .all(|e| self.writes[&e.id].ended.is_some_and(|at| at <= invoked));
        let block = &mut self.entries[lba as usize];
        if let [one] = alive[..] {
            block[one].visible = Some(block[one].visible.map_or(now, |at| at.min(now)));
        }
        if quiet {
            // Nothing was under way: what the read found is what is there.
            for (n, entry) in block.iter_mut().enumerate() {
                if !alive.contains(&n) {
                    entry.hidden.get_or_insert(now);
                }
            }
        }
        Ok(())
    }

    /// COMPARE AND WRITE `id` found `value` at `lba` and replaced it.
    pub fn swapped(
        &mut self,
        now: Moment,
        invoked: Moment,
        lba: u64,
        value: Value,
        id: u64,
    ) -> Result<(), String> {
        let own = self.entries[lba as usize].iter().position(|e| e.id == id);
        let own = own.map(|at| self.entries[lba as usize].remove(at));
        let judged = self.observe(now, invoked, lba, value);
        self.entries[lba as usize].extend(own);
        judged.map_err(|why| format!("block {lba}: COMPARE AND WRITE {why}"))?;
        match value {
            Value::Of(old) if !self.consumed.insert((lba, old)) => {
                Err(format!("block {lba}: two COMPARE AND WRITE found the value of write {old}"))
            }
            _ => Ok(()),
        }
    }

    /// A value that the block may have now: for a COMPARE AND WRITE that is to succeed.
    pub fn likely(&self, lba: u64) -> Value {
        let entries = &self.entries[lba as usize];
        let newest = entries.iter().filter(|e| e.hidden.is_none()).max_by_key(|e| (e.visible, e.id));
        match newest {
            Some(e) if !self.writes[&e.id].zero => Value::Of(e.id),
            _ => Value::Zero,
        }
    }

    /// The bytes of a block that holds `value`.
    pub fn bytes_of(&self, lba: u64, value: Value) -> Vec<u8> {
        let mut block = vec![0; self.block_bytes];
        if let Value::Of(id) = value {
            let same = self.writes.get(&id).is_some_and(|w| w.lba == pattern::ANYWHERE);
            pattern::fill(id, if same { pattern::ANYWHERE } else { lba }, &mut block);
        }
        block
    }

    /// Marks a write as WRITE SAME: its blocks are alike.
    pub fn same(&mut self, id: u64) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.lba = pattern::ANYWHERE;
        }
    }

    /// The disk stores this block now.
    pub fn stored(&mut self, lba: u64, bytes: &[u8]) -> Result<(), String> {
        let id = match pattern::value(lba, bytes) {
            Value::Zero => return Ok(()),
            Value::Garbage => return Err(format!("block {lba}: the disk is given bytes nobody wrote")),
            Value::Of(id) => id,
        };
        let Some(write) = self.writes.get_mut(&id) else {
            return Err(format!("block {lba}: the disk is given a block of write {id}, which there is not"));
        };
        write.touched = true;
        match write.how {
            None => Ok(()),
            Some(how) => Err(format!("block {lba}: write {id} reaches the disk after it was over ({how:?})")),
        }
    }

    /// The power went: what was not durable may be gone, and nothing is under way.
    pub fn power_cut(&mut self, now: Moment) {
        for write in self.writes.values_mut() {
            if write.ended.is_none() {
                write.ended = Some(now);
                write.how = Some(End::Unsure);
            }
        }
        for block in &mut self.entries {
            let newest =
                block.iter().filter(|e| e.durable.is_some()).map(|e| self.writes[&e.id].invoked).max();
            // Over before a durable one began: gone for good.
            let survives = |e: &Entry| {
                let ended = self.writes[&e.id].ended.expect("all are over");
                newest.is_none_or(|invoked| {
                    ended > invoked || e.durable.is_some() && self.writes[&e.id].invoked >= invoked
                })
            };
            block.retain(survives);
            for entry in block.iter_mut() {
                (entry.visible, entry.durable, entry.hidden) = (None, None, None);
            }
        }
        // A value that was replaced may be back.
        self.consumed.clear();
        // All that survived took effect, if it did, before this moment.
        for block in &self.entries {
            for entry in block {
                let write = self.writes.get_mut(&entry.id).expect("entries belong to writes");
                write.ended = Some(now);
            }
        }
    }

    /// The unit has shrunk to so many blocks: should the others come back, they read as zeros. Writes that nobody has
    /// heard the end of may have come to them before that or, if they do come back, after it.
    pub fn cut(&mut self, now: Moment, blocks: u64) {
        let id = self.begin(now, blocks, u64::MAX, true, true);
        self.end(now, id, End::Done).expect("it was not refused");
    }

    /// Overwritten for certain before `moment`?
    fn is_dead(&self, lba: usize, n: usize, moment: Moment) -> bool {
        let entry = &self.entries[lba][n];
        if entry.hidden.is_some_and(|at| at <= moment) {
            return true;
        }
        let Some(ended) = self.writes[&entry.id].ended else { return false };
        self.entries[lba].iter().any(|other| {
            other.id != entry.id
                && other.visible.is_some_and(|at| at <= moment)
                && self.writes[&other.id].invoked >= ended
        })
    }

    fn range(&self, lba: u64, blocks: u64) -> std::ops::Range<usize> {
        let end = lba.saturating_add(blocks).min(self.entries.len() as u64);
        lba.min(end) as usize..end as usize
    }

    fn show(&self, lba: u64) -> String {
        let mut out = String::new();
        for e in &self.entries[lba as usize] {
            let w = &self.writes[&e.id];
            out += &format!(
                "[{}{} {}..{:?} {:?} visible {:?} durable {:?}{}] ",
                if w.zero { "zero " } else { "" },
                e.id,
                w.invoked,
                w.ended,
                w.how,
                e.visible,
                e.durable,
                e.hidden.map(|at| format!(" hidden {at}")).unwrap_or_default()
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Blocks {
        Blocks::new(8, 512, true, 1)
    }

    fn shows(b: &mut Blocks, now: Moment, invoked: Moment, lba: u64, id: u64) -> Result<(), String> {
        let mut bytes = vec![0; 512];
        if id > 0 {
            pattern::fill(id, lba, &mut bytes);
        }
        b.read(now, invoked, lba, &bytes)
    }

    #[test]
    fn a_read_shows_the_last_write_or_one_beside_it() {
        let mut b = blocks();
        let first = b.begin(1, 0, 2, false, false);
        assert!(shows(&mut b, 3, 2, 0, 0).is_ok() && shows(&mut b, 3, 2, 1, first).is_ok());
        b.end(4, first, End::Done).unwrap();
        assert!(shows(&mut b, 6, 5, 0, 0).unwrap_err().contains("overwritten"));
        assert!(shows(&mut b, 6, 5, 0, first).is_ok());
        assert!(shows(&mut b, 6, 5, 0, 99).unwrap_err().contains("never written"));
        // The read began before the write was answered.
        let second = b.begin(7, 0, 1, false, false);
        b.end(9, second, End::Done).unwrap();
        assert!(shows(&mut b, 10, 8, 0, first).is_ok());
        assert!(shows(&mut b, 12, 11, 0, first).is_err());
    }

    #[test]
    fn a_value_that_was_seen_does_not_give_way_to_an_older_one() {
        let mut b = blocks();
        let lost = b.begin(1, 0, 1, false, false);
        assert!(shows(&mut b, 3, 2, 0, lost).is_ok());
        assert!(shows(&mut b, 5, 4, 0, 0).is_err());
    }

    #[test]
    fn an_aborted_write_does_not_come_back() {
        let mut b = blocks();
        let id = b.begin(1, 0, 1, false, false);
        b.end(2, id, End::Unsure).unwrap();
        assert!(shows(&mut b, 4, 3, 0, 0).is_ok());
        assert!(shows(&mut b, 6, 5, 0, id).is_err(), "it was not there when nothing was under way");
        let data = b.data(id, 0, 1);
        assert!(b.stored(0, &data).unwrap_err().contains("after it was over"));
    }

    #[test]
    fn a_refused_write_never_reaches_the_disk() {
        let mut b = blocks();
        let id = b.begin(1, 3, 1, false, false);
        let data = b.data(id, 3, 1);
        b.stored(3, &data).unwrap();
        assert!(b.end(2, id, End::Refused).is_err());
    }

    #[test]
    fn what_was_flushed_is_there_after_the_power_cut() {
        let mut b = blocks();
        let a = b.begin(1, 0, 1, false, false);
        b.end(2, a, End::Done).unwrap();
        b.flushed(4, 3, 0, 8);
        let c = b.begin(5, 0, 1, false, false);
        b.end(6, c, End::Done).unwrap();
        b.power_cut(7);
        let mut again = Blocks { entries: b.entries.clone(), writes: b.writes.clone(), ..blocks() };
        assert!(shows(&mut b, 9, 8, 0, a).is_ok() && shows(&mut b, 11, 10, 0, c).is_err(), "it has decided");
        assert!(shows(&mut again, 9, 8, 0, 0).is_err(), "zeros are older than what was flushed");
        assert!(shows(&mut again, 9, 8, 0, c).is_ok());
    }

    #[test]
    fn a_write_beside_the_flush_may_be_lost() {
        let mut b = blocks();
        let a = b.begin(1, 0, 1, false, false);
        b.end(4, a, End::Done).unwrap();
        b.flushed(5, 3, 0, 8);
        b.power_cut(6);
        assert!(shows(&mut b, 8, 7, 0, 0).is_ok());
    }

    #[test]
    fn only_one_of_two_swaps_finds_the_value() {
        let mut b = blocks();
        let old = b.begin(1, 0, 1, false, false);
        b.end(2, old, End::Done).unwrap();
        let (x, y) = (b.begin(3, 0, 1, false, false), b.begin(3, 0, 1, false, false));
        b.end(5, x, End::Done).unwrap();
        b.swapped(5, 3, 0, Value::Of(old), x).unwrap();
        b.end(6, y, End::Done).unwrap();
        assert!(b.swapped(6, 3, 0, Value::Of(old), y).unwrap_err().contains("two COMPARE"));
    }
}
