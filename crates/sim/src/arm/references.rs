//! Resources, and who of them points at whom: the control plane shows it at what is pointed at, and refuses to delete that.

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use super::id::{ChildKind, Kind};
use super::state::{Resource, State, at, ids_in, interfaces_of};
use super::{firewall, load_balancer, rule};

/// One pointing at another.
#[derive(Debug, Clone)]
pub(super) struct Pointer {
    /// The key of the resource that points, or whose part does.
    owner: Arc<str>,
    /// The member that shows it at what is pointed at; empty where nothing does.
    pub(super) member: &'static str,
    /// The id of what points.
    pub(super) from: String,
}

/// Who points at whom: by the key of what is pointed at, in the order of who points.
pub(super) type BackReferences = BTreeMap<String, Vec<Pointer>>;

/// Resources by their keys. Who points at whom follows from all of them; a change of one is counted when next asked for.
#[derive(Debug, Default)]
pub(super) struct Resources {
    all: BTreeMap<String, Resource>,
    counted: RefCell<Counted>,
}

/// What is known of references.
#[derive(Debug, Default)]
struct Counted {
    /// What each resource points at, by its key.
    targets: BTreeMap<String, Vec<String>>,
    references: BackReferences,
    /// The keys of what may have changed since.
    stale: BTreeSet<String>,
}

impl Deref for Resources {
    type Target = BTreeMap<String, Resource>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

// No `DerefMut`: whatever may change a resource says which.
impl Resources {
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Resource> {
        let found = self.all.get_mut(key)?;
        self.counted.get_mut().stale.insert(key.to_owned());
        Some(found)
    }

    pub(super) fn get_or_insert_with(&mut self, key: &str, new: impl FnOnce() -> Resource) -> &mut Resource {
        self.counted.get_mut().stale.insert(key.to_owned());
        self.all.entry(key.to_owned()).or_insert_with(new)
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.counted.get_mut().stale.insert(key.to_owned());
        self.all.remove(key);
    }
}

impl Counted {
    fn forget(&mut self, key: &str) {
        for target in self.targets.remove(key).unwrap_or_default() {
            if let Some(pointers) = self.references.get_mut(&target) {
                pointers.retain(|pointer| *pointer.owner != *key);
                if pointers.is_empty() {
                    self.references.remove(&target);
                }
            }
        }
    }

    fn learn(&mut self, key: &str, resource: &Resource) {
        let owner: Arc<str> = key.into();
        let mut targets = Vec::new();
        for (target, member, from) in pointed_at(resource) {
            let pointers = self.references.entry(target.clone()).or_default();
            let place = pointers.partition_point(|pointer| *pointer.owner <= *owner);
            let owner = Arc::clone(&owner);
            pointers.insert(place, Pointer { owner, member, from });
            targets.push(target);
        }
        if !targets.is_empty() {
            self.targets.insert(key.to_owned(), targets);
        }
    }
}

impl State {
    /// All references as the control plane shows them.
    pub(super) fn back_references(&self) -> Ref<'_, BackReferences> {
        let Resources { all, counted } = &self.resources;
        // While somebody still holds an answer, nothing has changed since.
        if let Ok(mut counted) = counted.try_borrow_mut() {
            for key in std::mem::take(&mut counted.stale) {
                counted.forget(&key);
                if let Some(resource) = all.get(&key) {
                    counted.learn(&key, resource);
                }
            }
        }
        Ref::map(counted.borrow(), |counted| &counted.references)
    }
}

/// What a resource points at: the key of that, the member that shows it there, and the id of what points.
fn pointed_at(resource: &Resource) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    let mut point = |target: Option<&str>, member: &'static str, from: String| {
        if let Some(target) = target {
            found.push((target.to_ascii_lowercase(), member, from));
        }
    };
    let id = &resource.id;
    match id.kind {
        Kind::NetworkInterface => {
            let group = at(&resource.goal, &["networkSecurityGroup", "id"]);
            point(group, "networkInterfaces", id.text());
            for (child, goal) in resource.shown() {
                let child = id.child(ChildKind::IpConfiguration, &child.name);
                point(at(goal, &["subnet", "id"]), "ipConfigurations", child.text());
                point(
                    at(goal, &["publicIPAddress", "id"]),
                    "ipConfiguration",
                    child.text(),
                );
                for group in ids_in(goal.get("applicationSecurityGroups")) {
                    point(Some(group), "", child.text());
                }
            }
        }
        Kind::VirtualNetwork => {
            for (child, goal) in resource.shown() {
                let child = id.child(ChildKind::Subnet, &child.name);
                point(at(goal, &["networkSecurityGroup", "id"]), "subnets", child.text());
                point(at(goal, &["routeTable", "id"]), "subnets", child.text());
            }
        }
        Kind::NetworkSecurityGroup => {
            for (child, goal) in resource.shown() {
                for group in rule::application_groups(goal) {
                    point(
                        Some(group),
                        "",
                        id.child(ChildKind::SecurityRule, &child.name).text(),
                    );
                }
            }
        }
        Kind::VirtualMachine => {
            for interface in interfaces_of(&resource.goal) {
                point(Some(interface), "virtualMachine", id.text());
            }
        }
        Kind::AzureFirewall => {
            point(
                at(&resource.goal, &["firewallPolicy", "id"]),
                "firewalls",
                id.text(),
            );
            for (name, goal) in firewall::named(&resource.goal, "ipConfigurations") {
                let child = id.child(ChildKind::FirewallIpConfiguration, name);
                point(at(goal, &["subnet", "id"]), "ipConfigurations", child.text());
                point(
                    at(goal, &["publicIPAddress", "id"]),
                    "ipConfiguration",
                    child.text(),
                );
            }
        }
        Kind::LoadBalancer => {
            for (name, goal) in firewall::named(&resource.goal, load_balancer::FRONTENDS) {
                let child = id.child(ChildKind::FrontendIpConfiguration, name);
                point(at(goal, &["subnet", "id"]), "ipConfigurations", child.text());
                point(
                    at(goal, &["publicIPAddress", "id"]),
                    "ipConfiguration",
                    child.text(),
                );
            }
        }
        Kind::ApplicationSecurityGroup | Kind::FirewallPolicy | Kind::PublicIpAddress | Kind::RouteTable => {}
    }
    found
}
