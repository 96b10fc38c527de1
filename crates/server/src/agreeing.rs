//! Agreements: whom a request waits for, and whether what somebody says to it is the last word that it needs.

use std::collections::{BTreeMap, BTreeSet};

use postern_authz::{Authorizer, Decision};
use postern_core::{
    approval::{Agreement, Awaited, NotCounted, Tally, Voice},
    id::PolicyId,
    machine::MachineId,
    principal::Principal,
    request::{AccessRequest, InvalidTransition, Pending},
};
use postern_store::StoredMachine;

use crate::{deciding::approving, granting::Terms, state::App};

/// Somebody's roles, by the policy of the machines where they let them approve.
type Roles = BTreeMap<PolicyId, BTreeSet<String>>;

/// What an agreement comes to.
#[derive(Debug)]
pub(crate) enum Agreed {
    /// Nobody else is needed.
    All,
    /// These are still waited for.
    Some(Vec<Awaited>),
}

/// Whom a request waits for that nobody agreed to yet; nobody, where the policies themselves approve.
pub(crate) fn awaited(terms: &[Terms]) -> Vec<Awaited> {
    by_policy(terms)
        .into_values()
        .filter_map(|terms| Tally::new(&terms.stages).awaits(terms.policy, &terms.policy_name))
        .collect()
}

/// Each policy once: its machines' approvals go together.
fn by_policy(terms: &[Terms]) -> BTreeMap<PolicyId, &Terms> {
    terms.iter().map(|terms| (terms.policy, terms)).collect()
}

/// The roles that let somebody approve at every machine of a policy.
fn roles(terms: &[Terms], decisions: &[Decision]) -> Roles {
    let mut roles = Roles::new();
    for (terms, decision) in terms.iter().zip(decisions) {
        let here: BTreeSet<String> = decision.allowed_by.iter().map(|by| by.role.clone()).collect();
        roles
            .entry(terms.policy)
            .and_modify(|all| all.retain(|role| here.contains(role)))
            .or_insert(here);
    }
    roles
}

fn words(awaited: &Awaited) -> String {
    let mut who: Vec<String> = awaited.approvers.iter().map(ToString::to_string).collect();
    who.extend(awaited.role.as_ref().map(|role| format!("the role `{role}`")));
    let who = if who.is_empty() {
        "anybody who may approve".to_owned()
    } else {
        who.join(", ")
    };
    format!(
        "stage {} of {} of policy `{}` asks for {} of {who}",
        awaited.stage, awaited.of, awaited.policy_name, awaited.needs
    )
}

impl App {
    /// The agreements of those who still may approve what the request is now.
    fn standing<'a, S>(
        &self,
        authorizer: &Authorizer,
        request: &'a AccessRequest<S>,
        terms: &[Terms],
        machines: &BTreeMap<MachineId, StoredMachine>,
    ) -> Vec<(&'a Agreement, Roles)> {
        request
            .agreements
            .iter()
            .filter_map(|agreement| {
                let still = request.targets.iter().map(|target| {
                    let machine = machines.get(&target.machine);
                    let reason = agreement.comment.clone();
                    let question =
                        approving(request.id, target, machine, request.duration, reason, self.now());
                    // Nobody asks for anything here, so it is not counted.
                    authorizer.decide(
                        &agreement.by,
                        question.action,
                        &question.resource,
                        &question.context,
                    )
                });
                let still: Vec<Decision> = still.collect();
                let all = still.iter().all(|decision| decision.allowed);
                all.then(|| (agreement, roles(terms, &still)))
            })
            .collect()
    }

    /// Whom an approved request would wait for by now, if anybody: policies and approvers' roles may have changed.
    pub(crate) fn awaited_still<S>(
        &self,
        authorizer: &Authorizer,
        request: &AccessRequest<S>,
        terms: &[Terms],
        machines: &BTreeMap<MachineId, StoredMachine>,
    ) -> Vec<Awaited> {
        let nothing = BTreeSet::new();
        let standing = self.standing(authorizer, request, terms, machines);
        let mut awaits = Vec::new();
        for terms in by_policy(terms).into_values() {
            let mut tally = Tally::new(&terms.stages);
            for (agreement, roles) in &standing {
                // One that does not count under this policy may count under another's.
                let _under_another = tally.count(&Voice {
                    principal: &agreement.by,
                    roles: roles.get(&terms.policy).unwrap_or(&nothing),
                });
            }
            awaits.extend(tally.awaits(terms.policy, &terms.policy_name));
        }
        awaits
    }

    /// What the caller's agreement comes to. Those who agreed before count as far as they still may approve what the
    /// request is now: an approver's role may have been taken since.
    pub(crate) fn agreed(
        &self,
        authorizer: &Authorizer,
        caller: &Principal,
        request: &AccessRequest<Pending>,
        terms: &[Terms],
        decisions: &[Decision],
        machines: &BTreeMap<MachineId, StoredMachine>,
    ) -> Result<Agreed, InvalidTransition> {
        request.check_approver(caller)?;
        let earlier = self.standing(authorizer, request, terms, machines);
        let own = roles(terms, decisions);
        let nothing = BTreeSet::new();
        let (mut counts, mut again) = (false, false);
        let mut awaits = Vec::new();
        let mut asked = Vec::new();
        for terms in by_policy(terms).into_values() {
            let mut tally = Tally::new(&terms.stages);
            for (agreement, roles) in &earlier {
                // One that does not count under this policy may count under another's.
                let _under_another = tally.count(&Voice {
                    principal: &agreement.by,
                    roles: roles.get(&terms.policy).unwrap_or(&nothing),
                });
            }
            asked.extend(tally.awaits(terms.policy, &terms.policy_name));
            let voice = Voice {
                principal: caller,
                roles: own.get(&terms.policy).unwrap_or(&nothing),
            };
            match tally.count(&voice) {
                Ok(()) => counts = true,
                Err(NotCounted::Again) => again = true,
                Err(NotCounted::Done | NotCounted::NotAsked) => {}
            }
            awaits.extend(tally.awaits(terms.policy, &terms.policy_name));
        }
        if awaits.is_empty() {
            return Ok(Agreed::All);
        }
        if counts {
            return Ok(Agreed::Some(awaits));
        }
        let by = caller.reference();
        if again {
            return Err(InvalidTransition::AgreedBefore(by));
        }
        let awaits = asked.iter().map(words).collect::<Vec<_>>().join("; ");
        Err(InvalidTransition::NotAnApprover { by, awaits })
    }
}
