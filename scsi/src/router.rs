//! Which logical unit stands behind a LUN, for each nexus: LUN maps and how they change.

use spindle_scsi_spec::Asc;

use crate::config::{LuId, LunEntry};
use crate::engine::Engine;
use crate::task::NO_ITL;

impl Engine {
    /// Gives a LUN map its content (`NexusInfo::lun_map` names it). Every nexus of that map sees it at once; if
    /// that changes anything for a nexus, its next command on each unit that stays is told REPORTED LUNS DATA HAS
    /// CHANGED. LUNs above 16,383, and units that are not open on this core, are left out: open first, map then. So
    /// is, for a nexus that is up, what would exceed 65,535 I_T_L nexuses on this core; it sees such a unit when it
    /// comes again.
    pub fn set_lun_map(&mut self, map: u32, luns: &[(u32, LuId, bool)]) {
        let mut entries: Vec<_> = luns
            .iter()
            .filter_map(|&(lun, lu, read_only)| {
                let lun = u16::try_from(lun).ok().filter(|lun| *lun <= LUN_MAX)?;
                Some(LunEntry { lun, lu, read_only })
            })
            .collect();
        entries.sort_unstable_by_key(|e| e.lun);
        entries.dedup_by_key(|e| e.lun);
        self.maps.insert(map, entries.clone());
        for nexus in 0..self.nexuses.len() {
            let n = &self.nexuses[nexus];
            if n.up && !n.lost && n.info.lun_map == map {
                self.remap(nexus as u16, &entries);
            }
        }
        self.settle();
    }

    fn remap(&mut self, nexus: u16, entries: &[LunEntry]) {
        let mut changed = false;
        let mut stays = Vec::new();
        for lun in 0..self.nexuses[usize::from(nexus)].luns.len() {
            let slot = self.nexuses[usize::from(nexus)].luns[lun];
            if slot == NO_ITL {
                continue;
            }
            let lu = self.lu(self.itls[usize::from(slot)].lu).lu;
            let at = entries.binary_search_by_key(&lun, |e| usize::from(e.lun));
            match at.ok().map(|at| &entries[at]).filter(|e| e.lu == lu) {
                Some(entry) => {
                    let itl = &mut self.itls[usize::from(slot)];
                    changed |= std::mem::replace(&mut itl.read_only, entry.read_only) != entry.read_only;
                    stays.push(slot);
                }
                None => {
                    self.itl_ends(slot);
                    changed = true;
                }
            }
        }
        for entry in entries {
            let there = self.nexuses[usize::from(nexus)].luns.get(usize::from(entry.lun));
            if there.is_none_or(|slot| *slot == NO_ITL)
                && self.itls_left() > 0
                && let Some(lu) = self.lu_to_map(entry.lu)
            {
                let slot = self.itl_begins(nexus, lu, entry.lun, entry.read_only);
                self.itls[usize::from(slot)].attentions.post(Asc::POWER_ON_OR_RESET_OCCURRED);
                changed = true;
            }
        }
        for slot in stays.into_iter().filter(|_| changed) {
            self.itls[usize::from(slot)].attentions.post(Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
    }

    /// A unit that may be shown to a nexus: open, and not about to go.
    pub(crate) fn lu_to_map(&self, lu: LuId) -> Option<u16> {
        self.lu_slots.get(&lu).copied().filter(|slot| !self.lu(*slot).is_closing())
    }

    /// The initiator has learnt that its LUNs changed, by whichever unit told it first (SPC-4 §6.33: REPORT LUNS
    /// clears it too).
    pub(crate) fn luns_are_known(&mut self, nexus: u16) {
        for n in 0..self.nexuses[usize::from(nexus)].luns.len() {
            let slot = self.nexuses[usize::from(nexus)].luns[n];
            if slot != NO_ITL {
                self.itls[usize::from(slot)].attentions.clear(Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
            }
        }
    }
}

/// Flat space addressing reaches this far (SAM-5 §4.7.7.3).
const LUN_MAX: u16 = 0x3FFF;
