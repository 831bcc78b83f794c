//! Devices: making, resizing, deleting, describing.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spindle_bdev::Bdev;
use spindle_conf::jsonrpc::{MethodInfo, Methods, RpcError};

use super::model::{BdevEntry, Made};
use super::specs::{ByName, FileCreate, MallocCreate, MaybeName, NullCreate, Resize};
use super::{BdevSpec, Control, done, may, need};

/// The names under which files and block devices go.
const FILES: &[&str] = &["aio", "uring"];
/// The longest device name.
const NAME_BYTES_MAX: usize = 255;

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "bdev_malloc_create",
            about: "Makes a RAM disk. Answers its name.",
            params: const {
                &[
                    may("name", "string", "name; `Malloc0`, … if left out"),
                    need("num_blocks", "number of blocks", "capacity"),
                    need("block_size", "512 or 4096 bytes", "logical block"),
                    may("physical_block_size", "bytes", "physical block; the logical one if left out"),
                    may("uuid", "string", "identity; kept over rename and restart; derived if left out"),
                ]
            },
        },
        |c: &Control, mut p: MallocCreate| {
            let name = p.name.clone().unwrap_or_else(|| c.model().new_malloc_name());
            p.name = Some(name.clone());
            create(c, &name, p.uuid.clone(), BdevSpec::Malloc(p))
        },
    );
    m.add(
        MethodInfo {
            name: "bdev_null_create",
            about: "Makes a device that forgets writes and reads zeros: for measuring. Answers its name.",
            params: const {
                &[
                    need("name", "string", "name"),
                    need("num_blocks", "number of blocks", "capacity"),
                    need("block_size", "512 or 4096 bytes", "logical block"),
                    may("physical_block_size", "bytes", "physical block"),
                    may("uuid", "string", "identity"),
                ]
            },
        },
        |c: &Control, p: NullCreate| create(c, &p.name.clone(), p.uuid.clone(), BdevSpec::Null(p)),
    );
    let file = const {
        &[
            need("name", "string", "name"),
            need("filename", "path", "file or block device"),
            may(
                "block_size",
                "512 or 4096 bytes",
                "logical block; 512 for files, the device's own for block devices",
            ),
            may(
                "physical_block_size",
                "bytes",
                "physical block; the file system's or device's own if left out",
            ),
            may("readonly", "boolean", "no writes"),
            may("create_bytes", "bytes", "make a sparse file of this size if there is none"),
            may("direct", "boolean", "O_DIRECT; block devices always are"),
            may(
                "cache",
                "`write_back`, `write_through`, `nv_cache`",
                "when a write is durable; write_back if left out",
            ),
            may("unmap", "boolean", "deallocate on UNMAP; true if left out"),
            may("uuid", "string", "identity"),
        ]
    };
    let about = "Opens a file or a block device, asynchronously through io_uring. Answers its name.";
    m.add(MethodInfo { name: "bdev_aio_create", about, params: file }, |c: &Control, p: FileCreate| {
        create(c, &p.name.clone(), p.uuid.clone(), BdevSpec::File(p, false))
    });
    m.add(MethodInfo { name: "bdev_uring_create", about, params: file }, |c: &Control, p: FileCreate| {
        create(c, &p.name.clone(), p.uuid.clone(), BdevSpec::File(p, true))
    });
    let by_name = const { &[need("name", "string", "name")] };
    let about = "Deletes a device that no LUN uses.";
    m.add(MethodInfo { name: "bdev_malloc_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, &["malloc"])
    });
    m.add(MethodInfo { name: "bdev_null_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, &["null"])
    });
    m.add(MethodInfo { name: "bdev_aio_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, FILES)
    });
    m.add(MethodInfo { name: "bdev_uring_delete", about, params: by_name }, |c: &Control, p: ByName| {
        delete(c, &p.name, FILES)
    });
    let sized = const {
        &[
            need("name", "string", "name"),
            may("new_size", "MiB", "new size"),
            may("num_blocks", "number of blocks", "new size; give one of the two"),
        ]
    };
    let about = "Changes the size of a device, in use or not: initiators get CAPACITY DATA HAS CHANGED.";
    m.add(MethodInfo { name: "bdev_null_resize", about, params: sized }, |c: &Control, p: Resize| {
        resize(c, p, &["null"])
    });
    m.add(MethodInfo { name: "bdev_malloc_resize", about, params: sized }, |c: &Control, p: Resize| {
        resize(c, p, &["malloc"])
    });
    for name in ["bdev_aio_resize", "bdev_uring_resize"] {
        m.add(MethodInfo { name, about, params: sized }, |c: &Control, p: Resize| resize(c, p, FILES));
    }
    let about = "Takes over the size that the file or block device has now.";
    for name in ["bdev_aio_rescan", "bdev_uring_rescan"] {
        m.add(MethodInfo { name, about, params: by_name }, |c: &Control, p: ByName| {
            resize_to(c, &p.name, None, FILES, "name")
        });
    }
    m.add(
        MethodInfo {
            name: "bdev_get_bdevs",
            about: "Describes one device, or all.",
            params: const { &[may("name", "string", "one only"), may("timeout", "ms", "ignored")] },
        },
        |c: &Control, p: MaybeName| {
            let model = c.model();
            let chosen: Vec<_> = match &p.name {
                Some(name) => vec![model.bdev(name)?],
                None => model.bdevs.values().collect(),
            };
            Ok(chosen.into_iter().map(describe).collect::<Vec<_>>())
        },
    );
}

