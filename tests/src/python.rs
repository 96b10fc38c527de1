//! The virtual environment of the foreign clients: made under `target/` from a pinned list, by the script that
//! people use too.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// The environment's `python`, made first where it is missing or its list of packages has changed.
///
/// # Panics
/// If it cannot be made; the message is the script's, which says what to install.
pub fn python() -> PathBuf {
    made(&[])
}

/// The `python` of the identity provider and of the prober of the API, made in the same way.
///
/// # Panics
/// If it cannot be made; the message is the script's, which says what to install.
pub fn python_for_api() -> PathBuf {
    made(&["api"])
}

fn made(list: &[&str]) -> PathBuf {
    let script = workspace().join("scripts/python-venv");
    let output = Command::new(&script)
        .args(list)
        .output()
        .expect("the script can be run");
    assert!(
        output.status.success(),
        "{} failed:\n{}{}",
        script.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    PathBuf::from(
        printed
            .lines()
            .last()
            .expect("the script prints where the environment is")
            .trim(),
    )
    .join("bin/python")
}

/// Runs one of the scripts in `tests/python` to its end and gives what it printed.
///
/// # Panics
/// If it fails; the message has all that it printed.
pub fn run(script: &str, arguments: &[&str]) -> String {
    run_with(&python(), script, arguments)
}

/// As [`run`], with another environment's `python`.
///
/// # Panics
/// If it fails; the message has all that it printed.
pub fn run_with(python: &Path, script: &str, arguments: &[&str]) -> String {
    let path = workspace().join("tests/python").join(script);
    let output = Command::new(python)
        .arg(&path)
        .args(arguments)
        .output()
        .expect("python starts");
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{script} failed:\n{printed}");
    printed
}
