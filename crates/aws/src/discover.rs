//! Discovery: an account's instances with their interfaces, groups and rules, page by page.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    Instance, InstanceNetworkInterface, InstanceNetworkInterfaceAttachment, InstanceStateName,
};
use futures::{StreamExt as _, stream};
use ipnet::IpNet;
use postern_core::{
    enforcer::{Accounts, DiscoveryPage, EnforceError, Marks, Unlisted},
    inventory::{Interface, Layer, MARK_TAG, Machine, Named, Power},
    machine::{Account, AwsInstance, MachineId},
    mark::Mark,
    point::PointRef,
    sg::SecurityGroup,
};

use crate::{
    client::{Clients, Ec2},
    config::AwsAccount,
    error::Failure,
    gather::FILTER_VALUES,
    observe::has_ipv6,
    wire,
};

/// The states of instances that are, or may be again, reachable; a terminated one is listed by EC2 for an hour.
const STATES: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

/// How many accounts are asked for their regions at the same time: one that does not answer holds up few.
const ASKED_AT_ONCE: usize = 8;

/// The accounts and regions that are configured; where an account names no region, those that EC2 lists for it.
pub(crate) async fn accounts(clients: &Clients) -> Accounts {
    let asked =
        clients
            .config()
            .accounts
            .clone()
            .into_iter()
            .map(|AwsAccount { id, regions, .. }| async move {
                let regions = if regions.is_empty() {
                    enabled_regions(clients, &id).await
                } else {
                    Ok(regions)
                };
                (id, regions)
            });
    let mut answers = stream::iter(asked).buffered(ASKED_AT_ONCE);
    let mut accounts = Accounts::default();
    while let Some((account, answer)) = answers.next().await {
        match answer {
            Ok(regions) => accounts
                .found
                .extend(regions.into_iter().map(|region| Account::Aws {
                    account: account.clone(),
                    region,
                })),
            Err(error) => accounts.failed.push(Unlisted {
                scope: format!("/aws/{account}"),
                error,
            }),
        }
    }
    accounts
}

/// The regions that the account may use: asked without `AllRegions`, EC2 leaves out those that it has not opted in to
/// (EC2 API reference, `DescribeRegions`).
async fn enabled_regions(clients: &Clients, account: &str) -> Result<Vec<String>, EnforceError> {
    let ec2 = clients.ec2(account, "us-east-1").await?;
    let answer = ec2
        .client
        .describe_regions()
        .send()
        .await
        .map_err(|error| Failure::new("DescribeRegions", &error).about(account))?;
    let mut regions: Vec<String> = answer
        .regions()
        .iter()
        .filter_map(|region| region.region_name().map(str::to_owned))
        .collect();
    regions.sort_unstable();
    Ok(regions)
}

/// How often a page is read when the groups of its interfaces do not show.
const LOOKS: usize = 2;

/// One page of instances. Fails where a group at an interface cannot be read: what it lets in would be missing
/// from the machine's posture.
pub(crate) async fn page(
    clients: &Clients,
    ec2: &Ec2,
    cursor: Option<&str>,
) -> Result<DiscoveryPage, EnforceError> {
    let mut unseen = Vec::new();
    for _ in 0..LOOKS {
        match look(clients, ec2, cursor).await? {
            Look::Whole(page) => return Ok(page),
            // Deleted meanwhile, and then no longer at the interface; or hidden for a moment.
            Look::Unseen(groups) => unseen = groups,
        }
    }
    Err(EnforceError::Unavailable {
        operation: "ec2:DescribeSecurityGroups".to_owned(),
        message: format!(
            "groups at interfaces of account {} in {} are not shown: {}",
            ec2.account,
            ec2.region,
            unseen.join(", ")
        ),
    })
}

enum Look {
    /// Everything that was asked for.
    Whole(DiscoveryPage),
    /// Groups at interfaces that EC2 does not show.
    Unseen(Vec<String>),
}

