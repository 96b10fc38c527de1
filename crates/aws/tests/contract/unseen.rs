//! What a describe leaves out is not gone; what EC2 denies is.

use postern_core::{
    enforcer::{Desired, EnforceError, Enforcer as _},
    machine::AwsInstance,
    mark::Purpose,
    point::PointRef,
    testing::an_id,
};

use crate::{
    simulator,
    stage::{Endpoint, Stage, displaced_by, grant, installation, lock, open, tcp},
    veil::{Hide, Veil},
};

/// A stage that sees EC2 through a veil.
async fn veiled(endpoint: &Endpoint) -> (Stage, Veil) {
    let veil = Veil::before(&endpoint.url);
    let veiled = Endpoint {
        url: veil.url.clone(),
        ..endpoint.clone()
    };
    (Stage::of(&veiled).await, veil)
}

#[tokio::test]
async fn a_group_that_a_describe_leaves_out_is_not_gone() {
    let (_handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let (behind, veil) = veiled(&endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let before = stage.rules_of(&built.group, false).await;
    let plan = stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    let displaced = displaced_by(&plan);
    let locked = lock(&built, &["22"], displaced.clone());
    let freed = lock(&built, &[], displaced);

    for hide in [Hide::Filtered, Hide::Nothing] {
        veil.hide(hide);
        let plan = behind.observe(&locked).await.plan(&locked);
        assert_eq!(
            (plan.settled, plan.changes, plan.findings),
            (vec![], vec![], vec![])
        );
    }
    veil.hide(Hide::All);
    let unclear = behind.enforcer.observe(&freed).await.map(drop);
    assert!(
        matches!(unclear, Err(EnforceError::Unavailable { .. })),
        "{unclear:?}"
    );
    veil.hide(Hide::Filtered);
    behind.pass(&freed, usize::MAX).await;
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

#[tokio::test]
async fn a_group_that_ec2_says_is_gone_settles_what_it_lost() {
    let (_handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let plan = stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    let displaced = displaced_by(&plan);
    let machine = stage
        .admin
        .terminate_instances()
        .instance_ids(built.machine.instance());
    machine.send().await.unwrap();
    let interface = stage
        .admin
        .delete_network_interface()
        .network_interface_id(&built.interface);
    interface.send().await.unwrap();
    let group = stage.admin.delete_security_group().group_id(&built.group);
    group.send().await.unwrap();
    let wanted = lock(&built, &["22"], displaced.clone());
    let plan = stage.observe(&wanted).await.plan(&wanted);
    assert_eq!(plan.settled, [displaced[0].id]);
    assert_eq!(plan.findings[0].code, "displaced_group_gone");
}

#[tokio::test]
async fn no_machine_is_shown_without_its_groups() {
    let (_handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(vec![tcp(22, 22, "0.0.0.0/0", "ssh")]).await;
    let (behind, veil) = veiled(&endpoint).await;
    let account = behind.enforcer.accounts().await.found.remove(0);
    let mut pages = Vec::new();
    for hide in [Hide::Nothing, Hide::Filtered, Hide::All] {
        veil.hide(hide);
        pages.push(behind.enforcer.discover(&account, None).await);
    }
    assert_eq!(pages[0], pages[1]);
    assert_eq!(pages[0].as_ref().unwrap().machines.len(), 1);
    let Err(EnforceError::Unavailable { message, .. }) = &pages[2] else {
        panic!("{:?}", pages[2]);
    };
    assert!(message.contains(&built.group), "{message}");
}

#[tokio::test]
async fn a_holder_that_a_describe_leaves_out_is_removed_all_the_same() {
    let (_handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
    let (behind, veil) = veiled(&endpoint).await;
    let account = behind.enforcer.accounts().await.found.remove(0);
    let marked = behind.enforcer.marked(&account, &installation()).await;
    let marked = marked.unwrap();
    let holder = marked.iter().find(|m| m.mark.purpose == Purpose::Holder).unwrap();
    veil.hide(Hide::Filtered);
    behind.enforcer.remove(holder).await.unwrap();
    assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
}

#[tokio::test]
async fn an_instance_that_a_describe_leaves_out_is_not_gone_and_one_that_ec2_denies_is() {
    let (_handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    stage.pass(&wanted, usize::MAX).await;
    let (behind, veil) = veiled(&endpoint).await;
    veil.hide(Hide::Instances);
    for wanted in [&wanted, &open(&built, Vec::new())] {
        let unclear = behind.enforcer.observe(wanted).await.map(drop);
        let Err(EnforceError::Unavailable { message, .. }) = &unclear else {
            panic!("{unclear:?}");
        };
        assert!(message.contains(built.machine.instance()), "{message}");
    }
    veil.hide(Hide::Nothing);
    let read = behind.observe(&wanted).await;
    assert!(read.evidence(&wanted)[&an_id(1)].complete);

    let (account, region) = (built.machine.account(), built.machine.region());
    let nobody = AwsInstance::new(account, region, "i-00000000000000bad").unwrap();
    let absent = Desired {
        point: PointRef::AwsInstance(nobody),
        ..open(&built, Vec::new())
    };
    let gone = stage.enforcer.observe(&absent).await.map(drop);
    assert!(matches!(gone, Err(EnforceError::Gone { .. })), "{gone:?}");
}
