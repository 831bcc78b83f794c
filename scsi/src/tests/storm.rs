//! Storms: random commands, aborts, resets, lost nexuses and device errors, on a tiny pool, in random order.
//!
//! What must hold whatever happens: a command is answered once or ended without a word, never both; what has
//! ended has nothing at the device any more; a function that was answered leaves none of its tasks behind; only as
//! many COMPARE AND WRITEs succeed as the block shows; and when all is quiet every pool is full.

use fastrand::Rng;

use super::*;
use crate::lu::Membership;
use crate::stats::EngineStats;
use crate::task::{AbortCause, CAUSES, STATES, TaskState};

struct Storm {
    w: World,
    rng: Rng,
    nexuses: Vec<Option<NexusId>>,
    /// Functions asked, with the commands they concern.
    asked: Vec<(u32, Vec<usize>)>,
    swaps: Vec<usize>,
    /// Mostly persistent reservations.
    cluster: bool,
    /// One task set for all.
    shared: bool,
    /// LUNs come and go.
    maps: bool,
}

const COUNTER: u64 = 900;

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut rng = Rng::with_seed(seed);
        let cores = rng.u8(1..=3);
        let vectors = if rng.bool() { [4, 0, 0, 0, 0, 0] } else { [2, 2, 2, 0, 0, 0] };
        let shared = rng.u8(0..4) == 0;
        let mut w = World::with(cores, vectors, info(), shared);
        let cluster = rng.u8(0..4) == 0;
        let maps = rng.u8(0..5) == 0;
        w.maps_change = maps;
        let nexuses = vec![None; 5];
        let mut storm =
            Storm { w, rng, nexuses, asked: Vec::new(), swaps: Vec::new(), cluster, shared, maps };
        for n in 0..storm.nexuses.len() {
            storm.come(n);
        }
        storm
    }

    fn come(&mut self, n: usize) {
        let core = n % self.w.cores.len();
        self.nexuses[n] = Some(self.w.nexus_with(core as u8, n as u8, 30));
    }

    fn act(&mut self) {
        let n = self.rng.usize(0..self.nexuses.len());
        let Some(nexus) = self.nexuses[n] else {
            // A name comes back only after its last nexus is gone.
            return self.come_again(n);
        };
        match self.rng.u32(0..100) {
            0..=1 => {
                self.w.lose(nexus);
                self.nexuses[n] = None;
            }
            2..=11 => self.manage(nexus),
            12..=14 if self.maps => {
                let core = nexus.core();
                let luns: &[(u32, LuId, bool)] = match self.rng.u32(0..3) {
                    0 => &[],
                    1 => &[(0, LU, true)],
                    _ => &[(0, LU, false)],
                };
                self.w.engine(core).set_lun_map(1, luns);
                self.w.drain(core);
            }
            15 => {
                let blocks = DISK_BLOCKS - self.rng.u64(0..2) * 8;
                self.w.engine(nexus.core()).lu_changed(LU, BdevInfo { blocks, ..info() }, None);
                self.w.drain(nexus.core());
            }
            _ => self.command(nexus),
        }
    }

    fn come_again(&mut self, n: usize) {
        let last = self.w.cmds.iter().rev().find(|c| name_of(&self.w, c.nexus) == Some(n));
        if last.is_none_or(|c| self.w.gone.contains(&c.nexus)) {
            self.come(n);
        }
    }

    fn command(&mut self, nexus: NexusId) {
        let rng = &mut self.rng;
        let attr = match rng.u32(0..12) {
            0 => TaskAttr::Ordered,
            1 => TaskAttr::HeadOfQueue,
            _ => TaskAttr::Simple,
        };
        let (lba, n) = (rng.u64(0..64), rng.u32(1..=4));
        let out = blocks(rng.u8(1..), n as usize);
        let kind = if self.cluster && rng.u32(0..4) == 0 { rng.u32(29..31) } else { rng.u32(0..34) };
        let (cdb, read_bytes, out): (Vec<u8>, u32, Vec<u8>) = match kind {
            0..=8 => (read(lba, n), n * 512, Vec::new()),
            9..=17 => (write(lba, n), 0, out),
            18..=20 => {
                let now = self.w.disk[COUNTER as usize * BLOCK];
                let mut both = blocks(now, 1);
                both.extend(blocks(now.wrapping_add(1), 1));
                self.swaps.push(self.w.cmds.len());
                (compare_and_write(COUNTER), 0, both)
            }
            21 => (vec![0x2F, 0x02, 0, 0, 0, lba as u8, 0, 0, n as u8, 0], 0, out),
            22 => (vec![0x2E, 0x02, 0, 0, 0, lba as u8, 0, 0, n as u8, 0], 0, out),
            23 => (vec![0x41, 0, 0, 0, 0, lba as u8, 0, 0, 20, 0], 0, blocks(7, 1)),
            24 => (vec![0x41, 0x08, 0, 0, 0, lba as u8, 0, 0, 20, 0], 0, blocks(0, 1)),
            25 => (vec![0x35, rng.u8(0..2) << 1, 0, 0, 0, 0, 0, 0, 0, 0], 0, Vec::new()),
            26 => (vec![0x12, 0, 0, 0, 96, 0], 96, Vec::new()),
            27..=28 if self.cluster => (read(lba, n), n * 512, Vec::new()),
            27 => (vec![0x16, 0, 0, 0, 0, 0], 0, Vec::new()),
            28 => (vec![0x17, 0, 0, 0, 0, 0], 0, Vec::new()),
            29 => (persistent_out(0x06, 0), 0, pr_list(0, u64::from(nexus.0))),
            30 => {
                let up: Vec<_> = self.nexuses.iter().flatten().collect();
                let victim = u64::from(up[rng.usize(0..up.len())].0);
                (persistent_out(0x05, 5), 0, pr_list(u64::from(nexus.0), victim))
            }
            31 => {
                let tas = if rng.bool() { 0x40 } else { 0 };
                let tst = if self.shared { 0 } else { 0x20 };
                let mut list = vec![0, 0, 0, 0, 0x0A, 0x0A, tst | 2, 0x10, 0, tas];
                list.resize(16, 0);
                (vec![0x15, 0x10, 0, 0, 16, 0], 0, list)
            }
            32 => (vec![0xFF], 0, out),
            _ => (vec![0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 104, 0, 0], 104, Vec::new()),
        };
        self.w.send_as(nexus, u32::from(self.rng.u32(0..40) == 0), attr, &cdb, read_bytes, &out);
    }

    fn manage(&mut self, nexus: NexusId) {
        let alive: Vec<usize> = (0..self.w.cmds.len()).filter(|c| !self.over(*c)).collect();
        let own: Vec<usize> = alive.iter().copied().filter(|c| self.w.cmds[*c].nexus == nexus).collect();
        let units: Vec<usize> = own.clone();
        let (function, concerned) = match self.rng.u32(0..12) {
            0..=3 if !own.is_empty() => {
                let mut one = own[self.rng.usize(0..own.len())];
                let mut answered = self.w.responding.iter().map(|(_, _, c)| *c);
                if self.rng.bool()
                    && let Some(c) = answered.rfind(|c| self.w.cmds[*c].nexus == nexus)
                {
                    one = c;
                }
                (TmfFunction::AbortTask(TaskTag(one as u64)), vec![one])
            }
            4..=6 => (TmfFunction::AbortTaskSet, units),
            7..=8 => (TmfFunction::ClearTaskSet, units),
            9 => (TmfFunction::LogicalUnitReset, alive),
            10 => (TmfFunction::TargetWarmReset, alive),
            11 => (TmfFunction::ITNexusReset, own),
            _ => (TmfFunction::QueryTaskSet, Vec::new()),
        };
        // Commands for the LUN where nothing is are no concern of the unit's functions.
        // Nor are those on a core that is still joining the unit: they have not reached it, and the core will be told
        // of it as it is after the reset.
        let joining = |c: &Cmd| {
            let engine = &self.w.cores[usize::from(c.nexus.core())];
            let member = engine.lu(engine.lu_slots[&LU]).member;
            c.nexus != nexus && member == Membership::Joining
        };
        let here = |c: &usize| {
            let cmd = &self.w.cmds[*c];
            // What was sent to a LUN that has gone since is not in the task set of the one that came.
            function == TmfFunction::ITNexusReset || cmd.lun == 0 && !joining(cmd) && !self.maps
        };
        let concerned = concerned.into_iter().filter(here).collect();
        let id = self.w.tmf(nexus, function);
        self.asked.push((id, concerned));
    }

    fn over(&self, c: usize) -> bool {
        let cmd = &self.w.cmds[c];
        cmd.answer.is_some() || cmd.revoked || matches!(cmd.state, State::Refused)
    }

    fn step(&mut self) {
        let events = self.w.events();
        if !events.is_empty() {
            let mut event = events[self.rng.usize(0..events.len())];
            if let Event::Fill(n) = event
                && self.rng.u32(0..30) == 0
            {
                event = Event::FillFails(n);
            }
            self.w.fail = match self.rng.u32(0..60) {
                0 => Some((Op::Read, BlockError::MediumRead)),
                1 => Some((Op::Write, BlockError::MediumWrite)),
                2 => Some((Op::Flush, BlockError::FlushLost)),
                _ => None,
            };
            if let Event::Io(core, n) = event {
                let io = &self.w.io[usize::from(core)][n];
                if self.w.hinted.contains(&io.key) && self.rng.bool() {
                    self.w.fail = Some((io.op, BlockError::Aborted));
                }
            }
            self.w.refuses_to_store = self.rng.u32(0..4) == 0;
            self.w.happen(event);
            self.w.fail = None;
        }
        self.check();
    }

    fn check(&mut self) {
        for (core, list) in self.w.io.iter().enumerate() {
            for io in list {
                let (task, _) = crate::task::of_io_key(io.key);
                let ended = |c: &Cmd| {
                    usize::from(c.nexus.core()) == core
                        && c.task == Some(task)
                        && (c.answer.is_some() || c.revoked && !w_revoking(&self.w, core, task))
                };
                assert!(!self.w.cmds.iter().rev().take(400).any(ended), "an ended command is at the device");
            }
        }
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|(id, concerned)| match self.w.tmf_answer(*id) {
            None => true,
            Some(response) => {
                if response == TmfResponse::Complete || response == TmfResponse::TaskDoesNotExist {
                    for c in concerned {
                        assert!(self.over(*c), "function {id} was answered before command {c} had ended");
                    }
                }
                false
            }
        });
        self.asked = asked;
    }

    fn run(mut self) -> EngineStats {
        for _ in 0..self.rng.u32(50..400) {
            if self.rng.u32(0..10) < 4 {
                self.act();
            } else {
                self.step();
            }
        }
        for _ in 0..100_000 {
            if self.w.events().is_empty() {
                break;
            }
            self.step();
        }
        self.w.assert_quiet();
        for c in 0..self.w.cmds.len() {
            assert!(self.over(c), "command {c} was neither answered nor ended");
        }
        let good = |c: &&usize| self.w.cmds[**c].answer.as_ref().is_some_and(|a| a.status == Status::Good);
        let unsure = |c: &&usize| {
            let cmd = &self.w.cmds[**c];
            cmd.revoked || cmd.answer.as_ref().is_some_and(|a| a.status != Status::Good)
        };
        let (certain, possible) =
            (self.swaps.iter().filter(good).count(), self.swaps.iter().filter(unsure).count());
        let shown = usize::from(self.w.disk[COUNTER as usize * BLOCK]);
        assert!(
            (certain..=certain + possible).contains(&shown),
            "{certain} COMPARE AND WRITEs succeeded, the block shows {shown}"
        );
        let mut sum = EngineStats::default();
        for core in &self.w.cores {
            add(&mut sum.aborts, &core.stats().aborts);
        }
        sum
    }
}

