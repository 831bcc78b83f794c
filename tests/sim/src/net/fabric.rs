//! The wires: byte streams with delay, small buffers, odd splits, ends and resets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use spindle_net::ListenerId;
use spindle_reactor::Tick;

use super::framer::Framer;
use crate::trace;

/// A connection; never used twice in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PipeId(pub usize);

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From initiator to target.
    Up,
    /// From target to initiator.
    Down,
}

/// How the wires behave in this run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Least and greatest delay of a piece, in microseconds.
    pub delay_us: (u64, u64),
    /// Largest piece that travels by itself.
    pub mtu: usize,
    /// Bytes that fit between the two ends of one direction.
    pub buffer: usize,
    /// One piece in so many is held up for milliseconds; 0: none.
    pub stall_one_in: u32,
    /// One read in so many gives only a part of what is there; 0: none.
    pub short_read_one_in: u32,
}

/// A cut that waits for its moment.
#[derive(Clone, Copy, Debug)]
struct Cut {
    way: Way,
    /// Inside a PDU of this opcode; `None`: anywhere.
    opcode: Option<u8>,
    /// After so many bytes of it.
    after: u32,
}

#[derive(Default)]
struct Stream {
    flying: VecDeque<(Tick, Vec<u8>)>,
    flying_bytes: usize,
    last_at: Tick,
    arrived: VecDeque<u8>,
    /// The sender has closed; seen when everything before it was read.
    fin: Option<Tick>,
    framer: Framer,
}

struct Pipe {
    up: Stream,
    down: Stream,
    peer: SocketAddr,
    local: SocketAddr,
    /// The connection is dead from this moment on: both sides learn it when they look.
    reset_at: Option<Tick>,
    /// No more is delivered: a cut has happened and its reset is under way.
    severed: bool,
    core: Option<usize>,
    cut: Option<Cut>,
    initiator_woken: bool,
}

struct Listener {
    at: SocketAddr,
    core: usize,
    id: ListenerId,
    backlog: VecDeque<PipeId>,
}

/// What a read came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Got {
    /// So many bytes.
    Bytes(usize),
    /// None now.
    Nothing,
    /// The other side has closed in order.
    End,
    /// The connection is dead.
    Reset,
}

/// All wires of a run, shared by the ends.
pub type SharedFabric = Arc<Mutex<Fabric>>;

/// Locks the shared fabric; there is one thread, so nobody ever waits.
pub fn lock(fabric: &SharedFabric) -> MutexGuard<'_, Fabric> {
    fabric.lock().unwrap_or_else(|e| e.into_inner())
}

/// All wires of a run.
pub struct Fabric {
    now: Tick,
    profile: Profile,
    rng: Rng,
    pipes: Vec<Pipe>,
    listeners: Vec<Listener>,
    next_listener: u32,
    /// Cores whose network has something to report.
    dirty: Vec<bool>,
    /// PDUs inside which a connection was cut, by opcode.
    cuts: Vec<u8>,
    calm: bool,
}

impl Fabric {
    /// Wires for `cores` cores.
    pub fn shared(cores: usize, profile: Profile, rng: Rng) -> SharedFabric {
        Arc::new(Mutex::new(Fabric {
            now: Tick::ZERO,
            profile,
            rng,
            pipes: Vec::new(),
            listeners: Vec::new(),
            next_listener: 0,
            dirty: vec![false; cores],
            cuts: Vec::new(),
            calm: false,
        }))
    }

    /// From now on no stalls and no short reads, and cuts that have not happened never will.
    pub fn calm(&mut self) {
        self.calm = true;
        for pipe in &mut self.pipes {
            pipe.cut = None;
        }
    }

    /// The end of calm.
    pub fn unrest(&mut self) {
        self.calm = false;
    }

    /// Opcodes of the PDUs inside which connections were cut so far.
    pub fn cuts(&self) -> &[u8] {
        &self.cuts
    }

    // ---- the initiator's side

