//! What must come of everything that people, the clock and crashes do: requests and decisions, without any of the
//! means. When exactly a grant opens is the loop's; that is held against rules, and not foreseen here.

use std::collections::BTreeSet;

use postern_api::ErrorCode;
use proptest::{prelude::*, sample::Index};
use proptest_state_machine::ReferenceStateMachine;

use super::cloud::Fault;

/// Who asks. The first may approve, too.
pub(crate) const REQUESTERS: [&str; 2] = ["ada", "dan"];
/// Who approves.
pub(crate) const APPROVERS: [&str; 3] = ["ada", "bob", "eve"];
/// How many people must agree at each machine.
pub(crate) const NEEDS: [usize; 3] = [0, 1, 2];
/// How long a request waits for them.
pub(crate) const PENDING_SECONDS: i64 = 600;

#[derive(Debug, Clone)]
pub(crate) enum Transition {
    /// Somebody asks; sent twice under one key, where it says so.
    Ask {
        by: usize,
        machines: BTreeSet<usize>,
        seconds: i64,
        twice: bool,
        /// How far ahead it starts.
        ahead: Option<i64>,
        best_effort: bool,
    },
    /// Whose a grant is asks for it to last so long in all.
    Extend {
        request: Index,
        seconds: i64,
    },
    /// Nothing can be opened any more at a machine, or can again.
    Block {
        machine: usize,
        blocked: bool,
    },
    Approve {
        request: Index,
        by: usize,
        narrow: Option<i64>,
    },
    /// Two people who did not ask approve at the same instant.
    ApproveTogether {
        request: Index,
        by: [usize; 2],
    },
    Deny {
        request: Index,
        by: usize,
    },
    Withdraw {
        request: Index,
        by: usize,
    },
    /// Somebody ends a grant of a request, while the loop is at it, where it says so.
    Revoke {
        request: Index,
        by: Revoker,
        meanwhile: bool,
    },
    Freeze,
    Lift,
    Advance {
        seconds: i64,
    },
    /// The loop takes what is due, once, and something goes wrong.
    Stumble {
        after: u8,
        fault: Fault,
    },
    /// The loop works until nothing is due.
    Settle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoker {
    Requester,
    Operator,
    Stranger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Approved,
    Denied,
    Withdrawn,
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) by: usize,
    pub(crate) machines: BTreeSet<usize>,
    pub(crate) seconds: i64,
    pub(crate) starts_at: Option<i64>,
    pub(crate) best_effort: bool,
    pub(crate) lapses_at: i64,
    pub(crate) agreed: BTreeSet<usize>,
    pub(crate) status: Status,
}

impl Asked {
    pub(crate) fn needs(&self) -> usize {
        self.machines
            .iter()
            .filter_map(|machine| NEEDS.get(*machine))
            .copied()
            .max()
            .unwrap_or(0)
    }

    fn lapsed(&self, now: i64) -> bool {
        self.status == Status::Pending && self.lapses_at <= now
    }

