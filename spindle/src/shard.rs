//! One core's share of the target, and its turn.
//!
//! A turn takes in what happened (messages, packets, completions), lets the engine decide, and carries out what it
//! decided, in the order of `docs/ARCHITECTURE.md`. An operation that ends at once (RAM, null) is answered in the
//! same turn, because effects are carried out until there are no more, within a budget.
//!
//! The shard is generic over what carries bytes, so that the simulation runs this very code.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::mpsc::Sender;

use spindle_bdev::{ChannelId, Channels, CoreEnv, CoreShared, IoCx, IoDone, Op};
use spindle_iscsi::{IscsiOut, IscsiTransport};
use spindle_net::Net;
use spindle_reactor::{CoreId, Mailbox, Shard, Tick, Turn, WakeSet, Work};
use spindle_scsi::{ControlEvent, Direct, Engine, LuId, Witness};
use spindle_scsi_port::{PortEffect, Transport};

use crate::balance::{Balance, Verdict};
use crate::message::{Adopted, ShardMsg};
use crate::placement::Placement;
use crate::recorder::Notes;

/// PDUs taken in by the transport in one turn.
const PDUS_PER_TURN: u32 = 256;
/// How often effects that cause effects are followed up within one turn.
const ROUNDS_MAX: u32 = 16;

/// Everything one core owns. The parts are public to this crate and to the simulation: errands of the control plane
/// run on them between turns.
pub struct Core<N: Net> {
    /// Which core.
    pub id: CoreId,
    /// How many there are.
    pub cores: u8,
    /// The SCSI mid-level, with the core's memory pool.
    pub engine: Engine,
    /// iSCSI.
    pub iscsi: IscsiTransport<N>,
    /// Paths to devices.
    pub channels: Channels,
    /// What channels of one driver share.
    pub shared: CoreShared,
    /// The time of this turn.
    pub now: Tick,
    /// Who waits for a unit to be closed on this core.
    pub closing: HashMap<LuId, Closing>,
    /// Who waits for units to shrink.
    pub shrinking: HashMap<LuId, Sender<CoreId>>,
    /// Where things to be stored durably go: the control plane's thread for files.
    pub store: Option<Sender<StoreOrder>>,
    placement: Placement,
    balance: Balance,
    notes: Notes,
    done: Vec<IoDone>,
    port: Vec<PortEffect>,
    out: Vec<IscsiOut<N::Socket>>,
    tick_at: Option<Tick>,
    stopping: bool,
}

/// A unit that is being closed.
pub struct Closing {
    /// Its channel.
    pub channel: ChannelId,
    /// Told when the last operation is back and the channel is gone.
    pub tell: Sender<CoreId>,
    /// The engine has let go of it.
    pub drained: bool,
}

/// Something to be stored durably; answered with an errand that calls `Engine::stored`.
pub struct StoreOrder {
    /// Who asks.
    pub core: CoreId,
    /// For which unit.
    pub lu: LuId,
    /// Comes back.
    pub ticket: u32,
    /// What kind of bytes.
    pub what: spindle_scsi::Stored,
    /// The bytes.
    pub bytes: Box<[u8]>,
}

/// The mid-level as transports see it: the engine, and the channels for what devices can do at once. A macro, for it
/// borrows these parts of the core and no others.
macro_rules! mid {
    ($core:expr) => {
        Direct {
            engine: &mut $core.engine,
            channels: &mut $core.channels,
            witness: Served { notes: &mut $core.notes, now: $core.now },
        }
    };
}

/// Notes what was served without an operation.
struct Served<'a> {
    notes: &'a mut Notes,
    now: Tick,
}

impl Witness for Served<'_> {
    #[inline]
    fn served(&mut self, channel: ChannelId, op: Op, lba: u64, blocks: u32) {
        self.notes.served(self.now, channel, op, lba, blocks);
    }
}

impl<N: Net> Core<N> {
    /// A core with nothing open yet.
    pub fn new(id: CoreId, cores: u8, engine: Engine, iscsi: IscsiTransport<N>) -> Core<N> {
        Core {
            id,
            cores,
            engine,
            iscsi,
            channels: Channels::new(),
            shared: CoreShared::default(),
            now: Tick::ZERO,
            closing: HashMap::new(),
            shrinking: HashMap::new(),
            store: None,
            placement: Placement::new(cores),
            balance: Balance::default(),
            notes: Notes::passing(id),
            done: Vec::with_capacity(256),
            port: Vec::with_capacity(256),
            out: Vec::new(),
            tick_at: None,
            stopping: false,
        }
    }

    /// This core lives as long as the process: others may read what it noted, also after a panic.
    pub fn note_for_all(&mut self) {
        self.notes = Notes::of_process(self.id);
    }

    /// Where new connections go that are accepted here.
    pub fn placement(&mut self) -> &mut Placement {
        &mut self.placement
    }

