//! Single parts, driven alone: PDUs, the pool, the ring between cores.

use anyhow::{Context, Result};
use spindle_iscsi_wire::{
    Bhs, DataIn, DataInStatus, InitiatorPdu, Itt, Residual, ScsiCommand, SerialNumber, TaskAttribute, Ttt,
};
use spindle_mem::{Arena, ArenaConfig, HugePolicy, PoolConfig, SgvPool, ShareId};
use spindle_reactor::{CoreId, Mesh};
use std::hint::black_box;

/// A command read and a Data-In with status written.
pub fn pdu(count: u32) -> Result<()> {
    let header = ScsiCommand {
        immediate: false,
        is_final: true,
        read: true,
        write: false,
        attr: TaskAttribute::Simple,
        priority: 0,
        ahs_words: 0,
        data_len: 0,
        lun: [0; 8],
        itt: Itt(1),
        edtl: 4096,
        cmd_sn: SerialNumber(1),
        exp_stat_sn: SerialNumber(1),
        cdb: [0x28; 16],
    }
    .to_bhs();
    let mut out: Bhs = [0; 48];
    measured_turn_pdu(count, &header, &mut out)
}

#[inline(never)]
fn measured_turn_pdu(count: u32, header: &Bhs, out: &mut Bhs) -> Result<()> {
    for n in 0..count {
        let InitiatorPdu::ScsiCommand(command) = InitiatorPdu::parse(black_box(header))? else { continue };
        let answer = DataIn {
            is_final: true,
            ack: false,
            status: Some(DataInStatus { status: 0, stat_sn: SerialNumber(n), residual: Residual::None }),
            data_len: command.edtl,
            lun: [0; 8],
            itt: command.itt,
            ttt: Ttt::RESERVED,
            exp_cmd_sn: command.cmd_sn,
            max_cmd_sn: command.cmd_sn.plus(64),
            data_sn: SerialNumber(0),
            buffer_offset: 0,
        };
        answer.emit(black_box(&mut *out));
    }
    Ok(())
}

/// A vector of 4 KiB taken and put back.
pub fn pool(count: u32) -> Result<()> {
    let arena =
        Arena::new(ArenaConfig { bytes_max: 64 << 20, policy: HugePolicy::Small, ..ArenaConfig::default() })?;
    let mut pool = SgvPool::new(CoreId(0), arena, &PoolConfig::spread(16 << 20))?;
    measured_turn_pool(count, &mut pool)
}

#[inline(never)]
fn measured_turn_pool(count: u32, pool: &mut SgvPool) -> Result<()> {
    for _ in 0..count {
        let sgv = pool.take(4096, ShareId(0)).context("the pool is empty")?;
        pool.put(black_box(sgv));
    }
    Ok(())
}

/// A message of 64 bytes from one core to another, 32 in a turn.
pub fn ring(count: u32) -> Result<()> {
    let mut mesh = Mesh::<[u64; 8]>::new(2, 1024);
    let (mut b, mut a) = (mesh.pop().context("two cores")?, mesh.pop().context("two cores")?);
    measured_turn_ring(count, &mut a, &mut b)
}

#[inline(never)]
fn measured_turn_ring(
    count: u32,
    a: &mut spindle_reactor::Mailbox<[u64; 8]>,
    b: &mut spindle_reactor::Mailbox<[u64; 8]>,
) -> Result<()> {
    let mut got = 0;
    for n in 0..count {
        a.notify(CoreId(1), [u64::from(n); 8]);
        if n % 32 == 31 || n + 1 == count {
            a.flush();
            got += b.drain(u32::MAX, |_, message| {
                black_box(message);
            });
        }
    }
    anyhow::ensure!(got == count, "{got} of {count} messages arrived");
    Ok(())
}
