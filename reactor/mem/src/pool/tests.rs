use proptest::prelude::*;

use super::*;
use crate::{ArenaConfig, POISON};

const NONE: ShareId = ShareId(0);

#[test]
fn memory_may_be_given_while_it_is_used() {
    let vectors = [8, 0, 0, 0, 1, 0];
    let mut pool =
        SgvPool::new(CoreId(0), arena(), &PoolConfig { vectors, ..PoolConfig::default() }).unwrap();
    let memory = pool.memory();
    let pages: u32 = memory.places.iter().map(|run| run.pages).sum();
    assert_eq!(pages, 8 + 256);
    let mut sgv = pool.take(1 << 20, NONE).unwrap();
    sgv.copy_from(0, &[7; 1 << 20]);
    std::thread::scope(|s| s.spawn(|| memory.populate()).join().unwrap()).unwrap();
    assert!(sgv.to_vec().iter().all(|byte| *byte == 7));
    pool.put(sgv);
}

fn arena() -> Arc<Arena> {
    Arena::new(ArenaConfig::plain(1 << 20, 64 << 20)).unwrap()
}

fn pool(core: u8, arena: &Arc<Arena>, vectors: [u32; CLASSES]) -> SgvPool {
    let config = PoolConfig { vectors, shares: 4, poison: true, ..PoolConfig::default() };
    SgvPool::new(CoreId(core), arena.clone(), &config).unwrap()
}

#[test]
fn a_spare_is_given_only_while_there_is_plenty() {
    let mut pool = pool(0, &arena(), [4, 4, 0, 0, 0, 0]);
    let like = pool.take(3000, ShareId(1)).unwrap();
    let spare = pool.spare(&like).unwrap();
    assert_eq!((spare.len(), spare.capacity(), spare.share()), (3000, 4096, ShareId(1)));
    assert!(pool.spare(&like).is_none(), "half of the class is out");
    pool.put(spare);
    pool.open_share(ShareId(1), 8192);
    assert!(pool.spare(&like).is_none(), "half of the share is out");
    pool.put(like);
    assert!(pool.is_full());
}

#[test]
fn the_smallest_class_that_fits_serves_and_a_larger_one_when_it_is_empty() {
    let mut pool = pool(0, &arena(), [1, 1, 1, 0, 0, 0]);
    let a = pool.take(4096, NONE).unwrap();
    let b = pool.take(1, NONE).unwrap();
    let c = pool.take(0, NONE).unwrap();
    assert_eq!([a.capacity(), b.capacity(), c.capacity()], [4096, 16384, 65536]);
    assert_eq!([a.len(), b.len(), c.len()], [4096, 1, 0]);
    assert!(pool.take(1, NONE).is_none());
    pool.put(b);
    assert!(pool.take(16385, NONE).is_none(), "a smaller class never serves");
    assert!(pool.take(SGV_BYTES_MAX + 1, NONE).is_none());
    pool.put(a);
    pool.put(c);
    let stats = pool.stats();
    assert!(pool.is_full());
    assert_eq!((stats.classes[0].refused, stats.classes[2].refused, stats.refused_size), (1, 1, 1));
    assert_eq!((stats.classes[0].low, stats.classes[0].free), (0, 1));
}

#[test]
fn a_share_at_its_limit_waits_while_others_are_served() {
    let mut pool = pool(0, &arena(), [4, 0, 0, 0, 0, 0]);
    pool.open_share(ShareId(1), 8192);
    let held: Vec<Sgv> = (0..2).map(|_| pool.take(512, ShareId(1)).unwrap()).collect();
    assert!(pool.take(512, ShareId(1)).is_none());
    assert!(pool.share_is_full(512, ShareId(1)) && !pool.share_is_full(512, ShareId(2)));
    let other = pool.take(512, ShareId(2)).unwrap();
    assert_eq!(pool.stats().shares[0].in_use_bytes, 8192);
    assert_eq!(pool.stats().shares[0].refused, 1);
    for sgv in held {
        pool.put(sgv);
    }
    let again = pool.take(512, ShareId(1)).unwrap();
    assert!(pool.take(512, ShareId(4)).is_none(), "a share that was not made");
    pool.put(again);
    pool.put(other);
    assert!(pool.stats().shares.iter().all(|s| s.in_use_bytes == 0));
}

