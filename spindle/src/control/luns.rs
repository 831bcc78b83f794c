//! LUNs of targets, added and removed under load.

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::model::LUNS_MAX;
use super::specs::{AddLun, LunSpec, RemoveLun};
use super::targets::full_name;
use super::{Control, done, may, need};

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
            add_lun(c, AddLun { name, ..p }).map(|lun| json!(lun))
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

/// Adds a LUN to a target whose name is whole already; the change lock is held.
pub(super) fn add_lun(c: &Control, p: AddLun) -> Result<u32, RpcError> {
    let (lun, lu, bdev, fresh) = {
        let mut model = c.model();
        let target = model.target(&p.name)?;
        let taken: Vec<u32> = target.spec.luns.iter().map(|l| l.lun_id).collect();
        let lun = match p.lun_id {
            Some(lun) => lun,
            None => (0..LUNS_MAX)
                .find(|n| !taken.contains(n))
                .ok_or_else(|| RpcError::field("lun_id", "every number is taken"))?,
        };
        if lun >= LUNS_MAX {
            return Err(RpcError::field("lun_id", format!("0 to {}", LUNS_MAX - 1)));
        }
        if taken.contains(&lun) {
            return Err(RpcError::exists(format_args!("LUN {lun} of {}", p.name)));
        }
        let entry = model.bdev(&p.bdev_name).map_err(|e| RpcError::field("bdev_name", e.message))?;
        if let Some(by) = &entry.decorated_by {
            return Err(RpcError::field("bdev_name", format!("bdev {} is behind {by}", p.bdev_name)));
        }
        let (bdev, known) = (entry.bdev.clone(), entry.lu);
        let lu = known.unwrap_or_else(|| model.new_lu());
        (lun, lu, bdev, known.is_none())
    };
    if fresh {
        c.backplane().open_lu(lu, &bdev)?;
    }
    let map = {
        let mut model = c.model();
        let entry =
            model.bdevs.get_mut(&p.bdev_name).expect("the change lock is held since it was looked up");
        entry.lu = Some(lu);
        entry.uses += 1;
        let target = model.targets.get_mut(&p.name).expect("the change lock is held since it was looked up");
        let spec = LunSpec { bdev_name: p.bdev_name.clone(), lun_id: lun, read_only: p.read_only };
        target.spec.luns.push(spec);
        let target = &model.targets[&p.name];
        (target.id, model.lun_map(target))
    };
    if let Err(e) = c.backplane().set_luns(map.0, &map.1) {
        let _ = remove_lun(c, &p.name, lun);
        return Err(e);
    }
    Ok(lun)
}

/// Takes one LUN off a target; the change lock is held.
pub(super) fn remove_lun(c: &Control, name: &str, lun: u32) -> Result<Value, RpcError> {
    let (map, close) = {
        let mut model = c.model();
        let target = model.target(name)?;
        let at = target.spec.luns.iter().position(|l| l.lun_id == lun);
        let at = at.ok_or_else(|| RpcError::missing(format_args!("LUN {lun} of {name}")))?;
        let target = model.targets.get_mut(name).expect("looked up above");
        let gone = target.spec.luns.remove(at);
        let entry = model.bdevs.get_mut(&gone.bdev_name).expect("a device with a LUN cannot be deleted");
        entry.uses -= 1;
        let close = if entry.uses == 0 { entry.lu.take() } else { None };
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
