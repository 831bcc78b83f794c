//! Questions: what there is, what it does, how busy it is.

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::specs::{MaybeName, Nothing};
use super::{Control, may};

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo { name: "spdk_get_version", about: "The version, in the form rpc.py reads.", params: &[] },
        |_: &Control, _: Nothing| {
            let number = |s: &str| s.parse::<u32>().unwrap_or(0);
            Ok(json!({
                "version": concat!("Spindle v", env!("CARGO_PKG_VERSION")),
                "fields": {
                    "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
                    "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
                    "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
                    "suffix": "",
                },
            }))
        },
    );
    m.add(
        MethodInfo {
            name: "framework_get_reactors",
            about: "Cores: processor, nanoseconds busy, idle and asleep, turns, sleeps, messages.",
            params: &[],
        },
        |c: &Control, _: Nothing| Ok(c.backplane().reactors()),
    );
    m.add(
        MethodInfo {
            name: "iscsi_get_connections",
            about: "Connections: session, initiator, addresses, core, digests, window, commands in flight, bytes queued.",
            params: &[],
        },
        |c: &Control, _: Nothing| Ok(c.backplane().connections()),
    );
    m.add(
        MethodInfo {
            name: "bdev_get_iostat",
            about: "Operations, bytes and errors of a device in use, or of all; and payload copied for it, in all and per command.",
            params: const { &[may("name", "string", "one only"), may("timeout", "ms", "ignored")] },
        },
        |c: &Control, p: MaybeName| {
            let chosen: Vec<(String, Option<u32>)> = {
                let model = c.model();
                match &p.name {
                    Some(name) => vec![(name.clone(), model.bdev(name)?.lu)],
                    None => model.bdevs.iter().map(|(n, e)| (n.clone(), e.lu)).collect(),
                }
            };
            let rows: Vec<Value> = chosen
                .into_iter()
                .map(|(name, lu)| {
                    let mut row = lu.map_or_else(|| json!({}), |lu| c.backplane().lu_stats(lu));
                    row["name"] = json!(name);
                    row
                })
                .collect();
            Ok(json!({ "bdevs": rows }))
        },
    );
    m.add(
        MethodInfo {
            name: "spindle_get_memory",
            about: "Memory: the arena, each core's pool by size class, how full it has been, and payload copied per command.",
            params: &[],
        },
        |c: &Control, _: Nothing| Ok(c.backplane().memory()),
    );
    m.add(
        MethodInfo {
            name: "spindle_get_trace",
            about: "The flight recorder: the last records of each core, oldest first.",
            params: const { &[may("last", "number", "records of each core at most; 256 if left out")] },
        },
        |_: &Control, p: Trace| {
            let cores = crate::recorder::dump(p.last.unwrap_or(256));
            let rows: Vec<Value> =
                cores.into_iter().map(|(core, lines)| json!({ "core": core.0, "records": lines })).collect();
            Ok(rows)
        },
    );
    m.add(
        MethodInfo {
            name: "spindle_get_tasks",
            about: "Tasks alive now: state, age, opcode, nexus.",
            params: &[],
        },
        |c: &Control, _: Nothing| Ok(c.backplane().tasks()),
    );
}

/// `spindle_get_trace`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    #[serde(default)]
    last: Option<usize>,
}

/// Added last: the list of all names, itself among them.
pub fn register_list(m: &mut Methods<Control>) {
    let mut names: Vec<&'static str> = m.names().collect();
    names.push("rpc_get_methods");
    names.sort_unstable();
    m.add(
        MethodInfo { name: "rpc_get_methods", about: "Lists the methods.", params: &[] },
        move |_: &Control, _: ListMethods| Ok::<_, RpcError>(names.clone()),
    );
}

/// `rpc_get_methods` of SPDK takes two switches that mean nothing here: every method is current and callable.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ListMethods {
    #[serde(default, rename = "current")]
    _current: bool,
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}
