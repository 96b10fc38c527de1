//! Rules that name a group of a peered VPC: displaced and put back as they were, and what becomes of them when the
//! peering connection or the other group is deleted.

use std::net::IpAddr;

use aws_sdk_ec2::types::{IpPermission, UserIdGroupPair};
use postern_core::{
    enforcer::{Bindings, EnforceError, Enforcer as _},
    inventory::Layer,
    machine::{Account, MachineId},
    policy::SharedGroups,
    sg::SgPeer,
};
use postern_sim::{Probe, Protocol, ec2::Ec2Handle};

use crate::{
    fleet::Fleet,
    fleets::{assert_drawn, from_group},
    stage::{Endpoint, REGION, grant, tcp},
};

/// Runs every case.
pub(crate) async fn run(endpoint: &Endpoint, handle: &Ec2Handle) {
    Box::pin(a_rule_comes_back_with_its_group_and_its_connection(
        endpoint, handle,
    ))
    .await;
    Box::pin(a_rule_that_cannot_come_back_keeps_no_other_out(endpoint)).await;
    Box::pin(a_rule_whose_group_is_deleted_meanwhile_is_given_up(endpoint)).await;
    Box::pin(a_stale_rule_is_left_alone_and_copied_nowhere(endpoint)).await;
    Box::pin(drawn(endpoint)).await;
}

/// A machine that a bastion in a peered VPC gets to.
struct Peered {
    fleet: Fleet,
    other_vpc: String,
    bastion: String,
    connection: String,
}

impl Peered {
    async fn draw(endpoint: &Endpoint) -> Self {
        let mut fleet = Fleet::of(endpoint).await;
        let admin = fleet.stage.admin.clone();
        let made = admin.create_vpc().cidr_block("10.9.0.0/16").send().await.unwrap();
        let other_vpc = made.vpc().unwrap().vpc_id().unwrap().to_owned();
        let made = admin.create_security_group().vpc_id(&other_vpc);
        let made = made
            .group_name("bastion")
            .description("bastion")
            .send()
            .await
            .unwrap();
        let bastion = made.group_id().unwrap().to_owned();
        let connection = peer(&fleet, &other_vpc).await;
        let rules = vec![
            from_group(22, &bastion),
            from_group(443, &bastion),
            tcp(22, 22, "198.51.100.0/24", "office"),
        ];
        fleet.group("app", rules).await;
        fleet.machine("app-1", &[&["app"]]).await;
        fleet
            .names
            .insert(bastion.clone(), "the bastion in a peered VPC".to_owned());
        Self {
            fleet,
            other_vpc,
            bastion,
            connection,
        }
    }

    async fn unpeer(&self) {
        let call = self.fleet.stage.admin.delete_vpc_peering_connection();
        call.vpc_peering_connection_id(&self.connection)
            .send()
            .await
            .unwrap();
    }

    /// What stands in the group of the machine, with all that EC2 tells of the groups that it names.
    async fn rules(&self) -> Vec<String> {
        let call = self.fleet.stage.admin.describe_security_groups();
        let shown = call.group_ids(&self.fleet.groups["app"]).send().await.unwrap();
        let rules = shown.security_groups()[0].ip_permissions().iter();
        let mut rules: Vec<String> = rules.map(|rule| format!("{rule:?}")).collect();
        rules.sort();
        rules
    }
}

async fn peer(fleet: &Fleet, other_vpc: &str) -> String {
    let admin = &fleet.stage.admin;
    let asked = admin.create_vpc_peering_connection().vpc_id(&fleet.vpc);
    let asked = asked.peer_vpc_id(other_vpc).send().await.unwrap();
    let id = asked
        .vpc_peering_connection()
        .unwrap()
        .vpc_peering_connection_id();
    let id = id.unwrap().to_owned();
    let call = admin.accept_vpc_peering_connection();
    call.vpc_peering_connection_id(&id).send().await.unwrap();
    id
}

async fn a_rule_comes_back_with_its_group_and_its_connection(endpoint: &Endpoint, handle: &Ec2Handle) {
    let mut peered = Peered::draw(endpoint).await;
    let admin = &peered.fleet.stage.admin;
    let subnet = admin
        .create_subnet()
        .vpc_id(&peered.other_vpc)
        .cidr_block("10.9.1.0/24");
    let subnet = subnet.send().await.unwrap();
    let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
    let jump = admin
        .create_network_interface()
        .subnet_id(subnet)
        .groups(&peered.bastion);
    let jump = jump.send().await.unwrap();
    let jump: IpAddr = jump
        .network_interface()
        .unwrap()
        .private_ip_address()
        .unwrap()
        .parse()
        .unwrap();
    let machine = MachineId::Aws(peered.fleet.machines["app-1"].machine.clone()).to_string();
    let gets_in = |port| {
        let probe = Probe {
            machine: machine.clone(),
            source: jump,
            port,
            protocol: Protocol::Tcp,
        };
        handle.reachable(&probe, None)
    };
    let before = peered.rules().await;
    assert!(
        before.iter().any(|rule| rule.contains(&peered.connection)),
        "{before:?}"
    );
    assert!(gets_in(22) && gets_in(443));

    peered.fleet.lock(&["app-1"], SharedGroups::Refuse).await;
    assert!(!gets_in(22) && gets_in(443));
    peered.fleet.lock(&[], SharedGroups::Refuse).await;
    assert_eq!(peered.rules().await, before);
    assert!(gets_in(22));
    assert!(peered.fleet.displaced.values().all(Vec::is_empty));
}

