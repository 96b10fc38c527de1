//! What every call of the ARM simulator passes: tokens and roles, the front door, pages, limits, faults and request ids.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use postern_sim::arm::{ArmClient, ArmOptions, ArmSim, BucketSize, RequestLimits};
use postern_sim::{Effect, FaultRule, SteppedClock, When};
use serde_json::json;

use crate::client::{self, Client, SUBSCRIPTION, rule};
use crate::started::{NSG, furnished, start, stepped};

/// The fields of a form.
type Form<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn a_call_without_a_live_token_for_arm_is_refused() {
    let (clock, _sim, client) = stepped().await;
    let path = "/subscriptions";
    let cases = [
        (None, "AuthenticationFailed"),
        (Some("Basic abc".to_owned()), "AuthenticationFailedInvalidHeader"),
        (Some("Bearer made-up".to_owned()), "InvalidAuthenticationToken"),
    ];
    for (header, code) in cases {
        let answer = client.with_authorization(header.as_deref()).get(path).await;
        answer.refused(401, code);
        assert!(answer.header("www-authenticate").is_some());
    }
    let elsewhere = client
        .token_for("https://vault.azure.net/.default")
        .await
        .unwrap();
    let header = format!("Bearer {elsewhere}");
    client
        .with_authorization(Some(&header))
        .get(path)
        .await
        .refused(401, "InvalidAuthenticationTokenAudience");
    assert_eq!(client.get(path).await.status, 200);
    clock.advance(TimeDelta::seconds(3599));
    client.get(path).await.refused(401, "ExpiredAuthenticationToken");
}

