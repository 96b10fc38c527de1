//! `postern roles`: which roles there are, and what they allow.

use postern_api::role::{Role, RoleCreate};

use crate::{
    cli::{RoleCreateArgs, RoleDeleteArgs, RolesArgs, RolesCommand, RolesListArgs},
    connect,
    exit::Failure,
    output,
};

/// Lists roles, makes or removes a custom one.
pub async fn run(args: RolesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(RolesCommand::Create(args)) => create(args).await,
        Some(RolesCommand::Delete(args)) => delete(args).await,
    }
}

async fn list(args: RolesListArgs) -> Result<(), Failure> {
    let roles = connect::client(&args.remote)?.roles().await?.items;
    Ok(output::shown(args.remote.json, roles.as_slice(), listed)?)
}

fn listed(roles: &[Role]) -> String {
    let rows = roles.iter().map(|role| {
        let actions: Vec<&str> = role.actions.iter().map(String::as_str).collect();
        let kind = if role.built_in { "built in" } else { "custom" };
        [role.name.clone(), kind.to_owned(), actions.join(" ")]
    });
    output::table(["ROLE", "KIND", "ALLOWS"], rows)
}

async fn create(args: RoleCreateArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let body = RoleCreate {
        name: args.name,
        actions: args
            .actions
            .into_iter()
            .map(|action| action.to_string())
            .collect(),
    };
    let made = connect::keyed(|key| {
        let (client, body) = (&client, &body);
        async move { client.create_role(Some(&key), body).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, &made, |made| {
        listed(std::slice::from_ref(made))
    })?)
}

async fn delete(args: RoleDeleteArgs) -> Result<(), Failure> {
    connect::client(&args.remote)?.delete_role(&args.name).await?;
    if !args.remote.json {
        output::line(&format!("role `{}` is removed", args.name))?;
    }
    Ok(())
}
