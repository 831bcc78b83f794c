//! Files behind the device seam: through io_uring and through threads, buffered and direct.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use spindle_bdev::{
    Bdev, BlockError, BlockIo, ChannelId, Channels, CoreEnv, CoreShared, IoCx, IoDone, IoFlags, IoKey,
    IoResult, Op, OpenError, Origin, Provisioning,
};
use spindle_bdev_uring::{CacheMode, Engine, FileBdev, FileConfig};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, Sgv, SgvPool, ShareId};
use spindle_reactor::{CoreId, Debtor, Tick};

const ID: ChannelId = ChannelId(3);
const MIB: u64 = 1 << 20;
/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

struct Bench {
    pool: SgvPool,
    shared: CoreShared,
    channels: Channels,
    done: Vec<IoDone>,
    next: u64,
}

impl Bench {
    fn new(bdev: &FileBdev) -> Bench {
        let arena = Arena::new(ArenaConfig::plain(64 << 20, 64 << 20)).unwrap();
        let mut pool = SgvPool::new(CoreId(0), arena, &PoolConfig::default()).unwrap();
        let mut shared = CoreShared::default();
        let mut channels = Channels::new();
        let seed = bdev.prepare(CoreId(0)).unwrap();
        let mut env = CoreEnv { core: CoreId(0), pool: &mut pool, shared: &mut shared };
        channels.open(ID, seed.bind(&mut env).unwrap());
        Bench { pool, shared, channels, done: Vec::new(), next: 0 }
    }

    fn start(&mut self, op: Op, flags: IoFlags, lba: u64, blocks: u32, data: Option<Sgv>) -> IoKey {
        self.next += 1;
        let key = IoKey(self.next);
        let io = BlockIo { key, lba, data, blocks, at: 0, origin: Origin(0), op, flags };
        let mut cx = IoCx { now: Tick::ZERO, pool: &mut self.pool, done: &mut self.done };
        self.channels.submit(ID, io, &mut cx);
        key
    }

    fn wait(&mut self, key: IoKey) -> (IoResult, Option<Sgv>) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.done.iter().position(|d| d.key == key) {
                let done = self.done.swap_remove(at);
                return (done.result, done.data);
            }
            assert!(Instant::now() < limit, "waited in vain for {key:?}");
            self.channels.kick();
            let mut cx = IoCx { now: Tick::ZERO, pool: &mut self.pool, done: &mut self.done };
            self.channels.poll(&mut cx);
        }
    }

    fn run(&mut self, op: Op, lba: u64, blocks: u32) -> IoResult {
        let key = self.start(op, IoFlags::NONE, lba, blocks, None);
        self.wait(key).0
    }

    fn write(&mut self, flags: IoFlags, lba: u64, data: &[u8]) -> IoResult {
        let mut sgv = self.pool.take(data.len() as u32, ShareId(0)).unwrap();
        sgv.copy_from(0, data);
        let key = self.start(Op::Write, flags, lba, data.len() as u32 / 512, Some(sgv));
        let (result, back) = self.wait(key);
        self.pool.put(back.expect("the buffer comes back"));
        result
    }

    fn read(&mut self, lba: u64, blocks: u32) -> Result<Vec<u8>, BlockError> {
        let sgv = self.pool.take(blocks * 512, ShareId(0)).unwrap();
        let key = self.start(Op::Read, IoFlags::NONE, lba, blocks, Some(sgv));
        let (result, back) = self.wait(key);
        let back = back.expect("the buffer comes back");
        let bytes = back.to_vec();
        self.pool.put(back);
        match result {
            IoResult::Ok => Ok(bytes),
            IoResult::Err(e) => Err(e),
            other => panic!("{other:?} is no answer to a read"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.channels.load(ID).unwrap().in_flight, 0);
        let mut channel = self.channels.close(ID).expect("nothing is in flight");
        channel.close(&mut CoreEnv { core: CoreId(0), pool: &mut self.pool, shared: &mut self.shared });
        assert!(self.pool.is_full(), "every vector is back");
    }
}

fn config(path: &Path) -> FileConfig {
    FileConfig {
        name: "f".into(),
        uuid: [1; 16],
        path: path.into(),
        driver: "aio",
        block_bytes: None,
        physical_bytes: None,
        read_only: false,
        create_bytes: Some(8 * MIB),
        direct: false,
        cache: CacheMode::WriteBack,
        unmap: true,
        engine: Engine::Auto,
    }
}

/// Every way of asking the system that this machine has.
fn each_way(test: impl Fn(FileConfig)) {
    for engine in [Engine::Auto, Engine::Threads] {
        for (direct, place) in [(false, "."), (true, "."), (false, MEMORY)] {
            let Ok(dir) = tempfile::tempdir_in(place) else {
                eprintln!("no {place} here: not tested");
                continue;
            };
            let config = FileConfig { engine, direct, ..config(&dir.path().join("disk")) };
            match FileBdev::open(config.clone()) {
                Err(OpenError::Invalid { field: "direct", .. }) => {
                    eprintln!("no direct I/O in 512-byte blocks here: not tested");
                    continue;
                }
                other => drop(other.unwrap()),
            }
            test(config);
        }
    }
}

