//! Receiving: headers into staging, payload into its vector, both by one call.

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::conn::Phase;
use super::{EpollNet, TcpSocket};
use crate::inbox::{Read, Received};
use crate::net::{CloseReason, ConnId, NetEvent};

impl EpollNet {
    /// Readiness of a connection.
    pub(super) fn on_ready(&mut self, id: ConnId, flags: EventFlags, out: &mut Vec<NetEvent<TcpSocket>>) {
        if flags.contains(EventFlags::OUT)
            && let Some(conn) = self.conn_mut(id)
        {
            conn.blocked = false;
            self.flush_slot(id.slot());
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.receive(id, out);
        }
    }

    /// One read of a connection. Reports `Landed` before `Readable`, as the bytes lie in the stream.
    pub(super) fn receive(&mut self, id: ConnId, out: &mut Vec<NetEvent<TcpSocket>>) {
        let slot = id.slot();
        if self.conn(id).is_none() {
            return;
        }
        let conn = self.conns[slot].conn.as_mut().expect("looked up just above");
        if matches!(conn.phase, Phase::Closing { .. } | Phase::Draining { .. }) {
            let mut sink = [0u8; 4096];
            if let Read::End(_) = got(rustix::io::read(&conn.fd, &mut sink)) {
                self.end(id, CloseReason::Local);
            }
            return;
        }
        self.staging.read_for(slot as u32);
        let fd = &conn.fd;
        let received = conn.inbox.receive(&mut self.staging, |slices| match slices {
            // Less on the way than the call that reads any file.
            [one] => got(rustix::net::recv(fd, &mut **one, RecvFlags::empty()).map(|(n, _)| n)),
            many => got(rustix::io::readv(fd, many)),
        });
        match received {
            // The kernel will report again what could not be read for want of a buffer.
            Received::Nothing if self.staging.is_dry() => self.take_back_staging(),
            Received::Nothing => {}
            Received::End(reason) => self.end(id, reason),
            Received::Some { landed, readable } => {
                out.extend(landed.map(|buf| NetEvent::Landed { conn: id, buf }));
                if readable {
                    out.push(NetEvent::Readable(id));
                }
            }
        }
    }

    /// Staging buffers of connections that have nothing in them come back.
    #[cold]
    pub(super) fn take_back_staging(&mut self) {
        let mut holders = self.staging.take_holders();
        holders.retain(|&slot| {
            let conn = self.conns[slot as usize].conn.as_mut();
            conn.is_some_and(|conn| !conn.inbox.let_go(&mut self.staging))
        });
        self.staging.put_holders(holders);
    }
}

fn got(result: Result<usize, Errno>) -> Read {
    match result {
        Ok(0) => Read::End(CloseReason::PeerClosed),
        Ok(n) => Read::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(e) => Read::End(CloseReason::Failed(e.raw_os_error())),
    }
}
