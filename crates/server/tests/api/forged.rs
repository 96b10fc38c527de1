//! Forged and misused tokens: what an attacker can make or come by gets nobody in, and teaches nothing.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, TestKey, base64url},
    rig::{Answer, Plan, Rig, http},
};

const PATH: &str = "/v1/grants";

/// The answer without its request id, which differs between any two.
fn seen(answer: &Answer) -> (u16, String, String) {
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let challenge = answer.headers["www-authenticate"].to_str().unwrap().to_owned();
    (answer.status, challenge, answer.body.replace(&id, "-"))
}

/// Every token is refused in the same words, and the log knows why.
async fn refused_alike(rig: &Rig, tokens: Vec<(&str, String)>) {
    let expected = seen(&rig.get(PATH, "x").await);
    assert_eq!(expected.0, 401);
    for (what, token) in tokens {
        // So that the log has room for the reason.
        rig.advance(1);
        let before = rig.audit("authentication.fail").await.len();
        let answer = rig.get(PATH, &token).await;
        assert_eq!(answer.problem().code, ErrorCode::TokenInvalid, "{what}");
        assert_eq!(seen(&answer), expected, "{what}");
        let events = rig.audit("authentication.fail").await;
        assert_eq!(events.len(), before + 1, "{what}");
        assert!(
            events.iter().all(|stored| stored.event.reason.is_some()),
            "{what}"
        );
        let log = serde_json::to_string(&events.last().unwrap().event).unwrap();
        assert!(
            !log.contains(token.rsplit('.').next().unwrap_or("-")) || token.ends_with('.'),
            "{what}: {log}"
        );
    }
}

