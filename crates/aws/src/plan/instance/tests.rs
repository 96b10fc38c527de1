//! The instance planner against a model of EC2: any grants, in any order, with crashes in between.

use postern_core::{
    enforcer::{Member, WantedGrant},
    machine::AwsInstance,
    net::Source,
    testing::{an_id, at, ports},
};
use proptest::prelude::*;

use super::*;
use crate::plan::model::Model;

const INSTANCE: &str = "i-0123456789abcdef0";

fn installation() -> Installation {
    "test".parse().unwrap()
}

fn machine() -> AwsInstance {
    AwsInstance::new("123456789012", "eu-west-1", INSTANCE).unwrap()
}

fn desired(grants: Vec<WantedGrant>) -> Desired {
    Desired {
        installation: installation(),
        point: PointRef::AwsInstance(machine()),
        members: vec![Member {
            machine: MachineId::Aws(machine()),
            addresses: Vec::new(),
            interfaces: Vec::new(),
            guard: None,
            approach: None,
            grants,
        }],
        displaced: Vec::new(),
        unsettled: false,
    }
}

fn grant(number: u128, on: &[&str], from: &[&str], end: i64) -> WantedGrant {
    WantedGrant {
        grant: an_id(number),
        ports: on.iter().map(|text| ports(text)).collect(),
        sources: from.iter().map(|text| text.parse::<Source>().unwrap()).collect(),
        not_after: at(end),
        opening: false,
    }
}

fn one() -> WantedGrant {
    grant(1, &["22"], &["203.0.113.7"], 600)
}

/// An instance with interfaces in one foreign group, which lets 443 in from everywhere.
fn fleet(interfaces: usize) -> Model {
    let mut model = Model::default();
    let web = rule::allow(ports("443"), "0.0.0.0/0".parse().unwrap());
    model.add_group("sg-web", vec![web]);
    for number in 0..interfaces {
        model.add_interface(&format!("eni-{number}"), &["sg-web"]);
    }
    model
}

fn observe(model: &Model, desired: &Desired) -> ObservedInstance {
    let name = holder_name(&desired.installation, INSTANCE);
    let (holders, impostors) = model
        .groups
        .values()
        .filter(|group| group.name == name)
        .cloned()
        .partition(|group: &SecurityGroup| group.tags.contains_key(MARK_TAG));
    let (interfaces, others): (Vec<_>, Vec<_>) = model
        .interfaces
        .values()
        .cloned()
        .partition(|interface| !interface.id.starts_with("eni-other"));
    ObservedInstance {
        instance: INSTANCE.to_owned(),
        interfaces,
        ipv6_vpcs: model.ipv6.then(|| "vpc-1".to_owned()).into_iter().collect(),
        holders,
        impostors,
        strays: others,
        misplaced: BTreeSet::new(),
        copies: Vec::new(),
        strange_copies: BTreeMap::new(),
        originals: Vec::new(),
        false_copies: Vec::new(),
        named_by: BTreeMap::new(),
        limits: AwsLimits::default(),
    }
}

fn plan(model: &Model, desired: &Desired) -> Plan {
    observe(model, desired).plan(desired)
}

fn converge(model: &mut Model, desired: &Desired) -> Plan {
    let plan = plan(model, desired);
    model.run(&plan.changes, usize::MAX).unwrap();
    plan
}

