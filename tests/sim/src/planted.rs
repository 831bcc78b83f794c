//! Looks for mistakes that were made on purpose.

use std::ops::Range;

use spindle_reactor::planted::plant;
use spindle_scsi::planted as scsi;

use crate::counters::Counters;
use crate::world;

/// All mistakes that can be planted in what the simulation runs.
pub fn names() -> impl Iterator<Item = &'static str> {
    let engine = scsi::Bug::ALL.iter().map(|bug| bug.name());
    let iscsi = spindle_iscsi::planted::Bug::ALL.iter().map(|bug| bug.name());
    let mem = spindle_mem::planted::Bug::ALL.iter().map(|bug| bug.name());
    engine.chain(iscsi).chain(mem)
}

/// Plants a mistake and runs seeds until one complains: which, and how.
pub fn find(name: &'static str, mut seeds: Range<u64>) -> Option<(u64, String)> {
    plant(Some(name));
    let found = seeds.find_map(|seed| {
        let judged = world::judge(seed, &mut Counters::default());
        judged.err().map(|why| (seed, why))
    });
    plant(None);
    found
}
