//! Contenders and rows as they are written on the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::Metric;
use crate::units::{size, size_u32};
use crate::url::Url;
use crate::workload::{Mix, Order, Workload, WriteOffers};

/// What kind of disk a target is to offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lun {
    /// Forgets everything.
    Null,
    /// Memory.
    Ram,
    /// A file or block device.
    File(PathBuf),
}

/// One side of a comparison: `KIND:key=value,key=value`.
#[derive(Clone, Debug)]
pub enum ContenderSpec {
    /// `spindle:path=…,lun=null|ram|PATH,size=1G,direct=yes,args=…`
    Spindle(Program),
    /// `tgt:path=…,lun=null|PATH,size=…,direct=yes`
    Tgt(Program),
    /// `spdk:path=…,lun=null|ram|PATH,engine=uring|aio,size=…,args=…`; files it opens past the page cache by itself
    Spdk(Program),
    /// `respond`: the least that passes for a target.
    Respond(Program),
    /// `cmd:run=PROGRAM ARGS`: anything that prints an `iscsi://` URL and serves until killed.
    Command {
        /// Its name in tables.
        name: String,
        /// Program and arguments.
        run: Vec<String>,
    },
    /// `url:url=iscsi://…`: already running; it cannot be halted between samples.
    Url {
        /// Its name in tables.
        name: String,
        /// Where.
        url: Url,
    },
    /// `wire:memory=hot|cold`: the limit.
    Wire {
        /// Its name in tables.
        name: String,
        /// Data in 256 MiB.
        cold: bool,
    },
}

/// A program we know how to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in tables.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Disk.
    pub lun: Lun,
    /// Bytes of the disk.
    pub size: u64,
    /// A file is used past the page cache.
    pub direct: bool,
    /// A file is used through Linux's older asynchronous interface instead of io_uring.
    pub aio: bool,
    /// More arguments.
    pub args: Vec<String>,
}

impl ContenderSpec {
    /// The word it begins with on the command line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Spindle(_) => "spindle",
            Self::Tgt(_) => "tgt",
            Self::Spdk(_) => "spdk",
            Self::Respond(_) => "respond",
            Self::Command { .. } => "cmd",
            Self::Url { .. } => "url",
            Self::Wire { .. } => "wire",
        }
    }

    /// Name in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Spindle(p) | Self::Tgt(p) | Self::Spdk(p) | Self::Respond(p) => p.name.clone(),
            Self::Command { name, .. } | Self::Url { name, .. } | Self::Wire { name, .. } => name.clone(),
        }
    }
}

impl FromStr for ContenderSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut keys = BTreeMap::new();
        for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').with_context(|| format!("{pair:?} is not key=value"))?;
            ensure!(keys.insert(key, value.to_owned()).is_none(), "{key} is given twice");
        }
        let name = keys.remove("name");
        let spec = match kind {
            "spindle" => Self::Spindle(program(&mut keys, name, "spindle", "target/release/spindle")?),
            "tgt" => Self::Tgt(program(&mut keys, name, "tgt", "tgtd")?),
            "spdk" => Self::Spdk(program(&mut keys, name, "SPDK", "iscsi_tgt")?),
            "respond" => Self::Respond(program(&mut keys, name, "respond", "")?),
            "cmd" => {
                let run = keys.remove("run").context("cmd:run=… is missing")?;
                let run: Vec<String> = run.split_whitespace().map(str::to_owned).collect();
                ensure!(!run.is_empty(), "cmd:run=… is empty");
                Self::Command { name: name.unwrap_or_else(|| run[0].clone()), run }
            }
            "url" => {
                let url: Url = keys.remove("url").context("url:url=… is missing")?.parse()?;
                Self::Url { name: name.unwrap_or_else(|| url.portal.clone()), url }
            }
            "wire" => {
                let cold = match keys.remove("memory").as_deref() {
                    None | Some("hot") => false,
                    Some("cold") => true,
                    Some(other) => bail!("memory={other} is neither hot nor cold"),
                };
                Self::Wire {
                    name: name.unwrap_or_else(|| if cold { "wire, cold" } else { "wire" }.to_owned()),
                    cold,
                }
            }
            other => bail!("{other:?} is not spindle, tgt, spdk, respond, cmd, url or wire"),
        };
        if let Some(key) = keys.keys().next() {
            bail!("{kind} does not know {key}");
        }
        Ok(spec)
    }
}

