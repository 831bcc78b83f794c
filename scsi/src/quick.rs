//! The usual way of READ and WRITE, in a straight line.
//!
//! Nearly every command is a READ or WRITE of ten or sixteen bytes to whom nobody has anything to say: its nexus
//! is within its grant, no unit attention waits, no reservation or gate stands in its way, it is SIMPLE among
//! SIMPLE ones, and its CDB says what the initiator expects. Each function here recognises that case, decides
//! before it changes anything, and otherwise leaves all as it was to the general way ([`crate::arrival`],
//! [`crate::completion`]), which would come to the same result. So whatever is rare is written there, once.
//!
//! Where the device has the answer at hand (memory), a command is over within one call, and a READ needs no task for
//! it: see [`crate::direct`].

use spindle_bdev::{BlockIo, Channels, Hint, IoFlags, IoKey, Op, Origin};
use spindle_mem::Sgv;
use spindle_scsi_port::{Admit, Command, NexusId, Outcome, PortEffect, TaskAttr, TaskId};
use spindle_scsi_spec::Lun;

use crate::device_server::{Exec, OpRow, disk, table};
use crate::direct::Witness;
use crate::engine::Engine;
use crate::lu::LuShard;
use crate::nexus::{Itl, Nexus};
use crate::reserve::Access;
use crate::task::{TaskState, TaskTable, flag, io_key, of_io_key};

/// These parts of an engine, and no others.
macro_rules! tables {
    ($engine:expr) => {
        Tables {
            nexuses: &mut $engine.nexuses,
            itls: &mut $engine.itls,
            lus: &$engine.lus,
            tasks: &$engine.tasks,
        }
    };
}

impl Engine {
    /// A command arrives. `None`: look closer; nothing has changed.
    #[inline]
    pub(crate) fn admit_quick(&mut self, c: &Command<'_>) -> Option<Admit> {
        let cdb = c.cdb.first_chunk::<16>()?;
        let row = table::quick(cdb[0])?;
        match row.exec {
            Exec::Read => self.admit_as::<true>(c, cdb, row),
            _ => self.admit_as::<false>(c, cdb, row),
        }
    }

    /// See [`spindle_scsi_port::Mid::soon`]. Payload is fetched of READs of up to so many bytes: a larger one is sent by
    /// itself, and the processor sees by then where that goes.
    #[inline]
    pub(crate) fn soon(&self, nexus: NexusId, lun: Lun, cdb: &[u8; 16], near: bool, channels: &Channels) {
        const SEND_MAX: u64 = 16 << 10;
        let seen = || {
            let row = table::quick(cdb[0])?;
            let nexus = self.nexuses.get(usize::from(nexus.slot()))?;
            let itl = self.itls.get(usize::from(*nexus.luns.get((lun.0 >> 48) as usize)?))?;
            Some((row, self.lus.get(usize::from(itl.lu))?.as_deref()?))
        };
        let Some((row, lu)) = seen() else { return };
        let (lba, blocks) = extent(row, cdb);
        let bytes = u64::from(blocks) << lu.shift;
        match (near, row.exec) {
            (false, _) => channels.hint(lu.channel, lba, Hint::Find),
            (true, Exec::Read) if bytes <= SEND_MAX => {
                channels.hint(lu.channel, lba, Hint::Send(bytes as u32))
            }
            _ => {}
        }
    }

    /// A READ whose device has the answer at hand. `None`: it takes a task; nothing has changed.
    #[inline]
    pub(crate) fn read_at_once<W: Witness>(
        &mut self,
        c: &Command<'_>,
        channels: &mut Channels,
        witness: &mut W,
    ) -> Option<Sgv> {
        if !self.fx.owes_nothing() {
            return None;
        }
        let cdb = c.cdb.first_chunk::<16>()?;
        let row = table::quick(cdb[0]).filter(|row| matches!(row.exec, Exec::Read))?;
        let at_once = |lu: &LuShard| channels.serves_at_once(lu.channel);
        let usual = usual::<true>(tables!(self), c, cdb, row, at_once)?;
        let Usual { nexus, itl, lu, lba, blocks, length, .. } = usual;
        let data = channels.read_at_once(lu.channel, lba, blocks, &mut self.pool)?;
        debug_assert_eq!(data.len(), length);
        witness.served(lu.channel, Op::Read, lba, blocks);
        nexus.stats.commands += 1;
        itl.moved.reads += 1;
        itl.moved.read_bytes += u64::from(length);
        Some(data)
    }

