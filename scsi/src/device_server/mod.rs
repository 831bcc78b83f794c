//! What a logical unit answers: one row per opcode, pure functions for describing commands, and small state
//! machines for those that move data.
//!
//! **The inner seam.** A describing command (INQUIRY, MODE SENSE, READ CAPACITY, …) is a plain function of
//! type [`Describe`]: it sees the CDB and a [`LuView`], writes *all* it has to say into a bounded [`Emit`]
//! and returns the ALLOCATION LENGTH of its CDB, or the sense that refuses the command. The engine cuts the
//! result (SPC-4 §4.2.5.6), computes residuals and finds memory. Such a function holds no state and changes
//! nothing.
//!
//! The engine has already done, before any of them is called: opcode and service action known ([`OpRow`]),
//! bits outside the usage map refused, unit attention and reservation honoured.
//!
//! Commands that change policy (MODE SELECT, RESERVE, PERSISTENT RESERVE OUT) are performed at the unit's
//! home core, on the whole parameter list, by functions that take the old policy and return the new one with
//! what must be told to others.

pub mod disk;
pub mod table;

pub mod capacity;
pub mod inquiry;
pub mod limits;
pub mod mode;
pub mod report;

#[cfg(test)]
mod conversations;
#[cfg(test)]
pub(crate) mod fixture;

use spindle_bdev::BdevInfo;
use spindle_scsi_port::NexusInfo;
use spindle_scsi_spec::{Asc, Emit, FieldError, Sense, SenseKey};

use crate::config::{LuIdentity, LunEntry};
use crate::device_server::mode::ModePages;
use crate::reserve::{Access, ReserveTable};

/// Everything a describing command may look at. All of it stands still while the command looks.
pub struct LuView<'a> {
    /// Size and abilities of the device as they are now.
    pub info: &'a BdevInfo,
    /// Names.
    pub identity: &'a LuIdentity,
    /// Current, default, saved and changeable mode pages.
    pub modes: &'a ModePages,
    /// Registrations and reservation, a snapshot.
    pub reserve: &'a ReserveTable,
    /// Who asks, through which target port.
    pub nexus: &'a NexusInfo,
    /// The target ports of the target that is asked; the one of `nexus` is among them.
    pub ports: &'a [TargetPort],
    /// Largest transfer of one command in bytes (whole logical blocks of it count for VPD B0h).
    pub transfer_bytes_max: u32,
    /// Writes are refused for this nexus: by the device, by the unit, by the LUN map. (SWP of the control mode
    /// page comes on top and is read from `modes`.)
    pub read_only: bool,
    /// One task set for all nexuses (TST 000b) in place of one for each (TST 001b).
    pub tst_shared: bool,
    /// What is to survive a power cut can be stored (PTPL_C, saved mode pages).
    pub can_store: bool,
}

/// A target port, as VPD 83h and 88h name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetPort {
    /// Relative target port identifier.
    pub relative: u16,
    /// Target port group (asymmetric access) it belongs to.
    pub group: u16,
    /// SCSI name string of the port: for iSCSI `iqn…,t,0x0001`.
    pub name: String,
}

/// A describing command: emits everything, returns the ALLOCATION LENGTH of the CDB.
pub type Describe = fn(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense>;

/// What REPORT LUNS sees: it belongs to the target, not to a unit.
pub struct LunsView<'a> {
    /// The map of the nexus that asks, in ascending order.
    pub luns: &'a [LunEntry],
}

/// One opcode (and service action, where there are several).
///
/// `device_server::table` holds them all; `table::lookup(cdb) -> Result<&'static OpRow, Sense>` finds one
/// by a single index (two with a service action) and answers what is not there: INVALID COMMAND OPERATION CODE
/// for an opcode, INVALID FIELD IN CDB with a field pointer for a service action.
#[derive(Debug)]
pub struct OpRow {
    /// The command's name in the standards.
    pub name: &'static str,
    /// Operation code.
    pub opcode: u8,
    /// Service action, for opcodes that have them.
    pub service_action: Option<u16>,
    /// CDB usage data (SPC-4 §6.34.3): as long as the CDB, a one for each bit that is looked at; byte 0 is the
    /// opcode itself. A CDB with a one where the map has a nought is refused with INVALID FIELD IN CDB and a
    /// field pointer, so fields that are not supported (RDPROTECT, NACA) need no further code.
    pub usage: &'static [u8],
    /// The bits outside the usage map, of the first sixteen bytes at once: see [`forbidden`].
    pub forbidden: u128,
    /// Which reservations stand in its way.
    pub access: Access,
    /// What a pending unit attention does to it.
    pub attention: Attention,
    /// It goes before all others of its task set whatever its attribute (SAM-5 §8.6 allows it for commands
    /// that neither move user data nor change anything).
    pub head_of_queue: bool,
    /// What the unit must be able to do; without it the opcode is unknown.
    pub needs: Needs,
    /// What the engine does with it.
    pub exec: Exec,
}

