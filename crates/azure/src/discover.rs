//! Finds the machines of a subscription and what filters the way to them.
//!
//! Five lists of the whole subscription and one of the machines' power, each paged: the number of calls grows with
//! pages, not with machines. Where there are firewalls, three more, and two calls for each firewall policy.

pub(crate) mod balancer;
mod edge;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    enforcer::{Accounts, DiscoveryPage, EnforceError, Marks, Unlisted},
    inventory::{self, Layer, Machine, Place, Power},
    machine::{Account, MachineId},
    mark::Installation,
    nsg::{Direction, NsgRule},
    point::PointRef,
    time::Clock,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(crate) use self::reading::{Readings, list};
use self::{
    balancer::Balancers,
    edge::{Edges, Ways},
    reading::Reading,
};
use crate::{
    arm::{Arm, ArmId, is_subscription},
    config::AzureConfig,
    observe::{Interface, Reference},
    plan::ReadRule,
};

const COMPUTE_VERSION: &str = "2024-07-01";
const SUBSCRIPTIONS_VERSION: &str = "2022-12-01";

/// The configured subscriptions, or all that the credential may read. One whose id is none keeps nobody from the others.
pub(crate) async fn accounts(arm: &Arm, config: &AzureConfig) -> Result<Accounts, EnforceError> {
    let ids = if config.subscriptions.is_empty() {
        let url = arm.address(["subscriptions"], SUBSCRIPTIONS_VERSION, &[])?;
        let listed: Vec<Value> = arm.list(url, "Microsoft.Resources/subscriptions/read").await?;
        ids_of(&listed)
    } else {
        config.subscriptions.clone()
    };
    let mut accounts = Accounts::default();
    for id in ids {
        let subscription = id.to_lowercase();
        if is_subscription(&subscription) {
            accounts.found.push(Account::Azure { subscription });
        } else {
            accounts.failed.push(Unlisted {
                scope: "/azure".to_owned(),
                error: EnforceError::Malformed(format!("`{id}` is no subscription id")),
            });
        }
    }
    Ok(accounts)
}

/// How many characters are told of what stands in place of a text.
const TOLD: usize = 80;

/// The ids of the listed subscriptions that can be written; where one is no string, what stands there instead.
///
/// Source: "Subscriptions - List" (Azure Resource Manager REST reference, 2022-12-01): `subscriptionId` and `state` are
/// strings, and neither is said to be always there. So each is read for itself: what one is not, says nothing of others.
fn ids_of(listed: &[Value]) -> Vec<String> {
    let text = |one: &Value, name: &str| match one.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string().chars().take(TOLD).collect(),
        None => String::new(),
    };
    listed
        .iter()
        // A disabled one cannot be written; what is not said is not disabled.
        .filter(|one| !matches!(text(one, "state").as_str(), "Disabled" | "Deleted"))
        .map(|one| text(one, "subscriptionId"))
        .collect()
}

