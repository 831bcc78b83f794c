//! The way of READ and WRITE.

use super::*;

#[test]
fn a_write_is_read_back() {
    let (mut w, n) = World::ready();
    let data: Vec<u8> = (0..8 * BLOCK).map(|i| (i * 7 / 3) as u8).collect();
    let answer = w.ask(n, &write(5, 8), 0, &data);
    assert_eq!((answer.status, answer.residual), (Status::Good, Residual::None));
    let answer = w.ask(n, &read(5, 8), data.len() as u32, &[]);
    assert_eq!((answer.status, answer.residual, answer.data), (Status::Good, Residual::None, data));
    w.assert_quiet();
}

#[test]
fn every_family_of_read_and_write_reaches_the_disk() {
    let (mut w, n) = World::ready();
    for (fill, family) in [(1, Family::Six), (2, Family::Ten), (3, Family::Twelve), (4, Family::Sixteen)] {
        let cdb = Write::new(family, 9, 2).emit().as_bytes().to_vec();
        assert_eq!(w.ask(n, &cdb, 0, &blocks(fill, 2)).status, Status::Good);
        let cdb = Read::new(family, 9, 2).emit().as_bytes().to_vec();
        assert_eq!(w.ask(n, &cdb, 1024, &[]).data, blocks(fill, 2));
    }
}

#[test]
fn residuals_of_read_follow_the_shorter_of_cdb_and_expectation() {
    let (mut w, n) = World::ready();
    w.disk.fill(0x5A);
    let cases = [
        (1, 0, 0, Residual::Overflow(512)),
        (1, 10_000, 512, Residual::Underflow(9_488)),
        (1, 200, 200, Residual::Overflow(312)),
        (2, 512, 512, Residual::Overflow(512)),
        (0, 512, 0, Residual::Underflow(512)),
    ];
    for (n_blocks, expected, sent, residual) in cases {
        let a = w.ask(n, &read(0, n_blocks), expected, &[]);
        assert_eq!((a.status, a.data.len(), a.residual), (Status::Good, sent, residual));
    }
    w.assert_quiet();
}

#[test]
fn a_write_takes_whole_blocks_and_refuses_parts_of_one() {
    let (mut w, n) = World::ready();
    let cases = [
        (1, 0, true, Residual::Overflow(512)),
        (1, 1024, true, Residual::Underflow(512)),
        (2, 512, true, Residual::Overflow(512)),
        (1, 10_000, true, Residual::Underflow(9_488)),
        (1, 200, false, Residual::Overflow(312)),
    ];
    for (n_blocks, offered, good, residual) in cases {
        w.disk.fill(b'a');
        let a = w.ask(n, &write(0, n_blocks), 0, &vec![b'b'; offered]);
        assert_eq!(a.residual, residual, "{n_blocks} blocks, {offered} bytes");
        let written = w.disk.iter().filter(|b| **b == b'b').count();
        if good {
            assert_eq!((a.status, written), (Status::Good, offered.min(n_blocks as usize * 512)));
        } else if offered > 0 {
            let misfit = Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT;
            assert_eq!((a.asc(), written), (Some((SenseKey::IllegalRequest, misfit)), 0));
        }
    }
    w.assert_quiet();
}

#[test]
fn data_out_that_a_command_has_no_use_for_is_swallowed_first() {
    let (mut w, n) = World::ready();
    let at = w.send(n, &read(0, 1), 0, &blocks(1, 1));
    assert!(matches!(w.cmds[at].state, State::Swallows));
    assert!(w.cmds[at].answer.is_none());
    w.run();
    assert_eq!(w.cmds[at].answer.as_ref().unwrap().status, Status::Good);
    let a = w.ask(n, &[0xFF], 0, &blocks(1, 1));
    assert_eq!(a.asc(), Some((SenseKey::IllegalRequest, Asc::INVALID_COMMAND_OPERATION_CODE)));
    w.assert_quiet();
}

