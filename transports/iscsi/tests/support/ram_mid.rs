//! A mid-level of one RAM disk, as small as the seam allows, that checks its caller's manners.
//!
//! READ(10), WRITE(10) and TEST UNIT READY do what they say. Opcode C0h is answered when the test says so.

use std::collections::{HashMap, VecDeque};

use spindle_mem::{Arena, ArenaConfig, PoolConfig, Sgv, SgvPool, ShareId};
use spindle_reactor::CoreId;
use spindle_scsi_port::{
    Admit, Command, Mid, NexusId, NexusInfo, Outcome, PortEffect, ReceiveError, Refusal, Residual, TaskId,
    TaskTag, Tmf, TmfFunction, TmfResponse,
};
use spindle_scsi_spec::{Asc, Sense, SenseKey, Status};

pub const BLOCK: u32 = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Receiving,
    Swallowing,
    Held,
    Responding,
    Revoking,
}

#[derive(Clone, Debug)]
struct Row {
    nexus: NexusId,
    cookie: u32,
    tag: TaskTag,
    state: State,
    lba: u32,
    bytes: u32,
    expected: u32,
}

pub struct RamMid {
    pub pool: SgvPool,
    pub disk: Vec<u8>,
    pub fx: Vec<PortEffect>,
    rows: HashMap<u32, Row>,
    next: u32,
    line: VecDeque<u32>,
    pub nexuses: HashMap<NexusId, Option<Box<NexusInfo>>>,
    next_nexus: u16,
    pub window_limit: u32,
    /// Requests and the tasks they wait for.
    tmfs: Vec<(Tmf, Vec<u32>)>,
    /// What happened, for tests to look at.
    pub log: Vec<String>,
    pub failures: Vec<ReceiveError>,
    /// Serves at once what it can.
    pub at_once: bool,
}

impl RamMid {
    pub fn new(vectors: [u32; 6]) -> Self {
        let arena = Arena::new(ArenaConfig::default()).expect("memory for a test");
        let config = PoolConfig { vectors, ..PoolConfig::default() };
        let pool = SgvPool::new(CoreId(0), arena, &config).expect("memory for a test");
        RamMid {
            pool,
            disk: vec![0; 4 << 20],
            fx: Vec::new(),
            rows: HashMap::new(),
            next: 1,
            line: VecDeque::new(),
            nexuses: HashMap::new(),
            next_nexus: 0,
            window_limit: 128,
            tmfs: Vec::new(),
            log: Vec::new(),
            failures: Vec::new(),
            at_once: true,
        }
    }

    pub fn tasks(&self) -> usize {
        self.rows.len()
    }

    /// Ends every command that was held.
    pub fn release(&mut self) {
        let held: Vec<u32> =
            self.rows.iter().filter(|(_, r)| r.state == State::Held).map(|(id, _)| *id).collect();
        for id in held {
            self.respond(id, Outcome::GOOD, None);
        }
    }

    /// Somebody else resets the unit: every task ends without an answer.
    pub fn reset(&mut self) {
        self.abort(|_| true);
    }

    fn respond(&mut self, id: u32, outcome: Outcome, data: Option<(Sgv, u32)>) {
        let row = self.rows.get_mut(&id).unwrap();
        row.state = State::Responding;
        self.fx.push(PortEffect::Respond {
            task: TaskId(id),
            cookie: row.cookie,
            nexus: row.nexus,
            outcome,
            data,
        });
    }

    fn fail(&mut self, id: u32, sense: Sense) {
        let row = &self.rows[&id];
        let residual = Residual::Underflow(row.expected);
        let outcome = Outcome {
            status: Status::CheckCondition,
            sense: Some(Box::new(sense)),
            residual,
            ..Outcome::GOOD
        };
        self.respond(id, outcome, None);
    }

    fn serve_line(&mut self) {
        while let Some(&id) = self.line.front() {
            let row = self.rows.get_mut(&id).unwrap();
            let Some(buf) = self.pool.take(row.bytes.min(row.expected), ShareId(0)) else { return };
            self.line.pop_front();
            row.state = State::Receiving;
            self.fx.push(PortEffect::Land { task: TaskId(id), cookie: row.cookie, nexus: row.nexus, buf });
        }
    }

    fn store(&mut self, row: &Row, buf: Sgv) {
        assert_eq!(row.state, State::Receiving);
        let at = row.lba as usize * BLOCK as usize;
        buf.copy_to(0, &mut self.disk[at..at + buf.len() as usize]);
        self.put(buf);
    }

