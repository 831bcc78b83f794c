//! SCSI Command headers made once and patched for each command: tag, sequence numbers, address.

use spindle_iscsi_wire::{BHS_LEN, Bhs, Itt, ScsiCommand, SerialNumber, TaskAttribute};

use crate::session::Geometry;

/// A READ or a WRITE of one size.
pub struct Template {
    header: Bhs,
    /// Bytes of the CDB's address field: READ(10) has four of them, READ(16) eight.
    wide_lba: bool,
}

/// What a template needs to know.
pub struct Shape {
    /// Logical unit.
    pub lun: [u8; 8],
    /// WRITE in place of READ.
    pub write: bool,
    /// Bytes of data.
    pub bytes: u32,
    /// Bytes of immediate data.
    pub immediate: u32,
    /// Unsolicited Data-Out PDUs follow.
    pub unsolicited_follows: bool,
}

impl Template {
    /// Makes one. The shorter CDB is used where addresses and lengths fit, as initiators do.
    pub fn new(shape: &Shape, geometry: Geometry) -> Self {
        let blocks = shape.bytes / geometry.block_len;
        let wide_lba = geometry.blocks > 1 << 32 || blocks > 0xFFFF;
        let mut cdb = [0; 16];
        if wide_lba {
            cdb[0] = if shape.write { 0x8A } else { 0x88 };
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        } else {
            cdb[0] = if shape.write { 0x2A } else { 0x28 };
            cdb[7..9].copy_from_slice(&(blocks as u16).to_be_bytes());
        }
        let command = ScsiCommand {
            immediate: false,
            is_final: !shape.unsolicited_follows,
            read: !shape.write,
            write: shape.write,
            attr: TaskAttribute::Simple,
            priority: 0,
            ahs_words: 0,
            data_len: shape.immediate,
            lun: shape.lun,
            itt: Itt(0),
            edtl: shape.bytes,
            cmd_sn: SerialNumber(0),
            exp_stat_sn: SerialNumber(0),
            cdb,
        };
        Self { header: command.to_bhs(), wide_lba }
    }

    /// Writes a command into `out`, 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8], itt: u32, cmd_sn: SerialNumber, exp_stat_sn: SerialNumber, lba: u64) {
        let out = out.first_chunk_mut::<BHS_LEN>().expect("a header slot holds a header");
        *out = self.header;
        out[16..20].copy_from_slice(&itt.to_be_bytes());
        out[24..28].copy_from_slice(&cmd_sn.0.to_be_bytes());
        out[28..32].copy_from_slice(&exp_stat_sn.0.to_be_bytes());
        if self.wide_lba {
            out[34..42].copy_from_slice(&lba.to_be_bytes());
        } else {
            out[34..38].copy_from_slice(&(lba as u32).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(write: bool, blocks: u64) -> ScsiCommand {
        let shape = Shape { lun: [0; 8], write, bytes: 4096, immediate: 0, unsolicited_follows: false };
        let template = Template::new(&shape, Geometry { blocks, block_len: 512 });
        let mut out = [0xEE; BHS_LEN];
        template.emit(&mut out, 0x0001_0002, SerialNumber(9), SerialNumber(7), 0x0102_0304);
        ScsiCommand::parse(&out).unwrap()
    }

    #[test]
    fn small_units_are_read_with_ten_bytes_and_large_ones_with_sixteen() {
        let read = command(false, 1 << 32);
        assert_eq!(read.cdb, [0x28, 0, 1, 2, 3, 4, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert!(read.read && !read.write && read.is_final);
        assert_eq!((read.itt, read.cmd_sn.0, read.exp_stat_sn.0, read.edtl), (Itt(0x0001_0002), 9, 7, 4096));
        let write = command(true, (1 << 32) + 1);
        assert_eq!(write.cdb, [0x8A, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 8, 0, 0]);
        assert!(write.write && !write.read);
    }
}
