//! The one writer: it counts everything and keeps what fits.

/// Writes big-endian fields into a caller's buffer.
///
/// An ALLOCATION LENGTH truncates the data a command returns, but never changes the length fields inside it
/// (SPC-4 §4.2.5.6). So the writer goes on counting past the end of its buffer: [`Emit::full_len`] is what
/// the device server had to say, [`Emit::written`] what fitted, and length fields patched afterwards speak
/// of the former.
///
/// ```
/// use spindle_scsi_spec::Emit;
/// let mut room = [0xFF; 3];
/// let mut w = Emit::new(&mut room);
/// w.u16(0x0102).u32(0x0304_0506);
/// assert_eq!((w.full_len(), w.written()), (6, 3));
/// assert_eq!(room, [1, 2, 3]);
/// ```
#[derive(Debug)]
pub struct Emit<'a> {
    buf: &'a mut [u8],
    at: usize,
}

impl<'a> Emit<'a> {
    /// A writer at the start of `buf`. Bytes that are never reached keep their value.
    pub fn new(buf: &'a mut [u8]) -> Emit<'a> {
        Emit { buf, at: 0 }
    }

    /// Bytes emitted so far, also those that did not fit. It is the offset of the next field, too.
    pub fn full_len(&self) -> usize {
        self.at
    }

    /// Bytes that are in the buffer.
    pub fn written(&self) -> usize {
        self.at.min(self.buf.len())
    }

    /// What is in the buffer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf[..self.at.min(self.buf.len())]
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(room) = self.buf.get_mut(self.at..) {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
        }
        self.at = self.at.saturating_add(bytes.len());
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// The low three bytes of `v`, big-endian.
    pub fn u24(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_be_bytes()[1..])
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// `n` bytes of the same value.
    pub fn fill(&mut self, value: u8, n: usize) -> &mut Self {
        if let Some(room) = self.buf.get_mut(self.at..) {
            let n = room.len().min(n);
            room[..n].fill(value);
        }
        self.at = self.at.saturating_add(n);
        self
    }

    /// `n` zero bytes.
    pub fn zeros(&mut self, n: usize) -> &mut Self {
        self.fill(0, n)
    }

    /// Zeros up to offset `end`; nothing if the writer is already there or beyond.
    pub fn zeros_to(&mut self, end: usize) -> &mut Self {
        self.zeros(end.saturating_sub(self.at))
    }

    /// Overwrites one byte emitted earlier.
    pub fn patch_u8(&mut self, at: usize, v: u8) {
        self.patch(at, &[v]);
    }

    /// Overwrites two bytes emitted earlier, usually a length that is known only at the end.
    pub fn patch_u16(&mut self, at: usize, v: u16) {
        self.patch(at, &v.to_be_bytes());
    }

    /// Overwrites four bytes emitted earlier.
    pub fn patch_u32(&mut self, at: usize, v: u32) {
        self.patch(at, &v.to_be_bytes());
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.at, "only what was emitted can be patched");
        for (to, from) in self.buf.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}

/// A length as a two-byte field. Capped, since a reader that believes more bytes than 16 bits can count
/// would not find them anyway.
pub(crate) fn len16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// A length as a four-byte field, capped likewise.
pub(crate) fn len32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// `flag` as the bit `bit` of a byte.
#[inline]
pub(crate) fn flag(flag: bool, bit: u8) -> u8 {
    u8::from(flag) << bit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_everything_and_keeps_what_fits() {
        for room in 0..20 {
            let mut buf = [0xAA; 20];
            let mut w = Emit::new(&mut buf[..room]);
            w.u8(1).u16(0x0203).u24(0x040506).u32(0x0708090A).zeros(2).fill(0xFF, 1);
            w.zeros_to(15).zeros_to(3);
            w.patch_u16(1, 0xBEEF);
            assert_eq!(w.full_len(), 15);
            assert_eq!(w.written(), room.min(15));
            let whole = [1, 0xBE, 0xEF, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0xFF, 0, 0, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA];
            assert_eq!(&buf[..room.min(15)], &whole[..room.min(15)]);
            assert!(buf[room.min(15)..].iter().all(|b| *b == 0xAA));
        }
    }
}
