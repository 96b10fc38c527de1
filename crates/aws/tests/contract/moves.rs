//! Machines and interfaces that change while a grant is open: nothing of ours stays where it has no business.

use aws_sdk_ec2::types::NetworkInterfaceAttachment;
use postern_core::{
    enforcer::{Bindings, Enforcer as _},
    point::PointRef,
};

use crate::{
    fleet::Fleet,
    stage::{Endpoint, Flavour, Stage, grant, open, tcp},
};

/// Runs every case.
pub(crate) async fn run(endpoint: &Endpoint) {
    a_stopped_machine_is_opened_and_closed(endpoint).await;
    a_terminated_machine_leaves_no_holder(endpoint).await;
    what_others_do_to_an_interface_between_plan_and_write_stays(endpoint).await;
    a_holder_without_its_mark_closes_with_its_grants(endpoint).await;
    match endpoint.flavour {
        Flavour::Simulator => {
            an_interface_that_moves_takes_no_holder_along(endpoint).await;
            an_interface_that_is_added_is_opened_too(endpoint).await;
        }
        // moto does not show at the instance what is attached to it later.
        Flavour::Moto => {}
    }
}

async fn router(endpoint: &Endpoint) -> Fleet {
    let mut fleet = Fleet::of(endpoint).await;
    fleet
        .group("front", vec![tcp(443, 443, "0.0.0.0/0", "web")])
        .await;
    fleet.group("back", Vec::new()).await;
    fleet.machine("router", &[&["front"], &["back"]]).await;
    fleet.machine("other", &[&["front"]]).await;
    fleet
}

fn instance(fleet: &Fleet, name: &str) -> String {
    fleet.machines[name].machine.instance().to_owned()
}

async fn a_stopped_machine_is_opened_and_closed(endpoint: &Endpoint) {
    let mut fleet = router(endpoint).await;
    let before = fleet.text().await;
    let id = instance(&fleet, "router");
    let stop = fleet.stage.admin.stop_instances().instance_ids(id);
    stop.send().await.unwrap();
    assert!(fleet.open("router", &[grant(1, "22")]).await);
    assert!(fleet.text().await.contains("at router/1: back, holder of router"));
    fleet.open("router", &[]).await;
    assert_eq!(fleet.text().await, before);
}

async fn a_holder_without_its_mark_closes_with_its_grants(endpoint: &Endpoint) {
    for mark in [None, Some("postern:suite copy=sg-0123456789abcdef0")] {
        let mut fleet = router(endpoint).await;
        let before = fleet.text().await;
        assert!(fleet.open("router", &[grant(1, "22")]).await);
        let wanted = fleet.wanted("router", &[grant(1, "22")]);
        let observed = fleet.stage.observe(&wanted).await;
        let evidence = observed.evidence(&wanted);
        let group = evidence.values().next().unwrap().rules[0]["group"].clone();
        fleet.retag(group.as_str().unwrap(), mark).await;
        assert!(fleet.open("router", &[grant(1, "22")]).await, "it stays open");
        let plan = fleet.stage.observe(&wanted).await.plan(&wanted);
        assert_eq!(plan.findings[0].code, "own_rule_edited", "{plan:?}");
        fleet.open("router", &[]).await;
        assert_eq!(fleet.text().await, before);
    }
}

async fn a_terminated_machine_leaves_no_holder(endpoint: &Endpoint) {
    let mut fleet = router(endpoint).await;
    let router = PointRef::AwsInstance(fleet.machines["router"].machine.clone());
    // moto lets go of groups that interfaces have, which other cases leave behind for discovery to stumble over.
    let is_told = async |fleet: &Fleet, told: bool| {
        if matches!(endpoint.flavour, Flavour::Simulator) {
            let marked = fleet.stage.marked().await;
            assert_eq!(marked.contains(&router), told, "{marked:?}");
        }
    };
    is_told(&fleet, false).await;
    assert!(fleet.open("router", &[grant(1, "22")]).await);
    let id = instance(&fleet, "router");
    let end = fleet.stage.admin.terminate_instances().instance_ids(id);
    end.send().await.unwrap();
    is_told(&fleet, true).await;
    fleet.open("router", &[]).await;
    let text = fleet.text().await;
    assert!(!text.contains("holder"), "{text}");
    is_told(&fleet, false).await;
}

