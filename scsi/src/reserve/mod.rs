//! Who may use a logical unit: persistent reservations (SPC-4 §5.13) and the older RESERVE and RELEASE of
//! SPC-2.
//!
//! All of it is one value, [`ReserveTable`]. The unit's home core holds it, and changes it only by the
//! functions of [`out`], which take the old table and give a new one, together with what others must be told
//! (unit attentions), whose tasks must go, and whether it must be on disk before the command is answered.
//! The new table is then published as it is to the other cores: it is immutable, so a reader needs no lock.
//!
//! What a command needs is less than the table. For each I_T nexus the table boils down to an
//! [`AccessMask`], one bit for each class of command
//! ([`ReserveTable::access_of`], in `check`), which is worked out once when a table arrives, not once per command.
//!
//! * `table`: the state and its invariants;
//! * `check`: from the table to what a nexus may do;
//! * [`out`]: PERSISTENT RESERVE OUT, RESERVE, RELEASE, what a reset and a lost nexus do;
//! * [`read`]: PERSISTENT RESERVE IN;
//! * [`persist`]: the form that survives a power cut (APTPL).

mod access;
mod check;
mod name;
pub mod out;
pub mod persist;
pub mod read;

mod table;

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) use name::nexus;

pub use access::{Access, AccessMask};
pub use name::NexusName;
pub use out::{Change, Refused};
pub use table::{REGISTRATIONS_MAX, Registration, Reservation, ReserveTable};