    fn put(&mut self, buf: Sgv) {
        self.pool.put(buf);
        self.serve_line();
    }

    fn ended(&mut self, id: TaskId) -> Row {
        let row = self.rows.remove(&id.0).expect("a task ends once");
        self.log.push(format!("ended {}", row.tag.0));
        let fx = &mut self.fx;
        self.tmfs.retain_mut(|(tmf, waits)| {
            waits.retain(|w| *w != id.0);
            if waits.is_empty() {
                fx.push(PortEffect::TmfDone {
                    id: tmf.id,
                    nexus: tmf.nexus,
                    response: TmfResponse::Complete,
                });
            }
            !waits.is_empty()
        });
        if self.nexuses.get(&row.nexus) == Some(&None) && !self.rows.values().any(|r| r.nexus == row.nexus) {
            self.gone(row.nexus);
        }
        row
    }

    fn gone(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
        self.fx.push(PortEffect::NexusGone { nexus });
    }

    /// Marks tasks; those that the transport holds are revoked, those held here end, those answered already
    /// end by themselves.
    fn abort(&mut self, which: impl Fn(&Row) -> bool) -> Vec<u32> {
        let ids: Vec<u32> = self.rows.iter().filter(|(_, r)| which(r)).map(|(id, _)| *id).collect();
        for id in &ids {
            let row = self.rows.get_mut(id).unwrap();
            if row.state != State::Responding && row.state != State::Revoking {
                row.state = State::Revoking;
                self.line.retain(|l| l != id);
                self.fx.push(PortEffect::Revoke { task: TaskId(*id), cookie: row.cookie, nexus: row.nexus });
            }
        }
        ids
    }
}

