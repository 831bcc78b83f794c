//! A disk's commands that touch its medium.
//!
//! Each command is planned on arrival ([`plan`]: what range, how much data, how much memory) and started when
//! its data is in, its task set and gate let it, and its one buffer is there. Commands of several steps keep a
//! small enum in [`Steps`] and go on in [`resume`] with each completion. Every command holds *one* vector: what
//! a step needs besides (room for the blocks to compare with) stands at its end and is taken together with the
//! rest, so that two commands can never wait for each other's memory.

mod compare;
mod compare_and_write;
mod lba_status;
mod read_write;
pub mod sync_cache;
mod unmap;
mod verify;
mod write_same;

use spindle_bdev::{BlockError, BlockIo, IoFlags, IoResult, Op, Origin};
use spindle_mem::{Sgv, SgvPool};
use spindle_scsi_port::TaskId;
use spindle_scsi_spec::cdb::{self, Family};
use spindle_scsi_spec::{Asc, FieldError, Sense, SenseKey, Status};

use crate::device_server::Exec;
use crate::effects::Effects;
use crate::lu::LuShard;
use crate::outcome::sense_of;
use crate::planted::{self, Bug};
use crate::task::{Cold, Task, io_key};

/// Which way the data of a command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// It has none.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// What to do when the initiator offers less or more Data-Out than the CDB says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// Take what there is: a parameter list knows its own length.
    Any,
    /// Take whole blocks, be it none; refuse parts of one.
    Blocks,
    /// Refuse.
    Exact,
    /// Refuse, and blame this byte of the CDB: the number of blocks does not say what was meant (an initiator that
    /// wants 256 blocks in a field of eight bits).
    Count(u16),
}

/// A command as planned on arrival.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which way its data goes.
    pub data: Data,
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u32,
    /// Bytes the CDB moves.
    pub length: u32,
    /// Room it wants at the end of its buffer, in bytes.
    pub extra: u32,
    /// FUA and DPO.
    pub io_flags: IoFlags,
    /// What its steps look at.
    pub option: u8,
    /// How strict it is about the amount of Data-Out.
    pub fit: Fit,
}

impl Plan {
    /// A command without range and data.
    pub const NOTHING: Plan = Plan {
        data: Data::None,
        lba: 0,
        blocks: 0,
        length: 0,
        extra: 0,
        io_flags: IoFlags::NONE,
        option: 0,
        fit: Fit::Any,
    };
}

/// What a command of several steps remembers.
#[derive(Debug, Default)]
pub enum Steps {
    /// Nothing.
    #[default]
    None,
    /// How far a comparison has come.
    Compare(compare::Progress),
    /// How far WRITE SAME has come.
    Pieces(write_same::Pieces),
    /// What UNMAP has left.
    Unmap(unmap::Ranges),
    /// What GET LBA STATUS has found.
    Extents(Vec<spindle_scsi_spec::lba_status::LbaStatus>),
}

/// What a step comes to.
#[derive(Debug)]
pub enum Step {
    /// Operations are under way.
    Wait,
    /// The command has ended.
    Done(Verdict),
}

/// How a command ends, before residuals.
#[derive(Debug)]
pub enum Verdict {
    /// GOOD.
    Good,
    /// GOOD with Data-In: this many bytes at the start of the task's buffer.
    Data(u32),
    /// CHECK CONDITION.
    Check(Sense),
    /// Another status.
    Status(Status),
}

/// What a step may use.
pub struct TaskCx<'a> {
    /// The task's name.
    pub id: TaskId,
    /// On whose behalf.
    pub origin: Origin,
    /// Hot half.
    pub task: &'a mut Task,
    /// Cold half.
    pub cold: &'a mut Cold,
    /// The unit.
    pub lu: &'a LuShard,
    /// Where operations go.
    pub fx: &'a mut Effects,
    /// The core's memory, to put lent vectors back.
    pub pool: &'a mut SgvPool,
}

