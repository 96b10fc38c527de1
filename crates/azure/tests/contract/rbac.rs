//! The requester's own Azure roles, read from the simulator and weighed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::future::join_all;
use postern_azure::{
    AzureEnforcer,
    rbac::{AzureRoles, DEFENDER_ACTIONS, Groups, ObjectId, Others, Pattern, RbacConfig},
};
use postern_core::{
    cloud_roles::{CloudDecision, CloudRoles, Lack},
    principal::{Principal, PrincipalKind},
    testing::at,
    time::ManualClock,
};
use postern_sim::{
    Effect, When,
    arm::{ArmClient, ArmOptions, Denial, RoleGrant},
};
use serde_json::json;

use crate::scene::{Scene, config, fault, status};

const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";
const ADA: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const BOB: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const SRE: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const PLATFORM: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn demand() -> RbacConfig {
    RbacConfig {
        actions: DEFENDER_ACTIONS.map(Pattern::of).to_vec(),
        issuer: "entra".to_owned(),
        object_id: ObjectId::Claim("oid".to_owned()),
        groups: Groups::Azure,
        others: Others::Refuse,
        lifetime: Duration::from_mins(1),
        entries: 100,
        timeout: Duration::from_secs(20),
    }
}

fn somebody(object_id: &str, groups: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::Human,
        issuer: "entra".to_owned(),
        subject: "somebody".to_owned(),
        name: None,
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        mfa: true,
        authenticated_at: None,
        claims: BTreeMap::from([("oid".to_owned(), json!(object_id))]),
    }
}

/// A scene with a clock that stands still.
struct Office {
    scene: Scene,
    clock: ManualClock,
    roles: AzureRoles,
}

impl Office {
    async fn new() -> Self {
        Self::with(demand(), Scene::options()).await
    }

    async fn with(demand: RbacConfig, options: ArmOptions) -> Self {
        let scene = Scene::start(options).await;
        let clock = ManualClock::new(at(0));
        let enforcer = AzureEnforcer::new(config(&scene.sim), Arc::new(clock.clone())).unwrap();
        Self {
            roles: enforcer.roles(demand),
            scene,
            clock,
        }
    }

    fn give(&self, role: &str, scope: &str, principal: &str) -> String {
        let grant = RoleGrant {
            scope: scope.to_owned(),
            role: role.to_owned(),
            principal: principal.to_owned(),
            condition: None,
        };
        self.scene.sim.assign(&grant).unwrap()
    }

    async fn decide(&self, principal: &Principal) -> CloudDecision {
        self.roles.decide(principal, &self.scene.web).await
    }

    async fn of(&self, object_id: &str) -> CloudDecision {
        self.decide(&somebody(object_id, &[])).await
    }
}

fn denial(principals: &[&str]) -> Denial {
    Denial {
        scope: SUBSCRIPTION.to_owned(),
        name: "stack".to_owned(),
        actions: vec!["Microsoft.Compute/virtualMachines/*".to_owned()],
        not_actions: Vec::new(),
        principals: principals.iter().map(|id| (*id).to_owned()).collect(),
        excluded: Vec::new(),
        only_there: false,
    }
}

fn missing(decision: &CloudDecision) -> Vec<&str> {
    let CloudDecision::Refused { lacks, .. } = decision else {
        panic!("{decision:?}");
    };
    lacks
        .iter()
        .map(|lack| match lack {
            Lack::Missing { action } | Lack::Denied { action, .. } => action.as_str(),
        })
        .collect()
}

