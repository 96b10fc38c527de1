//! Machines, named by their own cloud ids, and the checks on every segment of such an id.
//!
//! Azure compares resource ids without regard to case, so they are kept in lower case here; the name as its
//! owner wrote it is an attribute of the discovered machine.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::scope::Scope;

/// A cloud that Postern guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cloud {
    /// Microsoft Azure.
    Azure,
    /// Amazon Web Services.
    Aws,
}

impl Cloud {
    /// `azure` or `aws`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::Aws => "aws",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `azure` or `aws`")]
pub struct UnknownCloud;

impl FromStr for Cloud {
    type Err = UnknownCloud;

    fn from_str(text: &str) -> Result<Self, UnknownCloud> {
        match text {
            "azure" => Ok(Self::Azure),
            "aws" => Ok(Self::Aws),
            _ => Err(UnknownCloud),
        }
    }
}

/// A billing and permission boundary whose machines are discovered together: an Azure subscription, or an
/// AWS account in one region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "cloud", rename_all = "lowercase")]
pub enum Account {
    /// An Azure subscription.
    Azure {
        /// The subscription id, a lower-case UUID.
        subscription: String,
    },
    /// An AWS account in a region.
    Aws {
        /// Twelve digits.
        account: String,
        /// Such as `eu-west-1`.
        region: String,
    },
}

impl Account {
    /// The scope that holds the account's machines.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Azure { subscription } => Scope::from_segments(["azure", subscription]),
            Self::Aws { account, region } => Scope::from_segments(["aws", account, region]),
        }
    }

    /// The cloud that the account is in.
    pub const fn cloud(&self) -> Cloud {
        match self {
            Self::Azure { .. } => Cloud::Azure,
            Self::Aws { .. } => Cloud::Aws,
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.scope(), f)
    }
}

/// A machine: an Azure virtual machine or an EC2 instance.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MachineId {
    /// `/subscriptions/<s>/resourceGroups/<rg>/providers/Microsoft.Compute/virtualMachines/<name>`.
    Azure(AzureVm),
    /// `arn:<partition>:ec2:<region>:<account>:instance/<id>`.
    Aws(AwsInstance),
}

/// The parts of an Azure virtual machine's resource id, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AzureVm {
    subscription: String,
    resource_group: String,
    name: String,
}

impl AzureVm {
    /// The subscription id, a UUID.
    pub fn subscription(&self) -> &str {
        &self.subscription
    }
    /// The resource group's name.
    pub fn resource_group(&self) -> &str {
        &self.resource_group
    }
    /// The virtual machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The parts of an EC2 instance's ARN. The partition follows from the region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AwsInstance {
    account: String,
    region: String,
    instance: String,
}

impl AwsInstance {
    /// From the parts, each checked.
    pub fn new(account: &str, region: &str, instance: &str) -> Result<Self, InvalidMachineId> {
        if !is_account(account) {
            return Err(InvalidMachineId::segment(
                account,
                "an AWS account id (12 digits)",
            ));
        }
        if !is_region(region) {
            return Err(InvalidMachineId::segment(region, "an AWS region"));
        }
        if !is_instance(instance) {
            return Err(InvalidMachineId::segment(instance, "an EC2 instance id"));
        }
        Ok(Self {
            account: account.to_owned(),
            region: region.to_owned(),
            instance: instance.to_owned(),
        })
    }
    /// Twelve digits.
    pub fn account(&self) -> &str {
        &self.account
    }
    /// Such as `eu-west-1`.
    pub fn region(&self) -> &str {
        &self.region
    }
    /// Such as `i-0123456789abcdef0`.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

/// The partition that a region belongs to, as its ARNs name it.
///
/// Source: AWS General Reference, "Amazon Resource Names (ARNs)": `aws`, `aws-cn`, `aws-us-gov`.
pub fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

impl MachineId {
    /// The cloud that the machine runs in.
    pub const fn cloud(&self) -> Cloud {
        match self {
            Self::Azure(_) => Cloud::Azure,
            Self::Aws(_) => Cloud::Aws,
        }
    }

