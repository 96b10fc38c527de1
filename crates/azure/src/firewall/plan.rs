//! Every choice about a firewall, pure: what one write of its document changes, and what stands of each grant.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use postern_core::{
    approach::Front,
    enforcer::{Change, EnforceError, Evidence, Finding, Plan, Verb},
    firewall::{Firewall, RuleCollection},
    id::GrantId,
    mark::Installation,
    net::{Ports, Source},
    reach::Verdict,
    time::Instant,
};
use serde_json::{Value, json};

pub use postern_core::approach::Way;

use super::{
    capacity::public_addresses,
    copies::Above,
    document::{Edit, Form, Kind, Place, Put, Shelf},
    hidden::Hiding,
    layout::{Layout, Piece, Role, collection_name, layout, role},
    number, text,
};

/// The numbers that ours may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bands {
    /// Priorities of our collections, and of our group: 100 to 65000, the lowest free one is taken.
    pub collections: RangeInclusive<u16>,
    /// Mapped ports of new doors.
    pub ports: RangeInclusive<u16>,
}

impl Default for Bands {
    /// 100 to 999, so that ours are asked first; 50000 to 59999.
    fn default() -> Self {
        Self {
            collections: 100..=999,
            ports: 50000..=59999,
        }
    }
}

/// What one grant wants of the firewall for one address of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The grant.
    pub grant: GrantId,
    /// Its latest end, for the mark.
    pub not_after: Instant,
    /// The clients, as the firewall sees them.
    pub sources: Vec<Source>,
    /// The machine's private address.
    pub machine: IpAddr,
    /// The machine's ports.
    pub ports: Ports,
    /// How packets get there.
    pub way: Way,
    /// Addresses of the machine's other interfaces behind the firewall: the NSGs there open to its subnet too.
    pub beside: Vec<IpAddr>,
    /// Where load balancers lead on to the machine.
    pub fronts: Vec<Front>,
    /// Load balancers that lead on to it and could not be read.
    pub unread: Vec<String>,
    /// Whether the grant was not confirmed as open yet.
    pub opening: bool,
}

/// What is wanted of a firewall. The whole of it: a rule of ours that does not follow from this is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose rules these are.
    pub installation: Installation,
    /// What its grants want.
    pub passages: Vec<Passage>,
    /// Whether a change waits to be confirmed: a document that failed to come into force is then written again.
    pub unsettled: bool,
}

/// Where clients of a grant connect to: what the requester is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The grant.
    pub grant: GrantId,
    /// The machine's port.
    pub port: Ports,
    /// The firewall's address.
    pub address: IpAddr,
    /// The mapped port there.
    pub mapped_port: u16,
}

/// A firewall, or our group of its policy, as it was read.
#[derive(Debug, Clone)]
pub struct ObservedFirewall {
    pub(super) form: Form,
    pub(super) document: Value,
    resource: String,
    /// Without the collections of the document.
    edge: Firewall,
    /// Those of a policy's other groups.
    pub(super) group_priorities: BTreeSet<u16>,
    pub(super) bands: Bands,
    pub(super) hiding: Hiding,
    /// The policy's other groups, where the document is one.
    pub(super) beside: Vec<Value>,
    /// The groups that the policy inherits.
    pub(super) above: Vec<Above>,
    /// How many public addresses the firewall has; of several with a policy, the one that has the most.
    pub(super) public_addresses: usize,
    /// Whether some firewall that has the policy could not be read.
    pub(super) partly_read: bool,
    /// Whether what carries the document, a policy and its firewall, has taken all changes.
    around_settled: bool,
    around_in_flux: bool,
}

impl ObservedFirewall {
    /// A classic firewall's document. `public` and `inside` as for [`super::firewall`].
    ///
    /// # Errors
    /// [`EnforceError::Malformed`] when the document has no id or no `properties`, or a policy, which has its rules.
    pub fn classic(
        document: Value,
        public: Vec<IpAddr>,
        inside: Vec<ipnet::IpNet>,
        bands: Bands,
    ) -> Result<Self, EnforceError> {
        let mut edge = super::firewall(&document, public, inside)?;
        edge.collections.clear();
        let malformed = |what: &str| EnforceError::Malformed(format!("`{}` {what}", edge.id));
        if !document.get("properties").is_some_and(Value::is_object) {
            return Err(malformed("was answered without `properties`"));
        }
        if document.pointer("/properties/firewallPolicy/id").is_some() {
            return Err(malformed("has a policy, and no rules of its own"));
        }
        Ok(Self {
            form: Form::Classic,
            hiding: Hiding::of_firewall(&document),
            beside: Vec::new(),
            above: Vec::new(),
            public_addresses: public_addresses(&document),
            partly_read: false,
            document,
            resource: edge.id.clone(),
            edge,
            group_priorities: BTreeSet::new(),
            bands,
            around_settled: true,
            around_in_flux: false,
        })
    }

