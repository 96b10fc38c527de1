//! The command line of somebody's, against a demo that runs.

use std::{path::Path, process::Output};

use serde_json::Value;
use tokio::process::Command;

use crate::rig::said;

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
