//! A nexus moves to the engine of another core, while nothing of it is in flight (`docs/design/0005-moving-sessions.md`).
//!
//! For a moment both engines have it: the new one as *expected*, with its I_T_L nexuses, so that it is a member of every
//! unit concerned, and the old one until it is packed. The new one asks each home to *settle* (a request that only waits
//! its turn) and is ready when all have answered. So of every change of policy one of two things is true:
//!
//! - its job was over before the home settled: every member had acknowledged it, the old core among them, so its unit
//!   attention is with the old nexus and is packed; and its policy is in force on the new core.
//! - it began later: then the new core is a member and hears of it itself.
//!
//! What both have heard waits once ([`crate::unit_attention::Attentions::after`]). Of one piece of news at most, the last
//! of a unit, the old core may have heard before the nexus left and the new one not before it has come; it travels by
//! its number, so that it is not told twice.
//!
//! What the control plane changes (sizes, names, LUN maps) reaches cores at different moments and by no home. That is
//! compared: what the nexus saw on the old core against what it sees on the new one.
//!
//! Registrations and reservations belong to the nexus by its name ([`crate::reserve::NexusName`]), which does not change;
//! homes keep what they have, whichever core the nexus is on.

use std::hash::{DefaultHasher, Hash, Hasher};

use spindle_scsi_port::{NexusId, NexusInfo, PackedLun, PackedNexus, PortEffect, Refusal};
use spindle_scsi_spec::Asc;

use crate::config::{LuId, LuIdentity};
use crate::engine::Engine;
use crate::message::{Request, RequestKind, ScsiMsg, Ticket};
use crate::nexus::NexusStats;
use crate::planted::{self, Bug};
use crate::task::NO_ITL;

/// So many may be expected at a time: the others stay where they are.
const EXPECTED_MAX: usize = 16;

impl Engine {
    /// Who stands at the ends of a nexus, and what it was promised, if nothing of it is in flight.
    pub(crate) fn nexus_may_leave(&self, id: NexusId) -> Option<(Box<NexusInfo>, u32)> {
        let slot = self.nexus_slot(id)?;
        let nexus = &self.nexuses[usize::from(slot)];
        // A flush that it did not wait for may still have to tell it of an error.
        let flushes = self.itls_of(slot).into_iter().any(|itl| self.itls[itl].flushes != 0);
        let idle = nexus.tasks == 0 && nexus.parts == 0 && !flushes && !self.watches.has_tmfs_of(id);
        idle.then(|| (Box::new((*nexus.info).clone()), nexus.granted))
    }

