//! What the methods take: parameter structs, named as in SPDK's `rpc.py` where it has the method.

use serde::{Deserialize, Serialize};

/// `bdev_malloc_create`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MallocCreate {
    /// Name; `Malloc0`, `Malloc1`, … if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Capacity in blocks.
    pub num_blocks: u64,
    /// Logical block in bytes.
    pub block_size: u32,
    /// Physical block in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_size: Option<u32>,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// `bdev_null_create`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NullCreate {
    /// Name.
    pub name: String,
    /// Capacity in blocks.
    pub num_blocks: u64,
    /// Logical block in bytes.
    pub block_size: u32,
    /// Physical block in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_size: Option<u32>,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// How a file's writes become durable.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// Volatile write cache (WCE = 1): durable after SYNCHRONIZE CACHE or FUA.
    #[default]
    WriteBack,
    /// Every write is durable when it is answered (WCE = 0).
    WriteThrough,
    /// The operator vouches that the host's memory survives a power cut: flushes are answered at once (SCST's
    /// `nv_cache`).
    NvCache,
}

/// `bdev_aio_create` and `bdev_uring_create`: a file or a block device.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FileCreate {
    /// Name.
    pub name: String,
    /// Path of the file or block device.
    pub filename: String,
    /// Logical block in bytes; 512 for files, the device's own for block devices, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// Physical block in bytes, as initiators are told; the file system's or the device's own if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_size: Option<u32>,
    /// No writes.
    #[serde(default)]
    pub readonly: bool,
    /// Make the file, sparse, with this many bytes, if it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_bytes: Option<u64>,
    /// O_DIRECT instead of the page cache. Block devices are always direct.
    #[serde(default)]
    pub direct: bool,
    /// How writes become durable.
    #[serde(default)]
    pub cache: CacheMode,
    /// Deallocate on UNMAP.
    #[serde(default = "yes", alias = "fallocate")]
    pub unmap: bool,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// Where a slow device's operations spend their time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum DelayKind {
    /// In front of the device: an abort takes them out, and they have had no effect.
    #[default]
    Queued,
    /// Behind it: carried out at once, answered late, and nothing moves them.
    Late,
}

/// `bdev_delay_create`, `bdev_delay_set`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Name of the slow device.
    pub name: String,
    /// The device behind it (`create` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_bdev_name: Option<String>,
    /// How long each operation takes longer, in microseconds; none: for ever.
    pub delay_us: Option<u64>,
    /// Where it spends the time.
    #[serde(default)]
    pub form: DelayKind,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// `bdev_error_create`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ErrorCreate {
    /// The device behind it.
    pub base_name: String,
    /// Name; `EE_` and the base's name if none is given, as in SPDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// `bdev_error_inject_error`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectError {
    /// Which device.
    pub name: String,
    /// `read`, `write`, `flush`, `unmap`, `all`, or `clear`.
    pub io_type: String,
    /// `failure` (medium error), `nospace`, `gone`, `aborted`.
    #[serde(default = "failure")]
    pub error_type: String,
    /// How many operations meet it; 1 if none is given.
    #[serde(default = "one")]
    pub num: u64,
}

/// The deletes and everything else that takes a name only.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ByName {
    /// Name.
    pub name: String,
}

/// Getters that take an optional name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaybeName {
    /// One only.
    #[serde(default)]
    pub name: Option<String>,
    /// SPDK's: how long to wait for the device to appear; we answer at once.
    #[serde(default, rename = "timeout")]
    pub _timeout_ms: Option<u64>,
}

/// `bdev_null_resize`, `bdev_aio_resize`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Name.
    pub name: String,
    /// New size in MiB (SPDK's unit).
    #[serde(default)]
    pub new_size: Option<u64>,
    /// New size in blocks.
    #[serde(default)]
    pub num_blocks: Option<u64>,
}

/// A method without parameters.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// One portal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Address: IPv4, IPv6 with or without brackets, `0.0.0.0` or `::` for all.
    pub host: String,
    /// TCP port, as a string (SPDK) or a number; 3260 if none is given.
    #[serde(default = "iscsi_port", deserialize_with = "port", serialize_with = "port_text")]
    pub port: u16,
}

/// `iscsi_create_portal_group`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PortalGroup {
    /// Portal group tag, 1 to 65,535.
    pub tag: u16,
    /// Its portals.
    pub portals: Vec<Portal>,
    /// Left out of discovery through other groups.
    #[serde(default)]
    pub private: bool,
    /// Bind to addresses that are not loopback although targets behind this group have neither an access list
    /// nor CHAP.
    #[serde(default)]
    pub allow_open_access: bool,
}

/// Deletes by tag.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByTag {
    /// Which.
    pub tag: u32,
}

