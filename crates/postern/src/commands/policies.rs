//! `postern policies`.

use std::{io::Read as _, path::Path};

use anyhow::Context as _;
use postern_api::jit_policy::{JitPolicy, JitPolicyQuery, JitPolicyWrite};

use crate::{
    cli::{PoliciesArgs, PoliciesCommand, PoliciesListArgs},
    connect,
    exit::{Exit, Failure},
    output,
};

/// Lists JIT policies, or does something with one.
pub async fn run(args: PoliciesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(PoliciesCommand::Get(one)) => {
            let policy = connect::client(&one.remote)?.jit_policy(&one.id).await?;
            show(&policy, one.remote.json)
        }
        Some(PoliciesCommand::Create(args)) => {
            let document = read(&args.file)?;
            let client = connect::client(&args.remote)?;
            let policy = connect::keyed(|key| {
                let (client, document) = (&client, &document);
                async move { client.create_jit_policy(Some(&key), document).await }
            })
            .await?;
            show(&policy, args.remote.json)
        }
        Some(PoliciesCommand::Update(args)) => {
            let document = read(&args.document.file)?;
            let client = connect::client(&args.document.remote)?;
            let version = client.jit_policy(&args.id).await?.version;
            let policy = client.update_jit_policy(&args.id, version, &document).await?;
            show(&policy, args.document.remote.json)
        }
        Some(PoliciesCommand::Delete(one)) => {
            let client = connect::client(&one.remote)?;
            let version = client.jit_policy(&one.id).await?.version;
            client.delete_jit_policy(&one.id, version).await?;
            output::note(&format!(
                "{} is removed; its grants end and what its lockdown displaced is put back",
                one.id
            ))?;
            Ok(())
        }
    }
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
            word(&policy.approval),
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
    output::line(&output::fields([
        ("Policy", policy.id.clone()),
        ("Name", policy.name.clone()),
        ("Machines", selector(policy)),
        ("Lockdown", word(&policy.lockdown)),
        ("Shared groups", word(&policy.shared_groups)),
        ("Approval", word(&policy.approval)),
        ("Version", policy.version.to_string()),
        ("Changed", output::instant(policy.updated_at)),
    ]))?;
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
