//! Private copies at the wire: what others do meanwhile, crashes between any two calls, and what the sweeper sees.

use aws_sdk_ec2::types::{IpPermission, IpRange};
use postern_core::{
    enforcer::{Bindings, Desired, EnforceError, Enforcer as _},
    mark::Purpose,
    policy::SharedGroups,
};

use postern_sim::{Faults, When};

use crate::{
    fleet::Fleet,
    fleets::from_group,
    stage::{Endpoint, grant, installation, tcp},
};

/// Runs every case; the simulator's alone, because moto does not tell whose rules name a group.
pub(crate) async fn run(endpoint: &Endpoint, faults: &Faults) {
    a_crash_between_any_two_calls_is_made_good(endpoint).await;
    a_group_that_rules_name_is_left_alone(endpoint).await;
    two_machines_of_the_policy_get_a_copy_each(endpoint).await;
    what_others_do_to_group_and_copy_is_followed_or_put_right(endpoint).await;
    a_terminated_machine_leaves_no_copy(endpoint).await;
    a_copy_that_is_elsewhere_is_not_said_to_be_nowhere(endpoint).await;
    the_sweeper_lists_a_copy_and_does_not_open_what_it_closes(endpoint).await;
    a_copy_without_its_mark_is_a_copy(endpoint).await;
    what_a_copy_stands_for_is_not_taken_from_its_tag(endpoint).await;
    what_may_not_be_asked_about_names_keeps_nothing_open(endpoint, faults).await;
}

async fn groups_at(fleet: &Fleet, machine: &str) -> Vec<String> {
    let interface = &fleet.machines[machine].interfaces[0];
    let shown = fleet.stage.admin.describe_network_interfaces();
    let shown = shown.network_interface_ids(interface).send().await.unwrap();
    let groups = shown.network_interfaces()[0].groups().iter();
    groups.map(|group| group.group_id().unwrap().to_owned()).collect()
}

async fn a_copy_without_its_mark_is_a_copy(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let copy = groups_at(&fleet, "ours").await;
    fleet.retag(&copy[0], None).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    assert_eq!(groups_at(&fleet, "ours").await, copy);
    let wanted = fleet.wanted("ours", &[]);
    let plan = fleet.stage.observe(&wanted).await.plan(&wanted);
    assert_eq!(plan.findings[0].code, "own_rule_edited", "{plan:?}");
    fleet.lock(&[], SharedGroups::Isolate).await;
    assert_eq!(
        groups_at(&fleet, "ours").await,
        [fleet.groups["team"].clone()],
        "what the copy stood for comes back"
    );
}

async fn what_a_copy_stands_for_is_not_taken_from_its_tag(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet
        .group("wide", vec![tcp(0, 65535, "0.0.0.0/0", "anything")])
        .await;
    let before = fleet.text().await;
    let wide = format!("postern:suite copy={}", fleet.groups["wide"]);
    for mark in [wide.as_str(), "postern:suite holder"] {
        for locked in [false, true] {
            fleet.lock(&["ours"], SharedGroups::Isolate).await;
            let copy = groups_at(&fleet, "ours").await;
            fleet.retag(&copy[0], Some(mark)).await;
            if locked {
                fleet.lock(&["ours"], SharedGroups::Isolate).await;
                assert_eq!(groups_at(&fleet, "ours").await, copy, "{mark}");
            }
            fleet.lock(&[], SharedGroups::Isolate).await;
            assert_eq!(fleet.text().await, before, "{mark}");
        }
    }
}

async fn what_may_not_be_asked_about_names_keeps_nothing_open(endpoint: &Endpoint, faults: &Faults) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    assert!(fleet.open("ours", &[grant(1, "22")]).await);
    let refused = "DescribeSecurityGroupReferences";
    let id = faults.add(crate::fault(
        refused,
        When::Always,
        crate::refusal(403, "UnauthorizedOperation"),
    ));
    fleet.open("ours", &[]).await;
    let text = fleet.text().await;
    assert!(!text.contains("holder"), "{text}");
    assert!(text.contains("at ours/0: copy of team for ours"), "{text}");
    // And nobody is isolated on a guess.
    fleet.machine("late", &[&["team"]]).await;
    fleet.lock(&["late"], SharedGroups::Isolate).await;
    let wanted = fleet.wanted("late", &[]);
    let plan = fleet.stage.observe(&wanted).await.plan(&wanted);
    assert_eq!(plan.obstacles[0].code, "shared_group");
    assert!(plan.obstacles[0].message.contains(refused), "{plan:?}");
    faults.remove(id);
}

