//! Staging: where headers gather until they are read.
//!
//! Buffers belong to the core and go round; a connection has one only while it has more than a few bytes
//! staged. What remains of a PDU that has not come whole (less than a header and its extensions) is kept in
//! the connection itself, so that a thousand idle or slow peers hold no buffers.

/// Bytes of a staging buffer.
pub(super) const STAGING_BYTES: usize = 64 * 1024;
/// The residue a connection keeps by itself.
const RESIDUE_MAX: usize = 64;

/// A core's staging buffers: made on demand up to a limit, then reused.
pub(super) struct StagingPool {
    free: Vec<Box<[u8]>>,
    made: u32,
    max: u32,
}

impl StagingPool {
    pub fn new(max: u32) -> StagingPool {
        StagingPool { free: Vec::new(), made: 0, max }
    }

    pub fn take(&mut self) -> Option<Box<[u8]>> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.made == self.max {
            return None;
        }
        self.made += 1;
        Some(vec![0; STAGING_BYTES].into_boxed_slice())
    }

    pub fn put(&mut self, buffer: Box<[u8]>) {
        self.free.push(buffer);
    }
}

/// A connection's staged bytes.
pub(super) struct Staged {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    residue: [u8; RESIDUE_MAX],
}

impl Staged {
    pub fn empty() -> Staged {
        Staged { buffer: None, start: 0, end: 0, residue: [0; RESIDUE_MAX] }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(b) => &b[self.start..self.end],
            None => &self.residue[self.start..self.end],
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// # Panics
    /// If more is consumed than there is: a bug of the owner.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed {n} of {} staged bytes", self.len());
        self.start += n;
    }

    /// Room behind the staged bytes, at most `want`, backed by a buffer. `None`: no buffer to be had, or full.
    pub fn room(&mut self, want: usize, pool: &mut StagingPool) -> Option<&mut [u8]> {
        if self.buffer.is_none() {
            let mut buffer = pool.take()?;
            let len = self.len();
            buffer[..len].copy_from_slice(&self.residue[self.start..self.end]);
            (self.start, self.end) = (0, len);
            self.buffer = Some(buffer);
        }
        let buffer = self.buffer.as_mut().expect("made just above");
        if self.start > 0 && buffer.len() - self.end < want {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let to = buffer.len().min(self.end + want);
        if to == self.end { None } else { Some(&mut buffer[self.end..to]) }
    }

    /// `n` bytes were received into the room.
    pub fn grew(&mut self, n: usize) {
        self.end += n;
    }

    /// Gives the buffer back if what is left is small enough to keep without it.
    pub fn settle(&mut self, pool: &mut StagingPool) {
        let len = self.len();
        if len <= RESIDUE_MAX
            && let Some(buffer) = self.buffer.take()
        {
            self.residue[..len].copy_from_slice(&buffer[self.start..self.end]);
            (self.start, self.end) = (0, len);
            pool.put(buffer);
        }
    }

    /// Takes the buffer away from a connection that ends.
    pub fn give_up(&mut self) -> Option<Box<[u8]>> {
        (self.start, self.end) = (0, 0);
        self.buffer.take()
    }
}
