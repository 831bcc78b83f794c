//! What the system says, as the mid-level understands it.

use std::io;

use rustix::io::Errno;
use spindle_bdev::{BlockError, Op};

/// The error of an operation that failed.
pub(crate) fn of(error: &io::Error, op: Op) -> BlockError {
    let Some(errno) = Errno::from_io_error(error) else { return BlockError::Os(0) };
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => BlockError::NoSpace,
        Errno::ROFS | Errno::PERM | Errno::ACCESS | Errno::BADF => BlockError::ReadOnly,
        Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOMEDIUM | Errno::NOTCONN | Errno::REMOTEIO => {
            BlockError::Gone
        }
        Errno::CANCELED => BlockError::Aborted,
        Errno::TIMEDOUT => BlockError::TimedOut,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => BlockError::Unsupported,
        Errno::IO | Errno::ILSEQ | Errno::NODATA => match op {
            Op::Read | Op::Verify | Op::Extent => BlockError::MediumRead,
            Op::Write | Op::Flush | Op::Unmap | Op::WriteZeroes => BlockError::MediumWrite,
        },
        other => BlockError::Os(other.raw_os_error()),
    }
}

/// Whether the file system or device simply does not know this call.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL))
}

/// Whether the same call may simply be made again.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::AGAIN))
}
