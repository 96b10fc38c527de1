//! Application security groups: where their members may be and which rules may name them together.
//!
//! "Application security groups" (learn.microsoft.com): all interfaces in a group are in the virtual network of
//! the first one; groups named as source and destination of one rule have their interfaces in one network. Codes
//! as Azure sent them: `AllApplicationSecurityGroupsInSecurityRuleMustBeFromSameVnet` (azure-sdk-for-java 34158),
//! `AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups` (azure-cli 21551). That of an interface
//! from another network was not found in public.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::body::Part;
use super::check::Check;
use super::id::{Id, Kind};
use super::refusal::ArmError;
use super::rule;
use super::state::{State, at, ids_in};

/// Groups that one interface may be in ("Azure subscription and service limits", networking).
const GROUPS_PER_INTERFACE: usize = 20;
/// Groups that all rules of one NSG may name (same page).
const GROUPS_PER_SECURITY_GROUP: usize = 100;

/// The virtual networks, by key, that the members of a group are in; those of one interface left out.
fn networks(state: &State, group: &str, except: Option<&str>) -> BTreeSet<String> {
    state
        .resources
        .iter()
        .filter(|(key, resource)| {
            resource.id.kind == Kind::NetworkInterface && except.is_none_or(|except| except != key.as_str())
        })
        .flat_map(|(_, interface)| interface.shown())
        .filter(|(_, goal)| {
            ids_in(goal.get("applicationSecurityGroups"))
                .iter()
                .any(|held| held.eq_ignore_ascii_case(group))
        })
        .filter_map(|(_, goal)| network(goal))
        .collect()
}

/// The key of the virtual network that an IP configuration is in.
fn network(configuration: &Map<String, Value>) -> Option<String> {
    at(configuration, &["subnet", "id"])
        .and_then(Id::parse)
        .map(|subnet| subnet.parent().key())
}

/// The private addresses of a group's members, in the order of their text.
pub(super) fn members(state: &State, group: &str) -> BTreeSet<String> {
    state
        .resources
        .values()
        .filter(|resource| resource.id.kind == Kind::NetworkInterface)
        .flat_map(super::state::Resource::shown)
        .filter(|(_, goal)| {
            ids_in(goal.get("applicationSecurityGroups"))
                .iter()
                .any(|held| held.eq_ignore_ascii_case(group))
        })
        .filter_map(|(_, goal)| at(goal, &["privateIPAddress"]).map(str::to_owned))
        .collect()
}

impl Check<'_> {
    /// The groups that a rule names are there, in its region, and their members in one network.
    pub(super) fn groups_of_rule(&self, properties: &Map<String, Value>) -> Result<(), ArmError> {
        let mut places = BTreeSet::new();
        for group in rule::application_groups(properties) {
            let (_, id) = self.resolve(
                group,
                Kind::ApplicationSecurityGroup,
                None,
                "applicationSecurityGroups.id",
            )?;
            places.extend(networks(self.state, &id.text(), None));
        }
        if places.len() > 1 {
            let places: Vec<String> = places.into_iter().collect();
            let text = format!(
                "Security Rule {} has Application Security Groups (ASGs) from multiple virtual networks ({}). All \
                 ASGs on the Security Rule must be from the same virtual network.",
                self.id.text(),
                places.join(", ")
            );
            return Err(ArmError::network(
                400,
                "AllApplicationSecurityGroupsInSecurityRuleMustBeFromSameVnet",
                text,
            ));
        }
        Ok(())
    }

    /// The groups that the rules of one NSG name, counted. The code is not on record.
    pub(super) fn groups_of_rules<'r>(
        rules: impl Iterator<Item = &'r Map<String, Value>>,
    ) -> Result<(), ArmError> {
        let groups: BTreeSet<String> = rules
            .flat_map(rule::application_groups)
            .map(str::to_ascii_lowercase)
            .collect();
        if groups.len() <= GROUPS_PER_SECURITY_GROUP {
            return Ok(());
        }
        let text = format!(
            "The rules of a network security group cannot name more than {GROUPS_PER_SECURITY_GROUP} application \
             security groups."
        );
        Err(ArmError::network(
            400,
            "ApplicationSecurityGroupsInNetworkSecurityGroupLimitReached",
            text,
        ))
    }

    /// The groups of an interface: the same at each IP configuration, with no member in another network.
    pub(super) fn groups_of_interface(&self, configurations: &[Part]) -> Result<(), ArmError> {
        let held = |properties: &Map<String, Value>| -> BTreeSet<String> {
            ids_in(properties.get("applicationSecurityGroups"))
                .into_iter()
                .map(str::to_ascii_lowercase)
                .collect()
        };
        let Some((first_name, first)) = configurations.first() else {
            return Ok(());
        };
        let groups = held(first);
        for (name, properties) in configurations {
            if held(properties) != groups {
                let text = format!(
                    "All IPConfigurations on a Network Interface should reference the same set of Application \
                     Security Groups. IPConfiguration {name} of {} references other ASGs than {first_name}.",
                    self.id.text()
                );
                return Err(ArmError::network(
                    400,
                    "AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups",
                    text,
                ));
            }
        }
        if groups.len() > GROUPS_PER_INTERFACE {
            let text = format!(
                "Network interface {} cannot be in more than {GROUPS_PER_INTERFACE} application security groups.",
                self.id.text()
            );
            return Err(ArmError::network(
                400,
                "ApplicationSecurityGroupsOnNicLimitReached",
                text,
            ));
        }
        let own = self.id.key();
        let here = network(first);
        for group in &groups {
            let elsewhere = networks(self.state, group, Some(&own))
                .into_iter()
                .find(|other| Some(other) != here.as_ref());
            if let Some(elsewhere) = elsewhere {
                let text = format!(
                    "Network interface {} cannot join application security group {group}: its members are in \
                     virtual network {elsewhere}. All network interfaces of an application security group must be \
                     in the same virtual network.",
                    self.id.text()
                );
                return Err(ArmError::network(
                    400,
                    "ApplicationSecurityGroupMembersMustBeFromSameVnet",
                    text,
                ));
            }
        }
        Ok(())
    }
}
