//! What an answer means for the memories of the court.

use spindle_initiator::Completion;
use spindle_iscsi_wire::{ServiceResponse, TaskAttribute, TmfFunction, TmfResult};
use spindle_reactor::Tick;

use super::{Access, Actor, Answer, Change, End, Kind, Pending, closes};
use crate::trace;

const GOOD: u8 = 0x00;
const CHECK: u8 = 0x02;
const BUSY: u8 = 0x08;
const CONFLICT: u8 = 0x18;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;

impl Actor {
    pub(super) fn done(&mut self, now: Tick, done: Completion) {
        let itt = done.itt.0;
        self.next_act.get_or_insert(now);
        let Some(pending) = self.pending.remove(&itt) else {
            return self.complain(format!("port {}: {itt:#x} is answered after its end", self.port));
        };
        let (key, asc) = sense(&done.sense);
        trace!(
            "port {}: {} {itt:#x} status {:02x} sense {key:x}/{asc:04x}",
            self.port,
            pending.kind.name(),
            done.status
        );
        if done.response != ServiceResponse::CommandCompleted {
            self.complain(format!("port {}: {itt:#x} ends with {:?}", self.port, done.response));
        }
        let deferred = done.status == CHECK && is_deferred(&done.sense);
        // SPC-4 §4.5.7: a command that tells of another was not performed.
        let (end, answer) =
            if deferred { (End::Refused, Answer::Nothing) } else { meaning(done.status, key, asc) };
        let name = match done.status {
            GOOD => "good",
            CONFLICT => "reservation conflict",
            BUSY => "busy",
            TASK_SET_FULL => "task set full",
            TASK_ABORTED => "task aborted",
            CHECK if deferred => "deferred errors",
            CHECK => match key {
                3 | 4 => "device errors",
                5 => "illegal request",
                6 => "unit attention",
                0xB => "aborted command",
                0xE => "miscompare",
                7 => "data protect",
                _ => "other check condition",
            },
            _ => {
                return self.complain(format!("port {}: {itt:#x} has status {:02x}", self.port, done.status));
            }
        };
        self.count(name);
        if done.status == CHECK && (done.sense.is_empty() || key == 0) {
            self.complain(format!("port {}: {itt:#x}: CHECK CONDITION without sense", self.port));
        }
        if deferred {
            match self.flushes_later.get_mut(&pending.unit) {
                Some(n) if *n > 0 => *n -= 1,
                _ => self.complain(format!(
                    "port {}: {itt:#x}: a deferred error on unit {}, and nothing that it could be about",
                    self.port, pending.unit
                )),
            }
        }
        if done.status == CONFLICT || (key == 6 && (0x2A03..=0x2A05).contains(&asc)) {
            // Somebody may have taken our registration away.
            self.registered = false;
        }
        self.order(itt, &pending, done.status);
        self.read_back(&pending, &done);
        if let (Kind::Unknown, GOOD) = (&pending.kind, done.status) {
            self.complain(format!("port {}: {itt:#x}: nobody knows that command, and it is GOOD", self.port));
        }
        if let Kind::Other = pending.kind
            && done.status == CHECK
            && key != 6
            && !deferred
            && !(key == 5 && asc == 0x2500)
        {
            self.complain(format!("port {}: a plain command ends with sense {key:x}/{asc:04x}", self.port));
        }
        self.conclude(&pending, end, answer);
    }

