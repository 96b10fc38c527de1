//! Edits behind Postern's back: made to the clouds that it guards and, where they concern what is not ours, to the
//! twins.

mod firewall;
mod papers;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
pub use papers::Papers;
use postern::demo::fleet::{ACCOUNT, REGION};
use postern_core::inventory::MARK_TAG;
use postern_sim::ec2::{Fleet, Ingress, Origin, Snapshot, state::Rule};
use serde_json::{Value, json};

use crate::{
    clouds::{Clouds, environment, ingress, is_foreign, nsg_rule},
    script::{Edit, Script},
};

/// What every mark of the installation under test begins with.
pub const MARK: &str = "postern:test ";

/// An edit that nobody can tell from what Postern did at the same time.
#[derive(Debug, Clone)]
pub enum Contested {
    /// A foreign rule of a group was revoked. If Postern was at the group just then, the revoke cannot be told from
    /// one of Postern's own whose answer was lost, and the rule may be put back.
    Revoked(String, Ingress, DateTime<Utc>),
    /// A foreign group was put on an interface or taken off. EC2 replaces all groups of an interface at once and on
    /// no condition: where it is done between Postern's last reading and the write that follows, it is undone.
    Toggled(String, String, DateTime<Utc>),
}

/// Makes the edit; says what came of it. What the clouds refuse is no edit.
pub fn make(
    edit: &Edit,
    script: &Script,
    real: &Clouds,
    twin: &Clouds,
    (contested, papers): (&mut Vec<Contested>, &mut Papers),
) -> anyhow::Result<String> {
    match edit {
        Edit::NsgAdd(nsg, rule) => {
            let nsg = nth(&real.built.nsgs, *nsg).context("no NSG")?;
            let id = format!("{nsg}/securityRules/{}", rule.name);
            real.arm.fleet().put(&id, nsg_rule(rule))?;
            twin.arm.fleet().put(&id, nsg_rule(rule))?;
            Ok(format!("{id} added"))
        }
        Edit::NsgDelete(nsg, rule) => {
            let nsg = nth(&real.built.nsgs, *nsg).context("no NSG")?;
            let foreign = rules_of(twin, nsg, false);
            let id = nth(&foreign, *rule).context("no rule")?;
            real.arm.fleet().delete(&id.0)?;
            twin.arm.fleet().delete(&id.0)?;
            Ok(format!("{} deleted", id.0))
        }
        Edit::NsgWidenOurs(nsg, rule) => turn_ours(real, *nsg, *rule, |properties| {
            properties.remove("sourceAddressPrefixes");
            properties.insert("sourceAddressPrefix".to_owned(), json!("*"));
        }),
        Edit::NsgTurnOurs(nsg, rule) => turn_ours(real, *nsg, *rule, |properties| {
            properties.remove("destinationPortRanges");
            properties.insert("destinationPortRange".to_owned(), json!("8443"));
        }),
        Edit::NsgDeleteOurs(nsg, rule) => {
            let nsg = nth(&real.built.nsgs, *nsg).context("no NSG")?;
            let ours = rules_of(real, nsg, true);
            let (id, _) = nth(&ours, *rule).context("no rule of ours")?;
            real.arm.fleet().delete(id)?;
            Ok(format!("{id} (ours) deleted"))
        }
        Edit::Firewall(edit) => firewall::make(edit, real.built.gate.as_ref(), real, twin),
        Edit::SecondFirewall(edit) => firewall::make(edit, real.built.second.as_ref(), real, twin),
        Edit::Parent(edit) => firewall::make(edit, real.built.parent.as_ref(), real, twin),
        Edit::CopyOurs(copying) => firewall::copy_ours(*copying, real),
        Edit::Read(document) => papers.read(*document, real, twin),
        Edit::Replay(document) => papers.replay(*document, real, twin),
        Edit::Retag(machine, prod) => retag(*machine, *prod, script, real, twin),
        Edit::Delete(machine) => {
            let id = real.built.machine(*machine).context("no machine")?;
            match instance(id) {
                None => {
                    real.arm.fleet().delete(id)?;
                    twin.arm.fleet().delete(id)?;
                }
                Some(instance) => both(real, twin, "TerminateInstances", &[("InstanceId.1", instance)])?,
            }
            Ok(format!("{id} deleted"))
        }
        Edit::Stop(number) | Edit::Start(number) => {
            let arn = nth(&real.built.instances, *number).context("no instance")?;
            let action = match edit {
                Edit::Stop(_) => "StopInstances",
                _ => "StartInstances",
            };
            let instance = instance(arn).context("no instance")?;
            both(real, twin, action, &[("InstanceId.1", instance)])?;
            Ok(format!("{action} {instance}"))
        }
        _ => groups(edit, script, real, twin, contested),
    }
}

