//! Typed messages between cores.
//!
//! Every ordered pair of cores has two rings: a lane for requests and a lane for replies. Nothing here blocks:
//!
//! * [`Mailbox::request`] takes one *credit* of its target, which comes back with the one reply that the
//!   target owes. A request without a credit, or without a slot in the ring, waits in the target's overflow
//!   queue; [`Mailbox::can_request`] says when a source of requests should not be polled further.
//! * [`Mailbox::reply`] always finds a slot: credits never exceed the slots of the reply lane.
//! * [`Mailbox::notify`] rides the request lane in order with the requests, but is owed no reply.
//!
//! What is posted becomes visible at [`Mailbox::flush`], once per turn, with one mark per target. A receiver
//! takes replies before requests and sees an empty mailbox with one load.
//!
//! A handler must not make its reply wait for a request of its own to the core that asked: with all credits
//! used in both directions, such a pair would wait for each other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use crossbeam_queue::ArrayQueue;

use crate::core_bits::CoreBits;
use crate::core_id::CoreId;
use crate::doorbell::{CORE_BITS, Doorbell, core_marks, is_outside};
use crate::poster::Poster;
use crate::ring::{Consumer, Producer, ring};
use crate::sync::Arc;

/// Messages taken from one core's request lane before the next core has its turn.
const STREAK_MAX: u32 = 32;
/// By default an overflow queue may hold this many times the depth of a lane.
const OVERFLOW_PER_DEPTH: usize = 64;
/// Messages that threads outside the mesh may have under way to one core.
const OUTSIDE_MAX: usize = 256;

/// Makes the mailboxes of all cores at once.
pub struct Mesh<M>(std::marker::PhantomData<M>);

impl<M: Send> Mesh<M> {
    /// One mailbox per core, connected with each other. A lane holds `depth` messages (rounded up to a power
    /// of two), so the rings take `2 × cores² × depth` messages of memory.
    ///
    /// # Panics
    /// If the process has no descriptors left for the doorbells; see [`Mesh::try_new`].
    #[expect(clippy::new_ret_no_self, reason = "a mesh is its mailboxes")]
    pub fn new(cores: usize, depth: usize) -> Vec<Mailbox<M>> {
        Mesh::try_new(cores, depth).expect("descriptors for the doorbells")
    }

    /// As [`Mesh::new`], with the error of making the doorbells.
    pub fn try_new(cores: usize, depth: usize) -> io::Result<Vec<Mailbox<M>>> {
        assert!((1..=CoreId::OUTSIDE.index()).contains(&cores), "a mesh of {cores} cores");
        assert!((1..=1 << 20).contains(&depth), "lanes of {depth} messages");
        let depth = depth.next_power_of_two();
        let bells = (0..cores).map(|_| Doorbell::new().map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
        let mut boxes: Vec<Mailbox<M>> =
            bells.iter().enumerate().map(|(core, bell)| Mailbox::alone(core, bell.clone(), depth)).collect();
        let mut ends: Vec<Ends<M>> = (0..cores * cores).map(|_| Ends::default()).collect();
        // At `a × cores + b` stand the ends that `a` holds towards `b`.
        let pairs = (0..cores).flat_map(|a| (0..cores).map(move |b| (a, b)));
        for (from, to) in pairs.clone().filter(|(a, b)| a != b) {
            let (requests, replies) = (ring(depth), ring(depth));
            let out = &mut ends[from * cores + to];
            (out.out_requests, out.out_replies) = (Some(requests.0), Some(replies.0));
            let into = &mut ends[to * cores + from];
            (into.in_requests, into.in_replies) = (Some(requests.1), Some(replies.1));
        }
        for ((core, peer), ends) in pairs.zip(ends) {
            boxes[core].links.push(ends.into_link(bells[peer].clone(), depth));
        }
        Ok(boxes)
    }
}

/// The four ring ends between one core and one peer, while the mesh is put together.
struct Ends<M> {
    out_requests: Option<Producer<M>>,
    out_replies: Option<Producer<M>>,
    in_requests: Option<Consumer<M>>,
    in_replies: Option<Consumer<M>>,
}

impl<M> Default for Ends<M> {
    fn default() -> Self {
        Ends { out_requests: None, out_replies: None, in_requests: None, in_replies: None }
    }
}

impl<M> Ends<M> {
    /// `None` for the core itself.
    fn into_link(self, bell: Arc<Doorbell>, depth: usize) -> Option<Link<M>> {
        Some(Link {
            out_requests: self.out_requests?,
            out_replies: self.out_replies?,
            in_requests: self.in_requests?,
            in_replies: self.in_replies?,
            bell,
            credits: depth as u32,
            overflow: VecDeque::with_capacity(depth),
        })
    }
}

/// All that lies between this core and one other.
struct Link<M> {
    out_requests: Producer<M>,
    out_replies: Producer<M>,
    in_requests: Consumer<M>,
    in_replies: Consumer<M>,
    bell: Arc<Doorbell>,
    /// Replies the peer may still owe: slots of the reply lane not spoken for.
    credits: u32,
    overflow: VecDeque<Waiting<M>>,
}

struct Waiting<M> {
    answered: bool,
    message: M,
}

impl<M> Link<M> {
    fn try_push(&mut self, answered: bool, message: M) -> Result<(), M> {
        if answered && self.credits == 0 {
            return Err(message);
        }
        self.out_requests.push(message)?;
        self.credits -= u32::from(answered);
        Ok(())
    }

