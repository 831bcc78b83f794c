//! What the flight recorder of a core notes, and how it is read: by RPC, and when the process dies of a panic.
//!
//! One record for each operation given to a device, each that came back without ending its command, each answer to an
//! initiator, and each message between cores: the last moments of a core can be read like a log, and cost a few stores each.

use std::sync::{Mutex, OnceLock};

use spindle_bdev::{BlockIo, ChannelId, IoDone, IoResult, Op};
use spindle_reactor::trace::{EventId, FlightLog, Record, Recorder};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::PortEffect;

/// Records of one core: about the last millisecond under full load, minutes when it is quiet. 256 KiB.
const RECORDS: usize = 8_192;

const SUBMIT: EventId = EventId(1);
const DONE: EventId = EventId(2);
const FAILED: EventId = EventId(3);
const RESPOND: EventId = EventId(4);
const REVOKE: EventId = EventId(5);
const TMF_DONE: EventId = EventId(6);
const NEXUS_GONE: EventId = EventId(7);
const LAND: EventId = EventId(8);
const ABORT: EventId = EventId(9);
const MESSAGE: EventId = EventId(10);
const ADOPT: EventId = EventId(11);
const ERRAND: EventId = EventId(12);
const NOTIFY: EventId = EventId(13);
const SERVED: EventId = EventId(14);
const NEXUS_READY: EventId = EventId(15);
const SHED: EventId = EventId(16);

/// What an event is called.
pub fn name(event: EventId) -> Option<&'static str> {
    Some(match event {
        SUBMIT => "submit channel lba blocks+op",
        DONE => "done key",
        FAILED => "failed key",
        RESPOND => "respond nexus bytes",
        REVOKE => "revoke nexus",
        TMF_DONE => "tmf-done nexus",
        NEXUS_GONE => "nexus-gone nexus",
        LAND => "land nexus bytes",
        ABORT => "abort channel key",
        MESSAGE => "message to",
        ADOPT => "adopt connection",
        ERRAND => "errand",
        NOTIFY => "notify nexus",
        SERVED => "served channel lba blocks+op",
        NEXUS_READY => "nexus-ready nexus",
        SHED => "shed session to",
        _ => return None,
    })
}

/// A core's recorder, in the words of the shard.
pub struct Notes(Recorder);

impl Notes {
    /// For a core that lives as long as the process: its log can be read from anywhere from now on.
    pub fn of_process(core: CoreId) -> Notes {
        let recorder = Recorder::new(core, RECORDS);
        let mut logs = logs().lock().expect("nothing panics while it holds the list");
        logs.push(recorder.log());
        Notes(recorder)
    }

    /// For one that comes and goes, in tests and in the simulation: a few records, which nobody else reads.
    pub fn passing(core: CoreId) -> Notes {
        Notes(Recorder::new(core, 64))
    }

    #[inline]
    fn note(&mut self, at: Tick, event: EventId, small: u16, task: u32, args: [u64; 2]) {
        self.0.record(Record { at, event, small, task, args });
    }

    /// An operation goes to a device.
    #[inline]
    pub fn submit(&mut self, at: Tick, channel: ChannelId, io: &BlockIo) {
        let what = u64::from(io.blocks) << 8 | io.op as u64;
        self.note(at, SUBMIT, channel.0, io.key.0 as u32, [io.lba, what]);
    }

    /// A device has done at once what would have been an operation.
    #[inline]
    pub fn served(&mut self, at: Tick, channel: ChannelId, op: Op, lba: u64, blocks: u32) {
        self.note(at, SERVED, channel.0, 0, [lba, u64::from(blocks) << 8 | op as u64]);
    }

    /// It came back, and did not end its command well: of those that do, the answer in the same turn tells.
    pub fn done(&mut self, at: Tick, done: &IoDone) {
        let event = if matches!(done.result, IoResult::Err(_)) { FAILED } else { DONE };
        self.note(at, event, 0, done.key.0 as u32, [done.key.0, 0]);
    }

