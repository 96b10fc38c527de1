//! Call budgets: what a cloud's API lets one caller ask of it, kept on our side so that calls are spent on closings
//! first and are not wasted on refusals.
//!
//! A token bucket per account and class of calls. Pure: time is a parameter, counted from any fixed moment, and must
//! not jump back and forth as a wall clock may. Whoever draws does the waiting.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::machine::Account;

mod bucket;

pub use bucket::{Bucket, BucketSize, Drawn, Purpose};

/// What a bucket holds, for people and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Whose it is.
    pub account: Account,
    /// The class of calls, in the cloud's words.
    pub class: Cow<'static, str>,
    /// Calls that could be made at once; below zero where calls are waiting.
    pub left: f64,
    /// The most that could be, after a while without any; at least 1.
    pub size: f64,
    /// Refusals by the cloud so far.
    pub refused: u64,
}

type Key = (Account, Cow<'static, str>);

/// The buckets of all accounts.
#[derive(Debug)]
pub struct Budgets {
    percent: u32,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// What the cloud documents, and what of it is left here.
    buckets: BTreeMap<Key, (BucketSize, Bucket)>,
    /// How many share them; none while nobody said.
    servers: Option<u32>,
    /// What part the buckets had that nothing was drawn from yet, and when, where they were not full from the beginning.
    began: Option<(f64, Duration)>,
}

impl Kept {
    fn servers(&self) -> u32 {
        self.servers.unwrap_or(1)
    }
}

impl Budgets {
    /// Buckets of `percent` of what the clouds document, each full until something is drawn. With 0 there are none:
    /// every call may be made at once.
    pub fn new(percent: u32) -> Self {
        Self {
            percent,
            kept: Mutex::new(Kept {
                buckets: BTreeMap::new(),
                servers: None,
                began: None,
            }),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one part of `servers` of every bucket from now on, because so many draw on the same ones at the cloud.
    ///
    /// Whoever is told of others when it begins came last: what they spent is missing at the cloud, so its buckets begin
    /// with the part that the one of them has `left` that has least. One that comes back from the dead too soon finds
    /// itself counted, and begins so too.
    pub fn share(&self, servers: u32, left: f64, now: Duration) {
        let servers = servers.max(1);
        let mut kept = self.kept();
        let first = kept.servers.is_none();
        if kept.servers.replace(servers) == Some(servers) {
            return;
        }
        let came_last = first && servers > 1;
        if came_last {
            kept.began = Some((left, now));
        }
        for (size, bucket) in kept.buckets.values_mut() {
            let part = size.percent(self.percent).shared_by(servers);
            bucket.resize(part, now);
            if came_last {
                bucket.tokens = bucket.tokens.min(Bucket::partly(part, left, now).tokens);
            }
        }
    }

    /// Takes a call of a class whose documented size is `size`; see [`Bucket::draw`].
    pub fn draw(
        &self,
        account: &Account,
        class: (Cow<'static, str>, BucketSize),
        purpose: Purpose,
        patience: Duration,
        now: Duration,
    ) -> Drawn {
        if self.percent == 0 {
            return Drawn::Paid(Duration::ZERO);
        }
        let (name, size) = class;
        let mut kept = self.kept();
        let part = size.percent(self.percent).shared_by(kept.servers());
        let begins = kept.began.map_or_else(
            || Bucket::new(part, now),
            |(left, at)| Bucket::partly(part, left, at),
        );
        let (_, bucket) = kept
            .buckets
            .entry((account.clone(), name))
            .or_insert((size, begins));
        bucket.draw(purpose, patience, now)
    }

    /// Takes a call and sleeps until it may be made; `now` and `sleep` are of one clock. In vain after `patience`:
    /// then the error says when to come back.
    pub async fn pay<S: Future<Output = ()>>(
        &self,
        account: &Account,
        class: (Cow<'static, str>, BucketSize),
        purpose: Purpose,
        patience: Duration,
        now: impl Fn() -> Duration,
        sleep: impl Fn(Duration) -> S,
    ) -> Result<(), Duration> {
        let until = now() + patience;
        loop {
            let left = until.saturating_sub(now());
            match self.draw(account, class.clone(), purpose, left, now()) {
                Drawn::Paid(Duration::ZERO) => return Ok(()),
                Drawn::Paid(wait) => {
                    sleep(wait).await;
                    // The cloud may have refused another's call meanwhile.
                    let stopped = self.stopped(account, &class.0, now());
                    return if stopped.is_zero() { Ok(()) } else { Err(stopped) };
                }
                Drawn::NotYet(wait) if wait > left => return Err(wait),
                Drawn::NotYet(wait) => sleep(wait).await,
            }
        }
    }

    fn stopped(&self, account: &Account, class: &str, now: Duration) -> Duration {
        self.kept()
            .buckets
            .get(&(account.clone(), Cow::Owned(class.to_owned())))
            .map(|(_, bucket)| bucket.stopped(now))
            .unwrap_or_default()
    }

    /// The cloud refused a call of the classes that `concerned` picks; see [`Bucket::refused`]. A class of which no
    /// call was made yet is not known, and was not refused.
    pub fn refused(
        &self,
        account: &Account,
        concerned: impl Fn(&str) -> bool,
        retry_after: Option<Duration>,
        now: Duration,
    ) {
        for ((of, class), (_, bucket)) in &mut self.kept().buckets {
            if of == account && concerned(class) {
                bucket.refused(retry_after, now);
            }
        }
    }

    /// The accounts in which refusals stop calls, and for how long.
    pub fn stopped_accounts(&self, now: Duration) -> BTreeMap<Account, Duration> {
        let mut stopped: BTreeMap<Account, Duration> = BTreeMap::new();
        for ((account, _), (_, bucket)) in &self.kept().buckets {
            let left = bucket.stopped(now);
            if !left.is_zero() {
                let known = stopped.entry(account.clone()).or_default();
                *known = left.max(*known);
            }
        }
        stopped
    }

    /// What is left everywhere.
    pub fn levels(&self, now: Duration) -> Vec<Level> {
        self.kept()
            .buckets
            .iter_mut()
            .map(|((account, class), (_, bucket))| {
                bucket.refill(now);
                Level {
                    account: account.clone(),
                    class: class.clone(),
                    left: bucket.tokens,
                    size: bucket.size.capacity,
                    refused: bucket.refused,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        task::{Context, Poll, Waker},
    };

    use super::{
        bucket::tests::{PATIENCE, SIZE, at},
        *,
    };

    fn account(id: &str) -> Account {
        Account::Aws {
            account: id.to_owned(),
            region: "eu-west-1".to_owned(),
        }
    }

    #[test]
    fn accounts_and_classes_have_buckets_of_their_own() {
        let budgets = Budgets::new(50);
        let draw = |id: &str, class: &'static str| {
            budgets.draw(
                &account(id),
                (class.into(), SIZE),
                Purpose::Close,
                Duration::ZERO,
                at(0),
            )
        };
        for _ in 0..4 {
            assert_eq!(draw("1", "writes"), Drawn::Paid(Duration::ZERO));
        }
        assert!(matches!(draw("1", "writes"), Drawn::NotYet(_)), "half of 8 is 4");
        assert_eq!(draw("1", "reads"), Drawn::Paid(Duration::ZERO));
        assert_eq!(draw("2", "writes"), Drawn::Paid(Duration::ZERO));
        budgets.refused(&account("2"), |class| class == "writes", Some(at(3000)), at(0));
        assert_eq!(
            budgets.stopped_accounts(at(1000)),
            BTreeMap::from([(account("2"), at(2000))])
        );
        assert_eq!(budgets.stopped_accounts(at(3000)), BTreeMap::new());
        let refused: Vec<u64> = budgets.levels(at(0)).iter().map(|level| level.refused).collect();
        assert_eq!(refused, [0, 0, 1]);
    }

    /// How many closings can be made at once.
    fn at_once(budgets: &Budgets, now: Duration) -> usize {
        let draw = || {
            budgets.draw(
                &account("1"),
                ("writes".into(), SIZE),
                Purpose::Close,
                Duration::ZERO,
                now,
            )
        };
        (0..100)
            .take_while(|_| draw() == Drawn::Paid(Duration::ZERO))
            .count()
    }

    #[test]
    fn servers_that_share_a_bucket_never_draw_more_than_all_of_it_together() {
        let (old, new) = (Budgets::new(100), Budgets::new(100));
        old.share(1, 1.0, at(0));
        assert_eq!(at_once(&old, at(0)), 8, "a lone server keeps all of it");
        // Another comes when nothing is left. It has nothing, and each has one of two calls a second.
        new.share(2, 0.0, at(0));
        old.share(2, 0.0, at(0));
        assert_eq!((at_once(&old, at(0)), at_once(&new, at(0))), (0, 0));
        assert_eq!((at_once(&old, at(2001)), at_once(&new, at(2001))), (2, 2));
        // At rest each has half of eight.
        assert_eq!((at_once(&old, at(60_000)), at_once(&new, at(60_000))), (4, 4));
        // The first dies: the other has two a second and, in time, all of it.
        new.share(1, 1.0, at(61_000));
        assert_eq!(at_once(&new, at(62_001)), 3);
        assert_eq!(at_once(&new, at(600_000)), 8);
    }

    #[test]
    fn a_server_that_comes_to_a_full_bucket_has_its_part_at_once_and_the_first_gives_it_up() {
        let (old, new) = (Budgets::new(100), Budgets::new(100));
        old.share(1, 1.0, at(0));
        assert_eq!(at_once(&old, at(0)), 8);
        new.share(2, 1.0, at(10_000));
        old.share(2, 1.0, at(10_000));
        assert_eq!((at_once(&old, at(10_000)), at_once(&new, at(10_000))), (4, 4));
    }

    #[test]
    fn a_bucket_of_a_server_that_came_last_fills_from_when_it_came() {
        let budgets = Budgets::new(100);
        budgets.share(2, 0.25, at(10_000));
        // A quarter of its four, and its half of two a second; nothing was drawn before.
        assert_eq!(at_once(&budgets, at(12_001)), 3);
        // One that was there first begins full, also where it draws only after others came.
        let first = Budgets::new(100);
        first.share(1, 1.0, at(0));
        first.share(4, 0.0, at(1000));
        assert_eq!(at_once(&first, at(1000)), 2);
    }

    #[test]
    fn what_was_called_before_anybody_was_counted_is_owed() {
        let budgets = Budgets::new(100);
        assert_eq!(at_once(&budgets, at(0)), 8);
        let patience = Duration::from_secs(2);
        let class = || ("writes".into(), SIZE);
        for _ in 0..2 {
            budgets.draw(&account("1"), class(), Purpose::Close, patience, at(0));
        }
        budgets.share(2, 1.0, at(0));
        // Two are owed, at one a second.
        assert_eq!(at_once(&budgets, at(2000)), 0);
        assert_eq!(at_once(&budgets, at(3001)), 1);
    }

    #[test]
    fn without_budgets_every_call_may_be_made_at_once() {
        let budgets = Budgets::new(0);
        for _ in 0..1000 {
            let drawn = budgets.draw(
                &account("1"),
                ("reads".into(), SIZE),
                Purpose::Look,
                PATIENCE,
                at(0),
            );
            assert_eq!(drawn, Drawn::Paid(Duration::ZERO));
        }
        assert_eq!(budgets.levels(at(0)), []);
    }

    /// Runs what only ever waits for a clock that the waiting itself moves on.
    fn run<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits for something else"),
        }
    }

    #[test]
    fn whoever_pays_sleeps_as_long_as_it_takes_and_gives_up_after_its_patience() {
        let budgets = Budgets::new(100);
        let clock = Arc::new(AtomicU64::new(0));
        let now = || Duration::from_micros(clock.load(Ordering::Relaxed));
        let sleep = |wait: Duration| {
            let micros = u64::try_from(wait.as_micros()).unwrap() + 1;
            clock.fetch_add(micros, Ordering::Relaxed);
            std::future::ready(())
        };
        let pay = |purpose| {
            run(budgets.pay(
                &account("1"),
                ("writes".into(), SIZE),
                purpose,
                PATIENCE,
                now,
                sleep,
            ))
        };
        for _ in 0..28 {
            assert_eq!(pay(Purpose::Close), Ok(()));
        }
        // 8 at once, then one every half second.
        assert_eq!(now().as_millis(), 10_000);
        assert_eq!(pay(Purpose::Open), Ok(()));
        assert_eq!(now().as_millis(), 11_375);
        budgets.refused(&account("1"), |_| true, Some(Duration::from_secs(30)), now());
        assert_eq!(pay(Purpose::Close), Err(Duration::from_secs(30)));
    }
}