async fn shared(endpoint: &Endpoint) -> Fleet {
    let mut fleet = Fleet::of(endpoint).await;
    let rules = vec![tcp(22, 22, "0.0.0.0/0", "ssh"), tcp(443, 443, "0.0.0.0/0", "web")];
    fleet.group("team", rules).await;
    fleet.machine("ours", &[&["team"]]).await;
    fleet.machine("theirs", &[&["team"]]).await;
    fleet
}

/// Carries a plan out up to a crash: what it takes off is saved before.
async fn crash(fleet: &mut Fleet, desired: &mut Desired, after: usize) -> usize {
    let plan = fleet.stage.pass(desired, after).await;
    for new in plan.changes.iter().flat_map(|change| &change.displaces) {
        if desired.displaced.iter().all(|known| known.id != new.id) {
            desired.displaced.push(new.clone());
        }
    }
    fleet
        .replaced
        .insert("ours".to_owned(), desired.displaced.clone());
    plan.changes.len()
}

async fn a_crash_between_any_two_calls_is_made_good(endpoint: &Endpoint) {
    let (mut there, mut back) = (0, 0);
    loop {
        let mut fleet = shared(endpoint).await;
        let before = fleet.text().await;
        fleet.lock(&[], SharedGroups::Isolate).await;
        let mut locked = fleet.wanted("ours", &[]);
        locked.members[0].guard = Some(guard());
        let steps = crash(&mut fleet, &mut locked, there).await;
        fleet.lock(&["ours"], SharedGroups::Isolate).await;
        let text = fleet.text().await;
        assert!(text.contains("at ours/0: copy of team for ours"), "{text}");
        assert!(!text.contains("group copy of team for ours: 22/tcp"), "{text}");
        let mut free = fleet.wanted("ours", &[]);
        free.members[0].guard = None;
        let backwards = crash(&mut fleet, &mut free, back).await;
        fleet.lock(&[], SharedGroups::Isolate).await;
        assert_eq!(
            fleet.text().await,
            before,
            "after {there} calls there and {back} back"
        );
        if there == steps && back == backwards {
            return;
        }
        there = steps.min(there + 1);
        back = backwards.min(back + 1);
    }
}

fn guard() -> postern_core::enforcer::Guard {
    postern_core::enforcer::Guard {
        policy: postern_core::testing::an_id(9),
        ports: vec![postern_core::testing::ports("22")],
        lockdown: postern_core::policy::Lockdown::Strict,
        shared_groups: SharedGroups::Isolate,
    }
}

async fn a_group_that_rules_name_is_left_alone(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    let rules = vec![from_group(5432, &fleet.groups["team"])];
    fleet.group("database", rules).await;
    let before = fleet.text().await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    assert_eq!(fleet.text().await, before);
    let wanted = fleet.wanted("ours", &[]);
    let plan = fleet.stage.observe(&wanted).await.plan(&wanted);
    assert_eq!(plan.obstacles[0].code, "shared_group");
    let message = &plan.obstacles[0].message;
    assert!(message.contains(&fleet.groups["database"]), "{message}");
    assert!(
        message.contains(fleet.machines["theirs"].machine.instance()),
        "{message}"
    );

    // So is one that names itself.
    let mut fleet = shared(endpoint).await;
    let own = vec![from_group(9000, &fleet.groups["team"])];
    fleet.allow("team", own).await;
    let before = fleet.text().await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    assert_eq!(fleet.text().await, before);
}

