//! What a seed decides once, before anything runs.

use fastrand::Rng;

use crate::disk::DiskProfile;
use crate::net::Profile;

/// Which kind of reservations the first logical unit sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserving {
    /// None.
    No,
    /// PERSISTENT RESERVE OUT.
    Persistent,
    /// RESERVE(6) and RELEASE(6).
    Old,
}

/// Everything a seed decides at the start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Cores.
    pub cores: usize,
    /// Initiators, one session each.
    pub initiators: usize,
    /// Logical units, each with its disk.
    pub disks: Vec<DiskProfile>,
    /// Whether the task set of a unit is shared by all nexuses (TST 000b).
    pub tst_shared: Vec<bool>,
    /// The wires.
    pub net: Profile,
    /// Vectors of each size class in a core's pool.
    pub pool: [u32; 6],
    /// Largest transfer in bytes.
    pub transfer_bytes_max: u32,
    /// Commands of each initiator.
    pub commands: u32,
    /// Commands an initiator keeps in flight.
    pub depth: usize,
    /// Reservations on the first unit.
    pub reserving: Reserving,
    /// Reservations are mostly preempted.
    pub preempts: bool,
    /// Weight of task management among a hundred actions.
    pub tmf_weight: u32,
    /// Weight of connection trouble (cuts, resets, logouts, reinstatement) among a hundred actions.
    pub trouble_weight: u32,
    /// Weight of commands that close a gate (COMPARE AND WRITE, reservations) among a hundred.
    pub gate_weight: u32,
    /// Commands that write, of a hundred.
    pub write_weight: u32,
    /// Flushes come with IMMED now and then.
    pub immed: bool,
    /// Initiators write pages in long streams, which are received ahead.
    pub streams: bool,
    /// Units shrink, too, below what the scripts use.
    pub shrinks: bool,
    /// Sessions move from core to core.
    pub moves: bool,
    /// Greatest pause between two moves, in nanoseconds, as a power of two.
    pub move_ns_log2: u32,
    /// Units are resized, removed and added again.
    pub reconfigures: bool,
    /// Power cuts on the way.
    pub power_cuts: u32,
    /// Greatest pause between two turns of a busy core, in microseconds.
    pub turn_us: u64,
    /// Greatest delay of a message between cores, in microseconds.
    pub mail_us: u64,
    /// Commands and initiators keep to few blocks, so that they meet.
    pub crowded: bool,
    /// Task slots of a core.
    pub tasks_max: u32,
}

impl Plan {
    /// What this seed decides.
    pub fn of(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ 0x5EED_0000);
        let rng = &mut rng;
        let cores = [1, 2, 2, 3][rng.usize(0..4)];
        let reserving = match rng.u32(0..10) {
            0..=4 => Reserving::No,
            5..=7 => Reserving::Persistent,
            _ => Reserving::Old,
        };
        // Preempted tasks that wait for memory are rare enough.
        let tiny_pool = rng.u32(0..if reserving == Reserving::Persistent { 2 } else { 4 }) == 0;
        // A pool of four vectors, of one size or of several.
        let pool = match (tiny_pool, rng.u32(0..3)) {
            (true, 0) => [0, 4, 0, 0, 0, 0],
            (true, 1) => [1, 1, 2, 0, 0, 0],
            (true, _) => [0, 0, 4, 0, 0, 0],
            _ => [12, 8, 6, 0, 0, 0],
        };
        let transfer_bytes_max = if pool[2] == 0 { 16 << 10 } else { 64 << 10 };
        let disks = (0..rng.usize(1..=2)).map(|_| disk(rng)).collect::<Vec<_>>();
        let pick = |rng: &mut Rng, few: u32, many: u32| if rng.bool() { few } else { many };
        Plan {
            cores,
            initiators: rng.usize(1..=6).max(if reserving == Reserving::No { 1 } else { 2 }),
            tst_shared: disks.iter().map(|_| rng.u32(0..4) == 0).collect(),
            disks,
            net: net(rng),
            pool,
            transfer_bytes_max,
            commands: rng.u32(60..360),
            depth: *[1, 4, 8, 24].get(rng.usize(0..4)).expect("four choices"),
            reserving,
            preempts: reserving == Reserving::Persistent && rng.bool(),
            tmf_weight: pick(rng, 3, 20),
            trouble_weight: pick(rng, 1, 5),
            gate_weight: match reserving {
                Reserving::No => pick(rng, 4, 25),
                _ => pick(rng, 10, 40),
            },
            write_weight: rng.u32(30..80),
            // Not drawn: what is drawn behind them stays as it was, and with it the seeds that have a name.
            immed: seed % 4 == 1,
            streams: matches!(seed % 8, 3 | 5),
            shrinks: seed % 4 == 3,
            moves: cores > 1 && !seed.is_multiple_of(3),
            move_ns_log2: [18, 22, 27][(seed / 3 % 3) as usize],
            reconfigures: rng.u32(0..4) == 0,
            power_cuts: [0, 0, 1, 2][rng.usize(0..4)],
            turn_us: [1, 20, 200][rng.usize(0..3)],
            mail_us: [0, 50, 2_000][rng.usize(0..3)],
            crowded: rng.bool(),
            tasks_max: if rng.u32(0..5) == 0 { 64 } else { 512 },
        }
    }
}

fn disk(rng: &mut Rng) -> DiskProfile {
    let block_bytes = if rng.u32(0..4) == 0 { 4096 } else { 512 };
    let blocks = if block_bytes == 512 { rng.u64(32..400) } else { rng.u64(16..64) };
    DiskProfile {
        block_bytes,
        blocks,
        // Not drawn, so that seeds known for what they found stay what they are.
        at_once_one_in: [0, 2, 8][(blocks % 3) as usize],
        write_cache: rng.u32(0..3) > 0,
        depth: [2, 8, 64][rng.usize(0..3)],
        latency_us: [(5, 60), (20, 2_000), (200, 20_000)][rng.usize(0..3)],
        error_one_in: [0, 0, 40, 12][rng.usize(0..4)],
        silence_one_in: [0, 0, 200, 60][rng.usize(0..4)],
        cancels: rng.bool(),
        unmap_zeroes: true,
    }
}

fn net(rng: &mut Rng) -> Profile {
    Profile {
        delay_us: [(1, 10), (10, 200), (50, 3_000)][rng.usize(0..3)],
        mtu: [60, 536, 1448, 9000][rng.usize(0..4)],
        buffer: [700, 8_192, 65_536, 262_144][rng.usize(0..4)],
        stall_one_in: [0, 0, 200][rng.usize(0..3)],
        short_read_one_in: [0, 3, 20][rng.usize(0..3)],
    }
}
