//! Changing the table: PERSISTENT RESERVE OUT (SPC-4 §5.13 and §6.16), RESERVE and RELEASE (SPC-2 §5.5, §7.21),
//! a lost nexus, a reset.
//!
//! These run at the unit's home core, behind its gate, on the whole parameter list. Nothing is changed in
//! place: a function takes the table and either refuses or gives the next one. What became of the old one's
//! access is known before anybody is told.

use spindle_scsi_spec::cdb::{PersistentReserveOut, PrOutAction};
use spindle_scsi_spec::reserve::{PrOutList, ReservationType};
use spindle_scsi_spec::{Asc, FieldError, ListError, Sense};

use super::name::NexusName;
use super::table::{Reservation, ReserveTable};
/// What a command that was performed has changed, and what follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The table from now on.
    pub table: ReserveTable,
    /// Unit attentions to establish. Names of which no nexus is up are skipped.
    pub attentions: Vec<(NexusName, Asc)>,
    /// PREEMPT AND ABORT: all tasks of these nexuses end, except the asking command itself (the asking nexus
    /// may be among them, if it has removed its own registration).
    pub abort: Vec<NexusName>,
    /// The table must be stored (`persist::encode`) before the command is answered.
    pub store: bool,
}

/// Why a command was not performed. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Status RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

/// What the device server knows and the table does not.
#[derive(Clone, Copy, Debug)]
pub struct OutContext<'a> {
    /// Relative identifiers of all ports of the target that was asked (ALL_TG_PT).
    pub ports: &'a [u16],
    /// There is a place to store the table (PTPL_C).
    pub can_store: bool,
}

/// PERSISTENT RESERVE OUT. `list` is the whole parameter list. `Ok(None)` is GOOD without any change.
pub fn persistent_out(
    table: &ReserveTable,
    nexus: &NexusName,
    cdb: &[u8],
    list: &[u8],
    cx: &OutContext<'_>,
) -> Result<Option<Change>, Refused> {
    let request = parse(cdb, list)?;
    // SPC-2 §5.5.1: conflicts with any SPC-2 reservation, the asking nexus's own too.
    if table.legacy.is_some() {
        return Err(Refused::Conflict);
    }
    match request.action {
        Action::Register { ignore } => register(table, nexus, &request, ignore, cx),
        Action::Reserve => reserve(table, nexus, &request),
        Action::Release => release(table, nexus, &request),
        Action::Clear => clear(table, nexus, &request),
        Action::Preempt { abort } => preempt(table, nexus, &request, abort),
    }
}

/// RESERVE(6) and RESERVE(10), whole unit, for the asking nexus. `Ok(None)`: it holds it already.
pub fn reserve_legacy(table: &ReserveTable, nexus: &NexusName) -> Result<Option<ReserveTable>, Refused> {
    match &table.legacy {
        Some(holder) if holder == nexus => Ok(None),
        None if table.registrations.is_empty() => {
            Ok(Some(ReserveTable { legacy: Some(nexus.clone()), ..table.clone() }))
        }
        _ => Err(Refused::Conflict),
    }
}

/// RELEASE(6) and RELEASE(10). `Ok(None)`: the nexus holds nothing, which is no error (SPC-2 §7.16).
pub fn release_legacy(table: &ReserveTable, nexus: &NexusName) -> Result<Option<ReserveTable>, Refused> {
    if !table.registrations.is_empty() {
        return Err(Refused::Conflict);
    }
    Ok(after_nexus_loss(table, nexus))
}

/// A nexus is gone: its SPC-2 reservation ends, registrations stay. `None`: nothing changes.
pub fn after_nexus_loss(table: &ReserveTable, nexus: &NexusName) -> Option<ReserveTable> {
    if table.legacy.as_ref() == Some(nexus) { after_reset(table) } else { None }
}

/// LOGICAL UNIT RESET and TARGET RESET end an SPC-2 reservation, and nothing else here (SPC-4 §5.13.4).
/// `None`: nothing changes.
pub fn after_reset(table: &ReserveTable) -> Option<ReserveTable> {
    table.legacy.is_some().then(|| ReserveTable { legacy: None, ..table.clone() })
}

/// What PERSISTENT RESERVE OUT asks for.
#[derive(Clone, Copy, Debug)]
struct Request {
    action: Action,
    scope: u8,
    kind: u8,
    key: u64,
    service_key: u64,
    all_ports: bool,
    aptpl: bool,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Register { ignore: bool },
    Reserve,
    Release,
    Clear,
    Preempt { abort: bool },
}