#[test]
fn a_write_for_which_there_was_no_room_is_busy_and_not_an_error() {
    let aborted = |asc| Some((SenseKey::AbortedCommand, asc));
    for (why, status, asc) in [
        (ReceiveError::NoRoom, Status::Busy, None),
        (ReceiveError::Digest, Status::CheckCondition, aborted(Asc::PROTOCOL_SERVICE_CRC_ERROR)),
        (
            ReceiveError::NotEnoughUnsolicited,
            Status::CheckCondition,
            aborted(Asc::NOT_ENOUGH_UNSOLICITED_DATA),
        ),
    ] {
        let (mut w, n) = World::ready();
        let at = w.send(n, &write(0, 1), 0, &blocks(1, 1));
        let State::Landed(buf) = std::mem::replace(&mut w.cmds[at].state, State::Sent) else { panic!() };
        let task = w.cmds[at].task.unwrap();
        w.engine(n.core()).receive_failed(task, Some(buf), why);
        w.drain(n.core());
        w.run();
        let answer = w.cmds[at].answer.as_ref().unwrap();
        assert_eq!((answer.status, answer.asc()), (status, asc), "{why:?}");
        assert!(w.disk.iter().all(|byte| *byte == 0));
        w.assert_quiet();
    }
}

#[test]
fn what_lies_beyond_the_end_or_the_limit_is_refused() {
    let (mut w, n) = World::ready();
    let out_of_range = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE));
    assert_eq!(w.ask(n, &read(DISK_BLOCKS, 1), 512, &[]).asc(), out_of_range);
    assert_eq!(w.ask(n, &read(DISK_BLOCKS + 1, 0), 0, &[]).asc(), out_of_range);
    assert_eq!(w.ask(n, &read(DISK_BLOCKS, 0), 0, &[]).status, Status::Good);
    assert_eq!(w.ask(n, &write(DISK_BLOCKS - 1, 2), 0, &blocks(1, 2)).asc(), out_of_range);
    // The pool's largest vector has 64 KiB.
    let a = w.ask(n, &read(0, 129), 129 * 512, &[]);
    assert_eq!(a.asc(), Some((SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB)));
    assert_eq!(a.sense.unwrap().field().unwrap().byte, 7);
    assert!(w.log.is_empty());
    let protect = [0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0];
    let field = w.ask(n, &protect, 512, &[]).sense.unwrap().field().unwrap();
    assert_eq!((field.byte, field.bit), (1, Some(5)));
}

#[test]
fn a_failed_read_sends_no_data_and_a_failed_write_is_not_good() {
    let (mut w, n) = World::ready();
    w.fail = Some((Op::Read, BlockError::MediumRead));
    let a = w.ask(n, &read(4, 2), 1024, &[]);
    assert_eq!(a.asc(), Some((SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR)));
    assert_eq!((a.data.len(), a.residual), (0, Residual::Underflow(1024)));
    w.fail = Some((Op::Write, BlockError::NoSpace));
    let a = w.ask(n, &write(4, 2), 0, &blocks(1, 2));
    let full = Asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT;
    assert_eq!(a.asc(), Some((SenseKey::DataProtect, full)));
    w.assert_quiet();
}

#[test]
fn fua_is_passed_on_and_added_where_the_mode_page_says_no_cache() {
    let (mut w, n) = World::ready();
    let fua = Write { fua: true, ..Write::new(Family::Ten, 0, 1) }.emit().as_bytes().to_vec();
    w.ask(n, &fua, 0, &blocks(1, 1));
    w.ask(n, &write(0, 1), 0, &blocks(1, 1));
    assert!(w.log[0].3.has(IoFlags::FUA) && !w.log[1].3.has(IoFlags::FUA));
    // MODE SELECT(10), page 08h with WCE nought.
    let mut list = vec![0; 8];
    list.extend([0x08, 0x12]);
    list.extend([0; 18]);
    let select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    assert_eq!(w.ask(n, &select, 0, &list).status, Status::Good);
    w.ask(n, &write(0, 1), 0, &blocks(1, 1));
    assert!(w.log[2].3.has(IoFlags::FUA));
    w.assert_quiet();
}