async fn what_others_do_to_an_interface_between_plan_and_write_stays(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |_| {}).await;
    let built = stage.build(Vec::new()).await;
    let more = async |name: &str| {
        let made = stage.admin.create_security_group().vpc_id(&built.vpc);
        let made = made.group_name(name).description(name).send().await.unwrap();
        made.group_id().unwrap().to_owned()
    };
    let set = async |groups: Vec<String>| {
        let call = stage.admin.modify_network_interface_attribute();
        let call = call
            .network_interface_id(&built.interface)
            .set_groups(Some(groups));
        call.send().await.unwrap();
    };
    let (first, second) = (more("first").await, more("second").await);
    let wanted = open(&built, vec![grant(1, "22")]);
    for (desired, others) in [
        (&wanted, [&built.group, &first]),
        (&open(&built, Vec::new()), [&first, &second]),
    ] {
        let plan = stage.observe(desired).await.plan(desired);
        let holders: Vec<String> = stage
            .groups_of(&built.interface)
            .await
            .into_iter()
            .filter(|group| ![&built.group, &first].contains(&group))
            .collect();
        set(others.into_iter().cloned().chain(holders).collect()).await;
        let mut bindings = Bindings::new();
        for change in &plan.changes {
            let done = stage.enforcer.apply(&desired.point, change, &mut bindings).await;
            done.unwrap_or_else(|error| panic!("{}: {error}", change.summary));
        }
        let groups = stage.groups_of(&built.interface).await;
        for group in others {
            assert!(groups.contains(group), "{groups:?}");
        }
        let ours = desired
            .members
            .iter()
            .map(|member| member.grants.len())
            .sum::<usize>();
        assert_eq!(groups.len(), 2 + ours, "{groups:?}");
    }
}

async fn attachment(fleet: &Fleet, interface: &str) -> NetworkInterfaceAttachment {
    let shown = fleet
        .stage
        .admin
        .describe_network_interfaces()
        .network_interface_ids(interface);
    let shown = shown.send().await.unwrap();
    shown.network_interfaces()[0].attachment().unwrap().clone()
}

async fn attach(fleet: &Fleet, interface: &str, machine: &str, index: i32) {
    let attach = fleet
        .stage
        .admin
        .attach_network_interface()
        .network_interface_id(interface)
        .instance_id(instance(fleet, machine))
        .device_index(index);
    attach.send().await.unwrap();
}

async fn detach(fleet: &Fleet, interface: &str) {
    let attached = attachment(fleet, interface).await;
    let detach = fleet
        .stage
        .admin
        .detach_network_interface()
        .attachment_id(attached.attachment_id().unwrap());
    detach.send().await.unwrap();
}

async fn an_interface_that_moves_takes_no_holder_along(endpoint: &Endpoint) {
    let grants = [grant(1, "22")];
    for wanted in [&grants[..], &[]] {
        let mut fleet = router(endpoint).await;
        assert!(fleet.open("router", &grants).await);
        let moved = fleet.machines["router"].interfaces[1].clone();
        detach(&fleet, &moved).await;
        attach(&fleet, &moved, "other", 1).await;
        let is_open = fleet.open("router", wanted).await;
        assert_eq!(is_open, !wanted.is_empty());
        let text = fleet.text().await;
        assert!(text.contains("at router/1: back\n"), "{text}");
        assert_eq!(text.contains("holder of router: 22/tcp"), is_open, "{text}");
    }
}

async fn an_interface_that_is_added_is_opened_too(endpoint: &Endpoint) {
    let mut fleet = router(endpoint).await;
    let moved = fleet.machines["router"].interfaces[1].clone();
    detach(&fleet, &moved).await;
    let grants = [grant(1, "22")];
    assert!(fleet.open("router", &grants).await);
    assert!(fleet.text().await.contains("at router/1: back\n"));
    attach(&fleet, &moved, "router", 1).await;
    assert!(fleet.open("router", &grants).await);
    let text = fleet.text().await;
    assert!(text.contains("at router/1: back, holder of router\n"), "{text}");
}
