//! The device as the control plane sees it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use spindle_bdev::{
    Bdev, BdevInfo, BlockError, BlockIo, ChannelSeed, IoFlags, IoResult, Op, OpenError, ResizeError,
};
use spindle_ffi_uring as uring;
use spindle_reactor::CoreId;

use crate::channel::Seed;
use crate::errors;

/// When a write is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheMode {
    /// After a flush, or at once with FUA (WCE = 1).
    #[default]
    WriteBack,
    /// Before it is answered (WCE = 0).
    WriteThrough,
    /// The operator vouches for the host's memory: nothing is flushed (WCE = 0).
    NvCache,
}

/// How the system is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// io_uring if this process may, otherwise threads.
    #[default]
    Auto,
    /// Threads.
    Threads,
}

/// What is to be opened, and how.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// Name in the registry.
    pub name: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// File or block device.
    pub path: PathBuf,
    /// What RPC calls the driver.
    pub driver: &'static str,
    /// Logical block in bytes; `None`: 512 for files, the device's own for block devices.
    pub block_bytes: Option<u32>,
    /// Physical block in bytes, as initiators are told; `None`: the file system's or the device's own.
    pub physical_bytes: Option<u32>,
    /// No writes.
    pub read_only: bool,
    /// Make a sparse file of this size if there is none.
    pub create_bytes: Option<u64>,
    /// O_DIRECT; block devices always are.
    pub direct: bool,
    /// When a write is durable.
    pub cache: CacheMode,
    /// Deallocate on UNMAP.
    pub unmap: bool,
    /// How the system is asked.
    pub engine: Engine,
}

/// A file or block device.
pub struct FileBdev {
    config: FileConfig,
    shared: Arc<Shared>,
    info: Mutex<BdevInfo>,
    ring_allowed: bool,
    is_block: bool,
}

/// What the device, its channels and its threads share.
pub(crate) struct Shared {
    pub file: OwnedFd,
    pub block_bytes: u32,
    pub direct: bool,
    /// A device that works by itself, and begins when it is told of one operation (see
    /// [`spindle_ffi_uring::Ring::add_file`]); what it is not needs threads of this machine: those of the kernel that read
    /// and write the page cache, or a loop device's.
    pub by_itself: bool,
    /// In a file system that lives in memory: nothing is waited for but, rarely, the host's swap.
    pub in_memory: bool,
    /// Holes can be found.
    pub sparse: bool,
    pub seeking: Mutex<()>,
    cache: CacheMode,
    blocks: AtomicU64,
    /// A flush has failed: none will succeed until the device is opened anew.
    lost: AtomicBool,
}

/// The most that a core copies to or from a file in memory while others wait: some 20 µs.
const HERE_BYTES_MAX: u64 = 128 << 10;
/// How long a file that is in use is tried again before that is called an error.
const IN_USE_MAX: Duration = Duration::from_secs(1);
/// The largest single operation the mid-level is told of, in bytes.
const TRANSFER_BYTES_MAX: u32 = 4 << 20;

/// One of the planted mistakes: nothing is made durable. `ci/e2e/durability.py` must find such a build.
const FLUSH_SKIPPED: bool = cfg!(feature = "planted-flush-skipped");

