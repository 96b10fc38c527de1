//! What one account holds in one region: tables that remember what a request changed, so that it can be undone
//! or written to the truth log.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Utc};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;

use super::error::{Ec2Error, Result};

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// One change that a request made to a table: id, before, after.
pub(crate) type Touched<T> = (String, Option<T>, Option<T>);

/// Resources of one kind by id, with the first state before the present request of each that it touched.
#[derive(Debug, Clone)]
pub(crate) struct Table<T> {
    rows: BTreeMap<String, T>,
    before: BTreeMap<String, Option<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<T: Clone + PartialEq> Table<T> {
    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.rows.values()
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        let row = self.rows.get_mut(id)?;
        self.before
            .entry(id.to_owned())
            .or_insert_with(|| Some(row.clone()));
        Some(row)
    }

    pub(crate) fn insert(&mut self, id: &str, row: T) {
        let before = self.rows.insert(id.to_owned(), row);
        self.before.entry(id.to_owned()).or_insert(before);
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<T> {
        let row = self.rows.remove(id)?;
        self.before
            .entry(id.to_owned())
            .or_insert_with(|| Some(row.clone()));
        Some(row)
    }

    /// Takes back what the present request did.
    pub(crate) fn undo(&mut self) {
        for (id, before) in std::mem::take(&mut self.before) {
            match before {
                Some(row) => self.rows.insert(id, row),
                None => self.rows.remove(&id),
            };
        }
    }

    /// Ends the present request: what it changed, in the order of ids.
    pub(crate) fn settle(&mut self) -> Vec<Touched<T>> {
        std::mem::take(&mut self.before)
            .into_iter()
            .filter_map(|(id, before)| {
                let after = self.rows.get(&id).cloned();
                (before != after).then_some((id, before, after))
            })
            .collect()
    }
}

/// A virtual private cloud.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vpc {
    /// `vpc-...`
    pub id: String,
    /// Its IPv4 range.
    pub cidr: Ipv4Net,
    /// Its Amazon-provided IPv6 range (/56), where it has one.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// Whether it is the region's default VPC.
    pub is_default: bool,
    /// Its tags.
    pub tags: Tags,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subnet {
    /// `subnet-...`
    pub id: String,
    /// The VPC that it belongs to.
    pub vpc_id: String,
    /// Its IPv4 range; none in a subnet of IPv6 alone.
    pub cidr: Option<Ipv4Net>,
    /// Its IPv6 range (/64), where it has one.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// The availability zone, such as `eu-central-1a`.
    pub zone: String,
    /// Its tags.
    pub tags: Tags,
}

/// The other end of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// An IPv4 range, canonical.
    CidrV4(Ipv4Net),
    /// An IPv6 range, canonical.
    CidrV6(Ipv6Net),
    /// A managed prefix list.
    PrefixList(String),
    /// The members of a security group.
    Group {
        /// Its id.
        group_id: String,
        /// The account that owns it.
        user_id: String,
    },
}

/// What a rule allows, without its id, description and tags: two rules of one group are never equal in this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Allowance {
    /// Whether it is about outbound traffic.
    pub egress: bool,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, another protocol's number, or `-1` for all.
    pub protocol: String,
    /// First port, or ICMP type; none where the protocol has none.
    pub from_port: Option<i32>,
    /// Last port, or ICMP code; none where the protocol has none.
    pub to_port: Option<i32>,
    /// The other end.
    pub peer: Peer,
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// `sgr-...`
    pub id: String,
    /// What it allows.
    #[serde(flatten)]
    pub allows: Allowance,
    /// Its description, where it has one.
    pub description: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// `sg-...`
    pub id: String,
    /// Its name, unique in the VPC without regard to case.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The VPC that it belongs to.
    pub vpc_id: String,
    /// Its rules, oldest first.
    pub rules: Vec<Rule>,
    /// Its tags.
    pub tags: Tags,
}

/// How an interface hangs on an instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attachment {
    /// `eni-attach-...`
    pub id: String,
    /// The instance.
    pub instance_id: String,
    /// Its place; the primary interface is 0.
    pub device_index: i32,
    /// Whether it goes when the instance is terminated.
    pub delete_on_termination: bool,
    /// Since when.
    pub at: DateTime<Utc>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interface {
    /// `eni-...`
    pub id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its availability zone.
    pub zone: String,
    /// Its description.
    pub description: String,
    /// Its primary private address; none in a subnet of IPv6 alone.
    pub private_ip: Option<Ipv4Addr>,
    /// Its secondary private addresses.
    pub secondary: Vec<Ipv4Addr>,
    /// The public address that EC2 lends it; none where it has an elastic one, or its instance is stopped.
    pub lent_ip: Option<Ipv4Addr>,
    /// Whether it is lent one whenever its instance starts, or an elastic one goes.
    pub is_lent_an_ip: bool,
    /// Its IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// Its MAC address.
    pub mac: String,
    /// The groups on it, at least one.
    pub groups: Vec<String>,
    /// Where it is attached.
    pub attachment: Option<Attachment>,
    /// Its tags.
    pub tags: Tags,
}

