//! What a freeze stops: every operation that makes grants, and any that would take a guard away.

use std::collections::BTreeSet;

use postern_api::{
    ErrorCode,
    freeze::{FreezeCreate, FreezeLift},
    grant::GrantQuery,
    jit_policy::Lockdown,
    lease::LeaseWaitQuery,
    review::BreakGlassQuery,
};

use crate::{
    leases::a_lease,
    rig::{INSTANCE_POINT, MACHINE, Rig, ask, code, policy},
};

use super::{freeze_unheard, now};

/// The operations that make grants, or requests for some, and how each is called. Everything else below `/v1` that
/// changes something is in the other list: whoever adds an operation says here which it is.
const MAKES_GRANTS: &[&str] = &[
    "approveAccessRequest",
    "breakGlass",
    "createAccessRequest",
    "createLease",
];
const MAKES_NONE: &[&str] = &[
    "cancelAccessReview",
    "closeReview",
    "createAccessReview",
    "createFreeze",
    "createJitPolicy",
    "createRole",
    "createRoleAssignment",
    "decideAccessReviewItem",
    "deleteJitPolicy",
    "deleteRole",
    "deleteRoleAssignment",
    "denyAccessRequest",
    // It makes none and lengthens one; `later` has what a freeze says to that.
    "extendGrant",
    "heartbeatLease",
    "liftFreeze",
    "releaseLease",
    "replayDelivery",
    "revokeGrant",
    "updateJitPolicy",
    "withdrawAccessRequest",
];

#[tokio::test]
async fn every_operation_that_makes_grants_heeds_a_freeze() {
    let document = serde_json::to_value(postern_server::openapi()).unwrap();
    let mut changing = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "get" {
                changing.insert(operation["operationId"].as_str().unwrap());
            }
        }
    }
    let listed: BTreeSet<&str> = MAKES_GRANTS.iter().chain(MAKES_NONE).copied().collect();
    assert_eq!(
        changing, listed,
        "say of each operation whether it makes grants, and below how a freeze stops it if it does"
    );

    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.on_call("/").await;
    rig.assign("bob", "approver", "/").await;
    let ada = rig.client("ada");
    let request = ada.create_access_request(None, &now(), &ask(MACHINE)).await;
    let request = request.unwrap();
    // As it is between the freeze and its first look: the operation would turn the request down.
    freeze_unheard(&rig, "/aws").await;
    for operation in MAKES_GRANTS {
        let answer = match *operation {
            "approveAccessRequest" => code(rig.client("bob").approve_access_request(&request.id, None).await),
            "breakGlass" => code(
                ada.break_glass(None, &BreakGlassQuery::default(), &ask(MACHINE))
                    .await,
            ),
            "createAccessRequest" => code(ada.create_access_request(None, &now(), &ask(MACHINE)).await),
            "createLease" => code(
                ada.create_lease(None, &LeaseWaitQuery::default(), &a_lease(MACHINE, Some("run-1")))
                    .await,
            ),
            other => panic!("`{other}` makes grants, and nobody tried it under a freeze"),
        };
        assert_eq!(answer, ErrorCode::Frozen, "{operation}");
    }
    assert!(
        rig.owner()
            .grants(&GrantQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn nobody_takes_a_guard_away_where_a_freeze_is_in_force() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let owner = rig.owner();
    let covering = rig.only_policy().await;
    let everything = FreezeCreate {
        scope: "/aws/123456789012".into(),
        reason: "keys leaked".into(),
    };
    let freeze = owner.create_freeze(None, &everything).await.unwrap().freeze.id;
    rig.pass().await;
    let mut weaker = policy("weaker", "/aws", "policy");
    weaker.guards[0].ports = "23/tcp".into();
    let mut nearer = policy("nearer", "/aws/123456789012/eu-west-1", "policy");
    nearer.guards[0].ports = "23/tcp".into();
    let elsewhere = policy("ssh", "/azure", "policy");
    let mut deferring = policy("ssh", "/aws", "policy");
    deferring.lockdown = Lockdown::Defer;
    assert_eq!(
        code(owner.delete_jit_policy(&covering.id, covering.version).await),
        ErrorCode::Frozen
    );
    for (document, what) in [
        (&weaker, "fewer ports"),
        (&elsewhere, "elsewhere"),
        (&deferring, "deferring"),
    ] {
        let changed = owner
            .update_jit_policy(&covering.id, covering.version, document)
            .await;
        assert_eq!(code(changed), ErrorCode::Frozen, "{what}");
    }
    assert_eq!(
        code(owner.create_jit_policy(None, &nearer).await),
        ErrorCode::Frozen,
        "one that is nearer and guards less"
    );
    assert!(!rig.is_due(INSTANCE_POINT).await, "nothing is put back");
    let denied = rig.audit("jit_policy.").await;
    let denied = denied
        .iter()
        .filter(|stored| stored.event.outcome.as_str() == "denied");
    assert_eq!(denied.count(), 5);
    // More is guarded at any time, and what is not frozen is nobody's concern.
    let mut stricter = policy("ssh", "/aws", "one");
    stricter.guards.push(weaker.guards[0].clone());
    owner
        .update_jit_policy(&covering.id, covering.version, &stricter)
        .await
        .unwrap();
    owner
        .create_jit_policy(None, &policy("other", "/azure", "one"))
        .await
        .unwrap();
    let over = FreezeLift {
        reason: "over".into(),
    };
    owner.lift_freeze(&freeze, None, &over).await.unwrap();
    owner
        .delete_jit_policy(&covering.id, covering.version + 1)
        .await
        .unwrap();
}
