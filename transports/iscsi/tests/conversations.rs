//! Conversation scripts: `I>` is what the initiator sends, `T<` what the target must answer.
//!
//! ```text
//! config KEY=VALUE            before the first connect: chap=required, initial-r2t=Yes, …
//! connect N                   opens connection N and speaks on it from now on
//! use N                       speaks on connection N
//! I> login T csg=1 nsg=3 …    flags are single letters, fields are name=value
//! | InitiatorName=iqn.x       text of the PDU above, a pair a line
//! T< login T status=0 tsih=$t $name stands for what comes, and must be the same afterwards; * is anything
//! T< read -S …                a flag with - must not be set
//! silent / closed / wait MS / hold / release / cut
//! ```
//! Fields that are not named are not looked at. Each script is run with the bytes in one piece, and cut at
//! places that a seed chooses.

mod support;

use std::collections::HashMap;

use spindle_iscsi::config::{AuthPolicy, ChapGroup, ChapRule, ChapSecret, IscsiConfig, Secret};
use spindle_iscsi_wire::bhs::Digests;
use spindle_iscsi_wire::{Bhs, bhs};
use spindle_net::ConnId;
use support::{Pdu, World, config, cut, emit};

/// Where a field stands: first byte, length.
type Field = (&'static str, usize, usize);

struct Kind {
    name: &'static str,
    opcode: u8,
    fields: &'static [Field],
}

const fn kind(name: &'static str, opcode: u8, fields: &'static [Field]) -> Kind {
    Kind { name, opcode, fields }
}

const COMMON: &[Field] = &[("itt", 16, 4), ("lun", 8, 8), ("ahs", 4, 1)];
const REQUESTS: &[Kind] = &[
    kind("nop", 0x00, &[("ttt", 20, 4), ("cmdsn", 24, 4), ("expstatsn", 28, 4)]),
    kind("command", 0x01, &[("edtl", 20, 4), ("cmdsn", 24, 4), ("expstatsn", 28, 4)]),
    kind("tmf", 0x02, &[("reftag", 20, 4), ("cmdsn", 24, 4), ("expstatsn", 28, 4), ("refcmdsn", 32, 4)]),
    kind(
        "login",
        0x03,
        &[
            ("vmax", 2, 1),
            ("vmin", 3, 1),
            ("isid", 8, 6),
            ("tsih", 14, 2),
            ("cid", 20, 2),
            ("cmdsn", 24, 4),
            ("expstatsn", 28, 4),
        ],
    ),
    kind("text", 0x04, &[("ttt", 20, 4), ("cmdsn", 24, 4), ("expstatsn", 28, 4)]),
    kind("data", 0x05, &[("ttt", 20, 4), ("expstatsn", 28, 4), ("datasn", 36, 4), ("offset", 40, 4)]),
    kind("logout", 0x06, &[("cid", 20, 2), ("cmdsn", 24, 4), ("expstatsn", 28, 4)]),
    kind("snack", 0x10, &[("cmdsn", 24, 4), ("begrun", 40, 4)]),
    kind("nonsense", 0x1E, &[("cmdsn", 24, 4)]),
];
const STATUS: [Field; 3] = [("statsn", 24, 4), ("expcmdsn", 28, 4), ("maxcmdsn", 32, 4)];
const RESPONSES: &[Kind] = &[
    kind("nop", 0x20, &[("ttt", 20, 4)]),
    kind(
        "response",
        0x21,
        &[("response", 2, 1), ("status", 3, 1), ("expdatasn", 36, 4), ("residual", 44, 4)],
    ),
    kind("tmf", 0x22, &[("result", 2, 1)]),
    kind("login", 0x23, &[("isid", 8, 6), ("tsih", 14, 2), ("status", 36, 2)]),
    kind("text", 0x24, &[("ttt", 20, 4)]),
    kind("read", 0x25, &[("status", 3, 1), ("datasn", 36, 4), ("offset", 40, 4), ("residual", 44, 4)]),
    kind("logout", 0x26, &[("result", 2, 1), ("time2wait", 40, 2), ("time2retain", 42, 2)]),
    kind("r2t", 0x31, &[("ttt", 20, 4), ("r2tsn", 36, 4), ("offset", 40, 4), ("want", 44, 4)]),
    kind("async", 0x32, &[("event", 36, 1), ("parameter3", 42, 2)]),
    kind("reject", 0x3F, &[("reason", 2, 1)]),
];

struct Speaker<'a> {
    script: &'a str,
    world: Option<World>,
    config: IscsiConfig,
    split: Option<u64>,
    conns: HashMap<u32, ConnId>,
    now: u32,
    unread: HashMap<u32, Vec<Pdu>>,
    variables: HashMap<String, u64>,
    checked: usize,
}

