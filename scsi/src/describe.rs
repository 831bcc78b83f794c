//! Commands that are answered out of snapshots: run the function, find memory, send.

use spindle_scsi_port::{Admit, Command};
use spindle_scsi_spec::cdb::{self, SelectReport};
use spindle_scsi_spec::inquiry::Peripheral;
use spindle_scsi_spec::{Asc, Emit, Sense, SenseFormat, Status, opcode};

use crate::config::LunEntry;
use crate::device_server::disk::Verdict;
use crate::device_server::{Exec, LuView, LunsView, inquiry, report, table};
use crate::engine::Engine;
use crate::outcome::{check, plain, residual};
use crate::task::{NO_ITL, NOTHING, Slot, TaskState, flag};

/// How much a command has to say: all of it, and what its ALLOCATION LENGTH lets through.
struct Said {
    full: usize,
    allocated: u32,
}

impl Engine {
    /// A describing command on a unit that is there.
    pub(crate) fn describe(&mut self, slot: Slot) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let said = self.say(slot, &mut scratch);
        match said {
            Err(sense) => self.finish(slot, Verdict::Check(sense)),
            Ok(said) => {
                if let Some(total) = self.deliver(slot, &said, &scratch) {
                    self.told(slot);
                    self.finish(slot, Verdict::Data(total));
                }
            }
        }
        self.scratch = scratch;
    }

    fn say(&mut self, slot: Slot, scratch: &mut [u8]) -> Result<Said, Sense> {
        let (task, cold) = self.tasks.both(slot);
        let (cdb, exec, nexus, itl) = (&cold.cdb[..], task.row.exec, task.nexus, task.itl);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        let nexus = &self.nexuses[usize::from(nexus)];
        let itl = &self.itls[usize::from(itl)];
        let mut out = Emit::new(scratch);
        let allocated = match exec {
            Exec::Describe(function) => {
                let view = LuView {
                    info: &lu.info,
                    identity: &lu.identity,
                    modes: &lu.policy.modes,
                    reserve: &lu.policy.reserve,
                    nexus: &nexus.info,
                    ports: &nexus.ports,
                    transfer_bytes_max: lu.transfer_blocks_max << lu.shift,
                    read_only: lu.info.read_only || lu.write_protect || itl.read_only,
                    tst_shared: lu.tst_shared,
                    can_store: lu.can_store,
                };
                function(cdb, &view, &mut out)?
            }
            Exec::RequestSense => {
                let c = cdb::RequestSense::parse(cdb)?;
                let sense = itl.attentions.first().unwrap_or(Sense::NONE);
                sense.emit(format(c.desc), &mut out);
                u32::from(c.alloc_bytes)
            }
            _ => return self.say_luns(slot, scratch),
        };
        Ok(Said { full: out.full_len(), allocated })
    }

    fn say_luns(&mut self, slot: Slot, scratch: &mut [u8]) -> Result<Said, Sense> {
        let (task, cold) = self.tasks.both(slot);
        let luns: Vec<LunEntry> = (0..)
            .zip(&self.nexuses[usize::from(task.nexus)].luns)
            .filter(|(_, itl)| **itl != NO_ITL)
            .map(|(lun, itl)| {
                let itl = &self.itls[usize::from(*itl)];
                let lu = self.lus[usize::from(itl.lu)].as_ref().expect("an I_T_L nexus keeps its unit").lu;
                LunEntry { lun, lu, read_only: itl.read_only }
            })
            .collect();
        let mut out = Emit::new(scratch);
        let allocated = report::report_luns(&cold.cdb, &LunsView { luns: &luns }, &mut out)?;
        Ok(Said { full: out.full_len(), allocated })
    }

    /// Puts what was said into the task's buffer, as far as it is wanted. `None`: the task waits for memory and
    /// will say it again. The answer is the amount that counts for residuals.
    fn deliver(&mut self, slot: Slot, said: &Said, scratch: &[u8]) -> Option<u32> {
        let whole = u32::try_from(said.full.min(scratch.len())).unwrap_or(u32::MAX);
        let total = whole.min(said.allocated).min(self.limits.buffer_bytes_max);
        let task = self.tasks.hot(slot);
        let give = if task.expected_write > 0 { 0 } else { total.min(task.expected_read) };
        let mut buf = task.buf.take();
        if let Some(small) = buf.take_if(|buf| buf.capacity() < give || give == 0) {
            self.put(small);
        }
        if give == 0 {
            return Some(total);
        }
        let mut buf = match buf {
            Some(buf) => buf,
            None => self.take(slot, give)?,
        };
        buf.set_len(give);
        buf.copy_from(0, &scratch[..give as usize]);
        self.tasks.hot(slot).buf = Some(buf);
        Some(total)
    }

    /// The initiator has been told; what it knows now need not be told again.
    fn told(&mut self, slot: Slot) {
        let (task, cold) = self.tasks.both(slot);
        let (exec, nexus, itl) = (task.row.exec, task.nexus, task.itl);
        match exec {
            Exec::RequestSense => {
                let told = self.itls[usize::from(itl)].attentions.take();
                if told.is_some_and(|s| s.asc == Asc::REPORTED_LUNS_DATA_HAS_CHANGED) {
                    self.luns_are_known(nexus);
                }
            }
            Exec::ReportLuns => {
                // SPC-4 §6.33: a report of the well known units alone tells nothing about the others.
                let all = |select| select != SelectReport::WellKnown;
                if cdb::ReportLuns::parse(&cold.cdb).is_ok_and(|c| all(c.select)) {
                    self.luns_are_known(nexus);
                }
            }
            _ => {}
        }
    }

    /// A command for a LUN where nothing is.
    #[cold]
    pub(crate) fn admit_without_unit(&mut self, slot: Slot, c: &Command<'_>) -> Admit {
        let id = self.tasks.id(slot);
        let cold = self.tasks.cold(slot);
        let n = c.cdb.len().min(cold.cdb.len());
        cold.cdb = [0; 32];
        cold.cdb[..n].copy_from_slice(&c.cdb[..n]);
        cold.outcome = None;
        let task = self.tasks.hot(slot);
        task.lba = c.lun.decode().map_or(u64::MAX, u64::from);
        task.blocks = 0;
        task.row = &NOTHING;
        if c.expected.write > 0 {
            let task = self.tasks.hot(slot);
            task.flags |= flag::SWALLOW;
            task.step(TaskState::Receiving);
            return Admit::Swallow(id);
        }
        self.describe_without_unit(slot);
        Admit::NoData(id)
    }

    /// SPC-4 §6.4.2 and §6.33: INQUIRY, REPORT LUNS and REQUEST SENSE are answered for any LUN.
    pub(crate) fn describe_without_unit(&mut self, slot: Slot) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let task = self.tasks.peek(slot);
        let expected = task.expected();
        let outcome = match self.say_without_unit(slot, &mut scratch) {
            Err(sense) => Some((check(sense, false, residual(expected, 0)), None)),
            Ok(said) => self.deliver(slot, &said, &scratch).map(|total| {
                let task = self.tasks.hot(slot);
                let total = if task.expected_write > 0 { 0 } else { total };
                let data = task.buf.take().map(|buf| {
                    let bytes = buf.len();
                    (buf, bytes)
                });
                (plain(Status::Good, residual(expected, total)), data)
            }),
        };
        self.scratch = scratch;
        if let Some((outcome, data)) = outcome {
            self.respond(slot, outcome, data);
        }
    }

    fn say_without_unit(&mut self, slot: Slot, scratch: &mut [u8]) -> Result<Said, Sense> {
        let cdb = self.tasks.cold(slot).cdb;
        let nothing_there = Sense::illegal_request(Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        let mut out = Emit::new(scratch);
        let allocated = match cdb[0] {
            opcode::INQUIRY => {
                // LUN 0 must be there to be asked for the others.
                let zero = self.tasks.peek(slot).lba == 0;
                let at = if zero { Peripheral::NOT_CONNECTED } else { Peripheral::NO_LOGICAL_UNIT };
                inquiry::inquiry_without_unit(&cdb, at, &mut out)?
            }
            opcode::REQUEST_SENSE => {
                let c = cdb::RequestSense::parse(&cdb)?;
                nothing_there.emit(format(c.desc), &mut out);
                u32::from(c.alloc_bytes)
            }
            opcode::REPORT_LUNS => {
                table::lookup(&cdb)?;
                return self.say_luns(slot, scratch);
            }
            _ => return Err(nothing_there),
        };
        Ok(Said { full: out.full_len(), allocated })
    }
}

fn format(descriptor: bool) -> SenseFormat {
    if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed }
}
