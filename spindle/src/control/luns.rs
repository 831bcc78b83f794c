//! LUNs of targets, added and removed under load.

use std::collections::HashSet;

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::model::{LUNS_MAX, Model, TargetEntry};
use super::specs::{AddLun, LunSpec, RemoveLun};
use super::targets::full_name;
use super::{Control, Unit, done, may, need};

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "iscsi_target_node_add_lun",
            about: "Adds a LUN; initiators get REPORTED LUNS DATA HAS CHANGED. Answers its number.",
            params: const {
                &[
                    need("name", "string", "iSCSI name of the target"),
                    need("bdev_name", "string", "device"),
                    may("lun_id", "0 to 16383", "number; the lowest free one if left out"),
                    may("read_only", "boolean", "no writes through this LUN"),
                ]
            },
        },
        |c: &Control, p: AddLun| {
            let _one_at_a_time = c.changing();
            let name = full_name(&p.name)?;
            let lun_id = match p.lun_id {
                Some(lun) => lun,
                None => lowest_free(c.model().target(&name)?)?,
            };
            let lun = LunSpec { bdev_name: p.bdev_name, lun_id, read_only: p.read_only };
            add_luns(c, &name, &[lun], |_, e| e).map(|()| json!(lun_id))
        },
    );
    m.add(
        MethodInfo {
            name: "iscsi_target_node_remove_lun",
            about: "Removes a LUN: its tasks end, initiators get REPORTED LUNS DATA HAS CHANGED.",
            params: const {
                &[need("name", "string", "iSCSI name of the target"), need("lun_id", "number", "which")]
            },
        },
        |c: &Control, p: RemoveLun| {
            let _one_at_a_time = c.changing();
            remove_lun(c, &full_name(&p.name)?, p.lun_id)
        },
    );
}

fn lowest_free(target: &TargetEntry) -> Result<u32, RpcError> {
    let taken: HashSet<u32> = target.spec.luns.iter().map(|l| l.lun_id).collect();
    let free = (0..LUNS_MAX).find(|n| !taken.contains(n));
    free.ok_or_else(|| RpcError::field("lun_id", "every number is taken"))
}

/// Adds LUNs to a target whose name is whole already, all or none; the change lock is held. What is wrong with one of
/// them goes through `place` with its number in the list.
pub(super) fn add_luns(
    c: &Control,
    name: &str,
    luns: &[LunSpec],
    place: impl Fn(usize, RpcError) -> RpcError,
) -> Result<(), RpcError> {
    let (fresh, map) = {
        let mut model = c.model();
        let mut taken: HashSet<u32> = model.target(name)?.spec.luns.iter().map(|l| l.lun_id).collect();
        let mut fresh = Vec::new();
        for (i, lun) in luns.iter().enumerate() {
            match enlist(&mut model, name, lun, &mut taken) {
                Ok(unit) => fresh.extend(unit),
                Err(e) => {
                    for earlier in &luns[..i] {
                        strike(&mut model, name, earlier.lun_id)?;
                    }
                    return Err(place(i, e));
                }
            }
        }
        let target = &model.targets[name];
        (fresh, (target.id, model.lun_map(target)))
    };
    // Together: a start with a thousand LUNs must not wait for the cores a thousand times.
    let added = c.backplane().open_lus(&fresh).and_then(|()| c.backplane().set_luns(map.0, &map.1));
    if added.is_err() {
        luns.iter().for_each(|l| drop(remove_lun(c, name, l.lun_id)));
    }
    added
}

/// Writes a LUN down. Answers its unit, if that has to be opened yet.
fn enlist(
    model: &mut Model,
    name: &str,
    lun: &LunSpec,
    taken: &mut HashSet<u32>,
) -> Result<Option<Unit>, RpcError> {
    if lun.lun_id >= LUNS_MAX {
        return Err(RpcError::field("lun_id", format!("0 to {}", LUNS_MAX - 1)));
    }
    if taken.contains(&lun.lun_id) {
        return Err(RpcError::exists(format_args!("LUN {} of {name}", lun.lun_id)));
    }
    let entry = model.bdev(&lun.bdev_name).map_err(|e| RpcError::field("bdev_name", e.message))?;
    if let Some(by) = &entry.decorated_by {
        return Err(RpcError::field("bdev_name", format!("bdev {} is behind {by}", lun.bdev_name)));
    }
    let fresh = entry.lu.is_none().then(|| entry.bdev.clone()).map(|bdev| (model.new_lu(), bdev));
    let entry = model.bdevs.get_mut(&lun.bdev_name).expect("looked up above");
    entry.lu = entry.lu.or(fresh.as_ref().map(|(lu, _)| *lu));
    entry.uses += 1;
    model.targets.get_mut(name).expect("the caller has looked it up").spec.luns.push(lun.clone());
    taken.insert(lun.lun_id);
    Ok(fresh)
}

/// Crosses a LUN out. Answers the unit that nothing refers to any more, if it is one.
fn strike(model: &mut Model, name: &str, lun: u32) -> Result<Option<u32>, RpcError> {
    let target = model.target(name)?;
    let at = target.spec.luns.iter().position(|l| l.lun_id == lun);
    let at = at.ok_or_else(|| RpcError::missing(format_args!("LUN {lun} of {name}")))?;
    let target = model.targets.get_mut(name).expect("looked up above");
    let gone = target.spec.luns.remove(at);
    let entry = model.bdevs.get_mut(&gone.bdev_name).expect("a device with a LUN cannot be deleted");
    entry.uses -= 1;
    Ok(if entry.uses == 0 { entry.lu.take() } else { None })
}

/// Takes one LUN off a target; the change lock is held.
pub(super) fn remove_lun(c: &Control, name: &str, lun: u32) -> Result<Value, RpcError> {
    let (map, close) = {
        let mut model = c.model();
        let close = strike(&mut model, name, lun)?;
        let target = &model.targets[name];
        ((target.id, model.lun_map(target)), close)
    };
    c.backplane().set_luns(map.0, &map.1)?;
    if let Some(lu) = close {
        c.backplane().close_lu(lu)?;
    }
    Ok(done())
}

/// Takes all LUNs off a target; the change lock is held.
pub(super) fn remove_all_luns(c: &Control, name: &str) -> Result<(), RpcError> {
    let luns: Vec<u32> = c.model().target(name)?.spec.luns.iter().map(|l| l.lun_id).collect();
    luns.into_iter().try_for_each(|lun| remove_lun(c, name, lun).map(drop))
}