    /// The machine's own path, the deepest scope that holds it.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Azure(vm) => {
                Scope::from_segments(["azure", &vm.subscription, &vm.resource_group, &vm.name])
            }
            Self::Aws(i) => Scope::from_segments(["aws", &i.account, &i.region, &i.instance]),
        }
    }

    /// The account that the machine is in.
    pub fn account(&self) -> Account {
        match self {
            Self::Azure(vm) => Account::Azure {
                subscription: vm.subscription.clone(),
            },
            Self::Aws(i) => Account::Aws {
                account: i.account.clone(),
                region: i.region.clone(),
            },
        }
    }

    /// The last part of the id: the virtual machine's name or the instance id.
    pub fn short(&self) -> &str {
        match self {
            Self::Azure(vm) => &vm.name,
            Self::Aws(i) => &i.instance,
        }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Azure(vm) => write!(
                f,
                "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/virtualMachines/{}",
                vm.subscription, vm.resource_group, vm.name
            ),
            Self::Aws(i) => {
                write!(
                    f,
                    "arn:{}:ec2:{}:{}:instance/{}",
                    partition(&i.region),
                    i.region,
                    i.account,
                    i.instance
                )
            }
        }
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text does not name a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMachineId {
    /// Neither an ARM resource id nor an ARN.
    #[error(
        "a machine is named by an ARM id (`/subscriptions/…/virtualMachines/<name>`) or an EC2 instance ARN (`arn:aws:ec2:<region>:<account>:instance/<id>`)"
    )]
    Shape,
    /// An ARM id with a step up, or with nothing between two slashes.
    #[error(
        "`{0}` has `.`, `..` or nothing between two slashes: an id is taken as Azure writes it (`az vm list --query [].id`), and no path is followed"
    )]
    Path(String),
    /// The ARN's partition is not that of its region.
    #[error("region `{region}` is in partition `{expected}`")]
    Partition {
        /// The region of the ARN.
        region: String,
        /// The partition that it belongs to.
        expected: &'static str,
    },
    /// A part that no resource can have as a name.
    #[error("`{segment}` is not {expected}")]
    Segment {
        /// The part as given, shortened.
        segment: String,
        /// What it should have been.
        expected: &'static str,
    },
}

impl InvalidMachineId {
    fn segment(segment: &str, expected: &'static str) -> Self {
        Self::Segment {
            segment: segment.chars().take(100).collect(),
            expected,
        }
    }
}

impl FromStr for MachineId {
    type Err = InvalidMachineId;

    fn from_str(text: &str) -> Result<Self, InvalidMachineId> {
        if let Some(rest) = text.strip_prefix("arn:") {
            let parts: Vec<&str> = rest.split(':').collect();
            let [given, "ec2", region, account, resource] = parts.as_slice() else {
                return Err(InvalidMachineId::Shape);
            };
            let instance = resource
                .strip_prefix("instance/")
                .ok_or(InvalidMachineId::Shape)?;
            let machine = AwsInstance::new(account, region, instance)?;
            let expected = partition(region);
            if *given != expected {
                return Err(InvalidMachineId::Partition {
                    region: (*region).to_owned(),
                    expected,
                });
            }
            return Ok(Self::Aws(machine));
        }
        let lower = text.to_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if lower.starts_with("/subscriptions/")
            && parts.iter().skip(1).any(|part| matches!(*part, "" | "." | ".."))
        {
            return Err(InvalidMachineId::Path(text.chars().take(200).collect()));
        }
        let [
            "",
            "subscriptions",
            subscription,
            "resourcegroups",
            group,
            "providers",
            "microsoft.compute",
            "virtualmachines",
            name,
        ] = parts.as_slice()
        else {
            return Err(InvalidMachineId::Shape);
        };
        if !is_subscription(subscription) {
            return Err(InvalidMachineId::segment(
                subscription,
                "a subscription id (a UUID)",
            ));
        }
        if !is_resource_group(group) {
            return Err(InvalidMachineId::segment(group, "a resource group name"));
        }
        if !is_azure_name(name) {
            return Err(InvalidMachineId::segment(name, "a virtual machine name"));
        }
        Ok(Self::Azure(AzureVm {
            subscription: (*subscription).to_owned(),
            resource_group: (*group).to_owned(),
            name: (*name).to_owned(),
        }))
    }
}

impl TryFrom<String> for MachineId {
    type Error = InvalidMachineId;

    fn try_from(text: String) -> Result<Self, InvalidMachineId> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.to_string()
    }
}

