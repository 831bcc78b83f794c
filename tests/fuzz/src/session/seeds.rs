//! Programs to begin with.

use spindle_iscsi_wire::BHS_LEN;

use super::action;
use super::world::TARGET;
use crate::input::{long, short};

/// Sessions of different kinds, each with some of what can be done in them.
pub fn seeds() -> Vec<Vec<u8>> {
    use action::*;
    // The first command of a nexus is told of the power on.
    let test = [COMMAND, 7, 2, 0, 0, 0, 0, 0];
    let ready = [&[LOGIN, 0][..], &test].concat();
    let write =
        |blocks: u8, now: u8, how: u8| [&[WRITE, 3, blocks, now, how][..], &short(b"abcdefg")].concat();
    let answer = [&[ANSWER_R2T, 0, 0, 15][..], &short(b"hijklmn")].concat();
    let mut seeds = vec![
        // A login, a write with immediate data, a read, a logout.
        [&[0][..], &ready, &write(8, 64, 1), &[READ, 3, 8, 0], &[LOGOUT, 0]].concat(),
        // With digests, through R2Ts, in small splits.
        [
            &[8][..],
            &[SPLIT, 200, LOGIN, 0b10_0111],
            &test,
            &write(8, 0, 0),
            &answer,
            &answer,
            &answer,
            &[TURNS, 9],
        ]
        .concat(),
        // A pool of five vectors, several writes at once, an abort in their midst.
        [
            &[1][..],
            &ready,
            &write(100, 0, 0),
            &write(100, 0, 0),
            &write(100, 0, 0),
            &answer,
            &[TMF, 2, 0, 0],
            &[TMF, 5, 0, 0],
            &[DISCONNECT, 1],
        ]
        .concat(),
        // A slow disk: ABORT TASK while it works, LOGICAL UNIT RESET from a second initiator.
        [
            &[4][..],
            &ready,
            &[0x80 | LOGIN, 0x80],
            &[READ, 0, 16, 0],
            &[TMF, 1, 0, 0],
            &[READ, 0, 16, 0],
            &[0x80 | TMF, 5, 0, 2],
            &[TIME, 0, 50, TIME, 8, 0],
        ]
        .concat(),
        // Unsolicited data behind the command.
        [
            &[0][..],
            &ready,
            &write(8, 16, 3),
            &[DATA_OUT, 0, 0, 0x11, 4, 0],
            &short(&[b'x'; 192]),
            &[DATA_OUT, 0, 1, 0x31, 0, 0],
            &short(&[b'y'; 128]),
            &answer,
            &write(2, 8, 3),
            &[DATA_OUT, 0, 0, 0x11, 2, 0],
            &short(&[b'x'; 128]),
            &[DATA_OUT, 0, 1, 0x11, 3, 0],
            &short(&[b'y'; 128]),
        ]
        .concat(),
        // Discovery.
        [
            &[0][..],
            &[LOGIN, 64, TEXT, 0],
            &long(b"SendTargets=All\0"),
            &[NOP, 0],
            &short(b"ping"),
            &[LOGOUT, 0],
        ]
        .concat(),
        // Reservations of two initiators, and one that vanishes.
        [
            &[0][..],
            &ready,
            &[0x80 | LOGIN, 0x80],
            &[COMMAND, 27, 4, 0, 0, 0, 24],
            &short(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            &[COMMAND, 28, 4, 0, 0, 0, 24],
            &short(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            &[0x80 | WRITE, 0, 1, 8, 1],
            &short(b"z"),
            &[DISCONNECT, 0],
        ]
        .concat(),
        // The operator: LUNs change, the disk is resized, faults, the target goes.
        [
            &[0][..],
            &ready,
            &[LUNS, 2, RESIZE, 2, 0],
            &test,
            &test,
            &test,
            &[FAULT, 1, 0x11],
            &write(1, 8, 1),
            &write(1, 8, 1),
            &[READ, 0, 1, 0, FAULT, 0, 0, APPLY, 1, TIME, 0x20, 0],
        ]
        .concat(),
        // A peer that takes nothing.
        [&[0][..], &ready, &[ROOM, 0, 100, READ, 0, 100, 0, READ, 0, 100, 0, READ, 0, 100, 0, TIME, 0xFF, 0]]
            .concat(),
    ];
    // Any CDB that is served, one after the other in one session.
    for part in 0..4u8 {
        let mut all = [&[0][..], &ready].concat();
        for n in part * 10..part * 10 + 10 {
            all.extend([COMMAND, n, 6, 0, 0, 2, 0]);
            all.extend(short(&[0; 32]));
        }
        seeds.push(all);
    }
    // Raw headers of every opcode.
    let mut raw = [&[0][..], &ready].concat();
    for opcode in [0, 1, 2, 3, 4, 5, 6, 0x10, 0x1C] {
        let mut header = [0; BHS_LEN];
        (header[0], header[1], header[19]) = (opcode | 0x40, 0x80, 77);
        raw.extend([RAW_PDU, 1]);
        raw.extend(header);
        raw.extend(short(b"raw"));
    }
    seeds.push(raw);
    let text = format!("InitiatorName=iqn.2026-01.org.example:a\0TargetName={TARGET}\0AuthMethod=None\0");
    seeds.push(
        [&[0, LOGIN_TEXT, 0x88][..], &long(text.as_bytes()), &[LOGIN_TEXT, 0x93, 0, 0, NOP, 0, 1, 9]]
            .concat(),
    );
    seeds
}

#[cfg(test)]
mod tests {
    use super::super::{Reached, play};
    use super::*;

    #[test]
    fn seeds_reach_full_feature_phase_and_move_data() {
        let reached: Vec<Reached> = seeds().iter().map(|seed| play(seed)).collect();
        let without_login = reached.iter().filter(|r| r.logins == 0).count();
        assert_eq!(without_login, 0, "{reached:?}");
        assert!(reached.iter().filter(|r| r.written > 0).count() >= 4, "{reached:?}");
        assert!(reached.iter().any(|r| r.r2ts >= 2 && r.good >= 1), "{reached:?}");
        assert!(reached.iter().any(|r| r.tmfs >= 2), "{reached:?}");
        assert!(reached.iter().any(|r| r.rejects > 0), "{reached:?}");
        let good: u32 = reached.iter().map(|r| r.good).sum();
        assert!(good >= 30, "{good} commands ended well: {reached:?}");
    }
}
