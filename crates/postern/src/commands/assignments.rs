//! `postern assignments`: who has which role where.

use postern_api::role::{
    GuardrailForbids, ReachOfAction, RoleAssignment, RoleAssignmentCreate, RoleAssignmentPlan,
    RoleAssignmentQuery,
};

use super::naming;
use crate::{
    cli::{AssignArgs, AssignmentsArgs, AssignmentsCommand, AssignmentsListArgs, UnassignArgs},
    connect,
    exit::Failure,
    output,
};

/// Lists role assignments, makes or removes one.
pub async fn run(args: AssignmentsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(AssignmentsCommand::Create(args)) => create(args).await,
        Some(AssignmentsCommand::Delete(args)) => delete(args).await,
    }
}

async fn list(args: AssignmentsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let assignments = connect::all(args.many.limit, |cursor, limit| {
        let query = RoleAssignmentQuery {
            principal: args.principal.clone(),
            role: args.role.clone(),
            scope: args.scope.clone(),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.role_assignments(&query).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, assignments.as_slice(), listed)?)
}

fn listed(assignments: &[RoleAssignment]) -> String {
    let rows = assignments.iter().map(|assignment| {
        [
            assignment.id.clone(),
            assignment.principal.clone(),
            assignment.role.clone(),
            assignment.scope.clone(),
            tags(assignment),
            output::instant_or_dash(assignment.ends_at),
        ]
    });
    output::table(["ASSIGNMENT", "PRINCIPAL", "ROLE", "SCOPE", "TAGS", "ENDS"], rows)
}

fn tags(assignment: &RoleAssignment) -> String {
    let tags: Vec<String> = assignment
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if tags.is_empty() {
        "-".to_owned()
    } else {
        tags.join(" ")
    }
}

async fn create(args: AssignArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let create = RoleAssignmentCreate {
        role: args.role,
        principal: args.principal,
        scope: args.scope,
        tags: args.tags.into_iter().collect(),
        ends_at: args.until,
    };
    if args.dry_run {
        return show(
            &client.plan_create_role_assignment(&create).await?,
            args.remote.json,
        );
    }
    let made = connect::keyed(|key| {
        let (client, create) = (&client, &create);
        async move { client.create_role_assignment(Some(&key), create).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, &made, |made| {
        listed(std::slice::from_ref(made))
    })?)
}

async fn delete(args: UnassignArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::assignment(&client, &args.id).await?;
    if args.dry_run {
        let plan = client.plan_delete_role_assignment(&id).await?;
        return show(&plan, args.remote.json);
    }
    client.delete_role_assignment(&id).await?;
    if !args.remote.json {
        output::line(&format!("{id} is removed"))?;
    }
    Ok(())
}

fn show(plan: &RoleAssignmentPlan, json: bool) -> Result<(), Failure> {
    if json {
        output::json(plan)?;
        return Ok(());
    }
    let who = &plan.assignment.principal;
    let gains = plan.gains.iter().flat_map(|reach| said(who, "gains", reach));
    let loses = plan.loses.iter().flat_map(|reach| said(who, "loses", reach));
    let lines: Vec<String> = gains.chain(loses).collect();
    if lines.is_empty() {
        output::line(
            "nothing would change on a machine that is known now: none carries these tags, the assignment has ended, or \
             other role assignments of the same principal allow as much",
        )?;
    }
    for line in lines {
        output::line(&line)?;
    }
    output::note("dry run: nothing was changed")?;
    Ok(())
}

/// What changes, and under it what the guardrails say to it.
fn said(who: &str, verb: &str, reach: &ReachOfAction) -> Vec<String> {
    let beside = if reach.at_scope {
        " and at the scope itself"
    } else {
        ""
    };
    let more = match reach.forbidden {
        0 => String::new(),
        forbidden => format!(", and nothing on {forbidden} more, where guardrails forbid it"),
    };
    let changes = format!(
        "{who} {verb} `{}` on {} machines{beside}{more}",
        reach.action, reach.machines
    );
    let guardrails = reach.guardrails.iter().map(|guardrail| {
        let machines = |count: usize| format!("on {count} machines");
        let at_scope = |says| (guardrail.at_scope == Some(says)).then(|| "at the scope itself".to_owned());
        let list = |count: usize, says| -> Option<String> {
            let places = (count > 0).then(|| machines(count));
            let places: Vec<String> = places.into_iter().chain(at_scope(says)).collect();
            (!places.is_empty()).then(|| places.join(" and "))
        };
        let always = list(guardrail.always, GuardrailForbids::Always)
            .map(|places| format!("always forbids it {places}"));
        let may = list(guardrail.at_times, GuardrailForbids::AtTimes)
            .map(|places| format!("may forbid it {places}"));
        let times: Vec<String> = always.into_iter().chain(may).collect();
        let message = guardrail.message.as_deref().map(|said| format!(": {said}"));
        format!(
            "  guardrail `{}` {}{}",
            guardrail.id,
            times.join(", and "),
            message.unwrap_or_default()
        )
    });
    std::iter::once(changes).chain(guardrails).collect()
}
