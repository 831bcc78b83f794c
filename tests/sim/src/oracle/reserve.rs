//! A small model of reservations, which judges what is unambiguous.
//!
//! Changes (PERSISTENT RESERVE OUT, RESERVE, RELEASE, resets, lost nexuses) that ran beside each other leave it
//! in doubt; so does one without an answer. A command is judged if no change was under way while it ran and the
//! state was known all the time. Each initiator port has a key of its own, which keeps the model small.

#![allow(missing_docs, reason = "the fields of changes are those of the commands")]

use std::collections::BTreeMap;

use crate::plan::Reserving;

/// An initiator port.
pub type Port = usize;

/// A change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// REGISTER with this reservation key and service action key (0: none), or REGISTER AND IGNORE EXISTING KEY.
    Register { key: u64, new: u64, ignore: bool },
    /// RESERVE of a type.
    Reserve { key: u64, kind: u8 },
    /// RELEASE of a type.
    Release { key: u64, kind: u8 },
    /// CLEAR.
    Clear { key: u64 },
    /// PREEMPT (AND ABORT).
    Preempt { key: u64, victim: u64, kind: u8 },
    /// RESERVE(6).
    Reserve6,
    /// RELEASE(6).
    Release6,
    /// The unit was reset.
    Reset,
    /// The nexus of this port ended.
    NexusLost,
}

/// How a command was answered, as far as reservations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// GOOD.
    Good,
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION before anything was done (unit attention, illegal request), or BUSY.
    Nothing,
    /// None, or one that leaves it open.
    Unknown,
}

/// What a command does, as far as reservations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// READ.
    Read,
    /// WRITE and the like.
    Write,
}

/// What a command remembers from the moment it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(Option<u64>);

/// Reservations of one logical unit.
#[derive(Default, Debug)]
pub struct Model {
    keys: BTreeMap<Port, u64>,
    holder: Option<(Port, u8)>,
    old: Option<Port>,
    doubt: bool,
    under_way: u32,
    crowded: bool,
    version: u64,
    /// Commands that could be judged.
    pub judged: u64,
    /// Only RESERVE and RELEASE are used here.
    old_only: bool,
}

const ALL_REGISTRANTS: [u8; 2] = [7, 8];
const REGISTRANTS_ONLY: [u8; 2] = [5, 6];

impl Model {
    /// Without reservations, for units on which these are used.
    pub fn of(reserving: Reserving) -> Model {
        Model { old_only: reserving == Reserving::Old, ..Model::default() }
    }

    /// A command that changes nothing is sent.
    pub fn stamp(&self) -> Stamp {
        Stamp((!self.doubt && self.under_way == 0).then_some(self.version))
    }

    /// A change is sent.
    pub fn begin(&mut self) {
        self.under_way += 1;
        self.version += 1;
        self.crowded |= self.under_way > 1;
    }

    /// A change is answered (or never will be).
    pub fn end(&mut self, port: Port, change: Change, answer: Answer) -> Result<(), String> {
        self.under_way -= 1;
        self.version += 1;
        let alone = !self.crowded;
        if self.under_way == 0 {
            self.crowded = false;
        }
        if !alone || answer == Answer::Unknown {
            self.doubt = true;
            return Ok(());
        }
        if answer == Answer::Nothing {
            return Ok(());
        }
        if !self.doubt {
            let right = self.allows(port, change);
            if right != (answer == Answer::Good) {
                let should = if right { "GOOD" } else { "RESERVATION CONFLICT" };
                return Err(format!("port {port}: {change:?} got {answer:?}, should be {should}; {self:?}"));
            }
            self.judged += 1;
        }
        if answer == Answer::Good {
            self.apply(port, change);
        }
        Ok(())
    }

    /// Something changed without anybody's command, such as a lost nexus: whoever runs now is not judged.
    pub fn disturb(&mut self, port: Port, change: Change) {
        self.version += 1;
        self.crowded |= self.under_way > 0;
        self.apply(port, change);
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        self.version += 1;
        self.doubt = true;
    }