#[tokio::test]
async fn a_role_through_groups_in_groups_is_held_and_named() {
    let office = Office::new().await;
    assert_eq!(missing(&office.of(ADA).await), DEFENDER_ACTIONS);

    office.clock.advance(TimeDelta::minutes(2));
    office.scene.sim.put_in_group(PLATFORM, SRE);
    office.scene.sim.put_in_group(SRE, ADA);
    let assignment = office.give("Contributor", SUBSCRIPTION, PLATFORM);
    let CloudDecision::Allowed { principal, by, as_of } = office.of(ADA).await else {
        panic!("she is in the group");
    };
    assert_eq!(principal, ADA);
    assert_eq!(as_of, at(120));
    assert_eq!(by.len(), 5);
    assert!(
        by.iter()
            .all(|held| held.assignment == assignment && held.role_name == "Contributor")
    );
    assert!(
        by[0]
            .role
            .ends_with("/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c")
    );
    assert_eq!(missing(&office.of(BOB).await), DEFENDER_ACTIONS);
}

#[tokio::test]
async fn roles_at_every_scope_above_the_machine_add_up() {
    let office = Office::new().await;
    let sim = &office.scene.sim;
    sim.place_under("00000000-0000-0000-0000-000000000001", &["root", "corp"]);
    let jit = sim
        .define_role(
            "JIT",
            &["Microsoft.Security/locations/jitNetworkAccessPolicies/*"],
            &[],
        )
        .unwrap();
    office.give(
        "Reader",
        "/providers/Microsoft.Management/managementGroups/corp",
        ADA,
    );
    assert_eq!(missing(&office.of(ADA).await), [DEFENDER_ACTIONS[0]]);
    office.give(&jit, &office.scene.web.to_string().to_uppercase(), BOB);
    office.give("Reader", &format!("{SUBSCRIPTION}/resourceGroups/fleet"), BOB);
    assert!(office.of(BOB).await.is_allowed());
    // Elsewhere and below is not here.
    let other = "cccccccc-0000-4000-8000-000000000001";
    office.give("Owner", &format!("{SUBSCRIPTION}/resourceGroups/other"), other);
    office.give("Owner", &format!("{}/extensions/x", office.scene.web), other);
    office.give(
        "Owner",
        "/providers/Microsoft.Management/managementGroups/elsewhere",
        other,
    );
    assert_eq!(missing(&office.of(other).await), DEFENDER_ACTIONS);
}

#[tokio::test]
async fn a_deny_assignment_wins_however_it_reaches_them() {
    let office = Office::with(
        RbacConfig {
            lifetime: Duration::ZERO,
            ..demand()
        },
        Scene::options(),
    )
    .await;
    let sim = &office.scene.sim;
    office.give("Owner", SUBSCRIPTION, ADA);
    sim.put_in_group(PLATFORM, SRE);
    sim.put_in_group(SRE, ADA);
    for principals in [&[][..], &[ADA], &[PLATFORM]] {
        let id = sim.deny(denial(principals));
        let decision = office.of(ADA).await;
        let CloudDecision::Refused { lacks, .. } = &decision else {
            panic!("{principals:?}: {decision:?}");
        };
        assert!(
            matches!(&lacks[..], [Lack::Denied { action, by, name }]
                if action == DEFENDER_ACTIONS[2] && *by == id && name == "stack"),
            "{lacks:?}"
        );
        assert!(sim.undeny(&id));
    }
    sim.deny(denial(&[BOB]));
    sim.deny(Denial {
        excluded: vec![ADA.to_owned()],
        ..denial(&[])
    });
    sim.deny(Denial {
        only_there: true,
        ..denial(&[ADA])
    });
    assert!(office.of(ADA).await.is_allowed());
}

#[tokio::test]
async fn an_assignment_with_a_condition_is_not_counted() {
    let office = Office::new().await;
    let grant = RoleGrant {
        scope: SUBSCRIPTION.to_owned(),
        role: "Owner".to_owned(),
        principal: ADA.to_owned(),
        condition: Some("@Resource[Microsoft.Compute/virtualMachines:name] StringEquals 'web'".to_owned()),
    };
    let id = office.scene.sim.assign(&grant).unwrap();
    let decision = office.of(ADA).await;
    assert_eq!(missing(&decision), DEFENDER_ACTIONS);
    let words = decision.explain();
    assert!(words.contains("condition") && words.contains(&id), "{words}");
}

