//! `postern demo --check`: the whole story on both clouds, as a newcomer runs it.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_plays_the_whole_story_and_says_so() {
    let directory = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_postern-under-test"))
        .args(["demo", "--check", "--data-dir"])
        .arg(directory.path().join("demo"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{said}");
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(last["ok"], true, "{last}");
}