    /// Sends what waits, as far as credits and slots reach.
    fn drain_overflow(&mut self) {
        while let Some(Waiting { answered, message }) = self.overflow.pop_front() {
            if let Err(message) = self.try_push(answered, message) {
                self.overflow.push_front(Waiting { answered, message });
                return;
            }
        }
    }

    /// Something waits that no reply will set moving: only the peer's taking of messages, which rings nobody.
    fn waits_for_slots(&self) -> bool {
        self.overflow.front().is_some_and(|first| !first.answered || self.credits > 0)
    }
}

/// One core's post: what it sends to and gets from all others.
pub struct Mailbox<M> {
    core: CoreId,
    depth: usize,
    overflow_max: usize,
    bell: Arc<Doorbell>,
    /// By core; `None` at our own place.
    links: Vec<Option<Link<M>>>,
    outside: Arc<ArrayQueue<M>>,
    own_requests: VecDeque<M>,
    own_replies: VecDeque<M>,
    own_credits: u32,
    /// Targets with something to publish or waiting.
    unflushed: CoreBits,
    /// Senders with replies, and with requests, that we have not taken yet.
    replies_in: CoreBits,
    requests_in: CoreBits,
    /// Whose requests are taken next, and how many of theirs in a row.
    cursor: usize,
    streak: u32,
}

impl<M: Send> Mailbox<M> {
    fn alone(core: usize, bell: Arc<Doorbell>, depth: usize) -> Mailbox<M> {
        Mailbox {
            core: CoreId(core as u8),
            depth,
            overflow_max: depth.saturating_mul(OVERFLOW_PER_DEPTH),
            bell,
            links: Vec::new(),
            outside: Arc::new(ArrayQueue::new(OUTSIDE_MAX)),
            own_requests: VecDeque::with_capacity(depth),
            own_replies: VecDeque::with_capacity(depth),
            own_credits: 0,
            unflushed: CoreBits::default(),
            replies_in: CoreBits::default(),
            requests_in: CoreBits::default(),
            cursor: 0,
            streak: 0,
        }
    }

    /// Whose mailbox this is.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// How many cores the mesh has.
    pub fn cores(&self) -> usize {
        self.links.len()
    }

    /// Sets how many messages may wait for one target; reaching it is a fault of the program.
    pub fn set_overflow_max(&mut self, messages: usize) {
        self.overflow_max = messages.max(1);
    }

    /// A handle for threads that run no reactor.
    pub fn poster(&self) -> Poster<M> {
        Poster::new(self.outside.clone(), self.bell.clone())
    }

    // ---- sending

    /// Posts a request, to which exactly one reply comes back. Never blocks.
    ///
    /// # Panics
    /// If the overflow queue is full: a source was polled on although [`Mailbox::can_request`] said no.
    pub fn request(&mut self, to: CoreId, message: M) {
        self.post(to, true, message);
    }

