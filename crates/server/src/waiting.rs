//! Long polls: who waits for which access request, and how they learn that it moved.
//!
//! The database notifies of every request whose state or whose grants' states change. One task listens for all the
//! polls of this process and wakes those that wait for that request. A poll gives up its place among the requests
//! under way while it waits, so that those who wait never keep others out.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postern_api::access_request as api;
use postern_core::{
    grant::{Grant, GrantState},
    id::RequestId,
    request::RequestState,
    time::Instant,
};
use postern_store::Progress;
use tokio::sync::watch;

use crate::{failure::Failure, flow::limits::Place, state::App};

/// The longest between two looks while the database notifies; a notification can be lost with its connection.
const BACKSTOP: Duration = Duration::from_secs(2);
/// The longest between two looks while it does not.
const BLIND: Duration = Duration::from_millis(100);
/// The pause before listening again after the connection was lost.
const PAUSE: Duration = Duration::from_secs(1);

/// Who waits for which request.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    requests: Mutex<HashMap<RequestId, watch::Sender<()>>>,
    listening: AtomicBool,
}

/// That somebody waits for a request; over when it is dropped.
struct Watch<'a> {
    waiting: &'a Waiting,
    id: RequestId,
    moved: watch::Receiver<()>,
}

impl Waiting {
    fn requests(&self) -> MutexGuard<'_, HashMap<RequestId, watch::Sender<()>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, id: RequestId) -> Watch<'_> {
        let moved = self
            .requests()
            .entry(id)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Watch {
            waiting: self,
            id,
            moved,
        }
    }

    fn wake(&self, id: RequestId) {
        if let Some(moved) = self.requests().get(&id) {
            moved.send_replace(());
        }
    }

    fn wake_all(&self) {
        for moved in self.requests().values() {
            moved.send_replace(());
        }
    }

    fn longest_pause(&self) -> Duration {
        if self.listening.load(Ordering::Relaxed) {
            BACKSTOP
        } else {
            BLIND
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut requests = self.waiting.requests();
        // This one is still counted.
        if requests
            .get(&self.id)
            .is_some_and(|moved| moved.receiver_count() <= 1)
        {
            requests.remove(&self.id);
        }
    }
}

/// Listens until the server stops, and wakes whoever waits for what moved.
pub(crate) async fn listen(app: Arc<App>) {
    while !app.stopping.is_cancelled() {
        let heard = tokio::select! {
            () = app.stopping.cancelled() => return,
            heard = hear(&app) => heard,
        };
        app.waiting.listening.store(false, Ordering::Relaxed);
        if let Err(error) = heard {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(
                error,
                "no notifications of progress; long polls look for themselves"
            );
        }
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn hear(app: &App) -> Result<(), postern_store::StoreError> {
    let mut listener = app.store.progress_listener().await?;
    app.waiting.listening.store(true, Ordering::Relaxed);
    // Whatever moved before was not heard.
    app.waiting.wake_all();
    loop {
        match listener.heard().await? {
            Progress::Request(id) => app.waiting.wake(id),
            Progress::Many => app.waiting.wake_all(),
        }
    }
}

impl App {
    /// The request, when it is decided and each of its grants is open or has ended, or when the time is over, or
    /// when the server stops, or at once when as many wait as may.
    pub(crate) async fn wait_for_request(
        &self,
        id: RequestId,
        longest: Duration,
        place: &Place,
    ) -> Result<api::AccessRequest, Failure> {
        let until = tokio::time::Instant::now() + longest;
        let seat = self.seats.try_acquire().ok().filter(|_| !longest.is_zero());
        let mut watch = self.waiting.watch(id);
        if seat.is_some() {
            place.give_up();
        }
        loop {
            watch.moved.mark_unchanged();
            let request = self
                .store
                .request(id)
                .await?
                .ok_or_else(|| Failure::not_found("such access request"))?;
            let grants = self.grants_of(&request).await?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if seat.is_none()
                || left.is_zero()
                || self.stopping.is_cancelled()
                || is_settled(&request.state, &grants, self.now())
            {
                return self.show_request_with(&request, &grants).await;
            }
            tokio::select! {
                () = tokio::time::sleep(self.waiting.longest_pause().min(left)) => {}
                // The sender lives as long as somebody waits.
                _ = watch.moved.changed() => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }
}

fn is_settled(state: &RequestState, grants: &[Grant], now: Instant) -> bool {
    match state {
        RequestState::Pending(pending) => pending.lapses_at <= now,
        RequestState::Approved(_) => grants
            .iter()
            .all(|grant| !matches!(grant.state, GrantState::Opening(_))),
        RequestState::Denied(_) | RequestState::Withdrawn(_) | RequestState::Lapsed(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::an_id;

    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_their_own_request_and_of_all() {
        let waiting = Waiting::default();
        let mut one = waiting.watch(an_id(1));
        let mut two = waiting.watch(an_id(2));
        waiting.wake(an_id(1));
        assert!(one.moved.has_changed().unwrap());
        assert!(!two.moved.has_changed().unwrap());
        one.moved.mark_unchanged();
        waiting.wake_all();
        assert!(one.moved.has_changed().unwrap() && two.moved.has_changed().unwrap());
        two.moved.mark_unchanged();
    }

    #[tokio::test]
    async fn nothing_is_kept_of_who_waits_no_more() {
        let waiting = Waiting::default();
        let one = waiting.watch(an_id(1));
        let other = waiting.watch(an_id(1));
        drop(one);
        assert_eq!(waiting.requests().len(), 1, "somebody else still waits");
        drop(other);
        assert!(waiting.requests().is_empty());
    }
}
