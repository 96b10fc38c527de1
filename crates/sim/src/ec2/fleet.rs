//! Builds and changes a fleet in process, by the same code and the same rules as the wire: for tests and the demo.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::actions::action;
use super::addresses;
use super::auth::Caller;
use super::cloud::Ec2Cloud;
use super::context::arn;
use super::error::{Ec2Error, Result};
use super::groups;
use super::instances::{self, InterfaceSource, Launch, LaunchInterface};
use super::interfaces::{self, NewInterface, TOO_MANY_PER_INTERFACE, check_groups};
use super::network;
use super::params::Params;
use super::peering;
use super::permissions::authorize;
use super::rules::{Named, cidr_v4, cidr_v6, ports};
use super::state::{
    Address, Allowance, Group, Instance, Interface, Peer, PrefixList, Region, Subnet, Tags, Vpc,
};

/// Builds in one account and region. Every change stands in the truth log under the account's root user.
#[derive(Clone)]
pub struct Fleet {
    cloud: Arc<Ec2Cloud>,
    caller: Caller,
}

/// A machine as the fleet built it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The instance's ARN.
    pub arn: String,
    /// `i-...`
    pub instance_id: String,
    /// Its interfaces, the primary first.
    pub interface_ids: Vec<String>,
    /// The private address of the primary interface.
    pub private_ip: Ipv4Addr,
    /// The public address of the primary interface, where one was asked for.
    pub public_ip: Option<Ipv4Addr>,
}

/// A machine to be built.
#[derive(Debug, Clone, Default)]
pub struct MachinePlan {
    /// Its tag `Name`.
    pub name: String,
    /// The subnet of all its interfaces.
    pub subnet_id: String,
    /// The groups on each of its interfaces; no entry gives one interface with the default group.
    pub interfaces: Vec<Vec<String>>,
    /// More tags.
    pub tags: Tags,
    /// Whether the primary interface gets an elastic address.
    pub public: bool,
    /// Whether EC2 lends its only interface a public address for as long as it runs.
    pub lent: bool,
    /// How many IPv6 addresses the primary interface gets.
    pub ipv6_count: i32,
}

/// Who a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An IPv4 or IPv6 range; made canonical.
    Cidr(String),
    /// The members of a group.
    Group(String),
    /// The ranges of a prefix list.
    PrefixList(String),
}

/// An ingress rule to be added or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a number, or `-1`.
    pub protocol: String,
    /// First and last port; not looked at for protocols without.
    pub ports: (u16, u16),
    /// Who.
    pub from: Origin,
    /// Its description; empty for none.
    pub description: String,
}

impl Ingress {
    /// TCP on one port from a range.
    pub fn tcp(port: u16, cidr: &str) -> Self {
        Self::tcp_range(port, port, cidr)
    }

    /// TCP on a range of ports from a range of addresses.
    pub fn tcp_range(first: u16, last: u16, cidr: &str) -> Self {
        Self {
            protocol: "tcp".to_owned(),
            ports: (first, last),
            from: Origin::Cidr(cidr.to_owned()),
            description: String::new(),
        }
    }

    /// Everything from a range of addresses.
    pub fn all(cidr: &str) -> Self {
        Self {
            protocol: "-1".to_owned(),
            ..Self::tcp(0, cidr)
        }
    }

    fn named(&self, account: &str) -> Result<Named> {
        let (first, last) = self.ports;
        let (protocol, from_port, to_port) = ports(&self.protocol, Some(first.into()), Some(last.into()))?;
        let peer = match &self.from {
            Origin::Cidr(cidr) if cidr.contains(':') => Peer::CidrV6(cidr_v6(cidr)?),
            Origin::Cidr(cidr) => Peer::CidrV4(cidr_v4(cidr)?),
            Origin::Group(id) => Peer::Group {
                group_id: id.clone(),
                user_id: account.to_owned(),
            },
            Origin::PrefixList(id) => Peer::PrefixList(id.clone()),
        };
        let description = Some(self.description.clone()).filter(|text| !text.is_empty());
        Ok(Named {
            allows: Allowance {
                egress: false,
                protocol,
                from_port,
                to_port,
                peer,
            },
            description,
        })
    }
}

