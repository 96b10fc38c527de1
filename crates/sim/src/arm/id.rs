//! Names of resources: kinds, ARM ids and the rules for names. Ids compare without regard to case.

use super::refusal::ArmError;

/// A top-level resource type that the simulator holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `Microsoft.Network/applicationSecurityGroups`
    ApplicationSecurityGroup,
    /// `Microsoft.Network/azureFirewalls`
    AzureFirewall,
    /// `Microsoft.Network/firewallPolicies`
    FirewallPolicy,
    /// `Microsoft.Network/loadBalancers`
    LoadBalancer,
    /// `Microsoft.Network/networkInterfaces`
    NetworkInterface,
    /// `Microsoft.Network/networkSecurityGroups`
    NetworkSecurityGroup,
    /// `Microsoft.Network/publicIPAddresses`
    PublicIpAddress,
    /// `Microsoft.Network/routeTables`
    RouteTable,
    /// `Microsoft.Compute/virtualMachines`
    VirtualMachine,
    /// `Microsoft.Network/virtualNetworks`
    VirtualNetwork,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::ApplicationSecurityGroup,
        Self::AzureFirewall,
        Self::FirewallPolicy,
        Self::LoadBalancer,
        Self::NetworkInterface,
        Self::NetworkSecurityGroup,
        Self::PublicIpAddress,
        Self::RouteTable,
        Self::VirtualMachine,
        Self::VirtualNetwork,
    ];

    pub(super) fn namespace(self) -> &'static str {
        if self == Self::VirtualMachine {
            "Microsoft.Compute"
        } else {
            "Microsoft.Network"
        }
    }

    /// The type's segment in an id.
    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::ApplicationSecurityGroup => "applicationSecurityGroups",
            Self::AzureFirewall => "azureFirewalls",
            Self::FirewallPolicy => "firewallPolicies",
            Self::LoadBalancer => "loadBalancers",
            Self::NetworkInterface => "networkInterfaces",
            Self::NetworkSecurityGroup => "networkSecurityGroups",
            Self::PublicIpAddress => "publicIPAddresses",
            Self::RouteTable => "routeTables",
            Self::VirtualMachine => "virtualMachines",
            Self::VirtualNetwork => "virtualNetworks",
        }
    }

    pub(super) fn type_name(self) -> String {
        format!("{}/{}", self.namespace(), self.segment())
    }

    /// The operation group's name in Microsoft's clients, for faults and counters.
    pub(super) fn client(self) -> &'static str {
        match self {
            Self::ApplicationSecurityGroup => "ApplicationSecurityGroups",
            Self::AzureFirewall => "AzureFirewalls",
            Self::FirewallPolicy => "FirewallPolicies",
            Self::LoadBalancer => "LoadBalancers",
            Self::NetworkInterface => "NetworkInterfaces",
            Self::NetworkSecurityGroup => "NetworkSecurityGroups",
            Self::PublicIpAddress => "PublicIPAddresses",
            Self::RouteTable => "RouteTables",
            Self::VirtualMachine => "VirtualMachines",
            Self::VirtualNetwork => "VirtualNetworks",
        }
    }

    /// The kind of the parts that the simulator holds one by one.
    pub(super) fn child(self) -> Option<ChildKind> {
        match self {
            Self::FirewallPolicy => Some(ChildKind::RuleCollectionGroup),
            Self::RouteTable => Some(ChildKind::Route),
            Self::NetworkInterface => Some(ChildKind::IpConfiguration),
            Self::NetworkSecurityGroup => Some(ChildKind::SecurityRule),
            Self::VirtualNetwork => Some(ChildKind::Subnet),
            _ => None,
        }
    }

    pub(super) fn parse(namespace: &str, segment: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            kind.namespace().eq_ignore_ascii_case(namespace) && kind.segment().eq_ignore_ascii_case(segment)
        })
    }
}

