//! Azure's own roles as a second yes, demanded by a server over the simulator.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::time::Duration;

use chrono::TimeDelta;
use postern::demo::{fleet::SUBSCRIPTION, people};
use postern_api::{
    ErrorCode, Problem,
    access_check::AccessCheckQuery,
    access_request::{AccessRequest, AccessRequestApprove, AccessRequestCreateQuery},
    client::ClientError,
    grant::GrantExtend,
    jit_policy::{Approval, ApprovalStage},
    lease::{LeaseCreate, LeaseWaitQuery},
    review::BreakGlassQuery,
    role::RoleAssignmentCreate,
};
use postern_core::machine::MachineId;
use postern_sim::{
    Effect, FaultRule, When,
    arm::{Denial, RoleGrant},
};
use postern_tests::{
    Person, ServerProcess, World, WorldOptions,
    world::{a_policy, a_request},
};

const INITIATE: &str = "Microsoft.Security/locations/jitNetworkAccessPolicies/initiate/action";
const ENGINEERS: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const STAFF: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const PATIENCE: Duration = Duration::from_secs(30);

/// A world whose server demands what Defender demands, and remembers what Azure said for so many seconds.
async fn world(cache_seconds: u32) -> (World, ServerProcess) {
    let issuer = people::ISSUER_NAME;
    World::locked_down(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(format!(
            "[issuers.claims]\nextra = [\"oid\"]\n\
             [azure.rbac]\nissuer = \"{issuer}\"\ncache_seconds = {cache_seconds}\ntimeout_seconds = 10\n"
        )),
    )
    .await
}

fn ada() -> &'static str {
    people::Person::named("ada").unwrap().object_id
}

fn give(world: &World, role: &str, principal: &str) -> String {
    let grant = RoleGrant {
        scope: format!("/subscriptions/{SUBSCRIPTION}"),
        role: role.to_owned(),
        principal: principal.to_owned(),
        condition: None,
    };
    world.fleet.arm.assign(&grant).unwrap()
}

async fn ask(world: &World, machines: &[&str]) -> Result<AccessRequest, ClientError> {
    let query = AccessRequestCreateQuery {
        wait: Some(30),
        ..AccessRequestCreateQuery::default()
    };
    world
        .client(Person::Ada)
        .create_access_request(None, &query, &a_request(machines, 600))
        .await
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    answer.unwrap_err().problem().unwrap().clone()
}

async fn check(world: &World, who: Person, action: &str) -> postern_api::access_check::AccessCheck {
    let machine: MachineId = world.fleet.db.parse().unwrap();
    let query = AccessCheckQuery {
        action: Some(action.to_owned()),
        scope: Some(machine.scope().to_string()),
        ..AccessCheckQuery::default()
    };
    world.client(who).access_check(&query).await.unwrap()
}

