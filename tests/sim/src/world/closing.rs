//! What must be true when all is quiet, and what is counted on the way.

use spindle_bdev::ChannelId;
use spindle_scsi::LuId;
use spindle_scsi::gate::Gate;

use super::World;
use crate::counters::Counters;
use crate::net::lock;

impl World {
    /// Everybody is gone: every pool is full, no task is left, every channel is idle, every gate open.
    pub(super) fn is_quiet(&mut self) -> Result<(), String> {
        for n in 0..self.cores.len() {
            let core = &mut self.cores[n].core;
            let say = |what: &str| Err(format!("all is quiet, but core {n} {what}"));
            if core.engine.tasks_alive() > 0 {
                return say(&format!("has tasks: {:?}", core.engine.list_tasks()));
            }
            if core.engine.tmfs_pending() > 0 {
                return say("has task management under way");
            }
            if core.iscsi.tasks_in_flight() > 0 || core.iscsi.session_count() > 0 {
                let (tasks, sessions) = (core.iscsi.tasks_in_flight(), core.iscsi.session_count());
                return say(&format!("has {tasks} tasks and {sessions} sessions in its transport"));
            }
            let connections = core.iscsi.net().connections();
            if connections > 0 {
                return say(&format!("has {connections} connections"));
            }
            for unit in 0..self.disks.len() {
                let load = core.channels.load(ChannelId(unit as u16)).unwrap_or_default();
                if load.in_flight > 0 || load.waiting > 0 {
                    return say(&format!("has a busy channel: {load:?}"));
                }
                if let Some(gate @ Gate::Closed { .. }) = core.engine.gate_of(LuId(unit as u32)) {
                    return say(&format!("has a closed gate: {gate:?}"));
                }
            }
            if !core.engine.pool_mut().is_full() {
                return say(&format!("misses memory: {:?}", core.engine.pool_mut().stats()));
            }
        }
        let judge = self.judge.lock();
        if let Some(unit) = judge.units.iter().position(|u| u.flush_begun < u.flush_owed) {
            return Err(format!("all is quiet, but unit {unit} never began a flush that was answered GOOD"));
        }
        Ok(())
    }

    /// Which states tasks are in while their gate is closed.
    pub(super) fn look_at_gates(&mut self, n: usize) {
        let engine = &self.cores[n].core.engine;
        for unit in 0..self.disks.len() {
            let lu = LuId(unit as u32);
            if !matches!(engine.gate_of(lu), Some(Gate::Closed { .. })) {
                continue;
            }
            for task in engine.list_tasks().iter().filter(|t| t.lu == Some(lu)) {
                self.counters.gates[task.state as usize] += 1;
            }
        }
    }

    /// What the engines have counted, before they go.
    pub(super) fn harvest_engines(&mut self) {
        for core in &self.cores {
            let stats = core.core.engine.stats();
            for (mine, theirs) in self.counters.aborts.iter_mut().flatten().zip(stats.aborts.iter().flatten())
            {
                *mine += theirs;
            }
            self.counters.waited_for_memory += stats.waited_for_memory;
            let iscsi = core.core.iscsi.counters();
            for (name, n) in [
                ("sessions moved", iscsi.moved),
                ("stale transfer tags", iscsi.stale_tags),
                ("bytes sunk", iscsi.sunk_bytes),
                ("bytes kept in the reserve", iscsi.reserved_bytes),
                ("connections timed out", iscsi.timeouts),
                ("digest errors", iscsi.header_digest_errors + iscsi.data_digest_errors),
            ] {
                *self.counters.named.entry(name.to_owned()).or_default() += n;
            }
        }
    }

    pub(super) fn harvest(&mut self) -> Counters {
        self.harvest_engines();
        let mut counters = std::mem::take(&mut self.counters);
        for opcode in lock(&self.fabric).cuts() {
            *counters.cuts.entry(*opcode).or_default() += 1;
        }
        for disk in &self.disks {
            let c = disk.lock().counts;
            for (name, n) in [
                ("disk operations", c.ops),
                ("disk errors", c.errors),
                ("disk silences", c.silences),
                ("disk operations cancelled", c.cancelled),
                ("disk operations refused", c.refused),
                ("disk operations at once", c.at_once),
            ] {
                *counters.named.entry(name.to_owned()).or_default() += n;
            }
        }
        let judge = self.judge.lock();
        for (name, n) in &judge.counts {
            *counters.named.entry(name.clone()).or_default() += n;
        }
        let judged: u64 = judge.units.iter().map(|u| u.reserve.judged).sum();
        *counters.named.entry("reservations judged".to_owned()).or_default() += judged;
        *counters.named.entry("steps".to_owned()).or_default() += self.steps;
        *counters.named.entry("simulated milliseconds".to_owned()).or_default() += self.now.0 / 1_000_000;
        counters
    }
}
