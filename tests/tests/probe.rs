//! The API probed by schemathesis from its own description, as an owner and as somebody without any role: no answer is
//! an error of the server's, none has a status or a shape that is not described.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::process::Command;

use postern_tests::{Person, World, WorldOptions, python};

/// What every answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";
/// How many calls are made of each operation at most, and the most seconds that a run may take.
const EXAMPLES: &str = "12";
const SECONDS: &str = "40";

async fn probed(world: &World, person: Person, phases: &'static str) -> (bool, String) {
    let mut command = Command::new(python::python_for_api().with_file_name("schemathesis"));
    let report = tempfile::tempdir().unwrap();
    command
        .current_dir(report.path())
        .arg("run")
        .arg(format!("{}/openapi.json", world.server_url))
        .args(["--checks", CHECKS, "--phases", phases])
        .args(["--max-examples", EXAMPLES, "--max-time", SECONDS])
        .args(["--seed", "20260101", "--generation-database", "none"])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        .args(["--request-timeout", "30", "--no-color", "--continue-on-failure"])
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", world.token(person)));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_description_knows() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    for (person, phases) in [
        (Person::Eve, "examples,coverage"),
        (Person::Olga, "examples,coverage,fuzzing"),
    ] {
        let (success, said) = probed(&world, person, phases).await;
        assert!(success, "{person:?}:\n{said}");
        let tested = said.lines().find_map(|line| line.trim().strip_prefix("Tested: "));
        assert!(
            tested.is_some_and(|tested| tested != "0"),
            "{person:?} probed nothing:\n{said}"
        );
    }
}
