//! CRC32C of headers and data (RFC 7143 §13.1: generator 11EDC6F41h, sent least significant byte first).

use crc_fast::{CrcAlgorithm, Digest};

/// A digest that grows with the slices it is shown.
#[derive(Clone)]
pub struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// Of nothing yet.
    pub fn new() -> Self {
        Crc32c(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As it stands on the wire.
    pub fn finish(self) -> [u8; 4] {
        // The polynomial is reflected, so the first byte on the wire is the lowest of the register.
        (self.0.finalize() as u32).to_le_bytes()
    }
}

/// The digest of a header, as it stands on the wire.
#[inline]
pub fn of_header(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 (and RFC 3720 appendix B.4): 32 bytes of nought, of ones, rising, falling, and a READ command.
    #[test]
    fn the_examples_of_the_standard_come_out() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let mut read = [0u8; 48];
        read[..2].copy_from_slice(&[0x01, 0xc0]);
        read[16] = 0x14;
        read[22] = 0x04;
        read[27] = 0x14;
        read[31] = 0x18;
        read[32] = 0x28;
        read[40] = 0x02;
        for (bytes, crc) in [
            (&[0u8; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32][..], [0x43, 0xab, 0xa8, 0x62]),
            (&rising[..], [0x4e, 0x79, 0xdd, 0x46]),
            (&falling[..], [0x5c, 0xdb, 0x3f, 0x11]),
            (&read[..], [0x56, 0x3a, 0x96, 0xd9]),
        ] {
            assert_eq!(of_header(bytes), crc);
            let mut running = Crc32c::new();
            for part in bytes.chunks(7) {
                running.update(part);
            }
            assert_eq!(running.finish(), crc);
        }
    }
}
