//! What an initiator does next, as its seed decides.

use std::sync::Arc;

use spindle_initiator::{Command, Direction};
use spindle_iscsi_wire::{Itt, LogoutReason, TaskAttribute, TmfFunction};
use spindle_reactor::Tick;

use super::{Actor, Kind, Pending, PendingTmf, Phase, STREAM_BYTES, ns};
use crate::judge::Sweep;
use crate::net::{Way, lock};
use crate::oracle::blocks::End;
use crate::oracle::reserve::{Answer, Change};
use crate::pattern::ANYWHERE;
use crate::plan::Reserving;
use crate::{cdb, pattern, trace};

/// A command ready to be sent.
struct Ready {
    cdb: Vec<u8>,
    direction: Direction,
    kind: Kind,
}

impl Actor {
    pub(super) fn act(&mut self, now: Tick) {
        if self.to_do == 0 {
            return self.act_verify(now);
        }
        let open = self.engine.as_ref().is_some_and(|e| e.window().is_open());
        if self.pending.len() >= self.plan.depth || !open {
            // The next answer makes room; so does a command that was aborted.
            self.next_act = Some(now.plus_ms(50));
            let dice = self.rng.u32(0..100);
            if dice < self.plan.tmf_weight {
                self.tmf(now);
            }
            return;
        }
        self.to_do -= 1;
        let dice = self.rng.u32(0..100);
        if dice < self.plan.trouble_weight {
            self.trouble(now);
        } else if dice < self.plan.trouble_weight + self.plan.tmf_weight {
            self.tmf(now);
        } else {
            self.command(now);
        }
        if self.next_act.is_none() {
            let pause =
                if self.rng.u32(0..3) == 0 { self.rng.u64(1..3_000_000) } else { self.rng.u64(1..20_000) };
            self.next_act = Some(Tick(now.0 + pause));
        }
    }

    fn act_verify(&mut self, now: Tick) {
        let open = self.engine.as_ref().is_some_and(|e| e.window().is_open());
        if self.verify.is_empty() {
            return;
        }
        if !open || self.pending.len() >= 4 {
            self.next_act = Some(now.plus_ms(5));
            return;
        }
        if self.verify_tries == 0 {
            self.verify_tries = 1;
            // Nobody's reservation stands in the way of the last look.
            if self.plan.reserving == Reserving::Persistent {
                let key = self.key();
                self.change(now, 0, Change::Register { key: 0, new: key, ignore: true });
                self.change(now, 0, Change::Clear { key });
            } else if self.plan.reserving == Reserving::Old {
                self.send_tmf(now, TmfFunction::LogicalUnitReset, 0, None, true);
            }
            self.next_act = Some(now.plus_ms(20));
            return;
        }
        if let Some((unit, lba, blocks)) = self.verify.pop_front() {
            let ready = self.read_of(unit, lba, blocks);
            self.send(now, unit, ready, TaskAttribute::Simple, false);
        }
        self.next_act = Some(now.plus_ms(1));
    }

    // ---- commands

