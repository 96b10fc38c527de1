use std::collections::BTreeMap;

use postern_core::{
    inventory::Power,
    testing::{a_policy, ports},
};

use super::*;

fn one(number: usize, points: std::ops::Range<usize>) -> Concerned {
    let id = format!("arn:aws:ec2:eu-west-1:123456789012:instance/i-{number:017x}");
    let point = |number| PointRef::security_group("123456789012", "eu-west-1", &format!("sg-{number:017x}"));
    Concerned {
        machine: Machine {
            id: id.parse().unwrap(),
            name: String::new(),
            tags: BTreeMap::new(),
            power: Power::Running,
            interfaces: vec![],
        },
        points: points.map(|number| point(number).unwrap()).collect(),
    }
}

#[test]
fn machines_beyond_the_bounds_are_counted() {
    let mut few = vec![one(1, 0..75), one(2, 50..100)];
    assert_eq!(within_bounds(&mut few), 0, "what they share counts once");
    let mut many = vec![one(1, 0..75), one(2, 75..101), one(3, 75..100)];
    assert_eq!(within_bounds(&mut many), 1);
    let kept: Vec<String> = many.iter().map(|one| one.machine.id.to_string()).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept[1].ends_with('3'), "{kept:?}");
}

#[test]
fn ranges_that_overlap_are_one() {
    let mut all = ["22", "20-30", "3389", "28-40", "22/udp", "41"]
        .map(ports)
        .to_vec();
    disjoint(&mut all);
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["20-40/tcp", "41/tcp", "3389/tcp", "22/udp"]);
}

#[test]
fn only_what_locks_down_makes_machines_that_stay_matter() {
    let before = a_policy("/azure");
    let changed = |edit: fn(&mut JitPolicy)| {
        let mut after = before.clone();
        edit(&mut after);
        guards_otherwise(&Change::Replaced {
            before: &before,
            after: &after,
        })
    };
    assert!(!changed(|after| "other".clone_into(&mut after.name)));
    assert!(!changed(|after| after
        .guards
        .iter_mut()
        .for_each(|guard| guard.allowed_sources.clear())));
    assert!(changed(|after| after.guards.clear()));
    assert!(changed(|after| after.lockdown = Lockdown::Defer));
    assert!(changed(|after| after.shared_groups = SharedGroups::Isolate));
    assert!(guards_otherwise(&Change::Made(&before)));
}

#[test]
fn a_text_is_searched_for_instances_also_in_names_of_groups() {
    let known = BTreeSet::from(["i-0123456789abcdef0"]);
    for text in [
        "sg-1 is shared with i-0123456789abcdef0 (eni-0fedcba9876543210)",
        "postern-demo-i-0123456789abcdef0-sg-2",
        "eni-0123456789abcdef0 (ELB app/i-am-no-instance)",
    ] {
        assert!(names_only(text, &known), "{text}");
    }
    assert!(!names_only("i-0123456789abcdef0 and i-0fedcba9876543210", &known));
    assert!(!names_only("postern-demo-i-0fedcba9876543210-sg-2", &known));
}
