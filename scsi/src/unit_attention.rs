//! Unit attention conditions waiting for one I_T_L nexus (SPC-4 §5.14, SAM-5 §5.14), and the deferred error that may
//! wait among them (SPC-4 §4.5.7).
//!
//! The queue is bounded: a condition that is already there is not added twice, and there is room for every
//! kind the target raises. What has to do with a reset goes first, the rest in order of arrival
//! (SAM-5 table on precedence of unit attention conditions). A deferred error is told as a unit attention is: by the
//! next command that is not one of those that pass them by, or by REQUEST SENSE.

use spindle_scsi_spec::{Asc, Sense};

/// Conditions that wait, the next one first.
#[derive(Clone, Debug, Default)]
pub struct Attentions {
    queue: Vec<Sense>,
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
        self.insert(Sense::unit_attention(asc));
    }

    /// Something that was answered GOOD has failed afterwards. One such error waits at a time: the first says that data
    /// may be lost, and a second would say no more.
    pub fn defer(&mut self, error: Sense) {
        if !self.queue.iter().any(Sense::is_deferred) {
            self.insert(error.deferred());
        }
    }

    /// Those that wait, the next one first.
    pub fn waiting(&self) -> &[Sense] {
        &self.queue
    }

    /// Puts those that waited elsewhere before what has come up here; what came up in both places waits once.
    pub fn after(&mut self, elsewhere: Vec<Sense>) {
        for sense in elsewhere.into_iter().chain(std::mem::take(&mut self.queue)) {
            if !sense.is_deferred() || !self.queue.iter().any(Sense::is_deferred) {
                self.insert(sense);
            }
        }
    }

    fn insert(&mut self, sense: Sense) {
        if self.queue.contains(&sense) {
            return;
        }
        let behind = |other: &Sense| rank(other) > rank(&sense);
        let at = self.queue.iter().position(behind).unwrap_or(self.queue.len());
        self.queue.insert(at, sense);
        if self.queue.len() > ATTENTIONS_MAX {
            // Never the error: nothing else speaks of lost data.
            let last = self.queue.iter().rposition(|s| !s.is_deferred()).expect("one error waits at a time");
            self.queue.remove(last);
        }
    }

    /// The next one.
    pub fn first(&self) -> Option<Sense> {
        self.queue.first().copied()
    }

    /// Takes the next one.
    pub fn take(&mut self) -> Option<Sense> {
        (!self.queue.is_empty()).then(|| self.queue.remove(0))
    }

    /// Takes one out that has become known in another way.
    pub fn clear(&mut self, asc: Asc) {
        self.queue.retain(|other| *other != Sense::unit_attention(asc));
    }
}

fn rank(sense: &Sense) -> u8 {
    match (sense.asc.code, sense.asc.qualifier) {
        (0x29, 0x00..=0x04) => 0,
        (0x29, _) => 1,
        (0x2F, _) => 2,
        (0x28, _) => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use spindle_scsi_spec::SenseKey;

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
        let taken: Vec<_> = std::iter::from_fn(|| q.take()).map(|s| s.asc).collect();
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
        let reset = Sense::unit_attention(Asc::POWER_ON_OR_RESET_OCCURRED);
        assert_eq!((q.len(), q.take()), (ATTENTIONS_MAX, Some(reset)));
    }

    #[test]
    fn a_deferred_error_waits_behind_resets_and_is_never_crowded_out() {
        let mut q = Attentions::default();
        let lost = Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR);
        q.post(Asc::MODE_PARAMETERS_CHANGED);
        q.defer(lost);
        q.defer(Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE));
        q.post(Asc::POWER_ON_OR_RESET_OCCURRED);
        let taken: Vec<_> = std::iter::from_fn(|| q.take()).collect();
        let attention = Sense::unit_attention;
        assert_eq!(
            taken,
            [
                attention(Asc::POWER_ON_OR_RESET_OCCURRED),
                attention(Asc::MODE_PARAMETERS_CHANGED),
                lost.deferred()
            ]
        );
        (0..100).for_each(|n| q.post(Asc::new(0x3F, n)));
        q.defer(lost);
        (100..200).for_each(|n| q.post(Asc::new(0x29, n)));
        assert_eq!(q.len(), ATTENTIONS_MAX);
        assert!(std::iter::from_fn(|| q.take()).any(|s| s == lost.deferred()));
    }
}