async fn look(clients: &Clients, ec2: &Ec2, cursor: Option<&str>) -> Result<Look, EnforceError> {
    let answer = ec2
        .client
        .describe_instances()
        .filters(wire::filter("instance-state-name", STATES))
        .max_results(clients.config().page_size.clamp(5, 1000).into())
        .set_next_token(cursor.map(str::to_owned))
        .send()
        .await
        .map_err(|error| Failure::new("DescribeInstances", &error).about(&ec2.account))?;
    let instances: Vec<&Instance> = answer
        .reservations()
        .iter()
        .flat_map(aws_sdk_ec2::types::Reservation::instances)
        .collect();
    let interfaces = || {
        instances
            .iter()
            .flat_map(|instance| instance.network_interfaces())
    };
    let group_ids: BTreeSet<String> = interfaces()
        .flat_map(|interface| wire::group_ids(interface.groups()))
        .collect();
    let vpc_ids: BTreeSet<String> = interfaces()
        .filter_map(|interface| interface.vpc_id().map(str::to_owned))
        .collect();
    let (groups, networks) = tokio::join!(groups(ec2, &group_ids), networks(clients, ec2, vpc_ids));
    let (groups, networks) = (groups?, networks?);
    let unseen: Vec<String> = group_ids
        .into_iter()
        .filter(|id| !groups.contains_key(id))
        .collect();
    if !unseen.is_empty() {
        return Ok(Look::Unseen(unseen));
    }
    let machines = instances
        .into_iter()
        .filter_map(|instance| machine(ec2, instance, &groups, &networks))
        .collect();
    let next = answer.next_token().filter(|next| !next.is_empty());
    Ok(Look::Whole(DiscoveryPage {
        machines,
        // Once in a discovery is enough, and without it the machines are as they are.
        marked: if next.is_none() {
            marked(ec2).await.unwrap_or_else(|error| {
                tracing::warn!(account = ec2.account, region = ec2.region, %error, "marks are not looked for");
                Marks::new()
            })
        } else {
            Marks::new()
        },
        next: next.map(str::to_owned),
        since: None,
    }))
}

/// The instances that groups with a tag of ours were made for, whether or not they are still there, and whose groups
/// these are. A group that is tagged like ours and not named like ours is nobody's.
async fn marked(ec2: &Ec2) -> Result<Marks, EnforceError> {
    let groups = ec2
        .groups(wire::filter("tag-key", [MARK_TAG]))
        .await
        .map_err(|failure| failure.about(&ec2.account))?;
    let mut marks = Marks::new();
    for group in &groups {
        let Some(mark) = group.tags.get(MARK_TAG).and_then(|text| Mark::parse(text)) else {
            continue;
        };
        let instance = Named::read(&group.name, &mark.installation)
            .and_then(|named| AwsInstance::new(&ec2.account, &ec2.region, named.instance()).ok());
        if let Some(instance) = instance {
            marks
                .entry(PointRef::AwsInstance(instance))
                .or_default()
                .insert(mark.installation);
        }
    }
    Ok(marks)
}

async fn groups(ec2: &Ec2, ids: &BTreeSet<String>) -> Result<BTreeMap<String, SecurityGroup>, EnforceError> {
    let ids: Vec<&String> = ids.iter().collect();
    let mut groups = BTreeMap::new();
    for part in ids.chunks(FILTER_VALUES) {
        let found = ec2
            .groups(wire::filter("group-id", part.iter().copied()))
            .await
            .map_err(|failure| failure.about(&ec2.account))?;
        groups.extend(found.into_iter().map(|group| (group.id.clone(), group)));
    }
    for id in ids {
        if !groups.contains_key(id) {
            let found = ec2.group(id).await.map_err(|failure| failure.about(id))?;
            groups.extend(found.map(|group| (group.id.clone(), group)));
        }
    }
    Ok(groups)
}

