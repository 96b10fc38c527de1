//! The store when the database goes away and comes back.

use postern_core::{machine::Cloud, testing::at};
use postern_localpg::{LocalPostgres, Options};
use secrecy::SecretString;

use super::{mark, some_points};
use crate::{Lessee, Store, StoreOptions, Urgency, testing::fresh_store};

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
    let lost = unfinished.commit().await.unwrap_err();
    assert!(lost.is_transient() && lost.is_unavailable(), "{lost:?}");
    let away = store.ready().await.unwrap_err();
    assert!(away.is_transient() && away.is_unavailable(), "{away:?}");
    server.restart().unwrap();
    store.ready().await.unwrap();
    let lessee = Lessee {
        owner: "a",
        clouds: &[Cloud::Aws],
        except: &[],
        lease_for: std::time::Duration::from_secs(1),
        grace: std::time::Duration::ZERO,
    };
    assert_eq!(store.next_due(&lessee).await.unwrap(), Some(at(5)));
}

#[tokio::test]
async fn a_deadlock_is_worth_another_try_and_a_shutdown_too() {
    let store = fresh_store().await;
    let points = some_points(&store, 2).await;
    let (mut one, mut two) = (store.begin().await.unwrap(), store.begin().await.unwrap());
    one.mark_due(&points[..1], at(1), Urgency::Look).await.unwrap();
    two.mark_due(&points[1..], at(1), Urgency::Look).await.unwrap();
    let (a, b) = tokio::join!(
        one.mark_due(&points[1..], at(1), Urgency::Look),
        two.mark_due(&points[..1], at(1), Urgency::Look)
    );
    let refused = a.err().or(b.err()).unwrap();
    assert!(refused.is_transient() && !refused.is_unavailable(), "{refused:?}");

    let mut tx = store.begin().await.unwrap();
    sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
        .execute(&mut *tx.inner)
        .await
        .map_err(crate::StoreError::from)
        .map(|_| ())
        .map_or_else(
            |lost| assert!(lost.is_transient() && lost.is_unavailable(), "{lost:?}"),
            |()| panic!("alive"),
        );
    assert!(!crate::StoreError::not_found("grant", "7").is_transient());
}
