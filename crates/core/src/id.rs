//! Typed ids: time-ordered UUIDs (version 7) that are shown, parsed and serialised with a prefix.
//!
//! The prefix says what the id names, so that a grant id pasted where a request id belongs is refused
//! instead of looked up.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What an [`Id`] names.
pub trait IdKind {
    /// The prefix, without the underscore: lower-case ASCII letters.
    const PREFIX: &'static str;
    /// The word for error messages.
    const NOUN: &'static str;
}

/// An id of one kind. Its text form is `<prefix>_<32 hex digits>`.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// Wraps a UUID that is known to name a `K`, as read from its table.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self {
            uuid,
            kind: PhantomData,
        }
    }

    /// The bare UUID, for storage.
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }

    /// The 32 lower-case hex digits without a prefix, as they stand in the names of cloud rules.
    pub fn hex(self) -> String {
        self.uuid.simple().to_string()
    }

    /// Parses the 32 hex digits that [`Id::hex`] writes.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() == 32
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            Uuid::try_parse(hex).ok().map(Self::from_uuid)
        } else {
            None
        }
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", K::PREFIX, self.uuid.simple())
    }
}
impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {noun} id: expected `{prefix}_` and 32 hex digits")]
pub struct InvalidId {
    text: String,
    noun: &'static str,
    prefix: &'static str,
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .and_then(Self::from_hex)
            .ok_or_else(|| InvalidId {
                text: text.chars().take(80).collect(),
                noun: K::NOUN,
                prefix: K::PREFIX,
            })
    }
}

impl<K: IdKind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $alias:ident = $kind:ident($prefix:literal, $noun:literal);)*) => {$(
        #[doc = concat!("The kind of [`", stringify!($alias), "`].")]
        #[derive(Debug, Clone, Copy)]
        pub enum $kind {}
        impl IdKind for $kind {
            const PREFIX: &'static str = $prefix;
            const NOUN: &'static str = $noun;
        }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

ids! {
    /// An access request.
    RequestId = RequestKind("req", "access request");
    /// A grant: one machine's share of an approved request.
    GrantId = GrantKind("grt", "grant");
    /// An access lease: an access request that lasts as long as its holder is heard of.
    LeaseId = LeaseKind("lse", "lease");
    /// A JIT policy.
    PolicyId = PolicyKind("pol", "JIT policy");
    /// An enforcement point.
    PointId = PointKind("pt", "enforcement point");
    /// A role assignment.
    AssignmentId = AssignmentKind("ra", "role assignment");
    /// An audit event.
    EventId = EventKind("evt", "audit event");
    /// One pass of the reconcile loop over one enforcement point.
    PassId = PassKind("pass", "pass");
    /// One intended change in the journal.
    ChangeId = ChangeKindId("chg", "change");
    /// A review of what was opened by breaking the glass.
    ReviewId = ReviewKind("rev", "review");
    /// A round of an access review of role assignments.
    AccessReviewId = AccessReviewKind("arv", "access review");
    /// One role assignment of an access review.
    AccessReviewItemId = AccessReviewItemKind("ari", "access review item");
    /// A freeze of a scope.
    FreezeId = FreezeKind("frz", "freeze");
    /// A rule that a lockdown took out of the way and saved.
    DisplacedId = DisplacedKind("dis", "displaced rule");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_what_it_shows() {
        let id = GrantId::from_uuid(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string(), "grt_01990000000070008000000000000001");
        assert_eq!(id.to_string().parse::<GrantId>(), Ok(id));
        assert_eq!(GrantId::from_hex(&id.hex()), Some(id));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let id = GrantId::from_uuid(Uuid::from_u128(1));
        let error = id.to_string().parse::<RequestId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`grt_00000000000000000000000000000001` is no access request id: expected `req_` and 32 hex digits"
        );
    }

    #[test]
    fn hyphens_capitals_and_braces_are_not_ids() {
        for text in [
            "grt_",
            "grt_0199",
            "grt_{01990000000070008000000000000001}",
            "GRT_01990000000070008000000000000001",
            "grt_0199000000007000800000000000000A",
        ] {
            assert!(text.parse::<GrantId>().is_err(), "{text}");
        }
    }
}
