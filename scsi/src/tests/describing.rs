//! Commands answered out of snapshots.

use super::*;

#[test]
fn allocation_length_and_expectation_cut_what_is_sent() {
    let (mut w, n) = World::ready();
    // (ALLOCATION LENGTH, expected, sent, residual)
    let cases = [
        (5, 5, 5, Residual::None),
        (36, 36, 36, Residual::None),
        (255, 255, 96, Residual::Underflow(159)),
        (96, 20, 20, Residual::Overflow(76)),
        (0, 0, 0, Residual::None),
        (36, 0, 0, Residual::Overflow(36)),
    ];
    for (alloc, expected, sent, residual) in cases {
        let a = w.ask(n, &[0x12, 0, 0, 0, alloc, 0], expected, &[]);
        assert_eq!((a.status, a.data.len(), a.residual), (Status::Good, sent, residual), "{alloc}");
    }
    w.assert_quiet();
}

#[test]
fn a_lun_without_a_unit_answers_what_every_target_must() {
    let (mut w, n) = World::ready();
    let nothing = Some((SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED));
    let mut ask = |cdb: &[u8], expected: u32, out: &[u8]| {
        let c = w.send_as(n, 9, TaskAttr::Simple, cdb, expected, out);
        w.run();
        w.cmds[c].answer.clone().unwrap()
    };
    assert_eq!(ask(&[0x12, 0, 0, 0, 36, 0], 36, &[]).data[0], 0x7F);
    let luns = ask(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256, &[]);
    assert_eq!((luns.data.len(), luns.residual), (16, Residual::Underflow(240)));
    let sense = ask(&[0x03, 0, 0, 0, 252, 0], 252, &[]).data;
    assert_eq!(Sense::parse(&sense).map(|s| (s.key, s.asc)), nothing);
    assert_eq!(ask(&TUR, 0, &[]).asc(), nothing);
    assert_eq!(ask(&read(0, 1), 512, &[]).asc(), nothing);
    assert_eq!(ask(&write(0, 1), 0, &blocks(1, 1)).asc(), nothing);
    w.assert_quiet();
}

#[test]
fn describing_commands_wait_for_memory_like_all_others() {
    let mut w = World::with(1, [1, 0, 0, 0, 0, 0], info(), false);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    let cmds: Vec<_> = (0..6).map(|_| w.send(n, &[0x12, 0, 0, 0, 36, 0], 36, &[])).collect();
    let unknown = w.send_as(n, 9, TaskAttr::Simple, &[0x12, 0, 0, 0, 36, 0], 36, &[]);
    w.run();
    for c in cmds {
        assert_eq!(w.cmds[c].answer.as_ref().unwrap().data.len(), 36);
    }
    assert_eq!(w.cmds[unknown].answer.as_ref().unwrap().data.len(), 36);
    w.assert_quiet();
}

#[test]
fn tasks_and_counters_can_be_seen() {
    let (mut w, n) = World::ready();
    let before = w.engine(0).lu_stats(LU).unwrap();
    let c = w.send(n, &write(3, 2), 0, &blocks(1, 2));
    let tasks = w.engine(0).list_tasks();
    assert_eq!(tasks.len(), 1);
    let t = &tasks[0];
    assert_eq!((t.name, t.lba, t.blocks, t.tag), ("WRITE(10)", 3, 2, TaskTag(c as u64)));
    assert_eq!((t.state, t.lu, t.nexus), (crate::task::TaskState::Receiving, Some(LU), n));
    w.run();
    w.ask(n, &read(3, 2), 1024, &[]);
    let after = w.engine(0).lu_stats(LU).unwrap();
    assert_eq!((after.writes - before.writes, after.write_bytes), (1, 1024));
    assert_eq!((after.reads - before.reads, after.read_bytes), (1, 1024));
    let stats = w.engine(0).nexus_stats(n).unwrap();
    assert_eq!((stats.read_bytes, stats.write_bytes, stats.checks), (1024, 1024, 1));
}

#[test]
fn a_core_has_65_535_itl_nexuses_and_refuses_what_would_exceed_them() {
    let mut w = World::new(1);
    let all: Vec<_> = (0..16_384).map(|lun| (lun, LU, false)).collect();
    w.engine(0).set_lun_map(1, &all);
    for name in 1..=3 {
        w.nexus(0, name);
    }
    let fourth = w.engine(0).nexus_up(Box::new(nexus_info(4)));
    assert_eq!(fourth.err(), Some(Refusal::NoRoom));
    // What a change brings to nexuses that are up stops at the limit.
    let mut w = World::new(1);
    for name in 1..=5 {
        w.nexus(0, name);
    }
    w.engine(0).set_lun_map(1, &all);
    assert_eq!(w.engine(0).itls_left(), 0);
}