async fn a_rule_that_cannot_come_back_keeps_no_other_out(endpoint: &Endpoint) {
    let mut peered = Peered::draw(endpoint).await;
    peered.fleet.lock(&["app-1"], SharedGroups::Refuse).await;
    assert_eq!(peered.fleet.displaced["app"].len(), 2);
    peered.unpeer().await;

    peered.fleet.guarded.clear();
    let desired = peered.fleet.wanted_of_group("app");
    let stage = &peered.fleet.stage;
    let plan = stage.observe(&desired).await.plan(&desired);
    let mut refused = None;
    for change in &plan.changes {
        let done = stage
            .enforcer
            .apply(&desired.point, change, &mut Bindings::new())
            .await;
        refused = refused.or(done.err());
    }
    assert!(
        matches!(&refused, Some(EnforceError::Conflict { code, .. }) if code == "InvalidGroup.NotFound"),
        "{refused:?}"
    );
    let rules = peered.rules().await.join("\n");
    assert!(rules.contains("198.51.100.0/24"), "{rules}");

    // Peered again, the rest comes back too.
    peer(&peered.fleet, &peered.other_vpc).await;
    peered.fleet.lock(&[], SharedGroups::Refuse).await;
    assert!(peered.fleet.displaced.values().all(Vec::is_empty));
    let rules = peered
        .fleet
        .stage
        .rules_of(&peered.fleet.groups["app"], false)
        .await;
    let from_bastion = rules.iter().filter(|rule| rule.contains(&peered.bastion));
    assert_eq!(from_bastion.count(), 2, "{rules:?}");
    assert_eq!(rules.len(), 3, "{rules:?}");
}

async fn a_rule_whose_group_is_deleted_meanwhile_is_given_up(endpoint: &Endpoint) {
    let mut peered = Peered::draw(endpoint).await;
    peered.fleet.lock(&["app-1"], SharedGroups::Refuse).await;
    let gone = peered.fleet.stage.admin.delete_security_group();
    gone.group_id(&peered.bastion).send().await.unwrap();
    peered.fleet.lock(&[], SharedGroups::Refuse).await;
    assert!(peered.fleet.displaced.values().all(Vec::is_empty));
    let said = &peered.fleet.said;
    assert!(
        said.iter().any(|said| said.starts_with("displaced_group_gone: ")),
        "{said:?}"
    );
}

async fn a_stale_rule_is_left_alone_and_copied_nowhere(endpoint: &Endpoint) {
    let mut peered = Peered::draw(endpoint).await;
    peered.fleet.machine("other", &[&["app"]]).await;
    peered.unpeer().await;
    let before = peered.rules().await;
    assert!(before.iter().any(|rule| rule.contains("deleted")), "{before:?}");

    // Discovery tells that it lets nobody in.
    let account = Account::Aws {
        account: peered.fleet.stage.account.clone(),
        region: REGION.to_owned(),
    };
    let page = peered
        .fleet
        .stage
        .enforcer
        .discover(&account, None)
        .await
        .unwrap();
    let interfaces = page.machines.iter().flat_map(|machine| &machine.interfaces);
    let layers = interfaces.flat_map(|interface| &interface.layers);
    let stale = layers.filter_map(|layer| match layer {
        Layer::SecurityGroups { groups } => Some(groups.iter().flat_map(|group| &group.ingress)),
        _ => None,
    });
    let stale = stale.flatten().filter(
        |rule| matches!(&rule.peer, SgPeer::Group { group, stale: true, .. } if *group == peered.bastion),
    );
    assert!(stale.count() >= 2);

    // With `revoke`, the rule stays where it stands and the office's goes.
    peered.fleet.lock(&["app-1"], SharedGroups::Revoke).await;
    let locked = peered.rules().await.join("\n");
    assert!(
        locked.contains(&peered.bastion) && !locked.contains("198.51.100.0/24"),
        "{locked}"
    );
    peered.fleet.lock(&[], SharedGroups::Revoke).await;
    assert_eq!(peered.rules().await, before);

    // With `isolate`, the copy is made without it.
    peered.fleet.lock(&["app-1"], SharedGroups::Isolate).await;
    let interface = peered.fleet.machines["app-1"].interfaces[0].clone();
    let copy = peered.fleet.stage.groups_of(&interface).await.remove(0);
    assert_ne!(copy, peered.fleet.groups["app"]);
    assert!(peered.fleet.stage.rules_of(&copy, false).await.is_empty());
    peered.fleet.lock(&[], SharedGroups::Isolate).await;
    assert_eq!(peered.rules().await, before);
    assert_eq!(
        peered.fleet.stage.groups_of(&interface).await,
        [peered.fleet.groups["app"].clone()]
    );
}

/// What stands in a group that names one of a peered VPC, for people to read.
async fn drawn(endpoint: &Endpoint) {
    let open = [grant(1, "22")];
    let mut peered = Peered::draw(endpoint).await;
    let range = IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(20)
        .to_port(25)
        .user_id_group_pairs(UserIdGroupPair::builder().group_id(&peered.bastion).build())
        .build();
    peered.fleet.allow("app", vec![range]).await;
    let story = peered.fleet.story(&["app-1"], SharedGroups::Refuse, &open).await;
    assert_drawn("a_group_of_a_peered_vpc", &story);

    let mut peered = Peered::draw(endpoint).await;
    peered.fleet.machine("other", &[&["app"]]).await;
    let story = peered.fleet.story(&["app-1"], SharedGroups::Isolate, &open).await;
    assert_drawn("a_group_of_a_peered_vpc_isolated", &story);

    let mut peered = Peered::draw(endpoint).await;
    peered.unpeer().await;
    let story = peered.fleet.story(&["app-1"], SharedGroups::Refuse, &open).await;
    assert_drawn("a_group_of_a_vpc_that_is_no_more_peered", &story);
}
