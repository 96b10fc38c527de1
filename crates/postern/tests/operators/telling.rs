//! A receiver that the demo tells, that fails, and that is told again; as somebody sees it at the command line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{demo::Demo, people::As};

const PATIENCE: Duration = Duration::from_mins(1);

type Heard = (HeaderMap, Bytes);

/// What the receiver answers, and whom it tells of what it hears.
#[derive(Clone)]
struct Receiver {
    answer: Arc<AtomicU16>,
    heard: UnboundedSender<Heard>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    receiver.heard.send((headers, body)).unwrap();
    StatusCode::from_u16(receiver.answer.load(Ordering::SeqCst)).unwrap()
}

async fn next(heard: &mut UnboundedReceiver<Heard>) -> Heard {
    tokio::time::timeout(PATIENCE, heard.recv())
        .await
        .unwrap()
        .unwrap()
}

/// The deliveries that stand there, once there are some.
async fn some(of: &As<'_>, status: &str) -> Vec<Value> {
    let look = async {
        loop {
            let found = of.json(&["deliveries", "--status", status]).await;
            match found.as_array() {
                Some(found) if !found.is_empty() => return found.clone(),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_does_not_take_is_seen_and_replayed() {
    let (send, mut heard) = unbounded_channel();
    let answer = Arc::new(AtomicU16::new(503));
    let receiver = Receiver {
        answer: Arc::clone(&answer),
        heard: send,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().fallback(receive).with_state(receiver);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    let mut demo = Demo::with(&["--webhook", &url]).await;
    let secret = loop {
        let line = demo.line().await;
        let mut words = line.split_whitespace();
        if let Some(word) = words.find(|word| word.starts_with("whsec_")) {
            break word.to_owned();
        }
    };
    let olga = demo.person("olga").await;
    let eve = demo.person("eve").await;

    // The demo's own first role assignment is told, signed; the receiver is broken, so that it waits.
    let (headers, body) = next(&mut heard).await;
    Webhook::new(&secret).unwrap().verify(&body, &headers).unwrap();
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(event["type"], "postern.role_assignment.create");
    let waiting = some(&olga, "waiting").await;
    let oldest = waiting.last().unwrap();
    assert_eq!(oldest["event"], event["id"], "{waiting:?}");
    let told = olga.told(&["deliveries", "--status", "waiting", "--wide"]).await;
    assert!(told.contains("answered 503 Service Unavailable"), "{told}");
    let (code, told) = eve.refused(&["deliveries"]).await;
    assert!(code == Some(3) && told.contains("audit"), "{told}");

    // What it refuses is given up.
    answer.store(422, Ordering::SeqCst);
    let dead = some(&olga, "dead").await;
    let number = dead[0]["id"].to_string();
    answer.store(204, Ordering::SeqCst);
    let (code, _) = eve.refused(&["deliveries", "replay", &number]).await;
    assert_eq!(code, Some(3));
    olga.told(&["deliveries", "replay", &number]).await;
    olga.told(&["deliveries", "replay", "--all", "--subscriber", "demo"])
        .await;
    assert_eq!(
        olga.json(&["deliveries", "replay", "--all"]).await,
        serde_json::json!([])
    );
    let (code, told) = olga.refused(&["deliveries", "replay", &number]).await;
    assert!(code == Some(4) && told.contains("given up"), "{told}");
    let mut delivered = some(&olga, "delivered").await;
    while !delivered.iter().any(|one| one["id"] == dead[0]["id"]) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        delivered = some(&olga, "delivered").await;
    }

    demo.interrupted().await;
    serving.abort();
}
