//! A database cluster with the schema in it, made once and copied for every run.

use std::{path::Path, process::Command};

use anyhow::Context as _;
use postern_localpg::{LocalPostgres, Options};
use postern_store::{Store, StoreOptions};
use secrecy::SecretString;

fn options(home: &Path) -> Options {
    Options {
        // Kept when the server is killed. Commits reach the disk before they are confirmed, as in production.
        data_dir: Some(home.to_owned()),
        max_connections: 40,
        ..Options::default()
    }
}

/// Makes the cluster that the runs' ones are copied from.
pub async fn make(home: &Path) -> anyhow::Result<()> {
    let path = home.to_owned();
    let server = tokio::task::spawn_blocking(move || LocalPostgres::start(options(&path))).await??;
    let store = Store::connect(&SecretString::from(server.url()), StoreOptions::default()).await?;
    store
        .migrate()
        .await
        .context("the migrations cannot be applied")?;
    store.close().await;
    tokio::task::spawn_blocking(move || server.stop()).await?;
    Ok(())
}

/// Starts a server over a copy.
pub async fn copy(template: &Path, home: &Path) -> anyhow::Result<LocalPostgres> {
    let (template, home) = (template.to_owned(), home.to_owned());
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir(&home)?;
        // Owners and modes have to stay as Postgres wants them.
        let status = Command::new("cp")
            .args(["-a", "--"])
            .arg(template.join("cluster"))
            .arg(&home)
            .status()?;
        anyhow::ensure!(status.success(), "the database cannot be copied: {status}");
        Ok(LocalPostgres::start(options(&home))?)
    })
    .await?
}