#[test]
fn memory_put_on_another_core_comes_home_and_serves_again() {
    let arena = arena();
    let (mut ours, mut theirs) = (pool(0, &arena, [2, 0, 0, 0, 0, 0]), pool(1, &arena, [1, 0, 0, 0, 0, 0]));
    let (a, b) = (ours.take(1, NONE).unwrap(), ours.take(2, NONE).unwrap());
    assert_eq!((a.home(), a.share()), (CoreId(0), NONE));
    let mut theirs = std::thread::spawn(move || {
        theirs.put(a);
        theirs.put(b);
        theirs
    })
    .join()
    .unwrap();
    assert!(theirs.is_full());
    let again = ours.take(3, NONE).unwrap();
    assert_eq!((again.home(), again.len()), (CoreId(0), 3));
    assert_eq!(ours.stats().shares[0].in_use_bytes, 4096);
    ours.put(again);
    assert!(ours.is_full());
}

#[test]
fn returns_from_many_threads_lose_nothing() {
    let arena = arena();
    let mut home = pool(0, &arena, [64, 0, 0, 0, 0, 0]);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Sgv>(16);
    let receiver = std::sync::Mutex::new(receiver);
    std::thread::scope(|scope| {
        for core in 1..4 {
            let mut pool = pool(core, &arena, [0; CLASSES]);
            let receiver = &receiver;
            scope.spawn(move || {
                while let Ok(sgv) = { receiver.lock().unwrap().recv() } {
                    assert_eq!(sgv.to_vec(), sgv.len().to_le_bytes().repeat(2));
                    pool.put(sgv);
                }
            });
        }
        for _ in 0..20_000 {
            let mut sgv = loop {
                match home.take(8, NONE) {
                    Some(sgv) => break sgv,
                    None => std::thread::yield_now(),
                }
            };
            sgv.copy_from(0, &8u32.to_le_bytes().repeat(2));
            sender.send(sgv).unwrap();
        }
        drop(sender);
    });
    assert!(home.is_full());
    assert_eq!(home.stats().lost, 0);
}

#[test]
fn memory_put_back_is_overwritten_where_poisoning_is_on() {
    let mut pool = pool(0, &arena(), [1, 0, 0, 0, 0, 0]);
    let mut sgv = pool.take(4096, NONE).unwrap();
    sgv.copy_from(100, b"a tenant's secret");
    sgv.set_len(10);
    pool.put(sgv);
    let sgv = pool.take(4096, NONE).unwrap();
    assert!(sgv.to_vec().iter().all(|&b| b == POISON));
    pool.put(sgv);
}

#[test]
fn copies_of_payload_are_counted_per_vector_and_per_pool() {
    let mut pool = pool(0, &arena(), [2, 0, 0, 0, 0, 0]);
    let (mut a, mut b) = (pool.take(512, NONE).unwrap(), pool.take(512, NONE).unwrap());
    a.copy_payload_from(0, &[7; 512]);
    a.copy_from(0, &[8; 8]);
    b.copy_payload_between(12, &a, 0, 500);
    assert_eq!((a.copied(), b.copied()), (1012, 500));
    pool.put(a);
    pool.put(b);
    assert_eq!(pool.copied_bytes(), 1512);
    let a = pool.take(1, NONE).unwrap();
    assert_eq!((pool.share_copied_bytes(NONE), pool.share_copied_bytes(ShareId(1))), (1512, 0));
    assert_eq!(a.copied(), 0, "counted anew for each command");
    pool.put(a);
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "dropped instead of put back"))]
fn a_dropped_vector_is_noticed_and_its_memory_is_not_lost() {
    let mut pool = pool(0, &arena(), [1, 0, 0, 0, 0, 0]);
    drop(pool.take(1, NONE).unwrap());
    assert_eq!(pool.stats().lost, 1);
    assert!(pool.is_full());
}

