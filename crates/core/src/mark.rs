//! Marks: what every rule, group and tag that we write says of itself.
//!
//! A mark names the installation and what the rule is for, so that it can be told from everybody else's and
//! closed with nothing but cloud credentials. Its text form uses only characters that both clouds accept in a
//! description, and fits Azure's 140 characters.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

use crate::{
    id::{DisplacedId, GrantId, PolicyId},
    machine::is_ec2_id,
    time::Instant,
};

/// The name of an installation: 1 to 16 lower-case letters, digits and inner hyphens. Two installations that
/// guard the same account must have different names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Installation(String);

/// A text that cannot name an installation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an installation's name is 1 to 16 lower-case letters, digits and inner hyphens")]
pub struct InvalidInstallation;

impl Installation {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Installation {
    type Err = InvalidInstallation;

    fn from_str(text: &str) -> Result<Self, InvalidInstallation> {
        let valid = (1..=16).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInstallation)
        }
    }
}

impl TryFrom<String> for Installation {
    type Error = InvalidInstallation;

    fn try_from(text: String) -> Result<Self, InvalidInstallation> {
        text.parse()
    }
}

impl From<Installation> for String {
    fn from(installation: Installation) -> Self {
        installation.0
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a rule of ours is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Purpose {
    /// Lets a grant's packets in.
    Grant {
        /// The grant.
        grant: GrantId,
        /// The latest instant at which it could end, in whole seconds.
        end: Instant,
    },
    /// Holds the grants' rules of one machine (an EC2 temporary group).
    Holder,
    /// Stands in the place of a group that others use too, at one machine (an EC2 private copy).
    Copy {
        /// The group's id, `sg-…`.
        of: String,
    },
    /// Keeps a policy's ports closed.
    Lockdown {
        /// The policy.
        policy: PolicyId,
    },
    /// What is left of a displaced rule around the guarded ports.
    Residual {
        /// The displaced rule.
        of: DisplacedId,
    },
}

/// The mark of one rule, group or tag.
///
/// Text form: `postern:<installation> grant=<32 hex> end=<RFC 3339>`, `postern:<installation> holder`,
/// `postern:<installation> copy=sg-…`, `postern:<installation> lockdown=<32 hex>`,
/// `postern:<installation> residual=<32 hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose it is.
    pub installation: Installation,
    /// What it is for.
    pub purpose: Purpose,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postern:{} ", self.installation)?;
        match &self.purpose {
            Purpose::Grant { grant, end } => {
                // Rounded up: a mark never promises an earlier end than the grant has.
                let end = if end.timestamp_subsec_nanos() == 0 {
                    *end
                } else {
                    *end + chrono::TimeDelta::seconds(1)
                };
                write!(
                    f,
                    "grant={} end={}",
                    grant.hex(),
                    end.to_rfc3339_opts(SecondsFormat::Secs, true)
                )
            }
            Purpose::Holder => f.write_str("holder"),
            Purpose::Copy { of } => write!(f, "copy={of}"),
            Purpose::Lockdown { policy } => write!(f, "lockdown={}", policy.hex()),
            Purpose::Residual { of } => write!(f, "residual={}", of.hex()),
        }
    }
}

impl Mark {
    /// The mark that `text` carries, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (installation, rest) = text.strip_prefix("postern:")?.split_once(' ')?;
        let installation = installation.parse().ok()?;
        let purpose = if rest == "holder" {
            Purpose::Holder
        } else if let Some(rest) = rest.strip_prefix("grant=") {
            let (grant, end) = rest.split_once(" end=")?;
            Purpose::Grant {
                grant: GrantId::from_hex(grant)?,
                end: DateTime::parse_from_rfc3339(end).ok()?.to_utc(),
            }
        } else if let Some(of) = rest.strip_prefix("copy=") {
            if !is_ec2_id(of, "sg-") {
                return None;
            }
            Purpose::Copy { of: of.to_owned() }
        } else if let Some(policy) = rest.strip_prefix("lockdown=") {
            Purpose::Lockdown {
                policy: PolicyId::from_hex(policy)?,
            }
        } else {
            Purpose::Residual {
                of: DisplacedId::from_hex(rest.strip_prefix("residual=")?)?,
            }
        };
        Some(Self {
            installation,
            purpose,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{an_id, at};

    #[test]
    fn every_mark_reads_back_and_fits_azures_description() {
        let installation: Installation = "prod-eu-12345678".parse().unwrap();
        for purpose in [
            Purpose::Grant {
                grant: an_id(1),
                end: at(3),
            },
            Purpose::Holder,
            Purpose::Copy {
                of: "sg-0123456789abcdef0".to_owned(),
            },
            Purpose::Lockdown { policy: an_id(2) },
            Purpose::Residual { of: an_id(3) },
        ] {
            let mark = Mark {
                installation: installation.clone(),
                purpose,
            };
            let text = mark.to_string();
            assert_eq!(Mark::parse(&text), Some(mark));
            assert!(text.len() <= 140, "{text}");
            assert!(
                text.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b" ._-:/()#,@[]+=&;{}!$*".contains(&b)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_quite_a_mark_is_not_ours() {
        for text in [
            "",
            "postern",
            "postern:x",
            "postern:X holder",
            "postern:x holder ",
            "Postern:x holder",
            "postern:x grant=1 end=2026-01-01T00:00:00Z",
            "postern:-x holder",
            "postern:x lockdown=zz",
            "postern:x copy=",
            "postern:x copy=i-0123456789abcdef0",
        ] {
            assert_eq!(Mark::parse(text), None, "{text}");
        }
    }
}