async fn networks(
    clients: &Clients,
    ec2: &Ec2,
    ids: BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<IpNet>>, EnforceError> {
    let ids: Vec<String> = ids.into_iter().collect();
    let mut networks = BTreeMap::new();
    for part in ids.chunks(FILTER_VALUES) {
        let found = ec2
            .vpcs(part.iter().cloned())
            .await
            .map_err(|failure| failure.about(&ec2.account))?;
        for vpc in &found {
            let Some(id) = vpc.vpc_id() else { continue };
            clients.remember_ipv6(ec2, id, has_ipv6(vpc)).await;
            let v4 = vpc
                .cidr_block_association_set()
                .iter()
                .filter_map(|association| association.cidr_block());
            let v6 = vpc
                .ipv6_cidr_block_association_set()
                .iter()
                .filter_map(|association| association.ipv6_cidr_block());
            let blocks: BTreeSet<IpNet> = vpc
                .cidr_block()
                .into_iter()
                .chain(v4)
                .chain(v6)
                .filter_map(|block| block.parse().ok())
                .collect();
            networks.insert(id.to_owned(), blocks.into_iter().collect());
        }
    }
    Ok(networks)
}

fn machine(
    ec2: &Ec2,
    instance: &Instance,
    groups: &BTreeMap<String, SecurityGroup>,
    networks: &BTreeMap<String, Vec<IpNet>>,
) -> Option<Machine> {
    let id = instance.instance_id()?;
    let machine = match AwsInstance::new(&ec2.account, &ec2.region, id) {
        Ok(machine) => machine,
        Err(error) => {
            tracing::warn!(instance = id, %error, "an instance with an id that is none is left out");
            return None;
        }
    };
    let tags = wire::tags(instance.tags());
    let mut interfaces: Vec<&InstanceNetworkInterface> = instance.network_interfaces().iter().collect();
    interfaces.sort_by_key(|interface| {
        let attachment = interface.attachment();
        (
            attachment.and_then(InstanceNetworkInterfaceAttachment::network_card_index),
            attachment.and_then(InstanceNetworkInterfaceAttachment::device_index),
        )
    });
    Some(Machine {
        id: MachineId::Aws(machine),
        name: tags
            .get("Name")
            .filter(|name| !name.is_empty())
            .cloned()
            .unwrap_or_else(|| id.to_owned()),
        tags,
        power: power(instance),
        interfaces: interfaces
            .into_iter()
            .filter_map(|shown| interface(shown, groups, networks))
            .collect(),
    })
}

fn power(instance: &Instance) -> Power {
    match instance.state().and_then(|state| state.name()) {
        Some(InstanceStateName::Running) => Power::Running,
        Some(InstanceStateName::Stopped) => Power::Stopped,
        Some(InstanceStateName::Pending | InstanceStateName::Stopping | InstanceStateName::ShuttingDown) => {
            Power::Changing
        }
        _ => Power::Unknown,
    }
}

fn interface(
    shown: &InstanceNetworkInterface,
    groups: &BTreeMap<String, SecurityGroup>,
    networks: &BTreeMap<String, Vec<IpNet>>,
) -> Option<Interface> {
    let vpc = shown.vpc_id().unwrap_or_default();
    let v6: Vec<std::net::IpAddr> = shown
        .ipv6_addresses()
        .iter()
        .filter_map(|address| address.ipv6_address()?.parse().ok())
        .collect();
    let v4 = shown
        .private_ip_addresses()
        .iter()
        .filter_map(|address| address.private_ip_address()?.parse().ok());
    let public = shown
        .private_ip_addresses()
        .iter()
        .filter_map(|address| address.association()?.public_ip()?.parse().ok());
    Some(Interface {
        id: shown.network_interface_id()?.to_owned(),
        addresses: v4.chain(v6.iter().copied()).collect(),
        // An IPv6 address of a VPC leads to its interface from everywhere that routes allow.
        public_addresses: public.chain(v6.iter().copied()).collect(),
        network: networks.get(vpc).cloned().unwrap_or_default(),
        network_id: vpc.to_owned(),
        layers: vec![Layer::SecurityGroups {
            groups: wire::group_ids(shown.groups())
                .iter()
                .filter_map(|id| groups.get(id).cloned())
                .collect(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use aws_sdk_ec2::types::{
        GroupIdentifier, InstanceIpv6Address, InstanceNetworkInterfaceAssociation, InstancePrivateIpAddress,
    };

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn private(address: &str, public: Option<&str>) -> InstancePrivateIpAddress {
        let association = public.map(|public| {
            InstanceNetworkInterfaceAssociation::builder()
                .public_ip(public)
                .build()
        });
        InstancePrivateIpAddress::builder()
            .private_ip_address(address)
            .set_association(association)
            .build()
    }

    fn six(address: &str) -> InstanceIpv6Address {
        InstanceIpv6Address::builder().ipv6_address(address).build()
    }

    fn shown() -> aws_sdk_ec2::types::builders::InstanceNetworkInterfaceBuilder {
        InstanceNetworkInterface::builder()
            .network_interface_id("eni-1")
            .vpc_id("vpc-1")
            .groups(GroupIdentifier::builder().group_id("sg-1").build())
    }

    fn read(shown: &InstanceNetworkInterface) -> Interface {
        let group = SecurityGroup {
            id: "sg-1".to_owned(),
            name: "web".to_owned(),
            vpc: "vpc-1".to_owned(),
            ingress: Vec::new(),
            egress: Vec::new(),
            tags: BTreeMap::new(),
        };
        let groups = BTreeMap::from([("sg-1".to_owned(), group)]);
        interface(shown, &groups, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn every_address_of_an_interface_is_listed_with_what_leads_to_it() {
        let shown = shown()
            .private_ip_addresses(private("10.0.1.4", Some("203.0.113.4")))
            .private_ip_addresses(private("10.0.1.5", Some("203.0.113.5")))
            .private_ip_addresses(private("10.0.1.6", None))
            .ipv6_addresses(six("2001:db8::4"))
            .build();
        let interface = read(&shown);
        assert_eq!(
            interface.addresses,
            addresses(&["10.0.1.4", "10.0.1.5", "10.0.1.6", "2001:db8::4"])
        );
        assert_eq!(
            interface.public_addresses,
            addresses(&["203.0.113.4", "203.0.113.5", "2001:db8::4"])
        );
    }

    #[test]
    fn an_interface_with_ipv6_alone_is_one_like_any_other() {
        let interface = read(&shown().ipv6_addresses(six("2001:db8::4")).build());
        assert_eq!(interface.addresses, addresses(&["2001:db8::4"]));
        assert_eq!(interface.public_addresses, interface.addresses);
        assert!(matches!(&interface.layers[0], Layer::SecurityGroups { groups } if groups.len() == 1));
    }
}
