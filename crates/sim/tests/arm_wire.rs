//! The ARM simulator on the wire: identity, front door, NSGs, networks, machines, paging and limits.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod arm_client;

use std::sync::Arc;
use std::time::Duration;

use arm_client::{Client, SUBSCRIPTION, rule};
use chrono::{DateTime, TimeDelta};
use postern_sim::arm::{ArmClient, ArmOptions, ArmSim, BucketSize, RequestLimits, inbound};
use postern_sim::{Effect, FaultRule, SteppedClock, When};
use serde_json::{Value, json};

const NSG: &str = "Microsoft.Network/networkSecurityGroups/web";

/// The fields of a form.
type Form<'a> = &'a [(&'a str, &'a str)];

async fn start() -> (postern_sim::arm::ArmHandle, Client) {
    let sim = ArmSim::start(ArmOptions::default()).await.unwrap();
    let client = Client::of(&sim).await;
    (sim, client)
}

/// A group with a network, a subnet and the NSG `web`.
async fn furnished() -> (postern_sim::arm::ArmHandle, Client) {
    let (sim, client) = start().await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
    fleet.security_group("web", &[]).unwrap();
    (sim, client)
}

#[tokio::test]
async fn a_call_without_a_live_token_for_arm_is_refused() {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let options = ArmOptions {
        clock: Arc::clone(&clock) as Arc<_>,
        ..ArmOptions::default()
    };
    let sim = ArmSim::start(options).await.unwrap();
    let client = Client::of(&sim).await;
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
        let (found, body) = arm_client::token(&sim.url(), sim.tenant(), form).await;
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
async fn a_put_is_asynchronous_and_its_etag_ages_when_it_completes() {
    let (sim, client) = furnished().await;
    let id = sim.fleet().id("Microsoft.Network/networkSecurityGroups/Fresh");
    let body =
        json!({"location": "West Europe", "tags": {"a": "b"}, "properties": {"flushConnection": true}});
    let made = client.put(&id, body.clone()).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["properties"]["provisioningState"], "Updating");
    assert_eq!(made.body["location"], "westeurope");
    assert!(
        made.header("retry-after").is_none(),
        "Azure's network provider sends none"
    );
    let tracker = made.header("azure-asyncoperation").unwrap();
    assert!(tracker.starts_with(&sim.url()), "{tracker}");
    let poll = client.get(tracker.strip_prefix(&sim.url()).unwrap()).await;
    assert_eq!(poll.body, json!({"status": "Succeeded"}));
    let read = client.get(&id).await;
    assert_eq!(read.body["properties"]["provisioningState"], "Succeeded");
    assert_ne!(read.body["etag"], made.body["etag"]);
    assert_eq!(read.header("etag").unwrap(), read.body["etag"].as_str().unwrap());
    assert_eq!(read.body["properties"]["flushConnection"], true);
    assert_eq!(
        read.body["properties"]["defaultSecurityRules"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(client.put(&id, body).await.status, 200);
    let lost = client.put(&id, json!({"location": "westeurope"})).await;
    assert_eq!(
        lost.body["properties"].get("flushConnection"),
        None,
        "a put replaces"
    );
    assert_eq!(lost.body.get("tags"), None);
    client
        .put(&id, json!({"location": "eastus"}))
        .await
        .refused(409, "InvalidResourceLocation");
    client.put(&id, json!({})).await.refused(400, "LocationRequired");
    client
        .put(&format!("{id}-"), json!({"location": "x"}))
        .await
        .refused(400, "InvalidResourceName");
}

#[tokio::test]
async fn ids_compare_without_case_and_keep_the_case_of_their_making() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    let made = client
        .put(&format!("{nsg}/securityRules/Ssh"), rule(100, "22"))
        .await;
    let loud = nsg.to_uppercase().replace("/SUBSCRIPTIONS", "/subscriptions");
    let read = client.get(&format!("{loud}/SECURITYRULES/SSH")).await;
    assert_eq!((read.status, &read.body["id"]), (200, &made.body["id"]));
    assert_eq!(read.body["name"], "Ssh");
    assert_eq!(
        client
            .put(&format!("{loud}/securityrules/ssh"), rule(101, "22"))
            .await
            .status,
        200
    );
    assert_eq!(
        client.get(&format!("{nsg}/securityRules")).await.body["value"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_write_with_a_stale_etag_changes_nothing() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    let ssh = format!("{nsg}/securityRules/ssh");
    let stale = client.get(&nsg).await.body["etag"].as_str().unwrap().to_owned();
    client.put(&ssh, rule(100, "22")).await;
    let seq = sim.truth().last();
    let body = json!({"location": "westeurope"});
    client
        .put_with(&nsg, body.clone(), &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    client
        .put_with(&ssh, rule(100, "23"), &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    client
        .put_with(&ssh, rule(100, "23"), &[("if-none-match", "*")])
        .await
        .refused(412, "PreconditionFailed");
    client
        .delete_with(&ssh, &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    let absent = format!("{nsg}/securityRules/none");
    client
        .put_with(&absent, rule(101, "22"), &[("if-match", "*")])
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(sim.truth().last(), seq);
    let fresh = client.get(&nsg).await.body["etag"].as_str().unwrap().to_owned();
    assert_eq!(
        client.get(&ssh).await.body["etag"].as_str().unwrap(),
        fresh,
        "a rule carries its NSG's etag"
    );
    assert_eq!(
        client.put_with(&nsg, body, &[("if-match", &fresh)]).await.status,
        200
    );
    assert_eq!(
        client.get(&ssh).await.status,
        404,
        "the whole write left the rule out"
    );
    assert_eq!(
        client
            .put_with(&ssh, rule(100, "22"), &[("if-none-match", "*")])
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn rules_are_checked_on_both_ways_in() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    client
        .put(&format!("{nsg}/securityRules/first"), rule(100, "22"))
        .await;
    let seq = sim.truth().last();
    let conflict = client
        .put(&format!("{nsg}/securityRules/second"), rule(100, "23"))
        .await;
    conflict.refused(400, "SecurityRuleConflict");
    assert_eq!(
        conflict.message(),
        "Security rule second conflicts with rule first. Rules cannot have the same Priority and Direction."
    );
    let whole = |rules: Value| json!({"location": "westeurope", "properties": {"securityRules": rules}});
    let twice = whole(json!([
        inbound("a", 100, "Allow", "*", "22"),
        inbound("b", 100, "Deny", "*", "23")
    ]));
    client.put(&nsg, twice).await.refused(400, "SecurityRuleConflict");
    let same_name = whole(json!([
        inbound("a", 100, "Allow", "*", "22"),
        inbound("A", 101, "Deny", "*", "23")
    ]));
    client
        .put(&nsg, same_name)
        .await
        .refused(400, "DuplicateResourceName");
    let low = whole(json!([inbound("a", 99, "Allow", "*", "22")]));
    client
        .put(&nsg, low)
        .await
        .refused(400, "SecurityRuleInvalidPriority");
    client
        .put(&format!("{nsg}/securityRules/-x"), rule(101, "22"))
        .await
        .refused(400, "InvalidResourceName");
    let long = format!("{nsg}/securityRules/{}", "x".repeat(81));
    client
        .put(&long, rule(101, "22"))
        .await
        .refused(400, "InvalidResourceName");
    client
        .put_raw(&nsg, "{")
        .await
        .refused(400, "InvalidRequestContent");
    client
        .put(
            &format!("{nsg}/defaultSecurityRules/DenyAllInBound"),
            rule(101, "22"),
        )
        .await
        .refused(405, "HttpMethodNotSupported");
    assert_eq!(
        sim.truth().last(),
        seq,
        "nothing that is refused changes anything"
    );
    let thousand: Vec<Value> = (0..1001_u16)
        .map(|n| inbound(&format!("r{n}"), 100 + n, "Allow", "*", "22"))
        .collect();
    client
        .put(&nsg, whole(json!(thousand)))
        .await
        .refused(400, "SecurityRuleCountLimitReached");
    assert_eq!(client.put(&nsg, whole(json!(thousand[..1000]))).await.status, 200);
    client
        .put(&format!("{nsg}/securityRules/one-more"), rule(4000, "22"))
        .await
        .refused(400, "SecurityRuleCountLimitReached");
}

#[tokio::test]
async fn deleting_a_rule_is_accepted_once_and_then_there_is_none() {
    let (sim, client) = furnished().await;
    let ssh = sim.fleet().id(&format!("{NSG}/securityRules/ssh"));
    client.put(&ssh, rule(100, "22")).await;
    let gone = client.delete(&ssh).await;
    assert_eq!(gone.status, 202);
    let location = gone.header("location").unwrap();
    assert!(gone.header("azure-asyncoperation").is_some());
    assert_eq!(
        client
            .get(location.strip_prefix(&sim.url()).unwrap())
            .await
            .status,
        204
    );
    assert_eq!(client.delete(&ssh).await.status, 204);
    client.get(&ssh).await.refused(404, "NotFound");
}

#[tokio::test]
async fn references_must_exist_and_be_shown_where_they_lead() {
    let (sim, client) = furnished().await;
    let fleet = sim.fleet();
    let (nsg, subnet) = (
        fleet.id(NSG),
        fleet.id("Microsoft.Network/virtualNetworks/net/subnets/front"),
    );
    let nic = fleet.id("Microsoft.Network/networkInterfaces/nic");
    let body = |nsg: &str, subnet: &str| {
        json!({"location": "westeurope", "properties": {
            "networkSecurityGroup": {"id": nsg},
            "ipConfigurations": [{"name": "one", "properties": {"subnet": {"id": subnet}}}],
        }})
    };
    client
        .put(&nic, body(&format!("{nsg}x"), &subnet))
        .await
        .refused(400, "InvalidResourceReference");
    client
        .put(&nic, body(&nsg, &format!("{subnet}x")))
        .await
        .refused(400, "InvalidResourceReference");
    client
        .put(&nic, body("web", &subnet))
        .await
        .refused(400, "LinkedInvalidPropertyId");
    client
        .put(&nic, body(&subnet, &subnet))
        .await
        .refused(400, "InvalidResourceReference");
    let before = client.get(&nsg).await.body["etag"].clone();
    let made = client.put(&nic, body(&nsg.to_uppercase(), &subnet)).await;
    assert_eq!(made.body["properties"]["networkSecurityGroup"]["id"], nsg);
    let address = &made.body["properties"]["ipConfigurations"][0]["properties"];
    assert_eq!(
        address["privateIPAddress"], "10.0.1.4",
        "Azure keeps the first four for itself"
    );
    let shown = client.get(&nsg).await.body;
    assert_eq!(shown["properties"]["networkInterfaces"], json!([{"id": nic}]));
    assert_ne!(shown["etag"], before, "an association is a change of the NSG too");
    client
        .delete(&nsg)
        .await
        .refused(400, "InUseNetworkSecurityGroupCannotBeDeleted");
    client
        .delete(&subnet)
        .await
        .refused(400, "InUseSubnetCannotBeDeleted");
    client
        .delete(&fleet.id("Microsoft.Network/virtualNetworks/net"))
        .await
        .refused(400, "InUseSubnetCannotBeDeleted");
    let vm = fleet.virtual_machine("vm", &[&nic], &json!({})).unwrap();
    assert_eq!(
        client.get(&nic).await.body["properties"]["virtualMachine"],
        json!({"id": vm})
    );
    client.delete(&nic).await.refused(400, "NicInUse");
    assert_eq!(
        fleet
            .virtual_machine("vm2", &[&nic], &json!({}))
            .unwrap_err()
            .code,
        "NicInUse"
    );
    for (id, status) in [(&vm, 202), (&nic, 202), (&subnet, 202), (&nsg, 202), (&nsg, 204)] {
        assert_eq!(client.delete(id).await.status, status, "{id}");
    }
}

#[tokio::test]
async fn subnets_lie_inside_their_network_and_apart() {
    let (sim, client) = furnished().await;
    let network = sim.fleet().id("Microsoft.Network/virtualNetworks/net");
    let subnet = |prefix: &str| json!({"properties": {"addressPrefix": prefix}});
    let cases = [
        ("10.1.0.0/24", "NetcfgInvalidSubnet"),
        ("10.0.1.128/25", "NetcfgSubnetRangesOverlap"),
        ("10.0.2.1/24", "InvalidCIDRNotation"),
        ("10.0.2.0", "InvalidAddressPrefixFormat"),
    ];
    for (prefix, code) in cases {
        client
            .put(&format!("{network}/subnets/back"), subnet(prefix))
            .await
            .refused(400, code);
    }
    assert_eq!(
        client
            .put(&format!("{network}/subnets/back"), subnet("10.0.2.0/24"))
            .await
            .status,
        201
    );
    let space = json!({"addressPrefixes": ["10.0.0.0/16"]});
    let kept = client
        .put(
            &network,
            json!({"location": "westeurope", "properties": {"addressSpace": space}}),
        )
        .await;
    assert_eq!(
        kept.body["properties"]["subnets"].as_array().unwrap().len(),
        2,
        "a body without subnets keeps them"
    );
}

#[tokio::test]
async fn lists_are_paged_and_a_page_survives_the_deletion_of_its_last_item() {
    let options = ArmOptions {
        page_size: 2,
        ..ArmOptions::default()
    };
    let sim = ArmSim::start(options).await.unwrap();
    let client = Client::of(&sim).await;
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
    let names = |answer: &arm_client::Answer| -> Vec<String> {
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
    let sim = ArmSim::start(options).await.unwrap();
    let client = Client::of(&sim).await;
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
async fn a_machine_tells_its_power_and_effective_rules_want_it_running() {
    let (sim, client) = furnished().await;
    let fleet = sim.fleet();
    let subnet = fleet.id("Microsoft.Network/virtualNetworks/net/subnets/front");
    let ssh = [inbound("ssh", 100, "Allow", "VirtualNetwork", "22")];
    let made = fleet
        .machine("vm", &subnet, &ssh, &json!({"env": "test"}))
        .unwrap();
    let power = async || {
        let shown = client
            .get(&format!(
                "{}?api-version=2024-05-01&$expand=instanceView",
                made.machine
            ))
            .await;
        let statuses = shown.body["properties"]["instanceView"]["statuses"].clone();
        statuses[1]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(power().await, "PowerState/running");
    let all = format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines");
    let listed = client
        .get(&format!("{all}?api-version=2024-05-01&statusOnly=true"))
        .await
        .body;
    assert_eq!(
        listed["value"][0]["properties"]["instanceView"]["statuses"][1]["code"],
        "PowerState/running"
    );
    let plain = client.get(&all).await.body;
    assert_eq!(plain["value"][0]["properties"].get("instanceView"), None);
    let effective = format!("{}/effectiveNetworkSecurityGroups", made.interface);
    let accepted = client.post(&effective).await;
    assert_eq!(accepted.status, 202);
    let location = accepted
        .header("location")
        .unwrap()
        .strip_prefix(&sim.url())
        .unwrap()
        .to_owned();
    let group = client.get(&location).await.body["value"][0].clone();
    assert_eq!(group["networkSecurityGroup"]["id"], made.security_group);
    assert_eq!(group["effectiveSecurityRules"][0]["name"], "securityRules/ssh");
    assert_eq!(
        group["effectiveSecurityRules"][0]["destinationPortRange"],
        "22-22"
    );
    assert_eq!(
        group["effectiveSecurityRules"][0]["expandedSourceAddressPrefix"],
        json!(["10.0.0.0/16"])
    );
    assert_eq!(
        client.post(&format!("{}/deallocate", made.machine)).await.status,
        202
    );
    assert_eq!(power().await, "PowerState/deallocated");
    client
        .post(&effective)
        .await
        .refused(400, "NetworkInterfaceMustBeAttachedToRunningVm");
    let tagged = client
        .patch(&made.machine, json!({"tags": {"env": "prod"}}))
        .await;
    assert_eq!(
        (tagged.status, &tagged.body["tags"]),
        (200, &json!({"env": "prod"}))
    );
    client
        .get(&fleet.id("Microsoft.Compute/virtualMachines/none"))
        .await
        .refused(404, "ResourceNotFound");
}

#[tokio::test]
async fn a_resource_group_takes_its_resources_with_it() {
    let (sim, client) = furnished().await;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/fleet");
    let gone = client.delete(&group).await;
    assert_eq!(gone.status, 202);
    assert!(gone.header("azure-asyncoperation").is_none());
    client
        .get(&sim.fleet().id(NSG))
        .await
        .refused(404, "ResourceGroupNotFound");
    assert_eq!(sim.state()["resources"], json!([]));
    client.delete(&group).await.refused(404, "ResourceGroupNotFound");
}

#[tokio::test]
async fn retry_after_is_sent_where_it_is_asked_for() {
    let options = ArmOptions {
        retry_after: Some(7),
        operation_duration: Duration::from_hours(1),
        ..ArmOptions::default()
    };
    let sim = ArmSim::start(options).await.unwrap();
    let client = Client::of(&sim).await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let made = client
        .put(&fleet.id(NSG), json!({"location": "westeurope"}))
        .await;
    assert_eq!(made.header("retry-after").unwrap(), "7");
    let tracker = made
        .header("azure-asyncoperation")
        .unwrap()
        .strip_prefix(&sim.url())
        .unwrap()
        .to_owned();
    let poll = client.get(&tracker).await;
    assert_eq!(
        (&poll.body, poll.header("retry-after").unwrap()),
        (&json!({"status": "InProgress"}), "7".to_owned())
    );
}
