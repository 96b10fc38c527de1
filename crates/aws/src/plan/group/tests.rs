//! The group planner against a model of EC2: any foreign rules, any lockdowns, with crashes and edits in between.

use postern_core::{
    machine::AwsInstance,
    policy::Lockdown,
    sg::{SgPeer, SgProtocol},
    testing::{an_id, ports},
};
use proptest::prelude::*;

use super::*;
use crate::plan::model::Model;

const GROUP: &str = "sg-0123456789abcdef0";
const INSTANCE: &str = "i-0123456789abcdef0";

fn point() -> PointRef {
    PointRef::security_group("123456789012", "eu-west-1", GROUP).unwrap()
}

fn member(instance: &str, guarded: &[&str], shared_groups: SharedGroups) -> Member {
    Member {
        machine: MachineId::Aws(AwsInstance::new("123456789012", "eu-west-1", instance).unwrap()),
        addresses: Vec::new(),
        interfaces: vec!["eni-0".to_owned()],
        guard: (!guarded.is_empty()).then(|| Guard {
            policy: an_id(9),
            ports: guarded.iter().map(|text| ports(text)).collect(),
            lockdown: Lockdown::Strict,
            shared_groups,
        }),
        approach: None,
        grants: Vec::new(),
    }
}

fn rule(text: &str, peer: &str) -> SgRule {
    let peer = if peer.starts_with("pl-") {
        SgPeer::PrefixList(peer.to_owned())
    } else if peer.starts_with("sg-") {
        SgPeer::Group {
            group: peer.to_owned(),
            account: None,
            stale: false,
        }
    } else {
        SgPeer::Net(peer.parse().unwrap())
    };
    let (protocol, ports) = match text {
        "all" => (SgProtocol::All, None),
        "icmp" => (SgProtocol::Other("icmp".to_owned()), Some((-1, -1))),
        text => {
            let (protocol, range) = text
                .strip_prefix('u')
                .map_or((SgProtocol::Tcp, text), |range| (SgProtocol::Udp, range));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (protocol, Some((first.parse().unwrap(), last.parse().unwrap())))
        }
    };
    SgRule {
        id: None,
        protocol,
        ports,
        peer,
        description: Some("theirs".to_owned()),
        tags: BTreeMap::from([("owner".to_owned(), text.to_owned())]),
    }
}

/// A group on one interface, and what the store keeps of it.
#[derive(Debug, Clone)]
struct World {
    model: Model,
    displaced: Vec<Displaced>,
    others: Vec<Attached>,
    copies: Vec<String>,
    gone_peers: BTreeSet<String>,
    limits: AwsLimits,
}

impl World {
    fn new(rules: Vec<SgRule>) -> Self {
        let mut model = Model::default();
        model.uninterrupted = true;
        model.add_group(GROUP, rules);
        model.add_interface("eni-0", &[GROUP]);
        Self {
            model,
            displaced: Vec::new(),
            others: Vec::new(),
            copies: Vec::new(),
            gone_peers: BTreeSet::new(),
            limits: AwsLimits {
                rules_per_group: 10_000,
                ..AwsLimits::default()
            },
        }
    }

    fn observe(&self) -> ObservedGroup {
        let own = Attached {
            interface: "eni-0".to_owned(),
            instance: Some(INSTANCE.to_owned()),
            description: String::new(),
        };
        ObservedGroup {
            copies: self.copies.clone(),
            id: GROUP.to_owned(),
            group: self.model.groups.get(GROUP).cloned(),
            attached: [own].into_iter().chain(self.others.clone()).collect(),
            gone_peers: self.gone_peers.clone(),
            weights: Weights::new(),
            confirmed: self.model.confirmed.clone(),
            limits: self.limits,
        }
    }

    fn plan(&self, members: Vec<Member>) -> Plan {
        let desired = Desired {
            installation: "test".parse().unwrap(),
            point: point(),
            members,
            displaced: self.displaced.clone(),
            unsettled: false,
        };
        self.observe().plan(&desired)
    }

    fn guard(&self, guarded: &[&str]) -> Plan {
        self.plan(vec![member(INSTANCE, guarded, SharedGroups::Refuse)])
    }