    fn command(&mut self, now: Tick) {
        if self.plan.streams && self.go_on_streaming(now) {
            return;
        }
        let unit = self.rng.usize(0..self.plan.disks.len());
        let reserving = unit == 0 && self.plan.reserving != Reserving::No;
        let gate = self.rng.u32(0..100) < self.plan.gate_weight;
        // Whoever lost its registration takes a new one, or there would be little to preempt.
        let lost = self.plan.preempts && !self.registered && self.rng.u32(0..4) == 0;
        if reserving && (lost || gate && (self.plan.preempts || self.rng.bool())) {
            let change = self.some_change();
            return self.change(now, unit, change);
        }
        let (lba, blocks) = self.range(unit);
        let ready = if gate {
            self.swap_of(unit, lba)
        } else if self.rng.u32(0..100) < self.plan.write_weight {
            match self.rng.u32(0..20) {
                0 => self.same_of(unit, lba, blocks),
                1 => self.unmap_of(unit, lba, blocks),
                _ => self.write_of(unit, lba, blocks),
            }
        } else {
            match self.rng.u32(0..20) {
                0..=2 => self.sync_of(unit, lba, blocks),
                3 => plain(vec![0x00, 0, 0, 0, 0, 0], 0),
                4 => plain(vec![0x12, 0, 0, 0, 96, 0], 96),
                5 => plain(vec![0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
                6 => plain(vec![0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256),
                7 => plain(vec![0x1A, 0, 0x3F, 0, 200, 0], 200),
                _ => self.read_of(unit, lba, blocks),
            }
        };
        let attr = match self.rng.u32(0..30) {
            0 | 1 => TaskAttribute::Ordered,
            2 => TaskAttribute::HeadOfQueue,
            3 => TaskAttribute::Untagged,
            _ => TaskAttribute::Simple,
        };
        let immediate = self.rng.u32(0..40) == 0;
        self.send(now, unit, ready, attr, immediate);
    }

    /// One more write of a stream, or sometimes a command whose data nobody wants.
    fn go_on_streaming(&mut self, now: Tick) -> bool {
        let (left, unit) = &mut self.stream;
        if *left == 0 {
            if self.rng.u32(0..8) > 0 {
                return false;
            }
            (*left, *unit) = (self.rng.u32(30..120), self.rng.usize(0..self.plan.disks.len()));
        }
        *left -= 1;
        let unit = *unit;
        let disk = &self.plan.disks[unit];
        let blocks = u64::from(STREAM_BYTES / disk.block_bytes);
        if self.rng.u32(0..40) == 0 || disk.blocks < blocks {
            return false;
        }
        let lba = self.rng.u64(0..=disk.blocks - blocks);
        let ready = if self.rng.u32(0..25) == 0 {
            let data = vec![0xEE; STREAM_BYTES as usize];
            let cdb = cdb::ten(0xE0, 0, lba as u32, blocks as u16);
            Ready { cdb, direction: Direction::Write(Arc::from(data)), kind: Kind::Unknown }
        } else {
            let mut judge = self.judge.lock();
            let moment = judge.tick();
            let u = &mut judge.units[unit].blocks;
            let id = u.begin(moment, lba, blocks, false, false);
            let data = u.data(id, lba, blocks);
            let cdb = cdb::ten(0x2A, 0, lba as u32, blocks as u16);
            Ready { cdb, direction: Direction::Write(Arc::from(data)), kind: Kind::Write { id } }
        };
        self.whole = true;
        self.send(now, unit, ready, TaskAttribute::Simple, false);
        true
    }

    fn range(&mut self, unit: usize) -> (u64, u64) {
        let disk = &self.plan.disks[unit];
        let most = u64::from(self.plan.transfer_bytes_max / disk.block_bytes);
        let here = if self.plan.crowded { disk.blocks.min(12) } else { disk.blocks };
        let lba = self.rng.u64(0..here);
        let few = match self.rng.u32(0..10) {
            0 => most,
            1..=3 => most.min(24),
            _ => 4,
        };
        (lba, self.rng.u64(1..=few.min(disk.blocks - lba).max(1)))
    }

    fn read_of(&mut self, unit: usize, lba: u64, blocks: u64) -> Ready {
        let length = (blocks * u64::from(self.plan.disks[unit].block_bytes)) as u32;
        // Now and then the initiator has room for less, or for more.
        let bytes = match self.rng.u32(0..40) {
            0 if self.verify.is_empty() => self.rng.u32(1..=length),
            1 if self.verify.is_empty() => length + self.rng.u32(1..5_000),
            _ => length,
        };
        let cdb = if self.rng.bool() {
            cdb::ten(0x28, self.fua(0x08), lba as u32, blocks as u16)
        } else {
            cdb::sixteen(0x88, 0, lba, blocks as u32)
        };
        Ready { cdb, direction: Direction::Read(bytes), kind: Kind::Read { lba, blocks, bytes } }
    }

    fn write_of(&mut self, unit: usize, lba: u64, blocks: u64) -> Ready {
        let flags = self.fua(0x08);
        let cdb = match self.rng.u32(0..5) {
            0 | 1 => cdb::ten(0x2A, flags, lba as u32, blocks as u16),
            2 | 3 => cdb::sixteen(0x8A, flags, lba, blocks as u32),
            _ => cdb::ten(0x2E, 0, lba as u32, blocks as u16),
        };
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let u = &mut judge.units[unit].blocks;
        let id = u.begin(moment, lba, blocks, false, flags != 0 && cdb[0] != 0x2E);
        let data = u.data(id, lba, blocks);
        Ready { cdb, direction: Direction::Write(Arc::from(data)), kind: Kind::Write { id } }
    }

    fn swap_of(&mut self, unit: usize, lba: u64) -> Ready {
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let u = &mut judge.units[unit].blocks;
        let lba = lba.min(u.len().saturating_sub(1));
        let found = u.likely(lba);
        let mut data = u.bytes_of(lba, found);
        let id = u.begin(moment, lba, 1, false, false);
        data.extend(u.data(id, lba, 1));
        let cdb = cdb::compare_and_write(lba);
        Ready { cdb, direction: Direction::Write(Arc::from(data)), kind: Kind::Swap { id, lba, found } }
    }

    fn same_of(&mut self, unit: usize, lba: u64, blocks: u64) -> Ready {
        let zero = self.rng.bool();
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let u = &mut judge.units[unit].blocks;
        let id = u.begin(moment, lba, blocks, zero, false);
        u.same(id);
        let mut block = vec![0; u.block_bytes()];
        if !zero {
            pattern::fill(id, ANYWHERE, &mut block);
        }
        let unmap = if zero && self.rng.bool() { 0x08 } else { 0 };
        let cdb = if self.rng.bool() {
            cdb::ten(0x41, unmap, lba as u32, blocks as u16)
        } else {
            cdb::sixteen(0x93, unmap, lba, blocks as u32)
        };
        Ready { cdb, direction: Direction::Write(Arc::from(block)), kind: Kind::Write { id } }
    }

    fn unmap_of(&mut self, unit: usize, lba: u64, blocks: u64) -> Ready {
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let u = &mut judge.units[unit].blocks;
        let id = u.begin(moment, lba, blocks, true, false);
        let (cdb, list) = cdb::unmap(&[(lba, blocks as u32)]);
        Ready { cdb, direction: Direction::Write(Arc::from(list)), kind: Kind::Write { id } }
    }

    fn sync_of(&mut self, unit: usize, lba: u64, blocks: u64) -> Ready {
        let all = self.rng.bool();
        let (lba, blocks) = if all { (0, 0) } else { (lba, blocks) };
        let immed = self.plan.immed && self.rng.bool();
        let cdb = cdb::ten(0x35, if immed { 0x02 } else { 0 }, lba as u32, blocks as u16);
        let blocks = if all { self.plan.disks[unit].blocks } else { blocks };
        let kind = if immed { Kind::FlushLater } else { Kind::Sync { lba, blocks } };
        Ready { cdb, direction: Direction::None, kind }
    }

    fn fua(&mut self, bit: u8) -> u8 {
        if self.rng.u32(0..8) == 0 { bit } else { 0 }
    }

    // ---- reservations

    fn key(&self) -> u64 {
        0xA000 + self.port as u64
    }

    fn some_change(&mut self) -> Change {
        if self.plan.reserving == Reserving::Old {
            return if self.rng.bool() { Change::Reserve6 } else { Change::Release6 };
        }
        let key = self.key();
        // Mostly those that let the registered ones run, so that there is something to preempt.
        let kind = [1, 3, 5, 6, 7, 8, 5, 6, 7, 8][self.rng.usize(0..10)];
        let victim = 0xA000 + self.rng.u64(0..self.plan.initiators as u64);
        if !self.registered {
            return Change::Register { key: 0, new: key, ignore: self.rng.bool() };
        }
        match self.rng.u32(if self.plan.preempts { 8..16 } else { 0..16 }) {
            0 => Change::Register { key, new: 0, ignore: false },
            1..=3 => Change::Reserve { key, kind },
            4..=6 => Change::Release { key, kind },
            7 => Change::Clear { key },
            8..=13 if victim != key => Change::Preempt { key, victim, kind },
            _ => Change::Register { key: 0, new: key, ignore: true },
        }
    }

    fn change(&mut self, now: Tick, unit: usize, change: Change) {
        let abort = self.rng.u32(0..4) > 0;
        let (cdb, list) = match change {
            Change::Register { key, new, ignore: false } => cdb::persistent_out(0, 0, key, new),
            Change::Register { key, new, ignore: true } => cdb::persistent_out(6, 0, key, new),
            Change::Reserve { key, kind } => cdb::persistent_out(1, kind, key, 0),
            Change::Release { key, kind } => cdb::persistent_out(2, kind, key, 0),
            Change::Clear { key } => cdb::persistent_out(3, 0, key, 0),
            Change::Preempt { key, victim, kind } => {
                cdb::persistent_out(if abort { 5 } else { 4 }, kind, key, victim)
            }
            Change::Reserve6 => (vec![0x16, 0, 0, 0, 0, 0], Vec::new()),
            _ => (vec![0x17, 0, 0, 0, 0, 0], Vec::new()),
        };
        if let Change::Register { new, .. } = change {
            self.registered = new != 0;
        }
        if matches!(change, Change::Clear { .. }) {
            self.registered = false;
        }
        let mut judge = self.judge.lock();
        let sent = judge.tick();
        if matches!(change, Change::Preempt { .. }) && abort {
            judge.units[unit].sweeps.push(Sweep { by: self.port, sent, answered: None, preempts: true });
        }
        judge.units[unit].reserve.begin();
        drop(judge);
        let direction = if list.is_empty() { Direction::None } else { Direction::Write(Arc::from(list)) };
        let ready = Ready { cdb, direction, kind: Kind::Change(change) };
        self.send(now, unit, ready, TaskAttribute::Simple, false);
    }

    // ---- sending

    fn send(&mut self, now: Tick, unit: usize, ready: Ready, attr: TaskAttribute, immediate: bool) {
        let Ready { cdb, direction, kind } = ready;
        let mut judge = self.judge.lock();
        let invoked = judge.tick();
        let stamp = judge.units[unit].reserve.stamp();
        judge.count(kind.name());
        drop(judge);
        let mut command = Command::new(cdb::lun(unit as u16), &cdb, direction);
        command.attr = attr;
        command.immediate = immediate;
        let whole = std::mem::take(&mut self.whole);
        if !whole && self.rng.u32(0..4) == 0 {
            command.unsolicited = false;
            command.immediate_data_max = Some(self.rng.u32(0..2_000) & !3);
        }
        if matches!(kind, Kind::FlushLater) {
            *self.flushes_later.entry(unit).or_default() += 1;
        }
        let pending = Pending { kind, unit, invoked, sent: now, attr, immediate, stamp, aborting: false };
        let sent = self.engine.as_mut().map(|e| e.command(ns(now), command));
        match sent {
            Some(Ok(Itt(itt))) => {
                trace!(
                    "port {}: sends {} {itt:#x} unit {unit} cdb {cdb:02x?} {attr:?}",
                    self.port,
                    pending.kind.name()
                );
                self.pending.insert(itt, pending);
            }
            _ => self.conclude(&pending, End::Refused, Answer::Nothing),
        }
    }

    fn tmf(&mut self, now: Tick) {
        let unit = self.rng.usize(0..self.plan.disks.len());
        let some = (!self.pending.is_empty()).then(|| self.rng.usize(0..self.pending.len()));
        let victim = some.and_then(|n| self.pending.iter().nth(n)).map(|(itt, p)| (*itt, p.unit));
        let immediate = self.rng.u32(0..4) > 0;
        let (function, unit, referenced) = match (self.rng.u32(0..20), victim) {
            (0..=9, Some((itt, unit))) => (TmfFunction::AbortTask, unit, Some(itt)),
            (10, Some((itt, unit))) => (TmfFunction::QueryTask, unit, Some(itt)),
            (11 | 12, _) => (TmfFunction::AbortTaskSet, unit, None),
            (13 | 14, _) => (TmfFunction::ClearTaskSet, unit, None),
            (15, _) => (TmfFunction::LogicalUnitReset, unit, None),
            (16, _) => (TmfFunction::TargetWarmReset, unit, None),
            (17 | 18, _) => (TmfFunction::ItNexusReset, unit, None),
            (19, _) if self.rng.u32(0..4) == 0 => (TmfFunction::TargetColdReset, unit, None),
            _ => return,
        };
        // RFC 7144's functions are not offered in every session.
        if matches!(function, TmfFunction::QueryTask | TmfFunction::ItNexusReset)
            && self.engine.as_ref().is_some_and(|e| e.params().protocol_level < 2)
        {
            return self.send_tmf(now, TmfFunction::AbortTaskSet, unit, None, immediate);
        }
        self.send_tmf(now, function, unit, referenced, immediate);
    }

    pub(super) fn send_tmf(
        &mut self,
        now: Tick,
        function: TmfFunction,
        unit: usize,
        referenced: Option<u32>,
        immediate: bool,
    ) {
        let Some(engine) = &mut self.engine else { return };
        let sent = engine.tmf(ns(now), function, cdb::lun(unit as u16), referenced.map(Itt), immediate);
        let Ok(Itt(itt)) = sent else {
            if let Some(pending) = referenced.and_then(|itt| self.pending.get_mut(&itt)) {
                pending.aborting = false;
                pending.sent = now;
            }
            return;
        };
        trace!("port {}: {function:?} {itt:#x} unit {unit} of {referenced:x?}", self.port);
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        let units: Vec<usize> = match function {
            TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset => vec![unit],
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset => (0..judge.units.len()).collect(),
            _ => Vec::new(),
        };
        let mut sweeps = Vec::new();
        for unit in units {
            let u = &mut judge.units[unit];
            u.sweeps.push(Sweep { by: self.port, sent: moment, answered: None, preempts: false });
            sweeps.push((unit, u.sweeps.len() - 1));
        }
        // An SPC-2 reservation ends somewhere on the way. A reset of the target does not reach a unit that it does not show.
        let mapped = judge.units[0].mapped;
        let change = match function {
            TmfFunction::LogicalUnitReset if unit == 0 => Some(Change::Reset),
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset if mapped.is_multiple_of(2) => {
                Some(Change::Reset)
            }
            TmfFunction::ItNexusReset => Some(Change::NexusLost),
            _ => None,
        };
        let change = change.filter(|_| self.plan.reserving == Reserving::Old);
        if change.is_some() {
            judge.units[0].reserve.begin();
        }
        judge.count(&format!("{function:?}"));
        drop(judge);
        self.tmfs.insert(itt, PendingTmf { function, unit, referenced, sent: now, sweeps, change, mapped });
    }

    // ---- trouble

    fn trouble(&mut self, now: Tick) {
        let Some(pipe) = self.pipe else { return };
        match self.rng.u32(0..10) {
            0..=4 => {
                let inside = [
                    (Way::Up, 0x00),
                    (Way::Up, 0x01),
                    (Way::Up, 0x02),
                    (Way::Up, 0x05),
                    (Way::Up, 0x06),
                    (Way::Down, 0x20),
                    (Way::Down, 0x21),
                    (Way::Down, 0x22),
                    (Way::Down, 0x25),
                    (Way::Down, 0x26),
                    (Way::Down, 0x31),
                ];
                let (way, opcode) = *self.rng.choice(&inside).expect("not empty");
                lock(&self.fabric).cut(pipe, way, Some(opcode));
                if opcode == 0x06 || opcode == 0x26 {
                    self.log_out(now);
                }
                if matches!(opcode, 0x00 | 0x20) {
                    self.ping(now);
                }
            }
            5 => {
                self.count("resets");
                self.lost(now);
            }
            6 => self.log_out(now),
            7 => {
                // The old connection stays as it is: the login reinstates the session.
                self.count("reinstatements");
                self.orphan();
                self.engine = None;
                self.pipe = None;
                self.phase = Phase::Away(now);
            }
            8 => {
                self.count("orderly ends");
                lock(&self.fabric).fin(pipe, Way::Up);
                self.orphan();
                self.engine = None;
                self.pipe = None;
                self.phase = Phase::Away(now.plus_ms(self.rng.u64(0..20)));
            }
            _ => self.ping(now),
        }
    }

    fn log_out(&mut self, now: Tick) {
        let Some(engine) = &mut self.engine else { return };
        if engine.logout(ns(now), LogoutReason::CloseSession, 1).is_ok() {
            self.count("logouts");
            self.phase = Phase::Leaving(now);
        }
    }

    fn ping(&mut self, now: Tick) {
        let Some(engine) = &mut self.engine else { return };
        let data = vec![0x5A; self.rng.usize(0..200)];
        if let Ok(Itt(itt)) = engine.ping(ns(now), &data) {
            self.pings.insert(itt);
        }
    }
}

fn plain(cdb: Vec<u8>, bytes: u32) -> Ready {
    let direction = if bytes == 0 { Direction::None } else { Direction::Read(bytes) };
    Ready { cdb, direction, kind: Kind::Other }
}
