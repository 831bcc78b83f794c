//! Which bytes of a transfer have been seen: disjoint ranges in order. In-order data keeps it at one range.

/// A set of byte positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    ranges: Vec<(u64, u64)>,
}

impl Coverage {
    /// Adds `start .. start + len`. False, and nothing is added, if a part of it is already there.
    pub(crate) fn add(&mut self, start: u32, len: u32) -> bool {
        let (start, end) = (u64::from(start), u64::from(start) + u64::from(len));
        if start == end {
            return true;
        }
        let at = self.ranges.partition_point(|&(_, have_end)| have_end < start);
        // `at` is the first range that touches or follows the new one.
        let mut merged = (start, end);
        let mut until = at;
        while let Some(&(have_start, have_end)) = self.ranges.get(until) {
            if have_start > end {
                break;
            }
            if have_start < end && have_end > start {
                return false;
            }
            merged = (merged.0.min(have_start), merged.1.max(have_end));
            until += 1;
        }
        self.ranges.splice(at..until, [merged]);
        true
    }

    /// How many positions are in.
    pub(crate) fn total(&self) -> u64 {
        self.ranges.iter().map(|&(start, end)| end - start).sum()
    }

    /// Whether the set is `0 .. total()`.
    pub(crate) fn is_prefix(&self) -> bool {
        matches!(self.ranges[..], [] | [(0, _)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn touching_ranges_become_one() {
        let mut coverage = Coverage::default();
        assert!(coverage.add(8, 4) && coverage.add(0, 4) && !coverage.is_prefix());
        assert!(coverage.add(4, 4) && coverage.is_prefix());
        assert_eq!(coverage.ranges, [(0, 12)]);
        assert!(!coverage.add(11, 2), "overlap by one byte");
        assert_eq!(coverage.total(), 12);
        assert!(coverage.add(u32::MAX, 1));
    }

    proptest! {
        #[test]
        fn coverage_agrees_with_a_table(steps in proptest::collection::vec((0u32..64, 0u32..16), 0..40)) {
            let (mut coverage, mut table) = (Coverage::default(), [false; 80]);
            for (start, len) in steps {
                let wanted = &mut table[start as usize..(start + len) as usize];
                let free = wanted.iter().all(|seen| !seen);
                prop_assert_eq!(coverage.add(start, len), free);
                if free {
                    wanted.fill(true);
                }
            }
            prop_assert_eq!(coverage.total(), table.iter().filter(|&&seen| seen).count() as u64);
            prop_assert!(coverage.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