impl FileBdev {
    /// Opens it, or says why not and what to do.
    pub fn open(config: FileConfig) -> Result<FileBdev, OpenError> {
        let path = config.path.clone();
        let found = std::fs::metadata(&path);
        let is_block = found.as_ref().is_ok_and(|m| m.file_type().is_block_device());
        if let Some(bytes) = config.block_bytes {
            check_block(bytes)?;
        }
        let mut made = None;
        match (&found, config.create_bytes) {
            (Err(e), Some(bytes)) if e.kind() == io::ErrorKind::NotFound => {
                made = Some(Made::sparse(&config, bytes)?);
            }
            (Ok(m), _) if !m.is_file() && !is_block => {
                return Err(invalid(
                    "filename",
                    format!("{}: neither a file nor a block device", path.display()),
                ));
            }
            (Err(e), None) if e.kind() == io::ErrorKind::NotFound => {
                let why = format!("{}: does not exist; create_bytes makes it", path.display());
                return Err(invalid("filename", why));
            }
            _ => {}
        }
        let direct = config.direct || is_block;
        let file = open_and_claim(&config, direct, is_block)?;
        let shape = if is_block { block_shape(&file, &path)? } else { file_shape(&file, &path)? };
        let block_bytes = config.block_bytes.unwrap_or(if is_block { shape.logical } else { 512 });
        check_block(block_bytes)?;
        if is_block && block_bytes < shape.logical {
            let why = format!("{}: the device has blocks of {} bytes", path.display(), shape.logical);
            return Err(invalid("block_size", why));
        }
        if direct && !is_block {
            try_direct(&file, block_bytes, &path)?;
        }
        let blocks = shape.bytes / u64::from(block_bytes);
        if blocks == 0 {
            return Err(invalid("filename", format!("{}: smaller than one block", path.display())));
        }
        // What the system says counts only as far as it makes sense with the block that was asked for.
        let physical = config.physical_bytes.unwrap_or(shape.physical.clamp(block_bytes, 1 << 20));
        if !physical.is_power_of_two() || physical < block_bytes || physical > 1 << 20 {
            return Err(invalid("physical_block_size", "a power of two from block_size to 1 MiB".into()));
        }
        let unmap = config.unmap && !config.read_only && shape.discard != Some(0);
        let per_block = |bytes: u32| bytes / block_bytes;
        let info = BdevInfo {
            name: config.name.clone(),
            uuid: config.uuid,
            block_bytes,
            physical_exponent: (physical / block_bytes).trailing_zeros() as u8,
            lowest_aligned: 0,
            blocks,
            write_cache: config.cache == CacheMode::WriteBack,
            read_only: config.read_only,
            rotation_rate: if shape.rotates { 0 } else { 1 },
            unmap,
            unmap_zeroes: unmap,
            unmap_granularity: per_block(shape.discard.unwrap_or(shape.physical).max(block_bytes)),
            unmap_alignment: 0,
            optimal_granularity: per_block(shape.physical.max(block_bytes)).try_into().unwrap_or(u16::MAX),
            optimal_transfer: per_block(1 << 20),
            transfer_max: per_block(TRANSFER_BYTES_MAX),
            lends: false,
        };
        let in_memory = !is_block && !direct && lives_in_memory(&file);
        let by_itself = direct && !is_served_by_threads(&file);
        let shared = Shared {
            file: file.into(),
            block_bytes,
            direct,
            by_itself,
            in_memory,
            sparse: !is_block,
            seeking: Mutex::new(()),
            cache: config.cache,
            blocks: AtomicU64::new(blocks),
            lost: AtomicBool::new(false),
        };
        let ring_allowed = config.engine == Engine::Auto && uring::available();
        if let Some(made) = made {
            made.keep();
        }
        Ok(FileBdev { config, shared: Arc::new(shared), info: Mutex::new(info), ring_allowed, is_block })
    }
}

impl Bdev for FileBdev {
    fn info(&self) -> BdevInfo {
        self.info.lock().expect("nothing panics while it holds the description").clone()
    }

