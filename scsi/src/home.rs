//! The home of a logical unit: the one core that decides about its policy.
//!
//! Requests are jobs, done one at a time in order of arrival. A job may *store* (reservations that survive a
//! power cut), *close* the gates of all members (ending tasks, or for the holder of a lock), *publish* a new
//! policy and wait until every member has acknowledged it, and *open* again; only then is it answered.
//! Members join and leave by jobs, too, so nobody comes or goes in the middle of one. A job whose asker is
//! aborted before its turn is forgotten; one that has begun is finished.

use std::collections::VecDeque;
use std::sync::Arc;

use spindle_reactor::CoreId;
use spindle_scsi_port::NexusInfo;
use spindle_scsi_spec::{Asc, Sense, SenseKey};

use crate::device_server::{LuView, mode};
use crate::effects::{ControlEvent, Stored};
use crate::engine::Engine;
use crate::message::{AbortSet, News, Policy, Reply, Request, RequestKind, Scope, ScsiMsg, Ticket, Whom};
use crate::planted::{self, Bug};
use crate::reserve::out::OutContext;
use crate::reserve::{self, Refused, persist};
use crate::task::AbortCause;

/// Policy of a logical unit.
pub struct LuHome {
    /// What is in force.
    policy: Policy,
    /// Cores with a nexus to the unit.
    members: Vec<CoreId>,
    /// What waits.
    queue: VecDeque<Job>,
    /// What is being done.
    active: Option<Active>,
    /// Counts closings and publications.
    epoch: u32,
}

enum Job {
    Join(CoreId),
    Leave(CoreId),
    Ask {
        from: CoreId,
        ticket: Ticket,
        what: Box<Request>,
        /// Tasks have been ended for it already: it cannot be forgotten any more.
        begun: bool,
    },
}

struct Active {
    from: CoreId,
    ticket: Ticket,
    who: reserve::NexusName,
    since: u64,
    phase: Phase,
    /// Members that have not answered yet.
    left: usize,
    /// Gates are closed.
    gated: bool,
    /// To be published, once nothing stands in the way.
    news: Option<Box<News>>,
    /// Tasks to end first.
    abort: Option<AbortPlan>,
    /// Reset when all have left.
    reset: bool,
    /// The gate is closed for the one who asked.
    locks: bool,
}

struct AbortPlan {
    cause: AbortCause,
    nexuses: Option<Vec<reserve::NexusName>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Storing,
    Closing,
    /// A lock is granted.
    Held,
    Publishing,
}

impl LuHome {
    /// Nobody is a member yet.
    pub fn new(policy: Policy) -> LuHome {
        LuHome { policy, members: Vec::new(), queue: VecDeque::new(), active: None, epoch: 0 }
    }

    /// Nobody needs it.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.queue.is_empty() && self.active.is_none()
    }

    /// Requests that wait or are being done.
    pub fn load(&self) -> usize {
        self.queue.len() + usize::from(self.active.is_some())
    }
}

/// What a request comes to before anything has changed.
enum Verdict {
    Answer(Reply),
    Lock(Scope),
    Abort {
        plan: AbortPlan,
        reset: bool,
    },
    Change {
        policy: Policy,
        attentions: Vec<(Whom, Asc)>,
        store: Option<(Stored, Box<[u8]>)>,
        abort: Option<AbortPlan>,
    },
}

impl Engine {
    #[inline]
    fn home(&mut self, slot: u16) -> &mut LuHome {
        self.lu_mut(slot).at_home.as_mut().expect("requests are sent to the home core")
    }

    pub(crate) fn home_join(&mut self, slot: u16, from: CoreId) {
        self.home(slot).queue.push_back(Job::Join(from));
        self.home_pump(slot);
    }

    pub(crate) fn home_leave(&mut self, slot: u16, from: CoreId) {
        self.home(slot).queue.push_back(Job::Leave(from));
        self.home_pump(slot);
    }

    pub(crate) fn home_ask(&mut self, slot: u16, from: CoreId, ticket: Ticket, what: Box<Request>) {
        let cause = match what.kind {
            RequestKind::Reset(cause) => Some(cause),
            RequestKind::ClearTaskSet => Some(AbortCause::ClearTaskSet),
            _ => None,
        };
        let home = self.home(slot);
        let mut begun = false;
        if let Some(cause) = cause
            && home.active.as_ref().is_some_and(|a| a.locks)
        {
            begun = true;
            // The holder of a lock, and those it keeps out, are among the tasks that are going to end: they need not
            // run to their end first.
            let members = home.members.clone();
            let lu = self.lu(slot).lu;
            for member in members {
                let asker = what.who.clone();
                let since = what.since;
                let abort = Box::new(AbortSet { cause, nexuses: None, asker, since, except: None });
                self.post(member, ScsiMsg::Doom { lu, abort });
            }
        }
        self.home(slot).queue.push_back(Job::Ask { from, ticket, what, begun });
        self.home_pump(slot);
    }

