//! The API probed by schemathesis from its own description, as an owner and as somebody without any role: every operation
//! is called, no answer is an error of the server's, none has a status or a shape that is not described. Where nothing
//! has to be named to ask, the owner is answered.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::{collections::BTreeSet, fs::File, process::Stdio, time::Duration};

use postern_tests::{Person, World, WorldOptions, python};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

/// What every answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";
/// How many calls are made of each operation at most.
const EXAMPLES: &str = "12";
/// How long a run may take before the test fails; the token lasts longer. Not schemathesis' own `--max-time`: with that
/// it leaves out what it does not get to, and its exit is a success.
const PATIENCE: Duration = Duration::from_mins(20);

/// What a run said.
struct Probed {
    success: bool,
    said: String,
    /// Schemathesis' account of the run.
    account: Value,
    /// The operations that were called, with an answer that was checked.
    tested: BTreeSet<String>,
    /// The paths at which something was asked for and given.
    given: BTreeSet<String>,
}

async fn probed(world: &World, description: &Value, person: Person, phases: &'static str) -> Probed {
    let mut command = Command::new(python::python_for_api().with_file_name("schemathesis"));
    let report = tempfile::tempdir().unwrap();
    let said = report.path().join("said.txt");
    let output = File::create(&said).unwrap();
    // From a file: the operation that it read a description from is one that schemathesis leaves out.
    std::fs::write(report.path().join("openapi.json"), description.to_string()).unwrap();
    command
        .current_dir(report.path())
        .args(["run", "openapi.json", "--url", &world.server_url])
        .args(["--checks", CHECKS, "--phases", phases])
        .args(["--max-examples", EXAMPLES])
        .args(["--seed", "20260101", "--generation-database", "none"])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        .args(["--request-timeout", "30", "--no-color", "--continue-on-failure"])
        .args(["--report", "json,junit,har", "--report-json-path", "account.json"])
        .args(["--report-junit-path", "operations.xml"])
        .args(["--report-har-path", "calls.har"])
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", world.token(person)));
    command
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.status()).await;
    let said = String::from_utf8_lossy(&std::fs::read(said).unwrap()).into_owned();
    let Ok(status) = ended else {
        panic!("{person:?}: not over within {PATIENCE:?}, so far:\n{said}");
    };
    let written = |name: &str| {
        std::fs::read_to_string(report.path().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}\n{said}"))
    };
    let account = serde_json::from_str(&written("account.json")).unwrap();
    let tested = tested(&written("operations.xml"));
    let given = given(
        &world.server_url,
        &serde_json::from_str(&written("calls.har")).unwrap(),
    );
    Probed {
        success: status.unwrap().success(),
        said,
        account,
        tested,
        given,
    }
}

/// The paths of an HTTP archive at which a `GET` was answered as it was meant.
fn given(server: &str, archive: &Value) -> BTreeSet<String> {
    let said = |call: &Value, what: &str| call.pointer(what).cloned().unwrap_or_default();
    let entries = archive.pointer("/log/entries").and_then(Value::as_array);
    entries
        .unwrap()
        .iter()
        .filter(|call| said(call, "/request/method") == "GET")
        .filter(|call| matches!(said(call, "/response/status").as_u64(), Some(200..=299)))
        .filter_map(|call| {
            let url = said(call, "/request/url");
            let path = url.as_str()?.strip_prefix(server)?.split(['?', '#']).next()?;
            Some(path.to_owned())
        })
        .collect()
}

/// The operations of a `JUnit` report, such as `GET /v1/machines`, without those that were skipped or could not be called.
fn tested(report: &str) -> BTreeSet<String> {
    report
        .split("<testcase name=\"")
        .skip(1)
        .filter(|case| !case.contains("<skipped") && !case.contains("<error"))
        .filter_map(|case| Some(case.split_once('"')?.0.to_owned()))
        .collect()
}

/// The description that the server serves.
async fn description(world: &World) -> Value {
    let address = world.server_url.trim_start_matches("http://");
    let question = format!("GET /openapi.json HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_head, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// The operations of a description, named as schemathesis names them.
fn operations(description: &Value) -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in [
            "get", "put", "post", "delete", "options", "head", "patch", "trace",
        ] {
            if item.get(method).is_some() {
                operations.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    assert!(!operations.is_empty(), "{description}");
    operations
}

/// What a description lets one ask for without naming anything.
fn askable(description: &Value) -> BTreeSet<String> {
    let names = |path: &str, operation: &Value| {
        let mut parameters = operation["parameters"].as_array().into_iter().flatten();
        path.contains('{') || parameters.any(|parameter| parameter["required"] == true)
    };
    let paths = description["paths"].as_object().unwrap();
    paths
        .iter()
        .filter(|(path, item)| item.get("get").is_some_and(|get| !names(path, get)))
        .map(|(path, _)| path.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_description_knows() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    let description = description(&world).await;
    let described = operations(&description);
    let askable = askable(&description);
    assert!(askable.contains("/v1/machines"), "{askable:?}");
    for (person, phases) in [
        (Person::Eve, "examples,coverage"),
        (Person::Olga, "examples,coverage,fuzzing"),
    ] {
        let Probed {
            success,
            said,
            account,
            tested,
            given,
        } = probed(&world, &description, person, phases).await;
        assert!(success, "{person:?}:\n{said}");
        let untested: Vec<_> = described.difference(&tested).collect();
        assert!(
            untested.is_empty(),
            "{person:?} did not probe {untested:?}:\n{said}"
        );
        // Else it may be that every call was refused.
        let refused: Vec<_> = askable.difference(&given).collect();
        assert!(
            person == Person::Eve || refused.is_empty(),
            "{person:?} was never given {refused:?}:\n{said}"
        );
        assert_eq!(account["stop_reason"], "completed", "{person:?}: {account:#}");
        assert_eq!(
            account["operations"]["tested"],
            described.len(),
            "{person:?}: {account:#}"
        );
    }
}
