//! A session: command window, tasks by tag, state (RFC 7143 §4.2.2, §4.3).
//!
//! **The window.** MaxCmdSN = ExpCmdSN + granted − in flight − 1, where *granted* is how many commands the
//! mid-level promised room for. A command that arrives moves ExpCmdSN and *in flight* together, one that
//! ends opens the window by one, and a grant never shrinks: so MaxCmdSN never goes back.

use spindle_iscsi_wire::{Isid, Itt, SerialNumber};
use spindle_mem::{Key, Slab};
use spindle_net::ConnId;
use spindle_reactor::Tick;
use spindle_scsi_port::NexusId;

use crate::negotiate::Params;
use crate::solicit::Solicit;
use crate::task::Task;

/// Commands of a session, whatever was earned: the width of the ring of numbers that came early.
pub const WINDOW_MAX: u32 = 1_024;
/// Requests of a session that came early and are kept.
pub const PARKED_MAX: usize = 128;
const BUCKETS: usize = 64;

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The I_T nexus; none in a discovery session.
    pub nexus: Option<NexusId>,
    /// TSIH.
    pub tsih: u16,
    /// ISID.
    pub isid: Isid,
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// The target; none in a discovery session.
    pub target: Option<u32>,
    /// Its name.
    pub target_name: String,
    /// Target portal group tag.
    pub portal_group: u16,
    /// What was negotiated.
    pub params: Params,
    /// Its connections on this core.
    pub connections: Vec<ConnId>,
    /// Where it stands.
    pub state: SessionState,
    /// Next CmdSN.
    pub exp_cmd_sn: SerialNumber,
    early: Early,
    /// Commands there is room for.
    pub granted: u32,
    /// Commands the session may ever have room for.
    pub window_max: u32,
    /// Numbered commands not ended yet.
    pub in_flight: u32,
    /// Commands to wait before a larger window is asked for again.
    pub grow_after: u32,
    /// Requests that came early, to be taken in their turn.
    pub parked: Vec<Parked>,
    /// Task management requests not answered yet.
    pub tmfs: u32,
    /// Tasks that only receive, and drop, what the initiator still sends for them.
    pub sinks: u32,
    /// R2Ts out of tasks that move much.
    pub large_r2ts: u32,
    /// What its R2Ts ask for, and who waits for one. All its tasks are of one connection; with several, each gets its own.
    pub solicit: Solicit,
    /// Bytes of unsolicited data kept, or on their way, for tasks that wait for memory.
    pub reserve_used: u32,
    /// Whether CHAP was done.
    pub authenticated: bool,
    /// Counters.
    pub counters: SessionCounters,
    /// It has come from another core, and core 0 has not yet said that it knows.
    pub unplaced: bool,
    /// When it came from another core last, or was to go to one.
    pub moved_at: Option<Tick>,
    /// What it had done when this core last looked ([`SessionCounters::work`]).
    pub noted: u64,
    heads: [Option<Key<Task>>; BUCKETS],
}

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Serving.
    Open,
    /// A logout was asked for; dropped at this moment.
    LogoutAsked(Tick),
    /// Its nexus is ending; gone when the last task is.
    Ending,
}

/// A request that came before its turn.
#[derive(Debug)]
pub struct Parked {
    /// Its number.
    pub cmd_sn: SerialNumber,
    /// Its header.
    pub bhs: spindle_iscsi_wire::Bhs,
    /// Its additional header segments.
    pub ahs: Vec<u8>,
}

/// What a session has done.
#[derive(Clone, Copy, Default, Debug)]
pub struct SessionCounters {
    /// SCSI commands.
    pub commands: u64,
    /// Bytes received as Data-Out.
    pub write_bytes: u64,
    /// Bytes sent as Data-In.
    pub read_bytes: u64,
    /// Task management requests.
    pub tmfs: u64,
    /// Rejects sent.
    pub rejects: u64,
    /// Data digests that were wrong.
    pub digest_errors: u64,
}

impl SessionCounters {
    /// How much work all of it was, about: 16 KiB of payload cost as much as a command.
    pub fn work(&self) -> u64 {
        self.commands.saturating_add(self.write_bytes.saturating_add(self.read_bytes) >> 14)
    }
}

/// What a command number means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Its turn.
    Now,
    /// Inside the window, but others are missing before it.
    Early,
    /// Outside the window, or here already: ignored without a word (RFC 7143 §4.2.2.1).
    Ignore,
}

