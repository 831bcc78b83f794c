//! The engine with the channels at hand: commands whose device answers at once are over within one call.
//!
//! [`Engine`] decides and never acts, so a READ from memory would go through a task row, a line of operations, one of
//! completions and one of answers, all within the same turn. [`Direct`] is what the shard gives the transports as
//! [`Mid`]: the same engine, and the channels beside it. A READ or WRITE that is as usual (the module `quick`) and whose
//! channel can do it at once ([`spindle_bdev::IoChannel::read_at_once`]) ends there and then. Everything else, and
//! every command to a device that needs time, goes the way of all commands.

use spindle_bdev::{ChannelId, Channels, Op};
use spindle_mem::Sgv;
use spindle_scsi_port::{
    Admit, Command, Mid, NexusId, NexusInfo, PackedNexus, ReceiveError, Refusal, TaskId, Tmf,
};
use spindle_scsi_spec::Lun;

use crate::engine::Engine;

/// Told of what was served without an operation, as the flight recorder is of operations.
pub trait Witness {
    /// So many blocks from here on were read or written.
    fn served(&mut self, channel: ChannelId, op: Op, lba: u64, blocks: u32);
}

/// Nobody looks.
impl Witness for () {
    fn served(&mut self, _: ChannelId, _: Op, _: u64, _: u32) {}
}

/// See the module's page.
pub struct Direct<'a, W> {
    /// Who decides.
    pub engine: &'a mut Engine,
    /// Who can.
    pub channels: &'a mut Channels,
    /// Who looks on.
    pub witness: W,
}

impl<W: Witness> Mid for Direct<'_, W> {
    fn nexus_up(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal> {
        self.engine.nexus_up(info)
    }

    fn grant(&mut self, nexus: NexusId, wanted: u32) -> u32 {
        self.engine.grant(nexus, wanted)
    }

    fn spare(&mut self, like: &Sgv) -> Option<Sgv> {
        self.engine.spare(like)
    }

    #[inline]
    fn command(&mut self, command: &Command<'_>) -> Admit {
        self.engine.command(command)
    }

    #[inline]
    fn looks_ahead(&self) -> bool {
        self.channels.takes_hints()
    }

    #[inline]
    fn soon(&self, nexus: NexusId, lun: Lun, cdb: &[u8; 16], near: bool) {
        self.engine.soon(nexus, lun, cdb, near, self.channels);
    }

    #[inline]
    fn read_at_once(&mut self, command: &Command<'_>) -> Option<Sgv> {
        self.engine.read_at_once(command, self.channels, &mut self.witness)
    }

    #[inline]
    fn received_at_once(&mut self, task: TaskId, buf: Sgv) -> bool {
        match self.engine.received_at_once(task, buf, self.channels, &mut self.witness) {
            Ok(()) => true,
            Err(buf) => {
                self.engine.received(task, buf);
                false
            }
        }
    }

    fn received(&mut self, task: TaskId, buf: Sgv) {
        self.engine.received(task, buf);
    }

    fn receive_failed(&mut self, task: TaskId, buf: Option<Sgv>, why: ReceiveError) {
        self.engine.receive_failed(task, buf, why);
    }

    fn swallowed(&mut self, task: TaskId) {
        self.engine.swallowed(task);
    }

    #[inline]
    fn responded(&mut self, task: TaskId) {
        self.engine.responded(task);
    }

    #[inline]
    fn returned(&mut self, buf: Sgv) {
        self.engine.returned(buf);
    }

    fn revoked(&mut self, task: TaskId, buf: Option<Sgv>) {
        self.engine.revoked(task, buf);
    }

    fn task_management(&mut self, tmf: &Tmf) {
        self.engine.task_management(tmf);
    }

    fn nexus_lost(&mut self, nexus: NexusId) {
        self.engine.nexus_lost(nexus);
    }

    fn may_leave(&self, nexus: NexusId) -> Option<(Box<NexusInfo>, u32)> {
        self.engine.may_leave(nexus)
    }

    fn expect_nexus(&mut self, info: Box<NexusInfo>, granted: u32) -> Result<NexusId, Refusal> {
        self.engine.expect_nexus(info, granted)
    }

    fn expect_no_more(&mut self, nexus: NexusId) {
        self.engine.expect_no_more(nexus);
    }

    fn pack_nexus(&mut self, nexus: NexusId) -> Option<PackedNexus> {
        self.engine.pack_nexus(nexus)
    }

    fn unpack_nexus(&mut self, nexus: NexusId, packed: PackedNexus) {
        self.engine.unpack_nexus(nexus, packed);
    }
}