    /// Posts a message that is not answered. It stays in order with requests to the same core. Never blocks.
    ///
    /// # Panics
    /// As [`Mailbox::request`].
    pub fn notify(&mut self, to: CoreId, message: M) {
        self.post(to, false, message);
    }

    /// Answers one request of `to`. Always succeeds.
    ///
    /// # Panics
    /// If `to` has been answered more often than it asked.
    pub fn reply(&mut self, to: CoreId, message: M) {
        self.unflushed.insert(to.index());
        match self.link(to) {
            Some(link) => {
                let sent = link.out_replies.push(message);
                assert!(sent.is_ok(), "{} answers {to} more often than it was asked", self.core);
            }
            None => self.own_replies.push_back(message),
        }
    }

    /// Whether a source that makes requests (or notices) for `to` should be polled further.
    pub fn can_request(&self, to: CoreId) -> bool {
        match self.links.get(to.index()) {
            Some(Some(link)) => link.overflow.is_empty() && link.credits > 0,
            _ => self.own_requests.len() < self.depth,
        }
    }

    /// Requests to `to` that have not been answered, sent or waiting: for the lists an operator reads.
    pub fn unanswered(&self, to: CoreId) -> usize {
        match self.links.get(to.index()) {
            Some(Some(link)) => {
                let waiting = link.overflow.iter().filter(|w| w.answered).count();
                self.depth - link.credits as usize + waiting
            }
            _ => self.own_credits as usize,
        }
    }

    /// Makes everything posted since the last flush visible, and wakes those of its receivers that sleep.
    pub fn flush(&mut self) {
        if self.unflushed.is_empty() {
            return;
        }
        let (mut posted, mut kept) = (CoreBits::default(), CoreBits::default());
        for to in self.unflushed.iter() {
            let Some(link) = &mut self.links[to] else {
                self.replies_in.insert(to);
                self.requests_in.insert(to);
                continue;
            };
            link.drain_overflow();
            if link.out_requests.publish() | link.out_replies.publish() {
                link.bell.mark_core(self.core.index());
                posted.insert(to);
            }
            if !link.overflow.is_empty() {
                kept.insert(to);
            }
        }
        self.unflushed = kept;
        if posted.is_empty() {
            return;
        }
        Doorbell::posted();
        for to in posted.iter() {
            if let Some(link) = &self.links[to] {
                link.bell.wake_sleeper();
            }
        }
    }

    fn post(&mut self, to: CoreId, answered: bool, message: M) {
        self.unflushed.insert(to.index());
        let (core, overflow_max) = (self.core, self.overflow_max);
        let Some(link) = self.link(to) else {
            assert!(
                self.own_requests.len() < overflow_max,
                "{overflow_max} messages of {core} wait for itself"
            );
            self.own_credits += u32::from(answered);
            return self.own_requests.push_back(message);
        };
        let message = if link.overflow.is_empty() {
            match link.try_push(answered, message) {
                Ok(()) => return,
                Err(message) => message,
            }
        } else {
            message
        };
        assert!(link.overflow.len() < overflow_max, "{overflow_max} messages of {core} wait for {to}");
        link.overflow.push_back(Waiting { answered, message });
    }

    /// `None` for the core itself.
    fn link(&mut self, to: CoreId) -> Option<&mut Link<M>> {
        let (core, cores) = (self.core, self.links.len());
        match self.links.get_mut(to.index()) {
            Some(Some(link)) => Some(link),
            Some(None) => None,
            None => panic!("{core} posts to {to} in a mesh of {cores} cores"),
        }
    }

    // ---- receiving

    /// Gives up to `budget` messages to `take`, replies first; says how many. The sender of a message from
    /// outside the mesh is [`CoreId::OUTSIDE`].
    pub fn drain(&mut self, budget: u32, mut take: impl FnMut(CoreId, M)) -> u32 {
        self.begin();
        let mut taken = 0;
        while taken < budget
            && let Some((from, message)) = self.take()
        {
            take(from, message);
            taken += 1;
        }
        self.finish();
        taken
    }

