//! Running a scenario under callgrind, and reading what it wrote.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::scenario::Scenario;

/// Commands driven under valgrind: enough that a single cache refill or table growth does not show.
const COUNT: u32 = 6400;

/// Where the instructions of a run went.
pub struct Profile {
    commands: f64,
    spent: Spent,
}

/// What callgrind counted, without what stands in for a network.
#[derive(Default)]
struct Spent {
    total: f64,
    by_file: BTreeMap<String, f64>,
    by_function: BTreeMap<String, f64>,
}

/// Functions of the stand-in for a network ([`crate::quiet_net`]): their cost, and that of what they call, is not the
/// product's. Those that are inlined where they are called (looking at bytes that are there) count as the real one's
/// would.
const STAND_IN: &str = "<spindle_micro::quiet_net::";

/// Counts a scenario. What callgrind wrote is moved to `keep`, if given, for callgrind_annotate and its like.
pub fn profile(scenario: Scenario, keep: Option<&Path>) -> Result<Profile> {
    let out = std::env::temp_dir().join(format!("spindle-micro-{}-{}", std::process::id(), scenario.name()));
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_turn*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["run", scenario.name(), &COUNT.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be run; it is in ci/packages.txt")?;
    if !status.status.success() {
        bail!("{}: {}", scenario.name(), String::from_utf8_lossy(&status.stderr));
    }
    let text = std::fs::read_to_string(&out).with_context(|| format!("{}", out.display()))?;
    if let Some(folder) = keep {
        let place = folder.join(format!("callgrind.{}", scenario.name()));
        std::fs::copy(&out, &place).with_context(|| format!("{}", place.display()))?;
    }
    std::fs::remove_file(&out)?;
    let spent = parse(&text)?;
    ensure!(spent.total > 0.0, "nothing was counted: was measured_turn inlined?");
    Ok(Profile { commands: f64::from(COUNT), spent })
}

impl Profile {
    /// Instructions per command.
    pub fn per_command(&self) -> f64 {
        self.spent.total / self.commands
    }

    /// Instructions per command by file, most first, those of the standard library and foreign crates together.
    pub fn by_place(&self) -> Vec<(String, f64)> {
        let mut places: HashMap<String, f64> = HashMap::new();
        for (file, cost) in &self.spent.by_file {
            *places.entry(place(file)).or_default() += cost / self.commands;
        }
        let mut places: Vec<_> = places.into_iter().filter(|(_, cost)| *cost >= 0.5).collect();
        places.sort_by(|a, b| b.1.total_cmp(&a.1));
        places
    }
}

impl Profile {
    /// Instructions per command by function, most first, without those of the functions it calls.
    pub fn by_function(&self) -> Vec<(&str, f64)> {
        let each = self.spent.by_function.iter().map(|(name, cost)| (name.as_str(), cost / self.commands));
        let mut all: Vec<_> = each.filter(|(_, cost)| *cost >= 0.5).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

/// A file of ours by its path within the repository, anything else by its library.
fn place(file: &str) -> String {
    const OURS: [&str; 9] = [
        "transports/",
        "scsi/",
        "reactor/",
        "bdev/",
        "spindle/src/",
        "perf/",
        "ffi/",
        "conf/",
        "tests/initiator",
    ];
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let root = root.strip_suffix("perf/micro/").unwrap_or(root);
    if let Some(rest) = file.strip_prefix(root) {
        return rest.to_owned();
    }
    if OURS.iter().any(|folder| file.starts_with(folder)) {
        return file.to_owned();
    }
    for library in ["/core/src/", "/alloc/src/", "/std/src/"] {
        if let Some(at) = file.find(library) {
            let rest = &file[at + library.len()..];
            let module = rest.split('/').next().unwrap_or(rest);
            return format!(
                "{}::{}",
                library.trim_matches('/').trim_end_matches("/src"),
                module.trim_end_matches(".rs")
            );
        }
    }
    match file.rsplit_once("/registry/src/").map(|(_, rest)| rest.split('/').nth(1).unwrap_or(rest)) {
        Some(package) => package.to_owned(),
        None => "C library and unknown".to_owned(),
    }
}

/// Sums up the costs of all functions by the file each instruction comes from, and by function; costs of calls are
/// those of the functions called, and not counted again. What the stand-in's functions call is known as the cost of
/// calling them, and taken out of the total.
fn parse(text: &str) -> Result<Spent> {
    let (mut files, mut functions) = (HashMap::new(), HashMap::new());
    let mut spent = Spent::default();
    let (mut file, mut function, mut called) = (String::new(), String::new(), None);
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fl" | "fi" | "fe" => file = resolve(&mut files, value),
                "fn" => function = plain(&resolve(&mut functions, value)),
                // Called functions share the tables of names.
                "cfi" | "cfl" => drop(resolve(&mut files, value)),
                "cfn" => called = Some(resolve(&mut functions, value)),
                _ => {}
            }
            continue;
        }
        let starts_like_a_cost =
            line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*'));
        if !starts_like_a_cost {
            continue;
        }
        let cost = line.split_whitespace().nth(1).unwrap_or("0");
        let cost: f64 = cost.parse().with_context(|| format!("cost in {line:?}"))?;
        match called.take() {
            Some(callee) if callee.starts_with(STAND_IN) && !function.starts_with(STAND_IN) => {
                spent.total -= cost;
            }
            Some(_) => {}
            None => {
                spent.total += cost;
                if !function.starts_with(STAND_IN) {
                    *spent.by_file.entry(file.clone()).or_default() += cost;
                    *spent.by_function.entry(function.clone()).or_default() += cost;
                }
            }
        }
    }
    Ok(spent)
}

