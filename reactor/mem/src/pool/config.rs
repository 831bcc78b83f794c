//! Size classes, and what a pool is made of.

use crate::lend::LENT_PAGES;

/// Sizes of the ready-made vectors.
pub const CLASS_BYTES: [u32; CLASSES] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// No vector is larger; Block Limits must keep a command's data below this.
pub const SGV_BYTES_MAX: u32 = CLASS_BYTES[CLASSES - 1];

pub(super) const CLASSES: usize = 6;

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Vectors of each class ([`CLASS_BYTES`]).
    pub vectors: [u32; CLASSES],
    /// Vectors to lend pages of RAM disks with: up to 64 KiB, 1 MiB, 4 MiB. They have no pages of their own, and are
    /// made when they are first needed. As many as there may be reads under way: more wait in line.
    pub lent: [u32; LENT_PAGES.len()],
    /// Shares 0 to this (exclusive) exist; others get nothing.
    pub shares: u16,
    /// Overwrite memory as it is put back, to find bytes of one tenant sent to another. Costs a pass over
    /// each vector; on by default in debug builds.
    pub poison: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            vectors: [64, 32, 16, 8, 4, 1],
            lent: [128, 16, 4],
            shares: 256,
            poison: cfg!(debug_assertions),
        }
    }
}

impl PoolConfig {
    /// Spreads about `bytes` (never more) over the classes: an eighth in 4 KiB vectors, a quarter each in 16,
    /// 64 and 256 KiB, the rest in larger ones as far as it reaches.
    pub fn spread(bytes: u64) -> PoolConfig {
        let mut left = bytes;
        let mut vectors = [0; CLASSES];
        // Largest first, and what is too little for one of a class goes to the smaller ones.
        for (class, parts) in [(5, 16), (4, 16), (3, 4), (2, 4), (1, 4)] {
            let size = u64::from(CLASS_BYTES[class]);
            let n = (bytes / parts / size).min(left / size).min(u64::from(u32::MAX));
            vectors[class] = n as u32;
            left -= n * size;
        }
        vectors[0] = (left / u64::from(CLASS_BYTES[0])).min(bytes / 8 / 4096 + 64) as u32;
        PoolConfig { vectors, ..PoolConfig::default() }
    }

    /// Bytes of the arena the pool will take.
    pub fn bytes(&self) -> u64 {
        self.vectors.iter().zip(CLASS_BYTES).map(|(n, size)| u64::from(*n) * u64::from(size)).sum()
    }
}

#[inline]
pub(super) fn class_for(bytes: u32) -> Option<usize> {
    CLASS_BYTES.iter().position(|&size| bytes <= size)
}