fn add(sum: &mut [[u64; CAUSES]; STATES], more: &[[u64; CAUSES]; STATES]) {
    for (to, from) in sum.iter_mut().flatten().zip(more.iter().flatten()) {
        *to += from;
    }
}

/// The transport still holds the command: its `Revoke` is not answered.
fn w_revoking(w: &World, core: usize, task: TaskId) -> bool {
    w.revokes.iter().any(|(c, t, _)| usize::from(*c) == core && *t == task)
}

fn name_of(w: &World, nexus: NexusId) -> Option<usize> {
    w.names.get(&nexus).map(|n| usize::from(*n))
}

#[test]
fn no_storm_leaves_a_command_a_buffer_or_an_answer_behind() {
    let mut sum = [[0u64; CAUSES]; STATES];
    for seed in 0..SEEDS {
        let stats = std::panic::catch_unwind(|| Storm::new(seed).run())
            .unwrap_or_else(|_| panic!("seed {seed} failed, see above"));
        add(&mut sum, &stats.aborts);
    }
    for state in TaskState::ALL.into_iter().filter(|s| *s != TaskState::Free) {
        for cause in AbortCause::ALL {
            if state == TaskState::Blocked && cause == AbortCause::Preempt {
                // A preemption is decided when no other closing is in force, so it finds somebody at the gate only on
                // a core that is just joining.
                continue;
            }
            assert!(sum[state as usize][cause as usize] > 0, "no {cause:?} met a task in {state:?}: {sum:?}");
        }
    }
}