    /// Nobody wants it any more.
    pub fn abort(&mut self, at: Tick, channel: ChannelId, key: spindle_bdev::IoKey) {
        self.note(at, ABORT, channel.0, key.0 as u32, [key.0, 0]);
    }

    /// The mid-level asks something of the transport.
    #[inline]
    pub fn effect(&mut self, at: Tick, effect: &PortEffect) {
        match effect {
            PortEffect::Respond { task, nexus, outcome, data, .. } => {
                let bytes = data.as_ref().map_or(0, |(_, bytes)| u64::from(*bytes));
                self.note(at, RESPOND, outcome.status.code().into(), task.0, [u64::from(nexus.0), bytes]);
            }
            other => self.effect_but_answer(at, other),
        }
    }

    #[cold]
    fn effect_but_answer(&mut self, at: Tick, effect: &PortEffect) {
        match effect {
            PortEffect::Respond { .. } => {}
            PortEffect::Land { task, nexus, buf, .. } => {
                self.note(at, LAND, 0, task.0, [u64::from(nexus.0), u64::from(buf.len())]);
            }
            PortEffect::Revoke { task, nexus, .. } => {
                self.note(at, REVOKE, 0, task.0, [u64::from(nexus.0), 0])
            }
            PortEffect::TmfDone { id, nexus, .. } => {
                self.note(at, TMF_DONE, 0, id.0, [u64::from(nexus.0), 0])
            }
            PortEffect::NexusGone { nexus } => self.note(at, NEXUS_GONE, 0, 0, [u64::from(nexus.0), 0]),
            PortEffect::NexusReady { nexus } => self.note(at, NEXUS_READY, 0, 0, [u64::from(nexus.0), 0]),
            PortEffect::Notify { nexus, .. } => self.note(at, NOTIFY, 0, 0, [u64::from(nexus.0), 0]),
        }
    }

    /// A message leaves for another core.
    pub fn message(&mut self, at: Tick, to: CoreId) {
        self.note(at, MESSAGE, to.0.into(), 0, [0, 0]);
    }

    /// A session is to move to another core, for this one has too much to do.
    pub fn shed(&mut self, at: Tick, tsih: u16, to: CoreId) {
        self.note(at, SHED, 0, 0, [tsih.into(), to.0.into()]);
    }

    /// A connection comes to live here.
    pub fn adopt(&mut self, at: Tick) {
        self.note(at, ADOPT, 0, 0, [0, 0]);
    }

    /// The control plane runs something here.
    pub fn errand(&mut self, at: Tick) {
        self.note(at, ERRAND, 0, 0, [0, 0]);
    }
}

fn logs() -> &'static Mutex<Vec<FlightLog>> {
    static LOGS: OnceLock<Mutex<Vec<FlightLog>>> = OnceLock::new();
    LOGS.get_or_init(Mutex::default)
}

/// The last moments of all cores, as text; at most `last` records of each.
pub fn dump(last: usize) -> Vec<(CoreId, Vec<String>)> {
    // A panicking thread must not wait for one that panicked before.
    let Ok(logs) = logs().try_lock() else { return Vec::new() };
    let line = |r: &Record| {
        let what = name(r.event).unwrap_or("?");
        format!("{} {what}: task {:08x} small {} args {:x} {:x}", r.at, r.task, r.small, r.args[0], r.args[1])
    };
    logs.iter()
        .map(|log| {
            let records = log.records();
            let from = records.len().saturating_sub(last);
            (log.core(), records[from..].iter().map(line).collect())
        })
        .collect()
}

/// From now on a panic shows the last moments of all cores.
pub fn dump_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        for (core, lines) in dump(64) {
            eprintln!("the last moments of {core}:");
            lines.iter().for_each(|line| eprintln!("  {line}"));
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_can_be_read_by_anybody() {
        let mut notes = Notes::of_process(CoreId(77));
        notes.message(Tick(5), CoreId(3));
        let all = dump(10);
        let (_, lines) = all.iter().find(|(core, _)| *core == CoreId(77)).expect("it is on the list");
        assert!(lines[0].contains("message to") && lines[0].contains("small 3"), "{lines:?}");
    }
}
