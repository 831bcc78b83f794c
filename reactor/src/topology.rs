//! The machine as the kernel describes it: processors, threads of one core, NUMA nodes, isolation; what this
//! process may use of it; and what would hurt reactors placed on a given set.
//!
//! All files are read below a root directory, `/` in life and a made-up tree in tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::core_set::CoreSet;

/// One processor, which may be one of several hardware threads of a core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The kernel's number.
    pub id: u32,
    /// The NUMA node its memory is on; nought where the kernel knows no nodes.
    pub node: u32,
    /// All hardware threads of its core, itself included.
    pub siblings: CoreSet,
    /// Kept free of other work by the kernel (`isolcpus`).
    pub isolated: bool,
}

/// The processors that are online, and what this process may use of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    cpus: BTreeMap<u32, Cpu>,
    allowed: CoreSet,
    quota_permille: Option<u64>,
}

/// Why the machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file that every kernel has is missing or unreadable.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file says something this program does not understand.
    #[error("{path} holds no list of processors")]
    NotAList {
        /// The file.
        path: String,
        /// Why.
        source: crate::core_set::CoreSetError,
    },
    /// The affinity of this process could not be asked for.
    #[error("cannot ask which processors this process may use")]
    Affinity(#[source] io::Error),
}

/// Something that would hurt; not an error, since the operator may know better.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Warning {
    /// Chosen, but not there.
    #[error("processors {0} are not online")]
    NotOnline(CoreSet),
    /// Chosen, but forbidden.
    #[error("processors {missing} are not allowed for this process, which may use {allowed}")]
    NotAllowed {
        /// Chosen and forbidden.
        missing: CoreSet,
        /// What the process may use.
        allowed: CoreSet,
    },
    /// Two reactors would share one core's units.
    #[error("processors {0} are hardware threads of one core: each slows the other down")]
    Siblings(CoreSet),
    /// Messages and memory would cross between nodes.
    #[error("processors {cpus} are on {} NUMA nodes ({}): messages and memory cross between them", nodes.len(), list(nodes))]
    Nodes {
        /// What was chosen.
        cpus: CoreSet,
        /// The nodes.
        nodes: Vec<u32>,
    },
    /// Some are isolated and some are not.
    #[error("processors {0} are not isolated while others of the set are: they will be slower at times")]
    PartlyIsolated(CoreSet),
    /// A control group would stop polling cores in the middle of their work.
    #[error("the control group grants {}.{:03} processors of time to {cores} reactors: they will be stopped again and again", .quota_permille / 1000, .quota_permille % 1000)]
    Quota {
        /// Thousandths of a processor.
        quota_permille: u64,
        /// Reactors asked for.
        cores: usize,
    },
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().copied().collect::<CoreSet>().to_string()
}

impl Topology {
    /// Reads the machine this process runs on.
    pub fn of_this_machine() -> Result<Topology, TopologyError> {
        let allowed = spindle_ffi_os::cpu::allowed().map_err(TopologyError::Affinity)?;
        Topology::read(Path::new("/"), allowed.into_iter().collect())
    }

    /// Reads the machine described below `root`, of which the process may use `allowed`.
    pub fn read(root: &Path, allowed: CoreSet) -> Result<Topology, TopologyError> {
        let system = root.join("sys/devices/system");
        let online = required_list(&system.join("cpu/online"))?;
        let isolated = optional_list(&system.join("cpu/isolated"))?;
        let mut nodes = BTreeMap::new();
        for node in optional_list(&system.join("node/online"))?.cpus() {
            for &cpu in optional_list(&system.join(format!("node/node{node}/cpulist")))?.cpus() {
                nodes.insert(cpu, *node);
            }
        }
        let mut cpus = BTreeMap::new();
        for &id in online.cpus() {
            let topology = system.join(format!("cpu/cpu{id}/topology"));
            let mut siblings = optional_list(&topology.join("thread_siblings_list"))?;
            if !siblings.contains(id) {
                siblings = CoreSet::from_iter([id]);
            }
            let node = nodes.get(&id).copied().unwrap_or(0);
            cpus.insert(id, Cpu { id, node, siblings, isolated: isolated.contains(id) });
        }
        Ok(Topology { cpus, allowed, quota_permille: quota_permille(root) })
    }

    /// The processors that are online, ascending.
    pub fn cpus(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.values()
    }

