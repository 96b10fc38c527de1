//! Serving: ids, headers, health, TLS, limits, stopping.

use std::time::Duration;

use postern_api::ErrorCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Answer, Plan, Rig, ask, http};

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

#[tokio::test]
async fn too_many_at_once_are_turned_away() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["limits"] = json!({ "concurrency": 1 })),
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let waiting = tokio::spawn(async move {
        let query = postern_api::access_request::AccessRequestCreateQuery {
            wait: Some(60),
            dry_run: None,
        };
        ada.create_access_request(None, &query, &ask(&machine)).await
    });
    loop {
        let answer = rig.get("/livez", "").await;
        if answer.status == 503 {
            assert_eq!(answer.problem().code, ErrorCode::Overloaded);
            break;
        }
        tokio::task::yield_now().await;
    }
    // Stopping ends the wait, and the answer still comes.
    rig.running.shutdown().await.unwrap();
    let answered = waiting.await.unwrap().unwrap();
    assert_eq!(answered.status, "pending");
    assert!(
        http()
            .get(format!("http://{}/livez", rig.address))
            .send()
            .await
            .is_err()
    );
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
