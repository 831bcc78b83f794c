//! A small, correct target to hold the initiator against: one connection, one disk in memory, and a hook that may
//! spoil any PDU on its way out. What the initiator sends is checked here with assertions.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use spindle_initiator::{Algorithm, Config, Event, InitiatorConn, Offers, What, chap_response, crc32c};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::keys::{TextBuf, TextList};
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::*;

pub const INITIATOR: &str = "iqn.2026-01.org.example:initiator";
pub const TARGET: &str = "iqn.2026-01.org.example:disk";
pub const BLOCK: usize = 512;

/// What a hook sees: the PDU, its data, and how many were sent before.
pub type Hook = Box<dyn FnMut(&mut TargetPdu, &mut Vec<u8>, usize)>;

pub struct ChapPeer {
    pub algorithm: Algorithm,
    pub secret: Vec<u8>,
    pub own_secret: Option<Vec<u8>>,
}

struct Write {
    itt: Itt,
    at: usize,
    edtl: usize,
    have: Vec<bool>,
    /// Sequences to ask for: offset and length, last first.
    to_ask: Vec<(u32, u32)>,
    /// Sequences asked for: tag, next offset, end, next DataSN. The unsolicited one has the reserved tag.
    open: BTreeMap<u32, (u32, u32, u32)>,
    r2t_sn: u32,
}

pub struct Peer {
    pub memory: Vec<u8>,
    /// Operational answers, given when the initiator asks for full feature phase.
    pub answers: Vec<(String, String)>,
    pub chap: Option<ChapPeer>,
    pub text_max: usize,
    pub login_status: LoginStatus,
    pub window: u32,
    pub data_in_max: usize,
    pub burst_max: usize,
    pub r2t_max: u32,
    pub r2ts_at_once: usize,
    pub reverse_r2ts: bool,
    pub collapse: bool,
    pub mute: bool,
    pub hook: Option<Hook>,
    pub digests: Digests,
    pub after_login: Digests,
    pub first_burst: usize,
    /// Every PDU of the initiator with its data.
    pub heard: Vec<(InitiatorPdu, Vec<u8>)>,
    full_feature: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    stat_sn: u32,
    exp_cmd_sn: u32,
    login_text: Vec<u8>,
    to_say: Vec<u8>,
    chap_stage: u8,
    tag: u32,
    ready: bool,
    tag_said: bool,
    writes: Vec<Write>,
}

impl Peer {
    pub fn new(answers: &[(&str, &str)]) -> Self {
        Self {
            memory: (0..1 << 16).map(|i: usize| (i / 7) as u8).collect(),
            answers: answers.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            chap: None,
            text_max: 8192,
            login_status: LoginStatus::SUCCESS,
            window: 32,
            data_in_max: 8192,
            burst_max: 262_144,
            r2t_max: 262_144,
            r2ts_at_once: 1,
            reverse_r2ts: false,
            collapse: true,
            mute: false,
            hook: None,
            digests: Digests::default(),
            after_login: Digests::default(),
            first_burst: 65_536,
            heard: Vec::new(),
            full_feature: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            stat_sn: 100,
            exp_cmd_sn: 0,
            login_text: Vec::new(),
            to_say: Vec::new(),
            chap_stage: 0,
            tag: 0x100,
            ready: false,
            tag_said: false,
            writes: Vec::new(),
        }
    }

