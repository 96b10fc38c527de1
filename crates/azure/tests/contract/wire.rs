//! Operations, refusals, broken connections, and where the token goes.

use std::time::Duration;

use postern_azure::operation::Operation;
use postern_core::{
    enforcer::{Bindings, Desired, EnforceError, Enforcer, WantedGrant},
    id::GrantId,
};
use postern_sim::{
    Effect, When,
    arm::{ArmClient, BucketSize, RequestLimits, inbound},
};
use serde_json::{Value, json};

use crate::scene::{Liar, Proxy, Scene, Stranger, config, enforcer, fault, grant, guard, status};

const ADA: &str = "203.0.113.7";
const BOB: &str = "198.51.100.1";

#[tokio::test]
async fn a_write_is_done_when_its_operation_is() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
    }
    scene.sim.set_operation_duration(Duration::from_millis(300));
    scene.converge(&wanted).await;
    assert!(!scene.reachable(ADA, 22));
    for one in &mut wanted {
        scene.grants(one, &[&grant(1, &["22"], &[ADA])]);
        let plan = scene.enforcer.observe(one).await.unwrap().plan(one);
        scene.apply(one, &plan.changes[0]).await.unwrap();
    }
    assert!(scene.reachable(ADA, 22), "in force, not just accepted");
    assert!(scene.sim.calls().of("Operations.Get") > 2);
}

#[tokio::test]
async fn a_look_waits_for_a_change_under_way_and_gives_up_in_time() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    scene.sim.set_operation_duration(Duration::from_millis(400));
    let mut hasty = config(&scene.sim);
    hasty.change_timeout = Duration::from_millis(100);
    hasty.settle_timeout = Duration::from_millis(50);
    let hasty = enforcer(hasty);
    let plan = hasty.observe(&wanted).await.unwrap().plan(&wanted);
    let error = hasty
        .apply(&wanted.point, &plan.changes[0], &mut Bindings::new())
        .await
        .unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
    let error = hasty.observe(&wanted).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");
    let observed = scene.enforcer.observe(&wanted).await.unwrap();
    assert_eq!(
        observed.plan(&wanted).changes,
        [],
        "the deny is there once the operation is done"
    );
}

#[tokio::test]
async fn an_operation_that_fails_says_why_and_is_tried_again() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    scene.sim.completions().add(fault(
        "SecurityRules.CreateOrUpdate",
        When::Next(1),
        status(400, "OutOfLuck", None),
    ));
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Refused { code, .. } if code == "OutOfLuck"),
        "{error}"
    );
    scene.converge(&[wanted]).await;
    assert!(!scene.reachable(ADA, 22));
}

#[tokio::test]
async fn a_whole_write_that_was_accepted_and_failed_is_written_again() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
        let many: Vec<_> = (0..5).map(|number| grant(number, &["22"], &[ADA])).collect();
        scene.grants(one, &many.iter().collect::<Vec<_>>());
    }
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 22));
    scene.sim.completions().add(fault(
        "NetworkSecurityGroups.CreateOrUpdate",
        When::Next(1),
        status(400, "OutOfLuck", None),
    ));
    let mut inner = wanted.remove(1);
    scene.grants(&mut inner, &[]);
    let plan = scene.enforcer.observe(&inner).await.unwrap().plan(&inner);
    let error = scene.apply(&inner, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Conflict { code, .. } if code == "OutOfLuck"),
        "{error}"
    );
    assert!(scene.reachable(ADA, 22), "shown as gone, and still in force");
    scene.converge(&[inner]).await;
    assert!(!scene.reachable(ADA, 22));
}

