//! A configuration over the simulated clouds, and the binary run with it.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use postern::demo::fleet::{
    ACCESS_KEY_ID, ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, Fleet, REGION, ROLE_ARN,
    SECRET_ACCESS_KEY, SUBSCRIPTION,
};
use tempfile::TempDir;

/// A configuration file in a directory of its own.
pub(crate) struct Rig {
    directory: TempDir,
}

impl Rig {
    /// The sections of both clouds, and whatever `more` says.
    pub(crate) fn new(installation: &str, fleet: &Fleet, more: &str) -> Self {
        let text = format!(
            r#"
[installation]
name = "{installation}"
[azure]
subscriptions = ["{SUBSCRIPTION}"]
endpoint = "{arm}"
authority = "{arm}"
[azure.credential]
kind = "client_secret"
tenant_id = "{tenant}"
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
[aws]
regions = ["{REGION}"]
endpoint = "{ec2}"
[[aws.accounts]]
id = "{ACCOUNT}"
role_arn = "{ROLE_ARN}"
external_id = "{EXTERNAL_ID}"
[logging]
filter = "warn"
{more}
"#,
            arm = fleet.arm.url(),
            tenant = fleet.arm.tenant(),
            ec2 = fleet.ec2.url(),
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("postern.toml"), text).unwrap();
        Self { directory }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("postern.toml")
    }

    /// The file with one text in it replaced by another.
    pub(crate) fn edit(&self, text: &str, instead: &str) {
        let before = std::fs::read_to_string(self.config()).unwrap();
        assert_eq!(before.matches(text).count(), 1, "`{text}` in {before}");
        std::fs::write(self.config(), before.replace(text, instead)).unwrap();
    }

    /// Runs the binary with the configuration, and with Postern's own credentials for AWS.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        run(arguments, Some(&self.config())).await
    }
}

/// Runs the binary.
pub(crate) async fn run(arguments: &[&str], config: Option<&Path>) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postern"));
    command
        .args(arguments)
        .env_remove("POSTERN_CONFIG")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.output().await.unwrap()
}

/// What the binary wrote to standard output and to standard error.
pub(crate) fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
