//! Every limit of the process, summed term by term, printed at start and checked against the machine.

use spindle_iscsi::config::IscsiLimits;
use spindle_mem::PoolConfig;
use spindle_net::TcpConfig;
use spindle_reactor::CoreId;
use spindle_scsi::EngineConfig;

/// Task slots of a core. Each session that may come is sure of one; what remains is for windows: while half of all slots
/// is left, 8 at first and up to 128 (or what the target's `queue_depth` allows) for who uses them; when fewer are left, fewer at first.
const TASKS_PER_CORE: u32 = 32_768;
/// Sessions of a core, discovery sessions included; also its connections. On machines with little memory fewer, but no
/// fewer than the second figure: each session may come to keep [`IscsiLimits::unsolicited_reserve_bytes`].
const SESSIONS_PER_CORE: [u32; 2] = [12_288, 4_096];
/// Of the memory available, what sessions may come to keep: one part in so many.
const SESSIONS_PART: u64 = 8;
/// Of the sessions, those that lead to a target (I_T nexuses): 10,240, or 3,413. The rest is for discovery, and for
/// logins that take the place of a session that is ending.
const NEXUSES_OF_SESSIONS: [u32; 2] = [5, 6];
/// Messages a lane between two cores holds before its overflow queue is used.
pub const LANE_DEPTH: usize = 1_024;
/// Commands a session may have outstanding if its target does not say.
pub const QUEUE_DEPTH: u32 = 128;
/// Task slots kept back for immediate commands.
const IMMEDIATE_SHARE: u32 = 64;
/// Reads of RAM disks under way on a core, up to 64 KiB, 1 MiB and 4 MiB each; more wait in line.
const LENT: [u32; 3] = [4_096, 512, 64];
/// Logical units of a process; each has its share of every pool.
const UNITS_MAX: u16 = 16_384;
/// Bytes of one task slot in the engine and in the transport, rounded up.
const TASK_BYTES: u64 = 512;

/// The limits of a process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Reactors.
    pub cores: u8,
    /// The arena's limit: pools and RAM disks.
    pub arena_bytes_max: u64,
    /// Of it, each core's pool.
    pub pool_bytes: u64,
    /// Sessions of each core, and connections.
    pub sessions_max: u32,
}

/// One term of the sum.
pub struct Term {
    /// What for.
    pub what: &'static str,
    /// How much at most, over all cores.
    pub bytes: u64,
}

impl Limits {
    /// For `cores` reactors with pools of `pool_bytes`; `memory`: what the operator allows, otherwise half of what the
    /// machine has available.
    pub fn new(cores: u8, pool_bytes: u64, memory: Option<u64>, available: u64) -> Result<Limits, String> {
        let pools = pool_bytes.saturating_mul(u64::from(cores));
        let arena = memory.unwrap_or(available / 2);
        if pool_bytes < 8 << 20 {
            return Err(format!("--pool {}: a core needs 8M at least", show(pool_bytes)));
        }
        if arena < pools + (1 << 20) {
            return Err(format!(
                "--memory {}: {cores} core(s) with pools of {} need {} at least",
                show(arena),
                show(pool_bytes),
                show(pools + (1 << 20))
            ));
        }
        let each = u64::from(IscsiLimits::default().unsolicited_reserve_bytes) * u64::from(cores.max(1));
        let [most, least] = SESSIONS_PER_CORE;
        let sessions_max = (available / SESSIONS_PART / each).clamp(u64::from(least), u64::from(most)) as u32;
        Ok(Limits { cores, arena_bytes_max: arena, pool_bytes, sessions_max })
    }

    /// What the process may come to use, term by term.
    pub fn terms(&self) -> Vec<Term> {
        let cores = u64::from(self.cores);
        let staging = u64::from(self.tcp().staging_max) * 64 * 1024;
        let iscsi = self.iscsi();
        let own = u64::from(iscsi.unsolicited_reserve_bytes) * u64::from(iscsi.sessions_max);
        let unsolicited = own + u64::from(iscsi.unsolicited_common_bytes);
        let lanes = 2 * cores * cores * LANE_DEPTH as u64 * 128;
        vec![
            Term { what: "I/O pools", bytes: self.pool_bytes * cores },
            Term { what: "RAM disks", bytes: self.arena_bytes_max - self.pool_bytes * cores },
            Term { what: "task slots", bytes: u64::from(TASKS_PER_CORE) * TASK_BYTES * cores },
            Term { what: "receive staging", bytes: staging * cores },
            Term { what: "unsolicited data", bytes: unsolicited * cores },
            Term { what: "messages", bytes: lanes },
        ]
    }

