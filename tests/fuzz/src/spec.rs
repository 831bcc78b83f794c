//! CDBs and parameter lists, as an initiator may send them; sense and parameter data, as another target may; and the
//! stored record of reservations.
//!
//! The first byte says which. What can be read must say the same after having been written and read again.

use std::fmt::Debug;

use spindle_scsi::reserve::persist;
use spindle_scsi_spec::cdb::*;
use spindle_scsi_spec::mode::{Caching, Control, InformationalExceptions, ModeList, ReadWriteErrorRecovery};
use spindle_scsi_spec::reserve::{
    Capabilities, PrOutList, RegisterAndMoveList, parse_full_status, parse_keys, parse_reservation,
};
use spindle_scsi_spec::transport_id::TransportIds;
use spindle_scsi_spec::unmap::{Extent, UnmapList, emit_unmap_list};
use spindle_scsi_spec::{
    CdbBytes, Emit, FieldError, Lun, Sense, SenseFormat, TransportId, capacity, inquiry, lba_status, opcode,
    report, vpd,
};

use crate::input::Input;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(kind) = input.byte() else { return };
    match kind % 9 {
        0 => cdb(input.rest()),
        1 => reserve_out(&mut input),
        2 => mode_select(&mut input),
        3 => unmap(input.rest()),
        4 => transport_ids(input.rest()),
        5 => record(&mut input),
        6 => sense(input.rest()),
        7 => parameter_data(input.rest()),
        _ => lun(&mut input),
    }
}

/// Reads a CDB as one command; what was read is written and read again.
fn again<T: PartialEq + Debug>(
    cdb: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, FieldError>,
    emit: impl Fn(&T) -> CdbBytes,
) -> usize {
    match parse(cdb) {
        Ok(command) => {
            let written = emit(&command);
            assert_eq!(parse(written.as_bytes()).as_ref(), Ok(&command), "{cdb:02x?}");
            assert_eq!(written.as_bytes()[0], cdb[0]);
            1
        }
        Err(at) => {
            assert!(at.bit.is_none_or(|bit| bit < 8), "{at:?}");
            0
        }
    }
}

macro_rules! commands {
    ($cdb:ident: $($name:ident)+) => {
        [$(again($cdb, $name::parse, $name::emit)),+]
    };
}

fn cdb(cdb: &[u8]) {
    let understood = commands![cdb:
        TestUnitReady RequestSense Inquiry ModeSense ModeSelect ReportLuns ReportSupportedOperationCodes
        ReportSupportedTaskManagementFunctions Read Write Verify WriteAndVerify CompareAndWrite OrWrite WriteAtomic
        SynchronizeCache PreFetch WriteSame Unmap GetLbaStatus ReadCapacity10 ReadCapacity16 StartStopUnit
        PreventAllowMediumRemoval ReserveUnit ReleaseUnit PersistentReserveIn PersistentReserveOut
    ];
    // A CDB means one thing at most.
    assert!(understood.iter().sum::<usize>() <= 1, "{cdb:02x?} was read as several commands");
    let _ = (cdb_len_of(cdb), control(cdb), naca(cdb), opcode::service_action(cdb), opcode::name_of(cdb));
    if let Err(at) = check_usage(cdb, &[0xFF, 0x1F, 0, 0xFF, 0, 7]) {
        assert!(usize::from(at.byte) < cdb.len());
    }
}

