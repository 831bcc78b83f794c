//! What the engines of different cores say to each other about a logical unit.
//!
//! A unit's policy (reservations, mode pages, who may close it) belongs to its home core; every core with a
//! nexus to the unit is a member. All of this is rare: READ and WRITE send nothing. Between two cores messages
//! arrive in order. A core that talks to itself puts the message into a queue of its own engine.

use std::sync::Arc;

use spindle_reactor::CoreId;
use spindle_scsi_port::{NexusInfo, TaskId};
use spindle_scsi_spec::{Asc, Sense};

use crate::config::LuId;
use crate::device_server::mode::ModePages;
use crate::reserve::{NexusName, ReserveTable};
use crate::task::AbortCause;

/// One message; one cache line.
#[derive(Debug)]
pub enum ScsiMsg {
    /// Member to home: I have a nexus to this unit now. Answer: `Joined`.
    Join {
        /// The unit.
        lu: LuId,
    },
    /// Member to home: my last nexus is gone. Answer: `Left`.
    Leave {
        /// The unit.
        lu: LuId,
    },
    /// Member to home: decide this. Answer: `Reply`, exactly one.
    Request {
        /// The unit.
        lu: LuId,
        /// Comes back in the reply.
        ticket: Ticket,
        /// What is asked.
        what: Box<Request>,
    },
    /// Member to home: if this request has not been begun, forget it. The reply comes either way.
    Cancel {
        /// The unit.
        lu: LuId,
        /// The request.
        ticket: Ticket,
    },
    /// Member to home: the holder of a granted lock has ended.
    Unlock {
        /// The unit.
        lu: LuId,
        /// Of the grant.
        epoch: u32,
    },
    /// Member to home: what had to leave has left.
    Closed {
        /// The unit.
        lu: LuId,
        /// Of the `Close`.
        epoch: u32,
    },
    /// Member to home: the news is in force here.
    Acked {
        /// The unit.
        lu: LuId,
        /// Of the `Publish`.
        epoch: u32,
    },
    /// Home to member.
    Joined {
        /// The unit.
        lu: LuId,
        /// Its policy as it is now.
        policy: Box<Policy>,
    },
    /// Home to member.
    Left {
        /// The unit.
        lu: LuId,
    },
    /// The core that was the home to one that asked to join: the unit has gone from here.
    Gone {
        /// The unit.
        lu: LuId,
    },
    /// Home to member: let no task of this scope start, end those of the abort set; say `Closed` when all
    /// concerned have left.
    Close {
        /// The unit.
        lu: LuId,
        /// Comes back in `Closed`.
        epoch: u32,
        /// Which tasks.
        scope: Scope,
        /// Which of them are to end.
        abort: Option<Box<AbortSet>>,
    },
    /// Home to member: these tasks will be ended by a closing that stands in line; they may end now.
    Doom {
        /// The unit.
        lu: LuId,
        /// Which tasks.
        abort: Box<AbortSet>,
    },
    /// Home to member: this is the policy from now on. Answer: `Acked`.
    Publish {
        /// The unit.
        lu: LuId,
        /// Comes back in `Acked`.
        epoch: u32,
        /// What changed.
        news: Box<News>,
    },
    /// Home to member: tasks may start again.
    Open {
        /// The unit.
        lu: LuId,
        /// Of the `Close`.
        epoch: u32,
    },
    /// Home to member: a request is decided.
    Reply {
        /// The unit.
        lu: LuId,
        /// Of the request.
        ticket: Ticket,
        /// How.
        reply: Reply,
    },
}

const _: () = assert!(size_of::<ScsiMsg>() <= 64);

impl ScsiMsg {
    /// Whether the message answers one of the receiver's own. Such messages are bounded by what was asked, so a
    /// mailbox may keep room for them.
    pub fn is_reply(&self) -> bool {
        use ScsiMsg::*;
        matches!(self, Closed { .. } | Acked { .. } | Joined { .. } | Left { .. } | Reply { .. })
    }
}

/// Who waits for a reply, in the words of the core that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ticket {
    /// A task in state `AtHome`.
    Task(TaskId),
    /// A task management function.
    Tmf(u32),
    /// A nexus that is going away.
    Nexus(u16),
    /// Nobody: the reply is dropped.
    Nobody,
}

/// Something only the home may decide.
#[derive(Debug)]
pub struct Request {
    /// On whose behalf.
    pub who: NexusName,
    /// Tasks of `who` that arrived after this one on its core are no concern of a reset (see [`AbortSet::since`]).
    pub since: u64,
    /// What.
    pub kind: RequestKind,
}

/// Kinds of [`Request`].
#[derive(Debug)]
pub enum RequestKind {
    /// Close the gate for others until `Unlock` (COMPARE AND WRITE; ORDERED in a shared task set).
    Lock(Scope),
    /// End all tasks and reset the unit.
    Reset(AbortCause),
    /// End all tasks of a shared task set.
    ClearTaskSet,
    /// MODE SELECT.
    ModeSelect {
        /// The CDB.
        cdb: [u8; 32],
        /// The parameter list.
        list: Box<[u8]>,
        /// Who asks, in full.
        info: Arc<NexusInfo>,
    },
    /// PERSISTENT RESERVE OUT.
    PersistentOut {
        /// The CDB.
        cdb: [u8; 32],
        /// The parameter list.
        list: Box<[u8]>,
        /// The ports of the target that was asked.
        ports: Vec<u16>,
    },
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
    /// The nexus is gone, or was reset: what the unit keeps for it ends.
    NexusLost,
    /// Nothing but a reply in its turn: then all news so far are in force everywhere, and all to come come here, too.
    Settle,
}

/// How a request was decided.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// The lock is held; give it back with this epoch.
    Granted(u32),
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Box<Sense>),
    /// It was forgotten, as asked.
    Cancelled,
}

/// Which tasks a closed gate keeps out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All that touch the unit.
    All,
    /// Those that write into these blocks.
    Blocks {
        /// First block.
        lba: u64,
        /// One after the last.
        end: u64,
    },
}

/// Which tasks end as the gate closes.
#[derive(Debug)]
pub struct AbortSet {
    /// Why.
    pub cause: AbortCause,
    /// Those of these nexuses; `None`: all.
    pub nexuses: Option<Vec<NexusName>>,
    /// Who asked: its tasks end without a word even if TAS is set.
    pub asker: NexusName,
    /// What `asker` sent behind its request is not ended by it: RFC 7143 §4.2.3.2 has a task management function
    /// affect the commands of its session that come before it. Counted in arrivals on the asker's core.
    pub since: u64,
    /// The command that asked goes on.
    pub except: Option<(CoreId, TaskId)>,
}

/// A unit's policy: immutable, shared by reference.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Mode pages.
    pub modes: Arc<ModePages>,
    /// Registrations and reservation.
    pub reserve: Arc<ReserveTable>,
}

/// A change of policy and whom to tell.
#[derive(Debug)]
pub struct News {
    /// In force from now on.
    pub policy: Policy,
    /// Unit attentions to establish.
    pub attentions: Vec<(Whom, Asc)>,
}

/// Addressee of a unit attention.
#[derive(Clone, Debug)]
pub enum Whom {
    /// Every nexus of the unit.
    All,
    /// Every nexus but this one.
    Except(NexusName),
    /// This one, if it is up.
    One(NexusName),
}
