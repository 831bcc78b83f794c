//! Staging: where headers gather until they are read.
//!
//! Buffers belong to the core and go round; a connection has one only while it has more than a few bytes
//! staged. What remains of a PDU that has not come whole (less than a header and its extensions) is kept in
//! the connection itself, so that a thousand idle or slow peers hold no buffers.
//!
//! A connection keeps its buffer from one read to the next, for it may be busy. Those that fell silent meanwhile are
//! asked for theirs when the core goes to sleep and when there are none left: the pool knows who has taken one. Then a
//! PDU that stopped half-way, header extensions and all, is kept in a box of its size: peers that say half a sentence
//! and fall silent, thousands of them, keep no buffer from others.

/// Bytes of a staging buffer.
pub(super) const STAGING_BYTES: usize = 64 * 1024;
/// The residue a connection keeps by itself.
const RESIDUE_MAX: usize = 64;
/// And in a box, when buffers are asked for: more than a header with all its extensions and digest (RFC 7143 §11.2: 48,
/// 1,020 and 4 bytes).
const BOXED_MAX: usize = 2048;

/// A core's staging buffers: made on demand up to a limit, then reused.
pub struct StagingPool {
    free: Vec<Box<[u8]>>,
    made: u32,
    max: u32,
    /// Connections that have taken a buffer and were not asked for it since; some may be gone.
    holders: Vec<u32>,
    /// The connection that is being read.
    reader: u32,
}

impl StagingPool {
    /// None made yet, at most so many.
    pub fn new(max: u32) -> StagingPool {
        StagingPool { free: Vec::new(), made: 0, max, holders: Vec::new(), reader: 0 }
    }

    /// This connection is read next.
    #[inline]
    pub fn read_for(&mut self, conn: u32) {
        self.reader = conn;
    }

    /// There is no buffer to be had.
    pub fn is_dry(&self) -> bool {
        self.free.is_empty() && self.made == self.max
    }

    /// Those to be asked for their buffers.
    pub fn take_holders(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.holders)
    }

    /// Those who still have one.
    pub fn put_holders(&mut self, holders: Vec<u32>) {
        self.holders = holders;
    }

    pub(super) fn take(&mut self) -> Option<Box<[u8]>> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.made == self.max {
            return None;
        }
        self.made += 1;
        Some(vec![0; STAGING_BYTES].into_boxed_slice())
    }

    pub(super) fn put(&mut self, buffer: Box<[u8]>) {
        self.free.push(buffer);
    }
}

/// A connection's staged bytes. Of those received, the owner sees the first: what lies behind a fold (see
/// [`super::ahead`]) is not its turn yet.
pub(super) struct Staged {
    /// A buffer of the pool or, shorter, a box with a residue.
    buffer: Option<Box<[u8]>>,
    /// Among the holders that the pool knows.
    listed: bool,
    start: usize,
    /// End of what is shown.
    shown: usize,
    /// End of what was received.
    end: usize,
    residue: [u8; RESIDUE_MAX],
}

impl Staged {
    pub fn empty() -> Staged {
        Staged { buffer: None, listed: false, start: 0, shown: 0, end: 0, residue: [0; RESIDUE_MAX] }
    }

    /// A residue that came from elsewhere.
    pub fn holding(bytes: Box<[u8]>) -> Staged {
        debug_assert!(!is_of_pool(&bytes), "as long as a buffer of the pool, which it is not");
        let len = bytes.len();
        let buffer = (len > 0).then_some(bytes);
        Staged { buffer, shown: len, end: len, ..Staged::empty() }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(b) => &b[self.start..self.shown],
            None => &self.residue[self.start..self.shown],
        }
    }

    /// Received bytes from `at` bytes on, shown or not.
    #[inline]
    pub fn glance(&self, at: usize) -> Option<&[u8]> {
        let buffer = self.buffer.as_deref().unwrap_or(&self.residue);
        buffer.get(self.start + at..self.end)
    }

    /// How many bytes are shown.
    #[inline]
    pub fn len(&self) -> usize {
        self.shown - self.start
    }

    /// There is no room for another byte.
    pub fn is_full(&self) -> bool {
        self.end - self.start == STAGING_BYTES
    }

    /// Where in the buffer the received bytes end.
    pub fn end(&self) -> usize {
        self.end
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
        let free = STAGING_BYTES - (self.end - self.start);
        if free == 0 { None } else { self.room_for(want.min(free), pool) }
    }

    /// Room for just so many bytes, which fit. `None`: no buffer to be had.
    pub fn room_for(&mut self, want: usize, pool: &mut StagingPool) -> Option<&mut [u8]> {
        let len = self.end - self.start;
        if !self.buffer.as_ref().is_some_and(|b| is_of_pool(b)) {
            let mut buffer = pool.take()?;
            let kept = self.buffer.as_deref().unwrap_or(&self.residue);
            buffer[..len].copy_from_slice(&kept[self.start..self.end]);
            (self.start, self.shown, self.end) = (0, len, len);
            self.buffer = Some(buffer);
            if !self.listed {
                self.listed = true;
                pool.holders.push(pool.reader);
            }
        }
        let buffer = self.buffer.as_mut().expect("made just above");
        if self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.shown, self.end) = (0, len, len);
        }
        Some(&mut buffer[len..len + want])
    }

    /// `n` bytes were received into the room, and are shown.
    pub fn grew(&mut self, n: usize) {
        self.end += n;
        self.shown = self.end;
    }

    /// Shows bytes up to this place, or all.
    pub fn show(&mut self, upto: Option<usize>) {
        self.shown = upto.unwrap_or(self.end);
    }

    /// Makes `n` bytes more of what was received, all shown; the caller moves what is there to its places.
    pub fn spread(&mut self, n: usize) -> &mut [u8] {
        self.grew(n);
        let buffer = self.buffer.as_mut().expect("bytes behind a fold are in a buffer");
        &mut buffer[..self.end]
    }

    /// Gives the buffer back if what is left is small enough to keep without it.
    pub fn settle(&mut self, pool: &mut StagingPool) {
        let len = self.len();
        if len <= RESIDUE_MAX
            && self.shown == self.end
            && let Some(buffer) = self.buffer.take()
        {
            self.residue[..len].copy_from_slice(&buffer[self.start..self.end]);
            (self.start, self.shown, self.end) = (0, len, len);
            if is_of_pool(&buffer) {
                pool.put(buffer);
            }
        }
    }

    /// Gives the buffer back if it is hardly needed. `false`: it is needed, and the pool goes on knowing the holder.
    pub fn let_go(&mut self, pool: &mut StagingPool) -> bool {
        self.settle(pool);
        if self.len() <= BOXED_MAX
            && self.shown == self.end
            && let Some(buffer) = self.buffer.take_if(|b| is_of_pool(b))
        {
            self.buffer = Some(buffer[self.start..self.end].into());
            (self.start, self.end) = (0, self.end - self.start);
            self.shown = self.end;
            pool.put(buffer);
        }
        self.listed = self.buffer.as_ref().is_some_and(|b| is_of_pool(b));
        !self.listed
    }

    /// Takes the buffer away from a connection that ends.
    pub fn give_up(&mut self) -> Option<Box<[u8]>> {
        (self.start, self.shown, self.end) = (0, 0, 0);
        self.buffer.take().filter(|b| is_of_pool(b))
    }
}

/// Not a box with a residue.
fn is_of_pool(buffer: &[u8]) -> bool {
    buffer.len() == STAGING_BYTES
}