    pub(crate) fn home_cancel(&mut self, slot: u16, from: CoreId, ticket: Ticket) {
        let home = self.home(slot);
        let theirs = |job: &Job| matches!(job, Job::Ask { from: f, ticket: t, begun: false, .. } if *f == from && *t == ticket);
        if let Some(at) = home.queue.iter().position(theirs) {
            home.queue.remove(at);
            let lu = self.lu(slot).lu;
            self.post(from, ScsiMsg::Reply { lu, ticket, reply: Reply::Cancelled });
        }
    }

    /// Begins jobs until one has to wait.
    fn home_pump(&mut self, slot: u16) {
        let lu = self.lu(slot).lu;
        while self.home(slot).active.is_none() {
            let home = self.home(slot);
            match home.queue.pop_front() {
                None => break,
                Some(Job::Join(core)) => {
                    if !home.members.contains(&core) {
                        home.members.push(core);
                    }
                    let policy = Box::new(home.policy.clone());
                    self.post(core, ScsiMsg::Joined { lu, policy });
                }
                Some(Job::Leave(core)) => {
                    home.members.retain(|member| *member != core);
                    self.post(core, ScsiMsg::Left { lu });
                }
                Some(Job::Ask { from, ticket, what, .. }) => self.home_begin(slot, from, ticket, *what),
            }
        }
        self.lu_try_close(slot);
    }

    fn home_begin(&mut self, slot: u16, from: CoreId, ticket: Ticket, what: Request) {
        let lu = self.lu(slot).lu;
        let verdict = self.home_decide(slot, &what);
        let mut active = Active {
            from,
            ticket,
            who: what.who,
            since: what.since,
            phase: Phase::Closing,
            left: 0,
            gated: false,
            news: None,
            abort: None,
            reset: false,
            locks: false,
        };
        match verdict {
            Verdict::Answer(reply) => self.post(from, ScsiMsg::Reply { lu, ticket, reply }),
            Verdict::Lock(scope) => {
                active.locks = true;
                self.home(slot).active = Some(active);
                self.home_close(slot, scope, None);
            }
            Verdict::Abort { plan, reset } => {
                active.reset = reset;
                self.home(slot).active = Some(active);
                self.home_close(slot, Scope::All, Some(plan));
            }
            Verdict::Change { policy, attentions, store, abort } => {
                active.news = Some(Box::new(News { policy, attentions }));
                active.abort = abort;
                active.phase = Phase::Storing;
                let home = self.home(slot);
                home.active = Some(active);
                home.epoch = home.epoch.wrapping_add(1);
                let epoch = home.epoch;
                match store {
                    // Durable before anybody acts on it; what cannot be stored does not happen.
                    Some((what, bytes)) => {
                        self.fx.control.push(ControlEvent::Store { lu, ticket: epoch, what, bytes });
                    }
                    None => self.home_stored(slot),
                }
            }
        }
    }

