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
    mark::{Installation, Purpose},
    nsg::NsgRule,
    point::PointRef,
    sg::SecurityGroup,
};

mod ours;

pub use ours::{MARK_TAG, Named, copied_from, holder_name, is_holder, is_ours, purpose_of, tagged_for};

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