    /// As the loop does: what is displaced is saved, then the changes are applied up to a crash, and what is
    /// settled at the read-back is forgotten.
    fn pass(&mut self, guarded: &[&str], crash: usize) -> Plan {
        let plan = self.guard(guarded);
        self.save(&plan);
        let foreseen = self.observe().filters(&plan.changes);
        self.model.run(&plan.changes, crash).unwrap();
        if crash >= plan.changes.len() {
            let contents = |rules: &[SgRule]| rules.iter().map(Content::of).collect::<BTreeSet<_>>();
            match (foreseen, self.model.groups.get(GROUP)) {
                (Some(Filters::SecurityGroup { after, .. }), Some(group)) => {
                    assert_eq!(contents(&after), contents(&group.ingress), "as foreseen");
                }
                (None, None) => {}
                other => panic!("{other:?}"),
            }
            let settled = self.guard(guarded).settled;
            self.displaced
                .retain(|displaced| !settled.contains(&displaced.id));
        }
        plan
    }

    fn save(&mut self, plan: &Plan) {
        for displaced in plan.changes.iter().flat_map(|change| &change.displaces) {
            if !self.displaced.iter().any(|known| known.id == displaced.id) {
                self.displaced.push(displaced.clone());
            }
        }
    }

    fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.model.groups[GROUP]
            .ingress
            .iter()
            .map(|rule| Content::of(rule).to_string())
            .collect();
        texts.sort();
        texts
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Model, &mut SecurityGroup)) {
        let mut group = self.model.groups[GROUP].clone();
        edit(&mut self.model, &mut group);
        self.model.groups.insert(GROUP.to_owned(), group);
    }
}

