//! Serving: ids, headers, health, TLS, limits, stopping.

use std::time::Duration;

use postern_api::{
    ErrorCode,
    access_request::{AccessRequestCreateQuery, AccessRequestDeny, AccessRequestQuery},
    grant::GrantQuery,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Answer, Plan, Rig, ask, code, http};

#[tokio::test]
async fn every_answer_has_a_request_id_and_careful_headers() {
    let rig = Rig::start().await;
    let sent = http()
        .get(rig.url("/v1/nothing"))
        .header("x-request-id", "my-request-1")
        .send()
        .await
        .unwrap();
    let answer = Answer::of(sent).await;
    assert_eq!(answer.headers["x-request-id"], "my-request-1");
    assert_eq!(answer.problem().instance, "urn:postern:request:my-request-1");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(
        !answer.headers.contains_key("strict-transport-security"),
        "that is for TLS"
    );
    for unfit in ["short", "with space in it", &"x".repeat(129)] {
        let sent = http()
            .get(rig.url("/livez"))
            .header("x-request-id", unfit)
            .send()
            .await
            .unwrap();
        assert_ne!(sent.headers()["x-request-id"], unfit);
    }
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/livez", "").await.status, 200);
    assert_eq!(rig.get("/readyz", "").await.status, 200);
    let metrics = rig.get("/metrics", "").await;
    assert!(
        metrics.body.contains("postern_http_requests_total"),
        "{}",
        metrics.body
    );
    assert!(metrics.body.contains("route=\"/readyz\""), "{}", metrics.body);
    let stalled = Rig::with(Plan {
        engine: Err("no pass for 90 s".into()),
        ..Plan::default()
    })
    .await;
    let answer = stalled.get("/readyz", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.problem().detail.contains("no pass for 90 s"));
    stalled.store.close().await;
    assert_eq!(
        stalled.get("/readyz", "").await.problem().code,
        ErrorCode::Unavailable
    );
    assert_eq!(stalled.get("/livez", "").await.status, 200);
}

#[tokio::test]
async fn with_a_certificate_the_server_speaks_tls_only() {
    let material = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/material");
    let rig = Rig::with(Plan {
        change: Box::new(move |config| {
            config["tls"] = json!({
                "certificate": format!("{material}/server.cert.pem"),
                "key": format!("{material}/server.key.pem"),
            });
        }),
        ..Plan::default()
    })
    .await;
    let certificate = reqwest::Certificate::from_pem(include_bytes!("material/server.cert.pem")).unwrap();
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .tls_certs_only([certificate])
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/livez", rig.address.port());
    let answer = Answer::of(client.get(url).send().await.unwrap()).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("strict-transport-security"));
    assert!(
        http().get(rig.url("/livez")).send().await.is_err(),
        "plain HTTP is not answered"
    );
}

async fn with_limits(limits: serde_json::Value) -> Rig {
    Rig::with(Plan {
        change: Box::new(|config| config["limits"] = limits),
        ..Plan::default()
    })
    .await
}

fn waiting() -> AccessRequestCreateQuery {
    AccessRequestCreateQuery {
        wait: Some(60),
        dry_run: None,
    }
}

