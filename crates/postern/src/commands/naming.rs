//! Which thing somebody means: its id, the beginning of its id, or a name that people call it by. What could mean several
//! things is refused with all of them, so that nothing is ever done to another than the meant one.

use std::str::FromStr;

use postern_api::{
    access_request::AccessRequestQuery, access_review::AccessReviewQuery, client::Client,
    freeze::FreezeQuery, grant::GrantQuery, jit_policy::JitPolicyQuery, review::ReviewQuery,
    role::RoleAssignmentQuery,
};
use postern_core::id::{
    AccessReviewKind, AssignmentKind, FreezeKind, GrantKind, Id, IdKind, PolicyKind, RequestKind, ReviewKind,
};

use super::machines;
use crate::{
    connect,
    exit::{Exit, Failure},
    output,
};

/// How many of the latest things are looked at for the beginning of an id.
const LATEST: u32 = 2000;
/// The fewest digits of an id that are its beginning.
const DIGITS: usize = 4;
/// How many of several are told.
const TOLD: usize = 10;
/// What a grant may be while something can still be done about it.
const LIVE: &str = "scheduled,opening,open";

/// A thing that may be meant.
struct Candidate {
    id: String,
    /// What people call it.
    names: Vec<String>,
    /// What tells it from others.
    told: String,
}

/// Whether it is an id as it stands.
fn is_id<K: IdKind>(text: &str) -> bool {
    Id::<K>::from_str(text).is_ok()
}

/// Whether it could be the beginning of an id.
fn is_beginning<K: IdKind>(text: &str) -> bool {
    text.strip_prefix(K::PREFIX)
        .and_then(|rest| rest.strip_prefix('_'))
        .is_some_and(|digits| digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The one that is meant. `where_listed` is the command that lists them.
fn one<K: IdKind>(text: &str, candidates: Vec<Candidate>, where_listed: &str) -> Result<String, Failure> {
    let beginning = text.to_ascii_lowercase();
    let named = |one: &Candidate| one.names.iter().any(|name| name == text);
    let begins = |one: &Candidate| is_beginning::<K>(&beginning) && one.id.starts_with(&beginning);
    let meant: Vec<Candidate> = candidates
        .into_iter()
        .filter(|one| named(one) || begins(one))
        .collect();
    match meant.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!(
                "no {} that you may see is `{text}`: `{where_listed}` lists them",
                K::NOUN
            ),
        )),
        several => {
            let mut told: Vec<String> = several
                .iter()
                .take(TOLD)
                .map(|one| format!("{} ({})", one.id, one.told))
                .collect();
            if several.len() > TOLD {
                told.push("…".to_owned());
            }
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} could be `{text}`; say which by its id: {}",
                    several.len(),
                    told.join(", ")
                ),
            ))
        }
    }
}

/// A JIT policy by its id, its beginning, or its name.
pub(crate) async fn policy(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<PolicyKind>(text) {
        return Ok(text.to_owned());
    }
    let found = connect::all(u32::MAX, |cursor, limit| {
        let limit = Some(limit);
        async move { client.jit_policies(&JitPolicyQuery { cursor, limit }).await }
    })
    .await?;
    let candidates = found.into_iter().map(|policy| Candidate {
        id: policy.id,
        told: policy.name.clone(),
        names: vec![policy.name],
    });
    one::<PolicyKind>(text, candidates.collect(), "postern policies")
}

/// An access request by its id or its beginning; only those with this status, where one is given.
pub(crate) async fn request(client: &Client, text: &str, status: Option<&str>) -> Result<String, Failure> {
    if is_id::<RequestKind>(text) {
        return Ok(text.to_owned());
    }
    let found = if is_beginning::<RequestKind>(text) {
        connect::all(LATEST, |cursor, limit| {
            let query = AccessRequestQuery {
                status: status.map(str::to_owned),
                cursor,
                limit: Some(limit),
                ..AccessRequestQuery::default()
            };
            async move { client.access_requests(&query).await }
        })
        .await?
    } else {
        Vec::new()
    };
    let candidates = found.into_iter().map(|request| Candidate {
        id: request.id,
        names: Vec::new(),
        told: format!("{} of {}: {}", request.status, request.requester, request.reason),
    });
    let listed = match status {
        Some(status) => format!("postern requests --status {status}"),
        None => "postern requests".to_owned(),
    };
    one::<RequestKind>(text, candidates.collect(), &listed)
}

/// A grant by its id or its beginning, or by its machine, where that has no other grant that may still be ended.
pub(crate) async fn grant(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<GrantKind>(text) {
        return Ok(text.to_owned());
    }
    let by_id = is_beginning::<GrantKind>(text);
    let machine = if by_id {
        None
    } else {
        Some(machines::resolve(client, text).await?)
    };
    let found = connect::all(LATEST, |cursor, limit| {
        let query = GrantQuery {
            status: (!by_id).then(|| LIVE.to_owned()),
            machine: machine.clone(),
            cursor,
            limit: Some(limit),
            ..GrantQuery::default()
        };
        async move { client.grants(&query).await }
    })
    .await?;
    let candidates = found.into_iter().map(|grant| Candidate {
        id: grant.id,
        // Asked for by its machine, they are all on it.
        names: machine.iter().map(|_| text.to_owned()).collect(),
        told: format!(
            "{} of {}, {}",
            grant.status,
            grant.requester,
            grant.ports.join(" ")
        ),
    });
    one::<GrantKind>(text, candidates.collect(), "postern grants")
}