    fn driver(&self) -> &'static str {
        self.config.driver
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let cache = match self.config.cache {
            CacheMode::WriteBack => "write_back",
            CacheMode::WriteThrough => "write_through",
            CacheMode::NvCache => "nv_cache",
        };
        let io = match (self.shared.direct, self.shared.in_memory) {
            (true, _) => "direct",
            (false, true) => "memory",
            (false, false) => "page cache",
        };
        vec![
            ("filename", self.config.path.display().to_string()),
            ("kind", if self.is_block { "block device" } else { "file" }.into()),
            ("io", io.into()),
            ("cache", cache.into()),
            ("engine", if self.ring_allowed { "io_uring" } else { "threads" }.into()),
            ("flush_lost", self.shared.lost.load(Ordering::Relaxed).to_string()),
        ]
    }

    fn prepare(&self, _core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        let file =
            self.shared.file.as_fd().try_clone_to_owned().map_err(os(&self.config.path, "duplicating"))?;
        Ok(Box::new(Seed { shared: self.shared.clone(), file, ring_allowed: self.ring_allowed }))
    }

    fn flush(&self) -> io::Result<()> {
        if self.config.read_only {
            return Ok(());
        }
        let sync = || rustix::fs::fdatasync(&self.shared.file).map_err(io::Error::from);
        match self.shared.flush_with(sync) {
            IoResult::Err(_) => Err(io::Error::other("a flush has failed: data may be lost")),
            _ => Ok(()),
        }
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        let what = self.config.path.display().to_string();
        let failed = |source| ResizeError::Os { what: what.clone(), source };
        let file = File::from(self.shared.file.as_fd().try_clone_to_owned().map_err(failed)?);
        if let Some(blocks) = blocks {
            if self.is_block {
                return Err(ResizeError::Fixed(format!("{what} is a block device: resize it, then rescan;")));
            }
            if self.config.read_only {
                return Err(ResizeError::Invalid(format!("{what} is read-only")));
            }
            let bytes = blocks
                .checked_mul(u64::from(self.shared.block_bytes))
                .filter(|b| *b > 0 && i64::try_from(*b).is_ok())
                .ok_or_else(|| ResizeError::Invalid(format!("{blocks} blocks: no file has that size")))?;
            file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let bytes = length(&file).map_err(failed)?;
        let now = bytes / u64::from(self.shared.block_bytes);
        if now == 0 {
            return Err(ResizeError::Invalid(format!("{what} is smaller than one block now")));
        }
        self.shared.blocks.store(now, Ordering::Release);
        self.info.lock().expect("nothing panics while it holds the description").blocks = now;
        Ok(now)
    }
}

impl Shared {
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Whether the write itself carries its durability (direct I/O).
    pub fn writes_durably(&self, flags: IoFlags) -> bool {
        self.direct && self.wants_durable(flags)
    }

    /// Whether a successful operation has to be followed by a flush before it is done.
    pub fn must_sync(&self, op: Op, flags: IoFlags) -> bool {
        match op {
            Op::Write => !self.direct && self.wants_durable(flags),
            Op::Unmap | Op::WriteZeroes => self.wants_durable(flags),
            Op::Read | Op::Flush | Op::Verify | Op::Extent => false,
        }
    }

    fn wants_durable(&self, flags: IoFlags) -> bool {
        match self.cache {
            _ if FLUSH_SKIPPED => false,
            CacheMode::WriteBack => flags.has(IoFlags::FUA),
            CacheMode::WriteThrough => true,
            CacheMode::NvCache => false,
        }
    }

    /// Whether this core itself does the operation, in one call that does not wait. Asking io_uring would cost more: it knows
    /// of no file there that takes operations without waiting, and gives each to a thread.
    pub fn is_done_here(&self, io: &BlockIo) -> bool {
        let bytes = u64::from(io.blocks) * u64::from(self.block_bytes);
        self.in_memory
            && bytes <= HERE_BYTES_MAX
            && matches!(io.op, Op::Read | Op::Write)
            && !self.must_sync(io.op, io.flags)
    }

    /// What needs no system call.
    pub fn at_once(&self, io: &BlockIo) -> Option<IoResult> {
        match io.op {
            Op::Flush if self.lost.load(Ordering::Relaxed) => Some(IoResult::Err(BlockError::FlushLost)),
            Op::Flush if self.cache == CacheMode::NvCache || FLUSH_SKIPPED => Some(IoResult::Ok),
            Op::Extent | Op::Flush => None,
            _ if io.blocks == 0 => Some(IoResult::Ok),
            _ => None,
        }
    }

