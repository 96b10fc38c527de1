//! `postern policies`.

use std::{io::Read as _, path::Path};

use anyhow::Context as _;
use postern_api::{
    jit_policy::{Approval, JitPolicy, JitPolicyPlan, JitPolicyQuery, JitPolicyWrite, ReachChange},
    preflight::DryRunPoint,
};

use super::naming;
use crate::{
    cli::{
        PoliciesArgs, PoliciesCommand, PoliciesListArgs, PolicyDeleteArgs, PolicyFileArgs, PolicyUpdateArgs,
    },
    connect,
    exit::{Exit, Failure},
    output,
};

/// Lists JIT policies, or does something with one.
pub async fn run(args: PoliciesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(PoliciesCommand::Get(one)) => {
            let client = connect::client(&one.remote)?;
            let id = naming::policy(&client, &one.id).await?;
            let policy = client.jit_policy(&id).await?;
            show(&policy, one.remote.json)
        }
        Some(PoliciesCommand::Create(args)) => create(args).await,
        Some(PoliciesCommand::Update(args)) => update(args).await,
        Some(PoliciesCommand::Delete(args)) => delete(args).await,
    }
}

async fn create(args: PolicyFileArgs) -> Result<(), Failure> {
    let document = read(&args.file)?;
    let client = connect::client(&args.remote)?;
    if args.dry_run {
        return foresee(&client.plan_create_jit_policy(&document).await?, args.remote.json);
    }
    let policy = connect::keyed(|key| {
        let (client, document) = (&client, &document);
        async move { client.create_jit_policy(Some(&key), document).await }
    })
    .await?;
    show(&policy, args.remote.json)
}

async fn update(args: PolicyUpdateArgs) -> Result<(), Failure> {
    let PolicyFileArgs {
        file,
        dry_run,
        remote,
    } = args.document;
    let document = read(&file)?;
    let client = connect::client(&remote)?;
    let id = naming::policy(&client, &args.id).await?;
    let version = client.jit_policy(&id).await?.version;
    if dry_run {
        let plan = client.plan_update_jit_policy(&id, version, &document).await?;
        return foresee(&plan, remote.json);
    }
    let policy = client.update_jit_policy(&id, version, &document).await?;
    show(&policy, remote.json)
}

async fn delete(args: PolicyDeleteArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::policy(&client, &args.id).await?;
    let policy = client.jit_policy(&id).await?;
    if args.dry_run {
        let plan = client.plan_delete_jit_policy(&id, policy.version).await?;
        return foresee(&plan, args.remote.json);
    }
    client.delete_jit_policy(&id, policy.version).await?;
    output::note(&format!(
        "`{}` ({id}) is removed; its grants end and what its lockdown displaced is put back",
        policy.name
    ))?;
    Ok(())
}

/// What a change would do.
fn foresee(plan: &JitPolicyPlan, json: bool) -> Result<(), Failure> {
    if json {
        output::json(plan)?;
        return Ok(());
    }
    output::line(&output::fields([
        (
            "Machines",
            format!("{} under another policy than now", plan.machines),
        ),
        ("Points", format!("{} to look at", plan.points)),
        ("Grants", format!("{} would end", plan.grants_ended.len())),
        (
            "Not shown",
            format!("{} machines that you may not read", plan.machines_not_shown),
        ),
    ]))?;
    if !plan.coverage.is_empty() {
        output::line("")?;
        let id = |policy: &Option<String>| policy.clone().unwrap_or_else(|| "none".to_owned());
        // The policy that is being made has no id yet that means anything.
        let after = |policy: &Option<String>| match (policy, &plan.policy) {
            (Some(id), Some(new)) if *id == new.id => new.name.clone(),
            (policy, _) => id(policy),
        };
        let rows = plan
            .coverage
            .iter()
            .map(|change| [change.machine.clone(), id(&change.before), after(&change.after)]);
        output::line(&output::table(["MACHINE", "POLICY NOW", "THEN"], rows))?;
    }
    for (title, changes) in [("GAINS REACH", &plan.gains), ("LOSES REACH", &plan.losses)] {
        if !changes.is_empty() {
            output::line("")?;
            output::line(&output::table(
                [title, "AT", "PORTS", "FROM", "BY RULE"],
                changes.iter().map(reach),
            ))?;
        }
    }
    if !plan.writes.is_empty() {
        output::line("")?;
        output::line(&output::table(["POINT", "WRITES"], writes(&plan.writes)))?;
    }
    if plan.machines_not_foreseen > 0 {
        output::note(&format!(
            "who gains and who loses is not said of {} machines",
            plan.machines_not_foreseen
        ))?;
    }
    if plan.points_not_read > 0 {
        output::note(&format!(
            "{} more points were not read: what is said of them is as last observed",
            plan.points_not_read
        ))?;
    }
    output::note("dry run: nothing was changed")?;
    Ok(())
}

fn reach(change: &ReachChange) -> [String; 5] {
    let sure = if change.certain { "" } else { " at most" };
    let rule = change.rule.as_deref().unwrap_or("-");
    let by = match &change.nat_rule {
        Some(nat) => format!("{rule}, by NAT {nat}"),
        None => rule.to_owned(),
    };
    [
        change.machine.clone(),
        change.address.clone(),
        change.ports.clone(),
        format!("{}{sure}", change.sources.join(" ")),
        by,
    ]
}

