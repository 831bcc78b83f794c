//! A logical unit on one core: what the way of a command looks at, and how units come and go.

use std::sync::Arc;

use spindle_bdev::{BdevInfo, ChannelId};
use spindle_mem::ShareId;
use spindle_reactor::CoreId;
use spindle_scsi_spec::Asc;

use crate::config::{LuId, LuIdentity, LuSpec};
use crate::device_server::mode::ModePages;
use crate::device_server::{Exec, OpRow};
use crate::effects::ControlEvent;
use crate::engine::Engine;
use crate::flush::Flushes;
use crate::gate::Gate;
use crate::home::LuHome;
use crate::message::{Policy, ScsiMsg};
use crate::nexus::Moved;
use crate::planted::{self, Bug};
use crate::reserve::{AccessMask, ReserveTable, persist};
use crate::task::{BEYOND_THE_END, GONE_AFTER_ALL, Line, NO_ITL, PROTECTED_AFTER_ALL, Task, TaskState, flag};
use crate::task_manager::Then;
use crate::task_set::TaskSet;

/// One core's share of a logical unit.
pub struct LuShard {
    /// Its number.
    pub lu: LuId,
    /// The channel to its device.
    pub channel: ChannelId,
    /// Size and abilities of the device.
    pub info: BdevInfo,
    /// Names.
    pub identity: LuIdentity,
    /// Who owns its policy.
    pub home: CoreId,
    /// Under whose name its memory is counted.
    pub share: ShareId,
    /// One task set for all.
    pub tst_shared: bool,
    /// Writes are refused whoever asks (by configuration).
    pub write_protect: bool,
    /// There is a place to store reservations and mode pages.
    pub can_store: bool,
    /// Logical block length as a power of two.
    pub shift: u8,
    /// Reads go down without a buffer.
    pub lends: bool,
    /// The device may lose completed writes, and the mode pages promise that it does not (WCE 0).
    pub write_through: bool,
    /// Writes are refused: by device, configuration, or SWP.
    pub protected: Option<Asc>,
    /// Largest transfer in blocks.
    pub transfer_blocks_max: u32,
    /// Largest vector of the pool.
    pub buffer_bytes_max: u32,
    /// Whether tasks may start.
    gate: Gate,
    /// Nothing that concerns all commands stands in their way: open, not closing, no task set in common.
    quiet: bool,
    /// Tasks that wait for it to open.
    pub blocked: Line,
    /// The task set of all, under TST 000b.
    pub set: TaskSet,
    /// Mode pages and reservations, as this core knows them. While it is no member they may have changed without its
    /// knowledge: nothing is refused because of them then, and nothing is let through the gate.
    pub policy: Policy,
    /// The last news of its home: their epoch.
    pub news: u32,
    /// Sense data in descriptor format (D_SENSE).
    pub descriptor_sense: bool,
    /// Aborted tasks of others are told (TAS).
    pub tells_aborted: bool,
    /// I_T_L nexuses.
    pub itls: Vec<u16>,
    /// Where we stand with the home.
    pub member: Membership,
    /// It is to go as soon as nobody uses it.
    closing: bool,
    /// Counters.
    pub stats: LuStats,
    /// Flushes that no command waits for.
    pub flushes: Flushes,
    /// Its policy, if this is the home core.
    pub at_home: Option<Box<LuHome>>,
}

/// What a core's memory allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest transfer of one command.
    pub transfer_bytes_max: u32,
    /// Largest vector that the pool can ever give.
    pub buffer_bytes_max: u32,
}

/// Where a core stands with a unit's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Not a member.
    Out,
    /// `Join` is on its way.
    Joining,
    /// A member.
    In,
    /// `Leave` is on its way.
    Leaving,
}

/// Counters of a unit on one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LuStats {
    /// READ commands ended.
    pub reads: u64,
    /// WRITE commands ended.
    pub writes: u64,
    /// Other commands ended.
    pub others: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Operations that the device failed.
    pub errors: u64,
    /// Tasks that found the gate closed.
    pub blocked: u64,
}

impl LuStats {
    /// Adds another core's figures.
    pub fn add(&mut self, other: &LuStats) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.others += other.others;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.errors += other.errors;
        self.blocked += other.blocked;
    }

    /// Adds what went the usual way through one of its I_T_L nexuses.
    pub fn add_moved(&mut self, moved: &Moved) {
        self.reads += moved.reads;
        self.writes += moved.writes;
        self.read_bytes += moved.read_bytes;
        self.write_bytes += moved.write_bytes;
    }
}