    /// Sessions of each core that lead to a target.
    pub fn nexuses_max(&self) -> u16 {
        let [part, whole] = NEXUSES_OF_SESSIONS;
        u16::try_from(self.sessions_max * part / whole).expect("a core has fewer than 65,536 sessions")
    }

    /// The engine's share.
    pub fn engine(&self, core: CoreId) -> EngineConfig {
        EngineConfig {
            tasks_max: TASKS_PER_CORE,
            nexuses_max: self.nexuses_max(),
            window_min: 1,
            window_first: self.iscsi().window_first,
            window_max: self.iscsi().window_max,
            transfer_bytes_max: 4 << 20,
            immediate_share: IMMEDIATE_SHARE,
            shares: UNITS_MAX,
            share_bytes_max: self.pool_bytes / 4 * 3,
            ..EngineConfig::new(core, self.cores)
        }
    }

    /// The pool's.
    pub fn pool(&self) -> PoolConfig {
        // Vectors to lend with have no pages of their own: a header for each read that may be under way.
        PoolConfig { lent: LENT, shares: UNITS_MAX, ..PoolConfig::spread(self.pool_bytes) }
    }

    /// iSCSI's.
    pub fn iscsi(&self) -> IscsiLimits {
        IscsiLimits { sessions_max: self.sessions_max, tasks_max: TASKS_PER_CORE, ..IscsiLimits::default() }
    }

    /// Kernel TCP's.
    pub fn tcp(&self) -> TcpConfig {
        TcpConfig { connections_max: self.sessions_max, ..TcpConfig::default() }
    }
}

/// A size for people.
pub fn show(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{} GiB", b >> 30),
        b if b >= 10 << 30 => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} bytes"),
    }
}

/// What the machine could still give (`MemAvailable`), in bytes.
pub fn memory_available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kib.unwrap_or(1 << 20) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_arena_and_what_stands_beside_it() {
        let limits = Limits::new(2, 64 << 20, Some(1 << 30), 0).unwrap();
        let terms = limits.terms();
        assert_eq!(terms[0].bytes + terms[1].bytes, 1 << 30);
        assert!(terms.iter().map(|t| t.bytes).sum::<u64>() < 2 << 30);
    }

    #[test]
    fn every_session_that_may_come_finds_a_slot_and_windows_have_room_to_grow_beside() {
        let limits = Limits::new(1, 64 << 20, Some(1 << 30), 64 << 30).unwrap();
        assert!(limits.nexuses_max() >= 10_000 && u32::from(limits.nexuses_max()) < limits.sessions_max);
        let engine = limits.engine(CoreId(0));
        let kept = u32::from(engine.nexuses_max) * engine.window_min + engine.immediate_share;
        // 128 sessions with the window that a target allows if nobody says otherwise, or 16 with the largest, beside one
        // command for each that may come.
        assert!(engine.tasks_max >= kept + 128 * QUEUE_DEPTH, "{engine:?}");
        assert!(engine.tasks_max >= kept + 16 * engine.window_max, "{engine:?}");
    }

    #[test]
    fn machines_with_little_memory_have_fewer_sessions() {
        let sessions =
            |cores, gib: u64| Limits::new(cores, 8 << 20, Some(1 << 30), gib << 30).unwrap().sessions_max;
        assert_eq!(
            [sessions(1, 1), sessions(1, 4), sessions(1, 6), sessions(2, 6)],
            [4096, 8192, 12_288, 6144]
        );
    }

    #[test]
    fn memory_that_cannot_hold_the_pools_is_refused_with_figures() {
        let error = Limits::new(4, 64 << 20, Some(128 << 20), 0).unwrap_err();
        assert!(error.contains("257 MiB"), "{error}");
        assert!(Limits::new(1, 1 << 20, None, 1 << 30).is_err());
    }
}
