//! What an action works with: its parameters, the region's state, who calls and when.

use chrono::{DateTime, TimeDelta, Utc};

use super::auth::Caller;
use super::params::{Params, Part};
use super::state::Region;
use crate::ids::Ids;

/// Adjustable quotas. Source: Amazon VPC user guide, "Amazon VPC quotas", security groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Security groups per network interface: 5.
    pub groups_per_interface: usize,
    /// Rules per security group, in each direction and for IPv4 and IPv6 each: 60.
    pub rules_per_group: usize,
    /// Security groups per region: 2500.
    pub groups_per_region: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups_per_interface: 5,
            rules_per_group: 60,
            groups_per_region: 2500,
        }
    }
}

/// One request at work on one region.
pub(crate) struct Context<'a> {
    pub(crate) params: &'a Params,
    pub(crate) region: &'a mut Region,
    pub(crate) caller: &'a Caller,
    pub(crate) regions: &'a [String],
    /// Regions that there are and that no account has opted in to.
    pub(crate) opt_in_regions: &'a [String],
    pub(crate) ids: &'a Ids,
    pub(crate) limits: &'a Limits,
    pub(crate) delay: TimeDelta,
    pub(crate) now: DateTime<Utc>,
    pub(crate) operation: &'a str,
    pub(crate) request_id: &'a str,
}

impl<'a> Context<'a> {
    /// All parameters.
    pub(crate) fn root(&self) -> Part<'a> {
        self.params.root()
    }

    /// A new id: the prefix and 17 hexadecimal digits.
    pub(crate) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}-0{}", self.ids.hex(16))
    }

    /// The ARN of a resource in this account and region.
    pub(crate) fn arn(&self, kind: &str, id: &str) -> String {
        arn(self.caller, kind, id)
    }
}

/// The ARN of an EC2 resource. Source: Service Authorization Reference, Amazon EC2, resource types.
pub(crate) fn arn(caller: &Caller, kind: &str, id: &str) -> String {
    format!("arn:aws:ec2:{}:{}:{kind}/{id}", caller.region, caller.account)
}