fn groups(
    edit: &Edit,
    script: &Script,
    real: &Clouds,
    twin: &Clouds,
    contested: &mut Vec<Contested>,
) -> anyhow::Result<String> {
    let (fleet, shadow) = (ec2(real), ec2(twin));
    match edit {
        Edit::SgAdd(group, rule) => {
            let group = nth(&real.built.groups, *group).context("no group")?;
            let rule = ingress(rule, &real.built).context("no peer")?;
            add(&fleet, &shadow, group, &rule)
        }
        Edit::SgReAdd(group, rule) => {
            let number = group.checked_rem(real.built.groups.len()).context("no group")?;
            let group = nth(&real.built.groups, number).context("no group")?;
            let rules = script.aws.groups.get(number).context("no group")?;
            let rule = nth(rules, *rule)
                .and_then(|rule| ingress(rule, &real.built))
                .context("no rule")?;
            add(&fleet, &shadow, group, &rule)
        }
        Edit::SgRevoke(group, rule) => {
            let group = nth(&real.built.groups, *group).context("no group")?;
            let there = shadow.snapshot()?;
            let rules = ingress_of(&there, group);
            let rule = nth(&rules, *rule).context("no rule")?;
            fleet.revoke(group, std::slice::from_ref(rule))?;
            shadow.revoke(group, std::slice::from_ref(rule))?;
            contested.push(Contested::Revoked(group.clone(), rule.clone(), real.ec2.now()));
            Ok(format!("{rule:?} revoked in {group}"))
        }
        Edit::SgRevokeOurs(number) => {
            let there = fleet.snapshot()?;
            let ours = ours(&there);
            let (group, rule) = nth(&ours, *number).context("no rule of ours")?;
            fleet.call(
                "RevokeSecurityGroupIngress",
                &[("GroupId", group), ("SecurityGroupRuleId.1", &rule.id)],
            )?;
            Ok(format!("{rule:?} (ours) revoked in {group}"))
        }
        Edit::SgWidenOurs(number) => {
            let there = fleet.snapshot()?;
            let holders = holders(&there);
            let group = nth(&holders, *number).context("no group of ours")?;
            fleet.allow(group, &[Ingress::tcp(22, "0.0.0.0/0")])?;
            Ok(format!("{group} (ours) widened"))
        }
        Edit::SgDetachOurs(number) => {
            let there = fleet.snapshot()?;
            let holders = holders(&there);
            let group = nth(&holders, *number).context("no group of ours")?;
            let interface = there
                .interfaces
                .iter()
                .find(|interface| interface.groups.contains(group) && interface.groups.len() > 1)
                .context("no interface with it")?;
            let mut left = interface.groups.clone();
            left.retain(|other| other != group);
            // Whoever takes a copy off takes the group off that it stands for.
            if let Some(of) = stands_for(&there, group) {
                let twin = shadow.snapshot()?;
                let mut groups = twin
                    .interface(&interface.id)
                    .context("no interface")?
                    .groups
                    .clone();
                groups.retain(|other| *other != of);
                anyhow::ensure!(!groups.is_empty(), "the last group stays");
                fleet.set_groups(&interface.id, &left)?;
                shadow.set_groups(&interface.id, &groups)?;
                contested.push(Contested::Toggled(interface.id.clone(), of, real.ec2.now()));
            } else {
                fleet.set_groups(&interface.id, &left)?;
            }
            Ok(format!("{group} (ours) taken off {}", interface.id))
        }
        Edit::SgToggle(interface, group) => {
            let interface = nth(&real.built.interfaces, *interface).context("no interface")?;
            let group = nth(&real.built.groups, *group).context("no group")?;
            let on = |there: &Snapshot| there.interface(interface).map(|found| found.groups.clone());
            let (mut here, mut there) = (
                on(&fleet.snapshot()?).context("the interface is gone")?,
                on(&shadow.snapshot()?).context("the interface is gone")?,
            );
            // Only where both show the same of the group: a group that a lockdown took off is not there to be taken.
            anyhow::ensure!(
                here.contains(group) == there.contains(group),
                "stands differently"
            );
            for groups in [&mut here, &mut there] {
                if groups.contains(group) {
                    groups.retain(|other| other != group);
                } else {
                    groups.push(group.clone());
                }
                anyhow::ensure!(!groups.is_empty(), "the last group stays");
            }
            fleet.set_groups(interface, &here)?;
            shadow.set_groups(interface, &there)?;
            contested.push(Contested::Toggled(
                interface.clone(),
                group.clone(),
                real.ec2.now(),
            ));
            Ok(format!("{group} toggled on {interface}"))
        }
        other => anyhow::bail!("{other:?} is no edit of groups"),
    }
}

