//! Starting the target, and changing it while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use fastrand::Rng;
use spindle::shard::Core;
use spindle_bdev::{Bdev, ChannelId};
use spindle_iscsi::IscsiTransport;
use spindle_iscsi::config::{
    AccessMap, AuthPolicy, DigestPolicy, InitiatorGroup, IscsiConfig, IscsiLimits, NamePattern, Netmask,
    PortalGroup, TargetNode,
};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool};
use spindle_reactor::{CoreId, Mesh, Tick, Timers};
use spindle_scsi::{Engine, EngineConfig, LuId, LuIdentity, LuSpec};

use super::{MAP, Reopening, Seat, Shrinking, World};
use crate::actor::TARGET;
use crate::judge::Sweep;
use crate::net::SimNet;
use crate::trace;

impl World {
    /// Starts the target: fresh cores over the disks as they are.
    pub(super) fn boot(&mut self) {
        let cores = self.plan.cores;
        let config = Arc::new(access(self.portal, self.limits.clone()));
        let pool = PoolConfig { vectors: self.plan.pool, lent: [0; 3], shares: 16, poison: true };
        let bytes = (pool.bytes() * cores as u64).next_multiple_of(4096).max(1 << 20);
        let arena = Arena::new(ArenaConfig::plain(bytes, bytes)).expect("memory for a simulation");
        let depth = 1 << self.rng.u32(2..8);
        for (n, mail) in Mesh::new(cores, depth).into_iter().enumerate() {
            let id = CoreId(n as u8);
            let sgvs = SgvPool::new(id, arena.clone(), &pool).expect("the arena has room for its pools");
            let mut cfg = EngineConfig::new(id, cores as u8);
            cfg.tasks_max = self.plan.tasks_max;
            cfg.nexuses_max = 16;
            cfg.window_min = 4;
            cfg.window_max = 32;
            cfg.immediate_share = 4;
            cfg.shares = 16;
            cfg.transfer_bytes_max = self.plan.transfer_bytes_max;
            cfg.tmfs_max = 64;
            let net = SimNet::new(n, self.fabric.clone(), 64);
            let iscsi = IscsiTransport::new(net, id, cores as u8, config.clone());
            let core = Core::new(id, cores as u8, Engine::new(cfg, sgvs), iscsi);
            self.cores.push(Seat {
                core,
                mail,
                timers: Timers::new(16, 1 << 12),
                turn_at: Some(self.now),
                deadline: None,
                mail_at: None,
                net_named: false,
                disk_named: false,
            });
        }
        for unit in 0..self.disks.len() {
            self.open_unit(unit);
        }
        self.show_units(None);
        self.cores[0].core.iscsi.open_portal(1, self.portal).expect("the simulated network listens anywhere");
    }

    fn open_unit(&mut self, unit: usize) {
        let disk = &self.disks[unit];
        for n in 0..self.cores.len() {
            let core = &mut self.cores[n].core;
            let channel = ChannelId(unit as u16);
            let bound = disk.prepare(core.id).and_then(|seed| seed.bind(&mut core.env()));
            core.channels.open(channel, bound.expect("a simulated disk opens"));
            let info = disk.info();
            core.engine.open_lu(LuSpec {
                lu: LuId(unit as u32),
                channel,
                identity: LuIdentity::of_uuid(info.uuid),
                info,
                home: CoreId((unit % self.plan.cores) as u8),
                tst_shared: self.plan.tst_shared[unit],
                write_protect: false,
                can_store: false,
                saved_modes: None,
                saved_reservations: None,
            });
            self.cores[n].turn_at.get_or_insert(self.now);
        }
    }

    pub(super) fn show_units(&mut self, hidden: Option<usize>) {
        let luns: Vec<(u32, LuId, bool)> = (0..self.disks.len())
            .filter(|n| Some(*n) != hidden)
            .map(|n| (n as u32, LuId(n as u32), false))
            .collect();
        for (n, unit) in self.judge.lock().units.iter_mut().enumerate() {
            unit.mapped += u32::from(unit.mapped.is_multiple_of(2) == (Some(n) == hidden));
        }
        for core in &mut self.cores {
            core.core.engine.set_lun_map(MAP, &luns);
            core.turn_at.get_or_insert(self.now);
        }
    }