impl TaskCx<'_> {
    /// Hands operation `sub` (below 16) without a buffer of ours to the channel.
    fn submit(&mut self, sub: u8, op: Op, flags: IoFlags, lba: u64, blocks: u32) {
        self.submit_with(sub, op, flags, lba, blocks, 0, None);
    }

    /// The same with a buffer, from offset `at` on.
    #[allow(clippy::too_many_arguments)]
    fn submit_with(
        &mut self,
        sub: u8,
        op: Op,
        flags: IoFlags,
        lba: u64,
        blocks: u32,
        at: u32,
        data: Option<Sgv>,
    ) {
        debug_assert!(self.task.in_flight >> sub & 1 == 0, "an operation is under way once");
        self.task.in_flight |= 1 << sub;
        let io = BlockIo { key: io_key(self.id, sub), lba, data, blocks, at, origin: self.origin, op, flags };
        self.fx.io.push((self.lu.channel, io));
    }

    fn write_flags(&self) -> IoFlags {
        write_flags(self.task, self.lu)
    }
}

/// Flags of a write: what the CDB says, and FUA where the mode pages promise that nothing is cached.
#[inline]
pub fn write_flags(task: &Task, lu: &LuShard) -> IoFlags {
    if planted::on(Bug::FuaForgotten) {
        return IoFlags::NONE;
    }
    let flags = IoFlags(task.io_flags);
    if lu.write_through { flags.with(IoFlags::FUA) } else { flags }
}

/// What a command wants, or why it is refused at once.
#[inline]
pub fn plan(exec: &Exec, cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    match exec {
        Exec::Read => read_write::plan_read(cdb, lu),
        Exec::Write => read_write::plan_write(cdb, lu, read_only),
        _ => plan_other(exec, cdb, lu, read_only),
    }
}

#[cold]
fn plan_other(exec: &Exec, cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    match exec {
        Exec::WriteAndVerify => verify::plan_write_and_verify(cdb, lu, read_only),
        Exec::Verify => verify::plan_verify(cdb, lu),
        Exec::CompareAndWrite => compare_and_write::plan(cdb, lu, read_only),
        Exec::WriteSame => write_same::plan(cdb, lu, read_only),
        Exec::Unmap => unmap::plan(cdb, lu, read_only),
        Exec::SynchronizeCache => sync_cache::plan_synchronize(cdb, lu),
        Exec::PreFetch => sync_cache::plan_pre_fetch(cdb, lu),
        Exec::StartStop => sync_cache::plan_start_stop(cdb),
        Exec::LbaStatus => lba_status::plan(cdb, lu),
        Exec::PreventAllow => {
            // Nothing can be removed, so there is nothing to prevent.
            cdb::PreventAllowMediumRemoval::parse(cdb)?;
            Ok(Plan::NOTHING)
        }
        Exec::ModeSelect => list(cdb::ModeSelect::parse(cdb)?.list_bytes.into(), lu),
        Exec::PersistentOut => list(cdb::PersistentReserveOut::parse(cdb)?.list_bytes, lu),
        Exec::Reserve => {
            let c = cdb::ReserveUnit::parse(cdb)?;
            whole_unit_for_oneself(c.third_party, c.extent)
        }
        Exec::Release => {
            let c = cdb::ReleaseUnit::parse(cdb)?;
            whole_unit_for_oneself(c.third_party, c.extent)
        }
        Exec::Describe(_) | Exec::ReportLuns | Exec::RequestSense | Exec::TestUnitReady => Ok(Plan::NOTHING),
        Exec::Read | Exec::Write | Exec::Refused(..) => unreachable!("planned above, and never of an opcode"),
    }
}

