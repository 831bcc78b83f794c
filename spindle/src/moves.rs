//! Sessions that move from core to core, as the control plane asks for it.

use std::time::{Duration, Instant};

use spindle_conf::jsonrpc::RpcError;
use spindle_iscsi::moving::Stays;
use spindle_reactor::CoreId;

use crate::live::Live;

/// A session that has not moved by then stays. Twice as long as a core tries.
const MOVE_MAX: Duration = Duration::from_millis(400);
/// How often the cores are asked whether it has.
const LOOK: Duration = Duration::from_millis(2);

impl Live {
    /// Moves a session to another core; returns when it is there, or when it stays.
    pub(crate) fn move_to(&self, tsih: u16, to: u8) -> Result<(), RpcError> {
        let cores = self.cores().len();
        if usize::from(to) >= cores {
            return Err(RpcError::field("core", format!("{to}: there are {cores}, from 0")));
        }
        let to = CoreId(to);
        let until = Instant::now() + MOVE_MAX;
        let mut asked = false;
        loop {
            // On its way it is on no core; that is over in a moment.
            let found = self.on_all(move |core| core.iscsi.has_session(tsih))?;
            let here = self.cores().iter().zip(found).find(|(_, found)| *found).map(|(core, _)| core);
            match here {
                Some(core) if core.id == to => return Ok(()),
                Some(core) if !asked => match self.on_core(core, move |c| c.iscsi.move_session(tsih, to))? {
                    Ok(()) => asked = true,
                    // Somebody else moves it, or core 0 has not heard of its last move.
                    Err(Stays::NotHere | Stays::NotNow) if Instant::now() < until => {}
                    Err(why) => return Err(RpcError::busy(format_args!("session {tsih}: {why}"))),
                },
                _ if Instant::now() < until => {}
                Some(_) => {
                    let why = "had no moment without commands under way, or there is no room for it there: it stays";
                    return Err(RpcError::busy(format_args!("session {tsih} {why}")));
                }
                None => return Err(RpcError::missing(format_args!("session {tsih}"))),
            }
            std::thread::sleep(LOOK);
        }
    }
}
