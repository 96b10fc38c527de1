//! Who waits for a request hears that it moves.

use std::time::Duration;

use postern_core::{
    grant::Grant,
    request::{AccessRequest, RequestState},
    testing::{a_request, an_id, at},
};

use super::{a_machine, expired, some_grants, with_grants};
use crate::{Progress, ProgressListener, Store, testing::fresh_store};

async fn heard(listener: &mut ProgressListener) -> Progress {
    tokio::time::timeout(Duration::from_secs(10), listener.heard())
        .await
        .unwrap()
        .unwrap()
}

async fn end(store: &Store, grants: &[Grant]) {
    let ended: Vec<Grant> = grants.iter().map(expired).collect();
    let mut tx = store.begin().await.unwrap();
    tx.save_grants(&ended).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_grant_that_moves_is_heard_of_once_by_its_request() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 3).await;
    let mut listener = store.progress_listener().await.unwrap();
    end(&store, &grants).await;
    assert_eq!(heard(&mut listener).await, Progress::Request(grants[0].request));
    let denied = AccessRequest {
        id: an_id(77),
        ..a_request()
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&denied).await.unwrap();
    let pending = denied.clone().pending(at(0)).unwrap();
    let by = "user:corp/bob".parse().unwrap();
    tx.save_request(&pending.deny(by, "no".into(), at(1)).into())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        heard(&mut listener).await,
        Progress::Request(denied.id),
        "next of all"
    );
    assert!(matches!(
        store.request(denied.id).await.unwrap().unwrap().state,
        RequestState::Denied(_)
    ));
}

#[tokio::test]
async fn when_many_requests_move_together_one_word_says_so() {
    let store = fresh_store().await;
    let mut grants = with_grants(&store, 1).await;
    let mut tx = store.begin().await.unwrap();
    for number in 1..=100 {
        let (mut request, mut more) = some_grants(1000 + number, 1);
        request.targets[0].machine = a_machine(1).id;
        tx.insert_request(&request).await.unwrap();
        tx.insert_grants(&more).await.unwrap();
        grants.append(&mut more);
    }
    tx.commit().await.unwrap();
    let mut listener = store.progress_listener().await.unwrap();
    end(&store, &grants).await;
    assert_eq!(heard(&mut listener).await, Progress::Many);
}
