//! Every choice about an NSG, pure: which rules are wanted, where they stand, what to write in which order.
//!
//! | step | module |
//! |---|---|
//! | what ARM holds becomes rules, ours told from others' | `rule` |
//! | what is wanted becomes rules without priorities | `wanted` |
//! | each wanted rule gets a priority, or an obstacle | `layout` |
//! | where numbers run out, grants share a rule | `share` |
//! | the difference becomes writes, in order | `changes` |
//! | what stands becomes evidence | `evidence` |

mod changes;
mod evidence;
mod label;
mod layout;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
mod rule;
#[cfg(test)]
mod shapes;
mod share;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern_core::{
    enforcer::{Change, Desired, EnforceError, Evidence, Member, Observed, Plan, Print},
    id::GrantId,
    machine::MachineId,
    mark::Installation,
    nsg::{Access, Direction, NsgRule},
    point::PointRef,
    preview::Filters,
};
use serde_json::{Value, json};

use crate::{config::PriorityBand, operation::Operation};
pub(crate) use label::Label;
pub use rule::{ReadRule, State};
pub(crate) use share::{Rest, without};

/// An NSG as it was read.
#[derive(Debug, Clone)]
pub struct ObservedNsg {
    point: PointRef,
    raw: Value,
    rules: Vec<ReadRule>,
    defaults: Vec<ReadRule>,
    /// Where machines really are, as far as that was looked up.
    seats: BTreeMap<MachineId, Seat>,
    band: PriorityBand,
    bulk_threshold: usize,
}

/// Where a machine is, by its interfaces as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    /// The private addresses of its interfaces that are behind the NSG; none when no interface is.
    pub addresses: BTreeSet<IpAddr>,
}

impl ObservedNsg {
    /// Reads ARM's document of an NSG. A rule that says something this version does not know is read as the widest
    /// that it could be, so that a closing never waits for a newer version.
    pub fn read(
        point: PointRef,
        raw: Value,
        band: PriorityBand,
        bulk_threshold: usize,
    ) -> Result<Self, EnforceError> {
        let list = |member: &str| -> Result<Vec<ReadRule>, EnforceError> {
            let rules = match raw.get("properties").and_then(|p| p.get(member)) {
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(Value::Array(rules)) => rules,
                Some(_) => {
                    return Err(EnforceError::Malformed(format!(
                        "`{member}` of {point} is no list"
                    )));
                }
            };
            rules
                .iter()
                .map(|rule| {
                    ReadRule::read(rule).ok_or_else(|| {
                        EnforceError::Malformed(format!("a rule in `{member}` of {point} cannot be read"))
                    })
                })
                .collect()
        };
        if !raw.get("properties").is_some_and(Value::is_object) {
            return Err(EnforceError::Malformed(format!(
                "{point} was answered without `properties`"
            )));
        }
        Ok(Self {
            rules: list("securityRules")?,
            defaults: list("defaultSecurityRules")?,
            point,
            raw,
            seats: BTreeMap::new(),
            band,
            bulk_threshold: bulk_threshold.max(2),
        })
    }

    /// Whether somebody's change of the NSG has not ended: what is read is then not yet what filters.
    pub fn in_flux(&self) -> bool {
        self.state() == State::Changing || self.rules.iter().any(|rule| rule.state == State::Changing)
    }

    fn state(&self) -> State {
        State::of(self.raw.get("properties"))
    }

