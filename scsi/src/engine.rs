//! The engine: events in, effects out.
//!
//! [`Engine`] is the SCSI mid-level of one core. A transport calls it through [`Mid`]; the shard brings what
//! devices and other cores say; what is to be done collects in [`Effects`]. Nothing here waits, asks for time, or
//! calls back. Each entry point does its work and then *settles*: messages to its own core, tasks that may now
//! run, and memory that came free are dealt with in a loop, not by recursion.

use std::collections::{HashMap, VecDeque};

use spindle_bdev::{IoDone, IoResult};
use spindle_mem::{Sgv, SgvPool, ShareId};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{
    Admit, Command, Mid, NexusId, NexusInfo, PackedNexus, ReceiveError, Refusal, Residual, TaskId, Tmf,
};
use spindle_scsi_spec::{Asc, Sense, Status};

use crate::config::{EngineConfig, LuId, LunEntry};
use crate::device_server::TargetPort;
use crate::device_server::disk::Verdict;
use crate::effects::Effects;
use crate::gate::Gate;
use crate::lu::{Limits, LuShard};
use crate::message::{Reply, ScsiMsg, Ticket};
use crate::nexus::{Itl, Nexus};
use crate::outcome::{self, sense_of_receive};
use crate::planted::{self, Bug};
use crate::stats::EngineStats;
use crate::task::{Line, NO_ITL, NONE, Slot, TaskState, TaskTable, flag};
use crate::task_manager::Watches;

/// The SCSI mid-level of one core. See the module's page.
pub struct Engine {
    pub(crate) cfg: EngineConfig,
    pub(crate) pool: SgvPool,
    pub(crate) fx: Effects,
    pub(crate) now: Tick,
    pub(crate) tasks: TaskTable,
    pub(crate) nexuses: Vec<Nexus>,
    /// Slots of those that are gone.
    pub(crate) nexuses_free: Vec<u16>,
    pub(crate) itls: Vec<Itl>,
    pub(crate) itls_free: Vec<u16>,
    pub(crate) lus: Vec<Option<Box<LuShard>>>,
    pub(crate) lu_slots: HashMap<LuId, u16>,
    pub(crate) maps: HashMap<u32, Vec<LunEntry>>,
    pub(crate) target_ports: HashMap<u32, Vec<TargetPort>>,
    pub(crate) watches: Watches,
    /// What this core may move and hold at once.
    pub(crate) limits: Limits,
    /// Slots granted to nexuses, and of these the ones that are free.
    pub(crate) granted: u32,
    pub(crate) promised: u32,
    /// Tasks that wait for memory, on a core together: first come, first served.
    pub(crate) hungry: Line,
    /// Messages to this core itself.
    pub(crate) local: VecDeque<ScsiMsg>,
    /// There may be something to settle: a message, somebody to wake, somebody in line for memory.
    pub(crate) unsettled: bool,
    /// I_T_L nexuses in whose task set somebody may have become runnable.
    pub(crate) wakes: Vec<u16>,
    /// Where describing commands write.
    pub(crate) scratch: Vec<u8>,
    pub(crate) stats: EngineStats,
}

/// Longest answer of a describing command: REPORT LUNS of all 16,384 LUNs that flat space addressing has.
const SCRATCH_BYTES: usize = 8 + 8 * (1 << 14);

/// How far down the line for memory to look for a unit that may have more: a bound on one pass. What stands further back
/// is found as those in front are served.
const FEED_LOOKS: u32 = 256;

