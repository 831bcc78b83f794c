//! The mid-level with its pool, channels and a device, without a transport: commands in, answers out.

use anyhow::{Result, bail, ensure};
use spindle::limits::Limits;
use spindle_bdev::{ChannelId, Channels, CoreEnv, CoreShared, IoCx, IoDone};
use spindle_mem::SgvPool;
use spindle_reactor::{CoreId, Tick};
use spindle_scsi::{Engine, LuId};
use spindle_scsi_port::{
    Admit, Command, Expected, Mid, NexusId, NexusInfo, PortEffect, TaskAttr, TaskTag, TransportKind,
};
use spindle_scsi_spec::{Lun, Status};

use crate::device::{BLOCK, BYTES, Disk, Places, arena, unit};

/// Commands of a turn.
const BATCH: u32 = 32;

struct World {
    engine: Engine,
    channels: Channels,
    done: Vec<IoDone>,
    nexus: NexusId,
    good: u32,
}

/// READs or WRITEs of 4 KiB, [`BATCH`] in a turn.
pub fn run(disk: Disk, writes: bool, count: u32) -> Result<()> {
    let mut world = World::new(disk)?;
    let mut places = Places::default();
    let mut cdbs = [[0; 16]; BATCH as usize];
    let mut left = count;
    let mut warm_up = 64;
    while left > 0 {
        for cdb in &mut cdbs {
            cdb[0] = if writes { 0x2A } else { 0x28 };
            cdb[2..6].copy_from_slice(&places.next().to_be_bytes());
            cdb[8] = (BYTES / BLOCK) as u8;
        }
        if warm_up > 0 {
            // Its first command is told of the power-on.
            warm_up -= 1;
            world.turn(&cdbs, writes);
            continue;
        }
        let now = left.min(BATCH);
        let before = world.good;
        measured_turn(&mut world, &cdbs[..now as usize], writes);
        ensure!(world.good - before == now, "{} of {now} commands ended well", world.good - before);
        left -= now;
    }
    Ok(())
}

#[inline(never)]
fn measured_turn(world: &mut World, cdbs: &[[u8; 16]], writes: bool) {
    world.turn(cdbs, writes);
}

impl World {
    fn new(disk: Disk) -> Result<World> {
        let id = CoreId(0);
        let limits = Limits::new(1, 16 << 20, Some(64 << 20), 1 << 30).map_err(anyhow::Error::msg)?;
        let arena = arena(limits.arena_bytes_max)?;
        let bdev = disk.open(&arena)?;
        let pool = SgvPool::new(id, arena, &limits.pool())?;
        let mut engine = Engine::new(limits.engine(id), pool);
        let mut shared = CoreShared::default();
        let mut channels = Channels::new();
        let mut env = CoreEnv { core: id, pool: engine.pool_mut(), shared: &mut shared };
        channels.open(ChannelId(0), bdev.prepare(id)?.bind(&mut env)?);
        engine.open_lu(unit(bdev.info()));
        engine.set_lun_map(1, &[(0, LuId(0), false)]);
        let info = NexusInfo {
            transport: TransportKind::Iscsi,
            initiator_name: "iqn.2026-01.org.example:me".into(),
            initiator_session: [0; 6],
            target_name: "iqn.2026-01.org.example:micro".into(),
            target: 0,
            target_port: 1,
            lun_map: 1,
            peer_address: String::new(),
        };
        let nexus = match engine.nexus_up(Box::new(info)) {
            Ok(nexus) => nexus,
            Err(refusal) => bail!("the nexus was refused: {refusal:?}"),
        };
        ensure!(engine.grant(nexus, BATCH) == BATCH, "the nexus may hold fewer than {BATCH} tasks");
        Ok(World { engine, channels, done: Vec::new(), nexus, good: 0 })
    }

    fn turn(&mut self, cdbs: &[[u8; 16]], writes: bool) {
        let (read, write) = if writes { (0, BYTES) } else { (BYTES, 0) };
        for (cdb, n) in cdbs.iter().zip(0..) {
            let command = Command {
                nexus: self.nexus,
                lun: Lun::ZERO,
                tag: TaskTag(n),
                cookie: n as u32,
                attr: TaskAttr::Simple,
                cdb,
                expected: Expected { read, write, unsolicited: write },
            };
            match self.engine.command(&command) {
                Admit::Land(task, buf) => self.engine.received(task, buf),
                Admit::Swallow(task) => self.engine.swallowed(task),
                _ => {}
            }
        }
        let mut io = std::mem::take(&mut self.engine.effects().io);
        let mut cx = IoCx { now: Tick::ZERO, pool: self.engine.pool_mut(), done: &mut self.done };
        for (channel, op) in io.drain(..) {
            self.channels.submit(channel, op, &mut cx);
        }
        self.engine.effects().io = io;
        for done in self.done.drain(..) {
            self.engine.on_io(done);
        }
        let mut port = std::mem::take(&mut self.engine.effects().port);
        for effect in port.drain(..) {
            if let PortEffect::Respond { task, data, outcome, .. } = effect {
                self.good += u32::from(outcome.status == Status::Good);
                self.engine.responded(task);
                if let Some((buf, _)) = data {
                    self.engine.returned(buf);
                }
            }
        }
        self.engine.effects().port = port;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_end_well_on_every_disk() {
        for disk in [Disk::Null, Disk::Ram] {
            run(disk, false, 100).unwrap();
            run(disk, true, 100).unwrap();
        }
    }
}
