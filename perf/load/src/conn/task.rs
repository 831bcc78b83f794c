//! Rows of the task table, and what they wait to send.

use spindle_iscsi_wire::{SerialNumber, Ttt};

/// A command in flight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Task {
    /// When it was meant to be sent.
    pub start: u64,
    /// Which unit of the connection's part.
    pub chunk: u64,
    /// Generation of the data written, or expected to be read.
    pub generation: u32,
    /// Bytes that came in.
    pub received: u32,
    /// How often the row was used: part of the tag, so that a late answer is recognized.
    pub turn: u16,
    /// WRITE.
    pub write: bool,
    /// Without an answer.
    pub live: bool,
    /// The generator did not run at some moment since it was due.
    pub blurred: bool,
}

impl Task {
    /// Initiator Task Tag: row and turn. Rows end at 4,096, so it is never the reserved one.
    #[inline]
    pub fn itt(&self, slot: u16) -> u32 {
        u32::from(self.turn) << 16 | u32::from(slot)
    }
}

/// A sequence of Data-Out PDUs to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Row of the task.
    pub slot: u16,
    /// The R2T answered; reserved for unsolicited data.
    pub ttt: Ttt,
    /// As the R2T gave it.
    pub lun: [u8; 8],
    /// Next byte.
    pub offset: u32,
    /// Bytes left.
    pub left: u32,
    /// DataSN of the next PDU.
    pub data_sn: SerialNumber,
}

/// Constants of a connection that every command needs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Bytes of a command.
    pub bs: u32,
    /// Immediate data of a write.
    pub immediate: u32,
    /// Unsolicited Data-Out after it.
    pub unsolicited: u32,
    /// Header and data of a write lie together, made beforehand.
    pub wide: bool,
    /// MaxRecvDataSegmentLength of the target.
    pub max_send: u32,
    /// Logical blocks of a command.
    pub blocks_per_chunk: u64,
    /// Bytes of a logical block.
    pub block_len: u32,
    /// Where the connection's part begins.
    pub first_block: u64,
    /// Its length in commands.
    pub chunks: u64,
    /// Writes of a hundred.
    pub write_percent: u8,
    /// Anywhere, or one after the other.
    pub random: bool,
    /// Seed of data.
    pub seed: u64,
}