    /// A blocking flush, with the memory of earlier failures.
    pub fn flush_with(&self, sync: impl FnOnce() -> io::Result<()>) -> IoResult {
        if self.lost.load(Ordering::Relaxed) {
            return IoResult::Err(BlockError::FlushLost);
        }
        match sync() {
            Ok(()) => IoResult::Ok,
            Err(e) => IoResult::Err(self.flush_failed(&e)),
        }
    }

    /// A flush has failed: what was dirty may be gone, and the system will not say so again.
    pub fn flush_failed(&self, error: &io::Error) -> BlockError {
        if Errno::from_io_error(error) == Some(Errno::CANCELED) {
            return BlockError::Aborted; // not begun: nothing is lost by it
        }
        self.lost.store(true, Ordering::Relaxed);
        BlockError::FlushLost
    }

    /// Any other operation has failed. A direct durable write that fails to reach stable storage may have used up
    /// the report of somebody else's lost write, so it counts as a failed flush too; one that found no room does
    /// not.
    pub fn failed(&self, error: &io::Error, op: Op, flags: IoFlags) -> BlockError {
        let error = errors::of(error, op);
        if op == Op::Write && self.writes_durably(flags) && error == BlockError::MediumWrite {
            self.lost.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// Sizes and abilities as the system tells them.
struct Shape {
    bytes: u64,
    logical: u32,
    physical: u32,
    /// Deallocation grid; `Some(0)`: cannot.
    discard: Option<u32>,
    rotates: bool,
}

/// A file that did not exist before; removed again if it does not become a device.
struct Made {
    path: PathBuf,
    kept: bool,
}

impl Made {
    fn sparse(config: &FileConfig, bytes: u64) -> Result<Made, OpenError> {
        let path = &config.path;
        let block = u64::from(config.block_bytes.unwrap_or(512));
        if bytes < block || i64::try_from(bytes).is_err() {
            return Err(invalid("create_bytes", format!("{bytes}: one block of {block} bytes at least")));
        }
        // What initiators store is nobody else's to read.
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(os(path, "making"))?;
        let made = Made { path: path.clone(), kept: false };
        file.set_len(bytes).map_err(os(path, "making a sparse file"))?;
        // The name, too, must survive a power cut, before anybody is told that the disk exists.
        file.sync_all().map_err(os(path, "making a file durable"))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|d| d.sync_all()).map_err(os(folder, "making a name durable"))?;
        Ok(made)
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.kept {
            // It is empty, and nobody was told of it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn check_block(bytes: u32) -> Result<(), OpenError> {
    match bytes {
        512 | 4096 => Ok(()),
        _ => Err(invalid("block_size", format!("{bytes}: 512 or 4096"))),
    }
}

fn open_file(config: &FileConfig, direct: bool, is_block: bool) -> Result<File, OpenError> {
    let mut flags = libc_flags(direct);
    if is_block {
        // On a block device O_EXCL means: nobody has it mounted, and nobody else has opened it so.
        flags |= rustix::fs::OFlags::EXCL.bits() as i32;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(!config.read_only).custom_flags(flags);
    options.open(&config.path).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::BUSY) => OpenError::InUse {
            what: config.path.display().to_string(),
            by: "a mounted file system, a device above it, or another target".into(),
        },
        Some(Errno::INVAL) if direct => {
            invalid("direct", format!("{}: its file system has no direct I/O", config.path.display()))
        }
        _ => os(&config.path, "opening")(e),
    })
}

/// Opens the file for us alone. A process that used it through io_uring and has just ended lets go of it a moment after
/// its end, when the kernel has taken its rings down: a target that is started again at once waits for that.
fn open_and_claim(config: &FileConfig, direct: bool, is_block: bool) -> Result<File, OpenError> {
    let limit = Instant::now() + IN_USE_MAX;
    loop {
        let opened = open_file(config, direct, is_block).and_then(|file| claim(&file, config).map(|()| file));
        match opened {
            Err(OpenError::InUse { .. }) if Instant::now() < limit => std::thread::sleep(IN_USE_MAX / 50),
            other => return other,
        }
    }
}

fn libc_flags(direct: bool) -> i32 {
    let mut flags = rustix::fs::OFlags::CLOEXEC;
    if direct {
        flags |= rustix::fs::OFlags::DIRECT;
    }
    flags.bits() as i32
}

/// Two targets on one file would destroy it: the lock belongs to the open file, so a second opening, in this
/// process or another, finds it taken.
fn claim(file: &File, config: &FileConfig) -> Result<(), OpenError> {
    let how = if config.read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(OpenError::InUse {
            what: config.path.display().to_string(),
            by: "another device of this target, or another process".into(),
        }),
        Err(e) => Err(os(&config.path, "locking")(e.into())),
    }
}

fn file_shape(file: &File, path: &Path) -> Result<Shape, OpenError> {
    let meta = file.metadata().map_err(os(path, "looking at"))?;
    let physical = u32::try_from(meta.blksize()).unwrap_or(4096).clamp(512, 65_536);
    let physical = if physical.is_power_of_two() { physical } else { 4096 };
    Ok(Shape { bytes: meta.len(), logical: 512, physical, discard: None, rotates: false })
}

fn lives_in_memory(file: &File) -> bool {
    // tmpfs and ramfs, as statfs(2) numbers them.
    rustix::fs::fstatfs(file).is_ok_and(|fs| matches!(fs.f_type as u32, 0x0102_1994 | 0x8584_58F6))
}

/// A loop device hands what it is told to a thread of the kernel, which costs the same for many operations as for one and
/// has to come to a processor; so do network block devices, and the program behind them.
fn is_served_by_threads(file: &File) -> bool {
    // Documentation/admin-guide/devices.txt: loop and network block devices.
    const MAJORS: [u32; 2] = [7, 43];
    file.metadata()
        .is_ok_and(|m| m.file_type().is_block_device() && MAJORS.contains(&rustix::fs::major(m.rdev())))
}

fn block_shape(file: &File, path: &Path) -> Result<Shape, OpenError> {
    let logical =
        rustix::fs::ioctl_blksszget(file).map_err(|e| os(path, "asking for the block size of")(e.into()))?;
    let physical = rustix::fs::ioctl_blkpbszget(file).unwrap_or(logical);
    let rdev = file.metadata().map_err(os(path, "looking at"))?.rdev();
    let queue = |name: &str| -> Option<u64> {
        let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        // A partition has its queue one folder up.
        ["queue", "../queue"].iter().find_map(|q| {
            let file = format!("/sys/dev/block/{major}:{minor}/{q}/{name}");
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        })
    };
    let discard = match queue("discard_max_bytes") {
        Some(0) => Some(0),
        _ => {
            Some(queue("discard_granularity").and_then(|g| u32::try_from(g).ok()).unwrap_or(physical).max(1))
        }
    };
    let bytes = length(file).map_err(os(path, "asking for the size of"))?;
    Ok(Shape { bytes, logical, physical, discard, rotates: queue("rotational") == Some(1) })
}

fn length(mut file: &File) -> io::Result<u64> {
    use std::io::Seek;
    // Nobody uses the offset of this descriptor: the end is the size, of files and of block devices.
    file.seek(io::SeekFrom::End(0))
}

/// Direct I/O has an alignment that only the file system knows: try it before an initiator does.
fn try_direct(file: &File, block_bytes: u32, path: &Path) -> Result<(), OpenError> {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Page([0; 4096]);
    match rustix::io::pread(file, &mut page.0[..block_bytes as usize], u64::from(block_bytes)) {
        Ok(_) => Ok(()),
        Err(Errno::INVAL) => {
            let why = format!(
                "{}: direct I/O in blocks of {block_bytes} bytes is refused there; use block_size 4096, or direct false",
                path.display()
            );
            Err(invalid("direct", why))
        }
        Err(e) => Err(os(path, "trying direct I/O on")(e.into())),
    }
}

fn invalid(field: &'static str, why: String) -> OpenError {
    OpenError::Invalid { field, why }
}

fn os(path: &Path, doing: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = format!("{doing} {}", path.display());
    move |source| OpenError::Os { what, source }
}

#[cfg(test)]
mod tests {
    use spindle_bdev::{IoKey, Origin};

