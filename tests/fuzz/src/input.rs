//! The fuzzer's bytes, read as a program of small steps.
//!
//! Every read says `None` when the bytes are at their end, and the program ends with them: there is no input that
//! is not a program, so the fuzzer never has to guess a frame first.

/// A cursor over the fuzzer's bytes.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// At the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { rest: bytes }
    }

    /// Exactly `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    /// `n` bytes, or what is left.
    pub fn up_to(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = tail;
        head
    }

    /// An array.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Bytes behind their own length of one byte; fewer at the end.
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let n = self.byte()?;
        Some(self.up_to(n.into()))
    }

    /// Bytes behind their own length of two bytes; fewer at the end.
    pub fn long(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        Some(self.up_to(n.into()))
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Puts a length of one byte before bytes: what [`Input::short`] reads.
pub fn short(bytes: &[u8]) -> Vec<u8> {
    let n = bytes.len().min(255);
    [&[n as u8], &bytes[..n]].concat()
}

/// Puts a length of two bytes before bytes: what [`Input::long`] reads.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let n = bytes.len().min(0xFFFF);
    [&(n as u16).to_be_bytes()[..], &bytes[..n]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_cut_ends_the_program() {
        let program = [&[7][..], &short(b"abc"), &long(b"defg")].concat();
        let mut i = Input::new(&program);
        assert_eq!((i.byte(), i.short(), i.long()), (Some(7), Some(&b"abc"[..]), Some(&b"defg"[..])));
        assert!(i.is_empty() && i.byte().is_none() && i.long().is_none());
        let mut i = Input::new(&program[..3]);
        assert_eq!((i.byte(), i.short(), i.u16()), (Some(7), Some(&b"a"[..]), None));
    }
}
