//! Sleeping on descriptors that are named by number.

// UNSAFETY: `ppoll` takes a pointer to an array it writes to. A number that names no open descriptor is not a
// matter of memory safety: the kernel answers POLLNVAL.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

/// One descriptor to wait for, laid out as the kernel wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PollFd(libc::pollfd);

impl PollFd {
    /// Waits until `fd` can be read (or fails, or hangs up).
    pub const fn readable(fd: RawFd) -> PollFd {
        PollFd(libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
    }

    /// The descriptor's number.
    pub const fn fd(&self) -> RawFd {
        self.0.fd
    }

    /// After [`wait`]: something happened to it.
    pub const fn is_ready(&self) -> bool {
        self.0.revents != 0
    }

    /// After [`wait`]: the number names no open descriptor.
    pub const fn is_invalid(&self) -> bool {
        self.0.revents & libc::POLLNVAL != 0
    }
}

/// Sleeps until one of `fds` is ready or `timeout` is over (`None`: for ever); says how many are ready. A
/// signal ends the sleep early, as if the time were over.
pub fn wait(fds: &mut [PollFd], timeout: Option<Duration>) -> io::Result<usize> {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let spec = spec.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `PollFd` is `pollfd` (transparent); pointer and count describe one borrowed slice; `spec` is null
    // or points to a value that outlives the call; a null signal mask leaves the mask alone.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr().cast(), fds.len() as libc::nfds_t, spec, ptr::null()) };
    if ready >= 0 {
        return Ok(ready as usize);
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::Interrupted => {
            // The kernel leaves `revents` as they were.
            fds.iter_mut().for_each(|f| f.0.revents = 0);
            Ok(0)
        }
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use crate::EventFd;

    use super::*;

    #[test]
    fn a_ready_descriptor_ends_the_sleep_and_is_marked() {
        let (quiet, ringing) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        ringing.ring();
        let mut fds = [PollFd::readable(quiet.as_raw_fd()), PollFd::readable(ringing.as_raw_fd())];
        assert_eq!(wait(&mut fds, None).unwrap(), 1);
        assert!(!fds[0].is_ready() && fds[1].is_ready());
    }

    #[test]
    fn without_events_the_sleep_lasts_as_long_as_asked() {
        let start = Instant::now();
        assert_eq!(wait(&mut [], Some(Duration::from_millis(3))).unwrap(), 0);
        assert!(start.elapsed() >= Duration::from_millis(3));
    }

    #[test]
    fn a_number_without_a_descriptor_is_reported_and_does_no_harm() {
        let mut fds = [PollFd::readable(1_000_000)];
        assert_eq!(wait(&mut fds, None).unwrap(), 1);
        assert!(fds[0].is_invalid());
    }
}
