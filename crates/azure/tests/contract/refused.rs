//! Writes at a firewall that Azure refuses: what closes is written alone, once, and what is told of it.

use postern_core::{
    enforcer::{Bindings, Change, EnforceError, Enforcer as _, Verb},
    testing::an_id,
};
use postern_sim::When;

use crate::{
    firewall::{ADA, BOB, Gate, want},
    others::{Way, lands, opening, shut},
    scene::{fault, status},
};

/// The operation that writes the gate's rules.
fn operation(gate: &Gate) -> &'static str {
    if gate.policy.is_some() {
        "FirewallPolicyRuleCollectionGroups.CreateOrUpdate"
    } else {
        "AzureFirewalls.CreateOrUpdate"
    }
}

async fn only_change(way: &Way) -> Change {
    let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    assert_eq!(plan.changes.len(), 1, "{plan:?}");
    plan.changes.into_iter().next().unwrap()
}

async fn apply(way: &Way) -> Result<(), EnforceError> {
    let change = only_change(way).await;
    let mut bindings = Bindings::new();
    let done = way
        .enforcer
        .apply(&way.edge().point, &change, &mut bindings)
        .await;
    done.map(|_| ())
}

#[tokio::test]
async fn a_write_that_is_forbidden_closes_what_is_over_and_says_so() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let way = Way::of(&gate, &[want(1, ADA)]).await;
        way.converge().await;
        let port = way.mapped(1).await;
        let forbidden = status(403, "LinkedAuthorizationFailed", None);
        gate.sim
            .faults()
            .add(fault(operation(&gate), When::Next(1), forbidden));
        let way = Way::of(&gate, &[opening(2, BOB)]).await;
        let error = apply(&way).await.unwrap_err();
        assert!(matches!(error, EnforceError::Forbidden { .. }), "{error:?}");
        assert!(
            error.to_string().contains("what closes was written alone"),
            "{error}"
        );
        assert!(!lands(&gate, ADA, port));
    }
}

#[tokio::test]
async fn a_refused_write_that_opens_alone_or_closes_alone_is_sent_once() {
    for with_policy in [false, true] {
        for closes in [false, true] {
            let gate = shut(with_policy).await;
            // Two are open, so that the policy's group is written when one closes, and not deleted.
            let both = [want(1, ADA), want(2, BOB)];
            let (before, after) = if closes {
                (&both[..], &both[..1])
            } else {
                (&both[..1], &both[..])
            };
            Way::of(&gate, before).await.converge().await;
            let way = Way::of(&gate, after).await;
            let operation = operation(&gate);
            gate.sim
                .faults()
                .add(fault(operation, When::Next(1), status(400, "TooMany", None)));
            let calls = gate.sim.calls().of(operation);
            let error = apply(&way).await.unwrap_err();
            assert!(!error.to_string().contains("written alone"), "{error}");
            assert_eq!(
                gate.sim.calls().of(operation) - calls,
                1,
                "{with_policy} {closes}"
            );
        }
    }
}

#[tokio::test]
async fn of_a_grant_that_goes_on_nothing_is_taken_out_where_the_new_rule_is_refused() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        Way::of(&gate, &[want(1, ADA), want(2, BOB)])
            .await
            .converge()
            .await;
        // The first grant is over; the second one's rule changes its mark.
        let mut longer = want(2, BOB);
        longer.not_after += chrono::TimeDelta::hours(1);
        let way = Way::of(&gate, &[longer]).await;
        let refused = status(400, "TooMany", None);
        gate.sim
            .faults()
            .add(fault(operation(&gate), When::Next(1), refused));
        apply(&way).await.unwrap_err();
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        let evidence = observed.evidence(way.edge());
        assert_eq!(evidence.keys().copied().collect::<Vec<_>>(), [an_id(2)]);
    }
}

#[tokio::test]
async fn what_is_written_again_is_a_closing_while_one_may_wait_for_it() {
    let gate = shut(false).await;
    Way::of(&gate, &[want(1, ADA), want(2, BOB)])
        .await
        .converge()
        .await;
    let mut way = Way::of(&gate, &[want(1, ADA)]).await;
    gate.sim
        .completions()
        .add(fault("*Firewall*", When::Next(1), status(400, "OutOfLuck", None)));
    apply(&way).await.unwrap_err();
    assert_eq!(only_change(&way).await.verb, Verb::Close);
    way.points[0].unsettled = false;
    assert_eq!(only_change(&way).await.verb, Verb::Repair);
}
