//! Whose turn it is among the accounts: how many passes may run in each, so that one whose calls wait for its budget
//! does not hold up the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_core::machine::Account;

/// The passes that run.
#[derive(Debug)]
pub(crate) struct Turns {
    workers: u32,
    per_account: u32,
    running: Mutex<BTreeMap<Account, u32>>,
}

/// What may be leased next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// So many points, of whatever accounts.
    pub(crate) limit: u32,
    /// But none of these.
    pub(crate) except: Vec<Account>,
}

/// A pass that runs. Over when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    account: Account,
}

impl Turns {
    /// At most so many at the same time, and so many of them in one account.
    pub(crate) fn new(workers: u32, per_account: u32) -> Arc<Self> {
        Arc::new(Self {
            workers: workers.max(1),
            per_account: per_account.max(1),
            running: Mutex::default(),
        })
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Account, u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more may start, and where. Accounts share the workers evenly, with one share left for an account that
    /// comes next; so the offer is small enough to be right wherever the points turn out to be.
    pub(crate) fn offer(&self, stopped: impl IntoIterator<Item = Account>) -> Offer {
        let running = self.running();
        let shares = u32::try_from(running.len() + 1).unwrap_or(u32::MAX);
        let share = (self.workers / shares).clamp(1, self.per_account);
        let free = self.workers.saturating_sub(running.values().sum());
        let mut except: BTreeSet<Account> = stopped.into_iter().collect();
        let mut limit = free.min(share);
        for (account, passes) in running.iter() {
            match share.saturating_sub(*passes) {
                0 => {
                    except.insert(account.clone());
                }
                room if !except.contains(account) => limit = limit.min(room),
                _ => {}
            }
        }
        Offer {
            limit,
            except: except.into_iter().collect(),
        }
    }

    /// A pass begins.
    pub(crate) fn take(self: &Arc<Self>, account: Account) -> Turn {
        *self.running().entry(account.clone()).or_default() += 1;
        Turn {
            turns: Arc::clone(self),
            account,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.turns.running();
        if let Some(passes) = running.get_mut(&self.account) {
            *passes -= 1;
            if *passes == 0 {
                running.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str) -> Account {
        Account::Aws {
            account: id.to_owned(),
            region: "eu-west-1".to_owned(),
        }
    }

    fn take(turns: &Arc<Turns>, id: &str, count: u32) -> Vec<Turn> {
        (0..count).map(|_| turns.take(account(id))).collect()
    }

    #[test]
    fn an_account_gets_no_more_than_its_share_and_the_others_still_get_theirs() {
        let turns = Turns::new(12, 5);
        let offer = |limit, except: &[&str]| Offer {
            limit,
            except: except.iter().map(|id| account(id)).collect(),
        };
        assert_eq!(turns.offer([]), offer(5, &[]));
        let mut one = take(&turns, "1", 3);
        assert_eq!(turns.offer([]), offer(2, &[]), "two more might be its");
        one.extend(take(&turns, "1", 2));
        assert_eq!(turns.offer([]), offer(5, &["1"]));
        // Two accounts and one that may come share twelve.
        let two = take(&turns, "2", 4);
        assert_eq!(turns.offer([]), offer(3, &["1", "2"]));
        let three = take(&turns, "3", 3);
        assert_eq!(turns.offer([]), offer(0, &["1", "2", "3"]));
        drop(two);
        assert_eq!(turns.offer([]), offer(1, &["1"]));
        drop((one, three));
        assert_eq!(turns.offer([]), offer(5, &[]));
    }

    #[test]
    fn with_more_accounts_than_workers_each_gets_one_at_a_time() {
        let turns = Turns::new(2, 5);
        let _first = turns.take(account("1"));
        assert_eq!(turns.offer([]).except, [account("1")]);
        assert_eq!(turns.offer([]).limit, 1);
        let _second = turns.take(account("2"));
        assert_eq!(turns.offer([]).limit, 0);
    }

    #[test]
    fn an_account_that_refuses_calls_is_left_out_and_takes_no_room() {
        let turns = Turns::new(12, 5);
        let _passes = take(&turns, "1", 3);
        let offer = turns.offer([account("1")]);
        assert_eq!((offer.limit, offer.except), (5, vec![account("1")]));
    }
}
