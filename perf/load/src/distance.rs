//! How far two cores are from each other: the time a cache line takes from one to the other.
//!
//! The host of a virtual machine moves its CPUs about. Two of them may share a cache at one moment and none at the
//! next, and everything that crosses cores (sockets over loopback above all) then runs at another speed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};
use spindle_ffi_os::cpu::{self, monotonic_ns};

/// One way below this is within one core: between its two threads, which share its caches and its units. Seen: 24 to 36.
const ONE_CORE_NS: f64 = 45.0;
/// One way above this is far. Seen: 54 to 269, and 300 and more.
const FAR_NS: f64 = 285.0;

/// Class of distance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// They are threads of one core, and each slows the other down.
    OneCore,
    /// The cores share a cache, or nearly so.
    Near,
    /// They do not.
    Far,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OneCore, Self::Near, Self::Far];

    /// Class of a one-way time.
    pub fn of(one_way_ns: f64) -> Self {
        match one_way_ns {
            ..ONE_CORE_NS => Self::OneCore,
            ..=FAR_NS => Self::Near,
            _ => Self::Far,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneCore => "one core",
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

const ROUNDS: usize = 21;
const TRIPS: u32 = 500;
/// Turns of a spin without an answer before giving up the core, should both sides share one.
const SPINS: u32 = 10_000;

/// One-way time between two cores in nanoseconds: the median of several rounds, so that an interruption of either
/// core does not count. Takes some milliseconds.
pub fn measure(a: u32, b: u32) -> Result<f64> {
    ensure!(a != b, "the distance of processor {a} to itself is nought");
    let line = CachePadded::new(AtomicU32::new(0));
    let (stop, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if cpu::pin_to(&[b]).is_err() {
                gone.store(true, Ordering::Relaxed);
            }
            let mut expected = 1;
            while !stop.load(Ordering::Relaxed) && !gone.load(Ordering::Relaxed) {
                if wait_for(&line, expected) {
                    line.store(expected + 1, Ordering::Release);
                    expected += 2;
                }
            }
        });
        let caller = scope.spawn(|| {
            let result = call(a, &line, || gone.load(Ordering::Relaxed));
            stop.store(true, Ordering::Relaxed);
            result
        });
        caller.join().expect("the caller does not panic")
    })
    .with_context(|| format!("distance of processors {a} and {b}"))
}

fn call(cpu: u32, line: &AtomicU32, gone: impl Fn() -> bool) -> Result<f64> {
    cpu::pin_to(&[cpu]).with_context(|| format!("processor {cpu}"))?;
    let mut value = 0;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = monotonic_ns();
        for _ in 0..TRIPS {
            line.store(value + 1, Ordering::Release);
            value += 2;
            while !wait_for(line, value) {
                ensure!(!gone(), "the other processor cannot be used");
            }
        }
        rounds.push((monotonic_ns() - start) as f64 / f64::from(TRIPS) / 2.0);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

fn wait_for(line: &AtomicU32, value: u32) -> bool {
    for _ in 0..SPINS {
        if line.load(Ordering::Acquire) == value {
            return true;
        }
        std::hint::spin_loop();
    }
    std::thread::yield_now();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_cores_is_some_nanoseconds() {
        let cpus = cpu::allowed().unwrap();
        let [a, b, ..] = cpus[..] else { return };
        let one_way = measure(a, b).unwrap();
        assert!((1.0..1_000_000.0).contains(&one_way), "{one_way} ns");
    }

    #[test]
    fn processors_that_do_not_exist_are_an_error_and_no_endless_wait() {
        let there = cpu::allowed().unwrap()[0];
        assert!(measure(there, there).is_err());
        assert!(measure(there, cpu::CPU_MAX).is_err());
        assert!(measure(cpu::CPU_MAX, there).is_err());
    }

    #[test]
    fn classes_meet_at_their_boundaries() {
        assert_eq!(Class::of(26.0), Class::OneCore);
        assert_eq!(Class::of(ONE_CORE_NS), Class::Near);
        assert_eq!(Class::of(FAR_NS), Class::Near);
        assert_eq!(Class::of(300.0), Class::Far);
        assert_eq!(Class::ALL.map(|class| class as usize), [0, 1, 2]);
    }
}