    /// What a request comes to: looks at the policy, changes nothing.
    fn home_decide(&mut self, slot: u16, what: &Request) -> Verdict {
        let can_store = self.lu(slot).can_store;
        let uuid = self.lu(slot).info.uuid;
        let policy = self.home(slot).policy.clone();
        let reserved = |table: reserve::ReserveTable| Policy { reserve: Arc::new(table), ..policy.clone() };
        match &what.kind {
            RequestKind::Lock(scope) => Verdict::Lock(*scope),
            RequestKind::Reset(cause) => {
                Verdict::Abort { plan: AbortPlan { cause: *cause, nexuses: None }, reset: true }
            }
            RequestKind::ClearTaskSet => {
                let plan = AbortPlan { cause: AbortCause::ClearTaskSet, nexuses: None };
                Verdict::Abort { plan, reset: false }
            }
            RequestKind::ModeSelect { cdb, list, info } => {
                self.home_mode_select(slot, &what.who, cdb, list, info)
            }
            RequestKind::PersistentOut { cdb, list, ports } => {
                let cx = OutContext { ports, can_store };
                match reserve::out::persistent_out(&policy.reserve, &what.who, cdb, list, &cx) {
                    Ok(None) => Verdict::Answer(Reply::Done),
                    Ok(Some(change)) => {
                        let store = change.store.then(|| {
                            let bytes = persist::encode(&change.table, &uuid).into_boxed_slice();
                            (Stored::Reservations, bytes)
                        });
                        let abort = (!change.abort.is_empty())
                            .then_some(AbortPlan { cause: AbortCause::Preempt, nexuses: Some(change.abort) });
                        let attentions =
                            change.attentions.into_iter().map(|(name, asc)| (Whom::One(name), asc)).collect();
                        Verdict::Change { policy: reserved(change.table), attentions, store, abort }
                    }
                    Err(refused) => Verdict::Answer(reply_of(refused)),
                }
            }
            RequestKind::Reserve => match reserve::out::reserve_legacy(&policy.reserve, &what.who) {
                Ok(table) => changed(table.map(reserved)),
                Err(refused) => Verdict::Answer(reply_of(refused)),
            },
            RequestKind::Release => match reserve::out::release_legacy(&policy.reserve, &what.who) {
                Ok(table) => changed(table.map(reserved)),
                Err(refused) => Verdict::Answer(reply_of(refused)),
            },
            RequestKind::Settle => Verdict::Answer(Reply::Done),
            RequestKind::NexusLost => {
                changed(reserve::out::after_nexus_loss(&policy.reserve, &what.who).map(reserved))
            }
        }
    }

    fn home_mode_select(
        &mut self,
        slot: u16,
        who: &reserve::NexusName,
        cdb: &[u8],
        list: &[u8],
        info: &NexusInfo,
    ) -> Verdict {
        let shard = self.lu(slot);
        let policy = shard.at_home.as_ref().expect("requests are sent to the home core").policy.clone();
        let view = LuView {
            info: &shard.info,
            identity: &shard.identity,
            modes: &policy.modes,
            reserve: &policy.reserve,
            nexus: info,
            ports: &[],
            transfer_bytes_max: self.limits.transfer_bytes_max,
            read_only: shard.info.read_only || shard.write_protect,
            tst_shared: shard.tst_shared,
            can_store: shard.can_store,
        };
        match mode::mode_select(cdb, list, &view) {
            Err(sense) => Verdict::Answer(Reply::Check(Box::new(sense))),
            Ok(modes) if modes == *policy.modes => Verdict::Answer(Reply::Done),
            Ok(modes) => {
                let saved = modes.saved_bytes();
                let store = (shard.can_store && saved != policy.modes.saved_bytes())
                    .then(|| (Stored::Modes, saved.into_boxed_slice()));
                // SPC-4 §6.13: the others learn that pages they share have changed.
                let attentions = vec![(Whom::Except(who.clone()), Asc::MODE_PARAMETERS_CHANGED)];
                let policy = Policy { modes: Arc::new(modes), ..policy };
                Verdict::Change { policy, attentions, store, abort: None }
            }
        }
    }

