//! Persistent reservations: what PERSISTENT RESERVE IN returns and PERSISTENT RESERVE OUT brings (SPC-5
//! §6.15, §6.16).

use crate::{
    Emit, FieldError, ListError, TransportId, be,
    cdb::PrOutAction,
    emit::{flag, len32},
    transport_id::TransportIds,
};

/// TYPE of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ReservationType {
    /// The holder writes, all read.
    WriteExclusive = 1,
    /// The holder reads and writes.
    ExclusiveAccess = 3,
    /// Registrants write, all read; one nexus holds it.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registrants read and write; one nexus holds it.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Registrants write, all read; every registrant holds it.
    WriteExclusiveAllRegistrants = 7,
    /// Registrants read and write; every registrant holds it.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// The type with this code; `None` for reserved and obsolete codes.
    pub const fn from_code(code: u8) -> Option<ReservationType> {
        Some(match code {
            1 => ReservationType::WriteExclusive,
            3 => ReservationType::ExclusiveAccess,
            5 => ReservationType::WriteExclusiveRegistrantsOnly,
            6 => ReservationType::ExclusiveAccessRegistrantsOnly,
            7 => ReservationType::WriteExclusiveAllRegistrants,
            8 => ReservationType::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Does every registered nexus hold it?
    pub const fn is_all_registrants(self) -> bool {
        matches!(
            self,
            ReservationType::WriteExclusiveAllRegistrants | ReservationType::ExclusiveAccessAllRegistrants
        )
    }

    /// May registered nexuses that do not hold it go on, too? So of the last four types.
    pub const fn admits_registrants(self) -> bool {
        self as u8 >= ReservationType::WriteExclusiveRegistrantsOnly as u8
    }

    /// Does it keep others from reading, too?
    pub const fn is_exclusive_access(self) -> bool {
        matches!(
            self,
            ReservationType::ExclusiveAccess
                | ReservationType::ExclusiveAccessRegistrantsOnly
                | ReservationType::ExclusiveAccessAllRegistrants
        )
    }
}

/// READ KEYS data.
pub fn emit_keys(generation: u32, keys: impl IntoIterator<Item = u64>, w: &mut Emit<'_>) {
    emit_generation(generation, w, |w| {
        for key in keys {
            w.u64(key);
        }
    });
}

/// PRGENERATION and the keys in the READ KEYS data an initiator got.
pub fn parse_keys(bytes: &[u8]) -> Option<(u32, impl ExactSizeIterator<Item = u64> + '_)> {
    let (generation, body) = parse_generation(bytes)?;
    let (keys, _) = body.as_chunks::<8>();
    Some((generation, keys.iter().map(|k| u64::from_be_bytes(*k))))
}

/// READ RESERVATION data; `held` is key and type of the reservation, if there is one. With an all
/// registrants type the key is zero (SPC-5 §6.15).
pub fn emit_reservation(generation: u32, held: Option<(u64, ReservationType)>, w: &mut Emit<'_>) {
    emit_generation(generation, w, |w| {
        if let Some((key, kind)) = held {
            let key = if kind.is_all_registrants() { 0 } else { key };
            w.u64(key).u32(0).u8(0).u8(kind.code()).u16(0);
        }
    });
}

/// What [`parse_reservation`] finds: PRGENERATION, then key and type of the reservation.
pub type HeldReservation = (u32, Option<(u64, ReservationType)>);

/// READ RESERVATION data as an initiator got it. `None` if it was cut or its TYPE is not known.
pub fn parse_reservation(bytes: &[u8]) -> Option<HeldReservation> {
    let (generation, body) = parse_generation(bytes)?;
    if body.is_empty() && be::u32(bytes, 4) == 0 {
        return Some((generation, None));
    }
    let body = body.first_chunk::<16>()?;
    let kind = ReservationType::from_code(body[13] & 0x0F)?;
    Some((generation, Some((be::u64(body, 0), kind))))
}

/// REPORT CAPABILITIES data (SPC-5 §6.15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capabilities {
    /// RLR_C: REPLACE LOST RESERVATION.
    pub rlr_c: bool,
    /// CRH: RESERVE and RELEASE of a registrant are let through.
    pub crh: bool,
    /// SIP_C: SPEC_I_PT.
    pub sip_c: bool,
    /// ATP_C: ALL_TG_PT.
    pub atp_c: bool,
    /// PTPL_C: APTPL.
    pub ptpl_c: bool,
    /// ALLOW COMMANDS, 3 bits.
    pub allow_commands: u8,
    /// PTPL_A: persistence is active.
    pub ptpl_a: bool,
}

impl Capabilities {
    /// Writes the data, 8 bytes. All six types are supported, TMV says so.
    pub fn emit(&self, w: &mut Emit<'_>) {
        let high = flag(self.rlr_c, 7) | flag(self.crh, 4) | flag(self.sip_c, 3);
        w.u16(8).u8(high | flag(self.atp_c, 2) | flag(self.ptpl_c, 0));
        w.u8(0x80 | (self.allow_commands & 7) << 4 | flag(self.ptpl_a, 0));
        // PERSISTENT RESERVATION TYPE MASK: a bit for each type, by its code from 0 upwards in byte 4 and
        // on in byte 5.
        w.u8(1 << 7 | 1 << 6 | 1 << 5 | 1 << 3 | 1 << 1).u8(1).u16(0);
    }

    /// From the data an initiator got; `None` if it was cut.
    pub fn parse(b: &[u8]) -> Option<Capabilities> {
        (b.len() >= 8).then(|| Capabilities {
            rlr_c: be::bit(b, 2, 7),
            crh: be::bit(b, 2, 4),
            sip_c: be::bit(b, 2, 3),
            atp_c: be::bit(b, 2, 2),
            ptpl_c: be::bit(b, 2, 0),
            allow_commands: b[3] >> 4 & 7,
            ptpl_a: be::bit(b, 3, 0),
        })
    }
}

/// A registration, as READ FULL STATUS shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FullStatus<'a> {
    /// RESERVATION KEY.
    pub key: u64,
    /// ALL_TG_PT: the registration is for all target ports.
    pub all_tg_pt: bool,
    /// The reservation's type, if this registrant holds it (R_HOLDER).
    pub holder: Option<ReservationType>,
    /// RELATIVE TARGET PORT IDENTIFIER; means nothing with ALL_TG_PT.
    pub relative_target_port: u16,
    /// The initiator port.
    pub transport_id: TransportId<'a>,
}

