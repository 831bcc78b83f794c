//! Registrations and the reservation of one logical unit.

use spindle_scsi_spec::reserve::ReservationType;

use super::name::NexusName;

/// Registrations one logical unit holds; the next one is refused with INSUFFICIENT REGISTRATION RESOURCES. One
/// costs a few hundred bytes (names of up to 256 bytes each), so a unit's table stays below 150 KiB. A cluster
/// registers once per initiator port and target port: 32 nodes with two ports each, over four target ports.
pub const REGISTRATIONS_MAX: usize = 256;

/// A reservation key that belongs to an I_T nexus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Whose it is.
    pub nexus: NexusName,
    /// RESERVATION KEY; never zero.
    pub key: u64,
}

/// The persistent reservation. Its scope is always the logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// What it keeps from others.
    pub kind: ReservationType,
    /// The reservation holder. `None` for the all-registrants types, where every registrant holds it.
    pub holder: Option<NexusName>,
}

/// All that decides who may use a logical unit. Immutable once published.
///
/// What always holds: registrations stand in ascending order of their names, each name once; a holder is
/// registered, and an all-registrants reservation has at least one registrant; an SPC-2 reservation and
/// registrations exclude each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReserveTable {
    pub(super) generation: u32,
    pub(super) registrations: Vec<Registration>,
    pub(super) reservation: Option<Reservation>,
    pub(super) legacy: Option<NexusName>,
    pub(super) aptpl: bool,
}

impl ReserveTable {
    /// Nobody is registered, nothing is reserved: a unit after power on.
    pub fn new() -> ReserveTable {
        ReserveTable::default()
    }

    /// Nothing here can stand in anybody's way.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.registrations.is_empty() && self.legacy.is_none()
    }

    /// PRGENERATION: counts changes of registrations.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// All registrations, in ascending order of their names.
    pub fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    /// The persistent reservation.
    pub fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    /// Who holds the unit by RESERVE(6) or RESERVE(10).
    pub fn legacy_holder(&self) -> Option<&NexusName> {
        self.legacy.as_ref()
    }

    /// Registrations and reservation survive a power cut: APTPL of the last registration was one.
    pub fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// The key this nexus has registered.
    pub fn key_of(&self, nexus: &NexusName) -> Option<u64> {
        self.place(nexus).ok().map(|at| self.registrations[at].key)
    }

    /// Whether this nexus is a holder of the persistent reservation.
    pub fn is_holder(&self, nexus: &NexusName) -> bool {
        self.reservation.as_ref().is_some_and(|r| match &r.holder {
            Some(holder) => holder == nexus,
            None => self.place(nexus).is_ok(),
        })
    }

    /// RESERVATION KEY as READ RESERVATION shows it: the holder's, nought for all-registrants types.
    pub(super) fn holder_key(&self) -> u64 {
        let holder = self.reservation.as_ref().and_then(|r| r.holder.as_ref());
        holder.and_then(|nexus| self.key_of(nexus)).unwrap_or(0)
    }

    /// Registers a nexus or changes its key. `false`: there is no room.
    pub(super) fn register(&mut self, nexus: &NexusName, key: u64) -> bool {
        debug_assert_ne!(key, 0);
        match self.place(nexus) {
            Ok(at) => self.registrations[at].key = key,
            Err(_) if self.registrations.len() >= REGISTRATIONS_MAX => return false,
            Err(at) => self.registrations.insert(at, Registration { nexus: nexus.clone(), key }),
        }
        true
    }

    /// Takes out the registrations that `goes` names, and gives their owners. A reservation that has no holder
    /// left is released.
    pub(super) fn unregister(&mut self, mut goes: impl FnMut(&Registration) -> bool) -> Vec<NexusName> {
        let mut gone = Vec::new();
        self.registrations.retain(|r| {
            let out = goes(r);
            if out {
                gone.push(r.nexus.clone());
            }
            !out
        });
        let held = self.reservation.as_ref().is_some_and(|r| match &r.holder {
            Some(holder) => self.place(holder).is_ok(),
            None => !self.registrations.is_empty(),
        });
        if !held {
            self.reservation = None;
        }
        gone
    }

    fn place(&self, nexus: &NexusName) -> Result<usize, usize> {
        self.registrations.binary_search_by(|r| r.nexus.cmp(nexus))
    }

    /// What the type's documentation says always holds.
    pub(super) fn is_sound(&self) -> bool {
        let ordered = self.registrations.windows(2).all(|w| w[0].nexus < w[1].nexus);
        let keyed = self.registrations.iter().all(|r| r.key != 0);
        let held = self.reservation.as_ref().is_none_or(|r| match &r.holder {
            Some(holder) => !r.kind.is_all_registrants() && self.place(holder).is_ok(),
            None => r.kind.is_all_registrants() && !self.registrations.is_empty(),
        });
        let exclusive = self.legacy.is_none() || self.registrations.is_empty();
        ordered && keyed && held && exclusive && self.registrations.len() <= REGISTRATIONS_MAX
    }
}
