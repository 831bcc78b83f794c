//! Data that knows where it belongs, and the book of what was written where.
//!
//! Every 512 bytes of a verified write begin with the byte address and the generation of the write; the rest is a
//! stream of numbers that both and the run's seed decide. So a read that returns a neighbour's block, an old
//! generation, half of one write and half of another, or a block of an earlier run, is seen and can be named.

use std::fmt;

/// Bytes that carry one stamp.
pub const STAMP_BYTES: usize = 512;

/// Fills `out`, which begins at byte address `at`, with the data of a generation.
pub fn fill(out: &mut [u8], at: u64, generation: u32, seed: u64) {
    for (n, block) in out.chunks_mut(STAMP_BYTES).enumerate() {
        let address = at + (n * STAMP_BYTES) as u64;
        let mut stream = Stream::new(address, generation, seed);
        for (w, word) in block.chunks_exact_mut(8).enumerate() {
            let value = match w {
                0 => address,
                1 => u64::from(generation),
                _ => stream.next(),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// What is wrong with data that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Byte address of the first bad block.
    pub address: u64,
    /// Generation last written there.
    pub generation: u32,
    /// The stamp found: address and generation.
    pub found: (u64, u64),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, generation) = self.found;
        write!(
            f,
            "byte address {} holds generation {} but the data read is stamped address {address}, generation {generation}",
            self.address, self.generation
        )?;
        if self.found == (self.address, u64::from(self.generation)) {
            write!(f, " (the stamp is right, the data behind it is not)")?;
        }
        Ok(())
    }
}

/// Compares data with what [`fill`] made.
pub fn check(data: &[u8], at: u64, generation: u32, seed: u64) -> Result<(), Mismatch> {
    for (n, block) in data.chunks(STAMP_BYTES).enumerate() {
        let address = at + (n * STAMP_BYTES) as u64;
        let mut stream = Stream::new(address, generation, seed);
        let mut words = block.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes")));
        let found = (words.next().unwrap_or(!0), words.next().unwrap_or(!0));
        if found != (address, u64::from(generation)) || !words.all(|word| word == stream.next()) {
            return Err(Mismatch { address, generation, found });
        }
    }
    Ok(())
}

/// A generator of one multiplication a number.
struct Stream(u64);

impl Stream {
    fn new(address: u64, generation: u32, seed: u64) -> Self {
        Self(address.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(generation) << 32 ^ seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xA076_1D64_78BD_642F);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xE703_7ED1_A0B4_28DB);
        (wide >> 64) as u64 ^ wide as u64
    }
}

/// What one connection wrote into its own part of the logical unit, in units of one command.
pub struct Book {
    generations: Vec<u32>,
    busy: Vec<bool>,
}

impl Book {
    /// Nothing written yet.
    pub fn new(chunks: usize) -> Self {
        Self { generations: vec![0; chunks], busy: vec![false; chunks] }
    }

    /// The first chunk from `at` on, going round, that no command is working on; it is marked as worked on.
    /// There are more chunks than commands.
    pub fn take(&mut self, at: usize) -> Option<usize> {
        let n = self.busy.len();
        let found = (0..n).map(|step| (at + step) % n).find(|&chunk| !self.busy[chunk])?;
        self.busy[found] = true;
        Some(found)
    }

    /// Generation of a chunk; 0 is never written.
    pub fn generation(&self, chunk: usize) -> u32 {
        self.generations[chunk]
    }

    /// The generation a new write of the chunk carries.
    pub fn next_generation(&mut self, chunk: usize) -> u32 {
        let next = self.generations[chunk].wrapping_add(1).max(1);
        self.generations[chunk] = next;
        next
    }

    /// The command has ended.
    pub fn release(&mut self, chunk: usize) {
        self.busy[chunk] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_recognized_only_at_its_address_generation_and_seed() {
        let mut data = vec![0; 4096];
        fill(&mut data, 8192, 3, 7);
        assert_eq!(check(&data, 8192, 3, 7), Ok(()));
        assert_eq!(check(&data, 12288, 3, 7).unwrap_err().found, (8192, 3));
        assert_eq!(check(&data, 8192, 4, 7).unwrap_err().found, (8192, 3));
        let wrong = check(&data, 8192, 3, 8).unwrap_err();
        assert!(wrong.to_string().contains("the stamp is right"));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_seen() {
        let mut data = vec![0; 1024];
        fill(&mut data, 0, 1, 1);
        for at in 0..data.len() {
            data[at] ^= 0x10;
            let wrong = check(&data, 0, 1, 1).unwrap_err();
            assert_eq!(wrong.address, (at / 512 * 512) as u64);
            data[at] ^= 0x10;
        }
    }

    #[test]
    fn blocks_of_one_write_differ_from_each_other() {
        let mut data = vec![0; 1024];
        fill(&mut data, 0, 1, 1);
        assert_ne!(data[16..512], data[528..1024]);
    }

    #[test]
    fn the_book_never_gives_a_chunk_to_two_commands() {
        let mut book = Book::new(3);
        assert_eq!(book.take(2), Some(2));
        assert_eq!(book.take(2), Some(0));
        assert_eq!(book.take(2), Some(1));
        assert_eq!(book.take(2), None);
        book.release(0);
        assert_eq!(book.take(1), Some(0));
        assert_eq!((book.generation(0), book.next_generation(0), book.generation(0)), (0, 1, 1));
    }
}
