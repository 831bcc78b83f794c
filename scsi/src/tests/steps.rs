//! Commands of several steps.

use super::*;

const MISCOMPARE: Option<(SenseKey, Asc)> = Some((SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY));

fn verify(bytchk: u8, lba: u8, n: u8) -> [u8; 10] {
    [0x2F, bytchk << 1, 0, 0, 0, lba, 0, 0, n, 0]
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n * BLOCK).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn verify_compares_in_pieces_and_tells_the_offset() {
    // 4 KiB vectors: half for the data, half for what is on the medium.
    let mut w = World::with(1, [4, 0, 0, 0, 0, 0], info(), false);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    let mut data = pattern(6);
    w.disk[10 * BLOCK..16 * BLOCK].copy_from_slice(&data);
    assert_eq!(w.ask(n, &verify(1, 10, 6), 0, &data).status, Status::Good);
    assert_eq!(w.log.len(), 3, "two blocks at a time");
    data[5 * BLOCK + 7] ^= 1;
    let a = w.ask(n, &verify(1, 10, 6), 0, &data);
    assert_eq!((a.asc(), a.sense.unwrap().information()), (MISCOMPARE, Some(5 * 512 + 7)));
    w.assert_quiet();
}

#[test]
fn verify_of_one_block_compares_it_with_each() {
    let (mut w, n) = World::ready();
    w.disk[..4 * BLOCK].fill(6);
    assert_eq!(w.ask(n, &verify(3, 0, 4), 0, &blocks(6, 1)).status, Status::Good);
    w.disk[2 * BLOCK + 1] = 0;
    let a = w.ask(n, &verify(3, 0, 4), 0, &blocks(6, 1));
    assert_eq!((a.asc(), a.sense.unwrap().information()), (MISCOMPARE, Some(1025)));
    let a = w.ask(n, &verify(3, 0, 4), 0, &[]);
    assert_eq!((a.status, a.residual), (Status::Good, Residual::Overflow(512)), "nothing to compare with");
    w.assert_quiet();
}

#[test]
fn verify_without_bytchk_reads_the_medium_and_swallows_data() {
    let (mut w, n) = World::ready();
    assert_eq!(w.ask(n, &verify(0, 3, 2), 0, &pattern(2)).status, Status::Good);
    assert_eq!(w.log, [(Op::Verify, 3, 2, IoFlags::NONE)]);
    w.fail = Some((Op::Verify, BlockError::MediumRead));
    let bad = Some((SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR));
    assert_eq!(w.ask(n, &verify(0, 3, 2), 0, &[]).asc(), bad);
    w.assert_quiet();
}

#[test]
fn write_and_verify_writes_through_and_reads_back() {
    let (mut w, n) = World::ready();
    for bytchk in [0, 1] {
        w.log.clear();
        let cdb = [0x2E, bytchk << 1, 0, 0, 0, 4, 0, 0, 2, 0];
        assert_eq!(w.ask(n, &cdb, 0, &pattern(2)).status, Status::Good);
        assert_eq!(w.disk[4 * BLOCK..6 * BLOCK], pattern(2));
        let second = if bytchk == 1 { Op::Read } else { Op::Verify };
        assert_eq!((w.log[0].0, w.log[1].0), (Op::Write, second));
        assert!(w.log[0].3.has(IoFlags::FUA));
    }
    w.assert_quiet();
}

#[test]
fn write_same_repeats_a_block_zeroes_or_unmaps() {
    let (mut w, n) = World::ready();
    let same = |unmap: u8, lba: u8, n: u8| [0x41, unmap << 3, 0, 0, 0, lba, 0, 0, n, 0];
    assert_eq!(w.ask(n, &same(0, 10, 200), 0, &pattern(1)).status, Status::Good);
    assert!((10..210).all(|b| w.disk[b * BLOCK..(b + 1) * BLOCK] == pattern(1)));
    assert!(w.log.iter().all(|(op, _, n, _)| *op == Op::Write && *n <= 128));
    w.log.clear();
    assert_eq!(w.ask(n, &same(0, 10, 50), 0, &blocks(0, 1)).status, Status::Good);
    assert_eq!(w.log[0].0, Op::WriteZeroes);
    assert!(w.disk[10 * BLOCK..60 * BLOCK].iter().all(|b| *b == 0) && w.mapped[10]);
    assert_eq!(w.ask(n, &same(1, 60, 50), 0, &blocks(0, 1)).status, Status::Good);
    assert!(!w.mapped[60] && !w.mapped[109] && w.mapped[110]);
    let a = w.ask(n, &same(0, 0, 0), 0, &blocks(0, 1));
    assert_eq!(a.asc(), Some((SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB)));
    for wrong in [256, 1024] {
        let a = w.ask(n, &same(0, 0, 1), 0, &vec![1; wrong]);
        assert_eq!(a.status, Status::CheckCondition);
    }
    w.assert_quiet();
}

#[test]
fn write_same_without_data_and_in_pieces_is_bounded() {
    let (mut w, n) = World::ready();
    let narrow = BdevInfo { transfer_max: 16, ..info() };
    w.engine(0).lu_changed(LU, narrow, None);
    let mut cdb = [0; 16];
    cdb[0] = 0x93;
    cdb[1] = 0x01; // NDOB
    cdb[13] = 200;
    let c = w.send(n, &cdb, 0, &[]);
    assert_eq!(w.io[0].len(), 4, "so many at once and no more");
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.log.len(), 13);
    w.fail = Some((Op::WriteZeroes, BlockError::NoSpace));
    let full = Some((SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT));
    assert_eq!(w.ask(n, &cdb, 0, &[]).asc(), full);
    w.assert_quiet();
}

