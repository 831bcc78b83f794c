//! Who may log in: initiator groups and auth groups.

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};
use spindle_iscsi::config::{NamePattern, Netmask};

use super::model::{AuthEntry, ReadSecret};
use super::specs::{AuthGroup, ByTag, DiscoveryAuth, InitiatorGroup, Nothing};
use super::{Control, done, may, need};

/// RFC 7143 §12.1.3 asks for secrets of at least 96 bits; Microsoft's initiator wants 12 to 16 bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 12..=255;
/// Names and masks of one group.
const ENTRIES_MAX: usize = 4_096;

pub(super) fn register(m: &mut Methods<Control>) {
    let group = const {
        &[
            need("tag", "number", "which"),
            need("initiators", "list of names", "iSCSI names with `*` and `?`, `ANY`; `!name` refuses"),
            need("netmasks", "list of networks", "`ANY`, an address, or `10.0.0.0/8`, `fd00::/8`"),
        ]
    };
    m.add(
        MethodInfo {
            name: "iscsi_create_initiator_group",
            about: "Makes a group of initiators, by name and address.",
            params: group,
        },
        |c: &Control, g: InitiatorGroup| {
            let _one_at_a_time = c.changing();
            check_group(&g)?;
            let mut model = c.model();
            if model.initiator_groups.contains_key(&g.tag) {
                return Err(RpcError::exists(format_args!("initiator group {}", g.tag)));
            }
            let tag = g.tag;
            model.initiator_groups.insert(tag, g);
            drop(model);
            c.apply_or(|model| drop(model.initiator_groups.remove(&tag)))?;
            Ok(done())
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_initiator_group_add_initiators",
            about: "Adds names and networks to a group.",
            params: group,
        },
        |c: &Control, g: InitiatorGroup| change_group(c, g, true),
    );
    m.add(
        MethodInfo {
            name: "iscsi_initiator_group_remove_initiators",
            about: "Takes names and networks out of a group. Sessions that are open stay.",
            params: group,
        },
        |c: &Control, g: InitiatorGroup| change_group(c, g, false),
    );
    m.add(
        MethodInfo {
            name: "iscsi_delete_initiator_group",
            about: "Deletes an initiator group that no target uses.",
            params: const { &[need("tag", "number", "which")] },
        },
        |c: &Control, p: ByTag| {
            let _one_at_a_time = c.changing();
            let mut model = c.model();
            let used = |m: &super::specs::PgIgMap| m.ig_tag == p.tag;
            if let Some((name, _)) = model.targets.iter().find(|(_, t)| t.spec.pg_ig_maps.iter().any(used)) {
                return Err(RpcError::busy(format!(
                    "initiator group {} is used by target node {name}",
                    p.tag
                )));
            }
            let gone = model.initiator_groups.remove(&p.tag);
            let gone = gone.ok_or_else(|| RpcError::missing(format_args!("initiator group {}", p.tag)))?;
            drop(model);
            c.apply_or(|model| drop(model.initiator_groups.insert(p.tag, gone)))?;
            Ok(done())
        },
    );
    m.add(
        MethodInfo { name: "iscsi_get_initiator_groups", about: "Lists the initiator groups.", params: &[] },
        |c: &Control, _: Nothing| {
            Ok(c.model().initiator_groups.values().map(|g| json!(g)).collect::<Vec<_>>())
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_create_auth_group",
            about: "Makes a group of CHAP secrets.",
            params: const {
                &[
                    need("tag", "number, at least 1", "which"),
                    may(
                        "secrets",
                        "list",
                        "each `user` with `secret` or `secret_file` (12 to 255 bytes), and for \
                         mutual CHAP `muser` with `msecret` or `msecret_file`",
                    ),
                ]
            },
        },
        create_auth,
    );
    m.add(
        MethodInfo {
            name: "iscsi_delete_auth_group",
            about: "Deletes an auth group that no target uses.",
            params: const { &[need("tag", "number", "which")] },
        },
        |c: &Control, p: ByTag| {
            let _one_at_a_time = c.changing();
            let mut model = c.model();
            if let Some((name, _)) = model.targets.iter().find(|(_, t)| t.spec.chap_group == p.tag) {
                return Err(RpcError::busy(format!("auth group {} is used by target node {name}", p.tag)));
            }
            if model.discovery_auth.chap_group == p.tag {
                return Err(RpcError::busy(format!("auth group {} is used by discovery", p.tag)));
            }
            let gone = model.auth_groups.remove(&p.tag);
            let gone = gone.ok_or_else(|| RpcError::missing(format_args!("auth group {}", p.tag)))?;
            drop(model);
            c.apply_or(|model| drop(model.auth_groups.insert(p.tag, gone)))?;
            Ok(done())
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_set_discovery_auth",
            about: "Changes how initiators prove themselves before they are told of targets (discovery sessions).",
            params: const {
                &[
                    may("chap_group", "number", "auth group; 0: none"),
                    may("disable_chap", "boolean", "no CHAP even if offered"),
                    may("require_chap", "boolean", "CHAP or no discovery"),
                    may("mutual_chap", "boolean", "the target proves itself too"),
                ]
            },
        },
        |c: &Control, new: DiscoveryAuth| {
            let _one_at_a_time = c.changing();
            let mut model = c.model();
            model.check_chap(new.chap_group, new.disable_chap, new.require_chap, new.mutual_chap)?;
            let old = std::mem::replace(&mut model.discovery_auth, new);
            drop(model);
            c.apply_or(|model| model.discovery_auth = old)?;
            Ok(done())
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_get_auth_groups",
            about: "Lists the auth groups. Secrets are not shown.",
            params: &[],
        },
        |c: &Control, _: Nothing| {
            let model = c.model();
            let users = |a: &AuthEntry| -> Vec<Value> {
                a.spec.secrets.iter().map(|s| json!({ "user": s.user, "muser": s.muser })).collect()
            };
            Ok(model
                .auth_groups
                .values()
                .map(|a| json!({ "tag": a.spec.tag, "secrets": users(a) }))
                .collect::<Vec<_>>())
        },
    );
}

