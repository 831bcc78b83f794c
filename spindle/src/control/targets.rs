//! Target nodes.

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};
use spindle_iscsi::session::WINDOW_MAX;

use super::luns::{add_luns, remove_all_luns};
use super::model::{Model, TARGETS_MAX, TargetEntry};
use super::specs::{ByName, ChangeMaps, MaybeName, SetAuth, TargetNode};
use super::{Control, done, may, need};

/// What a target's name begins with when only the part behind it is given.
pub const NODE_BASE: &str = "iqn.2026-01.io.spindle";

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "iscsi_create_target_node",
            about: "Makes a target with its LUNs and says who may come through which portals.",
            params: const {
                &[
                    need("name", "string", "iSCSI name, or the part behind `iqn.2026-01.io.spindle:`"),
                    may("alias_name", "string", "TargetAlias"),
                    need("pg_ig_maps", "list of {pg_tag, ig_tag}", "which initiators through which portals"),
                    may("luns", "list of {bdev_name, lun_id, read_only}", "LUNs"),
                    may(
                        "queue_depth",
                        "1 to 1024 commands",
                        "outstanding commands of a session; 128 if left out",
                    ),
                    may("disable_chap", "boolean", "no CHAP even if offered"),
                    may("require_chap", "boolean", "CHAP or no login"),
                    may("mutual_chap", "boolean", "the target proves itself too"),
                    may("chap_group", "number", "auth group; 0: none"),
                    may("header_digest", "boolean", "CRC32C header digest or no login"),
                    may("data_digest", "boolean", "CRC32C data digest or no login"),
                ]
            },
        },
        create,
    );
    m.add(
        MethodInfo {
            name: "iscsi_delete_target_node",
            about: "Removes a target: sessions are asked to log out, tasks end, LUNs close.",
            params: const { &[need("name", "string", "iSCSI name")] },
        },
        |c: &Control, p: ByName| {
            let _one_at_a_time = c.changing();
            let name = full_name(&p.name)?;
            remove_all_luns(c, &name)?;
            c.model().targets.remove(&name);
            c.apply_access()?;
            Ok(done())
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_get_target_nodes",
            about: "Describes one target, or all.",
            params: const { &[may("name", "string", "one only"), may("timeout", "ms", "ignored")] },
        },
        |c: &Control, p: MaybeName| {
            let model = c.model();
            let chosen: Vec<_> = match &p.name {
                Some(name) => vec![model.target(&full_name(name)?)?],
                None => model.targets.values().collect(),
            };
            Ok(chosen.into_iter().map(|t| json!(t.spec)).collect::<Vec<_>>())
        },
    );
    let maps = const {
        &[need("name", "string", "iSCSI name"), need("pg_ig_maps", "list of {pg_tag, ig_tag}", "which pairs")]
    };
    m.add(
        MethodInfo {
            name: "iscsi_target_node_add_pg_ig_maps",
            about: "Lets more initiators in, or through more portals.",
            params: maps,
        },
        |c: &Control, p: ChangeMaps| change_maps(c, p, true),
    );
    m.add(
        MethodInfo {
            name: "iscsi_target_node_remove_pg_ig_maps",
            about: "Takes access away. Sessions that are open stay.",
            params: maps,
        },
        |c: &Control, p: ChangeMaps| change_maps(c, p, false),
    );
    m.add(
        MethodInfo {
            name: "iscsi_target_node_set_auth",
            about: "Changes how initiators prove themselves; for logins from now on.",
            params: const {
                &[
                    need("name", "string", "iSCSI name"),
                    may("chap_group", "number", "auth group; 0: none"),
                    may("disable_chap", "boolean", "no CHAP even if offered"),
                    may("require_chap", "boolean", "CHAP or no login"),
                    may("mutual_chap", "boolean", "the target proves itself too"),
                ]
            },
        },
        |c: &Control, p: SetAuth| {
            let _one_at_a_time = c.changing();
            let name = full_name(&p.name)?;
            let mut model = c.model();
            let mut spec = model.target(&name)?.spec.clone();
            (spec.chap_group, spec.disable_chap) = (p.chap_group, p.disable_chap);
            (spec.require_chap, spec.mutual_chap) = (p.require_chap, p.mutual_chap);
            check(&model, &spec)?;
            let old =
                std::mem::replace(&mut model.targets.get_mut(&name).expect("looked up above").spec, spec);
            drop(model);
            c.apply_or(|model| set_spec(model, &name, old))?;
            Ok(done())
        },
    );
}

