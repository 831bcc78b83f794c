//! The devices there are: names, identities, and who uses them.
//!
//! Owned by the control plane. Whoever wants to use a device *claims* it: alone, or beside others who share it
//! (several LUNs of one device, say). A device with a claim on it cannot be removed, and a claim is a value that
//! is given back, so that it cannot be given back twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::Bdev;

/// Beside whom a device is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimMode {
    /// Nobody else.
    Exclusive,
    /// Others who share it too.
    Shared,
}

/// The right to use a device. Give it back with [`Registry::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is dropped keeps its device for ever"]
pub struct Claim {
    name: String,
    number: u64,
}

impl Claim {
    /// The device.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why the registry refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No device of that name.
    #[error("there is no device {0}")]
    Unknown(String),
    /// Names are short and printable: they stand in configuration files and command lines.
    #[error("{0:?} is no device name: 1 to {NAME_BYTES_MAX} printable ASCII characters without blanks")]
    BadName(String),
    /// Another device has the name.
    #[error("there is a device {0} already")]
    NameTaken(String),
    /// Another device has the identity: initiators would take the two for one.
    #[error("device {by} has this UUID already")]
    UuidTaken {
        /// The other.
        by: String,
    },
    /// Somebody uses it.
    #[error("device {name} is in use by {by}")]
    Claimed {
        /// The device.
        name: String,
        /// Who has it.
        by: String,
    },
    /// As many as there may be.
    #[error("there are {DEVICES_MAX} devices, and no more are possible")]
    Full,
}

/// All devices, by name.
#[derive(Default)]
pub struct Registry {
    devices: BTreeMap<String, Entry>,
    claims_made: u64,
}

struct Entry {
    bdev: Arc<dyn Bdev>,
    uuid: [u8; 16],
    mode: ClaimMode,
    claims: Vec<(u64, String)>,
}

impl Registry {
    /// No devices.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a device under the name it has.
    pub fn add(&mut self, bdev: Arc<dyn Bdev>) -> Result<(), RegistryError> {
        let info = bdev.info();
        let (name, uuid) = (info.name, info.uuid);
        let printable = name.bytes().all(|b| b.is_ascii_graphic());
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !printable {
            return Err(RegistryError::BadName(name));
        }
        if self.devices.contains_key(&name) {
            return Err(RegistryError::NameTaken(name));
        }
        if let Some((by, _)) = self.devices.iter().find(|(_, entry)| entry.uuid == uuid) {
            return Err(RegistryError::UuidTaken { by: by.clone() });
        }
        if self.devices.len() == DEVICES_MAX {
            return Err(RegistryError::Full);
        }
        self.devices.insert(name, Entry { bdev, uuid, mode: ClaimMode::Shared, claims: Vec::new() });
        Ok(())
    }

    /// Takes a device out. It goes when nobody knows it any more.
    pub fn remove(&mut self, name: &str) -> Result<Arc<dyn Bdev>, RegistryError> {
        let entry = self.devices.get(name).ok_or_else(|| RegistryError::Unknown(name.into()))?;
        if let Some((_, by)) = entry.claims.first() {
            return Err(RegistryError::Claimed { name: name.into(), by: by.clone() });
        }
        Ok(self.devices.remove(name).expect("looked at above").bdev)
    }

    /// Takes the right to use a device; `by` is shown to others who want it.
    pub fn claim(
        &mut self,
        name: &str,
        mode: ClaimMode,
        by: &str,
    ) -> Result<(Arc<dyn Bdev>, Claim), RegistryError> {
        let entry = self.devices.get_mut(name).ok_or_else(|| RegistryError::Unknown(name.into()))?;
        if let Some((_, other)) = entry.claims.first()
            && (mode == ClaimMode::Exclusive || entry.mode == ClaimMode::Exclusive)
        {
            return Err(RegistryError::Claimed { name: name.into(), by: other.clone() });
        }
        self.claims_made += 1;
        entry.mode = mode;
        entry.claims.push((self.claims_made, by.into()));
        Ok((entry.bdev.clone(), Claim { name: name.into(), number: self.claims_made }))
    }

    /// Gives a claim back.
    pub fn release(&mut self, claim: Claim) {
        let entry = self.devices.get_mut(&claim.name);
        let claims = &mut entry.expect("a claimed device is not removed").claims;
        let before = claims.len();
        claims.retain(|(number, _)| *number != claim.number);
        assert!(claims.len() + 1 == before, "the claim on {} is of another registry", claim.name);
    }

