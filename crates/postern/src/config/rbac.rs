//! Section `azure.rbac`: what a requester must hold in Azure itself.

use std::time::Duration;

use postern_azure::rbac::{DEFENDER_ACTIONS, Groups, ObjectId, Others, Pattern, RbacConfig};
use postern_server::config::IssuerConfig;
use serde::Deserialize;

use super::check::Problems;

/// Section `azure.rbac`. It is demanded where the section is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureRbac {
    /// The name of the issuer that is the Entra tenant of the subscriptions.
    pub issuer: String,
    /// The claim with the Entra object id: the issuer's `claims.subject`, or one of its `claims.extra`.
    #[serde(default = "default_object_id")]
    pub object_id: String,
    /// Where the groups of a requester come from.
    #[serde(default)]
    pub groups: AzureGroups,
    /// What a requester must hold on the machine; `*` stands for any run of characters.
    #[serde(default = "default_actions")]
    pub actions: Vec<String>,
    /// What holds for requesters of other issuers.
    #[serde(default)]
    pub other_issuers: OtherIssuers,
    /// How long an answer of Azure's serves, 0 to 3600; 0 for once.
    #[serde(default = "default_cache_seconds")]
    pub cache_seconds: u32,
    /// How many answers are kept at most, 1 to 1 000 000.
    #[serde(default = "default_cache_entries")]
    pub cache_entries: u32,
    /// The longest that a decision waits for Azure, 1 to 60.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u32,
}

/// Where the groups of a requester come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AzureGroups {
    /// Azure looks them up at each question, however deep.
    #[default]
    Azure,
    /// The token names them, by object id.
    Token,
}

/// What holds for requesters of other issuers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherIssuers {
    /// They have no role in Azure, and get nothing there.
    #[default]
    Deny,
    /// Nothing is demanded of them besides Postern's own roles.
    Exempt,
}

fn default_object_id() -> String {
    "oid".to_owned()
}

fn default_actions() -> Vec<String> {
    DEFENDER_ACTIONS.map(str::to_owned).to_vec()
}

const fn default_cache_seconds() -> u32 {
    60
}

const fn default_cache_entries() -> u32 {
    10_000
}

const fn default_timeout_seconds() -> u32 {
    5
}

impl AzureRbac {
    fn place(&self, issuers: &[IssuerConfig]) -> Result<ObjectId, (&'static str, String)> {
        let issuer = issuers
            .iter()
            .find(|issuer| issuer.name == self.issuer)
            .ok_or_else(|| {
                (
                    "issuer",
                    format!("`{}` is not the name of a configured issuer", self.issuer),
                )
            })?;
        if issuer.claims.subject == self.object_id {
            Ok(ObjectId::Subject)
        } else if issuer.claims.extra.contains(&self.object_id) {
            Ok(ObjectId::Claim(self.object_id.clone()))
        } else {
            Err((
                "object_id",
                format!(
                    "`{}` is neither `claims.subject` nor one of `claims.extra` of the issuer `{}`",
                    self.object_id, self.issuer
                ),
            ))
        }
    }

    /// What is wrong.
    pub(super) fn problems(&self, issuers: &[IssuerConfig], found: &mut Problems) {
        let mut report = |key: &str, message: String| found.push((format!("azure.rbac.{key}"), message));
        if let Err((key, message)) = self.place(issuers) {
            report(key, message);
        }
        if self.actions.is_empty() {
            report(
                "actions",
                "is empty, which demands nothing: leave the section out instead".to_owned(),
            );
        }
        for (at, action) in self.actions.iter().enumerate() {
            if let Err(error) = Pattern::parse(action) {
                report(&format!("actions.{at}"), error.to_string());
            }
        }
        for (key, value, least, most) in [
            ("cache_seconds", self.cache_seconds, 0, 3600),
            ("cache_entries", self.cache_entries, 1, 1_000_000),
            ("timeout_seconds", self.timeout_seconds, 1, 60),
        ] {
            if !(least..=most).contains(&value) {
                report(key, format!("is between {least} and {most}, not {value}"));
            }
        }
    }

    /// What the client is told.
    pub fn settings(&self, issuers: &[IssuerConfig]) -> anyhow::Result<RbacConfig> {
        let object_id = self
            .place(issuers)
            .map_err(|(key, message)| anyhow::Error::msg(format!("`azure.rbac.{key}`: {message}")))?;
        Ok(RbacConfig {
            actions: self
                .actions
                .iter()
                .map(|action| Pattern::parse(action))
                .collect::<Result<_, _>>()?,
            issuer: self.issuer.clone(),
            object_id,
            groups: match self.groups {
                AzureGroups::Azure => Groups::Azure,
                AzureGroups::Token => Groups::Token,
            },
            others: match self.other_issuers {
                OtherIssuers::Deny => Others::Refuse,
                OtherIssuers::Exempt => Others::Exempt,
            },
            lifetime: Duration::from_secs(self.cache_seconds.into()),
            entries: usize::try_from(self.cache_entries)?,
            timeout: Duration::from_secs(self.timeout_seconds.into()),
        })
    }
}