fn reserve_out(input: &mut Input<'_>) {
    let Some(action) = input.byte() else { return };
    let list = input.rest();
    let mut command = [0x5F, action, 0, 0, 0, 0, 0, 0, 0, 0];
    command[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    let Ok(command) = PersistentReserveOut::parse(&command) else { return };
    // SPC-5 §6.16.4: REGISTER AND MOVE has a list of its own.
    if command.action == PrOutAction::RegisterAndMove {
        let Ok(list) = RegisterAndMoveList::parse(list) else { return };
        let mut room = [0xEE; 600];
        let mut w = Emit::new(&mut room);
        list.emit(&mut w);
        assert_eq!(RegisterAndMoveList::parse(w.as_bytes()), Ok(list));
        return;
    }
    let Ok(list) = PrOutList::parse(command.action, list) else { return };
    let ports: Option<Result<Vec<_>, _>> = list.initiator_ports.clone().map(Iterator::collect);
    let Some(Ok(ports)) = ports.map_or(Some(Ok(None)), |p| Some(p.map(Some))) else { return };
    let mut room = vec![0xEE; 64 + ports.as_ref().map_or(0, |p| p.len() * TransportId::MAX_BYTES)];
    let mut w = Emit::new(&mut room);
    let bits = (list.all_tg_pt, list.aptpl);
    PrOutList::emit(list.key, list.action_key, bits, ports.as_deref(), &mut w);
    let second = PrOutList::parse(command.action, w.as_bytes()).expect("what was read can be written");
    assert_eq!((second.key, second.action_key), (list.key, list.action_key));
    assert_eq!((second.all_tg_pt, second.aptpl), bits);
    let second: Option<Vec<_>> =
        second.initiator_ports.map(|p| p.map(|id| id.expect("as written")).collect());
    assert_eq!(second, ports);
}

fn mode_select(input: &mut Input<'_>) {
    let Some(ten) = input.byte() else { return };
    let list = input.rest();
    let _ = ModeList::parse_sense(ten & 1 == 0, list);
    let Ok(modes) = ModeList::parse(ten & 1 == 0, list) else { return };
    let mut pages = 0;
    for page in modes.pages() {
        let Ok(page) = page else { break };
        pages += 1;
        assert!(page.offset + page.bytes.len() <= list.len());
        let p = page.bytes;
        let _ = (ReadWriteErrorRecovery::parse(p), InformationalExceptions::parse(p), Control::parse(p));
        let _ = page.not_supported(ten & 2 != 0);
        let mut current = [0xEE; 64];
        let mut w = Emit::new(&mut current);
        Caching::default().emit(true, &mut w);
        if page.check_changes(w.as_bytes(), &[0xFF; 64]).is_ok() {
            assert_eq!(p.len(), w.as_bytes().len());
        }
        if let Some(caching) = Caching::parse(p) {
            let mut room = [0xEE; 64];
            let mut w = Emit::new(&mut room);
            caching.emit(page.ps, &mut w);
            assert_eq!(Caching::parse(w.as_bytes()), Some(caching));
        }
    }
    assert!(pages <= list.len() / 2);
}

fn unmap(list: &[u8]) {
    let Ok(extents) = UnmapList::parse(list) else { return };
    let all: Vec<Extent> = extents.iter().collect();
    assert_eq!(all.len(), extents.len());
    assert!(UnmapList::bytes_for(all.len()) <= list.len() && extents.is_empty() == all.is_empty());
    let mut room = vec![0xEE; UnmapList::bytes_for(all.len())];
    emit_unmap_list(all.iter().copied(), &mut Emit::new(&mut room));
    let again = UnmapList::parse(&room).expect("what was read can be written and read again");
    assert!(again.iter().eq(all));
}

fn transport_ids(list: &[u8]) {
    let mut steps = 0;
    for id in TransportIds::new(list, 28) {
        steps += 1;
        let Ok(id) = id else { break };
        let mut room = [0xEE; TransportId::MAX_BYTES];
        let mut w = Emit::new(&mut room);
        id.emit(&mut w);
        assert!(w.full_len() <= TransportId::MAX_BYTES);
        let length = w.full_len();
        assert_eq!(TransportId::parse(w.as_bytes(), 0), Ok((id, length)));
    }
    assert!(steps <= list.len());
}

const UNIT: [u8; 16] = *b"0123456789abcdef";

/// A stored record. With the low bit of the first byte set it gets head and checksum, so that what lies behind them is
/// reached.
fn record(input: &mut Input<'_>) {
    let Some(sealed) = input.byte() else { return };
    let body = input.rest();
    let record = if sealed & 1 == 0 { body.to_vec() } else { seal(body) };
    let Ok(table) = persist::decode(&record, &UNIT) else { return };
    let again = persist::encode(&table, &UNIT);
    assert!(again.len() <= persist::RECORD_BYTES_MAX);
    assert_eq!(persist::decode(&again, &UNIT).as_ref(), Ok(&table));
}

fn seal(body: &[u8]) -> Vec<u8> {
    let mut record = b"SPDLRSV\x01".to_vec();
    record.extend(UNIT);
    record.extend((body.len() as u32 + 32).to_be_bytes());
    record.extend(body);
    let sum = crc32c(&record);
    record.extend(sum.to_be_bytes());
    record
}

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn sense(bytes: &[u8]) {
    let Some(sense) = Sense::parse(bytes) else { return };
    for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
        let mut room = [0xEE; Sense::MAX_BYTES];
        let n = sense.emit_into(format, &mut room);
        let again = Sense::parse(&room[..n]).expect("what was read can be written and read again");
        assert_eq!((again.key, again.asc), (sense.key, sense.asc));
        assert_eq!(again.is_deferred(), sense.is_deferred());
        if format == SenseFormat::Descriptor {
            assert_eq!(again, sense);
        }
    }
}