#[derive(Debug, Deserialize)]
struct Vm {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    properties: VmProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VmProperties {
    network_profile: Option<NetworkProfile>,
    instance_view: Option<InstanceView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NetworkProfile {
    network_interfaces: Vec<VmInterface>,
}

#[derive(Debug, Deserialize)]
struct VmInterface {
    id: String,
    #[serde(default)]
    properties: VmInterfaceProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VmInterfaceProperties {
    primary: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InstanceView {
    statuses: Vec<Status>,
}

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    code: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    id: String,
    #[serde(default)]
    properties: NetworkProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NetworkProperties {
    address_space: AddressSpace,
    subnets: Vec<Subnet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AddressSpace {
    address_prefixes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Subnet {
    id: String,
    #[serde(default)]
    properties: SubnetProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SubnetProperties {
    network_security_group: Option<Reference>,
    address_prefix: Option<String>,
    address_prefixes: Vec<String>,
    route_table: Option<Reference>,
}

#[derive(Debug, Deserialize)]
struct PublicAddress {
    id: String,
    #[serde(default)]
    properties: PublicAddressProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PublicAddressProperties {
    #[serde(rename = "ipAddress")]
    ip_address: Option<String>,
}

/// A network security group.
#[derive(Debug)]
struct Nsg {
    point: PointRef,
    /// The inbound ones.
    rules: Vec<NsgRule>,
    /// The installations whose marks stand there.
    marked_by: BTreeSet<Installation>,
}

/// What surrounds the machines, by lower-case ids.
struct Surroundings {
    interfaces: BTreeMap<String, Interface>,
    /// The virtual network of each subnet, and the subnet's NSG.
    subnets: BTreeMap<String, (String, Option<String>)>,
    spaces: BTreeMap<String, Vec<IpNet>>,
    nsgs: BTreeMap<String, Nsg>,
    public: BTreeMap<String, IpAddr>,
    /// The ids of public addresses, with those that have no address now.
    named: BTreeSet<String>,
    /// Whether something that is named and not listed is an error.
    all_listed: bool,
    power: BTreeMap<String, Power>,
    ways: BTreeMap<String, Ways>,
    edges: Edges,
    balancers: Balancers,
}

/// The machines of the subscription, all on one page; read on from where the last question failed.
pub(crate) async fn machines(
    arm: &Arm,
    subscription: &str,
    readings: &Readings,
    clock: &dyn Clock,
) -> Result<DiscoveryPage, EnforceError> {
    let asked_at = clock.now();
    let reading = readings.read(arm, subscription, asked_at).await?;
    // What was read then and what was read now need not go together. Whoever may not read everything is never told what is
    // not listed, so that it is looked for once.
    let in_two_goes = reading.since < asked_at && !reading.anew;
    match page(reading, in_two_goes) {
        Err(error) if in_two_goes => {
            tracing::info!(subscription, %error, "what was read in two goes is read anew");
            page(readings.read_anew(arm, subscription, clock.now()).await?, false)
        }
        page => page,
    }
}

/// With `all_listed`, something that is named and not listed is an error.
fn page(reading: Reading, all_listed: bool) -> Result<DiscoveryPage, EnforceError> {
    let Reading {
        since,
        anew: _,
        vms,
        views,
        interfaces,
        networks,
        nsgs,
        public,
        firewalls,
    } = reading;
    let firewalls = firewalls.into_read();
    let public = public.into_items();
    let mut around = Surroundings {
        interfaces: interfaces
            .into_items()
            .into_iter()
            .map(|interface| (interface.id.to_lowercase(), interface))
            .collect(),
        subnets: BTreeMap::new(),
        spaces: BTreeMap::new(),
        nsgs: nsgs
            .into_items()
            .into_iter()
            .map(|nsg| nsg.0)
            .collect::<Result<_, _>>()?,
        named: public.iter().map(|address| address.id.to_lowercase()).collect(),
        public: edge::public_addresses(public),
        all_listed,
        power: power(views.into_items()),
        ways: BTreeMap::new(),
        edges: Edges::default(),
        balancers: Balancers::new(&firewalls.balancers),
    };
    for network in networks.into_items() {
        let id = network.id.to_lowercase();
        for subnet in network.properties.subnets {
            let group = subnet
                .properties
                .network_security_group
                .map(|group| group.id.to_lowercase());
            let prefixes = subnet.properties.address_prefix.iter();
            let prefixes = prefixes.chain(&subnet.properties.address_prefixes);
            let ways = Ways {
                prefixes: prefixes.filter_map(|prefix| prefix.parse().ok()).collect(),
                table: subnet.properties.route_table.map(|table| table.id.to_lowercase()),
            };
            around.ways.insert(subnet.id.to_lowercase(), ways);
            around
                .subnets
                .insert(subnet.id.to_lowercase(), (id.clone(), group));
        }
        let space = network.properties.address_space.address_prefixes;
        around.spaces.insert(
            id,
            space.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
        );
    }
    around.edges = Edges::new(firewalls, &around.public, &around.ways, |id| {
        let is_known = around.named.contains(id) || around.ways.contains_key(id);
        around.listed(is_known.then_some(()), id).map(drop)
    })?;
    let machines = vms
        .into_items()
        .into_iter()
        .map(|vm| around.machine(vm))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(DiscoveryPage {
        machines,
        marked: around.marks(),
        next: None,
        since: Some(since),
    })
}

/// The machines' power by lower-case id.
fn power(views: Vec<Vm>) -> BTreeMap<String, Power> {
    let known = views
        .into_iter()
        .filter_map(|vm| Some((vm.id.to_lowercase(), power_of(&vm.properties.instance_view?)?)));
    known.collect()
}

/// Source of the codes: Azure documentation, "States and billing status of Azure Virtual Machines".
fn power_of(view: &InstanceView) -> Option<Power> {
    view.statuses
        .iter()
        .find_map(|status| status.code.strip_prefix("PowerState/"))
        .map(|state| match state {
            "running" => Power::Running,
            "starting" | "stopping" | "deallocating" => Power::Changing,
            "stopped" | "deallocated" => Power::Stopped,
            _ => Power::Unknown,
        })
}

/// An NSG of a list. It is read as soon as it is there: the documents of a whole subscription take many times as much
/// memory as what is kept of them.
#[derive(Debug)]
struct ListedNsg(Result<(String, Nsg), EnforceError>);

impl<'de> Deserialize<'de> for ListedNsg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|raw| Self(nsg(&raw)))
    }
}

/// An NSG, by its lower-case id.
fn nsg(raw: &Value) -> Result<(String, Nsg), EnforceError> {
    let unreadable =
        |what: &str| EnforceError::Malformed(format!("an NSG of the list cannot be read: {what}"));
    let id = raw
        .get("id")
        .and_then(Value::as_str)
        .ok_or_else(|| unreadable("it has no id"))?;
    let point = ArmId::parse(id)
        .ok()
        .and_then(|id| id.point())
        .ok_or_else(|| unreadable(id))?;
    let mut nsg = Nsg {
        point,
        rules: Vec::new(),
        marked_by: BTreeSet::new(),
    };
    for member in ["securityRules", "defaultSecurityRules"] {
        let all = raw
            .get("properties")
            .and_then(|properties| properties.get(member))
            .and_then(Value::as_array);
        for rule in all.into_iter().flatten() {
            let ReadRule { rule, label, .. } = ReadRule::read(rule).ok_or_else(|| unreadable(id))?;
            nsg.marked_by
                .extend(label.map(|label| label.installation().clone()));
            if rule.direction == Direction::Inbound {
                nsg.rules.push(rule);
            }
        }
    }
    Ok((id.to_lowercase(), nsg))
}

/// The application security groups of an interface, lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    /// Those of every IP configuration.
    every: BTreeSet<String>,
    /// Those of some: ARM keeps all configurations in the same groups
    /// (`AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups`), and nothing is built on it.
    some: BTreeSet<String>,
}

impl Groups {
    fn of<'c>(configurations: impl Iterator<Item = &'c [Reference]>) -> Self {
        let sets: Vec<BTreeSet<String>> = configurations
            .map(|groups| groups.iter().map(|group| group.id.to_lowercase()).collect())
            .collect();
        let all: BTreeSet<String> = sets.iter().flatten().cloned().collect();
        let (every, some) = all
            .into_iter()
            .partition(|group| sets.iter().all(|set| set.contains(group)));
        Self { every, some }
    }
}

impl Surroundings {
    /// Where marks stand: all NSGs of the subscription are listed, also those that no machine has.
    fn marks(&self) -> Marks {
        let groups = self.nsgs.values().flat_map(|nsg| {
            let installations = nsg.marked_by.iter();
            installations.map(|installation| (nsg.point.clone(), installation.clone()))
        });
        let mut marks = Marks::new();
        for (point, installation) in groups.chain(self.edges.marks()) {
            marks.entry(point).or_default().insert(installation);
        }
        marks
    }

