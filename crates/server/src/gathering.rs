//! Access requests that arrive while others are being made share a transaction: freezes, policies and machines are read
//! once for all of them, and all are on disk with one commit.
//!
//! Only what is simply written is made here: a request that waits for somebody's agreement. Whatever is refused, agreed to at
//! once, repeated or in anybody's way is made by itself, as one that arrives alone is, so that nobody's request depends on
//! another's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use postern_authz::{Authorizer, Decision};
use postern_core::{
    audit::AuditEvent,
    id::RequestId,
    machine::MachineId,
    principal::PrincipalRef,
    request::{AccessRequest, Pending},
    time::Instant,
};
use postern_store::{SentKey, StoreError, Tx};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    endpoints::access_requests_create::{Manner, asked},
    failure::Failure,
    flow::authenticate::Caller,
    granting::{self, Terms, machines_of},
    idempotency::{self, IdempotencyKey},
    judging::Ground,
    second_yes::SecondYes,
    shape::access_request,
    state::App,
};

/// The most that share a transaction.
const AT_MOST: usize = 64;
/// With so many under way, the next one gathers; fewer are told sooner by themselves.
const CROWD: i64 = 3;
/// How long a shared transaction waits for a lock: whoever holds it delays only whom it has to.
const LOCKED_WITHIN: Duration = Duration::from_millis(50);
/// After a transaction in which most that were not repeated could not be made, so many requests are made by themselves
/// without trying.
const DISCOURAGED: u32 = 100;

/// A request that may share its transaction.
pub(crate) struct Plain {
    pub(crate) caller: Caller,
    pub(crate) request: AccessRequest<Pending>,
    pub(crate) from_caller: Vec<bool>,
    pub(crate) key: Option<IdempotencyKey>,
}

/// What became of it: made, or to be made by itself, because nothing was written.
type Answer = Result<Option<AccessRequest<Pending>>, Failure>;

struct Waiting {
    plain: Plain,
    answer: oneshot::Sender<Answer>,
}

/// The requests that wait for the next shared transaction.
#[derive(Default)]
pub(crate) struct Gathering {
    waiting: Mutex<Vec<Waiting>>,
    /// Held while one transaction is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    under_way: Gauge,
    discouraged: AtomicU32,
}

/// Counts a request that is under way, until it is dropped.
pub(crate) struct UnderWay<'a> {
    gathering: &'a Gathering,
    before: i64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.gathering.under_way.dec();
    }
}

impl Gathering {
    /// Nobody waits yet. Those that are under way are counted there.
    pub(crate) fn new(under_way: Gauge) -> Self {
        Self {
            under_way,
            ..Self::default()
        }
    }

    /// A request begins.
    pub(crate) fn enter(&self) -> UnderWay<'_> {
        UnderWay {
            before: self.under_way.inc(),
            gathering: self,
        }
    }

    fn add(&self, plain: Plain) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(Waiting { plain, answer });
        receiver
    }

    /// The next to share a transaction, without those that nobody waits for any more.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.answer.is_closed());
        let count = waiting.len().min(AT_MOST);
        waiting.drain(..count).collect()
    }
}

impl UnderWay<'_> {
    /// Whether this request may wait for others: there are some, and sharing has been of use lately.
    pub(crate) fn is_crowded(&self) -> bool {
        let fewer = |left: u32| left.checked_sub(1);
        let discouraged = &self.gathering.discouraged;
        self.before >= CROWD
            && discouraged
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
                .is_err()
    }
}

impl App {
    /// Makes the request together with others that arrive meanwhile. Nothing when it has to be made by itself; then
    /// nothing of it was written.
    pub(crate) async fn make_with_others(
        self: &Arc<Self>,
        plain: Plain,
    ) -> Result<Option<AccessRequest<Pending>>, Failure> {
        let mut answer = self.gathering.add(plain);
        let turn = Arc::clone(&self.gathering.turn).lock_owned();
        tokio::select! {
            biased;
            answered = &mut answer => return answered.unwrap_or_else(|error| Err(Failure::internal(error))),
            turn = turn => {
                let app = Arc::clone(self);
                // A task of its own: whoever makes them does not end with a client that goes away.
                tokio::spawn(async move {
                    // Until nobody waits: who came while this turn was taken may not be among the first of them.
                    while app.make_gathered().await {}
                    drop(turn);
                });
            }
        }
        answer.await.unwrap_or_else(|error| Err(Failure::internal(error)))
    }