fn create(c: &Control, name: &str, uuid: Option<String>, spec: BdevSpec) -> Result<String, RpcError> {
    let _one_at_a_time = c.changing();
    let identity = check_new(c, name, &uuid, || derive_uuid(&spec, name))?;
    let bdev: Arc<dyn Bdev> = c.backplane().make_bdev(name, identity, &spec)?;
    let spec = Made::Device(with_uuid(spec, format_uuid(&identity)));
    c.model().add_bdev(name, bdev, spec);
    Ok(name.into())
}

/// Whether a device may have this name and identity; answers the identity. The change lock is held.
pub(super) fn check_new(
    c: &Control,
    name: &str,
    uuid: &Option<String>,
    derive: impl FnOnce() -> [u8; 16],
) -> Result<[u8; 16], RpcError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(RpcError::field("name", format!("1 to {NAME_BYTES_MAX} printable bytes")));
    }
    if c.model().bdevs.contains_key(name) {
        return Err(RpcError::exists(format_args!("bdev {name}")));
    }
    let identity = match uuid {
        Some(text) => parse_uuid(text)?,
        None => derive(),
    };
    if let Some(other) = c.model().bdev_of_identity(&identity) {
        return Err(RpcError::field("uuid", format!("bdev {other} has this identity already")));
    }
    Ok(identity)
}

pub(super) fn delete(c: &Control, name: &str, drivers: &[&str]) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let mut model = c.model();
    let entry = model.bdev(name)?;
    check_driver(entry, drivers)?;
    if entry.uses > 0 {
        let why = format!("bdev {name} is in use by {} LUN(s); remove them first", entry.uses);
        return Err(RpcError::busy(why));
    }
    if let Some(by) = &entry.decorated_by {
        return Err(RpcError::busy(format!("bdev {name} is behind {by}; delete that first")));
    }
    let gone = model.remove_bdev(name).expect("looked up above");
    if let Some(base) = gone.spec.base().and_then(|base| model.bdevs.get_mut(base)) {
        base.decorated_by = None;
    }
    Ok(done())
}

fn check_driver(entry: &BdevEntry, drivers: &[&str]) -> Result<(), RpcError> {
    let (name, driver) = (entry.bdev.info().name, entry.bdev.driver());
    if drivers.contains(&driver) {
        Ok(())
    } else {
        Err(RpcError::field("name", format!("{name} is a {driver} device")))
    }
}

fn resize(c: &Control, p: Resize, drivers: &[&str]) -> Result<Value, RpcError> {
    let field = if p.num_blocks.is_some() && p.new_size.is_none() { "num_blocks" } else { "new_size" };
    let block = u64::from(c.model().bdev(&p.name)?.bdev.info().block_bytes);
    let blocks = match (p.new_size, p.num_blocks) {
        (Some(mib), None) => mib
            .checked_mul(1 << 20)
            .map(|bytes| bytes / block)
            .ok_or_else(|| RpcError::field("new_size", "too large"))?,
        (None, Some(blocks)) => blocks,
        _ => return Err(RpcError::field("new_size", "give new_size (MiB) or num_blocks")),
    };
    if blocks == 0 {
        return Err(RpcError::field(field, "a device has at least one block"));
    }
    resize_to(c, &p.name, Some(blocks), drivers, field)
}