impl Request {
    /// Scope and type, for the actions that look at them.
    fn kind(&self) -> Result<ReservationType, Refused> {
        if self.scope != 0 {
            return Err(in_cdb(SCOPE));
        }
        ReservationType::from_code(self.kind).ok_or_else(|| in_cdb(TYPE))
    }
}

fn register(
    table: &ReserveTable,
    nexus: &NexusName,
    request: &Request,
    ignore: bool,
    cx: &OutContext<'_>,
) -> Result<Option<Change>, Refused> {
    if request.aptpl && !cx.can_store {
        return Err(in_list(APTPL));
    }
    // SPC-4 §6.16.3: ALL_TG_PT is as if the request had come through each port by itself.
    let elsewhere = cx.ports.iter().filter(|p| request.all_ports && **p != nexus.relative_port());
    let names: Vec<_> = std::iter::once(nexus.clone()).chain(elsewhere.map(|p| nexus.at_port(*p))).collect();
    // SPC-4 §5.13.7: the key given must be the registered one, nought for a nexus without registration.
    if !ignore && names.iter().any(|n| table.key_of(n).unwrap_or(0) != request.key) {
        return Err(Refused::Conflict);
    }
    if request.service_key == 0 && names.iter().all(|n| table.key_of(n).is_none()) {
        return Ok(None);
    }
    let mut change = Change::of(table);
    let next = &mut change.table;
    next.generation = next.generation.wrapping_add(1);
    next.aptpl = request.aptpl;
    if request.service_key != 0 {
        if !names.iter().all(|n| next.register(n, request.service_key)) {
            return Err(check(Sense::illegal_request(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
        }
    } else {
        next.unregister(|r| names.contains(&r.nexus));
        // SPC-4 §5.13.11.3: registrants of a registrants-only reservation learn that it went with its holder.
        if let (Some(was), None) = (&table.reservation, &next.reservation)
            && was.kind.admits_registrants()
        {
            change.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
        }
    }
    Ok(Some(change.stored_like(table)))
}

fn reserve(table: &ReserveTable, nexus: &NexusName, request: &Request) -> Result<Option<Change>, Refused> {
    authenticate(table, nexus, request)?;
    let kind = request.kind()?;
    match &table.reservation {
        // SPC-4 §5.13.9: a holder may repeat itself; any other wish, and anybody else's, is a conflict.
        Some(r) if table.is_holder(nexus) && r.kind == kind => Ok(None),
        Some(_) => Err(Refused::Conflict),
        None => {
            let mut change = Change::of(table);
            change.table.reservation = Some(held_by(nexus, kind));
            Ok(Some(change.stored_like(table)))
        }
    }
}

fn release(table: &ReserveTable, nexus: &NexusName, request: &Request) -> Result<Option<Change>, Refused> {
    authenticate(table, nexus, request)?;
    let Some(held) = table.reservation.as_ref().filter(|_| table.is_holder(nexus)) else { return Ok(None) };
    if request.scope != 0 || request.kind != held.kind.code() {
        return Err(check(Sense::illegal_request(Asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION)));
    }
    let mut change = Change::of(table);
    change.table.reservation = None;
    // SPC-4 §5.13.11.2: nobody but the holder had lost or gained anything by the two plain types.
    if held.kind.admits_registrants() {
        change.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
    }
    Ok(Some(change.stored_like(table)))
}

fn clear(table: &ReserveTable, nexus: &NexusName, request: &Request) -> Result<Option<Change>, Refused> {
    authenticate(table, nexus, request)?;
    let mut change = Change::of(table);
    change.tell_others(nexus, Asc::RESERVATIONS_PREEMPTED);
    change.table.reservation = None;
    change.table.registrations.clear();
    change.table.generation = change.table.generation.wrapping_add(1);
    Ok(Some(change.stored_like(table)))
}

/// SPC-4 §5.13.11.4, table "Preempting actions".
fn preempt(
    table: &ReserveTable,
    nexus: &NexusName,
    request: &Request,
    abort: bool,
) -> Result<Option<Change>, Refused> {
    authenticate(table, nexus, request)?;
    let victim = request.service_key;
    let everybody = table.reservation.as_ref().is_some_and(|r| r.kind.is_all_registrants());
    if victim == 0 && !everybody {
        return Err(in_list(SERVICE_ACTION_KEY));
    }
    let takes_over = if everybody { victim == 0 } else { table.holder_key() == victim };
    let mut change = Change::of(table);
    let gone = match &table.reservation {
        Some(old) if takes_over => {
            let kind = request.kind()?;
            let gone = change.table.unregister(|r| r.nexus != *nexus && (everybody || r.key == victim));
            change.table.reservation = Some(held_by(nexus, kind));
            if old.kind != kind {
                change.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
            }
            gone
        }
        // Only registrations go; scope and type are not looked at.
        _ => {
            let gone = change.table.unregister(|r| r.key == victim);
            if gone.is_empty() {
                return Err(Refused::Conflict);
            }
            gone
        }
    };
    change.table.generation = change.table.generation.wrapping_add(1);
    let told = gone.iter().filter(|n| *n != nexus).cloned();
    change.attentions.extend(told.map(|n| (n, Asc::REGISTRATIONS_PREEMPTED)));
    if abort {
        change.abort = gone;
    }
    Ok(Some(change.stored_like(table)))
}

/// SPC-4 §5.13.5: all actions but the two registering ones come from a registered nexus with its own key.
fn authenticate(table: &ReserveTable, nexus: &NexusName, request: &Request) -> Result<(), Refused> {
    if table.key_of(nexus) == Some(request.key) { Ok(()) } else { Err(Refused::Conflict) }
}

fn held_by(nexus: &NexusName, kind: ReservationType) -> Reservation {
    Reservation { kind, holder: (!kind.is_all_registrants()).then(|| nexus.clone()) }
}

impl Change {
    fn of(table: &ReserveTable) -> Change {
        Change { table: table.clone(), attentions: Vec::new(), abort: Vec::new(), store: false }
    }

    /// A unit attention to everybody registered now, except the one who asks.
    fn tell_others(&mut self, nexus: &NexusName, asc: Asc) {
        let others = self.table.registrations.iter().map(|r| &r.nexus).filter(|n| *n != nexus);
        self.attentions.extend(others.map(|n| (n.clone(), asc)));
    }

    /// What was stored must be stored again, also to say that it is no longer valid.
    fn stored_like(mut self, old: &ReserveTable) -> Change {
        self.store = old.aptpl || self.table.aptpl;
        debug_assert!(self.table.is_sound());
        self
    }
}

fn parse(cdb: &[u8], list: &[u8]) -> Result<Request, Refused> {
    let cdb = PersistentReserveOut::parse(cdb).map_err(|e| check(e.into()))?;
    let action = match cdb.action {
        PrOutAction::Register => Action::Register { ignore: false },
        PrOutAction::RegisterAndIgnoreExistingKey => Action::Register { ignore: true },
        PrOutAction::Reserve => Action::Reserve,
        PrOutAction::Release => Action::Release,
        PrOutAction::Clear => Action::Clear,
        PrOutAction::Preempt => Action::Preempt { abort: false },
        PrOutAction::PreemptAndAbort => Action::Preempt { abort: true },
        PrOutAction::RegisterAndMove | PrOutAction::ReplaceLostReservation => {
            return Err(in_cdb(SERVICE_ACTION));
        }
    };
    let list = PrOutList::parse(cdb.action, list).map_err(|e| check(e.into()))?;
    // SIP_C is nought: other initiator ports cannot be registered.
    if list.initiator_ports.is_some() {
        return Err(in_list(SPEC_I_PT));
    }
    // SPC-4 §6.16.2: without SPEC_I_PT the list has 24 bytes, neither more nor fewer.
    if cdb.list_bytes != 24 {
        return Err(check(ListError::Length.into()));
    }
    Ok(Request {
        action,
        scope: cdb.scope,
        kind: cdb.reservation_type,
        key: list.key,
        service_key: list.action_key,
        all_ports: list.all_tg_pt,
        aptpl: list.aptpl,
    })
}

const SERVICE_ACTION: FieldError = FieldError::bit(1, 4);
const SCOPE: FieldError = FieldError::bit(2, 7);
const TYPE: FieldError = FieldError::bit(2, 3);
const SERVICE_ACTION_KEY: FieldError = FieldError::byte(8);
const SPEC_I_PT: FieldError = FieldError::bit(20, 3);
const APTPL: FieldError = FieldError::bit(20, 0);

fn check(sense: Sense) -> Refused {
    Refused::Check(sense)
}

fn in_cdb(at: FieldError) -> Refused {
    check(Sense::invalid_field_in_cdb(at))
}

fn in_list(at: FieldError) -> Refused {
    check(Sense::invalid_field_in_parameter_list(at))
}

#[cfg(test)]
mod tests;
