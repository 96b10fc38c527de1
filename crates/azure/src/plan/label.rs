//! What a rule of ours says of itself: whose it is, and what it is for.

use std::fmt;

use postern_core::{
    id::{GrantId, PolicyId},
    mark::{Installation, Mark, Purpose},
    nsg::SharedMark,
};

/// The mark in a rule's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// One grant's, or one lockdown's.
    One(Mark),
    /// Several grants'.
    Shared(SharedMark),
}

impl Label {
    /// The mark that `text` carries, if it is one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Mark::parse(text)
            .map(Self::One)
            .or_else(|| SharedMark::parse(text).map(Self::Shared))
    }

    pub(crate) fn installation(&self) -> &Installation {
        match self {
            Self::One(mark) => &mark.installation,
            Self::Shared(mark) => &mark.installation,
        }
    }

    /// The grants that it names, in the order of their ids.
    pub(crate) fn grants(&self) -> Vec<GrantId> {
        match self {
            Self::One(mark) => match mark.purpose {
                Purpose::Grant { grant, .. } => vec![grant],
                _ => Vec::new(),
            },
            Self::Shared(mark) => mark.shares.iter().map(|share| share.grant).collect(),
        }
    }

    /// The policy that it names.
    pub(super) fn policy(&self) -> Option<PolicyId> {
        match self {
            Self::One(mark) => match mark.purpose {
                Purpose::Lockdown { policy } => Some(policy),
                _ => None,
            },
            Self::Shared(_) => None,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(mark) => mark.fmt(f),
            Self::Shared(mark) => mark.fmt(f),
        }
    }
}
