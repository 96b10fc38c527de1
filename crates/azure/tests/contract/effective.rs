//! Effective rules as the read-back: asked where it is configured, and where something is to be confirmed; where they
//! cannot be had, the NSG's document has to do, and the reading says why.

use std::time::Duration;

use postern_azure::{AzureConfig, AzureEnforcer};
use postern_core::enforcer::{Desired, Enforcer, Observed};
use postern_sim::{
    Effect, When,
    arm::{ArmClient, ArmOptions},
};
use serde_json::Value;

use crate::scene::{Scene, config, enforcer, fault, grant, status};

const QUESTION: &str = "NetworkInterfaces.ListEffectiveNetworkSecurityGroups";

fn asking(scene: &Scene) -> AzureEnforcer {
    enforcer(AzureConfig {
        effective_rules: true,
        settle_timeout: Duration::from_millis(500),
        ..config(&scene.sim)
    })
}

/// A filter before `web` and `db`, with a grant on `web` that stands.
async fn opened(scene: &Scene) -> Desired {
    let mut desired = scene.desired_at(&scene.outer).await;
    scene.grants(&mut desired, &[&grant(1, &["22"], &["203.0.113.7"])]);
    scene.converge(std::slice::from_ref(&desired)).await;
    scene.sim.calls().reset();
    desired
}

/// What each interface said, as the journal keeps it.
fn said(read: &dyn Observed) -> Vec<String> {
    let snapshot = read.snapshot();
    let told = snapshot["effective"].as_object().cloned().unwrap_or_default();
    told.values()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn is_complete(read: &dyn Observed, desired: &Desired) -> bool {
    let evidence = read.evidence(desired);
    evidence.len() == 1 && evidence.values().all(|of_grant| of_grant.complete)
}

#[tokio::test]
async fn interfaces_are_asked_where_it_is_configured_and_something_is_to_be_confirmed() {
    let scene = Scene::new().await;
    let mut desired = opened(&scene).await;
    let read = scene.enforcer.observe(&desired).await.unwrap();
    assert!(said(&*read).is_empty() && scene.sim.calls().of(QUESTION) == 0);

    let asking = asking(&scene);
    let read = asking.observe(&desired).await.unwrap();
    assert_eq!(said(&*read), ["in force"]);
    assert!(read.settled() && is_complete(&*read, &desired));
    let evidence = read.evidence(&desired);
    let rules = evidence
        .values()
        .next()
        .unwrap()
        .rules
        .as_array()
        .unwrap()
        .clone();
    assert!(
        rules.iter().any(|rule| rule["effective"] != Value::Null),
        "the receipt says so: {rules:?}"
    );
    assert_eq!(scene.sim.calls().of(QUESTION), 1, "only where the grant is");

    // What waits to be confirmed as closed may be at any machine behind the filter.
    desired.unsettled = true;
    let read = asking.observe(&desired).await.unwrap();
    assert_eq!(said(&*read), ["in force", "in force"]);

    scene.grants(&mut desired, &[]);
    scene.converge(std::slice::from_ref(&desired)).await;
    let read = asking.observe(&desired).await.unwrap();
    assert!(read.settled() && read.evidence(&desired).is_empty());
    assert_eq!(said(&*read), ["in force", "in force"]);
    desired.unsettled = false;
    let read = asking.observe(&desired).await.unwrap();
    assert!(said(&*read).is_empty(), "nothing is to be confirmed");
}

#[tokio::test]
async fn an_interface_that_does_not_say_leaves_the_nsgs_word_and_the_reason() {
    let scene = Scene::new().await;
    let desired = opened(&scene).await;
    let stopped = status(400, "NetworkInterfaceMustBeAttachedToRunningVm", None);
    let slow = Effect::Latency(Duration::from_secs(5));
    for (effect, reason) in [(stopped, "MustBeAttachedToRunningVm"), (slow, "no answer within")] {
        let id = scene.sim.faults().add(fault(QUESTION, When::Always, effect));
        let read = asking(&scene).observe(&desired).await.unwrap();
        scene.sim.faults().remove(id);
        let told = said(&*read);
        assert!(told[0].contains(reason), "{told:?}");
        assert!(read.settled() && is_complete(&*read, &desired));
    }
}

#[tokio::test]
async fn who_may_not_ask_is_refused_once_and_says_so_ever_after() {
    let actions = [
        "Microsoft.Network/*/read",
        "Microsoft.Network/*/write",
        "Microsoft.Network/*/delete",
        "Microsoft.Compute/*/read",
        "Microsoft.Resources/*/read",
    ];
    let scene = Scene::start(ArmOptions {
        clients: vec![ArmClient::limited("postern", "secret", &actions)],
        ..Scene::options()
    })
    .await;
    let desired = opened(&scene).await;
    let asking = asking(&scene);
    for _ in 0..3 {
        let read = asking.observe(&desired).await.unwrap();
        let told = said(&*read);
        assert!(
            told[0].contains("effectiveNetworkSecurityGroups/action"),
            "{told:?}"
        );
        assert!(read.settled() && is_complete(&*read, &desired));
    }
    assert_eq!(scene.sim.calls().of(QUESTION), 1);
}
