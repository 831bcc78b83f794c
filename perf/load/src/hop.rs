//! What it costs to ask another core: a message there and back, beside the time the cache line itself takes.
//!
//! Both cores poll, as busy reactors do, so nothing is woken. The message is as large as those of the data path.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use spindle_ffi_os::cpu::{self, monotonic_ns};
use spindle_reactor::{CoreId, Mailbox, Mesh};

const ROUNDS: usize = 41;
const TRIPS: u32 = 500;
/// Messages under way at once in the second figure: what one turn may well post.
const BATCH: u32 = 32;

/// One cache line, as the messages of the data path are.
type Message = [u64; 8];

/// Nanoseconds there and back, in the median.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Hop {
    /// One message at a time.
    pub alone_ns: f64,
    /// Each of many that are posted in one turn.
    pub batched_ns: f64,
}

/// Measures between two processors.
pub fn measure(a: u32, b: u32) -> Result<Hop> {
    ensure!(a != b, "processor {a} is no other core to itself");
    let mut mesh = Mesh::<Message>::new(2, 256);
    let (mut far, mut near) = (mesh.pop().context("two cores")?, mesh.pop().context("two cores")?);
    let (stop, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (stop, gone) = (&stop, &gone);
        scope.spawn(move || {
            if cpu::pin_to(&[b]).is_err() {
                gone.store(true, Ordering::Relaxed);
            }
            let mut taken = Vec::with_capacity(BATCH as usize);
            while !stop.load(Ordering::Relaxed) && !gone.load(Ordering::Relaxed) {
                far.drain(u32::MAX, |from, message| taken.push((from, message)));
                for (from, message) in taken.drain(..) {
                    far.reply(from, message);
                }
                far.flush();
            }
        });
        let asking = scope.spawn(move || -> Result<Hop> {
            let result = cpu::pin_to(&[a]).with_context(|| format!("processor {a}")).and_then(|()| {
                Ok(Hop { alone_ns: trips(&mut near, 1, gone)?, batched_ns: trips(&mut near, BATCH, gone)? })
            });
            stop.store(true, Ordering::Relaxed);
            result
        });
        asking.join().expect("the asking core does not panic")
    })
}

/// Nanoseconds for each of `batch` messages that go and come back together.
fn trips(near: &mut Mailbox<Message>, batch: u32, gone: &AtomicBool) -> Result<f64> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = monotonic_ns();
        for trip in 0..TRIPS {
            for n in 0..batch {
                near.request(CoreId(1), [u64::from(trip * batch + n); 8]);
            }
            near.flush();
            let (mut back, mut idle) = (0, 0u32);
            while back < batch {
                let came = near.drain(u32::MAX, |_, message| {
                    std::hint::black_box(message);
                });
                back += came;
                idle = if came > 0 { 0 } else { idle + 1 };
                if idle == 10_000 {
                    // Both may be on one processor.
                    ensure!(!gone.load(Ordering::Relaxed), "the other processor cannot be used");
                    std::thread::yield_now();
                    idle = 0;
                }
                near.flush();
            }
        }
        rounds.push((monotonic_ns() - begin) as f64 / f64::from(TRIPS * batch));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_many_together_cost_less_each() {
        let [a, b, ..] = cpu::allowed().unwrap()[..] else { return };
        let hop = measure(a, b).unwrap();
        assert!(hop.alone_ns > 1.0 && hop.batched_ns > 0.1, "{hop:?}");
    }

    #[test]
    fn a_processor_that_cannot_be_used_is_an_error() {
        let there = cpu::allowed().unwrap()[0];
        assert!(measure(there, there).is_err());
        assert!(measure(there, cpu::CPU_MAX).is_err());
        assert!(measure(cpu::CPU_MAX, there).is_err());
    }
}