    /// What a command waits for is on stable storage, or could not be brought there.
    pub fn stored(&mut self, lu: crate::config::LuId, ticket: u32, ok: bool) {
        if let Some(&slot) = self.lu_slots.get(&lu)
            && let Some(home) = &mut self.lu_mut(slot).at_home
            && home.epoch == ticket
            && home.active.as_ref().is_some_and(|a| a.phase == Phase::Storing)
        {
            if ok {
                self.home_stored(slot);
            } else {
                let sense = Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE);
                self.home_answer(slot, Reply::Check(Box::new(sense)));
            }
        }
        self.settle();
    }

    fn home_stored(&mut self, slot: u16) {
        let active = self.home(slot).active.as_mut().expect("a job is being done");
        match active.abort.take() {
            Some(plan) => self.home_close(slot, Scope::All, Some(plan)),
            None => self.home_publish(slot),
        }
    }

    fn home_close(&mut self, slot: u16, scope: Scope, plan: Option<AbortPlan>) {
        let lu = self.lu(slot).lu;
        let home = self.home(slot);
        home.epoch = home.epoch.wrapping_add(1);
        let (epoch, members) = (home.epoch, home.members.clone());
        let active = home.active.as_mut().expect("a job is being done");
        active.phase = Phase::Closing;
        active.left = members.len();
        active.gated = true;
        let (who, since, from, ticket) = (active.who.clone(), active.since, active.from, active.ticket);
        for member in &members {
            let abort = plan.as_ref().map(|plan| {
                let except = match ticket {
                    Ticket::Task(task) => Some((from, task)),
                    Ticket::Tmf(_) | Ticket::Nexus(_) | Ticket::Nobody => None,
                };
                let nexuses = plan.nexuses.clone();
                Box::new(AbortSet { cause: plan.cause, nexuses, asker: who.clone(), since, except })
            });
            self.post(*member, ScsiMsg::Close { lu, epoch, scope, abort });
        }
        if members.is_empty() {
            self.home_all_closed(slot);
        }
    }

    pub(crate) fn home_closed(&mut self, slot: u16, epoch: u32) {
        let home = self.home(slot);
        if let Some(active) = home.active.as_mut().filter(|a| a.phase == Phase::Closing)
            && home.epoch == epoch
        {
            active.left -= 1;
            if active.left == 0 {
                self.home_all_closed(slot);
            }
        }
    }

    fn home_all_closed(&mut self, slot: u16) {
        let lu = self.lu(slot).lu;
        let home = self.home(slot);
        let epoch = home.epoch;
        let active = home.active.as_mut().expect("a job is being done");
        if active.reset {
            // SAM-5 §6.3.3: SPC-2 reservations end, mode pages return to their saved values, every nexus is told.
            let policy = &home.policy;
            let reserve = reserve::out::after_reset(&policy.reserve).map_or(policy.reserve.clone(), Arc::new);
            let mut modes = (*policy.modes).clone();
            modes.reset();
            let policy = Policy { modes: Arc::new(modes), reserve };
            let attentions = vec![(Whom::All, Asc::POWER_ON_OR_RESET_OCCURRED)];
            active.news = Some(Box::new(News { policy, attentions }));
        }
        if active.news.is_some() {
            self.home_publish(slot);
            return;
        }
        match active.ticket {
            Ticket::Task(_) => {
                active.phase = Phase::Held;
                let (from, ticket) = (active.from, active.ticket);
                self.post(from, ScsiMsg::Reply { lu, ticket, reply: Reply::Granted(epoch) });
            }
            Ticket::Tmf(_) | Ticket::Nexus(_) | Ticket::Nobody => self.home_answer(slot, Reply::Done),
        }
    }

    fn home_publish(&mut self, slot: u16) {
        let lu = self.lu(slot).lu;
        let home = self.home(slot);
        home.epoch = home.epoch.wrapping_add(1);
        let (epoch, members) = (home.epoch, home.members.clone());
        let active = home.active.as_mut().expect("a job is being done");
        active.phase = Phase::Publishing;
        active.left = members.len();
        let news = active.news.take().expect("there is something to publish");
        home.policy = news.policy.clone();
        for member in &members {
            let news = Box::new(News { policy: news.policy.clone(), attentions: news.attentions.clone() });
            self.post(*member, ScsiMsg::Publish { lu, epoch, news });
        }
        if members.is_empty() || planted::on(Bug::ReservationPublishedLate) {
            self.home_answer(slot, Reply::Done);
        }
    }

    pub(crate) fn home_acked(&mut self, slot: u16, epoch: u32) {
        let home = self.home(slot);
        if let Some(active) = home.active.as_mut().filter(|a| a.phase == Phase::Publishing)
            && home.epoch == epoch
        {
            active.left -= 1;
            if active.left == 0 {
                self.home_answer(slot, Reply::Done);
            }
        }
    }

    pub(crate) fn home_unlocked(&mut self, slot: u16, _epoch: u32) {
        if self.home(slot).active.as_ref().is_some_and(|a| a.phase == Phase::Held) {
            self.home_open(slot);
            self.home(slot).active = None;
            self.home_pump(slot);
        }
    }

    fn home_open(&mut self, slot: u16) {
        let lu = self.lu(slot).lu;
        let home = self.home(slot);
        let epoch = home.epoch;
        for member in home.members.clone() {
            self.post(member, ScsiMsg::Open { lu, epoch });
        }
    }

    fn home_answer(&mut self, slot: u16, reply: Reply) {
        let lu = self.lu(slot).lu;
        let active = self.home(slot).active.take().expect("a job is being done");
        if active.gated {
            self.home_open(slot);
        }
        self.post(active.from, ScsiMsg::Reply { lu, ticket: active.ticket, reply });
        self.home_pump(slot);
    }
}

fn changed(policy: Option<Policy>) -> Verdict {
    match policy {
        Some(policy) => Verdict::Change { policy, attentions: Vec::new(), store: None, abort: None },
        None => Verdict::Answer(Reply::Done),
    }
}

fn reply_of(refused: Refused) -> Reply {
    match refused {
        Refused::Conflict => Reply::Conflict,
        Refused::Check(sense) => Reply::Check(Box::new(sense)),
    }
}
