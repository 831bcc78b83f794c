//! The object model: what exists and what refers to what. Plain data; no effects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use spindle_bdev::Bdev;
use spindle_bdev::delay::Delays;
use spindle_bdev::fault::Faults;
use spindle_conf::jsonrpc::RpcError;
use spindle_iscsi::config::{NamePattern, Netmask};

use super::BdevSpec;
use super::specs::{
    AuthGroup, Delay, DiscoveryAuth, ErrorCreate, InitiatorGroup, PgIgMap, PortalGroup, TargetNode,
};

/// LUN number → logical unit, and whether it is read-only through this LUN.
pub type LunMap = Vec<(u32, u32, bool)>;

/// Everything that was configured.
#[derive(Default)]
pub struct Model {
    /// Devices by name.
    pub bdevs: BTreeMap<String, BdevEntry>,
    /// Portal groups by tag.
    pub portal_groups: BTreeMap<u16, PortalGroup>,
    /// Initiator groups by tag.
    pub initiator_groups: BTreeMap<u32, InitiatorGroup>,
    /// Auth groups by tag, their secrets read.
    pub auth_groups: BTreeMap<u32, AuthEntry>,
    /// How initiators prove themselves before they are told of targets.
    pub discovery_auth: DiscoveryAuth,
    /// Targets by name.
    pub targets: BTreeMap<String, TargetEntry>,
    /// A configuration is being replayed.
    pub replaying: bool,
    /// Name of the device of each identity.
    identities: HashMap<[u8; 16], String>,
    next_lu: u32,
    next_target: u32,
    next_malloc: u32,
}

/// A device.
pub struct BdevEntry {
    /// It.
    pub bdev: Arc<dyn Bdev>,
    /// How it was made, for `save_config`.
    pub spec: Made,
    /// The decorator that has it for itself.
    pub decorated_by: Option<String>,
    /// Its logical unit, once a LUN refers to it.
    pub lu: Option<u32>,
    /// LUNs that refer to it.
    pub uses: u32,
}

/// How a device came about.
pub enum Made {
    /// By the backplane.
    Device(BdevSpec),
    /// A slow device in front of another.
    Delay(Delay, Arc<Delays>),
    /// A failing device in front of another.
    Error(ErrorCreate, Arc<Faults>),
}

impl Made {
    /// The device behind a decorator.
    pub fn base(&self) -> Option<&str> {
        match self {
            Made::Device(_) => None,
            Made::Delay(spec, _) => spec.base_bdev_name.as_deref(),
            Made::Error(spec, _) => Some(&spec.base_name),
        }
    }
}

/// An auth group.
pub struct AuthEntry {
    /// As configured: this is what is saved, so a secret from a file stays in its file.
    pub spec: AuthGroup,
    /// Its secrets.
    pub secrets: Vec<ReadSecret>,
}

/// A secret, read.
#[derive(Clone)]
pub struct ReadSecret {
    /// The initiator's CHAP name and secret.
    pub user: (String, Vec<u8>),
    /// The target's.
    pub mutual: Option<(String, Vec<u8>)>,
}

/// A target.
pub struct TargetEntry {
    /// As configured, with its LUNs as they are now.
    pub spec: TargetNode,
    /// Its number: names its LUN map, and its relative identity at the cores.
    pub id: u32,
}

/// A name that no list has on purpose: a pattern that fits it fits anybody.
const STRANGER: &str = "iqn.1992-08.invalid.nobody.we.know:anybody";

/// Targets of one process.
pub const TARGETS_MAX: usize = 65_535;
/// LUNs of one target (14 bits: flat space addressing, SAM-5 §4.7).
pub const LUNS_MAX: u32 = 16_384;

impl Model {
    /// A device by name.
    pub fn bdev(&self, name: &str) -> Result<&BdevEntry, RpcError> {
        self.bdevs.get(name).ok_or_else(|| RpcError::missing(format_args!("bdev {name}")))
    }

    /// The device that has an identity.
    pub fn bdev_of_identity(&self, uuid: &[u8; 16]) -> Option<&str> {
        self.identities.get(uuid).map(String::as_str)
    }