/// A role assignment by its id or its beginning, or by whom it names, where they have no other.
pub(crate) async fn assignment(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<AssignmentKind>(text) {
        return Ok(text.to_owned());
    }
    let principal = (!is_beginning::<AssignmentKind>(text)).then(|| text.to_owned());
    let found = connect::all(u32::MAX, |cursor, limit| {
        let query = RoleAssignmentQuery {
            principal: principal.clone(),
            cursor,
            limit: Some(limit),
            ..RoleAssignmentQuery::default()
        };
        async move { client.role_assignments(&query).await }
    })
    .await?;
    let candidates = found.into_iter().map(|one| Candidate {
        told: format!("`{}` of {} at {}", one.role, one.principal, one.scope),
        names: vec![one.principal],
        id: one.id,
    });
    one::<AssignmentKind>(text, candidates.collect(), "postern assignments")
}

/// A freeze by its id or its beginning, or by the scope at which it is, where no other that is in force is there.
pub(crate) async fn freeze(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<FreezeKind>(text) {
        return Ok(text.to_owned());
    }
    let found = connect::all(LATEST, |cursor, limit| {
        let query = FreezeQuery {
            status: Some("in_force".to_owned()),
            cursor,
            limit: Some(limit),
        };
        async move { client.freezes(&query).await }
    })
    .await?;
    let candidates = found.into_iter().map(|freeze| Candidate {
        id: freeze.id,
        told: format!("{}: {}", freeze.scope, freeze.reason),
        names: vec![freeze.scope],
    });
    one::<FreezeKind>(text, candidates.collect(), "postern freezes --in-force")
}

/// An open review by its id or its beginning, or by the access request that it is about.
pub(crate) async fn review(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<ReviewKind>(text) {
        return Ok(text.to_owned());
    }
    let found = connect::all(LATEST, |cursor, limit| {
        let query = ReviewQuery {
            status: Some("open".to_owned()),
            cursor,
            limit: Some(limit),
        };
        async move { client.reviews(&query).await }
    })
    .await?;
    let candidates = found.into_iter().map(|review| Candidate {
        id: review.id,
        told: format!("{}: {}", review.requester, review.reason),
        names: vec![review.request_id],
    });
    one::<ReviewKind>(text, candidates.collect(), "postern reviews --open")
}

/// An access review by its id or its beginning, or by its name: the latest round of the one that is called so.
pub(crate) async fn access_review(client: &Client, text: &str) -> Result<String, Failure> {
    if is_id::<AccessReviewKind>(text) {
        return Ok(text.to_owned());
    }
    let mut found = connect::all(LATEST, |cursor, limit| {
        let query = AccessReviewQuery {
            cursor,
            limit: Some(limit),
            ..AccessReviewQuery::default()
        };
        async move { client.access_reviews(&query).await }
    })
    .await?;
    found.sort_by(|one, other| (&one.series, other.round).cmp(&(&other.series, one.round)));
    let mut series = None;
    let candidates = found.into_iter().map(|review| {
        let is_latest = series.as_ref() != Some(&review.series);
        series = Some(review.series);
        Candidate {
            told: format!(
                "`{}`, round {}, {}, at {} until {}",
                review.name,
                review.round,
                review.status,
                review.scope,
                output::instant(review.deadline)
            ),
            names: is_latest.then_some(review.name).into_iter().collect(),
            id: review.id,
        }
    });
    one::<AccessReviewKind>(text, candidates.collect(), "postern access-reviews")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, name: &str) -> Candidate {
        Candidate {
            id: id.to_owned(),
            names: vec![name.to_owned()],
            told: name.to_owned(),
        }
    }

    fn meant(text: &str) -> Result<String, Failure> {
        let all = vec![
            candidate("pol_01990000aaaa", "ssh"),
            candidate("pol_01990000bbbb", "rdp"),
            candidate("pol_01991111cccc", "rdp"),
            candidate("pol_01992222dddd", "pol_01990000"),
        ];
        one::<PolicyKind>(text, all, "postern policies")
    }

    #[test]
    fn a_name_or_the_beginning_of_an_id_means_one_thing_or_is_refused_with_all_that_it_could_be() {
        assert_eq!(meant("ssh").unwrap(), "pol_01990000aaaa");
        assert_eq!(meant("pol_01991").unwrap(), "pol_01991111cccc");
        assert_eq!(meant("POL_01990000A").unwrap(), "pol_01990000aaaa");
        let refused = meant("rdp").unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
        let told = refused.to_string();
        assert!(
            told.contains("pol_01990000bbbb (rdp), pol_01991111cccc (rdp)"),
            "{told}"
        );
        // A name that looks like the beginning of others' ids is no way to have them mistaken.
        assert_eq!(meant("pol_01990000").unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn what_is_too_short_or_nothing_means_nothing() {
        for text in ["", "pol_", "pol_019", "ss", "SSH", "req_0199", "pol_0199zz"] {
            assert_eq!(meant(text).unwrap_err().exit(), Exit::NotFound, "{text}");
        }
    }
}