    /// A reading or writing command is answered.
    pub fn judge(&mut self, stamp: Stamp, port: Port, access: Access, answer: Answer) -> Result<(), String> {
        if stamp.0 != Some(self.version) || self.doubt || self.under_way > 0 {
            return Ok(());
        }
        let may = self.may(port, access);
        match answer {
            Answer::Good if !may => Err(format!("port {port}: {access:?} was let through; {self:?}")),
            Answer::Conflict if may => {
                Err(format!("port {port}: {access:?} got RESERVATION CONFLICT; {self:?}"))
            }
            Answer::Good | Answer::Conflict => {
                self.judged += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn may(&self, port: Port, access: Access) -> bool {
        if let Some(old) = self.old
            && old != port
        {
            return false;
        }
        let Some((holder, kind)) = self.holder else { return true };
        let registered = self.keys.contains_key(&port);
        let open = if ALL_REGISTRANTS.contains(&kind) || REGISTRANTS_ONLY.contains(&kind) {
            registered
        } else {
            holder == port
        };
        // Types 1, 5 and 7 are the Write Exclusive ones.
        open || (access == Access::Read && matches!(kind, 1 | 5 | 7))
    }

    fn allows(&self, port: Port, change: Change) -> bool {
        let key_fits = |key: u64| self.keys.get(&port).is_some_and(|have| *have == key);
        match change {
            Change::Register { ignore: true, .. } => true,
            Change::Register { key, .. } => key_fits(key) || (key == 0 && !self.keys.contains_key(&port)),
            Change::Reserve { key, kind } => {
                key_fits(key)
                    && self.holder.is_none_or(|(holder, have)| {
                        have == kind && (holder == port || ALL_REGISTRANTS.contains(&kind))
                    })
            }
            Change::Release { key, .. } | Change::Clear { key } => key_fits(key),
            Change::Preempt { key, victim, .. } => key_fits(key) && self.keys.values().any(|k| *k == victim),
            Change::Reserve6 => self.old.is_none_or(|old| old == port),
            Change::Release6 | Change::Reset | Change::NexusLost => true,
        }
    }

    fn apply(&mut self, port: Port, change: Change) {
        match change {
            Change::Register { new: 0, .. } => {
                self.keys.remove(&port);
                self.drop_holder();
            }
            Change::Register { new, .. } => {
                self.keys.insert(port, new);
            }
            Change::Reserve { kind, .. } => {
                self.holder.get_or_insert((port, kind));
            }
            Change::Release { kind, .. } => {
                let mine = |&(holder, have): &(Port, u8)| {
                    have == kind && (holder == port || ALL_REGISTRANTS.contains(&have))
                };
                if self.holder.as_ref().is_some_and(mine) {
                    self.holder = None;
                }
            }
            Change::Clear { .. } => {
                self.keys.clear();
                self.holder = None;
                // Whatever was in doubt is gone now, unless the old kind was in use as well.
                self.doubt = false;
                self.old = None;
            }
            Change::Preempt { victim, kind, .. } => {
                let of_victim = |p: &Port| self.keys.get(p) == Some(&victim);
                let takes = self
                    .holder
                    .is_some_and(|(holder, have)| !ALL_REGISTRANTS.contains(&have) && of_victim(&holder));
                self.keys.retain(|p, k| *k != victim || *p == port);
                if takes {
                    self.holder = Some((port, kind));
                }
                self.drop_holder();
            }
            Change::Reserve6 => self.old = Some(port),
            Change::Release6 | Change::NexusLost => {
                if self.old == Some(port) {
                    self.old = None;
                }
            }
            Change::Reset => {
                self.old = None;
                self.doubt &= !self.old_only;
            }
        }
    }

    /// A reservation whose holders are no longer registered is gone.
    fn drop_holder(&mut self) {
        if let Some((holder, kind)) = self.holder {
            let held = match ALL_REGISTRANTS.contains(&kind) {
                true => !self.keys.is_empty(),
                false => self.keys.contains_key(&holder),
            };
            if !held {
                self.holder = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_exclusive_reservation_stops_writers_only() {
        let mut m = Model::default();
        m.begin();
        m.end(0, Change::Register { key: 0, new: 5, ignore: false }, Answer::Good).unwrap();
        m.begin();
        m.end(0, Change::Reserve { key: 5, kind: 1 }, Answer::Good).unwrap();
        let s = m.stamp();
        assert!(m.judge(s, 1, Access::Write, Answer::Good).is_err());
        assert!(m.judge(s, 1, Access::Write, Answer::Conflict).is_ok());
        assert!(m.judge(s, 1, Access::Read, Answer::Conflict).is_err());
        assert!(m.judge(s, 0, Access::Write, Answer::Good).is_ok());
    }

    #[test]
    fn changes_beside_each_other_leave_doubt_until_it_is_cleared() {
        let mut m = Model::default();
        m.begin();
        m.begin();
        m.end(0, Change::Reserve6, Answer::Good).unwrap();
        m.end(1, Change::Release6, Answer::Good).unwrap();
        let s = m.stamp();
        assert!(m.judge(s, 1, Access::Write, Answer::Good).is_ok(), "nobody can tell");
        m.begin();
        m.end(0, Change::Clear { key: 1 }, Answer::Good).unwrap();
        let s = m.stamp();
        assert!(m.judge(s, 1, Access::Write, Answer::Conflict).is_err());
    }
}