fn calls(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .map(|change| change.operation["call"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn opening_takes_four_calls_and_closing_two() {
    let mut model = fleet(1);
    let before = model.essence();
    let opened = converge(&mut model, &desired(vec![one()]));
    assert_eq!(
        calls(&opened),
        ["create_holder", "revoke_egress", "authorize", "set_groups"]
    );
    let closed = converge(&mut model, &desired(vec![]));
    assert_eq!(calls(&closed), ["set_groups", "delete_holder"]);
    assert_eq!(model.essence(), before);
}

#[test]
fn closing_one_of_two_grants_takes_one_call() {
    let mut model = fleet(1);
    let other = grant(2, &["3389"], &["203.0.113.7"], 600);
    converge(&mut model, &desired(vec![one(), other.clone()]));
    let closed = converge(&mut model, &desired(vec![other]));
    assert_eq!(calls(&closed), ["revoke"]);
    assert_eq!(closed.changes[0].grants, [an_id(1)]);
}

#[test]
fn a_shared_rule_is_marked_for_the_grant_that_ends_last_and_counts_for_all() {
    let mut model = fleet(1);
    let late = grant(2, &["22"], &["203.0.113.7"], 900);
    let both = desired(vec![one(), late.clone()]);
    converge(&mut model, &both);
    let observed = observe(&model, &both);
    assert_eq!(observed.holders[0].ingress.len(), 1);
    assert_eq!(
        named(&observed.holders[0].ingress[0], &installation()),
        Some(an_id(2))
    );
    let evidence = observed.evidence(&both);
    assert!(evidence[&an_id(1)].complete && evidence[&an_id(2)].complete);

    // The late one is revoked: until the mark names the other, it is not closed.
    let first = desired(vec![one()]);
    assert!(!observe(&model, &first).evidence(&first)[&an_id(2)].complete);
    let closed = converge(&mut model, &first);
    assert_eq!(calls(&closed), ["describe"]);
    let evidence = observe(&model, &first).evidence(&first);
    assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(1)]);
    assert!(evidence[&an_id(1)].complete);
}

#[test]
fn a_new_group_in_a_vpc_with_ipv6_loses_both_egress_rules_before_it_is_attached() {
    let mut model = fleet(1);
    model.ipv6 = true;
    let plan = converge(&mut model, &desired(vec![one()]));
    assert_eq!(
        plan.changes[1].operation["rules"].as_array().map(Vec::len),
        Some(2)
    );
    assert!(observe(&model, &desired(vec![])).holders[0].egress.is_empty());
}

#[test]
fn egress_that_was_left_over_is_taken_away_and_reported_by_the_next_pass() {
    let mut model = fleet(1);
    converge(&mut model, &desired(vec![one()]));
    let holder = model.groups.keys().find(|id| *id != "sg-web").unwrap().clone();
    model.group(&holder).unwrap().egress = default_egress(false);
    let repaired = plan(&model, &desired(vec![one()]));
    assert_eq!(calls(&repaired), ["revoke_egress"]);
    assert_eq!(repaired.changes[0].verb, Verb::Repair);
}

#[test]
fn what_others_write_into_a_holder_is_removed_and_reported() {
    let mut model = fleet(1);
    converge(&mut model, &desired(vec![one()]));
    let id = model.groups.keys().find(|id| *id != "sg-web").unwrap().clone();
    let mut holder = model.groups[&id].clone();
    model.put(
        &mut holder,
        rule::allow(ports("80"), "0.0.0.0/0".parse().unwrap()),
    );
    holder.ingress[0].description = Some("mine now".to_owned());
    model.groups.insert(id, holder);
    let repaired = converge(&mut model, &desired(vec![one()]));
    assert_eq!(calls(&repaired), ["revoke", "describe"]);
    let codes: Vec<&str> = repaired.findings.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["foreign_rule_opens", "own_rule_edited"]);
    assert!(plan(&model, &desired(vec![one()])).changes.is_empty());
}

#[test]
fn an_interface_without_room_is_named_before_anything_is_written() {
    let mut model = fleet(2);
    for number in 1..5 {
        model.add_group(&format!("sg-{number}"), vec![]);
    }
    model.add_interface("eni-1", &["sg-web", "sg-1", "sg-2", "sg-3", "sg-4"]);
    let plan = plan(&model, &desired(vec![one()]));
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "groups_per_interface");
    assert_eq!(
        plan.obstacles[0].message,
        "no room for one more security group: eni-1 has 5 of 5 groups"
    );
    assert_eq!(plan.obstacles[0].grants, [an_id(1)]);
}

#[test]
fn the_grant_whose_rules_do_not_fit_is_refused_and_the_others_are_opened() {
    let mut model = fleet(1);
    let sources: Vec<String> = (0..50).map(|n| format!("10.0.{n}.0/24")).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let wide = grant(1, &["22"], &sources, 600);
    let wider = grant(2, &["3389"], &sources, 600);
    let narrow = grant(3, &["22"], &["203.0.113.7"], 600);
    let all = desired(vec![wide, wider, narrow]);
    let plan = converge(&mut model, &all);
    assert_eq!(plan.obstacles.len(), 1);
    assert_eq!(plan.obstacles[0].code, "rules_per_group");
    assert_eq!(plan.obstacles[0].grants, [an_id(2)]);
    let evidence = observe(&model, &all).evidence(&all);
    assert!(evidence[&an_id(1)].complete && evidence[&an_id(3)].complete);
    assert!(!evidence.contains_key(&an_id(2)));
}