#[tokio::test]
async fn a_last_rule_whose_deletion_failed_is_closed_though_it_is_not_seen() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    for one in &mut wanted {
        scene.grants(one, &[&grant(1, &["8080"], &[ADA])]);
    }
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 8080));
    scene.sim.completions().add(fault(
        "SecurityRules.Delete",
        When::Next(1),
        status(400, "OutOfLuck", None),
    ));
    let mut inner = wanted.remove(1);
    scene.grants(&mut inner, &[]);
    let plan = scene.enforcer.observe(&inner).await.unwrap().plan(&inner);
    scene.apply(&inner, &plan.changes[0]).await.unwrap_err();
    inner.members.clear();
    inner.unsettled = true;
    scene.converge(std::slice::from_ref(&inner)).await;
    let observed = scene.enforcer.observe(&inner).await.unwrap();
    assert!(observed.settled() && observed.evidence(&inner).is_empty());
    assert!(!scene.reachable(ADA, 8080));
}

#[tokio::test]
async fn refusals_say_what_they_are() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    let next = |effect| {
        scene
            .sim
            .faults()
            .add(fault("SecurityRules.CreateOrUpdate", When::Next(1), effect));
    };
    next(status(429, "TooManyRequests", Some(7)));
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(error, EnforceError::Throttled { retry_after: Some(after), .. } if after.as_secs() == 7),
        "{error}"
    );
    next(status(429, "TooManyRequests", Some(u64::MAX)));
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(error, EnforceError::Throttled { retry_after: Some(after), .. } if after.as_secs() == 900),
        "{error}"
    );
    next(status(409, "AnotherOperationInProgress", None));
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");
    next(status(503, "ServiceUnavailable", None));
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");

    // The number that was planned for is somebody else's by now.
    let id = scene.nsg_id(&scene.inner);
    let number = plan.changes[0].after.as_ref().unwrap()["properties"]["priority"]
        .as_u64()
        .unwrap();
    let rule = inbound("quick", u16::try_from(number).unwrap(), "Allow", BOB, "8080");
    scene
        .fleet
        .put(&format!("{id}/securityRules/quick"), rule)
        .unwrap();
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Conflict { code, .. } if code == "SecurityRuleConflict"),
        "{error}"
    );
    scene.converge(std::slice::from_ref(&wanted)).await;

    scene
        .sim
        .set_clients(vec![ArmClient::limited("postern", "secret", &["*/read"])]);
    scene.grants(&mut wanted, &[&grant(1, &["22"], &[ADA])]);
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Forbidden { operation, .. }
            if operation == "Microsoft.Network/networkSecurityGroups/securityRules/write"),
        "{error}"
    );
    scene
        .sim
        .set_clients(vec![ArmClient::owner("postern", "changed")]);
    let accounts = enforcer(config(&scene.sim)).accounts().await;
    assert_eq!(accounts.failed, [], "configured subscriptions need no call");
    let error = enforcer(config(&scene.sim)).observe(&wanted).await.unwrap_err();
    assert!(
        matches!(&error, EnforceError::Forbidden { operation, .. } if operation.starts_with("sign in")),
        "{error}"
    );
    let shown = format!("{error} {error:?} {:?} {:?}", scene.enforcer, config(&scene.sim));
    assert!(!shown.contains("secret\""), "{shown}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let scene = Scene::new().await;
    let wanted = scene.desired().await.remove(1);
    scene.sim.calls().reset();
    scene.sim.faults().add(fault(
        "NetworkSecurityGroups.Get",
        When::Next(1),
        status(401, "InvalidAuthenticationToken", None),
    ));
    scene.enforcer.observe(&wanted).await.unwrap();
    assert_eq!(scene.sim.calls().of("Tokens.Issue"), 1);
    scene.sim.faults().add(fault(
        "NetworkSecurityGroups.Get",
        When::Always,
        status(401, "InvalidAuthenticationToken", None),
    ));
    let error = scene.enforcer.observe(&wanted).await.unwrap_err();
    assert!(matches!(error, EnforceError::Forbidden { .. }), "{error}");
}

#[tokio::test]
async fn a_small_budget_is_a_delay_and_no_failure() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    let tight = BucketSize { size: 1, refill: 1 };
    scene.sim.set_limits(Some(RequestLimits {
        reads: BucketSize { size: 2, refill: 2 },
        writes: tight,
        deletes: tight,
    }));
    scene.converge(&[wanted]).await;
    assert!(!scene.reachable(ADA, 22));
}

