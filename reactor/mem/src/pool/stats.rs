//! How a pool stands, for people.

use spindle_reactor::CoreId;

use super::config::CLASS_BYTES;
use super::{Class, SgvPool, Share, ShareId};
use crate::PAGE_BYTES;
use crate::lend::LENT_PAGES;

/// How a pool stands; see [`SgvPool::stats`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolStats {
    /// Whose pool.
    pub core: CoreId,
    /// Each size class, smallest first.
    pub classes: Vec<ClassStats>,
    /// Vectors to lend pages with, by the bytes they reach.
    pub lent: Vec<ClassStats>,
    /// Shares that hold memory, have a limit, or were refused.
    pub shares: Vec<ShareStats>,
    /// Vectors dropped instead of put back. Not nought: a mistake in the program.
    pub lost: u64,
    /// Requests beyond [`super::SGV_BYTES_MAX`].
    pub refused_size: u64,
    /// Payload bytes copied by the processor.
    pub copied_bytes: u64,
}

/// Vectors of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassStats {
    /// The size.
    pub bytes: u32,
    /// Made.
    pub total: u32,
    /// On the shelf now (others may be on their way home).
    pub free: u32,
    /// The least that was ever on the shelf.
    pub low: u32,
    /// Requests for this size that found it and all larger ones empty.
    pub refused: u64,
}

/// Memory counted under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareStats {
    /// The name.
    pub share: ShareId,
    /// Bytes of the vectors it holds (whole classes, not lengths in use).
    pub in_use_bytes: u64,
    /// Its limit; `u64::MAX` is none.
    pub limit_bytes: u64,
    /// Requests refused because of the limit.
    pub refused: u64,
}

impl SgvPool {
    /// How the pool stands. For the control path: allocates.
    pub fn stats(&self) -> PoolStats {
        let used = |(n, s): (usize, &Share)| {
            let share = ShareStats {
                share: ShareId(n as u16),
                in_use_bytes: s.in_use,
                limit_bytes: s.limit,
                refused: s.refused,
            };
            (s.in_use > 0 || s.limit < u64::MAX || s.refused > 0).then_some(share)
        };
        PoolStats {
            core: self.core(),
            classes: self.classes.iter().zip(CLASS_BYTES).map(|(c, bytes)| c.stats(bytes)).collect(),
            lent: self
                .lent
                .iter()
                .zip(LENT_PAGES)
                .map(|(c, n)| c.stats_of_lent((n - 1) * PAGE_BYTES as u32))
                .collect(),
            shares: self.shares.iter().enumerate().filter_map(used).collect(),
            lost: self.home.lost(),
            refused_size: self.refused_size,
            copied_bytes: self.copied_bytes,
        }
    }
}

impl Class {
    fn stats(&self, bytes: u32) -> ClassStats {
        let Class { free, total, low, refused, .. } = self;
        ClassStats { bytes, total: *total, free: free.len() as u32, low: *low, refused: *refused }
    }

    /// Of a class whose vectors are made when none is free: as many are there as were ever out at once.
    fn stats_of_lent(&self, bytes: u32) -> ClassStats {
        let unmade = self.total - self.made;
        ClassStats { low: unmade, free: self.free.len() as u32 + unmade, ..self.stats(bytes) }
    }
}

impl std::fmt::Debug for SgvPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SgvPool").field(&self.stats()).finish()
    }
}
