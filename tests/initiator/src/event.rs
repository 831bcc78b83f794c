//! What an engine tells its owner.

use spindle_iscsi_wire::{AsyncMessage, Bhs, Itt, LoginStatus, LogoutResponse, R2t, RejectReason, TmfResult};

use crate::data::Completion;
use crate::violation::Violation;

/// One thing that happened, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Full feature phase is reached.
    LoggedIn {
        /// The session's handle.
        tsih: u16,
    },
    /// The target refused the login; the connection is over.
    LoginFailed {
        /// Why.
        status: LoginStatus,
        /// TargetAddress, when redirected.
        address: Option<String>,
    },
    /// A SCSI command ended with a response.
    Done(Completion),
    /// A task management function was answered.
    TmfDone {
        /// Tag of the request.
        itt: Itt,
        /// Answer.
        result: TmfResult,
        /// Commands it ended; nothing more may be heard of them.
        ended: Vec<Itt>,
    },
    /// A ping came back, with its data.
    Pong {
        /// Tag of the ping.
        itt: Itt,
        /// Echo.
        data: Vec<u8>,
    },
    /// The target pinged.
    Ping,
    /// A text exchange ended.
    Text {
        /// Tag of the request.
        itt: Itt,
        /// Keys and values in order.
        pairs: Vec<(String, String)>,
    },
    /// An R2T under [`crate::R2tPolicy::Hold`].
    R2t(R2t),
    /// An Asynchronous Message and its data segment.
    Async(AsyncMessage, Vec<u8>),
    /// The target refused a PDU.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// The header it refused, if it sent one.
        header: Option<Bhs>,
        /// The task that ended by it.
        itt: Option<Itt>,
    },
    /// A logout was answered; after a success nothing more is said.
    LoggedOut(LogoutResponse),
    /// The target broke a rule.
    Violation(Violation),
    /// A request had no answer within the time configured. Said once for each.
    Silent {
        /// Tag of the request.
        itt: Itt,
    },
    /// The stream cannot be followed any further (a violation says why). Further bytes are not read.
    Broken,
}

/// One record of a SendTargets answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveredTarget {
    /// TargetName.
    pub name: String,
    /// TargetAddress values: `address[:port],portal-group-tag`.
    pub addresses: Vec<String>,
}

impl DiscoveredTarget {
    /// Sorts the pairs of a SendTargets answer into records (RFC 7143 appendix C).
    pub fn list(pairs: &[(String, String)]) -> Vec<Self> {
        let mut targets: Vec<Self> = Vec::new();
        for (key, value) in pairs {
            match (key.as_str(), targets.last_mut()) {
                ("TargetName", _) => targets.push(Self { name: value.clone(), addresses: Vec::new() }),
                ("TargetAddress", Some(target)) => target.addresses.push(value.clone()),
                _ => {}
            }
        }
        targets
    }
}
