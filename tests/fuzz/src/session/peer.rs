//! One initiator: what it has sent, what it was told, and what the target may not do to it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use spindle_iscsi::digest;
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::keys::TextPairs;
use spindle_iscsi_wire::{BHS_LEN, Bhs, InitiatorPdu, R2t, SerialNumber, Stage, TargetPdu, Ttt};
use spindle_mem::POISON;

/// So many poisoned bytes in a row are no accident: peers send none.
const POISON_RUN: usize = 16;

/// Whether bytes hold what nobody wrote since the pool overwrote it.
pub fn is_poisoned(bytes: &[u8]) -> bool {
    if !bytes.contains(&POISON) {
        return false;
    }
    let mut run = 0;
    bytes.iter().any(|b| {
        run = if *b == POISON { run + 1 } else { 0 };
        run == POISON_RUN
    })
}

/// The bytes without the one that memory is poisoned with.
pub fn clean(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&POISON) {
        return Cow::Borrowed(bytes);
    }
    bytes.iter().map(|b| if *b == POISON { !POISON } else { *b }).collect()
}

/// What is known of an Initiator Task Tag.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Requests sent with it.
    sent: u32,
    /// Answers heard.
    answered: u32,
    /// The most any of them may move.
    edtl_max: u64,
}

/// An initiator's side of one connection.
#[derive(Debug)]
pub struct Peer {
    /// Its pipe.
    pub pipe: usize,
    /// CmdSN of the next command.
    pub cmd_sn: u32,
    /// ExpStatSN as it tells the target.
    pub exp_stat_sn: u32,
    /// Next Initiator Task Tag.
    pub itt: u32,
    /// TSIH, once logged in.
    pub tsih: u16,
    /// In full feature phase.
    pub full: bool,
    /// What was agreed.
    pub digests: Digests,
    /// R2Ts not yet answered.
    pub r2ts: Vec<R2t>,
    /// TTT of a text exchange or a ping that goes on.
    pub last_ttt: Ttt,
    /// The most the target may put into one PDU, if it is known.
    pub segment_max: Option<u32>,
    /// The same, once logged in.
    pub declared: Option<u32>,
    /// Bytes were sent that are no PDUs: tags heard from now on may be anything.
    pub wild: bool,
    /// Statuses heard, by code: 0 GOOD, 1 anything else.
    pub statuses: [u32; 2],
    /// R2Ts heard.
    pub r2ts_heard: u32,
    /// Answers to task management functions heard.
    pub tmfs_heard: u32,
    heard: Vec<u8>,
    login_text: Vec<u8>,
    stat_sn: Option<SerialNumber>,
    max_cmd_sn: Option<SerialNumber>,
    tags: BTreeMap<u32, Known>,
}

impl Peer {
    /// At the first byte.
    pub fn new(pipe: usize) -> Peer {
        Peer {
            pipe,
            cmd_sn: 1,
            exp_stat_sn: 0,
            itt: 1,
            tsih: 0,
            full: false,
            digests: Digests::default(),
            r2ts: Vec::new(),
            last_ttt: Ttt::RESERVED,
            segment_max: Some(8192),
            declared: None,
            wild: false,
            statuses: [0; 2],
            r2ts_heard: 0,
            tmfs_heard: 0,
            heard: Vec::new(),
            login_text: Vec::new(),
            stat_sn: None,
            max_cmd_sn: None,
            tags: BTreeMap::new(),
        }
    }

    /// The bytes of a PDU. `ahs` is whole words; the lengths in the header are set to fit.
    ///
    /// What a pool overwrites its memory with is never sent, so that it is known when it comes back: as data, or with the
    /// header and AHS that a Reject is about (RFC 7143 §11.17.2). Headers are kept as they are, for most of their fields
    /// mean something: whoever fills one with the program's bytes cleans those.
    pub fn pdu(&mut self, header: &Bhs, ahs: &[u8], data: &[u8]) -> Vec<u8> {
        let mut header = *header;
        header[4] = (ahs.len() / 4) as u8;
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        self.note(&header);
        let mut out = [&header[..], &clean(ahs)].concat();
        if self.digests.header {
            out.extend(digest::of_header(&out));
        }
        let start = out.len();
        out.extend_from_slice(&clean(data));
        out.resize(start + bhs::padded(data.len() as u32) as usize, 0);
        if self.digests.data && !data.is_empty() {
            let crc = digest::of_header(&out[start..]);
            out.extend(crc);
        }
        out
    }

