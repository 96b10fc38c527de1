//! The description of the API: as committed, complete, and true about who must authenticate.

use std::path::Path;

use postern_api::ErrorCode;
use serde_json::Value;

use crate::rig::{Answer, Rig, http};

/// `UPDATE_SNAPSHOTS=1 cargo test -p postern-server` rewrites the committed document.
#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let mut served = serde_json::to_string_pretty(&postern_server::openapi()).unwrap();
    served.push('\n');
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == served,
        "docs/openapi.json is not what the server serves; rewrite it with `UPDATE_SNAPSHOTS=1 cargo test -p postern-server`"
    );
}

#[test]
fn the_document_is_openapi_3_1_and_names_every_error_code() {
    let document = serde_json::to_value(postern_server::openapi()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let codes: Vec<&str> = document["components"]["schemas"]["ErrorCode"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|code| code.as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        ErrorCode::ALL
            .iter()
            .map(|code| code.as_str())
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn every_operation_needs_a_token_except_health_and_this_document() {
    let rig = Rig::start().await;
    let document: Value = rig.get("/openapi.json", "").await.body.parse().unwrap();
    let mut guarded = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let url = rig.url(&path.replace("{id}", "x").replace("{name}", "x"));
            let method = method.to_uppercase().parse().unwrap();
            let answer = Answer::of(http().request(method, url).send().await.unwrap()).await;
            let open = operation["security"] == serde_json::json!([{}]);
            if open {
                assert_eq!(answer.status, 200, "{path}");
                assert!(!path.starts_with("/v1"), "{path}");
            } else {
                assert_eq!(answer.problem().code, ErrorCode::TokenMissing, "{path}");
                assert!(path.starts_with("/v1/"), "{path}");
                guarded += 1;
            }
            assert!(
                operation["operationId"].is_string() && operation["responses"].is_object(),
                "{path}"
            );
        }
    }
    assert!(guarded >= 24, "{guarded}");
}
