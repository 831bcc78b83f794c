//! Which processors this process may use, tying threads to them, and giving one up for a moment.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Processors are numbered below this; a limit of the system interface used here.
pub const CPU_MAX: u32 = CpuSet::MAX_CPU as u32;

/// The processors the calling thread may run on, ascending: what the affinity mask and the control group's
/// `cpuset` leave of the machine.
pub fn allowed() -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CPU_MAX).filter(|&cpu| set.is_set(cpu as usize)).collect())
}

/// Lets the calling thread run on `cpus` only. Fails if none of them exists or is allowed.
pub fn pin_to(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CPU_MAX {
            let text = format!("processor {cpu} is beyond the limit of {CPU_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        set.set(cpu as usize);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// The processor the calling thread runs on just now.
pub fn current() -> u32 {
    rustix::thread::sched_getcpu() as u32
}

/// Lets another thread of this processor run, if one waits.
pub fn yield_now() {
    rustix::thread::sched_yield();
}

/// How much later than asked a sleep of the calling thread may end, for the sake of fewer interrupts. The
/// system's default is 50 µs, more than a whole command takes.
pub fn set_timer_slack(slack: Duration) -> io::Result<()> {
    let ns = u64::try_from(slack.as_nanos()).ok().and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN);
    Ok(rustix::thread::set_current_timer_slack(Some(ns))?)
}

/// Nanoseconds of processor time the calling thread has used.
pub fn thread_time_ns() -> u64 {
    nanoseconds(rustix::time::ClockId::ThreadCPUTime)
}

/// Nanoseconds on the monotonic clock, read without entering the kernel where the platform allows it.
pub fn monotonic_ns() -> u64 {
    nanoseconds(rustix::time::ClockId::Monotonic)
}

fn nanoseconds(clock: rustix::time::ClockId) -> u64 {
    let t = rustix::time::clock_gettime(clock);
    // These clocks start near nought at boot or thread start: not negative, and 584 years to the limit.
    (t.tv_sec as u64) * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_where_it_was_told_and_nowhere_else() {
        for cpu in allowed().unwrap() {
            std::thread::spawn(move || {
                pin_to(&[cpu]).unwrap();
                assert_eq!(allowed().unwrap(), [cpu]);
                assert_eq!(current(), cpu);
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn pinning_to_nothing_or_to_processors_that_do_not_exist_fails() {
        assert!(pin_to(&[]).is_err());
        assert!(pin_to(&[CPU_MAX]).is_err());
        assert!(pin_to(&[CPU_MAX - 1]).is_err() || allowed().unwrap().contains(&(CPU_MAX - 1)));
    }

    #[test]
    fn clocks_go_forward() {
        let (a, b) = (monotonic_ns(), thread_time_ns());
        for _ in 0..100_000 {
            std::hint::black_box(0);
        }
        assert!(monotonic_ns() >= a && thread_time_ns() >= b && a > 0);
        set_timer_slack(Duration::from_micros(1)).unwrap();
        yield_now();
    }
}
