//! Saving the configuration as the calls that make it.

use serde_json::{Value, json};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};
use spindle_conf::load::{Call, ConfigFile, Subsystem};

use super::model::{Made, Model};
use super::specs::{DiscoveryAuth, SaveConfig};
use super::{BdevSpec, Control, may};

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "save_config",
            about: "Answers the whole configuration as calls, in SPDK's form; `spindle run -c` replays it.",
            params: const {
                &[
                    may("filename", "path", "write it there too, mode 0600"),
                    may("indent", "number", "ignored"),
                ]
            },
        },
        |c: &Control, p: SaveConfig| {
            let file = saved(&c.model());
            if let Some(path) = &p.filename {
                file.write(path.as_ref()).map_err(|e| RpcError::field("filename", e))?;
            }
            serde_json::to_value(file).map_err(RpcError::internal)
        },
    );
}

/// The calls that make this model.
pub fn saved(model: &Model) -> ConfigFile {
    let call = |method: &str, params: Value| Call { method: method.into(), params };
    // A decorator stands behind what it decorates, however they are named.
    let mut entries: Vec<_> = model.bdevs.iter().collect();
    entries.sort_by_key(|(name, _)| depth(model, name));
    let bdevs = entries.into_iter().map(|(_, b)| match &b.spec {
        Made::Device(BdevSpec::Malloc(s)) => call("bdev_malloc_create", json!(s)),
        Made::Device(BdevSpec::Null(s)) => call("bdev_null_create", json!(s)),
        Made::Device(BdevSpec::File(s, true)) => call("bdev_uring_create", json!(s)),
        Made::Device(BdevSpec::File(s, false)) => call("bdev_aio_create", json!(s)),
        Made::Delay(s, _) => call("bdev_delay_create", json!(s)),
        Made::Error(s, _) => call("bdev_error_create", json!(s)),
    });
    let bdevs = Subsystem { subsystem: "bdev".into(), config: Some(bdevs.collect()) };
    let mut iscsi = Vec::new();
    iscsi.extend(model.portal_groups.values().map(|g| call("iscsi_create_portal_group", json!(g))));
    iscsi.extend(model.initiator_groups.values().map(|g| call("iscsi_create_initiator_group", json!(g))));
    iscsi.extend(model.auth_groups.values().map(|a| call("iscsi_create_auth_group", json!(a.spec))));
    if model.discovery_auth != DiscoveryAuth::default() {
        iscsi.push(call("iscsi_set_discovery_auth", json!(model.discovery_auth)));
    }
    iscsi.extend(model.targets.values().map(|t| call("iscsi_create_target_node", json!(t.spec))));
    let iscsi = Subsystem { subsystem: "iscsi".into(), config: Some(iscsi) };
    ConfigFile { subsystems: vec![bdevs, iscsi] }
}

/// How many devices lie behind this one.
fn depth(model: &Model, name: &str) -> usize {
    let behind = |name: &str| model.bdevs.get(name).and_then(|b| b.spec.base()).map(str::to_string);
    std::iter::successors(behind(name), |name| behind(name)).count()
}