/// A parameter list of so many bytes.
fn list(bytes: u32, lu: &LuShard) -> Result<Plan, Sense> {
    // No list that we understand comes near this; memory for more is not set aside.
    if bytes > LIST_BYTES_MAX.min(lu.buffer_bytes_max) {
        return Err(Sense::illegal_request(Asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    Ok(Plan { data: Data::Out, length: bytes, ..Plan::NOTHING })
}

const LIST_BYTES_MAX: u32 = 64 << 10;

/// SPC-2 §7.21: reservations for others and of extents are optional, and obsolete.
fn whole_unit_for_oneself(third_party: bool, extent: bool) -> Result<Plan, Sense> {
    if third_party || extent {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(1, if third_party { 4 } else { 0 })));
    }
    Ok(Plan::NOTHING)
}

/// Begins a medium command other than READ and WRITE. Its buffer, if it wants one, is in `task.buf`.
pub fn start(cx: &mut TaskCx<'_>) -> Step {
    match cx.task.row.exec {
        Exec::WriteAndVerify => verify::start_write_and_verify(cx),
        Exec::Verify => verify::start_verify(cx),
        Exec::CompareAndWrite => compare_and_write::start(cx),
        Exec::WriteSame => write_same::start(cx),
        Exec::Unmap => unmap::start(cx),
        Exec::SynchronizeCache | Exec::StartStop => sync_cache::start(cx),
        Exec::LbaStatus => lba_status::start(cx),
        _ => Step::Done(Verdict::Good),
    }
}

/// Goes on with a command one of whose operations has ended; `data` is what came back with it.
pub fn resume(cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Step {
    match cx.task.row.exec {
        Exec::WriteAndVerify => verify::resume_write_and_verify(cx, result, data),
        Exec::Verify => verify::resume_verify(cx, result, data),
        Exec::CompareAndWrite => compare_and_write::resume(cx, result, data),
        Exec::WriteSame => write_same::resume(cx, result, data),
        Exec::Unmap => unmap::resume(cx, result),
        Exec::LbaStatus => lba_status::resume(cx, result),
        _ => good_or(cx, result),
    }
}

fn good_or(cx: &TaskCx<'_>, result: IoResult) -> Step {
    match result {
        IoResult::Err(error) => fail(cx, error),
        _ => Step::Done(Verdict::Good),
    }
}

fn fail(cx: &TaskCx<'_>, error: BlockError) -> Step {
    Step::Done(Verdict::Check(sense_of(error, cx.task.lba)))
}

/// SBC-4 §4.2.3: the range must lie within the capacity; an empty one may start at its end.
#[inline]
fn in_range(lba: u64, blocks: u64, lu: &LuShard) -> Result<(), Sense> {
    let capacity = lu.info.blocks;
    if lba > capacity || blocks > capacity - lba {
        return Err(Sense::illegal_request(Asc::LBA_OUT_OF_RANGE).with_information(lba));
    }
    Ok(())
}

/// SBC-4 §6.6.4: more than MAXIMUM TRANSFER LENGTH is refused.
#[inline]
fn within_transfer_max(blocks: u32, family: Family, lu: &LuShard) -> Result<(), Sense> {
    if blocks > lu.transfer_blocks_max { Err(at_transfer_length(family)) } else { Ok(()) }
}

#[cold]
fn at_transfer_length(family: Family) -> Sense {
    Sense::invalid_field_in_cdb(FieldError::byte(match family {
        Family::Six => 4,
        Family::Ten => 7,
        Family::Twelve => 6,
        Family::Sixteen => 10,
        Family::ThirtyTwo => 28,
    }))
}

#[inline]
fn writable(lu: &LuShard, read_only: bool) -> Result<(), Sense> {
    match lu.protected {
        None if !read_only => Ok(()),
        protected => Err(Sense::new(SenseKey::DataProtect, protected.unwrap_or(Asc::WRITE_PROTECTED))),
    }
}

/// Bytes of so many blocks; callers have checked the number against a limit that keeps this within 32 bits.
#[inline]
fn bytes(blocks: u32, lu: &LuShard) -> u32 {
    blocks << lu.shift
}

/// Room behind `land` bytes for the blocks to compare with: whole blocks, up to 256 KiB, no more than `length`.
/// A device that lends its memory needs none.
fn room_to_compare(land: u32, length: u32, lu: &LuShard) -> Result<u32, Sense> {
    if lu.lends || length == 0 {
        return Ok(0);
    }
    let block = bytes(1, lu);
    let room = lu.buffer_bytes_max.saturating_sub(land).min(256 << 10).min(length) & !(block - 1);
    if room == 0 { Err(Sense::illegal_request(Asc::INSUFFICIENT_RESOURCES)) } else { Ok(room) }
}