    /// Connects to an address; `None` if nobody listens. Of several listeners the seed chooses one.
    pub fn connect(&mut self, to: SocketAddr, peer: SocketAddr) -> Option<PipeId> {
        let fits: Vec<usize> = (0..self.listeners.len()).filter(|&n| self.listeners[n].at == to).collect();
        let chosen = *fits.get(self.rng.usize(0..fits.len().max(1)))?;
        let id = PipeId(self.pipes.len());
        self.pipes.push(Pipe {
            up: Stream::default(),
            down: Stream::default(),
            peer,
            local: to,
            reset_at: None,
            severed: false,
            core: None,
            cut: None,
            initiator_woken: false,
        });
        let listener = &mut self.listeners[chosen];
        listener.backlog.push_back(id);
        self.dirty[listener.core] = true;
        Some(id)
    }

    /// Cuts the connection inside a PDU of this opcode (anywhere, if `None`), once one comes by.
    pub fn cut(&mut self, id: PipeId, way: Way, opcode: Option<u8>) {
        let after = if self.rng.bool() { self.rng.u32(1..48) } else { self.rng.u32(1..600) };
        self.pipes[id.0].cut = Some(Cut { way, opcode, after });
    }

    /// Headers and data of the next PDUs carry digests.
    pub fn set_digests(&mut self, id: PipeId, header: bool, data: bool) {
        self.pipes[id.0].up.framer.set_digests(header, data);
        self.pipes[id.0].down.framer.set_digests(header, data);
    }

    /// Whether the initiator has something to look at since it last asked.
    pub fn initiator_woken(&mut self, id: PipeId) -> bool {
        std::mem::take(&mut self.pipes[id.0].initiator_woken)
    }

    /// Ends the connection without order.
    pub fn reset(&mut self, id: PipeId) {
        let delay = self.delay();
        let at = self.now + delay;
        let pipe = &mut self.pipes[id.0];
        pipe.severed = true;
        pipe.reset_at.get_or_insert(at);
    }

    /// Ends every connection without order and forgets the listeners: the machine lost its power.
    pub fn power_cut(&mut self) {
        for pipe in &mut self.pipes {
            pipe.severed = true;
            pipe.reset_at.get_or_insert(self.now);
            pipe.initiator_woken = true;
            pipe.core = None;
        }
        self.listeners.clear();
        self.dirty.fill(false);
    }

    /// Whether the connection is dead, as far as its ends can tell by now.
    pub fn is_dead(&self, id: PipeId) -> bool {
        self.pipes[id.0].reset_at.is_some_and(|at| at <= self.now)
    }

    // ---- both sides

    /// Room for more bytes.
    pub fn room(&self, id: PipeId, way: Way) -> usize {
        let pipe = &self.pipes[id.0];
        let stream = match way {
            Way::Up => &pipe.up,
            Way::Down => &pipe.down,
        };
        self.profile.buffer.saturating_sub(stream.flying_bytes + stream.arrived.len())
    }

