//! A core with one channel, for the tests of this crate.

use std::sync::Arc;

use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool, ShareId};
use spindle_reactor::{CoreId, Tick};

use crate::channel::{CoreEnv, CoreShared, IoChannel, IoCx, ResetScope};
use crate::device::Bdev;
use crate::io::{BlockIo, IoDone, IoFlags, IoKey, IoResult, Op, Origin};

pub(crate) struct Bench {
    pub arena: Arc<Arena>,
    pub pool: SgvPool,
    pub now: Tick,
    channel: Option<Box<dyn IoChannel>>,
    shared: CoreShared,
    done: Vec<IoDone>,
}

impl Bench {
    pub fn new() -> Bench {
        let arena = Arena::new(ArenaConfig::plain(4 << 20, 8 << 20)).unwrap();
        let config = PoolConfig { vectors: [80, 8, 4, 0, 0, 0], lent: [4, 0, 0], shares: 1, poison: true };
        let pool = SgvPool::new(CoreId(0), arena.clone(), &config).unwrap();
        Bench::with(arena, pool)
    }

    pub fn with(arena: Arc<Arena>, pool: SgvPool) -> Bench {
        let shared = CoreShared::default();
        Bench { arena, pool, now: Tick::ZERO, channel: None, shared, done: Vec::new() }
    }

    pub fn open(&mut self, bdev: &dyn Bdev) {
        let seed = bdev.prepare(CoreId(0)).unwrap();
        let mut env = CoreEnv { core: CoreId(0), pool: &mut self.pool, shared: &mut self.shared };
        self.channel = Some(seed.bind(&mut env).unwrap());
    }

    pub fn close(&mut self) {
        let mut channel = self.channel.take().unwrap();
        assert_eq!(channel.in_flight(), 0);
        channel.close(&mut CoreEnv { core: CoreId(0), pool: &mut self.pool, shared: &mut self.shared });
    }

    /// Closes everything; all memory must be back.
    pub fn end<B: Bdev>(mut self, bdev: B) {
        assert!(self.done.is_empty(), "an end was not looked at");
        self.close();
        drop(bdev);
        assert!(self.pool.is_full());
        drop(self.pool);
        let report = self.arena.report();
        assert_eq!(report.bytes, report.bytes_free);
    }

    pub fn io(op: Op, lba: u64, blocks: u32) -> BlockIo {
        let (origin, flags) = (Origin(0), IoFlags::NONE);
        BlockIo { key: IoKey(0), lba, data: None, blocks, at: 0, origin, op, flags }
    }

    pub fn channel(&mut self) -> &mut dyn IoChannel {
        self.channel.as_mut().unwrap().as_mut()
    }

    fn with_cx<T>(&mut self, work: impl FnOnce(&mut dyn IoChannel, &mut IoCx<'_>) -> T) -> T {
        let mut cx = IoCx { now: self.now, pool: &mut self.pool, done: &mut self.done };
        work(self.channel.as_mut().unwrap().as_mut(), &mut cx)
    }

    pub fn submit(&mut self, io: BlockIo) -> Result<(), BlockIo> {
        self.with_cx(|channel, cx| channel.submit(io, cx))
    }

    pub fn poll(&mut self) -> u32 {
        self.with_cx(|channel, cx| channel.poll(cx))
    }

    pub fn reset(&mut self) {
        self.with_cx(|channel, cx| channel.reset(ResetScope::Unit, cx));
    }

    /// Submits an operation that ends at once.
    pub fn run(&mut self, io: BlockIo) -> IoDone {
        self.submit(io).unwrap();
        assert_eq!(self.done.len(), 1);
        self.done.pop().unwrap()
    }

    pub fn submit_write(&mut self, key: u64, lba: u64, bytes: &[u8]) -> Result<(), BlockIo> {
        let mut sgv = self.pool.take(bytes.len() as u32, ShareId(0)).unwrap();
        sgv.copy_from(0, bytes);
        let blocks = (bytes.len() / 512) as u32;
        self.submit(BlockIo { key: IoKey(key), data: Some(sgv), ..Bench::io(Op::Write, lba, blocks) })
    }

    /// What has ended, with its memory put away.
    pub fn take_done(&mut self) -> Vec<(IoKey, IoResult)> {
        let mut ended = Vec::new();
        for done in self.done.drain(..) {
            ended.push((done.key, done.result));
            if let Some(sgv) = done.data {
                self.pool.put(sgv);
            }
        }
        ended
    }

    pub fn write(&mut self, lba: u64, bytes: &[u8]) -> IoResult {
        self.submit_write(0, lba, bytes).unwrap();
        let ended = self.take_done();
        assert_eq!(ended.len(), 1);
        ended[0].1
    }

    pub fn read(&mut self, lba: u64, blocks: u32) -> IoDone {
        self.run(Bench::io(Op::Read, lba, blocks))
    }

    pub fn read_bytes(&mut self, lba: u64, blocks: u32) -> Vec<u8> {
        let done = self.read(lba, blocks);
        assert_eq!(done.result, IoResult::Ok);
        let data = done.data.unwrap();
        let bytes = data.to_vec();
        self.pool.put(data);
        bytes
    }
}
