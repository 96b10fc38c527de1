//! `postern doctor` against a database, an issuer and both clouds, as they should be and with one thing wrong each.

use std::sync::Arc;

use postern::demo::{
    fleet::{ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, Fleet, REGION, SUBSCRIPTION},
    issuer::Issuer,
};
use postern_core::time::{RandomIds, SystemClock};
use postern_localpg::{LocalPostgres, Options};
use postern_sim::arm::{ArmClient, RoleGrant};
use serde_json::Value;

use crate::rig::{Rig, run, said};

pub(crate) struct World {
    fleet: Fleet,
    _issuer: Issuer,
    _postgres: LocalPostgres,
    pub(crate) rig: Rig,
}

pub(crate) async fn world() -> World {
    let fleet = Fleet::start(Arc::new(postern_sim::SystemClock)).await.unwrap();
    let issuer = Issuer::start(Arc::new(SystemClock), &RandomIds).await.unwrap();
    let postgres = tokio::task::spawn_blocking(|| {
        LocalPostgres::start(Options {
            fsync: false,
            ..Options::default()
        })
        .unwrap()
    })
    .await
    .unwrap();
    let more = format!(
        r#"
[database]
url = "{}"
[[issuers]]
name = "demo"
issuer = "{}"
loopback_http = true
audiences = ["postern"]
algorithms = ["EdDSA"]
"#,
        postgres.url(),
        issuer.url()
    );
    let rig = Rig::new("test", &fleet, &more);
    World {
        fleet,
        _issuer: issuer,
        _postgres: postgres,
        rig,
    }
}

/// The exit code and each check's verdict and message.
async fn examined(rig: &Rig) -> (Option<i32>, Vec<(String, String, String)>) {
    let output = rig.run(&["doctor", "--json"]).await;
    let (document, told) = said(&output);
    assert!(!document.is_empty(), "{told}");
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["ok"], output.status.success(), "{document}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap();
    let checks = checks.iter().map(|check| {
        (
            text(&check["check"]),
            text(&check["verdict"]),
            text(&check["message"]),
        )
    });
    (output.status.code(), checks.collect())
}