impl Engine {
    /// An engine with nothing to serve yet. `pool` is the core's memory.
    pub fn new(cfg: EngineConfig, pool: SgvPool) -> Engine {
        let classes = pool.stats().classes;
        let buffer_bytes_max = classes.iter().filter(|c| c.total > 0).map(|c| c.bytes).max().unwrap_or(0);
        let limits =
            Limits { transfer_bytes_max: cfg.transfer_bytes_max.min(buffer_bytes_max), buffer_bytes_max };
        Engine {
            tasks: TaskTable::new(cfg.tasks_max),
            pool,
            fx: Effects::default(),
            now: Tick::ZERO,
            nexuses: Vec::new(),
            nexuses_free: Vec::new(),
            itls: Vec::new(),
            itls_free: Vec::new(),
            lus: Vec::new(),
            lu_slots: HashMap::new(),
            maps: HashMap::new(),
            target_ports: HashMap::new(),
            watches: Watches::default(),
            limits,
            granted: 0,
            promised: 0,
            hungry: Line::default(),
            local: VecDeque::new(),
            wakes: Vec::new(),
            unsettled: false,
            scratch: vec![0; SCRATCH_BYTES],
            stats: EngineStats::default(),
            cfg,
        }
    }

    /// The core's memory, which channels use as well.
    pub fn pool_mut(&mut self) -> &mut SgvPool {
        &mut self.pool
    }

    /// What is to be done. Drained by the shard once a turn.
    pub fn effects(&mut self) -> &mut Effects {
        &mut self.fx
    }

    /// Time goes on; called once a turn. Returns when to be called again at the latest, if nothing else happens
    /// before: memory of ours may be on its way home from another core while tasks wait for it.
    pub fn on_tick(&mut self, now: Tick) -> Option<Tick> {
        self.now = now;
        if self.hungry.is_empty() {
            return None;
        }
        self.settle();
        (!self.hungry.is_empty()).then(|| now.plus_ms(1))
    }

    /// A message from the engine of another core.
    pub fn on_core(&mut self, from: CoreId, msg: ScsiMsg) {
        self.handle(from, msg);
        self.settle();
    }

    /// An operation has ended.
    #[inline]
    pub fn on_io(&mut self, done: IoDone) {
        self.on_io_shown(done, |_| {});
    }

    /// As [`Engine::on_io`]. What does not simply end its command well, as nearly all do, is shown to `look` first.
    #[inline]
    pub fn on_io_shown(&mut self, done: IoDone, look: impl FnOnce(&IoDone)) {
        let IoDone { key, data, result } = done;
        let data = match (result, data) {
            (IoResult::Ok, Some(buf)) => match self.io_ended_quick(key, buf) {
                Ok(()) => return,
                Err(buf) => Some(buf),
            },
            (_, data) => data,
        };
        let done = IoDone { key, data, result };
        look(&done);
        self.io_ended(done);
    }

    /// A message to an engine; to our own it goes through a queue.
    pub(crate) fn post(&mut self, to: CoreId, msg: ScsiMsg) {
        if to == self.cfg.core {
            self.local.push_back(msg);
            self.unsettled = true;
        } else {
            self.fx.core.push((to, msg));
        }
    }

