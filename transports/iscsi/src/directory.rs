//! The session directory on core 0, and what the cores' transports say to each other.
//!
//! A session is named by InitiatorName, ISID and the target with its portal group (RFC 7143 §4.4.2: the two
//! ports of the nexus). A login that names one that exists *reinstates* it (§6.3.5): the old session ends
//! first, and only when its last task has really ended is the new one granted.
//!
//! ```text
//!   core of the login            core 0                  core of the old session
//!     Claim ──────────────────►   held by another? ─────►  End
//!                                                          nexus_lost … NexusGone
//!     Granted { tsih } ◄───────   ◄──────────────────────  Released
//! ```

use std::collections::{HashMap, VecDeque};

use spindle_iscsi_wire::LoginStatus;
use spindle_reactor::CoreId;
use spindle_scsi_port::NexusInfo;

/// Between the transports of two cores. Small and `Send`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnMsg {
    /// To core 0: a login asks for its session.
    Claim {
        /// Its name; none for a discovery session, which reinstates nothing.
        key: Option<Box<SessionKey>>,
        /// TSIH of the request; not 0: a session to be joined.
        tsih: u16,
        /// The connection that waits.
        claim: u32,
    },
    /// From core 0: the session may begin.
    Granted {
        /// The connection that waited.
        claim: u32,
        /// TSIH.
        tsih: u16,
    },
    /// From core 0: it may not.
    Refused {
        /// The connection that waited.
        claim: u32,
        /// Why.
        status: LoginStatus,
    },
    /// From core 0: end this session, its initiator logs in anew.
    End {
        /// Which.
        tsih: u16,
    },
    /// To core 0: this session is gone.
    Released {
        /// Which.
        tsih: u16,
    },
    /// To core 0: end the sessions of this target (TARGET COLD RESET).
    DropTarget {
        /// Which.
        target: u32,
    },
    /// From core 0: end this session in order, what is queued goes out first.
    Drop {
        /// Which.
        tsih: u16,
    },
    /// To another core: would you take a session of mine? See [`crate::moving`].
    Offer {
        /// Comes back.
        id: u32,
        /// Commands it was promised room for.
        granted: u32,
        /// Who stands at its ends.
        info: Box<NexusInfo>,
    },
    /// The answer to an `Offer`.
    Welcome {
        /// Of the offer.
        id: u32,
        /// Everything is ready for it; otherwise it had better stay.
        ready: bool,
    },
    /// What was offered stays where it is.
    Withdrawn {
        /// Of the offer.
        id: u32,
    },
    /// To core 0: this session is here now.
    Moved {
        /// Which.
        tsih: u16,
    },
    /// From core 0, to the old core and the new one: what is said of this session goes to the new one from now on.
    Known {
        /// Which.
        tsih: u16,
    },
}

const _: () = assert!(std::mem::size_of::<ConnMsg>() <= 24);

/// Names a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey {
    /// InitiatorName.
    pub initiator: String,
    /// ISID.
    pub isid: [u8; 6],
    /// The target.
    pub target: u32,
    /// Target portal group tag.
    pub portal_group: u16,
}

/// Sessions of all cores, and the logins that wait for one to end.
#[derive(Default, Debug)]
pub struct Directory {
    by_key: HashMap<SessionKey, u16>,
    sessions: HashMap<u16, Entry>,
    last: u16,
}

#[derive(Debug)]
struct Entry {
    key: Option<SessionKey>,
    core: CoreId,
    waiting: VecDeque<(CoreId, u32)>,
}

impl Directory {
    /// Takes a message to core 0 in; answers go to `send`.
    pub fn on_message(&mut self, from: CoreId, message: ConnMsg, send: &mut dyn FnMut(CoreId, ConnMsg)) {
        match message {
            ConnMsg::Claim { key, tsih, claim } => self.claim(from, key.map(|k| *k), tsih, claim, send),
            ConnMsg::Released { tsih } => self.released(tsih, send),
            ConnMsg::Moved { tsih } => self.moved(from, tsih, send),
            ConnMsg::DropTarget { target } => self.drop_target(target, send),
            _ => {}
        }
    }

