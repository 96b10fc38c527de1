//! Looks at the same time: they share their calls, and each gets what it would have got alone.

use std::collections::BTreeSet;

use futures::future::join_all;
use postern_core::{
    enforcer::{Desired, EnforceError, Enforcer as _},
    machine::AwsInstance,
};
use postern_sim::{Effect, FaultRule, When, ec2::Ec2Handle};
use serde_json::Value;

use crate::stage::{Built, Endpoint, Stage, grant, lock, open};

/// More than one call of each kind takes.
const MACHINES: u128 = 150;

/// Machines, every third with an open grant, the group that all of them have, and an instance that is not.
async fn wanted(stage: &Stage) -> (Vec<Desired>, Built) {
    let built = stage.build(Vec::new()).await;
    let mut wanted = Vec::new();
    for number in 1..=MACHINES {
        let (machine, interface) = stage.launch(&built.subnet, &built.group).await;
        let one = Built {
            machine,
            interface,
            group: built.group.clone(),
            vpc: built.vpc.clone(),
            subnet: built.subnet.clone(),
        };
        let grants = if number % 3 == 0 {
            vec![grant(number, "22")]
        } else {
            Vec::new()
        };
        let desired = open(&one, grants);
        if number % 3 == 0 {
            stage.pass(&desired, usize::MAX).await;
        }
        wanted.push(desired);
    }
    wanted.push(lock(&built, &[], Vec::new()));
    (wanted, built)
}

async fn snapshot(stage: &Stage, desired: &Desired) -> Value {
    stage.enforcer.observe(desired).await.unwrap().snapshot()
}

pub(crate) async fn run(endpoint: &Endpoint, handle: &Ec2Handle) {
    let stage = Stage::of(endpoint).await;
    let (wanted, built) = wanted(&stage).await;
    let mut alone = Vec::new();
    for desired in &wanted {
        alone.push(snapshot(&stage, desired).await);
    }
    let different: BTreeSet<String> = alone.iter().map(Value::to_string).collect();
    assert_eq!(different.len(), alone.len());

    let missing = AwsInstance::new(&stage.account, "eu-west-1", "i-00000000000000bad").unwrap();
    let missing = open(
        &Built {
            machine: missing,
            ..built
        },
        Vec::new(),
    );
    handle.calls().reset();
    let (together, gone) = tokio::join!(
        join_all(wanted.iter().map(|desired| snapshot(&stage, desired))),
        stage.enforcer.observe(&missing)
    );
    assert_eq!(together, alone);
    assert!(matches!(gone, Err(EnforceError::Gone { .. })), "{gone:?}");
    let calls = handle.calls().all();
    for operation in ["DescribeInstances", "DescribeSecurityGroups"] {
        assert!((2..30).contains(&calls[operation]), "{calls:?}");
    }

    // A refusal of one call is one refusal, however many waited for it.
    let stage = Stage::new(endpoint, |config| config.budget_percent = 100).await;
    handle.faults().add(limit_exceeded());
    let looks = wanted
        .iter()
        .take(50)
        .map(|desired| stage.enforcer.observe(desired));
    let refused = join_all(looks).await.into_iter().filter(Result::is_err).count();
    assert!(refused > 1, "{refused}");
    let refusals: u64 = stage.enforcer.budgets().iter().map(|level| level.refused).sum();
    assert_eq!(refusals, 1);

    // Without budgets nobody knows how long to wait, and the loop waits as after any refusal.
    let stage = Stage::of(endpoint).await;
    handle.faults().add(limit_exceeded());
    let refused = stage.enforcer.observe(&wanted[0]).await.unwrap_err();
    assert!(
        matches!(
            refused,
            EnforceError::Throttled {
                retry_after: None,
                ..
            }
        ),
        "{refused:?}"
    );
}

fn limit_exceeded() -> FaultRule {
    FaultRule {
        operation: "DescribeInstances".to_owned(),
        when: When::Next(1),
        effect: Effect::Status {
            status: 503,
            code: "RequestLimitExceeded".to_owned(),
            message: "no".to_owned(),
            retry_after: None,
        },
    }
}
