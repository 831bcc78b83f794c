//! A device that forgets writes and reads as zeroes: for measuring everything but a device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spindle_mem::{Arena, LenderId, PageTable, SGV_BYTES_MAX, Sgv, SgvPool};
use spindle_reactor::{CoreId, WakeSet};

use crate::channel::{ChannelSeed, CoreEnv, IoChannel, IoCx};
use crate::device::{Bdev, BdevInfo, OpenError, ResizeError};
use crate::io::{BlockError, BlockIo, IoDone, IoFlags, IoResult, Op, Provisioning};
use crate::ram::check_geometry;

/// What the device is to look like.
#[derive(Clone, Debug)]
pub struct NullConfig {
    /// Name in the registry.
    pub name: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// 512 or 4,096.
    pub block_bytes: u32,
    /// Capacity.
    pub blocks: u64,
    /// Logical blocks per physical block, as a power of two.
    pub physical_exponent: u8,
}

/// The device. It has two pages of memory, whatever its capacity.
#[derive(Debug)]
pub struct NullBdev {
    config: NullConfig,
    blocks: Arc<AtomicU64>,
    zeroes: Arc<PageTable>,
}

impl NullBdev {
    /// Makes one.
    pub fn new(arena: &Arc<Arena>, config: NullConfig) -> Result<NullBdev, OpenError> {
        check_geometry(config.block_bytes, config.blocks, config.physical_exponent)?;
        // An empty table: all we want of it is its zero page.
        let zeroes = PageTable::new(arena, 0, 1);
        let zeroes = zeroes.map_err(|full| OpenError::NoRoom { what: "memory", why: full.to_string() })?;
        let blocks = Arc::new(AtomicU64::new(config.blocks));
        Ok(NullBdev { config, blocks, zeroes })
    }
}

impl Bdev for NullBdev {
    fn info(&self) -> BdevInfo {
        let block_bytes = self.config.block_bytes;
        BdevInfo {
            name: self.config.name.clone(),
            uuid: self.config.uuid,
            block_bytes,
            physical_exponent: self.config.physical_exponent,
            lowest_aligned: 0,
            blocks: self.blocks.load(Ordering::Relaxed),
            write_cache: false,
            read_only: false,
            rotation_rate: 1,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: 1,
            unmap_alignment: 0,
            optimal_granularity: 0,
            optimal_transfer: 0,
            transfer_max: SGV_BYTES_MAX / block_bytes,
            lends: true,
        }
    }

    fn driver(&self) -> &'static str {
        "null"
    }

    fn prepare(&self, _core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        let (blocks, zeroes) = (self.blocks.clone(), self.zeroes.clone());
        Ok(Box::new(NullSeed { blocks, zeroes, block_bytes: self.config.block_bytes }))
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        if let Some(blocks) = blocks {
            check_geometry(self.config.block_bytes, blocks, 0)
                .map_err(|e| ResizeError::Invalid(e.to_string()))?;
            self.blocks.store(blocks, Ordering::Relaxed);
        }
        Ok(self.blocks.load(Ordering::Relaxed))
    }
}

struct NullSeed {
    blocks: Arc<AtomicU64>,
    zeroes: Arc<PageTable>,
    block_bytes: u32,
}

impl ChannelSeed for NullSeed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let why = || OpenError::NoRoom { what: "lenders", why: "65,535 on this core".into() };
        let id = env.pool.register(self.zeroes).ok_or_else(why)?;
        Ok(Box::new(NullChannel { blocks: self.blocks, block_bytes: self.block_bytes, id }))
    }
}

struct NullChannel {
    blocks: Arc<AtomicU64>,
    block_bytes: u32,
    id: LenderId,
}

impl NullChannel {
    /// Length in bytes, if it lies on the device and one vector can hold it.
    #[inline]
    fn extent_bytes(&self, lba: u64, blocks: u32) -> Option<u32> {
        let size = self.blocks.load(Ordering::Relaxed);
        let bytes = u64::from(blocks) * u64::from(self.block_bytes);
        let fits = lba <= size && u64::from(blocks) <= size - lba && bytes <= u64::from(SGV_BYTES_MAX);
        fits.then_some(bytes as u32)
    }
}

impl IoChannel for NullChannel {
    fn submit(&mut self, mut io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        let blocks = self.blocks.load(Ordering::Relaxed);
        let inside = io.lba <= blocks && u64::from(io.blocks) <= blocks - io.lba;
        let bytes = u64::from(io.blocks) * u64::from(self.block_bytes);
        let result = match io.op {
            Op::Read | Op::Write if !inside || bytes > u64::from(SGV_BYTES_MAX) => refused(inside),
            Op::Write => IoResult::Ok,
            Op::Read if io.data.is_none() => {
                let Some(zeroes) = cx.pool.lend_zeroes(self.id, bytes as u32) else { return Err(io) };
                cx.done.push(IoDone { key: io.key, data: Some(zeroes), result: IoResult::Ok });
                return Ok(());
            }
            _ => other(&mut io, inside, bytes),
        };
        cx.done.push(IoDone::of(io, result));
        Ok(())
    }

