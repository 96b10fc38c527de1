//! Isolation against a model of EC2: there and back, with crashes in between and others' hands in it.

use postern_core::{
    enforcer::{Desired, Member, Observed as _, Plan, WantedGrant},
    machine::{AwsInstance, MachineId},
    mark::Installation,
    net::Protocol,
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    preview::{Attached, Filters},
    sg::{SgPeer, SgProtocol},
    testing::{an_id, at, ports},
};

use super::*;
use crate::{
    config::AwsLimits,
    plan::{
        instance::{
            Elsewhere, ObservedInstance, ObservedInterface, copy_mark, default_egress, holder_name,
            holder_tags,
        },
        model::Model,
    },
};

const INSTANCE: &str = "i-0123456789abcdef0";
const NOTHING: [&str; 0] = [];
const SHARED: &str = "sg-0000000000000feed";

fn installation() -> Installation {
    "test".parse().unwrap()
}

fn tcp(span: (i32, i32), cidr: &str) -> SgRule {
    SgRule {
        id: None,
        protocol: SgProtocol::Tcp,
        ports: Some(span),
        peer: SgPeer::Net(cidr.parse().unwrap()),
        description: Some("theirs".to_owned()),
        tags: BTreeMap::new(),
    }
}

fn guard(shared_groups: SharedGroups) -> Guard {
    Guard {
        policy: an_id(9),
        ports: vec![ports("22")],
        lockdown: Lockdown::Strict,
        shared_groups,
    }
}

/// A world, and what the loop remembers.
#[derive(Clone)]
struct World {
    model: Model,
    guard: Option<Guard>,
    grants: Vec<WantedGrant>,
    displaced: Vec<Displaced>,
}

impl World {
    /// An instance with two interfaces in a group that another machine has too.
    fn shared() -> Self {
        let mut model = Model::default();
        model.uninterrupted = true;
        let rules = vec![
            tcp((22, 22), "0.0.0.0/0"),
            tcp((443, 443), "0.0.0.0/0"),
            tcp((0, 65535), "10.0.0.0/8"),
        ];
        model.add_group(SHARED, rules);
        for interface in ["eni-0", "eni-1", "eni-other"] {
            model.add_interface(interface, &[SHARED]);
        }
        Self {
            model,
            guard: Some(guard(SharedGroups::Isolate)),
            grants: Vec::new(),
            displaced: Vec::new(),
        }
    }

    fn desired(&self) -> Desired {
        let machine = AwsInstance::new("123456789012", "eu-west-1", INSTANCE).unwrap();
        Desired {
            installation: installation(),
            point: PointRef::AwsInstance(machine.clone()),
            members: vec![Member {
                machine: MachineId::Aws(machine),
                addresses: Vec::new(),
                interfaces: Vec::new(),
                guard: self.guard.clone(),
                approach: None,
                grants: self.grants.clone(),
            }],
            displaced: self.displaced.clone(),
            unsettled: false,
        }
    }

