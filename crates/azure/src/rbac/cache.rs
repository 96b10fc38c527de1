//! What was found a moment ago, and what is being looked for: each question goes to Azure once at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use postern_core::time::Instant;

/// What a look found: shared, because several may wait for it.
pub(super) type Found<T> = Arc<Result<T, String>>;
type Look<T> = Shared<BoxFuture<'static, Found<T>>>;

#[derive(Debug)]
enum Slot<T> {
    /// Asked for at that instant.
    Known(Instant, Arc<Result<T, String>>),
    /// Being asked for, as the how-manieth look.
    UnderWay(u64, Look<T>),
}

#[derive(Debug)]
struct Slots<K, T> {
    by_key: BTreeMap<K, Slot<T>>,
    looks: u64,
}

/// A cache of bounded size and age, with one look at a time for each key. What failed is not kept.
#[derive(Debug)]
pub(super) struct Cache<K, T> {
    slots: Arc<Mutex<Slots<K, T>>>,
    lifetime: TimeDelta,
    entries: usize,
}

fn lock<K, T>(slots: &Mutex<Slots<K, T>>) -> MutexGuard<'_, Slots<K, T>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Ord + Clone + Send + 'static, T: Send + Sync + 'static> Cache<K, T> {
    /// Keeps what is found for `lifetime` from when it was asked for, and `entries` of it at most, at least one.
    pub(super) fn new(lifetime: Duration, entries: usize) -> Self {
        Self {
            slots: Arc::new(Mutex::new(Slots {
                by_key: BTreeMap::new(),
                looks: 0,
            })),
            lifetime: TimeDelta::from_std(lifetime).unwrap_or(TimeDelta::zero()),
            entries: entries.max(1),
        }
    }

    fn is_fresh(lifetime: TimeDelta, at: Instant, now: Instant) -> bool {
        // A clock that was set back makes nothing younger.
        (TimeDelta::zero()..lifetime).contains(&(now - at))
    }

    /// What is known of `key` at `now`; else what `look` finds. The look goes on when whoever asked first stops
    /// waiting, so that the others have it.
    pub(super) async fn get(
        &self,
        key: K,
        now: Instant,
        look: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Found<T> {
        let waited = {
            let mut slots = lock(&self.slots);
            match slots.by_key.get(&key) {
                Some(Slot::Known(at, found)) if Self::is_fresh(self.lifetime, *at, now) => {
                    return Arc::clone(found);
                }
                Some(Slot::UnderWay(_, look)) => look.clone(),
                _ => {
                    slots.looks += 1;
                    let turn = slots.looks;
                    let shared = self.spawn(key.clone(), turn, now, look);
                    self.make_room(&mut slots, now);
                    slots.by_key.insert(key, Slot::UnderWay(turn, shared.clone()));
                    shared
                }
            }
        };
        waited.await
    }

    fn spawn(
        &self,
        key: K,
        turn: u64,
        now: Instant,
        look: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Look<T> {
        let all = Arc::clone(&self.slots);
        let keeps = self.lifetime > TimeDelta::zero();
        let task = tokio::spawn(async move {
            // Caught, so that a look that breaks leaves no slot that is under way for ever.
            let found = std::panic::AssertUnwindSafe(look)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err("the look at the role assignments broke".to_owned()));
            let found = Arc::new(found);
            let mut slots = lock(&all);
            let is_ours = |slot: &Slot<T>| matches!(slot, Slot::UnderWay(of, _) if *of == turn);
            if slots.by_key.get(&key).is_some_and(is_ours) {
                if keeps && found.is_ok() {
                    slots.by_key.insert(key, Slot::Known(now, Arc::clone(&found)));
                } else {
                    slots.by_key.remove(&key);
                }
            }
            found
        });
        async move {
            task.await
                .unwrap_or_else(|_| Arc::new(Err("the look at the role assignments was stopped".to_owned())))
        }
        .boxed()
        .shared()
    }

    /// Leaves room for one more: what is stale goes first, then what is oldest. Looks that are under way end by
    /// themselves, and go last.
    fn make_room(&self, slots: &mut Slots<K, T>, now: Instant) {
        if slots.by_key.len() < self.entries {
            return;
        }
        let lifetime = self.lifetime;
        slots.by_key.retain(|_, slot| match slot {
            Slot::Known(at, _) => Self::is_fresh(lifetime, *at, now),
            Slot::UnderWay(..) => true,
        });
        while slots.by_key.len() >= self.entries {
            let oldest = slots.by_key.iter().min_by_key(|(_, slot)| match slot {
                Slot::Known(at, _) => (false, Some(*at), 0),
                Slot::UnderWay(turn, _) => (true, None, *turn),
            });
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            slots.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn at(seconds: i64) -> Instant {
        Instant::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn counting(
        count: &Arc<AtomicU32>,
    ) -> impl Future<Output = Result<u32, String>> + Send + 'static + use<> {
        let count = Arc::clone(count);
        async move { Ok(count.fetch_add(1, Ordering::SeqCst)) }
    }

    #[tokio::test]
    async fn what_was_found_serves_for_its_lifetime_and_not_longer() {
        let cache: Cache<u8, u32> = Cache::new(Duration::from_mins(1), 10);
        let count = Arc::new(AtomicU32::new(0));
        for (seconds, expected) in [(0, 0), (59, 0), (60, 1), (61, 1), (30, 2)] {
            let found = cache.get(1, at(seconds), counting(&count)).await;
            assert_eq!(*found, Ok(expected), "at {seconds} s");
        }
    }

    #[tokio::test]
    async fn without_a_lifetime_nothing_is_kept() {
        let cache: Cache<u8, u32> = Cache::new(Duration::ZERO, 10);
        let count = Arc::new(AtomicU32::new(0));
        for expected in 0..3 {
            assert_eq!(*cache.get(1, at(0), counting(&count)).await, Ok(expected));
        }
    }

    #[tokio::test]
    async fn what_failed_is_looked_for_again() {
        let cache: Cache<u8, u32> = Cache::new(Duration::from_mins(1), 10);
        let failed = cache.get(1, at(0), async { Err("down".to_owned()) }).await;
        assert_eq!(*failed, Err("down".to_owned()));
        assert_eq!(*cache.get(1, at(0), async { Ok(1) }).await, Ok(1));
    }

    #[tokio::test]
    async fn several_who_ask_at_once_share_one_look_and_it_outlives_the_first() {
        let cache: Arc<Cache<u8, u32>> = Arc::new(Cache::new(Duration::from_mins(1), 10));
        let (answer, answered) = oneshot::channel::<u32>();
        let (begun, has_begun) = oneshot::channel::<()>();
        let first = {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let look = async move {
                    begun.send(()).map_err(|()| "nobody waits".to_owned())?;
                    answered.await.map_err(|error| error.to_string())
                };
                cache.get(1, at(0), look).await
            })
        };
        has_begun.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let second = cache.get(1, at(0), async { Err("a second look".to_owned()) });
        answer.send(7).unwrap();
        assert_eq!(*second.await, Ok(7));
    }

    #[tokio::test]
    async fn it_holds_no_more_than_it_may() {
        let cache: Cache<u32, u32> = Cache::new(Duration::from_mins(1), 3);
        for key in 0..10 {
            cache.get(key, at(i64::from(key)), async move { Ok(key) }).await;
            assert!(lock(&cache.slots).by_key.len() <= 3);
        }
        let kept: Vec<u32> = lock(&cache.slots).by_key.keys().copied().collect();
        assert_eq!(kept, [7, 8, 9]);
    }
}