#[test]
fn a_pool_of_four_serves_everybody_in_turn() {
    let mut w = World::with(1, [4, 0, 0, 0, 0, 0], info(), false);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    let cmds: Vec<_> = (0..40u32)
        .map(|i| {
            let lba = u64::from(i) * 8;
            if i % 2 == 0 {
                w.send(n, &write(lba, 8), 0, &blocks(i as u8, 8))
            } else {
                w.send(n, &read(lba, 8), 4096, &[])
            }
        })
        .collect();
    assert!(w.engine(0).stats().waited_for_memory >= 36);
    w.run();
    assert!(cmds.iter().all(|c| w.cmds[*c].answer.as_ref().is_some_and(|a| a.status == Status::Good)));
    w.assert_quiet();
}

#[test]
fn first_windows_shrink_as_slots_become_scarce_and_those_who_work_still_grow() {
    let arena = Arena::new(ArenaConfig::plain(1 << 20, 1 << 20)).unwrap();
    let vectors = PoolConfig { vectors: [1, 0, 0, 0, 0, 0], ..PoolConfig::default() };
    let cfg = EngineConfig {
        tasks_max: 1024,
        nexuses_max: 300,
        window_min: 1,
        immediate_share: 0,
        ..EngineConfig::new(CoreId(0), 1)
    };
    let mut engine = Engine::new(cfg, SgvPool::new(CoreId(0), arena, &vectors).unwrap());
    let mut begin = |n: u8| {
        let id = engine.nexus_up(Box::new(nexus_info(n))).unwrap();
        (id, engine.grant(id, 8))
    };
    let windows: Vec<(NexusId, u32)> = (0..300).map(|n| begin(n as u8)).collect();
    let sizes: Vec<u32> = windows.iter().map(|(_, window)| *window).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    assert_eq!((sizes[30], sizes[31], sizes[299]), (8, 4, 1));
    assert_eq!(engine.nexus_up(Box::new(nexus_info(0))), Err(spindle_scsi_port::Refusal::NoRoom));
    // One that has sent a command grows out of what is left.
    let (last, _) = windows[299];
    engine.nexuses[299].stats.commands = 1;
    assert_eq!(engine.grant(last, 64), 64);
    // The slot of one that has gone is the next one's.
    engine.nexus_lost(last);
    let next = engine.nexus_up(Box::new(nexus_info(9))).unwrap();
    assert_eq!((next.slot(), engine.grant(next, 8)), (299, 1));
}

#[test]
fn within_its_grant_a_nexus_always_finds_a_slot() {
    let mut w = World::new(1);
    let (a, b) = (w.nexus(0, 1), w.nexus(0, 2));
    // 256 slots; 16 are kept for immediate commands, 8 for each of the nexuses that may still come.
    assert_eq!(w.engine(0).grant(a, 1000), 128);
    assert_eq!(w.engine(0).grant(b, 1000), 64);
    let greedy: Vec<_> = (0..300).map(|_| w.send(a, &read(0, 1), 512, &[])).collect();
    let held = greedy.iter().filter(|c| !matches!(w.cmds[**c].state, State::Refused)).count();
    assert_eq!(held, 256 - 64);
    let modest: Vec<_> = (0..64).map(|_| w.send(b, &read(0, 1), 512, &[])).collect();
    assert!(modest.iter().all(|c| !matches!(w.cmds[*c].state, State::Refused)));
    w.run();
    (3..9).for_each(|n| _ = w.nexus(0, n));
    let ninth = w.engine(0).nexus_up(Box::new(nexus_info(9)));
    assert_eq!(ninth, Err(spindle_scsi_port::Refusal::NoRoom));
    w.assert_quiet();
}

#[test]
fn an_ordered_write_separates_what_comes_before_from_what_comes_after() {
    let (mut w, n) = World::ready();
    let before = w.send(n, &read(0, 1), 512, &[]);
    let ordered = w.send_as(n, 0, TaskAttr::Ordered, &write(0, 1), 0, &blocks(9, 1));
    let after = w.send(n, &read(0, 1), 512, &[]);
    assert!(matches!(w.cmds[ordered].state, State::Waits(512)));
    assert_eq!(w.io[0].len(), 1, "only what came before runs");
    w.run();
    let data = |w: &World, c: usize| w.cmds[c].answer.as_ref().unwrap().data.clone();
    assert_eq!((data(&w, before), data(&w, after)), (blocks(0, 1), blocks(9, 1)));
    w.assert_quiet();
}