    /// Data-In, of a good command or a failed one, holds nothing but what the disk may hold.
    fn read_back(&mut self, pending: &Pending, done: &Completion) {
        let Kind::Read { lba, blocks, bytes } = pending.kind else { return };
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let unit = &mut judge.units[pending.unit];
        let length = (blocks * unit.blocks.block_bytes() as u64).min(u64::from(bytes));
        if done.status == GOOD && done.received != length && !unit.unsettled {
            let why = format!("port {}: a read of {length} bytes brought {}", self.port, done.received);
            return judge.complain(why);
        }
        if done.status == GOOD || done.received > 0 {
            let judged = unit.blocks.read(moment, pending.invoked, lba, &done.data);
            judge.hear(judged.map_err(|why| format!("port {}: {why}", self.port)));
        }
        drop(judge);
        if done.status != GOOD && self.verify_tries > 0 && self.verify_tries < 400 {
            // A unit attention, most likely: once more.
            self.verify_tries += 1;
            self.verify.push_back((pending.unit, lba, blocks));
        }
    }

    /// What sense and status mean for blocks and reservations.
    pub(super) fn conclude(&mut self, pending: &Pending, end: End, answer: Answer) {
        let (port, unit) = (self.port, pending.unit);
        // Another PREEMPT of this port on the unit may still end commands of others.
        let preempts = |p: &Pending| matches!(p.kind, Kind::Change(Change::Preempt { .. }));
        let preempting = self.pending.values().any(|p| p.unit == unit && preempts(p));
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let access = match pending.kind {
            Kind::Read { .. } => Some(Access::Read),
            Kind::Write { .. } | Kind::Swap { .. } => Some(Access::Write),
            _ => None,
        };
        let u = &mut judge.units[unit];
        let mut all = Vec::new();
        if let Some(access) = access {
            all.push(u.reserve.judge(pending.stamp, port, access, answer));
        }
        match pending.kind {
            Kind::Write { id } => all.push(u.blocks.end(moment, id, end)),
            Kind::Swap { id, lba, found } => {
                if end == End::Done {
                    all.push(u.blocks.swapped(moment, pending.invoked, lba, found, id));
                }
                all.push(u.blocks.end(moment, id, end));
            }
            Kind::Sync { lba, blocks } if end == End::Done => {
                u.blocks.flushed(moment, pending.invoked, lba, blocks);
            }
            Kind::Change(change) => {
                for sweep in u.sweeps.iter_mut().filter(|s| s.preempts && s.by == port && !preempting) {
                    sweep.answered.get_or_insert(moment);
                }
                all.push(u.reserve.end(port, change, answer));
            }
            Kind::FlushLater if end == End::Done => u.flush_owed = u.flush_owed.max(pending.invoked),
            Kind::Read { .. } | Kind::Sync { .. } | Kind::FlushLater | Kind::Unknown | Kind::Other => {}
        }
        for judged in all {
            judge.hear(judged.map_err(|why| format!("port {port}, unit {unit}: {why}")));
        }
    }

    /// A command that began behind an ORDERED one (or is one) is not answered before those ahead of it.
    fn order(&mut self, itt: u32, done: &Pending, status: u8) {
        let moves = |k: &Kind| {
            matches!(k, Kind::Read { .. } | Kind::Write { .. } | Kind::Sync { .. } | Kind::FlushLater)
        };
        if status != GOOD || !moves(&done.kind) || done.attr == TaskAttribute::HeadOfQueue || done.immediate {
            return;
        }
        let ahead = self.pending.iter().find(|(_, p)| {
            p.unit == done.unit
                && p.invoked < done.invoked
                && moves(&p.kind)
                && !p.aborting
                && !p.immediate
                && p.attr != TaskAttribute::HeadOfQueue
                && (p.attr == TaskAttribute::Ordered || done.attr == TaskAttribute::Ordered)
        });
        if let Some((other, p)) = ahead
            && !self.tmfs.values().any(|t| !matches!(t.function, TmfFunction::QueryTask))
            && !self.judge.lock().may_be_swept(done.unit, self.port, p.invoked)
        {
            let why = format!(
                "port {}: {} {itt:#x} ({:?}) is answered before {} {other:#x} ({:?})",
                self.port,
                done.kind.name(),
                done.attr,
                p.kind.name(),
                p.attr
            );
            self.complain(why);
        }
    }

