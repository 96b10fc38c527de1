//! `RequestLimitExceeded`: token buckets per account, region and action, off unless turned on.
//!
//! Sizes and refill rates: "Request throttling for the Amazon EC2 API" (EC2 developer guide, request token
//! bucket sizes and refill rates; resource token bucket sizes and refill rates). Each action is counted on
//! its own; its category gives the size.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use http::StatusCode;

use super::error::{Ec2Error, Result};

/// A bucket's size and refill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// The most tokens that it holds; it starts full.
    pub capacity: f64,
    /// Tokens per second.
    pub refill: f64,
}

impl Bucket {
    const fn new(capacity: f64, refill: f64) -> Self {
        Self { capacity, refill }
    }
}

/// What kind of action a bucket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActionClass {
    /// `Describe*` and `Get*`.
    NonMutating,
    /// `DescribeInstances`, `DescribeNetworkInterfaces` and `DescribeSecurityGroups` without filter or page.
    UnfilteredNonMutating,
    /// Whatever changes something and is in no other class.
    Mutating,
    /// Among others `AuthorizeSecurityGroupIngress` and `RevokeSecurityGroupIngress`.
    ResourceIntensive,
}

/// The buckets in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Throttling {
    classes: BTreeMap<ActionClass, Bucket>,
    actions: BTreeMap<String, Bucket>,
    resources: BTreeMap<String, Bucket>,
}

impl Throttling {
    /// EC2's documented default limits.
    pub fn documented() -> Self {
        let classes = [
            (ActionClass::NonMutating, Bucket::new(100.0, 20.0)),
            (ActionClass::UnfilteredNonMutating, Bucket::new(50.0, 10.0)),
            (ActionClass::Mutating, Bucket::new(50.0, 5.0)),
            (ActionClass::ResourceIntensive, Bucket::new(50.0, 5.0)),
        ];
        let actions = [
            ("AssignIpv6Addresses", Bucket::new(100.0, 5.0)),
            ("CreateNetworkInterface", Bucket::new(100.0, 5.0)),
            ("CreateTags", Bucket::new(100.0, 10.0)),
            ("DeleteNetworkInterface", Bucket::new(100.0, 5.0)),
            ("DeleteTags", Bucket::new(100.0, 10.0)),
            ("ModifyNetworkInterfaceAttribute", Bucket::new(100.0, 5.0)),
            ("RunInstances", Bucket::new(5.0, 2.0)),
            ("StartInstances", Bucket::new(5.0, 2.0)),
            ("TerminateInstances", Bucket::new(100.0, 5.0)),
        ];
        let resources = [
            ("RunInstances", Bucket::new(1000.0, 2.0)),
            ("StartInstances", Bucket::new(1000.0, 2.0)),
            ("StopInstances", Bucket::new(1000.0, 20.0)),
            ("TerminateInstances", Bucket::new(1000.0, 20.0)),
        ];
        let named = |(action, bucket): (&str, Bucket)| (action.to_owned(), bucket);
        Self {
            classes: classes.into(),
            actions: actions.into_iter().map(named).collect(),
            resources: resources.into_iter().map(named).collect(),
        }
    }

    /// Gives every action of a class that has no bucket of its own this one.
    #[must_use]
    pub fn with_class(mut self, class: ActionClass, bucket: Bucket) -> Self {
        self.classes.insert(class, bucket);
        self
    }

    /// Gives one action this bucket.
    #[must_use]
    pub fn with_action(mut self, action: &str, bucket: Bucket) -> Self {
        self.actions.insert(action.to_owned(), bucket);
        self
    }

    fn bucket(&self, action: &str, class: ActionClass) -> Option<Bucket> {
        self.actions
            .get(action)
            .or_else(|| self.classes.get(&class))
            .copied()
    }
}

/// The class of an action; `narrowed` tells whether the call has a filter or a page; ids do not count.
fn class(action: &str, narrowed: bool) -> ActionClass {
    match action {
        "AuthorizeSecurityGroupIngress" | "RevokeSecurityGroupIngress" => ActionClass::ResourceIntensive,
        "DescribeInstances" | "DescribeNetworkInterfaces" | "DescribeSecurityGroups" if !narrowed => {
            ActionClass::UnfilteredNonMutating
        }
        _ if action.starts_with("Describe") || action.starts_with("Get") => ActionClass::NonMutating,
        _ => ActionClass::Mutating,
    }
}