fn parameter_data(bytes: &[u8]) {
    let _ = (inquiry::StandardInquiry::parse(bytes), capacity::Capacity10::parse(bytes));
    let _ = (capacity::Capacity16::parse(bytes), Capabilities::parse(bytes), parse_reservation(bytes));
    let _ = parse_keys(bytes).map(|(_, keys)| keys.count());
    let _ = parse_full_status(bytes).map(|(_, all)| all.count());
    let _ = report::parse_luns(bytes).map(|(_, luns)| luns.count());
    let _ = (report::parse_all_commands(bytes).count(), report::OneCommand::parse(bytes));
    let _ = report::SupportedTaskManagement::parse(bytes);
    let _ = lba_status::parse_lba_status(bytes).map(Iterator::count);
    let _ = (vpd::BlockLimits::parse(bytes), vpd::BlockDeviceCharacteristics::parse(bytes));
    let _ = (vpd::LogicalBlockProvisioning::parse(bytes), vpd::ExtendedInquiry::parse(bytes));
    if let Some(page) = vpd::Page::parse(bytes) {
        let _ = vpd::Designators::new(page.body).count();
    }
}

fn lun(input: &mut Input<'_>) {
    let Some(bytes) = input.array::<8>() else { return };
    let lun = Lun::from_bytes(bytes);
    assert_eq!(lun.to_bytes(), bytes);
    let _ = (lun.address(), lun.decode(), lun.is_well_known());
}

