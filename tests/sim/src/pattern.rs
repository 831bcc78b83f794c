//! What is written: every block names the write it came from, so that a read tells whose bytes it found.

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Value {
    /// Zeros.
    Zero,
    /// The block of this write, whole.
    Of(u64),
    /// Nothing anyone has written: torn, stale or foreign bytes.
    Garbage,
}

/// The place of blocks that are the same wherever they stand (WRITE SAME).
pub const ANYWHERE: u64 = u64::MAX;

/// Fills a block for write `id` at `lba`.
pub fn fill(id: u64, lba: u64, block: &mut [u8]) {
    for (n, word) in block.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_of(id, lba, n).to_be_bytes());
    }
}

/// Reads a block that stood at `lba`.
pub fn value(lba: u64, block: &[u8]) -> Value {
    let word = |n: usize| u64::from_be_bytes(block[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
    let id = word(0);
    if id == 0 {
        return if block.iter().all(|&b| b == 0) { Value::Zero } else { Value::Garbage };
    }
    let place = word(1) ^ id;
    let right =
        (place == lba || place == ANYWHERE) && (2..block.len() / 8).all(|n| word(n) == word_of(id, place, n));
    if right { Value::Of(id) } else { Value::Garbage }
}

fn word_of(id: u64, lba: u64, n: usize) -> u64 {
    match n {
        0 => id,
        1 => lba ^ id,
        n => id.rotate_left(n as u32) ^ (lba.wrapping_add(n as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_write_and_any_damage() {
        let mut block = [0u8; 512];
        assert_eq!(value(3, &block), Value::Zero);
        fill(77, 3, &mut block);
        assert_eq!((value(3, &block), value(4, &block)), (Value::Of(77), Value::Garbage));
        for at in 0..512 {
            let mut damaged = block;
            damaged[at] ^= 0x10;
            assert_ne!(value(3, &damaged), Value::Of(77));
        }
        fill(77, ANYWHERE, &mut block);
        assert_eq!((value(3, &block), value(4, &block)), (Value::Of(77), Value::Of(77)));
        assert_eq!(value(0, &[0xDB; 512]), Value::Garbage);
    }
}