/// A copy of everything in one account and region.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All VPCs.
    pub vpcs: Vec<Vpc>,
    /// All subnets.
    pub subnets: Vec<Subnet>,
    /// All security groups.
    pub groups: Vec<Group>,
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All instances, also those terminated of late.
    pub instances: Vec<Instance>,
    /// All prefix lists.
    pub prefix_lists: Vec<PrefixList>,
    /// All elastic addresses.
    pub addresses: Vec<Address>,
}

impl Snapshot {
    fn of(region: &Region) -> Self {
        Self {
            vpcs: region.vpcs.values().cloned().collect(),
            subnets: region.subnets.values().cloned().collect(),
            groups: region.groups.values().cloned().collect(),
            interfaces: region.interfaces.values().cloned().collect(),
            instances: region.instances.values().cloned().collect(),
            prefix_lists: region.prefix_lists.values().cloned().collect(),
            addresses: region.addresses.values().cloned().collect(),
        }
    }

    /// The group of that id.
    pub fn group(&self, id: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The interface of that id.
    pub fn interface(&self, id: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.id == id)
    }

    /// The instance of that id.
    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == id)
    }
}

impl Fleet {
    pub(crate) fn new(cloud: Arc<Ec2Cloud>, account: &str, region: &str) -> Self {
        let caller = Caller {
            account: account.to_owned(),
            region: region.to_owned(),
            arn: format!("arn:aws:iam::{account}:root"),
            user_id: account.to_owned(),
        };
        Self { cloud, caller }
    }

    /// The account, twelve digits.
    pub fn account(&self) -> &str {
        &self.caller.account
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.caller.region
    }

    /// The ARN of an instance here.
    pub fn instance_arn(&self, id: &str) -> String {
        arn(&self.caller, "instance", id)
    }