fn hs(algorithm: Algorithm, kid: &str, secret: &[u8], claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

async fn rig_with_every_kind_of_key() -> Rig {
    Rig::with(Plan {
        keys: vec![
            TestKey::ed25519("one", 1),
            TestKey::rsa("rsa", Algorithm::RS256),
            TestKey::p256("ec"),
        ],
        change: Box::new(|config| config["issuers"][0]["algorithms"] = json!(["EdDSA", "RS256", "ES256"])),
        ..Plan::default()
    })
    .await
}

#[tokio::test]
async fn every_kind_of_key_signs_good_tokens_so_that_the_refusals_below_mean_something() {
    let rig = rig_with_every_kind_of_key().await;
    let claims = rig.claims("ada");
    for key in [
        TestKey::ed25519("one", 1),
        TestKey::rsa("rsa", Algorithm::RS256),
        TestKey::p256("ec"),
    ] {
        assert_eq!(rig.get(PATH, &key.sign(&claims)).await.status, 200);
        let header = json!({ "alg": key.algorithm, "kid": key.kid });
        let text = key.sign_text(&header.to_string(), &claims.to_string());
        assert_eq!(rig.get(PATH, &text).await.status, 200);
    }
}

#[tokio::test]
async fn nothing_is_a_signature_but_a_signature() {
    let rig = rig_with_every_kind_of_key().await;
    let claims = rig.claims("root");
    let payload = base64url(claims.to_string().as_bytes());
    let mut tokens = Vec::new();
    for none in [
        "none", "None", "NONE", "nOnE", "", "null", "HS256 ", "eddsa", "EDDSA",
    ] {
        let header = base64url(
            json!({ "alg": none, "kid": "one", "typ": "JWT" })
                .to_string()
                .as_bytes(),
        );
        tokens.push(("no algorithm, and no signature", format!("{header}.{payload}.")));
        tokens.push((
            "no algorithm, and nonsense for one",
            format!("{header}.{payload}.AAAA"),
        ));
    }
    for header in [
        r#"{"kid":"one"}"#,
        r#"{"alg":null,"kid":"one"}"#,
        r#"{"alg":["EdDSA"],"kid":"one"}"#,
        r#"{"alg":"none","alg":"EdDSA","kid":"one"}"#,
        r#"{"alg":"EdDSA","kid":"one","kid":"rsa"}"#,
        "[]",
        "",
        "null",
    ] {
        tokens.push((
            "a header that says nothing clear",
            rig.key.sign_text(header, &claims.to_string()),
        ));
    }
    // A signature of zeros is right under every key where zeros are not looked for (CVE-2022-21449).
    for (algorithm, kid, bytes) in [("ES256", "ec", 64), ("EdDSA", "one", 64), ("RS256", "rsa", 256)] {
        let header = base64url(json!({ "alg": algorithm, "kid": kid }).to_string().as_bytes());
        let zeros = base64url(&vec![0; bytes]);
        tokens.push(("a signature of zeros", format!("{header}.{payload}.{zeros}")));
    }
    let good = rig.key.sign(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    tokens.extend([
        (
            "half a signature",
            format!("{signed}.{}", &signature[..signature.len() / 2]),
        ),
        ("a signature and more", format!("{good}AAAA")),
        ("padding", format!("{good}==")),
        ("a fourth part", format!("{good}.AAAA")),
        (
            "five parts, as an encrypted token has",
            format!("{good}.AAAA.AAAA"),
        ),
        ("a part in front", format!("AAAA.{good}")),
        ("only dots", "..".to_owned()),
        ("the letters of plain base64", good.replacen('.', "+/.", 1)),
        ("a word behind it", format!("{good} {good}")),
    ]);
    refused_alike(&rig, tokens).await;
    assert_eq!(rig.get(PATH, &good).await.status, 200);
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let rig = rig_with_every_kind_of_key().await;
    let claims = rig.claims("root");
    let pem = include_str!("material/issuer-rsa.pub.pem");
    let rsa = TestKey::rsa("rsa", Algorithm::RS256).jwk();
    let mut tokens = Vec::new();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        for secret in [
            pem.to_owned(),
            pem.trim_end().to_owned(),
            pem.replace('\n', "\r\n"),
            rsa.to_string(),
            rsa["n"].as_str().unwrap().to_owned(),
            TestKey::ed25519("one", 1).jwk()["x"].as_str().unwrap().to_owned(),
            String::new(),
        ] {
            for kid in ["rsa", "one"] {
                tokens.push((
                    "a public key as a secret",
                    hs(algorithm, kid, secret.as_bytes(), &claims),
                ));
            }
        }
    }
    let as_if = |key: &TestKey, kid: &str, algorithm: &str| {
        key.sign_text(
            &json!({ "alg": algorithm, "kid": kid }).to_string(),
            &claims.to_string(),
        )
    };
    let (one, rsa, ec) = (
        TestKey::ed25519("one", 1),
        TestKey::rsa("rsa", Algorithm::RS256),
        TestKey::p256("ec"),
    );
    tokens.extend([
        ("one kind of key as another", as_if(&one, "one", "RS256")),
        ("one kind of key as another", as_if(&one, "rsa", "RS256")),
        ("one kind of key as another", as_if(&rsa, "rsa", "EdDSA")),
        ("one kind of key as another", as_if(&rsa, "rsa", "RS512")),
        ("one kind of key as another", as_if(&rsa, "rsa", "PS256")),
        ("one kind of key as another", as_if(&ec, "ec", "ES384")),
        ("one kind of key as another", as_if(&ec, "rsa", "ES256")),
    ]);
    refused_alike(&rig, tokens).await;
}

#[tokio::test]
async fn a_key_id_is_a_name_and_nothing_else() {
    let rig = rig_with_every_kind_of_key().await;
    let claims = rig.claims("root");
    assert_eq!(rig.get(PATH, &rig.key.sign(&claims)).await.status, 200);
    let before = rig.issuer.fetches();
    let long = "x".repeat(513);
    let mut tokens = Vec::new();
    for kid in [
        "",
        "One",
        "one ",
        " one",
        "one\0",
        "one\n",
        "../../../../dev/null",
        "/proc/self/environ",
        "file:///dev/null",
        "http://127.0.0.1:1/keys",
        "one' OR '1'='1",
        "x' UNION SELECT 'one'; --",
        "one; sleep 10",
        "${jndi:ldap://127.0.0.1:1/a}",
        "..\\one",
        "%6fne",
        &long,
    ] {
        let stranger = TestKey::ed25519(kid, 1);
        tokens.push(("a key id of somebody's invention", stranger.sign(&claims)));
    }
    // What an empty file, as a secret, would have signed.
    tokens.push((
        "an empty secret",
        hs(Algorithm::HS256, "../../../../dev/null", b"", &claims),
    ));
    for kid in [json!(1), json!(["one"]), json!({ "kid": "one" }), json!(true)] {
        let header = json!({ "alg": "EdDSA", "kid": kid }).to_string();
        tokens.push((
            "a key id that is no text",
            rig.key.sign_text(&header, &claims.to_string()),
        ));
    }
    tokens.push((
        "none at all among several keys",
        rig.key.clone().without_kid().sign(&claims),
    ));
    let tried = i64::try_from(tokens.len()).unwrap();
    refused_alike(&rig, tokens).await;
    let fetched = i64::try_from(rig.issuer.fetches() - before).unwrap();
    assert!(
        fetched <= tried / 10 + 1,
        "{fetched} fetches for {tried} invented ids, a second apart"
    );
}

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
async fn what_could_be_read_in_two_ways_is_not_read() {
    let rig = Rig::start().await;
    let claims = rig.claims("ada").to_string();
    let with = |more: &str| {
        let text = format!("{{{more},{}", &claims[1..]);
        rig.key.sign_text(r#"{"alg":"EdDSA","kid":"one"}"#, &text)
    };
    let evil = Issuer::start(&[&TestKey::ed25519("one", 9)]).await;
    let mut tokens = vec![
        ("two subjects", with(r#""sub":"root""#)),
        (
            "two subjects, one of them disguised",
            with(r#""\u0073ub":"root""#),
        ),
        ("two ends", with(r#""exp":99999999999"#)),
        ("two audiences", with(r#""aud":"postern""#)),
        ("two issuers", with(&format!(r#""iss":"{}""#, evil.url()))),
        (
            "groups twice, deep inside",
            with(r#""more":{"groups":["a"],"groups":["b"]}"#),
        ),
        (
            "nested without end",
            with(&format!(r#""more":{}1{}"#, "[".repeat(200), "]".repeat(200))),
        ),
        (
            "nested deeply",
            with(&format!(r#""more":{}1{}"#, "[".repeat(40), "]".repeat(40))),
        ),
        ("too long a number", with(r#""nbf":1e999"#)),
    ];
    for text in ["", "null", "[]", "\"ada\"", "{", "{}", "{}{}", "\u{feff}{}"] {
        tokens.push((
            "claims that are none",
            rig.key.sign_text(r#"{"alg":"EdDSA","kid":"one"}"#, text),
        ));
    }
    // A whole token as the claims of another.
    let inner = rig.key.sign(&rig.claims("root"));
    tokens.push((
        "a token in a token",
        rig.key.sign_text(r#"{"alg":"EdDSA","kid":"one"}"#, &inner),
    ));
    refused_alike(&rig, tokens).await;
    assert_eq!(evil.fetches(), 0);
    let more = with(r#""more":{"sub":"root","iss":"x"}"#);
    assert_eq!(
        rig.get(PATH, &more).await.status,
        200,
        "one name at two depths is clear"
    );
}

#[tokio::test]
async fn the_size_of_a_token_has_an_end() {
    let rig = Rig::start().await;
    let sized = |bytes: usize| {
        let mut claims = rig.claims("ada");
        claims["more"] = json!("");
        let bare = rig.key.sign(&claims).len();
        // Four letters of base64 for three bytes.
        claims["more"] = json!("x".repeat((bytes - bare) / 4 * 3 - 3));
        rig.key.sign(&claims)
    };
    let large = sized(16 * 1024);
    assert!(
        (16 * 1024 - 16..=16 * 1024).contains(&large.len()),
        "{}",
        large.len()
    );
    assert_eq!(rig.get(PATH, &large).await.status, 200);
    let larger = sized(17 * 1024);
    refused_alike(&rig, vec![("larger than is looked at", larger)]).await;
    // What does not even fit into a request's head does not reach the tokens.
    let huge = rig.get(PATH, &"x".repeat(200 * 1024)).await;
    assert_eq!(huge.status, 431);
}

#[tokio::test]
async fn a_token_is_taken_from_one_place() {
    let rig = Rig::start().await;
    let token = rig.token("ada");
    let bare = || http().get(rig.url(PATH));
    let code = async |request: reqwest::RequestBuilder| {
        Answer::of(request.send().await.unwrap()).await.problem().code
    };
    let query = http().get(rig.url(&format!("{PATH}?access_token={token}")));
    assert_eq!(code(query).await, ErrorCode::TokenMissing);
    assert_eq!(
        code(bare().header("cookie", format!("token={token}"))).await,
        ErrorCode::TokenMissing
    );
    assert_eq!(
        code(bare().header("proxy-authorization", format!("Bearer {token}"))).await,
        ErrorCode::TokenMissing
    );
    let twice = bare()
        .bearer_auth(&token)
        .header("authorization", format!("Bearer {token}"));
    assert_eq!(code(twice).await, ErrorCode::TokenInvalid);
    let basic = bare().basic_auth("ada", Some(&token));
    assert_eq!(code(basic).await, ErrorCode::TokenInvalid);
    assert_eq!(
        code(bare().header("authorization", format!("DPoP {token}"))).await,
        ErrorCode::TokenInvalid
    );
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
