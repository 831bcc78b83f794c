//! The engine's own share of a command: READ or WRITE of 4 KiB by one nexus, on a device that answers at once.
//!
//! `commands [read|write] [COUNT]`. Count instructions by running it under a counter twice, with different counts.

use std::hint::black_box;
use std::time::Instant;

use spindle_bdev::{BdevInfo, ChannelId, IoDone, IoResult};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool};
use spindle_reactor::CoreId;
use spindle_scsi::{Engine, EngineConfig, LuId, LuIdentity, LuSpec};
use spindle_scsi_port::{
    Admit, Command, Expected, Mid, NexusId, NexusInfo, PortEffect, TaskAttr, TaskTag, TransportKind,
};
use spindle_scsi_spec::Lun;

const DEPTH: usize = 8;

fn main() {
    let mut args = std::env::args().skip(1);
    let writes = args.next().is_some_and(|a| a == "write");
    let count: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let (mut engine, nexus) = engine();
    let start = Instant::now();
    let mut done = 0;
    while done < count {
        done += turn(&mut engine, nexus, writes, done);
    }
    let ns = start.elapsed().as_nanos() as f64 / done as f64;
    println!("{done} commands, {ns:.1} ns each");
}

/// A few commands in, their completions back, their answers out.
fn turn(engine: &mut Engine, nexus: NexusId, writes: bool, seed: u64) -> u64 {
    let mut cdb = [0; 16];
    cdb[0] = if writes { 0x2A } else { 0x28 };
    cdb[8] = 8;
    for n in 0..DEPTH {
        cdb[5] = (seed as u8).wrapping_add(n as u8);
        let expected = Expected {
            read: if writes { 0 } else { 4096 },
            write: if writes { 4096 } else { 0 },
            unsolicited: 0,
        };
        let command = Command {
            nexus,
            lun: Lun::ZERO,
            tag: TaskTag(n as u64),
            cookie: n as u32,
            attr: TaskAttr::Simple,
            cdb: &cdb,
            expected,
        };
        if let Admit::Land(task, buf) = engine.command(black_box(&command)) {
            engine.received(task, buf);
        }
    }
    let mut io = std::mem::take(&mut engine.effects().io);
    for (_, io) in io.drain(..) {
        engine.on_io(IoDone::of(io, IoResult::Ok));
    }
    engine.effects().io = io;
    let mut port = std::mem::take(&mut engine.effects().port);
    let answered = port.len() as u64;
    for effect in port.drain(..) {
        if let PortEffect::Respond { task, data, .. } = effect {
            engine.responded(task);
            if let Some((buf, _)) = data {
                engine.returned(buf);
            }
        }
    }
    engine.effects().port = port;
    answered
}

fn engine() -> (Engine, NexusId) {
    let arena = Arena::new(ArenaConfig::plain(8 << 20, 64 << 20)).expect("a small arena");
    let config = PoolConfig { poison: false, ..PoolConfig::spread(8 << 20) };
    let pool = SgvPool::new(CoreId(0), arena, &config).expect("a small pool");
    let mut engine = Engine::new(EngineConfig::new(CoreId(0), 1), pool);
    let info = BdevInfo {
        name: "null".into(),
        uuid: [1; 16],
        block_bytes: 512,
        physical_exponent: 3,
        lowest_aligned: 0,
        blocks: 1 << 21,
        write_cache: false,
        read_only: false,
        rotation_rate: 1,
        unmap: false,
        unmap_zeroes: false,
        unmap_granularity: 0,
        unmap_alignment: 0,
        optimal_granularity: 0,
        optimal_transfer: 0,
        transfer_max: 0,
        lends: false,
    };
    engine.open_lu(LuSpec {
        lu: LuId(1),
        channel: ChannelId(1),
        identity: LuIdentity::of_uuid(info.uuid),
        info,
        home: CoreId(0),
        tst_shared: false,
        write_protect: false,
        can_store: false,
        saved_modes: None,
        saved_reservations: None,
    });
    engine.set_lun_map(1, &[(0, LuId(1), false)]);
    let info = NexusInfo {
        transport: TransportKind::Iscsi,
        initiator_name: "iqn.2026-01.example:i".into(),
        initiator_session: [0; 6],
        target_name: "iqn.2026-01.example:t".into(),
        target: 0,
        target_port: 1,
        lun_map: 1,
        peer_address: String::new(),
    };
    let nexus = engine.nexus_up(Box::new(info)).expect("room for one nexus");
    // The first turn takes the power-on attention.
    turn(&mut engine, nexus, false, 0);
    (engine, nexus)
}
