//! The store when the database goes away and comes back.

use postern_core::testing::at;
use postern_localpg::{LocalPostgres, Options};
use secrecy::SecretString;

use super::{mark, some_points};
use crate::{Store, StoreOptions, Urgency};

#[tokio::test]
async fn what_was_committed_survives_a_power_cut_and_the_store_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    // Postgres runs as somebody else when the tests run as root.
    let options = Options {
        data_dir: Some(dir.path().join("pg")),
        ..Options::default()
    };
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut server = LocalPostgres::start(options).unwrap();
    let quick = StoreOptions {
        acquire_timeout: std::time::Duration::from_secs(3),
        ..StoreOptions::default()
    };
    let store = Store::connect(&SecretString::from(server.url()), quick)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let points = some_points(&store, 1).await;
    mark(&store, &points, 5, Urgency::Look).await;
    let mut unfinished = store.begin().await.unwrap();
    unfinished
        .mark_due(&points, at(1), Urgency::Closing)
        .await
        .unwrap();

    server.kill().unwrap();
    assert!(unfinished.commit().await.is_err());
    assert!(store.ready().await.is_err());
    server.restart().unwrap();
    store.ready().await.unwrap();
    assert_eq!(
        store.next_due(std::time::Duration::ZERO).await.unwrap(),
        Some(at(5))
    );
}