/// The life of an instance. Codes: API reference, `InstanceState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// 0
    Pending,
    /// 16
    Running,
    /// 32
    ShuttingDown,
    /// 48
    Terminated,
    /// 64
    Stopping,
    /// 80
    Stopped,
}

impl Power {
    /// The code and the name on the wire.
    pub fn wire(self) -> (u8, &'static str) {
        match self {
            Self::Pending => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }
}

/// A change of power state that is on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transition {
    /// The state to come.
    pub to: Power,
    /// When it comes.
    pub due: DateTime<Utc>,
    /// The operation that began it.
    pub operation: String,
    /// The request that began it.
    pub request_id: String,
    /// Who called.
    pub caller: String,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Instance {
    /// `i-...`
    pub id: String,
    /// `r-...`, shared by the instances of one launch.
    pub reservation_id: String,
    /// Its place in the launch.
    pub launch_index: i32,
    /// The image.
    pub image_id: String,
    /// The type, such as `t3.micro`.
    pub instance_type: String,
    /// The key pair.
    pub key_name: Option<String>,
    /// When it was launched.
    pub launched: DateTime<Utc>,
    /// Its state.
    pub power: Power,
    /// What it is changing to.
    pub transition: Option<Transition>,
    /// When it was terminated.
    pub terminated: Option<DateTime<Utc>>,
    /// Its interfaces.
    pub interfaces: Vec<String>,
    /// Its tags.
    pub tags: Tags,
}

/// A managed prefix list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefixList {
    /// `pl-...`
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it holds IPv6 ranges.
    pub ipv6: bool,
    /// How many ranges it may hold; so many rules it counts as.
    pub max_entries: i32,
    /// Its ranges and their descriptions.
    pub entries: Vec<(String, String)>,
    /// How often it was written.
    pub version: i64,
    /// Its tags.
    pub tags: Tags,
}

/// The life of a VPC peering connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeeringStatus {
    /// Asked for.
    PendingAcceptance,
    /// In force.
    Active,
    /// Refused by the accepter.
    Rejected,
    /// Ended.
    Deleted,
    /// Never to be: the ranges overlap.
    Failed,
}

impl PeeringStatus {
    /// As on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::PendingAcceptance => "pending-acceptance",
            Self::Active => "active",
            Self::Rejected => "rejected",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
        }
    }
}

/// A VPC peering connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peering {
    /// `pcx-...`
    pub id: String,
    /// The VPC that asked.
    pub requester: String,
    /// The VPC that was asked.
    pub accepter: String,
    /// Whether it is in force.
    pub status: PeeringStatus,
    /// Its tags.
    pub tags: Tags,
}

impl Peering {
    /// Whether it is in force.
    pub fn is_active(&self) -> bool {
        self.status == PeeringStatus::Active
    }
}

/// An elastic address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Address {
    /// `eipalloc-...`
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// `eipassoc-...` and the interface, where it is associated.
    pub association: Option<(String, String)>,
    /// Its tags.
    pub tags: Tags,
}

/// The answer to an earlier request with a client token.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) fingerprint: BTreeMap<String, String>,
    pub(crate) answer: String,
}

/// Everything of one account in one region.
#[derive(Debug, Clone, Default)]
pub(crate) struct Region {
    pub(crate) vpcs: Table<Vpc>,
    pub(crate) subnets: Table<Subnet>,
    pub(crate) groups: Table<Group>,
    pub(crate) interfaces: Table<Interface>,
    pub(crate) instances: Table<Instance>,
    pub(crate) prefix_lists: Table<PrefixList>,
    pub(crate) addresses: Table<Address>,
    pub(crate) peerings: Table<Peering>,
    /// The VPCs of deleted groups, which rules across a peering connection still name.
    pub(crate) gone_groups: BTreeMap<String, String>,
    pub(crate) replays: BTreeMap<(String, String), Replay>,
    /// Where in the pool of public addresses the search for the next one begins.
    pub(crate) next_public_ip: u32,
}

impl Region {
    pub(crate) fn vpc(&self, id: &str) -> Result<&Vpc> {
        check_id("vpc", id, "InvalidVpcId.Malformed")?;
        self.vpcs.get(id).ok_or_else(|| {
            Ec2Error::new(
                "InvalidVpcID.NotFound",
                format!("The vpc ID '{id}' does not exist"),
            )
        })
    }

    pub(crate) fn default_vpc(&self) -> Option<&Vpc> {
        self.vpcs.values().find(|vpc| vpc.is_default)
    }

