//! Doubly linked lists through the rows of a [`Slab`], by key: waiting lines, tasks of a nexus, timers.
//!
//! A row embeds one [`Link`] for each list it may be in; a tag type tells them apart. No allocation, no
//! unsafe code, and taking a row out of the middle costs the same as from the end, which is what an abort does.

use std::marker::PhantomData;

use crate::slab::{Key, Slab};

/// A row's place in one list.
#[derive(Debug)]
pub struct Link<T> {
    prev: Option<Key<T>>,
    next: Option<Key<T>>,
    linked: bool,
}

impl<T> Link<T> {
    /// In no list.
    pub const fn new() -> Link<T> {
        Link { prev: None, next: None, linked: false }
    }

    /// Is the row in a list?
    pub const fn is_linked(&self) -> bool {
        self.linked
    }
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Link::new()
    }
}

/// Where a row keeps its link for the lists of `Tag`.
pub trait Linked<Tag>: Sized {
    /// The link.
    fn link(&self) -> &Link<Self>;
    /// The link, to change.
    fn link_mut(&mut self) -> &mut Link<Self>;
}

/// A list of rows. Each of its methods is given the slab the rows are in; a row must leave its lists before it
/// leaves the slab.
pub struct List<T, Tag> {
    head: Option<Key<T>>,
    tail: Option<Key<T>>,
    len: usize,
    tag: PhantomData<fn() -> Tag>,
}

impl<T, Tag> Default for List<T, Tag> {
    fn default() -> Self {
        List::new()
    }
}

impl<T, Tag> List<T, Tag> {
    /// The empty list.
    pub const fn new() -> Self {
        List { head: None, tail: None, len: 0, tag: PhantomData }
    }

    /// Rows in the list.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// No rows?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first row.
    pub const fn front(&self) -> Option<Key<T>> {
        self.head
    }

    /// The last row.
    pub const fn back(&self) -> Option<Key<T>> {
        self.tail
    }
}

impl<T: Linked<Tag>, Tag> List<T, Tag> {
    /// Appends a row that is in no list of this tag. `false` if the key is stale or the row is in one.
    pub fn push_back(&mut self, slab: &mut Slab<T>, key: Key<T>) -> bool {
        self.insert_between(slab, self.tail, key, None)
    }

    /// As [`List::push_back`], at the front.
    pub fn push_front(&mut self, slab: &mut Slab<T>, key: Key<T>) -> bool {
        self.insert_between(slab, None, key, self.head)
    }

    /// Puts `key` before `at`, which is in this list.
    pub fn insert_before(&mut self, slab: &mut Slab<T>, at: Key<T>, key: Key<T>) -> bool {
        match slab.get(at).map(Linked::link) {
            Some(link) if link.linked => self.insert_between(slab, link.prev, key, Some(at)),
            _ => false,
        }
    }

    /// Takes out the first row.
    pub fn pop_front(&mut self, slab: &mut Slab<T>) -> Option<Key<T>> {
        let key = self.head?;
        self.remove(slab, key);
        Some(key)
    }

    /// Takes a row out of this list, wherever it stands. `false` if it is in none or the key is stale. (A row
    /// that is in another list of the same tag is the caller's mistake.)
    pub fn remove(&mut self, slab: &mut Slab<T>, key: Key<T>) -> bool {
        let Some(row) = slab.get_mut(key) else { return false };
        if !row.link().linked {
            return false;
        }
        let Link { prev, next, .. } = std::mem::take(row.link_mut());
        match prev {
            Some(prev) => living(slab, prev).next = next,
            None => self.head = next,
        }
        match next {
            Some(next) => living(slab, next).prev = prev,
            None => self.tail = prev,
        }
        self.len -= 1;
        true
    }

    /// The row behind `key` in its list: for walks during which rows are taken out.
    pub fn next(&self, slab: &Slab<T>, key: Key<T>) -> Option<Key<T>> {
        slab.get(key)?.link().next
    }

