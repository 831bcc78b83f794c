//! Messages from threads that run no reactor: the helper thread of the control plane, signal handling, tests.

use std::fmt;

use crossbeam_queue::ArrayQueue;

use crate::doorbell::Doorbell;
use crate::sync::Arc;

/// Posts to one core from any thread; arrives as a request from [`crate::CoreId::OUTSIDE`]. Answers, if any,
/// travel by a channel inside the message.
pub struct Poster<M> {
    queue: Arc<ArrayQueue<M>>,
    bell: Arc<Doorbell>,
}

impl<M: Send> Poster<M> {
    pub(crate) fn new(queue: Arc<ArrayQueue<M>>, bell: Arc<Doorbell>) -> Poster<M> {
        Poster { queue, bell }
    }

    /// Posts a message and wakes the core if it sleeps; hands the message back when too many are under way.
    pub fn post(&self, message: M) -> Result<(), M> {
        self.queue.push(message)?;
        self.wake();
        Ok(())
    }

    /// Makes the core take a turn. Safe to call from a signal handler.
    pub fn wake(&self) {
        self.bell.mark_outside();
        Doorbell::posted();
        self.bell.wake_sleeper();
    }
}

impl<M> Clone for Poster<M> {
    fn clone(&self) -> Self {
        Poster { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<M> fmt::Debug for Poster<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("under_way", &self.queue.len()).finish_non_exhaustive()
    }
}
