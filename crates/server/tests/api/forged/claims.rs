//! What a token says of whom, for whom and when.

use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, TestKey},
    rig::{Plan, Rig},
};

use super::{PATH, refused_alike};

#[tokio::test]
async fn only_tokens_that_say_who_somebody_is_are_taken() {
    let rig = Rig::start().await;
    let claims = rig.claims("ada");
    let typed = |typ: &str| {
        rig.key
            .sign_with(&claims, |header| header.typ = Some(typ.to_owned()))
    };
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"] {
        assert_eq!(rig.get(PATH, &typed(typ)).await.status, 200, "{typ}");
    }
    let untyped = rig.key.sign_with(&claims, |header| header.typ = None);
    assert_eq!(rig.get(PATH, &untyped).await.status, 200);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        rig.key.sign(&claims)
    };
    refused_alike(
        &rig,
        vec![
            ("a logout token", typed("logout+jwt")),
            ("a security event", typed("secevent+jwt")),
            ("a proof", typed("dpop+jwt")),
            ("a client's own assertion", typed("client-authentication+jwt")),
            ("nothing known", typed("JOSE+JSON")),
            ("an empty type", typed("")),
            (
                "a logout token of no type",
                with(
                    "events",
                    json!({ "http://schemas.openid.net/event/backchannel-logout": {} }),
                ),
            ),
            (
                "a bound token, without its proof",
                with("cnf", json!({ "jkt": "AAAA" })),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_issuer_speaks_only_for_itself() {
    let (ours, theirs) = (TestKey::ed25519("one", 1), TestKey::ed25519("one", 2));
    let other = Issuer::start(&[&theirs]).await;
    let address = other.url();
    let rig = Rig::with(Plan {
        keys: vec![ours.clone()],
        change: Box::new(move |config| {
            let issuers = config["issuers"].as_array_mut().unwrap();
            issuers.push(json!({
                "name": "partner", "issuer": address, "audiences": ["partner"],
                "algorithms": ["EdDSA"], "loopback_http": true,
            }));
        }),
        ..Plan::default()
    })
    .await;
    let claims = |issuer: &str, audience: Value| {
        let mut claims = rig.claims("root");
        claims["iss"] = json!(issuer);
        claims["aud"] = audience;
        claims
    };
    let (here, there) = (rig.issuer.url(), other.url());
    assert_eq!(
        rig.get(PATH, &ours.sign(&claims(&here, json!("postern"))))
            .await
            .status,
        200
    );
    assert_eq!(
        rig.get(PATH, &theirs.sign(&claims(&there, json!("partner"))))
            .await
            .status,
        200
    );
    let spelled = |iss: &str| ours.sign(&claims(iss, json!("postern")));
    let tokens = vec![
        (
            "the same key id, the other's key",
            theirs.sign(&claims(&here, json!("postern"))),
        ),
        (
            "the same key id, the other's issuer",
            ours.sign(&claims(&there, json!("partner"))),
        ),
        (
            "the other's audience",
            ours.sign(&claims(&here, json!("partner"))),
        ),
        (
            "our audience, of the other",
            theirs.sign(&claims(&there, json!("postern"))),
        ),
        (
            "both issuers",
            ours.sign(&{
                let mut both = claims(&here, json!("postern"));
                both["iss"] = json!([here, there]);
                both
            }),
        ),
        ("a slash more", spelled(&format!("{here}/"))),
        (
            "a letter in the other case",
            spelled(&here.replace("http", "HTTP")),
        ),
        (
            "the default port, or a user",
            spelled(&here.replace("http://", "http://x@")),
        ),
        (
            "another name for the same host",
            spelled(&here.replace("127.0.0.1", "localhost")),
        ),
        ("a fragment", spelled(&format!("{here}#"))),
        ("a query", spelled(&format!("{here}?"))),
        ("a space", spelled(&format!(" {here}"))),
        (
            "no issuer",
            ours.sign(&{
                let mut none = claims(&here, json!("postern"));
                none.as_object_mut().unwrap().remove("iss");
                none
            }),
        ),
        ("an empty issuer", spelled("")),
        ("an issuer nobody knows", spelled("https://login.example.com")),
    ];
    refused_alike(&rig, tokens).await;
    let names: Vec<_> = rig
        .audit("authentication.fail")
        .await
        .into_iter()
        .map(|stored| stored.event.details["issuer"].clone())
        .collect();
    assert!(
        names.contains(&json!("corp")) && names.contains(&json!("partner")) && names.contains(&json!(null))
    );
}

#[tokio::test]
async fn a_token_for_several_is_for_us_and_a_token_for_another_client_is_not() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["issuers"][0]["authorized_parties"] = json!(["postern-cli"])),
        ..Plan::default()
    })
    .await;
    let with = |audience: Value, party: Value| {
        let mut claims = rig.claims("ada");
        claims["aud"] = audience;
        claims["azp"] = party;
        rig.key.sign(&claims)
    };
    let cli = json!("postern-cli");
    for audience in [json!("postern"), json!(["postern"]), json!(["other", "postern"])] {
        assert_eq!(rig.get(PATH, &with(audience, cli.clone())).await.status, 200);
    }
    let mut tokens = vec![
        ("another client", with(json!("postern"), json!("wiki"))),
        ("no client", rig.token("ada")),
        (
            "a list of clients",
            with(json!("postern"), json!(["postern-cli"])),
        ),
    ];
    for audience in [
        json!([]),
        json!([["postern"]]),
        json!("postern other"),
        json!("postern/"),
        json!(null),
        json!({ "aud": "postern" }),
    ] {
        tokens.push(("an audience that is not us", with(audience, cli.clone())));
    }
    refused_alike(&rig, tokens).await;
}

#[tokio::test]
async fn times_hold_to_the_second_and_only_a_token_that_was_good_is_called_expired() {
    let rig = Rig::start().await;
    let now = rig.claims("ada")["iat"].as_i64().unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = rig.claims("ada");
        claims[name] = value;
        claims
    };
    let answer = async |claims: &Value| rig.get(PATH, &rig.key.sign(claims)).await;
    for (name, seconds) in [("exp", -29), ("nbf", 30), ("iat", 30)] {
        assert_eq!(
            answer(&with(name, json!(now + seconds))).await.status,
            200,
            "{name} {seconds}"
        );
    }
    for (name, seconds) in [("nbf", 31), ("iat", 31)] {
        let problem = answer(&with(name, json!(now + seconds))).await.problem();
        assert_eq!(problem.code, ErrorCode::TokenInvalid, "{name} {seconds}");
    }
    for end in [json!(now - 30), json!(0), json!(-1), json!(1.5)] {
        assert_eq!(
            answer(&with("exp", end.clone())).await.problem().code,
            ErrorCode::TokenExpired,
            "{end}"
        );
    }
    let mut tokens = Vec::new();
    for end in [
        json!("9999999999"),
        json!(9_223_372_036_854_775_807_i64),
        json!(1e18),
        json!(true),
        json!([now + 60]),
        json!(null),
    ] {
        tokens.push(("an end that is no date", rig.key.sign(&with("exp", end))));
    }
    // Whoever cannot sign does not learn whether a token would have been good once.
    let expired = with("exp", json!(now - 3600));
    tokens.push((
        "an expired token that somebody else signed",
        TestKey::ed25519("one", 9).sign(&expired),
    ));
    let mut elsewhere = expired.clone();
    elsewhere["aud"] = json!("other");
    tokens.push(("an expired token for another audience", rig.key.sign(&elsewhere)));
    refused_alike(&rig, tokens).await;
}