/// Adds a rule; in the twin it may stand already, where a lockdown displaced it.
fn add(fleet: &Fleet, shadow: &Fleet, group: &str, rule: &Ingress) -> anyhow::Result<String> {
    let standing = ingress_of(&shadow.snapshot()?, group).contains(&canonical(rule));
    fleet.allow(group, std::slice::from_ref(rule))?;
    if !standing {
        shadow.allow(group, std::slice::from_ref(rule))?;
    }
    let again = if standing { " again" } else { "" };
    Ok(format!("{rule:?} added{again} in {group}"))
}

fn retag(
    machine: usize,
    prod: bool,
    script: &Script,
    real: &Clouds,
    twin: &Clouds,
) -> anyhow::Result<String> {
    let id = real.built.machine(machine).context("no machine")?;
    let value = environment(prod);
    if let Some(instance) = instance(id) {
        let parameters = [
            ("ResourceId.1", instance),
            ("Tag.1.Key", "env"),
            ("Tag.1.Value", value),
        ];
        both(real, twin, "CreateTags", &parameters)?;
    } else {
        let number = machine
            .checked_rem(script.azure.machines.len() + script.aws.machines.len())
            .context("no machine")?;
        for clouds in [real, twin] {
            let fleet = clouds.arm.fleet();
            // Putting a machine that is gone would make it anew.
            fleet.get(id)?;
            let interface = fleet.id(&format!("Microsoft.Network/networkInterfaces/nic-{number}"));
            fleet.virtual_machine(&format!("vm-{number}"), &[&interface], &json!({ "env": value }))?;
        }
    }
    Ok(format!("{id} tagged {value}"))
}

fn turn_ours(
    real: &Clouds,
    nsg: usize,
    rule: usize,
    change: impl FnOnce(&mut serde_json::Map<String, Value>),
) -> anyhow::Result<String> {
    let nsg = nth(&real.built.nsgs, nsg).context("no NSG")?;
    let ours = rules_of(real, nsg, true);
    let (id, value) = nth(&ours, rule).context("no rule of ours")?;
    let mut properties = value
        .get("properties")
        .and_then(Value::as_object)
        .context("a rule without properties")?
        .clone();
    properties.remove("provisioningState");
    change(&mut properties);
    real.arm
        .fleet()
        .put(id, json!({ "properties": Value::Object(properties) }))?;
    Ok(format!("{id} (ours) edited"))
}

/// The inbound rules of an NSG as shown: ours, or the others.
fn rules_of(clouds: &Clouds, nsg: &str, ours: bool) -> Vec<(String, Value)> {
    let prefix = format!("{}/securityrules/", nsg.to_ascii_lowercase());
    clouds
        .arm
        .truth()
        .world(None)
        .into_iter()
        .filter(|(id, rule)| {
            let marked = rule
                .pointer("/properties/description")
                .and_then(Value::as_str)
                .is_some_and(|text| text.starts_with(MARK));
            id.starts_with(&prefix) && marked == ours && rule.get("leaving").is_none()
        })
        .collect()
}

