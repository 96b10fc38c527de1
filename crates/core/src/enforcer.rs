//! What the reconcile loop asks of a cloud: discover, observe, plan, apply.
//!
//! `observe` and `apply` talk to the cloud and make no choices. [`Observed::plan`] makes every choice and talks
//! to nobody: it has no clock and no randomness, and the same desired and observed state give the same plan.
//! Every change is idempotent: applying it again, or applying it when it was already in effect, is success.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    approach::Approach,
    budget::{Level, Purpose},
    id::{DisplacedId, GrantId, PolicyId},
    inventory::Machine,
    machine::{Account, Cloud, MachineId},
    mark::{Installation, Mark},
    net::{Ports, Source},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    preview::Filters,
    time::Instant,
};

/// What is wanted of one enforcement point. The whole of it: a rule of ours that does not follow from this is
/// closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Whose rules these are.
    pub installation: Installation,
    /// Where.
    pub point: PointRef,
    /// The machines behind the point, guarded or not, in the order of their ids.
    pub members: Vec<Member>,
    /// What lockdowns took out of the way here and has not been put back, oldest first.
    pub displaced: Vec<Displaced>,
    /// Whether something that was wanted or taken back here waits to be confirmed: a grant that ended, or a change
    /// without an outcome. A cloud that shows a state which is not in force is then made to settle.
    #[serde(default)]
    pub unsettled: bool,
}

impl Desired {
    /// The members whose lockdown is kept at this point. At an EC2 instance that is what gives it private copies of
    /// groups; everything else is kept at the groups themselves.
    pub fn locked_down(&self) -> impl Iterator<Item = &Member> {
        let at_instance = matches!(self.point, PointRef::AwsInstance(_));
        self.members.iter().filter(move |member| {
            member
                .guard
                .as_ref()
                .is_some_and(|guard| !at_instance || guard.shared_groups == SharedGroups::Isolate)
        })
    }

    /// Whose turn the calls that read the point are.
    pub const fn purpose(&self) -> Purpose {
        if self.unsettled {
            Purpose::Close
        } else {
            Purpose::Open
        }
    }
}

/// A machine behind the point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The machine.
    pub machine: MachineId,
    /// The private addresses through which the point sees it, as last discovered, sorted.
    pub addresses: Vec<IpAddr>,
    /// Its interfaces behind this point (`eni-…`, or lower-case ARM ids), sorted.
    pub interfaces: Vec<String>,
    /// The lockdown that it is under, where the point has a part in it.
    pub guard: Option<Guard>,
    /// How packets get to it, where a firewall stands before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approach: Option<Approach>,
    /// The grants that are wanted on it, in the order of their ids.
    pub grants: Vec<WantedGrant>,
}

/// The lockdown of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The policy that asks for it.
    pub policy: PolicyId,
    /// The ports to keep closed, sorted, not overlapping.
    pub ports: Vec<Ports>,
    /// How strictly.
    pub lockdown: Lockdown,
    /// What happens to groups shared with unguarded machines (AWS).
    pub shared_groups: SharedGroups,
}

/// A grant that wants to be open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedGrant {
    /// Which.
    pub grant: GrantId,
    /// The ports, sorted.
    pub ports: Vec<Ports>,
    /// From where this hop sees the packets come, sorted.
    pub sources: Vec<Source>,
    /// The latest end, for the mark.
    pub not_after: Instant,
    /// Whether it was not confirmed as open yet. What would be told of an open one is in the way of such a one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opening: bool,
}

/// A foreign rule that a lockdown took out of the way, with what is needed to put it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// Its id. The planner derives it from the rule and its resource, so that planning stays pure.
    pub id: DisplacedId,
    /// The rule as it was, in the enforcer's own encoding.
    pub rule: Value,
    /// The rules of ours that keep open what was not guarded, likewise.
    pub residuals: Vec<Value>,
}

/// What a change does, for the journal and the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Lets a grant's packets in.
    Open,
    /// Takes a grant's rules away.
    Close,
    /// Keeps guarded ports closed, or displaces a rule that holds them open.
    LockDown,
    /// Puts back what a lockdown displaced, or lifts its deny.
    Restore,
    /// Puts a rule of ours right that somebody edited, moved or removed.
    Repair,
}

