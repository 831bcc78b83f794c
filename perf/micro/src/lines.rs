//! That no cache line is written per command by one core and touched by another, proved by looking at every access.
//!
//! Two cores of a target serve the same unit, each in a thread of its own. `valgrind --tool=lackey` writes down every load
//! and store. First one core alone works off commands, then the other: a line that the first stored to and the second
//! loaded or stored, or the other way round, would travel between them for each command if both worked at once. Such a line
//! fails the check, with the code that touched it. Every core has its own part of the unit: blocks that two initiators
//! really share are data, not bookkeeping.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use crossbeam_utils::CachePadded;

use crate::device::Disk;
use crate::seat::{Order, Seat};
use crate::world::{Ask, Target, World};

/// Bytes of a line.
const LINE: u64 = 64;
/// Turns of each core that are watched.
const TURNS: u32 = 8;
/// A store to one of these begins or ends what is watched.
static MARKS: [CachePadded<AtomicU64>; 4] = [const { CachePadded::new(AtomicU64::new(0)) }; 4];

/// Notes in the trace that a core's part begins (an even number) or has ended.
#[inline(never)]
pub fn mark(n: usize) {
    MARKS[n].store(1, Ordering::Relaxed);
}

/// What is traced: both cores made ready, then one at work, then the other. `planted`: both count in one place.
pub fn traced(disk: Disk, planted: bool) -> Result<()> {
    let addresses: Vec<String> =
        MARKS.iter().map(|mark| format!("{:x}", std::ptr::from_ref(&**mark).addr())).collect();
    println!("{:x} {}", loaded_at()?, addresses.join(" "));
    let (target, mails) = Target::new(disk, 2)?;
    let cpus = spindle_ffi_os::cpu::allowed()?;
    std::thread::scope(|scope| {
        let mut seats = Vec::new();
        for (n, mail) in mails.into_iter().enumerate() {
            let target = &target;
            seats.push(Seat::take(scope, cpus[n % cpus.len()], move || World::bring_up(target, mail, 0))?);
        }
        let [one, two] = &seats[..] else { bail!("two cores were to be made") };
        let asks = [Ask::Read, Ask::Write];
        let counter = planted.then(Arc::<AtomicU64>::default);
        one.prepare("one", &asks, None)?;
        two.prepare("two", &asks, Some(one))?;
        for (phase, seat) in seats.iter().enumerate() {
            seat.obey(Order::Watched(asks, TURNS, phase, counter.clone()))?;
        }
        Ok(())
    })
}

/// Where the program's file begins in memory.
fn loaded_at() -> Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let exe = std::env::current_exe()?;
    let first = maps.lines().find(|line| line.ends_with(&*exe.to_string_lossy()));
    let (address, _) =
        first.and_then(|line| line.split_once('-')).context("the program is not in its own memory")?;
    Ok(u64::from_str_radix(address, 16)?)
}

