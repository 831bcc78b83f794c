//! What a TCP socket can tell and be told beyond `rustix`.

// UNSAFETY: `setsockopt`, `getsockopt` and `ioctl` take untyped pointers. Each call here names the type that
// the option is documented to have and passes its exact size.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// What the kernel knows of a connection's path; see tcp(7), TCP_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpPath {
    /// Smoothed round trip in microseconds.
    pub rtt_us: u32,
    /// Its mean deviation in microseconds.
    pub rtt_deviation_us: u32,
    /// The shortest round trip of the last minutes in microseconds.
    pub rtt_min_us: u32,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// Segments sent and not yet acknowledged.
    pub unacknowledged: u32,
    /// Congestion window in segments.
    pub congestion_window: u32,
    /// Largest segment sent, in bytes.
    pub mss_bytes: u32,
}

/// Reads TCP_INFO.
pub fn tcp_path<F: AsFd>(fd: F) -> io::Result<TcpPath> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has that many.
    check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    })?;
    // SAFETY: `tcp_info` is integers only, so the zeroed and partly overwritten value is initialised and valid.
    let info = unsafe { info.assume_init() };
    Ok(TcpPath {
        rtt_us: info.tcpi_rtt,
        rtt_deviation_us: info.tcpi_rttvar,
        rtt_min_us: info.tcpi_min_rtt,
        retransmits: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
        congestion_window: info.tcpi_snd_cwnd,
        mss_bytes: info.tcpi_snd_mss,
    })
}

/// Bytes in the send queue that the peer has not acknowledged (SIOCOUTQ).
pub fn unacknowledged_bytes<F: AsFd>(fd: F) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the number of TIOCOUTQ) writes one int to the address it is given.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut bytes) })?;
    Ok(bytes.max(0) as u32)
}

/// Lets sends on this socket ask for zero copy (SO_ZEROCOPY).
pub fn set_zero_copy<F: AsFd>(fd: F, on: bool) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, on.into())
}

/// How long a receive that finds nothing polls the network device itself, in microseconds (SO_BUSY_POLL).
pub fn set_busy_poll<F: AsFd>(fd: F, microseconds: u16) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, microseconds.into())
}

/// Above how many unsent bytes the socket stops being writable (TCP_NOTSENT_LOWAT).
pub fn set_not_sent_low_water<F: AsFd>(fd: F, bytes: u32) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes.min(i32::MAX as u32) as libc::c_int)
}

/// Has a socket begin with room for `bytes` that nobody has read yet, and the kernel adapt it from there on. To be called before
/// it listens or connects: what it accepts begins with the same. Does nothing where there is more room already. The system's
/// limit (`net.core.rmem_max`) holds for whoever has no CAP_NET_ADMIN; an error leaves what was there, as on a Linux
/// before 5.14, where whoever sets the size ends its adaptation.
pub fn set_receive_room<F: AsFd>(fd: F, bytes: u32) -> io::Result<()> {
    let fd = fd.as_fd();
    // The kernel counts its own overhead, and keeps and tells twice what it was told.
    let before = get_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    let wanted = bytes.min(i32::MAX as u32 / 2) as libc::c_int;
    if before >= 2 * wanted {
        return Ok(());
    }
    let adapt = || set_int(fd, libc::SOL_SOCKET, libc::SO_BUF_LOCK, 0);
    // Nothing is locked yet: this only asks whether it could be undone.
    adapt()?;
    if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
        if get_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)? < before {
            set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, before / 2)?;
        }
    }
    adapt()
}

fn get_int<F: AsFd>(fd: F, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `value`, an int, as these options are documented to tell.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}

fn set_int<F: AsFd>(fd: F, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let (fd, len) = (fd.as_fd().as_raw_fd(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes from `value`, an int, as these options are documented to want.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_tells_its_path_and_its_unacknowledged_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_theirs, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged_bytes(&ours).unwrap(), 0);
        // The peer reads nothing: what fits neither its buffer nor the wire stays in our queue.
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 65536]).is_ok() {}
        assert!(unacknowledged_bytes(&ours).unwrap() > 0);
        let path = tcp_path(&ours).unwrap();
        assert!(path.mss_bytes > 500 && path.congestion_window > 0, "{path:?}");
    }

    #[test]
    fn room_to_receive_is_inherited_and_stays_the_kernels_to_adapt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let room = |fd: &dyn AsFd| get_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap();
        let usual = room(&listener);
        if set_receive_room(&listener, 1 << 20).is_err() {
            // Linux before 5.14.
            return assert_eq!(room(&listener), usual);
        }
        let now = room(&listener);
        assert!(now > usual, "{now} after {usual}");
        let _ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        assert_eq!(room(&theirs), now);
        assert_eq!(get_int(&theirs, libc::SOL_SOCKET, libc::SO_BUF_LOCK).unwrap(), 0);
        // Less than there is changes nothing.
        set_receive_room(&listener, 4096).unwrap();
        assert_eq!(room(&listener), now);
    }

    #[test]
    fn options_are_taken_by_a_tcp_socket_and_refused_by_a_file() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_zero_copy(&socket, true).unwrap();
        set_not_sent_low_water(&socket, 128 << 10).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(set_zero_copy(&file, true).is_err());
        assert!(set_busy_poll(&file, 50).is_err());
        assert!(set_receive_room(&file, 1 << 20).is_err());
        assert!(tcp_path(&file).is_err());
        assert!(unacknowledged_bytes(&file).is_err());
    }
}
