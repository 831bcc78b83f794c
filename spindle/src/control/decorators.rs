//! Devices in front of devices: slow ones and failing ones, for finding out what initiators do with them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spindle_bdev::delay::{DelayBdev, DelayForm};
use spindle_bdev::fault::{Fault, FaultBdev, FaultRule, OpSet};
use spindle_bdev::{Bdev, BlockError, Op};
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::bdevs::{check_new, delete, format_uuid, identity_of};
use super::model::Made;
use super::specs::{ByName, Delay, DelayKind, ErrorCreate, InjectError};
use super::{Control, done, may, need};

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "bdev_delay_create",
            about: "Puts a slow device in front of another that no LUN uses. Answers its name.",
            params: const {
                &[
                    need("name", "string", "name of the slow device"),
                    need("base_bdev_name", "string", "the device behind it"),
                    need(
                        "delay_us",
                        "microseconds or null",
                        "how much longer each operation takes; null: for ever",
                    ),
                    may(
                        "form",
                        "`queued`, `late`",
                        "in front of the device, or behind it where nothing can be aborted",
                    ),
                    may("uuid", "string", "identity"),
                ]
            },
        },
        create_delay,
    );
    m.add(
        MethodInfo {
            name: "bdev_delay_set",
            about: "Changes how slow it is; also for operations that wait already.",
            params: const {
                &[
                    need("name", "string", "which"),
                    need(
                        "delay_us",
                        "microseconds or null",
                        "how much longer each operation takes; null: for ever",
                    ),
                    may(
                        "form",
                        "`queued`, `late`",
                        "in front of the device, or behind it where nothing can be aborted",
                    ),
                ]
            },
        },
        set_delay,
    );
    m.add(
        MethodInfo {
            name: "bdev_error_create",
            about: "Puts a device that fails on demand in front of another that no LUN uses. Answers its name.",
            params: const {
                &[
                    need("base_name", "string", "the device behind it"),
                    may("name", "string", "name; `EE_` and the base's name if left out"),
                    may("uuid", "string", "identity"),
                ]
            },
        },
        create_error,
    );
    m.add(
        MethodInfo {
            name: "bdev_error_inject_error",
            about: "Lets operations fail.",
            params: const {
                &[
                    need("name", "string", "which device"),
                    need(
                        "io_type",
                        "string",
                        "`read`, `write`, `flush`, `unmap`, `all`; `clear` ends all failing",
                    ),
                    may("error_type", "string", "`failure` (of the medium), `nospace`, `gone`, `aborted`"),
                    may("num", "number", "how many operations; 1 if left out"),
                ]
            },
        },
        inject,
    );
    let by_name = const { &[need("name", "string", "name")] };
    let about = "Takes it away; the device behind it stays.";
    m.add(MethodInfo { name: "bdev_delay_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, &["delay"])
    });
    m.add(MethodInfo { name: "bdev_error_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, &["error"])
    });
}

/// The device behind: nobody else may use it.
fn take_base(c: &Control, field: &'static str, name: &str) -> Result<Arc<dyn Bdev>, RpcError> {
    let model = c.model();
    let entry = model.bdev(name).map_err(|e| RpcError::field(field, e.message))?;
    if entry.uses > 0 {
        return Err(RpcError::field(field, format!("bdev {name} is in use by {} LUN(s)", entry.uses)));
    }
    if let Some(by) = &entry.decorated_by {
        return Err(RpcError::field(field, format!("bdev {name} is behind {by} already")));
    }
    Ok(entry.bdev.clone())
}

fn insert(c: &Control, name: &str, base: &str, bdev: Arc<dyn Bdev>, spec: Made) -> String {
    let mut model = c.model();
    if let Some(base) = model.bdevs.get_mut(base) {
        base.decorated_by = Some(name.into());
    }
    model.add_bdev(name, bdev, spec);
    name.into()
}

fn create_delay(c: &Control, mut p: Delay) -> Result<String, RpcError> {
    let _one_at_a_time = c.changing();
    let name = p.name.clone();
    let identity = check_new(c, &name, &p.uuid, || identity_of("delay", &name))?;
    let Some(base) = p.base_bdev_name.clone() else {
        return Err(RpcError::field("base_bdev_name", "the device behind it is needed"));
    };
    let inner = take_base(c, "base_bdev_name", &base)?;
    let (delay, form) = slowness(&p);
    let bdev = DelayBdev::new(&name, identity, inner, delay, form);
    p.uuid = Some(format_uuid(&identity));
    let delays = bdev.delays().clone();
    Ok(insert(c, &name, &base, Arc::new(bdev), Made::Delay(p, delays)))
}

fn set_delay(c: &Control, p: Delay) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let mut model = c.model();
    model.bdev(&p.name)?;
    match &mut model.bdevs.get_mut(&p.name).expect("looked up above").spec {
        Made::Delay(spec, delays) => {
            let (delay, form) = slowness(&p);
            delays.set(delay, form);
            (spec.delay_us, spec.form) = (p.delay_us, p.form);
            Ok(done())
        }
        _ => Err(RpcError::field("name", format!("{} is not a delay device", p.name))),
    }
}

fn slowness(p: &Delay) -> (Duration, DelayForm) {
    let form = match p.form {
        DelayKind::Queued => DelayForm::Queued,
        DelayKind::Late => DelayForm::Late,
    };
    (p.delay_us.map_or(Duration::MAX, Duration::from_micros), form)
}

fn create_error(c: &Control, mut p: ErrorCreate) -> Result<String, RpcError> {
    let _one_at_a_time = c.changing();
    let name = p.name.clone().unwrap_or_else(|| format!("EE_{}", p.base_name));
    let identity = check_new(c, &name, &p.uuid, || identity_of("error", &name))?;
    let inner = take_base(c, "base_name", &p.base_name)?;
    let bdev = FaultBdev::new(&name, identity, inner, 0);
    (p.name, p.uuid) = (Some(name.clone()), Some(format_uuid(&identity)));
    let (faults, base) = (bdev.faults().clone(), p.base_name.clone());
    Ok(insert(c, &name, &base, Arc::new(bdev), Made::Error(p, faults)))
}

fn inject(c: &Control, p: InjectError) -> Result<Value, RpcError> {
    let model = c.model();
    let Made::Error(_, faults) = &model.bdev(&p.name)?.spec else {
        return Err(RpcError::field("name", format!("{} is not an error device", p.name)));
    };
    let all = [Op::Read, Op::Write, Op::Flush, Op::Unmap, Op::WriteZeroes, Op::Verify];
    let ops: &[Op] = match p.io_type.as_str() {
        "clear" => {
            faults.clear();
            return Ok(done());
        }
        "read" => &[Op::Read, Op::Verify],
        "write" => &[Op::Write, Op::WriteZeroes],
        "flush" => &[Op::Flush],
        "unmap" => &[Op::Unmap],
        "all" => &all,
        _ => return Err(RpcError::field("io_type", "read, write, flush, unmap, all or clear")),
    };
    for op in ops {
        let error = match p.error_type.as_str() {
            "failure" if matches!(op, Op::Read | Op::Verify) => BlockError::MediumRead,
            "failure" => BlockError::MediumWrite,
            "nospace" => BlockError::NoSpace,
            "gone" => BlockError::Gone,
            "aborted" => BlockError::Aborted,
            _ => return Err(RpcError::field("error_type", "failure, nospace, gone or aborted")),
        };
        let rule = FaultRule::every(OpSet::of(&[*op]), Fault::Fail(error));
        faults.add(FaultRule { count: p.num, ..rule });
    }
    Ok(done())
}
