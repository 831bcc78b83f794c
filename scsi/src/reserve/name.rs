//! The name of an I_T nexus that outlives the session which carries it.

use std::sync::Arc;

/// What a registration belongs to: an initiator port and a target port, by their names. A `NexusId` ends with
/// its session; the same initiator coming back, after a restart of the target too, has the same name.
///
/// Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NexusName {
    relative_port: u16,
    target: Arc<str>,
    transport_id: Arc<[u8]>,
}

impl NexusName {
    /// The nexus between the initiator port that `transport_id` names (SPC-4 §7.6.4, as it goes over the wire)
    /// and the port of `target` with this relative target port identifier. The target's name takes part
    /// because one unit may be reached through several targets that number their ports alike.
    pub fn new(transport_id: &[u8], target: &str, relative_port: u16) -> NexusName {
        NexusName { relative_port, target: target.into(), transport_id: transport_id.into() }
    }

    /// The same initiator port at another port of the same target (ALL_TG_PT).
    #[must_use]
    pub fn at_port(&self, relative_port: u16) -> NexusName {
        NexusName { relative_port, ..self.clone() }
    }

    /// TransportID of the initiator port.
    pub fn transport_id(&self) -> &[u8] {
        &self.transport_id
    }

    /// Name of the target device.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// RELATIVE TARGET PORT IDENTIFIER.
    pub fn relative_port(&self) -> u16 {
        self.relative_port
    }
}

/// Initiator port `n`, at target port 1.
#[cfg(test)]
pub(crate) fn nexus(n: u8) -> NexusName {
    use spindle_scsi_spec::{Emit, TransportId};

    let mut room = [0; TransportId::MAX_BYTES];
    let mut out = Emit::new(&mut room);
    TransportId::IscsiPort { name: "iqn.2026-01.example:i", isid: [0x40, 0, 0, 1, 0, n] }.emit(&mut out);
    NexusName::new(out.as_bytes(), "iqn.2026-01.example:t", 1)
}