    use super::*;

    fn open(path: &Path, cache: CacheMode) -> FileBdev {
        FileBdev::open(FileConfig {
            name: "f".into(),
            uuid: [0; 16],
            path: path.into(),
            driver: "aio",
            block_bytes: None,
            physical_bytes: None,
            read_only: false,
            create_bytes: Some(1 << 20),
            direct: false,
            cache,
            unmap: true,
            engine: Engine::Threads,
        })
        .unwrap()
    }

    fn flush() -> BlockIo {
        let (op, flags) = (Op::Flush, IoFlags::NONE);
        BlockIo { key: IoKey(1), lba: 0, data: None, blocks: 0, at: 0, origin: Origin(0), op, flags }
    }

    #[test]
    fn after_a_failed_flush_none_succeeds_until_the_device_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let bdev = open(&path, CacheMode::WriteBack);
        assert_eq!(crate::workers::run(&bdev.shared, &mut flush()), IoResult::Ok);
        let failed = bdev.shared.flush_with(|| Err(Errno::IO.into()));
        assert_eq!(failed, IoResult::Err(BlockError::FlushLost));
        assert_eq!(bdev.shared.at_once(&flush()), Some(IoResult::Err(BlockError::FlushLost)));
        assert_eq!(crate::workers::run(&bdev.shared, &mut flush()), IoResult::Err(BlockError::FlushLost));
        drop(bdev);
        let bdev = open(&path, CacheMode::WriteBack);
        assert_eq!(crate::workers::run(&bdev.shared, &mut flush()), IoResult::Ok);
    }

