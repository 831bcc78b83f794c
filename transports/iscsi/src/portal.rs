//! Listening addresses.

use std::net::SocketAddr;

use spindle_net::{ListenerId, Net, NetError};

use crate::transport::IscsiTransport;

/// An open portal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its name in the Net.
    pub id: ListenerId,
    /// Whose portal it is.
    pub portal_group: u16,
    /// What was asked for.
    pub asked: SocketAddr,
    /// Where it listens.
    pub at: SocketAddr,
}

impl<N: Net> IscsiTransport<N> {
    /// Opens a portal of a group on this core. Port 0 lets the system choose; the answer says what it chose.
    pub fn open_portal(&mut self, portal_group: u16, at: SocketAddr) -> Result<SocketAddr, NetError> {
        let (id, bound) = self.net.listen(at)?;
        self.listeners.push(Listener { id, portal_group, asked: at, at: bound });
        Ok(bound)
    }

    /// Closes a portal. Connections that came through it stay.
    pub fn close_portal(&mut self, portal_group: u16, at: SocketAddr) -> bool {
        let fits = |l: &Listener| l.portal_group == portal_group && (l.asked == at || l.at == at);
        let Some(place) = self.listeners.iter().position(fits) else { return false };
        let listener = self.listeners.swap_remove(place);
        self.net.unlisten(listener.id);
        true
    }

    /// Open portals.
    pub fn portals(&self) -> &[Listener] {
        &self.listeners
    }
}