impl Session {
    /// A session whose first command will have the number `cmd_sn`.
    pub fn new(params: Params, isid: Isid, tsih: u16, cmd_sn: SerialNumber) -> Self {
        Session {
            nexus: None,
            tsih,
            isid,
            initiator_name: String::new(),
            initiator_alias: None,
            target: None,
            target_name: String::new(),
            portal_group: 0,
            params,
            connections: Vec::new(),
            state: SessionState::Open,
            exp_cmd_sn: cmd_sn,
            early: Early::default(),
            granted: 1,
            window_max: 1,
            in_flight: 0,
            grow_after: 0,
            parked: Vec::new(),
            tmfs: 0,
            sinks: 0,
            large_r2ts: 0,
            solicit: Solicit::new(0),
            reserve_used: 0,
            authenticated: false,
            counters: SessionCounters::default(),
            unplaced: false,
            moved_at: None,
            noted: 0,
            heads: [None; BUCKETS],
        }
    }

    /// The highest number the initiator may use.
    #[inline]
    pub fn max_cmd_sn(&self) -> SerialNumber {
        self.exp_cmd_sn.plus(self.granted.saturating_sub(self.in_flight)).prev()
    }

    /// What to do with a numbered request. `Now` and `Early` count it as arrived.
    #[inline]
    pub fn admit(&mut self, cmd_sn: SerialNumber) -> Admission {
        if cmd_sn == self.exp_cmd_sn && self.granted > self.in_flight {
            self.advance();
            return Admission::Now;
        }
        if !self.mark(cmd_sn) { Admission::Ignore } else { Admission::Early }
    }

    /// Whether a numbered request is the next in order, there is room for it, and none after it has come before it.
    #[inline]
    pub fn is_next(&self, cmd_sn: SerialNumber) -> bool {
        cmd_sn == self.exp_cmd_sn && self.granted > self.in_flight && self.early.count == 0
    }