fn check_group(g: &InitiatorGroup) -> Result<(), RpcError> {
    if g.initiators.len() > ENTRIES_MAX || g.netmasks.len() > ENTRIES_MAX {
        return Err(RpcError::field("initiators", format!("at most {ENTRIES_MAX} entries")));
    }
    // Parsed as the transport will parse them: what is taken here must not fail there.
    for (i, name) in g.initiators.iter().enumerate() {
        let bare = name.strip_prefix('!').unwrap_or(name);
        if bare.len() > 223 || bare.chars().any(|c| c.is_control() || c == ' ') {
            let why = "an iSCSI name has 1 to 223 bytes and no spaces (RFC 7143 §4.2.7)";
            return Err(RpcError::field(format!("initiators[{i}]"), why));
        }
        name.parse::<NamePattern>().map_err(|e| RpcError::field(format!("initiators[{i}]"), e))?;
    }
    for (i, mask) in g.netmasks.iter().enumerate() {
        mask.parse::<Netmask>().map_err(|e| RpcError::field(format!("netmasks[{i}]"), e))?;
    }
    Ok(())
}

fn change_group(c: &Control, g: InitiatorGroup, add: bool) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let mut model = c.model();
    let Some(group) = model.initiator_groups.get_mut(&g.tag) else {
        return Err(RpcError::missing(format_args!("initiator group {}", g.tag)));
    };
    let mut changed = group.clone();
    for (list, names) in [(&mut changed.initiators, &g.initiators), (&mut changed.netmasks, &g.netmasks)] {
        list.retain(|n| !names.contains(n));
        if add {
            list.extend(names.iter().cloned());
        }
    }
    check_group(&changed)?;
    let old = std::mem::replace(group, changed);
    // A wider group must not open a target that this portal group would have refused to serve so.
    let opened = model.targets.values().find_map(|t| super::targets::check_open(&model, &t.spec).err());
    if let Some(e) = opened {
        model.initiator_groups.insert(g.tag, old);
        return Err(RpcError::field("initiators", e.message));
    }
    drop(model);
    c.apply_or(|model| drop(model.initiator_groups.insert(g.tag, old)))?;
    Ok(done())
}