/// Does to the twin what Postern undid of edits that it could not tell from its own doing; whether there was anything.
pub fn concede(real: &Clouds, twin: &Clouds, contested: &mut Vec<Contested>) -> anyhow::Result<bool> {
    /// How long a restart, a lease and the longest request may keep a write of Postern's undecided.
    const UNDECIDED: TimeDelta = TimeDelta::seconds(15);
    /// How long after Postern's last reading of an interface its write may come: the two calls are made one after the
    /// other, each as late as the faults make it, and the describe may lag.
    const PASS: TimeDelta = TimeDelta::milliseconds(1500);

    let (here, there) = (ec2(real).snapshot()?, ec2(twin).snapshot()?);
    let changes = real.ec2.truth().all();
    let touched = |id: &str, from: DateTime<Utc>, to: DateTime<Utc>| {
        changes.iter().any(|change| {
            !is_foreign(&change.caller)
                && change.resource.ends_with(id)
                && from <= change.at
                && change.at <= to
        })
    };
    let mut conceded = false;
    for entry in std::mem::take(contested) {
        match &entry {
            Contested::Revoked(group, rule, at)
                if ingress_of(&here, group).contains(rule)
                    && !ingress_of(&there, group).contains(rule)
                    && touched(group, *at - UNDECIDED, *at + UNDECIDED) =>
            {
                ec2(twin).allow(group, std::slice::from_ref(rule))?;
                conceded = true;
            }
            Contested::Toggled(interface, group, at)
                if holds(&here, interface, group) != holds(&there, interface, group)
                    && touched(interface, *at, *at + PASS) =>
            {
                let mut groups = there
                    .interface(interface)
                    .map(|found| found.groups.clone())
                    .unwrap_or_default();
                if holds(&here, interface, group) {
                    groups.push(group.clone());
                } else {
                    groups.retain(|other| other != group);
                }
                ec2(twin).set_groups(interface, &groups)?;
                conceded = true;
            }
            _ => contested.push(entry),
        }
    }
    Ok(conceded)
}

fn holds(there: &Snapshot, interface: &str, group: &str) -> bool {
    there
        .interface(interface)
        .is_some_and(|found| found.groups.iter().any(|held| held == group))
}

fn ec2(clouds: &Clouds) -> Fleet {
    clouds.ec2.fleet(ACCOUNT, REGION)
}

fn both(real: &Clouds, twin: &Clouds, action: &str, parameters: &[(&str, &str)]) -> anyhow::Result<()> {
    ec2(real).call(action, parameters)?;
    ec2(twin).call(action, parameters)?;
    Ok(())
}

fn instance(machine: &str) -> Option<&str> {
    machine.split_once(":instance/").map(|(_, id)| id)
}

/// The ingress rules of a group, as they would be added.
fn ingress_of(there: &Snapshot, group: &str) -> Vec<Ingress> {
    let rules = there.group(group).map(|group| group.rules.as_slice());
    rules
        .unwrap_or_default()
        .iter()
        .filter(|rule| !rule.allows.egress)
        .filter_map(as_ingress)
        .collect()
}

fn as_ingress(rule: &Rule) -> Option<Ingress> {
    use postern_sim::ec2::state::Peer;

    let port = |port: Option<i32>| u16::try_from(port.unwrap_or_default()).ok();
    Some(Ingress {
        protocol: rule.allows.protocol.clone(),
        ports: (port(rule.allows.from_port)?, port(rule.allows.to_port)?),
        from: match &rule.allows.peer {
            Peer::CidrV4(range) => Origin::Cidr(range.to_string()),
            Peer::CidrV6(range) => Origin::Cidr(range.to_string()),
            Peer::PrefixList(id) => Origin::PrefixList(id.clone()),
            Peer::Group { group_id, .. } => Origin::Group(group_id.clone()),
        },
        description: rule.description.clone().unwrap_or_default(),
    })
}

fn canonical(rule: &Ingress) -> Ingress {
    let mut rule = rule.clone();
    if rule.protocol == "-1" {
        rule.ports = (0, 0);
    }
    rule
}

/// The groups of ours: those that hold grants' rules, and private copies.
fn holders(there: &Snapshot) -> Vec<String> {
    there
        .groups
        .iter()
        .filter(|group| {
            group
                .tags
                .get(MARK_TAG)
                .is_some_and(|mark| mark.starts_with(MARK))
        })
        .map(|group| group.id.clone())
        .collect()
}

/// The group that a private copy of ours stands for.
fn stands_for(there: &Snapshot, group: &str) -> Option<String> {
    let mark = there.group(group)?.tags.get(MARK_TAG)?;
    mark.strip_prefix(MARK)?.strip_prefix("copy=").map(str::to_owned)
}

/// The rules of ours, in groups of ours and of others.
fn ours(there: &Snapshot) -> Vec<(String, Rule)> {
    let marked = |rule: &&Rule| {
        rule.description
            .as_ref()
            .is_some_and(|text| text.starts_with(MARK))
    };
    there
        .groups
        .iter()
        .flat_map(|group| {
            group
                .rules
                .iter()
                .filter(marked)
                .map(|rule| (group.id.clone(), rule.clone()))
        })
        .collect()
}

fn nth<T>(items: &[T], number: usize) -> Option<&T> {
    items.get(number.checked_rem(items.len())?)
}
