//! I_T nexuses and I_T_L nexuses: who is connected, what each sees, and what waits for it.

use std::sync::Arc;

use spindle_mem::Sgv;
use spindle_scsi_port::{NexusId, NexusInfo, PortEffect, Refusal, TransportKind};
use spindle_scsi_spec::Asc;

use crate::config::LuId;
use crate::device_server::TargetPort;
use crate::engine::Engine;
use crate::message::{Request, RequestKind, ScsiMsg, Ticket};
use crate::reserve::{AccessMask, NexusName};
use crate::task::{AbortCause, NO_ITL, Slot, Tags};
use crate::task_set::TaskSet;
use crate::unit_attention::Attentions;

/// A session: one initiator port at one target port.
pub struct Nexus {
    /// Its name while commands may come from it; nought, which names nothing, otherwise.
    pub live: u32,
    /// Its name, or its last holder's.
    pub id: NexusId,
    /// In use.
    pub up: bool,
    /// The session has ended; its tasks are ending.
    pub lost: bool,
    /// Both ends, as the transport gave them.
    pub info: Arc<NexusInfo>,
    /// Both ends, as reservations know them.
    pub name: NexusName,
    /// The target's ports, for VPD pages.
    pub ports: Vec<TargetPort>,
    /// I_T_L nexus of each LUN ([`NO_ITL`]: none).
    pub luns: Vec<u16>,
    /// Its tasks: how many. (Which ones is asked so seldom that all rows are looked at.)
    pub tasks: u32,
    /// Their tags.
    pub tags: Tags,
    /// How many it was promised.
    pub granted: u32,
    /// Replies of homes it waits for before it is gone, or ready to come.
    pub parts: u32,
    /// It is about to come from another core, or has left for one: whatever homes keep for its name belongs to it there.
    pub elsewhere: bool,
    /// The last news of homes that the core it came from has told it of: units, and the epochs of their homes.
    pub told: Vec<(LuId, u32)>,
    /// Counters.
    pub stats: NexusStats,
}

/// Counters of a nexus.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NexusStats {
    /// Commands received.
    pub commands: u64,
    /// Commands that ended in CHECK CONDITION.
    pub checks: u64,
    /// Bytes sent to the initiator.
    pub read_bytes: u64,
    /// Bytes received from it.
    pub write_bytes: u64,
    /// Task management functions.
    pub tmfs: u64,
}

impl NexusStats {
    /// Adds what went the usual way.
    pub fn add_moved(&mut self, moved: &Moved) {
        self.read_bytes += moved.read_bytes;
        self.write_bytes += moved.received_bytes;
    }
}

/// What the usual way (the module `quick`) has moved through an I_T_L nexus. It joins the counters of nexus and
/// unit when somebody asks for them, and when the I_T_L nexus ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// READ commands ended.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// WRITE commands ended.
    pub writes: u64,
    /// Bytes they wrote.
    pub write_bytes: u64,
    /// Bytes received from the initiator, written or not.
    pub received_bytes: u64,
}

/// A nexus and one logical unit it sees.
pub struct Itl {
    /// In use.
    pub up: bool,
    /// Its LUN is mapped no longer; the last task takes it along.
    pub gone: bool,
    /// Slot of the nexus.
    pub nexus: u16,
    /// Its name.
    pub nexus_id: NexusId,
    /// The unit on this core.
    pub lu: u16,
    /// Its place in the unit's list.
    pub place: u16,
    /// The LUN.
    pub lun: u16,
    /// Writes are refused by the map.
    pub read_only: bool,
    /// What reservations allow it.
    pub access: AccessMask,
    /// Unit attentions that wait.
    pub attentions: Attentions,
    /// Its task set under TST 001b.
    pub set: TaskSet,
    /// Tasks alive.
    pub tasks: u32,
    /// Which flushes of the unit it has asked for without waiting ([`crate::flush`]).
    pub flushes: u8,
    /// Counters.
    pub moved: Moved,
}