#[test]
fn vectors_may_outlive_their_pool() {
    let arena = arena();
    let mut first = pool(0, &arena, [2, 1, 0, 0, 0, 0]);
    let mut other = pool(1, &arena, [0; CLASSES]);
    let (a, b, c) =
        (first.take(1, NONE).unwrap(), first.take(1, NONE).unwrap(), first.take(5000, NONE).unwrap());
    other.put(a);
    drop(first);
    assert_eq!(c.len(), 5000);
    other.put(b);
    drop(c);
    let report = arena.report();
    assert_eq!(report.bytes, report.bytes_free);
}

#[test]
fn a_pool_larger_than_the_arena_is_refused_and_gives_back_what_it_took() {
    let arena = Arena::new(ArenaConfig::plain(1 << 20, 1 << 20)).unwrap();
    let config = PoolConfig { vectors: [200, 0, 0, 0, 1, 0], ..PoolConfig::default() };
    assert!(SgvPool::new(CoreId(0), arena.clone(), &config).is_err());
    assert_eq!(arena.report().bytes_free, 1 << 20);
}

#[test]
fn spreading_never_exceeds_the_bytes_given() {
    for bytes in [0, 1, 4095, 4096, 100_000, 1 << 20, 10 << 20, 64 << 20, 1 << 30, 7 << 30] {
        let config = PoolConfig::spread(bytes);
        assert!(config.bytes() <= bytes, "{bytes}: {config:?}");
        assert!(config.bytes() * 10 >= bytes * 8 || bytes < 1 << 20, "{bytes}: {config:?}");
    }
    assert!(PoolConfig::spread(64 << 20).vectors.iter().all(|&n| n > 0));
}

proptest! {
    #[test]
    fn what_is_out_and_what_is_home_is_all_there_is(ops in prop::collection::vec((0..3u8, 0..300_000u32, 0..3u16), 1..200)) {
        let arena = arena();
        let mut pools = [pool(0, &arena, [3, 2, 2, 1, 0, 0]), pool(1, &arena, [1, 1, 1, 1, 0, 0])];
        pools[0].open_share(ShareId(2), 100_000);
        let mut out: Vec<Sgv> = Vec::new();
        for (op, n, share) in ops {
            let at = n as usize % 2;
            if op < 2 {
                if let Some(sgv) = pools[at].take(n, ShareId(share)) {
                    prop_assert_eq!(sgv.len(), n);
                    out.push(sgv);
                }
            } else if !out.is_empty() {
                let sgv = out.swap_remove(n as usize % out.len());
                pools[at].put(sgv);
            }
            for pool in &mut pools {
                pool.reclaim();
                let core = pool.core();
                for (share, stats) in (0..4).map(|n| (ShareId(n), pool.stats())) {
                    let held: u64 = out.iter().filter(|s| s.home() == core && s.share() == share)
                        .map(|s| u64::from(s.capacity())).sum();
                    let counted = stats.shares.iter().find(|s| s.share == share).map_or(0, |s| s.in_use_bytes);
                    prop_assert_eq!(held, counted);
                    prop_assert!(counted <= 100_000 || share != ShareId(2) || core != CoreId(0));
                }
            }
            let mut pages: Vec<_> = out.iter().flat_map(|s| s.segs()).map(|s| s.ptr).collect();
            let all = pages.len();
            pages.sort();
            pages.dedup();
            prop_assert_eq!(pages.len(), all, "no page is in two vectors");
        }
        for sgv in out {
            pools[1].put(sgv);
        }
        prop_assert!(pools.iter_mut().all(SgvPool::is_full));
    }
}
