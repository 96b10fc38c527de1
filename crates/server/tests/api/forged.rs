//! Forged and misused tokens: what an attacker can make or come by gets nobody in, and teaches nothing.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, TestKey, base64url},
    rig::{Answer, Plan, Rig, http},
};

mod claims;
mod keys;

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
