//! PDU headers, Additional Header Segments, text and names, as a peer may send them.
//!
//! The first byte says which of them the rest is. What can be read must say the same after having been written and
//! read again; nothing may panic.

use spindle_iscsi_wire::ahs::{AhsIter, CommandAhs};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::keys::{PAIRS_MAX, TextBuf, TextList, TextPairs};
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::scsi::sense_and_data;
use spindle_iscsi_wire::{
    BHS_LEN, Bhs, InitiatorPdu, Isid, Itt, LoginRequest, ScsiCommand, SerialNumber, Stage, TargetPdu,
    TaskAttribute, iscsi_name, values,
};

use crate::input::Input;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte().map(|kind| kind % 4) {
        Some(0) => header(&mut input),
        Some(1) => segments(input.rest()),
        Some(2) => text(input.rest()),
        Some(_) => {
            if let Ok(text) = std::str::from_utf8(input.rest()) {
                name(text);
                value(text);
            }
        }
        None => {}
    }
}

fn header(input: &mut Input<'_>) {
    let Some(header) = input.array::<BHS_LEN>() else { return };
    for (h, d) in [(false, false), (true, true)] {
        let whole = bhs::pdu_bytes(&header, Digests { header: h, data: d });
        let least = 48 + bhs::ahs_bytes(&header) + bhs::data_bytes(&header);
        assert!(whole >= least && whole <= 48 + 1020 + 4 + (1 << 24) + 4);
        assert_eq!(whole % 4, 0);
    }
    if let Ok(pdu) = InitiatorPdu::parse(&header) {
        let mut again: Bhs = [0xEE; BHS_LEN];
        pdu.emit(&mut again);
        assert_eq!(InitiatorPdu::parse(&again), Ok(pdu));
        if let InitiatorPdu::ScsiCommand(c) = pdu {
            let _ = c.check_direction();
        }
    }
    if let Ok(pdu) = TargetPdu::parse(&header) {
        let mut again: Bhs = [0xEE; BHS_LEN];
        pdu.emit(&mut again);
        assert_eq!(TargetPdu::parse(&again), Ok(pdu));
    }
    let segment = input.rest();
    if let Ok((sense, data)) = sense_and_data(segment) {
        assert!(sense.len() + data.len() <= segment.len());
    }
}

fn segments(bytes: &[u8]) {
    // Each step takes a word at least, so the walk is as long as the input and no longer.
    assert!(AhsIter::new(bytes).count() <= bytes.len().div_ceil(4));
    let Ok(found) = CommandAhs::parse(bytes) else { return };
    let mut room = [0xEE; 1024];
    let Some(n) = found.emit(&mut room) else {
        assert!(found.emitted_len() > 1020, "what fits a PDU is written");
        return;
    };
    assert_eq!(n, found.emitted_len());
    assert_eq!(CommandAhs::parse(&room[..n]), Ok(found));
}

fn text(bytes: &[u8]) {
    let mut pairs = 0;
    for pair in TextPairs::new(bytes) {
        let Ok(pair) = pair else { break };
        pairs += 1;
        value(pair.value);
    }
    assert!(pairs <= bytes.len());
    let Ok(list) = TextList::parse(bytes) else { return };
    assert!(list.pairs().len() <= PAIRS_MAX);
    let mut out = TextBuf::new();
    for pair in list.pairs() {
        assert_eq!(list.find(pair.key), Some(pair.value), "no key comes twice");
        out.pair(pair.key, pair.value);
    }
    let again = TextList::parse(out.as_bytes()).expect("what was read can be written and read again");
    let said = |l: &TextList<'_>| {
        l.pairs().iter().map(|p| (p.key.into(), p.value.into())).collect::<Vec<(String, String)>>()
    };
    assert_eq!(said(&again), said(&list));
}

fn value(text: &str) {
    let _ = (values::boolean(text), values::range(text), values::list(text).count());
    if let Ok(n) = values::number(text) {
        assert_eq!(values::number(&n.to_string()), Ok(n));
        assert_eq!(values::number_in(text, 0, u32::MAX).is_ok(), n <= u64::from(u32::MAX));
    }
    let mut room = [0; 64];
    if let Ok(n) = values::binary(text, &mut room) {
        let bytes = room[..n].to_vec();
        for written in [values::to_hex(&bytes), values::to_base64(&bytes)] {
            let mut again = [0; 64];
            // Nothing at all is no binary value, however it is spelled.
            match values::binary(&written, &mut again) {
                Ok(n) => assert_eq!(again[..n], bytes),
                Err(e) => assert!(bytes.is_empty(), "{written}: {e}"),
            }
        }
    }
}

fn name(text: &str) {
    if let Ok(normal) = iscsi_name::normalize(text) {
        assert!(normal.len() <= iscsi_name::NAME_LEN_MAX);
        // A combining mark left over from lower-casing is refused the second time, never changed.
        if let Ok(again) = iscsi_name::normalize(&normal) {
            assert_eq!(again, normal);
        }
    }
}

/// A READ(10), a login, an extended CDB, texts and names.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&[0x28, 0, 0, 0, 0x10, 0, 0, 0, 8, 0]);
    let command = ScsiCommand {
        immediate: false,
        is_final: true,
        read: true,
        write: false,
        attr: TaskAttribute::Simple,
        priority: 0,
        ahs_words: 0,
        data_len: 0,
        lun: [0; 8],
        itt: Itt(1),
        edtl: 4096,
        cmd_sn: SerialNumber(1),
        exp_stat_sn: SerialNumber(1),
        cdb,
    };
    let login = LoginRequest {
        flags: LoginFlags { stage: Stage::SecurityNegotiation, transit: None, more: false },
        version_max: 0,
        version_min: 0,
        data_len: 64,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: 0,
        itt: Itt(0),
        cid: 0,
        cmd_sn: SerialNumber(1),
        exp_stat_sn: SerialNumber(0),
    };
    let mut seeds = vec![[&[0][..], &command.to_bhs()].concat(), [&[0][..], &login.to_bhs()].concat()];
    // One header of every opcode of either side.
    for opcode in (0..8).chain(0x10..0x11).chain(0x20..0x27).chain([0x31, 0x32, 0x3F]) {
        let mut header = [0; BHS_LEN];
        (header[0], header[1]) = (opcode, 0x80);
        seeds.push([&[0][..], &header].concat());
    }
    let ahs = CommandAhs {
        cdb_rest: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        bidi_read_len: Some(512),
    };
    let mut room = [0; 64];
    let n = ahs.emit(&mut room).expect("two short segments fit");
    seeds.push([&[1][..], &room[..n]].concat());
    for said in [
        &b"InitiatorName=iqn.2026-01.org.example:host\0SessionType=Normal\0AuthMethod=CHAP,None\0"[..],
        b"HeaderDigest=CRC32C,None\0MaxBurstLength=262144\0InitialR2T=No\0",
        b"CHAP_N=anna\0CHAP_R=0x0123456789abcdef0123456789abcdef\0CHAP_C=0bZm9vYmFy\0",
        b"SendTargets=All\0",
    ] {
        seeds.push([&[2][..], said].concat());
    }
    for said in
        ["iqn.2026-01.org.example:disk", "eui.02004567A425678D", "naa.52004567BA64678D", "0x0aFF", "1~65535"]
    {
        seeds.push([&[3][..], said.as_bytes()].concat());
    }
    seeds
}
