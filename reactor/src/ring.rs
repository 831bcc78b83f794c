//! A bounded queue between two threads: one pushes, one pops, nobody locks.
//!
//! Both ends work in batches. The producer writes slots at once but shows them only at [`Producer::publish`];
//! the consumer gives slots back at [`Consumer::release`] (or when it finds the ring empty). Each end keeps a
//! copy of the other's position and looks at the shared one only when the copy says full or empty, so that a
//! busy ring moves a cache line per batch and not per message.

// UNSAFETY: slots are shared between two threads without a lock; which of the two may touch a slot follows from
// the two positions, and the compiler cannot see that. Every interleaving of a small ring is explored by loom.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// Positions count messages and wrap around; a slot's index is its position modulo the capacity, which is a
/// power of two. Slots in `head..tail` hold messages and belong to the consumer; all others to the producer.
struct Shared<T> {
    /// Next position to pop; written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Next position to push; written by the producer.
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: messages move from one thread to another, hence `T: Send`. No `&T` is ever shared: a slot is touched
// by one end at a time, as the positions say.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone and have written their last positions (their `Drop`); the reference count of the
        // `Arc` orders those writes before this.
        let (mut head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        while head != tail {
            // SAFETY: `head..tail` are initialised and, both ends being gone, ours alone.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// A ring for `capacity` messages, which must be a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "the capacity of a ring is a power of two, not {capacity}");
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let producer = Producer { shared: shared.clone(), tail: 0, published: 0, head_seen: 0 };
    (producer, Consumer { shared, head: 0, released: 0, tail_seen: 0 })
}

/// The end that pushes.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    published: usize,
    head_seen: usize,
}

impl<T> Producer<T> {
    /// Writes a message, to be shown at the next [`Producer::publish`]; hands it back if the ring is full.
    pub fn push(&mut self, message: T) -> Result<(), T> {
        if self.is_full() {
            return Err(message);
        }
        // SAFETY: fewer than `capacity` messages lie between the consumer's head and our tail, so this slot is
        // not in `head..tail`: it is the producer's, and `&mut self` is the only producer. The Acquire load of
        // head ordered the consumer's reading of the slot before this write.
        self.shared.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(message) });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// No room, as far as the consumer has told.
    pub fn is_full(&mut self) -> bool {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) < capacity {
            return false;
        }
        self.head_seen = self.shared.head.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) == capacity
    }

    /// Shows all messages pushed so far to the consumer; `false` if there were none to show.
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.shared.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

/// The end that pops.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    released: usize,
    tail_seen: usize,
}

