//! What outlives the process: persistent reservations (APTPL) and saved mode pages, a file each for a unit.
//!
//! A core hands the bytes to the thread of this module, which writes a new file beside the old one, makes it durable,
//! renames it, makes the name durable, and only then reports back; the command that waits for it is answered after
//! that. So a power cut leaves the old state or the new one, never something between.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use spindle_scsi::{LuId, Stored};

use crate::control::bdevs::format_uuid;

/// What is stored for one unit is small; a larger file is not ours.
const BYTES_MAX: u64 = 1 << 20;

/// The state folder.
pub struct Store {
    folder: PathBuf,
    units: Mutex<HashMap<u32, [u8; 16]>>,
}

impl Store {
    /// Opens (makes) the folder, readable by nobody else.
    pub fn open(folder: &Path) -> io::Result<Store> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Whether files can be made is better known now than when a reservation waits for it.
        let probe = folder.join(format!(".probe-{}", std::process::id()));
        File::create(&probe).and_then(|_| std::fs::remove_file(&probe))?;
        Ok(Store { folder: folder.into(), units: Mutex::default() })
    }

    /// Unit numbers change from start to start, identities do not.
    pub fn know(&self, lu: u32, uuid: [u8; 16]) {
        self.units.lock().expect("nothing panics while it holds the table").insert(lu, uuid);
    }

    fn path(&self, uuid: &[u8; 16], what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", format_uuid(uuid)))
    }

    /// What was stored for an identity.
    pub fn load(&self, uuid: &[u8; 16], what: &str) -> Option<Box<[u8]>> {
        let path = self.path(uuid, what);
        let length = std::fs::metadata(&path).ok()?.len();
        if length > BYTES_MAX {
            tracing::error!(path = %path.display(), length, "not a state file of ours: ignored");
            return None;
        }
        match std::fs::read(&path) {
            Ok(bytes) => Some(bytes.into_boxed_slice()),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "state cannot be read");
                None
            }
        }
    }

    /// Stores bytes for a unit, durably.
    pub fn save(&self, lu: LuId, what: Stored, bytes: &[u8]) -> io::Result<()> {
        let uuid = self.units.lock().expect("nothing panics while it holds the table").get(&lu.0).copied();
        let uuid = uuid.ok_or_else(|| io::Error::other("no such unit"))?;
        let what = match what {
            Stored::Reservations => "reservations",
            Stored::Modes => "modes",
        };
        let path = self.path(&uuid, what);
        let new = path.with_extension(format!("{what}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_under_its_identity_whatever_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        store.know(7, [9; 16]);
        store.save(LuId(7), Stored::Reservations, b"one").unwrap();
        store.save(LuId(7), Stored::Reservations, b"two").unwrap();
        assert!(store.save(LuId(8), Stored::Modes, b"x").is_err());
        let again = Store::open(&dir.path().join("state")).unwrap();
        assert_eq!(again.load(&[9; 16], "reservations").as_deref(), Some(&b"two"[..]));
        assert_eq!(again.load(&[9; 16], "modes"), None);
    }

    #[test]
    fn a_file_that_cannot_be_ours_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = store.path(&[1; 16], "modes");
        File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(store.load(&[1; 16], "modes"), None);
    }
}