#[test]
fn a_group_of_the_holders_name_without_our_mark_is_an_obstacle() {
    let mut model = fleet(1);
    model.add_group("sg-fake", vec![]);
    model.group("sg-fake").unwrap().name = holder_name(&installation(), INSTANCE);
    let plan = plan(&model, &desired(vec![one()]));
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "foreign_rule_in_the_way");
}

#[test]
fn a_holder_of_a_terminated_instance_is_detached_from_what_was_left_and_deleted() {
    let mut model = fleet(1);
    converge(&mut model, &desired(vec![one()]));
    let mut left = model.interfaces.remove("eni-0").unwrap();
    left.id = "eni-other".to_owned();
    model.interfaces.insert("eni-other".to_owned(), left);
    let wanted = desired(vec![one()]);
    let plan = converge(&mut model, &wanted);
    assert_eq!(calls(&plan), ["set_groups", "delete_holder"]);
    assert_eq!(plan.obstacles[0].code, "machine_not_behind_point");
    assert_eq!(observe(&model, &wanted).evidence(&wanted), BTreeMap::new());
}

#[test]
fn an_interface_that_went_to_another_instance_loses_the_holder() {
    let mut model = fleet(2);
    let wanted = desired(vec![one()]);
    converge(&mut model, &wanted);
    let mut moved = model.interfaces.remove("eni-1").unwrap();
    moved.id = "eni-other".to_owned();
    model.interfaces.insert("eni-other".to_owned(), moved);
    let plan = converge(&mut model, &wanted);
    assert_eq!(calls(&plan), ["set_groups"]);
    assert_eq!(model.interfaces["eni-other"].groups, ["sg-web"]);
    assert!(observe(&model, &wanted).evidence(&wanted)[&an_id(1)].complete);
}

#[test]
fn another_instances_holder_is_taken_off_this_one() {
    let mut model = fleet(1);
    model.add_group("sg-theirs", vec![]);
    model.add_interface("eni-0", &["sg-web", "sg-theirs"]);
    let wanted = desired(vec![]);
    let mut observed = observe(&model, &wanted);
    observed.misplaced.insert("sg-theirs".to_owned());
    let plan = observed.plan(&wanted);
    assert_eq!(calls(&plan), ["set_groups"]);
    assert_eq!(
        plan.changes[0].operation["groups"],
        serde_json::json!([{ "id": "sg-web" }])
    );
}

#[test]
fn a_holder_that_is_the_only_group_left_is_emptied_and_stays() {
    let mut model = fleet(1);
    converge(&mut model, &desired(vec![one()]));
    let interface = model.interfaces.get_mut("eni-0").unwrap();
    interface.groups.retain(|group| group != "sg-web");
    let none = desired(vec![]);
    let closed = converge(&mut model, &none);
    assert_eq!(calls(&closed), ["revoke"]);
    assert_eq!(closed.findings[0].code, "own_rule_edited");
    assert_eq!(observe(&model, &none).evidence(&none), BTreeMap::new());
    assert_eq!(plan(&model, &none).changes, []);
}

#[test]
fn a_group_that_could_not_be_deleted_no_longer_holds_the_grant_open() {
    let mut model = fleet(1);
    converge(&mut model, &desired(vec![one()]));
    let none = desired(vec![]);
    let closing = plan(&model, &none);
    model.run(&closing.changes, 1).unwrap();
    let again = plan(&model, &none);
    assert_eq!(calls(&again), ["revoke", "delete_holder"]);
    model.run(&again.changes, 1).unwrap();
    assert_eq!(observe(&model, &none).evidence(&none), BTreeMap::new());
}

