//! Freezes: an emergency closed everything at a scope, and nothing is asked for, approved or opened there until it is
//! lifted.

use serde::{Deserialize, Serialize};

use crate::{id::FreezeId, principal::PrincipalRef, scope::Scope, time::Instant};

/// A freeze of a scope and everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its id.
    pub id: FreezeId,
    /// Where.
    pub scope: Scope,
    /// Why; whoever is refused is told.
    pub reason: String,
    /// Who froze.
    pub created_by: PrincipalRef,
    /// When.
    pub created_at: Instant,
    /// How it ended, if it did.
    pub lifted: Option<Lifted>,
}

/// The end of a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// Who lifted it.
    pub by: PrincipalRef,
    /// When.
    pub at: Instant,
    /// Why it may be.
    pub reason: String,
}

/// A freeze is lifted once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the freeze was lifted at {} by `{}`", crate::time::written(.0.at), .0.by)]
pub struct AlreadyLifted(pub Lifted);

impl Freeze {
    /// Whether it keeps something at `scope` from being opened.
    pub fn holds(&self, scope: &Scope) -> bool {
        self.lifted.is_none() && self.scope.contains(scope)
    }

    /// Not in force any more.
    pub fn lift(self, lifted: Lifted) -> Result<Self, AlreadyLifted> {
        match self.lifted {
            Some(before) => Err(AlreadyLifted(before)),
            None => Ok(Self {
                lifted: Some(lifted),
                ..self
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_freeze_holds_at_its_scope_and_below_until_it_is_lifted_once() {
        let freeze = Freeze {
            id: FreezeId::from_uuid(uuid::Uuid::from_u128(1)),
            scope: "/aws/123456789012".parse().unwrap(),
            reason: "intruder".into(),
            created_by: "user:corp/sam".parse().unwrap(),
            created_at: at(0),
            lifted: None,
        };
        assert!(freeze.holds(&"/aws/123456789012/eu-west-1".parse().unwrap()));
        assert!(freeze.holds(&freeze.scope));
        for elsewhere in ["/", "/aws", "/aws/123456789013"] {
            assert!(!freeze.holds(&elsewhere.parse().unwrap()), "{elsewhere}");
        }
        let lifted = Lifted {
            by: "user:corp/ada".parse().unwrap(),
            at: at(9),
            reason: "gone".into(),
        };
        let after = freeze.lift(lifted.clone()).unwrap();
        assert!(!after.holds(&after.scope));
        assert_eq!(after.lift(lifted.clone()), Err(AlreadyLifted(lifted)));
    }
}