    /// The members whose grants' rules are not all there for the addresses that discovery knows: where they really
    /// are should be looked up before a rule is written.
    pub fn unseated<'d>(&self, desired: &'d Desired) -> Vec<&'d Member> {
        desired
            .members
            .iter()
            .filter(|member| !member.interfaces.is_empty() && !member.grants.is_empty())
            .filter(|member| {
                wanted::allows(&desired.installation, member, &member.addresses)
                    .iter()
                    .flat_map(|(_, rules)| rules)
                    .any(|wanted| self.carrier(wanted).is_none())
            })
            .collect()
    }

    /// Notes where a machine is.
    pub fn seat(&mut self, machine: MachineId, seat: Seat) {
        self.seats.insert(machine, seat);
    }

    /// Ids of the interfaces and subnets that the NSG is attached to, lower case.
    pub fn attachments(&self) -> BTreeSet<String> {
        ["networkInterfaces", "subnets"]
            .iter()
            .filter_map(|member| self.raw.get("properties")?.get(member)?.as_array())
            .flatten()
            .filter_map(|reference| reference.get("id")?.as_str())
            .map(str::to_lowercase)
            .collect()
    }

    /// Our inbound rules, by name in lower case.
    pub(crate) fn own_inbound(&self, installation: &Installation) -> BTreeMap<String, (u16, Access)> {
        self.rules
            .iter()
            .filter(|rule| rule.is_inbound() && rule.role(installation).is_some())
            .map(|rule| {
                (
                    rule.rule.name.to_lowercase(),
                    (rule.rule.priority, rule.rule.access),
                )
            })
            .collect()
    }

    /// The names of all rules, in lower case.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.rules
            .iter()
            .map(|rule| rule.rule.name.to_lowercase())
            .collect()
    }

    /// The rule that holds what the grant's own rule says: that rule, or one that the grant shares.
    fn carrier(&self, piece: &wanted::Wanted) -> Option<&ReadRule> {
        let carries = |rule: &&ReadRule| share::carries(&rule.rule, rule.label.as_ref(), piece);
        self.standing(&piece.name).filter(carries).or_else(|| {
            let grants = piece.label.grants();
            self.rules
                .iter()
                .filter(|rule| {
                    rule.label
                        .as_ref()
                        .is_some_and(|label| label.grants().iter().any(|grant| grants.contains(grant)))
                })
                .find(carries)
        })
    }

    /// The rule of that name, in any case.
    fn standing(&self, name: &str) -> Option<&ReadRule> {
        self.rules
            .iter()
            .find(|rule| rule.rule.name.eq_ignore_ascii_case(name))
    }
}

/// Whether `rules`, as read, are as the write leaves them, as far as it is about them.
pub(crate) fn shows(rules: &[ReadRule], operation: &Operation) -> bool {
    let (remove, put) = operation.parts();
    let named = |name: &str| {
        rules
            .iter()
            .find(|rule| rule.rule.name.eq_ignore_ascii_case(name))
    };
    let comes = |name: &str| put.iter().any(|new| new.name.eq_ignore_ascii_case(name));
    remove.iter().all(|name| comes(name) || named(name).is_none())
        && put.iter().all(|wanted| {
            let document = json!({ "name": wanted.name, "properties": wanted.properties });
            named(&wanted.name).is_some_and(|rule| {
                rule.state == State::Settled
                    && ReadRule::read(&document).is_some_and(|wanted| wanted.rule == rule.rule)
            })
        })
}

/// The inbound rules of an NSG's document without the defaults, in the order in which they are looked at.
fn inbound(document: &Value) -> Option<Vec<NsgRule>> {
    let all = document.pointer("/properties/securityRules")?.as_array()?;
    let mut rules = all
        .iter()
        .map(|raw| ReadRule::read(raw).map(|rule| rule.rule))
        .collect::<Option<Vec<NsgRule>>>()?;
    rules.retain(|rule| rule.direction == Direction::Inbound);
    rules.sort_by_key(|rule| rule.priority);
    Some(rules)
}

impl Observed for ObservedNsg {
    fn plan(&self, desired: &Desired) -> Plan {
        changes::plan(self, desired)
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        evidence::evidence(self, desired)
    }

    fn shows(&self, _before: Option<&Value>, operation: &Value) -> Option<bool> {
        let operation: Operation = serde_json::from_value(operation.clone()).ok()?;
        Some(shows(&self.rules, &operation))
    }

    fn filters(&self, changes: &[Change]) -> Option<Filters> {
        let rules = self.raw.pointer("/properties/securityRules").cloned();
        let before = json!({ "properties": { "securityRules": rules.unwrap_or_else(|| json!([])) } });
        let after = changes.iter().try_fold(before.clone(), |document, change| {
            let operation: Operation = serde_json::from_value(change.operation.clone()).ok()?;
            operation.edit(document)
        });
        Some(Filters::Nsg {
            before: inbound(&before)?,
            after: inbound(&after?)?,
        })
    }

    fn print(&self) -> Option<Print> {
        self.seats.is_empty().then(|| Print::of(&self.raw)).flatten()
    }

    /// A failed operation leaves an NSG that shows rules which are not in force, or no longer shows some that are.
    fn settled(&self) -> bool {
        let state = self
            .raw
            .get("properties")
            .and_then(|properties| properties.get("provisioningState"));
        state
            .and_then(Value::as_str)
            .is_none_or(|state| state == "Succeeded")
    }

    fn snapshot(&self) -> Value {
        let member = |name: &str| self.raw.get(name).cloned().unwrap_or_default();
        let property = |name: &str| {
            self.raw
                .get("properties")
                .and_then(|properties| properties.get(name))
                .cloned()
                .unwrap_or_default()
        };
        json!({
            "id": member("id"),
            "etag": member("etag"),
            "provisioningState": property("provisioningState"),
            "securityRules": property("securityRules"),
        })
    }
}
