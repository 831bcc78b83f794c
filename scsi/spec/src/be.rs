//! Big-endian reads out of a byte slice.
//!
//! Bytes past the end read as zero. Parsers check lengths first wherever a missing byte means something
//! else than a zero byte; the rest (parameter data cut short by an allocation length) wants just this.

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let tail = bytes.get(at..).unwrap_or(&[]);
    if let Some(whole) = tail.first_chunk::<N>() {
        return *whole;
    }
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(tail) {
        *to = *from;
    }
    out
}

#[inline]
pub(crate) fn u8(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[inline]
pub(crate) fn bit(bytes: &[u8], at: usize, bit: u8) -> bool {
    u8(bytes, at) >> bit & 1 == 1
}

#[inline]
pub(crate) fn u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(chunk(bytes, at))
}

#[inline]
pub(crate) fn u24(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c] = chunk(bytes, at);
    u32::from_be_bytes([0, a, b, c])
}

#[inline]
pub(crate) fn u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(chunk(bytes, at))
}

#[inline]
pub(crate) fn u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(chunk(bytes, at))
}

/// `N` bytes as they are.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    chunk(bytes, at)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_past_the_end_read_as_zero() {
        let b = [1, 2, 3, 4, 5];
        assert_eq!(super::u16(&b, 0), 0x0102);
        assert_eq!(super::u24(&b, 1), 0x020304);
        assert_eq!(super::u32(&b, 3), 0x0405_0000);
        assert_eq!(super::u64(&b, 0), 0x0102_0304_0500_0000);
        assert_eq!(super::u64(&b, usize::MAX), 0);
        assert_eq!(super::u8(&b, 5), 0);
        assert!(super::bit(&b, 2, 1));
    }
}
