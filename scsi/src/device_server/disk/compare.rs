//! Comparing what came from the initiator with what is on the medium: VERIFY and WRITE AND VERIFY with BYTCHK,
//! COMPARE AND WRITE.
//!
//! The medium is read in pieces, into the room at the end of the command's buffer or, from a device that lends,
//! into the device's own memory; each piece is compared as it comes.

use spindle_bdev::{IoFlags, IoResult, Op};
use spindle_mem::Sgv;
use spindle_scsi_spec::{Asc, Sense, SenseKey};

use super::{Step, Steps, TaskCx, Verdict};
use crate::outcome::sense_of;

/// How far a comparison has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes found equal.
    at: u32,
    /// Bytes being read.
    piece: u32,
}

/// What is compared with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    /// Bytes of medium, from the task's first block on.
    pub length: u32,
    /// Bytes at the start of the buffer to compare with: `length`, or one block that all must equal.
    pub pattern: u32,
    /// Where the room begins.
    pub land: u32,
    /// Its size.
    pub room: u32,
}

/// What a comparison comes to.
pub(super) enum Compared {
    /// The next piece is being read.
    Reading,
    /// All is equal, and the buffer is back in the task.
    Equal,
    /// It ends the command.
    Ends(Verdict),
}

impl Compared {
    /// For commands that end with the comparison.
    pub fn step(self) -> Step {
        match self {
            Compared::Reading => Step::Wait,
            Compared::Equal => Step::Done(Verdict::Good),
            Compared::Ends(verdict) => Step::Done(verdict),
        }
    }
}

impl Comparison {
    /// Reads the first piece.
    pub fn start(&self, cx: &mut TaskCx<'_>) -> Compared {
        self.next(cx, Progress::default())
    }

    fn next(&self, cx: &mut TaskCx<'_>, mut progress: Progress) -> Compared {
        let left = self.length - progress.at;
        if left == 0 {
            cx.cold.steps = Steps::None;
            return Compared::Equal;
        }
        progress.piece = if cx.lu.lends { left } else { left.min(self.room) };
        let lba = cx.task.lba + u64::from(progress.at >> cx.lu.shift);
        let blocks = progress.piece >> cx.lu.shift;
        let flags = IoFlags(cx.task.io_flags);
        cx.cold.steps = Steps::Compare(progress);
        if cx.lu.lends {
            cx.submit(0, Op::Read, flags, lba, blocks);
        } else {
            let mut buf = cx.task.buf.take().expect("a comparing command has its buffer between operations");
            buf.set_len(self.land + self.room);
            cx.submit_with(0, Op::Read, flags, lba, blocks, self.land, Some(buf));
        }
        Compared::Reading
    }

    /// A piece has been read.
    pub fn resume(&self, cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Compared {
        let Steps::Compare(mut progress) = cx.cold.steps else { unreachable!("a comparison is under way") };
        // From a device that lends, what comes back is the medium; otherwise it is our own buffer.
        let lent = if cx.lu.lends {
            data
        } else {
            cx.task.buf = data;
            None
        };
        let verdict = self.judge(cx, result, lent.as_ref(), progress);
        if let Some(lent) = lent {
            cx.pool.put(lent);
        }
        if let Some(verdict) = verdict {
            return Compared::Ends(verdict);
        }
        progress.at += progress.piece;
        self.next(cx, progress)
    }

    fn judge(
        &self,
        cx: &TaskCx<'_>,
        result: IoResult,
        lent: Option<&Sgv>,
        progress: Progress,
    ) -> Option<Verdict> {
        if let IoResult::Err(error) = result {
            return Some(Verdict::Check(sense_of(error, cx.task.lba)));
        }
        let own = cx.task.buf.as_ref().expect("our own buffer is here");
        let (medium, from) = match lent {
            Some(lent) => (lent, 0),
            None => (own, self.land),
        };
        if medium.len() < from + progress.piece {
            // A device that promised to lend and did not.
            let sense = Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE);
            return Some(Verdict::Check(sense));
        }
        let mut at = 0;
        while at < progress.piece {
            let (pattern_at, n) = if self.pattern == self.length {
                (progress.at, progress.piece)
            } else {
                (0, self.pattern.min(progress.piece - at))
            };
            if let Some(differs) = first_difference(own, pattern_at, medium, from + at, n) {
                // SBC-4 §5.3: INFORMATION holds the offset of the first byte that differs.
                let offset = u64::from(progress.at + at + differs);
                let sense = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
                return Some(Verdict::Check(sense.with_information(offset)));
            }
            at += n;
        }
        None
    }
}

/// Offset of the first of `len` bytes that differ.
fn first_difference(a: &Sgv, a_at: u32, b: &Sgv, b_at: u32, len: u32) -> Option<u32> {
    let mut left = a.slices(a_at..a_at + len);
    let mut right = b.slices(b_at..b_at + len);
    let (mut x, mut y): (&[u8], &[u8]) = (&[], &[]);
    let mut at = 0;
    while at < len {
        if x.is_empty() {
            x = left.next()?;
        }
        if y.is_empty() {
            y = right.next()?;
        }
        let n = x.len().min(y.len());
        if x[..n] != y[..n] {
            let within = x.iter().zip(y).position(|(p, q)| p != q)?;
            return Some(at + within as u32);
        }
        at += n as u32;
        (x, y) = (&x[n..], &y[n..]);
    }
    None
}