#[tokio::test]
async fn too_many_at_once_are_turned_away_and_who_watches_the_server_is_not() {
    let rig = with_limits(json!({ "concurrency": 1 })).await;
    // A request whose body does not come holds its place.
    let mut slow = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "POST /v1/access-requests HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        rig.token("ada")
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    loop {
        let answer = rig.get("/v1/machines", &rig.token("ada")).await;
        if answer.status == 503 {
            assert_eq!(answer.problem().code, ErrorCode::Overloaded);
            assert_eq!(answer.headers["retry-after"], "1");
            break;
        }
        tokio::task::yield_now().await;
    }
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(rig.get(path, "").await.status, 200, "{path}");
    }
    drop(slow);
    while rig.get("/v1/machines", &rig.token("ada")).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_waits_keeps_nobody_out_and_is_answered_when_the_server_stops() {
    let rig = with_limits(json!({ "concurrency": 1 })).await;
    let machine = rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let waits =
        tokio::spawn(async move { ada.create_access_request(None, &waiting(), &ask(&machine)).await });
    while rig.audit("access_request.create").await.is_empty() {
        tokio::task::yield_now().await;
    }
    let mine = loop {
        match rig
            .client("ada")
            .access_requests(&AccessRequestQuery::default())
            .await
        {
            Ok(page) => break page.items,
            Err(error) => assert_eq!(
                error.problem().unwrap().code,
                ErrorCode::Overloaded,
                "until it waits"
            ),
        }
    };
    assert_eq!(mine.len(), 1);
    assert!(!waits.is_finished(), "it waits for the approval");
    rig.running.shutdown().await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().status, "pending");
    assert!(
        http()
            .get(format!("http://{}/livez", rig.address))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn who_waits_is_told_of_the_decision() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let ada = rig.client("ada");
    let waits =
        tokio::spawn(async move { ada.create_access_request(None, &waiting(), &ask(&machine)).await });
    let id = loop {
        let mine = rig
            .client("ada")
            .access_requests(&AccessRequestQuery::default())
            .await
            .unwrap();
        if let Some(request) = mine.items.first() {
            break request.id.clone();
        }
    };
    let no = AccessRequestDeny {
        reason: "not today".into(),
    };
    rig.client("bob")
        .deny_access_request(&id, None, &no)
        .await
        .unwrap();
    assert_eq!(waits.await.unwrap().unwrap().status, "denied");
}

#[tokio::test]
async fn beyond_the_places_for_waiting_nobody_waits() {
    let rig = with_limits(json!({ "waiting": 0 })).await;
    let machine = rig.ready_for_requests("one").await;
    let made = rig
        .client("ada")
        .create_access_request(None, &waiting(), &ask(&machine))
        .await;
    assert_eq!(made.unwrap().status, "pending", "answered at once");
}

#[tokio::test]
async fn one_principal_may_not_ask_without_end_and_keeps_out_no_other() {
    let rig = with_limits(json!({ "requests_per_second": 1, "request_burst": 3 })).await;
    let (ada, bob) = (rig.token("ada"), rig.token("bob"));
    let refused = loop {
        let answer = rig.get("/v1/machines", &ada).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(
        (refused.status, refused.problem().code),
        (429, ErrorCode::RateLimited)
    );
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(rig.get("/v1/machines", &bob).await.status, 200);
}

#[tokio::test]
async fn one_requester_has_only_so_many_live_grants_on_a_machine() {
    let rig = with_limits(json!({ "grants_per_machine": 1 })).await;
    let machine = rig.ready_for_requests("policy").await;
    rig.assign("bob", "requester", "/aws").await;
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let create = async |client: &postern_api::Client| {
        let query = AccessRequestCreateQuery::default();
        client.create_access_request(None, &query, &ask(&machine)).await
    };
    create(&ada).await.unwrap();
    assert_eq!(code(create(&ada).await), ErrorCode::TooManyGrants);
    create(&bob).await.unwrap();
    let all = rig.owner().grants(&GrantQuery::default()).await.unwrap();
    assert_eq!(all.items.len(), 2, "the refused one made nothing");
}

#[tokio::test]
async fn requests_at_once_do_not_share_the_last_place() {
    let rig = with_limits(json!({ "grants_per_machine": 1 })).await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let create = async || {
        let query = AccessRequestCreateQuery::default();
        ada.create_access_request(None, &query, &ask(&machine)).await
    };
    let (a, b, c, d) = tokio::join!(create(), create(), create(), create());
    let made = [a, b, c, d].into_iter().flatten().count();
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_before_anything_is_read() {
    let rig = Rig::start().await;
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may reset the connection after its answer, because it has not read everything.
    let _end = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn the_bare_address_says_what_this_is_and_where_it_is_described() {
    let rig = Rig::start().await;
    let answer = Answer::of(http().get(rig.url("/")).send().await.unwrap()).await;
    assert_eq!(answer.status, 200);
    let said: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(said["service"], "postern");
    let described = http()
        .get(rig.url(said["openapi"].as_str().unwrap()))
        .send()
        .await
        .unwrap();
    let document: Value = serde_json::from_str(&Answer::of(described).await.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let elsewhere = Answer::of(http().get(rig.url("/nowhere")).send().await.unwrap()).await;
    assert_eq!(elsewhere.problem().code, ErrorCode::NotFound);
}