fn codes(plan: &Plan) -> Vec<&str> {
    plan.findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

fn calls(plan: &Plan) -> Vec<&str> {
    plan.changes
        .iter()
        .map(|change| change.operation["call"].as_str().unwrap())
        .collect()
}

#[test]
fn a_range_is_split_around_the_guarded_ports_before_it_goes() {
    let mut world = World::new(vec![rule("20-25", "0.0.0.0/0"), rule("443", "0.0.0.0/0")]);
    let plan = world.pass(&["22"], usize::MAX);
    assert_eq!(calls(&plan), ["authorize", "revoke"]);
    assert_eq!(plan.changes[1].displaces.len(), 1);
    assert_eq!(plan.changes[1].policies, [an_id(9)]);
    assert_eq!(
        world.texts(),
        [
            "20-21/tcp from 0.0.0.0/0",
            "23-25/tcp from 0.0.0.0/0",
            "443/tcp from 0.0.0.0/0"
        ]
    );
    let before = world.model.essence();
    assert_eq!(world.guard(&["22"]).changes, []);
    assert_eq!(world.model.essence(), before);
}

#[test]
fn rules_from_groups_and_prefix_lists_are_displaced_like_any_other() {
    let mut world = World::new(vec![rule("22", "sg-bastion"), rule("22", "pl-office")]);
    world.pass(&["22"], usize::MAX);
    assert_eq!(world.texts(), Vec::<String>::new());
    world.pass(&[], usize::MAX);
    assert_eq!(world.texts(), ["22/tcp from pl-office", "22/tcp from sg-bastion"]);
    assert_eq!(world.displaced, []);
}

#[test]
fn a_displaced_rule_comes_back_with_its_description_and_tags() {
    let mut world = World::new(vec![rule("20-25", "10.0.0.0/8")]);
    let before = world.model.essence();
    world.pass(&["22"], usize::MAX);
    world.pass(&[], usize::MAX);
    assert_eq!(world.model.essence(), before);
}

#[test]
fn what_ec2_cannot_keep_of_an_all_traffic_rule_is_said() {
    let world = World::new(vec![rule("all", "10.0.0.0/8")]);
    assert_eq!(codes(&world.guard(&["22"])), ["protocols_not_kept"]);
}

#[test]
fn a_displaced_rule_that_somebody_puts_back_is_displaced_again_and_reported() {
    let mut world = World::new(vec![rule("22", "0.0.0.0/0")]);
    world.pass(&["22"], usize::MAX);
    world.edit(|model, group| assert!(model.put(group, rule("22", "0.0.0.0/0"))));
    let plan = world.pass(&["22"], usize::MAX);
    assert_eq!(codes(&plan), ["displaced_rule_returned"]);
    assert_eq!(calls(&plan), ["revoke"]);
    assert_eq!(world.texts(), Vec::<String>::new());
}

#[test]
fn a_crash_before_the_revoke_is_no_return() {
    let mut world = World::new(vec![rule("20-25", "0.0.0.0/0")]);
    world.pass(&["22"], 1);
    let plan = world.pass(&["22"], usize::MAX);
    assert_eq!(codes(&plan), Vec::<&str>::new());
    assert_eq!(calls(&plan), ["revoke"]);
}

#[test]
fn a_residual_that_lost_its_mark_is_left_alone_and_reported() {
    let mut world = World::new(vec![rule("20-25", "0.0.0.0/0")]);
    world.pass(&["22"], usize::MAX);
    world.edit(|_, group| group.ingress[0].description = Some("mine".to_owned()));
    let plan = world.pass(&["22"], usize::MAX);
    assert_eq!(
        (codes(&plan), calls(&plan)),
        (vec!["residual_rule_edited"], vec![])
    );
    world.pass(&[], usize::MAX);
    assert_eq!(
        world.texts(),
        ["20-21/tcp from 0.0.0.0/0", "20-25/tcp from 0.0.0.0/0"]
    );
}

#[test]
fn a_missing_residual_is_put_back_and_reported() {
    let mut world = World::new(vec![rule("20-25", "0.0.0.0/0")]);
    world.pass(&["22"], usize::MAX);
    world.edit(|_, group| {
        group.ingress.remove(0);
    });
    let plan = world.pass(&["22"], usize::MAX);
    assert_eq!(
        (codes(&plan), calls(&plan)),
        (vec!["residual_rule_edited"], vec!["authorize"])
    );
    assert_eq!(plan.changes[0].verb, Verb::Repair);
}

#[test]
fn a_group_that_is_gone_settles_what_was_displaced() {
    let mut world = World::new(vec![rule("22", "0.0.0.0/0")]);
    world.pass(&["22"], usize::MAX);
    world.model.groups.clear();
    let plan = world.guard(&["22"]);
    assert_eq!(codes(&plan), ["displaced_group_gone"]);
    assert_eq!(plan.settled, [world.displaced[0].id]);
}

#[test]
fn a_rule_whose_source_group_is_gone_is_settled_and_reported() {
    let mut world = World::new(vec![rule("22", "sg-bastion")]);
    world.pass(&["22"], usize::MAX);
    world.gone_peers.insert("sg-bastion".to_owned());
    let plan = world.guard(&[]);
    assert_eq!(codes(&plan), ["displaced_group_gone"]);
    assert_eq!(plan.settled, [world.displaced[0].id]);
    assert_eq!(plan.changes, []);
}

#[test]
fn a_group_shared_with_unguarded_machines_is_refused_with_their_names_or_revoked_with_a_finding() {
    let mut world = World::new(vec![rule("22", "0.0.0.0/0")]);
    world.others = vec![
        Attached {
            interface: "eni-1".to_owned(),
            instance: Some("i-00000000000000001".to_owned()),
            description: String::new(),
        },
        Attached {
            interface: "eni-2".to_owned(),
            instance: None,
            description: "ELB app/web".to_owned(),
        },
    ];
    let plan = world.guard(&["22"]);
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "shared_group");
    assert!(
        plan.obstacles[0]
            .message
            .ends_with("i-00000000000000001 (eni-1), eni-2 (ELB app/web)"),
        "{}",
        plan.obstacles[0].message
    );
    let revoke = world.plan(vec![member(INSTANCE, &["22"], SharedGroups::Revoke)]);
    assert_eq!(
        (codes(&revoke), calls(&revoke)),
        (vec!["shared_group"], vec!["revoke"])
    );

    // Where two policies differ, the one that takes nothing from others wins.
    let mut other = member("i-00000000000000002", &["22"], SharedGroups::Refuse);
    other.interfaces.clear();
    let both = world.plan(vec![member(INSTANCE, &["22"], SharedGroups::Revoke), other]);
    assert_eq!(both.changes, []);
}

#[test]
fn a_lockdown_that_defers_displaces_nothing_and_puts_back_what_a_strict_one_displaced() {
    let mut world = World::new(vec![rule("20-30", "0.0.0.0/0"), rule("443", "0.0.0.0/0")]);
    let before = world.texts();
    let mut deferring = member(INSTANCE, &["22"], SharedGroups::Revoke);
    if let Some(guard) = &mut deferring.guard {
        guard.lockdown = Lockdown::Defer;
    }
    assert_eq!(world.plan(vec![deferring.clone()]), Plan::default());

    world.pass(&["22"], usize::MAX);
    assert_ne!(world.texts(), before);
    let lifted = world.plan(vec![deferring.clone()]);
    world.model.run(&lifted.changes, usize::MAX).unwrap();
    assert_eq!(world.texts(), before);

    // To a strict lockdown the other machine is one that keeps its rules.
    let mut strict = member("i-00000000000000002", &["22"], SharedGroups::Refuse);
    strict.interfaces.clear();
    let mut fresh = World::new(vec![rule("22", "0.0.0.0/0")]);
    fresh.displaced.clear();
    let both = fresh.plan(vec![deferring, strict]);
    assert_eq!(both.changes, []);
    assert_eq!(both.obstacles[0].code, "shared_group");
}