/// What would be written at each point, in order, and what could not be had.
fn writes(points: &[DryRunPoint]) -> Vec<[String; 2]> {
    let at = |point: &DryRunPoint| {
        let changes = point.changes.iter().map(|change| change.summary.clone());
        let hidden = (point.rules_not_shown > 0).then(|| {
            format!(
                "not shown: {} rules that are not only about machines that you may read",
                point.rules_not_shown
            )
        });
        let obstacles = point.obstacles.iter();
        let obstacles = obstacles.map(|one| format!("not done: {} ({})", one.detail, one.code));
        let unread = point.unread.iter().map(|reason| format!("not read: {reason}"));
        let lines = changes.chain(hidden).chain(obstacles).chain(unread);
        let place = point.point.clone();
        lines.map(move |line| [place.clone(), line]).collect::<Vec<_>>()
    };
    points.iter().flat_map(at).collect()
}

fn read(path: &Path) -> Result<JitPolicyWrite, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{} is no JIT policy: {error}", path.display()),
        )
    })
}

async fn list(args: PoliciesListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let policies = connect::all(args.many.limit, |cursor, limit| {
        let query = JitPolicyQuery {
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.jit_policies(&query).await }
    })
    .await?;
    if args.remote.json {
        output::json(&policies)?;
        return Ok(());
    }
    let rows = policies.into_iter().map(|policy| {
        let guards: Vec<&str> = policy.guards.iter().map(|guard| guard.ports.as_str()).collect();
        [
            policy.id.clone(),
            policy.name.clone(),
            guards.join(" "),
            selector(&policy),
            approval(&policy.approval),
            policy.version.to_string(),
        ]
    });
    output::line(&output::table(
        ["POLICY", "NAME", "GUARDS", "MACHINES", "APPROVAL", "VERSION"],
        rows,
    ))?;
    Ok(())
}

fn selector(policy: &JitPolicy) -> String {
    let tags = policy.tags.iter().map(|(key, value)| format!(" {key}={value}"));
    format!("{}{}", policy.scope, tags.collect::<String>())
}

/// Who must agree, in words.
fn approval(approval: &Approval) -> String {
    match approval {
        Approval::Policy => "nobody".to_owned(),
        Approval::One => "1 of anybody who may approve".to_owned(),
        Approval::Stages(stages) => {
            let stages = stages.iter().map(|stage| {
                let mut who = stage.approvers.clone();
                who.extend(stage.role.as_ref().map(|role| format!("the role {role}")));
                if who.is_empty() {
                    who.push("anybody who may approve".to_owned());
                }
                format!("{} of {}", stage.needs, who.join(", "))
            });
            stages.collect::<Vec<_>>().join(", then ")
        }
    }
}

/// What the policy asks of whoever asks, and of their reason and ticket, in words.
fn demands(policy: &JitPolicy) -> Vec<String> {
    let mut asked = Vec::new();
    let proof = policy.authentication;
    if proof.mfa {
        asked.push("a second factor".to_owned());
    }
    if let Some(age) = proof.max_age_seconds.and_then(|age| u64::try_from(age).ok()) {
        asked.push(format!("a sign-in of the last {}", output::seconds(age)));
    }
    let Some(justification) = &policy.justification else {
        return asked;
    };
    if let Some(pattern) = &justification.reason_pattern {
        asked.push(format!("a reason like `{pattern}`"));
    }
    let like = justification.ticket_pattern.as_ref();
    let like = like.map_or_else(String::new, |pattern| format!(" like `{pattern}`"));
    if justification.ticket_required {
        asked.push(format!("a ticket{like}"));
    } else if !like.is_empty() {
        asked.push(format!("a ticket{like}, if one is named"));
    }
    if justification.ticket_check.is_some() {
        asked.push("a yes of the ticket system".to_owned());
    }
    asked
}

/// The word that an option has in the API.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn show(policy: &JitPolicy, json: bool) -> Result<(), Failure> {
    if json {
        output::json(policy)?;
        return Ok(());
    }
    let mut fields = vec![
        ("Policy", policy.id.clone()),
        ("Name", policy.name.clone()),
        ("Machines", selector(policy)),
        ("Lockdown", word(&policy.lockdown)),
        ("Shared groups", word(&policy.shared_groups)),
        ("Approval", approval(&policy.approval)),
    ];
    if let Some(waits) = policy
        .pending_for_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
    {
        fields.push(("Waits", format!("{} for approval", output::seconds(waits))));
    }
    let asked = demands(policy);
    if !asked.is_empty() {
        fields.push(("Asks for", asked.join(", ")));
    }
    fields.push(("Version", policy.version.to_string()));
    fields.push(("Changed", output::instant(policy.updated_at)));
    output::line(&output::fields(fields))?;
    output::line("")?;
    let guards = policy.guards.iter().map(|guard| {
        [
            guard.ports.clone(),
            u64::try_from(guard.max_duration_seconds).map_or_else(|_| "-".to_owned(), output::seconds),
            guard.allowed_sources.join(" "),
        ]
    });
    output::line(&output::table(["GUARDS", "AT MOST", "FROM"], guards))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_write_of_a_copy_has_a_line_and_so_has_what_is_in_the_way() {
        let points = serde_json::from_value::<Vec<DryRunPoint>>(json!([
            {
                "point": "aws:instance:i-1",
                "changes": [{ "verb": "lock_down", "target": "sg-2", "summary": "let 443/tcp in through sg-2" }],
                "obstacles": [{ "code": "rules_per_group", "detail": "sg-3 is full" }],
            },
            { "point": "aws:instance:i-2", "changes": [], "obstacles": [], "unread": "no answer" },
        ]))
        .unwrap();
        let line = |at: &str, what: &str| [format!("aws:instance:{at}"), what.to_owned()];
        assert_eq!(
            writes(&points),
            [
                line("i-1", "let 443/tcp in through sg-2"),
                line("i-1", "not done: sg-3 is full (rules_per_group)"),
                line("i-2", "not read: no answer"),
            ]
        );
    }
}