/// A CDB of each length, lists of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for cdb in cdbs() {
        seeds.push([vec![0], cdb].concat());
    }
    let id = transport_id();
    let mut list = vec![0; 24];
    list[7] = 1;
    list[20] = 1;
    seeds.push([&[1, 0][..], &list].concat());
    let mut room = [0; 600];
    let mut w = Emit::new(&mut room);
    PrOutList::emit(1, 2, (false, true), Some(&[id, TransportId::Sas(7)]), &mut w);
    seeds.push([&[1, 0][..], w.as_bytes()].concat());
    let mut w = Emit::new(&mut room);
    let moved = RegisterAndMoveList {
        key: 1,
        action_key: 2,
        unreg: true,
        aptpl: false,
        relative_target_port: 1,
        transport_id: id,
    };
    moved.emit(&mut w);
    seeds.push([&[1, 7][..], w.as_bytes()].concat());
    let mut w = Emit::new(&mut room);
    Caching { wce: true, ..Caching::default() }.emit(false, &mut w);
    let caching = w.as_bytes().to_vec();
    seeds.push([&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &caching].concat());
    seeds.push([&[2, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0][..], &caching].concat());
    let mut list = vec![0; UnmapList::bytes_for(2)];
    let extents = [Extent { lba: 8, blocks: 8 }, Extent { lba: 64, blocks: 1 }];
    emit_unmap_list(extents, &mut Emit::new(&mut list));
    seeds.push([&[3][..], &list].concat());
    let mut w = Emit::new(&mut room);
    for id in [id, TransportId::Fcp(1), TransportId::Srp([1; 16]), TransportId::Sas(1)] {
        id.emit(&mut w);
    }
    seeds.push([&[4][..], w.as_bytes()].concat());
    // A record of one registration that holds a reservation.
    let mut body = vec![1, 0, 0, 0, 0, 1];
    body.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 1, 0, 1, b't']);
    let mut w = Emit::new(&mut room);
    id.emit(&mut w);
    body.extend((w.full_len() as u16).to_be_bytes());
    body.extend(w.as_bytes());
    seeds.push([&[5, 1][..], &body].concat());
    seeds.push([&[5, 0][..], &seal(&body)].concat());
    let mut w = Emit::new(&mut room);
    Sense::invalid_field_in_cdb(FieldError::bit(2, 3)).emit(SenseFormat::Fixed, &mut w);
    seeds.push([&[6][..], w.as_bytes()].concat());
    let mut w = Emit::new(&mut room);
    Sense::invalid_field_in_cdb(FieldError::bit(2, 3))
        .with_information(9)
        .emit(SenseFormat::Descriptor, &mut w);
    seeds.push([&[6][..], w.as_bytes()].concat());
    seeds.push(vec![8, 0, 1, 0, 0, 0, 0, 0, 0]);
    seeds
}

fn transport_id() -> TransportId<'static> {
    TransportId::IscsiPort { name: "iqn.2026-01.org.example:host", isid: [0x80, 0, 0, 0, 0, 1] }
}

/// One CDB of each opcode that is served.
pub fn cdbs() -> Vec<Vec<u8>> {
    let mut all = [
        Read::new(Family::Six, 1, 8).emit(),
        Read::new(Family::Ten, 1, 8).emit(),
        Read::new(Family::Twelve, 1, 8).emit(),
        Read::new(Family::Sixteen, 1, 8).emit(),
        Read::new(Family::ThirtyTwo, 1, 8).emit(),
        Write::new(Family::Ten, 1, 8).emit(),
        Write::new(Family::Sixteen, 1, 8).emit(),
    ]
    .iter()
    .map(|cdb| cdb.as_bytes().to_vec())
    .collect::<Vec<_>>();
    all.extend([
        vec![0x00, 0, 0, 0, 0, 0],
        vec![0x03, 0, 0, 0, 252, 0],
        vec![0x12, 0, 0, 0, 255, 0],
        vec![0x12, 1, 0x83, 0, 255, 0],
        vec![0x12, 1, 0xB0, 0, 64, 0],
        vec![0x15, 0x10, 0, 0, 24, 0],
        vec![0x16, 0, 0, 0, 0, 0],
        vec![0x17, 0, 0, 0, 0, 0],
        vec![0x1A, 0, 0x3F, 0, 255, 0],
        vec![0x1B, 0, 0, 0, 1, 0],
        vec![0x1E, 0, 0, 0, 1, 0],
        vec![0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0x2E, 2, 0, 0, 0, 1, 0, 0, 1, 0],
        vec![0x2F, 0, 0, 0, 0, 1, 0, 0, 8, 0],
        vec![0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0x41, 8, 0, 0, 0, 0, 0, 0, 8, 0],
        vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        vec![0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0],
        vec![0x5A, 0, 8, 0, 0, 0, 0, 0, 64, 0],
        vec![0x5E, 3, 0, 0, 0, 0, 0, 1, 0, 0],
        vec![0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        vec![0x5F, 1, 1, 0, 0, 0, 0, 0, 24, 0],
        vec![0x89, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
        vec![0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0],
        vec![0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        vec![0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
        vec![0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        vec![0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0],
        vec![0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
    ]);
    all
}