#[test]
fn a_group_that_lets_nothing_in_on_guarded_ports_may_be_shared() {
    let mut world = World::new(vec![rule("443", "0.0.0.0/0")]);
    world.others = vec![Attached {
        interface: "eni-1".to_owned(),
        instance: None,
        description: String::new(),
    }];
    assert_eq!(world.guard(&["22"]), Plan::default());
}

#[test]
fn machines_guarded_for_different_ports_are_locked_down_together() {
    let mut world = World::new(vec![rule("22-3389", "0.0.0.0/0")]);
    let other = member("i-00000000000000002", &["3389"], SharedGroups::Refuse);
    let plan = world.plan(vec![member(INSTANCE, &["22"], SharedGroups::Refuse), other]);
    world.save(&plan);
    world.model.run(&plan.changes, usize::MAX).unwrap();
    assert_eq!(world.texts(), ["23-3388/tcp from 0.0.0.0/0"]);
    // One policy goes: its port opens again, the other stays closed.
    world.pass(&["3389"], usize::MAX);
    assert_eq!(world.texts(), ["22-3388/tcp from 0.0.0.0/0"]);
}

#[test]
fn residuals_that_do_not_fit_the_group_are_an_obstacle_before_any_write() {
    let mut world = World::new(vec![rule("20-25", "0.0.0.0/0"), rule("443", "0.0.0.0/0")]);
    world.limits.rules_per_group = 3;
    let plan = world.guard(&["22"]);
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "rules_per_group");
    assert_eq!(
        plan.obstacles[0].message,
        format!(
            "to displace 20-25/tcp from 0.0.0.0/0, {GROUP} would need 4 IPv4 and 0 IPv6 rules, of 3 each"
        )
    );
}

#[test]
fn a_full_group_gets_its_rule_back_after_its_residuals_made_room() {
    let mut world = World::new(vec![rule("20-22", "0.0.0.0/0")]);
    world.limits.rules_per_group = 2;
    world.pass(&["22"], usize::MAX);
    world.edit(|model, group| assert!(model.put(group, rule("443", "0.0.0.0/0"))));
    let plan = world.guard(&[]);
    assert_eq!(calls(&plan), ["revoke", "authorize"]);
    assert_eq!(plan.obstacles, []);
}

#[test]
fn a_grants_mark_in_a_group_of_others_is_taken_away() {
    let mut stray = rule("22", "203.0.113.7/32");
    let mark = Mark {
        installation: "test".parse().unwrap(),
        purpose: Purpose::Grant {
            grant: an_id(1),
            end: postern_core::testing::at(0),
        },
    };
    stray.description = Some(mark.to_string());
    let mut world = World::new(vec![stray]);
    let plan = world.pass(&[], usize::MAX);
    assert_eq!(calls(&plan), ["revoke"]);
    assert_eq!(plan.changes[0].verb, Verb::Close);
}

const TEXTS: [&str; 9] = [
    "22", "20-25", "23-65535", "0-65535", "u0-65535", "all", "443", "icmp", "22-3389",
];
const PEERS: [&str; 4] = ["0.0.0.0/0", "2001:db8::/32", "sg-peer", "pl-1"];
const GUARDS: [&[&str]; 6] = [
    &[],
    &["22"],
    &["22", "3389"],
    &["20-30"],
    &["22/udp"],
    &["1-65535"],
];

fn any_rule() -> impl Strategy<Value = SgRule> {
    (
        prop::sample::select(TEXTS.to_vec()),
        prop::sample::select(PEERS.to_vec()),
    )
        .prop_map(|(text, peer)| rule(text, peer))
}

