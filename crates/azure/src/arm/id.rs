//! ARM resource ids, taken apart and checked, so that nothing but a name ever stands where a name belongs.

use std::fmt;

use postern_core::point::PointRef;

/// A text that is no ARM resource id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an ARM resource id")]
pub(crate) struct InvalidArmId(String);

/// A resource below a resource group, in lower case: ARM compares ids without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ArmId {
    subscription: String,
    resource_group: String,
    namespace: String,
    /// Type and name, outermost first; never empty.
    parts: Vec<(String, String)>,
}

const NETWORK: &str = "microsoft.network";

impl ArmId {
    /// Reads an id in any case.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidArmId> {
        let invalid = || InvalidArmId(text.chars().take(200).collect());
        let lower = text.to_lowercase();
        let segments: Vec<&str> = lower.split('/').collect();
        let [
            "",
            "subscriptions",
            subscription,
            "resourcegroups",
            resource_group,
            "providers",
            namespace,
            rest @ ..,
        ] = segments.as_slice()
        else {
            return Err(invalid());
        };
        let parts: Vec<(String, String)> = rest
            .chunks(2)
            .map(|pair| match pair {
                [kind, name] => Some(((*kind).to_owned(), (*name).to_owned())),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(invalid)?;
        let id = Self {
            subscription: (*subscription).to_owned(),
            resource_group: (*resource_group).to_owned(),
            namespace: (*namespace).to_owned(),
            parts,
        };
        let sound = !id.parts.is_empty()
            && is_subscription(&id.subscription)
            && is_group(&id.resource_group)
            && is_word(&id.namespace)
            && id.parts.iter().all(|(kind, name)| is_word(kind) && is_name(name));
        if sound { Ok(id) } else { Err(invalid()) }
    }

    /// The NSG, firewall or firewall policy that a point names; none for points that are not in Azure.
    pub(crate) fn of_point(point: &PointRef) -> Option<Self> {
        let (kind, subscription, resource_group, name) = match point {
            PointRef::AzureNsg {
                subscription,
                resource_group,
                name,
            } => ("networksecuritygroups", subscription, resource_group, name),
            PointRef::AzureFirewall {
                subscription,
                resource_group,
                name,
            } => ("azurefirewalls", subscription, resource_group, name),
            PointRef::AzureFirewallPolicy {
                subscription,
                resource_group,
                name,
            } => ("firewallpolicies", subscription, resource_group, name),
            PointRef::AwsInstance(_) | PointRef::AwsSecurityGroup { .. } => return None,
        };
        Some(Self {
            subscription: subscription.clone(),
            resource_group: resource_group.clone(),
            namespace: NETWORK.to_owned(),
            parts: vec![(kind.to_owned(), name.clone())],
        })
    }

    /// A rule of an NSG.
    pub(crate) fn rule(&self, name: &str) -> Result<Self, InvalidArmId> {
        let name = name.to_lowercase();
        if !is_name(&name) {
            return Err(InvalidArmId(name.chars().take(200).collect()));
        }
        let mut id = self.clone();
        id.parts.push(("securityrules".to_owned(), name));
        Ok(id)
    }

    /// The point that an NSG's, a firewall's or a firewall policy's id names.
    pub(crate) fn point(&self) -> Option<PointRef> {
        let [(_, name)] = self.parts.as_slice() else {
            return None;
        };
        let of = if self.is("microsoft.network/networksecuritygroups") {
            PointRef::nsg
        } else if self.is("microsoft.network/azurefirewalls") {
            PointRef::firewall
        } else if self.is("microsoft.network/firewallpolicies") {
            PointRef::firewall_policy
        } else {
            return None;
        };
        of(&self.subscription, &self.resource_group, name).ok()
    }

    /// Whether it is of the type, such as `microsoft.network/networkinterfaces`.
    pub(crate) fn is(&self, kind: &str) -> bool {
        let mut own = self.namespace.clone();
        for (part, _) in &self.parts {
            own.push('/');
            own.push_str(part);
        }
        own == kind
    }

    /// The resource that it is a part of; none for a resource of its own.
    pub(crate) fn parent(&self) -> Option<Self> {
        let mut parent = self.clone();
        parent.parts.pop();
        (!parent.parts.is_empty()).then_some(parent)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.parts.last().map_or("", |(_, name)| name)
    }

    /// The subscription.
    pub(crate) fn subscription(&self) -> &str {
        &self.subscription
    }

    /// The segments of its path.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &str> {
        [
            "subscriptions",
            self.subscription.as_str(),
            "resourceGroups",
            self.resource_group.as_str(),
            "providers",
            self.namespace.as_str(),
        ]
        .into_iter()
        .chain(
            self.parts
                .iter()
                .flat_map(|(kind, name)| [kind.as_str(), name.as_str()]),
        )
    }
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "/subscriptions/{}/resourcegroups/{}/providers/{}",
            self.subscription, self.resource_group, self.namespace
        )?;
        self.parts
            .iter()
            .try_for_each(|(kind, name)| write!(f, "/{kind}/{name}"))
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

/// Source of this and of [`is_name`]: Azure Resource Manager, "Naming rules and restrictions for Azure
/// resources": groups have 1 to 90 letters, digits, `_-.()` and do not end in a period.
fn is_group(text: &str) -> bool {
    (1..=90).contains(&text.chars().count())
        && text.chars().all(|c| c.is_alphanumeric() || "_-.()".contains(c))
        && !text.ends_with('.')
}

/// 1 to 80 letters, digits, `_-.`, beginning with a letter or digit, ending with one or with `_`. Machines and
/// interfaces keep to it too.
fn is_name(text: &str) -> bool {
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

fn is_word(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NSG: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/Prod/providers/Microsoft.Network/networkSecurityGroups/Web-NSG";

    #[test]
    fn an_id_is_the_same_in_any_case_and_names_its_point() {
        let id = ArmId::parse(NSG).unwrap();
        assert_eq!(ArmId::parse(&NSG.to_uppercase()), Ok(id.clone()));
        let point = id.point().unwrap();
        assert_eq!(
            point.to_string(),
            "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg"
        );
        assert_eq!(ArmId::of_point(&point), Some(id.clone()));
        let rule = id.rule("ssh").unwrap();
        assert_eq!(
            rule.to_string(),
            format!("{}/securityrules/ssh", NSG.to_lowercase())
        );
        assert_eq!(rule.point(), None);
    }

    #[test]
    fn path_tricks_are_no_ids() {
        for text in [
            String::new(),
            "/".to_owned(),
            format!("{NSG}/"),
            format!("{NSG}/securityRules"),
            format!("{NSG}/securityRules/.."),
            format!("{NSG}/securityRules/a%2fb"),
            format!("{NSG}/securityRules/a?x=1"),
            format!("{NSG}/securityRules/a b"),
            NSG.replace("Prod", ".."),
            NSG.replace("Prod", "a/b"),
            NSG.replace("00000000-", ""),
            NSG.replace("Microsoft.Network", "Microsoft.Network/x/../.."),
            NSG.trim_start_matches('/').to_owned(),
            format!("https://evil.example{NSG}"),
        ] {
            assert!(ArmId::parse(&text).is_err(), "{text}");
        }
        assert!(ArmId::parse(NSG).unwrap().rule("../x").is_err());
    }
}
