//! The inventory: machines as last discovered, with the way a packet takes to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    approach::Approach,
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    nsg::NsgRule,
    point::PointRef,
    sg::SecurityGroup,
};

/// Whether a machine runs, in both clouds' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Running.
    Running,
    /// Starting, stopping and the like.
    Changing,
    /// Stopped or deallocated.
    Stopped,
    /// The cloud did not say.
    Unknown,
}

/// A discovered machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its cloud id.
    pub id: MachineId,
    /// Its name as its owner wrote it: the VM's name, or the `Name` tag, or the instance id.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it runs.
    pub power: Power,
    /// Its network interfaces, the primary one first.
    pub interfaces: Vec<Interface>,
}

/// A network interface of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// ARM resource id (lower case) or `eni-…`.
    pub id: String,
    /// Private addresses: where the cloud's firewall sees packets go to.
    pub addresses: Vec<IpAddr>,
    /// Public addresses that lead to it.
    pub public_addresses: Vec<IpAddr>,
    /// The address space of its virtual network, where known.
    pub network: Vec<IpNet>,
    /// The virtual network's id: `vpc-…` or an ARM resource id.
    pub network_id: String,
    /// The filters on the way in, outermost first. A packet must pass all; empty means nothing filters.
    pub layers: Vec<Layer>,
}

/// Where an NSG is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the subnet.
    Subnet,
    /// At the interface.
    Interface,
}

/// A filter on the way to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Layer {
    /// An Azure network security group.
    Nsg {
        /// Which.
        point: PointRef,
        /// Where it is attached.
        place: Place,
        /// Its rules for inbound packets, defaults included.
        rules: Vec<NsgRule>,
        /// Ids of the application security groups that every ip configuration of the interface is in, lower case.
        memberships: BTreeSet<String>,
        /// Ids of those that only some of its ip configurations are in, lower case.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        possible_memberships: BTreeSet<String>,
    },
    /// An Azure Firewall, classic or with a policy. Only what passes it by its [`Approach`] meets its rules.
    Firewall(Approach),
    /// The EC2 security groups of the interface; what any of them allows passes.
    SecurityGroups {
        /// The groups.
        groups: Vec<SecurityGroup>,
    },
}

impl Interface {
    /// How packets get to it, where a firewall stands before it.
    pub fn approach(&self) -> Option<&Approach> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::Firewall(approach) => Some(approach),
            Layer::Nsg { .. } | Layer::SecurityGroups { .. } => None,
        })
    }
}

impl Machine {
    /// The points whose rules a grant on this machine writes: one per hop. Empty when nothing filters the way,
    /// so that there is nothing to open.
    pub fn grant_points(&self) -> BTreeSet<PointRef> {
        let mut points = BTreeSet::new();
        for layer in self.interfaces.iter().flat_map(|interface| &interface.layers) {
            match (layer, &self.id) {
                (Layer::Nsg { point, .. } | Layer::Firewall(Approach { point, .. }), _) => {
                    points.insert(point.clone());
                }
                (Layer::SecurityGroups { .. }, MachineId::Aws(instance)) => {
                    points.insert(PointRef::AwsInstance(instance.clone()));
                }
                (Layer::SecurityGroups { .. }, MachineId::Azure(_)) => {}
            }
        }
        points
    }

    /// The points whose rules a lockdown of this machine writes. Temporary groups of `installation` are not among them:
    /// they hold what grants opened. A private copy stands for the group that comes back in its place.
    pub fn lockdown_points(&self, installation: &Installation) -> BTreeSet<PointRef> {
        let mut points = BTreeSet::new();
        for layer in self.interfaces.iter().flat_map(|interface| &interface.layers) {
            match (layer, &self.id) {
                (Layer::Nsg { point, .. }, _) => {
                    points.insert(point.clone());
                }
                (Layer::SecurityGroups { groups }, MachineId::Aws(instance)) => points.extend(
                    groups
                        .iter()
                        .filter_map(|group| match purpose_of(group, installation) {
                            None => Some(group.id.clone()),
                            Some(Purpose::Copy { of }) => Some(of),
                            Some(_) => None,
                        })
                        .filter_map(|group| {
                            PointRef::security_group(instance.account(), instance.region(), &group).ok()
                        }),
                ),
                // A door that others keep is theirs: behind it the NSG is locked.
                (Layer::SecurityGroups { .. }, MachineId::Azure(_)) | (Layer::Firewall(_), _) => {}
            }
        }
        points
    }

