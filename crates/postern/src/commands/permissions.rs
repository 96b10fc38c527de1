//! `postern permissions`: what the clouds have to allow, as documents that they take.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::{
    cli::{AwsPermissionsArgs, AzurePermissionsArgs, PermissionsArgs, PermissionsCommand},
    exit::Failure,
    output,
    permissions::{aws::Ask, azure},
};

/// Prints the documents of one cloud.
pub fn run(args: PermissionsArgs) -> Result<(), Failure> {
    let (json, documents) = match args.cloud {
        PermissionsCommand::Aws(args) => (args.json, of_aws(args)),
        PermissionsCommand::Azure(args) => (args.json, of_azure(&args)),
    };
    output::line(rendered(&documents, json)?.trim_end())?;
    Ok(())
}

/// A document with what people are told about it.
#[derive(Debug)]
pub struct Document {
    /// Its key in the JSON form.
    key: &'static str,
    /// What it is.
    title: String,
    /// Names of its parts, each with its reason.
    reasons: Vec<(&'static str, &'static str)>,
    content: Value,
}

/// The documents for people, one after the other with their reasons; or all as one JSON object.
pub fn rendered(documents: &[Document], json: bool) -> Result<String, Failure> {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).map_err(std::io::Error::other);
    if json {
        let all: Map<String, Value> = documents
            .iter()
            .map(|document| (document.key.to_owned(), document.content.clone()))
            .collect();
        return Ok(pretty(&Value::Object(all))?);
    }
    let mut text = String::new();
    for document in documents {
        // Writing to a text cannot fail.
        let _infallible = writeln!(text, "# {}\n{}", document.title, pretty(&document.content)?);
        if !document.reasons.is_empty() {
            let rows = document
                .reasons
                .iter()
                .map(|(name, why)| [(*name).to_owned(), (*why).to_owned()]);
            let _infallible = writeln!(text, "\n{}", output::table(["WHAT", "WHY"], rows));
        }
        text.push('\n');
    }
    Ok(text)
}

/// The IAM policies.
pub fn of_aws(args: AwsPermissionsArgs) -> Vec<Document> {
    let role = args.role.unwrap_or_else(|| args.bearer.role().to_owned());
    let ask = Ask {
        bearer: args.bearer,
        partition: args.partition,
        account: args.account,
        installation: args.installation,
    };
    let place = ask.account.as_ref().map_or_else(
        || "each account".to_owned(),
        |account| format!("account {account}"),
    );
    let mut documents = vec![Document {
        key: "permissions_policy",
        title: format!(
            "permissions policy of the role `{role}` of the {} in {place}",
            ask.bearer.as_str()
        ),
        reasons: ask
            .statements()
            .iter()
            .map(|statement| (statement.sid, statement.why))
            .collect(),
        content: ask.permissions_policy(),
    }];
    if let Some(principal) = &args.principal {
        documents.push(Document {
            key: "trust_policy",
            title: format!("trust policy of the role `{role}`: who may assume it"),
            reasons: Vec::new(),
            content: Ask::trust_policy(principal, args.external_id.as_deref()),
        });
        documents.push(Document {
            key: "assume_policy",
            title: format!("policy of {principal}, so that it may assume the role"),
            reasons: Vec::new(),
            content: ask.assume_policy(&role),
        });
    }
    documents
}

/// The Azure custom role.
pub fn of_azure(args: &AzurePermissionsArgs) -> Vec<Document> {
    let besides = azure::Besides {
        firewalls: args.firewalls,
        rbac: args.rbac,
    };
    vec![Document {
        key: "role_definition",
        title: format!(
            "custom role of the {}, to be assigned at each subscription",
            args.bearer.as_str()
        ),
        reasons: azure::actions(args.bearer, besides)
            .iter()
            .map(|action| (action.name, action.why))
            .collect(),
        content: azure::role(args.bearer, besides, &args.accounts),
    }]
}
