//! The receive side of a connection, whatever carries its bytes: staging, the vector that is landed in, and what is
//! received ahead. Pure: it lays slices out for one read, is told how many bytes came, and says what to report. Kernel
//! TCP reads into the slices by `readv`, the simulation out of its wires.

mod ahead;
mod staging;

use std::io::IoSliceMut;
use std::ops::Range;

use arrayvec::ArrayVec;
use spindle_mem::Sgv;

use crate::net::CloseReason;
use ahead::{Ahead, Found};
pub use staging::StagingPool;
use staging::{STAGING_BYTES, Staged};

/// Slices of one read: a 1 MiB vector of scattered pages and the staging room behind it.
const SLICES_MAX: usize = 257;
/// What is read ahead until the owner says otherwise: a login request's header and text.
const READ_AHEAD: u32 = 16 * 1024;

/// The receive side of one connection.
pub struct Inbox {
    staged: Staged,
    landing: Option<Landing>,
    /// Payload that is expected behind the headers to come.
    ahead: Ahead,
    /// How much may be read beyond what is needed now.
    read_ahead: u32,
    /// The last read filled all the room it was given: more may have come.
    more: bool,
}

/// The next bytes of the stream belong here.
struct Landing {
    buf: Sgv,
    /// Offset into the vector of the next byte.
    next: u32,
    end: u32,
}

/// What one attempt to read came to.
pub enum Read {
    /// So many bytes, at least one; they fill the slices from the first on.
    Bytes(usize),
    /// There are none now.
    Nothing,
    /// There will be none any more.
    End(CloseReason),
}

/// What is to be reported after it.
pub enum Received {
    /// Nothing.
    Nothing,
    /// The connection is over.
    End(CloseReason),
    /// A landing that is complete, then whether there is something to read in staging.
    Some {
        /// The vector that was landed in.
        landed: Option<Sgv>,
        /// `Readable`.
        readable: bool,
    },
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox {
            staged: Staged::empty(),
            landing: None,
            ahead: Ahead::default(),
            read_ahead: READ_AHEAD,
            more: false,
        }
    }
}

impl Inbox {
    /// One read. A landing comes before what is staged, as the bytes lie in the stream.
    pub fn receive(
        &mut self,
        pool: &mut StagingPool,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> Read,
    ) -> Received {
        if self.ahead.has_folds() {
            // The owner has not come to what was received ahead; nothing may be received behind it.
            return Received::Some { landed: None, readable: true };
        }
        let mut slices: ArrayVec<IoSliceMut<'_>, SLICES_MAX> = ArrayVec::new();
        let mut landing_left = 0usize;
        let mut landing_covered = 0usize;
        if let Some(landing) = self.landing.as_mut() {
            landing_left = (landing.end - landing.next) as usize;
            for part in landing.buf.slices_mut(landing.next..landing.end).take(SLICES_MAX - 1) {
                landing_covered += part.len();
                slices.push(IoSliceMut::new(part));
            }
        }
        // Staging lies behind the landing in the stream: it takes part only if the slices reach that far.
        let mut stage = landing_covered == landing_left;
        let first = (self.read_ahead as usize).min(STAGING_BYTES - self.staged.len());
        let guess = stage && self.ahead.is_ready();
        if guess {
            stage = self.ahead.lay_out(first, &mut self.staged, pool, &mut slices);
        } else if stage {
            match self.staged.room(first, pool) {
                Some(room) => slices.push(IoSliceMut::new(room)),
                None => stage = false,
            }
        }
        if slices.is_empty() {
            return Received::Nothing; // no staging buffer to be had now: it will be asked for again
        }
        let offered: usize = slices.iter().map(|s| s.len()).sum();
        self.more = false;
        let result = read(&mut slices);
        drop(slices);
        match result {
            Read::Nothing => {
                if stage {
                    self.staged.settle(pool);
                }
                Received::Nothing
            }
            Read::End(reason) => Received::End(reason),
            Read::Bytes(n) => {
                self.more = n == offered;
                let into = n.min(landing_left);
                let staged = n - into;
                let mut landed = None;
                if let Some(landing) = self.landing.as_mut() {
                    landing.next += into as u32;
                    if landing.next == landing.end {
                        landed = self.landing.take().map(|done| done.buf);
                    }
                }
                if guess {
                    self.ahead.came(first, staged, &mut self.staged);
                } else {
                    self.staged.grew(staged);
                }
                let something = self.staged.len() > 0 || self.ahead.has_folds();
                let readable = something && self.landing.is_none();
                if !readable && stage {
                    self.staged.settle(pool);
                }
                Received::Some { landed, readable }
            }
        }
    }

