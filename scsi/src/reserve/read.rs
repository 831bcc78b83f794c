//! PERSISTENT RESERVE IN (SPC-4 §6.15).

use spindle_scsi_spec::cdb::{PersistentReserveIn, PrInAction};
use spindle_scsi_spec::reserve::{Capabilities, FullStatus, emit_full_status, emit_keys, emit_reservation};
use spindle_scsi_spec::{Emit, Sense, TransportId};

use super::{Registration, ReserveTable};
use crate::device_server::LuView;

/// PERSISTENT RESERVE IN, all four service actions.
pub fn persistent_in(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = PersistentReserveIn::parse(cdb)?;
    let table = view.reserve;
    match cdb.action {
        PrInAction::ReadKeys => {
            emit_keys(table.generation(), table.registrations().iter().map(|r| r.key), out)
        }
        PrInAction::ReadReservation => {
            let held = table.reservation().map(|r| (table.holder_key(), r.kind));
            emit_reservation(table.generation(), held, out);
        }
        PrInAction::ReportCapabilities => capabilities(table, view.can_store).emit(out),
        PrInAction::ReadFullStatus => {
            let lines = table.registrations().iter().filter_map(|r| full_status(table, r));
            emit_full_status(table.generation(), lines, out);
        }
    }
    Ok(cdb.alloc_bytes.into())
}

fn capabilities(table: &ReserveTable, can_store: bool) -> Capabilities {
    Capabilities {
        atp_c: true,
        ptpl_c: can_store,
        ptpl_a: table.aptpl(),
        // TEST UNIT READY passes every type; of the other commands the field speaks of, nothing is said.
        allow_commands: 1,
        ..Capabilities::default()
    }
}

/// A TransportID that cannot be read is in no table: transports make them, and a stored record is verified.
fn full_status<'a>(table: &ReserveTable, r: &'a Registration) -> Option<FullStatus<'a>> {
    let (transport_id, _) = TransportId::parse(r.nexus.transport_id(), 0).ok()?;
    Some(FullStatus {
        key: r.key,
        all_tg_pt: false,
        holder: table.reservation().filter(|_| table.is_holder(&r.nexus)).map(|held| held.kind),
        relative_target_port: r.nexus.relative_port(),
        transport_id,
    })
}

#[cfg(test)]
mod tests {
    use spindle_scsi_spec::reserve::{ReservationType as Kind, parse_full_status};

    use super::super::Reservation;
    use super::super::name::nexus;
    use super::*;
    use crate::device_server::fixture::{Owner, describing};

    fn cdb(action: u8, alloc: u16) -> [u8; 10] {
        let [high, low] = alloc.to_be_bytes();
        [0x5E, action, 0, 0, 0, 0, 0, high, low, 0]
    }

    fn owner(kind: Option<Kind>) -> Owner {
        let mut owner = describing();
        let t = &mut owner.reserve;
        t.generation = 0x0102;
        assert!(t.register(&nexus(1), 0xA1A2_A3A4_A5A6_A7A8) && t.register(&nexus(2), 0xB));
        t.reservation = kind.map(|kind| {
            let holder = (!kind.is_all_registrants()).then(|| nexus(1));
            Reservation { kind, holder }
        });
        owner
    }

    #[test]
    fn keys_come_with_generation_and_length() {
        let owner = owner(None);
        let all = owner.all(persistent_in, &cdb(0, 16384));
        assert_eq!(all[..8], [0, 0, 1, 2, 0, 0, 0, 16]);
        assert_eq!(all[8..], [0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0, 0, 0, 0, 0, 0, 0, 0xB]);
        // libiscsi's PrinReadKeys.Truncate
        assert_eq!(owner.ask(persistent_in, &cdb(0, 8)).unwrap().0, all[..8]);
        assert_eq!(describing().all(persistent_in, &cdb(0, 16384)), [0; 8]);
    }

    #[test]
    fn the_reservation_shows_the_holders_key_or_nought_where_all_hold() {
        assert_eq!(owner(None).all(persistent_in, &cdb(1, 255)), [0, 0, 1, 2, 0, 0, 0, 0]);
        let held = owner(Some(Kind::ExclusiveAccess)).all(persistent_in, &cdb(1, 255));
        assert_eq!(held[4..16], [0, 0, 0, 16, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8]);
        assert_eq!(held[16..], [0, 0, 0, 0, 0, 3, 0, 0]);
        let shared = owner(Some(Kind::WriteExclusiveAllRegistrants)).all(persistent_in, &cdb(1, 255));
        assert_eq!(shared[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0]);
    }

    #[test]
    fn capabilities_are_what_the_table_can() {
        // libiscsi's PrinReportCapabilities.Simple: length 8, ALLOW COMMANDS at most 5, all six types
        let mut owner = owner(None);
        assert_eq!(owner.all(persistent_in, &cdb(2, 255)), [0, 8, 0x05, 0x90, 0xEA, 0x01, 0, 0]);
        owner.reserve.aptpl = true;
        assert_eq!(owner.all(persistent_in, &cdb(2, 255))[3], 0x91);
        owner.can_store = false;
        assert_eq!(owner.all(persistent_in, &cdb(2, 255))[2], 0x04);
    }

    #[test]
    fn full_status_names_every_registrant() {
        let owner = owner(Some(Kind::WriteExclusiveRegistrantsOnly));
        let bytes = owner.all(persistent_in, &cdb(3, 1024));
        let (generation, lines) = parse_full_status(&bytes).unwrap();
        let lines: Vec<_> = lines.collect();
        assert_eq!((generation, lines.len()), (0x0102, 2));
        assert_eq!(lines[0].key, 0xA1A2_A3A4_A5A6_A7A8);
        assert_eq!(lines[0].holder, Some(Kind::WriteExclusiveRegistrantsOnly));
        assert_eq!((lines[1].holder, lines[1].relative_target_port, lines[1].all_tg_pt), (None, 1, false));
        let mut id = [0; 64];
        let mut w = Emit::new(&mut id);
        lines[1].transport_id.emit(&mut w);
        assert_eq!(w.as_bytes(), nexus(2).transport_id());
        let shared = super::tests::owner(Some(Kind::ExclusiveAccessAllRegistrants));
        let bytes = shared.all(persistent_in, &cdb(3, 1024));
        assert!(parse_full_status(&bytes).unwrap().1.all(|l| l.holder.is_some()));
    }

    #[test]
    fn reserved_service_actions_fail() {
        // libiscsi's PrinServiceactionRange.Range
        for action in 4..0x20 {
            assert!(owner(None).ask(persistent_in, &cdb(action, 255)).is_err());
        }
    }
}
