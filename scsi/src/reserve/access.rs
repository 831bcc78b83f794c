//! Classes of commands, as reservations see them.

/// What a command is to a reservation: the rows of the tables of SPC-2 §5.5.1, SPC-4 §5.13.1 and SBC-3 §4.17
/// fall into these classes. Each opcode's class stands in its row of the opcode table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Access {
    /// Allowed whoever holds what: INQUIRY, REPORT LUNS, REQUEST SENSE, READ CAPACITY.
    Free = 0,
    /// Allowed under Write Exclusive types, a conflict under Exclusive Access types: READ, VERIFY, MODE SENSE.
    Read = 1,
    /// For holders, and registrants where the type shares: WRITE, SYNCHRONIZE CACHE, MODE SELECT.
    Write = 2,
    /// RESERVE(6), RESERVE(10).
    Reserve = 3,
    /// RELEASE(6), RELEASE(10).
    Release = 4,
    /// PERSISTENT RESERVE IN.
    PersistentIn = 5,
    /// PERSISTENT RESERVE OUT. What persistent reservations mean to it, its service actions decide.
    PersistentOut = 6,
    /// Allowed under every persistent reservation, a conflict with another nexus's RESERVE: TEST UNIT READY.
    Ready = 7,
}

/// The classes a nexus may use now: one bit each, so that the way of a command tests one bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AccessMask(pub u8);

impl AccessMask {
    /// No reservation stands in the way of anything.
    pub const ALL: AccessMask = AccessMask(0xFF);

    /// Whether every class is allowed.
    #[inline]
    pub const fn allows_all(self) -> bool {
        self.0 == AccessMask::ALL.0
    }

    /// Whether this class is allowed.
    #[inline]
    pub const fn allows(self, access: Access) -> bool {
        self.0 >> (access as u8) & 1 == 1
    }

    /// The same with one class added.
    #[must_use]
    pub const fn with(self, access: Access) -> AccessMask {
        AccessMask(self.0 | 1 << (access as u8))
    }

    /// The same with one class taken out.
    #[must_use]
    pub const fn without(self, access: Access) -> AccessMask {
        AccessMask(self.0 & !(1 << (access as u8)))
    }
}
