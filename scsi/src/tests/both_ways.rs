//! The usual way of READ and WRITE (`quick`) and the general one come to the same: two worlds go through one program
//! step by step, one of them without the usual way, and nothing that can be seen from outside differs.

use std::cell::Cell;
use std::mem::take;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::task::flag;

/// What stays as it is through a program.
#[derive(Clone, Debug)]
pub struct Setting {
    cores: u8,
    tst_shared: bool,
    lends: bool,
    write_cache: bool,
    write_protect: bool,
    read_only_map: bool,
    big_blocks: bool,
    device_max: u32,
    vectors: [u32; 6],
    window: u32,
    /// Commands of others that are aborted are told (TAS).
    tells: bool,
    /// Unit attentions are taken before the program begins.
    cleared: bool,
}

/// A READ or WRITE, more or less as it should be.
#[derive(Clone, Debug)]
pub struct Transfer {
    who: usize,
    writes: bool,
    family: Family,
    lba: u64,
    blocks: u32,
    /// Ones in the CDB: byte and bit.
    bits: Vec<(u8, u8)>,
    offer: Offer,
    attr: TaskAttr,
    lun: u32,
    method: LunMethod,
    /// The tag of an earlier command.
    pub same_tag: Option<usize>,
    fill: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Offer {
    Exact,
    Bytes(u32),
    /// What fits, and as much room or data in the other direction.
    Both,
    /// In the other direction only.
    Wrong,
}

#[derive(Clone, Debug)]
pub enum Step {
    Transfer(Transfer),
    /// Another command, with its parameter list.
    Other(usize, TaskAttr, Vec<u8>, Vec<u8>),
    /// One of the things that may happen now.
    Happen(usize),
    /// Data-Out that is damaged, if any is under way.
    Damage,
    /// The last of the Data-Out of a command comes in while its `Revoke` is on its way, if there is one.
    Cross,
    /// The next operations of this kind fail; or none.
    Fail(Option<(Op, BlockError)>),
    Manage(usize, TmfFunction),
    Lose(usize),
    Map(Vec<(u32, LuId, bool)>),
    Resize(u64),
    Shrink(u64),
    Close,
    /// Everything that may happen does.
    Run,
}

pub fn setting() -> impl Strategy<Value = Setting> {
    let rarely = || prop::bool::weighted(0.1);
    let vectors = prop_oneof![3 => Just(SMALL), 1 => Just([2, 1, 0, 0, 0, 0]), 1 => Just([0, 0, 3, 0, 0, 0])];
    let flags = (rarely(), any::<bool>(), any::<bool>(), rarely(), rarely(), rarely());
    let numbers =
        (1u8..=2, prop_oneof![Just(0u32), Just(24)], vectors, prop_oneof![1 => Just(8u32), 3 => Just(64)]);
    let told = (prop::bool::weighted(0.3), prop::bool::weighted(0.9));
    (flags, numbers, told).prop_map(|(flags, numbers, (tells, cleared))| {
        let (tst_shared, lends, write_cache, write_protect, read_only_map, big_blocks) = flags;
        let (cores, device_max, vectors, window) = numbers;
        Setting {
            cores,
            tst_shared,
            lends,
            write_cache,
            write_protect,
            read_only_map,
            big_blocks,
            device_max,
            vectors,
            window,
            tells,
            cleared,
        }
    })
}

pub fn transfer() -> impl Strategy<Value = Transfer> {
    let family = prop_oneof![
        1 => Just(Family::Six), 6 => Just(Family::Ten), 1 => Just(Family::Twelve), 6 => Just(Family::Sixteen)
    ];
    let end = DISK_BLOCKS;
    let lba = prop_oneof![8 => 0..64u64, 1 => end - 8..end + 2, 1 => Just(u64::from(u32::MAX))];
    let blocks = prop_oneof![12 => 1..9u32, 1 => Just(0), 1 => 24..300u32];
    // FUA and DPO often, anything else now and then.
    let bit = prop_oneof![3 => (Just(1u8), 3..5u8), 1 => (0..16u8, 0..8u8)];
    let bits = prop_oneof![6 => Just(Vec::new()), 3 => vec(bit, 1..3)];
    let offer = prop_oneof![
        20 => Just(Offer::Exact), 2 => (0..6_000u32).prop_map(Offer::Bytes), 1 => Just(Offer::Both), 1 => Just(Offer::Wrong)
    ];
    let attr = prop_oneof![
        20 => Just(TaskAttr::Simple), 2 => Just(TaskAttr::Untagged), 1 => Just(TaskAttr::Ordered),
        1 => Just(TaskAttr::HeadOfQueue), 1 => Just(TaskAttr::Aca)
    ];
    let lun = prop_oneof![20 => Just(0u32), 1 => Just(1)];
    let method = prop_oneof![10 => Just(LunMethod::Peripheral), 1 => Just(LunMethod::Flat)];
    let same_tag = prop_oneof![30 => Just(None), 1 => (0..40usize).prop_map(Some)];
    ((0..2usize, any::<bool>(), family, lba, blocks, bits), (offer, attr, lun, method, same_tag, 1..255u8))
        .prop_map(|((who, writes, family, lba, blocks, bits), (offer, attr, lun, method, same_tag, fill))| {
            Transfer { who, writes, family, lba, blocks, bits, offer, attr, lun, method, same_tag, fill }
        })
}

/// Commands that change what the others meet.
fn other() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let modes = |page: Vec<u8>| {
        let mut list = vec![0; 4];
        list.extend(page);
        (vec![0x15, 0x10, 0, 0, list.len() as u8, 0], list)
    };
    let mut caching = vec![0; 20];
    caching[..3].copy_from_slice(&[0x08, 0x12, 0]);
    let mut cached = caching.clone();
    cached[2] = 4;
    let control = |swp: u8| vec![0x0A, 0x0A, 0x22, 0x10, swp, 0, 0, 0, 0, 0, 0, 0];
    let both = [blocks(0, 1), blocks(9, 1)].concat();
    prop_oneof![
        Just((TUR.to_vec(), Vec::new())),
        Just((compare_and_write(5), both)),
        Just((vec![0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0], Vec::new())),
        Just((vec![0x12, 0, 0, 0, 96, 0], Vec::new())),
        Just(modes(caching)),
        Just(modes(cached)),
        Just(modes(control(0x08))),
        Just(modes(control(0x00))),
        Just((vec![0x16, 0, 0, 0, 0, 0], Vec::new())),
        Just((vec![0x17, 0, 0, 0, 0, 0], Vec::new())),
        (1..4u64).prop_map(|key| (persistent_out(6, 0), pr_list(0, key))),
        (1..4u64, 1..9u8).prop_map(|(key, kind)| (persistent_out(1, kind), pr_list(key, 0))),
        (1..4u64, 1..9u8).prop_map(|(key, kind)| (persistent_out(2, kind), pr_list(key, 0))),
        (1..4u64, 1..4u64, 1..9u8)
            .prop_map(|(key, whom, kind)| (persistent_out(5, kind), pr_list(key, whom))),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    use TmfFunction::*;
    let attr = || prop_oneof![8 => Just(TaskAttr::Simple), 1 => Just(TaskAttr::Ordered), 1 => Just(TaskAttr::HeadOfQueue)];
    let error =
        prop_oneof![Just(BlockError::MediumRead), Just(BlockError::MediumWrite), Just(BlockError::Gone)];
    let op = prop_oneof![Just(Op::Read), Just(Op::Write), Just(Op::Flush)];
    let function = prop_oneof![
        (0..40u64).prop_map(|tag| AbortTask(TaskTag(tag))),
        Just(AbortTaskSet),
        Just(ClearTaskSet),
        Just(LogicalUnitReset),
        Just(ITNexusReset),
    ];
    let map = prop_oneof![Just(vec![]), Just(vec![(0, LU, true)]), Just(vec![(0, LU, false)])];
    prop_oneof![
        300 => transfer().prop_map(Step::Transfer),
        20 => (0..2usize, attr(), other()).prop_map(|(who, attr, (cdb, list))| Step::Other(who, attr, cdb, list)),
        300 => any::<usize>().prop_map(Step::Happen),
        20 => Just(Step::Run),
        4 => Just(Step::Damage),
        30 => Just(Step::Cross),
        4 => (op, error).prop_map(|fail| Step::Fail(Some(fail))),
        8 => Just(Step::Fail(None)),
        12 => (0..2usize, function).prop_map(|(who, function)| Step::Manage(who, function)),
        3 => (0..2usize).prop_map(Step::Lose),
        3 => map.prop_map(Step::Map),
        2 => (0..3u64).prop_map(|n| Step::Resize(DISK_BLOCKS - 8 * n)),
        1 => Just(Step::Shrink(32)),
        1 => Just(Step::Close),
    ]
}

/// One world on its way through a program.
pub struct Walker {
    pub w: World,
    pub nexuses: [NexusId; 2],
    /// Answers that have been compared.
    looked: usize,
}

impl Walker {
    pub fn new(s: &Setting, closely: bool) -> Walker {
        let block_bytes = if s.big_blocks { 4096 } else { 512 };
        let info = BdevInfo {
            block_bytes,
            lends: s.lends,
            write_cache: s.write_cache,
            transfer_max: s.device_max,
            ..info()
        };
        let mut w = World::with(s.cores, s.vectors, info, s.tst_shared);
        (w.closely, w.maps_change) = (closely, true);
        if s.write_protect {
            for core in 0..s.cores {
                let engine = w.engine(core);
                let slot = engine.lu_slots[&LU];
                let limits = engine.limits;
                engine.lu_mut(slot).write_protect = true;
                engine.lu_mut(slot).refresh(limits);
            }
        }
        for core in 0..s.cores {
            w.engine(core).set_lun_map(1, &[(0, LU, s.read_only_map)]);
        }
        let nexuses = [w.nexus_with(0, 1, s.window), w.nexus_with(s.cores - 1, 2, s.window)];
        w.run();
        if s.tells {
            w.clear_attentions(nexuses[0]);
            let tst = if s.tst_shared { 0 } else { 0x20 };
            let list = [&[0; 4][..], &[0x0A, 0x0A, tst | 2, 0x10, 0, 0x40], &[0; 6]].concat();
            assert_eq!(w.ask(nexuses[0], &[0x15, 0x10, 0, 0, 16, 0], 0, &list).status, Status::Good);
        }
        if s.cleared {
            nexuses.iter().for_each(|n| w.clear_attentions(*n));
        }
        Walker { w, nexuses, looked: 0 }
    }

