//! What stands in the way is told before anybody waits; what a change of policy would do, before it is made.

use std::collections::{BTreeMap, BTreeSet};

use postern_api::{
    ErrorCode,
    jit_policy::{JitPolicyWrite, Lockdown},
};
use postern_core::{
    inventory::{Interface, Layer, Machine, Place, Power},
    machine::MachineId,
    nsg::{Access, NsgProtocol, NsgRule},
    point::PointRef,
    posture::posture,
    testing::an_nsg_rule,
    time::Clock,
};
use postern_store::MachineRow;

use crate::rig::{MACHINE, Rig, ask, asks, code, now, policy};

const VM: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/web";

fn rule(name: &str, priority: u16, access: Access) -> NsgRule {
    NsgRule {
        protocol: NsgProtocol::Tcp,
        ..an_nsg_rule(name, priority, access, "*", "22")
    }
}

async fn discover(rig: &Rig, power: Power, rules: Vec<NsgRule>) -> MachineId {
    let point = PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", "web-nsg").unwrap();
    let machine = Machine {
        id: VM.parse().unwrap(),
        name: "web".into(),
        tags: BTreeMap::new(),
        power,
        interfaces: vec![Interface {
            id: "web-nic".into(),
            addresses: vec!["10.0.0.4".parse().unwrap()],
            public_addresses: vec![],
            network: vec![],
            network_id: "vnet".into(),
            layers: vec![Layer::Nsg {
                point: point.clone(),
                place: Place::Interface,
                rules,
                memberships: BTreeSet::new(),
                possible_memberships: BTreeSet::new(),
            }],
        }],
    };
    let id = machine.id.clone();
    let policies = rig
        .store
        .policies(&postern_store::Visible::everything(), None, 10)
        .await
        .unwrap();
    let covering = policies
        .items
        .iter()
        .find(|policy| policy.covers(&id.scope(), &machine.tags));
    let row = MachineRow {
        posture: posture(&machine, covering),
        policy: covering.map(|policy| policy.id),
        opens: machine.grant_points(),
        locks: [point].into(),
        machine,
    };
    let mut tx = rig.store.begin().await.unwrap();
    tx.save_machines(&[row], &rig.ids, rig.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn ready(approval: &str, power: Power, rules: Vec<NsgRule>) -> Rig {
    let rig = Rig::start().await;
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/azure", approval))
        .await
        .unwrap();
    discover(&rig, power, rules).await;
    rig.assign("ada", "requester", "/azure").await;
    rig
}

fn blocked() -> Vec<NsgRule> {
    vec![rule("no-ssh", 200, Access::Deny), rule("ssh", 300, Access::Allow)]
}

#[tokio::test]
async fn a_request_that_a_rule_would_block_is_refused_with_the_rule_named_and_leaves_nothing() {
    let rig = ready("policy", Power::Running, blocked()).await;
    let error = rig
        .client("ada")
        .create_access_request(None, &now(), &ask(VM))
        .await
        .unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.code, problem.status), (ErrorCode::BlockedByRule, 422));
    assert!(
        problem.detail.contains("`no-ssh` (priority 200)"),
        "{}",
        problem.detail
    );
    assert_eq!(problem.errors[0].pointer, "/targets/0/machine");
    assert!(rig.audit("access_request.create").await.is_empty());
}

#[tokio::test]
async fn how_a_port_is_open_anyway_is_told_to_who_may_read_the_machine_and_to_no_other() {
    let open = vec![rule("ssh", 300, Access::Allow)];
    let rig = ready("one", Power::Running, open).await;
    rig.owner()
        .create_role(
            None,
            &postern_api::role::RoleCreate {
                name: "asking".into(),
                actions: ["request".into()].into(),
            },
        )
        .await
        .unwrap();
    rig.assign("bob", "asking", "/azure").await;
    rig.assign("sam", "approver", "/azure").await;

    let dry = rig.client("ada").dry_run_access_request(&ask(VM)).await.unwrap();
    let [exposure] = dry.request.exposures.as_slice() else {
        panic!("{dry:#?}");
    };
    assert_eq!(
        (
            exposure.code.as_str(),
            exposure.rule.rule.as_str(),
            exposure.ports.as_str()
        ),
        ("open", "ssh", "22/tcp")
    );
    assert_eq!(exposure.machine, dry.request.targets[0].machine);
    assert!(exposure.detail.contains("without a grant"), "{exposure:?}");
    // It keeps nobody from asking.
    assert!(dry.preflight[0].opens, "{dry:#?}");

    let dry = rig.client("bob").dry_run_access_request(&ask(VM)).await.unwrap();
    assert_eq!(dry.request.exposures, []);
    let made = asks(&rig.client("bob"), VM).await;
    assert_eq!((made.status.as_str(), made.exposures), ("pending", vec![]));
    let own = rig.client("bob").access_request(&made.id).await.unwrap();
    assert_eq!(own.exposures, [], "one's own request, and not one's machine");
    let seen = rig.client("sam").access_request(&made.id).await.unwrap();
    assert_eq!(seen.exposures.len(), 1, "{seen:#?}");

    // What the lockdown shut is no way in.
    let shut = vec![rule("shut", 200, Access::Deny), rule("ssh", 300, Access::Allow)];
    discover(&rig, Power::Running, shut).await;
    let seen = rig.client("sam").access_request(&made.id).await.unwrap();
    assert_eq!(seen.exposures, []);
}

