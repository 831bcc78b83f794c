//! A set of cores by number.

/// A set of numbers below 256: every value a core's place can have.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct CoreBits([u64; 4]);

impl CoreBits {
    pub(crate) fn insert(&mut self, n: usize) {
        self.0[n / 64] |= 1 << (n % 64);
    }

    pub(crate) fn remove(&mut self, n: usize) {
        self.0[n / 64] &= !(1 << (n % 64));
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The first member at or after `start`, going round at the end.
    pub(crate) fn next_from(&self, start: usize) -> Option<usize> {
        let first = start / 64;
        let tail = self.0[first] & (u64::MAX << (start % 64));
        if tail != 0 {
            return Some(first * 64 + tail.trailing_zeros() as usize);
        }
        // The word of `start` comes again at the end, whole: its higher bits were just seen to be clear.
        (1..=4).map(|n| (first + n) % 4).find_map(|word| {
            let bits = self.0[word];
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let n = bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                (n < 64).then_some(word * 64 + n)
            })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_behave_like_a_set(
            members in proptest::collection::btree_set(0usize..256, 0..20),
            gone in proptest::collection::vec(0usize..256, 0..5),
            start in 0usize..256,
        ) {
            let mut bits = CoreBits::default();
            members.iter().for_each(|&n| bits.insert(n));
            gone.iter().for_each(|&n| bits.remove(n));
            let left: BTreeSet<usize> = members.into_iter().filter(|n| !gone.contains(n)).collect();
            prop_assert_eq!(bits.iter().collect::<BTreeSet<_>>(), left.clone());
            prop_assert_eq!(bits.is_empty(), left.is_empty());
            let next = left.range(start..).next().or(left.first()).copied();
            prop_assert_eq!(bits.next_from(start), next);
        }
    }
}