    /// Takes bytes, gives bytes.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend_from_slice(bytes);
        while let Some(header) = self.input.first_chunk::<48>().copied() {
            let total = bhs::pdu_bytes(&header, self.digests) as usize;
            if self.input.len() < total {
                break;
            }
            let rest = self.input.split_off(total);
            let pdu = std::mem::replace(&mut self.input, rest);
            let mut at = 48 + bhs::ahs_bytes(&header) as usize;
            if self.digests.header {
                assert_eq!(crc32c(&pdu[..at]), pdu[at..at + 4], "header digest");
                at += 4;
            }
            let len = bhs::data_bytes(&header) as usize;
            if self.digests.data && len > 0 {
                let end = total - 4;
                assert_eq!(crc32c(&pdu[at..end]), pdu[end..], "data digest");
            }
            assert!(pdu[at + len..].iter().take(bhs::pad(len as u32) as usize).all(|&byte| byte == 0));
            let data = pdu[at..at + len].to_vec();
            let parsed = InitiatorPdu::parse(&header).expect("the initiator sends what can be read");
            self.heard.push((parsed, data.clone()));
            if !self.mute {
                self.on_pdu(parsed, &data);
            }
        }
        std::mem::take(&mut self.output)
    }

    /// Sends a PDU of the target's own accord.
    pub fn say(&mut self, mut pdu: TargetPdu, mut data: Vec<u8>) -> Vec<u8> {
        self.put(&mut pdu, &mut data);
        std::mem::take(&mut self.output)
    }

    pub fn next_stat_sn(&mut self) -> SerialNumber {
        self.stat_sn += 1;
        SerialNumber(self.stat_sn - 1)
    }

    pub fn peek_stat_sn(&self) -> SerialNumber {
        SerialNumber(self.stat_sn)
    }

    pub fn exp(&self) -> SerialNumber {
        SerialNumber(self.exp_cmd_sn)
    }

    pub fn max(&self) -> SerialNumber {
        SerialNumber(self.exp_cmd_sn.wrapping_add(self.window).wrapping_sub(1))
    }

    /// PDUs sent so far.
    pub fn sent(&self) -> usize {
        self.sent
    }

    fn put(&mut self, pdu: &mut TargetPdu, data: &mut Vec<u8>) {
        if let Some(hook) = &mut self.hook {
            hook(pdu, data, self.sent);
        }
        self.sent += 1;
        let mut header = [0; 48];
        pdu.emit(&mut header);
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let start = self.output.len();
        self.output.extend_from_slice(&header);
        if self.digests.header {
            let digest = crc32c(&self.output[start..]);
            self.output.extend_from_slice(&digest);
        }
        if !data.is_empty() {
            let start = self.output.len();
            self.output.extend_from_slice(data);
            self.output.resize(self.output.len() + bhs::pad(data.len() as u32) as usize, 0);
            if self.digests.data {
                let digest = crc32c(&self.output[start..]);
                self.output.extend_from_slice(&digest);
            }
        }
    }

    fn take_cmd_sn(&mut self, immediate: bool, cmd_sn: SerialNumber) {
        assert_eq!(cmd_sn.0, self.exp_cmd_sn, "CmdSN");
        if !immediate {
            assert!(cmd_sn.le(self.max()), "inside the window");
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        }
    }

    fn on_pdu(&mut self, pdu: InitiatorPdu, data: &[u8]) {
        match pdu {
            InitiatorPdu::LoginRequest(pdu) => self.on_login(&pdu, data),
            InitiatorPdu::ScsiCommand(pdu) => self.on_command(&pdu, data),
            InitiatorPdu::DataOut(pdu) => self.on_data_out(&pdu, data),
            InitiatorPdu::NopOut(pdu) => {
                self.take_cmd_sn(pdu.immediate, pdu.cmd_sn);
                if pdu.itt != Itt::RESERVED {
                    let mut answer = TargetPdu::NopIn(NopIn {
                        data_len: 0,
                        lun: pdu.lun,
                        itt: pdu.itt,
                        ttt: Ttt::RESERVED,
                        stat_sn: self.next_stat_sn(),
                        exp_cmd_sn: self.exp(),
                        max_cmd_sn: self.max(),
                    });
                    self.put(&mut answer, &mut data.to_vec());
                }
            }
            InitiatorPdu::TmfRequest(pdu) => {
                self.take_cmd_sn(pdu.immediate, pdu.cmd_sn);
                self.writes.clear();
                let mut answer = TargetPdu::TmfResponse(TmfResponse {
                    result: TmfResult::Complete,
                    additional: [0; 3],
                    itt: pdu.itt,
                    stat_sn: self.next_stat_sn(),
                    exp_cmd_sn: self.exp(),
                    max_cmd_sn: self.max(),
                });
                self.put(&mut answer, &mut Vec::new());
            }
            InitiatorPdu::TextRequest(pdu) => {
                self.take_cmd_sn(pdu.immediate, pdu.cmd_sn);
                if pdu.ttt == Ttt::RESERVED {
                    let list = TextList::parse(data).unwrap();
                    assert_eq!(list.find("SendTargets"), Some("All"));
                    let mut text = TextBuf::new();
                    text.pair("TargetName", TARGET).pair("TargetAddress", "10.0.0.1:3260,1");
                    text.pair("TargetAddress", "[fe80::1]:3260,1")
                        .pair("TargetName", "iqn.2026-01.org.example:b");
                    self.to_say = text.into_bytes();
                }
                let rest = self.to_say.split_off(self.to_say.len().min(self.text_max));
                let mut piece = std::mem::replace(&mut self.to_say, rest);
                let last = self.to_say.is_empty();
                let mut answer = TargetPdu::TextResponse(TextResponse {
                    is_final: last,
                    more: !last,
                    data_len: 0,
                    lun: pdu.lun,
                    itt: pdu.itt,
                    ttt: if last { Ttt::RESERVED } else { Ttt(9) },
                    stat_sn: self.next_stat_sn(),
                    exp_cmd_sn: self.exp(),
                    max_cmd_sn: self.max(),
                });
                self.put(&mut answer, &mut piece);
            }
            InitiatorPdu::LogoutRequest(pdu) => {
                self.take_cmd_sn(pdu.immediate, pdu.cmd_sn);
                let mut answer = TargetPdu::LogoutResponse(LogoutResponse {
                    result: LogoutResult::Success,
                    itt: pdu.itt,
                    stat_sn: self.next_stat_sn(),
                    exp_cmd_sn: self.exp(),
                    max_cmd_sn: self.max(),
                    time2wait: 2,
                    time2retain: 0,
                });
                self.put(&mut answer, &mut Vec::new());
            }
            InitiatorPdu::SnackRequest(_) => unreachable!("the engine sends none"),
        }
    }

    fn on_login(&mut self, pdu: &LoginRequest, text: &[u8]) {
        assert!(!self.full_feature, "one login is enough");
        self.exp_cmd_sn = pdu.cmd_sn.0;
        self.login_text.extend_from_slice(text);
        if pdu.flags.more {
            return self.answer_login(pdu, None, false, &mut Vec::new());
        }
        if self.to_say.is_empty() {
            let heard = std::mem::take(&mut self.login_text);
            let list = TextList::parse(&heard).expect("login text");
            let mut answer = TextBuf::new();
            self.ready = match pdu.flags.stage {
                Stage::SecurityNegotiation => self.security(&list, &mut answer),
                _ => {
                    for (key, value) in std::mem::take(&mut self.answers) {
                        answer.pair(&key, value);
                    }
                    true
                }
            };
            if !std::mem::replace(&mut self.tag_said, true) {
                answer.pair("TargetPortalGroupTag", 1);
            }
            self.to_say = answer.into_bytes();
        }
        let rest = self.to_say.split_off(self.to_say.len().min(self.text_max));
        let mut piece = std::mem::replace(&mut self.to_say, rest);
        let more = !self.to_say.is_empty();
        let transit = pdu.flags.transit.filter(|_| self.ready && !more);
        self.answer_login(pdu, transit, more, &mut piece);
        if transit == Some(Stage::FullFeaturePhase) {
            self.full_feature = true;
            self.digests = self.after_login;
        }
    }

    fn answer_login(&mut self, pdu: &LoginRequest, transit: Option<Stage>, more: bool, text: &mut Vec<u8>) {
        let mut answer = TargetPdu::LoginResponse(LoginResponse {
            flags: LoginFlags { stage: pdu.flags.stage, transit, more },
            version_max: 0,
            version_active: 0,
            data_len: 0,
            isid: pdu.isid,
            tsih: if transit == Some(Stage::FullFeaturePhase) { 7 } else { pdu.tsih },
            itt: pdu.itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp(),
            max_cmd_sn: self.max(),
            status: self.login_status,
        });
        self.put(&mut answer, text);
    }

    /// One step of SecurityNegotiation; true when nothing more is wanted.
    fn security(&mut self, list: &TextList<'_>, answer: &mut TextBuf) -> bool {
        let Some(chap) = &self.chap else {
            if list.find("AuthMethod").is_some() {
                answer.pair("AuthMethod", "None");
            }
            return true;
        };
        const CHALLENGE: [u8; 16] = [0xA5; 16];
        self.chap_stage += 1;
        match self.chap_stage {
            1 => {
                answer.pair("AuthMethod", "CHAP");
                false
            }
            2 => {
                let number = chap.algorithm.number().to_string();
                assert!(values::list(list.find("CHAP_A").unwrap()).any(|item| item == number));
                answer.pair("CHAP_A", number).pair("CHAP_I", 200);
                answer.pair("CHAP_C", values::to_base64(&CHALLENGE));
                false
            }
            3 => {
                let mut bytes = [0; 1024];
                let len = values::binary(list.find("CHAP_R").unwrap(), &mut bytes).unwrap();
                if bytes[..len] != chap_response(chap.algorithm, 200, &chap.secret, &CHALLENGE) {
                    self.login_status = LoginStatus::AUTHENTICATION_FAILURE;
                    return false;
                }
                if let (Some(challenge), Some(secret)) = (list.find("CHAP_C"), &chap.own_secret) {
                    let identifier = values::number_in(list.find("CHAP_I").unwrap(), 0, 255).unwrap() as u8;
                    let len = values::binary(challenge, &mut bytes).unwrap();
                    let response = chap_response(chap.algorithm, identifier, secret, &bytes[..len]);
                    answer.pair("CHAP_N", "target").pair("CHAP_R", values::to_hex(&response));
                }
                true
            }
            _ => true,
        }
    }

    fn respond(&mut self, itt: Itt, status: u8, residual: Residual, exp_data_sn: u32, mut data: Vec<u8>) {
        let mut answer = TargetPdu::ScsiResponse(ScsiResponse {
            response: ServiceResponse::CommandCompleted,
            status,
            status_qualifier: 0,
            residual,
            bidi_residual: Residual::None,
            data_len: 0,
            itt,
            snack_tag: 0,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp(),
            max_cmd_sn: self.max(),
            exp_data_sn: SerialNumber(exp_data_sn),
        });
        self.put(&mut answer, &mut data);
    }

    /// READ(10) and WRITE(10); everything else is CHECK CONDITION.
    fn on_command(&mut self, pdu: &ScsiCommand, data: &[u8]) {
        self.take_cmd_sn(pdu.immediate, pdu.cmd_sn);
        pdu.check_direction().expect("direction and length agree");
        let at = u32::from_be_bytes(pdu.cdb[2..6].try_into().unwrap()) as usize * BLOCK;
        let len = usize::from(u16::from_be_bytes([pdu.cdb[7], pdu.cdb[8]])) * BLOCK;
        let edtl = pdu.edtl as usize;
        match pdu.cdb[0] {
            0x28 => self.read(pdu, at, len.min(edtl), Residual::of(edtl as u64, len as u64)),
            0x2A => {
                assert_eq!(len, edtl, "writes of the tests are exact");
                let mut write = Write {
                    itt: pdu.itt,
                    at,
                    edtl,
                    have: vec![false; edtl],
                    to_ask: Vec::new(),
                    open: BTreeMap::new(),
                    r2t_sn: 0,
                };
                self.memory[at..at + data.len()].copy_from_slice(data);
                write.have[..data.len()].fill(true);
                let mut from = data.len();
                if !pdu.is_final {
                    from = edtl.min(self.first_burst);
                    write.open.insert(Ttt::RESERVED.0, (data.len() as u32, from as u32, 0));
                }
                let step = self.r2t_max as usize;
                let sequences = (from..edtl).step_by(step);
                write.to_ask = sequences.map(|at| (at as u32, step.min(edtl - at) as u32)).collect();
                if !self.reverse_r2ts {
                    write.to_ask.reverse();
                }
                self.writes.push(write);
                self.go_on(pdu.itt);
            }
            _ => {
                let mut sense = vec![0, 18];
                sense.extend_from_slice(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
                self.respond(pdu.itt, 2, Residual::of(edtl as u64, 0), 0, sense);
            }
        }
    }

    fn read(&mut self, pdu: &ScsiCommand, at: usize, len: usize, residual: Residual) {
        let (mut offset, mut in_burst, mut data_sn) = (0, 0, 0);
        while offset < len {
            let piece = self.data_in_max.min(len - offset).min(self.burst_max - in_burst);
            let last = offset + piece == len;
            in_burst += piece;
            let is_final = last || in_burst == self.burst_max;
            if is_final {
                in_burst = 0;
            }
            let status = (last && self.collapse).then(|| DataInStatus {
                status: 0,
                stat_sn: self.next_stat_sn(),
                residual,
            });
            let mut answer = TargetPdu::DataIn(DataIn {
                is_final,
                ack: false,
                status,
                data_len: 0,
                lun: [0; 8],
                itt: pdu.itt,
                ttt: Ttt::RESERVED,
                exp_cmd_sn: self.exp(),
                max_cmd_sn: self.max(),
                data_sn: SerialNumber(data_sn),
                buffer_offset: offset as u32,
            });
            let mut data = self.memory[at + offset..at + offset + piece].to_vec();
            self.put(&mut answer, &mut data);
            data_sn += 1;
            offset += piece;
        }
        if len == 0 || !self.collapse {
            self.respond(pdu.itt, 0, residual, data_sn, Vec::new());
        }
    }

    fn on_data_out(&mut self, pdu: &DataOut, data: &[u8]) {
        let write = self.writes.iter_mut().find(|write| write.itt == pdu.itt).expect("a write under way");
        let (next, end, data_sn) = write.open[&pdu.ttt.0];
        assert_eq!((pdu.buffer_offset, pdu.data_sn.0), (next, data_sn), "order within a sequence");
        let to = next + data.len() as u32;
        assert!(to <= end, "inside the sequence");
        let (at, range) = (write.at, next as usize..to as usize);
        assert!(write.have[range.clone()].iter().all(|have| !have), "no byte twice");
        write.have[range.clone()].fill(true);
        self.memory[at + range.start..at + range.end].copy_from_slice(data);
        assert_eq!(pdu.is_final, to == end, "F closes the sequence");
        if pdu.is_final {
            write.open.remove(&pdu.ttt.0);
            self.go_on(pdu.itt);
        } else {
            write.open.insert(pdu.ttt.0, (to, end, data_sn + 1));
        }
    }

    fn go_on(&mut self, itt: Itt) {
        let at = self.writes.iter().position(|write| write.itt == itt).expect("a write under way");
        let mut write = self.writes.swap_remove(at);
        // Unsolicited data is waited for before anything is asked for.
        while write.open.len() < self.r2ts_at_once && !write.open.contains_key(&Ttt::RESERVED.0) {
            let Some((offset, len)) = write.to_ask.pop() else { break };
            self.tag += 1;
            let mut r2t = TargetPdu::R2t(R2t {
                lun: [0, 3, 0, 0, 0, 0, 0, 0],
                itt,
                ttt: Ttt(self.tag),
                stat_sn: self.peek_stat_sn(),
                exp_cmd_sn: self.exp(),
                max_cmd_sn: self.max(),
                r2t_sn: SerialNumber(write.r2t_sn),
                buffer_offset: offset,
                desired_len: len,
            });
            write.open.insert(self.tag, (offset, offset + len, 0));
            write.r2t_sn += 1;
            self.put(&mut r2t, &mut Vec::new());
        }
        if write.open.is_empty() && write.to_ask.is_empty() {
            assert!(write.have.iter().all(|&have| have) && write.have.len() == write.edtl);
            self.respond(itt, 0, Residual::None, 0, Vec::new());
        } else {
            self.writes.push(write);
        }
    }
}