    #[inline(always)]
    fn admit_as<const READS: bool>(
        &mut self,
        c: &Command<'_>,
        cdb: &[u8; 16],
        row: &'static OpRow,
    ) -> Option<Admit> {
        let usual = usual::<READS>(tables!(self), c, cdb, row, |_| true)?;
        let Usual { nexus, itl, itl_slot, lu, lba, blocks, length } = usual;
        // Whoever takes memory stands in line behind those that wait for it.
        let buf = match READS && lu.lends {
            true => None,
            false if !self.hungry.is_empty() => return None,
            false => Some(self.pool.take(length, lu.share)?),
        };
        let Some((slot, task)) = self.tasks.take() else {
            buf.into_iter().for_each(|buf| self.pool.put(buf));
            return None;
        };
        self.promised -= 1;
        nexus.tasks += 1;
        nexus.stats.commands += 1;
        itl.tasks += 1;
        itl.set.enter_simple();
        task.flags = flag::IN_SET | flag::PLAIN;
        task.nexus = itl.nexus;
        task.itl = itl_slot;
        task.lu = itl.lu;
        task.cookie = c.cookie;
        task.tag = c.tag;
        nexus.tags.add(slot, task);
        task.attr = TaskAttr::Simple;
        task.row = row;
        task.access = if READS { Access::Read } else { Access::Write };
        task.lba = lba;
        task.blocks = blocks;
        task.length = length;
        (task.expected_read, task.expected_write) = if READS { (length, 0) } else { (0, length) };
        task.started = self.now;
        // FUA and DPO (SBC-4 §5.12, byte 1) stand in the same order here and there.
        task.io_flags = cdb[1] >> 3 & (IoFlags::FUA.0 | IoFlags::DPO.0);
        task.option = 0;
        let id = task.id(slot);
        (task.land, task.wanted) = if READS { (0, 0) } else { (length, length) };
        if !READS {
            task.step(TaskState::Receiving);
            return buf.map(|buf| Admit::Land(id, buf));
        }
        task.step(TaskState::Executing);
        task.in_flight = 1;
        let io = BlockIo {
            key: io_key(id, 0),
            lba,
            data: buf,
            blocks,
            at: 0,
            origin: Origin(u32::from(itl.nexus)),
            op: Op::Read,
            flags: IoFlags(task.io_flags),
        };
        self.fx.io.push((lu.channel, io));
        Some(Admit::NoData(id))
    }