#[tokio::test]
async fn every_page_is_read() {
    let office = Office::with(
        demand(),
        ArmOptions {
            page_size: 1,
            ..Scene::options()
        },
    )
    .await;
    for group in 0..5 {
        let group = format!("dddddddd-0000-4000-8000-00000000000{group}");
        office.scene.sim.put_in_group(&group, ADA);
        office.give("Reader", SUBSCRIPTION, &group);
        office.scene.sim.deny(Denial {
            only_there: true,
            ..denial(&[&group])
        });
    }
    office.give("Contributor", "/", ADA);
    assert!(office.of(ADA).await.is_allowed());
    office.scene.sim.deny(denial(&[ADA]));
    office.clock.advance(TimeDelta::minutes(1));
    assert_eq!(missing(&office.of(ADA).await), [DEFENDER_ACTIONS[2]]);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_allowed_and_not_remembered() {
    let office = Office::new().await;
    office.give("Owner", SUBSCRIPTION, ADA);
    let faults = office.scene.sim.faults();
    for operation in [
        "RoleAssignments.List",
        "DenyAssignments.List",
        "RoleDefinitions.Get",
    ] {
        for effect in [
            status(500, "InternalServerError", None),
            status(403, "AuthorizationFailed", None),
            status(404, "ResourceNotFound", None),
            Effect::ResetBefore,
        ] {
            faults.add(fault(operation, When::Always, effect));
            let decision = office.of(ADA).await;
            assert!(
                matches!(decision, CloudDecision::Unknown { .. }),
                "{operation}: {decision:?}"
            );
            faults.clear();
        }
    }
    assert!(office.of(ADA).await.is_allowed());
}

#[tokio::test]
async fn each_of_the_three_reads_needs_its_action() {
    let all = [
        "Microsoft.Authorization/roleAssignments/read",
        "Microsoft.Authorization/roleDefinitions/read",
        "Microsoft.Authorization/denyAssignments/read",
    ];
    let office = Office::new().await;
    office.give("Owner", SUBSCRIPTION, ADA);
    for left_out in 0..3 {
        let some: Vec<&str> = all
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != left_out)
            .map(|(_, action)| *action)
            .collect();
        let sim = &office.scene.sim;
        sim.set_clients(vec![ArmClient::limited("postern", "secret", &some)]);
        let CloudDecision::Unknown { reason } = office.of(ADA).await else {
            panic!("without {}", all[left_out]);
        };
        assert!(reason.contains(all[left_out]), "{reason}");
    }
    office
        .scene
        .sim
        .set_clients(vec![ArmClient::limited("postern", "secret", &all)]);
    assert!(office.of(ADA).await.is_allowed());
}

#[tokio::test]
async fn what_was_found_serves_for_its_lifetime_and_a_role_that_is_gone_no_longer() {
    let office = Office::new().await;
    let assignment = office.give("Owner", SUBSCRIPTION, ADA);
    assert!(office.of(ADA).await.is_allowed());
    let calls = office.scene.sim.calls().total();
    assert!(office.scene.sim.unassign(&assignment));
    office.clock.advance(TimeDelta::seconds(59));
    assert!(office.of(ADA).await.is_allowed());
    assert_eq!(office.scene.sim.calls().total(), calls, "nothing was asked");
    office.clock.advance(TimeDelta::seconds(1));
    assert_eq!(missing(&office.of(ADA).await), DEFENDER_ACTIONS);
}

#[tokio::test]
async fn many_who_ask_the_same_at_once_cost_one_look() {
    let office = Office::new().await;
    office.give("Owner", SUBSCRIPTION, ADA);
    let principal = somebody(ADA, &[]);
    let all = join_all((0..30).map(|_| office.decide(&principal))).await;
    assert!(all.iter().all(CloudDecision::is_allowed));
    let calls = office.scene.sim.calls();
    assert_eq!(calls.of("RoleAssignments.List"), 1);
    assert_eq!(calls.of("DenyAssignments.List"), 1);
    assert_eq!(calls.of("RoleDefinitions.Get"), 1);
}

