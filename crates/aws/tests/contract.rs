//! The enforcer contract against our EC2 simulator, and what only a simulator can be asked for: faults, call
//! counts, roles, and what passed when.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

use postern_core::{
    enforcer::{Bindings, EnforceError, Enforcer, Verb},
    testing::an_id,
};
use postern_sim::{
    Effect, FaultRule, Probe, Protocol, When,
    ec2::{ActionClass, Bucket, Ec2Handle, Ec2Options, Ec2Sim, Throttling},
};

#[path = "contract/credentials.rs"]
mod credentials;
#[path = "contract/fleet.rs"]
mod fleet;
#[path = "contract/fleets.rs"]
mod fleets;
#[path = "contract/gather.rs"]
mod gather;
#[path = "contract/isolation.rs"]
mod isolation;
#[path = "contract/lag.rs"]
mod lag;
#[path = "contract/moves.rs"]
mod moves;
#[path = "contract/named.rs"]
mod named;
#[path = "contract/peering.rs"]
mod peering;
#[path = "contract/regions.rs"]
mod regions;
#[path = "contract/stage.rs"]
mod stage;
#[path = "contract/suite.rs"]
mod suite;
#[path = "contract/unseen.rs"]
mod unseen;
#[path = "contract/veil.rs"]
mod veil;

use stage::{Endpoint, Flavour, Stage, grant, lock, open, tcp};

async fn simulator() -> (Ec2Handle, Endpoint) {
    let handle = Ec2Sim::start(Ec2Options::default()).await.unwrap();
    let endpoint = endpoint_of(&handle);
    (handle, endpoint)
}

fn endpoint_of(handle: &Ec2Handle) -> Endpoint {
    Endpoint {
        url: handle.url(),
        account: Ec2Sim::ACCOUNT.to_owned(),
        access_key_id: Ec2Sim::ACCESS_KEY_ID.to_owned(),
        secret_access_key: Ec2Sim::SECRET_ACCESS_KEY.to_owned(),
        flavour: Flavour::Simulator,
    }
}

fn fault(operation: &str, when: When, effect: Effect) -> FaultRule {
    FaultRule {
        operation: operation.to_owned(),
        when,
        effect,
    }
}

fn refusal(status: u16, code: &str) -> Effect {
    Effect::Status {
        status,
        code: code.to_owned(),
        message: "no".to_owned(),
        retry_after: None,
    }
}

#[tokio::test]
async fn the_enforcer_keeps_its_contract_against_the_simulator() {
    let (_handle, endpoint) = simulator().await;
    suite::run(&endpoint).await;
}

#[tokio::test]
async fn every_shape_of_a_fleet_is_locked_opened_closed_and_restored() {
    let (_handle, endpoint) = simulator().await;
    fleets::run(&endpoint).await;
}

#[tokio::test]
async fn a_machine_is_isolated_from_a_group_that_others_use_and_given_it_back() {
    let (handle, endpoint) = simulator().await;
    isolation::run(&endpoint, handle.faults()).await;
}

#[tokio::test]
async fn rules_for_groups_of_peered_vpcs_are_displaced_and_come_back_as_they_were() {
    let (handle, endpoint) = simulator().await;
    peering::run(&endpoint, &handle).await;
}

#[tokio::test]
async fn what_changes_under_an_open_grant_is_followed() {
    let (_handle, endpoint) = simulator().await;
    moves::run(&endpoint).await;
}

#[tokio::test]
async fn looks_at_the_same_time_share_their_calls() {
    let (handle, endpoint) = simulator().await;
    gather::run(&endpoint, &handle).await;
}