    /// Does what follows from what has just been done, until nothing follows.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.unsettled {
            self.settle_slow();
        }
    }

    #[cold]
    fn settle_slow(&mut self) {
        loop {
            if let Some(msg) = self.local.pop_front() {
                self.handle(self.cfg.core, msg);
            } else if let Some(itl) = self.wakes.pop() {
                self.wake(itl);
            } else if !self.feed() {
                // Memory that comes home by any way is looked for as long as somebody waits for it.
                self.unsettled = !self.hungry.is_empty();
                return;
            }
        }
    }

    /// Wakes those of a task set that may run now.
    fn wake(&mut self, itl: u16) {
        loop {
            let lu = self.itls[usize::from(itl)].lu;
            let Some(lu) = self.lus[usize::from(lu)].as_deref_mut() else { return };
            let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(itl)].set };
            let slot = set.wake(&mut self.tasks);
            if slot == NONE {
                return;
            }
            self.enter(slot);
        }
    }

    /// Gives memory to the first in line whose unit may have more. `false`: nobody waits, or there is none.
    fn feed(&mut self) -> bool {
        if planted::on(Bug::PoolForgotten) {
            return false;
        }
        let mut slot = self.hungry.first();
        let (mut wanted, mut share);
        let mut looks = FEED_LOOKS;
        loop {
            if slot == NONE || looks == 0 {
                return false;
            }
            (wanted, share) = (self.tasks.peek(slot).wanted, self.share_of_task(slot));
            if !self.pool.share_is_full(wanted, share) {
                break;
            }
            // Its unit holds all it may: those behind it must not wait for that.
            (slot, looks) = (self.hungry.behind(&self.tasks, slot), looks - 1);
        }
        let Some(buf) = self.pool.take(wanted, share) else { return false };
        self.hungry.remove(&mut self.tasks, slot);
        let task = self.tasks.hot(slot);
        if task.land > 0 {
            self.land(slot, buf);
        } else {
            task.buf = Some(buf);
            if task.itl == NO_ITL { self.describe_without_unit(slot) } else { self.ready(slot) }
        }
        true
    }

    /// Under whose name a task's memory is counted.
    #[inline]
    pub(crate) fn share_of_task(&self, slot: Slot) -> ShareId {
        let task = self.tasks.peek(slot);
        if task.itl == NO_ITL { ShareId::default() } else { self.lu(task.lu).share }
    }

    fn handle(&mut self, from: CoreId, msg: ScsiMsg) {
        use ScsiMsg as M;
        let lu = match &msg {
            M::Join { lu }
            | M::Leave { lu }
            | M::Request { lu, .. }
            | M::Cancel { lu, .. }
            | M::Unlock { lu, .. }
            | M::Closed { lu, .. }
            | M::Acked { lu, .. }
            | M::Joined { lu, .. }
            | M::Left { lu }
            | M::Gone { lu }
            | M::Close { lu, .. }
            | M::Doom { lu, .. }
            | M::Publish { lu, .. }
            | M::Open { lu, .. }
            | M::Reply { lu, .. } => *lu,
        };
        let slot = self.lu_slots.get(&lu).copied();
        let Some(slot) = slot.filter(|slot| self.lu(*slot).at_home.is_some() || !to_home(&msg)) else {
            return self.unit_is_gone(from, lu, msg);
        };
        match msg {
            M::Join { .. } => self.home_join(slot, from),
            M::Leave { .. } => self.home_leave(slot, from),
            M::Request { ticket, what, .. } => self.home_ask(slot, from, ticket, what),
            M::Cancel { ticket, .. } => self.home_cancel(slot, from, ticket),
            M::Unlock { epoch, .. } => self.home_unlocked(slot, epoch),
            M::Closed { epoch, .. } => self.home_closed(slot, epoch),
            M::Acked { epoch, .. } => self.home_acked(slot, epoch),
            M::Joined { policy, .. } => self.on_joined(slot, *policy),
            M::Left { .. } => self.on_left(slot),
            M::Gone { .. } => self.on_gone(slot),
            M::Close { epoch, scope, abort, .. } => self.gate_close(slot, from, epoch, scope, abort),
            M::Doom { abort, .. } => self.gate_doom(slot, &abort),
            M::Publish { epoch, news, .. } => self.gate_publish(slot, from, epoch, *news),
            M::Open { epoch, .. } => self.gate_open(slot, epoch),
            M::Reply { ticket, reply, .. } => self.on_reply(ticket, reply),
        }
    }

    /// A message about a unit that is no longer here. Whoever waits for an answer gets one.
    #[cold]
    fn unit_is_gone(&mut self, from: CoreId, lu: LuId, msg: ScsiMsg) {
        match msg {
            ScsiMsg::Request { ticket, .. } => {
                let sense = Box::new(Sense::illegal_request(Asc::LOGICAL_UNIT_NOT_SUPPORTED));
                self.post(from, ScsiMsg::Reply { lu, ticket, reply: Reply::Check(sense) });
            }
            ScsiMsg::Join { .. } => self.post(from, ScsiMsg::Gone { lu }),
            ScsiMsg::Leave { .. } => self.post(from, ScsiMsg::Left { lu }),
            ScsiMsg::Close { epoch, .. } => self.post(from, ScsiMsg::Closed { lu, epoch }),
            ScsiMsg::Publish { epoch, .. } => self.post(from, ScsiMsg::Acked { lu, epoch }),
            ScsiMsg::Reply { ticket, reply, .. } => self.on_reply(ticket, reply),
            _ => {}
        }
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply) {
        match ticket {
            Ticket::Task(id) => {
                if let Some(slot) = self.tasks.find(id) {
                    self.reply_to_task(slot, reply);
                }
            }
            Ticket::Tmf(tmf) => self.tmf_part_done(tmf),
            Ticket::Nexus(nexus) => self.nexus_part_done(nexus),
            Ticket::Nobody => {}
        }
    }

    /// The gate has opened: those who waited start, in order.
    pub(crate) fn release_blocked(&mut self, slot: u16) {
        // Those that a new closing stops go to the end of the line, behind the ones counted here.
        for _ in 0..self.lu(slot).blocked.len() {
            if planted::on(Bug::LostWakeUp) {
                return;
            }
            let lu = self.lus[usize::from(slot)].as_deref_mut().expect("blocked tasks keep their unit");
            let first = lu.blocked.first();
            if first == NONE {
                return;
            }
            lu.blocked.remove(&mut self.tasks, first);
            self.ready(first);
        }
    }

    /// The gate of a unit, for people and tests.
    pub fn gate_of(&self, lu: LuId) -> Option<Gate> {
        self.lu_slots.get(&lu).map(|slot| self.lu(*slot).gate())
    }
}