    /// Makes the next that wait; whether there were any.
    async fn make_gathered(&self) -> bool {
        let (plains, answers): (Vec<Plain>, Vec<_>) = self
            .gathering
            .next()
            .into_iter()
            .map(|waiting| (waiting.plain, waiting.answer))
            .unzip();
        if plains.is_empty() {
            return false;
        }
        let (mut made, tried) = match self.try_gathered(&plains).await {
            Ok(Gathered { made, repeated }) => (made, plains.len() - repeated),
            // Whether it was committed is not known: none of them may be made once more.
            Err(Unmade::Unknown(failure)) => {
                let error = failure.source().map(tracing::field::display);
                tracing::warn!(
                    error,
                    requests = plains.len(),
                    "a shared transaction may not have been committed"
                );
                for answer in answers {
                    let _gone = answer.send(Err(failure.also()));
                }
                return true;
            }
            Err(Unmade::Nothing(failure)) => {
                let error = failure.source().map(tracing::field::display);
                tracing::debug!(error, detail = failure.detail(), "requests are made one by one");
                (BTreeMap::new(), plains.len())
            }
        };
        if made.len() * 2 < tried {
            self.gathering.discouraged.store(DISCOURAGED, Ordering::Relaxed);
        }
        for (plain, answer) in plains.iter().zip(answers) {
            let _gone = answer.send(Ok(made.remove(&plain.request.id)));
        }
        true
    }