    // ---- what the control plane does meanwhile

    pub(super) fn control(&mut self) {
        self.control_at = Some(Tick(self.now.0 + self.rng.u64(1_000_000..400_000_000)));
        if let Some(unit) = self.hidden.take() {
            return self.appear(unit);
        }
        if self.reopening.is_some() || self.shrinking.is_some() {
            return;
        }
        let unit = self.rng.usize(0..self.disks.len());
        let choice = self.rng.u32(0..4);
        let mut judge = self.judge.lock();
        judge.count(["resizes", "resizes", "LUNs taken away", "units closed"][choice as usize]);
        let sent = judge.tick();
        if choice >= 2 {
            // Commands of everybody may end without a word, and reservations with the nexus.
            let u = &mut judge.units[unit];
            u.sweeps.push(Sweep { by: usize::MAX, sent, answered: None, preempts: false });
            u.reserve.forget();
            u.unsettled = true;
        }
        drop(judge);
        match choice {
            0 | 1 if self.plan.shrinks && self.rng.bool() => self.shrink(unit),
            0 | 1 => {
                // Never below what the scripts use.
                let blocks = self.plan.disks[unit].blocks + self.rng.u64(0..50);
                self.resize(unit, blocks);
            }
            2 => {
                trace!("control: unit {unit} is taken out of the map");
                self.hidden = Some(unit);
                self.show_units(Some(unit));
            }
            _ => {
                trace!("control: unit {unit} is closed");
                self.show_units(Some(unit));
                let (tell, told) = channel();
                for core in &mut self.cores {
                    core.core.close_lu(LuId(unit as u32), ChannelId(unit as u16), tell.clone());
                    core.turn_at.get_or_insert(self.now);
                }
                self.reopening = Some(Reopening { unit, told, missing: self.cores.len() });
            }
        }
    }

    /// A session is asked to move to another core, whatever it is doing.
    pub(super) fn move_somebody(&mut self) {
        let rng = &mut self.move_rng;
        // A seed that takes long is not to be all moves.
        self.moves += 1;
        let at_most = 1 << if self.moves < 5_000 { self.plan.move_ns_log2 } else { 28 };
        self.move_at = Some(Tick(self.now.0 + rng.u64(100_000..at_most)));
        let sessions: Vec<(usize, u16)> = (0..self.cores.len())
            .flat_map(|n| self.cores[n].core.iscsi.sessions().into_iter().map(move |s| (n, s.tsih)))
            .collect();
        if sessions.is_empty() {
            return;
        }
        let (from, tsih) = sessions[rng.usize(0..sessions.len())];
        let to = (from + rng.usize(1..self.cores.len())) % self.cores.len();
        let core = &mut self.cores[from];
        if core.core.iscsi.move_session(tsih, CoreId(to as u8)).is_ok() {
            trace!("control: session {tsih} is to move from core {from} to {to}");
            core.turn_at.get_or_insert(self.now);
            self.judge.lock().count("moves asked for");
        }
    }

    fn resize(&mut self, unit: usize, blocks: u64) {
        trace!("control: unit {unit} is resized to {blocks}");
        self.disks[unit].resize(Some(blocks)).expect("a simulated disk takes any size");
        let info = self.disks[unit].info();
        for core in &mut self.cores {
            core.core.engine.lu_changed(LuId(unit as u32), info.clone(), None);
            core.turn_at.get_or_insert(self.now);
        }
    }

    /// First the cores let nothing begin beyond the new end and say when nothing is there, then the disk shrinks.
    fn shrink(&mut self, unit: usize) {
        let had = self.disks[unit].lock().blocks();
        let blocks = self.rng.u64(1..=had.min(self.plan.disks[unit].blocks));
        trace!("control: unit {unit} is to shrink from {had} to {blocks}");
        let (tell, told) = channel();
        for core in &mut self.cores {
            core.core.shrink_lu(LuId(unit as u32), blocks, tell.clone());
            core.turn_at.get_or_insert(self.now);
        }
        let mut judge = self.judge.lock();
        judge.count("shrinkings");
        judge.units[unit].unsettled = true;
        self.shrinking = Some(Shrinking { unit, blocks, told, missing: self.cores.len() });
    }

