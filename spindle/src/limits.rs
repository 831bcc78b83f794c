//! Every limit of the process, summed term by term, printed at start and checked against the machine.

use spindle_iscsi::config::IscsiLimits;
use spindle_mem::PoolConfig;
use spindle_net::TcpConfig;
use spindle_reactor::CoreId;
use spindle_scsi::EngineConfig;

/// Task slots of a core. Half of them are kept for the first windows (8) of all nexuses that may come; what remains is
/// for windows to grow into: 67 sessions at 128 commands.
const TASKS_PER_CORE: u32 = 16_384;
/// I_T nexuses of a core: sessions that lead to a target.
const NEXUSES_PER_CORE: u16 = 1_024;
/// Sessions of a core, discovery sessions included; also its connections.
const SESSIONS_PER_CORE: u32 = 4_096;
/// Messages a lane between two cores holds before its overflow queue is used.
pub const LANE_DEPTH: usize = 1_024;
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
    /// Connections of each core.
    pub connections_max: u32,
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
        Ok(Limits { cores, arena_bytes_max: arena, pool_bytes, connections_max: SESSIONS_PER_CORE })
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

    /// The engine's share.
    pub fn engine(&self, core: CoreId) -> EngineConfig {
        EngineConfig {
            tasks_max: TASKS_PER_CORE,
            nexuses_max: NEXUSES_PER_CORE,
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
        IscsiLimits { sessions_max: SESSIONS_PER_CORE, tasks_max: TASKS_PER_CORE, ..IscsiLimits::default() }
    }

    /// Kernel TCP's.
    pub fn tcp(&self) -> TcpConfig {
        TcpConfig { connections_max: self.connections_max, ..TcpConfig::default() }
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
    fn windows_have_room_to_grow_beside_what_is_kept_for_sessions_to_come() {
        let engine = Limits::new(1, 64 << 20, Some(1 << 30), 0).unwrap().engine(CoreId(0));
        let kept = u32::from(engine.nexuses_max) * engine.window_min + engine.immediate_share;
        // 32 sessions at their largest window, or a lonely one could not have more than its first.
        assert!(engine.tasks_max >= kept + 32 * engine.window_max, "{engine:?}");
    }

    #[test]
    fn memory_that_cannot_hold_the_pools_is_refused_with_figures() {
        let error = Limits::new(4, 64 << 20, Some(128 << 20), 0).unwrap_err();
        assert!(error.contains("257 MiB"), "{error}");
        assert!(Limits::new(1, 1 << 20, None, 1 << 30).is_err());
    }
}
