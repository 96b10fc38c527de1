//! What a request, or a change of a policy, would write, in the planners' own words.
//!
//! The grants are made, or the policy is changed, in a transaction that is taken back. What is wanted of each of their
//! points then is planned over a fresh reading, and nothing of the plan is carried out.

use std::{collections::BTreeSet, time::Duration};

use postern_api::preflight as api;
use postern_core::{
    approach::is_firewall,
    enforcer::{Change, Desired, Observed, Obstacle, Plan},
    grant::{Grant, Live},
    id::GrantId,
    mark::{Mark, Purpose},
    point::PointRef,
    preview::Filters,
    request::{AccessRequest, Approved},
    time::Instant,
};
use serde_json::Value;

use crate::{failure::Failure, granting::Terms, state::App};

/// The longest that waiting for the turn and reading all points may take. A request of its own may take `limits.request_seconds`.
const PATIENCE: Duration = Duration::from_secs(15);

/// What becomes of a point.
#[derive(Debug)]
pub(crate) struct Foreseen {
    /// What would be done.
    pub(crate) plan: Plan,
    /// What that would make of its filters, where that is previewed.
    pub(crate) filters: Option<Filters>,
}

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
            .foresee_each(&wanted, |desired, _, plan| {
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
                api::DryRunPoint {
                    point: desired.point.to_string(),
                    changes: changes.collect(),
                    rules_not_shown: 0,
                    obstacles: obstacles.map(tell).collect(),
                    unread: None,
                }
            })
            .await;
        let points = points.into_iter().zip(&wanted);
        Ok(points
            .map(|(point, desired)| point.unwrap_or_else(|reason| unread(&desired.point, reason)))
            .collect())
    }

    /// What becomes of each point, from a fresh reading, or why it could not be read.
    pub(crate) async fn foresee_points(&self, wanted: &[Desired]) -> Vec<Result<Foreseen, String>> {
        self.foresee_each(wanted, |_, observed, plan| Foreseen {
            filters: observed.filters(&plan.changes),
            plan,
        })
        .await
    }

    /// Plans over a fresh reading of each point, and tells of it what `told` picks; or why it could not be read.
    async fn foresee_each<T>(
        &self,
        wanted: &[Desired],
        told: impl Fn(&Desired, &dyn Observed, Plan) -> T,
    ) -> Vec<Result<T, String>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // One dry run at a time, and one point after the other: whoever tries all day must not use up the calls that
        // openings need.
        let turn = tokio::time::timeout_at(deadline, self.foresight.acquire()).await;
        let mut points = Vec::with_capacity(wanted.len());
        for desired in wanted {
            if !matches!(turn, Ok(Ok(_))) {
                points.push(Err("other dry runs are reading; try again".to_owned()));
                continue;
            }
            let observed = tokio::time::timeout_at(deadline, self.read(desired)).await;
            points.push(match observed {
                Ok(observed) => observed.map(|observed| {
                    let plan = observed.plan(desired);
                    told(desired, &*observed, plan)
                }),
                Err(_) => Err("the cloud did not answer in time".to_owned()),
            });
        }
        points
    }

    async fn read(&self, desired: &Desired) -> Result<Box<dyn Observed>, String> {
        let cloud = desired.point.cloud();
        let enforcer = self
            .enforcers
            .iter()
            .find(|enforcer| enforcer.cloud() == cloud)
            .ok_or_else(|| format!("this server does not guard {cloud}"))?;
        let observed = enforcer.observe(desired).await;
        observed.map_err(|error| error.to_string())
    }
}

pub(crate) fn tell(obstacle: Obstacle) -> api::DryRunObstacle {
    api::DryRunObstacle {
        code: obstacle.code,
        detail: obstacle.message,
    }
}

/// The point could not be read.
pub(crate) fn unread(point: &PointRef, reason: String) -> api::DryRunPoint {
    api::DryRunPoint {
        point: point.to_string(),
        changes: Vec::new(),
        rules_not_shown: 0,
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

pub(crate) fn show(change: Change, whole: bool) -> api::DryRunChange {
    api::DryRunChange {
        verb: change.verb.as_str().to_owned(),
        target: change.target,
        summary: change.summary,
        before: change.before.filter(|_| whole),
        after: change.after.filter(|_| whole),
    }
}
