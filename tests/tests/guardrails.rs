//! Guardrails that are edited while the server runs: what holds is taken, what does not is refused and seen.

use std::{process::Command, time::Duration};

use postern_api::access_check::AccessCheckQuery;
use postern_tests::{Person, World, WorldOptions};

const NEVER: &str =
    "@id(\"never\") @message(\"Never.\") forbid (principal, action == Action::\"request\", resource);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_guardrails_are_taken_without_a_restart_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.cedar");
    std::fs::write(&file, "// Nothing is forbidden yet.\n").unwrap();
    let world = World::new(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(format!(
            "[guardrails]\npath = \"{}\"\nreload_seconds = 1\n",
            directory.path().display()
        )),
    )
    .await;
    let server = world.serve(&[]).await;
    let may_ask = async || {
        let query = AccessCheckQuery {
            action: Some("request".to_owned()),
            scope: Some("/aws".to_owned()),
            ..AccessCheckQuery::default()
        };
        let checked = world.client(Person::Olga).access_check(&query).await.unwrap();
        (checked.allowed, checked.explanation)
    };
    let becomes = async |allowed: bool| {
        world
            .eventually("the guardrails are others", Duration::from_secs(30), async || {
                (may_ask().await.0 == allowed).then_some(())
            })
            .await;
    };
    assert!(may_ask().await.0);

    std::fs::write(&file, NEVER).unwrap();
    becomes(false).await;
    assert!(may_ask().await.1.contains("Never."));

    // Broken: the old ones stay, and the log says why. Told by a signal, the server looks at once.
    std::fs::write(&file, "forbid (principal, action, resource").unwrap();
    let told = Command::new("kill")
        .args(["-HUP", &server.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    let refused = world
        .eventually(
            "the refusal is written down",
            Duration::from_secs(30),
            async || {
                let events = world.audit_log().await;
                events
                    .into_iter()
                    .find(|event| event.action == "guardrails.refuse")
            },
        )
        .await;
    assert!(refused.reason.unwrap().contains("rules.cedar:1:"));
    assert!(!may_ask().await.0);

    std::fs::write(&file, "// Lifted.\n").unwrap();
    becomes(true).await;
    let replaced = world.audit_log().await;
    let replaced = replaced
        .iter()
        .filter(|event| event.action == "guardrails.replace");
    assert_eq!(replaced.count(), 2);
}