    /// One of them.
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.get(&id)
    }

    /// What this process may use: online, and left over by its affinity mask and control group.
    pub fn usable(&self) -> CoreSet {
        self.allowed.cpus().iter().copied().filter(|cpu| self.cpus.contains_key(cpu)).collect()
    }

    /// Thousandths of a processor that the control group grants, if it limits them.
    pub fn quota_permille(&self) -> Option<u64> {
        self.quota_permille
    }

    /// A set for `count` reactors when the operator has named none: usable processors, isolated ones first, one
    /// thread per core, from one node as long as it has enough. Fewer than `count` if there are not as many.
    pub fn suggest(&self, count: usize) -> CoreSet {
        let usable = self.usable();
        let all: Vec<&Cpu> = usable.cpus().iter().filter_map(|id| self.cpu(*id)).collect();
        let isolated: Vec<&Cpu> = all.iter().copied().filter(|c| c.isolated).collect();
        // Isolated processors are there for this, but only if they are enough: half and half hurts.
        let from = if isolated.len() >= count { isolated } else { all };
        let first_of_core = |c: &Cpu| {
            let first = c.siblings.cpus().iter().find(|s| from.iter().any(|f| f.id == **s));
            first == Some(&c.id)
        };
        let mut per_node: BTreeMap<u32, usize> = BTreeMap::new();
        for cpu in from.iter().filter(|c| first_of_core(c)) {
            *per_node.entry(cpu.node).or_default() += 1;
        }
        let node = per_node.iter().find(|(_, n)| **n >= count).map(|(node, _)| *node);
        let mut order: Vec<&Cpu> = from.clone();
        order.sort_by_key(|c| (!first_of_core(c), Some(c.node) != node, c.node, c.id));
        order.into_iter().take(count).map(|c| c.id).collect()
    }

    /// What would hurt reactors that run on `chosen`.
    pub fn warnings(&self, chosen: &CoreSet) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let part = |test: &dyn Fn(u32) -> bool| -> CoreSet {
            chosen.cpus().iter().copied().filter(|&cpu| test(cpu)).collect()
        };
        let offline = part(&|cpu| !self.cpus.contains_key(&cpu));
        if !offline.is_empty() {
            warnings.push(Warning::NotOnline(offline));
        }
        let missing = part(&|cpu| self.cpus.contains_key(&cpu) && !self.allowed.contains(cpu));
        if !missing.is_empty() {
            warnings.push(Warning::NotAllowed { missing, allowed: self.usable() });
        }
        let there: Vec<&Cpu> = chosen.cpus().iter().filter_map(|id| self.cpu(*id)).collect();
        let mut shared: BTreeSet<Vec<u32>> = BTreeSet::new();
        for cpu in &there {
            let both: Vec<u32> = part(&|other| cpu.siblings.contains(other)).cpus().to_vec();
            if both.len() > 1 {
                shared.insert(both);
            }
        }
        warnings.extend(shared.into_iter().map(|cpus| Warning::Siblings(cpus.into_iter().collect())));
        let nodes: BTreeSet<u32> = there.iter().map(|c| c.node).collect();
        if nodes.len() > 1 {
            let nodes = nodes.into_iter().collect();
            warnings.push(Warning::Nodes { cpus: chosen.clone(), nodes });
        }
        let busy: CoreSet = there.iter().filter(|c| !c.isolated).map(|c| c.id).collect();
        if !busy.is_empty() && busy.len() < there.len() {
            warnings.push(Warning::PartlyIsolated(busy));
        }
        if let Some(quota_permille) = self.quota_permille
            && quota_permille < chosen.len() as u64 * 1000
        {
            warnings.push(Warning::Quota { quota_permille, cores: chosen.len() });
        }
        warnings
    }
}

fn required_list(path: &Path) -> Result<CoreSet, TopologyError> {
    let text = fs::read_to_string(path)
        .map_err(|source| TopologyError::Unreadable { path: path.display().to_string(), source })?;
    CoreSet::from_kernel_list(&text)
        .map_err(|source| TopologyError::NotAList { path: path.display().to_string(), source })
}

/// Empty where the kernel or the container does not show the file.
fn optional_list(path: &Path) -> Result<CoreSet, TopologyError> {
    match required_list(path) {
        Err(TopologyError::Unreadable { .. }) => Ok(CoreSet::default()),
        other => other,
    }
}

/// The tightest `cpu.max` on the way from this process's control group (version 2) up to the root.
fn quota_permille(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = root.join("sys/fs/cgroup");
    // A group outside the view of a container is shown with `..`: nothing to be read there.
    let group = if group.contains("..") { "" } else { group };
    let mut tightest = None;
    let mut dir = mount.join(group);
    loop {
        if let Some(quota) = fs::read_to_string(dir.join("cpu.max")).ok().and_then(|t| parse_cpu_max(&t)) {
            tightest = Some(tightest.map_or(quota, |t: u64| t.min(quota)));
        }
        if dir == mount || !dir.pop() {
            return tightest;
        }
    }
}