    /// The rows from front to back.
    pub fn iter<'a>(&self, slab: &'a Slab<T>) -> impl Iterator<Item = (Key<T>, &'a T)> + use<'a, T, Tag> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let key = at?;
            let row = slab.get(key)?;
            at = row.link().next;
            Some((key, row))
        })
    }

    fn insert_between(
        &mut self,
        slab: &mut Slab<T>,
        prev: Option<Key<T>>,
        key: Key<T>,
        next: Option<Key<T>>,
    ) -> bool {
        match slab.get_mut(key) {
            Some(row) if !row.link().linked => *row.link_mut() = Link { prev, next, linked: true },
            _ => return false,
        }
        match prev {
            Some(prev) => living(slab, prev).next = Some(key),
            None => self.head = Some(key),
        }
        match next {
            Some(next) => living(slab, next).prev = Some(key),
            None => self.tail = Some(key),
        }
        self.len += 1;
        true
    }
}

fn living<T: Linked<Tag>, Tag>(slab: &mut Slab<T>, key: Key<T>) -> &mut Link<T> {
    slab.get_mut(key).expect("a row leaves its lists before it leaves the slab").link_mut()
}

impl<T, Tag> std::fmt::Debug for List<T, Tag> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "List({} rows, {:?} to {:?})", self.len, self.head, self.tail)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    struct Waiting;
    struct ByNexus;

    struct Task {
        waiting: Link<Task>,
        by_nexus: Link<Task>,
    }

    impl Linked<Waiting> for Task {
        fn link(&self) -> &Link<Task> {
            &self.waiting
        }
        fn link_mut(&mut self) -> &mut Link<Task> {
            &mut self.waiting
        }
    }

    impl Linked<ByNexus> for Task {
        fn link(&self) -> &Link<Task> {
            &self.by_nexus
        }
        fn link_mut(&mut self) -> &mut Link<Task> {
            &mut self.by_nexus
        }
    }

    fn slab(rows: usize) -> (Slab<Task>, Vec<Key<Task>>) {
        let mut slab = Slab::new(rows);
        let task = || Task { waiting: Link::new(), by_nexus: Link::new() };
        let keys = (0..rows).map(|_| slab.insert(task()).ok().unwrap()).collect();
        (slab, keys)
    }

    fn keys<Tag>(list: &List<Task, Tag>, slab: &Slab<Task>) -> Vec<Key<Task>>
    where
        Task: Linked<Tag>,
    {
        list.iter(slab).map(|(key, _)| key).collect()
    }

    #[test]
    fn a_row_may_be_in_two_lists_but_not_twice_in_one() {
        let (mut slab, k) = slab(3);
        let (mut waiting, mut nexus) = (List::<Task, Waiting>::new(), List::<Task, ByNexus>::new());
        for key in &k {
            assert!(waiting.push_back(&mut slab, *key));
            assert!(nexus.push_front(&mut slab, *key));
            assert!(!waiting.push_back(&mut slab, *key));
        }
        assert!(waiting.remove(&mut slab, k[1]));
        assert!(!waiting.remove(&mut slab, k[1]));
        assert_eq!(keys(&waiting, &slab), [k[0], k[2]]);
        assert_eq!(keys(&nexus, &slab), [k[2], k[1], k[0]]);
        assert!(waiting.insert_before(&mut slab, k[2], k[1]));
        assert_eq!(keys(&waiting, &slab), k);
    }

    #[test]
    fn a_stale_key_enters_no_list() {
        let (mut slab, k) = slab(1);
        let mut list = List::<Task, Waiting>::new();
        slab.remove(k[0]);
        assert!(!list.push_back(&mut slab, k[0]) && list.is_empty());
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_deque(ops in prop::collection::vec((0..4u8, 0..8usize), 0..200)) {
            let (mut slab, k) = slab(8);
            let mut list = List::<Task, Waiting>::new();
            let mut model = VecDeque::new();
            for (op, n) in ops {
                let key = k[n];
                let inside = model.contains(&key);
                match op {
                    0 => {
                        prop_assert_eq!(list.push_back(&mut slab, key), !inside);
                        if !inside { model.push_back(key) }
                    }
                    1 => {
                        prop_assert_eq!(list.push_front(&mut slab, key), !inside);
                        if !inside { model.push_front(key) }
                    }
                    2 => {
                        prop_assert_eq!(list.remove(&mut slab, key), inside);
                        model.retain(|k| *k != key);
                    }
                    _ => prop_assert_eq!(list.pop_front(&mut slab), model.pop_front()),
                }
                prop_assert_eq!(keys(&list, &slab), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!((list.len(), list.front(), list.back()),
                    (model.len(), model.front().copied(), model.back().copied()));
            }
        }
    }
}
