//! What somebody meets who has just begun.

use std::process::{Command, Stdio};

use crate::{
    doctor::{complaints, world},
    rig::said,
};

#[test]
fn output_that_nobody_reads_to_its_end_is_no_error() {
    for arguments in [&["completions", "bash"][..], &["openapi"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let (_, told) = said(&output);
        assert_eq!(
            (output.status.code(), told.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_is_complained_of_once() {
    let world = world().await;
    let text = std::fs::read_to_string(world.rig.config()).unwrap();
    let lines = text.lines().map(|line| {
        if line.starts_with("url = ") {
            "url_file = \"/nowhere/url\"".to_owned()
        } else if line.starts_with("client_secret = ") {
            "client_secret_file = \"/nowhere/secret\"".to_owned()
        } else {
            line.to_owned()
        }
    });
    let text: Vec<String> = lines.collect();
    std::fs::write(world.rig.config(), text.join("\n")).unwrap();
    let found = complaints(&world.rig).await;
    for file in ["/nowhere/url", "/nowhere/secret"] {
        let told: Vec<_> = found
            .iter()
            .filter(|(_, message)| message.contains(file))
            .collect();
        assert_eq!(told.len(), 1, "{file} in {found:#?}");
    }
    assert_eq!(found.len(), 3, "the files, the database and Azure: {found:#?}");
    let served = world.rig.run(&["serve"]).await;
    assert_eq!(served.status.code(), Some(2), "{:?}", said(&served));
}
