//! A firewall's document, or that of our rule collection group of a policy: its rules, and how it is edited.
//!
//! Everything that is not ours stays as it was read, also members that this version knows nothing of.
//!
//! Sources of the shapes: Azure REST reference, Azure Firewalls (`AzureFirewallNatRuleCollection`,
//! `AzureFirewallNetworkRuleCollection`) and Firewall Policy Rule Collection Groups
//! (`FirewallPolicyNatRuleCollection`, `FirewallPolicyFilterRuleCollection`).

use postern_core::firewall::{FirewallRule, RuleCollection};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{action_of, list, number, rule, text};

/// Which of the two documents it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A classic firewall: all its rules, with everything else that it is.
    Classic,
    /// A rule collection group of a policy. `null` while there is none.
    Group,
}

/// What the rules of a collection do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// They translate.
    Nat,
    /// They let pass or drop.
    Network,
}

/// A rule's place. Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The kind of its collection.
    pub kind: Kind,
    /// The collection's name.
    pub collection: String,
    /// The rule's name.
    pub rule: String,
}

/// A collection of ours with rules that come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// What its rules do.
    pub kind: Kind,
    /// Its name.
    pub collection: String,
    /// Its priority.
    pub priority: u16,
    /// The rules that come, or come in place of those of their names, as ARM takes them.
    pub rules: Vec<Value>,
}

/// All that one write changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Of which document.
    pub form: Form,
    /// The group's priority, when it has to be made.
    pub group_priority: Option<u16>,
    /// Rules that go.
    pub remove: Vec<Place>,
    /// Those among them that no grant wants any more: they go also where Azure refuses the rest.
    #[serde(default)]
    pub closes: Vec<Place>,
    /// Collections that come or change.
    pub put: Vec<Put>,
    /// Collections of ours that go when nothing is left in them, by kind and name.
    pub emptied: Vec<(Kind, String)>,
    /// Whether the group stays when nothing is left in it, because it is somebody else's.
    #[serde(default)]
    pub stays: bool,
}

/// A rule as it stands.
#[derive(Debug, Clone)]
pub(super) struct Standing<'d> {
    /// Where.
    pub(super) place: Place,
    /// What it says.
    pub(super) rule: FirewallRule,
    /// ARM's document of it.
    pub(super) raw: &'d Value,
}

/// A collection as it stands.
#[derive(Debug, Clone)]
pub(super) struct Shelf<'d> {
    pub(super) kind: Kind,
    pub(super) name: &'d str,
    pub(super) priority: u16,
    /// Whether its action is the one that ours have.
    pub(super) lets_in: bool,
    pub(super) rules: Vec<Standing<'d>>,
}

const KINDS: [Kind; 2] = [Kind::Nat, Kind::Network];

impl Kind {
    /// The member of a classic firewall that lists its collections.
    const fn member(self) -> &'static str {
        match self {
            Self::Nat => "natRuleCollections",
            Self::Network => "networkRuleCollections",
        }
    }

    /// The action of our collections, and their type and their rules' type in a policy.
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Nat => ["Dnat", "FirewallPolicyNatRuleCollection", "NatRule"],
            Self::Network => ["Allow", "FirewallPolicyFilterRuleCollection", "NetworkRule"],
        }
    }

    /// Whether a policy's collection is of the kind. One without rules is of the kind of its type.
    fn is_of(self, collection: &Value) -> bool {
        let [_, kind, rules] = self.words();
        text(collection, "ruleCollectionType").eq_ignore_ascii_case(kind)
            && list(Some(collection), "rules").all(|rule| text(rule, "ruleType").eq_ignore_ascii_case(rules))
    }
}

