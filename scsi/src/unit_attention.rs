//! Unit attention conditions waiting for one I_T_L nexus (SPC-4 §5.14, SAM-5 §5.14).
//!
//! The queue is bounded: a condition that is already there is not added twice, and there is room for every
//! kind the target raises. What has to do with a reset goes first, the rest in order of arrival
//! (SAM-5 table on precedence of unit attention conditions).

use spindle_scsi_spec::Asc;

/// Conditions that wait, the next one first.
#[derive(Clone, Debug, Default)]
pub struct Attentions {
    queue: Vec<Asc>,
}

/// As many as there are kinds that the target raises; more is not needed and not kept.
const ATTENTIONS_MAX: usize = 16;

impl Attentions {
    /// Nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// A condition has come up.
    pub fn post(&mut self, asc: Asc) {
        if self.queue.contains(&asc) {
            return;
        }
        let at = self.queue.iter().position(|other| rank(*other) > rank(asc)).unwrap_or(self.queue.len());
        self.queue.insert(at, asc);
        self.queue.truncate(ATTENTIONS_MAX);
    }

    /// The next one.
    pub fn first(&self) -> Option<Asc> {
        self.queue.first().copied()
    }

    /// Takes the next one.
    pub fn take(&mut self) -> Option<Asc> {
        (!self.queue.is_empty()).then(|| self.queue.remove(0))
    }

    /// Takes one out that has become known in another way.
    pub fn clear(&mut self, asc: Asc) {
        self.queue.retain(|other| *other != asc);
    }

    /// Those that wait, for people.
    pub fn iter(&self) -> impl Iterator<Item = Asc> {
        self.queue.iter().copied()
    }
}

fn rank(asc: Asc) -> u8 {
    match (asc.code, asc.qualifier) {
        (0x29, 0x00..=0x04) => 0,
        (0x29, _) => 1,
        (0x2F, _) => 2,
        (0x28, _) => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_goes_before_what_came_earlier_and_nothing_waits_twice() {
        let mut q = Attentions::default();
        for asc in [
            Asc::CAPACITY_DATA_HAS_CHANGED,
            Asc::MODE_PARAMETERS_CHANGED,
            Asc::CAPACITY_DATA_HAS_CHANGED,
            Asc::POWER_ON_OR_RESET_OCCURRED,
        ] {
            q.post(asc);
        }
        let taken: Vec<_> = std::iter::from_fn(|| q.take()).collect();
        let order =
            [Asc::POWER_ON_OR_RESET_OCCURRED, Asc::CAPACITY_DATA_HAS_CHANGED, Asc::MODE_PARAMETERS_CHANGED];
        assert_eq!(taken, order);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut q = Attentions::default();
        (0..=255).for_each(|n| q.post(Asc::new(0x3F, n)));
        assert_eq!(q.len(), ATTENTIONS_MAX);
        q.post(Asc::POWER_ON_OR_RESET_OCCURRED);
        assert_eq!((q.len(), q.take()), (ATTENTIONS_MAX, Some(Asc::POWER_ON_OR_RESET_OCCURRED)));
    }
}