/// What the audit log says of the last request of a kind.
async fn last_event(world: &World, action: &str) -> postern_api::audit_event::AuditEvent {
    let events = world.audit_log().await;
    let last = events.into_iter().rev().find(|event| event.action == action);
    last.unwrap_or_else(|| panic!("no event `{action}`"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posterns_role_is_not_enough_without_the_one_in_azure() {
    let (world, _server) = world(0).await;
    let (db, app) = (world.fleet.db.clone(), world.fleet.app.clone());

    // Nothing in Azure, then too little: the answer names what is missing, and so does the audit log.
    let problem = refused(ask(&world, &[&db]).await);
    assert_eq!((problem.code, problem.status), (ErrorCode::CloudRoleMissing, 403));
    give(&world, "Reader", ada());
    let problem = refused(ask(&world, &[&db]).await);
    assert!(problem.detail.contains(INITIATE), "{}", problem.detail);
    assert!(
        !problem.detail.contains("virtualMachines/read"),
        "{}",
        problem.detail
    );
    let event = last_event(&world, "access_request.create").await;
    assert_eq!(event.outcome, "denied");
    let decision = event.decision.unwrap();
    assert_eq!(decision["decided_by"], "cloud_roles");
    assert_eq!(decision["cloud_roles"]["lacks"][0]["action"], INITIATE);
    let checked = check(&world, Person::Ada, "request").await;
    assert!(
        !checked.allowed && checked.explanation.contains(INITIATE),
        "{checked:?}"
    );
    assert!(!world.reachable(&db, [203, 0, 113, 7], 22));
    // Azure has no say about machines elsewhere.
    ask(&world, &[&app]).await.unwrap();

    // The role at the subscription, through a group in a group.
    world.fleet.arm.put_in_group(STAFF, ENGINEERS);
    world.fleet.arm.put_in_group(ENGINEERS, ada());
    let assignment = give(&world, "Contributor", STAFF);
    let request = ask(&world, &[&db]).await.unwrap();
    assert_eq!(request.grants[0].status, "open");
    assert!(world.reachable(&db, [203, 0, 113, 7], 22));
    let roles = last_event(&world, "access_request.create").await.details["cloud_roles"].take();
    assert_eq!(roles["by"][0]["assignment"], assignment.as_str());
    assert_eq!(roles["by"][0]["role_name"], "Contributor");
    assert!(check(&world, Person::Ada, "request").await.allowed);

    // A role in Azure is not Postern's.
    give(&world, "Owner", people::Person::named("eve").unwrap().object_id);
    let eve = world
        .client(Person::Eve)
        .create_access_request(
            None,
            &AccessRequestCreateQuery::default(),
            &a_request(&[&db], 600),
        )
        .await;
    assert_eq!(refused(eve).code, ErrorCode::Forbidden);
    assert!(!check(&world, Person::Eve, "request").await.allowed);

    // A deny assignment wins.
    let denied = world.fleet.arm.deny(Denial {
        scope: format!("/subscriptions/{SUBSCRIPTION}"),
        name: "managed".to_owned(),
        actions: vec!["Microsoft.Compute/*".to_owned()],
        not_actions: Vec::new(),
        principals: vec![STAFF.to_owned()],
        excluded: Vec::new(),
        only_there: false,
    });
    let problem = refused(ask(&world, &[&db]).await);
    assert_eq!(problem.code, ErrorCode::CloudRoleMissing);
    assert!(problem.detail.contains("`managed`"), "{}", problem.detail);
    assert!(world.fleet.arm.undeny(&denied));

    // Azure that does not answer allows nothing, and when it does again, all is as before.
    let down = world.fleet.arm.faults().add(FaultRule {
        operation: "RoleAssignments.List".to_owned(),
        when: When::Always,
        effect: Effect::ResetBefore,
    });
    let problem = refused(ask(&world, &[&db]).await);
    assert_eq!(
        (problem.code, problem.status),
        (ErrorCode::CloudRolesUnknown, 503)
    );
    assert!(!check(&world, Person::Ada, "request").await.allowed);
    assert!(world.fleet.arm.faults().remove(down));
    ask(&world, &[&db]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_taken_away_serves_no_longer_than_the_cache_lives() {
    let (world, _server) = world(1).await;
    let db = world.fleet.db.clone();
    let assignment = give(&world, "Contributor", ada());
    ask(&world, &[&db]).await.unwrap();
    assert!(world.fleet.arm.unassign(&assignment));
    let problem = world
        .eventually("the role is gone", PATIENCE, async || {
            let answer = ask(&world, &[&db]).await;
            answer.err().map(|error| error.problem().unwrap().clone())
        })
        .await;
    assert_eq!(problem.code, ErrorCode::CloudRoleMissing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_asked_again_at_a_late_approval_and_when_a_scheduled_grant_starts() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let olga = world.client(Person::Olga);
    let assignment = give(&world, "Contributor", ada());

    // Scheduled: allowed when it was asked for, and not any more when its time came.
    let mut later = a_request(&[&db], 600);
    later.starts_at = Some(world.now() + TimeDelta::seconds(4));
    let query = AccessRequestCreateQuery::default();
    let scheduled = world
        .client(Person::Ada)
        .create_access_request(None, &query, &later)
        .await
        .unwrap();
    assert_eq!(scheduled.grants[0].status, "scheduled");
    assert!(world.fleet.arm.unassign(&assignment));
    world.until(&scheduled.grants[0].id, "closed", PATIENCE).await;
    let ended = last_event(&world, "grant.end").await;
    assert!(ended.reason.unwrap().contains(INITIATE));
    assert_eq!(ended.decision.unwrap()["cloud_roles"]["outcome"], "refused");
    assert!(!world.reachable(&db, [203, 0, 113, 7], 22));

    // With approval: the requester's role counts at the approval, and whoever approves needs none.
    let mut policy = a_policy("approved", &db.parse::<MachineId>().unwrap().scope().to_string());
    policy.approval = Approval::One;
    olga.create_jit_policy(None, &policy).await.unwrap();
    let assignment = give(&world, "Contributor", ada());
    let pending = world
        .client(Person::Ada)
        .create_access_request(None, &query, &a_request(&[&db], 600))
        .await
        .unwrap();
    assert_eq!(pending.status, "pending");
    assert!(world.fleet.arm.unassign(&assignment));
    let sam = world.client(Person::Sam);
    let problem = refused(sam.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::RequesterNotAllowed);
    assert!(problem.detail.contains(INITIATE), "{}", problem.detail);
    let assignment = give(&world, "Contributor", ada());
    let approved = sam.approve_access_request(&pending.id, None).await.unwrap();
    assert_eq!(approved.status, "approved");
    let event = last_event(&world, "access_request.approve").await;
    let roles = &event.decision.unwrap()["cloud_roles"];
    assert_eq!(roles["by"][0]["assignment"], assignment.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_grant_waits_for_an_azure_that_does_not_answer_when_it_starts() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    give(&world, "Contributor", ada());
    let mut later = a_request(&[&db], 600);
    later.starts_at = Some(world.now() + TimeDelta::seconds(3));
    let scheduled = world
        .client(Person::Ada)
        .create_access_request(None, &AccessRequestCreateQuery::default(), &later)
        .await
        .unwrap();
    let grant = &scheduled.grants[0].id;
    let arm = &world.fleet.arm;
    let down = arm.faults().add(FaultRule {
        operation: "DenyAssignments.List".to_owned(),
        when: When::Always,
        effect: Effect::ResetBefore,
    });
    world
        .eventually("the start was tried twice", PATIENCE, async || {
            (arm.faults().hits() >= 2).then_some(())
        })
        .await;
    assert_eq!(
        world.client(Person::Olga).grant(grant).await.unwrap().status,
        "scheduled"
    );
    assert!(arm.faults().remove(down));
    world.until(grant, "open", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_needs_it_still() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let assignment = give(&world, "Contributor", ada());
    let request = ask(&world, &[&db]).await.unwrap();
    let extend = GrantExtend {
        duration_seconds: 1200,
        reason: "not done yet".to_owned(),
    };
    assert!(world.fleet.arm.unassign(&assignment));
    let client = world.client(Person::Ada);
    let refusal = refused(client.extend_grant(&request.grants[0].id, None, &extend).await);
    assert_eq!(refusal.code, ErrorCode::CloudRoleMissing);
    give(&world, "Contributor", ada());
    client
        .extend_grant(&request.grants[0].id, None, &extend)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_glass_needs_it_too() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let role = RoleAssignmentCreate {
        role: "owner".to_owned(),
        principal: format!("user:{}/ada", people::ISSUER_NAME),
        scope: "/".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    world
        .client(Person::Olga)
        .create_role_assignment(None, &role)
        .await
        .unwrap();
    let ada_client = world.client(Person::Ada);
    let query = BreakGlassQuery::default();
    let broken = ada_client
        .break_glass(None, &query, &a_request(&[&db], 600))
        .await;
    assert_eq!(refused(broken).code, ErrorCode::CloudRoleMissing);
    assert!(!check(&world, Person::Ada, "break_glass").await.allowed);
    give(&world, "Owner", ada());
    let opened = ada_client
        .break_glass(None, &query, &a_request(&[&db], 600))
        .await
        .unwrap();
    world.until(&opened.grants[0].id, "open", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_and_a_dry_run_need_it_as_a_request_does() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let ada_client = world.client(Person::Ada);
    let wanted = a_request(&[&db], 600);
    let lease = LeaseCreate {
        key: Some("job-1".to_owned()),
        targets: wanted.targets.clone(),
        duration_seconds: wanted.duration_seconds,
        reason: wanted.reason.clone(),
        ticket: None,
        heartbeat_every_seconds: Some(60),
    };
    let query = LeaseWaitQuery { wait: Some(30) };
    assert_eq!(
        refused(ada_client.dry_run_access_request(&wanted).await).code,
        ErrorCode::CloudRoleMissing
    );
    assert_eq!(
        refused(ada_client.create_lease(None, &query, &lease).await).code,
        ErrorCode::CloudRoleMissing
    );
    assert!(!world.reachable(&db, [203, 0, 113, 7], 22));

    let assignment = give(&world, "Contributor", ada());
    let tried = ada_client.dry_run_access_request(&wanted).await.unwrap();
    assert_eq!(tried.request.status, "approved");
    assert!(!world.reachable(&db, [203, 0, 113, 7], 22), "it was a dry run");
    let held = ada_client.create_lease(None, &query, &lease).await.unwrap();
    assert_eq!(held.status, "open");
    assert!(world.reachable(&db, [203, 0, 113, 7], 22));

    // What is open stays open without it, and so is the lease found again; another one is refused.
    assert!(world.fleet.arm.unassign(&assignment));
    let found = ada_client.create_lease(None, &query, &lease).await.unwrap();
    assert_eq!(
        (found.id.as_str(), found.status.as_str()),
        (held.id.as_str(), "open")
    );
    let another = LeaseCreate {
        key: Some("job-2".to_owned()),
        ..lease
    };
    assert_eq!(
        refused(ada_client.create_lease(None, &query, &another).await).code,
        ErrorCode::CloudRoleMissing
    );
}

/// How often Azure was asked about anybody's roles.
fn asked(world: &World) -> u64 {
    let calls = world.fleet.arm.calls().all();
    let of_roles = calls.iter().filter(|(operation, _)| {
        ["RoleAssignments.", "RoleDefinitions.", "DenyAssignments."]
            .iter()
            .any(|client| operation.starts_with(client))
    });
    of_roles.map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_asked_about_nobody_for_whoever_may_not_approve() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let mut policy = a_policy("approved", &db.parse::<MachineId>().unwrap().scope().to_string());
    policy.approval = Approval::One;
    let olga = world.client(Person::Olga);
    olga.create_jit_policy(None, &policy).await.unwrap();
    let assignment = give(&world, "Contributor", ada());
    let query = AccessRequestCreateQuery::default();
    let pending = world
        .client(Person::Ada)
        .create_access_request(None, &query, &a_request(&[&db], 600))
        .await
        .unwrap();
    // Were Azure asked now, it would say no, or nothing at all.
    assert!(world.fleet.arm.unassign(&assignment));
    world.fleet.arm.calls().reset();

    // Who may not see the request, who made it, and who would widen it.
    let problem = refused(
        world
            .client(Person::Eve)
            .approve_access_request(&pending.id, None)
            .await,
    );
    assert_eq!((problem.code, problem.status), (ErrorCode::NotFound, 404));
    let requester = world.client(Person::Ada);
    let problem = refused(requester.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::Forbidden);
    let also = RoleAssignmentCreate {
        role: "approver".to_owned(),
        principal: format!("user:{}/ada", people::ISSUER_NAME),
        scope: "/".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    olga.create_role_assignment(None, &also).await.unwrap();
    let problem = refused(requester.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::OwnRequest);
    let sam = world.client(Person::Sam);
    let wider = AccessRequestApprove {
        duration_seconds: Some(3600),
        ..AccessRequestApprove::default()
    };
    let problem = refused(sam.approve_access_request_for(&pending.id, None, &wider).await);
    assert_eq!(problem.code, ErrorCode::WiderThanAsked);
    assert_eq!(asked(&world), 0, "{:?}", world.fleet.arm.calls().all());

    // Whoever may approve learns what Azure says.
    let problem = refused(sam.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::RequesterNotAllowed);
    assert!(asked(&world) > 0, "{:?}", world.fleet.arm.calls().all());
    give(&world, "Contributor", ada());
    let approved = sam.approve_access_request(&pending.id, None).await.unwrap();
    assert_eq!(approved.status, "approved");
    // What is decided is not asked about again, and neither is what a repetition finds.
    world.fleet.arm.calls().reset();
    let problem = refused(sam.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::AlreadyDecided);
    assert_eq!(asked(&world), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_asked_about_nobody_for_an_approver_whom_the_stage_does_not_ask() {
    let (world, _server) = world(0).await;
    let db = world.fleet.db.clone();
    let mut policy = a_policy("staged", &db.parse::<MachineId>().unwrap().scope().to_string());
    let stage = |approver: &str| ApprovalStage {
        needs: 1,
        approvers: vec![format!("user:{}/{approver}", people::ISSUER_NAME)],
        role: None,
        again: false,
    };
    policy.approval = Approval::Stages(vec![stage("olga"), stage("sam")]);
    let olga = world.client(Person::Olga);
    olga.create_jit_policy(None, &policy).await.unwrap();
    give(&world, "Contributor", ada());
    let query = AccessRequestCreateQuery::default();
    let pending = world
        .client(Person::Ada)
        .create_access_request(None, &query, &a_request(&[&db], 600))
        .await
        .unwrap();

    // Sam may approve there, and his stage is not due yet.
    world.fleet.arm.calls().reset();
    let sam = world.client(Person::Sam);
    let problem = refused(sam.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::NotAnApprover);
    assert_eq!(asked(&world), 0, "{:?}", world.fleet.arm.calls().all());

    let agreed = olga.approve_access_request(&pending.id, None).await.unwrap();
    assert_eq!(agreed.status, "pending");
    world.fleet.arm.calls().reset();
    let problem = refused(olga.approve_access_request(&pending.id, None).await);
    assert_eq!(problem.code, ErrorCode::AlreadyAgreed);
    assert_eq!(asked(&world), 0, "{:?}", world.fleet.arm.calls().all());
    let approved = sam.approve_access_request(&pending.id, None).await.unwrap();
    assert_eq!(approved.status, "approved");
}
