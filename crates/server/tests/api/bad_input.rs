//! Bad input: each gets a precise problem, and nothing changes.

use postern_api::{
    ErrorCode,
    access_request::{AccessRequestCreate, AccessRequestCreateQuery},
    grant::GrantQuery,
    jit_policy::{JitPolicyQuery, JitPolicyWrite},
    machine::MachineQuery,
    role::{RoleAssignmentCreate, RoleAssignmentQuery, RoleCreate},
};
use serde_json::{Value, json};

use crate::rig::{Rig, ask, code, policy};

/// How something is spoilt, and what is said of it.
type Spoilt<T> = (fn(&mut T), ErrorCode);

const REQUESTS: &str = "/v1/access-requests";

fn spoiled(machine: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut body = serde_json::to_value(ask(machine)).unwrap();
    change(&mut body);
    body.to_string()
}

#[tokio::test]
async fn requests_that_could_never_be_right_name_the_field() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let set = |pointer: &'static str, value: Value| {
        move |body: &mut Value| *body.pointer_mut(pointer).unwrap() = value
    };
    let sub = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups";
    let mut cases: Vec<(String, ErrorCode, &str)> = Vec::new();
    for duration in [
        json!(0),
        json!(-1),
        json!(9),
        json!(86_401),
        json!(i64::MAX),
        json!(1e300),
        json!("1h"),
    ] {
        let body = spoiled(&machine, set("/duration_seconds", duration));
        cases.push((body, ErrorCode::InvalidDuration, "/duration_seconds"));
    }
    for source in [
        "203.0.113.7/33",
        "203.0.113.7/24",
        "here",
        "",
        "::ffff:203.0.113.7",
        "203.0.113.7/-1",
    ] {
        let body = spoiled(&machine, set("/targets/0/sources/0", json!(source)));
        cases.push((body, ErrorCode::InvalidSource, "/targets/0/sources/0"));
    }
    for port in ["0", "65536", "-1", "ssh", "23-22", "22/icmp"] {
        let body = spoiled(&machine, set("/targets/0/ports/0", json!(port)));
        cases.push((body, ErrorCode::InvalidPorts, "/targets/0/ports/0"));
    }
    for id in [
        "arn:aws:ec2:eu-west-1:123456789012:instance/../i-0123456789abcdef0".to_owned(),
        "arn:aws:ec2:eu-west-1:12345678901:instance/i-0123456789abcdef0".to_owned(),
        format!("{sub}/../providers/Microsoft.Compute/virtualMachines/x"),
        format!("{sub}/a%2Fb/providers/Microsoft.Compute/virtualMachines/x"),
        "vm1".to_owned(),
    ] {
        let body = spoiled(&machine, set("/targets/0/machine", json!(id)));
        cases.push((body, ErrorCode::InvalidMachineId, "/targets/0/machine"));
    }
    for reason in ["", "  ", "a\u{7}b", &"x".repeat(1001)] {
        let body = spoiled(&machine, set("/reason", json!(reason)));
        cases.push((body, ErrorCode::InvalidReason, "/reason"));
    }
    cases.push((
        spoiled(&machine, set("/targets", json!([]))),
        ErrorCode::InvalidTargets,
        "/targets",
    ));
    cases.push((
        spoiled(&machine, |body| {
            let twin = body["targets"][0].clone();
            body["targets"].as_array_mut().unwrap().push(twin);
        }),
        ErrorCode::InvalidTargets,
        "/targets/1/machine",
    ));
    cases.push((
        spoiled(&machine, set("/targets/0/ports", json!([]))),
        ErrorCode::InvalidPorts,
        "/targets/0/ports",
    ));
    cases.push((
        spoiled(&machine, |body| body["targets"][0]["port"] = json!(22)),
        ErrorCode::UnknownField,
        "/targets/0/port",
    ));
    for (body, expected, pointer) in cases {
        let answer = rig
            .post_raw(REQUESTS, "ada", Some("application/json"), &body)
            .await;
        let problem = answer.problem();
        assert_eq!(problem.code, expected, "{body}: {problem}");
        assert_eq!(problem.errors[0].pointer, pointer, "{body}");
    }
    assert!(
        rig.client("ada")
            .grants(&GrantQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(rig.audit("access_request").await.is_empty());
}

#[tokio::test]
async fn bodies_that_are_no_json_of_bounded_size_are_refused() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let good = spoiled(&machine, |_| ());
    let json = Some("application/json");
    let answer = rig
        .post_raw(REQUESTS, "ada", json, "{\n  \"targets\": [,]\n}")
        .await;
    let problem = answer.problem();
    assert_eq!(problem.code, ErrorCode::MalformedJson);
    assert!(problem.detail.contains("line 2 column 15"), "{}", problem.detail);
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let answer = rig.post_raw(REQUESTS, "ada", content_type, &good).await;
        assert_eq!(
            answer.problem().code,
            ErrorCode::UnsupportedMediaType,
            "{content_type:?}"
        );
    }
    let large = format!("{good}{}", " ".repeat(64 * 1024));
    let answer = rig.post_raw(REQUESTS, "ada", json, &large).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.problem().code, ErrorCode::BodyTooLarge);
    let deep = "[".repeat(10_000);
    assert_eq!(rig.post_raw(REQUESTS, "ada", json, &deep).await.status, 400);
    let fine = rig
        .post_raw(REQUESTS, "ada", Some("application/json; charset=utf-8"), &good)
        .await;
    assert_eq!(fine.status, 201, "{fine:?}");
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused_by_name() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    let cases: [Spoilt<AccessRequestCreate>; 4] = [
        (
            |r| r.targets[0].ports = vec!["3389".into()],
            ErrorCode::PortNotGuarded,
        ),
        (
            |r| r.targets[0].ports = vec!["22/udp".into()],
            ErrorCode::PortNotGuarded,
        ),
        (
            |r| r.targets[0].sources = Some(vec!["203.0.112.0/22".into()]),
            ErrorCode::SourceNotAllowed,
        ),
        (|r| r.duration_seconds = 3601, ErrorCode::DurationTooLong),
    ];
    for (spoil, expected) in cases {
        let mut request = ask(&machine);
        spoil(&mut request);
        assert_eq!(
            code(ada.create_access_request(None, &query, &request).await),
            expected
        );
    }
    assert!(ada.grants(&GrantQuery::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn machines_without_a_policy_or_a_filter_have_their_own_codes() {
    let rig = Rig::start().await;
    let uncovered = "arn:aws:ec2:eu-north-1:123456789012:instance/i-0123456789abcdef1";
    let unfiltered = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef2";
    rig.discover(uncovered).await;
    rig.discover_with(unfiltered, false, &[]).await;
    rig.owner()
        .create_jit_policy(None, &policy("west", "/aws/123456789012/eu-west-1", "policy"))
        .await
        .unwrap();
    rig.assign("ada", "requester", "/").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    assert_eq!(
        code(ada.create_access_request(None, &query, &ask(uncovered)).await),
        ErrorCode::NoPolicy
    );
    assert_eq!(
        code(ada.create_access_request(None, &query, &ask(unfiltered)).await),
        ErrorCode::NothingToOpen
    );
}

#[tokio::test]
async fn only_who_may_read_there_learns_that_a_machine_does_not_exist() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let unknown = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdeff";
    let query = AccessRequestCreateQuery::default();
    let (ada, eve) = (rig.client("ada"), rig.client("eve"));
    assert_eq!(
        code(ada.create_access_request(None, &query, &ask(unknown)).await),
        ErrorCode::MachineNotFound
    );
    assert_eq!(
        code(eve.create_access_request(None, &query, &ask(unknown)).await),
        ErrorCode::Forbidden
    );
    assert_eq!(code(ada.machine(unknown).await), ErrorCode::MachineNotFound);
    assert_eq!(code(eve.machine(unknown).await), ErrorCode::Forbidden);
    assert_eq!(code(ada.machine("vm1").await), ErrorCode::InvalidMachineId);
}

#[tokio::test]
async fn policies_that_could_not_be_kept_are_refused() {
    let rig = Rig::start().await;
    let owner = rig.owner();
    let cases: [Spoilt<JitPolicyWrite>; 8] = [
        (|p| p.name = " ".into(), ErrorCode::InvalidPolicy),
        (|p| p.scope = "/aws/../azure".into(), ErrorCode::InvalidScope),
        (|p| p.guards.clear(), ErrorCode::InvalidPolicy),
        (|p| p.guards[0].ports = "0".into(), ErrorCode::InvalidPorts),
        (|p| p.guards[0].allowed_sources.clear(), ErrorCode::InvalidSource),
        (
            |p| p.guards[0].allowed_sources = vec!["1.2.3.4/8".into()],
            ErrorCode::InvalidSource,
        ),
        (
            |p| p.guards[0].max_duration_seconds = -5,
            ErrorCode::InvalidDuration,
        ),
        (|p| p.guards.push(p.guards[0].clone()), ErrorCode::InvalidPolicy),
    ];
    for (spoil, expected) in cases {
        let mut spoiled = policy("ssh", "/aws", "policy");
        spoil(&mut spoiled);
        assert_eq!(code(owner.create_jit_policy(None, &spoiled).await), expected);
    }
    assert!(
        owner
            .jit_policies(&JitPolicyQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_change_must_name_the_version_that_it_is_of() {
    let rig = Rig::start().await;
    let owner = rig.owner();
    let made = owner
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    let path = format!("/v1/jit-policies/{}", made.id);
    let put = |etag: Option<&str>| {
        let mut request = crate::rig::http()
            .put(rig.url(&path))
            .bearer_auth(rig.token("root"))
            .json(&policy("other", "/aws", "policy"));
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        async move { crate::rig::Answer::of(request.send().await.unwrap()).await }
    };
    for (etag, status, expected) in [
        (None, 428, ErrorCode::PreconditionRequired),
        (Some("*"), 400, ErrorCode::InvalidEtag),
        (Some("W/\"1\""), 400, ErrorCode::InvalidEtag),
        (Some("1"), 400, ErrorCode::InvalidEtag),
        (Some("\"7\""), 412, ErrorCode::VersionMismatch),
    ] {
        let answer = put(etag).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.problem().code, expected);
    }
    let answer = put(Some("\"1\"")).await;
    assert_eq!(
        (answer.status, answer.headers["etag"].to_str().unwrap()),
        (200, "\"2\"")
    );
    assert_eq!(
        code(owner.delete_jit_policy(&made.id, 1).await),
        ErrorCode::VersionMismatch
    );
    let twin = owner
        .create_jit_policy(None, &policy("other", "/azure", "policy"))
        .await;
    assert_eq!(code(twin), ErrorCode::Conflict);
    owner.delete_jit_policy(&made.id, 2).await.unwrap();
    assert_eq!(code(owner.jit_policy(&made.id).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn paths_ids_and_parameters_are_checked() {
    let rig = Rig::start().await;
    let owner = rig.token("root");
    let get = async |path: &str| rig.get(path, &owner).await.problem().code;
    assert_eq!(get("/v1/nothing").await, ErrorCode::NotFound);
    assert_eq!(
        get("/v1/grants/req_01990000000070008000000000000001").await,
        ErrorCode::InvalidId
    );
    assert_eq!(
        get("/v1/grants/grt_01990000000070008000000000000001").await,
        ErrorCode::NotFound
    );
    assert_eq!(get("/v1/grants?limit=201").await, ErrorCode::InvalidLimit);
    assert_eq!(get("/v1/grants?limit=0").await, ErrorCode::InvalidLimit);
    assert_eq!(get("/v1/grants?limit=-1").await, ErrorCode::InvalidLimit);
    assert_eq!(get("/v1/grants?cursor=zz").await, ErrorCode::InvalidCursor);
    assert_eq!(get("/v1/grants?colour=red").await, ErrorCode::InvalidQuery);
    assert_eq!(get("/v1/grants?status=ajar").await, ErrorCode::InvalidQuery);
    assert_eq!(get("/v1/machines?posture=good").await, ErrorCode::InvalidQuery);
    assert_eq!(get("/v1/machines?scope=aws").await, ErrorCode::InvalidScope);
    assert_eq!(
        get("/v1/audit-events?since=yesterday").await,
        ErrorCode::InvalidQuery
    );
    assert_eq!(get("/v1/access-check?scope=/").await, ErrorCode::InvalidQuery);
    assert_eq!(
        get("/v1/access-check?scope=/&action=fly").await,
        ErrorCode::InvalidAction
    );
    for twice in [
        "scope=/&scope=/",
        "scope=/&mfa=true&mfa=true",
        "scope=/&mfa=perhaps",
    ] {
        let path = format!("/v1/access-check?action=read&{twice}");
        assert_eq!(get(&path).await, ErrorCode::InvalidQuery, "{twice}");
    }
    let answer = rig
        .post_raw(
            "/v1/access-requests?wait=61",
            "root",
            Some("application/json"),
            "{}",
        )
        .await;
    assert_eq!(answer.problem().code, ErrorCode::MissingField);
    let answer = rig
        .post_raw(
            "/v1/access-requests?wait=soon",
            "root",
            Some("application/json"),
            "{}",
        )
        .await;
    assert_eq!(answer.problem().code, ErrorCode::InvalidWait);
    let answer = rig
        .post_raw("/v1/machines", "root", Some("application/json"), "{}")
        .await;
    assert_eq!(answer.problem().code, ErrorCode::MethodNotAllowed);
    assert!(
        answer.headers["allow"].to_str().unwrap().contains("GET"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn roles_and_assignments_are_checked() {
    let rig = Rig::start().await;
    let owner = rig.owner();
    let role = |name: &str, action: &str| RoleCreate {
        name: name.into(),
        actions: [action.to_owned()].into(),
    };
    assert_eq!(
        code(owner.create_role(None, &role("Night Shift", "read")).await),
        ErrorCode::InvalidRole
    );
    assert_eq!(
        code(owner.create_role(None, &role("owner", "read")).await),
        ErrorCode::Conflict
    );
    assert_eq!(
        code(owner.create_role(None, &role("night", "fly")).await),
        ErrorCode::InvalidAction
    );
    owner.create_role(None, &role("night", "revoke")).await.unwrap();
    assert_eq!(
        code(owner.create_role(None, &role("night", "read")).await),
        ErrorCode::Conflict
    );
    let assignment = |role: &str, principal: &str, scope: &str| RoleAssignmentCreate {
        role: role.into(),
        principal: principal.into(),
        scope: scope.into(),
        ..RoleAssignmentCreate::default()
    };
    for (role, principal, scope, expected) in [
        ("nobody", "user:corp/ada", "/", ErrorCode::InvalidRole),
        ("night", "ada", "/", ErrorCode::InvalidPrincipal),
        ("night", "user:other/ada", "/", ErrorCode::InvalidPrincipal),
        ("night", "user:corp/ada", "aws", ErrorCode::InvalidScope),
    ] {
        let refused = owner
            .create_role_assignment(None, &assignment(role, principal, scope))
            .await;
        assert_eq!(code(refused), expected, "{role} {principal} {scope}");
    }
    let made = owner
        .create_role_assignment(None, &assignment("night", "user:corp/ada", "/"))
        .await
        .unwrap();
    let twin = owner
        .create_role_assignment(None, &assignment("night", "user:corp/ada", "/"))
        .await;
    assert_eq!(code(twin), ErrorCode::Conflict);
    assert_eq!(code(owner.delete_role("night").await), ErrorCode::Conflict);
    assert_eq!(code(owner.delete_role("owner").await), ErrorCode::Conflict);
    owner.delete_role_assignment(&made.id).await.unwrap();
    owner.delete_role("night").await.unwrap();
    assert_eq!(code(owner.delete_role("night").await), ErrorCode::NotFound);
}

#[tokio::test]
async fn the_last_owner_stays_also_when_two_leave_at_once() {
    let rig = Rig::start().await;
    rig.assign("ada", "owner", "/").await;
    let owner = rig.owner();
    let owners = owner
        .role_assignments(&RoleAssignmentQuery::default())
        .await
        .unwrap()
        .items;
    assert_eq!(owners.len(), 2);
    let (one, two) = tokio::join!(
        owner.delete_role_assignment(&owners[0].id),
        owner.delete_role_assignment(&owners[1].id)
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let failed = one.err().or(two.err()).unwrap().problem().unwrap().code;
    // The one that came second may have lost its own right to assign by then, and with it that to see the other.
    assert!(
        matches!(
            failed,
            ErrorCode::LastOwner | ErrorCode::Forbidden | ErrorCode::NotFound
        ),
        "{failed}"
    );
    let machines = MachineQuery::default();
    assert!(
        rig.client("ada").machines(&machines).await.is_ok() && owner.machines(&machines).await.is_ok(),
        "listing needs no right"
    );
    assert_eq!(rig.store.authz().await.unwrap().assignments.len(), 1);
}