/// A resource type inside another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ChildKind {
    /// `networkSecurityGroups/securityRules`
    SecurityRule,
    /// `networkSecurityGroups/defaultSecurityRules`, read-only
    DefaultSecurityRule,
    /// `virtualNetworks/subnets`
    Subnet,
    /// `networkInterfaces/ipConfigurations`, written with the interface only
    IpConfiguration,
    /// `firewallPolicies/ruleCollectionGroups`
    RuleCollectionGroup,
    /// `routeTables/routes`
    Route,
    /// `azureFirewalls/azureFirewallIpConfigurations`: a name in references, no resource of its own
    FirewallIpConfiguration,
    /// `loadBalancers/frontendIPConfigurations`, written with the balancer only
    FrontendIpConfiguration,
    /// `loadBalancers/backendAddressPools`, likewise
    BackendAddressPool,
    /// `loadBalancers/inboundNatRules`, likewise
    InboundNatRule,
}

impl ChildKind {
    const ALL: [Self; 10] = [
        Self::SecurityRule,
        Self::DefaultSecurityRule,
        Self::Subnet,
        Self::IpConfiguration,
        Self::RuleCollectionGroup,
        Self::Route,
        Self::FirewallIpConfiguration,
        Self::FrontendIpConfiguration,
        Self::BackendAddressPool,
        Self::InboundNatRule,
    ];

    pub(super) fn parent(self) -> Kind {
        match self {
            Self::SecurityRule | Self::DefaultSecurityRule => Kind::NetworkSecurityGroup,
            Self::Subnet => Kind::VirtualNetwork,
            Self::IpConfiguration => Kind::NetworkInterface,
            Self::RuleCollectionGroup => Kind::FirewallPolicy,
            Self::Route => Kind::RouteTable,
            Self::FirewallIpConfiguration => Kind::AzureFirewall,
            Self::FrontendIpConfiguration | Self::BackendAddressPool | Self::InboundNatRule => {
                Kind::LoadBalancer
            }
        }
    }

    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::SecurityRule => "securityRules",
            Self::DefaultSecurityRule => "defaultSecurityRules",
            Self::Subnet => "subnets",
            Self::IpConfiguration => "ipConfigurations",
            Self::RuleCollectionGroup => "ruleCollectionGroups",
            Self::Route => "routes",
            Self::FirewallIpConfiguration => "azureFirewallIpConfigurations",
            Self::FrontendIpConfiguration => "frontendIPConfigurations",
            Self::BackendAddressPool => "backendAddressPools",
            Self::InboundNatRule => "inboundNatRules",
        }
    }

    pub(super) fn type_name(self) -> String {
        format!("{}/{}", self.parent().type_name(), self.segment())
    }

    pub(super) fn client(self) -> &'static str {
        match self {
            Self::SecurityRule => "SecurityRules",
            Self::DefaultSecurityRule => "DefaultSecurityRules",
            Self::Subnet => "Subnets",
            Self::IpConfiguration => "NetworkInterfaceIPConfigurations",
            Self::RuleCollectionGroup => "FirewallPolicyRuleCollectionGroups",
            Self::Route => "Routes",
            Self::FirewallIpConfiguration => "AzureFirewallIPConfigurations",
            Self::FrontendIpConfiguration => "LoadBalancerFrontendIPConfigurations",
            Self::BackendAddressPool => "LoadBalancerBackendAddressPools",
            Self::InboundNatRule => "InboundNatRules",
        }
    }

    pub(super) fn parse(parent: Kind, segment: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|child| child.parent() == parent && child.segment().eq_ignore_ascii_case(segment))
    }
}

/// An ARM resource id of a kind that the simulator holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) subscription: String,
    pub(super) group: String,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) child: Option<(ChildKind, String)>,
}

impl Id {
    pub(super) fn new(subscription: &str, group: &str, kind: Kind, name: &str) -> Self {
        Self {
            subscription: subscription.to_owned(),
            group: group.to_owned(),
            kind,
            name: name.to_owned(),
            child: None,
        }
    }

