//! Who gets in, and who does not.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::{
    issuer::TestKey,
    rig::{Plan, Rig},
};

const PATH: &str = "/v1/grants";

async fn code(rig: &Rig, token: &str) -> ErrorCode {
    let answer = rig.get(PATH, token).await;
    let problem = answer.problem();
    assert_eq!(answer.status, 401, "{answer:?}");
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with("Bearer error=\"invalid_token\""),
        "{challenge}"
    );
    problem.code
}

fn changed(rig: &Rig, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = rig.claims("ada");
    change(&mut claims);
    rig.key.sign(&claims)
}

#[tokio::test]
async fn a_good_token_gets_in_whichever_allowed_algorithm_signed_it() {
    let rig = Rig::with(Plan {
        keys: vec![TestKey::ed25519("one", 1), TestKey::rsa("two", Algorithm::RS256)],
        ..Plan::default()
    })
    .await;
    assert_eq!(rig.get(PATH, &rig.token("ada")).await.status, 200);
    let rsa = TestKey::rsa("two", Algorithm::RS256).sign(&rig.claims("ada"));
    assert_eq!(rig.get(PATH, &rsa).await.status, 200);
}

#[tokio::test]
async fn no_token_is_a_challenge_without_an_error() {
    let rig = Rig::start().await;
    let answer = crate::rig::Answer::of(crate::rig::http().get(rig.url(PATH)).send().await.unwrap()).await;
    assert_eq!(answer.problem().code, ErrorCode::TokenMissing);
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn claims_that_are_not_for_here_and_now_are_refused() {
    let rig = Rig::start().await;
    let now = rig.claims("ada")["iat"].as_i64().unwrap();
    for (what, token, expected) in [
        (
            "expired",
            changed(&rig, |c| c["exp"] = json!(now - 31)),
            ErrorCode::TokenExpired,
        ),
        (
            "endless",
            changed(&rig, |c| drop(c.as_object_mut().unwrap().remove("exp"))),
            ErrorCode::TokenInvalid,
        ),
        (
            "not yet",
            changed(&rig, |c| c["nbf"] = json!(now + 60)),
            ErrorCode::TokenInvalid,
        ),
        (
            "from the future",
            changed(&rig, |c| c["iat"] = json!(now + 60)),
            ErrorCode::TokenInvalid,
        ),
        (
            "other audience",
            changed(&rig, |c| c["aud"] = json!("other")),
            ErrorCode::TokenInvalid,
        ),
        (
            "no audience",
            changed(&rig, |c| drop(c.as_object_mut().unwrap().remove("aud"))),
            ErrorCode::TokenInvalid,
        ),
        (
            "other issuer",
            changed(&rig, |c| c["iss"] = json!("https://evil.example.com")),
            ErrorCode::TokenInvalid,
        ),
        (
            "issuer with a slash",
            changed(&rig, |c| {
                c["iss"] = json!(format!("{}/", c["iss"].as_str().unwrap()));
            }),
            ErrorCode::TokenInvalid,
        ),
        (
            "no subject",
            changed(&rig, |c| c["sub"] = json!("")),
            ErrorCode::TokenInvalid,
        ),
    ] {
        assert_eq!(code(&rig, &token).await, expected, "{what}");
    }
}

#[tokio::test]
async fn time_moves_a_good_token_past_its_end() {
    let rig = Rig::start().await;
    let token = rig.token("ada");
    rig.advance(3600 + 29);
    assert_eq!(rig.get(PATH, &token).await.status, 200);
    rig.advance(1);
    assert_eq!(code(&rig, &token).await, ErrorCode::TokenExpired);
}

#[tokio::test]
async fn forged_signatures_are_refused() {
    let rsa = TestKey::rsa("rsa", Algorithm::RS256);
    let rig = Rig::with(Plan {
        keys: vec![TestKey::ed25519("one", 1), rsa.clone()],
        ..Plan::default()
    })
    .await;
    let claims = rig.claims("root");
    let good = rig.key.sign(&claims);
    // That the good one was seen before is of no use to whoever changes it.
    assert_eq!(rig.get(PATH, &good).await.status, 200);
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload) = (parts[0], parts[1]);

    // The public key as an HMAC secret.
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = Some("rsa".into());
    let confused =
        jsonwebtoken::encode(&confused, &claims, &EncodingKey::from_secret(public.as_bytes())).unwrap();
    // Somebody else's key under a known id, and brought along in the header.
    let stranger = TestKey::ed25519("one", 9);
    let brought = stranger.sign_with(&claims, |header| {
        header.jwk = Some(serde_json::from_value(stranger.jwk()).unwrap());
        header.jku = Some("https://evil.example.com/keys".into());
    });
    // base64url of {"alg":"none","typ":"JWT"}.
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    for (what, token) in [
        ("unsigned", unsigned),
        ("signature taken away", format!("{header}.{payload}.")),
        ("two parts", format!("{header}.{payload}")),
        ("another payload", {
            let other = rig.key.sign(&rig.claims("ada"));
            format!("{header}.{payload}.{}", other.split('.').nth(2).unwrap())
        }),
        ("HS256 with the public key", confused),
        ("a stranger's key with a known id", stranger.sign(&claims)),
        ("a key in the header", brought),
        (
            "an algorithm that is not allowed",
            TestKey::rsa("rsa", Algorithm::PS256).sign(&claims),
        ),
        (
            "an RSA signature under the id of an Ed25519 key",
            TestKey::rsa("one", Algorithm::RS256).sign(&claims),
        ),
        (
            "an unknown key id",
            TestKey::ed25519("../../etc/passwd", 1).sign(&claims),
        ),
        (
            "no key id among several keys",
            rig.key.clone().without_kid().sign(&claims),
        ),
        (
            "critical extensions",
            rig.key
                .sign_with(&claims, |header| header.crit = Some(vec!["exp".into()])),
        ),
        ("not a token", "x".into()),
        ("too large", format!("{good}{}", "x".repeat(17 * 1024))),
    ] {
        assert_eq!(code(&rig, &token).await, ErrorCode::TokenInvalid, "{what}");
    }
    assert_eq!(rig.get(PATH, &good).await.status, 200, "the good one still is");
}

