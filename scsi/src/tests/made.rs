//! What the bench is made with: a unit, a nexus, commands.

use spindle_bdev::{BdevInfo, ChannelId};
use spindle_reactor::CoreId;
use spindle_scsi_port::{NexusInfo, TransportKind};
use spindle_scsi_spec::cdb::{Family, Read, Write};

use super::{BLOCK, LU};
use crate::{LuIdentity, LuSpec};

pub fn spec(info: &BdevInfo, tst_shared: bool) -> LuSpec {
    LuSpec {
        lu: LU,
        channel: ChannelId(3),
        info: info.clone(),
        identity: LuIdentity::of_uuid(info.uuid),
        home: CoreId(0),
        tst_shared,
        write_protect: false,
        can_store: true,
        saved_modes: None,
        saved_reservations: None,
    }
}

pub fn nexus_info(name: u8) -> NexusInfo {
    NexusInfo {
        transport: TransportKind::Iscsi,
        initiator_name: format!("iqn.2026-01.example:i{name}"),
        initiator_session: [0x40, 0, 0, name, 0, 0],
        target_name: "iqn.2026-01.example:t".into(),
        target: 0,
        target_port: 1,
        lun_map: 1,
        peer_address: String::new(),
    }
}

pub const TUR: [u8; 6] = [0; 6];

pub fn read(lba: u64, blocks: u32) -> Vec<u8> {
    Read::new(Family::Ten, lba, blocks).emit().as_bytes().to_vec()
}

pub fn write(lba: u64, blocks: u32) -> Vec<u8> {
    Write::new(Family::Ten, lba, blocks).emit().as_bytes().to_vec()
}

pub fn blocks(fill: u8, n: usize) -> Vec<u8> {
    vec![fill; n * BLOCK]
}

pub fn compare_and_write(lba: u64) -> Vec<u8> {
    let mut cdb = vec![0x89, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.extend([0, 0, 0, 1, 0, 0]);
    cdb
}

/// PERSISTENT RESERVE OUT of a service action with a type.
pub fn persistent_out(action: u8, kind: u8) -> Vec<u8> {
    vec![0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

/// Its parameter list: own key, and the key the action is about.
pub fn pr_list(key: u64, service_key: u64) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(service_key.to_be_bytes());
    list.extend([0; 8]);
    list
}