    /// A device, to look at.
    pub fn find(&self, name: &str) -> Option<&Arc<dyn Bdev>> {
        self.devices.get(name).map(|entry| &entry.bdev)
    }

    /// Who uses a device. Empty: nobody, or there is none such.
    pub fn users(&self, name: &str) -> impl Iterator<Item = &str> {
        self.devices.get(name).into_iter().flat_map(|entry| entry.claims.iter().map(|(_, by)| by.as_str()))
    }

    /// All devices in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Bdev>> {
        self.devices.values().map(|entry| &entry.bdev)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// The longest name.
pub const NAME_BYTES_MAX: usize = 255;
/// More would not have channel numbers of their own.
pub const DEVICES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NullBdev, NullConfig};

    fn null(name: &str, id: u8) -> Arc<dyn Bdev> {
        let arena = spindle_mem::Arena::new(spindle_mem::ArenaConfig::plain(1 << 20, 1 << 20)).unwrap();
        let config = NullConfig {
            name: name.into(),
            uuid: [id; 16],
            block_bytes: 512,
            blocks: 8,
            physical_exponent: 0,
        };
        Arc::new(NullBdev::new(&arena, config).unwrap())
    }

    fn claimed(by: &str) -> RegistryError {
        RegistryError::Claimed { name: "a".into(), by: by.into() }
    }

    #[test]
    fn names_and_identities_are_given_once() {
        let mut r = Registry::new();
        r.add(null("a", 1)).unwrap();
        assert_eq!(r.add(null("a", 2)), Err(RegistryError::NameTaken("a".into())));
        assert_eq!(r.add(null("b", 1)), Err(RegistryError::UuidTaken { by: "a".into() }));
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(256)] {
            assert_eq!(r.add(null(bad, 3)), Err(RegistryError::BadName(bad.into())));
        }
        r.add(null(&"x".repeat(255), 4)).unwrap();
        r.remove("a").unwrap();
        r.add(null("a", 1)).unwrap();
        assert_eq!((r.len(), r.iter().next().unwrap().info().name), (2, "a".into()));
    }

    #[test]
    fn an_exclusive_claim_stands_alone() {
        let mut r = Registry::new();
        r.add(null("a", 1)).unwrap();
        let (_, claim) = r.claim("a", ClaimMode::Exclusive, "LUN 0").unwrap();
        for mode in [ClaimMode::Exclusive, ClaimMode::Shared] {
            assert_eq!(r.claim("a", mode, "LUN 1").err(), Some(claimed("LUN 0")));
        }
        assert_eq!(r.remove("a").err(), Some(claimed("LUN 0")));
        r.release(claim);
        let (_, claim) = r.claim("a", ClaimMode::Shared, "LUN 1").unwrap();
        assert_eq!(claim.name(), "a");
        r.release(claim);
        assert!(r.remove("a").is_ok() && r.is_empty());
    }

    #[test]
    fn shared_claims_stand_beside_each_other_and_keep_the_device_until_the_last() {
        let mut r = Registry::new();
        r.add(null("a", 1)).unwrap();
        let (_, one) = r.claim("a", ClaimMode::Shared, "one").unwrap();
        let (_, two) = r.claim("a", ClaimMode::Shared, "two").unwrap();
        assert_eq!(r.users("a").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(r.claim("a", ClaimMode::Exclusive, "three").err(), Some(claimed("one")));
        r.release(one);
        assert_eq!(r.remove("a").err(), Some(claimed("two")));
        r.release(two);
        let (_, three) = r.claim("a", ClaimMode::Exclusive, "three").unwrap();
        assert_eq!(r.claim("a", ClaimMode::Shared, "four").err(), Some(claimed("three")));
        r.release(three);
    }

    #[test]
    fn what_is_not_there_cannot_be_claimed_or_removed() {
        let mut r = Registry::new();
        assert_eq!(r.claim("a", ClaimMode::Shared, "me").err(), Some(RegistryError::Unknown("a".into())));
        assert_eq!(r.remove("a").err(), Some(RegistryError::Unknown("a".into())));
        assert!(r.find("a").is_none() && r.users("a").next().is_none());
    }
}
