//! Vectors laid out ahead: a stream of like PDUs is received as header, page, header, page by one readv.
//!
//! The owner says how many bytes of staging come between one data segment and the next, and lends vectors for the
//! segments it expects. What a read brought is kept as *folds*: at this place among the staged bytes, so many bytes of
//! the stream lie in that vector. The owner sees the staged bytes up to the first fold. Does it then land exactly what
//! was expected, vectors are exchanged: it gets the one that holds the data, and the one it brought will be received
//! into next. Does it not, the folds are put in between the staged bytes, where they would be had nobody guessed.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::ops::Range;

use arrayvec::ArrayVec;
use spindle_mem::Sgv;

use super::SLICES_MAX;
use super::staging::{STAGING_BYTES, Staged, StagingPool};

/// What a connection expects.
#[derive(Default)]
pub(super) struct Ahead {
    /// Staged bytes between two data segments; nought: nothing is expected.
    pub gap: usize,
    spares: Vec<Sgv>,
    folds: VecDeque<Fold>,
}

/// Bytes of the stream that lie in a vector.
struct Fold {
    /// Behind this byte of the staging buffer.
    at: usize,
    buf: Sgv,
    filled: usize,
}

/// How a landing can be served from what was received ahead.
pub(super) enum Found {
    /// Nothing was received ahead: all that came is staged.
    Nothing(Sgv),
    /// Another vector, filled up to here from its first byte.
    Exchanged(Sgv, u32),
    /// The owner's own vector; the bytes were copied into it, up to here.
    Copied(Sgv, u32),
    /// Something else was expected: unfold first.
    Other(Sgv),
}

impl Ahead {
    pub fn lend(&mut self, buf: Sgv) {
        self.spares.push(buf);
    }

    pub fn take_spare(&mut self) -> Option<Sgv> {
        self.spares.pop()
    }

    /// No vectors are here.
    pub fn is_empty(&self) -> bool {
        self.spares.is_empty() && self.folds.is_empty()
    }

    pub fn has_folds(&self) -> bool {
        !self.folds.is_empty()
    }

    /// All vectors, when the connection ends.
    pub fn give_up(self) -> impl Iterator<Item = Sgv> {
        self.spares.into_iter().chain(self.folds.into_iter().map(|fold| fold.buf))
    }

    /// Whether there is something to lay out.
    pub fn is_ready(&self) -> bool {
        self.gap > 0 && !self.spares.is_empty() && self.folds.is_empty()
    }

    /// Lays staging and vectors out in turns behind what is staged: `first` bytes of staging, a vector, a gap, a
    /// vector. It ends with a vector, so that nothing is half received when all of it was filled, and the next read can
    /// follow at once. `false`: there is no staging buffer.
    pub fn lay_out<'a>(
        &'a mut self,
        first: usize,
        staged: &'a mut Staged,
        pool: &mut StagingPool,
        slices: &mut ArrayVec<IoSliceMut<'a>, SLICES_MAX>,
    ) -> bool {
        // Were the guess wrong, all of it would have to fit into staging.
        let gap = self.gap;
        let mut left = STAGING_BYTES - staged.len() - first;
        let mut count = 0;
        for spare in self.spares.iter().rev() {
            let each = gap + spare.len() as usize;
            let runs = spare.segs().len();
            if left < each || slices.len() + 2 + (count + 1) * (runs + 1) > SLICES_MAX {
                break;
            }
            left -= each;
            count += 1;
        }
        let gaps = gap * usize::saturating_sub(count, 1);
        let Some(mut room) = staged.room_for(first + gaps, pool) else { return false };
        let (head, rest) = room.split_at_mut(first);
        room = rest;
        slices.push(IoSliceMut::new(head));
        for spare in self.spares.iter_mut().rev().take(count) {
            let len = spare.len();
            slices.extend(spare.slices_mut(0..len).map(IoSliceMut::new));
            if !room.is_empty() {
                let (between, rest) = room.split_at_mut(gap);
                room = rest;
                slices.push(IoSliceMut::new(between));
            }
        }
        true
    }

    /// `n` bytes came into what was laid out.
    pub fn came(&mut self, first: usize, n: usize, staged: &mut Staged) {
        let take = n.min(first);
        let mut left = n - take;
        staged.grew(take);
        while left > 0 {
            let Some(buf) = self.spares.pop() else { break };
            let filled = left.min(buf.len() as usize);
            self.folds.push_back(Fold { at: staged.end(), buf, filled });
            let between = (left - filled).min(self.gap);
            left -= filled + between;
            staged.grew(between);
        }
        staged.show(self.edge());
    }

    fn edge(&self) -> Option<usize> {
        self.folds.front().map(|fold| fold.at)
    }

    /// The owner lands `range` of `buf`.
    pub fn find(&mut self, mut buf: Sgv, range: &Range<u32>, staged: &mut Staged) -> Found {
        let Some(fold) = self.folds.front() else { return Found::Nothing(buf) };
        let len = fold.buf.len();
        if staged.len() > 0 || range.end - range.start != len {
            return Found::Other(buf);
        }
        let Some(fold) = self.folds.pop_front() else { return Found::Nothing(buf) };
        staged.show(self.edge());
        let filled = fold.filled as u32;
        // A vector counts against the share of its unit, and has as much room as was asked for: only like ones are
        // exchanged.
        let like = *range == (0..buf.len())
            && buf.share() == fold.buf.share()
            && buf.capacity() == fold.buf.capacity()
            && buf.home() == fold.buf.home();
        if like {
            self.spares.push(buf);
            return Found::Exchanged(fold.buf, filled);
        }
        buf.copy_payload_between(range.start, &fold.buf, 0, filled);
        self.spares.push(fold.buf);
        Found::Copied(buf, filled)
    }

    /// The guess was wrong: everything into staging. Tells how many bytes were copied.
    pub fn unfold(&mut self, staged: &mut Staged) -> usize {
        let payload: usize = self.folds.iter().map(|fold| fold.filled).sum();
        let mut tail = staged.end();
        let buffer = staged.spread(payload);
        let mut to = buffer.len();
        // From the last to the first, so that nothing is written over before it has moved.
        while let Some(fold) = self.folds.pop_back() {
            let between = tail - fold.at;
            buffer.copy_within(fold.at..tail, to - between);
            to -= between;
            fold.buf.copy_to(0, &mut buffer[to - fold.filled..to]);
            to -= fold.filled;
            tail = fold.at;
            self.spares.push(fold.buf);
        }
        payload
    }
}