/// A UUID in lower case with hyphens.
pub(crate) fn is_subscription(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// Resource groups: 1 to 90 letters, digits, `_`, `-`, `.`, `(`, `)`; not ending in a period.
///
/// Source: Azure Resource Manager, "Naming rules and restrictions for Azure resources".
pub(crate) fn is_resource_group(text: &str) -> bool {
    (1..=90).contains(&text.chars().count())
        && text.chars().all(|c| c.is_alphanumeric() || "_-.()".contains(c))
        && !text.ends_with('.')
}

/// Virtual machines and network resources: 1 to 80 letters, digits, `_`, `-`, `.`; begins with a letter or
/// digit, ends with one or with `_`.
///
/// Source: Azure Resource Manager, "Naming rules and restrictions for Azure resources", Microsoft.Network
/// (the widest rule; virtual machine names are a subset).
pub(crate) fn is_azure_name(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .last()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Such as `eu-west-1`, `us-gov-east-1`, `ap-southeast-3`: words of letters, then a number.
pub(crate) fn is_region(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    text.len() <= 32
        && matches!(words.as_slice(), [area, middle @ .., number]
            if area.len() == 2
                && area.bytes().all(|b| b.is_ascii_lowercase())
                && !middle.is_empty()
                && middle.iter().all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
                && !number.is_empty() && number.len() <= 2 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// `i-` and 8 or 17 hex digits.
///
/// Source: EC2 User Guide, "Resource IDs": ids are 8 characters, or 17 for resources made since 2016.
pub(crate) fn is_instance(text: &str) -> bool {
    is_ec2_id(text, "i-")
}

/// An EC2 resource id with the prefix: 8 or 17 lower-case hex digits follow it.
pub fn is_ec2_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|hex| {
        matches!(hex.len(), 8 | 17)
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/Web-1";

    #[test]
    fn an_arm_id_that_steps_up_is_told_that_no_path_is_followed() {
        let group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups";
        let vm = "providers/Microsoft.Compute/virtualMachines";
        for text in [
            format!("{group}/../{vm}/web"),
            format!("{group}/a/../b/{vm}/web"),
            format!("{group}//{vm}/web"),
            format!("{group}/a/{vm}/web/"),
            format!("{group}/a/{vm}/."),
        ] {
            let told = text.parse::<MachineId>().unwrap_err().to_string();
            assert!(
                told.contains("no path is followed") && told.contains(&text),
                "{told}"
            );
        }
    }

    #[test]
    fn arm_ids_are_compared_without_regard_to_case() {
        let one: MachineId = VM.parse().unwrap();
        let other: MachineId = VM.to_uppercase().parse().unwrap();
        assert_eq!(one, other);
        assert_eq!(
            one.scope().to_string(),
            "/azure/00000000-0000-0000-0000-000000000001/prod/web-1"
        );
        assert_eq!(one.to_string().parse::<MachineId>().unwrap(), one);
    }

    #[test]
    fn an_arn_gives_account_region_and_instance() {
        let id: MachineId = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0"
            .parse()
            .unwrap();
        assert_eq!(
            id.scope().to_string(),
            "/aws/123456789012/eu-west-1/i-0123456789abcdef0"
        );
        assert!(matches!(
            "arn:aws:ec2:cn-north-1:123456789012:instance/i-0123456789abcdef0".parse::<MachineId>(),
            Err(InvalidMachineId::Partition {
                expected: "aws-cn",
                ..
            })
        ));
    }

    #[test]
    fn path_tricks_and_foreign_resources_are_refused() {
        let sub = "/subscriptions/00000000-0000-0000-0000-000000000001";
        for text in [
            String::new(),
            "vm1".into(),
            format!("{VM}/"),
            format!("{VM}/extensions/x"),
            format!("{VM}?x=1"),
            format!("{VM}%2f.."),
            format!("{sub}/resourceGroups/../providers/Microsoft.Compute/virtualMachines/x"),
            format!("{sub}/resourceGroups/a/providers/Microsoft.Network/networkInterfaces/x"),
            format!("{sub}/resourceGroups/a/providers/Microsoft.Compute/virtualMachines/."),
            "/subscriptions/x/resourceGroups/a/providers/Microsoft.Compute/virtualMachines/x".into(),
            "arn:aws:ec2:eu-west-1:123456789012:instance/../i-0123456789abcdef0".into(),
            "arn:aws:ec2:eu-west-1:123456789012:volume/vol-0123456789abcdef0".into(),
            "arn:aws:ec2:eu-west-1:12345678901:instance/i-0123456789abcdef0".into(),
            "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789ABCDEF0".into(),
            "arn:aws:ec2::123456789012:instance/i-0123456789abcdef0".into(),
            "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0:x".into(),
        ] {
            assert!(text.parse::<MachineId>().is_err(), "{text}");
        }
    }
}