#[tokio::test]
async fn why_a_token_failed_stands_in_the_audit_log_and_not_in_the_answer() {
    let rig = Rig::start().await;
    let token = changed(&rig, |c| c["aud"] = json!("other"));
    let answer = rig.get(PATH, &token).await;
    assert!(!answer.body.contains("audience"), "{}", answer.body);
    let events = rig.audit("authentication.fail").await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        events[0].event.reason.as_deref(),
        Some("the audience is another one")
    );
    assert_eq!(events[0].event.details["address"], "127.0.0.1");
    assert_eq!(
        events[0].event.http_request.as_deref(),
        answer.headers["x-request-id"].to_str().ok()
    );
    for _ in 0..40 {
        rig.get(PATH, &token).await;
    }
    assert_eq!(
        rig.audit("authentication.fail").await.len(),
        20,
        "a flood is bounded"
    );
}

#[tokio::test]
async fn keys_are_fetched_once_and_rotations_are_followed() {
    let rig = Rig::start().await;
    let old = rig.token("ada");
    let answers: Vec<_> = futures::future::join_all((0..20).map(|_| rig.get(PATH, &old))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(rig.issuer.fetches(), 1, "twenty at once share one fetch");

    let new = TestKey::ed25519("two", 2);
    rig.issuer.rotate(&[&new]);
    let new = new.sign(&rig.claims("ada"));
    assert_eq!(
        code(&rig, &new).await,
        ErrorCode::TokenInvalid,
        "no second fetch within the pause"
    );
    assert_eq!(rig.issuer.fetches(), 1);
    rig.advance(10);
    assert_eq!(rig.get(PATH, &new).await.status, 200);
    assert_eq!(rig.issuer.fetches(), 2);
    assert_eq!(
        code(&rig, &old).await,
        ErrorCode::TokenInvalid,
        "a key that was taken away is gone"
    );
}

#[tokio::test]
async fn a_token_that_was_seen_is_of_no_use_with_another_key_of_the_same_name() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["issuers"][0]["refresh_seconds"] = json!(60)),
        ..Plan::default()
    })
    .await;
    let token = rig.token("ada");
    assert_eq!(rig.get(PATH, &token).await.status, 200);
    rig.issuer.rotate(&[&TestKey::ed25519("one", 3)]);
    rig.advance(59);
    assert_eq!(rig.get(PATH, &token).await.status, 200, "nobody knows yet");
    rig.advance(1);
    assert_eq!(code(&rig, &token).await, ErrorCode::TokenInvalid);
}

#[tokio::test]
async fn known_keys_outlive_an_outage_of_the_issuer_but_not_for_ever() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["issuers"][0]["keep_seconds"] = json!(1000)),
        ..Plan::default()
    })
    .await;
    let token = rig.token("ada");
    assert_eq!(rig.get(PATH, &token).await.status, 200);
    rig.issuer.set_down(true);
    rig.advance(999);
    assert_eq!(rig.get(PATH, &token).await.status, 200);
    rig.advance(1);
    let answer = rig.get(PATH, &token).await;
    assert_eq!(answer.problem().code, ErrorCode::Unavailable);
    rig.issuer.set_down(false);
    rig.advance(10);
    assert_eq!(rig.get(PATH, &token).await.status, 200);
}

#[tokio::test]
async fn a_discovery_document_of_somebody_else_is_not_believed() {
    let rig = Rig::start().await;
    rig.issuer.impersonate("http://127.0.0.1:1");
    assert_eq!(
        rig.get(PATH, &rig.token("ada")).await.problem().code,
        ErrorCode::Unavailable
    );
    assert_eq!(rig.issuer.fetches(), 0);
}

#[tokio::test]
async fn weak_symmetric_and_encryption_keys_are_not_used() {
    let rig = Rig::start().await;
    let mut for_encryption = rig.key.jwk();
    for_encryption["use"] = json!("enc");
    let mut for_another_algorithm = rig.key.jwk();
    for_another_algorithm["alg"] = json!("ES256");
    for key in [
        for_encryption,
        for_another_algorithm,
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "one" }),
        json!("nonsense"),
    ] {
        rig.issuer.show_raw(vec![key.clone()]);
        rig.advance(4000);
        assert_eq!(
            code(&rig, &rig.token("ada")).await,
            ErrorCode::TokenInvalid,
            "{key}"
        );
    }
}
