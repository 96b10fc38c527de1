//! The keys that an issuer shows: where they come from, how long they serve, and which are not used.

use jsonwebtoken::Algorithm;
use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, TestKey},
    rig::Rig,
};

use super::{PATH, refused_alike};

#[tokio::test]
async fn keys_come_from_the_configured_place_whatever_a_header_says() {
    let rig = Rig::start().await;
    let claims = rig.claims("root");
    let stranger = TestKey::ed25519("one", 9);
    let trap = Issuer::start(&[&stranger]).await;
    let keys = format!("{}/keys", trap.url());
    let header = |more: Value| {
        let mut header = json!({ "alg": "EdDSA", "kid": "one" });
        header
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        header.to_string()
    };
    let mut tokens = Vec::new();
    for more in [
        json!({ "jwk": stranger.jwk() }),
        json!({ "jku": keys }),
        json!({ "x5u": keys }),
        json!({ "x5c": ["MIIB"] }),
        json!({ "x5t": "AAAA", "x5t#S256": "AAAA" }),
        json!({ "jwks": { "keys": [stranger.jwk()] } }),
        json!({ "iss": trap.url() }),
        json!({ "jku": keys, "kid": "two" }),
    ] {
        tokens.push((
            "a stranger's key, brought along",
            stranger.sign_text(&header(more), &claims.to_string()),
        ));
    }
    for more in [
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": [] }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "zip": "DEF" }),
        json!({ "enc": "A128GCM" }),
        json!({ "cty": "JWT" }),
    ] {
        tokens.push((
            "what is not understood",
            rig.key.sign_text(&header(more), &claims.to_string()),
        ));
    }
    refused_alike(&rig, tokens).await;
    assert_eq!(trap.fetches(), 0, "nobody went where a token pointed");
    let harmless = rig.key.sign_text(
        &header(json!({ "jku": keys, "x5t": "AAAA" })),
        &claims.to_string(),
    );
    assert_eq!(
        rig.get(PATH, &harmless).await.status,
        200,
        "the issuer's own key, with a header of no account"
    );
    assert_eq!(trap.fetches(), 0);
}

#[tokio::test]
async fn a_key_that_the_issuer_took_away_is_of_use_until_the_next_refresh_at_most() {
    let rig = Rig::start().await;
    let old = rig.key.clone();
    assert_eq!(rig.get(PATH, &old.sign(&rig.claims("ada"))).await.status, 200);
    rig.issuer.rotate(&[&TestKey::ed25519("two", 2)]);
    rig.advance(299);
    let claims = rig.claims("ada");
    assert_eq!(
        rig.get(PATH, &old.sign(&claims)).await.status,
        200,
        "nobody has looked again yet"
    );
    rig.advance(1);
    let stolen = old.sign(&claims);
    refused_alike(&rig, vec![("signed with a key that was taken away", stolen)]).await;
    assert_eq!(rig.issuer.fetches(), 2);
}

#[tokio::test]
async fn an_issuer_that_shows_nonsense_for_a_while_does_not_lock_people_out() {
    let rig = Rig::start().await;
    let token = rig.token("ada");
    assert_eq!(rig.get(PATH, &token).await.status, 200);
    rig.issuer.impersonate("https://evil.example.com");
    rig.advance(300);
    assert_eq!(
        rig.get(PATH, &token).await.status,
        200,
        "its keys are still those of before"
    );
    assert_eq!(
        rig.issuer.fetches(),
        1,
        "the keys of another issuer's document are not fetched"
    );
}

#[tokio::test]
async fn keys_that_say_two_things_or_show_their_secret_are_not_used() {
    let rig = Rig::start().await;
    let good = rig.key.jwk();
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    let stranger = TestKey::ed25519("one", 9).jwk();
    let rsa = TestKey::rsa("one", Algorithm::RS256).jwk();
    for keys in [
        vec![with("d", json!("AAAA"))],
        vec![with("key_ops", json!(["sign"]))],
        vec![with("use", json!("enc"))],
        vec![good.clone(), stranger],
        vec![good.clone(), rsa],
        vec![],
    ] {
        rig.issuer.show_raw(keys.clone());
        rig.advance(4000);
        let token = rig.token("ada");
        assert_eq!(
            rig.get(PATH, &token).await.problem().code,
            ErrorCode::TokenInvalid,
            "{keys:?}"
        );
    }
    rig.issuer.show_raw(vec![good]);
    rig.advance(4000);
    assert_eq!(rig.get(PATH, &rig.token("ada")).await.status, 200);
}
