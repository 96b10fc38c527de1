//! Edits at the firewall: of others' rules, of ours, and of the routes that lead to it.
//!
//! Each reads a document and puts it back changed, as whoever uses the portal does. What the simulator refuses of it,
//! because a write of the firewall is under way, is no edit, and the twin does not get it either.

use anyhow::Context as _;
use postern_sim::arm::Fleet;
use serde_json::{Value, json};

use super::nth;
use crate::{
    clouds::Clouds,
    gate::{self, Gate, Shelf, is_marked},
    script::{Copying, FirewallEdit},
};

/// Makes the edit; says what came of it.
pub(super) fn make(
    edit: &FirewallEdit,
    gate: Option<&Gate>,
    real: &Clouds,
    twin: &Clouds,
) -> anyhow::Result<String> {
    let gate = gate.context("no firewall")?;
    let machines = &real.built.addresses;
    match edit {
        FirewallEdit::AddCollection(collection) => theirs(gate, real, twin, |shelves| {
            shelves.push(Shelf::of(collection, gate, machines));
            Ok(format!("collection {} added", collection.name))
        }),
        FirewallEdit::Add(number, rule) => theirs(gate, real, twin, |shelves| {
            let shelf = foreign(shelves, *number)?;
            let written = shelf.rule(rule, gate, machines).context("no machine")?;
            shelf.rules_mut()?.push(written);
            Ok(format!("{} added to {}", rule.name, shelf.name))
        }),
        FirewallEdit::Delete(number, rule) => theirs(gate, real, twin, |shelves| {
            let shelf = foreign(shelves, *number)?;
            let rules = shelf.rules_mut()?;
            let foreign = |at: &usize| !rules.get(*at).is_some_and(is_marked);
            let places: Vec<usize> = (0..rules.len()).filter(foreign).collect();
            let place = *nth(&places, *rule).context("no rule")?;
            // A collection in which nothing but a copy of ours is left would go with it.
            let alone = places.len() == 1 && rules.len() > 1;
            anyhow::ensure!(!alone, "the last one beside a copy of ours stays");
            let gone = rules.remove(place);
            Ok(format!("{} deleted from {}", name(&gone), shelf.name))
        }),
        FirewallEdit::DeleteCollection(number) => theirs(gate, real, twin, |shelves| {
            let gone = foreign(shelves, *number)?.name.clone();
            shelves.retain(|shelf| shelf.name != gone);
            Ok(format!("collection {gone} deleted"))
        }),
        FirewallEdit::Reprioritize(number, priority) => theirs(gate, real, twin, |shelves| {
            let shelf = foreign(shelves, *number)?;
            shelf.content.insert("priority".to_owned(), json!(priority));
            Ok(format!("collection {} has the priority {priority}", shelf.name))
        }),
        FirewallEdit::Touch(mode) => {
            for clouds in [real, twin] {
                let fleet = clouds.arm.fleet();
                let mut document = fleet.get(gate.whole())?;
                *document
                    .pointer_mut("/properties/threatIntelMode")
                    .context("no mode")? = json!(mode);
                fleet.put(gate.whole(), document)?;
            }
            Ok(format!("{} set to {mode}", gate.whole()))
        }
        FirewallEdit::WidenOurs(number) => ours(gate, real, *number, |rules, place| {
            let rule = rules.get_mut(place).context("no rule of ours")?;
            *rule.get_mut("sourceAddresses").context("no sources")? = json!(["*"]);
            Ok(format!("{} (ours) widened", name(rule)))
        }),
        FirewallEdit::TurnOurs(number) => ours(gate, real, *number, |rules, place| {
            let rule = rules.get_mut(place).context("no rule of ours")?;
            let name = name(rule).to_owned();
            match rule.get_mut("translatedPort") {
                Some(port) => *port = json!("443"),
                None => *rule.get_mut("destinationPorts").context("no ports")? = json!(["443"]),
            }
            Ok(format!("{name} (ours) turned"))
        }),
        FirewallEdit::DeleteOurs(number) => ours(gate, real, *number, |rules, place| {
            let gone = rules.remove(place);
            Ok(format!("{} (ours) deleted", name(&gone)))
        }),
        FirewallEdit::DropOurs => {
            let fleet = real.arm.fleet();
            let document = fleet.get(&gate.ours())?;
            if gate.policy.is_some() {
                fleet.delete(&gate.ours())?;
            } else {
                let mut shelves = gate::read(&document);
                let before = shelves.len();
                shelves.retain(|shelf| !shelf.is_ours());
                anyhow::ensure!(shelves.len() < before, "nothing of ours");
                put(&fleet, gate, &gate.ours(), document, shelves)?;
            }
            Ok("all of ours deleted".to_owned())
        }
        FirewallEdit::ToggleRoute(number) => {
            let subnet = nth(&real.built.subnets, *number).context("no subnet")?;
            for clouds in [real, twin] {
                let fleet = clouds.arm.fleet();
                let mut document = fleet.get(subnet)?;
                let properties = document
                    .get_mut("properties")
                    .and_then(Value::as_object_mut)
                    .context("a subnet without properties")?;
                if properties.remove("routeTable").is_none() {
                    properties.insert("routeTable".to_owned(), json!({ "id": gate.table }));
                }
                fleet.put(subnet, document)?;
            }
            Ok(format!("the route of {subnet} toggled"))
        }
        FirewallEdit::AddApplications(collection) => names(gate, real, twin, |collections| {
            collections.push(gate::names_of(collection, gate.policy.is_some()));
            Ok(format!("collection {} added", collection.name))
        }),
        FirewallEdit::DeleteApplications(number) => names(gate, real, twin, |collections| {
            let of_names = |at: &usize| collections.get(*at).is_some_and(gate::is_of_names);
            let places: Vec<usize> = (0..collections.len()).filter(of_names).collect();
            let gone = collections.remove(*nth(&places, *number).context("no collection")?);
            Ok(format!("collection {} deleted", name(&gone)))
        }),
    }
}

