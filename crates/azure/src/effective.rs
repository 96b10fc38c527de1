//! What filters at an interface, as Azure says, besides what an NSG's document says.
//!
//! Between a write of an NSG that succeeded and the interface that filters by it there is more of Azure. Where it is
//! configured, and allowed, a reading therefore asks the interfaces for their effective security groups, and nothing is
//! confirmed, open or closed, before they agree with the document about our rules.
//!
//! Source: Azure REST reference, Network Interfaces, "List Effective Network Security Groups": a POST that answers 202
//! and `Location`, and the groups there; only for an interface of a running machine ("Diagnose a virtual machine network
//! traffic filter problem").

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt, stream};
use postern_core::{
    enforcer::{Desired, EnforceError, Evidence, Observed, Plan},
    id::GrantId,
    mark::Installation,
    nsg::Access,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    arm::{Arm, ArmId},
    config::AzureConfig,
    observe::{self, NETWORK_VERSION},
    plan::ObservedNsg,
};

pub(crate) const READ_EFFECTIVE: &str =
    "Microsoft.Network/networkInterfaces/effectiveNetworkSecurityGroups/action";

/// How many interfaces are asked at one look, those of machines with grants first. Each takes Azure seconds.
const MOST: usize = 8;

/// The subscriptions in which we may not ask. Remembered until the next start.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<BTreeSet<String>>);

impl Refused {
    fn contains(&self, subscription: &str) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.contains(subscription)
    }

    /// Notes it; whether it is news.
    fn note(&self, subscription: &str) -> bool {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(subscription.to_owned())
    }
}

/// A rule of ours, as far as the effective rules tell of it: names in lower case.
pub(crate) type OwnRules = BTreeMap<String, (u16, Access)>;

/// What an interface says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Says {
    /// That our rules are in force as the NSG shows them, and no others.
    InForce,
    /// What is otherwise.
    NotYet(String),
    /// Why it was not asked, or did not say: then the NSG's document has to do.
    Unread(String),
}

impl Says {
    fn text(&self) -> String {
        match self {
            Self::InForce => "in force".to_owned(),
            Self::NotYet(what) => format!("not yet in force: {what}"),
            Self::Unread(why) => format!("not asked or not said: {why}"),
        }
    }
}

/// An NSG with what its interfaces say of it.
#[derive(Debug)]
struct InForce {
    nsg: ObservedNsg,
    interfaces: BTreeMap<String, Says>,
}

impl InForce {
    fn told(&self) -> Value {
        let told: BTreeMap<&str, String> = self
            .interfaces
            .iter()
            .map(|(interface, says)| (interface.as_str(), says.text()))
            .collect();
        json!(told)
    }
}

impl Observed for InForce {
    fn plan(&self, desired: &Desired) -> Plan {
        self.nsg.plan(desired)
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let mut evidence = self.nsg.evidence(desired);
        for of_grant in evidence.values_mut() {
            if let Value::Array(rules) = &mut of_grant.rules {
                rules.push(json!({ "effective": self.told() }));
            }
        }
        evidence
    }

    fn shows(&self, before: Option<&Value>, operation: &Value) -> Option<bool> {
        self.nsg.shows(before, operation)
    }

    fn snapshot(&self) -> Value {
        let mut snapshot = self.nsg.snapshot();
        if let Some(members) = snapshot.as_object_mut() {
            members.insert("effective".to_owned(), self.told());
        }
        snapshot
    }

    fn settled(&self) -> bool {
        let all_agree = self
            .interfaces
            .values()
            .all(|says| !matches!(says, Says::NotYet(_)));
        self.nsg.settled() && all_agree
    }
}

/// Reads the NSG, and its interfaces where that is configured and something waits to be confirmed.
pub(crate) async fn observe(
    arm: &Arm,
    config: &AzureConfig,
    desired: &Desired,
    refused: &Refused,
) -> Result<Box<dyn Observed>, EnforceError> {
    let nsg = observe::observe(arm, config, desired).await?;
    let asked = to_ask(desired);
    if !config.effective_rules || asked.is_empty() || !nsg.settled() {
        return Ok(Box::new(nsg));
    }
    let id = observe::nsg_id(&desired.point)?;
    // Owned, so that the futures borrow nothing that would tie them to one lifetime.
    let questions: Vec<_> = asked
        .into_iter()
        .map(|interface| ask(arm, config, refused, interface))
        .collect();
    let answers: Vec<(String, Result<Value, String>)> =
        stream::iter(questions).buffer_unordered(MOST).collect().await;
    let own = nsg.own_inbound(&desired.installation);
    let all = nsg.names();
    let interfaces = answers
        .into_iter()
        .map(|(interface, answer)| {
            let says = match answer {
                Ok(answer) => compare(&id.to_string(), &desired.installation, &own, &all, answer),
                Err(why) => Says::Unread(why),
            };
            (interface, says)
        })
        .collect();
    Ok(Box::new(InForce { nsg, interfaces }))
}

/// The interfaces to ask: those of machines with grants, and where something waits to be confirmed as closed, any.
fn to_ask(desired: &Desired) -> Vec<String> {
    let of = |with_grants: bool| {
        desired
            .members
            .iter()
            .filter(move |member| member.grants.is_empty() != with_grants)
            .flat_map(|member| member.interfaces.iter().cloned())
    };
    let others = desired.unsettled.then(|| of(false)).into_iter().flatten();
    of(true).chain(others).take(MOST).collect()
}

