//! What one command may ask of a disk: the figures of VPD page B0h, and the very ones commands are held to.

use spindle_bdev::BdevInfo;
use spindle_scsi_spec::vpd::BlockLimits;

/// Blocks one UNMAP may deallocate, over all its descriptors.
pub const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Block descriptors in one UNMAP: with the header, its parameter list has at most 4,104 bytes.
pub const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// Blocks one WRITE SAME may write: so few that a disk still answers others between two of them. libiscsi's
/// suite, besides, writes and reads 65,536 blocks by one command each where WRITE SAME takes as many.
pub const WRITE_SAME_BLOCKS_MAX: u64 = 32_768;

/// Block limits of a disk; all lengths in logical blocks. `transfer_bytes_max` is the mid-level's own limit.
pub fn block_limits(info: &BdevInfo, transfer_bytes_max: u32) -> BlockLimits {
    let block_bytes = info.block_bytes.max(1);
    let device_max = if info.transfer_max == 0 { u32::MAX } else { info.transfer_max };
    let transfer_max = (transfer_bytes_max / block_bytes).min(device_max).max(1);
    let unmap = |value: u32| if info.unmap { value } else { 0 };
    BlockLimits {
        // A WRITE SAME "to the end of the disk" has no bound that could be told, so it is refused.
        wsnz: true,
        // Both halves, old and new data, are one transfer.
        compare_and_write_max: u8::try_from(transfer_max / 2).unwrap_or(u8::MAX),
        transfer_granularity: info.optimal_granularity,
        transfer_max,
        transfer_optimal: info.optimal_transfer.min(transfer_max),
        unmap_blocks_max: unmap(UNMAP_BLOCKS_MAX),
        unmap_descriptors_max: unmap(UNMAP_DESCRIPTORS_MAX),
        unmap_granularity: unmap(info.unmap_granularity),
        unmap_alignment: (info.unmap && info.unmap_granularity != 0)
            .then(|| info.unmap_alignment % info.unmap_granularity),
        write_same_max: WRITE_SAME_BLOCKS_MAX,
        ..BlockLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_smaller_of_device_and_mid_level_limits_a_transfer() {
        let info = fixture::disk();
        assert_eq!(block_limits(&info, 1 << 20).transfer_max, 2048);
        let narrow = BdevInfo { transfer_max: 100, optimal_transfer: 128, ..info.clone() };
        let limits = block_limits(&narrow, 1 << 20);
        assert_eq!(
            (limits.transfer_max, limits.transfer_optimal, limits.compare_and_write_max),
            (100, 100, 50)
        );
        let large = BdevInfo { block_bytes: 4096, ..info.clone() };
        assert_eq!(block_limits(&large, 1 << 20).transfer_max, 256);
        assert_eq!(block_limits(&info, u32::MAX).compare_and_write_max, 255);
    }

    #[test]
    fn a_disk_that_cannot_deallocate_reports_no_unmap() {
        let info = BdevInfo { unmap: false, unmap_granularity: 8, ..fixture::disk() };
        let limits = block_limits(&info, 1 << 20);
        assert_eq!((limits.unmap_blocks_max, limits.unmap_descriptors_max), (0, 0));
        assert_eq!((limits.unmap_granularity, limits.unmap_alignment), (0, None));
    }

    #[test]
    fn unmap_figures_are_what_libiscsi_calls_sane() {
        let info = BdevInfo { physical_exponent: 3, ..fixture::disk() };
        let limits = block_limits(&info, 1 << 20);
        assert!(limits.unmap_blocks_max >= 1 << info.physical_exponent && limits.unmap_blocks_max <= 1 << 20);
        assert!(limits.unmap_descriptors_max > 0 && limits.unmap_descriptors_max <= 1 << 20);
    }
}