    #[test]
    fn a_flush_that_was_not_begun_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bdev = open(&dir.path().join("disk"), CacheMode::WriteBack);
        let cancelled = bdev.shared.flush_with(|| Err(Errno::CANCELED.into()));
        assert_eq!(cancelled, IoResult::Err(BlockError::Aborted));
        assert_eq!(bdev.shared.at_once(&flush()), None);
    }

    #[test]
    fn a_file_that_does_not_become_a_device_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let config = FileConfig {
            name: "f".into(),
            uuid: [0; 16],
            path: path.clone(),
            driver: "aio",
            block_bytes: None,
            physical_bytes: None,
            read_only: false,
            create_bytes: Some(100),
            direct: false,
            cache: CacheMode::WriteBack,
            unmap: true,
            engine: Engine::Threads,
        };
        let field = |config: FileConfig| match FileBdev::open(config) {
            Err(OpenError::Invalid { field, .. }) => field,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was taken"),
        };
        assert_eq!(field(config.clone()), "create_bytes");
        let sized = FileConfig { create_bytes: Some(1 << 20), ..config };
        assert_eq!(field(FileConfig { block_bytes: Some(2048), ..sized.clone() }), "block_size");
        assert!(!path.exists());
        // Made, and then refused: it goes again.
        drop(Made::sparse(&sized, 1 << 20).unwrap());
        assert!(!path.exists());
        FileBdev::open(sized).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn the_cache_mode_decides_what_is_followed_by_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        for (cache, plain, forced) in [
            (CacheMode::WriteBack, false, true),
            (CacheMode::WriteThrough, true, true),
            (CacheMode::NvCache, false, false),
        ] {
            let bdev = open(&dir.path().join(format!("{cache:?}")), cache);
            assert_eq!(bdev.shared.must_sync(Op::Write, IoFlags::NONE), plain);
            assert_eq!(bdev.shared.must_sync(Op::Write, IoFlags::FUA), forced);
            assert_eq!(bdev.shared.must_sync(Op::Unmap, IoFlags::NONE), plain);
            assert!(!bdev.shared.must_sync(Op::Read, IoFlags::FUA));
        }
    }
}