/// Copies rules of ours, as they stand, into the policy that the firewall's policy inherits. The twin has none of them.
pub(super) fn copy_ours(copying: Copying, real: &Clouds) -> anyhow::Result<String> {
    let gate = real.built.gate.as_ref().context("no firewall")?;
    let parent = real.built.parent.as_ref().context("nothing is inherited")?;
    let fleet = real.arm.fleet();
    let ours = gate::read(&fleet.get(&gate.ours())?);
    let id = parent.theirs();
    let document = fleet.get(&id)?;
    let mut shelves = gate::read(&document);
    let said = match copying {
        Copying::All => {
            anyhow::ensure!(!ours.is_empty(), "nothing of ours");
            let said = format!("{} collections of ours copied into {id}", ours.len());
            shelves.retain(|shelf| !ours.iter().any(|own| own.name == shelf.name));
            shelves.extend(ours);
            said
        }
        Copying::One(number) => {
            let rules: Vec<_> = ours
                .iter()
                .flat_map(|shelf| shelf.rules().iter().map(|rule| (shelf.action, rule)))
                .filter(|(_, rule)| is_marked(rule))
                .collect();
            let (action, rule) = nth(&rules, number).context("no rule of ours")?;
            // One that they emptied would go with ours.
            let theirs = shelves.iter_mut().filter(|shelf| !shelf.is_ours());
            let mut alike = theirs.filter(|shelf| shelf.action == *action && !shelf.rules().is_empty());
            let shelf = alike.next().context("no collection that does the same")?;
            let held = shelf.rules().iter().any(|other| name(other) == name(rule));
            anyhow::ensure!(!held, "it is there already");
            shelf.rules_mut()?.push((*rule).clone());
            format!("{} (ours) copied into {} of {id}", name(rule), shelf.name)
        }
    };
    put(&fleet, parent, &id, document, shelves)?;
    Ok(said)
}

/// Changes others' collections, here and in the twin. What is ours in the same document stays as it is.
fn theirs(
    gate: &Gate,
    real: &Clouds,
    twin: &Clouds,
    change: impl Fn(&mut Vec<Shelf>) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let id = gate.theirs();
    let mut said = String::new();
    for clouds in [real, twin] {
        let fleet = clouds.arm.fleet();
        let document = fleet.get(&id)?;
        let (own, mut shelves): (Vec<Shelf>, Vec<Shelf>) =
            gate::read(&document).into_iter().partition(Shelf::is_ours);
        said = change(&mut shelves)?;
        shelves.extend(own);
        put(&fleet, gate, &id, document, shelves)?;
    }
    Ok(said)
}

/// Changes others' collections of rules for names, here and in the twin; in a policy they are among the others.
fn names(
    gate: &Gate,
    real: &Clouds,
    twin: &Clouds,
    change: impl Fn(&mut Vec<Value>) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let id = gate.theirs();
    let mut said = String::new();
    for clouds in [real, twin] {
        let fleet = clouds.arm.fleet();
        let mut document = fleet.get(&id)?;
        said = change(gate::names_mut(&mut document, gate.policy.is_some())?)?;
        fleet.put(&id, document)?;
    }
    Ok(said)
}

/// Changes the rule of ours of that number, where it stands.
fn ours(
    gate: &Gate,
    real: &Clouds,
    number: usize,
    change: impl Fn(&mut Vec<Value>, usize) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let fleet = real.arm.fleet();
    let document = fleet.get(&gate.ours())?;
    let mut shelves = gate::read(&document);
    let count: usize = shelves
        .iter()
        .map(|shelf| shelf.rules().iter().filter(|rule| is_marked(rule)).count())
        .sum();
    let mut left = number.checked_rem(count).context("no rule of ours")?;
    let mut said = None;
    for shelf in &mut shelves {
        for place in 0..shelf.rules().len() {
            if !shelf.rules().get(place).is_some_and(is_marked) {
                continue;
            }
            if left == 0 {
                said = Some(change(shelf.rules_mut()?, place)?);
                break;
            }
            left -= 1;
        }
        if said.is_some() {
            break;
        }
    }
    put(&fleet, gate, &gate.ours(), document, shelves)?;
    said.context("no rule of ours")
}

fn put(fleet: &Fleet, gate: &Gate, id: &str, document: Value, shelves: Vec<Shelf>) -> anyhow::Result<()> {
    let mut document = document;
    gate::write(&mut document, gate.policy.is_some(), shelves)?;
    fleet.put(id, document)?;
    Ok(())
}

/// The collection of that number among those of others.
fn foreign(shelves: &mut [Shelf], number: usize) -> anyhow::Result<&mut Shelf> {
    let place = number.checked_rem(shelves.len()).context("no collection")?;
    shelves.get_mut(place).context("no collection")
}

fn name(rule: &Value) -> &str {
    rule.get("name").and_then(Value::as_str).unwrap_or("a rule")
}