#[derive(Debug, Clone)]
enum Edit {
    Nothing,
    Add(SgRule),
    RemoveForeign(usize),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => Just(Edit::Nothing),
        1 => any_rule().prop_map(Edit::Add),
        1 => (0usize..8).prop_map(Edit::RemoveForeign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lockdowns_come_and_go_and_leave_what_others_made_of_the_group(
        rules in prop::collection::vec(any_rule(), 0..6),
        steps in prop::collection::vec((0usize..GUARDS.len(), 0usize..6, any_edit()), 1..6),
    ) {
        let mut world = World::new(rules);
        // What the group would be without us.
        let mut theirs = world.model.clone();
        for (guard, crash, edit) in steps {
            let guarded: Vec<Ports> = GUARDS[guard].iter().map(|text| ports(text)).collect();
            match edit {
                Edit::Nothing => {}
                Edit::Add(rule) => {
                    let known = theirs.groups[GROUP].ingress.iter().any(|r| r.same_content(&rule));
                    let taken = world.model.groups[GROUP].ingress.iter().any(|r| r.same_content(&rule));
                    if !known && !taken {
                        world.edit(|model, group| { model.put(group, rule.clone()); });
                        let mut group = theirs.groups[GROUP].clone();
                        theirs.put(&mut group, rule);
                        theirs.groups.insert(GROUP.to_owned(), group);
                    }
                }
                Edit::RemoveForeign(index) => {
                    let foreign: Vec<SgRule> = world.model.groups[GROUP].ingress.iter()
                        .filter(|rule| rule.description.as_deref() == Some("theirs")).cloned().collect();
                    if let Some(rule) = foreign.get(index) {
                        world.edit(|_, group| group.ingress.retain(|r| !r.same_content(rule)));
                        // A rule that was saved is ours to put back, also when its owner removed it in between.
                        let saved = world.displaced.iter().any(|d| d.id == displaced_id(&point(), rule));
                        if !saved {
                            theirs.group(GROUP).unwrap().ingress.retain(|r| !r.same_content(rule));
                        }
                    }
                }
            }
            world.pass(GUARDS[guard], crash);
            world.pass(GUARDS[guard], usize::MAX);
            prop_assert_eq!(&world.guard(GUARDS[guard]).changes, &vec![], "twice is once");

            let closed = |packet: &(String, postern_core::net::Protocol, u16, String)| {
                guarded.iter().any(|g| g.overlaps(Ports::one(packet.1, packet.2).unwrap()))
            };
            let want: BTreeSet<_> = theirs.passing().into_iter().filter(|packet| !closed(packet)).collect();
            prop_assert_eq!(world.model.passing(), want);
            for rule in &world.model.groups[GROUP].ingress {
                prop_assert!(!rule::overlaps(rule, &guarded));
            }
        }
        world.pass(&[], usize::MAX);
        prop_assert_eq!(world.model.essence(), theirs.essence());
        prop_assert_eq!(&world.displaced, &vec![]);
    }
}

fn other() -> Attached {
    Attached {
        interface: "eni-1".to_owned(),
        instance: Some("i-00000000000000001".to_owned()),
        description: String::new(),
    }
}

#[test]
fn one_that_isolates_displaces_rules_of_a_group_of_its_own_alone() {
    let isolating = || vec![member(INSTANCE, &["22"], SharedGroups::Isolate)];
    let mut world = World::new(vec![rule("22", "0.0.0.0/0")]);
    assert_eq!(calls(&world.plan(isolating())), ["revoke"]);

    world.copies = vec!["postern-test-i-00000000000000002-sg-1".to_owned()];
    assert_eq!(
        calls(&world.plan(isolating())),
        [""; 0],
        "another machine has a copy of it"
    );
    world.copies = Vec::new();
    world.others = vec![other()];
    let plan = world.plan(isolating());
    assert_eq!(
        (calls(&plan).len(), plan.obstacles.len()),
        (0, 0),
        "the machine gets a copy"
    );

    // The rest is as if that machine were not there.
    let mut both = isolating();
    both.push(member("i-00000000000000002", &["3389"], SharedGroups::Refuse));
    assert_eq!(calls(&world.plan(both)), [""; 0], "3389 is not open");
}

#[test]
fn what_is_displaced_stays_so_while_one_that_isolates_has_the_group() {
    let mut world = World::new(vec![rule("22", "0.0.0.0/0")]);
    world.pass(&["22"], usize::MAX);
    world.others = vec![other()];
    let isolating = vec![member(INSTANCE, &["22"], SharedGroups::Isolate)];
    assert_eq!(calls(&world.plan(isolating)), [""; 0]);
    assert_eq!(
        calls(&world.plan(vec![member(INSTANCE, &[], SharedGroups::Isolate)])),
        ["authorize"]
    );
}
