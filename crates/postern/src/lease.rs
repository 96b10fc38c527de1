//! A lease as a command holds it: opened, kept while something runs, given back.

pub mod child;
pub mod say;
pub mod terms;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use postern_api::{
    ClientError, ErrorCode,
    lease::{Lease, LeaseCreate, LeaseWaitQuery},
};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    exit::{Exit, Failure},
    identity::Identity,
    lease::say::Say,
};

/// The longest that one call waits for the ports, in seconds.
const WAIT: u64 = 30;
/// The pause before a call is made again that failed for now; doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The longest that a server may be away when it is first asked.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest that giving back may take. The missed heartbeat does it then.
const RELEASE: Duration = Duration::from_secs(15);
/// After how many pauses without an answer the server has ended the lease; its own rule.
const SILENCE: u32 = 3;

/// A signal that asks the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT
    Interrupt,
    /// SIGTERM
    Terminate,
    /// SIGHUP
    HangUp,
}

impl Ending {
    /// The signal's number, the same on every Unix.
    pub const fn number(self) -> u8 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
            Self::HangUp => 1,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }
}

/// The signals that ask to end; none of them ends the process any more.
#[derive(Debug)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Ending::Interrupt,
            Some(()) = self.terminate.recv() => Ending::Terminate,
            Some(()) = self.hang_up.recv() => Ending::HangUp,
            else => std::future::pending().await,
        }
    }
}

/// What stopped an opening.
#[derive(Debug)]
pub enum Stopped {
    /// It failed.
    Failed(Failure),
    /// Somebody asked to end.
    Ending(Ending),
}

/// A lease that is ours.
#[derive(Debug)]
pub struct HeldLease {
    identity: Arc<Identity>,
    say: Say,
    lease: Lease,
}

/// Keeps a lease until it is dropped, and tells when it is lost.
#[derive(Debug)]
pub struct Heartbeat {
    task: tokio::task::JoinHandle<String>,
}

