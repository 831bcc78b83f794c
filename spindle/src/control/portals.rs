//! Portal groups: where the target listens.

use std::net::IpAddr;

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::specs::{ByTag, Nothing, Portal, PortalGroup};
use super::{Control, done, may, need};

/// Portals of one group.
const PORTALS_MAX: usize = 64;

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "iscsi_create_portal_group",
            about: "Makes a portal group and starts to listen at its portals.",
            params: const {
                &[
                    need("tag", "1 to 65535", "portal group tag; the relative target port in SCSI"),
                    need(
                        "portals",
                        "list of {host, port}",
                        "addresses; port 3260 if left out, 0 for any free one",
                    ),
                    may("private", "boolean", "left out of discovery through other groups"),
                    may("allow_open_access", "boolean", "serve beyond loopback without access list and CHAP"),
                ]
            },
        },
        create,
    );
    m.add(
        MethodInfo {
            name: "iscsi_delete_portal_group",
            about: "Stops listening and forgets a portal group that no target uses.",
            params: const { &[need("tag", "number", "which")] },
        },
        delete,
    );
    m.add(
        MethodInfo { name: "iscsi_get_portal_groups", about: "Lists the portal groups.", params: &[] },
        |c: &Control, _: Nothing| Ok(c.model().portal_groups.values().map(|g| json!(g)).collect::<Vec<_>>()),
    );
}

fn create(c: &Control, mut group: PortalGroup) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    if group.tag == 0 {
        return Err(RpcError::field("tag", "1 to 65535"));
    }
    if c.model().portal_groups.contains_key(&group.tag) {
        return Err(RpcError::exists(format_args!("portal group {}", group.tag)));
    }
    if group.portals.is_empty() || group.portals.len() > PORTALS_MAX {
        return Err(RpcError::field("portals", format!("1 to {PORTALS_MAX} portals")));
    }
    for (i, portal) in group.portals.iter_mut().enumerate() {
        let at = format!("portals[{i}].host");
        portal.host = parse_host(&portal.host).map_err(|why| RpcError::field(at, why))?.to_string();
    }
    let mut open: Vec<Portal> = Vec::new();
    for (i, portal) in group.portals.iter_mut().enumerate() {
        match c.backplane().listen(group.tag, portal) {
            Ok(port) => portal.port = port,
            Err(e) => {
                open.iter().for_each(|p| c.backplane().unlisten(group.tag, p));
                return Err(RpcError::field(format!("portals[{i}]"), e.message));
            }
        }
        open.push(portal.clone());
    }
    let tag = group.tag;
    c.model().portal_groups.insert(tag, group);
    if let Err(e) = c.apply_or(|model| drop(model.portal_groups.remove(&tag))) {
        open.iter().for_each(|p| c.backplane().unlisten(tag, p));
        return Err(e);
    }
    Ok(done())
}

fn delete(c: &Control, p: ByTag) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let tag = u16::try_from(p.tag).map_err(|_| RpcError::missing(format_args!("portal group {}", p.tag)))?;
    let group = {
        let mut model = c.model();
        if let Some((name, _)) =
            model.targets.iter().find(|(_, t)| t.spec.pg_ig_maps.iter().any(|m| m.pg_tag == tag))
        {
            return Err(RpcError::busy(format!("portal group {tag} is used by target node {name}")));
        }
        let missing = || RpcError::missing(format_args!("portal group {tag}"));
        model.portal_groups.remove(&tag).ok_or_else(missing)?
    };
    group.portals.iter().for_each(|portal| c.backplane().unlisten(tag, portal));
    c.apply_access()?;
    Ok(done())
}

/// An address as people write it: IPv6 with or without brackets.
pub(crate) fn parse_host(host: &str) -> Result<IpAddr, String> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    bare.parse().map_err(|_| format!("{host:?} is not an IPv4 or IPv6 address"))
}