    /// A nexus of another core is about to come.
    pub(crate) fn nexus_expected(&mut self, info: Box<NexusInfo>, granted: u32) -> Result<NexusId, Refusal> {
        let expected = self.nexuses.iter().filter(|n| n.up && n.elsewhere).count();
        let up = (self.nexuses.len() - self.nexuses_free.len()) as u32;
        // Those who may still log in keep their start windows, as they do when a window grows.
        let to_come = u32::from(self.cfg.nexuses_max).saturating_sub(up + 1) * self.cfg.window_min;
        let kept = self.cfg.immediate_share + self.granted + to_come;
        if expected >= EXPECTED_MAX || self.tasks.capacity().saturating_sub(kept) < granted {
            return Err(Refusal::NoRoom);
        }
        let slot = self.nexus_row(info, granted)?;
        self.nexuses[usize::from(slot)].elsewhere = true;
        let mut units: Vec<u16> = self.itls_of(slot).into_iter().map(|itl| self.itls[itl].lu).collect();
        units.sort_unstable();
        units.dedup();
        self.nexuses[usize::from(slot)].parts = units.len() as u32;
        for &unit in &units {
            let who = self.nexuses[usize::from(slot)].name.clone();
            let what = Box::new(Request { who, since: u64::MAX, kind: RequestKind::Settle });
            let (lu, home) = (self.lu(unit).lu, self.lu(unit).home);
            self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Nexus(slot), what });
        }
        let nexus = self.nexus_id(slot);
        if units.is_empty() {
            self.fx.port.push(PortEffect::NexusReady { nexus });
        }
        Ok(nexus)
    }

    /// The slot of a nexus that is expected and has not come.
    fn expected_slot(&self, id: NexusId) -> Option<u16> {
        let nexus = self.nexuses.get(usize::from(id.slot()))?;
        (nexus.up && nexus.elsewhere && !nexus.lost && nexus.id == id).then_some(id.slot())
    }

    /// It does not come.
    pub(crate) fn nexus_not_expected(&mut self, id: NexusId) {
        let Some(slot) = self.expected_slot(id) else { return };
        let nexus = &mut self.nexuses[usize::from(slot)];
        nexus.lost = true;
        // Homes that have not answered yet name the row: it stays until they have.
        if nexus.parts == 0 {
            self.nexus_gone(slot);
        }
    }

    /// A nexus leaves for the core that expects it.
    pub(crate) fn nexus_packed(&mut self, id: NexusId) -> Option<PackedNexus> {
        self.nexus_may_leave(id)?;
        let slot = id.slot();
        let mut luns = Vec::new();
        for at in self.itls_of(slot) {
            let itl = &self.itls[at];
            let shard = self.lu(itl.lu);
            luns.push(PackedLun {
                lun: itl.lun,
                lu: shard.lu.0,
                read_only: itl.read_only,
                blocks: shard.info.blocks,
                block_bytes: shard.info.block_bytes,
                identity: digest(&shard.identity),
                news: shard.news,
                attentions: itl.attentions.waiting().to_vec(),
            });
        }
        let nexus = &mut self.nexuses[usize::from(slot)];
        (nexus.live, nexus.lost, nexus.elsewhere) = (0, true, true);
        // What went the usual way joins the counters as the I_T_L nexuses end.
        self.nexus_gone(slot);
        let NexusStats { commands, checks, read_bytes, write_bytes, tmfs } =
            self.nexuses[usize::from(slot)].stats;
        Some(PackedNexus { commands, checks, read_bytes, write_bytes, tmfs, luns })
    }

    /// A nexus that was expected has come.
    pub(crate) fn nexus_unpacked(&mut self, id: NexusId, packed: PackedNexus) {
        let Some(slot) = self.expected_slot(id) else { return };
        let PackedNexus { commands, checks, read_bytes, write_bytes, tmfs, luns } = packed;
        let nexus = &mut self.nexuses[usize::from(slot)];
        (nexus.live, nexus.elsewhere) = (id.0, false);
        nexus.stats = NexusStats { commands, checks, read_bytes, write_bytes, tmfs };
        let mut told = Vec::new();
        // Those that it did not see before are new to it, as when a map changes.
        let mut fresh = self.itls_of(slot);
        let mut stays = Vec::new();
        let mut changed = false;
        for seen in luns {
            let itl = self.nexuses[usize::from(slot)].luns.get(usize::from(seen.lun)).copied();
            let itl = itl.filter(|itl| *itl != NO_ITL).map(usize::from);
            let unit = itl.map(|itl| self.lu(self.itls[itl].lu));
            let (Some(at), Some(unit)) = (itl, unit.filter(|unit| unit.lu == LuId(seen.lu))) else {
                // Mapped no longer: it could never RELEASE, and the core that unmapped it here did not know the nexus.
                changed = true;
                if let Some(&lu) = self.lu_slots.get(&LuId(seen.lu)) {
                    let who = self.nexuses[usize::from(slot)].name.clone();
                    self.tell_nexus_lost(lu, who);
                }
                continue;
            };
            if unit.news != seen.news {
                told.push((unit.lu, seen.news));
            }
            let resized = (unit.info.blocks, unit.info.block_bytes) != (seen.blocks, seen.block_bytes);
            let renamed = digest(&unit.identity) != seen.identity;
            let itl = &mut self.itls[at];
            if !planted::on(Bug::AttentionsLeftBehind) {
                itl.attentions.after(seen.attentions);
            }
            if resized {
                itl.attentions.post(Asc::CAPACITY_DATA_HAS_CHANGED);
            }
            if renamed {
                itl.attentions.post(Asc::INQUIRY_DATA_HAS_CHANGED);
            }
            changed |= itl.read_only != seen.read_only;
            fresh.retain(|other| *other != at);
            stays.push(at);
        }
        self.nexuses[usize::from(slot)].told = told;
        changed |= !fresh.is_empty();
        for at in fresh {
            self.itls[at].attentions.post(Asc::POWER_ON_OR_RESET_OCCURRED);
        }
        for at in stays.into_iter().filter(|_| changed) {
            self.itls[at].attentions.post(Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
    }
}

/// Tells names apart that have changed; nobody else compares it.
fn digest(identity: &LuIdentity) -> u64 {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    hasher.finish()
}