    /// Sends as much as there is room for, in pieces of the seed's choosing.
    pub fn write(&mut self, id: PipeId, way: Way, bytes: &[u8]) -> usize {
        let n = self.room(id, way).min(bytes.len());
        if n == 0 || self.pipes[id.0].severed {
            // Into a dead connection everything disappears.
            return if self.pipes[id.0].severed { bytes.len() } else { 0 };
        }
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            let piece = match self.rng.u8(0..4) {
                0 => self.rng.usize(1..=self.profile.mtu),
                _ => self.profile.mtu,
            };
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            let at = self.now + self.delay();
            let stream = self.stream(id, way);
            // In order: nothing overtakes.
            stream.last_at = stream.last_at.max(at);
            stream.flying.push_back((stream.last_at, now.to_vec()));
            stream.flying_bytes += now.len();
        }
        n
    }

    /// The sender is done.
    pub fn fin(&mut self, id: PipeId, way: Way) {
        let at = self.now + self.delay();
        let stream = self.stream(id, way);
        stream.last_at = stream.last_at.max(at);
        if stream.fin.is_none() {
            stream.fin = Some(stream.last_at);
        }
    }

    /// How much a read may take now: all that has arrived, or less if the seed wants it.
    pub fn readable(&mut self, id: PipeId, way: Way) -> Got {
        let now = self.now;
        if self.is_dead(id) {
            return Got::Reset;
        }
        let stream = self.stream(id, way);
        let (have, ended) =
            (stream.arrived.len(), stream.flying.is_empty() && stream.fin.is_some_and(|t| t <= now));
        if have == 0 {
            return if ended { Got::End } else { Got::Nothing };
        }
        let short = self.profile.short_read_one_in;
        if !self.calm && short > 0 && have > 1 && self.rng.u32(0..short) == 0 {
            return Got::Bytes(self.rng.usize(1..have));
        }
        Got::Bytes(have)
    }

    /// Whether [`Fabric::readable`] would say more than `Nothing`.
    pub fn has_input(&self, id: PipeId, way: Way) -> bool {
        let pipe = &self.pipes[id.0];
        let stream = match way {
            Way::Up => &pipe.up,
            Way::Down => &pipe.down,
        };
        let ended = stream.flying.is_empty() && stream.fin.is_some_and(|t| t <= self.now);
        self.is_dead(id) || !stream.arrived.is_empty() || ended
    }

    /// Takes `out.len()` arrived bytes.
    pub fn take(&mut self, id: PipeId, way: Way, out: &mut [u8]) {
        let n = out.len();
        for (to, byte) in out.iter_mut().zip(self.stream(id, way).arrived.drain(..n)) {
            *to = byte;
        }
        self.woke(id, way.back());
    }

    /// Takes everything that has arrived for the initiator.
    pub fn take_all(&mut self, id: PipeId, out: &mut Vec<u8>) -> Got {
        let got = self.readable(id, Way::Down);
        if let Got::Bytes(n) = got {
            let start = out.len();
            out.resize(start + n, 0);
            self.take(id, Way::Down, &mut out[start..]);
            if n > 0 && !self.pipes[id.0].down.arrived.is_empty() {
                self.pipes[id.0].initiator_woken = true;
            }
        }
        got
    }

    // ---- the target's side

    pub(super) fn listen(&mut self, core: usize, at: SocketAddr) -> ListenerId {
        let id = ListenerId(self.next_listener);
        self.next_listener += 1;
        self.listeners.push(Listener { at, core, id, backlog: VecDeque::new() });
        id
    }

    pub(super) fn unlisten(&mut self, id: ListenerId) {
        let Some(at) = self.listeners.iter().position(|l| l.id == id) else { return };
        for pipe in self.listeners.remove(at).backlog {
            self.reset(pipe);
        }
    }

    pub(super) fn accept(&mut self, core: usize) -> Option<(ListenerId, PipeId, SocketAddr, SocketAddr)> {
        for listener in self.listeners.iter_mut().filter(|l| l.core == core) {
            if let Some(id) = listener.backlog.pop_front() {
                let pipe = &self.pipes[id.0];
                return Some((listener.id, id, pipe.peer, pipe.local));
            }
        }
        None
    }

    pub(super) fn attach(&mut self, id: PipeId, core: usize) {
        self.pipes[id.0].core = Some(core);
        self.dirty[core] = true;
    }

    /// Everything of this core has been reported.
    pub(super) fn unmark(&mut self, core: usize) {
        self.dirty[core] = false;
    }

    /// There is (still) something to report on this core.
    pub fn mark(&mut self, core: usize) {
        self.dirty[core] = true;
    }

    /// Whether the network of a core has something to report.
    pub fn is_marked(&self, core: usize) -> bool {
        self.dirty[core]
    }

    // ---- time

    /// When something arrives next.
    pub fn next(&self) -> Option<Tick> {
        let now = self.now;
        let stream = |s: &Stream| match s.flying.front() {
            Some((at, _)) => Some(*at),
            None => s.fin.filter(|at| *at > now),
        };
        self.pipes
            .iter()
            .flat_map(|p| match (p.severed, p.reset_at) {
                (true, Some(at)) => [Some(at).filter(|at| *at > now), None],
                (true, None) => [None, None],
                (false, _) => [stream(&p.up), stream(&p.down)],
            })
            .flatten()
            .min()
    }

    /// Delivers what is due at `now`.
    pub fn advance(&mut self, now: Tick) {
        self.now = now;
        for n in 0..self.pipes.len() {
            let id = PipeId(n);
            if self.pipes[n].severed {
                if self.pipes[n].reset_at.is_some_and(|at| at > Tick::ZERO && at <= now) {
                    // Told once; from here on the ends find it whenever they look.
                    self.pipes[n].up = Stream::default();
                    self.pipes[n].down = Stream::default();
                    self.pipes[n].reset_at = Some(Tick::ZERO);
                    self.woke(id, Way::Up);
                    self.woke(id, Way::Down);
                }
                continue;
            }
            for way in [Way::Up, Way::Down] {
                self.deliver(id, way);
            }
        }
    }

    fn deliver(&mut self, id: PipeId, way: Way) {
        let now = self.now;
        loop {
            let stream = self.stream(id, way);
            if stream.flying.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let (_, piece) = stream.flying.pop_front().expect("looked at just above");
            stream.flying_bytes -= piece.len();
            let cut = self.pipes[id.0].cut.filter(|c| c.way == way);
            let cut_at = cut.and_then(|cut| self.find_cut(id, cut, &piece));
            let stream = self.stream(id, way);
            let delivered = &piece[..cut_at.unwrap_or(piece.len())];
            if cut_at.is_none() {
                stream.framer.feed(delivered);
            }
            stream.arrived.extend(delivered);
            self.woke(id, way);
            if cut_at.is_some() {
                let opcode = self.stream(id, way).framer.inside();
                trace!("pipe {} is cut {way:?} inside {opcode:02x?}", id.0);
                self.cuts.extend(opcode);
                // What has arrived may still be read for a moment.
                let at = now + Duration::from_micros(self.rng.u64(1..2_000));
                self.pipes[id.0].severed = true;
                self.pipes[id.0].reset_at = Some(at);
                return;
            }
        }
        let stream = self.stream(id, way);
        if stream.flying.is_empty() && stream.fin.is_some_and(|at| at > Tick::ZERO && at <= now) {
            // Told once; readers find it whenever they look.
            stream.fin = Some(Tick::ZERO);
            self.woke(id, way);
        }
    }

    /// Where in `piece` the cut happens, if it does. Feeds the framer up to there.
    fn find_cut(&mut self, id: PipeId, cut: Cut, piece: &[u8]) -> Option<usize> {
        let mut after = cut.after;
        let framer = &mut self.stream(id, cut.way).framer;
        let mut probe = framer.clone();
        for n in 0..piece.len() {
            probe.feed(&piece[n..=n]);
            match probe.inside() {
                Some(opcode) if cut.opcode.is_none_or(|want| want == opcode) => {
                    after = after.saturating_sub(1);
                    if after == 0 {
                        *framer = probe;
                        return Some(n + 1);
                    }
                }
                // The PDU was shorter than the seed thought: its last byte but one does as well.
                _ => {}
            }
        }
        self.pipes[id.0].cut = Some(Cut { after, ..cut });
        None
    }

    fn woke(&mut self, id: PipeId, way: Way) {
        let pipe = &mut self.pipes[id.0];
        match way {
            Way::Up => {
                if let Some(core) = pipe.core {
                    self.dirty[core] = true;
                }
            }
            Way::Down => pipe.initiator_woken = true,
        }
    }

    fn stream(&mut self, id: PipeId, way: Way) -> &mut Stream {
        match way {
            Way::Up => &mut self.pipes[id.0].up,
            Way::Down => &mut self.pipes[id.0].down,
        }
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.profile.delay_us;
        let us = self.rng.u64(least..=most);
        let stall = self.profile.stall_one_in;
        if !self.calm && stall > 0 && self.rng.u32(0..stall) == 0 {
            return Duration::from_micros(us + self.rng.u64(1_000..40_000));
        }
        Duration::from_micros(us)
    }
}

impl Way {
    fn back(self) -> Way {
        match self {
            Way::Up => Way::Down,
            Way::Down => Way::Up,
        }
    }
}