#[tokio::test]
async fn an_opening_takes_three_reads_and_four_writes_and_a_closing_three_and_two() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    // Discovery has seen the VPC.
    for account in stage.enforcer.accounts().await.found {
        stage.enforcer.discover(&account, None).await.unwrap();
    }
    let mut counts = Vec::new();
    for grants in [vec![grant(1, "22")], vec![]] {
        handle.calls().reset();
        stage.pass(&open(&built, grants), usize::MAX).await;
        let calls = handle.calls().all();
        counts.push(calls.into_iter().collect::<Vec<_>>());
    }
    let call = |name: &str| (name.to_owned(), 1);
    assert_eq!(
        counts[0],
        [
            call("AuthorizeSecurityGroupIngress"),
            call("CreateSecurityGroup"),
            call("DescribeInstances"),
            call("DescribeNetworkInterfaces"),
            call("DescribeSecurityGroups"),
            call("ModifyNetworkInterfaceAttribute"),
            call("RevokeSecurityGroupEgress"),
        ]
    );
    assert_eq!(
        counts[1],
        [
            call("DeleteSecurityGroup"),
            call("DescribeInstances"),
            call("DescribeNetworkInterfaces"),
            call("DescribeSecurityGroups"),
            call("ModifyNetworkInterfaceAttribute"),
        ]
    );
}

#[tokio::test]
async fn a_lost_answer_at_any_write_is_made_good_by_the_next_pass() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    let writes = [
        "CreateSecurityGroup",
        "RevokeSecurityGroupEgress",
        "AuthorizeSecurityGroupIngress",
        "ModifyNetworkInterfaceAttribute",
        "DeleteSecurityGroup",
    ];
    for operation in writes {
        for effect in [Effect::ResetBefore, Effect::ResetAfter] {
            handle.faults().clear();
            handle
                .faults()
                .add(fault(operation, When::Next(1), effect.clone()));
            for grants in [vec![grant(1, "22")], vec![]] {
                let wanted = open(&built, grants);
                let plan = stage.observe(&wanted).await.plan(&wanted);
                let mut bindings = Bindings::new();
                for change in &plan.changes {
                    match stage.enforcer.apply(&wanted.point, change, &mut bindings).await {
                        Ok(_) => {}
                        Err(EnforceError::Unavailable { .. }) => break,
                        Err(error) => panic!("{operation} {effect:?}: {error}"),
                    }
                }
                stage.pass(&wanted, 100).await;
                let read = stage.observe(&wanted).await;
                assert_eq!(read.plan(&wanted).changes, [], "{operation} {effect:?}");
                assert_eq!(read.evidence(&wanted).len(), wanted.members[0].grants.len());
            }
        }
    }
    assert!(handle.faults().list().iter().all(|fault| fault.hits == 1));
    assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
}

#[tokio::test]
async fn the_simulators_own_judge_sees_the_port_open_only_while_the_grant_is() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(vec![tcp(20, 25, "0.0.0.0/0", "open")]).await;
    let probe = |source: &str| Probe {
        machine: postern_core::machine::MachineId::Aws(built.machine.clone()).to_string(),
        source: source.parse().unwrap(),
        port: 22,
        protocol: Protocol::Tcp,
    };
    assert!(handle.reachable(&probe("192.0.2.1"), None));
    stage.pass(&lock(&built, &["22"], Vec::new()), usize::MAX).await;
    assert!(!handle.reachable(&probe("192.0.2.1"), None));
    assert!(!handle.reachable(&probe("203.0.113.7"), None));
    stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
    assert!(handle.reachable(&probe("203.0.113.7"), None));
    assert!(!handle.reachable(&probe("192.0.2.1"), None));
    stage.pass(&open(&built, Vec::new()), usize::MAX).await;
    assert!(!handle.reachable(&probe("203.0.113.7"), None));
}

#[tokio::test]
async fn what_ec2_answers_becomes_what_the_loop_understands() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, vec![grant(1, "22")]);
    let mut answers = Vec::new();
    for effect in [
        refusal(403, "UnauthorizedOperation"),
        refusal(503, "RequestLimitExceeded"),
        refusal(500, "InternalError"),
        Effect::ResetBefore,
    ] {
        handle
            .faults()
            .add(fault("DescribeInstances", When::Next(1), effect));
        answers.push(stage.enforcer.observe(&wanted).await.unwrap_err());
    }
    assert!(
        matches!(&answers[0], EnforceError::Forbidden { operation, .. } if operation == "ec2:DescribeInstances")
    );
    assert!(matches!(&answers[1], EnforceError::Throttled { .. }));
    assert!(matches!(&answers[2], EnforceError::Unavailable { .. }));
    assert!(matches!(&answers[3], EnforceError::Unavailable { .. }));
}