#[test]
fn unmap_touches_nothing_unless_all_ranges_are_right() {
    let (mut w, n) = World::ready();
    let list = |ranges: &[(u64, u32)]| {
        let mut list = vec![0; 8];
        for (lba, blocks) in ranges {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        let len = list.len() as u16;
        list[..2].copy_from_slice(&(len - 2).to_be_bytes());
        list[2..4].copy_from_slice(&(len - 8).to_be_bytes());
        list
    };
    let cdb = |n: usize| [0x42, 0, 0, 0, 0, 0, 0, (n >> 8) as u8, n as u8, 0];
    w.disk.fill(1);
    let good = list(&[(0, 8), (16, 8), (32, 0), (40, 1), (50, 1), (60, 1), (70, 1)]);
    assert_eq!(w.ask(n, &cdb(good.len()), 0, &good).status, Status::Good);
    assert!(!w.mapped[0] && w.mapped[8] && !w.mapped[16] && w.mapped[32] && !w.mapped[70]);
    let bad = list(&[(100, 8), (DISK_BLOCKS, 1)]);
    let out_of_range = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE));
    assert_eq!(w.ask(n, &cdb(bad.len()), 0, &bad).asc(), out_of_range);
    assert!(w.mapped[100]);
    assert_eq!(w.ask(n, &cdb(0), 0, &[]).status, Status::Good);
    let short = Some((SenseKey::IllegalRequest, Asc::PARAMETER_LIST_LENGTH_ERROR));
    assert_eq!(w.ask(n, &cdb(4), 0, &[0; 4]).asc(), short);
    w.assert_quiet();
}

#[test]
fn lba_status_tells_the_extents_that_fit() {
    let (mut w, n) = World::ready();
    w.mapped[10..20].fill(false);
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x9E, 0x12]);
    cdb[9] = 5;
    cdb[13] = 104;
    let a = w.ask(n, &cdb, 104, &[]);
    assert_eq!((a.data.len(), a.residual), (56, Residual::Underflow(48)));
    assert_eq!(a.data[..4], [0, 0, 0, 52]);
    let extent = |n: usize| {
        let d = &a.data[8 + n * 16..];
        (d[7], u32::from_be_bytes([d[8], d[9], d[10], d[11]]), d[12])
    };
    assert_eq!([extent(0), extent(1), extent(2)], [(5, 5, 0), (10, 10, 1), (20, 1004, 0)]);
    cdb[13] = 24;
    assert_eq!(w.ask(n, &cdb, 24, &[]).data.len(), 24);
    cdb[2..10].copy_from_slice(&DISK_BLOCKS.to_be_bytes());
    let out_of_range = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE));
    assert_eq!(w.ask(n, &cdb, 24, &[]).asc(), out_of_range);
    w.assert_quiet();
}

#[test]
fn synchronize_cache_and_stop_flush_and_tell_what_was_lost() {
    let (mut w, n) = World::ready();
    let sync = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let stop = [0x1B, 0, 0, 0, 0, 0];
    for cdb in [&sync[..], &stop[..]] {
        w.log.clear();
        w.fail = None;
        assert_eq!(w.ask(n, cdb, 0, &[]).status, Status::Good);
        assert_eq!(w.log, [(Op::Flush, 0, DISK_BLOCKS as u32, IoFlags::NONE)]);
        w.fail = Some((Op::Flush, BlockError::FlushLost));
        assert_eq!(w.ask(n, cdb, 0, &[]).asc(), Some((SenseKey::MediumError, Asc::WRITE_ERROR)));
    }
    w.assert_quiet();
}

#[test]
fn an_aborted_command_of_many_steps_stops_between_them() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &[0x41, 0, 0, 0, 0, 0, 0, 1, 0, 0], 0, &blocks(9, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let tmf = w.tmf(n, TmfFunction::AbortTask(TaskTag(c as u64)));
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert_eq!(w.log.len(), 1, "the piece under way ends, no other begins");
    w.assert_quiet();
}

#[test]
fn a_device_that_lends_gets_no_buffer_to_read_into() {
    let mut w = World::with(1, SMALL, BdevInfo { lends: true, ..info() }, false);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    let data = pattern(4);
    w.disk[..4 * BLOCK].copy_from_slice(&data);
    let c = w.send(n, &read(0, 4), 2048, &[]);
    assert!(w.io[0][0].data.is_none());
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().data, data);
    assert_eq!(w.ask(n, &verify(1, 0, 4), 0, &data).status, Status::Good);
    let mut both = pattern(1);
    both.extend(blocks(9, 1));
    assert_eq!(w.ask(n, &compare_and_write(0), 0, &both).status, Status::Good);
    assert_eq!(w.disk[..BLOCK], blocks(9, 1));
    let a = w.ask(n, &verify(1, 0, 4), 0, &data);
    assert_eq!((a.asc(), a.sense.unwrap().information()), (MISCOMPARE, Some(0)));
    let write_and_verify = [0x2E, 2, 0, 0, 0, 8, 0, 0, 4, 0];
    assert_eq!(w.ask(n, &write_and_verify, 0, &data).status, Status::Good);
    assert!(w.log.iter().any(|(op, _, _, flags)| *op == Op::Write && flags.has(IoFlags::KEEP)));
    w.fail = Some((Op::Read, BlockError::MediumRead));
    let bad = Some((SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR));
    assert_eq!(w.ask(n, &read(0, 4), 2048, &[]).asc(), bad);
    assert_eq!(w.ask(n, &verify(1, 0, 4), 0, &data).asc(), bad);
    w.assert_quiet();
}
