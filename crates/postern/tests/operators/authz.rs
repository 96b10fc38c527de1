//! `postern authz`: cases that hold and cases that do not, explanations, and their exit codes.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../config/cedar")
        .join(name)
}

/// The binary with the shipped guardrails and networks.
fn authz(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_postern"))
        .arg("authz")
        .args(arguments)
        .arg("--guardrails")
        .arg(shipped("guardrails.example.cedar"))
        .arg("--networks")
        .arg(shipped("networks.example.toml"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn the_shipped_guardrails_do_what_the_shipped_cases_say_and_each_is_tried() {
    let cases = shipped("cases.example.toml");
    let (code, out, err) = authz(&["test", cases.to_str().unwrap(), "--strict"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.ends_with("18 cases are as expected\n"), "{out}");
    assert_eq!(err, "");
}

#[test]
fn a_case_that_comes_out_otherwise_is_shown_and_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cases.toml");
    let text = "[people.ada]\nprincipal = \"user:corp/ada\"\n\n[[case]]\nname = \"all may ask\"\nwho = \"ada\"\n\
                on = \"/aws\"\nexpect = \"allow\"\n";
    std::fs::write(&path, text).unwrap();
    let (code, out, err) = authz(&["test", path.to_str().unwrap()]);
    assert_eq!(code, 1, "{out}{err}");
    for line in [
        "FAILED  all may ask",
        "        - expected: allowed",
        "        + found:    denied",
        "guardrail `mfa` forbids it",
    ] {
        assert!(out.contains(line), "{out}");
    }
    assert!(
        err.contains("no case shows guardrail `prod-hours` forbid anything"),
        "{err}"
    );
    assert!(
        err.contains("1 of 1 cases came out otherwise than expected"),
        "{err}"
    );

    std::fs::write(&path, text.replace("expect", "exepct")).unwrap();
    let (code, _, err) = authz(&["test", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("exepct"), "{err}");
    let (code, _, err) = authz(&["test", "/nowhere.toml"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn an_explanation_without_a_server_says_what_would_make_it_so() {
    let cases = shipped("cases.example.toml");
    let ask = [
        "explain",
        "--cases",
        cases.to_str().unwrap(),
        "--on",
        "/azure",
        "--reason",
        "--who",
    ];
    let (code, out, _) = authz(&[&ask[..], &["ada"]].concat());
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("`request` at /azure is allowed to user:corp/ada by "),
        "{out}"
    );
    let (code, out, err) = authz(&[&ask[..], &["ada-without-second-factor", "--for", "1h"]].concat());
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("guardrail `mfa` forbids it"), "{out}");
    assert!(
        out.ends_with("what would make it so:\n- sign in with a second factor\n"),
        "{out}"
    );
    assert!(err.contains("user:corp/ada may not request at /azure"), "{err}");
    let (code, out, _) = authz(&[&ask[..], &["carol-contractor", "--for", "5h", "--json"]].concat());
    assert_eq!(code, 3);
    assert!(out.contains("\"ask for 7200 seconds at most\""), "{out}");
    let (code, _, err) = authz(&[&ask[..], &["eve"]].concat());
    assert_eq!(code, 2);
    assert!(err.contains("`eve` is none of the suite's people"), "{err}");
}