    /// Sessions that exist.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// No session exists.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn claim(
        &mut self,
        from: CoreId,
        key: Option<SessionKey>,
        tsih: u16,
        claim: u32,
        send: &mut dyn FnMut(CoreId, ConnMsg),
    ) {
        let held = key.as_ref().and_then(|k| self.by_key.get(k)).copied();
        if tsih != 0 {
            // RFC 7143 §6.3.1, table of TSIH and ISID: one connection a session is all we have.
            let status = if held == Some(tsih) {
                LoginStatus::TOO_MANY_CONNECTIONS
            } else {
                LoginStatus::SESSION_DOES_NOT_EXIST
            };
            send(from, ConnMsg::Refused { claim, status });
            return;
        }
        match held.and_then(|t| Some((t, self.sessions.get_mut(&t)?))) {
            Some((tsih, entry)) => {
                entry.waiting.push_back((from, claim));
                if entry.waiting.len() == 1 {
                    send(entry.core, ConnMsg::End { tsih });
                }
            }
            None => self.grant(from, claim, key, VecDeque::new(), send),
        }
    }

    fn released(&mut self, tsih: u16, send: &mut dyn FnMut(CoreId, ConnMsg)) {
        let Some(entry) = self.sessions.remove(&tsih) else { return };
        if let Some(key) = &entry.key {
            self.by_key.remove(key);
        }
        let mut waiting = entry.waiting;
        if let Some((core, claim)) = waiting.pop_front() {
            self.grant(core, claim, entry.key, waiting, send);
        }
    }

    /// The old core may have been told something of the session that has left it; it passes that on, and this ends it.
    fn moved(&mut self, to: CoreId, tsih: u16, send: &mut dyn FnMut(CoreId, ConnMsg)) {
        let Some(entry) = self.sessions.get_mut(&tsih) else { return };
        let from = std::mem::replace(&mut entry.core, to);
        send(from, ConnMsg::Known { tsih });
        send(to, ConnMsg::Known { tsih });
    }

    fn drop_target(&mut self, target: u32, send: &mut dyn FnMut(CoreId, ConnMsg)) {
        let of_target = |entry: &Entry| entry.key.as_ref().is_some_and(|key| key.target == target);
        let found = self.sessions.iter().filter(|(_, entry)| of_target(entry));
        let mut found: Vec<(u16, CoreId)> = found.map(|(tsih, entry)| (*tsih, entry.core)).collect();
        // In the same order whatever the table's is: a simulation is to be the same each time.
        found.sort_unstable();
        for (tsih, core) in found {
            send(core, ConnMsg::Drop { tsih });
        }
    }

    fn grant(
        &mut self,
        core: CoreId,
        claim: u32,
        key: Option<SessionKey>,
        waiting: VecDeque<(CoreId, u32)>,
        send: &mut dyn FnMut(CoreId, ConnMsg),
    ) {
        let Some(tsih) = self.free_tsih() else {
            for (core, claim) in std::iter::once((core, claim)).chain(waiting) {
                send(core, ConnMsg::Refused { claim, status: LoginStatus::OUT_OF_RESOURCES });
            }
            return;
        };
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), tsih);
        }
        send(core, ConnMsg::Granted { claim, tsih });
        if !waiting.is_empty() {
            // Somebody else has come for the same session meanwhile.
            send(core, ConnMsg::End { tsih });
        }
        self.sessions.insert(tsih, Entry { key, core, waiting });
    }

    /// The next TSIH nobody has; 0 means «no session» on the wire.
    fn free_tsih(&mut self) -> Option<u16> {
        if self.sessions.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.sessions.contains_key(&self.last) {
                return Some(self.last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Option<Box<SessionKey>> {
        Some(Box::new(SessionKey { initiator: "iqn.x".into(), isid: [n; 6], target: 1, portal_group: 1 }))
    }

    fn say(d: &mut Directory, from: u8, message: ConnMsg) -> Vec<(u8, ConnMsg)> {
        let mut sent = Vec::new();
        d.on_message(CoreId(from), message, &mut |to, m| sent.push((to.0, m)));
        sent
    }

    #[test]
    fn a_session_that_exists_ends_before_its_successor_begins() {
        let mut d = Directory::default();
        let claim = |n, claim| ConnMsg::Claim { key: key(n), tsih: 0, claim };
        assert_eq!(say(&mut d, 1, claim(1, 7)), [(1, ConnMsg::Granted { claim: 7, tsih: 1 })]);
        assert_eq!(say(&mut d, 2, claim(2, 8)), [(2, ConnMsg::Granted { claim: 8, tsih: 2 })]);
        assert_eq!(say(&mut d, 3, claim(1, 9)), [(1, ConnMsg::End { tsih: 1 })]);
        assert_eq!(say(&mut d, 0, claim(1, 10)), [], "asked to end once");
        let sent = say(&mut d, 1, ConnMsg::Released { tsih: 1 });
        assert_eq!(sent, [(3, ConnMsg::Granted { claim: 9, tsih: 3 }), (3, ConnMsg::End { tsih: 3 })]);
        let sent = say(&mut d, 3, ConnMsg::Released { tsih: 3 });
        assert_eq!(sent, [(0, ConnMsg::Granted { claim: 10, tsih: 4 })]);
        say(&mut d, 0, ConnMsg::Released { tsih: 4 });
        say(&mut d, 2, ConnMsg::Released { tsih: 2 });
        assert!(d.is_empty() && d.by_key.is_empty());
        assert_eq!(say(&mut d, 2, ConnMsg::Released { tsih: 2 }), []);
    }

    #[test]
    fn a_session_that_moved_is_ended_where_it_is() {
        let mut d = Directory::default();
        let claim = |claim| ConnMsg::Claim { key: key(1), tsih: 0, claim };
        say(&mut d, 1, claim(7));
        let known = ConnMsg::Known { tsih: 1 };
        let sent = say(&mut d, 2, ConnMsg::Moved { tsih: 1 });
        assert_eq!(sent, [(1, known.clone()), (2, known.clone())]);
        assert_eq!(say(&mut d, 0, ConnMsg::DropTarget { target: 2 }), []);
        assert_eq!(say(&mut d, 0, ConnMsg::DropTarget { target: 1 }), [(2, ConnMsg::Drop { tsih: 1 })]);
        assert_eq!(say(&mut d, 3, claim(8)), [(2, ConnMsg::End { tsih: 1 })]);
        // It had left once more: whoever was told passes it on before it hears that all is known.
        assert_eq!(say(&mut d, 1, ConnMsg::Moved { tsih: 1 }), [(2, known.clone()), (1, known)]);
        let sent = say(&mut d, 1, ConnMsg::Released { tsih: 1 });
        assert_eq!(sent, [(3, ConnMsg::Granted { claim: 8, tsih: 2 })]);
        assert_eq!(say(&mut d, 1, ConnMsg::Moved { tsih: 1 }), []);
    }

    #[test]
    fn discovery_sessions_reinstate_nothing() {
        let mut d = Directory::default();
        for n in 1..=3 {
            let sent = say(&mut d, 0, ConnMsg::Claim { key: None, tsih: 0, claim: 5 });
            assert_eq!(sent, [(0, ConnMsg::Granted { claim: 5, tsih: n })]);
        }
    }

    #[test]
    fn joining_a_session_is_refused_by_its_reason() {
        let mut d = Directory::default();
        say(&mut d, 0, ConnMsg::Claim { key: key(1), tsih: 0, claim: 1 });
        for (n, tsih, status) in [
            (1, 1, LoginStatus::TOO_MANY_CONNECTIONS),
            (1, 2, LoginStatus::SESSION_DOES_NOT_EXIST),
            (2, 1, LoginStatus::SESSION_DOES_NOT_EXIST),
        ] {
            let sent = say(&mut d, 0, ConnMsg::Claim { key: key(n), tsih, claim: 2 });
            assert_eq!(sent, [(0, ConnMsg::Refused { claim: 2, status })]);
        }
    }

    #[test]
    fn tsih_is_never_nought_and_never_given_twice() {
        let mut d = Directory { last: u16::MAX - 1, ..Directory::default() };
        let mut claim = || {
            let sent = say(&mut d, 0, ConnMsg::Claim { key: None, tsih: 0, claim: 1 });
            let ConnMsg::Granted { tsih, .. } = sent[0].1 else { panic!() };
            tsih
        };
        assert_eq!([claim(), claim(), claim()], [u16::MAX, 1, 2]);
    }
}