    /// All Data-Out of a WRITE is in whose device can store it at hand: the task is over. `Err`: look closer.
    #[inline]
    pub(crate) fn received_at_once<W: Witness>(
        &mut self,
        id: TaskId,
        mut buf: Sgv,
        channels: &mut Channels,
        witness: &mut W,
    ) -> Result<(), Sgv> {
        let Some(task) = self.tasks.row_of(id) else { return Err(buf) };
        let lu = self.lus.get(usize::from(task.lu)).and_then(Option::as_deref);
        let nexus = self.nexuses.get_mut(usize::from(task.nexus));
        let (Some(lu), Some(nexus), Some(itl)) = (lu, nexus, self.itls.get_mut(usize::from(task.itl))) else {
            return Err(buf);
        };
        let (lba, blocks, land) = (task.lba, task.blocks, task.land);
        let usual = task.flags == flag::IN_SET | flag::PLAIN
            && task.state() == TaskState::Receiving
            && buf.len() == land
            && lu.is_quiet()
            && itl.access.allows_all()
            && itl.set.is_simple()
            && !nexus.lost
            && !itl.gone
            && self.fx.owes_nothing()
            && nexus.tags.is_first(id.0 & 0xFFFF, task)
            && channels.write_at_once(
                lu.channel,
                lba,
                blocks,
                &mut buf,
                disk::write_flags(task, lu),
                &mut self.pool,
            );
        if !usual {
            return Err(buf);
        }
        witness.served(lu.channel, Op::Write, lba, blocks);
        nexus.tags.remove_first(id.0 & 0xFFFF, task);
        nexus.tasks -= 1;
        self.promised += u32::from(nexus.tasks < nexus.granted);
        itl.tasks -= 1;
        itl.set.leave_simple();
        itl.moved.received_bytes += u64::from(land);
        itl.moved.writes += 1;
        itl.moved.write_bytes += u64::from(land);
        self.tasks.put_if(id, |task| {
            task.step(TaskState::Free);
            true
        });
        self.pool.put(buf);
        self.settle();
        Ok(())
    }

    /// All Data-Out of a task is in. `Err`: look closer.
    #[inline]
    pub(crate) fn received_quick(&mut self, id: TaskId, buf: Sgv) -> Result<(), Sgv> {
        let Some(task) = self.tasks.row_of(id) else { return Err(buf) };
        let lu = self.lus.get(usize::from(task.lu)).and_then(Option::as_deref);
        let (Some(lu), Some(itl)) = (lu, self.itls.get_mut(usize::from(task.itl))) else { return Err(buf) };
        let usual = task.flags == flag::IN_SET | flag::PLAIN
            && task.state() == TaskState::Receiving
            && buf.len() == task.land
            && lu.is_quiet()
            && itl.access.allows_all();
        if !usual {
            return Err(buf);
        }
        itl.moved.received_bytes += u64::from(task.land);
        task.flags |= flag::RECEIVED;
        task.step(TaskState::Executing);
        task.in_flight = 1;
        let io = BlockIo {
            key: io_key(id, 0),
            lba: task.lba,
            data: Some(buf),
            blocks: task.blocks,
            at: 0,
            origin: Origin(u32::from(task.nexus)),
            op: Op::Write,
            flags: disk::write_flags(task, lu),
        };
        self.fx.io.push((lu.channel, io));
        Ok(())
    }

    /// An operation has ended well. `Err`: look closer.
    #[inline]
    pub(crate) fn io_ended_quick(&mut self, key: IoKey, buf: Sgv) -> Result<(), Sgv> {
        let (id, sub) = of_io_key(key);
        let Some(task) = self.tasks.row_of(id) else { return Err(buf) };
        let Some(itl) = self.itls.get_mut(usize::from(task.itl)) else { return Err(buf) };
        let usual = task.flags & !flag::RECEIVED == flag::IN_SET | flag::PLAIN
            && task.in_flight == 1
            && sub == 0
            && buf.len() >= task.length
            && !itl.set.has_dormant();
        if !usual {
            return Err(buf);
        }
        task.in_flight = 0;
        task.flags &= !flag::IN_SET;
        task.step(TaskState::Responding);
        itl.set.leave_simple();
        let (length, cookie, nexus) = (task.length, task.cookie, itl.nexus_id);
        let data = if task.expected_write == 0 {
            itl.moved.reads += 1;
            itl.moved.read_bytes += u64::from(length);
            Some((buf, length))
        } else {
            itl.moved.writes += 1;
            itl.moved.write_bytes += u64::from(length);
            self.pool.put(buf);
            None
        };
        self.fx.port.push(PortEffect::Respond { task: id, cookie, nexus, outcome: Outcome::GOOD, data });
        self.settle();
        Ok(())
    }