    /// Every private address of the machine.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect()
    }
}

/// The tag on an EC2 group of ours whose value is its [`Mark`].
pub const MARK_TAG: &str = "postern:mark";

/// The name of the temporary group of `instance`; a private copy's has the group's id after it.
pub fn holder_name(installation: &Installation, instance: &str) -> String {
    format!("postern-{installation}-{instance}")
}

/// Whether a group of that purpose would have that name. Anybody who may write tags can give a group our mark, and so take
/// it out of a lockdown; nobody can change the name of a group: the EC2 API has no call
/// for it (API reference, Actions: of a group only the rules and their descriptions are modified).
fn fits(name: &str, mark: &Mark) -> bool {
    let Some(of_instance) = name.strip_prefix(&holder_name(&mark.installation, "i-")) else {
        return false;
    };
    match &mark.purpose {
        Purpose::Holder => !of_instance.contains("-sg-"),
        Purpose::Copy { of } => of_instance
            .strip_suffix(of.as_str())
            .is_some_and(|instance| instance.ends_with('-')),
        Purpose::Grant { .. } | Purpose::Lockdown { .. } | Purpose::Residual { .. } => false,
    }
}

/// The mark that somebody gave to `group`, if it is this installation's: ours, as long as nobody else writes tags.
pub fn tagged_for(group: &SecurityGroup, installation: &Installation) -> Option<Purpose> {
    Mark::parse(group.tags.get(MARK_TAG)?)
        .filter(|mark| mark.installation == *installation)
        .map(|mark| mark.purpose)
}

/// What `group` is for, where it is a group of this installation, by its mark and its name.
pub fn purpose_of(group: &SecurityGroup, installation: &Installation) -> Option<Purpose> {
    let mark = Mark::parse(group.tags.get(MARK_TAG)?)?;
    (mark.installation == *installation && fits(&group.name, &mark)).then_some(mark.purpose)
}

/// The group that `group` stands for, where it is a private copy, of whichever installation.
pub fn copied_from(group: &SecurityGroup) -> Option<String> {
    let mark = Mark::parse(group.tags.get(MARK_TAG)?).filter(|mark| fits(&group.name, mark))?;
    match mark.purpose {
        Purpose::Copy { of } => Some(of),
        _ => None,
    }
}

/// Whether `group` is a group of this installation: a temporary one, or a private copy.
pub fn is_ours(group: &SecurityGroup, installation: &Installation) -> bool {
    purpose_of(group, installation).is_some()
}

/// Whether `group` is a temporary group of this installation, which holds what grants opened.
pub fn is_holder(group: &SecurityGroup, installation: &Installation) -> bool {
    purpose_of(group, installation) == Some(Purpose::Holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, mark: &str) -> SecurityGroup {
        SecurityGroup {
            id: "sg-0000000000000000a".to_owned(),
            name: name.to_owned(),
            vpc: "vpc-00000000000000001".to_owned(),
            ingress: Vec::new(),
            egress: Vec::new(),
            tags: [(MARK_TAG.to_owned(), mark.to_owned())].into(),
        }
    }

    #[test]
    fn a_group_is_ours_by_its_mark_and_its_name_and_nobody_makes_it_so_by_a_tag() {
        let ours: Installation = "prod".parse().unwrap();
        let holder = "postern-prod-i-0123456789abcdef0";
        let copy = "postern-prod-i-0123456789abcdef0-sg-0000000000000000b";
        let copied = "postern:prod copy=sg-0000000000000000b";
        assert_eq!(
            purpose_of(&group(holder, "postern:prod holder"), &ours),
            Some(Purpose::Holder)
        );
        let of = Purpose::Copy {
            of: "sg-0000000000000000b".to_owned(),
        };
        assert_eq!(purpose_of(&group(copy, copied), &ours), Some(of));
        for (name, mark) in [
            ("database", "postern:prod holder"),
            ("database", copied),
            (copy, "postern:prod holder"),
            (holder, copied),
            (copy, "postern:prod copy=sg-0000000000000000c"),
            (copy, "postern:test copy=sg-0000000000000000b"),
            ("postern-test-i-0123456789abcdef0", "postern:prod holder"),
        ] {
            let group = group(name, mark);
            assert_eq!(purpose_of(&group, &ours), None, "{name} {mark}");
            assert_eq!(copied_from(&group), None, "{name} {mark}");
            assert!(!is_ours(&group, &ours) && !is_holder(&group, &ours));
        }
    }
}
