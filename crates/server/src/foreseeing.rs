//! What a request, or a change of a policy, would write, in the planners' own words.
//!
//! The grants are made, or the policy is changed, in a transaction that is taken back. What is wanted of each of their
//! points then is planned over a fresh reading, and nothing of the plan is carried out.

use std::{collections::BTreeSet, time::Duration};

use postern_api::preflight as api;
use postern_core::{
    approach::is_firewall,
    enforcer::{Change, Desired, Obstacle, Plan},
    grant::{Grant, Live},
    id::GrantId,
    inventory::{Layer, MARK_TAG, Machine},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    point::PointRef,
    request::{AccessRequest, Approved},
    sg::SecurityGroup,
    time::Instant,
};
use postern_store::Tx;
use serde_json::Value;

use crate::{failure::Failure, granting::Terms, state::App};

/// The longest that waiting for the turn and reading all points may take. A request of its own may take `limits.request_seconds`.
const PATIENCE: Duration = Duration::from_secs(15);

/// The most instances that the plan of a policy reads anew.
const MOST_READ: usize = 20;

impl App {
    /// What would be written at each point, now, for a request that exists nowhere. `whole` shows the rules, too, which
    /// may name others' addresses.
    pub(crate) async fn foresee(
        &self,
        request: &AccessRequest<Approved>,
        terms: &[Terms],
        whole: bool,
        now: Instant,
    ) -> Result<Vec<api::DryRunPoint>, Failure> {
        let at_once = AccessRequest {
            starts_at: None,
            ..request.clone()
        };
        let mut tx = self.store.begin().await?;
        tx.insert_request(&at_once.clone().into()).await?;
        let grants = self.grant_or_extend(&mut tx, &at_once, terms, now).await?;
        // As if all were open: what waits for another point to open first is planned as well.
        let mut open = Vec::with_capacity(grants.len());
        for grant in grants {
            let Ok(Live::Opening(opening)) = grant.live() else {
                return Err(Failure::internal("a grant that begins at once is opening"));
            };
            open.push(Grant::from(opening.confirm_open(now)));
        }
        tx.save_grants(&open).await?;
        let ids: Vec<GrantId> = open.iter().map(|grant| grant.id).collect();
        let mut wanted = Vec::new();
        for point in tx.points_of(&ids).await? {
            wanted.push(tx.look(&self.config.installation, point).await?.desired);
        }
        tx.rollback().await?;

        let ids: BTreeSet<GrantId> = ids.into_iter().collect();
        let ours = |all: &[GrantId]| all.iter().any(|grant| ids.contains(grant));
        let points = self
            .foresee_each(&wanted, |desired, plan| {
                let changes = plan.changes.into_iter();
                let changes = changes.filter(|change| ours(&change.grants)).map(|change| {
                    // A firewall is one document, with the rules of machines that the caller may not read.
                    let change = if is_firewall(&desired.point) {
                        only_of(change, &ids)
                    } else {
                        change
                    };
                    show(change, whole)
                });
                let obstacles = plan.obstacles.into_iter().filter(|one| ours(&one.grants));
                (changes.collect(), obstacles.map(tell).collect())
            })
            .await;
        Ok(points)
    }

    /// What a change of a policy wants of the EC2 instances, as the transaction has it, where it isolates them from
    /// groups that others use or no longer does: of the first [`MOST_READ`].
    pub(crate) async fn wanted_of_isolated(
        &self,
        tx: &mut Tx,
        machines: impl Iterator<Item = &Machine>,
        isolates: impl Fn(&Machine) -> bool,
        now: Instant,
    ) -> Result<Vec<Desired>, Failure> {
        let points: BTreeSet<PointRef> = machines
            .filter_map(|machine| match &machine.id {
                MachineId::Aws(instance) => {
                    let concerned = isolates(machine) || has_copies(machine, &self.config.installation);
                    concerned.then(|| PointRef::AwsInstance(instance.clone()))
                }
                MachineId::Azure(_) => None,
            })
            .take(MOST_READ)
            .collect();
        let mut wanted = Vec::with_capacity(points.len());
        for id in tx.ensure_points(&points, &*self.ids, now).await?.into_values() {
            wanted.push(tx.look(&self.config.installation, id).await?.desired);
        }
        Ok(wanted)
    }