async fn two_machines_of_the_policy_get_a_copy_each(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    let before = fleet.text().await;
    fleet.lock(&["ours", "theirs"], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    for machine in ["ours", "theirs"] {
        assert!(
            text.contains(&format!("at {machine}/0: copy of team for {machine}")),
            "{text}"
        );
    }
    assert!(
        text.contains("group team: 22/tcp in from 0.0.0.0/0 (ssh)"),
        "{text}"
    );
    fleet.lock(&["theirs"], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    assert!(text.contains("at ours/0: team\n") && text.contains("at theirs/0: copy of team for theirs"));
    fleet.lock(&[], SharedGroups::Isolate).await;
    assert_eq!(fleet.text().await, before);
}

async fn what_others_do_to_group_and_copy_is_followed_or_put_right(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    fleet
        .allow("team", vec![tcp(20, 25, "198.51.100.0/24", "mail")])
        .await;
    let everywhere = IpPermission::builder()
        .ip_protocol("-1")
        .ip_ranges(IpRange::builder().cidr_ip("0.0.0.0/0").build())
        .build();
    let closed = fleet.stage.admin.revoke_security_group_egress();
    let closed = closed.group_id(&fleet.groups["team"]).ip_permissions(everywhere);
    closed.send().await.unwrap();
    let opened = fleet.stage.admin.authorize_security_group_egress();
    let opened = opened
        .group_id(&fleet.groups["team"])
        .ip_permissions(tcp(443, 443, "10.0.0.0/8", "inside"));
    opened.send().await.unwrap();
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    let out: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("copy of team for ours") && line.contains(" out to "))
        .collect();
    assert_eq!(
        out,
        ["group copy of team for ours: 443/tcp out to 10.0.0.0/8 (inside)"]
    );
    for kept in ["20-21/tcp", "23-25/tcp"] {
        let line = format!("group copy of team for ours: {kept} in from 198.51.100.0/24 (mail)");
        assert!(text.contains(&line), "{text}");
    }

    // Somebody puts the group back: Terraform knows of no copy.
    let interface = fleet.machines["ours"].interfaces[0].clone();
    let set = fleet.stage.admin.modify_network_interface_attribute();
    let set = set.network_interface_id(&interface).groups(&fleet.groups["team"]);
    set.send().await.unwrap();
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    assert!(text.contains("at ours/0: copy of team for ours"), "{text}");
    fleet.lock(&[], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    assert!(
        text.contains("at ours/0: team\n") && !text.contains("copy"),
        "{text}"
    );
}

async fn a_terminated_machine_leaves_no_copy(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let id = fleet.machines["ours"].machine.instance().to_owned();
    let end = fleet.stage.admin.terminate_instances().instance_ids(id);
    end.send().await.unwrap();
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let text = fleet.text().await;
    assert!(!text.contains("group copy"), "{text}");
}

async fn a_copy_that_is_elsewhere_is_not_said_to_be_nowhere(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let copy = groups_at(&fleet, "ours").await.remove(0);
    let naming = vec![from_group(5432, &copy)];
    fleet.group("database", naming).await;
    let own = &fleet.machines["ours"].interfaces[0];
    let shown = fleet.stage.admin.describe_network_interfaces();
    let shown = shown.network_interface_ids(own).send().await.unwrap();
    let subnet = shown.network_interfaces()[0].subnet_id().unwrap();
    let stray = fleet.stage.admin.create_network_interface().subnet_id(subnet);
    stray.groups(&copy).send().await.unwrap();

    let mut free = fleet.wanted("ours", &[]);
    free.members[0].guard = None;
    let told = async || {
        let plan = fleet.stage.pass(&free, 1).await;
        let codes: Vec<String> = plan.findings.into_iter().map(|finding| finding.code).collect();
        (plan.changes.len(), codes)
    };
    // Off its own interface, off the other, and deleted: one at a time, so that it is elsewhere in between.
    assert_eq!(told().await, (3, vec![]));
    assert_eq!(told().await, (2, vec![]));
    assert_eq!(told().await, (0, vec!["own_group_named".to_owned()]));
}

async fn the_sweeper_lists_a_copy_and_does_not_open_what_it_closes(endpoint: &Endpoint) {
    let mut fleet = shared(endpoint).await;
    fleet.lock(&["ours"], SharedGroups::Isolate).await;
    let here = fleet.stage.here();
    let marked = fleet.stage.enforcer.marked(&here, &installation()).await.unwrap();
    let of = fleet.groups["team"].clone();
    let copy = marked
        .iter()
        .find(|marked| marked.mark.purpose == Purpose::Copy { of: of.clone() })
        .unwrap();
    let refused = fleet.stage.enforcer.remove(copy).await;
    assert!(
        matches!(refused, Err(EnforceError::Refused { .. })),
        "{refused:?}"
    );

    // A copy that is there already, as after an answer that was lost, is taken as it was made and no other.
    let mut wanted = fleet.wanted("theirs", &[]);
    wanted.members[0].guard = Some(guard());
    let plan = fleet.stage.observe(&wanted).await.plan(&wanted);
    let create = plan.changes.first().unwrap();
    for _ in 0..2 {
        let mut bindings = Bindings::new();
        let made = fleet
            .stage
            .enforcer
            .apply(&wanted.point, create, &mut bindings)
            .await;
        made.unwrap();
    }
}
