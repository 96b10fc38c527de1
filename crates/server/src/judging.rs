//! Whether a request may have what it asks of one machine, as of one moment. Pure: what becomes of a no, and of a yes, is
//! for the caller to write.

use std::collections::BTreeMap;

use postern_authz::{Authorizer, Decision};
use postern_core::{
    cloud_roles::CloudDecision,
    freeze::Freeze,
    id::PolicyId,
    justification::{NotJustified, TicketVerdict},
    machine::MachineId,
    policy::{JitPolicy, Lack},
    request::{AccessRequest, Pending, Target},
    time::Instant,
};
use postern_store::StoredMachine;

use crate::{
    decide::Question,
    endpoints::access_requests_create::{Manner, question},
    failure::Failure,
    freezing,
    granting::{self, Terms},
    my_address,
    preflight::Preflight,
    second_yes::SecondYes,
    state::App,
};

/// What a request is judged by. What comes from the database was read in one transaction, which still holds it.
pub(crate) struct Ground<'a> {
    pub(crate) authorizer: &'a Authorizer,
    pub(crate) freezes: &'a [Freeze],
    pub(crate) policies: &'a BTreeMap<PolicyId, JitPolicy>,
    pub(crate) machines: &'a BTreeMap<MachineId, StoredMachine>,
    /// What the clouds said of the requester.
    pub(crate) clouds: &'a SecondYes,
    /// What the ticket system said.
    pub(crate) verdict: Option<&'a TicketVerdict>,
    pub(crate) now: Instant,
}

/// A target that may be had.
pub(crate) struct Judged {
    pub(crate) decision: Decision,
    pub(crate) terms: Terms,
    pub(crate) way: Preflight,
}

/// Why a target may not be had.
pub(crate) enum Stop {
    /// The roles or a guardrail say no.
    Denied(Box<Question>, Box<Decision>),
    Frozen(Box<Freeze>),
    /// No machine of this id was discovered, or it is gone.
    NoMachine,
    Cloud(CloudDecision),
    /// The caller has not proven what the policy asks for.
    Unproven(Box<Terms>, Lack),
    NotJustified(Box<Terms>, Box<NotJustified>),
    /// Nothing that the audit log tells.
    Refused(Box<Failure>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Refused(Box::new(failure))
    }
}

impl App {
    /// Whether the `target` at `at` may be had. `from_caller` says that its source is the address that the request comes
    /// from. Not counted: whoever asks counts what comes of it.
    pub(crate) fn judge(
        &self,
        manner: Manner,
        request: &AccessRequest<Pending>,
        (at, target): (usize, &Target),
        from_caller: bool,
        ground: &Ground<'_>,
    ) -> Result<Judged, Stop> {
        let now = ground.now;
        let machine = ground.machines.get(&target.machine);
        // A guardrail about times speaks of when access is had; what holds then is asked again then.
        let begins = request.starts_at.unwrap_or(now);
        let asked = Question {
            event: manner.event(),
            ..question(manner.action(), request, target, machine, begins)
        };
        let (authorizer, principal) = (ground.authorizer, &request.principal);
        let decision = authorizer.decide(principal, asked.action, &asked.resource, &asked.context);
        if !decision.allowed {
            return Err(Stop::Denied(Box::new(asked), Box::new(decision)));
        }
        if let Some(freeze) = freezing::over(ground.freezes, target) {
            return Err(Stop::Frozen(Box::new(freeze.clone())));
        }
        let Some(machine) = machine.filter(|machine| machine.gone_at.is_none()) else {
            return Err(Stop::NoMachine);
        };
        if let Some(decision) = ground.clouds.against(&target.machine) {
            return Err(Stop::Cloud(decision));
        }
        let terms = granting::terms(request, target, at, machine, ground.policies)?;
        if let Some(lack) = terms.lack {
            return Err(Stop::Unproven(Box::new(terms), lack));
        }
        if from_caller {
            my_address::check(target, at, machine, ground.policies)?;
        }
        // An emergency has its reason, and somebody looks at it afterwards; there may be no ticket yet.
        if manner != Manner::BreakGlass
            && let Err(error) = terms.justified(request, ground.verdict)
        {
            return Err(Stop::NotJustified(Box::new(terms), Box::new(error)));
        }
        let way = self.preflight(target, machine, now);
        // What stands in the way now says nothing of later, and of what is open already.
        let at_once = request.starts_at.is_none() && request.extends.is_none();
        if manner != Manner::DryRun
            && at_once
            && let Some(refusal) = way.refusal(at)
        {
            return Err(refusal.into());
        }
        Ok(Judged { decision, terms, way })
    }
}