    pub(crate) fn subnet(&self, id: &str) -> Result<&Subnet> {
        check_id("subnet", id, "InvalidSubnetId.Malformed")?;
        self.subnets.get(id).ok_or_else(|| {
            Ec2Error::new(
                "InvalidSubnetID.NotFound",
                format!("The subnet ID '{id}' does not exist"),
            )
        })
    }

    pub(crate) fn group(&self, id: &str) -> Result<&Group> {
        check_group_id(id)?;
        self.groups.get(id).ok_or_else(|| Ec2Error::group_not_found(id))
    }

    pub(crate) fn group_mut(&mut self, id: &str) -> Result<&mut Group> {
        check_group_id(id)?;
        self.groups
            .get_mut(id)
            .ok_or_else(|| Ec2Error::group_not_found(id))
    }

    pub(crate) fn interface(&self, id: &str) -> Result<&Interface> {
        check_interface_id(id)?;
        self.interfaces.get(id).ok_or_else(|| no_interface(id))
    }

    pub(crate) fn interface_mut(&mut self, id: &str) -> Result<&mut Interface> {
        check_interface_id(id)?;
        self.interfaces.get_mut(id).ok_or_else(|| no_interface(id))
    }

    pub(crate) fn instance(&self, id: &str) -> Result<&Instance> {
        check_instance_id(id)?;
        self.instances.get(id).ok_or_else(|| no_instance(id))
    }

    pub(crate) fn instance_mut(&mut self, id: &str) -> Result<&mut Instance> {
        check_instance_id(id)?;
        self.instances.get_mut(id).ok_or_else(|| no_instance(id))
    }

    pub(crate) fn prefix_list(&self, id: &str) -> Result<&PrefixList> {
        check_id("pl", id, "InvalidPrefixListId.Malformed")?;
        self.prefix_lists.get(id).ok_or_else(|| {
            let message = format!("The prefix list ID '{id}' does not exist");
            Ec2Error::new("InvalidPrefixListID.NotFound", message)
        })
    }

    /// The group of that name in a VPC; names are compared without regard to case.
    pub(crate) fn group_named(&self, vpc_id: &str, name: &str) -> Option<&Group> {
        self.groups
            .values()
            .find(|group| group.vpc_id == vpc_id && group.name.eq_ignore_ascii_case(name))
    }

    /// The interfaces of an instance, in the order of their device index.
    pub(crate) fn interfaces_of(&self, instance: &Instance) -> Vec<&Interface> {
        let mut interfaces: Vec<&Interface> = instance
            .interfaces
            .iter()
            .filter_map(|id| self.interfaces.get(id))
            .collect();
        interfaces.sort_by_key(|interface| {
            interface
                .attachment
                .as_ref()
                .map(|attachment| attachment.device_index)
        });
        interfaces
    }

    /// The elastic address of an interface.
    pub(crate) fn address_of(&self, interface_id: &str) -> Option<&Address> {
        self.addresses.values().find(|address| {
            address
                .association
                .as_ref()
                .is_some_and(|(_, interface)| interface == interface_id)
        })
    }

    /// Takes back what the present request did.
    pub(crate) fn undo(&mut self) {
        let Self {
            vpcs,
            subnets,
            groups,
            interfaces,
            instances,
            prefix_lists,
            addresses,
            peerings,
            gone_groups: _,
            replays: _,
            next_public_ip: _,
        } = self;
        vpcs.undo();
        subnets.undo();
        groups.undo();
        interfaces.undo();
        instances.undo();
        prefix_lists.undo();
        addresses.undo();
        peerings.undo();
    }
}

fn no_interface(id: &str) -> Ec2Error {
    let message = format!("The networkInterface ID '{id}' does not exist");
    Ec2Error::new("InvalidNetworkInterfaceID.NotFound", message)
}

fn no_instance(id: &str) -> Ec2Error {
    Ec2Error::new(
        "InvalidInstanceID.NotFound",
        format!("The instance ID '{id}' does not exist"),
    )
}

fn check_interface_id(id: &str) -> Result<()> {
    check_id("eni", id, "InvalidNetworkInterfaceId.Malformed")
}

fn check_instance_id(id: &str) -> Result<()> {
    check_id("i", id, "InvalidInstanceID.Malformed")
}

fn check_group_id(id: &str) -> Result<()> {
    if well_formed("sg", id) {
        return Ok(());
    }
    let message = format!("Invalid id: \"{id}\" (expecting \"sg-...\")");
    Err(Ec2Error::new("InvalidGroupId.Malformed", message))
}

/// Refuses an id that is not `prefix-` and 8 or 17 hexadecimal digits.
pub(crate) fn check_id(prefix: &str, id: &str, code: &str) -> Result<()> {
    if well_formed(prefix, id) {
        Ok(())
    } else {
        Err(Ec2Error::new(code, format!("Invalid id: \"{id}\"")))
    }
}

fn well_formed(prefix: &str, id: &str) -> bool {
    id.strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|digits| {
            matches!(digits.len(), 8 | 17)
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
}