impl Verb {
    /// The verb's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::LockDown => "lock_down",
            Self::Restore => "restore",
            Self::Repair => "repair",
        }
    }

    /// Whose turn the calls for it are.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Close | Self::LockDown => Purpose::Close,
            Self::Open | Self::Restore | Self::Repair => Purpose::Open,
        }
    }
}

/// One write to a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it does.
    pub verb: Verb,
    /// The native id of the resource that is written.
    pub target: String,
    /// What happens, in one line for people.
    pub summary: String,
    /// The grants that it is for.
    pub grants: Vec<GrantId>,
    /// The policies that it is for.
    pub policies: Vec<PolicyId>,
    /// What stands there now, where something does.
    pub before: Option<Value>,
    /// What will stand there.
    pub after: Option<Value>,
    /// The call, in the enforcer's own encoding; what [`Enforcer::apply`] carries out.
    pub operation: Value,
    /// Foreign rules that the change displaces; saved in the transaction that commits the intent.
    pub displaces: Vec<Displaced>,
}

/// What is wanted and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// A stable word: `no_free_priority`, `groups_per_interface`, `rules_per_group`, `shared_group`,
    /// `machine_not_behind_point`, `foreign_rule_in_the_way`, `displaced_rule_unreadable`; of firewalls `no_ipv4`
    /// (they filter IPv4 alone, and the machine or every source has no such address), `too_many_mapped_ports` (each port
    /// of a range would be mapped by itself), `no_free_port` (the band of mapped ports is used up), and where no more fits
    /// `destinations_per_firewall`, `groups_per_policy` and `bytes_per_group`.
    pub code: String,
    /// What stands in the way, by name.
    pub message: String,
    /// The grants that cannot be opened because of it.
    pub grants: Vec<GrantId>,
    /// The policies that cannot be kept because of it.
    pub policies: Vec<PolicyId>,
}

/// Something that was noticed about others' rules, or about ours in others' hands. Reported, never acted on
/// beyond what [`Change`]s say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable word: `own_rule_edited`, `own_rule_missing`, `displaced_rule_returned`,
    /// `residual_rule_edited`, `displaced_group_gone`, `foreign_rule_blocks`, `foreign_rule_may_block`,
    /// `foreign_rule_opens`, `foreign_rule_may_open` (it leads to something that may lead on, and could not be read),
    /// `protocols_not_kept`, `shared_group`, `own_group_named` (a rule of others keeps a group of ours from being
    /// deleted), `restore_refused` (the cloud does not take back what was displaced).
    pub code: String,
    /// What was noticed, for people.
    pub message: String,
    /// As it was or should be.
    pub before: Option<Value>,
    /// As it is.
    pub after: Option<Value>,
    /// Grants that it concerns.
    pub grants: Vec<GrantId>,
}

impl Finding {
    /// Whether somebody changed what was as it should be: a rule of ours, or what a lockdown keeps closed. The other
    /// findings tell of what never was as one might expect.
    pub fn is_drift(&self) -> bool {
        matches!(
            self.code.as_str(),
            "own_rule_edited"
                | "own_rule_missing"
                | "displaced_rule_returned"
                | "residual_rule_edited"
                | "displaced_group_gone"
                | "foreign_rule_opens"
        )
    }
}

/// What it takes to get from the observed to the desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order in which they must be applied: closings before openings, and no step ever lets through
    /// what neither the state before nor the state after would.
    pub changes: Vec<Change>,
    /// What cannot be had.
    pub obstacles: Vec<Obstacle>,
    /// What was noticed.
    pub findings: Vec<Finding>,
    /// Displaced rules that are back as they were, or whose place is gone: nothing is left to restore.
    pub settled: Vec<DisplacedId>,
}

/// How much of a grant stands at a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Whether everything that was wanted of this point is there and lets packets through. False when parts are
    /// missing, and for grants that are not wanted.
    pub complete: bool,
    /// The rules as read, for the receipt.
    pub rules: Value,
    /// The rule of somebody else's that stops the packets all the same, if one does.
    pub blocked_by: Option<String>,
}

/// What tells two readings of a point apart, or two changes (SHA-256): nobody finds an edit that leaves it as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print([u8; 32]);

