//! The enforcer contract over a real EC2 endpoint: the same cases against our simulator and against moto. Where
//! moto is known to differ from EC2, the case asks for the flavour and says how.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{IpPermission, IpRange, ResourceType, Tag, TagSpecification, UserIdGroupPair};
use postern_aws::operation::Operation;
use postern_core::{
    enforcer::{Bindings, Change, EnforceError, Enforcer},
    inventory::Layer,
    machine::{AwsInstance, MachineId},
    mark::{Installation, Purpose},
    testing::{an_id, at},
};

use crate::stage::{Built, Endpoint, Flavour, REGION, Stage, displaced_by, grant, lock, open, tcp};

/// Runs every case, each in a VPC of its own.
pub(crate) async fn run(endpoint: &Endpoint) {
    a_machine_is_discovered_with_its_groups(endpoint).await;
    every_machine_is_on_exactly_one_page(endpoint).await;
    opening_and_closing_leaves_the_interface_as_it_was(endpoint).await;
    closing_one_of_two_grants_keeps_the_other(endpoint).await;
    every_change_may_be_repeated(endpoint).await;
    a_pass_goes_on_where_another_stopped(endpoint).await;
    an_authorize_completes_what_is_there_in_part(endpoint).await;
    a_group_in_use_is_not_deleted(endpoint).await;
    a_lockdown_displaces_and_restores(endpoint).await;
    a_shared_group_is_refused_by_name(endpoint).await;
    what_does_not_exist_is_gone(endpoint).await;
    the_sweeper_finds_and_removes_what_is_marked(endpoint).await;
}

fn to_change(operation: &Operation) -> Change {
    Change {
        verb: postern_core::enforcer::Verb::Open,
        target: String::new(),
        summary: String::new(),
        grants: Vec::new(),
        policies: Vec::new(),
        before: None,
        after: None,
        operation: serde_json::to_value(operation).unwrap(),
        displaces: Vec::new(),
    }
}

async fn a_machine_is_discovered_with_its_groups(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    assert_eq!(stage.enforcer.accounts().await.found, [stage.here()]);
    let machines = stage.machines().await;
    let machine = machines
        .iter()
        .find(|machine| machine.id == MachineId::Aws(built.machine.clone()))
        .expect("the machine is found");
    assert_eq!(machine.name, "web-1");
    assert_eq!(machine.interfaces.len(), 1);
    assert_eq!(machine.interfaces[0].id, built.interface);
    assert_eq!(machine.interfaces[0].network_id, built.vpc);
    assert_eq!(machine.interfaces[0].network, ["10.0.0.0/16".parse().unwrap()]);
    assert_eq!(machine.interfaces[0].addresses.len(), 1);
    let Layer::SecurityGroups { groups } = &machine.interfaces[0].layers[0] else {
        panic!("EC2 filters by groups");
    };
    assert_eq!(groups[0].id, built.group);
    assert_eq!(groups[0].ingress.len(), 1);
    assert_eq!(groups[0].ingress[0].description.as_deref(), Some("ssh"));
}

async fn every_machine_is_on_exactly_one_page(endpoint: &Endpoint) {
    let stage = Stage::new(endpoint, |config| config.page_size = 5).await;
    let built = stage.build(Vec::new()).await;
    let mut launched = BTreeSet::from([built.machine.instance().to_owned()]);
    for _ in 0..6 {
        let (machine, _) = stage.launch(&built.subnet, &built.group).await;
        launched.insert(machine.instance().to_owned());
    }
    let machines = stage.machines().await;
    let found: Vec<String> = machines
        .iter()
        .map(|machine| machine.id.short().to_owned())
        .filter(|id| launched.contains(id))
        .collect();
    assert_eq!(found.len(), launched.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), launched);
}

async fn opening_and_closing_leaves_the_interface_as_it_was(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    let plan = stage.pass(&wanted, usize::MAX).await;
    assert_eq!(plan.obstacles, []);

    let read = stage.observe(&wanted).await;
    assert!(read.evidence(&wanted)[&an_id(1)].complete);
    assert_eq!(read.plan(&wanted).changes, [], "a second pass has nothing to do");
    let holders = stage.holders(&built.vpc).await;
    assert_eq!(holders.len(), 1);
    assert_eq!(
        stage
            .groups_of(&built.interface)
            .await
            .into_iter()
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([built.group.clone(), holders[0].clone()])
    );
    assert_eq!(stage.rules_of(&holders[0], true).await, BTreeSet::new());
    assert_eq!(stage.rules_of(&holders[0], false).await.len(), 1);

    let closed = open(&built, Vec::new());
    stage.pass(&closed, usize::MAX).await;
    assert!(stage.observe(&closed).await.evidence(&closed).is_empty());
    assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    assert_eq!(
        stage.groups_of(&built.interface).await,
        std::slice::from_ref(&built.group)
    );
}

