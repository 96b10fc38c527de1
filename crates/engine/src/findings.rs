//! Findings: reported once, kept as rows with the machines and grants that they concern, and ended when they are put
//! right.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use postern_core::{
    audit::AuditEvent,
    enforcer::{Desired, Finding, Member, Plan, Verb},
    id::GrantId,
    machine::MachineId,
};
use postern_store::{Lease, NewFinding, StoreError, Tx};
use serde_json::json;

use crate::{
    Engine,
    events::{Events, PassRef},
    metrics::CodeLabels,
    outcome::Looked,
    pass::View,
};

/// Rules of ours that stood at the last look and are gone, or are not as they stood, and rules of others that came. The
/// planners cannot tell: to them a grant without a rule is one that is not open yet, and a lockdown that has something to
/// do one that is new or whose policy changed.
pub(crate) fn missing(view: &View, evidence: &BTreeSet<GrantId>, plan: &Plan) -> Vec<Finding> {
    let changes = &plan.changes;
    let mut found: Vec<Finding> = view
        .present
        .iter()
        .filter(|grant| !evidence.contains(grant) && !view.over.contains_key(grant))
        .filter(|grant| !plan.findings.iter().any(|finding| finding.grants.contains(grant)))
        .map(|grant| Finding {
            code: "own_rule_missing".to_owned(),
            message: format!("what stood here for {grant} was removed by somebody else"),
            before: changes
                .iter()
                .find(|change| change.verb == Verb::Open && change.grants.contains(grant))
                .and_then(|change| change.after.clone()),
            after: None,
            grants: vec![*grant],
        })
        .collect();
    if view.was_locked() {
        found.extend(came(view, plan));
    }
    // Where a rule of others is displaced now, what is written beside it is new and not lost; and where a planner has
    // something to tell, what it writes has that reason.
    let has_reason = plan.findings.iter().any(Finding::is_drift)
        || changes.iter().any(|change| !change.displaces.is_empty());
    if view.was_locked() && !has_reason {
        let lockdown = changes.iter().filter(|change| change.verb == Verb::LockDown);
        found.extend(lockdown.map(|change| {
            let (code, what) = match &change.before {
                None => ("own_rule_missing", "removed"),
                Some(_) => ("own_rule_edited", "edited"),
            };
            Finding {
                code: code.to_owned(),
                message: format!(
                    "a rule of the lockdown was {what} by somebody else: {}",
                    change.summary
                ),
                before: change.after.clone(),
                after: change.before.clone(),
                grants: Vec::new(),
            }
        }));
    }
    found
}

/// What others added where the lockdown stood at the last look, and is displaced now. What was displaced before and came
/// back, the planner tells of.
fn came<'a>(view: &'a View, plan: &'a Plan) -> impl Iterator<Item = Finding> + 'a {
    let is_known = |id| view.desired.displaced.iter().any(|before| before.id == id);
    let displacing = plan.changes.iter().filter(|change| change.verb == Verb::LockDown);
    displacing.flat_map(move |change| {
        let new = change
            .displaces
            .iter()
            .filter(move |displaced| !is_known(displaced.id));
        new.map(|displaced| Finding {
            code: "foreign_rule_opens".to_owned(),
            message: format!(
                "somebody let others in at a guarded port while it was locked down: {}",
                change.summary
            ),
            before: None,
            after: Some(displaced.rule.clone()),
            grants: Vec::new(),
        })
    })
}

/// What the lockdowns of a point are made from, as one number: as long as it is the same, so are the rules that they
/// want. None where nothing is locked down.
pub(crate) fn lockdown(desired: &Desired) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    for member in desired.locked_down() {
        any = true;
        json!([member.machine, member.addresses, member.interfaces, member.guard])
            .to_string()
            .hash(&mut hasher);
    }
    any.then(|| format!("{:016x}", hasher.finish()))
}

impl View {
    /// Whether the lockdowns that are wanted now stood at the last look.
    fn was_locked(&self) -> bool {
        let stood = self
            .report
            .as_ref()
            .and_then(|report| report.get("locked"))
            .and_then(|locked| locked.as_str());
        stood.is_some() && stood == lockdown(&self.desired).as_deref()
    }
}

impl Engine {
    /// The findings of a plan: kept, and those that neither the look before nor an earlier plan of this pass had
    /// are reported. With the first plan that has them: what is ours is put right by the next one, and would be
    /// forgotten.
    #[expect(
        clippy::too_many_arguments,
        reason = "a step of the pass, with what the pass has"
    )]
    pub(crate) async fn found(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        looked: &mut Looked,
        view: &View,
        pass: &PassRef<'_>,
        events: &Events<'_>,
        plan: &Plan,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let mut log = Vec::new();
        let mut new = Vec::new();
        for finding in &plan.findings {
            let told = json!(finding);
            if looked.told.contains(&told) {
                continue;
            }
            let reported = view.has_reported("findings", &told);
            looked.told.push(told);
            new.push(NewFinding {
                machines: concerned(view, finding),
                finding: finding.clone(),
            });
            if reported {
                continue;
            }
            self.metrics
                .findings
                .get_or_create(&CodeLabels {
                    cloud: pass.point.cloud().as_str(),
                    code: finding.code.clone(),
                })
                .inc();
            log.push(events.finding(pass, finding));
        }
        tx.save_findings(lease.point, &new, events.now()).await?;
        Ok(log)
    }

    /// Ends the findings that the last plan of a pass has no more.
    #[expect(
        clippy::too_many_arguments,
        reason = "a step of the pass, with what the pass has"
    )]
    pub(crate) async fn resolved(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        looked: &Looked,
        view: &View,
        pass: &PassRef<'_>,
        events: &Events<'_>,
        plan: &Plan,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        if !view.found && looked.told.is_empty() {
            return Ok(Vec::new());
        }
        let resolved = tx
            .resolve_findings(lease.point, &plan.findings, events.now())
            .await?;
        Ok(resolved
            .iter()
            .map(|finding| events.finding_resolved(pass, finding))
            .collect())
    }
}

/// The machines that a finding concerns: those of its grants, or else those that are locked down here; where none is any
/// more, all that are here.
fn concerned(view: &View, finding: &Finding) -> Vec<MachineId> {
    let members = &view.desired.members;
    let nobodys = finding.grants.is_empty()
        && members
            .iter()
            .all(|member| member.guard.is_none() && member.grants.is_empty());
    members
        .iter()
        .filter(|member| nobodys || is_concerned(member, finding))
        .map(|member| member.machine.clone())
        .collect()
}

fn is_concerned(member: &Member, finding: &Finding) -> bool {
    if finding.grants.is_empty() {
        member.guard.is_some() || !member.grants.is_empty()
    } else {
        let mut grants = member.grants.iter();
        grants.any(|wanted| finding.grants.contains(&wanted.grant))
    }
}
