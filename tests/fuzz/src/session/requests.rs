//! PDUs that are right, for the program to change.

use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{Isid, Itt, LoginRequest, ScsiCommand, SerialNumber, Stage, TaskAttribute};

use super::peer::Peer;

pub(super) fn login_request(peer: &Peer, who: usize, stage: Stage, transit: Option<Stage>) -> LoginRequest {
    LoginRequest {
        flags: LoginFlags { stage, transit, more: false },
        version_max: 0,
        version_min: 0,
        data_len: 0,
        // Two initiators share one ISID, so that sessions are reinstated.
        isid: Isid([0x80, 0, 0, 0, 0, who as u8 / 2]),
        tsih: 0,
        itt: Itt(1),
        cid: 1,
        cmd_sn: SerialNumber(peer.cmd_sn),
        exp_stat_sn: SerialNumber(peer.exp_stat_sn),
    }
}

/// The next command; three bits say how it is queued.
pub(super) fn scsi_command(
    peer: &mut Peer,
    how: u8,
    cdb: [u8; 16],
    [read, write]: [bool; 2],
    edtl: u32,
    is_final: bool,
) -> ScsiCommand {
    let attrs =
        [TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::HeadOfQueue, TaskAttribute::Untagged];
    let immediate = how & 4 != 0;
    let command = ScsiCommand {
        immediate,
        is_final: is_final || !write,
        read,
        write,
        attr: attrs[usize::from(how & 3)],
        priority: 0,
        ahs_words: 0,
        data_len: 0,
        lun: [0; 8],
        itt: Itt(peer.itt),
        edtl,
        cmd_sn: SerialNumber(peer.cmd_sn),
        exp_stat_sn: SerialNumber(peer.exp_stat_sn),
        cdb,
    };
    peer.itt = peer.itt.wrapping_add(1);
    peer.cmd_sn = peer.cmd_sn.wrapping_add(u32::from(!immediate));
    command
}

/// The pattern over and over.
pub(super) fn filled(pattern: &[u8], len: usize) -> Vec<u8> {
    match pattern {
        [] => vec![0; len],
        p => {
            let mut all = p.repeat(len.div_ceil(p.len()));
            all.truncate(len);
            all
        }
    }
}
