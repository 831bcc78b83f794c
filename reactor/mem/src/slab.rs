//! A table of fixed rows with keys that age.
//!
//! A key is 32 bits: slot (16) and generation (16). A row that is removed leaves its slot with the next
//! generation, so an old key finds nothing instead of a stranger. 16 bits for the slot allow 65,536 rows,
//! more than one core has commands in flight; 16 for the generation, with free slots taken in turn (first
//! freed, first used), mean that a key repeats no earlier than after 65,535 uses of *every* free slot.
//! Generation nought is never used: no key is 0, and `Option<Key>` is four bytes.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// Names a row of a [`Slab<T>`], or one that was there.
pub struct Key<T>(NonZeroU32, PhantomData<fn() -> T>);

const _: () = assert!(size_of::<Option<Key<()>>>() == 4);

impl<T> Key<T> {
    /// As a number: for messages and for tags given to devices.
    pub const fn bits(self) -> u32 {
        self.0.get()
    }

    /// From a number that may come from anywhere; the slab decides whether it names a row.
    pub const fn from_bits(bits: u32) -> Option<Key<T>> {
        match NonZeroU32::new(bits) {
            Some(bits) => Some(Key(bits, PhantomData)),
            None => None,
        }
    }

    /// The slot: an index below the slab's capacity.
    pub const fn slot(self) -> usize {
        (self.bits() & 0xFFFF) as usize
    }

    /// How often the slot was used.
    pub const fn generation(self) -> u16 {
        (self.bits() >> 16) as u16
    }

    fn first(slot: usize) -> Key<T> {
        Key(FIRST | slot as u32, PhantomData)
    }

    /// The key of the slot's next row: generations begin anew without nought.
    #[inline]
    fn next(self) -> Key<T> {
        match self.0.checked_add(1 << 16) {
            Some(next) => Key(next, PhantomData),
            None => Key::first(self.slot()),
        }
    }
}

/// Generation one.
const FIRST: NonZeroU32 = NonZeroU32::new(1 << 16).unwrap();

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Key<T> {}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot(), self.generation())
    }
}

struct Slot<T> {
    /// The key of the row or, in a free slot, of the next one: so one comparison tells a stale key.
    key: Key<T>,
    row: Option<T>,
}

/// A table of rows. Rows do not move, and nothing is allocated after it was made.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Free slots in the order they became free.
    free: VecDeque<u16>,
    max: usize,
}

/// No slab has more rows: a slot has 16 bits.
pub const SLAB_ROWS_MAX: usize = 1 << 16;

impl<T> Slab<T> {
    /// A slab of `capacity` rows (at most [`SLAB_ROWS_MAX`]), all allocated now.
    pub fn new(capacity: usize) -> Slab<T> {
        Slab::growing(capacity, capacity)
    }

    /// A slab that begins with `initial` rows and doubles when they are taken, up to `max`. Room for all is set aside
    /// now, and comes into being as rows are first used: growing moves no row.
    pub fn growing(initial: usize, max: usize) -> Slab<T> {
        assert!(initial <= max && max <= SLAB_ROWS_MAX, "a slab of {initial} to {max} rows");
        let mut slab = Slab { slots: Vec::with_capacity(max), free: VecDeque::with_capacity(max), max };
        slab.grow_to(initial);
        slab
    }

