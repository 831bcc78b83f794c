//! The seam between a reactor and what runs on it.

use crate::core_id::CoreId;
use crate::mailbox::Mailbox;
use crate::tick::Tick;
use crate::timer::Timers;
use crate::wake::WakeSet;

/// One core's share of the program. Driven by its reactor (or by a simulation); never blocks.
pub trait Shard {
    /// What cores say to each other: at most 128 bytes; on the data path better one cache line.
    type Msg: Send;

    /// Takes a message in. Called before [`Shard::turn`], replies before requests.
    fn on_message(&mut self, from: CoreId, msg: Self::Msg, cx: &mut Turn<'_, Self::Msg>);

    /// One pass over everything this core owns, bounded by budgets. Expired timers are taken from
    /// [`Turn::timers`] here; messages posted become visible when it returns.
    fn turn(&mut self, cx: &mut Turn<'_, Self::Msg>) -> Work;

    /// Names all that would wake this core. `false`: something came meanwhile, take one more turn. Called
    /// only after a turn that found nothing to do; the mailbox and the timers are the reactor's to watch. `true`
    /// does not mean that sleep follows: a message may come first, and then there is simply another turn.
    fn arm(&mut self, wake: &mut WakeSet) -> bool;
}

/// What a shard may use during a turn.
pub struct Turn<'a, M> {
    /// The moment the turn began; time stands still within one.
    pub now: Tick,
    /// The core that takes the turn.
    pub core: CoreId,
    /// Messages to other cores.
    pub mail: &'a mut Mailbox<M>,
    /// This core's timers.
    pub timers: &'a mut Timers,
}

/// Who owes completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Debtor {
    /// Some device, by itself: they are likely to come soon, and it pays to be there.
    Device,
    /// Threads of this machine and nobody else: those of the kernel behind a loop device, or our own. They need a processor,
    /// and it is likely to be this one, where they were asked.
    Threads,
}

/// What a turn has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Nothing to do before `next` unless something comes in. Armed timers need not be repeated here.
    Idle {
        /// When the shard wants its next turn at the latest.
        next: Option<Tick>,
    },
    /// The same, but completions are owed.
    Owed {
        /// When the shard wants its next turn at the latest.
        next: Option<Tick>,
        /// Who is at work on them.
        by: Debtor,
    },
    /// So many events or completions were handled; more may follow at once. Nought counts as idle.
    Busy(u32),
    /// The shard is done: the reactor flushes its mailbox and returns.
    Stop,
}