    fn serves_at_once(&self) -> bool {
        true
    }

    fn read_at_once(&mut self, lba: u64, blocks: u32, pool: &mut SgvPool) -> Option<Sgv> {
        let bytes = self.extent_bytes(lba, blocks)?;
        pool.lend_zeroes(self.id, bytes)
    }

    fn write_at_once(&mut self, lba: u64, blocks: u32, data: &mut Sgv, _: IoFlags, _: &mut SgvPool) -> bool {
        self.extent_bytes(lba, blocks) == Some(data.len())
    }

    fn poll(&mut self, _cx: &mut IoCx<'_>) -> u32 {
        0
    }

    fn in_flight(&self) -> u32 {
        0
    }

    fn arm(&mut self, _wake: &mut WakeSet) -> bool {
        true
    }

    fn close(&mut self, env: &mut CoreEnv<'_>) {
        env.pool.retire(self.id);
    }
}

#[cold]
fn refused(inside: bool) -> IoResult {
    IoResult::Err(if inside { BlockError::Unsupported } else { BlockError::OutOfRange })
}

/// All but writes, and reads that are lent what they read.
#[cold]
fn other(io: &mut BlockIo, inside: bool, bytes: u64) -> IoResult {
    match (io.op, &mut io.data) {
        (Op::Flush, _) => IoResult::Ok,
        _ if !inside => refused(inside),
        (Op::Read, Some(sgv)) if u64::from(io.at) + bytes <= u64::from(sgv.len()) => {
            sgv.zero(io.at..io.at + bytes as u32);
            IoResult::Ok
        }
        (Op::Read, _) => refused(inside),
        (Op::Extent, _) if io.blocks == 0 => IoResult::Err(BlockError::OutOfRange),
        (Op::Extent, _) => IoResult::Extent { state: Provisioning::Mapped, blocks: io.blocks },
        (Op::Write | Op::Unmap | Op::WriteZeroes | Op::Verify, _) => IoResult::Ok,
    }
}

#[cfg(test)]
mod tests {
    use spindle_mem::{Kind, ShareId};

    use super::*;
    use crate::bench::Bench;

    fn bench(blocks: u64) -> (Bench, NullBdev) {
        let mut bench = Bench::new();
        let config = NullConfig {
            name: "Null0".into(),
            uuid: [2; 16],
            block_bytes: 512,
            blocks,
            physical_exponent: 0,
        };
        let null = NullBdev::new(&bench.arena, config).unwrap();
        bench.open(&null);
        (bench, null)
    }

    #[test]
    fn a_huge_device_takes_two_pages_and_reads_as_zeroes_lent() {
        let mut before = Bench::new();
        let (mut b, null) = bench(1 << 50);
        assert_eq!(before.arena.report().bytes_free - b.arena.report().bytes_free, 8192);
        assert_eq!(b.write((1 << 50) - 8, &[1; 4096]), IoResult::Ok);
        let data = b.read((1 << 50) - 9, 9).data.unwrap();
        assert_eq!((data.kind(), data.to_vec()), (Kind::Lent, vec![0; 9 * 512]));
        b.pool.put(data);
        b.end(null);
        assert!(before.pool.is_full());
    }

    #[test]
    fn a_buffer_brought_along_is_zeroed_where_it_says() {
        let (mut b, null) = bench(100);
        let mut sgv = b.pool.take(2048, ShareId(0)).unwrap();
        sgv.fill_pattern(0..2048, &[8]);
        let done = b.run(BlockIo { data: Some(sgv), at: 512, ..Bench::io(Op::Read, 0, 2) });
        let sgv = done.data.unwrap();
        assert_eq!(sgv.to_vec(), [&[8; 512][..], &[0; 1024], &[8; 512]].concat());
        let done = b.run(BlockIo { data: Some(sgv), at: 512, ..Bench::io(Op::Read, 0, 4) });
        assert_eq!(done.result, IoResult::Err(BlockError::Unsupported));
        b.pool.put(done.data.unwrap());
        b.end(null);
    }

    #[test]
    fn its_end_moves_with_a_resize_and_nothing_is_beyond_it() {
        let (mut b, null) = bench(100);
        let out = IoResult::Err(BlockError::OutOfRange);
        for op in [Op::Read, Op::Write, Op::Unmap, Op::WriteZeroes, Op::Verify, Op::Extent] {
            assert_eq!(b.run(Bench::io(op, 100, 1)).result, out, "{op:?}");
            assert_eq!(b.run(Bench::io(op, u64::MAX, 1)).result, out, "{op:?}");
        }
        assert_eq!(null.resize(Some(101)).unwrap(), 101);
        assert_eq!(b.run(Bench::io(Op::Verify, 100, 1)).result, IoResult::Ok);
        assert_eq!(b.run(Bench::io(Op::Flush, 0, 0)).result, IoResult::Ok);
        assert!(null.resize(Some(0)).is_err());
        b.end(null);
    }
}