    /// Puts a row into a free slot, or hands it back when there is none.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<Key<T>, T> {
        match self.reserve() {
            Some(slot) => {
                slot.row = Some(value);
                Ok(slot.key)
            }
            None => Err(value),
        }
    }

    /// As [`Slab::insert`], for a row that knows its own key. `None`, and `make` is not called, when full.
    #[inline]
    pub fn insert_with(&mut self, make: impl FnOnce(Key<T>) -> T) -> Option<Key<T>> {
        let slot = self.reserve()?;
        slot.row = Some(make(slot.key));
        Some(slot.key)
    }

    /// The key that the next row will have, if it is the next thing that happens to the slab; `None` when full.
    #[inline]
    pub fn next_key(&mut self) -> Option<Key<T>> {
        if self.free.is_empty() {
            self.grow()?;
        }
        Some(self.slots[usize::from(*self.free.front()?)].key)
    }

    /// The row, unless the key is stale.
    #[inline]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        self.slots.get(key.slot()).filter(|slot| slot.key == key)?.row.as_ref()
    }

    /// The row to change, unless the key is stale.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.slots.get_mut(key.slot()).filter(|slot| slot.key == key)?.row.as_mut()
    }

    /// Two different rows at once; `None` if either key is stale or both are the same.
    pub fn pair_mut(&mut self, a: Key<T>, b: Key<T>) -> Option<(&mut T, &mut T)> {
        let [x, y] = self.slots.get_disjoint_mut([a.slot(), b.slot()]).ok()?;
        if x.key != a || y.key != b {
            return None;
        }
        x.row.as_mut().zip(y.row.as_mut())
    }

    /// Takes the row out. The key is stale from now on.
    #[inline]
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.slot()).filter(|slot| slot.key == key)?;
        let value = slot.row.take()?;
        slot.key = key.next();
        self.free.push_back(key.slot() as u16);
        Some(value)
    }

    /// As [`Slab::remove`], for a row that nobody wants: it ends where it lies. `false`: the key was stale.
    #[inline]
    pub fn discard(&mut self, key: Key<T>) -> bool {
        let slot = self.slots.get_mut(key.slot()).filter(|slot| slot.key == key && slot.row.is_some());
        let Some(slot) = slot else { return false };
        slot.row = None;
        slot.key = key.next();
        self.free.push_back(key.slot() as u16);
        true
    }

    /// Is there such a row?
    pub fn contains(&self, key: Key<T>) -> bool {
        self.get(key).is_some()
    }

    /// Rows in use.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// No row in use?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Would an insertion be refused?
    pub fn is_full(&self) -> bool {
        self.len() == self.max
    }

    /// As many rows as there may ever be.
    pub fn capacity(&self) -> usize {
        self.max
    }

    /// The key of the row in `slot`, whatever its generation: for printing tables, and for devices that name
    /// slots.
    pub fn key_at(&self, slot: usize) -> Option<Key<T>> {
        self.slots.get(slot).filter(|slot| slot.row.is_some()).map(|slot| slot.key)
    }

    /// All rows in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.slots.iter().filter_map(|slot| Some((slot.key, slot.row.as_ref()?)))
    }

    /// All rows in slot order, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key<T>, &mut T)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.key, slot.row.as_mut()?)))
    }

    /// A free slot, taken out of the line; the caller fills it.
    #[inline]
    fn reserve(&mut self) -> Option<&mut Slot<T>> {
        if self.free.is_empty() {
            self.grow()?;
        }
        let n = self.free.pop_front()?;
        self.slots.get_mut(usize::from(n))
    }

    #[cold]
    fn grow(&mut self) -> Option<()> {
        let rows = (self.slots.len() * 2).clamp(1, self.max.max(1)).min(self.max);
        (rows > self.slots.len()).then(|| self.grow_to(rows))
    }

    fn grow_to(&mut self, rows: usize) {
        for n in self.slots.len()..rows {
            self.slots.push(Slot { key: Key::first(n), row: None });
            self.free.push_back(n as u16);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_even_when_its_slot_is_used_again() {
        let mut slab = Slab::new(1);
        let old = slab.insert("a").unwrap();
        assert_eq!(slab.insert("b"), Err("b"), "full: the value comes back");
        assert_eq!(slab.remove(old), Some("a"));
        let new = slab.insert("c").unwrap();
        assert_eq!((old.slot(), old.generation() + 1), (new.slot(), new.generation()));
        assert!(slab.get(old).is_none() && slab.get_mut(old).is_none() && slab.remove(old).is_none());
        assert!(!slab.discard(old));
        assert_eq!(slab.get(new), Some(&"c"));
    }

    #[test]
    fn generations_wrap_without_nought() {
        let mut slab = Slab::new(1);
        let first = slab.insert(()).unwrap();
        slab.remove(first);
        for _ in 0..u16::MAX - 1 {
            let key = slab.insert(()).unwrap();
            assert_ne!(key, first);
            assert_ne!(key.generation(), 0);
            slab.remove(key);
        }
        assert_eq!(slab.insert(()), Ok(first), "the first repetition");
    }

    #[test]
    fn free_slots_are_used_in_turn() {
        let mut slab = Slab::new(3);
        let keys: Vec<_> = (0..3).map(|n| slab.insert(n).unwrap()).collect();
        for n in [1, 0, 2] {
            slab.remove(keys[n]);
        }
        let again: Vec<_> = (0..3).map(|n| slab.insert(n).unwrap().slot()).collect();
        assert_eq!(again, [1, 0, 2]);
    }

    #[test]
    fn a_growing_slab_stops_at_its_bound() {
        let mut slab = Slab::growing(0, 5);
        let keys: Vec<_> = std::iter::from_fn(|| slab.insert_with(|key| key.slot())).collect();
        assert_eq!(keys.len(), 5);
        assert!(slab.is_full());
        assert!(keys.iter().enumerate().all(|(n, key)| slab.get(*key) == Some(&n)));
    }

    #[test]
    fn a_pair_is_two_different_living_rows() {
        let mut slab = Slab::new(2);
        let (a, b) = (slab.insert(1).unwrap(), slab.insert(2).unwrap());
        let (x, y) = slab.pair_mut(a, b).unwrap();
        std::mem::swap(x, y);
        assert_eq!((slab.get(a), slab.get(b)), (Some(&2), Some(&1)));
        assert!(slab.pair_mut(a, a).is_none());
        slab.remove(b);
        assert!(slab.pair_mut(a, b).is_none());
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_map_of_keys(ops in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400)) {
            let mut slab = Slab::growing(2, 9);
            let mut model = HashMap::new();
            let mut dead: Vec<Key<usize>> = Vec::new();
            for (n, (insert, pick)) in ops.into_iter().enumerate() {
                if insert {
                    match slab.insert(n) {
                        Ok(key) => prop_assert!(model.insert(key, n).is_none()),
                        Err(_) => prop_assert_eq!(model.len(), 9),
                    }
                } else if !model.is_empty() {
                    let mut keys: Vec<_> = model.keys().copied().collect();
                    keys.sort_by_key(|k| k.bits());
                    let key = *pick.get(&keys);
                    let value = model.remove(&key);
                    if n % 3 == 0 {
                        prop_assert!(slab.discard(key) && !slab.discard(key));
                    } else {
                        prop_assert_eq!(slab.remove(key), value);
                    }
                    dead.push(key);
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert_eq!(slab.iter().count(), model.len());
                prop_assert!(model.iter().all(|(k, v)| slab.get(*k) == Some(v)));
                prop_assert!(dead.iter().all(|k| !slab.contains(*k)));
            }
        }
    }
}