/// Carries bytes both ways until nobody has anything to say, cut into pieces of `cut` bytes.
pub fn talk(conn: &mut InitiatorConn, peer: &mut Peer, cut: usize) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let out = conn.output().to_vec();
        if out.is_empty() {
            return events;
        }
        conn.consume(out.len());
        let answer = peer.on_bytes(&out);
        for piece in answer.chunks(cut) {
            conn.on_bytes(Duration::ZERO, piece);
        }
        events.extend(std::iter::from_fn(|| conn.next_event()));
    }
}

/// The rules broken in a run.
pub fn violations(events: &[Event]) -> Vec<What> {
    let found = events.iter().filter_map(|event| match event {
        Event::Violation(violation) => Some(violation.what.clone()),
        _ => None,
    });
    found.collect()
}

/// Logs in, with whatever the answers of the peer are, and expects no violation.
pub fn log_in(config: Config, peer: &mut Peer) -> InitiatorConn {
    let mut conn = InitiatorConn::new(config, Duration::ZERO);
    let events = talk(&mut conn, peer, usize::MAX);
    assert_eq!(events, [Event::LoggedIn { tsih: 7 }]);
    conn
}

/// A configuration and a peer that agree on the pairs, and on defaults for the rest.
pub fn agreed(pairs: &[(&str, &str)]) -> (Config, Peer) {
    let mut config = Config::normal(INITIATOR, TARGET);
    config.offers = Offers::none();
    for (key, value) in pairs {
        config.offers = config.offers.with(key, value);
    }
    let mut peer = Peer::new(pairs);
    for (key, value) in pairs {
        let number = || value.parse::<usize>().unwrap();
        match *key {
            "HeaderDigest" => peer.after_login.header = *value == "CRC32C",
            "DataDigest" => peer.after_login.data = *value == "CRC32C",
            "MaxRecvDataSegmentLength" => peer.data_in_max = number(),
            "MaxBurstLength" => {
                peer.burst_max = number();
                peer.r2t_max = number() as u32;
            }
            "FirstBurstLength" => peer.first_burst = number(),
            _ => {}
        }
    }
    (config, peer)
}

pub fn cdb_10(opcode: u8, block: u32, blocks: u16) -> [u8; 10] {
    let (block, blocks) = (block.to_be_bytes(), blocks.to_be_bytes());
    [opcode, 0, block[0], block[1], block[2], block[3], 0, blocks[0], blocks[1], 0]
}
