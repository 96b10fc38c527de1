//! Each fault as a client sees it, and what it does to the state.

use std::time::Duration;

use postern_sim::ec2::{Ec2Handle, Ec2Options, Ec2Sim};
use postern_sim::{Effect, FaultRule, When};
use serde_json::{Value, json};

use crate::raw::{REGION, Raw, VERSION, authorization};

async fn start() -> (Ec2Handle, reqwest::Client) {
    let Raw { client, sim } = crate::raw::start(Ec2Options::default()).await;
    (sim, client)
}

async fn create_vpc(sim: &Ec2Handle, client: &reqwest::Client) -> reqwest::Result<reqwest::Response> {
    let form = [
        ("Action", "CreateVpc"),
        ("Version", VERSION),
        ("CidrBlock", "10.0.0.0/16"),
    ];
    client
        .post(sim.url())
        .form(&form)
        .header(
            "authorization",
            authorization(Ec2Sim::ACCESS_KEY_ID, REGION, "ec2"),
        )
        .send()
        .await
}

fn vpcs(sim: &Ec2Handle) -> usize {
    let snapshot = sim.fleet(Ec2Sim::ACCOUNT, REGION).snapshot().unwrap();
    snapshot.vpcs.iter().filter(|vpc| !vpc.is_default).count()
}

fn once(sim: &Ec2Handle, effect: Effect) {
    sim.faults().add(FaultRule {
        operation: "CreateVpc".to_owned(),
        when: When::Next(1),
        effect,
    });
}

#[tokio::test]
async fn a_reset_before_the_effect_is_a_broken_connection_and_changes_nothing() {
    let (sim, client) = start().await;
    once(&sim, Effect::ResetBefore);
    let error = create_vpc(&sim, &client).await.unwrap_err();
    assert!(
        error.is_request() && !error.is_timeout() && error.status().is_none(),
        "{error:?}"
    );
    assert_eq!(vpcs(&sim), 0);
    assert!(create_vpc(&sim, &client).await.unwrap().status().is_success());
    assert_eq!(vpcs(&sim), 1);
}

#[tokio::test]
async fn a_reset_after_the_effect_is_a_broken_connection_and_the_change_stands() {
    let (sim, client) = start().await;
    // The connection is in use already: a client must not take the reset for a stale one and try again by itself.
    assert!(create_vpc(&sim, &client).await.unwrap().status().is_success());
    once(&sim, Effect::ResetAfter);
    let error = create_vpc(&sim, &client).await.unwrap_err();
    assert!(
        error.is_request() && !error.is_timeout() && error.status().is_none(),
        "{error:?}"
    );
    assert_eq!(vpcs(&sim), 2);
    assert_eq!(sim.calls().of("CreateVpc"), 2);
    assert_eq!(sim.faults().hits(), 1);
}

#[tokio::test]
async fn a_status_fault_speaks_the_clouds_own_error_and_changes_nothing() {
    let (sim, client) = start().await;
    let (code, message) = ("RequestLimitExceeded".to_owned(), "slow < down".to_owned());
    once(
        &sim,
        Effect::Status {
            status: 503,
            code,
            message,
            retry_after: Some(7),
        },
    );
    let response = create_vpc(&sim, &client).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers().get("retry-after").unwrap(), "7");
    let body = response.text().await.unwrap();
    assert!(
        body.contains("<Code>RequestLimitExceeded</Code><Message>slow &lt; down</Message>"),
        "{body}"
    );
    assert_eq!(vpcs(&sim), 0);
}

#[tokio::test]
async fn a_slow_call_takes_effect_all_the_same() {
    let (sim, client) = start().await;
    once(&sim, Effect::Latency(Duration::from_millis(20)));
    assert!(create_vpc(&sim, &client).await.unwrap().status().is_success());
    assert_eq!((vpcs(&sim), sim.faults().hits()), (1, 1));
}

#[tokio::test]
async fn a_slow_call_takes_effect_also_when_its_client_has_given_up() {
    let (sim, _) = start().await;
    once(&sim, Effect::Latency(Duration::from_millis(200)));
    let impatient = reqwest::Client::builder()
        .timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    assert!(create_vpc(&sim, &impatient).await.unwrap_err().is_timeout());
    while vpcs(&sim) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn faults_calls_and_truth_are_reached_over_http() {
    let (sim, client) = start().await;
    let control = |path: &str| format!("{}/_sim/{path}", sim.url());
    let get = async |path: &str| {
        client
            .get(control(path))
            .send()
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap()
    };
    let rule =
        json!({"operation": "Create*", "when": {"after": {"skip": 1, "count": 1}}, "effect": "reset_before"});
    let added: Value = client
        .post(control("faults"))
        .json(&rule)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(create_vpc(&sim, &client).await.unwrap().status().is_success());
    assert!(create_vpc(&sim, &client).await.is_err());
    assert_eq!(
        get("faults").await,
        json!([{"id": added["id"], "rule": rule, "seen": 2, "hits": 1}])
    );
    assert_eq!(get("calls").await, json!({"CreateVpc": 2}));
    let truth = get("truth").await;
    let last = truth.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["operation"], &last["before"]),
        (&json!("CreateVpc"), &Value::Null)
    );
    assert_eq!(get(&format!("truth?since={}", last["seq"])).await, json!([]));
    let state = get("state").await;
    assert_eq!(
        state["accounts"][Ec2Sim::ACCOUNT][REGION]["vpcs"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let removed = client
        .delete(control(&format!("faults/{}", added["id"])))
        .send()
        .await
        .unwrap();
    assert!(removed.status().is_success());
    let bad = client
        .post(control("faults"))
        .json(&json!({"operation": "x"}))
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), 400);
    let missing = client.get(control("reachable?machine=i-1")).send().await.unwrap();
    assert_eq!(missing.status(), 400);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let (sim, client) = start().await;
    let body = vec![b'x'; postern_sim::http::BODY_LIMIT + 1];
    // The server may answer or close while the client is still sending: either way nothing is taken in.
    if let Ok(response) = client.post(sim.url()).body(body).send().await {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(sim.calls().total(), 0);
}

#[tokio::test]
async fn stopping_closes_the_port() {
    let (sim, client) = start().await;
    assert!(create_vpc(&sim, &client).await.unwrap().status().is_success());
    sim.stop().await;
    assert!(create_vpc(&sim, &client).await.unwrap_err().is_connect());
}
