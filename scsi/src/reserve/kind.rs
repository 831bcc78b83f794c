//! Types of persistent reservations.

/// TYPE of a persistent reservation (SPC-4 §6.15.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReservationType {
    /// Everybody reads, the holder writes.
    WriteExclusive = 1,
    /// The holder reads and writes.
    ExclusiveAccess = 3,
    /// Everybody reads, registrants write.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registrants read and write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Everybody reads, registrants write, and all of them are holders.
    WriteExclusiveAllRegistrants = 7,
    /// Registrants read and write, and all of them are holders.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// The type with this code.
    pub const fn from_code(code: u8) -> Option<ReservationType> {
        Some(match code {
            1 => ReservationType::WriteExclusive,
            3 => ReservationType::ExclusiveAccess,
            5 => ReservationType::WriteExclusiveRegistrantsOnly,
            6 => ReservationType::ExclusiveAccessRegistrantsOnly,
            7 => ReservationType::WriteExclusiveAllRegistrants,
            8 => ReservationType::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Its code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Registrants have the holder's rights, but one nexus holds it.
    pub const fn is_registrants_only(self) -> bool {
        matches!(self.code(), 5 | 6)
    }

    /// Every registrant holds it.
    pub const fn is_all_registrants(self) -> bool {
        matches!(self.code(), 7 | 8)
    }

    /// Reading is kept from others, too.
    pub const fn is_exclusive_access(self) -> bool {
        matches!(self.code(), 3 | 6 | 8)
    }
}