async fn ask(
    arm: &Arm,
    config: &AzureConfig,
    refused: &Refused,
    interface: String,
) -> (String, Result<Value, String>) {
    let answer = match ArmId::parse(&interface) {
        Err(error) => Err(error.to_string()),
        Ok(id) if refused.contains(id.subscription()) => Err(format!("not allowed to {READ_EFFECTIVE}")),
        Ok(id) => {
            let question = arm.result_of(
                &id,
                "effectiveNetworkSecurityGroups",
                NETWORK_VERSION,
                READ_EFFECTIVE,
            );
            match timeout(config.settle_timeout, question).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => {
                    if matches!(error, EnforceError::Forbidden { .. }) && refused.note(id.subscription()) {
                        tracing::warn!(
                            subscription = id.subscription(),
                            %error,
                            "effective rules are not read; what NSGs show has to do"
                        );
                    }
                    Err(error.to_string())
                }
                Err(_) => Err(format!(
                    "no answer within {} s",
                    config.settle_timeout.as_secs_f32()
                )),
            }
        }
    };
    (interface, answer)
}

/// Azure REST reference, Network Interfaces, `EffectiveNetworkSecurityGroupListResult`.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    value: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    network_security_group: Option<observe::Reference>,
    #[serde(default)]
    effective_security_rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    /// `securityRules/<name>`.
    #[serde(default)]
    name: String,
    priority: Option<u16>,
    access: Option<Access>,
    #[serde(default)]
    direction: String,
}

/// Whether the NSG's document and the interface tell the same of our rules. `own` are ours in the document, `all` the
/// names of every rule in it.
fn compare(
    nsg: &str,
    installation: &Installation,
    own: &OwnRules,
    all: &BTreeSet<String>,
    answer: Value,
) -> Says {
    let answer: Answer = match serde_json::from_value(answer) {
        Ok(answer) => answer,
        Err(error) => return Says::Unread(format!("the answer cannot be read: {error}")),
    };
    let is_this = |group: &&Group| {
        let id = group
            .network_security_group
            .as_ref()
            .map(|reference| &reference.id);
        id.is_some_and(|id| id.eq_ignore_ascii_case(nsg))
    };
    let mut groups = answer.value.iter().filter(is_this).peekable();
    if groups.peek().is_none() {
        return Says::Unread("it does not tell of this NSG".to_owned());
    }
    let prefixes = ["allow", "deny"].map(|word| format!("postern-{installation}-{word}-"));
    // The same NSG may be there by the subnet and by the interface.
    for group in groups {
        let standing: OwnRules = group
            .effective_security_rules
            .iter()
            .filter(|rule| rule.direction.eq_ignore_ascii_case("Inbound"))
            .filter_map(|rule| {
                let name = rule.name.rsplit('/').next()?.to_lowercase();
                Some((name, (rule.priority?, rule.access?)))
            })
            .collect();
        for (name, rule) in own {
            if standing.get(name) != Some(rule) {
                return Says::NotYet(format!("`{name}` is not as the NSG shows it"));
            }
        }
        let left = standing
            .keys()
            .find(|name| !all.contains(*name) && prefixes.iter().any(|prefix| name.starts_with(prefix)));
        if let Some(name) = left {
            return Says::NotYet(format!("`{name}` is not in the NSG any more"));
        }
    }
    Says::InForce
}

#[cfg(test)]
mod tests {
    use super::*;

    const NSG: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n";

    fn answer(rules: &[(&str, u16, &str)]) -> Value {
        let rules: Vec<Value> = rules
            .iter()
            .map(|(name, priority, access)| {
                json!({
                    "name": format!("securityRules/{name}"), "priority": priority, "access": access,
                    "direction": "Inbound",
                })
            })
            .collect();
        json!({ "value": [
            { "networkSecurityGroup": { "id": NSG.to_uppercase() }, "effectiveSecurityRules": rules },
            { "networkSecurityGroup": { "id": "/another" }, "effectiveSecurityRules": [] },
        ] })
    }

    fn says(answer: Value) -> Says {
        let own: OwnRules = [("postern-i-allow-1".to_owned(), (200, Access::Allow))].into();
        let all = ["postern-i-allow-1".to_owned(), "ssh".to_owned()].into();
        compare(NSG, &"i".parse().unwrap(), &own, &all, answer)
    }

    #[test]
    fn an_interface_agrees_only_where_each_of_our_rules_stands_as_it_should_and_no_other() {
        let ours = ("Postern-I-Allow-1", 200, "Allow");
        let agreed = says(answer(&[ours, ("ssh", 300, "Allow")]));
        assert_eq!(agreed, Says::InForce);
        for rules in [
            vec![],
            vec![("postern-i-allow-1", 201, "Allow")],
            vec![("postern-i-allow-1", 200, "Deny")],
            vec![ours, ("postern-i-allow-2", 210, "Allow")],
            vec![ours, ("postern-i-deny-3-tcp", 210, "Deny")],
        ] {
            let told = says(answer(&rules));
            assert!(matches!(told, Says::NotYet(_)), "{rules:?}: {told:?}");
        }
        // Others' names are none of our business, however they begin.
        for other in ["postern-other-allow-2", "ssh-new"] {
            assert_eq!(says(answer(&[ours, (other, 210, "Allow")])), Says::InForce);
        }
    }

    #[test]
    fn an_answer_that_does_not_tell_of_the_nsg_proves_nothing() {
        for told in [
            json!({ "value": [] }),
            json!({}),
            json!([]),
            json!({ "value": 1 }),
        ] {
            assert!(matches!(says(told), Says::Unread(_)));
        }
    }
}