    /// The word that the API has for it.
    pub(crate) fn word(&self, now: i64) -> &'static str {
        match self.status {
            Status::Pending if self.lapsed(now) => "lapsed",
            Status::Pending => "pending",
            Status::Approved => "approved",
            Status::Denied => "denied",
            Status::Withdrawn => "withdrawn",
        }
    }

    fn undecided(&self, now: i64) -> Result<(), ErrorCode> {
        match self.status {
            Status::Pending if self.lapsed(now) => Err(ErrorCode::RequestLapsed),
            Status::Pending => Ok(()),
            _ => Err(ErrorCode::AlreadyDecided),
        }
    }

    fn approve(&mut self, by: usize, narrow: Option<i64>, now: i64) -> Result<(), ErrorCode> {
        self.undecided(now)?;
        if narrow.is_some_and(|seconds| seconds > self.seconds) {
            return Err(ErrorCode::WiderThanAsked);
        }
        if APPROVERS.get(by) == REQUESTERS.get(self.by) {
            return Err(ErrorCode::OwnRequest);
        }
        if self.agreed.contains(&by) {
            return Err(ErrorCode::AlreadyAgreed);
        }
        self.agreed.insert(by);
        self.seconds = narrow.unwrap_or(self.seconds);
        if self.agreed.len() >= self.needs() {
            self.status = Status::Approved;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// Seconds since the start.
    pub(crate) now: i64,
    pub(crate) frozen: bool,
    pub(crate) requests: Vec<Asked>,
    /// How each part of what was done last is answered; one of these, where parts of it were done at once.
    pub(crate) answers: Vec<Vec<Result<(), ErrorCode>>>,
}

impl Model {
    fn request(&mut self, index: Index) -> Option<&mut Asked> {
        if self.requests.is_empty() {
            return None;
        }
        let at = index.index(self.requests.len());
        self.requests.get_mut(at)
    }
}

pub(crate) struct Lifecycle;

impl ReferenceStateMachine for Lifecycle {
    type State = Model;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(state: &Model) -> BoxedStrategy<Transition> {
        let index = any::<Index>;
        let requester = 0..REQUESTERS.len();
        let approver = 0..APPROVERS.len();
        let ask = (
            requester.clone(),
            proptest::collection::btree_set(0..NEEDS.len(), 1..=2),
            prop_oneof![Just(60_i64), Just(300)],
            any::<bool>(),
            prop_oneof![2 => Just(None), 1 => Just(Some(45_i64))],
            any::<bool>(),
        )
            .prop_map(
                |(by, machines, seconds, twice, ahead, best_effort)| Transition::Ask {
                    by,
                    machines,
                    seconds,
                    twice,
                    ahead,
                    best_effort,
                },
            );
        if state.requests.is_empty() {
            return ask.boxed();
        }
        let narrow = prop_oneof![4 => Just(None), 2 => Just(Some(30_i64)), 1 => Just(Some(100))];
        let fault = prop_oneof![
            Just(Fault::DieBefore),
            Just(Fault::DieAfter),
            Just(Fault::FailBefore),
            Just(Fault::FailAfter),
        ];
        let revoker = prop_oneof![
            Just(Revoker::Requester),
            Just(Revoker::Operator),
            Just(Revoker::Stranger),
        ];
        let freeze = Just(if state.frozen {
            Transition::Lift
        } else {
            Transition::Freeze
        });
        prop_oneof![
            6 => ask,
            6 => (index(), approver.clone(), narrow)
                .prop_map(|(request, by, narrow)| Transition::Approve { request, by, narrow }),
            3 => (index(), prop_oneof![Just([1, 2]), Just([1, 1])])
                .prop_map(|(request, by)| Transition::ApproveTogether { request, by }),
            1 => (index(), approver).prop_map(|(request, by)| Transition::Deny { request, by }),
            1 => (index(), requester).prop_map(|(request, by)| Transition::Withdraw { request, by }),
            3 => (index(), revoker, any::<bool>())
                .prop_map(|(request, by, meanwhile)| Transition::Revoke { request, by, meanwhile }),
            2 => freeze,
            3 => (index(), prop_oneof![Just(200_i64), Just(900)])
                .prop_map(|(request, seconds)| Transition::Extend { request, seconds }),
            2 => (0..NEEDS.len(), any::<bool>())
                .prop_map(|(machine, blocked)| Transition::Block { machine, blocked }),
            4 => prop_oneof![Just(29_i64), Just(60), Just(301)]
                .prop_map(|seconds| Transition::Advance { seconds }),
            3 => (0..3_u8, fault).prop_map(|(after, fault)| Transition::Stumble { after, fault }),
            6 => Just(Transition::Settle),
        ]
        .boxed()
    }

    fn preconditions(state: &Model, transition: &Transition) -> bool {
        match transition {
            Transition::Freeze => !state.frozen,
            Transition::Lift => state.frozen,
            Transition::Ask { .. }
            | Transition::Advance { .. }
            | Transition::Block { .. }
            | Transition::Stumble { .. }
            | Transition::Settle => true,
            _ => !state.requests.is_empty(),
        }
    }

    fn apply(mut state: Model, transition: &Transition) -> Model {
        let now = state.now;
        state.answers.clear();
        let answer = match transition {
            Transition::Ask {
                by,
                machines,
                seconds,
                ahead,
                best_effort,
                ..
            } => {
                if state.frozen {
                    Err(ErrorCode::Frozen)
                } else {
                    let mut asked = Asked {
                        by: *by,
                        machines: machines.clone(),
                        seconds: *seconds,
                        starts_at: ahead.map(|ahead| now + ahead),
                        best_effort: *best_effort,
                        lapses_at: now + PENDING_SECONDS,
                        agreed: BTreeSet::new(),
                        status: Status::Pending,
                    };
                    if asked.needs() == 0 {
                        asked.status = Status::Approved;
                    }
                    state.requests.push(asked);
                    Ok(())
                }
            }
            Transition::Approve { request, by, narrow } => state
                .request(*request)
                .map_or(Ok(()), |asked| asked.approve(*by, *narrow, now)),
            Transition::ApproveTogether { request, by } => {
                let [one, other] = *by;
                if let Some(asked) = state.request(*request) {
                    let mut turned = asked.clone();
                    let one_first = [one, other].map(|by| asked.approve(by, None, now));
                    let mut other_first = [other, one].map(|by| turned.approve(by, None, now));
                    other_first.reverse();
                    state.answers = vec![one_first.to_vec(), other_first.to_vec()];
                }
                return state;
            }
            Transition::Deny { request, .. } => state.request(*request).map_or(Ok(()), |asked| {
                asked.undecided(now)?;
                asked.status = Status::Denied;
                Ok(())
            }),
            Transition::Withdraw { request, by } => state.request(*request).map_or(Ok(()), |asked| {
                if asked.by != *by {
                    return Err(ErrorCode::NotTheRequester);
                }
                asked.undecided(now)?;
                asked.status = Status::Withdrawn;
                Ok(())
            }),
            Transition::Revoke { by, .. } => {
                if *by == Revoker::Stranger {
                    Err(ErrorCode::Forbidden)
                } else {
                    Ok(())
                }
            }
            Transition::Freeze => {
                state.frozen = true;
                for asked in &mut state.requests {
                    if asked.undecided(now).is_ok() {
                        asked.status = Status::Denied;
                    }
                }
                Ok(())
            }
            Transition::Lift => {
                state.frozen = false;
                Ok(())
            }
            Transition::Advance { seconds } => {
                state.now += seconds;
                Ok(())
            }
            // Whether a grant is open is the loop's; whoever extends one looks for themselves.
            Transition::Extend { .. }
            | Transition::Block { .. }
            | Transition::Stumble { .. }
            | Transition::Settle => Ok(()),
        };
        state.answers.push(vec![answer]);
        state
    }
}