    fn observe(&self) -> ObservedInstance {
        let own = |interface: &&ObservedInterface| !interface.id.starts_with("eni-other");
        let groups = &self.model.groups;
        let interfaces: Vec<ObservedInterface> =
            self.model.interfaces.values().filter(own).cloned().collect();
        let others: Vec<ObservedInterface> = (self.model.interfaces.values())
            .filter(|interface| !own(interface))
            .cloned()
            .collect();
        let marked = groups.values().filter_map(|group| {
            let of = postern_core::inventory::copied_from(group)?;
            Some((of, group))
        });
        let (mut copies, mut strange_copies) = (Vec::new(), BTreeMap::new());
        for (of, group) in marked {
            if group.name == copy_name(&installation(), INSTANCE, &of) {
                let on = others.iter().filter(|one| one.groups.contains(&group.id));
                copies.push(Copied {
                    elsewhere: on
                        .map(|interface| Elsewhere {
                            interface: interface.clone(),
                            instance: (!interface.id.contains("free")).then(|| "i-other".to_owned()),
                        })
                        .collect(),
                    ..Copied::new(of, group.clone())
                });
            } else {
                strange_copies.insert(group.id.clone(), of);
            }
        }
        let name = holder_name(&installation(), INSTANCE);
        let holders: Vec<SecurityGroup> = groups
            .values()
            .filter(|group| group.name == name)
            .cloned()
            .collect();
        let mut ids: BTreeSet<String> = interfaces.iter().flat_map(|one| one.groups.clone()).collect();
        ids.retain(|id| {
            !copies.iter().any(|copy| copy.group.id == *id)
                && !strange_copies.contains_key(id)
                && !holders.iter().any(|holder| holder.id == *id)
        });
        ids.extend(copies.iter().map(|copy| copy.of.clone()));
        ids.extend(strange_copies.values().cloned());
        let names = |group: &&SecurityGroup, id: &str| {
            group
                .ingress
                .iter()
                .any(|rule| matches!(&rule.peer, SgPeer::Group { group, .. } if group == id))
        };
        let originals = ids.into_iter().map(|id| Original {
            group: groups.get(&id).cloned(),
            others: (others.iter().filter(|one| one.groups.contains(&id)))
                .map(|one| one.id.clone())
                .collect(),
            named_by: groups
                .values()
                .filter(|group| names(group, &id))
                .map(|group| group.id.clone())
                .collect(),
            id,
        });
        ObservedInstance {
            instance: INSTANCE.to_owned(),
            originals: originals.collect(),
            interfaces,
            ipv6_vpcs: BTreeSet::new(),
            holders,
            impostors: Vec::new(),
            strays: Vec::new(),
            misplaced: BTreeSet::new(),
            copies,
            strange_copies,
            false_copies: Vec::new(),
            named_by: BTreeMap::new(),
            limits: AwsLimits::default(),
        }
    }

    fn plan(&self) -> Plan {
        self.observe().plan(&self.desired())
    }

    /// As the loop does, up to a crash: what is taken off is saved first, what is settled is forgotten.
    fn pass(&mut self, crash: usize) -> Plan {
        let plan = self.plan();
        for new in plan.changes.iter().flat_map(|change| &change.displaces) {
            if self.displaced.iter().all(|known| known.id != new.id) {
                self.displaced.push(new.clone());
            }
        }
        let foreseen = self.observe().filters(&plan.changes);
        self.model.run(&plan.changes, crash).unwrap();
        if crash >= plan.changes.len() {
            let Some(Filters::Instance { after, .. }) = foreseen else {
                panic!("{foreseen:?}");
            };
            let Some(Filters::Instance { before: now, .. }) = self.observe().filters(&[]) else {
                panic!("an instance tells its groups");
            };
            assert_eq!(lets_in(&after), lets_in(&now), "as foreseen");
            let settled = self.plan().settled;
            self.displaced.retain(|one| !settled.contains(&one.id));
        }
        plan
    }

    fn settled(mut self) -> Self {
        self.pass(usize::MAX);
        assert_eq!(calls(&self.plan()), NOTHING, "one pass is enough");
        self
    }

    fn copy(&self) -> &SecurityGroup {
        let is_copy = |group: &&SecurityGroup| group.name.contains("-sg-");
        self.model.groups.values().find(is_copy).unwrap()
    }

    fn groups_at(&self, interface: &str) -> Vec<String> {
        self.model.interfaces[interface].groups.clone()
    }

    fn reaches(&self, interface: &str, port: u16) -> bool {
        let passing = self.model.passing();
        passing
            .iter()
            .any(|(at, _, to, _)| at == interface && *to == port)
    }
}

/// The rules of each interface's groups.
fn lets_in(attached: &Attached) -> BTreeMap<&String, BTreeSet<Content>> {
    let rules = |ids: &Vec<String>| {
        let groups = attached.groups.iter().filter(|group| ids.contains(&group.id));
        groups.flat_map(|group| &group.ingress).map(Content::of).collect()
    };
    let interfaces = attached.interfaces.iter();
    interfaces.map(|(id, groups)| (id, rules(groups))).collect()
}

fn calls(plan: &Plan) -> Vec<String> {
    let call = |change: &Change| change.operation["call"].as_str().unwrap().to_owned();
    plan.changes.iter().map(call).collect()
}

