//! Listening and accepting, and what every connection is told at birth.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use spindle_ffi_os::socket;

use super::{EpollNet, LISTENER, TcpConfig, TcpSocket, os};
use crate::net::{ListenerId, NetError, NetEvent};

/// Connections accepted in one turn from one listener: a flood of them does not starve the others.
const ACCEPTS_PER_TURN: usize = 32;

/// A listening socket.
pub(super) struct Listener {
    fd: OwnedFd,
    local: SocketAddr,
}

impl Listener {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl EpollNet {
    pub(super) fn open_listener(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        let named = |what: &str| os(format!("{what} {at}"));
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .map_err(named("making a socket for"))?;
        // A target that restarts must get its port back while old connections are in TIME-WAIT.
        sockopt::set_socket_reuseaddr(&fd, true).map_err(named("setting up"))?;
        if at.is_ipv6() {
            // [::] serves IPv6 only: a portal is one address of one family, as SendTargets announces it.
            sockopt::set_ipv6_v6only(&fd, true).map_err(named("setting up"))?;
        }
        // Where it cannot be had, windows grow from the system's own beginning.
        let _ = socket::set_receive_room(&fd, self.config.receive_bytes);
        rustix::net::bind(&fd, &at).map_err(named("binding to"))?;
        rustix::net::listen(&fd, self.config.backlog).map_err(named("listening at"))?;
        let local = rustix::net::getsockname(&fd)
            .and_then(SocketAddr::try_from)
            .map_err(named("asking for the address of"))?;
        let index = self.listeners.iter().position(Option::is_none).unwrap_or(self.listeners.len());
        epoll::add(
            &self.epoll,
            &fd,
            epoll::EventData::new_u64(LISTENER | index as u64),
            epoll::EventFlags::IN,
        )
        .map_err(named("watching"))?;
        let listener = Some(Listener { fd, local });
        if index == self.listeners.len() {
            self.listeners.push(listener);
        } else {
            self.listeners[index] = listener;
        }
        Ok((ListenerId(index as u32), local))
    }

    pub(super) fn accept(&mut self, index: u32, out: &mut Vec<NetEvent<TcpSocket>>) {
        let Some(listener) = self.listeners.get(index as usize).and_then(Option::as_ref) else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for _ in 0..ACCEPTS_PER_TURN {
            match rustix::net::acceptfrom_with(&listener.fd, flags) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|p| SocketAddr::try_from(p).ok()).unwrap_or(listener.local);
                    let local = rustix::net::getsockname(&fd)
                        .ok()
                        .and_then(|a| SocketAddr::try_from(a).ok())
                        .unwrap_or(listener.local);
                    let listener = ListenerId(index);
                    out.push(NetEvent::Accepted { listener, socket: fd.into(), peer, local });
                }
                // The peer gave up before we came to it: the next one may be fine.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
}

/// What every connection is told: no Nagle, probes when idle, and when sent data counts as lost. None of it can
/// fail on a TCP socket in a way that matters; what is not TCP (a Unix socket in a test) does without.
pub(super) fn prepare(fd: &OwnedFd, config: &TcpConfig) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, std::time::Duration::from_secs(config.keepalive_idle_s.into()));
    let _ =
        sockopt::set_tcp_keepintvl(fd, std::time::Duration::from_secs(config.keepalive_interval_s.into()));
    let _ = sockopt::set_tcp_keepcnt(fd, 3);
    let _ = sockopt::set_tcp_user_timeout(fd, config.user_timeout_ms);
}