impl<T> Consumer<T> {
    /// The oldest message shown. Its slot returns to the producer at the next [`Consumer::release`]; finding the
    /// ring empty releases as well.
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                self.release();
                return None;
            }
        }
        // SAFETY: `head` is before the tail the producer has shown, so the slot is initialised and ours; the
        // Acquire load of the tail ordered its writing before this read. It is read once: head moves past it.
        let message = self.shared.slot(self.head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        Some(message)
    }

    /// Gives the slots of popped messages back to the producer.
    pub fn release(&mut self) {
        if self.released != self.head {
            self.shared.head.store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::rc::Rc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_seen_only_when_published() {
        let (mut tx, mut rx) = ring(4);
        tx.push(1).unwrap();
        assert_eq!(rx.pop(), None);
        assert!(tx.publish());
        assert!(!tx.publish());
        assert_eq!(rx.pop(), Some(1));
    }

    #[test]
    fn a_full_ring_hands_the_message_back_until_a_slot_is_released() {
        let (mut tx, mut rx) = ring(2);
        tx.push(1).unwrap();
        tx.push(2).unwrap();
        assert_eq!(tx.push(3), Err(3));
        tx.publish();
        assert_eq!(rx.pop(), Some(1));
        assert_eq!(tx.push(3), Err(3), "popped but not released");
        rx.release();
        tx.push(3).unwrap();
        assert_eq!(tx.push(4), Err(4));
    }

    #[test]
    fn messages_left_in_the_ring_are_dropped_once_published_or_not() {
        #[derive(Clone)]
        struct Counted(Rc<()>);
        // SAFETY: this test has one thread.
        unsafe impl Send for Counted {}
        let token = Counted(Rc::new(()));
        let (mut tx, mut rx) = ring(8);
        for _ in 0..3 {
            assert!(tx.push(token.clone()).is_ok());
        }
        tx.publish();
        assert!(tx.push(token.clone()).is_ok());
        drop(rx.pop());
        assert_eq!(Rc::strong_count(&token.0), 4);
        drop(tx);
        assert_eq!(Rc::strong_count(&token.0), 4);
        drop(rx);
        assert_eq!(Rc::strong_count(&token.0), 1);
    }

    #[test]
    fn two_threads_pass_every_message_once_and_in_order() {
        let count: u64 = if cfg!(miri) { 300 } else { 300_000 };
        let (mut tx, mut rx) = ring(16);
        let sender = thread::spawn(move || {
            for n in 0..count {
                let mut message = Box::new(n);
                while let Err(back) = tx.push(message) {
                    message = back;
                    tx.publish();
                    thread::yield_now();
                }
                if n % 5 == 0 {
                    tx.publish();
                }
            }
        });
        let mut next = 0;
        while next < count {
            match rx.pop() {
                Some(n) => {
                    assert_eq!(*n, next);
                    next += 1;
                }
                None => thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert_eq!(rx.pop(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_ring_behaves_like_a_bounded_queue(
            log in 0u32..4,
            start in prop_oneof![Just(0usize), Just(usize::MAX - 2)],
            steps in proptest::collection::vec(0u8..4, 0..200),
        ) {
            let capacity = 1usize << log;
            let (mut tx, mut rx) = ring(capacity);
            // Positions near the wrap of the counter.
            tx.shared.head.store(start, Ordering::Relaxed);
            tx.shared.tail.store(start, Ordering::Relaxed);
            (tx.tail, tx.published, tx.head_seen) = (start, start, start);
            (rx.head, rx.released, rx.tail_seen) = (start, start, start);
            let (mut written, mut shown) = (VecDeque::new(), VecDeque::new());
            let mut kept = 0;
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let room = written.len() + shown.len() + kept < capacity;
                        prop_assert_eq!(tx.push(n).is_ok(), room);
                        if room { written.push_back(n); }
                    }
                    1 => {
                        tx.publish();
                        shown.append(&mut written);
                    }
                    2 => {
                        let got = rx.pop();
                        prop_assert_eq!(got, shown.pop_front());
                        kept = if got.is_some() { kept + 1 } else { 0 };
                    }
                    _ => {
                        rx.release();
                        kept = 0;
                    }
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn loom_messages_cross_in_order_and_slots_are_never_shared() {
        loom::model(|| {
            let (mut tx, mut rx) = ring::<Box<u32>>(2);
            let sender = loom::thread::spawn(move || {
                let mut sent = 0;
                for n in 0..3 {
                    if tx.push(Box::new(n)).is_err() {
                        break;
                    }
                    sent += 1;
                    tx.publish();
                }
                sent
            });
            let mut seen = 0;
            for _ in 0..2 {
                if let Some(n) = rx.pop() {
                    assert_eq!(*n, seen);
                    seen += 1;
                    rx.release();
                }
            }
            let sent = sender.join().unwrap();
            while let Some(n) = rx.pop() {
                assert_eq!(*n, seen);
                seen += 1;
            }
            assert_eq!(seen, sent);
        });
    }

    #[test]
    fn loom_either_end_may_be_dropped_first() {
        loom::model(|| {
            let (mut tx, mut rx) = ring::<Box<u32>>(2);
            let sender = loom::thread::spawn(move || {
                tx.push(Box::new(1)).unwrap();
                tx.publish();
                tx.push(Box::new(2)).unwrap();
            });
            let _ = rx.pop();
            drop(rx);
            sender.join().unwrap();
        });
    }
}