    /// Makes those that only have to be written. The others are left out.
    async fn try_gathered(&self, plains: &[Plain]) -> Result<Gathered, Unmade> {
        // Read after the last of them arrived, so that it is as new as each of them may expect.
        let authorizer = self.authorizer().await.map_err(Unmade::Nothing)?;
        let mut tx = self.store.begin_impatient(LOCKED_WITHIN).await?;
        let gathered = match self.write_gathered(&mut tx, plains, &authorizer).await {
            Ok(gathered) if !gathered.made.is_empty() => gathered,
            // To its end, before any of them is made by itself: until then it holds their keys, and a connection.
            nothing => {
                if let Err(error) = tx.rollback().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "a shared transaction is undone without an answer");
                }
                return nothing.map_err(Unmade::Nothing);
            }
        };
        tx.commit().await.map_err(|error| Unmade::Unknown(error.into()))?;
        // What came to nothing is decided once more, by itself, and counted there.
        for _ in gathered.made.values().flat_map(|request| &request.targets) {
            self.metrics.decided(Manner::Ask.action().as_str(), true);
        }
        Ok(gathered)
    }

    /// Writes those that only have to be written, as far as the commit.
    async fn write_gathered(
        &self,
        tx: &mut Tx,
        plains: &[Plain],
        authorizer: &Authorizer,
    ) -> Result<Gathered, Failure> {
        let now = self.now();
        // Keys before anything else, as whoever is alone claims theirs.
        let repeated = repeated(tx, plains).await?;
        if repeated.len() == plains.len() {
            // Nothing is left to be made: whatever fails from here on would tell against sharing.
            return Ok(Gathered {
                made: BTreeMap::new(),
                repeated: repeated.len(),
            });
        }
        // Those that are left out are not waited for either.
        let plains: Vec<&Plain> = plains
            .iter()
            .filter(|plain| !repeated.contains(&plain.request.id))
            .collect();
        let freezes = tx.freezes_in_force().await?;
        let policies = granting::by_id(tx.policies().await?);
        let mut ids: Vec<MachineId> = plains
            .iter()
            .flat_map(|plain| machines_of(&plain.request))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let machines = tx.machines(&ids).await?;
        let requesters: Vec<PrincipalRef> = plains.iter().map(|plain| plain.caller.reference()).collect();
        let mut pending = tx.count_pending(&requesters, now).await?;
        let ground = Ground {
            authorizer,
            freezes: &freezes,
            policies: &policies,
            machines: &machines,
            clouds: &SecondYes::default(),
            verdict: None,
            now,
        };
        let most = u64::from(self.config.limits.pending_requests);
        let mut made = BTreeMap::new();
        let mut rows = Vec::with_capacity(plains.len());
        let mut events = Vec::new();
        let mut answers = Vec::new();
        for plain in plains {
            let Some((request, log)) = self.simply(plain, &ground) else {
                continue;
            };
            let has = pending.entry(plain.caller.reference()).or_default();
            if *has >= most {
                continue;
            }
            *has += 1;
            if let Some(key) = &plain.key {
                let sent = idempotency::sent(&plain.caller, key);
                answers.push((sent, body(&request, now)?));
            }
            rows.push(request.clone().into());
            events.extend(log);
            made.insert(request.id, request);
        }
        if !rows.is_empty() {
            tx.insert_requests(&rows).await?;
            tx.audit(&events).await?;
            tx.idempotency_answer(&answers, StatusCode::CREATED.as_u16(), now)
                .await?;
        }
        Ok(Gathered {
            made,
            repeated: repeated.len(),
        })
    }

    /// The request with whose agreement it awaits, and what is written of it; nothing when it may not be had, or is
    /// agreed to at once.
    fn simply(
        &self,
        plain: &Plain,
        ground: &Ground<'_>,
    ) -> Option<(AccessRequest<Pending>, Vec<AuditEvent>)> {
        let (decisions, terms): (Vec<Decision>, Vec<Terms>) = plain
            .request
            .targets
            .iter()
            .enumerate()
            .map(|(at, target)| {
                let from_caller = plain.from_caller.get(at).copied().unwrap_or(false);
                self.judge(Manner::Ask, &plain.request, (at, target), from_caller, ground)
                    .ok()
                    .map(|judged| (judged.decision, judged.terms))
            })
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .unzip();
        let mut request = plain.request.clone();
        self.wait_for_agreement(Manner::Ask, &mut request, &terms).ok()?;
        if request.state.awaits.is_empty() {
            return None;
        }
        let events = asked(self, &plain.caller, Manner::Ask, &request, &decisions, ground);
        Some((request, events))
    }
}

/// Those that carry a key which was used before, is in use, or is another's among them. Made by itself, each is told
/// what becomes of a key's second request.
async fn repeated(tx: &mut Tx, plains: &[Plain]) -> Result<BTreeSet<RequestId>, StoreError> {
    let (ids, sent): (Vec<RequestId>, Vec<SentKey>) = plains
        .iter()
        .filter_map(|plain| {
            let key = plain.key.as_ref()?;
            Some((plain.request.id, idempotency::sent(&plain.caller, key)))
        })
        .unzip();
    let first = tx.idempotency_claim_all(&sent).await?;
    Ok(ids
        .into_iter()
        .zip(first)
        .filter_map(|(id, first)| (!first).then_some(id))
        .collect())
}

/// The body of the answer, for repetitions.
fn body(request: &AccessRequest<Pending>, now: Instant) -> Result<Value, Failure> {
    let shown = access_request::show(&request.clone().into(), Vec::new(), now);
    serde_json::to_value(shown).map_err(Failure::internal)
}

/// What a shared transaction made.
struct Gathered {
    made: BTreeMap<RequestId, AccessRequest<Pending>>,
    /// How many it left out because of their keys. They say nothing about the use of sharing: whoever sends its keys
    /// again in crowds does not turn it off for everybody else.
    repeated: usize,
}

/// Why nothing was made.
enum Unmade {
    /// Nothing was written.
    Nothing(Failure),
    /// The commit gave no answer.
    Unknown(Failure),
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Self::Nothing(error.into())
    }
}