impl Heartbeat {
    /// Ends when the lease is lost, with why.
    pub async fn lost(&mut self) -> String {
        match (&mut self.task).await {
            Ok(why) => why,
            Err(error) => format!("the heartbeat stopped: {error}"),
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HeldLease {
    /// Asks, and waits until every port is open. What came into being is given back when it does not come to that.
    pub async fn open(
        identity: Arc<Identity>,
        create: &LeaseCreate,
        timeout: Duration,
        say: Say,
        signals: &mut Signals,
    ) -> Result<Self, Stopped> {
        let mut made = None;
        let stopped = {
            let opening = Self::opening(&identity, create, timeout, &say, &mut made);
            tokio::select! {
                opened = opening => match opened {
                    Ok(()) => None,
                    Err(failure) => Some(Stopped::Failed(failure)),
                },
                ending = signals.next() => Some(Stopped::Ending(ending)),
            }
        };
        let held = made.map(|lease| Self { identity, say, lease });
        match (held, stopped) {
            (Some(held), None) => Ok(held),
            (Some(held), Some(stopped)) => {
                held.release().await;
                Err(stopped)
            }
            (None, Some(stopped)) => {
                if let (Stopped::Ending(_), Some(every)) = (&stopped, create.heartbeat_every_seconds) {
                    // It may have been asked for, and the answer be on its way.
                    let silence = every.saturating_mul(i64::from(SILENCE));
                    say.say(
                        "unreleased",
                        &format!("what was asked for may open yet; the missed heartbeat closes it within {silence} s"),
                        &json!({ "key": create.key }),
                    );
                }
                Err(stopped)
            }
            (None, None) => Err(Stopped::Failed(Failure::new(
                Exit::Failure,
                "the server made no lease",
            ))),
        }
    }

    async fn opening(
        identity: &Identity,
        create: &LeaseCreate,
        timeout: Duration,
        say: &Say,
        made: &mut Option<Lease>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        let now = &LeaseWaitQuery::default();
        let first = deadline.min(Instant::now() + ANSWER);
        let mut lease = patiently(first, async || {
            identity
                .call(|client| async move { client.create_lease(None, now, create).await })
                .await
        })
        .await?;
        say.say(
            "requested",
            &format!("lease {} is {}", lease.id, lease.status),
            &json!(lease),
        );
        if let Some(why) = held_up(&lease) {
            say.say("waiting", &why, &json!(lease));
        }
        loop {
            *made = Some(lease.clone());
            match lease.status.as_str() {
                "open" => {
                    say.say("open", &opened(&lease), &json!(lease));
                    return Ok(());
                }
                "pending" | "opening" => {}
                _ => return Err(came_to_nothing(&lease)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(
                    Exit::TimedOut,
                    format!("not open in time: {}", waits_for(&lease)),
                ));
            }
            let wait = LeaseWaitQuery {
                wait: u32::try_from(left.as_secs().clamp(1, WAIT)).ok(),
            };
            let before = (lease.status.clone(), held_up(&lease));
            let (id, wait) = (&lease.id.clone(), &wait);
            lease = patiently(deadline, async || {
                identity
                    .call(|client| async move { client.heartbeat_lease(id, wait).await })
                    .await
            })
            .await?;
            let now = (lease.status.clone(), held_up(&lease));
            if now != before && matches!(lease.status.as_str(), "pending" | "opening") {
                let said = now.1.unwrap_or_else(|| waits_for(&lease));
                say.say("waiting", &said, &json!(lease));
            }
        }
    }

    /// The lease as it was when it was opened.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Keeps it from now on.
    pub fn keep(&self) -> Heartbeat {
        let identity = Arc::clone(&self.identity);
        let say = self.say;
        let id = self.lease.id.clone();
        let every = Duration::from_secs(self.lease.heartbeat_every_seconds.max(1));
        Heartbeat {
            task: tokio::spawn(async move { keep(&identity, say, &id, every).await }),
        }
    }

    /// Gives it back. A lease that could not be is closed by its missed heartbeat, which is told.
    pub async fn release(self) {
        let deadline = Instant::now() + RELEASE;
        let id = &self.lease.id;
        let released = tokio::time::timeout(
            RELEASE,
            patiently(deadline, async || {
                self.identity
                    .call(|client| async move { client.release_lease(id).await })
                    .await
            }),
        )
        .await;
        match released {
            Ok(Ok(lease)) => self
                .say
                .say("released", &format!("lease {id} released"), &json!(lease)),
            Ok(Err(failure)) => self.unreleased(&failure.to_string()),
            Err(_) => self.unreleased("no answer in time"),
        }
    }

    fn unreleased(&self, why: &str) {
        let silence = self.lease.heartbeat_every_seconds * u64::from(SILENCE);
        self.say.say(
            "unreleased",
            &format!(
                "lease {} could not be given back ({why}); the missed heartbeat closes it within {silence} s",
                self.lease.id
            ),
            &json!({ "id": self.lease.id, "why": why }),
        );
    }
}

/// Says that we are there until the lease is lost; gives why.
async fn keep(identity: &Identity, say: Say, id: &str, every: Duration) -> String {
    let mut heard = Instant::now();
    let mut next = heard + every;
    let mut silent = false;
    let now = &LeaseWaitQuery::default();
    loop {
        tokio::time::sleep_until(next).await;
        let asked = Instant::now();
        let answer = tokio::time::timeout(
            every * SILENCE,
            identity.call(|client| async move { client.heartbeat_lease(id, now).await }),
        )
        .await;
        let failure = match answer {
            Ok(Ok(lease)) if lease.status == "open" => {
                heard = asked;
                next = asked + every;
                silent = false;
                continue;
            }
            Ok(Ok(lease)) => return ended(&lease),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new(Exit::Failure, "no answer in time"),
        };
        let code = failure.problem().map(|problem| problem.code);
        if matches!(
            code,
            Some(ErrorCode::LeaseEnded | ErrorCode::NotFound | ErrorCode::NotTheHolder)
        ) {
            return failure.to_string();
        }
        if heard.elapsed() >= every * SILENCE {
            return format!(
                "the server has taken no heartbeat for {} s: {failure}",
                heard.elapsed().as_secs()
            );
        }
        if !silent {
            silent = true;
            say.say(
                "unheard",
                &format!("heartbeat of lease {id} not taken, trying on: {failure}"),
                &json!({ "id": id, "why": failure.to_string() }),
            );
        }
        next = Instant::now() + (every / 4).clamp(PAUSE, LONGEST_PAUSE);
    }
}

/// Makes a call again until `deadline` while what keeps it from succeeding may pass.
async fn patiently<T>(
    deadline: Instant,
    mut call: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut pause = PAUSE;
    loop {
        match call().await {
            Err(failure) if may_pass(&failure) && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}

/// Whether the same call may succeed a little later.
fn may_pass(failure: &Failure) -> bool {
    match failure.cause::<ClientError>() {
        Some(ClientError::Transport(_)) => true,
        Some(ClientError::Unexpected { status, .. }) => *status >= 500,
        Some(ClientError::Problem(problem)) => matches!(
            problem.code,
            ErrorCode::Unavailable
                | ErrorCode::Overloaded
                | ErrorCode::Timeout
                | ErrorCode::RateLimited
                | ErrorCode::IdempotencyInFlight
        ),
        Some(ClientError::Address(_)) => false,
        // The pipeline's service for tokens.
        None => failure
            .cause::<reqwest::Error>()
            .is_some_and(|error| error.status().is_none_or(|status| status.is_server_error())),
    }
}

fn opened(lease: &Lease) -> String {
    let until: Option<DateTime<Utc>> = lease
        .request
        .grants
        .iter()
        .filter_map(|grant| grant.ends_at)
        .min();
    let machines: Vec<&str> = lease
        .machines
        .iter()
        .map(|machine| machine.name.as_str())
        .collect();
    let doors: Vec<String> = lease
        .request
        .grants
        .iter()
        .flat_map(crate::commands::grants::entrances)
        .collect();
    let doors = if doors.is_empty() {
        String::new()
    } else {
        format!(", at {}", doors.join(", "))
    };
    let until = until.map(|at| format!(" until {} at the latest", crate::output::instant(at)));
    format!(
        "open: {}{doors}{}",
        machines.join(", "),
        until.unwrap_or_default()
    )
}

/// The firewall that it waits for, if for one.
fn held_up(lease: &Lease) -> Option<String> {
    let mut opening = lease
        .request
        .grants
        .iter()
        .filter(|grant| grant.status == "opening");
    opening.find_map(crate::commands::grants::held_up)
}

fn waits_for(lease: &Lease) -> String {
    if lease.status == "pending" {
        return format!("{} waits for an approval", lease.request.id);
    }
    let truths: Vec<&str> = lease
        .request
        .grants
        .iter()
        .filter(|grant| grant.status != "open")
        .map(|grant| grant.truth.as_str())
        .collect();
    truths.join("; ")
}

/// Why a lease is not open and will not be.
fn came_to_nothing(lease: &Lease) -> Failure {
    if lease.status == "refused" {
        let reason = lease
            .request
            .decision
            .as_ref()
            .and_then(|decision| decision.reason.as_deref());
        return Failure::new(
            Exit::Denied,
            format!(
                "the request was {}: {}",
                lease.request.status,
                reason.unwrap_or("no reason given")
            ),
        );
    }
    Failure::new(Exit::Failure, ended(lease))
}

/// Why a lease is not open any more.
fn ended(lease: &Lease) -> String {
    let causes: Vec<String> = lease
        .request
        .grants
        .iter()
        .filter_map(|grant| {
            let cause = grant.cause.as_ref()?;
            let reason = cause.reason.as_deref().map(|reason| format!(" ({reason})"));
            Some(format!(
                "{}: {}{}",
                grant.machine,
                cause.kind,
                reason.unwrap_or_default()
            ))
        })
        .collect();
    if causes.is_empty() {
        format!("the lease is {}", lease.status)
    } else {
        causes.join("; ")
    }
}

impl From<Ending> for u8 {
    fn from(ending: Ending) -> Self {
        128 + ending.number()
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
