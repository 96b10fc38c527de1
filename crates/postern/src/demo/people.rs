//! The demo's users, and what its identity provider says of each.

use serde_json::{Value, json};

/// The name of the demo's identity provider in principals.
pub const ISSUER_NAME: &str = "demo";

/// The audience of its tokens.
pub const AUDIENCE: &str = "postern";

/// One user of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// How `postern token --user` names them.
    pub user: &'static str,
    /// The subject in their tokens.
    pub subject: &'static str,
    /// What Entra ID would know them by.
    pub object_id: &'static str,
    /// Their name.
    pub name: &'static str,
    /// Their groups.
    pub groups: &'static [&'static str],
    /// Whether they are a program.
    pub workload: bool,
}

/// Everybody.
pub const PEOPLE: [Person; 5] = [
    Person {
        user: "ada",
        subject: "ada",
        object_id: "0b1ec700-0000-4000-8000-000000000001",
        name: "Ada, an engineer",
        groups: &["engineers"],
        workload: false,
    },
    Person {
        user: "sam",
        subject: "sam",
        object_id: "0b1ec700-0000-4000-8000-000000000002",
        name: "Sam, who approves",
        groups: &["leads"],
        workload: false,
    },
    Person {
        user: "olga",
        subject: "olga",
        object_id: "0b1ec700-0000-4000-8000-000000000003",
        name: "Olga, the owner",
        groups: &["security"],
        workload: false,
    },
    Person {
        user: "eve",
        subject: "eve",
        object_id: "0b1ec700-0000-4000-8000-000000000004",
        name: "Eve, without a role",
        groups: &[],
        workload: false,
    },
    Person {
        user: "ci",
        subject: "repo:shop/app:ref:refs/heads/main",
        object_id: "0b1ec700-0000-4000-8000-000000000005",
        name: "A CI job",
        groups: &[],
        workload: true,
    },
];

impl Person {
    /// The user of that name.
    pub fn named(user: &str) -> Option<&'static Self> {
        PEOPLE.iter().find(|person| person.user == user)
    }

    /// The claims of a token that is made at `now` (seconds since 1970) and lasts `seconds`.
    pub fn claims(&self, issuer: &str, now: i64, seconds: i64) -> Value {
        let mut claims = json!({
            "iss": issuer,
            "sub": self.subject,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "name": self.name,
            "oid": self.object_id,
            "groups": self.groups,
        });
        if let Some(claims) = claims.as_object_mut() {
            if self.workload {
                claims.insert("token_use".to_owned(), json!("workload"));
                claims.insert("repository".to_owned(), json!("shop/app"));
                claims.insert("ref".to_owned(), json!("refs/heads/main"));
            } else {
                claims.insert("amr".to_owned(), json!(["pwd", "mfa"]));
            }
        }
        claims
    }
}