#[tokio::test]
async fn the_token_endpoint_refuses_as_the_identity_platform_does() {
    let options = ArmOptions {
        clients: vec![ArmClient::owner("app", "right")],
        ..ArmOptions::default()
    };
    let sim = ArmSim::start(options).await.unwrap();
    let scope = ("scope", "https://management.azure.com/.default");
    let assertion = (
        "client_assertion_type",
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    );
    let grant = ("grant_type", "client_credentials");
    let app = ("client_id", "app");
    let cases: [(Form<'_>, u16, &str); 7] = [
        (&[grant, app, ("client_secret", "right"), scope], 200, ""),
        (
            &[grant, app, ("client_assertion", "a.b.c"), assertion, scope],
            200,
            "",
        ),
        (
            &[grant, app, ("client_secret", "wrong"), scope],
            401,
            "invalid_client",
        ),
        (
            &[grant, app, ("client_assertion", "a.b"), assertion, scope],
            401,
            "invalid_client",
        ),
        (
            &[grant, ("client_id", "who"), ("client_secret", "right"), scope],
            400,
            "unauthorized_client",
        ),
        (
            &[grant, app, ("client_secret", "right"), ("scope", "user.read")],
            400,
            "invalid_scope",
        ),
        (
            &[("grant_type", "password"), app, ("client_secret", "right"), scope],
            400,
            "unsupported_grant_type",
        ),
    ];
    for (form, status, error) in cases {
        let (found, body) = client::token(&sim.url(), sim.tenant(), form).await;
        assert_eq!(
            (found, body["error"].as_str().unwrap_or("")),
            (status, error),
            "{form:?}"
        );
    }
}

#[tokio::test]
async fn a_client_may_do_only_what_its_role_allows() {
    let actions = [
        "*/read",
        "Microsoft.Network/networkSecurityGroups/securityRules/write",
    ];
    let clients = vec![
        ArmClient::owner("owner", "s"),
        ArmClient::limited("hand", "s", &actions),
    ];
    let sim = ArmSim::start(ArmOptions {
        clients,
        ..ArmOptions::default()
    })
    .await
    .unwrap();
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let nsg = fleet.security_group("web", &[]).unwrap();
    let hand = Client::named(&sim, "hand", "s").await;
    assert_eq!(hand.get(&nsg).await.status, 200);
    assert_eq!(
        hand.put(&format!("{nsg}/securityRules/ssh"), rule(100, "22"))
            .await
            .status,
        201
    );
    let denied = hand.delete(&format!("{nsg}/securityRules/ssh")).await;
    denied.refused(403, "AuthorizationFailed");
    assert!(
        denied
            .message()
            .contains("Microsoft.Network/networkSecurityGroups/securityRules/delete")
    );
    hand.put(&nsg, json!({"location": "westeurope"}))
        .await
        .refused(403, "AuthorizationFailed");
}

#[tokio::test]
async fn the_front_door_checks_api_version_subscription_and_type() {
    let (_sim, client) = furnished().await;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/fleet");
    let at = |path: &str, query: &str| format!("{path}?{query}");
    let cases = [
        (at(&group, ""), 400, "MissingApiVersionParameter"),
        (
            at(&group, "api-version=latest"),
            400,
            "InvalidApiVersionParameter",
        ),
        (
            at(&group, "api-version=2021-13-01"),
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "/subscriptions/nonsense/resourceGroups".to_owned(),
            400,
            "InvalidSubscriptionId",
        ),
        (
            "/subscriptions/00000000-0000-0000-0000-00000000dead/resourceGroups".to_owned(),
            404,
            "SubscriptionNotFound",
        ),
        (format!("{group}x"), 404, "ResourceGroupNotFound"),
        (format!("{group}x/providers/{NSG}"), 404, "ResourceGroupNotFound"),
        (format!("{group}/providers/{NSG}x"), 404, "ResourceNotFound"),
        (
            format!("{group}/providers/{NSG}/securityRules/none"),
            404,
            "NotFound",
        ),
        (
            format!("{group}/providers/{NSG}x/securityRules/none"),
            404,
            "ResourceNotFound",
        ),
        (
            format!("{group}/providers/Microsoft.Storage/accounts"),
            404,
            "InvalidResourceNamespace",
        ),
        (
            format!("{group}/providers/Microsoft.Network/natGateways"),
            404,
            "InvalidResourceType",
        ),
        ("/elsewhere".to_owned(), 404, "NotFound"),
    ];
    for (path, status, code) in cases {
        client.get(&path).await.refused(status, code);
    }
    assert_eq!(
        client
            .get(&at(&group, "API-Version=2030-01-01-preview"))
            .await
            .status,
        200
    );
    let rule_of_none = format!("{group}/providers/{NSG}x/securityRules/ssh");
    client
        .put(&rule_of_none, rule(100, "22"))
        .await
        .refused(404, "ParentResourceNotFound");
    client
        .put(&group, json!({"location": "eastus"}))
        .await
        .refused(409, "InvalidResourceGroupLocation");
    client
        .post(&format!("{group}/providers/{NSG}/start"))
        .await
        .refused(405, "HttpMethodNotSupported");
}

#[tokio::test]
async fn lists_are_paged_and_a_page_survives_the_deletion_of_its_last_item() {
    let options = ArmOptions {
        page_size: 2,
        ..ArmOptions::default()
    };
    let (sim, client) = start(options).await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    for number in 0..5 {
        fleet.security_group(&format!("n{number}"), &[]).unwrap();
    }
    let path = format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/networkSecurityGroups");
    let first = client.get(&path).await;
    let link = first.body["nextLink"]
        .as_str()
        .unwrap()
        .strip_prefix(&sim.url())
        .unwrap()
        .to_owned();
    fleet
        .delete(&fleet.id("Microsoft.Network/networkSecurityGroups/n1"))
        .unwrap();
    let second = client.get(&link).await;
    let names = |answer: &client::Answer| -> Vec<String> {
        let items = answer.body["value"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (names(&first), names(&second)),
        (vec!["n0".into(), "n1".into()], vec!["n2".into(), "n3".into()])
    );
    let link = second.body["nextLink"]
        .as_str()
        .unwrap()
        .strip_prefix(&sim.url())
        .unwrap()
        .to_owned();
    let last = client.get(&link).await;
    assert_eq!(
        (names(&last), last.body.get("nextLink")),
        (vec!["n4".to_owned()], None)
    );
    client
        .get(&format!("{path}?api-version=2024-05-01&$skiptoken=zz"))
        .await
        .refused(400, "InvalidSkipToken");
}

#[tokio::test]
async fn requests_beyond_the_bucket_are_throttled_per_kind() {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let small = BucketSize { size: 2, refill: 1 };
    let limits = RequestLimits {
        reads: small,
        writes: small,
        deletes: small,
    };
    let options = ArmOptions {
        clock: Arc::clone(&clock) as Arc<_>,
        limits: Some(limits),
        ..ArmOptions::default()
    };
    let (sim, client) = start(options).await;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/g");
    let body = json!({"location": "westeurope"});
    let first = client.put(&group, body.clone()).await;
    assert_eq!(
        first
            .header("x-ms-ratelimit-remaining-subscription-writes")
            .unwrap(),
        "1"
    );
    client.put(&group, body.clone()).await;
    let refused = client.put(&group, body.clone()).await;
    refused.refused(429, "SubscriptionRequestsThrottled");
    assert_eq!(refused.header("retry-after").unwrap(), "1");
    assert_eq!(client.get(&group).await.status, 200);
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(client.put(&group, body.clone()).await.status, 200);
    client
        .put(&group, body.clone())
        .await
        .refused(429, "SubscriptionRequestsThrottled");
    sim.set_limits(None);
    assert_eq!(client.put(&group, body).await.status, 200);
}

#[tokio::test]
async fn faults_strike_by_operation_and_a_reset_after_leaves_its_effect() {
    let (sim, client) = furnished().await;
    let ssh = sim.fleet().id(&format!("{NSG}/securityRules/ssh"));
    let strike = |effect| FaultRule {
        operation: "SecurityRules.CreateOrUpdate".to_owned(),
        when: When::Next(1),
        effect,
    };
    let (code, message) = ("InternalServerError".to_owned(), "An error occurred.".to_owned());
    sim.faults().add(strike(Effect::Status {
        status: 500,
        code,
        message,
        retry_after: Some(3),
    }));
    let failed = client.put(&ssh, rule(100, "22")).await;
    failed.refused(500, "InternalServerError");
    assert_eq!(failed.header("retry-after").unwrap(), "3");
    assert_eq!(client.get(&ssh).await.status, 404);
    sim.faults().add(strike(Effect::ResetBefore));
    assert!(client.try_put(&ssh, rule(100, "22")).await.is_err());
    assert_eq!(client.get(&ssh).await.status, 404);
    sim.faults().add(strike(Effect::ResetAfter));
    assert!(client.try_put(&ssh, rule(100, "22")).await.is_err());
    assert_eq!(client.get(&ssh).await.status, 200);
    assert_eq!(sim.calls().of("SecurityRules.CreateOrUpdate"), 3);
}

#[tokio::test]
async fn every_answer_carries_request_ids_and_the_truth_log_names_them() {
    let (sim, client) = furnished().await;
    let ssh = sim.fleet().id(&format!("{NSG}/securityRules/ssh"));
    let made = client
        .put_with(&ssh, rule(100, "22"), &[("x-ms-correlation-request-id", "c-1")])
        .await;
    assert_eq!(made.header("x-ms-correlation-request-id").unwrap(), "c-1");
    let change = sim.truth().all().pop().unwrap();
    assert_eq!(change.request_id, made.header("x-ms-request-id").unwrap());
    assert_eq!(
        (change.caller.as_str(), change.operation.as_str()),
        ("test", "SecurityRules.CreateOrUpdate")
    );
    assert_eq!(change.resource, ssh.to_lowercase());
    assert_eq!(
        (
            change.before,
            change.after.unwrap()["properties"]["priority"].clone()
        ),
        (None, json!(100))
    );
}

#[tokio::test]
async fn retry_after_is_sent_where_it_is_asked_for() {
    let options = ArmOptions {
        retry_after: Some(7),
        operation_duration: Duration::from_hours(1),
        ..ArmOptions::default()
    };
    let (sim, client) = start(options).await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let made = client
        .put(&fleet.id(NSG), json!({"location": "westeurope"}))
        .await;
    assert_eq!(made.header("retry-after").unwrap(), "7");
    let poll = client.progress(&made).await;
    assert_eq!(
        (&poll.body, poll.header("retry-after").unwrap()),
        (&json!({"status": "InProgress"}), "7".to_owned())
    );
}