    /// A copy of everything here.
    ///
    /// # Errors
    /// None in practice: only the making of the default VPC could fail.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::of(&self.cloud.region(&self.caller)?))
    }

    /// Makes a VPC, with an IPv6 range where wanted.
    ///
    /// # Errors
    /// As `CreateVpc`.
    pub fn vpc(&self, cidr: &str, ipv6: bool) -> Result<String> {
        let cidr = cidr_v4(cidr)?;
        self.act("CreateVpc", |ctx| {
            network::make_vpc(ctx, cidr, ipv6, false, Tags::new())
        })
    }

    /// Makes a subnet; in a VPC with IPv6 it gets the /64 of the given number (0 to 255).
    ///
    /// # Errors
    /// As `CreateSubnet`.
    pub fn subnet(&self, vpc_id: &str, cidr: &str, ipv6_number: u8) -> Result<String> {
        let cidr = cidr_v4(cidr)?;
        self.act("CreateSubnet", |ctx| {
            let block = ctx.region.vpc(vpc_id)?.ipv6_cidr;
            let ipv6 = block.and_then(|block| {
                let bits = block.network().to_bits() | (u128::from(ipv6_number) << 64);
                ipnet::Ipv6Net::new(bits.into(), 64).ok()
            });
            network::make_subnet(ctx, vpc_id, Some(cidr), ipv6, None, Tags::new())
        })
    }

    /// Makes a subnet of IPv6 alone, with the /64 of the given number.
    ///
    /// # Errors
    /// As `CreateSubnet`, also where the VPC has no IPv6 range.
    pub fn ipv6_subnet(&self, vpc_id: &str, ipv6_number: u8) -> Result<String> {
        self.act("CreateSubnet", |ctx| {
            let block = ctx.region.vpc(vpc_id)?.ipv6_cidr;
            let range = block.and_then(|block| {
                let bits = block.network().to_bits() | (u128::from(ipv6_number) << 64);
                ipnet::Ipv6Net::new(bits.into(), 64).ok()
            });
            let range = range.ok_or_else(|| Ec2Error::missing("Ipv6CidrBlock"))?;
            network::make_subnet(ctx, vpc_id, None, Some(range), None, Tags::new())
        })
    }

    /// Joins two VPCs by a peering connection, accepted at once. Its id.
    ///
    /// # Errors
    /// As `CreateVpcPeeringConnection`.
    pub fn peering(&self, vpc_id: &str, other: &str) -> Result<String> {
        self.act("AcceptVpcPeeringConnection", |ctx| {
            peering::make(ctx, vpc_id, other)
        })
    }

    /// Makes a group with these ingress rules and the default egress ones.
    ///
    /// # Errors
    /// As `CreateSecurityGroup` and `AuthorizeSecurityGroupIngress`; then nothing is made.
    pub fn group(&self, vpc_id: &str, name: &str, rules: &[Ingress]) -> Result<String> {
        let named = self.named(rules)?;
        self.act("CreateSecurityGroup", |ctx| {
            let id = groups::make(ctx, name, name, vpc_id, Tags::new())?;
            authorize(ctx, &id, named, &Tags::new())?;
            Ok(id)
        })
    }

    /// Adds ingress rules; all or none. Gives their ids.
    ///
    /// # Errors
    /// As `AuthorizeSecurityGroupIngress`.
    pub fn allow(&self, group_id: &str, rules: &[Ingress]) -> Result<Vec<String>> {
        let named = self.named(rules)?;
        self.act("AuthorizeSecurityGroupIngress", |ctx| {
            let added = authorize(ctx, group_id, named, &Tags::new())?;
            Ok(added.into_iter().map(|rule| rule.id).collect())
        })
    }

    /// Takes ingress rules away; all or none.
    ///
    /// # Errors
    /// `InvalidPermission.NotFound`, also in the default VPC; as `RevokeSecurityGroupIngress` otherwise.
    pub fn revoke(&self, group_id: &str, rules: &[Ingress]) -> Result<()> {
        let named = self.named(rules)?;
        self.act("RevokeSecurityGroupIngress", |ctx| {
            let group = ctx.region.group_mut(group_id)?;
            for wanted in &named {
                let place = group
                    .rules
                    .iter()
                    .position(|rule| rule.allows == wanted.allows)
                    .ok_or_else(|| {
                        let message = "The specified rule does not exist in this security group.";
                        Ec2Error::new("InvalidPermission.NotFound", message)
                    })?;
                group.rules.remove(place);
            }
            Ok(())
        })
    }

    /// Makes a prefix list of IPv4 or IPv6 ranges, by what the first of them is.
    ///
    /// # Errors
    /// As `CreateManagedPrefixList`.
    pub fn prefix_list(&self, name: &str, ranges: &[&str], max_entries: i32) -> Result<String> {
        let list = PrefixList {
            id: String::new(),
            name: name.to_owned(),
            ipv6: ranges.first().is_some_and(|range| range.contains(':')),
            max_entries,
            entries: ranges
                .iter()
                .map(|range| ((*range).to_owned(), String::new()))
                .collect(),
            version: 1,
            tags: Tags::new(),
        };
        self.act("CreateManagedPrefixList", |ctx| {
            addresses::make_prefix_list(ctx, list)
        })
    }

    /// Builds a machine and its interfaces. It runs after the transition delay.
    ///
    /// # Errors
    /// As `RunInstances`; then nothing is made.
    pub fn machine(&self, plan: &MachinePlan) -> Result<Machine> {
        let id = self.act("RunInstances", |ctx| {
            let mut tags = plan.tags.clone();
            tags.insert("Name".to_owned(), plan.name.clone());
            let no_groups = [Vec::new()];
            let wanted = if plan.interfaces.is_empty() {
                &no_groups
            } else {
                plan.interfaces.as_slice()
            };
            let interfaces: Vec<LaunchInterface> = (0..)
                .zip(wanted)
                .map(|(device_index, groups)| {
                    let ipv6_count = if device_index == 0 { plan.ipv6_count } else { 0 };
                    let subnet_id = plan.subnet_id.clone();
                    let new = NewInterface {
                        subnet_id,
                        groups: groups.clone(),
                        ipv6_count,
                        lends_ip: plan.lent,
                        ..NewInterface::default()
                    };
                    LaunchInterface {
                        device_index,
                        delete_on_termination: true,
                        source: InterfaceSource::New(new),
                    }
                })
                .collect();
            instances::check_lending(&interfaces)?;
            let launch = Launch {
                image_id: "ami-0123456789abcdef0".to_owned(),
                instance_type: "t3.micro".to_owned(),
                key_name: None,
                interfaces,
                tags,
            };
            let reservation = ctx.new_id("r");
            let id = instances::launch(ctx, &launch, &reservation, 0)?;
            if plan.public
                && let Some(primary) = ctx.region.instance(&id)?.interfaces.first().cloned()
            {
                let address = addresses::make_address(ctx, Tags::new())?;
                addresses::associate(ctx, &address.id, &primary, false)?;
            }
            Ok(id)
        })?;
        let region = self.cloud.region(&self.caller)?;
        let instance = region.instance(&id)?;
        let interfaces = region.interfaces_of(instance);
        let primary = interfaces.first().copied();
        Ok(Machine {
            arn: self.instance_arn(&id),
            interface_ids: interfaces.iter().map(|interface| interface.id.clone()).collect(),
            private_ip: primary
                .and_then(|primary| primary.private_ip)
                .unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ip: primary.and_then(|primary| region.public_ip_of(primary)),
            instance_id: id,
        })
    }

    /// Sets the groups of an interface, in place of those that are there.
    ///
    /// # Errors
    /// As `ModifyNetworkInterfaceAttribute`.
    pub fn set_groups(&self, interface_id: &str, wanted: &[String]) -> Result<()> {
        self.act("ModifyNetworkInterfaceAttribute", |ctx| {
            let vpc_id = ctx.region.interface(interface_id)?.vpc_id.clone();
            let wanted = check_groups(ctx, wanted, &vpc_id, TOO_MANY_PER_INTERFACE)?;
            ctx.region.interface_mut(interface_id)?.groups = wanted;
            Ok(())
        })
    }

    /// Makes an interface that hangs on nothing.
    ///
    /// # Errors
    /// As `CreateNetworkInterface`.
    pub fn interface(&self, subnet_id: &str, groups: &[String]) -> Result<String> {
        let new = NewInterface {
            subnet_id: subnet_id.to_owned(),
            groups: groups.to_vec(),
            ..NewInterface::default()
        };
        self.act("CreateNetworkInterface", |ctx| {
            interfaces::make(ctx, new, TOO_MANY_PER_INTERFACE)
        })
    }

    /// Any action by its wire parameters, without a wire: gives the inside of the answer's XML.
    ///
    /// # Errors
    /// As the action; `InvalidAction` where there is none of that name.
    pub fn call(&self, name: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let run = action(name).ok_or_else(|| {
            Ec2Error::new(
                "InvalidAction",
                format!("The action {name} is not valid for this web service."),
            )
        })?;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters);
        let params = Params::parse("", form.finish().as_bytes());
        self.cloud.act(&self.caller, name, &params, run)
    }

    fn named(&self, rules: &[Ingress]) -> Result<Vec<Named>> {
        rules
            .iter()
            .map(|rule| rule.named(&self.caller.account))
            .collect()
    }

    fn act<T>(
        &self,
        operation: &str,
        change: impl FnOnce(&mut super::context::Context<'_>) -> Result<T>,
    ) -> Result<T> {
        self.cloud
            .act(&self.caller, operation, &Params::default(), change)
    }
}