    /// First step of a drain that needs the mailbox for answering meanwhile: notes who has posted. `false` if
    /// there is nothing to take.
    #[inline]
    pub fn begin(&mut self) -> bool {
        let bits = self.bell.take();
        if bits != 0 {
            self.note_senders(bits);
        }
        self.has_pending()
    }

    /// Second step, repeated: the next message.
    pub fn take(&mut self) -> Option<(CoreId, M)> {
        self.take_reply().or_else(|| self.take_request())
    }

    /// Last step: gives the taken slots back to their senders.
    pub fn finish(&mut self) {
        // Lanes that were emptied have done so by themselves.
        for from in self.requests_in.iter() {
            if let Some(Some(link)) = self.links.get_mut(from) {
                link.in_requests.release();
            }
        }
    }

    /// Messages that were noted by the last [`Mailbox::begin`] and are still to be taken.
    pub fn has_pending(&self) -> bool {
        !self.replies_in.is_empty() || !self.requests_in.is_empty()
    }

    fn note_senders(&mut self, bits: u64) {
        if is_outside(bits) {
            self.requests_in.insert(CoreId::OUTSIDE.index());
        }
        let mut marks = core_marks(bits);
        while marks != 0 {
            // A bit stands for several cores in a mesh that has more cores than bits.
            for core in (marks.trailing_zeros() as usize..self.links.len()).step_by(CORE_BITS) {
                if core != self.core.index() {
                    self.replies_in.insert(core);
                    self.requests_in.insert(core);
                }
            }
            marks &= marks - 1;
        }
    }

    fn take_reply(&mut self) -> Option<(CoreId, M)> {
        while let Some(from) = self.replies_in.next_from(0) {
            let message = match &mut self.links[from] {
                Some(link) => link.in_replies.pop().inspect(|_| {
                    // Given back before the credit is: the peer asserts that a slot is free for every credit.
                    link.in_replies.release();
                    link.credits += 1;
                    assert!(link.credits as usize <= self.depth, "core {from} answers what nobody asked");
                }),
                None => self.own_replies.pop_front().inspect(|_| {
                    let credits = self.own_credits.checked_sub(1);
                    self.own_credits = credits.expect("a core answers itself only what it asked");
                }),
            };
            match message {
                Some(message) => return Some((CoreId(from as u8), message)),
                None => self.replies_in.remove(from),
            }
        }
        None
    }

    fn take_request(&mut self) -> Option<(CoreId, M)> {
        while let Some(from) = self.requests_in.next_from(self.cursor) {
            if from != self.cursor {
                (self.cursor, self.streak) = (from, 0);
            }
            let message = match self.links.get_mut(from) {
                Some(Some(link)) => link.in_requests.pop(),
                Some(None) => self.own_requests.pop_front(),
                None => self.outside.pop(),
            };
            let Some(message) = message else {
                self.requests_in.remove(from);
                continue;
            };
            self.streak += 1;
            if self.streak == STREAK_MAX {
                (self.cursor, self.streak) = ((from + 1) % 256, 0);
            }
            return Some((CoreId(from as u8), message));
        }
        None
    }

    // ---- sleeping

    /// Announces that this core will wait on [`Mailbox::wake_fd`]; `false` if there is still something to do.
    /// After `true`, [`Mailbox::wake_up`] must be called before anything else.
    pub fn fall_asleep(&mut self) -> bool {
        self.flush();
        if self.has_pending() || self.waits_for_slots() {
            return false;
        }
        self.bell.fall_asleep()
    }

    /// Ends a sleep. `rung` says that [`Mailbox::wake_fd`] was readable.
    pub fn wake_up(&mut self, rung: bool) {
        self.bell.wake_up(rung);
    }

    /// The descriptor that becomes readable when a message comes for a sleeper.
    pub fn wake_fd(&self) -> RawFd {
        self.bell.fd()
    }

    fn waits_for_slots(&self) -> bool {
        self.unflushed.iter().any(|to| self.links[to].as_ref().is_some_and(Link::waits_for_slots))
    }

    #[cfg(all(test, loom))]
    fn rings(&self) -> usize {
        self.bell.rings()
    }
}

#[cfg(test)]
mod tests;