    /// Takes a step. `true`: a command took the usual way.
    pub fn take(&mut self, step: &Step) -> bool {
        let w = &mut self.w;
        match step {
            Step::Transfer(t) => return self.transfer(t),
            Step::Other(who, attr, cdb, list) => {
                let mut padded = [0; 16];
                padded[..cdb.len()].copy_from_slice(cdb);
                let read = if list.is_empty() { 96 } else { 0 };
                w.send_as(self.nexuses[*who], 0, *attr, &padded, read, list);
            }
            Step::Happen(n) => {
                let events = w.events();
                if !events.is_empty() {
                    w.happen(events[n % events.len()]);
                }
            }
            Step::Damage => {
                let fill =
                    w.events().into_iter().find_map(|e| if let Event::Fill(n) = e { Some(n) } else { None });
                if let Some(n) = fill {
                    w.happen(Event::FillFails(n));
                }
            }
            Step::Cross => {
                let crosses = |c: &Cmd| c.revoked && matches!(c.state, State::Landed(_));
                if let Some(n) = w.cmds.iter().position(crosses) {
                    w.happen(Event::Fill(n));
                }
            }
            Step::Fail(fail) => w.fail = *fail,
            Step::Manage(who, function) if !w.gone.contains(&self.nexuses[*who]) => {
                w.tmf(self.nexuses[*who], *function);
            }
            Step::Manage(..) => {}
            Step::Lose(who) => w.lose(self.nexuses[*who]),
            Step::Map(map) => self.everywhere(|engine| engine.set_lun_map(1, map)),
            Step::Resize(blocks) => {
                let info =
                    |engine: &Engine| engine.lu_slots.get(&LU).map(|slot| engine.lu(*slot).info.clone());
                self.everywhere(|engine| {
                    if let Some(info) = info(engine) {
                        engine.lu_changed(LU, BdevInfo { blocks: *blocks, ..info }, None);
                    }
                });
            }
            Step::Shrink(blocks) => self.everywhere(|engine| engine.lu_shrink(LU, *blocks)),
            Step::Close => {
                self.everywhere(|engine| {
                    engine.set_lun_map(1, &[]);
                    engine.close_lu(LU);
                });
            }
            Step::Run => w.run(),
        }
        false
    }