#[test]
fn an_aca_task_without_aca_is_an_invalid_message() {
    let (mut w, n) = World::ready();
    let c = w.send_as(n, 0, TaskAttr::Aca, &read(0, 1), 512, &[]);
    w.run();
    let asc = w.cmds[c].answer.as_ref().unwrap().asc();
    assert_eq!(asc, Some((SenseKey::IllegalRequest, Asc::INVALID_MESSAGE_ERROR)));
}

#[test]
fn a_unit_that_holds_its_share_of_the_memory_does_not_keep_others_from_theirs() {
    let mut w = World::new(1);
    let other = LuId(77);
    let spec = LuSpec { lu: other, ..spec(&info(), false) };
    w.engine(0).open_lu(spec);
    w.engine(0).set_lun_map(1, &[(0, LU, false), (1, other, false)]);
    // The first unit may hold nothing more, as if others had lent it all it has.
    w.engine(0).pool_mut().open_share(ShareId(1), 0);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    for _ in 0..4 {
        w.send_as(n, 1, TaskAttr::Simple, &[0; 16], 0, &[]);
        w.run();
    }
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&write(0, 1));
    let first: Vec<usize> = (0..3).map(|_| w.send(n, &cdb, 0, &blocks(1, 1))).collect();
    // Behind them in the line, but of a unit that holds nothing.
    let second = w.send_as(n, 1, TaskAttr::Simple, &cdb, 0, &blocks(2, 1));
    w.run();
    assert_eq!(w.cmds[second].answer.as_ref().map(|a| a.status), Some(Status::Good));
    assert!(first.iter().all(|&at| w.cmds[at].answer.is_none()));
    w.engine(0).pool_mut().open_share(ShareId(1), 4096);
    for now in 1..4 {
        w.engine(0).on_tick(Tick(now));
        w.drain(0);
        w.run();
    }
    assert!(first.iter().all(|&at| w.cmds[at].answer.as_ref().unwrap().status == Status::Good));
    w.assert_quiet();
}

#[test]
fn a_tag_that_is_used_twice_ends_all_commands_of_its_nexus() {
    let (mut w, n) = World::ready();
    let other = w.nexus(0, 2);
    w.clear_attentions(other);
    // Tags of one bucket and of others, coming and going in any order.
    let bystander = w.send(other, &read(0, 1), 512, &[]);
    let many: Vec<usize> = (0..12).map(|lba| w.send(n, &read(lba, 1), 512, &[])).collect();
    w.happen(Event::Io(0, 5));
    w.happen(Event::Io(0, 2));
    let receives = w.send(n, &write(9, 1), 0, &blocks(1, 1));
    let overlaps = |w: &mut World, lun, out: &[u8]| {
        let at = w.cmds.len();
        let cdb = [0x2A, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        w.reuse = Some(TaskTag(many[7] as u64));
        assert_eq!(w.send_as(n, lun, TaskAttr::Simple, &cdb, 0, out), at);
        w.run_but(|e| matches!(e, Event::Io(..)));
        w.cmds[at].answer.as_ref().map(Answer::asc)
    };
    let told = Some((SenseKey::AbortedCommand, Asc::OVERLAPPED_COMMANDS_ATTEMPTED));
    assert_eq!(overlaps(&mut w, 0, &blocks(7, 1)), Some(told));
    assert!(w.cmds[receives].revoked);
    assert_eq!(w.hinted.len(), 10, "what the device has is given up");
    // They have not come back, but the initiator has been told: it may use the tag.
    let again = w.cmds.len();
    assert_eq!(overlaps(&mut w, 0, &blocks(7, 1)), None);
    assert_eq!(overlaps(&mut w, 3, &[]), Some(told), "to a LUN without unit, too");
    w.run();
    assert!(w.cmds[again].revoked && w.disk[BLOCK..2 * BLOCK].iter().all(|byte| *byte == 7));
    assert_eq!(w.cmds[bystander].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.engine(0).stats().overlapped, 2);
    let plain = w.ask(n, &read(1, 1), 512, &[]);
    assert_eq!(plain.status, Status::Good);
    w.assert_quiet();
}
