//! Enforcement points: the cloud resources whose rules are written.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::machine::{self, Account, AwsInstance, Cloud};

/// The native name of an enforcement point. Text form: `azure:nsg:<subscription>/<group>/<name>`,
/// `azure:firewall:<subscription>/<group>/<name>`, `azure:firewall-policy:<subscription>/<group>/<name>`,
/// `aws:instance:<account>/<region>/<i-…>`, `aws:security-group:<account>/<region>/<sg-…>`; lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PointRef {
    /// A network security group, where a lockdown's denies and the grants' allows stand.
    AzureNsg {
        /// The subscription id.
        subscription: String,
        /// The resource group's name.
        resource_group: String,
        /// The NSG's name.
        name: String,
    },
    /// A classic Azure Firewall, whose document holds all its rules.
    AzureFirewall {
        /// The subscription id.
        subscription: String,
        /// The resource group's name.
        resource_group: String,
        /// The firewall's name.
        name: String,
    },
    /// A firewall policy, of which one rule collection group is written.
    AzureFirewallPolicy {
        /// The subscription id.
        subscription: String,
        /// The resource group's name.
        resource_group: String,
        /// The policy's name.
        name: String,
    },
    /// An EC2 instance, which the temporary security group of its grants is attached to.
    AwsInstance(AwsInstance),
    /// A security group that others own, whose rules a lockdown displaces. A point of its own, because the
    /// group may be shared: two instances' lockdowns must not write it at the same time.
    AwsSecurityGroup {
        /// Twelve digits.
        account: String,
        /// Such as `eu-west-1`.
        region: String,
        /// `sg-…`.
        group: String,
    },
}

/// What a point is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointType {
    /// An Azure network security group.
    AzureNsg,
    /// A classic Azure Firewall.
    AzureFirewall,
    /// An Azure Firewall policy.
    AzureFirewallPolicy,
    /// An EC2 instance.
    AwsInstance,
    /// An EC2 security group.
    AwsSecurityGroup,
}

impl PointRef {
    /// An NSG by the parts of its resource id, in any case.
    pub fn nsg(subscription: &str, resource_group: &str, name: &str) -> Result<Self, InvalidPoint> {
        let (subscription, resource_group, name) = azure_parts(subscription, resource_group, name)?;
        Ok(Self::AzureNsg {
            subscription,
            resource_group,
            name,
        })
    }

    /// A classic firewall by the parts of its resource id, in any case.
    pub fn firewall(subscription: &str, resource_group: &str, name: &str) -> Result<Self, InvalidPoint> {
        let (subscription, resource_group, name) = azure_parts(subscription, resource_group, name)?;
        Ok(Self::AzureFirewall {
            subscription,
            resource_group,
            name,
        })
    }

    /// A firewall policy by the parts of its resource id, in any case.
    pub fn firewall_policy(
        subscription: &str,
        resource_group: &str,
        name: &str,
    ) -> Result<Self, InvalidPoint> {
        let (subscription, resource_group, name) = azure_parts(subscription, resource_group, name)?;
        Ok(Self::AzureFirewallPolicy {
            subscription,
            resource_group,
            name,
        })
    }

    /// A security group by its parts.
    pub fn security_group(account: &str, region: &str, group: &str) -> Result<Self, InvalidPoint> {
        if machine::is_account(account) && machine::is_region(region) && machine::is_ec2_id(group, "sg-") {
            Ok(Self::AwsSecurityGroup {
                account: account.to_owned(),
                region: region.to_owned(),
                group: group.to_owned(),
            })
        } else {
            Err(InvalidPoint(
                format!("{account}/{region}/{group}").chars().take(200).collect(),
            ))
        }
    }

    /// The cloud that the point is in.
    pub const fn cloud(&self) -> Cloud {
        match self {
            Self::AzureNsg { .. } | Self::AzureFirewall { .. } | Self::AzureFirewallPolicy { .. } => {
                Cloud::Azure
            }
            Self::AwsInstance(_) | Self::AwsSecurityGroup { .. } => Cloud::Aws,
        }
    }