/// Traces a disk's commands and fails if a line is shared.
pub fn check(disk: Disk, planted: bool) -> Result<()> {
    let name = if disk == Disk::Null { "null" } else { "ram" };
    let exe = std::env::current_exe()?;
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--basic-counts=no", "--trace-mem=yes"])
        .arg(&exe)
        .args(["lines-of", name])
        .args(planted.then_some("--planted"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("valgrind cannot be run; it is in ci/packages.txt")?;
    let (out, trace) = (child.stdout.take(), child.stderr.take());
    let (mut out, trace) = (out.context("its output")?, trace.context("its trace")?);
    let places = OnceLock::new();
    let (watched, said) = std::thread::scope(|scope| {
        let places = &places;
        let said = scope.spawn(move || {
            let mut text = String::new();
            let mut out = BufReader::new(&mut out);
            if out.read_line(&mut text).is_ok()
                && let Some(found) = Places::parse(&text)
            {
                let _ = places.set(found);
            }
            let _ = out.read_to_string(&mut text);
        });
        let watched = Watched::read(BufReader::with_capacity(1 << 20, trace), || places.get());
        (watched, said.join())
    });
    ensure!(said.is_ok(), "its output could not be read");
    let watched = watched?;
    ensure!(child.wait()?.success(), "{name}: {}", watched.rest.join("\n"));
    ensure!(watched.phases == 2, "{name}: {} of two cores were seen at work", watched.phases);
    let shared = watched.shared();
    println!(
        "| {name} | {} | {} | {} |",
        watched.accesses[0].stores.len(),
        watched.accesses[1].stores.len(),
        shared.len()
    );
    if shared.is_empty() {
        return Ok(());
    }
    let base = places.get().map_or(0, |p| p.base);
    let list: Vec<String> = shared
        .iter()
        .map(|s| {
            let code =
                |at: Option<u64>| at.map_or("-".to_owned(), |at| function(&exe, at.wrapping_sub(base)));
            format!("line {:x}: {} by {}, and by {}", s.line, s.how, code(s.code[0]), code(s.code[1]))
        })
        .collect();
    bail!("{name}: {} lines are shared by two cores at work:\n{}", list.len(), list.join("\n"));
}

/// The function at an address of the program, as far as it can be told.
fn function(exe: &Path, address: u64) -> String {
    let mut command = Command::new("addr2line");
    command.args(["-Cfpie"]).arg(exe).arg(format!("{address:x}"));
    let found = command.output().ok().filter(|output| output.status.success());
    let text =
        found.map(|output| String::from_utf8_lossy(&output.stdout).replace('\n', " ")).unwrap_or_default();
    if text.trim().is_empty() { format!("+{address:x}") } else { text.trim().to_owned() }
}

/// What the traced program says of itself.
#[derive(Debug)]
struct Places {
    base: u64,
    marks: [u64; 4],
}

impl Places {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> =
            line.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect();
        let [base, marks @ ..] = &numbers?[..] else { return None };
        Some(Self { base: *base, marks: marks.try_into().ok()? })
    }
}

/// Lines that a core touched, each with the code that did so first.
#[derive(Default)]
struct Accesses {
    loads: BTreeMap<u64, u64>,
    stores: BTreeMap<u64, u64>,
}

/// What both cores touched.
#[derive(Default)]
struct Watched {
    phases: usize,
    accesses: [Accesses; 2],
    /// What is no access: errors.
    rest: Vec<String>,
}

/// A line that would travel.
struct Shared {
    line: u64,
    how: &'static str,
    code: [Option<u64>; 2],
}

impl Watched {
    /// Reads a trace: `I  ADDRESS,SIZE` for code, ` L`, ` S` and ` M` for loads, stores and both.
    fn read<'a>(mut trace: impl BufRead, places: impl Fn() -> Option<&'a Places>) -> Result<Self> {
        let mut all = Self::default();
        let (mut line, mut at_work, mut code) = (Vec::with_capacity(64), None, 0);
        loop {
            line.clear();
            if trace.read_until(b'\n', &mut line)? == 0 {
                return Ok(all);
            }
            let Some((kind, address, bytes)) = access(&line) else {
                if all.rest.len() < 20 {
                    all.rest.push(String::from_utf8_lossy(&line).trim().to_owned());
                }
                continue;
            };
            if kind == b'I' {
                code = address;
                continue;
            }
            if kind == b'S'
                && let Some(mark) = places().and_then(|p| p.marks.iter().position(|&m| m == address))
            {
                at_work = (mark % 2 == 0).then_some(mark / 2);
                all.phases += mark % 2;
                continue;
            }
            let Some(core) = at_work else { continue };
            let of: &mut Accesses = &mut all.accesses[core];
            for touched in address / LINE..=(address + bytes.max(1) - 1) / LINE {
                if kind != b'S' {
                    of.loads.entry(touched * LINE).or_insert(code);
                }
                if kind != b'L' {
                    of.stores.entry(touched * LINE).or_insert(code);
                }
            }
        }
    }

    fn shared(&self) -> Vec<Shared> {
        let [a, b] = &self.accesses;
        let mut found = Vec::new();
        for (&line, &code) in &a.stores {
            if let Some(&other) = b.stores.get(&line) {
                found.push(Shared { line, how: "stored", code: [Some(code), Some(other)] });
            } else if let Some(&other) = b.loads.get(&line) {
                found.push(Shared { line, how: "stored and loaded", code: [Some(code), Some(other)] });
            }
        }
        for (&line, &code) in &b.stores {
            if let Some(&other) = a.loads.get(&line).filter(|_| !a.stores.contains_key(&line)) {
                found.push(Shared { line, how: "loaded and stored", code: [Some(other), Some(code)] });
            }
        }
        found
    }
}

fn access(line: &[u8]) -> Option<(u8, u64, u64)> {
    let kind = *line.iter().take(2).find(|&&c| c != b' ')?;
    if !b"ILSM".contains(&kind) || line.get(2) != Some(&b' ') {
        return None;
    }
    let text = line.get(3..)?.trim_ascii();
    let comma = text.iter().position(|&c| c == b',')?;
    let number = |digits: &[u8], radix| u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok();
    Some((kind, number(&text[..comma], 16)?, number(&text[comma + 1..], 10)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places = Places { base: 0x10_0000, marks: [0x1000, 0x1040, 0x1080, 0x10c0] };

    fn watched(trace: &str) -> Watched {
        Watched::read(trace.as_bytes(), || Some(&PLACES)).unwrap()
    }

    #[test]
    fn a_line_stored_by_one_and_touched_by_the_other_is_shared() {
        let trace = |of_two: &str| {
            format!(
                "==1== lackey\nI  0400,3\n S 5000,8\n S 1000,8\nI  0404,3\n S 2000,8\n L 3000,8\n M 4000,4\n S 1040,8\n\
                 \x20S 6000,8\n S 1080,8\nI  0408,2\n{of_two} S 10c0,8\n S 7000,8\n"
            )
        };
        let shared = |of_two: &str| -> Vec<u64> {
            let all = watched(&trace(of_two));
            assert_eq!((all.phases, all.rest.len()), (2, 1));
            all.shared().iter().map(|s| s.line).collect()
        };
        // What both only load is nobody's burden; nor is what was stored before and after.
        assert!(shared(" L 3010,8\n S 5000,8\n S 6000,8\n S 7000,8\n").is_empty());
        assert_eq!(shared(" L 2038,8\n"), [0x2000]);
        assert_eq!(shared(" S 3000,1\n"), [0x3000]);
        assert_eq!(shared(" M 403f,1\n"), [0x4000]);
        // Across a boundary.
        assert_eq!(shared(" L 1ffc,8\n"), [0x2000]);
        assert!(shared(" L 2040,8\n").is_empty());
    }

    #[test]
    fn what_a_program_says_of_itself_is_read() {
        assert!(
            Places::parse("108000 1 2 3 a\n")
                .is_some_and(|p| p.base == 0x10_8000 && p.marks == [1, 2, 3, 10])
        );
        assert!(Places::parse("108000 1 2 3\n").is_none());
        assert!(Places::parse("the core is gone\n").is_none());
    }
}