impl Itl {
    fn new(nexus_id: NexusId, lu: u16, lun: u16, read_only: bool) -> Itl {
        Itl {
            up: true,
            gone: false,
            nexus: nexus_id.slot(),
            nexus_id,
            lu,
            place: 0,
            lun,
            read_only,
            access: AccessMask::ALL,
            attentions: Attentions::default(),
            set: TaskSet::default(),
            tasks: 0,
            flushes: 0,
            moved: Moved::default(),
        }
    }
}

/// TransportID of the initiator port (SPC-4 §7.6.4.6, format 01b: name, separator and ISID).
pub fn transport_id(info: &NexusInfo) -> Vec<u8> {
    match info.transport {
        TransportKind::Iscsi => {
            let mut text = info.initiator_name.as_bytes().to_vec();
            text.extend_from_slice(b",i,0x");
            for byte in info.initiator_session {
                for nibble in [byte >> 4, byte & 15] {
                    text.push(b"0123456789abcdef"[nibble as usize]);
                }
            }
            text.push(0);
            text.resize(text.len().next_multiple_of(4).max(20), 0);
            let mut id = vec![0x45, 0];
            id.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
            id.extend(text);
            id
        }
    }
}

fn port_of(info: &NexusInfo) -> TargetPort {
    let name = match info.transport {
        TransportKind::Iscsi => format!("{},t,0x{:04x}", info.target_name, info.target_port),
    };
    TargetPort { relative: info.target_port, group: 0, name }
}

impl Engine {
    /// The slot of a nexus that is up, unless the name is stale.
    #[inline]
    pub(crate) fn nexus_slot(&self, id: NexusId) -> Option<u16> {
        let nexus = self.nexuses.get(usize::from(id.slot()))?;
        (nexus.live == id.0 && id.0 != 0).then_some(id.slot())
    }

    pub(crate) fn nexus_id(&self, slot: u16) -> NexusId {
        self.nexuses[usize::from(slot)].id
    }