#[derive(Debug, Clone, Copy)]
struct Level {
    tokens: f64,
    at: DateTime<Utc>,
}

/// The levels of all buckets.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    levels: BTreeMap<(String, String, String), Level>,
    /// How many calls were refused.
    pub(crate) refused: u64,
}

/// A call to be paid for.
pub(crate) struct Call<'a> {
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    pub(crate) action: &'a str,
    /// Whether it has a filter or a page.
    pub(crate) narrowed: bool,
    /// How many instances it is about.
    pub(crate) resources: u32,
}

impl Levels {
    /// Takes the tokens of a call, or refuses it with 503 `RequestLimitExceeded` and takes none.
    pub(crate) fn pay(&mut self, limits: &Throttling, call: &Call<'_>, now: DateTime<Utc>) -> Result<()> {
        let class = class(call.action, call.narrowed);
        let mut prices: Vec<(String, Bucket, f64)> = Vec::new();
        if let Some(bucket) = limits.bucket(call.action, class) {
            prices.push((format!("{}/{class:?}", call.action), bucket, 1.0));
        }
        if let Some(bucket) = limits.resources.get(call.action) {
            prices.push((
                format!("{}/resources", call.action),
                *bucket,
                f64::from(call.resources),
            ));
        }
        let mut paid = Vec::new();
        for (name, bucket, price) in prices {
            let key = (call.account.to_owned(), call.region.to_owned(), name);
            let level = self.levels.get(&key).copied().unwrap_or(Level {
                tokens: bucket.capacity,
                at: now,
            });
            let elapsed = (now - level.at).max(chrono::TimeDelta::zero()).as_seconds_f64();
            let tokens = (level.tokens + elapsed * bucket.refill).min(bucket.capacity);
            if tokens < price {
                self.refused += 1;
                return Err(Ec2Error::with_status(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "RequestLimitExceeded",
                    "Request limit exceeded.",
                ));
            }
            paid.push((
                key,
                Level {
                    tokens: tokens - price,
                    at: now,
                },
            ));
        }
        self.levels.extend(paid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn call(action: &str) -> Call<'_> {
        Call {
            account: "111122223333",
            region: "eu-central-1",
            action,
            narrowed: true,
            resources: 1,
        }
    }

    #[test]
    fn a_bucket_empties_and_refills_with_time() {
        let limits = Throttling::documented().with_action("CreateTags", Bucket::new(2.0, 0.5));
        let mut levels = Levels::default();
        let start = DateTime::UNIX_EPOCH;
        let pay = |levels: &mut Levels, second| {
            levels
                .pay(&limits, &call("CreateTags"), start + TimeDelta::seconds(second))
                .is_ok()
        };
        assert_eq!(
            [0, 0, 0, 1, 2, 2].map(|second| pay(&mut levels, second)),
            [true, true, false, false, true, false]
        );
    }

    #[test]
    fn accounts_and_actions_do_not_share_a_bucket() {
        let limits = Throttling::documented().with_class(ActionClass::NonMutating, Bucket::new(1.0, 0.0));
        let mut levels = Levels::default();
        let now = DateTime::UNIX_EPOCH;
        assert!(levels.pay(&limits, &call("DescribeVpcs"), now).is_ok());
        assert!(levels.pay(&limits, &call("DescribeVpcs"), now).is_err());
        assert!(levels.pay(&limits, &call("DescribeSubnets"), now).is_ok());
        let other = Call {
            account: "444455556666",
            ..call("DescribeVpcs")
        };
        assert!(levels.pay(&limits, &other, now).is_ok());
    }

    #[test]
    fn an_unfiltered_listing_pays_from_the_smaller_bucket() {
        assert_eq!(
            class("DescribeInstances", false),
            ActionClass::UnfilteredNonMutating
        );
        assert_eq!(class("DescribeInstances", true), ActionClass::NonMutating);
        assert_eq!(
            class("RevokeSecurityGroupIngress", true),
            ActionClass::ResourceIntensive
        );
    }
}