const SEEDS: u64 = 2_000;

#[test]
fn no_cdb_and_no_parameter_list_does_harm() {
    let opcodes: Vec<u8> = crate::device_server::table::rows().map(|row| row.opcode).collect();
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let info = BdevInfo { unmap: rng.bool(), write_cache: rng.bool(), ..info() };
        let mut w = World::with(1, SMALL, info, false);
        let n = w.nexus(0, 1);
        w.run();
        for _ in 0..400 {
            let mut cdb = vec![0; rng.usize(0..=16)];
            let noise = rng.u32(0..4);
            for byte in &mut cdb {
                *byte = match noise {
                    0 => rng.u8(..),
                    1 => 0,
                    _ if rng.u32(0..4) == 0 => rng.u8(..),
                    _ => 0,
                };
            }
            if let Some(first) = cdb.first_mut()
                && rng.u32(0..8) > 0
            {
                *first = opcodes[rng.usize(0..opcodes.len())];
            }
            let sizes = [0, 1, 8, 24, 40, 511, 512, 513, 1024, 4096, 70_000];
            let (read_bytes, out) = match rng.u32(0..3) {
                0 => (sizes[rng.usize(0..sizes.len())], 0),
                1 => (0, sizes[rng.usize(0..sizes.len())]),
                _ => (4096, 512),
            };
            let out: Vec<u8> = (0..out).map(|_| if rng.bool() { 0 } else { rng.u8(..) }).collect();
            let lun = if rng.u32(0..20) == 0 { 3 } else { 0 };
            w.send_as(n, lun, TaskAttr::Simple, &cdb, read_bytes, &out);
            if rng.bool() {
                w.run();
            }
        }
        w.run();
        w.assert_quiet();
        assert!(
            w.cmds.iter().all(|c| c.answer.is_some() || matches!(c.state, State::Refused)),
            "seed {seed}"
        );
    }
}
