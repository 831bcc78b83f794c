//! A disk to describe, for tests.

use spindle_bdev::BdevInfo;
use spindle_scsi_port::{NexusInfo, TransportKind};
use spindle_scsi_spec::{Emit, Sense};

use super::mode::ModePages;
use super::{Describe, LuView, TargetPort};
use crate::config::LuIdentity;
use crate::reserve::ReserveTable;

pub const UUID: [u8; 16] = [0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0x4D, 0xEF, 0x80, 1, 2, 3, 4, 5, 6, 7];

/// 1 GiB in blocks of 512 bytes, with a cache, thin.
pub fn disk() -> BdevInfo {
    BdevInfo {
        name: "disk".into(),
        uuid: UUID,
        block_bytes: 512,
        physical_exponent: 3,
        lowest_aligned: 0,
        blocks: 1 << 21,
        write_cache: true,
        read_only: false,
        rotation_rate: 1,
        unmap: true,
        unmap_zeroes: true,
        unmap_granularity: 8,
        unmap_alignment: 0,
        optimal_granularity: 8,
        optimal_transfer: 1024,
        transfer_max: 65_536,
        lends: false,
    }
}

/// What a [`LuView`] borrows from.
pub struct Owner {
    pub info: BdevInfo,
    pub identity: LuIdentity,
    pub modes: ModePages,
    pub reserve: ReserveTable,
    pub nexus: NexusInfo,
    pub ports: Vec<TargetPort>,
    pub read_only: bool,
    pub can_store: bool,
}

impl Owner {
    pub fn of(info: BdevInfo) -> Owner {
        let target = "iqn.2026-01.example:t";
        Owner {
            modes: ModePages::new(&info, false),
            identity: LuIdentity::of_uuid(info.uuid),
            reserve: ReserveTable::new(),
            nexus: NexusInfo {
                transport: TransportKind::Iscsi,
                initiator_name: "iqn.2026-01.example:i".into(),
                initiator_session: [0x40, 0, 0, 1, 0, 0],
                target_name: target.into(),
                target: 0,
                target_port: 1,
                lun_map: 0,
                peer_address: "127.0.0.1:40000".into(),
            },
            ports: vec![TargetPort { relative: 1, group: 0, name: format!("{target},t,0x0001") }],
            read_only: false,
            can_store: true,
            info,
        }
    }

    pub fn view(&self) -> LuView<'_> {
        LuView {
            info: &self.info,
            identity: &self.identity,
            modes: &self.modes,
            reserve: &self.reserve,
            nexus: &self.nexus,
            ports: &self.ports,
            transfer_bytes_max: 1 << 20,
            read_only: self.read_only,
            tst_shared: false,
            can_store: self.can_store,
        }
    }

    /// What the command returns, cut by its allocation length; and what it would have returned.
    pub fn ask(&self, describe: Describe, cdb: &[u8]) -> Result<(Vec<u8>, usize), Sense> {
        let mut room = vec![0xEE; 8192];
        let mut out = Emit::new(&mut room);
        let allocated = describe(cdb, &self.view(), &mut out)? as usize;
        let full = out.full_len();
        assert!(full <= 8192, "a describing command says at most 8 KiB");
        room.truncate(full.min(allocated));
        Ok((room, full))
    }

    /// All of it.
    pub fn all(&self, describe: Describe, cdb: &[u8]) -> Vec<u8> {
        let (bytes, full) = self.ask(describe, cdb).unwrap();
        assert_eq!(bytes.len(), full, "cut by the allocation length");
        bytes
    }
}

pub fn describing() -> Owner {
    Owner::of(disk())
}
