//! Hand-drawn firewalls, classic and with a policy: for each shape the rules before, open and closed, as people read
//! them. A lockdown writes nothing at a firewall, so that locked is as before.

use std::fmt::Write;

use super::*;

/// Every collection of NAT and network rules, one line for each rule. Read member by member, so that the order in which
/// a document has them does not show.
fn table(model: &Model) -> String {
    let mut text = String::new();
    if model.form == Form::Classic {
        for (member, kind) in [
            ("natRuleCollections", "nat"),
            ("networkRuleCollections", "network"),
        ] {
            for one in list(&model.document["properties"][member]) {
                rules(&mut text, kind, &one["name"], &one["properties"]);
            }
        }
        return text;
    }
    let own = (!model.document.is_null()).then_some(&model.document);
    for group in model.others.iter().chain(own) {
        let properties = &group["properties"];
        writeln!(
            text,
            "  group {} {}",
            properties["priority"],
            word(&group["name"])
        )
        .unwrap();
        for one in list(&properties["ruleCollections"]) {
            let kind = match word(&one["ruleCollectionType"]).as_str() {
                "FirewallPolicyNatRuleCollection" => "nat",
                _ => "network",
            };
            rules(&mut text, kind, &one["name"], one);
        }
    }
    text
}

fn rules(text: &mut String, kind: &str, name: &Value, collection: &Value) {
    writeln!(
        text,
        "  {kind} {} {} {}",
        collection["priority"],
        word(&collection["action"]["type"]),
        word(name)
    )
    .unwrap();
    for rule in list(&collection["rules"]) {
        let to = match (&rule["translatedAddress"], &rule["translatedPort"]) {
            (Value::Null, _) => String::new(),
            (address, port) => format!(" => {}:{}", word(address), word(port)),
        };
        let protocols = match &rule["protocols"] {
            Value::Null => &rule["ipProtocols"],
            protocols => protocols,
        };
        let whose = match rule["description"].as_str() {
            Some(mark) if mark.starts_with("postern:test ") => mark.trim_start_matches("postern:test "),
            _ => "theirs",
        };
        writeln!(
            text,
            "    {} {} -> {} : {}{to}  {}",
            words(protocols).to_lowercase(),
            words(&rule["sourceAddresses"]),
            words(&rule["destinationAddresses"]),
            words(&rule["destinationPorts"]),
            if whose == "theirs" {
                word(&rule["name"])
            } else {
                whose.to_owned()
            },
        )
        .unwrap();
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn words(value: &Value) -> String {
    list(value).map(word).collect::<Vec<_>>().join(",")
}

/// Plays a shape: opens, closes. Says every rule on the way, what the planner had to say, and what requesters are told.
fn play(mut model: Model, wish: &Wanted) -> String {
    let before = table(&model);
    let untouched = model.document.clone();
    assert_eq!(
        model.observed().plan(&wanted(Vec::new())).changes,
        [],
        "locked is as before"
    );
    let mut text = format!("before\n{before}locked: as before\nopen\n");
    let plan = model.converge(wish);
    let open = table(&model);
    text += if open == before { "  as before\n" } else { &open };
    for obstacle in &plan.obstacles {
        writeln!(text, "  ! {}: {}", obstacle.code, obstacle.message).unwrap();
    }
    for finding in model.observed().plan(wish).findings {
        writeln!(text, "  ? {}: {}", finding.code, finding.message).unwrap();
    }
    for (grant, evidence) in model.observed().evidence(wish) {
        let state = if evidence.complete { "open" } else { "not open" };
        let blocked = evidence
            .blocked_by
            .map(|rule| format!(", {rule}"))
            .unwrap_or_default();
        writeln!(text, "  = {}: {state}{blocked}", grant.hex()).unwrap();
    }
    for entry in model.observed().entries(wish) {
        writeln!(text, "  > {}:{}", entry.address, entry.mapped_port).unwrap();
    }
    model.converge(&wanted(Vec::new()));
    assert_eq!(model.document, untouched, "closed is as before");
    text + "closed: as before\n"
}

/// Draws the shape at a classic firewall and in a policy.
fn draw(name: &str, nat: &[Value], network: &[Value], wish: &Wanted) {
    for (kind, model) in [
        ("classic", Model::classic(nat, network)),
        ("policy", Model::policy(nat, network)),
    ] {
        insta::assert_snapshot!(format!("{name}_{kind}"), play(model, wish));
    }
}

fn door(grant: u128, source: &str, machine: &str, port: &str) -> Passage {
    passage(grant, &[source], machine, port, by_door(ip(FRONT)))
}

#[test]
fn one_machine_behind_a_door() {
    let wish = wanted(vec![door(1, "203.0.113.7", "10.1.0.4", "22")]);
    draw("one_machine_behind_a_door", &[], &[], &wish);
}

#[test]
fn two_machines_and_a_client_that_comes_by_a_route() {
    let wish = wanted(vec![
        door(1, "203.0.113.7", "10.1.0.4", "22"),
        door(2, "198.51.100.0/24", "10.1.0.5", "22"),
        passage(3, &["192.168.0.0/16"], "10.1.0.5", "20-30", Way::Routed),
    ]);
    draw("two_machines_and_a_client_that_comes_by_a_route", &[], &[], &wish);
}

#[test]
fn among_the_rules_of_others() {
    let site = nat("site", "*", FRONT, "443", ("10.1.0.9", "443"));
    let out = network("out", "10.1.0.0/16", "*", "443");
    let wish = wanted(vec![
        door(1, "203.0.113.7", "10.1.0.4", "3389"),
        passage(2, &["192.168.1.0/24"], "10.1.0.4", "22", Way::Routed),
    ]);
    draw(
        "among_the_rules_of_others",
        &[collection("site", 100, "Dnat", &[site])],
        &[collection("out", 100, "Allow", &[out])],
        &wish,
    );
}

#[test]
fn a_door_of_others_that_lets_in_whom_the_grant_does() {
    let known = nat("ssh", "203.0.113.7", FRONT, "50022", ("10.1.0.4", "22"));
    let wish = wanted(vec![door(1, "203.0.113.0/24", "10.1.0.4", "22")]);
    draw(
        "a_door_of_others_that_lets_in_whom_the_grant_does",
        &[collection("in", 200, "Dnat", &[known])],
        &[],
        &wish,
    );
}

#[test]
fn a_door_of_others_in_the_way() {
    let theirs = nat("ssh", "198.51.100.0/24", SIDE, "50022", ("10.1.0.4", "22"));
    let wish = wanted(vec![door(1, "203.0.113.7", "10.1.0.4", "22")]);
    draw(
        "a_door_of_others_in_the_way",
        &[collection("in", 200, "Dnat", &[theirs])],
        &[],
        &wish,
    );
}

#[test]
fn a_deny_of_others_that_is_asked_first() {
    let deny = network("no-ssh", "192.168.0.0/16", "10.1.0.0/16", "22");
    let wish = wanted(vec![passage(
        1,
        &["192.168.1.0/24"],
        "10.1.0.4",
        "22",
        Way::Routed,
    )]);
    draw(
        "a_deny_of_others_that_is_asked_first",
        &[],
        &[collection("no", 100, "Deny", &[deny])],
        &wish,
    );
}