/// `"150000 100000"` is one and a half processors; `"max 100000"` is no limit.
fn parse_cpu_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    quota.checked_mul(1000)?.checked_div(period)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Two nodes of two cores of two threads each: 0-3 are first threads, 4-7 second ones; 2, 3, 6, 7 isolated.
    fn machine() -> TempDir {
        let dir = TempDir::new().unwrap();
        put(&dir, "sys/devices/system/cpu/online", "0-7\n");
        put(&dir, "sys/devices/system/cpu/isolated", "2-3,6-7\n");
        put(&dir, "sys/devices/system/node/online", "0-1\n");
        put(&dir, "sys/devices/system/node/node0/cpulist", "0-1,4-5\n");
        put(&dir, "sys/devices/system/node/node1/cpulist", "2-3,6-7\n");
        for cpu in 0..8 {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            put(&dir, &path, &format!("{},{}\n", cpu % 4, cpu % 4 + 4));
        }
        dir
    }

    fn put(dir: &TempDir, path: &str, text: &str) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn set(text: &str) -> CoreSet {
        text.parse().unwrap()
    }

    fn read(dir: &TempDir, allowed: &str) -> Topology {
        Topology::read(dir.path(), set(allowed)).unwrap()
    }

    fn warnings(dir: &TempDir, allowed: &str, chosen: &str) -> Vec<String> {
        read(dir, allowed).warnings(&set(chosen)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn processors_nodes_siblings_and_isolation_are_read() {
        let topology = read(&machine(), "0-7");
        assert_eq!(topology.cpus().count(), 8);
        let six = Cpu { id: 6, node: 1, siblings: set("2,6"), isolated: true };
        assert_eq!(topology.cpu(6), Some(&six));
        assert_eq!(topology.cpu(8), None);
    }

    #[test]
    fn a_kernel_that_shows_only_what_is_online_is_enough() {
        let dir = TempDir::new().unwrap();
        put(&dir, "sys/devices/system/cpu/online", "0-1\n");
        let topology = read(&dir, "1-3");
        assert_eq!(topology.cpu(1), Some(&Cpu { id: 1, node: 0, siblings: set("1"), isolated: false }));
        assert_eq!(topology.usable(), set("1"));
        assert_eq!(topology.warnings(&set("1")), []);
    }

    #[test]
    fn a_missing_or_strange_file_is_named_in_the_error() {
        let dir = TempDir::new().unwrap();
        let error = Topology::read(dir.path(), set("0")).unwrap_err();
        assert!(error.to_string().ends_with("sys/devices/system/cpu/online"), "{error}");
        put(&dir, "sys/devices/system/cpu/online", "0-1;3");
        let error = Topology::read(dir.path(), set("0")).unwrap_err();
        assert!(matches!(error, TopologyError::NotAList { .. }));
    }

    #[test]
    fn a_good_choice_draws_no_warning() {
        assert_eq!(warnings(&machine(), "0-7", "2-3"), [""; 0]);
        assert_eq!(warnings(&machine(), "0-7", "0,1"), [""; 0]);
    }

    #[test]
    fn processors_that_cannot_be_had_are_warned_of() {
        assert_eq!(
            warnings(&machine(), "0-1", "0,1,5,9"),
            [
                "processors 9 are not online",
                "processors 5 are not allowed for this process, which may use 0-1",
                "processors 1,5 are hardware threads of one core: each slows the other down",
            ]
        );
    }

    #[test]
    fn mixtures_of_nodes_and_of_isolation_are_warned_of() {
        assert_eq!(
            warnings(&machine(), "0-7", "1-2"),
            [
                "processors 1-2 are on 2 NUMA nodes (0-1): messages and memory cross between them",
                "processors 1 are not isolated while others of the set are: they will be slower at times",
            ]
        );
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let dir = machine();
        put(&dir, "proc/self/cgroup", "0::/pod/target\n");
        put(&dir, "sys/fs/cgroup/pod/target/cpu.max", "max 100000\n");
        assert_eq!(read(&dir, "0-7").quota_permille(), None);
        put(&dir, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
        assert_eq!(read(&dir, "0-7").quota_permille(), Some(1500));
        put(&dir, "sys/fs/cgroup/pod/target/cpu.max", "400000 100000\n");
        assert_eq!(warnings(&dir, "0-7", "2"), [""; 0]);
        assert_eq!(
            warnings(&dir, "0-7", "2-3"),
            [
                "the control group grants 1.500 processors of time to 2 reactors: they will be stopped again and again"
            ]
        );
        put(&dir, "sys/fs/cgroup/pod/cpu.max", "1 0\n");
        assert_eq!(read(&dir, "0-7").quota_permille(), Some(4000), "a period of nought is ignored");
    }

    #[test]
    fn the_suggestion_prefers_isolated_cores_of_one_node_and_one_thread_each() {
        let dir = machine();
        assert_eq!(read(&dir, "0-7").suggest(2), set("2-3"));
        assert_eq!(read(&dir, "0-7").suggest(4), set("2-3,6-7"), "isolated threads before busy cores");
        assert_eq!(read(&dir, "0-7").suggest(8), set("0-7"));
        assert_eq!(read(&dir, "0-7").suggest(100), set("0-7"));
        assert_eq!(read(&dir, "0-1,4-7").suggest(2), set("6-7"));
        assert_eq!(read(&dir, "0,4,5").suggest(2), set("0,5"));
        assert!(read(&dir, "0-7").suggest(0).is_empty());
    }

    #[test]
    fn this_machine_can_be_read() {
        let topology = Topology::of_this_machine().unwrap();
        let usable = topology.usable();
        assert!(!usable.is_empty());
        assert_eq!(topology.suggest(1).len(), 1);
        assert!(topology.suggest(1).cpus().iter().all(|c| usable.contains(*c)));
    }
}