/// A function's name without the program it is in.
fn plain(name: &str) -> String {
    name.split(" [/").next().unwrap_or(name).to_owned()
}

/// `(3) path` defines a number, `(3)` refers to it.
fn resolve(names: &mut HashMap<String, String>, value: &str) -> String {
    let (id, name) = value.split_once(' ').unwrap_or((value, ""));
    if !name.is_empty() {
        names.insert(id.to_owned(), name.to_owned());
    }
    names.get(id).cloned().unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
version: 1
creator: callgrind
positions: line
events: Ir
fl=(1) a.rs
fn=(1) f
10 5
+2 7
fi=(2) b.rs
-1 100
fe=(1)
* 1
cfi=(3) c.rs
cfn=(2) g
calls=4 30
12 4000
14 2

fl=(3)
fn=(2)
30 4000
totals: 4115
";

    #[test]
    fn costs_are_summed_by_file_and_calls_are_not_counted_twice() {
        let spent = parse(OUTPUT).unwrap();
        assert_eq!(spent.by_file["a.rs"], 15.0);
        assert_eq!(spent.by_file["b.rs"], 100.0);
        assert_eq!(spent.by_file["c.rs"], 4000.0);
        assert_eq!((spent.by_function["f"], spent.by_function["g"]), (115.0, 4000.0));
        assert_eq!(spent.total, 4115.0);
    }

    #[test]
    fn what_the_stand_in_for_a_network_does_and_calls_is_taken_out() {
        let text = "\
fl=(1) a.rs
fn=(1) turn [/x/micro]
1 100
cfi=(2) quiet_net.rs
cfn=(2) <spindle_micro::quiet_net::QuietNet as spindle_net::net::Net>::send
calls=4 30
12 60

fl=(2)
fn=(2)
30 40
cfn=(3) memcpy
calls=4 1
31 20

fl=(3) ???
fn=(3)
1 25
";
        let spent = parse(text).unwrap();
        assert_eq!(spent.total, 105.0, "five of the copies are somebody else's");
        assert_eq!(spent.by_function["turn"], 100.0);
        assert!(!spent.by_file.contains_key("quiet_net.rs"));
    }

    #[test]
    fn files_are_named_by_where_they_belong() {
        assert_eq!(place(concat!(env!("CARGO_MANIFEST_DIR"), "/src/world.rs")), "perf/micro/src/world.rs");
        assert_eq!(place("/rustc/59/library/core/src/slice/index.rs"), "core::slice");
        assert_eq!(place("/x/registry/src/index-1/arrayvec-0.7.8/src/lib.rs"), "arrayvec-0.7.8");
        assert_eq!(place("???"), "C library and unknown");
    }
}
