//! `postern access-reviews` as an owner, a reviewer and a stranger have it, against a server that runs.

use std::{path::Path, process::Output, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    demo::{demo, directory, interrupted},
    rig::said,
};

/// The command line of somebody's.
pub(crate) struct As<'a> {
    server: &'a str,
    token: String,
}

impl<'a> As<'a> {
    pub(crate) async fn of(user: &str, server: &'a str, data: &Path) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(["token", "--user", user, "--data-dir"])
            .arg(data)
            .output()
            .await
            .unwrap();
        let (token, told) = said(&output);
        assert!(output.status.success(), "{told}");
        Self {
            server,
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command
            .args(arguments)
            .env("POSTERN_SERVER", self.server)
            .env("POSTERN_TOKEN", &self.token);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    pub(crate) async fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let (out, told) = said(&output);
        assert!(output.status.success(), "{arguments:?}: {told}");
        out
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.told(&arguments).await).unwrap()
    }

    /// What it says to standard error when it fails, and with which code.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments).await;
        let (out, told) = said(&output);
        assert_eq!(out, "", "{arguments:?}");
        (output.status.code(), told)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_starts_an_access_review_a_reviewer_decides_and_a_stranger_sees_nothing_of_it() {
    let directory = directory();
    let data = directory.path().join("demo");
    let mut child = demo(&data, 0).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
    let first = first.unwrap().unwrap().unwrap_or_default();
    let server = first
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap();
    let olga = As::of("olga", server, &data).await;
    let sam = As::of("sam", server, &data).await;
    let eve = As::of("eve", server, &data).await;

    let create = [
        "access-reviews",
        "create",
        "spring cleaning",
        "--on",
        "/",
        "--reviewer",
        "user:demo/sam",
        "--for",
        "14days",
        "--undecided",
        "keep",
    ];
    let (code, told) = eve.refused(&create).await;
    assert!(code != Some(0) && told.contains("`assign`"), "{told}");
    let made = olga.json(&create).await;
    let id = made["id"].as_str().unwrap();

    let listed = sam.told(&["access-reviews", "--mine"]).await;
    assert!(
        listed.contains(id) && listed.contains("spring cleaning"),
        "{listed}"
    );
    let listed = olga.told(&["access-reviews", "--mine"]).await;
    assert_eq!(listed.lines().count(), 1, "a header alone: {listed}");
    let (code, told) = eve.refused(&["access-reviews", "get", id]).await;
    assert!(
        code != Some(0) && told.contains("no such access review"),
        "{told}"
    );

    let shown = sam.told(&["access-reviews", "get", id]).await;
    assert!(
        shown.contains("RECOMMENDED") && shown.contains("group:demo/engineers"),
        "{shown}"
    );
    let whole = sam.json(&["access-reviews", "get", id]).await;
    let item = |principal: &str| {
        let items = whole["items"].as_array().unwrap().iter();
        let mut of = items.filter(|item| item["assignment"]["principal"] == principal);
        of.next().unwrap()["id"].as_str().unwrap().to_owned()
    };
    let decide = async |who: &As<'_>, principal: &str, how: &str| {
        let item = item(principal);
        let arguments = ["access-reviews", "decide", &item, how, "--reason", "asked around"];
        let output = who.run(&arguments).await;
        (output.status.success(), said(&output))
    };
    let (kept, (told, _)) = decide(&sam, "group:demo/engineers", "keep").await;
    assert!(kept);
    assert_eq!(told, "`requester` of group:demo/engineers at / is kept\n");
    let (own, (_, told)) = decide(&sam, "group:demo/leads", "keep").await;
    assert!(!own && told.contains("nobody reviews their own"), "{told}");
    let (last, (_, told)) = decide(&sam, "user:demo/olga", "remove").await;
    assert!(!last && told.contains("last owner"), "{told}");
    let job = "workload:demo/repo:shop/app:ref:refs/heads/main";
    let (stranger, _) = decide(&eve, job, "remove").await;
    assert!(!stranger);
    let (removed, (told, _)) = decide(&sam, job, "remove").await;
    assert!(removed && told.ends_with("is removed\n"), "{told}");
    let left = olga.told(&["assignments"]).await;
    assert!(
        left.contains("engineers") && !left.contains("repo:shop/app"),
        "{left}"
    );

    let cancel = ["access-reviews", "cancel", id, "--reason", "too early"];
    assert!(
        !sam.run(&cancel).await.status.success(),
        "a reviewer may not end it"
    );
    let told = olga.told(&cancel).await;
    assert_eq!(told, format!("{id} is cancelled; no further round starts\n"));
    let open = olga.told(&["access-reviews", "--status", "open"]).await;
    assert!(!open.contains(id), "{open}");
    assert_eq!(interrupted(&mut child).await, Some(0));
}