async fn closing_one_of_two_grants_keeps_the_other(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let mut late = grant(2, "22");
    late.not_after = at(900);
    let other = grant(3, "3389");
    let all = open(&built, vec![grant(1, "22"), late.clone(), other]);
    stage.pass(&all, usize::MAX).await;
    let evidence = stage.observe(&all).await.evidence(&all);
    assert_eq!(evidence.len(), 3);
    assert!(evidence.values().all(|evidence| evidence.complete));

    // Grants 1 and 2 share a rule, marked for 2: closing 2 leaves it to 1.
    let left = open(&built, vec![grant(1, "22")]);
    stage.pass(&left, usize::MAX).await;
    let evidence = stage.observe(&left).await.evidence(&left);
    assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(1)]);
    assert!(evidence[&an_id(1)].complete);
}

async fn every_change_may_be_repeated(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    for grants in [
        vec![grant(1, "22"), grant(2, "3389")],
        vec![grant(2, "3389")],
        vec![],
    ] {
        let wanted = open(&built, grants);
        let plan = stage.observe(&wanted).await.plan(&wanted);
        let mut bindings = Bindings::new();
        for change in &plan.changes {
            for _ in 0..2 {
                let done = stage.enforcer.apply(&wanted.point, change, &mut bindings).await;
                done.unwrap_or_else(|error| panic!("{}: {error}", change.summary));
            }
        }
        let read = stage.observe(&wanted).await;
        assert_eq!(read.plan(&wanted).changes, []);
        assert_eq!(read.evidence(&wanted).len(), wanted.members[0].grants.len());
    }
}

async fn a_pass_goes_on_where_another_stopped(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(443, 443, "0.0.0.0/0", "web")]).await;
    for stop in 0..4 {
        let wanted = open(&built, vec![grant(1, "22")]);
        stage.pass(&wanted, stop).await;
        stage.pass(&wanted, usize::MAX).await;
        let evidence = stage.observe(&wanted).await.evidence(&wanted);
        assert!(evidence[&an_id(1)].complete, "stopped after {stop}");
        let closed = open(&built, Vec::new());
        stage.pass(&closed, stop).await;
        stage.pass(&closed, usize::MAX).await;
        assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
        assert_eq!(
            stage.groups_of(&built.interface).await,
            std::slice::from_ref(&built.group)
        );
    }
}

async fn an_authorize_completes_what_is_there_in_part(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    // EC2 authorizes all or nothing. moto keeps what comes before the duplicate; the outcome is the same, because
    // what is missing is found out by looking.
    let wanted = open(&built, vec![grant(1, "22"), grant(2, "3389"), grant(3, "5986")]);
    let plan = stage.observe(&wanted).await.plan(&wanted);
    let mut bindings = Bindings::new();
    for change in &plan.changes {
        let operation: Operation = serde_json::from_value(change.operation.clone()).unwrap();
        if let Operation::Authorize { group, rules } = operation {
            let part = Operation::Authorize {
                group,
                rules: vec![rules[1].clone()],
            };
            stage
                .enforcer
                .apply(&wanted.point, &to_change(&part), &mut bindings)
                .await
                .unwrap();
        }
        stage
            .enforcer
            .apply(&wanted.point, change, &mut bindings)
            .await
            .unwrap();
    }
    let evidence = stage.observe(&wanted).await.evidence(&wanted);
    assert_eq!(evidence.len(), 3);
    assert!(evidence.values().all(|evidence| evidence.complete));
}

async fn a_group_in_use_is_not_deleted(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    stage.pass(&wanted, usize::MAX).await;
    let holder = stage.holders(&built.vpc).await.remove(0);
    let delete = to_change(&Operation::DeleteHolder {
        group: holder.clone(),
    });
    let answer = stage
        .enforcer
        .apply(&wanted.point, &delete, &mut Bindings::new())
        .await;
    match stage.flavour {
        Flavour::Simulator => {
            let conflict = EnforceError::Conflict {
                resource: holder,
                code: "DependencyViolation".to_owned(),
            };
            assert_eq!(answer, Err(conflict));
            assert!(stage.observe(&wanted).await.evidence(&wanted)[&an_id(1)].complete);
        }
        // moto never raises DependencyViolation: it deletes the group under the interface.
        Flavour::Moto => {
            answer.unwrap();
        }
    }
}