fn program(
    keys: &mut BTreeMap<&str, String>,
    name: Option<String>,
    kind: &str,
    path: &str,
) -> Result<Program> {
    let lun = match keys.remove("lun").as_deref() {
        None | Some("null") => Lun::Null,
        Some("ram") => Lun::Ram,
        Some(file) => Lun::File(file.into()),
    };
    let lun_name = match &lun {
        Lun::Null => "null",
        Lun::Ram => "RAM",
        Lun::File(_) => "file",
    };
    Ok(Program {
        name: name.unwrap_or_else(|| format!("{kind} {lun_name}")),
        path: keys.remove("path").map_or_else(|| path.into(), PathBuf::from),
        lun,
        direct: match keys.remove("direct").as_deref() {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => bail!("direct={other} is neither yes nor no"),
        },
        aio: match keys.remove("engine").as_deref() {
            None | Some("uring") => false,
            Some("aio") if kind == "SPDK" => true,
            Some(other) => bail!("engine={other} is not to be had"),
        },
        size: keys.remove("size").map_or(Ok(1 << 30), |text| size(&text))?,
        args: keys.remove("args").map_or(Vec::new(), |a| a.split_whitespace().map(str::to_owned).collect()),
    })
}

/// A row.
#[derive(Clone, Debug)]
pub struct Item {
    /// As it was written.
    pub key: String,
    /// What is done.
    pub kind: Kind,
}

/// What a row does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Load.
    Load {
        /// Which.
        work: Workload,
        /// Open loop at so many percent of the rate at which the slowest target saturates.
        open_percent: Option<u8>,
    },
    /// Nothing, with some sessions logged in.
    Idle {
        /// How many.
        sessions: u32,
    },
}

impl Item {
    /// Its name in tables.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Load { work, open_percent: Some(percent) } => {
                format!("{}, open loop at {percent} %", work.name())
            }
            Kind::Load { work, .. } => work.name(),
            Kind::Idle { sessions } => format!("idle, {sessions} sessions"),
        }
    }

    /// What is looked at: latencies where nothing queues, else the rate.
    pub fn metrics(&self) -> Vec<Metric> {
        match &self.kind {
            Kind::Load { open_percent: Some(_), .. } => vec![Metric::P50, Metric::P99, Metric::P999],
            Kind::Load { work, .. } if work.depth == 1 && work.sessions == 1 => {
                vec![Metric::P50, Metric::P99]
            }
            Kind::Load { work, .. } if work.idle_sessions > 0 => vec![Metric::Rate, Metric::Kept],
            Kind::Load { .. } => vec![Metric::Rate],
            Kind::Idle { sessions } if *sessions >= 100 => vec![Metric::Cpu, Metric::SessionBytes],
            Kind::Idle { .. } => vec![Metric::Cpu],
        }
    }
}

/// Rows separated by commas: `read:4k:32`, `write:128k:32:solicited`, `mixed70:4k:32:open70`, `idle:4`.
/// After direction, size and depth: `s4` sessions, `c2` connections each, `idle1000` sessions beside, `hd`, `dd`,
/// `solicited`, `unsolicited`, `seq`, `open70`.
pub fn parse_items(text: &str) -> Result<Vec<Item>> {
    text.split(',').filter(|item| !item.is_empty()).map(parse_item).collect()
}

fn parse_item(text: &str) -> Result<Item> {
    let parts: Vec<&str> = text.split(':').collect();
    if let ["idle", sessions] = parts[..] {
        let sessions = sessions.parse().context("a number of sessions")?;
        return Ok(Item { key: text.to_owned(), kind: Kind::Idle { sessions } });
    }
    let [mix, bs, depth, more @ ..] = &parts[..] else { bail!("{text:?} is not DIRECTION:SIZE:DEPTH…") };
    let mut work = Workload {
        mix: Mix::parse(mix)?,
        bs: size_u32(bs)?,
        depth: depth.parse().with_context(|| format!("{depth:?} is not a depth"))?,
        ..Workload::default()
    };
    let mut open_percent = None;
    for part in more {
        let number = |prefix: &str| part.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok());
        match *part {
            "hd" => work.header_digest = true,
            "dd" => work.data_digest = true,
            "seq" => work.order = Order::Sequential,
            "solicited" => {
                work.offers = WriteOffers { initial_r2t: true, immediate: false, unsolicited: false };
            }
            "unsolicited" => {
                work.offers = WriteOffers { initial_r2t: false, immediate: false, unsolicited: true };
            }
            _ => {
                if let Some(n) = number("idle") {
                    work.idle_sessions = n;
                } else if let Some(n) = number("open") {
                    let n = u8::try_from(n).ok().filter(|n| (1..=100).contains(n));
                    open_percent = Some(n.with_context(|| format!("{part} is no percentage"))?);
                } else if let Some(n) = number("s") {
                    work.sessions = n;
                } else if let Some(n) = number("c") {
                    work.connections = n.try_into().context("a number of connections")?;
                } else {
                    bail!("{part:?} in {text:?} is not known");
                }
            }
        }
    }
    work.check().with_context(|| text.to_owned())?;
    Ok(Item { key: text.to_owned(), kind: Kind::Load { work, open_percent } })
}