    fn machine(&self, vm: Vm) -> Result<Machine, EnforceError> {
        let id: MachineId = vm
            .id
            .parse()
            .map_err(|error| EnforceError::Malformed(format!("a machine of the list: {error}")))?;
        let mut links = vm
            .properties
            .network_profile
            .map(|profile| profile.network_interfaces)
            .unwrap_or_default();
        links.sort_by_key(|link| !link.properties.primary);
        let found = links
            .iter()
            .map(|link| link.id.to_lowercase())
            .map(|id| self.listed(self.interfaces.get(&id), &id))
            .filter_map(Result::transpose)
            .collect::<Result<Vec<&Interface>, _>>()?;
        let mut interfaces: Vec<inventory::Interface> = found
            .iter()
            .map(|interface| self.interface(interface))
            .collect::<Result<_, _>>()?;
        for (at, interface) in interfaces.iter_mut().enumerate() {
            for layer in &mut interface.layers {
                if let Layer::Firewall(approach) = layer {
                    let before = self.balancers.before(&found, at, approach.address);
                    (approach.fronts, approach.unread) = (before.fronts, before.unread);
                    approach.exposures = self.edges.exposures(approach);
                }
            }
        }
        let name = if vm.name.is_empty() {
            id.short().to_owned()
        } else {
            vm.name
        };
        Ok(Machine {
            power: self
                .power
                .get(&vm.id.to_lowercase())
                .copied()
                .unwrap_or(Power::Unknown),
            id,
            name,
            tags: vm.tags.unwrap_or_default(),
            interfaces,
        })
    }