/// What a pending unit attention does to a command (SPC-4 §5.14, SAM-5 §5.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attention {
    /// The command is answered with it.
    Reports,
    /// The command goes on and the condition stays (INQUIRY, REPORT LUNS).
    Passes,
    /// The command returns it as its data (REQUEST SENSE).
    Returns,
}

/// What a unit must be able to do for an opcode to exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing special.
    Nothing,
    /// Deallocation ([`BdevInfo::unmap`]).
    Unmap,
}

/// How the engine performs a command.
#[derive(Clone, Copy, Debug)]
pub enum Exec {
    /// A plain function of the view.
    Describe(Describe),
    /// REPORT LUNS: [`report::report_luns`] with the map of the nexus.
    ReportLuns,
    /// REQUEST SENSE: takes a pending unit attention.
    RequestSense,
    /// TEST UNIT READY.
    TestUnitReady,
    /// READ(6/10/12/16).
    Read,
    /// WRITE(6/10/12/16).
    Write,
    /// WRITE AND VERIFY(10/12/16).
    WriteAndVerify,
    /// VERIFY(10/12/16).
    Verify,
    /// PRE-FETCH(10/16).
    PreFetch,
    /// COMPARE AND WRITE.
    CompareAndWrite,
    /// WRITE SAME(10/16).
    WriteSame,
    /// UNMAP.
    Unmap,
    /// SYNCHRONIZE CACHE(10/16).
    SynchronizeCache,
    /// GET LBA STATUS.
    LbaStatus,
    /// START STOP UNIT.
    StartStop,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    PreventAllow,
    /// MODE SELECT(6/10).
    ModeSelect,
    /// RESERVE(6/10).
    Reserve,
    /// RELEASE(6/10).
    Release,
    /// PERSISTENT RESERVE OUT.
    PersistentOut,
    /// No command any more: the unit says no, with this, to one that was let in before it could know.
    Refused(SenseKey, Asc),
}

/// The bits that are nought in a usage map, as a number to test sixteen bytes of a CDB with. Bytes beyond the map
/// are no part of the command.
pub const fn forbidden(usage: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let mut n = 0;
    while n < usage.len() && n < bytes.len() {
        bytes[n] = !usage[n];
        n += 1;
    }
    u128::from_le_bytes(bytes)
}

impl OpRow {
    /// Whether a CDB that is no longer than this has ones only where the usage map has them.
    #[inline]
    pub fn allows(&self, cdb: &[u8; 16]) -> bool {
        u128::from_le_bytes(*cdb) & self.forbidden == 0
    }
}

/// INVALID FIELD IN CDB with a field pointer, if `cdb` has ones outside the row's usage map.
#[inline]
pub fn check_usage(row: &OpRow, cdb: &[u8]) -> Result<(), Sense> {
    match cdb.first_chunk::<16>() {
        Some(cdb) if row.allows(cdb) && row.usage.len() <= 16 => Ok(()),
        _ => check_bytes(row, cdb),
    }
}

#[cold]
fn check_bytes(row: &OpRow, cdb: &[u8]) -> Result<(), Sense> {
    if cdb.len() < row.usage.len() {
        return Err(Sense::invalid_field_in_cdb(FieldError::byte(cdb.len() as u16)));
    }
    let inside = cdb.iter().zip(row.usage).all(|(byte, map)| byte & !map == 0);
    if inside { Ok(()) } else { Err(outside_usage(row, cdb)) }
}

#[cold]
fn outside_usage(row: &OpRow, cdb: &[u8]) -> Sense {
    let wrong = |(at, (byte, map)): (usize, (&u8, &u8))| {
        let wrong = byte & !map;
        (wrong != 0).then(|| FieldError::bit(at as u16, 7 - wrong.leading_zeros() as u8))
    };
    let at = cdb.iter().zip(row.usage).enumerate().find_map(wrong);
    Sense::invalid_field_in_cdb(at.unwrap_or(FieldError::byte(0)))
}

impl Exec {
    /// The command changes user data.
    #[inline]
    pub const fn writes_medium(&self) -> bool {
        matches!(
            self,
            Exec::Write | Exec::WriteAndVerify | Exec::CompareAndWrite | Exec::WriteSame | Exec::Unmap
        )
    }

    /// The command looks at snapshots only and is answered at once.
    #[inline]
    pub const fn describes(&self) -> bool {
        matches!(
            self,
            Exec::Describe(_)
                | Exec::ReportLuns
                | Exec::RequestSense
                | Exec::TestUnitReady
                | Exec::PreventAllow
        )
    }

    /// The command is decided by the unit's home core.
    #[inline]
    pub const fn asks_home(&self) -> bool {
        matches!(self, Exec::ModeSelect | Exec::Reserve | Exec::Release | Exec::PersistentOut)
    }
}
