//! Holding a request's reason and ticket against what the policies of its machines ask for.

use postern_api::ErrorCode;
use postern_core::{
    audit::{Outcome, Subject},
    justification::{NotJustified, TicketVerdict},
    request::{AccessRequest, Target},
};
use postern_store::Tx;
use serde_json::json;

use crate::{
    deciding::APPROVE, failure::Failure, flow::authenticate::Caller, granting::Terms, shape::access_request,
    state::App,
};

impl Terms {
    /// Whether the reason and the ticket do, with what the ticket system said when it was asked.
    pub(crate) fn justified<S>(
        &self,
        request: &AccessRequest<S>,
        verdict: Option<&TicketVerdict>,
    ) -> Result<(), NotJustified> {
        self.justification.as_ref().map_or(Ok(()), |justification| {
            justification.check(
                &self.policy_name,
                &request.reason,
                request.ticket.as_deref(),
                verdict,
            )
        })
    }

    /// Whether the reason and the ticket of a request that was made before still do: the policy may ask for more by
    /// now. The ticket system is not asked again.
    pub(crate) fn still_justified<S>(&self, request: &AccessRequest<S>) -> Result<(), NotJustified> {
        self.justified(request, Some(&TicketVerdict::Confirmed))
    }
}

impl App {
    /// Refuses a request whose reason or ticket is not what the target's policy asks for, and writes that down.
    #[expect(clippy::too_many_arguments, reason = "all of it stands in the event")]
    pub(crate) async fn refuse_unjustified<S>(
        &self,
        tx: Tx,
        caller: &Caller,
        event: &'static str,
        request: &AccessRequest<S>,
        target: &Target,
        terms: &Terms,
        (error, verdict): (&NotJustified, Option<&TicketVerdict>),
    ) -> Failure {
        let approving = event == APPROVE;
        let subject = Subject {
            request: approving.then_some(request.id),
            machine: Some(target.machine.clone()),
            policy: Some(terms.policy),
            ..Subject::default()
        };
        let details = json!({
            "target": target,
            "ticket": request.ticket.as_ref().map(|ticket| json!({ "ticket": ticket, "system": verdict })),
        });
        let mut written = self.event(caller, event, target.machine.scope(), subject, None, details);
        written.outcome = Outcome::Denied;
        written.decision = Some(json!({
            "policy": { "id": terms.policy, "name": terms.policy_name },
            "not_justified": error.to_string(),
        }));
        match self.write_alone(tx, written).await {
            Err(unwritten) => unwritten,
            Ok(()) if approving => Failure::new(
                ErrorCode::RequesterNotAllowed,
                format!("the requester may not make this request now: {error}"),
            ),
            Ok(()) => access_request::not_justified(error),
        }
    }
}