impl Print {
    /// Of a value, in its order. None where it has no JSON.
    pub fn of(value: &impl Serialize) -> Option<Self> {
        struct Digest(Sha256);

        impl io::Write for Digest {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let mut digest = io::BufWriter::new(Digest(Sha256::new()));
        serde_json::to_writer(&mut digest, value).ok()?;
        let digest = digest.into_inner().ok()?;
        Some(Self(digest.0.finalize().into()))
    }
}

/// In hexadecimal, 64 digits.
impl fmt::Display for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A point as it was read. Pure: nothing here talks to anybody.
pub trait Observed: Send + Sync + fmt::Debug {
    /// What to change. Never touches a rule that is not ours, except those that a lockdown displaces.
    fn plan(&self, desired: &Desired) -> Plan;

    /// Every grant of this installation of which any rule stands here, wanted or not, and every wanted grant of
    /// which one does. A grant that is not in the answer is closed at this point.
    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence>;

    /// The state as read, for the journal.
    fn snapshot(&self) -> Value;

    /// Whether the state shows what a write was to bring about: what that found ([`Change::before`]), and the call
    /// itself ([`Change::operation`]). None where the state does not tell. That a write is not planned any more says
    /// nothing of it where what is wanted has changed.
    fn shows(&self, _before: Option<&Value>, _operation: &Value) -> Option<bool> {
        None
    }

    /// What carrying out `changes`, as planned here, would make of the filters that were read. None where those are not
    /// previewed.
    fn filters(&self, _changes: &[Change]) -> Option<Filters> {
        None
    }

    /// A digest of all that [`Observed::plan`] and [`Observed::evidence`] go by, so that a reading that tells the same
    /// again need not be judged again. None where there is no such digest: such a reading is always judged.
    fn print(&self) -> Option<Print> {
        None
    }

    /// Whether what was read is what is in force. False while the cloud shows a state that it failed to carry out
    /// or is still carrying out: nothing is confirmed on such a reading.
    fn settled(&self) -> bool {
        true
    }

    /// Whether a reading that is not settled only lags behind what was written, so that nothing has to be done but to
    /// look again.
    fn lags(&self) -> bool {
        false
    }
}

/// Names that earlier changes of a pass made known to later ones, such as the id of a group that was just made.
pub type Bindings = BTreeMap<String, String>;

/// A rule or group that carries a mark, found without a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// The mark.
    pub mark: Mark,
    /// The native id of the rule or group.
    pub resource: String,
    /// The account that holds it.
    pub account: Account,
    /// The resource as read.
    pub detail: Value,
}

/// The accounts that an enforcer is configured to guard, as far as it is known which these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Those that are known (for AWS, one entry per account and region).
    pub found: Vec<Account>,
    /// Where it is not known which there are, such as an AWS account that does not tell its regions.
    pub failed: Vec<Unlisted>,
}

/// Accounts of which it is not known which there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// The scope of all of them: `/aws/<account>`, or `/azure` for every subscription, and for one whose id is none.
    pub scope: String,
    /// Why.
    pub error: EnforceError,
}

/// Points, and the installations whose marks stand there.
pub type Marks = BTreeMap<PointRef, BTreeSet<Installation>>;

/// One page of a discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoveryPage {
    /// The machines of the page.
    pub machines: Vec<Machine>,
    /// The points of the account at which something carries a mark, whether or not a machine stands behind them, and
    /// whose marks these are; as far as what discovery reads tells. An EC2 group without a mark of its own is only known
    /// where a machine has it.
    pub marked: Marks,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
    /// When the oldest of what the page tells was asked for, where that was before the page was: an enforcer may go on
    /// with what an earlier question had read when it failed.
    pub since: Option<Instant>,
}