/// One line with the text lines that belong to it.
struct Line<'a> {
    number: usize,
    words: Vec<&'a str>,
    text: Vec<&'a str>,
}

fn lines(script: &str) -> Vec<Line<'_>> {
    let mut all: Vec<Line<'_>> = Vec::new();
    for (n, line) in script.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_prefix('|') {
            Some(text) => all.last_mut().expect("text belongs to a PDU").text.push(text.trim()),
            None => {
                all.push(Line { number: n + 1, words: line.split_whitespace().collect(), text: Vec::new() });
            }
        }
    }
    all
}

fn number(s: &str) -> u64 {
    match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("not a number: {s}")),
        None => s.parse().unwrap_or_else(|_| panic!("not a number: {s}")),
    }
}

fn bytes(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap()).collect()
}

/// `zeros:N`, `count:N` (0, 1, 2 …) or hexadecimal digits.
fn payload(s: &str) -> Vec<u8> {
    match s.split_once(':') {
        Some(("zeros", n)) => vec![0; number(n) as usize],
        Some(("count", n)) => (0..number(n)).map(|n| n as u8).collect(),
        Some((what, _)) => panic!("no such data: {what}"),
        None => bytes(s),
    }
}

fn flag(letter: &str, opcode: u8) -> Option<(usize, u8)> {
    Some(match (letter, opcode) {
        ("I", _) => (0, 0x40),
        ("F" | "T", _) => (1, 0x80),
        ("R", 0x01) | ("C", 0x03 | 0x04 | 0x23 | 0x24) => (1, 0x40),
        ("W", 0x01) => (1, 0x20),
        ("S", 0x25) => (1, 0x01),
        ("U", 0x21 | 0x25) => (1, 0x02),
        ("O", 0x21 | 0x25) => (1, 0x04),
        _ => return None,
    })
}

