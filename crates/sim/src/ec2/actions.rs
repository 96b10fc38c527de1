//! The actions by name.

use super::context::Context;
use super::error::Result;
use super::{
    addresses, assignments, groups, instances, interfaces, network, peering, permissions, status, tags,
};

/// The code of an action: gives the inside of its answer.
pub(crate) type Action = fn(&mut Context<'_>) -> Result<String>;

/// The code of an action.
pub(crate) fn action(name: &str) -> Option<Action> {
    let action: Action = match name {
        "AcceptVpcPeeringConnection" => peering::accept_vpc_peering_connection,
        "AllocateAddress" => addresses::allocate_address,
        "AssignIpv6Addresses" => assignments::assign_ipv6_addresses,
        "AssignPrivateIpAddresses" => assignments::assign_private_ip_addresses,
        "AssociateAddress" => addresses::associate_address,
        "AttachNetworkInterface" => interfaces::attach_network_interface,
        "AuthorizeSecurityGroupEgress" => permissions::authorize_egress,
        "AuthorizeSecurityGroupIngress" => permissions::authorize_ingress,
        "CreateManagedPrefixList" => addresses::create_managed_prefix_list,
        "CreateNetworkInterface" => interfaces::create_network_interface,
        "CreateSecurityGroup" => groups::create_security_group,
        "CreateSubnet" => network::create_subnet,
        "CreateTags" => tags::create_tags,
        "CreateVpc" => network::create_vpc,
        "CreateVpcPeeringConnection" => peering::create_vpc_peering_connection,
        "DeleteManagedPrefixList" => addresses::delete_managed_prefix_list,
        "DeleteNetworkInterface" => interfaces::delete_network_interface,
        "DeleteSecurityGroup" => groups::delete_security_group,
        "DeleteSubnet" => network::delete_subnet,
        "DeleteTags" => tags::delete_tags,
        "DeleteVpc" => network::delete_vpc,
        "DeleteVpcPeeringConnection" => peering::delete_vpc_peering_connection,
        "DescribeAccountAttributes" => network::describe_account_attributes,
        "DescribeAddresses" => addresses::describe_addresses,
        "DescribeAvailabilityZones" => network::describe_availability_zones,
        "DescribeInstanceStatus" => status::describe_instance_status,
        "DescribeInstances" => instances::describe_instances,
        "DescribeManagedPrefixLists" => addresses::describe_managed_prefix_lists,
        "DescribeNetworkInterfaces" => interfaces::describe_network_interfaces,
        "DescribeRegions" => network::describe_regions,
        "DescribeSecurityGroupReferences" => peering::describe_references,
        "DescribeSecurityGroupRules" => permissions::describe_rules,
        "DescribeSecurityGroups" => groups::describe_security_groups,
        "DescribeStaleSecurityGroups" => peering::describe_stale_security_groups,
        "DescribeSubnets" => network::describe_subnets,
        "DescribeTags" => tags::describe_tags,
        "DescribeVpcPeeringConnections" => peering::describe_vpc_peering_connections,
        "DescribeVpcs" => network::describe_vpcs,
        "DetachNetworkInterface" => interfaces::detach_network_interface,
        "DisassociateAddress" => addresses::disassociate_address,
        "GetManagedPrefixListEntries" => addresses::get_managed_prefix_list_entries,
        "ModifyManagedPrefixList" => addresses::modify_managed_prefix_list,
        "ModifyInstanceAttribute" => instances::modify_instance_attribute,
        "ModifyNetworkInterfaceAttribute" => interfaces::modify_network_interface_attribute,
        "ModifySecurityGroupRules" => permissions::modify_rules,
        "RejectVpcPeeringConnection" => peering::reject_vpc_peering_connection,
        "RevokeSecurityGroupEgress" => permissions::revoke_egress,
        "RevokeSecurityGroupIngress" => permissions::revoke_ingress,
        "RunInstances" => instances::run_instances,
        "StartInstances" => instances::start_instances,
        "StopInstances" => instances::stop_instances,
        "TerminateInstances" => instances::terminate_instances,
        "UnassignPrivateIpAddresses" => assignments::unassign_private_ip_addresses,
        "UpdateSecurityGroupRuleDescriptionsEgress" => permissions::describe_egress_texts,
        "UpdateSecurityGroupRuleDescriptionsIngress" => permissions::describe_ingress_texts,
        _ => return None,
    };
    Some(action)
}