fn pattern(seed: u8, n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 13 + i / 509) as u8 ^ seed).collect()
}

#[test]
fn what_was_written_is_read_back_in_every_way() {
    each_way(|config| {
        let bdev = FileBdev::open(config).unwrap();
        let mut b = Bench::new(&bdev);
        for (n, (lba, len)) in
            [(0u64, 512usize), (7, 4096), (100, 65_536), (4096, 1 << 20)].into_iter().enumerate()
        {
            let data = pattern(n as u8, len);
            let flags = if n % 2 == 0 { IoFlags::NONE } else { IoFlags::FUA };
            assert_eq!(b.write(flags, lba, &data), IoResult::Ok);
            assert!(b.read(lba, len as u32 / 512).unwrap() == data);
        }
        assert_eq!(b.run(Op::Flush, 0, 0), IoResult::Ok);
        assert_eq!(b.run(Op::Verify, 0, 16_384), IoResult::Ok);
    });
}

#[test]
fn many_operations_overlap_and_each_comes_back_once() {
    each_way(|config| {
        let bdev = FileBdev::open(config).unwrap();
        let mut b = Bench::new(&bdev);
        let mut keys = Vec::new();
        for i in 0..60u64 {
            let mut sgv = b.pool.take(4096, ShareId(0)).unwrap();
            sgv.copy_from(0, &pattern(i as u8, 4096));
            keys.push(b.start(Op::Write, IoFlags::NONE, i * 8, 8, Some(sgv)));
        }
        for key in keys {
            let (result, data) = b.wait(key);
            assert_eq!(result, IoResult::Ok);
            b.pool.put(data.unwrap());
        }
        assert!(b.done.is_empty());
        for i in 0..60u64 {
            assert!(b.read(i * 8, 8).unwrap() == pattern(i as u8, 4096));
        }
    });
}

#[test]
fn deallocated_blocks_read_as_zeros_and_show_as_holes() {
    each_way(|config| {
        let path = config.path.clone();
        let bdev = FileBdev::open(config).unwrap();
        assert!(bdev.info().unmap && bdev.info().unmap_zeroes);
        let mut b = Bench::new(&bdev);
        assert_eq!(
            b.run(Op::Extent, 0, 16_384),
            IoResult::Extent { state: Provisioning::Deallocated, blocks: 16_384 }
        );
        b.write(IoFlags::FUA, 2048, &pattern(9, 1 << 20));
        let used = std::fs::metadata(&path).unwrap().blocks();
        assert_eq!(
            b.run(Op::Extent, 0, 16_384),
            IoResult::Extent { state: Provisioning::Deallocated, blocks: 2048 }
        );
        assert_eq!(
            b.run(Op::Extent, 2048, 16_384 - 2048),
            IoResult::Extent { state: Provisioning::Mapped, blocks: 2048 }
        );
        assert_eq!(b.run(Op::Unmap, 2048, 1024), IoResult::Ok);
        assert_eq!(b.read(2048, 8).unwrap(), vec![0; 4096]);
        assert!(std::fs::metadata(&path).unwrap().blocks() < used, "the space is given back");
        assert_eq!(b.run(Op::WriteZeroes, 3072, 8), IoResult::Ok);
        assert_eq!(b.read(3072, 8).unwrap(), vec![0; 4096]);
        assert!(b.read(3080, 8).unwrap() == pattern(9, 1 << 20)[(3080 - 2048) * 512..(3088 - 2048) * 512]);
    });
}

#[test]
fn nothing_beyond_the_end_is_touched() {
    each_way(|config| {
        let path = config.path.clone();
        let bdev = FileBdev::open(config).unwrap();
        let mut b = Bench::new(&bdev);
        let end = bdev.info().blocks;
        for (lba, blocks) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            assert_eq!(b.run(Op::WriteZeroes, lba, blocks), IoResult::Err(BlockError::OutOfRange));
        }
        assert_eq!(b.write(IoFlags::NONE, end - 1, &[5; 1024]), IoResult::Err(BlockError::OutOfRange));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * MIB);
    });
}

#[test]
fn a_second_opening_of_the_same_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let first = FileBdev::open(config(&path)).unwrap();
    let link = dir.path().join("link");
    std::fs::hard_link(&path, &link).unwrap();
    for other in [&path, &link] {
        let error = FileBdev::open(config(other)).err().expect("refused");
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }
    drop(first);
    FileBdev::open(config(&link)).unwrap();
}