    fn everywhere(&mut self, does: impl Fn(&mut Engine)) {
        for core in 0..self.w.cores.len() as u8 {
            does(self.w.engine(core));
            self.w.drain(core);
        }
    }

    fn transfer(&mut self, t: &Transfer) -> bool {
        let block = self.w.block as u32;
        let few = |most: u64| t.lba.min(most);
        let (lba, blocks) = match t.family {
            Family::Six => (few(0x1F_FFFF), t.blocks.min(255)),
            Family::Sixteen => (t.lba, t.blocks),
            _ => (few(u64::from(u32::MAX)), t.blocks.min(0xFFFF)),
        };
        let cdb = if t.writes {
            Write::new(t.family, lba, blocks).emit().as_bytes().to_vec()
        } else {
            Read::new(t.family, lba, blocks).emit().as_bytes().to_vec()
        };
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(&cdb);
        for &(byte, bit) in &t.bits {
            padded[usize::from(byte)] |= 1 << bit;
        }
        let exact = t.blocks * block;
        let (wanted, against) = match t.offer {
            Offer::Exact => (exact, 0),
            Offer::Bytes(n) => (n, 0),
            Offer::Both => (exact, exact),
            Offer::Wrong => (0, exact),
        };
        let (read, out) = if t.writes { (against, wanted) } else { (wanted, against) };
        let out = vec![t.fill; out.min(1 << 20) as usize];
        let core = self.nexuses[t.who].core();
        let tag = |n: usize| TaskTag(n as u64 % (self.w.cmds.len() as u64 + 1));
        self.w.reuse = t.same_tag.map(tag);
        let at = self.w.send_to(self.nexuses[t.who], t.lun, t.method, t.attr, &padded, read, &out);
        let task = self.w.cmds[at].task;
        let tasks = &self.w.cores[usize::from(core)].tasks;
        task.and_then(|id| tasks.find(id)).is_some_and(|slot| tasks.peek(slot).has(flag::PLAIN))
    }

