//! Whose groups further rounds of access reviews start by. Groups are known from tokens alone, so those of whoever made a
//! recurring access review are taken from each token of theirs that is seen, and believed for a limited time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use postern_core::principal::{Principal, PrincipalRef};

use crate::{failure::Failure, state::App};

/// Who made recurring access reviews, and their latest tokens.
#[derive(Debug, Default)]
pub(crate) struct Makers {
    known: RwLock<BTreeSet<PrincipalRef>>,
    /// What their tokens said that is not kept yet.
    seen: Mutex<BTreeMap<PrincipalRef, Arc<Principal>>>,
}

impl Makers {
    /// Somebody's token was accepted. Whoever made no recurring access review costs no more than the look.
    pub(crate) fn saw(&self, principal: &Arc<Principal>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return;
        }
        let who = principal.reference();
        if known.contains(&who) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(who, Arc::clone(principal));
        }
    }

    /// Somebody made one. Other servers learn it within seconds.
    pub(crate) fn made(&self, who: PrincipalRef) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(who);
    }

    fn seen(&self) -> BTreeMap<PrincipalRef, Arc<Principal>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was seen so is kept. What was seen since is not.
    fn kept(&self, who: &PrincipalRef, principal: &Arc<Principal>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(who).is_some_and(|latest| Arc::ptr_eq(latest, principal)) {
            seen.remove(who);
        }
    }

    fn learn(&self, makers: BTreeSet<PrincipalRef>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if *known != makers {
            *known = makers;
        }
    }
}

impl App {
    /// Keeps what tokens said of the groups of whoever made recurring access reviews, and learns who they are.
    pub(crate) async fn keep_makers(&self) -> Result<(), Failure> {
        let recurring = self.store.recurring_access_reviews().await?;
        let makers = recurring.iter().map(|review| review.created_by.clone());
        self.makers.learn(makers.collect());
        for (who, principal) in self.makers.seen() {
            let now = self.now();
            let news = recurring.iter().filter(|review| review.is_news(&principal, now));
            for review in news {
                let mut tx = self.store.begin().await?;
                // It may have changed since: its row is read again, and held.
                if let Some(review) = tx.access_review(review.id).await?
                    && review.next_round_at.is_some()
                {
                    tx.save_access_review(&review.seen(&principal, now)).await?;
                }
                tx.commit().await?;
            }
            self.makers.kept(&who, &principal);
        }
        Ok(())
    }
}