/// What is not ok, as check and message.
pub(crate) async fn complaints(rig: &Rig) -> Vec<(String, String)> {
    let (_, checks) = examined(rig).await;
    checks
        .into_iter()
        .filter(|(_, verdict, _)| verdict != "ok")
        .map(|(check, _, message)| (check, message))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_order_is_said_line_by_line_and_changes_nothing() {
    let World { fleet, rig, .. } = &world().await;
    let (code, checks) = examined(rig).await;
    assert_eq!(code, Some(0), "{checks:?}");
    let warned: Vec<_> = checks
        .iter()
        .filter(|(_, verdict, _)| verdict == "warning")
        .collect();
    assert!(
        matches!(warned.as_slice(), [(check, _, message)] if check == "database" && message.contains("migrate")),
        "the migrations are outstanding: {checks:?}"
    );

    let migrated = run(&["migrate"], Some(&rig.config())).await;
    assert!(migrated.status.success(), "{:?}", said(&migrated));
    let changes = (fleet.arm.truth().last(), fleet.ec2.truth().last());
    let output = rig.run(&["doctor"]).await;
    let (lines, told) = said(&output);
    assert!(output.status.success(), "{lines}{told}");
    for (check, message) in [
        ("files", "can be read"),
        ("database", "`test`'s"),
        ("clock", "agrees"),
        ("issuer demo", "1 keys"),
        (&*format!("/azure/{SUBSCRIPTION}"), "2 machines"),
        (&*format!("/aws/{ACCOUNT}/{REGION}"), "2 machines"),
    ] {
        assert!(
            lines.lines().any(|line| line.starts_with("ok ")
                && line.contains(&format!("{check}: "))
                && line.contains(message)),
            "{check}: {message} in\n{lines}"
        );
    }
    assert_eq!(lines.lines().count(), 6, "{lines}");
    assert_eq!((fleet.arm.truth().last(), fleet.ec2.truth().last()), changes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_that_is_wrong_is_named_and_the_others_are_looked_at_all_the_same() {
    let World { fleet, rig, .. } = &world().await;
    let migrated = run(&["migrate"], Some(&rig.config())).await;
    assert!(migrated.status.success(), "{:?}", said(&migrated));

    fleet.arm.set_clients(vec![ArmClient::limited(
        CLIENT_ID,
        CLIENT_SECRET,
        &["Microsoft.Compute/*"],
    )]);
    rig.edit("name = \"test\"", "name = \"other\"");
    rig.edit(
        &format!("external_id = \"{EXTERNAL_ID}\""),
        "external_id = \"wrong\"",
    );
    let found = complaints(rig).await;
    let about = |check: &str| {
        let found = found.iter().find(|(name, _)| name == check);
        found.map(|(_, message)| message.clone()).unwrap_or_default()
    };
    assert!(
        about("database").contains("installation `test`, not of `other`"),
        "{found:?}"
    );
    assert!(
        about(&format!("/azure/{SUBSCRIPTION}")).contains("Microsoft.Network/"),
        "{found:?}"
    );
    assert!(
        about(&format!("/aws/{ACCOUNT}/{REGION}")).contains("AccessDenied"),
        "{found:?}"
    );
    assert_eq!(found.len(), 3, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_another_account_are_found_out() {
    let World { rig, .. } = &world().await;
    // Without a role the calls are made with Postern's own credentials, which are the hub account's.
    let text = std::fs::read_to_string(rig.config()).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("role_arn") && !line.starts_with("external_id"))
        .collect();
    std::fs::write(rig.config(), lines.join("\n")).unwrap();
    let found = complaints(rig).await;
    assert!(
        found
            .iter()
            .any(|(check, message)| *check == format!("/aws/{ACCOUNT}/{REGION}")
                && message.contains("999988887777")),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_an_issuer_that_do_not_answer_are_failures() {
    let World { rig, .. } = &world().await;
    let text = std::fs::read_to_string(rig.config()).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.starts_with("url = ") {
                "url = \"postgres://nobody@127.0.0.1:1/none\""
            } else if line.starts_with("issuer = ") {
                "issuer = \"http://127.0.0.1:1\""
            } else {
                line
            }
        })
        .collect();
    std::fs::write(rig.config(), lines.join("\n")).unwrap();
    let (code, checks) = examined(rig).await;
    assert_eq!(code, Some(1), "{checks:?}");
    let failed: Vec<&str> = checks
        .iter()
        .filter(|(_, verdict, _)| verdict == "failed")
        .map(|(check, _, _)| check.as_str())
        .collect();
    assert_eq!(failed, ["database", "issuer demo"], "{checks:?}");
}

/// Demands requesters' own roles, known by their subject.
fn demand_roles(rig: &Rig) {
    rig.edit(
        "[azure.credential]",
        "[azure.rbac]\nissuer = \"demo\"\nobject_id = \"sub\"\n[azure.credential]",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_requesters_own_roles_can_be_read_is_tried_where_they_are_demanded() {
    let World { fleet, rig, .. } = &world().await;
    demand_roles(rig);
    let name = format!("azure.rbac /azure/{SUBSCRIPTION}");
    let of_roles = async || {
        let (_, checks) = examined(rig).await;
        let (_, verdict, message) = checks.into_iter().find(|(check, ..)| *check == name).unwrap();
        (verdict, message)
    };
    let (verdict, message) = of_roles().await;
    assert_eq!(verdict, "ok", "{message}");
    assert!(message.contains("0 role assignments"), "{message}");
    assert!(message.contains("was not tried"), "{message}");
    fleet
        .arm
        .assign(&RoleGrant {
            scope: format!("/subscriptions/{SUBSCRIPTION}"),
            role: "Reader".to_owned(),
            principal: "aaaaaaaa-0000-4000-8000-000000000001".to_owned(),
            condition: None,
        })
        .unwrap();
    let (verdict, message) = of_roles().await;
    assert_eq!(verdict, "ok", "{message}");
    assert!(message.contains("1 role assignments"), "{message}");
    assert!(message.contains("Azure looks up groups"), "{message}");

    // Each of the three rights is missed by its name.
    let all = [
        "roleAssignments/read",
        "roleDefinitions/read",
        "denyAssignments/read",
    ];
    for missing in all {
        let mut may = vec![
            "Microsoft.Compute/*".to_owned(),
            "Microsoft.Network/*".to_owned(),
            "Microsoft.Resources/*".to_owned(),
        ];
        let others = all.iter().filter(|one| **one != missing);
        may.extend(others.map(|one| format!("Microsoft.Authorization/{one}")));
        let may: Vec<&str> = may.iter().map(String::as_str).collect();
        fleet
            .arm
            .set_clients(vec![ArmClient::limited(CLIENT_ID, CLIENT_SECRET, &may)]);
        let (code, checks) = examined(rig).await;
        assert_eq!(code, Some(1), "{checks:?}");
        let failed: Vec<_> = checks
            .iter()
            .filter(|(_, verdict, _)| verdict == "failed")
            .collect();
        let [(check, _, message)] = failed.as_slice() else {
            panic!("one, not {checks:?}");
        };
        assert_eq!(check, &name);
        assert!(
            message.contains(&format!("Microsoft.Authorization/{missing}")),
            "{message}"
        );
        assert!(message.contains("postern permissions azure --rbac"), "{message}");
    }
}