fn codes(plan: &Plan) -> Vec<&str> {
    plan.findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

#[test]
fn a_machine_gets_a_copy_without_the_guarded_port_and_its_group_back() {
    let mut world = World::shared();
    let before = world.model.essence();
    let plan = world.pass(usize::MAX);
    assert_eq!(
        calls(&plan),
        [
            "create_copy",
            "trim_egress",
            "authorize",
            "set_groups",
            "set_groups"
        ]
    );
    let copy = world.copy().id.clone();
    for interface in ["eni-0", "eni-1"] {
        assert_eq!(world.groups_at(interface), std::slice::from_ref(&copy));
        assert!(!world.reaches(interface, 22) && world.reaches(interface, 443));
    }
    assert!(world.reaches("eni-other", 22), "others keep what they have");
    assert_eq!(world.displaced.len(), 2, "one for each interface");
    let kept: Vec<String> = kept(&world.model.groups[SHARED], &[ports("22")])
        .into_keys()
        .map(|content| content.to_string())
        .collect();
    assert_eq!(
        kept,
        [
            "0-21/tcp from 10.0.0.0/8",
            "23-65535/tcp from 10.0.0.0/8",
            "443/tcp from 0.0.0.0/0"
        ]
    );
    assert_eq!(codes(&world.plan()), ["shared_group"]);

    let mut world = world.settled();
    world.guard = None;
    let plan = world.pass(usize::MAX);
    assert_eq!(calls(&plan), ["set_groups", "set_groups", "delete_holder"]);
    assert_eq!(world.model.essence(), before);
    assert_eq!(world.displaced, [], "nothing is left to give back");
}

#[test]
fn a_group_comes_back_before_anything_is_deleted() {
    let mut world = World::shared().settled();
    world.guard = None;
    let copy = world.copy().id.clone();
    // EC2 may refuse for good to delete it, for something that does not show.
    world.model.add_group("sg-0000000000000stuck", Vec::new());
    let holder = world.model.group("sg-0000000000000stuck").unwrap();
    holder.name = holder_name(&installation(), INSTANCE);
    holder.tags = holder_tags(&installation(), INSTANCE);
    let plan = world.plan();
    assert_eq!(
        calls(&plan),
        ["set_groups", "set_groups", "delete_holder", "delete_holder"]
    );
    let deleted = |at: usize| plan.changes[at].target.as_str();
    assert_eq!([deleted(2), deleted(3)], ["sg-0000000000000stuck", &copy]);
}

#[test]
fn a_crash_between_any_two_calls_leaves_what_the_next_pass_settles() {
    let before = World::shared().model.essence();
    let steps = World::shared().plan().changes.len();
    let whole = World::shared().settled();
    for crash in 0..=steps {
        let mut world = World::shared();
        world.pass(crash);
        let mut world = world.settled();
        let shown = |world: &World| (world.model.passing(), world.model.egress(), world.displaced.len());
        assert_eq!(shown(&world), shown(&whole), "after {crash} calls");
        world.guard = None;
        let back = world.plan().changes.len();
        for crash in 0..=back {
            let mut world = world.clone();
            world.pass(crash);
            let world = world.settled();
            assert_eq!(
                world.model.essence(),
                before,
                "after {crash} calls of giving back"
            );
            assert_eq!(world.displaced, []);
        }
        // The policy goes before the copy was ever attached.
        let mut world = World::shared();
        world.pass(crash);
        world.guard = None;
        assert_eq!(world.settled().model.essence(), before);
    }
}

#[test]
fn a_copy_follows_its_group() {
    let mut world = World::shared().settled();
    let mut group = world.model.groups[SHARED].clone();
    group.ingress.retain(|rule| rule.ports != Some((443, 443)));
    world.model.put(&mut group, tcp((20, 25), "198.51.100.0/24"));
    group.egress = Vec::new();
    world.model.groups.insert(SHARED.to_owned(), group);
    // Others narrowed it, so that something is interrupted.
    world.model.uninterrupted = false;
    let plan = world.pass(usize::MAX);
    assert_eq!(calls(&plan), ["trim_egress", "authorize", "revoke"]);
    let world = world.settled();
    let web = ("eni-0".to_owned(), Protocol::Tcp, 443, "203.0.113.7".to_owned());
    assert!(!world.reaches("eni-0", 22) && !world.model.passing().contains(&web));
    assert!(world.reaches("eni-0", 21) && world.reaches("eni-0", 23));
    assert_eq!(world.copy().egress, []);
}

#[test]
fn what_others_write_into_a_copy_is_removed_and_told_where_it_opens_a_guarded_port() {
    let mut world = World::shared().settled();
    let mut copy = world.copy().clone();
    world.model.put(&mut copy, tcp((22, 22), "198.51.100.0/24"));
    world.model.groups.insert(copy.id.clone(), copy);
    let plan = world.pass(usize::MAX);
    assert_eq!(calls(&plan), ["revoke"]);
    assert_eq!(codes(&plan), ["foreign_rule_opens", "shared_group"]);
    assert!(!world.settled().reaches("eni-0", 22));
}

#[test]
fn a_group_that_comes_back_beside_its_copy_or_instead_of_it_goes_again() {
    for beside in [true, false] {
        let mut world = World::shared().settled();
        let copy = world.copy().id.clone();
        let mut groups = vec![SHARED.to_owned()];
        groups.extend(beside.then(|| copy.clone()));
        world.model.interfaces.get_mut("eni-0").unwrap().groups = groups;
        let plan = world.pass(usize::MAX);
        assert_eq!(calls(&plan), ["set_groups"]);
        assert_eq!(plan.changes[0].displaces, [], "it was saved before");
        assert_eq!(world.groups_at("eni-0"), [copy]);
        let mut world = world.settled();
        world.guard = None;
        assert_eq!(world.settled().groups_at("eni-0"), [SHARED]);
    }
}

#[test]
fn whoever_takes_a_copy_off_takes_its_group_off() {
    let mut world = World::shared();
    world
        .model
        .add_group("sg-theirs", vec![tcp((80, 80), "0.0.0.0/0")]);
    let mut world = world.settled();
    world.model.interfaces.get_mut("eni-0").unwrap().groups = vec!["sg-theirs".to_owned()];
    let plan = world.plan();
    assert_eq!(
        (codes(&plan), plan.settled.len()),
        (vec!["shared_group", "own_rule_missing"], 1)
    );
    let mut world = world.settled();
    world.guard = None;
    let world = world.settled();
    assert_eq!(world.groups_at("eni-0"), ["sg-theirs"]);
    assert_eq!(world.groups_at("eni-1"), [SHARED]);
}

#[test]
fn a_group_that_rules_name_is_not_copied_and_they_are_named() {
    let mut world = World::shared();
    let mut from_shared = tcp((5432, 5432), "10.0.0.0/8");
    from_shared.peer = SgPeer::Group {
        group: SHARED.to_owned(),
        account: None,
        stale: false,
    };
    world.model.add_group("sg-database", vec![from_shared]);
    let plan = world.plan();
    assert_eq!(calls(&plan), NOTHING);
    let obstacle = &plan.obstacles[0];
    assert_eq!(obstacle.code, "shared_group");
    assert_eq!(obstacle.policies, [an_id(9)]);
    for name in ["sg-database", "eni-other", SHARED] {
        assert!(obstacle.message.contains(name), "{}", obstacle.message);
    }
}

#[test]
fn a_group_of_the_machines_own_or_without_guarded_ports_is_not_copied() {
    let mut alone = World::shared();
    alone.model.interfaces.remove("eni-other");
    assert_eq!(calls(&alone.plan()), NOTHING);
    let mut shut = World::shared();
    shut.guard.as_mut().unwrap().ports = vec![ports("161/udp")];
    assert_eq!(calls(&shut.plan()), NOTHING);
    for shared_groups in [SharedGroups::Refuse, SharedGroups::Revoke] {
        let mut other = World::shared();
        other.guard = Some(guard(shared_groups));
        assert_eq!(calls(&other.plan()), NOTHING);
    }
    let mut defers = World::shared();
    defers.guard.as_mut().unwrap().lockdown = Lockdown::Defer;
    assert_eq!(calls(&defers.plan()), NOTHING);
}

#[test]
fn under_another_policy_a_copy_stays_until_its_group_is_shut() {
    let mut world = World::shared().settled();
    world.guard = Some(guard(SharedGroups::Revoke));
    let mut world = world.settled();
    assert_ne!(world.groups_at("eni-0"), [SHARED]);
    let mut group = world.model.groups[SHARED].clone();
    group.ingress.retain(|rule| rule.ports == Some((443, 443)));
    world.model.groups.insert(SHARED.to_owned(), group);
    world.model.uninterrupted = false;
    world.pass(usize::MAX);
    let world = world.settled();
    assert_eq!(world.groups_at("eni-0"), [SHARED]);
    assert_eq!(world.displaced, []);
}

#[test]
fn a_copy_of_a_group_that_is_gone_stays_and_says_so() {
    let mut world = World::shared().settled();
    world.model.interfaces.remove("eni-other");
    world.model.groups.remove(SHARED);
    for guard in [world.guard.clone(), None] {
        world.guard = guard;
        let plan = world.plan();
        assert_eq!(calls(&plan), NOTHING);
        assert_eq!(codes(&plan), ["displaced_group_gone"]);
    }
}

#[test]
fn a_copy_that_came_with_an_interface_from_another_instance_gives_way() {
    let mut world = World::shared();
    let copy = SecurityGroup {
        id: "sg-0000000000000c0de".to_owned(),
        name: copy_name(&installation(), "i-0fedcba9876543210", SHARED),
        vpc: "vpc-1".to_owned(),
        ingress: kept(&world.model.groups[SHARED], &[ports("22")])
            .into_values()
            .collect(),
        egress: default_egress(false),
        tags: BTreeMap::from([(
            postern_core::inventory::MARK_TAG.to_owned(),
            copy_mark(&installation(), SHARED).to_string(),
        )]),
    };
    world.model.interfaces.get_mut("eni-0").unwrap().groups = vec![copy.id.clone()];
    world.model.groups.insert(copy.id.clone(), copy.clone());
    let mut freed = world.clone();
    let world = world.settled();
    assert_eq!(world.groups_at("eni-0"), world.groups_at("eni-1"));
    assert_ne!(world.groups_at("eni-0"), [copy.id]);
    assert!(!world.reaches("eni-0", 22));

    freed.guard = None;
    let plan = freed.pass(usize::MAX);
    assert_eq!(codes(&plan), ["own_rule_edited"]);
    assert_eq!(freed.settled().groups_at("eni-0"), [SHARED]);
}

#[test]
fn a_copy_is_not_deleted_while_an_interface_of_others_has_it() {
    let mut world = World::shared().settled();
    let copy = world.copy().id.clone();
    world.model.add_interface("eni-other-free", &[&copy]);
    world.guard = None;
    let mut elsewhere = world.clone();
    let world = world.settled();
    assert_eq!(world.groups_at("eni-other-free"), [SHARED], "no instance has it");
    assert!(!world.model.groups.contains_key(&copy));

    elsewhere.model.interfaces.remove("eni-other-free");
    elsewhere.model.add_interface("eni-other-2", &[&copy]);
    let plan = elsewhere.pass(usize::MAX);
    assert_eq!(calls(&plan), ["set_groups", "set_groups"]);
    assert_eq!(codes(&plan), ["own_rule_edited"]);
    assert!(elsewhere.model.groups.contains_key(&copy));
}

#[test]
fn what_looks_like_a_copy_puts_no_group_on_an_interface() {
    let mut world = World::shared().settled();
    let copy = world.copy().id.clone();
    world.model.add_interface("eni-other-free", &[&copy]);
    world.guard = None;
    // As after somebody made the group: nothing is known of an interface that had what it seems to stand for.
    world.displaced.clear();
    let plan = world.pass(usize::MAX);
    assert_eq!(world.groups_at("eni-other-free"), [copy]);
    assert!(codes(&plan).contains(&"own_rule_edited"));
}

#[test]
fn a_grant_opens_beside_the_copy_and_closes_without_it() {
    let mut world = World::shared();
    world.grants = vec![WantedGrant {
        grant: an_id(1),
        ports: vec![ports("22")],
        sources: vec!["203.0.113.7".parse().unwrap()],
        not_after: at(600),
        opening: false,
    }];
    world.pass(usize::MAX);
    let mut world = world.settled();
    assert_eq!(world.groups_at("eni-0").len(), 2);
    assert!(world.reaches("eni-0", 22));
    world.grants = Vec::new();
    world.pass(usize::MAX);
    let world = world.settled();
    assert_eq!(world.groups_at("eni-0"), [world.copy().id.clone()]);
    assert!(!world.reaches("eni-0", 22));
}