    /// The private copies of groups that would be made there, filled, attached and taken away, with their rules. Whoever
    /// asks may read the machines.
    pub(crate) async fn foresee_copies(&self, wanted: &[Desired]) -> Vec<api::DryRunPoint> {
        let points = self
            .foresee_each(wanted, |_, plan| {
                // What is of grants is not of the policy, and what is of neither puts groups back.
                let changes = plan.changes.into_iter().filter(|change| change.grants.is_empty());
                let obstacles = plan.obstacles.into_iter().filter(|one| !one.policies.is_empty());
                (
                    changes.map(|change| show(change, true)).collect(),
                    obstacles.map(tell).collect(),
                )
            })
            .await;
        let says = |point: &api::DryRunPoint| {
            !(point.changes.is_empty() && point.obstacles.is_empty() && point.unread.is_none())
        };
        points.into_iter().filter(says).collect()
    }

    /// Plans over a fresh reading of each point, and tells of it what `told` picks.
    async fn foresee_each(
        &self,
        wanted: &[Desired],
        told: impl Fn(&Desired, Plan) -> (Vec<api::DryRunChange>, Vec<api::DryRunObstacle>),
    ) -> Vec<api::DryRunPoint> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // One dry run at a time, and one point after the other: whoever tries all day must not use up the calls that
        // openings need.
        let turn = tokio::time::timeout_at(deadline, self.foresight.acquire()).await;
        let mut points = Vec::with_capacity(wanted.len());
        for desired in wanted {
            let point = desired.point.to_string();
            if !matches!(turn, Ok(Ok(_))) {
                let reason = "other dry runs are reading; try again".to_owned();
                points.push(unread(point, reason));
                continue;
            }
            let plan = tokio::time::timeout_at(deadline, self.plan_of(desired)).await;
            points.push(match plan {
                Ok(Ok(plan)) => {
                    let (changes, obstacles) = told(desired, plan);
                    api::DryRunPoint {
                        point,
                        changes,
                        obstacles,
                        unread: None,
                    }
                }
                Ok(Err(reason)) => unread(point, reason),
                Err(_) => unread(point, "the cloud did not answer in time".to_owned()),
            });
        }
        points
    }

    async fn plan_of(&self, desired: &Desired) -> Result<Plan, String> {
        let cloud = desired.point.cloud();
        let enforcer = self
            .enforcers
            .iter()
            .find(|enforcer| enforcer.cloud() == cloud)
            .ok_or_else(|| format!("this server does not guard {cloud}"))?;
        let observed = enforcer
            .observe(desired)
            .await
            .map_err(|error| error.to_string())?;
        Ok(observed.plan(desired))
    }
}

/// Whether a private copy of ours stands at the machine, as last observed.
fn has_copies(machine: &Machine, installation: &Installation) -> bool {
    let is_copy = |group: &SecurityGroup| {
        let mark = group.tags.get(MARK_TAG).and_then(|text| Mark::parse(text));
        mark.is_some_and(|mark| {
            mark.installation == *installation && matches!(mark.purpose, Purpose::Copy { .. })
        })
    };
    machine
        .interfaces
        .iter()
        .flat_map(|interface| &interface.layers)
        .any(|layer| matches!(layer, Layer::SecurityGroups { groups } if groups.iter().any(is_copy)))
}

fn tell(obstacle: Obstacle) -> api::DryRunObstacle {
    api::DryRunObstacle {
        code: obstacle.code,
        detail: obstacle.message,
    }
}

fn unread(point: String, reason: String) -> api::DryRunPoint {
    api::DryRunPoint {
        point,
        changes: Vec::new(),
        obstacles: Vec::new(),
        unread: Some(reason),
    }
}

/// The change without rules but those of the grants.
fn only_of(change: Change, grants: &BTreeSet<GrantId>) -> Change {
    fn rules(value: &Value, grants: &BTreeSet<GrantId>, found: &mut Vec<Value>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| rules(item, grants, found)),
            Value::Object(members) => {
                let text = members.get("description").and_then(Value::as_str);
                let purpose = text.and_then(Mark::parse).map(|mark| mark.purpose);
                if matches!(purpose, Some(Purpose::Grant { grant, .. }) if grants.contains(&grant)) {
                    found.push(value.clone());
                } else {
                    members.values().for_each(|member| rules(member, grants, found));
                }
            }
            _ => {}
        }
    }
    let of = |value: Option<Value>| {
        let mut found = Vec::new();
        rules(&value?, grants, &mut found);
        (!found.is_empty()).then_some(Value::Array(found))
    };
    Change {
        before: of(change.before),
        after: of(change.after),
        ..change
    }
}

fn show(change: Change, whole: bool) -> api::DryRunChange {
    api::DryRunChange {
        verb: change.verb.as_str().to_owned(),
        target: change.target,
        summary: change.summary,
        before: change.before.filter(|_| whole),
        after: change.after.filter(|_| whole),
    }
}