impl LuShard {
    fn new(spec: LuSpec, limits: Limits, at_home: bool, share: ShareId) -> LuShard {
        let mut modes = ModePages::new(&spec.info, spec.tst_shared);
        if let Some(saved) = &spec.saved_modes {
            modes.restore(saved);
        }
        let reserve = match &spec.saved_reservations {
            Some(saved) => persist::decode(saved, &spec.info.uuid).unwrap_or_default(),
            None => ReserveTable::new(),
        };
        let policy = Policy { modes: Arc::new(modes), reserve: Arc::new(reserve) };
        let mut lu = LuShard {
            lu: spec.lu,
            channel: spec.channel,
            identity: spec.identity,
            home: spec.home,
            share,
            tst_shared: spec.tst_shared,
            write_protect: spec.write_protect,
            can_store: spec.can_store,
            shift: 9,
            lends: false,
            write_through: false,
            protected: None,
            transfer_blocks_max: 0,
            buffer_bytes_max: 0,
            gate: Gate::Joining,
            quiet: false,
            blocked: Line::default(),
            set: TaskSet::default(),
            news: 0,
            descriptor_sense: false,
            tells_aborted: false,
            itls: Vec::new(),
            member: Membership::Out,
            closing: false,
            stats: LuStats::default(),
            flushes: Flushes::default(),
            at_home: at_home.then(|| Box::new(LuHome::new(policy.clone()))),
            policy,
            info: spec.info,
        };
        lu.refresh(limits);
        lu
    }

    /// Whether tasks may start.
    #[inline]
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Opens or closes the gate.
    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.quiet = gate.is_open() && !self.closing && !self.tst_shared;
    }

    /// It is to go as soon as nobody uses it.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Nothing that concerns all commands stands in their way: the gate is open, the unit stays, each nexus has a
    /// task set of its own.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Works out again what hangs on device and policy, so that commands need not.
    pub fn refresh(&mut self, limits: Limits) {
        debug_assert!(self.info.block_bytes.is_power_of_two(), "logical blocks of 512 or 4,096 bytes");
        self.shift = self.info.block_bytes.trailing_zeros() as u8;
        self.lends = self.info.lends;
        let device_max = if self.info.transfer_max == 0 { u32::MAX } else { self.info.transfer_max };
        self.transfer_blocks_max = device_max.min(limits.transfer_bytes_max >> self.shift);
        self.buffer_bytes_max = limits.buffer_bytes_max;
        let modes = &self.policy.modes;
        self.write_through = self.info.write_cache && !modes.wce();
        self.descriptor_sense = modes.d_sense();
        self.tells_aborted = modes.tas();
        self.protected = if self.info.read_only || self.write_protect {
            Some(Asc::WRITE_PROTECTED)
        } else if modes.swp() && self.member == Membership::In {
            // SPC-4 §7.5.8: software write protect has a code of its own.
            Some(Asc::SOFTWARE_WRITE_PROTECTED)
        } else {
            None
        };
    }
}

impl Engine {
    #[inline]
    pub(crate) fn lu(&self, slot: u16) -> &LuShard {
        self.lus[usize::from(slot)].as_ref().expect("a unit stays while anything refers to its slot")
    }

    #[inline]
    pub(crate) fn lu_mut(&mut self, slot: u16) -> &mut LuShard {
        self.lus[usize::from(slot)].as_mut().expect("a unit stays while anything refers to its slot")
    }

    /// A unit is there from now on; `set_lun_map` makes it visible. Called on every core, home first or last.
    pub fn open_lu(&mut self, spec: LuSpec) {
        assert!(!self.lu_slots.contains_key(&spec.lu), "logical unit {} is open already", spec.lu.0);
        let slot = self.lus.iter().position(Option::is_none).unwrap_or(self.lus.len());
        assert!(slot < usize::from(u16::MAX), "logical units have 16 bits on a core");
        let (lu, at_home) = (spec.lu, spec.home == self.cfg.core);
        let share = self.share_of(slot);
        if share != ShareId::default() {
            self.pool.open_share(share, self.cfg.share_bytes_max);
        }
        let shard = LuShard::new(spec, self.limits, at_home, share);
        if slot == self.lus.len() {
            self.lus.push(None);
        }
        self.lus[slot] = Some(Box::new(shard));
        self.lu_slots.insert(lu, slot as u16);
        self.settle();
    }

