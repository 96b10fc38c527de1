use postern_core::{
    enforcer::Verb,
    nsg::Access,
    point::PointRef,
    testing::{a_change, an_id},
};
use serde_json::json;

use super::*;

fn demo() -> Installation {
    "demo".parse().unwrap()
}

fn rule(name: &str, purpose: Purpose, destinations: &Value) -> Value {
    let mark = Mark {
        installation: demo(),
        purpose,
    };
    let mut rule = json!({
        "name": name,
        "properties": { "description": mark.to_string(), "access": Access::Deny },
    });
    let key = if destinations.is_array() {
        "destinationAddressPrefixes"
    } else {
        "destinationAddressPrefix"
    };
    rule["properties"][key] = destinations.clone();
    rule
}

fn deny(name: &str, destinations: &Value) -> Value {
    rule(name, Purpose::Lockdown { policy: an_id(1) }, destinations)
}

fn change(before: Option<Value>, after: Option<Value>) -> Change {
    let point = PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", "n").unwrap();
    Change {
        before,
        after,
        ..a_change(Verb::LockDown, &point, an_id(7))
    }
}

fn left(change: &Change) -> (Option<Change>, Vec<String>) {
    let addresses = ["10.0.0.4", "fd00::4"].map(str::to_owned).into();
    let Withheld { shown, names } = withhold(change, &demo(), &addresses);
    (shown, names.into_iter().collect())
}

#[test]
fn a_deny_for_readable_machines_is_shown_as_it_is() {
    for destinations in [
        json!("10.0.0.4"),
        json!("10.0.0.4/32"),
        json!("fd00::4/128"),
        json!(["10.0.0.4", "fd00::4"]),
    ] {
        let one = change(None, Some(deny("a", &destinations)));
        assert_eq!(left(&one), (Some(one.clone()), Vec::new()), "{destinations}");
    }
}

#[test]
fn a_deny_that_is_also_for_another_machine_is_counted_only() {
    for destinations in [
        json!("10.0.0.5"),
        json!("10.0.0.0/24"),
        json!(["10.0.0.4", "10.0.0.5"]),
        json!("*"),
    ] {
        let one = change(None, Some(deny("a", &destinations)));
        assert_eq!(left(&one), (None, vec!["a".to_owned()]), "{destinations}");
    }
    let grows = change(
        Some(deny("a", &json!("10.0.0.4"))),
        Some(deny("a", &json!(["10.0.0.4", "10.0.0.5"]))),
    );
    assert_eq!(left(&grows), (None, vec!["a".to_owned()]));
}

#[test]
fn what_is_of_grants_or_of_another_installation_is_not_told_of() {
    let grant = Purpose::Grant {
        grant: an_id(1),
        end: "2026-07-28T12:00:00Z".parse().unwrap(),
    };
    assert_eq!(
        left(&change(None, Some(rule("g", grant, &json!("10.0.0.4"))))),
        (None, Vec::new())
    );
    let strange = change(
        Some(json!({ "name": "x", "properties": { "destinationAddressPrefix": "10.0.0.4" } })),
        None,
    );
    assert_eq!(left(&strange), (None, Vec::new()));
}

#[test]
fn of_a_whole_write_the_rest_stays() {
    let (own, others) = (
        deny("own", &json!("10.0.0.4")),
        deny("others", &json!("10.0.0.5")),
    );
    let grant = Purpose::Grant {
        grant: an_id(1),
        end: "2026-07-28T12:00:00Z".parse().unwrap(),
    };
    let allow = rule("grant", grant, &json!("10.0.0.4"));
    let whole = change(
        Some(json!({ "etag": "1", "rules": [others] })),
        Some(json!({ "rules": [own, others, allow] })),
    );
    let (shown, names) = left(&whole);
    let shown = shown.unwrap();
    assert_eq!((shown.before, shown.after), (None, Some(json!([own]))));
    assert_eq!(names, ["others"]);
    let readable = change(
        Some(json!({ "etag": "1", "rules": [] })),
        Some(json!({ "rules": [own] })),
    );
    assert_eq!(left(&readable), (Some(readable.clone()), Vec::new()));
}