fn to_home(msg: &ScsiMsg) -> bool {
    use ScsiMsg::*;
    matches!(
        msg,
        Join { .. }
            | Leave { .. }
            | Request { .. }
            | Cancel { .. }
            | Unlock { .. }
            | Closed { .. }
            | Acked { .. }
    )
}

/// A command that came while there was no room is to come again; all else is an error of the transfer.
fn verdict_of_receive(why: ReceiveError) -> Verdict {
    match why {
        ReceiveError::NoRoom => Verdict::Status(Status::Busy),
        _ => Verdict::Check(sense_of_receive(why)),
    }
}

impl Mid for Engine {
    fn nexus_up(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal> {
        let id = self.nexus_begins(info);
        self.settle();
        id
    }

    fn grant(&mut self, nexus: NexusId, wanted: u32) -> u32 {
        self.nexus_grant(nexus, wanted)
    }

    fn spare(&mut self, like: &Sgv) -> Option<Sgv> {
        self.pool.spare(like)
    }

    #[inline]
    fn command(&mut self, command: &Command<'_>) -> Admit {
        if let Some(admit) = self.admit_quick(command) {
            return admit;
        }
        let admit = self.admit(command);
        self.settle();
        admit
    }

    #[inline]
    fn received(&mut self, task: TaskId, buf: Sgv) {
        if let Err(buf) = self.received_quick(task, buf) {
            self.received_closely(task, buf);
        }
    }

    fn receive_failed(&mut self, task: TaskId, buf: Option<Sgv>, why: ReceiveError) {
        if let Some(buf) = buf {
            self.put(buf);
        }
        if let Some(slot) = self.tasks.find(task) {
            let t = self.tasks.hot(slot);
            match t.state() {
                _ if t.has(flag::REVOKING) => {}
                TaskState::Receiving if t.has(flag::ABORTED) => self.end_aborted(slot),
                TaskState::Receiving => {
                    let outcome = self.tasks.cold(slot).outcome.take();
                    match outcome {
                        Some(outcome) => self.respond(slot, outcome, None),
                        None if self.tasks.peek(slot).itl == NO_ITL => {
                            let outcome = outcome::check(sense_of_receive(why), false, Residual::None);
                            self.respond(slot, outcome, None);
                        }
                        None => self.finish(slot, verdict_of_receive(why)),
                    }
                }
                // Before it had a buffer: it leaves the line it stands in.
                TaskState::Dormant | TaskState::WantsBuffer => {
                    self.unlink(slot);
                    self.finish(slot, verdict_of_receive(why));
                }
                _ => {}
            }
        }
        self.settle();
    }

    fn swallowed(&mut self, task: TaskId) {
        if let Some(slot) = self.receiving(task, true) {
            let (t, cold) = self.tasks.both(slot);
            t.flags &= !flag::SWALLOW;
            let outcome = cold.outcome.take();
            if t.has(flag::ABORTED) {
                self.end_aborted(slot);
            } else if let Some(outcome) = outcome {
                self.respond(slot, outcome, None);
            } else if self.tasks.peek(slot).itl == NO_ITL {
                self.describe_without_unit(slot);
            } else if self.enlist(slot) {
                self.enter(slot);
            }
        }
        self.settle();
    }

    #[inline]
    fn responded(&mut self, task: TaskId) {
        if !self.responded_quick(task) {
            self.responded_closely(task);
        }
    }

    #[inline]
    fn returned(&mut self, buf: Sgv) {
        self.put(buf);
        self.settle();
    }

    fn revoked(&mut self, task: TaskId, buf: Option<Sgv>) {
        if let Some(buf) = buf {
            self.put(buf);
        }
        if let Some(slot) = self.tasks.find(task)
            && self.tasks.peek(slot).has(flag::REVOKING)
        {
            self.leave(slot);
            self.end(slot);
        }
        self.settle();
    }

    fn task_management(&mut self, tmf: &Tmf) {
        self.manage(tmf);
        self.settle();
    }

    fn nexus_lost(&mut self, nexus: NexusId) {
        self.nexus_ends(nexus);
        self.settle();
    }

    fn may_leave(&self, nexus: NexusId) -> Option<(Box<NexusInfo>, u32)> {
        self.nexus_may_leave(nexus)
    }

    fn expect_nexus(&mut self, info: Box<NexusInfo>, granted: u32) -> Result<NexusId, Refusal> {
        let id = self.nexus_expected(info, granted);
        self.settle();
        id
    }

    fn expect_no_more(&mut self, nexus: NexusId) {
        self.nexus_not_expected(nexus);
        self.settle();
    }

    fn pack_nexus(&mut self, nexus: NexusId) -> Option<PackedNexus> {
        let packed = self.nexus_packed(nexus);
        self.settle();
        packed
    }

    fn unpack_nexus(&mut self, nexus: NexusId, packed: PackedNexus) {
        self.nexus_unpacked(nexus, packed);
        self.settle();
    }
}

impl Engine {
    /// The status of a task stands in the send order; what [`Engine::responded_quick`] did not know what to do with.
    #[inline(never)]
    pub(crate) fn responded_closely(&mut self, task: TaskId) {
        if let Some((slot, t)) = self.tasks.find_mut(task)
            && t.state() == TaskState::Responding
        {
            self.end(slot);
        }
        self.settle();
    }