    pub(super) fn tmf_done(&mut self, now: Tick, itt: u32, result: TmfResult, ended: &[u32]) {
        self.next_act.get_or_insert(now);
        let Some(tmf) = self.tmfs.remove(&itt) else {
            return self.complain(format!("port {}: task management {itt:#x} is answered twice", self.port));
        };
        trace!("port {}: {:?} {itt:#x} {result:?}, ended {ended:x?}", self.port, tmf.function);
        self.judge.lock().count(&format!("{:?} {result:?}", tmf.function));
        // What happened to a unit that went out of the map meanwhile is not known.
        let known = result == TmfResult::Complete && self.judge.lock().units[0].mapped == tmf.mapped;
        let answer = if known { Answer::Good } else { Answer::Unknown };
        self.close_sweeps(&tmf.sweeps, tmf.change, answer);
        for itt in ended {
            if let Some(pending) = self.pending.remove(itt) {
                self.conclude(&pending, End::Unsure, Answer::Unknown);
            }
        }
        match (tmf.function, result) {
            (TmfFunction::AbortTask, TmfResult::TaskDoesNotExist) => {
                // Its status would have come before this answer, so somebody else has ended it.
                let Some(pending) = tmf.referenced.and_then(|itt| self.pending.remove(&itt)) else { return };
                let own = self.tmfs.values().any(|t| t.ends(pending.unit));
                if !own && !self.judge.lock().may_be_swept(pending.unit, self.port, pending.invoked) {
                    let what = pending.kind.name();
                    self.complain(format!(
                        "port {}: the target has lost a {what}, {:x?}",
                        self.port, tmf.referenced
                    ));
                }
                self.conclude(&pending, End::Unsure, Answer::Unknown);
            }
            (_, TmfResult::Complete | TmfResult::Succeeded | TmfResult::TaskDoesNotExist) => {}
            // Only so many at a time, and units come and go.
            (_, TmfResult::Rejected | TmfResult::LunDoesNotExist) => {}
            (function, result) => {
                self.complain(format!("port {}: {function:?} is answered {result:?}", self.port))
            }
        }
    }

    pub(super) fn close_sweeps(&mut self, sweeps: &[(usize, usize)], change: Option<Change>, answer: Answer) {
        let mut judge = self.judge.lock();
        closes(&mut judge, sweeps);
        if let Some(change) = change {
            let judged = judge.units[0].reserve.end(self.port, change, answer);
            judge.hear(judged);
        }
    }
}

/// What status and sense say about the effect of a command.
fn meaning(status: u8, key: u8, asc: u16) -> (End, Answer) {
    match (status, key, asc) {
        (GOOD, ..) => (End::Done, Answer::Good),
        (CONFLICT, ..) => (End::Refused, Answer::Conflict),
        (BUSY | TASK_SET_FULL, ..) => (End::Refused, Answer::Nothing),
        // A range check of the device itself, when it has shrunk meanwhile, comes too late to be sure.
        (CHECK, 5, 0x2100) => (End::Unsure, Answer::Unknown),
        (CHECK, 2 | 5 | 6 | 0xE, _) => (End::Refused, Answer::Nothing),
        _ => (End::Unsure, Answer::Unknown),
    }
}

/// Whether it is about an earlier command.
fn is_deferred(sense: &[u8]) -> bool {
    sense.first().is_some_and(|b| matches!(b & 0x7F, 0x71 | 0x73))
}

/// Sense key and code of either format.
fn sense(sense: &[u8]) -> (u8, u16) {
    match sense.first().map(|b| b & 0x7F) {
        Some(0x70 | 0x71) if sense.len() >= 14 => {
            (sense[2] & 0x0F, u16::from_be_bytes([sense[12], sense[13]]))
        }
        Some(0x72 | 0x73) if sense.len() >= 4 => (sense[1] & 0x0F, u16::from_be_bytes([sense[2], sense[3]])),
        _ => (0, 0),
    }
}