    /// Our group of a policy, `null` while there is none, among the policy's groups and those that it inherits, the
    /// nearest parent's first. `edge` is a firewall that has the policy, `resource` the id of our group; `around` are
    /// the documents of the policy, which comes first, of its parents and of the firewall: a group that is being deleted is shown no more, and they tell.
    pub fn group(
        resource: &str,
        edge: &Firewall,
        levels: &[Vec<Value>],
        around: &[&Value],
        bands: Bands,
    ) -> Self {
        let name = resource.rsplit('/').next().unwrap_or_default();
        let mut document = Value::Null;
        let mut edge = Firewall {
            collections: Vec::new(),
            ..edge.clone()
        };
        let (mut group_priorities, mut beside, mut above) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (inherited, (at, groups)) in (0_u8..).zip(levels.iter().enumerate()) {
            let policy = around.get(at).and_then(|policy| policy.get("properties"));
            let has_firewalls = super::list(policy, "firewalls").next().is_some();
            for group in groups {
                if inherited == 0 && text(group, "name").eq_ignore_ascii_case(name) {
                    document = group.clone();
                    continue;
                }
                if inherited == 0 {
                    group_priorities.insert(number(group.get("properties"), "priority"));
                    beside.push(group.clone());
                } else {
                    above.push(Above {
                        is_own: has_firewalls && text(group, "name").eq_ignore_ascii_case(name),
                        group: group.clone(),
                    });
                }
                edge.collections.extend(super::group(group, inherited));
            }
        }
        Self {
            form: Form::Group,
            hiding: Hiding::of_policy(around, levels),
            beside,
            above,
            public_addresses: around.iter().map(|one| public_addresses(one)).max().unwrap_or(0),
            partly_read: false,
            document,
            resource: resource.to_lowercase(),
            edge,
            group_priorities,
            bands,
            around_settled: around.iter().all(|document| has_settled(document)),
            around_in_flux: !around.iter().all(|document| is_at_rest(document)),
        }
    }

    /// The firewall with all that decides about packets, but for our rules.
    pub(super) fn foreign(&self, installation: &Installation) -> Firewall {
        let group_priority = number(self.document.get("properties"), "priority");
        let shelves = self.form.shelves(&self.document);
        let standing = shelves.into_iter().map(|shelf| RuleCollection {
            name: shelf.name.to_owned(),
            inherited: 0,
            group_priority: if self.form == Form::Group {
                group_priority
            } else {
                0
            },
            priority: shelf.priority,
            rules: shelf
                .rules
                .into_iter()
                .filter(|standing| role(installation, standing).is_none())
                .map(|standing| standing.rule)
                .collect(),
        });
        let mut edge = self.edge.clone();
        edge.collections.extend(standing);
        edge
    }

    /// The firewall with all that decides about packets.
    pub fn whole(&self) -> Firewall {
        let mut edge = self.edge.clone();
        edge.collections.extend(self.form.collections(&self.document));
        edge
    }

    /// Whether what was read is in force: while a firewall is `Updating`, and after it `Failed`, nothing is confirmed.
    pub fn settled(&self) -> bool {
        has_settled(&self.document) && self.around_settled
    }

    /// Whether a change is being carried out: what is read is then not yet what filters, and no other is taken.
    pub(super) fn in_flux(&self) -> bool {
        !is_at_rest(&self.document) || self.around_in_flux
    }

    /// The rules as read, for the journal.
    pub(super) fn shown(&self) -> Value {
        self.form.shown(&self.document)
    }

    /// Where the clients of each grant connect to that comes in through a mapped port, in order.
    pub fn entries(&self, wanted: &Wanted) -> Vec<Entry> {
        let shelves = self.form.shelves(&self.document);
        let mut entries: Vec<Entry> = layout(self, wanted, &shelves)
            .pieces
            .iter()
            .filter_map(|piece| {
                let (target, mapped_port) = piece.door?;
                Some(Entry {
                    grant: piece.grant,
                    port: piece.ports,
                    address: target.address,
                    mapped_port,
                })
            })
            .collect();
        entries.sort();
        entries
    }