    /// When sessions of this core move elsewhere.
    pub fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    /// This core may have too much to do beside another one.
    #[cold]
    fn look_at_balance(&mut self) {
        match self.balance.look(self.id, self.now) {
            Verdict::Well => {}
            Verdict::Note => self.iscsi.note_work(),
            Verdict::Shed(shed) => {
                if let Some(tsih) = self.iscsi.shed(shed) {
                    self.notes.shed(self.now, tsih, shed.to);
                }
            }
        }
    }

    /// What a channel needs to be bound here.
    pub fn env(&mut self) -> CoreEnv<'_> {
        CoreEnv { core: self.id, pool: self.engine.pool_mut(), shared: &mut self.shared }
    }

    /// Takes a message in.
    pub fn on_message(&mut self, from: CoreId, message: ShardMsg<N>, now: Tick) {
        self.now = now;
        match message {
            ShardMsg::Scsi(message) => self.engine.on_core(from, message),
            ShardMsg::Conn(message) => self.iscsi.on_message(from, message, now, &mut mid!(self)),
            ShardMsg::Adopt(new) => self.adopt(*new),
            ShardMsg::Handed(handed) => self.iscsi.take_over(from, *handed, now, &mut mid!(self)),
            ShardMsg::Control(errand) => {
                self.notes.errand(now);
                errand(self);
            }
            ShardMsg::Stop => self.stopping = true,
        }
    }

    fn adopt(&mut self, new: Adopted<N::Socket>) {
        self.notes.adopt(self.now);
        let Adopted { socket, portal_group, peer, local } = new;
        // When the table of connections is full the socket is dropped, which the initiator sees as a reset.
        let _ = self.iscsi.adopt(socket, portal_group, peer, local, self.now);
    }

    /// One pass over everything this core owns. Returns how much was done.
    pub fn turn(&mut self, now: Tick, mail: &mut Mailbox<ShardMsg<N>>) -> u32 {
        self.now = now;
        let mut work = self.iscsi.poll(now, PDUS_PER_TURN, &mut mid!(self));
        let mut cx = IoCx { now, pool: self.engine.pool_mut(), done: &mut self.done };
        work += self.channels.poll(&mut cx);
        self.tick_at = self.engine.on_tick(now);
        for _ in 0..ROUNDS_MAX {
            let more = self.carry_out(mail);
            if more == 0 {
                break;
            }
            work += more;
        }
        self.channels.kick();
        self.iscsi.flush(now, &mut mid!(self));
        self.send_out(mail);
        if !self.closing.is_empty() {
            self.finish_closing();
        }
        if self.balance.is_due(now) {
            self.look_at_balance();
        }
        work
    }

    /// One round: completions into the engine, its effects to where they belong.
    fn carry_out(&mut self, mail: &mut Mailbox<ShardMsg<N>>) -> u32 {
        let mut work = self.done.len() as u32;
        for done in self.done.drain(..) {
            self.engine.on_io_shown(done, |done| self.notes.done(self.now, done));
        }
        if self.engine.effects().is_empty() {
            return work;
        }
        // Vectors are exchanged, so that their capacity goes round and the engine may add to its own meanwhile.
        let mut io = std::mem::take(&mut self.engine.effects().io);
        work += io.len() as u32;
        let mut cx = IoCx { now: self.now, pool: self.engine.pool_mut(), done: &mut self.done };
        for (channel, op) in io.drain(..) {
            self.notes.submit(self.now, channel, &op);
            self.channels.submit(channel, op, &mut cx);
        }
        give_back(&mut self.engine.effects().io, io);
        let mut aborts = std::mem::take(&mut self.engine.effects().aborts);
        work += aborts.len() as u32;
        for (channel, key) in aborts.drain(..) {
            self.notes.abort(self.now, channel, key);
            let mut cx = IoCx { now: self.now, pool: self.engine.pool_mut(), done: &mut self.done };
            self.channels.abort(channel, key, &mut cx);
        }
        give_back(&mut self.engine.effects().aborts, aborts);
        std::mem::swap(&mut self.port, &mut self.engine.effects().port);
        work += self.port.len() as u32;
        let mut port = std::mem::take(&mut self.port);
        for effect in port.drain(..) {
            self.notes.effect(self.now, &effect);
            self.iscsi.perform(effect, &mut mid!(self));
        }
        self.port = port;
        let mut core = std::mem::take(&mut self.engine.effects().core);
        work += core.len() as u32;
        for (to, message) in core.drain(..) {
            self.notes.message(self.now, to);
            mail.notify(to, ShardMsg::Scsi(message));
        }
        give_back(&mut self.engine.effects().core, core);
        for event in std::mem::take(&mut self.engine.effects().control) {
            work += 1;
            self.on_control(event);
        }
        work
    }

    fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::LuClosed { lu } => {
                if let Some(closing) = self.closing.get_mut(&lu) {
                    closing.drained = true;
                }
            }
            ControlEvent::LuShrunk { lu } => {
                if let Some(tell) = self.shrinking.remove(&lu) {
                    // Nobody may be waiting any more: the RPC gave up.
                    let _ = tell.send(self.id);
                }
            }
            ControlEvent::Store { lu, ticket, what, bytes } => {
                let order = StoreOrder { core: self.id, lu, ticket, what, bytes };
                let sent = self.store.as_ref().is_some_and(|s| s.send(order).is_ok());
                if !sent {
                    // Nowhere to store: the command that asked for it must not be told it was.
                    self.engine.stored(lu, ticket, false);
                }
            }
        }
    }

    /// Connections and messages of the transport that leave this core.
    fn send_out(&mut self, mail: &mut Mailbox<ShardMsg<N>>) {
        let mut out = std::mem::take(&mut self.out);
        self.iscsi.take_out(&mut out);
        for item in out.drain(..) {
            match item {
                IscsiOut::Accepted { socket, portal_group, peer, local } => {
                    let new = Adopted { socket, portal_group, peer, local };
                    let to = self.placement.next(self.now);
                    if to == self.id {
                        self.adopt(new);
                    } else {
                        mail.notify(to, ShardMsg::Adopt(Box::new(new)));
                    }
                }
                IscsiOut::Handed { to, handed } => mail.notify(to, ShardMsg::Handed(handed)),
                IscsiOut::Message { to, message } => mail.notify(to, ShardMsg::Conn(message)),
            }
        }
        self.out = out;
    }

    /// Starts to close a unit on this core; `tell` hears when its channel is gone.
    pub fn close_lu(&mut self, lu: LuId, channel: ChannelId, tell: Sender<CoreId>) {
        match self.closing.entry(lu) {
            // Asked for before, by somebody who waits no longer.
            Entry::Occupied(closing) => closing.into_mut().tell = tell,
            Entry::Vacant(place) if self.engine.gate_of(lu).is_some() => {
                place.insert(Closing { channel, tell, drained: false });
                self.engine.close_lu(lu);
            }
            // It was never opened here.
            Entry::Vacant(_) => drop(tell.send(self.id)),
        }
    }

    fn finish_closing(&mut self) {
        let ready: Vec<LuId> = self.closing.iter().filter(|(_, c)| c.drained).map(|(lu, _)| *lu).collect();
        for lu in ready {
            let channel = self.closing[&lu].channel;
            let Some(mut gone) = self.channels.close(channel) else { continue };
            gone.close(&mut self.env());
            let closing = self.closing.remove(&lu).expect("listed just above");
            // Nobody may be waiting any more: the RPC gave up.
            let _ = closing.tell.send(self.id);
        }
    }

    /// A unit is to shrink; `tell` hears when nothing of this core reaches beyond its new end.
    pub fn shrink_lu(&mut self, lu: LuId, blocks: u64, tell: Sender<CoreId>) {
        self.shrinking.insert(lu, tell);
        self.engine.lu_shrink(lu, blocks);
    }

    /// Names what would wake this core.
    pub fn arm(&mut self, wake: &mut WakeSet) -> bool {
        let quiet = self.iscsi.arm(wake) & self.channels.arm(wake);
        if let Some(at) = self.deadline() {
            wake.at(at);
        }
        if self.channels.waiting() > 0 {
            // A full queue has room again when a completion comes, which wakes; a ring shared with others, soon.
            wake.at(self.now.plus_ms(1));
        }
        quiet && self.done.is_empty() && self.engine.effects().is_empty()
    }

    /// When this core wants a turn at the latest.
    pub fn deadline(&mut self) -> Option<Tick> {
        let engine = self.tick_at;
        match (engine, self.iscsi.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The process ends. Connections are cut; what a peer still held of our memory goes with the process, and needs no
    /// way home.
    pub fn end(mut self) {
        self.iscsi.net_mut().drain(self.engine.pool_mut());
        std::mem::forget(self);
    }

    /// Whether the core was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }
}

/// Puts an emptied vector back, so that its capacity is used again, unless the owner has filled a new one meanwhile.
fn give_back<T>(place: &mut Vec<T>, emptied: Vec<T>) {
    if place.is_empty() {
        *place = emptied;
    }
}

impl<N: Net> Shard for Core<N> {
    type Msg = ShardMsg<N>;

    fn on_message(&mut self, from: CoreId, message: ShardMsg<N>, cx: &mut Turn<'_, ShardMsg<N>>) {
        Core::on_message(self, from, message, cx.now);
    }

    fn turn(&mut self, cx: &mut Turn<'_, ShardMsg<N>>) -> Work {
        let work = Core::turn(self, cx.now, cx.mail);
        match work {
            _ if self.stopping => Work::Stop,
            0 => match self.channels.owed_by() {
                Some(by) => Work::Owed { next: self.deadline(), by },
                None => Work::Idle { next: self.deadline() },
            },
            n => Work::Busy(n),
        }
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        Core::arm(self, wake)
    }
}