/// Rows by name.
pub fn preset(name: &str) -> Result<&'static str> {
    Ok(match name {
        "quick" => "read:4k:1,read:4k:32,write:4k:1,write:4k:32",
        "depths" => {
            "read:4k:1,write:4k:1,read:4k:32,read:4k:128,read:4k:32:s4,read:4k:128:s4,\
             write:4k:32,write:4k:128,write:4k:32:s4,write:4k:128:s4"
        }
        "large" => "read:128k:32,write:128k:32",
        "sizes" => {
            "read:16k:32,write:16k:32,write:16k:32:solicited,mixed70:16k:32,read:32k:32,write:32k:32,\
             read:64k:32,write:64k:32,write:128k:32:solicited,mixed70:128k:32,read:1m:8,write:1m:8"
        }
        "digests" => "read:4k:32:hd:dd,write:4k:32:hd:dd,read:128k:32:hd:dd,write:128k:32:hd:dd",
        "open" => "mixed70:4k:128:open70",
        "idle" => "idle:1,idle:1000,read:4k:32:idle1000",
        "file" => "read:4k:32,write:4k:32",
        "all" => {
            "read:4k:1,write:4k:1,read:4k:32,read:4k:128,read:4k:32:s4,read:4k:128:s4,\
             write:4k:32,write:4k:128,write:4k:32:s4,write:4k:128:s4,write:4k:32:solicited,\
             read:128k:32,write:128k:32,mixed70:4k:128:open70,\
             read:4k:32:hd:dd,write:4k:32:hd:dd,read:128k:32:hd:dd,write:128k:32:hd:dd,\
             read:4k:32:idle1000,idle:1,idle:1000"
        }
        other => bail!("{other:?} is not quick, depths, large, sizes, digests, open, idle, file or all"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_read_with_their_keys() {
        let spec: ContenderSpec = "spindle:path=./s,lun=ram,size=2G,args=--poll always".parse().unwrap();
        let ContenderSpec::Spindle(p) = &spec else { panic!("{spec:?}") };
        assert_eq!(
            (p.lun.clone(), p.size, p.args.len(), spec.name().as_str()),
            (Lun::Ram, 2 << 30, 2, "spindle RAM")
        );
        let spec: ContenderSpec = "wire:memory=cold".parse().unwrap();
        assert!(matches!(spec, ContenderSpec::Wire { cold: true, .. }));
        let spec: ContenderSpec = "url:url=iscsi://127.0.0.1/iqn.x/0,name=mine".parse().unwrap();
        assert_eq!(spec.name(), "mine");
        let spec: ContenderSpec = "spindle:lun=/dev/loop9,direct=yes".parse().unwrap();
        assert!(matches!(spec, ContenderSpec::Spindle(Program { direct: true, .. })));
        for wrong in [
            "scst",
            "cmd",
            "cmd:run=",
            "spindle:color=red",
            "wire:memory=warm",
            "spindle:lun",
            "tgt:size=x",
            "tgt:direct=1",
            "spindle:engine=aio",
        ] {
            assert!(wrong.parse::<ContenderSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_are_read_with_their_modifiers() {
        let items = parse_items("read:4k:1,mixed70:8k:16:s4:c2:hd:dd:seq:open70,idle:3").unwrap();
        assert_eq!(items[0].metrics(), [Metric::P50, Metric::P99]);
        let Kind::Load { work, open_percent } = &items[1].kind else { panic!() };
        assert_eq!((work.mix.write_percent, work.bs, work.depth, work.sessions), (30, 8192, 16, 4));
        assert!(work.header_digest && work.data_digest && work.connections == 2);
        assert_eq!(*open_percent, Some(70));
        assert_eq!(items[2].metrics(), [Metric::Cpu]);
        for wrong in
            ["read", "read:4k", "read:4k:x", "read:4k:1:fast", "read:4k:1:open0", "idle:x", "read:100:1"]
        {
            assert!(parse_items(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_presets_are_understood() {
        for name in ["quick", "depths", "large", "sizes", "digests", "open", "idle", "file", "all"] {
            assert!(!parse_items(preset(name).unwrap()).unwrap().is_empty());
        }
        assert!(preset("none").is_err());
    }
}
