//! Step-up: what somebody who has to prove more is told to ask their issuer for (RFC 9470).

use chrono::TimeDelta;
use http::{HeaderValue, header::WWW_AUTHENTICATE};
use postern_api::ErrorCode;
use postern_authz::Authorizer;
use postern_core::{
    audit::{Outcome, Subject},
    id::RequestId,
    policy::Lack,
    principal::{Principal, PrincipalKind},
    request::Target,
};
use postern_store::Tx;
use serde_json::json;

use crate::{
    decide::Question, deciding::APPROVE, failure::Failure, flow::authenticate::Caller, granting::Terms,
    state::App,
};

impl App {
    /// What the caller would have to prove for the answer to be yes, if that is all that is missing: the least that
    /// does. A program signs in nowhere, so nothing would do.
    pub(crate) fn would_do(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        question: &Question,
    ) -> Option<Lack> {
        let principal = &*caller.principal;
        if principal.kind == PrincipalKind::Workload {
            return None;
        }
        let now = question.context.now;
        let configured = self.step_up(caller).and_then(|issuer| issuer.max_age_seconds);
        // The longest that is configured first: somebody who signed in lately need not do so again.
        let ages = configured.map(u64::from).into_iter().chain([0]);
        let signing_in = ages.flat_map(|age| [(false, Some(age)), (true, Some(age))]);
        [(true, None)]
            .into_iter()
            .chain(signing_in)
            .filter(|(mfa, _)| !(*mfa && principal.mfa))
            .find(|(mfa, age)| {
                let signed_in = age
                    .and_then(|age| i64::try_from(age).ok())
                    .and_then(TimeDelta::try_seconds)
                    .and_then(|age| now.checked_sub_signed(age));
                let stronger = Principal {
                    mfa: principal.mfa || *mfa,
                    authenticated_at: signed_in.or(principal.authenticated_at),
                    ..principal.clone()
                };
                authorizer
                    .decide(&stronger, question.action, &question.resource, &question.context)
                    .allowed
            })
            .map(|(mfa, max_age_seconds)| Lack { mfa, max_age_seconds })
    }

    /// The failure that says what to prove, and how to ask for it.
    pub(crate) fn challenge(&self, caller: &Caller, lack: Lack, detail: &str) -> Failure {
        let acr_values = self
            .step_up(caller)
            .map(|issuer| issuer.acr_values.join(" "))
            .filter(|values| lack.mfa && !values.is_empty());
        let description = description(lack);
        // RFC 9470, section 3.
        let mut text = format!(
            "Bearer error=\"insufficient_user_authentication\", error_description=\"{description} is needed\""
        );
        if let Some(values) = acr_values {
            text = format!("{text}, acr_values=\"{values}\"");
        }
        if let Some(seconds) = lack.max_age_seconds {
            text = format!("{text}, max_age=\"{seconds}\"");
        }
        match HeaderValue::from_str(&text) {
            Ok(value) => Failure::new(
                ErrorCode::StepUpRequired,
                format!("{detail}; {description} would do"),
            )
            .with_header(WWW_AUTHENTICATE, value),
            // The configuration's values were checked to fit.
            Err(error) => Failure::internal(error),
        }
    }

    /// Refuses a request whose requester has not proven what the target's policy asks for, and writes that down.
    pub(crate) async fn refuse_unproven(
        &self,
        tx: Tx,
        caller: &Caller,
        event: &'static str,
        target: &Target,
        terms: &Terms,
        lack: Lack,
    ) -> Failure {
        match self
            .record_unproven(tx, caller, event, None, target, terms, lack)
            .await
        {
            Ok(()) => self.challenge(caller, lack, &unproven(terms, lack)),
            Err(unwritten) => unwritten,
        }
    }

    /// Refuses the approval of a request whose requester had not proven what the target's policy asks for by now, and
    /// writes that down. The requester has to ask again.
    pub(crate) async fn refuse_approval_of_unproven(
        &self,
        tx: Tx,
        caller: &Caller,
        request: RequestId,
        target: &Target,
        terms: &Terms,
        lack: Lack,
    ) -> Failure {
        match self
            .record_unproven(tx, caller, APPROVE, Some(request), target, terms, lack)
            .await
        {
            Ok(()) => Failure::new(
                ErrorCode::RequesterNotAllowed,
                format!(
                    "the requester may not make this request now: {}, which they had not proven",
                    unproven(terms, lack)
                ),
            ),
            Err(unwritten) => unwritten,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it stands in the event")]
    async fn record_unproven(
        &self,
        tx: Tx,
        caller: &Caller,
        event: &'static str,
        request: Option<RequestId>,
        target: &Target,
        terms: &Terms,
        lack: Lack,
    ) -> Result<(), Failure> {
        let subject = Subject {
            request,
            machine: Some(target.machine.clone()),
            policy: Some(terms.policy),
            ..Subject::default()
        };
        let scope = target.machine.scope();
        let mut event = self.event(caller, event, scope, subject, None, json!({ "target": target }));
        event.outcome = Outcome::Denied;
        event.decision = Some(json!({
            "policy": { "id": terms.policy, "name": terms.policy_name },
            "not_proven": lack,
        }));
        self.write_alone(tx, event).await
    }

    fn step_up(&self, caller: &Caller) -> Option<&crate::config::StepUp> {
        self.config
            .issuers
            .iter()
            .find(|issuer| issuer.name == caller.principal.issuer)
            .map(|issuer| &issuer.step_up)
    }
}

/// That the policy asks for more than the requester has proven.
pub(crate) fn unproven(terms: &Terms, lack: Lack) -> String {
    format!("policy `{}` asks for {}", terms.policy_name, description(lack))
}

fn description(lack: Lack) -> &'static str {
    match (lack.mfa, lack.max_age_seconds.is_some()) {
        (true, true) => "a second factor and a recent sign-in",
        (false, true) => "a recent sign-in",
        (_, false) => "a second factor",
    }
}