    /// The next in order has come ([`Session::is_next`]).
    #[inline]
    pub fn take_next(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// Counts a number inside the window as arrived (RFC 7143 §11.5.5: the command an ABORT TASK was faster
    /// than). `false`: outside, or arrived before.
    pub fn mark(&mut self, cmd_sn: SerialNumber) -> bool {
        let ahead = cmd_sn.diff(self.exp_cmd_sn);
        if !cmd_sn.in_window(self.exp_cmd_sn, self.max_cmd_sn()) || !(0..WINDOW_MAX as i32).contains(&ahead) {
            return false;
        }
        self.early.add(cmd_sn)
    }

    /// Takes the next request whose turn has come, skipping numbers that count as arrived.
    pub fn next_parked(&mut self) -> Option<Parked> {
        while self.early.has(self.exp_cmd_sn) {
            let sn = self.exp_cmd_sn;
            self.advance();
            if let Some(at) = self.parked.iter().position(|p| p.cmd_sn == sn) {
                return Some(self.parked.swap_remove(at));
            }
        }
        None
    }

    #[inline]
    fn advance(&mut self) {
        self.early.pass(self.exp_cmd_sn);
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// Puts a task under its tag.
    #[inline]
    pub fn enlist(&mut self, task: &mut Task, key: Key<Task>) {
        task.next = self.heads[bucket(task.itt)].replace(key);
    }

    /// Finds a task by its tag.
    #[inline]
    pub fn find(&self, tasks: &Slab<Task>, itt: Itt) -> Option<Key<Task>> {
        let mut at = self.heads[bucket(itt)];
        while let Some(key) = at {
            let task = tasks.get(key)?;
            if task.itt == itt {
                return Some(key);
            }
            at = task.next;
        }
        None
    }

    /// Its tasks.
    pub fn tasks<'a>(&'a self, tasks: &'a Slab<Task>) -> impl Iterator<Item = &'a Task> {
        let row = |key: Option<Key<Task>>| key.and_then(|key| tasks.get(key));
        self.heads.iter().flat_map(move |head| std::iter::successors(row(*head), move |task| row(task.next)))
    }

    /// No request has come before its turn.
    pub fn nothing_early(&self) -> bool {
        self.early.count == 0 && self.parked.is_empty()
    }

    /// Takes a task out from under its tag.
    #[inline]
    pub fn delist(&mut self, tasks: &mut Slab<Task>, key: Key<Task>) {
        let Some(task) = tasks.get(key) else { return };
        let (b, next) = (bucket(task.itt), task.next);
        let mut at = self.heads[b];
        if at == Some(key) {
            self.heads[b] = next;
            return;
        }
        while let Some(before) = at {
            let Some(row) = tasks.get_mut(before) else { return };
            if row.next == Some(key) {
                row.next = next;
                return;
            }
            at = row.next;
        }
    }
}

/// Numbers of the window that have arrived already, or count as arrived: a bit for each, by its last bits.
#[derive(Debug, Default)]
struct Early {
    bits: [u64; (WINDOW_MAX / 64) as usize],
    /// How many; nearly always none.
    count: u32,
}

impl Early {
    fn at(&mut self, sn: SerialNumber) -> (&mut u64, u64) {
        let at = sn.0 % WINDOW_MAX;
        (&mut self.bits[(at / 64) as usize], 1 << (at % 64))
    }

    /// `false`: it is there already.
    fn add(&mut self, sn: SerialNumber) -> bool {
        let (word, bit) = self.at(sn);
        let fresh = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(fresh);
        fresh
    }

    #[inline]
    fn has(&mut self, sn: SerialNumber) -> bool {
        self.count > 0 && {
            let (word, bit) = self.at(sn);
            *word & bit != 0
        }
    }

    /// The window begins behind this number from now on.
    #[inline]
    fn pass(&mut self, sn: SerialNumber) {
        if self.has(sn) {
            let (word, bit) = self.at(sn);
            *word &= !bit;
            self.count -= 1;
        }
    }
}

fn bucket(itt: Itt) -> usize {
    // Initiators count tags up, or put a slot into the low bits and an age above: fold both.
    let t = itt.0 ^ itt.0 >> 16;
    (t ^ t >> 8) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::IscsiLimits;

    fn session(cmd_sn: u32, granted: u32) -> Session {
        let params = Params::defaults(&IscsiLimits::default());
        let mut s = Session::new(params, Isid([0; 6]), 1, SerialNumber(cmd_sn));
        s.granted = granted;
        s
    }

    #[test]
    fn commands_outside_the_window_and_twice_are_ignored() {
        let mut s = session(u32::MAX - 1, 4);
        assert_eq!(s.max_cmd_sn(), SerialNumber(1));
        assert_eq!(s.admit(SerialNumber(2)), Admission::Ignore);
        assert_eq!(s.admit(SerialNumber(u32::MAX - 2)), Admission::Ignore);
        assert_eq!(s.admit(SerialNumber(u32::MAX - 1)), Admission::Now);
        assert_eq!(s.admit(SerialNumber(u32::MAX - 1)), Admission::Ignore);
        assert_eq!(s.admit(SerialNumber(0)), Admission::Early);
        assert_eq!(s.admit(SerialNumber(0)), Admission::Ignore);
    }

    #[test]
    fn a_number_that_counts_as_arrived_is_skipped_and_its_command_ignored() {
        let mut s = session(10, 8);
        assert!(s.mark(SerialNumber(11)));
        assert_eq!(s.admit(SerialNumber(10)), Admission::Now);
        assert!(s.next_parked().is_none());
        assert_eq!(s.exp_cmd_sn, SerialNumber(12));
        assert_eq!(s.admit(SerialNumber(11)), Admission::Ignore);
    }

    #[test]
    fn a_full_window_admits_nothing() {
        let mut s = session(5, 2);
        for sn in [5, 6] {
            assert_eq!(s.admit(SerialNumber(sn)), Admission::Now);
            s.in_flight += 1;
        }
        assert_eq!(s.max_cmd_sn(), SerialNumber(6));
        assert_eq!(s.admit(SerialNumber(7)), Admission::Ignore);
        s.in_flight -= 1;
        assert_eq!(s.admit(SerialNumber(7)), Admission::Now);
    }

    proptest! {
        /// Whatever comes, MaxCmdSN never goes back, and every number is admitted at most once.
        #[test]
        fn the_window_never_goes_back(
            start in any::<u32>(), steps in prop::collection::vec((0u32..4, 0u32..1_400), 1..300),
        ) {
            let mut s = session(start, 8);
            let mut last = s.max_cmd_sn();
            let mut seen = std::collections::HashSet::new();
            for (what, n) in steps {
                match what {
                    0 | 1 => {
                        let far = if n % 7 == 0 { n } else { n % 10 };
                        let sn = s.exp_cmd_sn.plus(far).0.wrapping_sub(1);
                        match s.admit(SerialNumber(sn)) {
                            Admission::Now => {
                                prop_assert!(seen.insert(sn));
                                s.in_flight += 1;
                                while let Some(p) = s.next_parked() {
                                    prop_assert!(p.cmd_sn.lt(s.exp_cmd_sn));
                                    s.in_flight += 1;
                                }
                            }
                            Admission::Early => {
                                prop_assert!(seen.insert(sn));
                                s.parked.push(Parked { cmd_sn: SerialNumber(sn), bhs: [0; 48], ahs: vec![] });
                            }
                            Admission::Ignore => {}
                        }
                    }
                    2 => s.in_flight = s.in_flight.saturating_sub(1),
                    _ => s.granted = s.granted.max(n.min(WINDOW_MAX)),
                }
                prop_assert!(s.max_cmd_sn().ge(last));
                prop_assert!(s.in_flight <= s.granted);
                last = s.max_cmd_sn();
            }
        }
    }
}