    /// Remembers what was asked under which tag.
    fn note(&mut self, header: &Bhs) {
        let known = self.tags.entry(bhs::itt(header).0).or_default();
        known.sent += 1;
        match InitiatorPdu::parse(header) {
            // The read length of a bidirectional command stands in its AHS.
            Ok(InitiatorPdu::ScsiCommand(c)) if c.ahs_words > 0 => known.edtl_max = u64::MAX,
            Ok(InitiatorPdu::ScsiCommand(c)) => known.edtl_max = known.edtl_max.max(c.edtl.into()),
            _ => {}
        }
    }

    /// Takes what the target sent, and holds it against its duties.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let heard = std::mem::take(&mut self.heard);
        let mut rest = &heard[..];
        while let Some(header) = rest.first_chunk::<BHS_LEN>() {
            let whole = bhs::pdu_bytes(header, self.digests) as usize;
            let Some(pdu) = rest.get(..whole) else { break };
            self.hear_pdu(header, pdu);
            rest = &rest[whole..];
        }
        self.heard = rest.to_vec();
    }

    fn hear_pdu(&mut self, header: &Bhs, pdu: &[u8]) {
        let mut at = BHS_LEN + bhs::ahs_bytes(header) as usize;
        if self.digests.header {
            assert_eq!(pdu[at..at + 4], digest::of_header(&pdu[..at]), "header digest");
            at += 4;
        }
        let len = bhs::data_bytes(header);
        let end = at + bhs::padded(len) as usize;
        let data = &pdu[at..at + len as usize];
        assert!(pdu[at + len as usize..end].iter().all(|b| *b == 0), "padding is nought");
        if self.digests.data && len > 0 {
            assert_eq!(pdu[end..end + 4], digest::of_header(&pdu[at..end]), "data digest");
        }
        assert!(
            self.segment_max.is_none_or(|max| len <= max),
            "{len} bytes in one PDU, {:?} at most",
            self.segment_max
        );
        assert!(!is_poisoned(data), "memory that nobody wrote was sent");
        let parsed = TargetPdu::parse(header).unwrap_or_else(|e| panic!("{e}: {header:02x?}"));
        self.understand(&parsed, data);
    }

    fn understand(&mut self, pdu: &TargetPdu, data: &[u8]) {
        match pdu {
            TargetPdu::LoginResponse(r) => {
                self.takes_stat_sn(r.stat_sn);
                self.window(r.exp_cmd_sn, r.max_cmd_sn);
                self.answered(r.itt.0);
                self.login_text.extend_from_slice(data);
                if r.status.is_success() && r.flags.transit == Some(Stage::FullFeaturePhase) {
                    self.logged_in(r.tsih);
                }
            }
            TargetPdu::ScsiResponse(r) => {
                self.takes_stat_sn(r.stat_sn);
                self.window(r.exp_cmd_sn, r.max_cmd_sn);
                self.answered(r.itt.0);
                self.statuses[usize::from(r.status != 0)] += 1;
                self.r2ts.retain(|r2t| r2t.itt != r.itt);
                let (sense, rest) =
                    spindle_iscsi_wire::scsi::sense_and_data(data).expect("sense can be told apart");
                assert!(rest.is_empty(), "nothing stands behind the sense data");
                if r.status == 2 {
                    assert!(
                        spindle_scsi_spec::Sense::parse(sense).is_some(),
                        "CHECK CONDITION has sense data"
                    );
                }
            }
            TargetPdu::DataIn(d) => {
                self.window(d.exp_cmd_sn, d.max_cmd_sn);
                let end = u64::from(d.buffer_offset) + data.len() as u64;
                self.within(d.itt.0, end, "Data-In");
                if let Some(s) = d.status {
                    self.takes_stat_sn(s.stat_sn);
                    self.answered(d.itt.0);
                    self.statuses[usize::from(s.status != 0)] += 1;
                }
            }
            TargetPdu::R2t(r) => {
                self.shows_stat_sn(r.stat_sn);
                self.window(r.exp_cmd_sn, r.max_cmd_sn);
                assert_ne!(r.ttt, Ttt::RESERVED, "an R2T has a tag");
                assert!(r.desired_len > 0, "an R2T asks for something");
                self.within(r.itt.0, u64::from(r.buffer_offset) + u64::from(r.desired_len), "R2T");
                self.r2ts_heard += 1;
                self.r2ts.push(*r);
                assert!(self.r2ts.len() <= 4096, "R2Ts without end");
            }
            TargetPdu::NopIn(n) => {
                self.window(n.exp_cmd_sn, n.max_cmd_sn);
                if n.itt == spindle_iscsi_wire::Itt::RESERVED {
                    self.shows_stat_sn(n.stat_sn);
                    self.last_ttt = n.ttt;
                } else {
                    self.takes_stat_sn(n.stat_sn);
                    self.answered(n.itt.0);
                }
            }
            TargetPdu::TextResponse(t) => {
                self.takes_stat_sn(t.stat_sn);
                self.window(t.exp_cmd_sn, t.max_cmd_sn);
                self.answered(t.itt.0);
                assert_eq!(t.is_final, t.ttt == Ttt::RESERVED, "F and the transfer tag tell the same");
                self.last_ttt = t.ttt;
            }
            TargetPdu::TmfResponse(t) => {
                self.tmfs_heard += 1;
                self.takes_stat_sn(t.stat_sn);
                self.window(t.exp_cmd_sn, t.max_cmd_sn);
                self.answered(t.itt.0);
            }
            TargetPdu::LogoutResponse(l) => {
                self.takes_stat_sn(l.stat_sn);
                self.window(l.exp_cmd_sn, l.max_cmd_sn);
                self.answered(l.itt.0);
            }
            TargetPdu::Reject(r) => {
                self.takes_stat_sn(r.stat_sn);
                self.window(r.exp_cmd_sn, r.max_cmd_sn);
            }
            TargetPdu::AsyncMessage(a) => {
                self.takes_stat_sn(a.stat_sn);
                self.window(a.exp_cmd_sn, a.max_cmd_sn);
            }
        }
    }

    fn logged_in(&mut self, tsih: u16) {
        assert!(!self.full, "a login ends once");
        assert_ne!(tsih, 0, "a session has a handle");
        self.full = true;
        self.tsih = tsih;
        self.segment_max = self.declared;
        let on = |key: &str| {
            TextPairs::new(&self.login_text)
                .filter_map(Result::ok)
                .any(|p| p.key == key && p.value == "CRC32C")
        };
        self.digests = Digests { header: on("HeaderDigest"), data: on("DataDigest") };
        self.login_text.clear();
    }

    /// RFC 7143 §4.2.2.2: StatSN counts the statuses of a connection, without a gap.
    fn takes_stat_sn(&mut self, sn: SerialNumber) {
        self.shows_stat_sn(sn);
        self.stat_sn = Some(sn.next());
        self.exp_stat_sn = sn.next().0;
    }

    fn shows_stat_sn(&mut self, sn: SerialNumber) {
        if let Some(expected) = self.stat_sn {
            assert_eq!(sn, expected, "StatSN");
        }
    }

    /// RFC 7143 §4.2.2.1: the window is never closed by less than nothing, and never taken back.
    fn window(&mut self, exp: SerialNumber, max: SerialNumber) {
        assert!(!max.lt(exp.prev()), "MaxCmdSN {max} with ExpCmdSN {exp}");
        if self.full {
            if let Some(before) = self.max_cmd_sn {
                assert!(!max.lt(before), "MaxCmdSN went back from {before} to {max}");
            }
            self.max_cmd_sn = Some(max);
        }
    }

    fn answered(&mut self, itt: u32) {
        if self.wild {
            return;
        }
        let known =
            self.tags.get_mut(&itt).unwrap_or_else(|| panic!("an answer to {itt:08x}, which nobody sent"));
        known.answered += 1;
        assert!(
            known.answered <= known.sent,
            "{itt:08x} was sent {} times and answered more often",
            known.sent
        );
    }

    fn within(&self, itt: u32, end: u64, what: &str) {
        if self.wild {
            return;
        }
        let known = self.tags.get(&itt).unwrap_or_else(|| panic!("{what} for {itt:08x}, which nobody sent"));
        assert!(end <= known.edtl_max, "{what} up to {end} of {} bytes", known.edtl_max);
    }
}