    /// A unit that all cores are ready to shrink does.
    pub(super) fn finish_shrinking(&mut self) {
        let Some(Shrinking { unit, blocks, told, missing }) = &mut self.shrinking else { return };
        *missing -= told.try_iter().count();
        if *missing > 0 {
            return;
        }
        let (unit, blocks) = (*unit, *blocks);
        self.shrinking = None;
        self.resize(unit, blocks);
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        judge.units[unit].blocks.cut(moment, blocks);
    }

    /// Every unit has the blocks again that the scripts use.
    pub(super) fn restore_sizes(&mut self) {
        for unit in 0..self.disks.len() {
            let blocks = self.plan.disks[unit].blocks;
            if self.disks[unit].lock().blocks() < blocks {
                self.resize(unit, blocks);
            }
        }
    }

    /// A unit that was out of the map is in it again.
    pub(super) fn appear(&mut self, unit: usize) {
        trace!("control: unit {unit} is there again");
        self.show_units(None);
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        for sweep in judge.units[unit].sweeps.iter_mut().filter(|s| s.by == usize::MAX) {
            sweep.answered.get_or_insert(moment);
        }
    }

    /// A unit that has been closed on all cores is opened anew.
    pub(super) fn finish_reopening(&mut self) {
        let Some(reopening) = &mut self.reopening else { return };
        reopening.missing -= reopening.told.try_iter().count();
        if reopening.missing == 0 {
            let unit = reopening.unit;
            self.reopening = None;
            self.open_unit(unit);
            self.appear(unit);
        }
    }
}

/// Numbers of the transport, as this seed wants them.
pub(super) fn limits(rng: &mut Rng, streams: bool) -> IscsiLimits {
    let one = |rng: &mut Rng, of: &[u32]| of[rng.usize(0..of.len())];
    IscsiLimits {
        sessions_max: 32,
        tasks_max: 256,
        tmfs_per_session_max: one(rng, &[2, 16]),
        window_first: 4,
        window_max: 32,
        max_recv_data_segment_length: one(rng, &[if streams { 8_192 } else { 512 }, 4_096, 65_536]),
        max_burst_length: one(rng, &[8_192, 65_536, 1_048_576]),
        first_burst_length: one(rng, &[if streams { 4_096 } else { 2_048 }, 8_192]),
        max_outstanding_r2t: one(rng, &[1, 4]) as u16,
        solicited_min: one(rng, &[512, 16_384, 262_144]),
        unsolicited_reserve_bytes: one(rng, &[8_192, 65_536]),
        send_queue_bytes_max: one(rng, &[65_536, 4 << 20]),
        nop_in_interval_ms: u64::from(one(rng, &[50, 2_000, 15_000])),
        ..IscsiLimits::default()
    }
}

/// One target that everybody may use.
fn access(portal: SocketAddr, limits: IscsiLimits) -> IscsiConfig {
    IscsiConfig {
        epoch: 1,
        portal_groups: vec![PortalGroup { tag: 1, portals: vec![portal], private: false }],
        initiator_groups: vec![InitiatorGroup {
            tag: 1,
            names: vec![NamePattern::any()],
            netmasks: vec![Netmask::Any],
        }],
        targets: vec![TargetNode {
            id: 1,
            name: TARGET.to_owned(),
            alias: None,
            maps: vec![AccessMap { portal_group: 1, initiator_group: 1, lun_map: MAP }],
            auth: AuthPolicy::default(),
            header_digest: DigestPolicy::default(),
            data_digest: DigestPolicy::default(),
            queue_depth: 32,
        }],
        chap_groups: Vec::new(),
        discovery_auth: AuthPolicy::default(),
        limits,
    }
}