    /// Says where the next bytes go; what is staged of them already is copied, and counted.
    pub fn land(
        &mut self,
        buf: Sgv,
        range: Range<u32>,
        pool: &mut StagingPool,
        copied: &mut u64,
    ) -> Option<Sgv> {
        assert!(self.landing.is_none(), "a connection lands in one vector at a time");
        let mut buf = match self.ahead.find(buf, &range, &mut self.staged) {
            Found::Exchanged(other, filled) => {
                return self.go_on_landing(other, range.start + filled..range.end, pool);
            }
            Found::Copied(buf, filled) => {
                *copied += u64::from(filled);
                return self.go_on_landing(buf, range.start + filled..range.end, pool);
            }
            Found::Other(buf) => {
                *copied += self.ahead.unfold(&mut self.staged) as u64;
                buf
            }
            Found::Nothing(buf) => buf,
        };
        let take = self.staged.len().min((range.end - range.start) as usize);
        if take > 0 {
            buf.copy_payload_from(range.start, &self.staged.bytes()[..take]);
            self.staged.consume(take);
            *copied += take as u64;
        }
        self.go_on_landing(buf, range.start + take as u32..range.end, pool)
    }

    /// What came of the range already is in the vector; `left` is still to come.
    fn go_on_landing(&mut self, buf: Sgv, left: Range<u32>, pool: &mut StagingPool) -> Option<Sgv> {
        if left.is_empty() {
            return Some(buf);
        }
        self.staged.settle(pool);
        self.landing = Some(Landing { buf, next: left.start, end: left.end });
        None
    }

    /// The vector of an unfinished landing, and how far it was filled.
    pub fn unland(&mut self) -> Option<(Sgv, u32)> {
        self.landing.take().map(|landing| (landing.buf, landing.next))
    }

    /// The next bytes belong to a vector.
    #[inline]
    pub fn is_landing(&self) -> bool {
        self.landing.is_some()
    }

    /// Staged bytes, as far as the owner may see them.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        if self.landing.is_none() { self.staged.bytes() } else { &[] }
    }

    /// See [`crate::Net::glance`].
    #[inline]
    pub fn glance(&self, at: usize) -> &[u8] {
        self.staged.glance(at).unwrap_or_default()
    }

    /// The first `n` of them have been read.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.staged.consume(n);
    }

    /// Shows what was received ahead to an owner that asks for more, in its place among the staged bytes. `None`: nothing
    /// was; otherwise, how many bytes were copied.
    pub fn unfold(&mut self) -> Option<usize> {
        self.ahead.has_folds().then(|| self.ahead.unfold(&mut self.staged))
    }

    /// The last read may have left something behind.
    pub fn may_have_more(&self) -> bool {
        self.more
    }

    /// Staging has no room for another byte.
    pub fn is_full(&self) -> bool {
        self.landing.is_none() && self.staged.is_full()
    }

    /// See [`crate::Net::read_ahead`].
    pub fn read_ahead(&mut self, bytes_max: u32) {
        self.read_ahead = bytes_max;
    }

    /// See [`crate::Net::expect`].
    pub fn expect(&mut self, gap: u32) {
        self.ahead.gap = gap as usize;
    }

    /// See [`crate::Net::lend`].
    pub fn lend(&mut self, buf: Sgv) {
        self.ahead.lend(buf);
    }

    /// See [`crate::Net::take_spare`].
    pub fn take_spare(&mut self) -> Option<Sgv> {
        self.ahead.take_spare()
    }

    /// Gives the staging buffer back if it is hardly needed. `false`: it is needed, and the pool goes on knowing who has it.
    pub fn let_go(&mut self, pool: &mut StagingPool) -> bool {
        self.staged.let_go(pool)
    }

    /// What was received and not read, to travel with the connection. `None`: some of it is elsewhere, or there is so
    /// much of it that it would pass for a buffer of the pool.
    pub fn unread(&self) -> Option<Box<[u8]>> {
        let travels = self.landing.is_none() && self.ahead.is_empty() && !self.staged.is_full();
        travels.then(|| self.staged.bytes().into())
    }

    /// The receive side of a connection that came with these bytes from another core.
    pub fn with(unread: Box<[u8]>) -> Inbox {
        Inbox { staged: Staged::holding(unread), ..Inbox::default() }
    }

    /// The connection is over: its staging buffer goes back, and so do the vectors it was lent.
    pub fn give_up(mut self, pool: &mut StagingPool) -> impl Iterator<Item = Sgv> {
        if let Some(buffer) = self.staged.give_up() {
            pool.put(buffer);
        }
        self.ahead.give_up()
    }
}
