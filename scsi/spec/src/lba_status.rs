//! GET LBA STATUS data (SBC-4 §5.6).

use crate::{Emit, be, emit::len32};

/// PROVISIONING STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProvisioningStatus {
    /// 0h: mapped, or its state is not known.
    Mapped,
    /// 1h: deallocated.
    Deallocated,
    /// 2h: anchored.
    Anchored,
    /// Any other code, 4 bits.
    Other(u8),
}

/// Blocks in a row with the same state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LbaStatus {
    /// LBA STATUS LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS.
    pub blocks: u32,
    /// PROVISIONING STATUS.
    pub provisioning: ProvisioningStatus,
}

/// Writes the data. The first extent has to begin with the LBA asked for, the others follow without gaps.
/// At least one is needed.
pub fn emit_lba_status(extents: impl IntoIterator<Item = LbaStatus>, w: &mut Emit<'_>) {
    let start = w.full_len();
    w.zeros(8);
    for e in extents {
        let status = match e.provisioning {
            ProvisioningStatus::Mapped => 0,
            ProvisioningStatus::Deallocated => 1,
            ProvisioningStatus::Anchored => 2,
            ProvisioningStatus::Other(code) => code & 0x0F,
        };
        w.u64(e.lba).u32(e.blocks).u8(status).zeros(3);
    }
    let length = w.full_len() - start - 4;
    w.patch_u32(start, len32(length));
}

/// The extents in the data an initiator got; one that was cut is left out.
pub fn parse_lba_status(bytes: &[u8]) -> Option<impl ExactSizeIterator<Item = LbaStatus> + '_> {
    let promised = usize::try_from(be::u32(bytes, 0)).ok()?.saturating_add(4);
    let (descriptors, _) = bytes.get(8..promised.min(bytes.len()))?.as_chunks::<16>();
    Some(descriptors.iter().map(|d| LbaStatus {
        lba: be::u64(d, 0),
        blocks: be::u32(d, 8),
        provisioning: match d[12] & 0x0F {
            0 => ProvisioningStatus::Mapped,
            1 => ProvisioningStatus::Deallocated,
            2 => ProvisioningStatus::Anchored,
            code => ProvisioningStatus::Other(code),
        },
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_extents_are_40_bytes() {
        let mapped = LbaStatus { lba: 0, blocks: 8, provisioning: ProvisioningStatus::Mapped };
        let hole = LbaStatus { lba: 8, blocks: 0x100, provisioning: ProvisioningStatus::Deallocated };
        let mut room = [0xEE; 40];
        let mut w = Emit::new(&mut room);
        emit_lba_status([mapped, hole], &mut w);
        assert_eq!(w.full_len(), 40);
        assert_eq!(room[..8], [0, 0, 0, 36, 0, 0, 0, 0]);
        assert_eq!(room[24..], [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 1, 0, 1, 0, 0, 0]);
        assert!(parse_lba_status(&room).unwrap().eq([mapped, hole]));
        assert_eq!(parse_lba_status(&room[..39]).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(list) = parse_lba_status(&b) {
                prop_assert!(list.count() * 16 + 8 <= b.len());
            }
        }
    }
}