    /// Reads an id as it stands in a body. None where it is not the id of a kind held here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let segments: Vec<&str> = text.strip_prefix('/')?.split('/').collect();
        let (head, child) = match segments.as_slice() {
            [head @ .., child, child_name] if head.len() == 8 => (head, Some((*child, *child_name))),
            head if head.len() == 8 => (head, None),
            _ => return None,
        };
        let [
            subscriptions,
            subscription,
            groups,
            group,
            providers,
            namespace,
            segment,
            name,
        ] = head
        else {
            return None;
        };
        let fixed = subscriptions.eq_ignore_ascii_case("subscriptions")
            && groups.eq_ignore_ascii_case("resourceGroups")
            && providers.eq_ignore_ascii_case("providers");
        if !fixed || [subscription, group, name].iter().any(|part| part.is_empty()) {
            return None;
        }
        let kind = Kind::parse(namespace, segment)?;
        let mut id = Self::new(subscription, group, kind, name);
        if let Some((segment, name)) = child {
            id.child = Some((ChildKind::parse(kind, segment)?, name.to_owned()));
        }
        Some(id)
    }

    /// The id of a part.
    pub(super) fn child(&self, kind: ChildKind, name: &str) -> Self {
        Self {
            child: Some((kind, name.to_owned())),
            ..self.clone()
        }
    }

    /// The id of the top-level resource.
    pub(super) fn parent(&self) -> Self {
        Self {
            child: None,
            ..self.clone()
        }
    }

    /// The id as it is written.
    pub(super) fn text(&self) -> String {
        let Self {
            subscription,
            group,
            kind,
            name,
            child,
        } = self;
        let type_name = kind.type_name();
        let mut text =
            format!("/subscriptions/{subscription}/resourceGroups/{group}/providers/{type_name}/{name}");
        if let Some((child, name)) = child {
            text.push('/');
            text.push_str(child.segment());
            text.push('/');
            text.push_str(name);
        }
        text
    }

    /// The id in lower case, by which it is found.
    pub(super) fn key(&self) -> String {
        self.text().to_ascii_lowercase()
    }
}

/// Refuses a name that the network provider refuses: 1 to 80 characters, a letter or digit first, a letter,
/// digit or underscore last, between them also `.`, `-` and `_` (Azure resource naming rules).
pub(super) fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let sound = name.len() <= 80
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if sound {
        return Ok(());
    }
    Err(ArmError::network(
        400,
        "InvalidResourceName",
        format!(
            "Resource name {name} is invalid. The name can be up to 80 characters long. It must begin with a \
             word character, and it must end with a word character or with '_'. The name may contain word \
             characters or '.', '-', '_'."
        ),
    ))
}

/// Refuses a resource group name: 1 to 90 letters, digits, `-`, `_`, `.`, `(`, `)`, the last no `.`.
pub(super) fn check_group_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '(' | ')');
    if (1..=90).contains(&name.len()) && name.chars().all(inner) && !name.ends_with('.') {
        return Ok(());
    }
    Err(ArmError::new(
        400,
        "InvalidResourceGroup",
        format!("The provided resource group name '{name}' has these invalid characters or is too long."),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NSG: &str =
        "/subscriptions/s/resourceGroups/Rg/providers/Microsoft.Network/networkSecurityGroups/Web";

    #[test]
    fn an_id_keeps_its_case_and_is_found_without_it() {
        let id = Id::parse(NSG).unwrap();
        assert_eq!(id.text(), NSG);
        assert_eq!(Id::parse(&NSG.to_uppercase()).unwrap().key(), id.key());
    }

    #[test]
    fn a_part_belongs_to_its_own_kind_of_parent() {
        assert!(Id::parse(&format!("{NSG}/securityRules/ssh")).is_some());
        assert!(Id::parse(&format!("{NSG}/subnets/front")).is_none());
        assert!(Id::parse(&format!("{NSG}/securityRules")).is_none());
        assert!(Id::parse(NSG.trim_end_matches("Web")).is_none());
        assert!(Id::parse("subscriptions/s").is_none());
    }

    #[test]
    fn names_follow_the_providers_charset() {
        for name in ["a", "web-1", "A.b_c", "9_"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "a/b", "ä", "_a", &"x".repeat(81)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_group_name("rg (1)").is_err());
        assert!(check_group_name("rg(1)").is_ok());
    }
}