    fn interface(&self, interface: &Interface) -> Result<inventory::Interface, EnforceError> {
        let configurations = || {
            interface
                .properties
                .ip_configurations
                .iter()
                .map(|one| &one.properties)
        };
        let groups = Groups::of(configurations().map(|one| one.application_security_groups.as_slice()));
        // ARM keeps all IP configurations of an interface in one subnet
        // (`IpConfigurationsOnSameNicCannotUseDifferentSubnets`); were there two, a packet would have to pass both.
        let subnets: BTreeSet<String> = configurations()
            .filter_map(|one| one.subnet.as_ref())
            .map(|subnet| subnet.id.to_lowercase())
            .collect();
        let known = subnets
            .iter()
            .map(|id| self.listed(self.subnets.get(id), id))
            .filter_map(Result::transpose)
            .collect::<Result<Vec<&(String, Option<String>)>, _>>()?;
        let network_id = known
            .first()
            .map(|(network, _)| network.clone())
            .unwrap_or_default();
        let network = self.spaces.get(&network_id).cloned().unwrap_or_default();
        let addresses: Vec<IpAddr> = configurations()
            .filter_map(|one| one.private_ip_address.as_deref()?.parse().ok())
            .collect();
        let mut public_addresses: Vec<IpAddr> = Vec::new();
        for address in configurations().filter_map(|one| one.public_ip_address.as_ref()) {
            let id = address.id.to_lowercase();
            self.listed(self.named.get(&id), &id)?;
            public_addresses.extend(self.public.get(&id));
        }
        let ways = subnets.iter().find_map(|id| self.ways.get(id));
        if let Some(subnet) = ways {
            let routes = self.edges.knows_routes(subnet).then_some(());
            self.listed(routes, subnet.table.as_deref().unwrap_or_default())?;
        }
        let approach = self
            .edges
            .approach(ways, &network, &addresses, !public_addresses.is_empty());
        let mut layers: Vec<Layer> = approach.map(Layer::Firewall).into_iter().collect();
        let outer: BTreeSet<&String> = known.iter().filter_map(|(_, group)| group.as_ref()).collect();
        for group in outer {
            layers.push(self.layer(group, Place::Subnet, &groups)?);
        }
        if let Some(group) = &interface.properties.network_security_group {
            layers.push(self.layer(&group.id.to_lowercase(), Place::Interface, &groups)?);
        }
        Ok(inventory::Interface {
            id: interface.id.to_lowercase(),
            addresses,
            public_addresses,
            network,
            network_id,
            layers,
        })
    }

    /// What is named and not listed was made or deleted between the lists, or may not be read: the next discovery sees. Where
    /// the lists are of different times, a machine would be without an interface, or behind another filter, for long.
    fn listed<T>(&self, found: Option<T>, id: &str) -> Result<Option<T>, EnforceError> {
        if found.is_none() && self.all_listed {
            return Err(not_listed(id));
        }
        Ok(found)
    }

    /// An NSG that is attached but not listed is an error: without its rules the machine would seem to have no
    /// filter there.
    fn layer(&self, group: &str, place: Place, groups: &Groups) -> Result<Layer, EnforceError> {
        let nsg = self.nsgs.get(group).ok_or_else(|| not_listed(group))?;
        Ok(Layer::Nsg {
            point: nsg.point.clone(),
            place,
            rules: nsg.rules.clone(),
            memberships: groups.every.clone(),
            possible_memberships: groups.some.clone(),
        })
    }
}

fn not_listed(id: &str) -> EnforceError {
    EnforceError::Conflict {
        resource: id.to_owned(),
        code: "NotListed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_some_addresses_is_not_one_of_every_address() {
        let of = |groups: &[&str]| -> Vec<Reference> {
            groups
                .iter()
                .map(|id| Reference { id: (*id).to_owned() })
                .collect()
        };
        let set = |groups: &[&str]| groups.iter().map(|id| (*id).to_owned()).collect();
        let configurations = [of(&["/ASG/Web", "/asg/db"]), of(&["/asg/web"])];
        let found = Groups::of(configurations.iter().map(Vec::as_slice));
        assert_eq!(
            found,
            Groups {
                every: set(&["/asg/web"]),
                some: set(&["/asg/db"])
            }
        );
    }
}