    /// The pool has a limited number of shares; units beyond that are counted together.
    fn share_of(&self, slot: usize) -> ShareId {
        ShareId(u16::try_from(slot + 1).ok().filter(|share| *share < self.cfg.shares).unwrap_or(0))
    }

    /// A unit is to go: commands find it no longer, tasks drain, then `ControlEvent::LuClosed` follows. Take it
    /// out of the LUN maps first, so that initiators hear of it.
    pub fn close_lu(&mut self, lu: LuId) {
        if let Some(&slot) = self.lu_slots.get(&lu) {
            let shard = self.lu_mut(slot);
            shard.closing = true;
            shard.set_gate(shard.gate);
            self.lu_gives_up(slot);
            for itl in self.lu(slot).itls.clone() {
                self.itl_ends(itl);
            }
            self.lu_try_close(slot);
        }
        self.settle();
    }

    /// Device or identity have changed. Raises CAPACITY DATA HAS CHANGED or INQUIRY DATA HAS CHANGED for every
    /// nexus of this core.
    pub fn lu_changed(&mut self, lu: LuId, info: BdevInfo, identity: Option<LuIdentity>) {
        let Some(&slot) = self.lu_slots.get(&lu) else { return };
        let limit = self.limits;
        let shard = self.lu_mut(slot);
        let resized = shard.info.blocks != info.blocks || shard.info.block_bytes != info.block_bytes;
        let renamed = identity.as_ref().is_some_and(|new| *new != shard.identity);
        shard.info = info;
        if let Some(identity) = identity {
            shard.identity = identity;
        }
        shard.refresh(limit);
        for itl in shard.itls.clone() {
            let attentions = &mut self.itls[usize::from(itl)].attentions;
            if resized {
                attentions.post(Asc::CAPACITY_DATA_HAS_CHANGED);
            }
            if renamed {
                attentions.post(Asc::INQUIRY_DATA_HAS_CHANGED);
            }
        }
        self.settle();
    }

    /// A unit is about to have fewer blocks. From now on no command begins beyond the new end, and commands that were
    /// let in before are refused as their turn comes; `ControlEvent::LuShrunk` follows when what the device has of this
    /// core's beyond the end is back. Then the device may shrink: no late write passes its end. Called on every core.
    pub fn lu_shrink(&mut self, lu: LuId, blocks: u64) {
        let Some(&slot) = self.lu_slots.get(&lu) else {
            return self.fx.control.push(ControlEvent::LuShrunk { lu });
        };
        let info = BdevInfo { blocks: blocks.min(self.lu(slot).info.blocks), ..self.lu(slot).info.clone() };
        self.lu_changed(lu, info, None);
        let beyond = |task: &Task| task.lba.saturating_add(u64::from(task.blocks)) > blocks;
        self.refuse_later(slot, &BEYOND_THE_END, |task| task.blocks > 0 && beyond(task));
        let under_way = self.tasks.iter().filter(|(_, task)| {
            // Where UNMAP is at work is in its list.
            let early = planted::on(Bug::ShrunkEarly);
            let there =
                task.state() == TaskState::Executing && task.itl != NO_ITL && task.lu == slot && !early;
            there && (beyond(task) || matches!(task.row.exec, Exec::Unmap))
        });
        let under_way = under_way.map(|(at, _)| at).collect();
        self.watch(under_way, Then::Shrunk(lu));
        self.settle();
    }

    /// This core has an I_T_L nexus to the unit: it must know the policy before a task may start.
    pub(crate) fn lu_join(&mut self, slot: u16) {
        let shard = self.lu_mut(slot);
        if matches!(shard.member, Membership::Out | Membership::Leaving) {
            shard.member = Membership::Joining;
            shard.set_gate(Gate::Joining);
            let (lu, home) = (shard.lu, shard.home);
            let limits = self.limits;
            self.lu_mut(slot).refresh(limits);
            self.post(home, ScsiMsg::Join { lu });
        }
    }

    /// The last I_T_L nexus may be gone.
    pub(crate) fn lu_leave(&mut self, slot: u16) {
        let shard = self.lu_mut(slot);
        if shard.itls.is_empty() && shard.member == Membership::In {
            shard.member = Membership::Leaving;
            let (lu, home) = (shard.lu, shard.home);
            self.post(home, ScsiMsg::Leave { lu });
        }
        self.lu_try_close(slot);
    }

