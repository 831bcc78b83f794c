//! SAM-5 §5.3.1: the status codes that end a command.

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Sense data tells more.
    CheckCondition = 0x02,
    /// PRE-FETCH: everything fits into the cache.
    ConditionMet = 0x04,
    /// Not now; the logical unit has no room or is occupied.
    Busy = 0x08,
    /// The access collides with a reservation of another I_T nexus.
    ReservationConflict = 0x18,
    /// The task set of this nexus has no free place.
    TaskSetFull = 0x28,
    /// An auto contingent allegiance exists.
    AcaActive = 0x30,
    /// Aborted by somebody else, and TAS is one.
    TaskAborted = 0x40,
}

impl Status {
    /// The status with this code; `None` for reserved and obsolete codes (INTERMEDIATE among them).
    pub const fn from_code(code: u8) -> Option<Status> {
        Some(match code {
            0x00 => Status::Good,
            0x02 => Status::CheckCondition,
            0x04 => Status::ConditionMet,
            0x08 => Status::Busy,
            0x18 => Status::ReservationConflict,
            0x28 => Status::TaskSetFull,
            0x30 => Status::AcaActive,
            0x40 => Status::TaskAborted,
            _ => return None,
        })
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_names_at_most_one_status_and_back() {
        let known = (0..=u8::MAX)
            .filter_map(Status::from_code)
            .inspect(|s| assert_eq!(Status::from_code(s.code()), Some(*s)));
        assert_eq!(known.count(), 8);
    }
}