impl Form {
    /// The member of a rule that lists its protocols.
    pub(super) const fn protocols(self) -> &'static str {
        match self {
            Self::Classic => "protocols",
            Self::Group => "ipProtocols",
        }
    }

    /// Where a collection's priority, action and rules stand.
    fn inner(self, collection: &Value) -> Option<&Value> {
        match self {
            Self::Classic => collection.get("properties"),
            Self::Group => Some(collection),
        }
    }

    fn inner_mut(self, collection: &mut Value) -> Option<&mut Map<String, Value>> {
        match self {
            Self::Classic => collection.get_mut("properties")?.as_object_mut(),
            Self::Group => collection.as_object_mut(),
        }
    }

    const fn member(self, kind: Kind) -> &'static str {
        match self {
            Self::Classic => kind.member(),
            Self::Group => "ruleCollections",
        }
    }

    /// The collections of NAT and network rules.
    pub(super) fn shelves(self, document: &Value) -> Vec<Shelf<'_>> {
        let nothing = &Value::Null;
        KINDS
            .into_iter()
            .flat_map(|kind| {
                list(document.get("properties"), self.member(kind))
                    .filter(move |collection| self == Self::Classic || kind.is_of(collection))
                    .map(move |collection| {
                        let inner = self.inner(collection).unwrap_or(nothing);
                        let name = text(collection, "name");
                        let does = action_of(inner, kind == Kind::Nat);
                        let [action, ..] = kind.words();
                        let word = inner.pointer("/action/type").and_then(Value::as_str);
                        Shelf {
                            kind,
                            name,
                            priority: number(Some(inner), "priority"),
                            lets_in: word.is_some_and(|word| word.eq_ignore_ascii_case(action)),
                            rules: list(Some(inner), "rules")
                                .map(|raw| Standing {
                                    place: Place {
                                        kind,
                                        collection: name.to_owned(),
                                        rule: text(raw, "name").to_owned(),
                                    },
                                    rule: rule(raw, &does, self.protocols()),
                                    raw,
                                })
                                .collect(),
                        }
                    })
            })
            .collect()
    }

    /// What decides about packets in the document.
    pub(super) fn collections(self, document: &Value) -> Vec<RuleCollection> {
        let group_priority = match self {
            Self::Classic => 0,
            Self::Group => number(document.get("properties"), "priority"),
        };
        self.shelves(document)
            .into_iter()
            .map(|shelf| RuleCollection {
                name: shelf.name.to_owned(),
                inherited: 0,
                group_priority,
                priority: shelf.priority,
                rules: shelf.rules.into_iter().map(|standing| standing.rule).collect(),
            })
            .collect()
    }

    /// A new collection without rules.
    fn collection(self, put: &Put) -> Value {
        let [action, kind, _] = put.kind.words();
        let head = json!({ "priority": put.priority, "action": { "type": action }, "rules": [] });
        match self {
            Self::Classic => json!({ "name": put.collection, "properties": head }),
            Self::Group => {
                let mut collection = head;
                if let Some(members) = collection.as_object_mut() {
                    members.insert("name".to_owned(), json!(put.collection));
                    members.insert("ruleCollectionType".to_owned(), json!(kind));
                }
                collection
            }
        }
    }

    /// What the journal keeps of the document: the rules.
    pub(super) fn shown(self, document: &Value) -> Value {
        let member = |name: &str| document.get(name).cloned().unwrap_or_default();
        let property = |name: &str| {
            document
                .get("properties")
                .map_or(Value::Null, |of| of.get(name).cloned().unwrap_or_default())
        };
        match self {
            _ if document.is_null() => Value::Null,
            Self::Classic => json!({
                "etag": member("etag"),
                "natRuleCollections": property("natRuleCollections"),
                "networkRuleCollections": property("networkRuleCollections"),
            }),
            Self::Group => json!({
                "etag": member("etag"),
                "priority": property("priority"),
                "ruleCollections": property("ruleCollections"),
            }),
        }
    }

    /// Writes what makes a rule of a policy one of its kind.
    pub(super) fn finish(self, kind: Kind, rule: &mut Map<String, Value>) {
        if self == Self::Group {
            let [_, _, rule_type] = kind.words();
            rule.insert("ruleType".to_owned(), json!(rule_type));
        }
    }
}