fn create(c: &Control, mut spec: TargetNode) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    spec.name = full_name(&spec.name)?;
    let luns = std::mem::take(&mut spec.luns);
    let name = spec.name.clone();
    {
        let mut model = c.model();
        if model.targets.contains_key(&name) {
            return Err(RpcError::exists(format_args!("target node {name}")));
        }
        if model.targets.len() >= TARGETS_MAX {
            return Err(RpcError::field("name", format!("at most {TARGETS_MAX} targets")));
        }
        check(&model, &spec)?;
        let id = model.new_target();
        model.targets.insert(name.clone(), TargetEntry { spec, id });
    }
    let built = add_luns(c, &name, &luns, |i, e| e.within(&format!("luns[{i}]")));
    if let Err(e) = built.and_then(|()| c.apply_access()) {
        // Undo: what was opened is closed again, and nobody has seen the target yet.
        let _ = remove_all_luns(c, &name);
        c.model().targets.remove(&name);
        return Err(e);
    }
    Ok(done())
}

fn change_maps(c: &Control, p: ChangeMaps, add: bool) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let name = full_name(&p.name)?;
    let mut model = c.model();
    let mut spec = model.target(&name)?.spec.clone();
    for (i, map) in p.pg_ig_maps.iter().enumerate() {
        let there = spec.pg_ig_maps.contains(map);
        if add == there {
            let why = if add { "is there already" } else { "is not there" };
            return Err(RpcError::field(format!("pg_ig_maps[{i}]"), why));
        }
        if add {
            spec.pg_ig_maps.push(*map);
        } else {
            spec.pg_ig_maps.retain(|m| m != map);
        }
    }
    check(&model, &spec)?;
    let old = std::mem::replace(&mut model.targets.get_mut(&name).expect("looked up above").spec, spec);
    drop(model);
    c.apply_or(|model| set_spec(model, &name, old))?;
    Ok(done())
}

fn set_spec(model: &mut Model, name: &str, spec: TargetNode) {
    model.targets.get_mut(name).expect("the change lock is held since it was looked up").spec = spec;
}

fn check(model: &Model, spec: &TargetNode) -> Result<(), RpcError> {
    model.check_maps(&spec.pg_ig_maps, "pg_ig_maps")?;
    if !(1..=WINDOW_MAX).contains(&spec.queue_depth) {
        return Err(RpcError::field("queue_depth", format!("1 to {WINDOW_MAX} commands")));
    }
    if spec.alias_name.len() > 255 || spec.alias_name.chars().any(char::is_control) {
        return Err(RpcError::field("alias_name", "at most 255 printable bytes (RFC 7143 §13.7)"));
    }
    model.check_chap(spec.chap_group, spec.disable_chap, spec.require_chap, spec.mutual_chap)?;
    check_open(model, spec)
}

/// Whether a target that anybody may log in to is reachable from beyond this machine without leave.
pub(super) fn check_open(model: &Model, spec: &TargetNode) -> Result<(), RpcError> {
    if model.is_open(spec) {
        for m in &spec.pg_ig_maps {
            let group = &model.portal_groups[&m.pg_tag];
            let beyond = group
                .portals
                .iter()
                .find(|p| super::portals::parse_host(&p.host).map_or(true, |a| !a.is_loopback()));
            if let (Some(portal), false) = (beyond, group.allow_open_access) {
                let why = format!(
                    "anybody who reaches {} could log in to {}; restrict initiators, set require_chap, or create \
                     portal group {} with allow_open_access",
                    portal.host, spec.name, m.pg_tag
                );
                return Err(RpcError::field("pg_ig_maps", why));
            }
        }
    }
    Ok(())
}

/// The whole iSCSI name, in lower case as RFC 3722 asks.
pub(super) fn full_name(name: &str) -> Result<String, RpcError> {
    let name = if ["iqn.", "eui.", "naa."].iter().any(|p| name.starts_with(p)) {
        name.to_lowercase()
    } else {
        format!("{NODE_BASE}:{}", name.to_lowercase())
    };
    let fits = name.len() <= 223
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | ':'))
        && !name.ends_with(':');
    if fits {
        Ok(name)
    } else {
        let why =
            format!("{name:?}: at most 223 bytes of letters, digits, '-', '.' and ':' (RFC 7143 §4.2.7)");
        Err(RpcError::field("name", why))
    }
}