    pub(crate) fn on_joined(&mut self, slot: u16, policy: Policy) {
        let shard = self.lu_mut(slot);
        if shard.member != Membership::Joining {
            return;
        }
        shard.member = Membership::In;
        self.take_policy(slot, policy);
        let shard = self.lu_mut(slot);
        shard.set_gate(Gate::Open);
        if shard.protected == Some(Asc::SOFTWARE_WRITE_PROTECTED) {
            self.refuse_later(slot, &PROTECTED_AFTER_ALL, |task| task.row.exec.writes_medium());
        }
        self.release_blocked(slot);
        self.lu_leave(slot);
    }

    pub(crate) fn on_left(&mut self, slot: u16) {
        let shard = self.lu_mut(slot);
        if shard.member == Membership::Leaving {
            shard.member = Membership::Out;
        }
        self.lu_try_close(slot);
    }

    /// The home closed the unit before it heard of us. We are about to be told the same; until then tasks wait.
    pub(crate) fn on_gone(&mut self, slot: u16) {
        let shard = self.lu_mut(slot);
        if shard.member == Membership::Joining {
            shard.member = Membership::Out;
        }
        if shard.closing {
            self.lu_gives_up(slot);
            self.lu_try_close(slot);
        }
    }

    /// A unit that is to go and of whose home nobody is left: those who waited for it are refused.
    fn lu_gives_up(&mut self, slot: u16) {
        if self.lu(slot).member == Membership::Out {
            self.refuse_later(slot, &GONE_AFTER_ALL, |_| true);
            self.lu_mut(slot).set_gate(Gate::Open);
            self.release_blocked(slot);
        }
    }

    /// A policy is in force on this core.
    pub(crate) fn take_policy(&mut self, slot: u16, policy: Policy) {
        let limit = self.limits;
        let shard = self.lu_mut(slot);
        shard.policy = policy;
        shard.refresh(limit);
        for itl in shard.itls.clone() {
            let access = self.access_here(slot, self.itls[usize::from(itl)].nexus);
            self.itls[usize::from(itl)].access = access;
        }
    }

    /// What reservations allow a nexus. Everything, as long as this core does not know: its tasks are judged again as
    /// they pass the gate, which stays closed until it does.
    pub(crate) fn access_here(&self, slot: u16, nexus: u16) -> AccessMask {
        let shard = self.lu(slot);
        match shard.member {
            Membership::In => shard.policy.reserve.access_of(&self.nexuses[usize::from(nexus)].name),
            _ => AccessMask::ALL,
        }
    }

    /// Those tasks of a unit that have not started and that `which` names are refused when their turn comes, whatever
    /// they wait for now.
    fn refuse_later(&mut self, slot: u16, row: &'static OpRow, which: impl Fn(&Task) -> bool) {
        let waits = |task: &Task| {
            use TaskState::{AtHome, Blocked, Dormant, Receiving, WantsBuffer};
            // Those at home wait for a lock, if they are about blocks at all.
            (matches!(task.state(), Dormant | WantsBuffer | Receiving | Blocked)
                || task.state() == AtHome && !task.row.exec.asks_home())
                && task.itl != NO_ITL
                && task.lu == slot
        };
        let found = self.tasks.iter().filter(|(_, task)| waits(task) && which(task));
        for at in found.map(|(at, _)| at).collect::<Vec<_>>() {
            let task = self.tasks.hot(at);
            task.row = row;
            task.flags &= !flag::PLAIN;
        }
    }

    /// A unit that is to go, goes as soon as no nexus (one with tasks stays), no flush and no other core needs it.
    pub(crate) fn lu_try_close(&mut self, slot: u16) {
        let Some(shard) = &self.lus[usize::from(slot)] else { return };
        let idle = shard.closing
            && shard.itls.is_empty()
            && shard.member == Membership::Out
            && shard.flushes.are_over()
            && shard.at_home.as_ref().is_none_or(|home| home.is_idle());
        if idle {
            let lu = shard.lu;
            self.lus[usize::from(slot)] = None;
            self.lu_slots.remove(&lu);
            self.fx.control.push(ControlEvent::LuClosed { lu });
        }
    }
}