    /// The account whose API budget the point's calls use.
    pub fn account(&self) -> Account {
        match self {
            Self::AzureNsg { subscription, .. }
            | Self::AzureFirewall { subscription, .. }
            | Self::AzureFirewallPolicy { subscription, .. } => Account::Azure {
                subscription: subscription.clone(),
            },
            Self::AwsInstance(i) => Account::Aws {
                account: i.account().to_owned(),
                region: i.region().to_owned(),
            },
            Self::AwsSecurityGroup { account, region, .. } => Account::Aws {
                account: account.clone(),
                region: region.clone(),
            },
        }
    }

    /// What the point is.
    pub const fn point_type(&self) -> PointType {
        match self {
            Self::AzureNsg { .. } => PointType::AzureNsg,
            Self::AzureFirewall { .. } => PointType::AzureFirewall,
            Self::AzureFirewallPolicy { .. } => PointType::AzureFirewallPolicy,
            Self::AwsInstance(_) => PointType::AwsInstance,
            Self::AwsSecurityGroup { .. } => PointType::AwsSecurityGroup,
        }
    }
}

impl fmt::Display for PointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AzureNsg {
                subscription,
                resource_group,
                name,
            } => {
                write!(f, "azure:nsg:{subscription}/{resource_group}/{name}")
            }
            Self::AzureFirewall {
                subscription,
                resource_group,
                name,
            } => {
                write!(f, "azure:firewall:{subscription}/{resource_group}/{name}")
            }
            Self::AzureFirewallPolicy {
                subscription,
                resource_group,
                name,
            } => {
                write!(f, "azure:firewall-policy:{subscription}/{resource_group}/{name}")
            }
            Self::AwsInstance(i) => write!(f, "aws:instance:{}/{}/{}", i.account(), i.region(), i.instance()),
            Self::AwsSecurityGroup {
                account,
                region,
                group,
            } => {
                write!(f, "aws:security-group:{account}/{region}/{group}")
            }
        }
    }
}

impl fmt::Debug for PointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The parts of a resource id in lower case, if they are such.
fn azure_parts(
    subscription: &str,
    resource_group: &str,
    name: &str,
) -> Result<(String, String, String), InvalidPoint> {
    let (subscription, resource_group, name) = (
        subscription.to_lowercase(),
        resource_group.to_lowercase(),
        name.to_lowercase(),
    );
    if machine::is_subscription(&subscription)
        && machine::is_resource_group(&resource_group)
        && machine::is_azure_name(&name)
    {
        Ok((subscription, resource_group, name))
    } else {
        Err(InvalidPoint(
            format!("{subscription}/{resource_group}/{name}")
                .chars()
                .take(200)
                .collect(),
        ))
    }
}

/// A text that names no enforcement point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name an enforcement point")]
pub struct InvalidPoint(String);

impl FromStr for PointRef {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        let invalid = || InvalidPoint(text.chars().take(200).collect());
        let (kind, path) = text.rsplit_once(':').ok_or_else(invalid)?;
        let parts: Vec<&str> = path.split('/').collect();
        let [first, second, third] = parts.as_slice() else {
            return Err(invalid());
        };
        match kind {
            "azure:nsg" => Self::nsg(first, second, third),
            "azure:firewall" => Self::firewall(first, second, third),
            "azure:firewall-policy" => Self::firewall_policy(first, second, third),
            "aws:instance" => AwsInstance::new(first, second, third)
                .map(Self::AwsInstance)
                .map_err(|_| invalid()),
            "aws:security-group" => Self::security_group(first, second, third),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for PointRef {
    type Error = InvalidPoint;

    fn try_from(text: String) -> Result<Self, InvalidPoint> {
        text.parse()
    }
}

impl From<PointRef> for String {
    fn from(point: PointRef) -> Self {
        point.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_reads_back_from_what_it_shows() {
        for text in [
            "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg",
            "azure:firewall:00000000-0000-0000-0000-000000000001/prod/edge",
            "azure:firewall-policy:00000000-0000-0000-0000-000000000001/prod/rules",
            "aws:instance:123456789012/eu-west-1/i-0123456789abcdef0",
            "aws:security-group:123456789012/eu-west-1/sg-0123456789abcdef0",
        ] {
            assert_eq!(text.parse::<PointRef>().unwrap().to_string(), text);
        }
        for text in [
            "azure:nsg:x/y/z",
            "aws:instance:123456789012/eu-west-1/../x",
            "nsg",
            "",
        ] {
            assert!(text.parse::<PointRef>().is_err(), "{text}");
        }
    }
}
