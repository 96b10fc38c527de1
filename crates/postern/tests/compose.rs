//! `docker-compose.yml` is held to the published schema of the Compose Specification.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The virtual environment's Python; the script says what to install where it cannot be made.
fn python() -> PathBuf {
    let made = Command::new(workspace().join("scripts/python-venv"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let printed = String::from_utf8(made.stdout).unwrap();
    Path::new(printed.lines().last().unwrap()).join("bin/python")
}

fn check(python: &Path, file: &Path) -> Output {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    Command::new(python)
        .arg(here.join("check_compose.py"))
        .arg(here.join("data/compose-spec.json"))
        .arg(file)
        .output()
        .unwrap()
}

#[test]
fn the_compose_file_is_what_the_specification_allows() {
    let output = check(&python(), &workspace().join("docker-compose.yml"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_compose_file_with_a_wrong_key_is_refused_with_its_place() {
    let shipped = std::fs::read_to_string(workspace().join("docker-compose.yml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("docker-compose.yml");
    std::fs::write(&wrong, shipped.replace("    healthcheck:", "    healthchek:")).unwrap();
    let output = check(&python(), &wrong);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("services/server") && said.contains("healthchek"),
        "{said}"
    );
}
