//! What is done to sessions by hand.

use serde::Deserialize;
use spindle_conf::jsonrpc::{MethodInfo, Methods};

use super::{Control, done, need};

/// Parameters of `iscsi_move_session`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    tsih: u16,
    core: u8,
}

pub(super) fn register(m: &mut Methods<Control>) {
    m.add(
        MethodInfo {
            name: "iscsi_move_session",
            about: "Moves a session to another core, in a moment in which none of its commands is under way. If there is none \
                    soon, the session stays where it is, unharmed, and the method says so.",
            params: const {
                &[
                    need("tsih", "number", "the session, as `iscsi_get_connections` tells it"),
                    need("core", "number", "its new core, as `lcore_id` there and `core` of `framework_get_reactors`"),
                ]
            },
        },
        |c: &Control, p: Move| {
            c.backplane().move_session(p.tsih, p.core)?;
            Ok(done())
        },
    );
}
