//! READ CAPACITY data (SBC-4 §5.20, §5.21).

use crate::{Emit, be, emit::flag};

/// READ CAPACITY(10) data, 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Capacity10 {
    /// RETURNED LOGICAL BLOCK ADDRESS, the last block; FFFFFFFFh sends the initiator to READ CAPACITY(16).
    pub last_lba: u32,
    /// LOGICAL BLOCK LENGTH IN BYTES.
    pub block_bytes: u32,
}

impl Capacity10 {
    /// Writes the data.
    pub fn emit(&self, w: &mut Emit<'_>) {
        w.u32(self.last_lba).u32(self.block_bytes);
    }

    /// From the data an initiator got; `None` if it is not whole.
    pub fn parse(bytes: &[u8]) -> Option<Capacity10> {
        (bytes.len() >= 8).then(|| Capacity10 { last_lba: be::u32(bytes, 0), block_bytes: be::u32(bytes, 4) })
    }
}

/// How blocks are protected, from P_TYPE and PROT_EN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Protection {
    /// Type 0: none.
    #[default]
    None,
    /// Type 1.
    Type1,
    /// Type 2.
    Type2,
    /// Type 3.
    Type3,
}

/// READ CAPACITY(16) data, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capacity16 {
    /// RETURNED LOGICAL BLOCK ADDRESS, the last block.
    pub last_lba: u64,
    /// LOGICAL BLOCK LENGTH IN BYTES, without protection information.
    pub block_bytes: u32,
    /// P_TYPE and PROT_EN.
    pub protection: Protection,
    /// P_I_EXPONENT, 4 bits: two to this are the protection information intervals of a block.
    pub pi_exponent: u8,
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 4 bits.
    pub physical_exponent: u8,
    /// LBPME: provisioning is managed, so blocks can be unmapped.
    pub lbpme: bool,
    /// LBPRZ: unmapped blocks read as zeros.
    pub lbprz: bool,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned_lba: u16,
}

impl Capacity16 {
    /// Length of the data.
    pub const BYTES: usize = 32;

    /// Writes the data.
    pub fn emit(&self, w: &mut Emit<'_>) {
        let protection = match self.protection {
            Protection::None => 0b0000,
            Protection::Type1 => 0b0001,
            Protection::Type2 => 0b0011,
            Protection::Type3 => 0b0101,
        };
        w.u64(self.last_lba).u32(self.block_bytes).u8(protection);
        w.u8(self.pi_exponent << 4 | self.physical_exponent & 0x0F);
        let provisioning = flag(self.lbpme, 7) | flag(self.lbprz, 6);
        w.u16(u16::from(provisioning) << 8 | self.lowest_aligned_lba & 0x3FFF).zeros(16);
    }

    /// From the data an initiator got; `None` if the capacity itself was cut.
    pub fn parse(bytes: &[u8]) -> Option<Capacity16> {
        if bytes.len() < 12 {
            return None;
        }
        Some(Capacity16 {
            last_lba: be::u64(bytes, 0),
            block_bytes: be::u32(bytes, 8),
            protection: match be::u8(bytes, 12) & 0x0F {
                0b0001 => Protection::Type1,
                0b0011 => Protection::Type2,
                0b0101 => Protection::Type3,
                _ => Protection::None,
            },
            pi_exponent: be::u8(bytes, 13) >> 4,
            physical_exponent: be::u8(bytes, 13) & 0x0F,
            lbpme: be::bit(bytes, 14, 7),
            lbprz: be::bit(bytes, 14, 6),
            lowest_aligned_lba: be::u16(bytes, 14) & 0x3FFF,
        })
    }

    /// The same disk as READ CAPACITY(10) tells it.
    pub fn to_10(&self) -> Capacity10 {
        Capacity10 {
            last_lba: u32::try_from(self.last_lba).unwrap_or(u32::MAX),
            block_bytes: self.block_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thin_disk_of_4k_sectors_in_512_byte_blocks() {
        let disk = Capacity16 {
            last_lba: 0x1_0000_0000,
            block_bytes: 512,
            protection: Protection::Type1,
            physical_exponent: 3,
            lbpme: true,
            lbprz: true,
            lowest_aligned_lba: 1,
            ..Default::default()
        };
        let mut room = [0xEE; 32];
        let mut w = Emit::new(&mut room);
        disk.emit(&mut w);
        assert_eq!(w.full_len(), 32);
        assert_eq!(room[..16], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 1, 3, 0xC0, 1]);
        assert_eq!(room[16..], [0; 16]);
        assert_eq!(disk.to_10(), Capacity10 { last_lba: 0xFFFF_FFFF, block_bytes: 512 });
    }

    #[test]
    fn ten_bytes_of_capacity() {
        let mut room = [0; 8];
        let disk = Capacity10 { last_lba: 0x1FFF, block_bytes: 4096 };
        disk.emit(&mut Emit::new(&mut room));
        assert_eq!(room, [0, 0, 0x1F, 0xFF, 0, 0, 0x10, 0]);
        assert_eq!(Capacity10::parse(&room), Some(disk));
        assert_eq!(Capacity10::parse(&room[..7]), None);
    }

    proptest! {
        #[test]
        fn what_parses_survives_the_wire(b in proptest::collection::vec(any::<u8>(), 0..40)) {
            let Some(c) = Capacity16::parse(&b) else { return Ok(()) };
            let mut room = [0; 32];
            c.emit(&mut Emit::new(&mut room));
            prop_assert_eq!(Capacity16::parse(&room), Some(c));
        }
    }
}