    pub(crate) fn nexus_begins(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal> {
        let slot = self.nexus_row(info, self.cfg.window_min)?;
        let nexus = &mut self.nexuses[usize::from(slot)];
        nexus.live = nexus.id.0;
        for itl in self.itls_of(slot) {
            // SAM-5 §6.3: to a nexus that is new, every unit has just been powered on.
            self.itls[itl].attentions.post(Asc::POWER_ON_OR_RESET_OCCURRED);
        }
        Ok(self.nexus_id(slot))
    }

    /// A row for a nexus that sees what its map shows, with so many tasks promised to it. No command comes from it yet.
    pub(crate) fn nexus_row(&mut self, info: Box<NexusInfo>, window: u32) -> Result<u16, Refusal> {
        let free = self.tasks.capacity().saturating_sub(self.cfg.immediate_share + self.granted);
        let units = self.maps.get(&info.lun_map).map_or(0, Vec::len);
        if free < window || units > self.itls_left() {
            return Err(Refusal::NoRoom);
        }
        let (info, name) = {
            let name = NexusName::new(&transport_id(&info), &info.target_name, info.target_port);
            (Arc::from(info), name)
        };
        let slot = match self.nexuses_free.pop() {
            Some(slot) => usize::from(slot),
            None if self.nexuses.len() < usize::from(self.cfg.nexuses_max) => {
                self.nexuses.push(Nexus {
                    live: 0,
                    id: NexusId::new(self.cfg.core.0, self.nexuses.len() as u16, 0),
                    up: false,
                    lost: false,
                    info: Arc::clone(&info),
                    name: name.clone(),
                    ports: Vec::new(),
                    luns: Vec::new(),
                    tasks: 0,
                    tags: Tags::default(),
                    granted: 0,
                    parts: 0,
                    elsewhere: false,
                    told: Vec::new(),
                    stats: NexusStats::default(),
                });
                self.nexuses.len() - 1
            }
            None => return Err(Refusal::NoRoom),
        };
        let ports = self.ports_of(&info);
        let nexus = &mut self.nexuses[slot];
        // Never nought: a name of noughts names nothing.
        let generation = nexus.id.generation().checked_add(1).unwrap_or(1);
        nexus.id = NexusId::new(self.cfg.core.0, slot as u16, generation);
        nexus.up = true;
        nexus.lost = false;
        nexus.elsewhere = false;
        nexus.told.clear();
        nexus.ports = ports;
        nexus.info = info;
        nexus.name = name;
        nexus.luns.clear();
        nexus.tags.clear();
        nexus.granted = window;
        nexus.stats = NexusStats::default();
        self.granted += window;
        self.promised += window;
        let slot = slot as u16;
        let map = self.nexuses[usize::from(slot)].info.lun_map;
        for entry in self.maps.get(&map).cloned().unwrap_or_default() {
            if let Some(lu) = self.lu_to_map(entry.lu) {
                self.itl_begins(slot, lu, entry.lun, entry.read_only);
            }
        }
        Ok(slot)
    }

    fn ports_of(&self, info: &NexusInfo) -> Vec<TargetPort> {
        let mut ports = self.target_ports.get(&info.target).cloned().unwrap_or_default();
        if ports.iter().all(|p| p.relative != info.target_port) {
            ports.push(port_of(info));
            ports.sort_unstable_by_key(|p| p.relative);
        }
        ports
    }

    /// The ports of a target, for VPD 88h and for registrations through all ports (ALL_TG_PT). Without this a
    /// target has the port that its nexus came through.
    pub fn set_target_ports(&mut self, target: u32, ports: Vec<TargetPort>) {
        self.target_ports.insert(target, ports);
        for nexus in 0..self.nexuses.len() {
            if self.nexuses[nexus].up && self.nexuses[nexus].info.target == target {
                self.nexuses[nexus].ports = self.ports_of(&self.nexuses[nexus].info);
            }
        }
    }

    /// Slots promised: the start window at once, more as long as the table has room beyond what is promised to
    /// others, kept for immediate commands, and kept for the start windows of nexuses that may still come. Of the first
    /// window that its transport asks for, a nexus that has sent nothing yet gets the less the scarcer they are: many who
    /// idle leave some to those who work. What was granted stays granted until the nexus ends.
    pub(crate) fn nexus_grant(&mut self, id: NexusId, wanted: u32) -> u32 {
        let Some(slot) = self.nexus_slot(id) else { return 0 };
        let up = (self.nexuses.len() - self.nexuses_free.len()) as u32;
        let to_come = u32::from(self.cfg.nexuses_max).saturating_sub(up) * self.cfg.window_min;
        let kept = self.cfg.immediate_share + self.granted + to_come;
        let room = self.tasks.capacity().saturating_sub(kept);
        let nexus = &mut self.nexuses[usize::from(slot)];
        let wanted = match nexus.stats.commands {
            // All of it while half of the table is left, a half of it while a quarter is, and so on.
            0 if wanted <= self.cfg.window_first => {
                wanted >> (self.tasks.capacity() / (2 * room + 1)).checked_ilog2().map_or(0, |n| n + 1)
            }
            _ => wanted,
        };
        let more = wanted.min(self.cfg.window_max).saturating_sub(nexus.granted).min(room);
        // Slots that it already uses beyond its old promise are within the new one.
        let used = nexus.tasks.saturating_sub(nexus.granted).min(more);
        nexus.granted += more;
        self.granted += more;
        self.promised += more - used;
        nexus.granted
    }

    /// The I_T_L nexuses of a nexus that commands can find.
    pub(crate) fn itls_of(&self, nexus: u16) -> Vec<usize> {
        let itls = self.nexuses[usize::from(nexus)].luns.iter();
        itls.filter(|itl| **itl != NO_ITL).map(|itl| usize::from(*itl)).collect()
    }

    /// How many I_T_L nexuses may still come.
    pub(crate) fn itls_left(&self) -> usize {
        self.itls_free.len() + usize::from(NO_ITL) - self.itls.len()
    }

    /// The caller has seen to it that there is room ([`Engine::itls_left`]).
    pub(crate) fn itl_begins(&mut self, nexus: u16, lu: u16, lun: u16, read_only: bool) -> u16 {
        let mut itl = Itl::new(self.nexus_id(nexus), lu, lun, read_only);
        itl.access = self.access_here(lu, nexus);
        let slot = match self.itls_free.pop() {
            Some(slot) => {
                self.itls[usize::from(slot)] = itl;
                slot
            }
            None => {
                assert!(self.itls.len() < usize::from(NO_ITL), "I_T_L nexuses have 16 bits");
                self.itls.push(itl);
                (self.itls.len() - 1) as u16
            }
        };
        let luns = &mut self.nexuses[usize::from(nexus)].luns;
        if luns.len() <= usize::from(lun) {
            luns.resize(usize::from(lun) + 1, NO_ITL);
        }
        luns[usize::from(lun)] = slot;
        let shard = self.lu_mut(lu);
        let place = shard.itls.len() as u16;
        shard.itls.push(slot);
        self.itls[usize::from(slot)].place = place;
        self.lu_join(lu);
        slot
    }

    /// The LUN is mapped no longer: no new task finds the I_T_L nexus, the last old one takes it along.
    pub(crate) fn itl_ends(&mut self, slot: u16) {
        let itl = &mut self.itls[usize::from(slot)];
        if itl.gone || !itl.up {
            return;
        }
        itl.gone = true;
        let (nexus, lun, idle) = (itl.nexus, itl.lun, itl.tasks == 0);
        let luns = &mut self.nexuses[usize::from(nexus)].luns;
        if luns.get(usize::from(lun)) == Some(&slot) {
            luns[usize::from(lun)] = NO_ITL;
        }
        if idle {
            self.itl_gone(slot);
        }
    }

    pub(crate) fn itl_gone(&mut self, slot: u16) {
        let itl = &mut self.itls[usize::from(slot)];
        debug_assert!(itl.gone && itl.tasks == 0 && itl.set.is_empty());
        itl.up = false;
        let (nexus, lu, place) = (itl.nexus, itl.lu, itl.place);
        let moved = std::mem::take(&mut itl.moved);
        self.nexuses[usize::from(nexus)].stats.add_moved(&moved);
        self.lu_mut(lu).stats.add_moved(&moved);
        let Nexus { name, elsewhere, .. } = &self.nexuses[usize::from(nexus)];
        let sees_it_again = self.lu(lu).itls.iter().any(|&other| {
            let other = &self.itls[usize::from(other)];
            other.up && !other.gone && other.nexus == nexus
        });
        if !elsewhere && !sees_it_again && self.lu(lu).policy.reserve.legacy_holder() == Some(name) {
            // Its LUN is mapped no longer: it could never RELEASE. Where it has been mapped again meanwhile, the reservation may
            // be one that was taken, or found still in force, since.
            let who = name.clone();
            self.tell_nexus_lost(lu, who);
        }
        self.itls_free.push(slot);
        let shard =
            self.lus[usize::from(lu)].as_deref_mut().expect("a unit stays while anything refers to it");
        self.nexuses[usize::from(nexus)].told.retain(|(unit, _)| *unit != shard.lu);
        let removed = shard.itls.swap_remove(usize::from(place));
        debug_assert_eq!(removed, slot, "an I_T_L nexus knows its place");
        if let Some(&moved) = shard.itls.get(usize::from(place)) {
            self.itls[usize::from(moved)].place = place;
        }
        self.lu_leave(lu);
    }

    /// The home of a unit is to forget what it keeps for a nexus as long as it is up.
    pub(crate) fn tell_nexus_lost(&mut self, lu: u16, who: NexusName) {
        let what = Box::new(Request { who, since: u64::MAX, kind: RequestKind::NexusLost });
        let shard = self.lu(lu);
        let (lu, home) = (shard.lu, shard.home);
        self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Nobody, what });
    }

    /// The session has ended: its tasks end without an answer.
    pub(crate) fn nexus_ends(&mut self, id: NexusId) {
        let Some(slot) = self.nexus_slot(id) else { return };
        self.nexuses[usize::from(slot)].lost = true;
        self.nexuses[usize::from(slot)].live = 0;
        self.forget_tmfs(slot);
        // Most have none, and to find that out all rows would be looked at.
        if self.nexuses[usize::from(slot)].tasks > 0 {
            for task in self.tasks_of(slot) {
                self.abort(task, AbortCause::NexusLoss, false);
            }
        }
        self.nexus_idle(slot);
    }

    /// Called as the last task of a lost nexus ends: what units keep for it goes, then the nexus.
    pub(crate) fn nexus_idle(&mut self, slot: u16) {
        let nexus = &self.nexuses[usize::from(slot)];
        if !nexus.up || !nexus.lost || nexus.tasks != 0 || nexus.parts != 0 {
            return;
        }
        // SPC-2 §5.5.1: a RESERVE ends with its nexus. The homes answer before the name may come back.
        // Without tasks it has no I_T_L nexuses but those of its map.
        for at in 0..self.nexuses[usize::from(slot)].luns.len() {
            let nexus = &self.nexuses[usize::from(slot)];
            let Some(itl) = self.itls.get(usize::from(nexus.luns[at])) else { continue };
            let name = &nexus.name;
            if self.lu(itl.lu).policy.reserve.legacy_holder() == Some(name) {
                let what =
                    Box::new(Request { who: name.clone(), since: u64::MAX, kind: RequestKind::NexusLost });
                let shard = self.lu(itl.lu);
                let (lu, home) = (shard.lu, shard.home);
                self.nexuses[usize::from(slot)].parts += 1;
                self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Nexus(slot), what });
            }
        }
        if self.nexuses[usize::from(slot)].parts == 0 {
            self.nexus_gone(slot);
        }
    }

    /// A home has forgotten the nexus, or knows that it is expected here.
    pub(crate) fn nexus_part_done(&mut self, slot: u16) {
        let nexus = &mut self.nexuses[usize::from(slot)];
        nexus.parts -= 1;
        if nexus.parts > 0 {
            return;
        }
        if nexus.lost {
            self.nexus_gone(slot);
        } else if nexus.elsewhere {
            self.fx.port.push(PortEffect::NexusReady { nexus: self.nexus_id(slot) });
        }
    }

    pub(crate) fn nexus_gone(&mut self, slot: u16) {
        let id = self.nexus_id(slot);
        for itl in std::mem::take(&mut self.nexuses[usize::from(slot)].luns) {
            if itl != NO_ITL {
                self.itl_ends(itl);
            }
        }
        debug_assert!(!self.itls.iter().any(|itl| itl.up && itl.nexus == slot));
        let nexus = &mut self.nexuses[usize::from(slot)];
        debug_assert!(nexus.tasks == 0);
        nexus.up = false;
        self.nexuses_free.push(slot);
        self.granted -= nexus.granted;
        self.promised -= nexus.granted;
        nexus.granted = 0;
        if !nexus.elsewhere {
            self.fx.port.push(PortEffect::NexusGone { nexus: id });
        }
    }

    /// The tasks of a nexus, oldest first.
    pub(crate) fn tasks_of(&self, nexus: u16) -> Vec<Slot> {
        let mut slots: Vec<Slot> =
            self.tasks.iter().filter(|(_, task)| task.nexus == nexus).map(|(slot, _)| slot).collect();
        slots.sort_unstable_by_key(|&slot| self.tasks.peek(slot).seq);
        slots
    }

    /// Memory comes home.
    #[inline]
    pub(crate) fn put(&mut self, buf: Sgv) {
        self.pool.put(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_id_is_name_separator_and_isid_padded() {
        let info = NexusInfo {
            transport: TransportKind::Iscsi,
            initiator_name: "iqn.a:b".into(),
            initiator_session: [0x40, 0, 0, 0, 0x12, 0xAB],
            target_name: String::new(),
            target: 0,
            target_port: 1,
            lun_map: 0,
            peer_address: String::new(),
        };
        let id = transport_id(&info);
        assert_eq!(id[..4], [0x45, 0, 0, 28]);
        assert_eq!(&id[4..], b"iqn.a:b,i,0x4000000012ab\0\0\0\0");
    }
}