impl Speaker<'_> {
    fn place(&self, line: &Line<'_>) -> String {
        format!("{}:{} (split {:?})", self.script, line.number, self.split)
    }

    fn world(&mut self) -> &mut World {
        let (config, split) = (self.config.clone(), self.split);
        self.world.get_or_insert_with(|| World::new(config, split, [64, 16, 8, 4, 2, 0]))
    }

    fn conn(&self) -> ConnId {
        self.conns[&self.now]
    }

    fn value(&self, s: &str) -> u64 {
        match s.strip_prefix('$') {
            Some(name) => *self.variables.get(name).unwrap_or_else(|| panic!("nobody has set ${name}")),
            None => number(s),
        }
    }

    /// Lets everything happen and sorts what was sent by connection.
    fn settle(&mut self) {
        self.world().run();
        self.world().turns(8);
        for (n, conn) in self.conns.clone() {
            let bytes = std::mem::take(&mut self.world().t.net_mut().wires[conn.slot()].outbound);
            self.unread.entry(n).or_default().extend(cut(&bytes, Digests::default()));
        }
    }

    fn say(&mut self, line: &Line<'_>) {
        let kind = REQUESTS.iter().find(|k| k.name == line.words[1]).expect("a known request");
        let mut b: Bhs = [0; 48];
        b[0] = kind.opcode;
        let put = |b: &mut Bhs, at: usize, len: usize, v: u64| {
            b[at..at + len].copy_from_slice(&v.to_be_bytes()[8 - len..]);
        };
        // What is not named is reserved.
        if kind.fields.iter().any(|f| f.0 == "ttt") {
            put(&mut b, 20, 4, 0xFFFF_FFFF);
        }
        let mut data = Vec::new();
        for word in &line.words[2..] {
            let Some((name, value)) = word.split_once('=') else {
                let (at, bit) = flag(word, kind.opcode).expect("a known flag");
                b[at] |= bit;
                continue;
            };
            match name {
                "data" => data = payload(value),
                "cdb" => {
                    let cdb = bytes(value);
                    b[32..32 + cdb.len()].copy_from_slice(&cdb);
                }
                "csg" => b[1] |= (number(value) as u8) << 2,
                "nsg" | "function" | "reason" | "attr" => b[1] |= number(value) as u8,
                _ => {
                    let mut all = COMMON.iter().chain(kind.fields);
                    let f = all.find(|f| f.0 == name).unwrap_or_else(|| panic!("no field {name}"));
                    let v = self.value(value);
                    put(&mut b, f.1, f.2, v);
                }
            }
        }
        for pair in &line.text {
            data.extend_from_slice(pair.as_bytes());
            data.push(0);
        }
        b[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let whole = emit(&b, &data, Digests::default());
        let conn = self.conn();
        self.world().write(conn, &whole);
    }

    fn hear(&mut self, line: &Line<'_>) {
        self.settle();
        let place = self.place(line);
        let queue = self.unread.entry(self.now).or_default();
        assert!(!queue.is_empty(), "{place}: the target says nothing");
        let pdu = queue.remove(0);
        let opcode = bhs::opcode(&pdu.bhs);
        let kind = RESPONSES.iter().find(|k| k.opcode == opcode).expect("a known response");
        assert_eq!(kind.name, line.words[1], "{place}: {:?}", pdu.parse());
        for word in &line.words[2..] {
            let Some((name, want)) = word.split_once('=') else {
                let (letter, on) = word.strip_prefix('-').map_or((*word, true), |l| (l, false));
                let (at, bit) = flag(letter, opcode).expect("a known flag");
                assert_eq!(pdu.bhs[at] & bit != 0, on, "{place}: flag {word} in {:?}", pdu.parse());
                continue;
            };
            if want == "*" {
                continue;
            }
            let place = format!("{place}: {name} in {:?}", pdu.parse());
            match name {
                "len" => assert_eq!(pdu.data.len() as u64, number(want), "{place}"),
                "data" => assert_eq!(pdu.data, payload(want), "{place}"),
                "csg" => assert_eq!(u64::from(pdu.bhs[1] >> 2 & 3), number(want), "{place}"),
                "nsg" => assert_eq!(u64::from(pdu.bhs[1] & 3), number(want), "{place}"),
                "sense" => {
                    let sense = &pdu.data[2..];
                    let got = format!("{:02x}/{:02x}/{:02x}", sense[2] & 15, sense[12], sense[13]);
                    assert_eq!(got, want, "{place}");
                }
                _ => {
                    let mut all = COMMON.iter().chain(&STATUS).chain(kind.fields);
                    let f = all.find(|f| f.0 == name).unwrap_or_else(|| panic!("no field {name}"));
                    let mut raw = [0; 8];
                    raw[8 - f.2..].copy_from_slice(&pdu.bhs[f.1..f.1 + f.2]);
                    let got = u64::from_be_bytes(raw);
                    match want.strip_prefix('$') {
                        Some(v) if !self.variables.contains_key(v) => {
                            self.variables.insert(v.into(), got);
                        }
                        _ => assert_eq!(got, self.value(want), "{place}"),
                    }
                }
            }
        }
        if !line.text.is_empty() {
            let text = String::from_utf8(pdu.data.clone()).expect("text");
            let got: Vec<&str> = text.split_terminator('\0').collect();
            let same = got.len() == line.text.len()
                && got.iter().zip(&line.text).all(|(g, w)| match w.strip_suffix('*') {
                    Some(start) => g.starts_with(start),
                    None => g == w,
                });
            assert!(same, "{place}: text\n got {got:?}\nwant {:?}", line.text);
        }
        self.checked += 1;
    }

    fn configure(&mut self, word: &str) {
        let (key, value) = word.split_once('=').expect("config KEY=VALUE");
        let limits = &mut self.config.limits;
        match key {
            "initial-r2t" => limits.initial_r2t = value == "Yes",
            "immediate-data" => limits.immediate_data = value == "Yes",
            "max-burst" => limits.max_burst_length = number(value) as u32,
            "first-burst" => limits.first_burst_length = number(value) as u32,
            "text-max" => limits.text_bytes_max = number(value) as u32,
            "tmfs" => limits.tmfs_per_session_max = number(value) as u32,
            "window" => {
                limits.window_first = number(value) as u32;
                limits.window_max = number(value) as u32;
            }
            "max-recv" => limits.max_recv_data_segment_length = number(value) as u32,
            "chap" => {
                let chap = if value == "required" { ChapRule::Required } else { ChapRule::Optional };
                let secret = ChapSecret {
                    user: "anna".into(),
                    secret: Secret(b"annas-secret-1".to_vec()),
                    mutual: None,
                };
                self.config.chap_groups = vec![ChapGroup { tag: 1, secrets: vec![secret] }];
                self.config.targets[0].auth = AuthPolicy { chap, mutual: false, chap_group: Some(1) };
            }
            _ => panic!("no such setting: {key}"),
        }
    }

    fn run(&mut self, text: &str) {
        for line in lines(text) {
            let place = self.place(&line);
            match line.words[0] {
                "config" => line.words[1..].iter().for_each(|w| self.configure(w)),
                "connect" => {
                    self.now = number(line.words[1]) as u32;
                    let conn = self.world().connect();
                    self.conns.insert(self.now, conn);
                }
                "use" => self.now = number(line.words[1]) as u32,
                "I>" => self.say(&line),
                "T<" => self.hear(&line),
                "silent" | "closed" => {
                    self.settle();
                    let queue = self.unread.entry(self.now).or_default();
                    assert!(queue.is_empty(), "{place}: the target says {:?}", queue[0].parse());
                    let conn = self.conn();
                    let closed = self.world().is_closed(conn);
                    assert_eq!(closed, line.words[0] == "closed", "{place}: closed?");
                    self.checked += 1;
                }
                "wait" => {
                    self.settle();
                    let ms = number(line.words[1]);
                    self.world().pass_ms(ms);
                }
                "hold" => self.world().hold_effects = true,
                "release" => {
                    self.world().hold_effects = false;
                    self.world().mid.release();
                }
                "cut" => {
                    let conn = self.conn();
                    self.world().t.net_mut().wires[conn.slot()].peer_closed = true;
                }
                other => panic!("{place}: {other}?"),
            }
        }
        self.settle();
        for (n, queue) in &self.unread {
            assert!(queue.is_empty(), "{}: unheard on {n}: {:?}", self.script, queue[0].parse());
        }
        let conns: Vec<ConnId> = self.conns.values().copied().collect();
        let world = self.world();
        world.hold_effects = false;
        for conn in conns {
            world.t.net_mut().wires[conn.slot()].peer_closed = true;
        }
        world.turns(4);
        world.mid.release();
        world.run();
        world.check_quiet();
        assert_eq!(
            (world.t.session_count(), world.t.tasks_in_flight()),
            (0, 0),
            "{}: left over",
            self.script
        );
        assert!(world.mid.nexuses.is_empty());
    }
}

#[test]
fn every_conversation_goes_as_it_is_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 12, "the scripts are here");
    let only = std::env::var("CONVERSATION").unwrap_or_default();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for split in [None, Some(1), Some(2), Some(3)] {
            let mut speaker = Speaker {
                script: &name,
                world: None,
                config: config(),
                split,
                conns: HashMap::new(),
                now: 0,
                unread: HashMap::new(),
                variables: HashMap::new(),
                checked: 0,
            };
            speaker.run(&text);
            assert!(speaker.checked > 0, "{name} checks something");
        }
    }
}
