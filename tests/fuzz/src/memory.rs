//! Sequences of actions on the pool and the slab, held against small models.
//!
//! The pool must hand out vectors of the length that was asked for, never twice the same memory, and be full again
//! when all came back; what one tenant wrote must not be seen by the next. A key of a slab must find its own row or
//! nothing.

use std::collections::BTreeMap;

use spindle_mem::{Key, PoolConfig, SGV_BYTES_MAX, Sgv, SgvPool, ShareId, Slab};
use spindle_reactor::CoreId;

use crate::input::Input;

/// Steps of one input.
const STEPS_MAX: u32 = 256;
/// The bytes share 1 may hold.
const SHARE_BYTES: u64 = 64 << 10;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() {
        Some(kind) if kind & 1 == 0 => pool(&mut input),
        Some(_) => slab(&mut input),
        None => {}
    }
}

fn pool(input: &mut Input<'_>) {
    let arena = crate::session::world::arena();
    let config = PoolConfig { vectors: [8, 4, 2, 0, 0, 0], lent: [0; 3], shares: 3, poison: true };
    let mut pool = SgvPool::new(CoreId(0), arena, &config).expect("it fits the arena");
    pool.open_share(ShareId(1), SHARE_BYTES);
    let mut held: Vec<(Sgv, u8)> = Vec::new();
    let mut stamp = 0u8;
    for _ in 0..STEPS_MAX {
        let Some(step) = input.byte() else { break };
        match step % 4 {
            0 | 1 => {
                let Some(bytes) = input.u32() else { break };
                let (bytes, share) = (bytes % (1 << 18), ShareId(u16::from(step >> 2) % 4));
                let Some(mut sgv) = pool.take(bytes, share) else { continue };
                assert_eq!((sgv.len(), sgv.share()), (bytes, share));
                assert!(bytes <= SGV_BYTES_MAX && share.0 < 3, "a share that does not exist gets nothing");
                let seen = sgv.to_vec();
                assert!(seen.iter().all(|b| *b == spindle_mem::POISON), "bytes of an earlier tenant");
                stamp = stamp.wrapping_add(1);
                sgv.fill_pattern(0..bytes, &[stamp]);
                held.push((sgv, stamp));
            }
            2 if !held.is_empty() => {
                let (sgv, stamp) = held.swap_remove(usize::from(step >> 2) % held.len());
                assert!(sgv.to_vec().iter().all(|b| *b == stamp), "somebody else wrote into this vector");
                pool.put(sgv);
            }
            3 if !held.is_empty() => {
                let at = usize::from(step >> 2) % held.len();
                let Some([a, b]) = input.array::<4>().map(|b| [[b[0], b[1]], [b[2], b[3]]]) else { break };
                let len = held[at].0.len();
                let (a, b) =
                    (u32::from(u16::from_be_bytes(a)).min(len), u32::from(u16::from_be_bytes(b)).min(len));
                let range = a.min(b)..a.max(b);
                let stamp = held[at].1;
                let bytes: usize = held[at].0.slices(range.clone()).map(<[u8]>::len).sum();
                assert_eq!(bytes as u32, range.end - range.start);
                held[at].0.zero(range.clone());
                let mut back = vec![1; bytes];
                held[at].0.copy_to(range.start, &mut back);
                assert!(back.iter().all(|b| *b == 0));
                held[at].0.fill_pattern(range, &[stamp]);
            }
            _ => {}
        }
        let in_share: u64 =
            held.iter().filter(|(s, _)| s.share() == ShareId(1)).map(|(s, _)| u64::from(s.len())).sum();
        assert!(in_share <= SHARE_BYTES, "a share beyond its limit");
    }
    for (sgv, stamp) in held {
        assert!(sgv.to_vec().iter().all(|b| *b == stamp), "somebody else wrote into this vector");
        pool.put(sgv);
    }
    assert!(pool.is_full(), "every vector is home");
}

fn slab(input: &mut Input<'_>) {
    let Some([first, more]) = input.array() else { return };
    let first = usize::from(first % 8);
    let max = first + usize::from(more % 16);
    let mut slab: Slab<u32> = Slab::growing(first, max);
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    let mut gone: Vec<Key<u32>> = Vec::new();
    for value in 0..STEPS_MAX {
        let Some(step) = input.byte() else { break };
        let live =
            |n: u8| rows.keys().nth(usize::from(n) % rows.len().max(1)).copied().and_then(Key::from_bits);
        match step % 4 {
            0 | 1 => match slab.insert(value) {
                Ok(key) => assert!(rows.insert(key.bits(), value).is_none(), "a key that is in use"),
                Err(back) => assert!(back == value && rows.len() == max),
            },
            2 => {
                if let Some(key) = live(step >> 2) {
                    assert_eq!(slab.remove(key), rows.remove(&key.bits()));
                    gone.push(key);
                }
            }
            _ => {
                let Some(bits) = input.u32() else { break };
                if let Some(key) = Key::<u32>::from_bits(bits) {
                    assert_eq!(slab.get(key), rows.get(&bits));
                }
            }
        }
        assert_eq!((slab.len(), slab.is_empty()), (rows.len(), rows.is_empty()));
        assert!(gone.iter().all(|key| !slab.contains(*key)), "an old key found a stranger");
    }
    assert!(slab.iter().all(|(key, value)| rows.get(&key.bits()) == Some(value)));
    assert_eq!(slab.iter().count(), rows.len());
}

/// Some of each step.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut pool = vec![0];
    for n in 0..6u8 {
        pool.extend([n << 2, 0, 0, n * 40, 0]);
    }
    pool.extend([3, 0, 0, 0x10, 0, 2, 6, 10, 2]);
    let slab = vec![1, 2, 6, 0, 0, 0, 0, 2, 0, 6, 3, 0, 1, 0, 0, 2, 2, 0];
    vec![pool, slab]
}
