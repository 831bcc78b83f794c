//! Names of cores.

use std::fmt;

/// A processor core that runs a reactor, numbered by its *place* in the configured core set (0, 1, 2, …),
/// not by the kernel's processor number. One byte: it is part of identifiers that travel in every message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub u8);

impl CoreId {
    /// Not a core: the sender of messages from threads that run no reactor. No mesh reaches this number.
    pub const OUTSIDE: CoreId = CoreId(u8::MAX);

    /// The place as an index into per-core tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}
