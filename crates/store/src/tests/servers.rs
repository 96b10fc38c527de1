//! How many servers are at work.

use std::{collections::BTreeMap, time::Duration};

use postern_core::machine::Cloud;

use crate::{Sharing, testing::fresh_store};

const LONG: Duration = Duration::from_mins(10);

#[tokio::test]
async fn a_server_counts_those_that_are_at_work_on_its_clouds_until_they_leave_or_are_silent() {
    let store = fresh_store().await;
    let full = BTreeMap::from([(Cloud::Azure, 1.0), (Cloud::Aws, 1.0)]);
    let shared = |azure, aws| {
        let all = |servers| Sharing { servers, left: 1.0 };
        BTreeMap::from([(Cloud::Azure, all(azure)), (Cloud::Aws, all(aws))])
    };
    assert_eq!(store.at_work("a", &full, LONG).await.unwrap(), shared(1, 1));
    let aws = BTreeMap::from([(Cloud::Aws, 1.0)]);
    let two = Sharing {
        servers: 2,
        left: 1.0,
    };
    assert_eq!(
        store.at_work("b", &aws, LONG).await.unwrap(),
        BTreeMap::from([(Cloud::Aws, two)])
    );
    // One that says so again is counted once.
    assert_eq!(store.at_work("a", &full, LONG).await.unwrap(), shared(1, 2));
    store.not_at_work("b").await.unwrap();
    assert_eq!(store.at_work("a", &full, LONG).await.unwrap(), shared(1, 1));

    store.at_work("silent", &full, Duration::ZERO).await.unwrap();
    assert_eq!(store.at_work("a", &full, LONG).await.unwrap(), shared(1, 1));
    assert_eq!(store.at_work("silent", &full, LONG).await.unwrap(), shared(2, 2));
}

#[tokio::test]
async fn a_server_hears_what_the_one_of_the_others_has_left_that_has_least() {
    let store = fresh_store().await;
    for (owner, left) in [("a", 0.75), ("b", 0.25), ("c", 0.5)] {
        let clouds = BTreeMap::from([(Cloud::Azure, left)]);
        store.at_work(owner, &clouds, LONG).await.unwrap();
    }
    let clouds = BTreeMap::from([(Cloud::Azure, 0.0), (Cloud::Aws, 0.0)]);
    let heard = store.at_work("d", &clouds, LONG).await.unwrap();
    let at = |servers, left| Sharing { servers, left };
    assert_eq!(
        heard,
        BTreeMap::from([(Cloud::Azure, at(4, 0.25)), (Cloud::Aws, at(1, 1.0))])
    );
}