    /// A new device, used by nobody yet.
    pub fn add_bdev(&mut self, name: &str, bdev: Arc<dyn Bdev>, spec: Made) {
        self.identities.insert(bdev.info().uuid, name.into());
        self.bdevs.insert(name.into(), BdevEntry { bdev, spec, decorated_by: None, lu: None, uses: 0 });
    }

    /// A device goes.
    pub fn remove_bdev(&mut self, name: &str) -> Option<BdevEntry> {
        let gone = self.bdevs.remove(name)?;
        self.identities.remove(&gone.bdev.info().uuid);
        Some(gone)
    }

    /// A target by name.
    pub fn target(&self, name: &str) -> Result<&TargetEntry, RpcError> {
        self.targets.get(name).ok_or_else(|| RpcError::missing(format_args!("target node {name}")))
    }

    /// A number for a new logical unit.
    pub fn new_lu(&mut self) -> u32 {
        let lu = self.next_lu;
        self.next_lu += 1;
        lu
    }

    /// A number for a new target.
    pub fn new_target(&mut self) -> u32 {
        self.next_target += 1;
        self.next_target
    }

    /// `Malloc0`, `Malloc1`, …: the next that is free.
    pub fn new_malloc_name(&mut self) -> String {
        loop {
            let name = format!("Malloc{}", self.next_malloc);
            self.next_malloc += 1;
            if !self.bdevs.contains_key(&name) {
                return name;
            }
        }
    }

    /// The LUN map of a target: numbers, units, read-only.
    pub fn lun_map(&self, target: &TargetEntry) -> LunMap {
        let mut map: LunMap = target
            .spec
            .luns
            .iter()
            .filter_map(|l| Some((l.lun_id, self.bdevs.get(&l.bdev_name)?.lu?, l.read_only)))
            .collect();
        map.sort_unstable();
        map
    }

    /// Whether these rules for CHAP make sense together, and name an auth group that exists.
    pub fn check_chap(&self, group: u32, disable: bool, require: bool, mutual: bool) -> Result<(), RpcError> {
        if require && disable {
            return Err(RpcError::field("disable_chap", "require_chap and disable_chap exclude each other"));
        }
        if mutual && !require {
            return Err(RpcError::field("mutual_chap", "needs require_chap"));
        }
        if group == 0 {
            return match require {
                true => Err(RpcError::field("chap_group", "require_chap needs an auth group")),
                false => Ok(()),
            };
        }
        match self.auth_groups.contains_key(&group) {
            true => Ok(()),
            false => Err(RpcError::field("chap_group", format!("there is no auth group {group}"))),
        }
    }

    /// Whether every pair names a portal group and an initiator group that exist.
    pub fn check_maps(&self, maps: &[PgIgMap], field: &str) -> Result<(), RpcError> {
        for (i, m) in maps.iter().enumerate() {
            if !self.portal_groups.contains_key(&m.pg_tag) {
                let why = format!("there is no portal group {}", m.pg_tag);
                return Err(RpcError::field(format!("{field}[{i}].pg_tag"), why));
            }
            if !self.initiator_groups.contains_key(&m.ig_tag) {
                let why = format!("there is no initiator group {}", m.ig_tag);
                return Err(RpcError::field(format!("{field}[{i}].ig_tag"), why));
            }
        }
        Ok(())
    }

    /// Whether anybody can log in to this target without a name on a list and without a secret.
    pub fn is_open(&self, target: &TargetNode) -> bool {
        !target.require_chap
            && target.pg_ig_maps.iter().any(|m| {
                self.initiator_groups.get(&m.ig_tag).is_some_and(|g| {
                    let stranger =
                        |n: &String| n.parse::<NamePattern>().ok().and_then(|p| p.verdict(STRANGER));
                    let everywhere =
                        |n: &String| matches!(n.parse(), Ok(Netmask::Any) | Ok(Netmask::Prefix(_, 0)));
                    g.initiators.iter().find_map(stranger) == Some(true) && g.netmasks.iter().any(everywhere)
                })
            })
    }
}
