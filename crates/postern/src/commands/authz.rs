//! `postern authz`: guardrails held to cases, and decisions explained.

use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use postern_api::access_check::{AccessCheck, AccessCheckQuery, Assumed};
use postern_authz::{
    GuardrailSet,
    cases::{Asked, Suite},
};
use postern_core::{
    machine::MachineId,
    scope::Scope,
    time::{Clock, SystemClock},
};
use serde_json::json;

use super::machines;
use crate::{
    cli::{AuthzArgs, AuthzCommand, AuthzExplainArgs, AuthzTestArgs, GuardrailArgs, When},
    config::Guardrails,
    connect,
    exit::{Exit, Failure},
    guardrails::Texts,
    output,
};

/// Tests or explains.
pub async fn run(args: AuthzArgs) -> Result<(), Failure> {
    match args.command {
        AuthzCommand::Test(args) => test(&args),
        AuthzCommand::Explain(args) => {
            let checked = match &args.cases {
                Some(cases) => offline(&args, cases)?,
                None => remote(&args).await?,
            };
            show(&checked, args.remote.json)
        }
    }
}

fn wrong(error: &anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{error:#}"))
}

fn guardrails(args: &GuardrailArgs) -> Result<GuardrailSet, Failure> {
    let section = Guardrails {
        path: args.guardrails.clone(),
        networks: args.networks.clone(),
        ..Guardrails::default()
    };
    Texts::read(&section)
        .and_then(|texts| texts.parse())
        .map_err(|error| wrong(&error))
}

fn suite(path: &Path) -> Result<Suite, Failure> {
    std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))
        .and_then(|text| toml::from_str(&text).with_context(|| format!("{} holds no cases", path.display())))
        .map_err(|error| wrong(&error))
}

fn test(args: &AuthzTestArgs) -> Result<(), Failure> {
    let guardrails = guardrails(&args.guardrails)?;
    let report = suite(&args.cases)?
        .run(&guardrails)
        .with_context(|| args.cases.display().to_string())
        .map_err(|error| wrong(&error))?;
    for outcome in &report.outcomes {
        output::line(&outcome.to_string())?;
    }
    for id in &report.untried {
        output::note(&format!("note: no case shows guardrail `{id}` forbid anything"))?;
    }
    let (failed, total) = (report.failed(), report.outcomes.len());
    if failed > 0 {
        return Err(Failure::new(
            Exit::Failure,
            format!("{failed} of {total} cases came out otherwise than expected"),
        ));
    }
    if args.strict && !report.untried.is_empty() {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "{} guardrails are not shown to forbid anything",
                report.untried.len()
            ),
        ));
    }
    output::line(&format!("{total} cases are as expected"))?;
    Ok(())
}

/// The scope that the text means: itself, or a machine's.
fn scope(text: &str) -> Result<Scope, Failure> {
    text.parse::<Scope>()
        .ok()
        .or_else(|| text.parse::<MachineId>().ok().map(|machine| machine.scope()))
        .ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("`{text}` is neither a scope nor a machine's id"),
            )
        })
}

async fn remote(args: &AuthzExplainArgs) -> Result<AccessCheck, Failure> {
    let client = connect::client(&args.remote)?;
    let on = machines::resolve(&client, &args.on).await?;
    let query = AccessCheckQuery {
        principal: args.principal.clone(),
        action: Some(args.action.to_string()),
        scope: Some(scope(&on)?.to_string()),
        port: args.port.map(|ports| ports.to_string()),
        source: args.source.map(|source| source.to_string()),
        duration_seconds: args.duration.map(|duration| duration.as_secs()),
        reason: Some(args.reason),
        remedies: Some(true),
        groups: args.group.clone(),
        mfa: args.mfa.then_some(true),
        authenticated_at: args.signed_in.map(signed_in).transpose()?,
        claims: args.claim.clone(),
    };
    Ok(client.access_check(&query).await?)
}

fn signed_in(when: When) -> Result<DateTime<Utc>, Failure> {
    when.instant(SystemClock.now())
        .ok_or_else(|| Failure::new(Exit::Usage, "that was before all time"))
}

fn offline(args: &AuthzExplainArgs, cases: &Path) -> Result<AccessCheck, Failure> {
    let suite = suite(cases)?;
    let asked = Asked {
        who: args.who.clone().unwrap_or_default(),
        action: args.action,
        on: args.on.clone(),
        tags: args.tags(),
        kind: None,
        ports: args.port.into_iter().collect(),
        sources: args.source.into_iter().collect(),
        duration_seconds: args.duration.map(|duration| duration.as_secs()),
        reason: args.reason,
        at: SystemClock.now(),
    };
    let explained = || -> anyhow::Result<AccessCheck> {
        let question = suite.question(&asked)?;
        let authorizer = suite.authorizer(
            guardrails(&args.guardrails).map_err(|failure| anyhow::Error::msg(failure.to_string()))?,
        )?;
        let (principal, resource) = (&question.principal, &question.resource);
        let decision = authorizer.decide(principal, question.action, resource, &question.context);
        let remedies = authorizer.remedies(principal, question.action, resource, &question.context);
        Ok(AccessCheck {
            principal: principal.reference().to_string(),
            action: question.action.to_string(),
            scope: resource.scope.to_string(),
            allowed: decision.allowed,
            explanation: decision.explain(),
            decision: json!(decision),
            assumed: None,
            cloud_roles: None,
            remedies: remedies.explain(),
        })
    };
    explained().map_err(|error| wrong(&error))
}

/// What was assumed of somebody without a token, in a line.
fn taken_to_be_so(assumed: &Assumed) -> String {
    let list = |what: &str, items: Vec<String>| {
        if items.is_empty() {
            format!("no {what}")
        } else {
            format!("{what} {}", items.join(", "))
        }
    };
    let claims = assumed
        .claims
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let parts = [
        list("groups", assumed.groups.iter().cloned().collect()),
        if assumed.mfa {
            "a second factor"
        } else {
            "no second factor"
        }
        .to_owned(),
        match assumed.authenticated_at {
            Some(at) => format!("signed in at {}", output::instant(at)),
            None => "no sign-in".to_owned(),
        },
        list("claims", claims.collect()),
    ];
    format!("assumed of them, for want of a token: {}", parts.join("; "))
}

fn show(checked: &AccessCheck, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::json(checked)?;
    } else {
        output::line(&checked.explanation)?;
        if let Some(assumed) = &checked.assumed {
            output::line(&taken_to_be_so(assumed))?;
        }
        if !checked.remedies.is_empty() {
            output::line("what would make it so:")?;
        }
        for remedy in &checked.remedies {
            output::line(&format!("- {remedy}"))?;
        }
    }
    if checked.allowed {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::Denied,
            format!(
                "{} may not {} at {}",
                checked.principal, checked.action, checked.scope
            ),
        ))
    }
}
