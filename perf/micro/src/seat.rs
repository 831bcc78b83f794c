//! A core in a thread of its own, which does what it is told: channels are bound to the thread they were opened in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use spindle_ffi_os::cpu;

use crate::lines::mark;
use crate::world::{Ask, World};

/// Commands in a turn.
pub const BATCH: u32 = 32;

/// Under valgrind a thread needs some time to fall asleep.
const STILL: Duration = Duration::from_millis(200);

/// What it is told.
pub enum Order {
    /// Log in under this name; the other cores must serve meanwhile.
    LogIn(String),
    /// Take turns until told to stop, for the sake of others.
    Serve(Arc<AtomicBool>),
    /// Do once what is done only once.
    WarmUp(Ask),
    /// So many turns full of each kind of commands, marked for those who watch every access. A counter, if given, is
    /// counted up in each.
    Watched([Ask; 2], u32, usize, Option<Arc<AtomicU64>>),
    /// Commands from the barrier on, for a time, or until told to stop; answers commands a second.
    Run(Ask, Arc<Barrier>, Arc<AtomicBool>, Option<Duration>),
}

/// The other end of a core's thread.
pub struct Seat {
    orders: Sender<Order>,
    answers: Receiver<Result<f64>>,
}

impl Seat {
    /// Makes the core in a thread of a processor. The thread ends when this end is gone.
    pub fn take<'scope>(
        scope: &'scope Scope<'scope, '_>,
        processor: u32,
        make: impl FnOnce() -> Result<World> + Send + 'scope,
    ) -> Result<Self> {
        let (orders, told) = channel();
        let (tell, answers) = channel();
        scope.spawn(move || {
            let pinned = cpu::pin_to(&[processor]).with_context(|| format!("processor {processor}"));
            match pinned.and_then(|()| make()) {
                Ok(mut world) => {
                    let _ = tell.send(Ok(0.0));
                    for order in told {
                        // Nobody listens any more only when all is over.
                        let _ = tell.send(obey(&mut world, order));
                    }
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        let seat = Self { orders, answers };
        seat.answer().map(|_| seat)
    }

    /// Tells it something and goes on.
    pub fn tell(&self, order: Order) {
        // Should the thread be gone, the answer will say so.
        let _ = self.orders.send(order);
    }

    /// Waits for what became of it.
    pub fn answer(&self) -> Result<f64> {
        self.answers.recv().map_err(|_| anyhow!("the core is gone"))?
    }

    /// Both.
    pub fn obey(&self, order: Order) -> Result<f64> {
        self.tell(order);
        self.answer()
    }

    /// Logs in and warms up, while another core serves.
    pub fn prepare(&self, name: &str, asks: &[Ask], beside: Option<&Seat>) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(other) = beside {
            other.tell(Order::Serve(stop.clone()));
        }
        let mut done = self.obey(Order::LogIn(format!("iqn.2026-01.org.example:{name}")));
        for &ask in asks {
            done = done.and_then(|_| self.obey(Order::WarmUp(ask)));
        }
        stop.store(true, Ordering::Relaxed);
        if let Some(other) = beside {
            other.answer()?;
        }
        done.map(drop)
    }
}

fn obey(world: &mut World, order: Order) -> Result<f64> {
    match order {
        Order::LogIn(name) => world.log_in(&name, false)?,
        Order::WarmUp(ask) => world.warm_up(ask, BATCH, 16)?,
        Order::Watched(asks, turns, phase, counter) => {
            // Whoever told us is to stand still by then.
            std::thread::sleep(STILL);
            mark(2 * phase);
            for ask in asks {
                for _ in 0..turns {
                    world.commands(ask, BATCH)?;
                    if let Some(counter) = &counter {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            mark(2 * phase + 1);
        }
        Order::Serve(stop) => {
            while !stop.load(Ordering::Relaxed) {
                world.turn();
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Order::Run(ask, begin, stop, time) => {
            begin.wait();
            let (clock, mut commands) = (Instant::now(), 0u64);
            let mut result = Ok(());
            while result.is_ok()
                && !stop.load(Ordering::Relaxed)
                && time.is_none_or(|time| clock.elapsed() < time)
            {
                result = world.commands(ask, BATCH);
                commands += u64::from(BATCH);
            }
            stop.store(true, Ordering::Relaxed);
            result?;
            return Ok(commands as f64 / clock.elapsed().as_secs_f64());
        }
    }
    Ok(0.0)
}