/// READ FULL STATUS data.
pub fn emit_full_status<'a>(
    generation: u32,
    registrations: impl IntoIterator<Item = FullStatus<'a>>,
    w: &mut Emit<'_>,
) {
    emit_generation(generation, w, |w| {
        for r in registrations {
            w.u64(r.key).u32(0).u8(flag(r.all_tg_pt, 1) | flag(r.holder.is_some(), 0));
            w.u8(r.holder.map_or(0, ReservationType::code)).u32(0).u16(r.relative_target_port).u32(0);
            let start = w.full_len();
            r.transport_id.emit(w);
            let length = w.full_len() - start;
            w.patch_u32(start - 4, len32(length));
        }
    });
}

/// PRGENERATION and the registrations an initiator got; one that was cut or makes no sense ends the list.
pub fn parse_full_status(bytes: &[u8]) -> Option<(u32, impl Iterator<Item = FullStatus<'_>> + '_)> {
    let (generation, mut rest) = parse_generation(bytes)?;
    let list = core::iter::from_fn(move || {
        let (fixed, tail) = rest.split_first_chunk::<24>()?;
        let (id, next) = tail.split_at_checked(usize::try_from(be::u32(fixed, 20)).ok()?)?;
        let (transport_id, _) = TransportId::parse(id, 0).ok()?;
        rest = next;
        Some(FullStatus {
            key: be::u64(fixed, 0),
            all_tg_pt: be::bit(fixed, 12, 1),
            holder: ReservationType::from_code(fixed[13] & 0x0F).filter(|_| be::bit(fixed, 12, 0)),
            relative_target_port: be::u16(fixed, 18),
            transport_id,
        })
    });
    Some((generation, list))
}

/// PRGENERATION, ADDITIONAL LENGTH, and whatever `body` writes.
fn emit_generation(generation: u32, w: &mut Emit<'_>, body: impl FnOnce(&mut Emit<'_>)) {
    let start = w.full_len();
    w.u32(generation).u32(0);
    body(w);
    let length = w.full_len() - start - 8;
    w.patch_u32(start + 4, len32(length));
}

fn parse_generation(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (header, body) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(be::u32(header, 4)).unwrap_or(usize::MAX);
    Some((be::u32(header, 0), &body[..body.len().min(length)]))
}

