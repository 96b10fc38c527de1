//! What a request would write, in the planners' own words.
//!
//! The grants are made in a transaction that is taken back. What is wanted of each of their points then is planned over a
//! fresh reading, and nothing of the plan is carried out.

use std::{collections::BTreeSet, time::Duration};

use postern_api::preflight as api;
use postern_core::{
    approach::is_firewall,
    enforcer::{Change, Desired, Obstacle},
    grant::{Grant, Live},
    id::GrantId,
    mark::{Mark, Purpose},
    request::{AccessRequest, Approved},
    time::Instant,
};

use serde_json::Value;

use crate::{failure::Failure, granting::Terms, state::App};

/// The longest that waiting for the turn and reading all points may take. A request of its own may take `limits.request_seconds`.
const PATIENCE: Duration = Duration::from_secs(15);

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
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // One dry run at a time, and one point after the other: whoever tries requests all day must not use up the calls
        // that openings need.
        let turn = tokio::time::timeout_at(deadline, self.foresight.acquire()).await;
        let mut points = Vec::with_capacity(wanted.len());
        for desired in &wanted {
            points.push(match &turn {
                Ok(Ok(_permit)) => self.foresee_at(desired, &ids, whole, deadline).await,
                _ => unread(
                    desired.point.to_string(),
                    "other dry runs are reading; try again".to_owned(),
                ),
            });
        }
        Ok(points)
    }

    async fn foresee_at(
        &self,
        desired: &Desired,
        grants: &BTreeSet<GrantId>,
        whole: bool,
        deadline: tokio::time::Instant,
    ) -> api::DryRunPoint {
        let point = desired.point.to_string();
        let (changes, obstacles) = match tokio::time::timeout_at(deadline, self.plan_of(desired)).await {
            Ok(Ok(plan)) => plan,
            Ok(Err(reason)) => return unread(point, reason),
            Err(_) => return unread(point, "the cloud did not answer in time".to_owned()),
        };
        let ours = |all: &[GrantId]| all.iter().any(|grant| grants.contains(grant));
        api::DryRunPoint {
            point,
            changes: changes
                .into_iter()
                .filter(|change| ours(&change.grants))
                .map(|change| {
                    // A firewall is one document, with the rules of machines that the caller may not read.
                    if is_firewall(&desired.point) {
                        only_of(change, grants)
                    } else {
                        change
                    }
                })
                .map(|change| show(change, whole))
                .collect(),
            obstacles: obstacles
                .into_iter()
                .filter(|one| ours(&one.grants))
                .map(|one| api::DryRunObstacle {
                    code: one.code,
                    detail: one.message,
                })
                .collect(),
            unread: None,
        }
    }

    async fn plan_of(&self, desired: &Desired) -> Result<(Vec<Change>, Vec<Obstacle>), String> {
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
        let plan = observed.plan(desired);
        Ok((plan.changes, plan.obstacles))
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