#[tokio::test]
async fn calls_within_the_budget_are_never_refused_and_those_without_one_are() {
    for (percent, refused) in [(10, false), (0, true)] {
        let (handle, endpoint) = simulator().await;
        let stage = Stage::new(&endpoint, |config| config.budget_percent = percent).await;
        let built = stage.build(Vec::new()).await;
        let mut wanted = open(&built, vec![grant(1, "22")]);
        wanted.unsettled = true;
        stage.enforcer.observe(&wanted).await.unwrap();
        // A tenth of what is documented, and what is paid for in two seconds more: a call is counted later than it is paid
        // for, on a busy machine much later.
        let bucket = Bucket {
            capacity: 14.0,
            refill: 2.5,
        };
        handle.set_throttling(Some(
            Throttling::documented().with_class(ActionClass::NonMutating, bucket),
        ));
        // One after the other: those at the same time share their calls.
        let mut answers = Vec::new();
        for _ in 0..18 {
            answers.push(stage.enforcer.observe(&wanted).await);
        }
        let throttled = answers
            .iter()
            .any(|answer| matches!(answer, Err(EnforceError::Throttled { .. })));
        assert_eq!(throttled, refused, "{percent} %");
        let spent = stage.enforcer.budgets();
        assert_eq!(spent.is_empty(), percent == 0, "{spent:?}");
        assert!(spent.iter().all(|level| level.refused == 0), "{spent:?}");
    }
}

#[tokio::test]
async fn a_refusal_stops_calls_in_that_account_for_a_while() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::new(&endpoint, |config| config.budget_percent = 100).await;
    let built = stage.build(Vec::new()).await;
    let wanted = open(&built, Vec::new());
    assert!(stage.enforcer.stopped_accounts().is_empty());
    handle.faults().add(fault(
        "DescribeInstances",
        When::Next(1),
        refusal(503, "RequestLimitExceeded"),
    ));
    stage.enforcer.observe(&wanted).await.unwrap_err();
    let stopped = stage.enforcer.stopped_accounts();
    assert_eq!(stopped.keys().collect::<Vec<_>>(), [&wanted.point.account()]);
    // It is waited for, and not asked again.
    stage.enforcer.observe(&wanted).await.unwrap();
    assert!(stage.enforcer.stopped_accounts().is_empty());
}

#[tokio::test]
async fn a_grant_reads_back_closed_while_its_group_still_cannot_be_deleted() {
    let (handle, endpoint) = simulator().await;
    let stage = Stage::of(&endpoint).await;
    let built = stage.build(Vec::new()).await;
    stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
    let closed = open(&built, Vec::new());
    let violation = refusal(400, "DependencyViolation");
    handle
        .faults()
        .add(fault("DeleteSecurityGroup", When::Next(2), violation));
    for _ in 0..2 {
        let plan = stage.observe(&closed).await.plan(&closed);
        let mut bindings = Bindings::new();
        let mut last = Ok(serde_json::Value::Null);
        for change in &plan.changes {
            last = stage.enforcer.apply(&closed.point, change, &mut bindings).await;
        }
        assert!(matches!(last, Err(EnforceError::Conflict { .. })), "{last:?}");
    }
    assert!(
        !stage
            .observe(&closed)
            .await
            .evidence(&closed)
            .contains_key(&an_id(1))
    );
    let last = stage.pass(&closed, usize::MAX).await;
    let verbs: Vec<Verb> = last.changes.iter().map(|change| change.verb).collect();
    assert_eq!(verbs, [Verb::Restore], "nobody waits for it any more");
    assert_eq!(stage.observe(&closed).await.plan(&closed).changes, []);
}

#[tokio::test]
async fn a_group_that_somebodys_rule_names_is_told_and_not_tried_to_delete_until_the_rule_goes() {
    let (handle, endpoint) = simulator().await;
    named::run(&endpoint, handle.faults()).await;
}