    /// What to write: at most one change, of the whole document.
    pub fn plan(&self, wanted: &Wanted) -> Plan {
        let shelves = self.form.shelves(&self.document);
        let Layout {
            pieces,
            priorities,
            group_priority,
            obstacles,
            findings: mut noticed,
        } = layout(self, wanted, &shelves);
        let installation = &wanted.installation;
        let (mut coming, mut findings) = (Vec::new(), Vec::new());
        for piece in &pieces {
            let found = standing(&shelves, installation, piece);
            let Some((collection, rule)) = found else {
                coming.push((piece, Verb::Open));
                continue;
            };
            if piece.is(installation, self.form, &rule.rule) {
                if !(collection.lets_in && priorities.get(&piece.kind) == Some(&collection.priority)) {
                    coming.push((piece, Verb::Repair));
                }
                continue;
            }
            coming.push((piece, Verb::Repair));
            // The same grant with the same end, and yet not the same rule.
            let mark = piece.mark(installation).to_string();
            if rule.rule.description.as_deref() == Some(mark.as_str()) || rule.rule.description.is_none() {
                findings.push(Finding {
                    code: "own_rule_edited".to_owned(),
                    message: format!("`{}/{}` is not as we wrote it", collection.name, piece.name),
                    before: Some(piece.document(installation, self.form)),
                    after: Some(rule.raw.clone()),
                    grants: vec![piece.grant],
                });
            }
        }
        let going: Vec<(Place, Role)> = shelves
            .iter()
            .flat_map(|shelf| &shelf.rules)
            .filter_map(|standing| {
                let role = role(installation, standing)?;
                (!pieces
                    .iter()
                    .any(|piece| is_at(piece, installation, &standing.place)))
                .then(|| (standing.place.clone(), role))
            })
            .collect();
        noticed.extend(findings);
        let mut plan = Plan {
            obstacles,
            findings: noticed,
            ..Plan::default()
        };
        let rewrite = has_failed(&self.document) && (wanted.unsettled || !pieces.is_empty());
        let tidies = self.holds_nothing(installation, &shelves);
        if coming.is_empty() && going.is_empty() && !rewrite && !tidies {
            plan.changes = self.close_copies(installation, wanted.unsettled);
            return plan;
        }
        let put = priorities
            .into_iter()
            .map(|(kind, priority)| Put {
                kind,
                collection: collection_name(installation, kind),
                priority,
                rules: coming
                    .iter()
                    .filter(|(piece, _)| piece.kind == kind)
                    .map(|(piece, _)| piece.document(installation, self.form))
                    .collect(),
            })
            .collect();
        let edit = Edit {
            form: self.form,
            group_priority,
            remove: going.iter().map(|(place, _)| place.clone()).collect(),
            closes: going
                .iter()
                .filter(|(_, role)| !stays(&pieces, *role))
                .map(|(place, _)| place.clone())
                .collect(),
            put,
            emptied: [Kind::Nat, Kind::Network]
                .into_iter()
                .map(|kind| (kind, collection_name(installation, kind)))
                .collect(),
            stays: false,
        };
        plan.changes
            .push(self.change(&pieces, &coming, &going, &edit, wanted.unsettled));
        plan.changes
            .extend(self.close_copies(installation, wanted.unsettled));
        plan
    }

    /// Whether a collection of ours stands, or our group, that nothing is left in: somebody took the rules out and left
    /// what held them. Every write takes such away; this says that one is needed for it.
    fn holds_nothing(&self, installation: &Installation, shelves: &[Shelf<'_>]) -> bool {
        let ours = |shelf: &&Shelf<'_>| {
            shelf
                .name
                .eq_ignore_ascii_case(&collection_name(installation, shelf.kind))
        };
        let group = self.form == Form::Group
            && !self.document.is_null()
            && super::list(self.document.get("properties"), "ruleCollections")
                .next()
                .is_none();
        group || shelves.iter().filter(ours).any(|shelf| shelf.rules.is_empty())
    }

    fn change(
        &self,
        pieces: &[Piece],
        coming: &[(&Piece, Verb)],
        going: &[(Place, Role)],
        edit: &Edit,
        unsettled: bool,
    ) -> Change {
        // What is written again may be what closed something.
        let again = going.is_empty() && coming.is_empty();
        let closes = going.iter().any(|(_, role)| !stays(pieces, *role)) || (again && unsettled);
        let opens = coming.iter().any(|(_, verb)| *verb == Verb::Open);
        let grants: BTreeSet<GrantId> = going
            .iter()
            .filter_map(|(_, role)| role.grant())
            .chain(coming.iter().map(|(piece, _)| piece.grant))
            .collect();
        let summary = match (going, coming) {
            ([], []) if has_settled(&self.document) => "remove what nothing is left in".to_owned(),
            ([], []) => "write again what did not come into force".to_owned(),
            ([], [(piece, _)]) => format!("let in {}", piece.summary()),
            ([(place, _)], []) => format!("delete `{}/{}`", place.collection, place.rule),
            _ => format!("write {} rules and delete {}, at once", coming.len(), going.len()),
        };
        let after = edit
            .apply(self.document.clone())
            .map(|after| self.form.shown(&after));
        Change {
            verb: match (closes, opens) {
                (true, _) => Verb::Close,
                (false, true) => Verb::Open,
                (false, false) => Verb::Repair,
            },
            target: self.resource.clone(),
            summary,
            grants: grants.into_iter().collect(),
            policies: Vec::new(),
            before: Some(self.form.shown(&self.document)),
            after,
            operation: json!(edit),
            displaces: Vec::new(),
        }
    }