impl Mid for RamMid {
    fn nexus_up(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal> {
        self.next_nexus += 1;
        let id = NexusId::new(0, self.next_nexus, 1);
        self.log.push(format!("up {}", info.initiator_name));
        self.nexuses.insert(id, Some(info));
        Ok(id)
    }

    fn grant(&mut self, _nexus: NexusId, wanted: u32) -> u32 {
        wanted.min(self.window_limit)
    }

    fn spare(&mut self, like: &Sgv) -> Option<Sgv> {
        self.pool.spare(like)
    }

    fn command(&mut self, c: &Command<'_>) -> Admit {
        assert!(self.nexuses.get(&c.nexus).is_some_and(Option::is_some), "a command of a nexus that is up");
        let id = self.next;
        self.next += 1;
        let opcode = c.cdb[0];
        let (lba, bytes) = extent(c);
        let expected = if opcode == 0x2A { c.expected.write } else { c.expected.read };
        let row =
            Row { nexus: c.nexus, cookie: c.cookie, tag: c.tag, state: State::Held, lba, bytes, expected };
        self.log.push(format!("command {:02x} {}", opcode, c.tag.0));
        self.rows.insert(id, row);
        let row = self.rows.get_mut(&id).unwrap();
        match opcode {
            0x28 => {
                let Some(mut buf) = self.pool.take(bytes, ShareId(0)) else {
                    let busy = Outcome { status: Status::Busy, ..Outcome::GOOD };
                    self.respond(id, busy, None);
                    return Admit::NoData(TaskId(id));
                };
                let at = lba as usize * BLOCK as usize;
                buf.copy_from(0, &self.disk[at..at + bytes as usize]);
                let residual = residual(bytes, expected);
                let data = Some((buf, bytes.min(expected)));
                self.respond(id, Outcome { residual, ..Outcome::GOOD }, data);
                Admit::NoData(TaskId(id))
            }
            0x2A if bytes.min(expected) == 0 => {
                row.state = State::Swallowing;
                Admit::Swallow(TaskId(id))
            }
            0x2A => {
                let wanted = bytes.min(expected);
                match self.pool.take(wanted, ShareId(0)) {
                    Some(buf) => {
                        row.state = State::Receiving;
                        Admit::Land(TaskId(id), buf)
                    }
                    None => {
                        row.state = State::Waiting;
                        self.line.push_back(id);
                        Admit::Wait { task: TaskId(id), wanted }
                    }
                }
            }
            0xC0 => Admit::NoData(TaskId(id)),
            0x00 => {
                self.respond(id, Outcome::GOOD, None);
                Admit::NoData(TaskId(id))
            }
            0xFF => {
                self.rows.remove(&id);
                Admit::Refused
            }
            _ => {
                row.state = State::Swallowing;
                Admit::Swallow(TaskId(id))
            }
        }
    }

    fn read_at_once(&mut self, c: &Command<'_>) -> Option<Sgv> {
        let (lba, bytes) = extent(c);
        let can = self.at_once && self.fx.is_empty() && c.cdb[0] == 0x28 && bytes > 0;
        if !can || bytes != c.expected.read {
            return None;
        }
        let mut buf = self.pool.take(bytes, ShareId(0))?;
        let at = lba as usize * BLOCK as usize;
        buf.copy_from(0, &self.disk[at..at + bytes as usize]);
        self.log.push(format!("served {}", c.tag.0));
        Some(buf)
    }

    fn received_at_once(&mut self, task: TaskId, buf: Sgv) -> bool {
        let row = self.rows[&task.0].clone();
        if !self.at_once || !self.fx.is_empty() || row.bytes != row.expected {
            self.received(task, buf);
            return false;
        }
        self.store(&row, buf);
        self.log.push(format!("served {}", row.tag.0));
        self.ended(task);
        true
    }

    fn received(&mut self, task: TaskId, buf: Sgv) {
        let row = self.rows[&task.0].clone();
        if row.state == State::Revoking {
            // Crossed with the effect that revokes it, which is answered as well.
            return self.put(buf);
        }
        self.store(&row, buf);
        let outcome = Outcome { residual: residual(row.bytes, row.expected), ..Outcome::GOOD };
        self.respond(task.0, outcome, None);
    }

    fn receive_failed(&mut self, task: TaskId, buf: Option<Sgv>, why: ReceiveError) {
        self.failures.push(why);
        self.line.retain(|l| *l != task.0);
        buf.into_iter().for_each(|b| self.put(b));
        if self.rows[&task.0].state != State::Revoking {
            self.fail(task.0, Sense::new(SenseKey::AbortedCommand, Asc { code: 0x47, qualifier: 0x05 }));
        }
    }

    fn swallowed(&mut self, task: TaskId) {
        let row = &self.rows[&task.0];
        if row.state == State::Revoking {
            // Crossed with the effect that revokes it, which is answered as well.
            return;
        }
        assert_eq!(row.state, State::Swallowing);
        if row.bytes == 0 {
            self.respond(task.0, Outcome::GOOD, None);
        } else {
            self.fail(task.0, Sense::illegal_request(Asc { code: 0x20, qualifier: 0 }));
        }
    }

    fn responded(&mut self, task: TaskId) {
        let row = self.ended(task);
        assert_eq!(row.state, State::Responding, "an answer to a Respond");
    }

    fn returned(&mut self, buf: Sgv) {
        self.put(buf);
    }

    fn revoked(&mut self, task: TaskId, buf: Option<Sgv>) {
        buf.into_iter().for_each(|b| self.put(b));
        let row = self.ended(task);
        assert_eq!(row.state, State::Revoking, "an answer to a Revoke");
    }

    fn task_management(&mut self, tmf: &Tmf) {
        let nexus = tmf.nexus;
        self.log.push(format!("tmf {:?}", tmf.function));
        let waits = match tmf.function {
            TmfFunction::AbortTask(tag) => self.abort(|r| r.nexus == nexus && r.tag == tag),
            _ => self.abort(|r| r.nexus == nexus),
        };
        if waits.is_empty() {
            self.fx.push(PortEffect::TmfDone { id: tmf.id, nexus, response: TmfResponse::Complete });
        } else {
            self.tmfs.push((*tmf, waits));
        }
    }

    fn nexus_lost(&mut self, nexus: NexusId) {
        self.log.push("lost".into());
        self.nexuses.insert(nexus, None);
        if self.abort(|r| r.nexus == nexus).is_empty() {
            self.gone(nexus);
        }
    }

    fn expect_nexus(&mut self, _: Box<NexusInfo>, _: u32) -> Result<NexusId, Refusal> {
        Err(Refusal::NoRoom)
    }
}

/// First block, and length in bytes, of a CDB of ten.
fn extent(c: &Command<'_>) -> (u32, u32) {
    let blocks = u32::from(u16::from_be_bytes(c.cdb[7..9].try_into().unwrap()));
    (u32::from_be_bytes(c.cdb[2..6].try_into().unwrap()), blocks * BLOCK)
}

fn residual(actual: u32, expected: u32) -> Residual {
    match actual.cmp(&expected) {
        std::cmp::Ordering::Less => Residual::Underflow(expected - actual),
        std::cmp::Ordering::Equal => Residual::None,
        std::cmp::Ordering::Greater => Residual::Overflow(actual - expected),
    }
}
