//! Parts of a firewall's surroundings that are not there, may not be read, or are not what they were.

use postern_core::{
    enforcer::{EnforceError, Enforcer as _},
    testing::an_id,
};
use postern_sim::When;
use serde_json::json;

use crate::{
    firewall::{ADA, BOB, want},
    others::{Way, opening, second_firewall, shut},
    scene::{fault, status},
};

#[tokio::test]
async fn by_the_address_of_a_firewall_that_may_not_be_read_nothing_new_opens() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    way.converge().await;
    let refused = status(403, "AuthorizationFailed", None);
    gate.sim
        .faults()
        .add(fault("AzureFirewalls.Get", When::Always, refused));
    let open = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    assert_eq!((open.changes.len(), open.obstacles.len()), (0, 0), "{open:?}");
    let mut more = way.edge().clone();
    more.members[0].grants.push(opening(2, BOB));
    let plan = way.enforcer.observe(&more).await.unwrap().plan(&more);
    assert_eq!(plan.obstacles[0].code, "machine_not_behind_point", "{plan:?}");
    assert_eq!(plan.obstacles[0].grants, [an_id(2)]);
}

#[tokio::test]
async fn a_firewall_that_was_deleted_meanwhile_does_not_stop_its_policys_others() {
    let gate = shut(true).await;
    second_firewall(&gate);
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    // The second of the two, each time.
    let gone = status(404, "ResourceNotFound", None);
    gate.sim
        .faults()
        .add(fault("AzureFirewalls.Get", When::EveryNth(2), gone));
    assert_eq!(way.pass(way.edge()).await, []);
    let observed = way.enforcer.observe(way.edge()).await.unwrap();
    assert!(observed.evidence(way.edge())[&an_id(1)].complete);
}

#[tokio::test]
async fn policies_that_inherit_in_a_circle_are_not_followed_for_ever() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[]).await;
    let parent = gate.fleet.firewall_policy("parent").unwrap();
    let policy = gate.policy.clone().unwrap();
    for (one, above) in [(&policy, &parent), (&parent, &policy)] {
        let mut document = gate.fleet.get(one).unwrap();
        document["properties"]["basePolicy"] = json!({ "id": above });
        gate.fleet.put(one, document).unwrap();
    }
    let error = way.enforcer.observe(way.edge()).await.unwrap_err();
    assert!(matches!(error, EnforceError::Malformed(_)), "{error:?}");
    assert!(error.to_string().contains("inherits without end"), "{error}");
}

#[tokio::test]
async fn a_classic_firewall_that_was_given_a_policy_is_gone_as_a_point() {
    let gate = shut(false).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    let policy = gate.fleet.firewall_policy("rules").unwrap();
    let mut document = gate.fleet.get(&gate.firewall).unwrap();
    for member in [
        "natRuleCollections",
        "networkRuleCollections",
        "applicationRuleCollections",
    ] {
        document["properties"][member] = json!([]);
    }
    document["properties"]["firewallPolicy"] = json!({ "id": policy });
    gate.fleet.put(&gate.firewall, document).unwrap();
    let error = way.enforcer.observe(way.edge()).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Gone { code, .. } if code == "HasFirewallPolicy"),
        "{error:?}"
    );
}
