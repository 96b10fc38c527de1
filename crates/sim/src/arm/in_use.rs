//! What is refused because others use the resource, or because it is still being changed.

use super::id::{ChildKind, Id, Kind};
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
        Some((_, from)) => Err(ArmError::network(
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
        .map(|(_, from)| from.as_str())
        .collect();
    if id.kind == Kind::VirtualNetwork {
        for (child, _) in resource.shown() {
            subnet_unused(state, &id.child(ChildKind::Subnet, &child.name))?;
        }
    }
    let Some(first) = from.first() else { return Ok(()) };
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
        _ => ArmError::network(
            400,
            "ApplicationSecurityGroupInUse",
            format!(
                "{text} cannot be deleted because it is in use by {}.",
                from.join(", ")
            ),
        ),
    })
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