/// Bytes of every PERSISTENT RESERVE OUT parameter list before its TransportIDs.
const BASIC: usize = 24;

/// The parameter list of PERSISTENT RESERVE OUT, for all service actions but REGISTER AND MOVE.
#[derive(Clone, Debug)]
pub struct PrOutList<'a> {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
    /// ALL_TG_PT. Means something to REGISTER and REGISTER AND IGNORE EXISTING KEY only.
    pub all_tg_pt: bool,
    /// APTPL. Likewise.
    pub aptpl: bool,
    /// The other initiator ports to register (SPEC_I_PT), of REGISTER only. Each of them still has to prove
    /// readable.
    pub initiator_ports: Option<TransportIds<'a>>,
}

impl<'a> PrOutList<'a> {
    /// From the Data-Out of `action`. The list has 24 bytes; with SPEC_I_PT, 28 and the TransportIDs.
    pub fn parse(action: PrOutAction, list: &'a [u8]) -> Result<PrOutList<'a>, ListError> {
        debug_assert!(action != PrOutAction::RegisterAndMove, "it has a list of its own");
        let basic = list.first_chunk::<BASIC>().ok_or(ListError::Length)?;
        let spec_i_pt = be::bit(basic, 20, 3);
        if spec_i_pt && action != PrOutAction::Register {
            return Err(FieldError::bit(20, 3).into()); // SPC-5 §6.16.3: valid for REGISTER only
        }
        let initiator_ports = if spec_i_pt {
            let (length, ids) = list[BASIC..].split_first_chunk::<4>().ok_or(ListError::Length)?;
            let length = usize::try_from(be::u32(length, 0)).unwrap_or(usize::MAX);
            // SPC-5 §6.16.3: the list has to hold all that the length says. More is not said to be wrong.
            Some(TransportIds::new(ids.get(..length).ok_or(ListError::Length)?, BASIC + 4))
        } else if list.len() != BASIC {
            return Err(ListError::Length);
        } else {
            None
        };
        Ok(PrOutList {
            key: be::u64(basic, 0),
            action_key: be::u64(basic, 8),
            all_tg_pt: be::bit(basic, 20, 2),
            aptpl: be::bit(basic, 20, 0),
            initiator_ports,
        })
    }

    /// Writes the list; `initiator_ports` sets SPEC_I_PT and follows it.
    pub fn emit(
        key: u64,
        action_key: u64,
        (all_tg_pt, aptpl): (bool, bool),
        initiator_ports: Option<&[TransportId<'_>]>,
        w: &mut Emit<'_>,
    ) {
        w.u64(key).u64(action_key).u32(0);
        w.u8(flag(initiator_ports.is_some(), 3) | flag(all_tg_pt, 2) | flag(aptpl, 0)).zeros(3);
        if let Some(ids) = initiator_ports {
            let start = w.full_len();
            w.u32(0);
            for id in ids {
                id.emit(w);
            }
            let length = w.full_len() - start - 4;
            w.patch_u32(start, len32(length));
        }
    }
}

/// The parameter list of REGISTER AND MOVE (SPC-5 §6.16.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RegisterAndMoveList<'a> {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: the new holder's.
    pub action_key: u64,
    /// UNREG: the sender is unregistered.
    pub unreg: bool,
    /// APTPL.
    pub aptpl: bool,
    /// RELATIVE TARGET PORT IDENTIFIER of the new holder's nexus.
    pub relative_target_port: u16,
    /// The new holder.
    pub transport_id: TransportId<'a>,
}

impl<'a> RegisterAndMoveList<'a> {
    /// From the Data-Out of REGISTER AND MOVE.
    pub fn parse(list: &'a [u8]) -> Result<RegisterAndMoveList<'a>, ListError> {
        let (fixed, id) = list.split_first_chunk::<BASIC>().ok_or(ListError::Length)?;
        let length = usize::try_from(be::u32(fixed, 20)).unwrap_or(usize::MAX);
        if length != id.len() {
            return Err(ListError::Length);
        }
        if length < 24 || length % 4 != 0 {
            return Err(FieldError::byte(20).into());
        }
        let (transport_id, used) = TransportId::parse(id, BASIC)?;
        if used != length {
            return Err(FieldError::byte(20).into()); // one TransportID, nothing behind it
        }
        Ok(RegisterAndMoveList {
            key: be::u64(fixed, 0),
            action_key: be::u64(fixed, 8),
            unreg: be::bit(fixed, 17, 1),
            aptpl: be::bit(fixed, 17, 0),
            relative_target_port: be::u16(fixed, 18),
            transport_id,
        })
    }

    /// Writes the list.
    pub fn emit(&self, w: &mut Emit<'_>) {
        w.u64(self.key).u64(self.action_key).u8(0).u8(flag(self.unreg, 1) | flag(self.aptpl, 0));
        w.u16(self.relative_target_port).u32(0);
        let start = w.full_len();
        self.transport_id.emit(w);
        let length = w.full_len() - start;
        w.patch_u32(start - 4, len32(length));
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

    fn bytes(emit: impl FnOnce(&mut Emit<'_>)) -> Vec<u8> {
        let mut room = [0xEE; 512];
        let mut w = Emit::new(&mut room);
        emit(&mut w);
        assert_eq!(w.full_len(), w.written());
        w.as_bytes().to_vec()
    }

    #[test]
    fn keys_and_reservation() {
        let keys = bytes(|w| emit_keys(7, [1, 0x0203], w));
        assert_eq!(keys, [0, 0, 0, 7, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 3]);
        let (generation, back) = parse_keys(&keys).unwrap();
        assert_eq!((generation, back.collect::<Vec<_>>()), (7, [1, 0x0203].to_vec()));
        assert_eq!(bytes(|w| emit_reservation(7, None, w)), [0, 0, 0, 7, 0, 0, 0, 0]);
        let held = bytes(|w| emit_reservation(7, Some((9, KIND)), w));
        assert_eq!(held[4..], [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 5, 0, 0]);
        assert_eq!(parse_reservation(&held), Some((7, Some((9, KIND)))));
        assert_eq!(parse_reservation(&held[..8]), None);
        let all = ReservationType::ExclusiveAccessAllRegistrants;
        let shared = bytes(|w| emit_reservation(7, Some((9, all)), w));
        assert_eq!(parse_reservation(&shared), Some((7, Some((0, all)))));
    }

    #[test]
    fn the_keys_that_do_not_fit_are_still_counted() {
        let mut room = [0; 12];
        let mut w = Emit::new(&mut room);
        emit_keys(1, 0..5, &mut w);
        assert_eq!((w.full_len(), room[7]), (48, 40));
        assert_eq!(parse_keys(&room).unwrap().1.count(), 0);
    }

    #[test]
    fn capabilities_name_all_six_types() {
        let c = Capabilities { sip_c: true, atp_c: true, ptpl_c: true, ptpl_a: true, ..Default::default() };
        assert_eq!(bytes(|w| c.emit(w)), [0, 8, 0x0D, 0x81, 0xEA, 1, 0, 0]);
        assert_eq!(Capabilities::parse(&bytes(|w| c.emit(w))), Some(c));
    }

    #[test]
    fn full_status_shows_each_registration() {
        let list = [
            FullStatus {
                key: 1,
                all_tg_pt: false,
                holder: Some(KIND),
                relative_target_port: 2,
                transport_id: TransportId::IscsiPort { name: "iqn.a", isid: [1, 2, 3, 4, 5, 6] },
            },
            FullStatus {
                key: 2,
                all_tg_pt: true,
                holder: None,
                relative_target_port: 0,
                transport_id: TransportId::Fcp(9),
            },
        ];
        let data = bytes(|w| emit_full_status(3, list, w));
        // "iqn.a,i,0x010203040506" and its null are 23 bytes: 24 and the header.
        assert_eq!(data[..8], [0, 0, 0, 3, 0, 0, 0, 24 + 28 + 24 + 24]);
        assert_eq!(data[20..34], [1, 5, 0, 0, 0, 0, 0, 2, 0, 0, 0, 28, 0x45, 0]);
        assert!(parse_full_status(&data).unwrap().1.eq(list));
        assert_eq!(parse_full_status(&data[..data.len() - 1]).unwrap().1.count(), 1);
    }

    #[test]
    fn a_list_has_24_bytes_unless_it_names_ports() {
        let plain = bytes(|w| PrOutList::emit(1, 2, (true, true), None, w));
        assert_eq!(plain[7..], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 5, 0, 0, 0]);
        let list = PrOutList::parse(PrOutAction::Register, &plain).unwrap();
        assert_eq!((list.key, list.action_key, list.all_tg_pt, list.aptpl), (1, 2, true, true));
        assert!(list.initiator_ports.is_none());
        let error = |action, list: &[u8]| PrOutList::parse(action, list).err();
        assert_eq!(error(PrOutAction::Register, &plain[..23]), Some(ListError::Length));
        assert_eq!(error(PrOutAction::Reserve, &[0; 25]), Some(ListError::Length));
    }

    #[test]
    fn spec_i_pt_brings_transport_ids() {
        let ids = [TransportId::Iscsi { name: "iqn.a" }, TransportId::Srp([1; 16])];
        let data = bytes(|w| PrOutList::emit(1, 2, (false, false), Some(&ids), w));
        assert_eq!((data.len(), &data[20..28]), (28 + 48, [8, 0, 0, 0, 0, 0, 0, 48].as_slice()));
        let list = PrOutList::parse(PrOutAction::Register, &data).unwrap();
        let back: Result<Vec<_>, _> = list.initiator_ports.unwrap().collect();
        assert_eq!(back.unwrap(), ids);
        let error = |action, list: &[u8]| PrOutList::parse(action, list).err();
        let refused = Some(ListError::Field(FieldError::bit(20, 3)));
        assert_eq!(error(PrOutAction::RegisterAndIgnoreExistingKey, &data), refused);
        assert_eq!(error(PrOutAction::Register, &data[..27]), Some(ListError::Length));
        assert_eq!(error(PrOutAction::Register, &data[..70]), Some(ListError::Length));
        // A wrong TransportID is named where it stands in the list.
        let mut broken = data;
        broken[28 + 3] = 3;
        let mut ids = PrOutList::parse(PrOutAction::Register, &broken).unwrap().initiator_ports.unwrap();
        assert_eq!(ids.next(), Some(Err(FieldError::byte(30).into())));
        assert_eq!(ids.next(), None);
    }

    #[test]
    fn register_and_move_names_one_port() {
        let list = RegisterAndMoveList {
            key: 1,
            action_key: 2,
            unreg: true,
            aptpl: false,
            relative_target_port: 3,
            transport_id: TransportId::Sas(4),
        };
        let data = bytes(|w| list.emit(w));
        assert_eq!(data[15..24], [2, 0, 2, 0, 3, 0, 0, 0, 24]);
        assert_eq!(RegisterAndMoveList::parse(&data), Ok(list));
        assert_eq!(RegisterAndMoveList::parse(&data[..40]), Err(ListError::Length));
        assert_eq!(RegisterAndMoveList::parse(&[0; 24]), Err(FieldError::byte(20).into()));
        let mut two = data.clone();
        two.extend_from_slice(&data[24..]);
        two[23] = 48;
        assert_eq!(RegisterAndMoveList::parse(&two), Err(FieldError::byte(20).into()));
    }

    #[test]
    fn types_know_their_kind() {
        let all = (0..=15).filter_map(ReservationType::from_code).inspect(|t| {
            assert_eq!(ReservationType::from_code(t.code()), Some(*t));
        });
        assert_eq!(all.clone().count(), 6);
        assert_eq!(all.clone().filter(|t| t.admits_registrants()).count(), 4);
        assert_eq!(all.clone().filter(|t| t.is_all_registrants()).count(), 2);
        assert_eq!(all.filter(|t| t.is_exclusive_access()).count(), 3);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut b in proptest::collection::vec(any::<u8>(), 0..200), spec: bool) {
            if let Some(flags) = b.get_mut(20) {
                *flags = if spec { 8 } else { *flags };
            }
            if spec && b.len() >= 28 {
                let length = u32::try_from(b.len() - 28).unwrap();
                b[24..28].copy_from_slice(&length.to_be_bytes());
            }
            if let Ok(list) = PrOutList::parse(PrOutAction::Register, &b) {
                prop_assert!(list.initiator_ports.into_iter().flatten().count() <= b.len());
            }
            let _ = RegisterAndMoveList::parse(&b);
            let _ = (parse_reservation(&b), Capabilities::parse(&b));
            prop_assert!(parse_keys(&b).map_or(0, |k| k.1.count()) <= b.len());
            prop_assert!(parse_full_status(&b).map_or(0, |s| s.1.count()) <= b.len());
        }
    }
}