/// Why a cloud did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnforceError {
    /// The resource is not there (any more).
    #[error("`{resource}` does not exist ({code})")]
    Gone {
        /// Which.
        resource: String,
        /// The cloud's code.
        code: String,
    },
    /// Our credentials may not do this.
    #[error("not allowed to {operation} ({code}): {message}")]
    Forbidden {
        /// The call, in the cloud's own words, so that the missing permission can be granted.
        operation: String,
        /// The cloud's code.
        code: String,
        /// The cloud's message.
        message: String,
    },
    /// Too many calls.
    #[error("throttled at {operation}")]
    Throttled {
        /// The call.
        operation: String,
        /// When the cloud says to try again.
        retry_after: Option<Duration>,
    },
    /// Somebody else changed the resource in between, or is changing it: look again and plan anew.
    #[error("`{resource}` changed meanwhile ({code})")]
    Conflict {
        /// Which.
        resource: String,
        /// The cloud's code.
        code: String,
    },
    /// No answer, or one that does not say whether the change took effect.
    #[error("{operation} did not answer clearly: {message}")]
    Unavailable {
        /// The call.
        operation: String,
        /// What happened.
        message: String,
    },
    /// The cloud says no, and will say so again.
    #[error("{operation} was refused ({code}): {message}")]
    Refused {
        /// The call.
        operation: String,
        /// The cloud's code.
        code: String,
        /// The cloud's message.
        message: String,
    },
    /// What the cloud sent could not be understood, or what was asked of the enforcer makes no sense.
    #[error("{0}")]
    Malformed(String),
}

impl EnforceError {
    /// Whether the error says nothing against what was asked for, such as the page of a list: the same question may be
    /// answered later. A stale page of EC2 is refused (`InvalidPaginationToken`, `InvalidParameterValue`), and may lead
    /// to what is not there any more (`InvalidInstanceID.NotFound`, <https://github.com/aws/aws-sdk-java/issues/911>).
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::Forbidden { .. } => true,
            Self::Gone { .. } | Self::Conflict { .. } | Self::Refused { .. } | Self::Malformed(_) => false,
        }
    }
}

/// A write that was answered lately, by whichever process: what the journal has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// [`Change::before`].
    pub before: Option<Value>,
    /// [`Change::operation`].
    pub operation: Value,
    /// What [`Enforcer::apply`] answered, or how the outcome came to be known.
    pub answer: Value,
    /// How long ago the outcome was recorded, by the database's clock; the write was before that.
    pub age: Duration,
}

/// The code for one cloud.
#[async_trait]
pub trait Enforcer: Send + Sync + fmt::Debug {
    /// Which cloud.
    fn cloud(&self) -> Cloud;

    /// The accounts that it is configured to guard. One that does not answer leaves the others in.
    async fn accounts(&self) -> Accounts;

    /// A page of an account's machines; `cursor` is the `next` of the page before.
    async fn discover(&self, account: &Account, cursor: Option<&str>) -> Result<DiscoveryPage, EnforceError>;

    /// Reads the point, with whatever `desired` makes relevant. [`EnforceError::Gone`] when it does not exist.
    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError>;

    /// Carries out one change. Safe to repeat.
    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        bindings: &mut Bindings,
    ) -> Result<Value, EnforceError>;

    /// Everything in the account that carries a mark of `installation`; for the sweeper.
    async fn marked(
        &self,
        account: &Account,
        installation: &Installation,
    ) -> Result<Vec<Marked>, EnforceError>;

    /// Removes a marked rule or group, detaching it first where needed. Safe to repeat.
    async fn remove(&self, marked: &Marked) -> Result<(), EnforceError>;

    /// The longest that a call may take; a new owner of a point waits this long before it writes.
    fn request_timeout(&self) -> Duration;

    /// Keeps one part of `servers` of every call budget from now on: so many servers call this cloud, and the one of the
    /// others that has least left of its budgets has that part of them, 0 to 1. Nothing where no budgets are kept.
    fn share_budgets(&self, _servers: u32, _left: f64) {}

    /// What is left of the call budgets of the accounts that were called. Empty where none are kept.
    fn budgets(&self) -> Vec<Level> {
        Vec::new()
    }

    /// The accounts that refuse calls for their rate, and for how long none makes sense.
    fn stopped_accounts(&self) -> BTreeMap<Account, Duration> {
        BTreeMap::new()
    }

    /// For how long after a write was answered a reading may tell of the time before it. Zero where every reading
    /// shows every write.
    fn describe_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// What was written at a point within [`Enforcer::describe_lag`], oldest first, this enforcer's own writes
    /// included; told before a pass looks, so that a reading that lags behind another process is known for one.
    fn recall(&self, _point: &PointRef, _written: &[Recalled]) {}
}