/// `iscsi_create_initiator_group`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct InitiatorGroup {
    /// Tag.
    pub tag: u32,
    /// iSCSI names, with `*` and `?`; `ANY`; `!` in front refuses.
    pub initiators: Vec<String>,
    /// Addresses: `ANY`, an address, or a network as `10.0.0.0/8`.
    pub netmasks: Vec<String>,
}

/// A secret of an auth group: in clear, or better, the file that holds it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The initiator's CHAP name.
    pub user: String,
    /// Its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// A file whose first line is the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
    /// Mutual CHAP: the target's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muser: Option<String>,
    /// Mutual CHAP: the target's secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msecret: Option<String>,
    /// A file whose first line is the target's secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msecret_file: Option<String>,
}

/// `iscsi_create_auth_group`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct AuthGroup {
    /// Tag, at least 1.
    pub tag: u32,
    /// Its secrets.
    #[serde(default)]
    pub secrets: Vec<Secret>,
}

/// Which initiators come through which portals.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PgIgMap {
    /// Portal group.
    pub pg_tag: u16,
    /// Initiator group.
    pub ig_tag: u32,
}

/// A LUN of a target.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LunSpec {
    /// Which bdev.
    pub bdev_name: String,
    /// Its number, 0 to 16,383.
    pub lun_id: u32,
    /// No writes through this LUN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// `iscsi_create_target_node`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TargetNode {
    /// iSCSI name, or the part behind the node base.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub alias_name: String,
    /// Access.
    pub pg_ig_maps: Vec<PgIgMap>,
    /// LUNs.
    #[serde(default)]
    pub luns: Vec<LunSpec>,
    /// Commands a session may have outstanding at most; 128 if none is given.
    #[serde(default = "queue_depth")]
    pub queue_depth: u32,
    /// No CHAP even if an initiator offers it.
    #[serde(default)]
    pub disable_chap: bool,
    /// CHAP or no login.
    #[serde(default)]
    pub require_chap: bool,
    /// The target proves itself too.
    #[serde(default)]
    pub mutual_chap: bool,
    /// Auth group; 0: none.
    #[serde(default)]
    pub chap_group: u32,
    /// Header digest or no login.
    #[serde(default)]
    pub header_digest: bool,
    /// Data digest or no login.
    #[serde(default)]
    pub data_digest: bool,
}

/// `iscsi_target_node_add_lun`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLun {
    /// Target.
    pub name: String,
    /// Which bdev.
    pub bdev_name: String,
    /// Its number; the lowest free one if none is given.
    #[serde(default)]
    pub lun_id: Option<u32>,
    /// No writes through this LUN.
    #[serde(default)]
    pub read_only: bool,
}

/// `iscsi_target_node_remove_lun` (ours: SPDK has none).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveLun {
    /// Target.
    pub name: String,
    /// Which.
    pub lun_id: u32,
}

/// `iscsi_target_node_add_pg_ig_maps` and `_remove_`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMaps {
    /// Target.
    pub name: String,
    /// Which.
    pub pg_ig_maps: Vec<PgIgMap>,
}

/// `iscsi_target_node_set_auth`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAuth {
    /// Target.
    pub name: String,
    /// Auth group; 0: none.
    #[serde(default)]
    pub chap_group: u32,
    /// No CHAP even if an initiator offers it.
    #[serde(default)]
    pub disable_chap: bool,
    /// CHAP or no login.
    #[serde(default)]
    pub require_chap: bool,
    /// The target proves itself too.
    #[serde(default)]
    pub mutual_chap: bool,
}

/// `iscsi_set_discovery_auth`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryAuth {
    /// Auth group; 0: none.
    #[serde(default)]
    pub chap_group: u32,
    /// No CHAP even if an initiator offers it.
    #[serde(default)]
    pub disable_chap: bool,
    /// CHAP or no discovery.
    #[serde(default)]
    pub require_chap: bool,
    /// The target proves itself too.
    #[serde(default)]
    pub mutual_chap: bool,
}

/// `save_config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveConfig {
    /// Write it here (mode 0600) besides answering with it.
    #[serde(default)]
    pub filename: Option<String>,
    /// SPDK's: pretty-printing is the client's business.
    #[serde(default, rename = "indent")]
    pub _indent: Option<u32>,
}

fn failure() -> String {
    "failure".into()
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn iscsi_port() -> u16 {
    3260
}

fn queue_depth() -> u32 {
    crate::limits::QUEUE_DEPTH
}

fn port<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u16),
        Text(String),
    }
    match Either::deserialize(d)? {
        Either::Number(n) => Ok(n),
        Either::Text(t) => {
            t.parse().map_err(|_| serde::de::Error::custom(format!("{t:?} is not a TCP port (0 to 65535)")))
        }
    }
}

fn port_text<S: serde::Serializer>(port: &u16, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&port.to_string())
}