#[tokio::test]
async fn calls_within_the_budget_are_never_refused_and_those_without_one_are() {
    for (percent, refused) in [(10, false), (0, true)] {
        let scene = Scene::new().await;
        let mut paying = config(&scene.sim);
        paying.budget_percent = percent;
        let enforcer = enforcer(paying);
        let mut wanted = scene.desired().await.remove(1);
        wanted.unsettled = true;
        enforcer.observe(&wanted).await.unwrap();
        // A tenth of what is documented, and what is paid for in two seconds more: a call is counted later than it is paid
        // for, on a busy machine much later.
        scene.sim.set_limits(Some(RequestLimits {
            reads: BucketSize { size: 31, refill: 3 },
            ..RequestLimits::default()
        }));
        let looks = (0..36).map(|_| enforcer.observe(&wanted));
        let answers = futures::future::join_all(looks).await;
        let throttled = answers
            .iter()
            .any(|answer| matches!(answer, Err(EnforceError::Throttled { .. })));
        let levels = enforcer.budgets();
        assert_eq!(throttled, refused, "{percent} %: {levels:?} {answers:?}");
        assert!(levels.iter().all(|level| level.refused == 0), "{levels:?}");
    }
}

#[tokio::test]
async fn a_refusal_stops_the_subscription_for_as_long_as_arm_says() {
    let scene = Scene::new().await;
    let mut paying = config(&scene.sim);
    paying.budget_percent = 100;
    let enforcer = enforcer(paying);
    let wanted = scene.desired().await.remove(1);
    scene.sim.faults().add(fault(
        "NetworkSecurityGroups.Get",
        When::Next(1),
        status(429, "SubscriptionRequestsThrottled", Some(3600)),
    ));
    enforcer.observe(&wanted).await.unwrap_err();
    let stopped = enforcer.stopped_accounts();
    assert_eq!(stopped.keys().collect::<Vec<_>>(), [&wanted.point.account()]);
    scene.sim.calls().reset();
    let error = enforcer.observe(&wanted).await.unwrap_err();
    assert!(
        matches!(error, EnforceError::Throttled { retry_after: Some(after), .. } if after <= Duration::from_mins(1)),
        "{error}"
    );
    assert_eq!(
        scene.sim.calls().of("NetworkSecurityGroups.Get"),
        0,
        "nobody was asked"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_call_costs_a_repetition_and_nothing_else() {
    for operation in [
        "Tokens.Issue",
        "NetworkInterfaces.Get",
        "NetworkSecurityGroups.Get",
        "NetworkSecurityGroups.CreateOrUpdate",
        "SecurityRules.CreateOrUpdate",
        "SecurityRules.Delete",
        "Operations.Get",
    ] {
        for effect in [Effect::ResetBefore, Effect::ResetAfter] {
            let mut scene = Scene::new().await;
            let mut wanted = scene.desired().await;
            let before = scene.rules();
            for one in &mut wanted {
                guard(one, &scene.web, 1, &["22"]);
            }
            scene.enforcer = enforcer(config(&scene.sim));
            for when in [When::Next(1), When::EveryNth(3)] {
                scene.sim.faults().add(fault(operation, when, effect.clone()));
            }
            scene.converge(&wanted).await;
            for one in &mut wanted {
                scene.grants(one, &[&grant(1, &["22"], &[ADA])]);
            }
            scene.converge(&wanted).await;
            let many: Vec<_> = (1..7).map(|number| grant(number, &["22"], &[ADA])).collect();
            for one in &mut wanted {
                scene.grants(one, &many.iter().collect::<Vec<_>>());
            }
            scene.converge(&wanted).await;
            assert!(
                scene.reachable(ADA, 22) && !scene.reachable(BOB, 22),
                "{operation} {effect:?}"
            );
            for one in &mut wanted {
                scene.grants(one, &[&many[0]]);
            }
            scene.converge(&wanted).await;
            for one in &mut wanted {
                scene.grants(one, &[]);
            }
            scene.converge(&wanted).await;
            assert!(!scene.reachable(ADA, 22), "{operation} {effect:?}");
            for one in &mut wanted {
                for member in &mut one.members {
                    member.guard = None;
                }
            }
            scene.converge(&wanted).await;
            assert_eq!(scene.rules(), before, "{operation} {effect:?}");
            assert!(scene.sim.faults().hits() > 0, "{operation}");
        }
    }
}

#[tokio::test]
async fn an_nsg_that_is_not_there_is_gone() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    wanted.point = "azure:nsg:00000000-0000-0000-0000-000000000001/fleet/nothing"
        .parse()
        .unwrap();
    let error = scene.enforcer.observe(&wanted).await.unwrap_err();
    assert!(matches!(error, EnforceError::Gone { .. }), "{error}");
}

#[tokio::test]
async fn a_404_that_does_not_speak_of_the_nsg_ends_nothing() {
    let scene = Scene::new().await;
    let wanted = scene.desired().await.remove(1);
    for code in ["SubscriptionNotFound", "NotFound", "InvalidResourceNamespace"] {
        scene.sim.faults().add(fault(
            "NetworkSecurityGroups.Get",
            When::Next(1),
            status(404, code, None),
        ));
        let error = scene.enforcer.observe(&wanted).await.unwrap_err();
        assert!(
            matches!(error, EnforceError::Unavailable { .. }),
            "{code}: {error}"
        );
    }
    let mut elsewhere = wanted.clone();
    elsewhere.point = "azure:nsg:00000000-0000-0000-0000-00000000dead/fleet/web-nsg"
        .parse()
        .unwrap();
    let error = scene.enforcer.observe(&elsewhere).await.unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
    let error = scene
        .enforcer
        .discover(&elsewhere.point.account(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_404_from_a_proxy_makes_neither_filters_nor_machines_disappear() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    scene.grants(&mut wanted, &[&grant(1, &["22"], &[ADA])]);
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    let proxy = Proxy::listen().await;
    let mut config = config(&scene.sim);
    config.endpoint = proxy.url();
    let enforcer = enforcer(config);
    let error = enforcer.observe(&wanted).await.unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
    let error = enforcer
        .discover(&wanted.point.account(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
    let error = enforcer
        .apply(&wanted.point, &plan.changes[0], &mut Bindings::new())
        .await
        .unwrap_err();
    assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
    let deletion = json!(Operation::DeleteRule {
        name: "postern-test-allow".to_owned()
    });
    let mut change = plan.changes[0].clone();
    change.operation = deletion;
    let error = enforcer
        .apply(&wanted.point, &change, &mut Bindings::new())
        .await
        .unwrap_err();
    assert!(
        matches!(error, EnforceError::Unavailable { .. }),
        "a rule is not deleted because a proxy knows no such page: {error}"
    );
}

#[tokio::test]
async fn a_list_that_is_not_found_is_no_empty_list() {
    let scene = Scene::new().await;
    let account = scene.web.account();
    for list in [
        "VirtualMachines.*",
        "NetworkInterfaces.*",
        "NetworkSecurityGroups.*",
    ] {
        for code in [
            "SubscriptionNotFound",
            "ResourceNotFound",
            "ResourceGroupNotFound",
        ] {
            let struck = scene
                .sim
                .faults()
                .add(fault(list, When::Always, status(404, code, None)));
            let page = scene.enforcer.discover(&account, None).await;
            assert!(
                matches!(page, Err(EnforceError::Unavailable { .. })),
                "{list} {code}: {page:?}"
            );
            scene.sim.faults().remove(struck);
        }
    }
    let page = scene.enforcer.discover(&account, None).await.unwrap();
    assert_eq!(page.machines.len(), 2);
}

#[tokio::test]
async fn the_token_goes_nowhere_but_to_the_resource_manager() {
    let scene = Scene::new().await;
    let mut wanted: Desired = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    let nsg: Value = scene.fleet.get(&scene.nsg_id(&scene.inner)).unwrap();
    let stranger = Stranger::listen().await;
    for header in ["Azure-AsyncOperation", "Location"] {
        let liar = Liar::listen(&nsg, header, &stranger.url()).await;
        let mut config = config(&scene.sim);
        config.endpoint = liar.url();
        config.authority = liar.url();
        let enforcer = enforcer(config);
        let plan = enforcer.observe(&wanted).await.unwrap().plan(&wanted);
        let error = enforcer
            .apply(&wanted.point, &plan.changes[0], &mut Bindings::new())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, EnforceError::Malformed(text) if text.contains("not the resource manager")),
            "{error}"
        );
        let account = wanted.point.account();
        let error = enforcer.discover(&account, None).await.unwrap_err();
        assert!(
            matches!(&error, EnforceError::Malformed(text) if text.contains("nextLink")),
            "{error}"
        );
    }
    assert_eq!(stranger.visits(), 0);
}

#[test]
fn plain_http_is_for_loopback_only() {
    let base = |endpoint: &str, authority: &str| {
        let mut config = postern_azure::AzureConfig::new(Vec::new()).unwrap();
        config.endpoint = endpoint.parse().unwrap();
        config.authority = authority.parse().unwrap();
        config.credential = postern_azure::AzureCredential::ClientSecret {
            tenant_id: "11111111-1111-1111-1111-111111111111".to_owned(),
            client_id: "postern".to_owned(),
            client_secret: "secret".to_owned().into(),
        };
        postern_azure::AzureEnforcer::new(config, std::sync::Arc::new(postern_core::time::SystemClock))
    };
    base(
        "https://management.azure.com",
        "https://login.microsoftonline.com",
    )
    .unwrap();
    base("http://127.0.0.1:1", "http://[::1]:1").unwrap();
    for (endpoint, authority) in [
        ("http://management.azure.com", "https://login.microsoftonline.com"),
        ("https://management.azure.com", "http://login.microsoftonline.com"),
        ("ftp://127.0.0.1", "https://login.microsoftonline.com"),
    ] {
        let error = base(endpoint, authority).unwrap_err();
        assert!(matches!(error, EnforceError::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn what_azure_does_not_let_us_write_does_not_keep_the_rest_from_closing() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired_at(&scene.inner).await;
    guard(&mut wanted, &scene.web, 1, &["22"]);
    let sources: Vec<String> = (1..=7).map(|number| format!("203.0.113.{number}")).collect();
    let of = |number: u128| grant(number, &["22"], &[&sources[usize::try_from(number).unwrap() - 1]]);
    let open: Vec<WantedGrant> = (1..=5).map(of).collect();
    scene.grants(&mut wanted, &open.iter().collect::<Vec<_>>());
    scene.converge(std::slice::from_ref(&wanted)).await;
    // Somebody forbids such rules from now on; one grant goes on, four are over, and two more are asked for.
    let refused = status(403, "RequestDisallowedByPolicy", None);
    for operation in [
        "NetworkSecurityGroups.CreateOrUpdate",
        "SecurityRules.CreateOrUpdate",
    ] {
        scene
            .sim
            .faults()
            .add(fault(operation, When::Always, refused.clone()));
    }
    scene.grants(&mut wanted, &[&of(5), &of(6), &of(7)]);
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    let mut failed = None;
    for change in &plan.changes {
        if let Err(error) = scene.apply(&wanted, change).await {
            failed = Some(error);
            break;
        }
    }
    assert!(failed.unwrap().to_string().contains("RequestDisallowedByPolicy"));
    let left: Vec<GrantId> = scene.evidence(&wanted).await.into_keys().collect();
    assert_eq!(left, [of(5).grant]);
    let denies = scene.rules();
    assert!(
        denies.iter().any(|rule| rule["properties"]["access"] == "Deny"),
        "{denies:?}"
    );
}