fn create_auth(c: &Control, g: AuthGroup) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    if g.tag == 0 {
        return Err(RpcError::field("tag", "at least 1; 0 means no auth group"));
    }
    if c.model().auth_groups.contains_key(&g.tag) {
        return Err(RpcError::exists(format_args!("auth group {}", g.tag)));
    }
    let mut secrets = Vec::new();
    for (i, s) in g.secrets.iter().enumerate() {
        let at = |name: &str| format!("secrets[{i}].{name}");
        let secret = read_secret(&s.secret, &s.secret_file, &at("secret"))?
            .ok_or_else(|| RpcError::field(at("secret"), "give secret or secret_file"))?;
        let msecret = read_secret(&s.msecret, &s.msecret_file, &at("msecret"))?;
        let mutual = match (&s.muser, msecret) {
            (Some(user), Some(m)) if m == secret => {
                let why = format!("must differ from the initiator's secret ({user}; RFC 7143 §9.2.1)");
                return Err(RpcError::field(at("msecret"), why));
            }
            (Some(user), Some(m)) => Some((user.clone(), m)),
            (None, None) => None,
            _ => return Err(RpcError::field(at("muser"), "muser and msecret go together")),
        };
        secrets.push(ReadSecret { user: (s.user.clone(), secret), mutual });
    }
    let tag = g.tag;
    c.model().auth_groups.insert(tag, AuthEntry { spec: g, secrets });
    c.apply_or(|model| drop(model.auth_groups.remove(&tag)))?;
    Ok(done())
}

fn read_secret(clear: &Option<String>, file: &Option<String>, at: &str) -> Result<Option<Vec<u8>>, RpcError> {
    use std::os::unix::fs::PermissionsExt;
    let secret = match (clear, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(RpcError::field(at, "give the secret or its file, not both")),
        (Some(secret), None) => secret.clone().into_bytes(),
        (None, Some(path)) => {
            let failed = |e: std::io::Error| RpcError::field(at, format!("{path}: {e}"));
            let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(RpcError::field(
                    at,
                    format!("{path}: others may read it; run: chmod 600 {path}"),
                ));
            }
            let text = std::fs::read_to_string(path).map_err(failed)?;
            text.lines().next().unwrap_or_default().to_string().into_bytes()
        }
    };
    if !SECRET_BYTES.contains(&secret.len()) {
        let why = format!("{} bytes; a CHAP secret has 12 to 255 (RFC 7143 §9.2.1)", secret.len());
        return Err(RpcError::field(at, why));
    }
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_taken_only_if_the_transport_can_read_it() {
        let group = |name: &str, mask: &str| InitiatorGroup {
            tag: 1,
            initiators: vec![name.into()],
            netmasks: vec![mask.into()],
        };
        for good in ["ANY", "10.0.0.0/8", "::/0", "[fd00::1]", "127.0.0.1"] {
            assert!(check_group(&group("ANY", good)).is_ok(), "{good}");
        }
        for bad in
            ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "x", "10.0.0.0/-1", "localhost", "[10.0.0.1]"]
        {
            let e = check_group(&group("ANY", bad)).unwrap_err();
            assert_eq!(e.data, Some(json!({"field": "netmasks[0]"})), "{bad}");
        }
        for bad in ["", "!", "a b", "a\n"] {
            let e = check_group(&group(bad, "ANY")).unwrap_err();
            assert_eq!(e.data, Some(json!({"field": "initiators[0]"})), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_too_short_is_named() {
        let e = read_secret(&Some("short".into()), &None, "secrets[0].secret").unwrap_err();
        assert!(e.message.starts_with("secrets[0].secret: 5 bytes"), "{e}");
    }
}