    /// All Data-Out of a task is in; what [`Engine::received_quick`] did not know what to do with.
    #[inline(never)]
    pub(crate) fn received_closely(&mut self, task: TaskId, buf: Sgv) {
        let Some(slot) = self.receiving(task, false) else {
            self.put(buf);
            return self.settle();
        };
        let (t, room) = (self.tasks.hot(slot), buf.capacity());
        t.flags |= flag::RECEIVED;
        let (short, cramped) = (buf.len() < t.land, room < t.wanted);
        let bytes = u64::from(t.land);
        t.buf = Some(buf);
        let (aborted, nexus) = (t.has(flag::ABORTED), t.nexus);
        self.nexuses[usize::from(nexus)].stats.write_bytes += bytes;
        if aborted {
            self.end_aborted(slot);
        } else if short {
            self.finish(slot, Verdict::Check(sense_of_receive(ReceiveError::Protocol)));
        } else if cramped {
            // Adopted memory without the room that a comparing command asked for.
            self.finish(slot, Verdict::Status(Status::Busy));
        } else {
            self.ready(slot);
        }
        self.settle();
    }

    /// The slot of a task that receives (or swallows) and may still go on.
    #[inline]
    fn receiving(&self, task: TaskId, swallows: bool) -> Option<Slot> {
        let slot = self.tasks.find(task)?;
        let t = self.tasks.peek(slot);
        let right = t.state() == TaskState::Receiving && t.has(flag::SWALLOW) == swallows;
        // Crossed with a `Revoke`: the answer to that ends it.
        (right && !t.has(flag::REVOKING)).then_some(slot)
    }
}