    /// The status of a task stands in the send order. `false`: look closer.
    #[inline]
    pub(crate) fn responded_quick(&mut self, id: TaskId) -> bool {
        self.tasks.put_if(id, |task| {
            let nexus = self.nexuses.get_mut(usize::from(task.nexus));
            let (Some(nexus), Some(itl)) = (nexus, self.itls.get_mut(usize::from(task.itl))) else {
                return false;
            };
            let usual = task.flags & !flag::RECEIVED == flag::PLAIN
                && task.state() == TaskState::Responding
                && !nexus.lost
                && !itl.gone
                && nexus.tags.remove_first(id.0 & 0xFFFF, task);
            if usual {
                task.step(TaskState::Free);
                nexus.tasks -= 1;
                self.promised += u32::from(nexus.tasks < nexus.granted);
                itl.tasks -= 1;
            }
            usual
        })
    }
}

/// A command as nearly all are: from whom, for what.
struct Usual<'a> {
    nexus: &'a mut Nexus,
    itl: &'a mut Itl,
    itl_slot: u16,
    lu: &'a LuShard,
    lba: u64,
    blocks: u32,
    length: u32,
}

/// Where to look.
struct Tables<'a, 't> {
    nexuses: &'a mut [Nexus],
    itls: &'a mut [Itl],
    lus: &'a [Option<Box<LuShard>>],
    tasks: &'t TaskTable,
}

/// Looks whether a command is one that nobody has anything to say to, for a unit that is in question at all. Changes
/// nothing.
#[inline(always)]
fn usual<'a, const READS: bool>(
    tables: Tables<'a, '_>,
    c: &Command<'_>,
    cdb: &[u8; 16],
    row: &OpRow,
    unit: impl FnOnce(&LuShard) -> bool,
) -> Option<Usual<'a>> {
    let Tables { nexuses, itls, lus, tasks } = tables;
    // Peripheral device addressing only.
    if c.lun.0 & !(0xFF << 48) != 0 {
        return None;
    }
    let nexus = nexuses.get_mut(usize::from(c.nexus.slot()))?;
    let itl_slot = *nexus.luns.get((c.lun.0 >> 48) as usize)?;
    let itl = itls.get_mut(usize::from(itl_slot))?;
    let lu = lus.get(usize::from(itl.lu))?.as_deref()?;
    if !unit(lu) {
        return None;
    }
    let length = if READS { c.expected.read } else { c.expected.write };
    let allowed = nexus.live == c.nexus.0
        && nexus.tasks < nexus.granted
        && !nexus.tags.overlaps(tasks, c.tag)
        && itl.is_quiet()
        && lu.is_quiet()
        && matches!(c.attr, TaskAttr::Simple | TaskAttr::Untagged)
        && row.allows(cdb)
        && (READS || (lu.protected.is_none() && !itl.read_only));
    if !allowed {
        return None;
    }
    let (lba, blocks) = extent(row, cdb);
    let fits = u64::from(blocks) << lu.shift == u64::from(length)
        && length != 0
        && (if READS { c.expected.write } else { c.expected.read }) == 0
        && lba <= lu.info.blocks
        && u64::from(blocks) <= lu.info.blocks - lba
        && blocks <= lu.transfer_blocks_max;
    fits.then_some(Usual { nexus, itl, itl_slot, lu, lba, blocks, length })
}

impl Itl {
    /// Nothing that concerns all commands of the nexus stands in their way: no unit attention, no reservation, no
    /// order to keep.
    #[inline]
    fn is_quiet(&self) -> bool {
        self.attentions.is_empty() && self.access.allows_all() && self.set.is_simple()
    }
}

/// First block and number of blocks of a CDB of ten or sixteen bytes.
#[inline(always)]
fn extent(row: &OpRow, cdb: &[u8; 16]) -> (u64, u32) {
    let [_, _, a, b, c, d, e, f, g, h, i, j, k, l, ..] = *cdb;
    if row.usage.len() == 10 {
        (u32::from_be_bytes([a, b, c, d]).into(), u16::from_be_bytes([f, g]).into())
    } else {
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]))
    }
}