#[tokio::test]
async fn a_decision_waits_no_longer_than_it_may() {
    let office = Office::with(
        RbacConfig {
            timeout: Duration::from_millis(50),
            ..demand()
        },
        Scene::options(),
    )
    .await;
    office.give("Owner", SUBSCRIPTION, ADA);
    let slow = Effect::Latency(Duration::from_mins(10));
    office
        .scene
        .sim
        .faults()
        .add(fault("RoleAssignments.List", When::Always, slow));
    let CloudDecision::Unknown { reason } = office.of(ADA).await else {
        panic!("nobody answered");
    };
    assert!(reason.contains("did not answer"), "{reason}");
}

#[tokio::test]
async fn looks_are_paid_for_out_of_the_budget_and_leave_some_for_closings() {
    let scene = Scene::start(Scene::options()).await;
    let mut few = config(&scene.sim);
    few.budget_percent = 1;
    let clock = ManualClock::new(at(0));
    let enforcer = AzureEnforcer::new(few, Arc::new(clock)).unwrap();
    for number in 0..20 {
        let role = scene
            .sim
            .define_role(&format!("role {number}"), &["Microsoft.Compute/*"], &[])
            .unwrap();
        let grant = RoleGrant {
            scope: SUBSCRIPTION.to_owned(),
            role,
            principal: ADA.to_owned(),
            condition: None,
        };
        scene.sim.assign(&grant).unwrap();
    }
    let roles = enforcer.roles(demand());
    let decision = roles.decide(&somebody(ADA, &[]), &scene.web).await;
    assert!(matches!(decision, CloudDecision::Unknown { .. }), "{decision:?}");
    let read = scene.sim.calls().of("RoleDefinitions.Get");
    assert!(read < 20, "{read} of 20 roles were read");
}

#[tokio::test]
async fn groups_of_the_token_count_where_that_is_configured() {
    let office = Office::with(
        RbacConfig {
            groups: Groups::Token,
            ..demand()
        },
        Scene::options(),
    )
    .await;
    office.give("Owner", SUBSCRIPTION, SRE);
    assert!(office.decide(&somebody(ADA, &[SRE, PLATFORM])).await.is_allowed());
    assert_eq!(
        missing(&office.decide(&somebody(ADA, &[PLATFORM])).await),
        DEFENDER_ACTIONS
    );
    for groups in [&[][..], &["sre"], &[SRE, "sre"]] {
        let decision = office.decide(&somebody(ADA, groups)).await;
        assert!(
            matches!(decision, CloudDecision::Unidentified { .. }),
            "{groups:?}: {decision:?}"
        );
    }
    office.scene.sim.deny(denial(&[PLATFORM]));
    office.clock.advance(TimeDelta::minutes(1));
    let decision = office.decide(&somebody(ADA, &[SRE, PLATFORM])).await;
    assert_eq!(missing(&decision), [DEFENDER_ACTIONS[2]]);
}

#[tokio::test]
async fn whom_azure_cannot_know_is_refused_unless_others_are_exempt() {
    let office = Office::new().await;
    let stranger = Principal {
        issuer: "github".to_owned(),
        ..somebody(ADA, &[])
    };
    let nameless = Principal {
        claims: BTreeMap::new(),
        ..somebody(ADA, &[])
    };
    for principal in [
        &stranger,
        &nameless,
        &somebody("ada", &[]),
        &somebody("x' or 'a", &[]),
    ] {
        let decision = office.decide(principal).await;
        assert!(
            matches!(decision, CloudDecision::Unidentified { .. }),
            "{decision:?}"
        );
    }
    assert_eq!(office.scene.sim.calls().of("RoleAssignments.List"), 0);
    let lenient = Office::with(
        RbacConfig {
            others: Others::Exempt,
            ..demand()
        },
        Scene::options(),
    )
    .await;
    assert!(lenient.decide(&stranger).await.is_allowed());
    assert!(!lenient.decide(&nameless).await.is_allowed());
}
