//! What the transport keeps of a command: where its data goes, what was asked for, what came.

use spindle_iscsi_wire::{Itt, ScsiCommand, Ttt};
use spindle_mem::{Key, Sgv};
use spindle_net::ConnId;
use spindle_scsi_port::{ReceiveError, TaskId};

use crate::planted::{self, Bug};
use crate::rx::LARGE_BYTES;
use crate::session::Session;

/// A row of the task table.
#[derive(Debug)]
pub struct Task {
    /// The mid-level's name for it.
    pub mid: TaskId,
    /// Its session.
    pub session: Key<Session>,
    /// Its connection.
    pub conn: ConnId,
    /// Initiator Task Tag.
    pub itt: Itt,
    /// Where it stands.
    pub phase: Phase,
    /// Counts in the command window.
    pub numbered: bool,
    /// No F bit yet: unsolicited data is still to come.
    pub unsolicited_open: bool,
    /// The vector is with the Net.
    pub landing: bool,
    /// It was revoked while the Net could not give the vector back at once.
    pub revoke_on_return: bool,
    /// Why it will fail when what was asked for is in.
    pub failed: Option<ReceiveError>,
    /// R2Ts out and not yet answered in full.
    pub outstanding: u8,
    /// Sequence (6 bits) of the oldest of them.
    pub head_seq: u8,
    /// Bytes it wants.
    pub wanted: u32,
    /// Unsolicited bytes it may bring at most.
    pub unsolicited_max: u32,
    /// Bytes that came, in order.
    pub arrived: u32,
    /// Bytes that came or were asked for.
    pub asked: u32,
    /// End of the burst that is coming now.
    pub burst_end: u32,
    /// Next DataSN of the sequence that is coming now.
    pub data_sn: u32,
    /// R2Ts sent so far.
    pub r2t_sn: u32,
    /// Bytes that each of its R2Ts asks for, the last perhaps fewer; nought before the first.
    pub piece: u32,
    /// Bytes asked for that have not come.
    pub solicited: u32,
    /// Waits in the line for an R2T.
    pub in_line: bool,
    /// Data-In it may bring at most.
    pub read_max: u32,
    /// Both directions.
    pub bidirectional: bool,
    /// Logical unit, as it came.
    pub lun: [u8; 8],
    /// Its vector, while it is here.
    pub buf: Option<Sgv>,
    /// Unsolicited data that came before the vector.
    pub kept: Option<Vec<u8>>,
    /// Bytes of the session's reserve it has taken.
    pub reserved: u32,
    /// And of the reserve that all sessions of the core have in common.
    pub reserved_common: u32,
    /// Next under the same hash of the tag.
    pub next: Option<Key<Task>>,
}

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The mid-level has it.
    WithMid,
    /// The mid-level has no memory for its Data-Out yet.
    Waiting,
    /// Data-Out is coming into its vector.
    Receiving,
    /// Data-Out is coming and dropped; the answer is decided.
    Swallowing,
    /// It has ended; what the initiator still sends for it is dropped.
    Sink,
}

impl Task {
    /// A task of a command that has just come.
    pub fn new(session: Key<Session>, conn: ConnId, itt: Itt, lun: [u8; 8]) -> Self {
        Task {
            mid: TaskId(0),
            session,
            conn,
            itt,
            phase: Phase::WithMid,
            numbered: false,
            unsolicited_open: false,
            landing: false,
            revoke_on_return: false,
            failed: None,
            outstanding: 0,
            head_seq: 0,
            wanted: 0,
            unsolicited_max: 0,
            arrived: 0,
            asked: 0,
            burst_end: 0,
            data_sn: 0,
            r2t_sn: 0,
            piece: 0,
            solicited: 0,
            in_line: false,
            read_max: 0,
            bidirectional: false,
            lun,
            buf: None,
            kept: None,
            reserved: 0,
            reserved_common: 0,
            next: None,
        }
    }

    /// A task of this command, of whose Data-Out so many bytes may come unasked.
    pub fn of(session: Key<Session>, conn: ConnId, c: &ScsiCommand, unsolicited_max: u32) -> Self {
        let mut task = Task::new(session, conn, c.itt, c.lun);
        task.numbered = !c.immediate;
        task.unsolicited_open = c.write && !c.is_final;
        task.unsolicited_max = if task.unsolicited_open { unsolicited_max } else { c.data_len };
        task.bidirectional = c.read && c.write;
        task.read_max = if c.read && !c.write { c.edtl } else { 0 };
        task
    }

    /// Whether what it asks for comes in large pieces. Does not change once something was asked for.
    pub fn is_large(&self) -> bool {
        self.wanted >= LARGE_BYTES
    }

    /// Whether the initiator may still send Data-Out for it.
    pub fn expects_data(&self) -> bool {
        self.unsolicited_open || self.outstanding > 0
    }
}

/// A target transfer tag: slot (16 bits), sequence (6), generation of the slot (10). Never FFFF_FFFFh,
/// because the table has no slot FFFFh.
pub fn ttt(key: Key<Task>, sequence: u8) -> Ttt {
    let generation = u32::from(key.generation()) & GENERATION;
    Ttt((key.slot() as u32) << 16 | u32::from(sequence & SEQUENCE) << 10 | generation)
}

/// The parts of a target transfer tag.
pub fn parts(ttt: Ttt) -> (usize, u8, u32) {
    ((ttt.0 >> 16) as usize, (ttt.0 >> 10) as u8 & SEQUENCE, ttt.0 & GENERATION)
}

/// Whether a tag of this generation belongs to the task that holds the slot now.
pub fn is_current(key: Key<Task>, generation: u32) -> bool {
    // One of the planted mistakes: a tag of an earlier holder is taken for one of this.
    planted::on(Bug::StaleTtt) || u32::from(key.generation()) & GENERATION == generation
}

/// Bits of the sequence within a tag.
pub const SEQUENCE: u8 = 0x3F;
const GENERATION: u32 = 0x3FF;

#[cfg(test)]
mod tests {
    use spindle_mem::Slab;

    use super::*;

    #[test]
    fn tags_are_taken_apart_as_they_were_put_together() {
        let mut slab: Slab<Task> = Slab::new(3);
        let mut sessions = Slab::new(1);
        let params = crate::negotiate::Params::defaults(&crate::config::IscsiLimits::default());
        let session = sessions
            .insert(Session::new(
                params,
                spindle_iscsi_wire::Isid([0; 6]),
                1,
                spindle_iscsi_wire::SerialNumber(0),
            ))
            .unwrap();
        for round in 0..2000u32 {
            let key = slab.insert(Task::new(session, ConnId(0), Itt(round), [0; 8])).unwrap();
            let tag = ttt(key, round as u8);
            assert_ne!(tag, Ttt::RESERVED);
            assert_eq!(
                parts(tag),
                (key.slot(), round as u8 & SEQUENCE, u32::from(key.generation()) & GENERATION)
            );
            assert!(is_current(key, parts(tag).2));
            slab.remove(key);
            let again = slab.insert(Task::new(session, ConnId(0), Itt(0), [0; 8])).unwrap();
            if again.slot() == key.slot() {
                assert!(!is_current(again, parts(tag).2));
            }
            slab.remove(again);
        }
    }
}