#[test]
fn what_cannot_be_opened_is_named_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FileConfig { create_bytes: None, ..config(&dir.path().join("none")) };
    assert!(FileBdev::open(missing).err().unwrap().to_string().contains("create_bytes"));
    assert!(FileBdev::open(config(dir.path())).err().unwrap().to_string().contains("neither a file"));
    let odd = FileConfig { block_bytes: Some(520), ..config(&dir.path().join("odd")) };
    assert!(FileBdev::open(odd).err().unwrap().to_string().contains("512 or 4096"));
    std::fs::write(dir.path().join("tiny"), "x").unwrap();
    assert!(FileBdev::open(config(&dir.path().join("tiny"))).err().unwrap().to_string().contains("smaller"));
}

#[test]
fn a_file_that_shrinks_behind_our_back_is_a_medium_error_and_not_old_memory() {
    for engine in [Engine::Auto, Engine::Threads] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let bdev = FileBdev::open(FileConfig { engine, ..config(&path) }).unwrap();
        let mut b = Bench::new(&bdev);
        b.write(IoFlags::NONE, 0, &pattern(1, 4096));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2048).unwrap();
        assert_eq!(b.read(0, 8), Err(BlockError::MediumRead));
        assert_eq!(b.read(0, 4).unwrap(), pattern(1, 2048));
    }
}

#[test]
fn a_resize_is_seen_by_channels_that_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let bdev = FileBdev::open(config(&path)).unwrap();
    let mut b = Bench::new(&bdev);
    assert_eq!(bdev.resize(Some(32_768)).unwrap(), 32_768);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 * MIB);
    assert_eq!(b.write(IoFlags::NONE, 32_767, &[7; 512]), IoResult::Ok);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB).unwrap();
    assert_eq!(bdev.resize(None).unwrap(), 2048);
    assert_eq!(b.write(IoFlags::NONE, 2048, &[7; 512]), IoResult::Err(BlockError::OutOfRange));
    assert!(bdev.resize(Some(0)).is_err() && bdev.resize(Some(u64::MAX)).is_err());
}

#[test]
fn a_device_works_by_itself_and_the_page_cache_by_threads() {
    each_way(|config| {
        let by = match (config.engine, config.direct) {
            (Engine::Auto, true) => Debtor::Device,
            _ => Debtor::Threads,
        };
        let mut b = Bench::new(&FileBdev::open(config).unwrap());
        // More than a core does by itself where a file lies in memory.
        let sgv = b.pool.take(MIB as u32, ShareId(0)).unwrap();
        let key = b.start(Op::Read, IoFlags::NONE, 0, MIB as u32 / 512, Some(sgv));
        assert_eq!(b.channels.owed_by(), Some(by));
        let (result, back) = b.wait(key);
        assert_eq!((result, b.channels.owed_by()), (IoResult::Ok, None));
        b.pool.put(back.unwrap());
    });
}

/// Small reads and writes are over when `submit` returns, larger ones and those that are to be flushed later.
#[test]
fn a_file_in_memory_is_served_at_once() {
    let Ok(dir) = tempfile::tempdir_in(MEMORY) else { return eprintln!("no {MEMORY} here: not tested") };
    let path = dir.path().join("disk");
    let bdev = FileBdev::open(config(&path)).unwrap();
    if !bdev.details().contains(&("io", "memory".into())) {
        return eprintln!("{MEMORY} is not in memory here: not tested");
    }
    let mut b = Bench::new(&bdev);
    for (op, flags, bytes, at_once) in [
        (Op::Write, IoFlags::NONE, 4_096, true),
        (Op::Read, IoFlags::NONE, 131_072, true),
        (Op::Read, IoFlags::NONE, 135_168, false),
        (Op::Write, IoFlags::FUA, 4_096, false),
    ] {
        let sgv = b.pool.take(bytes, ShareId(0)).unwrap();
        let key = b.start(op, flags, 0, bytes / 512, Some(sgv));
        assert_eq!(b.done.len(), usize::from(at_once), "{op:?} of {bytes} bytes, {flags:?}");
        let (result, back) = b.wait(key);
        assert_eq!(result, IoResult::Ok);
        b.pool.put(back.unwrap());
    }
    // A file that has become shorter is an error here, too.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(512).unwrap();
    assert_eq!(b.read(8, 8), Err(BlockError::MediumRead));
}

#[test]
fn write_through_is_on_the_file_when_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let bdev = FileBdev::open(FileConfig { cache: CacheMode::WriteThrough, ..config(&path) }).unwrap();
    assert!(!bdev.info().write_cache);
    let mut b = Bench::new(&bdev);
    assert_eq!(b.write(IoFlags::NONE, 8, &pattern(3, 512)), IoResult::Ok);
    let mut on_file = [0; 512];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut on_file, 4096).unwrap();
    assert_eq!(on_file[..], pattern(3, 512));
}