fn is_named(value: &Value, name: &str) -> bool {
    text(value, "name").eq_ignore_ascii_case(name)
}

impl Edit {
    /// What of the edit closes, where that is not all of it.
    pub fn closing(&self) -> Option<Self> {
        let only_closes = self.put.iter().all(|put| put.rules.is_empty()) && self.remove == self.closes;
        (!self.closes.is_empty() && !only_closes).then(|| Self {
            form: self.form,
            group_priority: None,
            remove: self.closes.clone(),
            closes: self.closes.clone(),
            put: Vec::new(),
            emptied: self.emptied.clone(),
            stays: self.stays,
        })
    }

    /// What the document becomes; `null` for a group that nothing is left of. None when it is no such document, or is
    /// not there where only its owner can make it.
    pub fn apply(&self, document: Value) -> Option<Value> {
        let mut document = document;
        if self.form == Form::Group && document.is_null() {
            let Some(priority) = self.group_priority else {
                // Nothing is there that could be edited: as it shall be, if something goes.
                return self.put.is_empty().then_some(Value::Null);
            };
            document = json!({ "properties": { "priority": priority, "ruleCollections": [] } });
        }
        let properties = document.get_mut("properties")?.as_object_mut()?;
        for kind in KINDS {
            let wanted = self.put.iter().any(|put| put.kind == kind);
            let member = self.form.member(kind);
            if !wanted && !properties.get(member).is_some_and(Value::is_array) {
                continue;
            }
            let collections = properties.entry(member).or_insert_with(|| json!([]));
            if collections.is_null() {
                *collections = json!([]);
            }
            self.edit_kind(kind, collections.as_array_mut()?)?;
        }
        let left = |member: &str| list(document.get("properties"), member).next().is_some();
        let goes = self.form == Form::Group && !self.emptied.is_empty() && !self.stays;
        let gone = goes && !left("ruleCollections");
        Some(if gone { Value::Null } else { document })
    }

    fn edit_kind(&self, kind: Kind, collections: &mut Vec<Value>) -> Option<()> {
        let form = self.form;
        let of_kind = |collection: &Value| form == Form::Classic || kind.is_of(collection);
        for collection in collections.iter_mut().filter(|collection| of_kind(collection)) {
            let name = text(collection, "name").to_owned();
            let goes = |rule: &Value| {
                self.remove.iter().any(|place| {
                    place.kind == kind
                        && place.collection.eq_ignore_ascii_case(&name)
                        && is_named(rule, &place.rule)
                })
            };
            let rules = form
                .inner_mut(collection)
                .and_then(|inner| inner.get_mut("rules"))
                .and_then(Value::as_array_mut);
            if let Some(rules) = rules {
                rules.retain(|rule| !goes(rule));
            }
        }
        for put in self.put.iter().filter(|put| put.kind == kind) {
            let standing = |collection: &Value| of_kind(collection) && is_named(collection, &put.collection);
            let found = collections.iter().position(standing);
            let at = found.unwrap_or(collections.len());
            if found.is_none() {
                collections.push(form.collection(put));
            }
            let inner = form.inner_mut(collections.get_mut(at)?)?;
            let [action, ..] = kind.words();
            inner.insert("priority".to_owned(), json!(put.priority));
            inner.insert("action".to_owned(), json!({ "type": action }));
            let rules = inner.entry("rules").or_insert_with(|| json!([]));
            if rules.is_null() {
                *rules = json!([]);
            }
            let rules = rules.as_array_mut()?;
            for new in &put.rules {
                match rules.iter_mut().find(|rule| is_named(rule, text(new, "name"))) {
                    Some(rule) => *rule = new.clone(),
                    None => rules.push(new.clone()),
                }
            }
        }
        collections.retain(|collection| {
            let empty = list(form.inner(collection), "rules").next().is_none();
            let ours = self
                .emptied
                .iter()
                .any(|(own, name)| *own == kind && is_named(collection, name));
            !(empty && ours && of_kind(collection))
        });
        Some(())
    }
}