async fn a_lockdown_displaces_and_restores(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage
        .build(vec![
            tcp(20, 25, "0.0.0.0/0", "everything else"),
            tcp(443, 443, "0.0.0.0/0", "web"),
            IpPermission::builder()
                .ip_protocol("-1")
                .ip_ranges(
                    IpRange::builder()
                        .cidr_ip("10.0.0.0/8")
                        .description("inside")
                        .build(),
                )
                .build(),
        ])
        .await;
    // A tagged rule, and one whose source is the group itself.
    stage
        .admin
        .authorize_security_group_ingress()
        .group_id(&built.group)
        .ip_permissions(tcp(22, 22, "198.51.100.0/24", "office"))
        .tag_specifications(
            TagSpecification::builder()
                .resource_type(ResourceType::SecurityGroupRule)
                .tags(Tag::builder().key("owner").value("ops").build())
                .build(),
        )
        .send()
        .await
        .unwrap();
    stage
        .admin
        .authorize_security_group_ingress()
        .group_id(&built.group)
        .ip_permissions(
            IpPermission::builder()
                .ip_protocol("tcp")
                .from_port(22)
                .to_port(22)
                .user_id_group_pairs(
                    UserIdGroupPair::builder()
                        .group_id(&built.group)
                        .user_id(&stage.account)
                        .build(),
                )
                .build(),
        )
        .send()
        .await
        .unwrap();
    let before = stage.rules_of(&built.group, false).await;

    let locked = lock(&built, &["22"], Vec::new());
    let plan = stage.pass(&locked, usize::MAX).await;
    let mut displaced = displaced_by(&plan);
    assert_eq!(displaced.len(), 4);
    let locked = lock(&built, &["22"], displaced.clone());
    let read = stage.observe(&locked).await.plan(&locked);
    assert_eq!(
        (read.changes, read.findings, read.settled),
        (vec![], vec![], vec![])
    );
    let during = stage.rules_of(&built.group, false).await;
    assert!(
        during
            .iter()
            .any(|rule| rule.starts_with("tcp Some(23)-Some(25) 0.0.0.0/0"))
    );
    assert!(during.iter().any(|rule| rule.starts_with("50 ")), "{during:#?}");
    assert!(during.is_superset(&before.iter().filter(|r| r.contains("web")).cloned().collect()));

    // The policy gets another port, loses it, and goes; each first pass stops after one change.
    for guarded in [&["22", "443"][..], &["22"], &[]] {
        for stop in [1, usize::MAX] {
            let wanted = lock(&built, guarded, displaced.clone());
            let plan = stage.pass(&wanted, stop).await;
            for new in displaced_by(&plan) {
                if !displaced.iter().any(|known| known.id == new.id) {
                    displaced.push(new);
                }
            }
        }
        let wanted = lock(&built, guarded, displaced.clone());
        let read = stage.observe(&wanted).await.plan(&wanted);
        assert_eq!(read.changes, [], "{guarded:?}");
        displaced.retain(|known| !read.settled.contains(&known.id));
        assert_eq!(
            displaced.len(),
            match guarded.len() {
                2 => 5,
                1 => 4,
                _ => 0,
            }
        );
    }
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

async fn a_shared_group_is_refused_by_name(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let (other, _) = stage.launch(&built.subnet, &built.group).await;
    let before = stage.rules_of(&built.group, false).await;
    let plan = stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "shared_group");
    assert!(
        plan.obstacles[0].message.contains(other.instance()),
        "{}",
        plan.obstacles[0].message
    );
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

async fn what_does_not_exist_is_gone(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = Built {
        machine: AwsInstance::new(&stage.account, REGION, "i-0badbadbadbadbad0").unwrap(),
        interface: "eni-0badbadbadbadbad0".to_owned(),
        group: "sg-0badbadbadbadbad0".to_owned(),
        vpc: String::new(),
        subnet: String::new(),
    };
    for desired in [open(&built, Vec::new()), lock(&built, &["22"], Vec::new())] {
        let answer = stage.enforcer.observe(&desired).await;
        assert!(matches!(answer, Err(EnforceError::Gone { .. })), "{answer:?}");
    }
}

async fn the_sweeper_finds_and_removes_what_is_marked(endpoint: &Endpoint) {
    let stage = Stage::of(endpoint).await;
    let built = stage.build(vec![tcp(20, 25, "0.0.0.0/0", "ssh")]).await;
    let installation: Installation = "sweeper".parse().unwrap();
    let mut wanted = open(&built, vec![grant(1, "22"), grant(2, "3389")]);
    wanted.installation = installation.clone();
    stage.pass(&wanted, usize::MAX).await;
    let mut locked = lock(&built, &["22"], Vec::new());
    locked.installation = installation.clone();
    stage.pass(&locked, usize::MAX).await;

    let marked = stage.enforcer.marked(&stage.here(), &installation).await.unwrap();
    let count = |wanted: fn(&Purpose) -> bool| marked.iter().filter(|m| wanted(&m.mark.purpose)).count();
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Grant { .. })), 2);
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Holder)), 1);
    assert_eq!(count(|purpose| matches!(purpose, Purpose::Residual { .. })), 2);

    let first = marked
        .iter()
        .find(|m| matches!(m.mark.purpose, Purpose::Grant { grant, .. } if grant == an_id(1)));
    for _ in 0..2 {
        stage.enforcer.remove(first.unwrap()).await.unwrap();
    }
    let evidence = stage.observe(&wanted).await.evidence(&wanted);
    assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(2)]);

    let holder = marked.iter().find(|m| m.mark.purpose == Purpose::Holder).unwrap();
    for _ in 0..2 {
        stage.enforcer.remove(holder).await.unwrap();
    }
    assert_eq!(stage.holders(&built.vpc).await, Vec::<String>::new());
    assert_eq!(
        stage.groups_of(&built.interface).await,
        std::slice::from_ref(&built.group)
    );

    let residual = marked
        .iter()
        .find(|m| matches!(m.mark.purpose, Purpose::Residual { .. }));
    let refused = stage.enforcer.remove(residual.unwrap()).await;
    assert!(matches!(refused, Err(EnforceError::Refused { .. })));
}