fn resize_to(
    c: &Control,
    name: &str,
    blocks: Option<u64>,
    drivers: &[&str],
    field: &str,
) -> Result<Value, RpcError> {
    let _one_at_a_time = c.changing();
    let (bdev, lu) = {
        let model = c.model();
        let entry = model.bdev(name)?;
        check_driver(entry, drivers)?;
        (entry.bdev.clone(), entry.lu)
    };
    let old = bdev.info().blocks;
    let shrinks = lu.zip(blocks.filter(|blocks| *blocks < old));
    // The unit first, then the device: a write that is still under way must not pass its new end.
    let shrunk = shrinks.map_or(Ok(()), |(lu, blocks)| c.backplane().lu_shrinks(lu, blocks));
    let resized = shrunk.and_then(|()| bdev.resize(blocks).map_err(|e| RpcError::field(field, e)));
    if let Some(lu) = lu
        && (shrinks.is_some() || resized.as_ref().is_ok_and(|new| *new != old))
    {
        // Also if it failed: the unit is as large as its device, then.
        c.backplane().lu_changed(lu, &bdev.info())?;
    }
    let new = resized?;
    if let Some(entry) = c.model().bdevs.get_mut(name) {
        match &mut entry.spec {
            Made::Device(BdevSpec::Malloc(s)) => s.num_blocks = new,
            Made::Device(BdevSpec::Null(s)) => s.num_blocks = new,
            Made::Device(BdevSpec::File(..)) | Made::Delay(..) | Made::Error(..) => {}
        }
    }
    Ok(done())
}

fn describe(entry: &BdevEntry) -> Value {
    let info = entry.bdev.info();
    let mut details = serde_json::Map::new();
    for (name, value) in entry.bdev.details() {
        details.insert(name.into(), value.into());
    }
    json!({
        "name": info.name,
        "product_name": entry.bdev.driver(),
        "uuid": format_uuid(&info.uuid),
        "block_size": info.block_bytes,
        "physical_block_size": u64::from(info.block_bytes) << info.physical_exponent,
        "num_blocks": info.blocks,
        "claimed": entry.uses > 0,
        "read_only": info.read_only,
        "write_cache": info.write_cache,
        "supported_io_types": { "read": true, "write": !info.read_only, "unmap": info.unmap, "flush": true,
                                "write_zeroes": !info.read_only },
        "driver_specific": details,
    })
}

fn with_uuid(spec: BdevSpec, uuid: String) -> BdevSpec {
    let uuid = Some(uuid);
    match spec {
        BdevSpec::Malloc(s) => BdevSpec::Malloc(MallocCreate { uuid, ..s }),
        BdevSpec::Null(s) => BdevSpec::Null(NullCreate { uuid, ..s }),
        BdevSpec::File(s, uring) => BdevSpec::File(FileCreate { uuid, ..s }, uring),
    }
}

/// An identity that comes out the same at every start: from this machine and what the device is made of. A
/// saved configuration carries it, so that it also survives a new name.
fn derive_uuid(spec: &BdevSpec, name: &str) -> [u8; 16] {
    let (kind, what) = match spec {
        BdevSpec::Malloc(_) => ("malloc", name.to_string()),
        BdevSpec::Null(_) => ("null", name.to_string()),
        BdevSpec::File(f, _) => {
            let path = std::fs::canonicalize(&f.filename).unwrap_or_else(|_| f.filename.clone().into());
            ("file", path.to_string_lossy().into_owned())
        }
    };
    identity_of(kind, &what)
}

/// An identity out of this machine's and two words.
pub(super) fn identity_of(kind: &str, what: &str) -> [u8; 16] {
    static MACHINE: LazyLock<String> =
        LazyLock::new(|| std::fs::read_to_string("/etc/machine-id").unwrap_or_default());
    let hash = Sha256::new()
        .chain_update(MACHINE.trim())
        .chain_update([0])
        .chain_update(kind)
        .chain_update([0])
        .chain_update(what)
        .finalize();
    let mut uuid: [u8; 16] = hash[..16].try_into().expect("a SHA-256 has 32 bytes");
    // RFC 9562: version 8 (custom), variant 10b.
    uuid[6] = (uuid[6] & 0x0F) | 0x80;
    uuid[8] = (uuid[8] & 0x3F) | 0x80;
    uuid
}

fn parse_uuid(text: &str) -> Result<[u8; 16], RpcError> {
    let bad = || {
        RpcError::field("uuid", format!("{text:?} is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
    };
    let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
    if digits.len() != 32 || text.len() > 36 {
        return Err(bad());
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
    }
    Ok(uuid)
}

pub(crate) fn format_uuid(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_comes_back_as_it_was() {
        let text = "01234567-89ab-8def-8123-456789abcdef";
        assert_eq!(format_uuid(&parse_uuid(text).unwrap()), text);
        for bad in ["", "x", "01234567-89ab-8def-8123-456789abcdeg", "0123456789ab8def8123456789abcdef00"] {
            assert!(parse_uuid(bad).is_err(), "{bad}");
        }
    }
}