#[test]
fn what_ec2_may_refuse_to_delete_holds_no_other_change_up() {
    let mut model = fleet(2);
    converge(&mut model, &desired(vec![one()]));
    let none = desired(vec![]);
    let mut observed = observe(&model, &none);
    // One stays for whatever reason in a VPC, and the grant is open in the other.
    let mut stuck = observed.holders[0].clone();
    stuck.id = "sg-stuck".to_owned();
    stuck.vpc = "vpc-0".to_owned();
    stuck.ingress.clear();
    observed.holders.push(stuck);
    let closing = observed.plan(&none);
    assert_eq!(
        calls(&closing),
        ["set_groups", "set_groups", "delete_holder", "delete_holder"]
    );
    let other = grant(2, &["3389"], &["203.0.113.7"], 600);
    assert_eq!(
        calls(&observed.plan(&desired(vec![one(), other]))),
        ["authorize", "delete_holder"]
    );
}

#[test]
fn a_change_without_its_emptied_egress_attaches_nothing() {
    let mut model = fleet(1);
    let plan = plan(&model, &desired(vec![one()]));
    let mut bindings = postern_core::enforcer::Bindings::new();
    for change in [&plan.changes[0], &plan.changes[2]] {
        model.apply(change, &mut bindings).unwrap();
    }
    assert_eq!(
        model.apply(&plan.changes[3], &mut bindings),
        Err("not emptied".to_owned())
    );
}

const PORTS: [&str; 4] = ["22", "3389", "443", "22-24/udp"];
const SOURCES: [&str; 4] = ["203.0.113.7", "203.0.113.0/24", "198.51.100.9", "2001:db8::1"];

fn any_grant(number: u128) -> impl Strategy<Value = WantedGrant> {
    (
        prop::sample::subsequence(PORTS.to_vec(), 1..3),
        prop::sample::subsequence(SOURCES.to_vec(), 1..3),
        1..900i64,
    )
        .prop_map(move |(on, from, end)| grant(number, &on, &from, end))
}

fn pool() -> impl Strategy<Value = Vec<WantedGrant>> {
    (
        any_grant(1),
        any_grant(2),
        any_grant(3),
        any_grant(4),
        any_grant(5),
    )
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grants_open_and_close_in_any_order_and_leave_nothing(
        pool in pool(), interfaces in 1usize..3, ipv6 in any::<bool>(),
        steps in prop::collection::vec((0u8..32, 0usize..8), 1..8),
    ) {
        let mut model = fleet(interfaces);
        model.ipv6 = ipv6;
        let before = model.essence();
        let base = model.passing();
        for (wanted, crash) in steps {
            let grants: Vec<WantedGrant> = pool.iter().enumerate()
                .filter(|(index, _)| wanted & (1 << index) != 0).map(|(_, g)| g.clone()).collect();
            let desired = desired(grants.clone());
            // A crash after any prefix of the changes, then a pass that goes through.
            model.run(&plan(&model, &desired).changes, crash).unwrap();
            converge(&mut model, &desired);
            prop_assert_eq!(plan(&model, &desired).changes, vec![], "twice is once");

            let evidence = observe(&model, &desired).evidence(&desired);
            prop_assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), grants.iter().map(|g| g.grant).collect::<Vec<_>>());
            prop_assert!(evidence.values().all(|evidence| evidence.complete));
            prop_assert_eq!(&model.groups["sg-web"], &before.0["sg-web"].clone().tap_ids(&model.groups["sg-web"]));

            let mut ideal = fleet(interfaces);
            let rules = super::wanted(&desired).into_values().map(|wanted| wanted.rule).collect();
            ideal.add_group("sg-ideal", rules);
            for number in 0..interfaces {
                ideal.add_interface(&format!("eni-{number}"), &["sg-web", "sg-ideal"]);
            }
            prop_assert_eq!(model.passing(), ideal.passing());
        }
        converge(&mut model, &desired(vec![]));
        prop_assert_eq!(model.essence(), before);
        prop_assert_eq!(model.passing(), base);
    }
}

trait TapIds {
    fn tap_ids(self, from: &Self) -> Self;
}

impl TapIds for SecurityGroup {
    /// With the rule ids of `from`, which the essence leaves out.
    fn tap_ids(mut self, from: &Self) -> Self {
        for (to, from) in self.ingress.iter_mut().zip(&from.ingress) {
            to.id.clone_from(&from.id);
        }
        self
    }
}