    /// What stands of each grant, as [`postern_core::enforcer::Observed::evidence`] says.
    pub fn evidence(&self, wanted: &Wanted) -> BTreeMap<GrantId, Evidence> {
        let shelves = self.form.shelves(&self.document);
        let installation = &wanted.installation;
        let layout = layout(self, wanted, &shelves);
        let mut found: BTreeMap<GrantId, Vec<Value>> = BTreeMap::new();
        for rule in shelves.iter().flat_map(|shelf| &shelf.rules) {
            if let Some(Role::Grant(grant)) = role(installation, rule) {
                found.entry(grant).or_default().push(rule.raw.clone());
            }
        }
        let copies = self.copies(installation);
        for (_, role, raw) in copies.iter().flat_map(|(_, rules)| rules) {
            if let Some(grant) = role.grant() {
                found.entry(grant).or_default().push(raw.clone());
            }
        }
        let whole = self.whole();
        found
            .into_iter()
            .map(|(grant, rules)| {
                let own: Vec<&Piece> = layout
                    .pieces
                    .iter()
                    .filter(|piece| piece.grant == grant)
                    .collect();
                let stands = |piece: &&Piece| {
                    standing(&shelves, installation, piece).is_some_and(|(shelf, rule)| {
                        piece.is(installation, self.form, &rule.rule)
                            && shelf.lets_in
                            && layout.priorities.get(&piece.kind) == Some(&shelf.priority)
                    })
                };
                // While copies of ours stand elsewhere, others may come in by them.
                let complete =
                    !own.is_empty() && self.settled() && copies.is_empty() && own.iter().all(stands);
                let blocked_by = own
                    .iter()
                    .filter(|_| complete)
                    .find_map(|piece| blocked(&whole, piece));
                let evidence = Evidence {
                    complete: complete && blocked_by.is_none(),
                    rules: Value::Array(rules),
                    blocked_by,
                };
                (grant, evidence)
            })
            .collect()
    }
}

/// Whether the grant that a rule is for has others that are to stand.
fn stays(pieces: &[Piece], role: Role) -> bool {
    role.grant()
        .is_some_and(|grant| pieces.iter().any(|piece| piece.grant == grant))
}

fn state(document: &Value) -> Option<&str> {
    document.pointer("/properties/provisioningState")?.as_str()
}

/// Whether the last write of the document was taken and not carried out.
pub(super) fn has_failed(document: &Value) -> bool {
    matches!(state(document), Some("Failed" | "Canceled"))
}

/// Whether what the document shows is in force; one that says nothing of it has nothing under way.
pub(super) fn has_settled(document: &Value) -> bool {
    state(document).is_none_or(|state| state == "Succeeded")
}

/// Whether nothing is under way, be what is shown in force or not.
fn is_at_rest(document: &Value) -> bool {
    matches!(state(document), None | Some("Succeeded" | "Failed" | "Canceled"))
}

/// The rule that drops, for certain, routed packets that ours would let pass.
fn blocked(whole: &Firewall, piece: &Piece) -> Option<String> {
    if piece.kind == Kind::Nat {
        return None;
    }
    let machine = piece.machine();
    piece.sources().find_map(|source| {
        let (verdict, rules) = whole.passes(source, machine, piece.ports);
        let own = |name: &str| name.ends_with(&format!("/{}", piece.name));
        (verdict == Verdict::Denied)
            .then(|| {
                rules
                    .iter()
                    .find(|rule| !own(&rule.rule))
                    .map(ToString::to_string)
            })
            .flatten()
    })
}

fn is_at(piece: &Piece, installation: &Installation, place: &Place) -> bool {
    place.kind == piece.kind
        && place.rule.eq_ignore_ascii_case(&piece.name)
        && place
            .collection
            .eq_ignore_ascii_case(&collection_name(installation, piece.kind))
}

/// The rule at the piece's place.
fn standing<'s, 'd>(
    shelves: &'s [Shelf<'d>],
    installation: &Installation,
    piece: &Piece,
) -> Option<(&'s Shelf<'d>, &'s super::document::Standing<'d>)> {
    shelves.iter().find_map(|shelf| {
        let rule = shelf
            .rules
            .iter()
            .find(|rule| is_at(piece, installation, &rule.place))?;
        Some((shelf, rule))
    })
}
