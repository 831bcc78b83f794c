use spindle_bdev::{CoreShared, Origin};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool, ShareId};

use super::*;

fn profile() -> DiskProfile {
    DiskProfile {
        block_bytes: 512,
        blocks: 16,
        write_cache: true,
        depth: 8,
        latency_us: (10, 500),
        error_one_in: 0,
        silence_one_in: 0,
        cancels: true,
        unmap_zeroes: true,
        at_once_one_in: 0,
    }
}

struct Rig {
    disk: SimDisk,
    channel: Box<dyn IoChannel>,
    pool: SgvPool,
    now: Tick,
    done: Vec<IoDone>,
    key: u64,
}

impl Rig {
    fn new(seed: u64, profile: DiskProfile) -> Rig {
        let arena = Arena::new(ArenaConfig::plain(4 << 20, 4 << 20)).unwrap();
        let mut pool = SgvPool::new(CoreId(0), arena, &PoolConfig::spread(1 << 20)).unwrap();
        let disk = SimDisk::new("d", profile, Rng::with_seed(seed));
        let mut shared = CoreShared::default();
        let mut env = CoreEnv { core: CoreId(0), pool: &mut pool, shared: &mut shared };
        let channel = disk.prepare(CoreId(0)).unwrap().bind(&mut env).unwrap();
        Rig { disk, channel, pool, now: Tick(1), done: Vec::new(), key: 0 }
    }

    fn submit(&mut self, op: Op, lba: u64, blocks: u32, flags: IoFlags, fill: u8) -> bool {
        self.key += 1;
        let data = matches!(op, Op::Read | Op::Write).then(|| {
            let mut sgv = self.pool.take(blocks * 512, ShareId(0)).unwrap();
            sgv.fill_pattern(0..blocks * 512, &[fill]);
            sgv
        });
        let key = IoKey(self.key);
        let io = BlockIo { key, lba, data, blocks, at: 0, origin: Origin(0), op, flags };
        let mut cx = IoCx { now: self.now, pool: &mut self.pool, done: &mut self.done };
        match self.channel.submit(io, &mut cx) {
            Ok(()) => true,
            Err(io) => {
                if let Some(sgv) = io.data {
                    self.pool.put(sgv);
                }
                false
            }
        }
    }

    fn settle(&mut self) -> Vec<(u64, IoResult, Vec<u8>)> {
        loop {
            let next = self.disk.lock().next();
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            self.disk.lock().advance(self.now);
        }
        let mut cx = IoCx { now: self.now, pool: &mut self.pool, done: &mut self.done };
        self.channel.poll(&mut cx);
        let mut out = Vec::new();
        for done in std::mem::take(&mut self.done) {
            let bytes = done.data.map(|sgv| {
                let bytes = sgv.to_vec();
                self.pool.put(sgv);
                bytes
            });
            out.push((done.key.0, done.result, bytes.unwrap_or_default()));
        }
        out
    }
}

#[test]
fn what_was_flushed_survives_every_power_cut_and_the_rest_only_some() {
    let mut lost = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(seed, profile());
        rig.submit(Op::Write, 0, 4, IoFlags::NONE, 1);
        rig.settle();
        rig.submit(Op::Flush, 0, 0, IoFlags::NONE, 0);
        rig.settle();
        rig.submit(Op::Write, 1, 1, IoFlags::NONE, 2);
        rig.submit(Op::Write, 2, 1, IoFlags::FUA, 3);
        rig.settle();
        rig.disk.lock().power_cut();
        let state = rig.disk.lock();
        assert_eq!((state.block(0)[0], state.block(2)[0], state.block(3)[0]), (1, 3, 1));
        assert!(matches!(state.block(1)[0], 1 | 2));
        lost += u32::from(state.block(1)[0] == 1);
    }
    assert!((5..35).contains(&lost), "{lost} of 40 unflushed writes were lost");
}

#[test]
fn a_flush_covers_only_what_was_completed_before_it() {
    let mut lost = 0;
    for seed in 0..60 {
        let mut rig = Rig::new(seed, profile());
        rig.submit(Op::Write, 0, 1, IoFlags::NONE, 1);
        rig.submit(Op::Flush, 0, 0, IoFlags::NONE, 0);
        rig.settle();
        rig.disk.lock().power_cut();
        lost += u32::from(rig.disk.lock().block(0)[0] == 0);
    }
    assert!(lost > 5, "a write that ran beside the flush may be lost, as {lost} of 60 were");
}

#[test]
fn an_aborted_write_either_had_no_effect_or_was_done() {
    let (mut aborted, mut done) = (0, 0);
    for seed in 0..40 {
        let mut rig = Rig::new(seed, profile());
        rig.submit(Op::Write, 0, 4, IoFlags::NONE, 1);
        rig.now = rig.now + Duration::from_micros(100);
        rig.disk.lock().advance(rig.now);
        rig.channel.abort(IoKey(1));
        let ended = rig.settle();
        let zeros = (0..4).filter(|&lba| rig.disk.lock().block(lba)[0] == 0).count();
        match ended[0].1 {
            IoResult::Ok => {
                done += 1;
                assert_eq!(zeros, 0);
            }
            result => {
                aborted += 1;
                assert_eq!((result, zeros), (IoResult::Err(BlockError::Aborted), 4));
            }
        }
    }
    assert!(aborted > 0 && done > 0, "{aborted} aborted, {done} done");
}

#[test]
fn a_full_queue_hands_the_operation_back() {
    let mut rig = Rig::new(1, DiskProfile { depth: 2, ..profile() });
    assert!(rig.submit(Op::Read, 0, 1, IoFlags::NONE, 9));
    assert!(rig.submit(Op::Read, 1, 1, IoFlags::NONE, 9));
    assert!(!rig.submit(Op::Read, 2, 1, IoFlags::NONE, 9));
    assert_eq!(rig.settle().len(), 2);
    assert!(rig.submit(Op::Read, 2, 1, IoFlags::NONE, 9));
    assert_eq!(rig.settle()[0].2, [0; 512]);
    assert!(rig.pool.is_full());
}

#[test]
fn what_is_done_at_once_is_as_durable_as_its_flags_say() {
    let mut rig = Rig::new(7, DiskProfile { at_once_one_in: 1, ..profile() });
    let mut data = rig.pool.take(1024, ShareId(0)).unwrap();
    for (lba, flags) in [(0, IoFlags::FUA), (4, IoFlags::NONE)] {
        data.fill_pattern(0..1024, &[9]);
        assert!(rig.channel.write_at_once(lba, 2, &mut data, flags, &mut rig.pool));
        let read = rig.channel.read_at_once(lba, 2, &mut rig.pool).unwrap();
        assert_eq!(read.to_vec(), [9; 1024]);
        rig.pool.put(read);
    }
    assert!(!rig.channel.write_at_once(15, 2, &mut data, IoFlags::NONE, &mut rig.pool), "beyond the end");
    assert!(rig.channel.read_at_once(u64::MAX, 1, &mut rig.pool).is_none());
    rig.pool.put(data);
    let state = rig.disk.lock();
    let settled = |lba: usize| state.blocks[lba].since.is_empty() && state.blocks[lba].durable[0] == 9;
    assert!(settled(0) && settled(1) && !settled(4) && !settled(5));
}