#[tokio::test]
async fn a_dry_run_shows_every_target_and_what_is_in_its_way() {
    let rig = ready("one", Power::Stopped, blocked()).await;
    let dry = rig.client("ada").dry_run_access_request(&ask(VM)).await.unwrap();
    assert!(dry.request.dry_run && dry.request.status == "pending");
    let way = &dry.preflight[0];
    assert_eq!(way.machine, dry.request.targets[0].machine);
    assert!(!way.opens);
    let decision = &dry.decisions[0];
    assert_eq!(
        (decision.machine.as_str(), decision.policy.is_empty()),
        (way.machine.as_str(), false)
    );
    assert!(
        decision.explanation.contains("requester"),
        "{}",
        decision.explanation
    );
    let codes: Vec<_> = way.obstacles.iter().map(|note| note.code.as_str()).collect();
    assert_eq!(codes, ["machine_stopped", "blocked_by_rule"]);
    let rule = way.obstacles[1].rule.as_ref().unwrap();
    assert_eq!((rule.rule.as_str(), rule.priority), ("no-ssh", Some(200)));
    assert!(rule.resource.ends_with("/web-nsg"));
    assert!(way.warnings.is_empty());
}

#[tokio::test]
async fn an_observation_older_than_a_discovery_is_told_and_refuses_nobody() {
    let rig = ready("policy", Power::Running, blocked()).await;
    rig.advance(301);
    let ada = rig.client("ada");
    let dry = ada.dry_run_access_request(&ask(VM)).await.unwrap();
    assert!(dry.preflight[0].opens);
    assert_eq!(dry.preflight[0].warnings[0].code, "observation_old");
    let request = asks(&ada, VM).await;
    assert_eq!(request.status, "approved");
}

#[tokio::test]
async fn an_approval_is_refused_when_the_way_was_blocked_meanwhile() {
    let rig = ready("one", Power::Running, vec![]).await;
    rig.assign("bob", "approver", "/azure").await;
    let request = asks(&rig.client("ada"), VM).await;
    rig.advance(1);
    discover(&rig, Power::Stopped, vec![]).await;
    let bob = rig.client("bob");
    assert_eq!(
        code(bob.approve_access_request(&request.id, None).await),
        ErrorCode::MachineStopped
    );
    rig.advance(1);
    discover(&rig, Power::Running, vec![]).await;
    let approved = bob.approve_access_request(&request.id, None).await.unwrap();
    assert_eq!(approved.status, "approved");
}

#[tokio::test]
async fn a_dry_run_of_a_policy_tells_whom_it_locks_and_changes_nothing() {
    let rig = Rig::start().await;
    let machine = discover(&rig, Power::Running, vec![rule("ssh", 300, Access::Allow)]).await;
    rig.discover(MACHINE).await;
    rig.pass().await;
    let owner = rig.owner();
    let plan = owner
        .plan_create_jit_policy(&policy("ssh", "/azure", "policy"))
        .await
        .unwrap();
    assert!(plan.dry_run && plan.grants_ended.is_empty());
    assert_eq!((plan.machines, plan.points), (1, 1));
    assert_eq!(plan.coverage[0].machine, machine.to_string());
    assert_eq!(plan.coverage[0].before, None);
    assert_eq!(plan.coverage[0].after, Some(plan.policy.unwrap().id));
    let losses: Vec<_> = plan
        .losses
        .iter()
        .map(|loss| {
            (
                loss.address.as_str(),
                loss.ports.as_str(),
                loss.rule.as_deref(),
                loss.certain,
            )
        })
        .collect();
    assert!(
        losses.contains(&("10.0.0.4", "22/tcp", Some("ssh"), true)),
        "{losses:?}"
    );
    assert!(
        plan.losses
            .iter()
            .any(|loss| loss.sources.contains(&"0.0.0.0/0".to_owned()))
    );
    let deferring = JitPolicyWrite {
        lockdown: Lockdown::Defer,
        ..policy("ssh", "/azure", "policy")
    };
    let nothing_lost = owner.plan_create_jit_policy(&deferring).await.unwrap();
    assert!(
        !nothing_lost
            .losses
            .iter()
            .any(|loss| loss.rule.as_deref() == Some("ssh")),
        "{:?}",
        nothing_lost.losses
    );
    let stored = rig.store.machine(&machine).await.unwrap().unwrap();
    assert_eq!(stored.policy, None);
    assert!(
        !rig.is_due("azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg")
            .await
    );
    assert!(rig.audit("jit_policy.create").await.is_empty());
    let asked = rig.audit("jit_policy.dry_run").await;
    assert_eq!(asked[0].event.details["after"]["name"], "ssh");
}