    /// Everything that can be seen from outside, but for what was compared before.
    fn shown(&mut self) -> String {
        let w = &mut self.w;
        let at = w.io.iter().flatten().map(|io| {
            let bytes = io.data.as_ref().map(|buf| buf.len());
            (io.key, io.op, io.lba, io.blocks, io.flags, io.at, io.origin.0, bytes)
        });
        let at: Vec<_> = at.collect();
        let answers: Vec<_> = w.cmds[self.looked..].iter().map(|c| (&c.task, &c.answer, c.revoked)).collect();
        let mut out = format!("{:?}\n{at:?}\n{answers:?}\n", w.events());
        while w.cmds.get(self.looked).is_some_and(|c| matches!(c.state, State::Over)) {
            self.looked += 1;
        }
        let mut tmfs: Vec<_> = w.tmfs.iter().map(|(id, (_, answer))| (*id, *answer)).collect();
        tmfs.sort_unstable_by_key(|(id, _)| *id);
        let log = take(&mut w.log);
        out += &format!("{log:?} {tmfs:?} {:?} {:?} {:?} {:?}\n", w.gone, w.closed, w.shrunk, w.hinted);
        for engine in &mut w.cores {
            let known: Vec<_> = self.nexuses.iter().map(|n| engine.nexus_stats(*n)).collect();
            out += &format!("{:?} {:?} {:?} ", engine.stats(), known, engine.list_tasks());
            let unit = engine.lu_slots.contains_key(&LU).then(|| engine.lu_stats(LU));
            let grants: Vec<_> = engine.nexuses.iter().map(|n| (n.tasks, n.granted)).collect();
            out += &format!("{unit:?} {grants:?} {} {} ", engine.promised, engine.tasks_alive());
            let free: Vec<_> = engine.pool_mut().stats().classes.iter().map(|c| c.free).collect();
            out += &format!("{free:?}\n");
        }
        out
    }
}

#[test]
fn the_usual_way_and_the_general_one_come_to_the_same() {
    let (usual, all) = (Cell::new(0u32), Cell::new(0u32));
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    let program = (setting(), vec(step(), 1..60));
    let judged = TestRunner::new(config).run(&program, |(setting, steps)| {
        let (mut quick, mut close) = (Walker::new(&setting, false), Walker::new(&setting, true));
        prop_assert_eq!(quick.shown(), close.shown());
        for (n, step) in steps.iter().chain([&Step::Fail(None), &Step::Run]).enumerate() {
            if matches!(step, Step::Transfer(_)) {
                all.set(all.get() + 1);
            }
            usual.set(usual.get() + u32::from(quick.take(step)));
            assert!(!close.take(step), "this world does not know the usual way");
            prop_assert_eq!(quick.shown(), close.shown(), "after step {}, {:?}", n, step);
        }
        prop_assert!(quick.w.disk == close.w.disk, "the disks differ");
        quick.w.assert_quiet();
        close.w.assert_quiet();
        Ok(())
    });
    judged.unwrap();
    let (usual, all) = (usual.get(), all.get());
    assert!(
        usual * 8 > all && usual < all,
        "{usual} of {all} took the usual way: the programs prove nothing"
    );
}
