//! What is refused because others use the resource, or because it is still being changed.

use super::id::{ChildKind, Id, Kind};
use super::references::Pointer;
use super::refusal::ArmError;
use super::state::{Provisioning, Resource, State};

pub(super) fn nic_in_use(interface: &Id, holder: &str) -> ArmError {
    ArmError::network(
        400,
        "NicInUse",
        format!(
            "Network Interface {} is used by existing resource {holder}. In order to delete the network interface, \
             it must be dissociated from the resource. To learn more, see aka.ms/deletenic.",
            interface.text()
        ),
    )
}

/// Refuses to delete a subnet that has IP configurations.
pub(super) fn subnet_unused(state: &State, subnet: &Id) -> Result<(), ArmError> {
    let references = state.back_references();
    match references.get(&subnet.key()).and_then(|from| from.first()) {
        None => Ok(()),
        Some(Pointer { from, .. }) => Err(ArmError::network(
            400,
            "InUseSubnetCannotBeDeleted",
            format!(
                "Subnet {} is in use by {from} and cannot be deleted. In order to delete the subnet, delete all \
                 the resources within the subnet. See aka.ms/deletesubnet.",
                subnet.child.as_ref().map_or("", |(_, name)| name.as_str())
            ),
        )),
    }
}

/// Refuses to delete what others use.
pub(super) fn unused(state: &State, resource: &Resource) -> Result<(), ArmError> {
    let references = state.back_references();
    let id = &resource.id;
    let from: Vec<&str> = references
        .get(&id.key())
        .into_iter()
        .flatten()
        .map(|pointer| pointer.from.as_str())
        .collect();
    if id.kind == Kind::VirtualNetwork {
        for (child, _) in resource.shown() {
            subnet_unused(state, &id.child(ChildKind::Subnet, &child.name))?;
        }
    }
    let Some(first) = from.first() else { return Ok(()) };
    let cannot = |code: &str, what: &str| {
        // Documented behaviour; the code is not on record.
        let text = format!(
            "{what} {} cannot be deleted because it is in use by {}.",
            id.text(),
            from.join(", ")
        );
        ArmError::network(400, code, text)
    };
    let text = id.text();
    Err(match id.kind {
        Kind::NetworkSecurityGroup => ArmError::network(
            400,
            "InUseNetworkSecurityGroupCannotBeDeleted",
            format!(
                "Network security group {text} cannot be deleted because it is in use by the following resources: \
                 {}. In order to delete the Network security group, remove the association with the resource(s). \
                 To learn how to do this, see aka.ms/deletensg.",
                from.join(", ")
            ),
        ),
        Kind::NetworkInterface => nic_in_use(id, first),
        Kind::PublicIpAddress => ArmError::network(
            400,
            "PublicIPAddressCannotBeDeleted",
            format!(
                "Public IP address {text} can not be deleted since it is still allocated to resource {first}. In \
                 order to delete the public IP, disassociate/detach the Public IP address from the resource. To \
                 learn how to do this, see aka.ms/deletepublicip."
            ),
        ),
        Kind::RouteTable => cannot("InUseRouteTableCannotBeDeleted", "Route table"),
        Kind::FirewallPolicy => cannot("FirewallPolicyInUse", "Firewall policy"),
        _ => cannot("ApplicationSecurityGroupInUse", "Application security group"),
    })
}

/// Refuses a write to a firewall policy or one of its groups while either is still being changed, or a firewall
/// that follows the policy is (see `firewall.rs` for the codes).
pub(super) fn policy_not_busy(state: &State, policy: &Resource, group: Option<&str>) -> Result<(), ArmError> {
    let key = policy.id.key();
    let references = state.back_references();
    let busy = state.busy(&key).is_some() && policy.provisioning != Provisioning::Succeeded;
    let firewall = references
        .get(&key)
        .into_iter()
        .flatten()
        .filter(|pointer| pointer.member == "firewalls")
        .map(|pointer| &pointer.from)
        .find(|firewall| state.busy(&firewall.to_ascii_lowercase()).is_some());
    let (code, text) = match (busy, group, firewall) {
        (false, _, None) => return Ok(()),
        (false, _, Some(firewall)) => (
            "AnotherOperationInProgress",
            format!("Another operation on the dependent resource {firewall} is in progress."),
        ),
        (true, Some(group), _) => (
            "FirewallPolicyRuleCollectionGroupUpdateNotAllowedWhenUpdatingOrDeleting",
            format!(
                "The Rule Collection Group {group} can not be updated because Parent Firewall Policy {} is in {} \
                 state from previous operation.",
                policy.id.name,
                policy.provisioning.word()
            ),
        ),
        (true, None, _) => (
            "FirewallPolicyUpdateNotAllowedWhenUpdatingOrDeleting",
            format!(
                "Firewall Policy {} can not be updated because it is in {} state from previous operation.",
                policy.id.name,
                policy.provisioning.word()
            ),
        ),
    };
    let status = if busy { 400 } else { 409 };
    Err(ArmError::network(status, code, text))
}

/// Refuses a write to what is still being changed.
///
/// `409 Conflict` with this code and message as in Azure/sap-automation issue 1052 (2026).
pub(super) fn not_busy(state: &State, resource: &Resource, status: u16, base: &str) -> Result<(), ArmError> {
    let Some(operation) = state.busy(&resource.id.key()) else {
        return Ok(());
    };
    if resource.provisioning == Provisioning::Succeeded {
        return Ok(());
    }
    let Id { subscription, .. } = &resource.id;
    Err(ArmError::network(
        status,
        "AnotherOperationInProgress",
        format!(
            "Another operation on this or dependent resource is in progress. To retrieve status of the operation \
             use uri: {base}/subscriptions/{subscription}/providers/{}/locations/{}/operations/{}?api-version=2024-05-01.",
            operation.namespace, resource.location, operation.id
        ),
    ))
}
