//! STS on the same port: `AssumeRole` and `GetCallerIdentity`.
//!
//! Shapes: botocore `sts/2011-06-15/service-2.json`. Limits: STS API reference, `AssumeRole`.

use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;

use super::auth::{Caller, Keyring, Session};
use super::error::{Ec2Error, Result};
use super::params::Params;
use super::xml::{Xml, timestamp};
use crate::ids::Ids;

/// A role and who may assume it.
#[derive(Debug, Clone)]
pub struct Role {
    /// `arn:aws:iam::<account>:role/<name>`.
    pub arn: String,
    /// The accounts that its trust policy names.
    pub trusted_accounts: Vec<String>,
    /// The external id that its trust policy wants (`sts:ExternalId`), if any.
    pub external_id: Option<String>,
}

/// Gives out temporary credentials.
///
/// Where no role is configured, any role of any account can be assumed; else only those configured, under
/// their trust. A role that does not exist is refused as one that does not trust the caller: 403
/// `AccessDenied`.
pub(crate) fn assume_role(
    params: &Params,
    caller: &Caller,
    keyring: &mut Keyring,
    roles: &[Role],
    ids: &Ids,
    now: DateTime<Utc>,
) -> Result<String> {
    let root = params.root();
    let arn = root
        .require("RoleArn")
        .map_err(|error| validation(&error.message))?;
    let session_name = root
        .require("RoleSessionName")
        .map_err(|error| validation(&error.message))?;
    let duration = root.int("DurationSeconds")?.unwrap_or(3600);
    let external_id = root.get("ExternalId");
    root.ignore(&[
        "Policy",
        "PolicyArns",
        "Tags",
        "TransitiveTagKeys",
        "SourceIdentity",
    ]);
    root.finish()?;
    let valid = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(valid) {
        return Err(validation(
            "Value at 'roleSessionName' failed to satisfy constraint: [\\w+=,.@-]{2,64}",
        ));
    }
    if !(900..=43_200).contains(&duration) {
        return Err(validation(
            "Value at 'durationSeconds' must be between 900 and 43200",
        ));
    }
    let (account, role_name) = parse_role(arn).ok_or_else(|| validation(&format!("{arn} is invalid")))?;
    let allowed = roles.is_empty()
        || roles.iter().any(|role| {
            role.arn == arn
                && role.trusted_accounts.contains(&caller.account)
                && role
                    .external_id
                    .as_deref()
                    .is_none_or(|wanted| external_id == Some(wanted))
        });
    if !allowed {
        let message = format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}",
            caller.arn
        );
        return Err(Ec2Error::with_status(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            message,
        ));
    }
    let role_id = format!("AROA{}", ids.hex(16).to_uppercase());
    let session = Session {
        secret: ids.hex(32) + &ids.hex(8),
        token: format!("{}{}{}", ids.hex(32), ids.hex(32), ids.hex(32)),
        account: account.to_owned(),
        arn: format!("arn:aws:sts::{account}:assumed-role/{role_name}/{session_name}"),
        user_id: format!("{role_id}:{session_name}"),
        expires: now + TimeDelta::seconds(i64::from(duration)),
    };
    let key_id = format!("ASIA{}", ids.hex(16).to_uppercase());
    let answer = Xml::of(|xml| {
        xml.within("AssumeRoleResult", |xml| {
            xml.within("Credentials", |xml| {
                xml.leaf("AccessKeyId", &key_id);
                xml.leaf("SecretAccessKey", &session.secret);
                xml.leaf("SessionToken", &session.token);
                xml.leaf("Expiration", timestamp(session.expires));
            });
            xml.within("AssumedRoleUser", |xml| {
                xml.leaf("AssumedRoleId", &session.user_id);
                xml.leaf("Arn", &session.arn);
            });
        });
    });
    keyring.sessions.retain(|_, session| session.expires > now);
    keyring.sessions.insert(key_id, session);
    Ok(answer)
}

/// Tells who calls.
pub(crate) fn get_caller_identity(params: &Params, caller: &Caller) -> Result<String> {
    params.root().finish()?;
    Ok(Xml::of(|xml| {
        xml.within("GetCallerIdentityResult", |xml| {
            xml.leaf("Arn", &caller.arn);
            xml.leaf("UserId", &caller.user_id);
            xml.leaf("Account", &caller.account);
        });
    }))
}

fn parse_role(arn: &str) -> Option<(&str, &str)> {
    let (account, path) = arn.strip_prefix("arn:aws:iam::")?.split_once(":role/")?;
    let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some((account, name))
}

/// STS's word for a missing or unfit parameter.
fn validation(message: &str) -> Ec2Error {
    Ec2Error::new(
        "ValidationError",
        format!("1 validation error detected: {message}"),
    )
}