#[tokio::test]
async fn a_dry_run_of_a_change_or_a_removal_names_the_grants_that_would_end() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (owner, ada) = (rig.owner(), rig.client("ada"));
    let request = asks(&ada, &machine).await;
    let made = rig.only_policy().await;
    let narrower = policy("ssh", "/aws/210987654321", "policy");
    let plans = [
        owner
            .plan_update_jit_policy(&made.id, made.version, &narrower)
            .await
            .unwrap(),
        owner
            .plan_delete_jit_policy(&made.id, made.version)
            .await
            .unwrap(),
    ];
    for plan in plans {
        assert_eq!(plan.grants_ended, [request.grants[0].id.clone()]);
        assert_eq!(plan.coverage[0].before, Some(made.id.clone()));
        assert_eq!(plan.coverage[0].after, None);
        assert!(plan.losses.is_empty());
    }
    assert_eq!(owner.jit_policy(&made.id).await.unwrap().version, made.version);
    let grant = owner.grant(&request.grants[0].id).await.unwrap();
    assert_eq!(grant.status, request.grants[0].status);
    assert!(rig.audit("grant.end").await.is_empty());
    let eve = rig.client("eve");
    assert_eq!(
        code(eve.plan_delete_jit_policy(&made.id, made.version).await),
        ErrorCode::Forbidden
    );
    assert_eq!(
        code(owner.plan_delete_jit_policy(&made.id, made.version + 1).await),
        ErrorCode::VersionMismatch
    );
}

#[tokio::test]
async fn a_plan_names_no_machine_that_its_reader_may_not_read() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (owner, ada) = (rig.owner(), rig.client("ada"));
    let request = asks(&ada, &machine).await;
    owner
        .create_role(
            None,
            &serde_json::from_value(serde_json::json!({
                "name": "policy-writer", "actions": ["configure"],
            }))
            .unwrap(),
        )
        .await
        .unwrap();
    rig.assign("carl", "policy-writer", "/").await;
    let made = rig.only_policy().await;
    let carl = rig.client("carl");
    // A removal, a change after which the machine stays, and a new policy that takes the machine over.
    let plans = [
        carl.plan_delete_jit_policy(&made.id, made.version).await.unwrap(),
        carl.plan_update_jit_policy(&made.id, made.version, &policy("other", "/aws", "policy"))
            .await
            .unwrap(),
        carl.plan_create_jit_policy(&policy("narrow", "/aws/123456789012", "policy"))
            .await
            .unwrap(),
    ];
    for plan in &plans {
        assert_eq!(plan.machines_not_shown, 1, "{plan:?}");
        assert!(
            plan.coverage.is_empty() && plan.losses.is_empty() && plan.grants_ended.is_empty(),
            "{plan:?}"
        );
        assert!(!format!("{plan:?}").contains("i-0123456789abcdef0"), "{plan:?}");
    }
    assert_eq!(plans.map(|plan| plan.machines), [1, 0, 1]);
    let seen = owner
        .plan_delete_jit_policy(&made.id, made.version)
        .await
        .unwrap();
    assert_eq!(seen.machines_not_shown, 0);
    assert_eq!(seen.grants_ended, [request.grants[0].id.clone()]);
    // What carl was not shown is no denial: he asked for a plan, and got one.
    assert!(
        rig.audit("machine.read")
            .await
            .iter()
            .all(|stored| stored.event.outcome != postern_core::audit::Outcome::Denied)
    );
}

#[tokio::test]
async fn a_dry_run_says_of_how_many_machines_beyond_the_first_it_tells_nothing() {
    let rig = Rig::start().await;
    let all = 203;
    for number in 0..all {
        let id = format!("arn:aws:ec2:eu-west-1:123456789012:instance/i-{number:017x}");
        rig.discover(&id).await;
    }
    let owner = rig.owner();
    let ssh = policy("ssh", "/aws", "policy");
    let plan = owner.plan_create_jit_policy(&ssh).await.unwrap();
    assert_eq!((plan.machines, plan.coverage.len()), (all, 200));
    assert_eq!(plan.machines_not_foreseen, 3);
    let made = owner.create_jit_policy(None, &ssh).await.unwrap();
    // All stay covered, and are guarded at another port.
    let mut rdp = ssh.clone();
    rdp.guards[0].ports = "3389/tcp".to_owned();
    let plan = owner
        .plan_update_jit_policy(&made.id, made.version, &rdp)
        .await
        .unwrap();
    assert_eq!((plan.machines, plan.machines_not_foreseen), (0, 3));
    // Nothing changes for those that stay, and are guarded as before.
    let mut renamed = ssh;
    renamed.name = "secure-shell".to_owned();
    let plan = owner
        .plan_update_jit_policy(&made.id, made.version, &renamed)
        .await
        .unwrap();
    assert_eq!(plan.machines_not_foreseen, 0);
}
