//! Problems: every error answer is RFC 9457 `application/problem+json` with a stable code.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, as a word that never changes its meaning. New words may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $variant,)*
            /// A code that this version of the client does not know. Never sent.
            #[serde(other)]
            Unrecognised,
        }

        impl ErrorCode {
            /// Every code that the server sends.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* Self::Unrecognised => "unrecognised" }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* Self::Unrecognised => 500 }
            }

            /// A short summary, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* Self::Unrecognised => "Unrecognised error" }
            }

            /// What it means, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                    Self::Unrecognised => "A code that this version of the client does not know.",
                }
            }
        }
    };
}

codes! {
    /// The body is not JSON. `detail` says at which line and column.
    MalformedJson = "malformed_json", 400, "Malformed JSON";
    /// The body has a field that this endpoint does not know.
    UnknownField = "unknown_field", 400, "Unknown field";
    /// The body lacks a field that this endpoint needs.
    MissingField = "missing_field", 400, "Missing field";
    /// A field has a value of the wrong type.
    InvalidField = "invalid_field", 400, "Invalid field";
    /// Not an ARM resource id of a virtual machine or an EC2 instance ARN.
    InvalidMachineId = "invalid_machine_id", 400, "Invalid machine id";
    /// Not a port or port range.
    InvalidPorts = "invalid_ports", 400, "Invalid ports";
    /// Not an address or CIDR block in canonical form.
    InvalidSource = "invalid_source", 400, "Invalid source";
    /// Zero, negative, or beyond what any policy could allow.
    InvalidDuration = "invalid_duration", 400, "Invalid duration";
    /// No reason, or one that is too long or has control characters.
    InvalidReason = "invalid_reason", 400, "Invalid reason";
    /// No targets, too many, or the same machine twice.
    InvalidTargets = "invalid_targets", 400, "Invalid targets";
    /// The JIT policy breaks a rule of its own, such as guards that overlap.
    InvalidPolicy = "invalid_policy", 400, "Invalid JIT policy";
    /// Not a scope.
    InvalidScope = "invalid_scope", 400, "Invalid scope";
    /// Not a user, group or workload.
    InvalidPrincipal = "invalid_principal", 400, "Invalid principal";
    /// Not a role that may be made or assigned.
    InvalidRole = "invalid_role", 400, "Invalid role";
    /// The role assignment has ended already, or its tags are none that a machine could carry.
    InvalidAssignment = "invalid_assignment", 400, "Invalid role assignment";
    /// The access review has no name, no reviewers who are people, a deadline or a recurrence out of bounds.
    InvalidAccessReview = "invalid_access_review", 400, "Invalid access review";
    /// Not an action.
    InvalidAction = "invalid_action", 400, "Invalid action";
    /// Not an id of the kind that the path asks for.
    InvalidId = "invalid_id", 400, "Invalid id";
    /// A query parameter is unknown, missing or not of its type.
    InvalidQuery = "invalid_query", 400, "Invalid query";
    /// Not a cursor that this list handed out.
    InvalidCursor = "invalid_cursor", 400, "Invalid cursor";
    /// Outside 1 to 200.
    InvalidLimit = "invalid_limit", 400, "Invalid limit";
    /// Not a lease key, or not a time between two heartbeats.
    InvalidLease = "invalid_lease", 400, "Invalid lease";
    /// Outside 0 to 60 seconds.
    InvalidWait = "invalid_wait", 400, "Invalid wait";
    /// Empty, longer than 255 characters, or with characters beyond visible ASCII.
    InvalidIdempotencyKey = "invalid_idempotency_key", 400, "Invalid Idempotency-Key";
    /// `If-Match` is not the `ETag` of one version.
    InvalidEtag = "invalid_etag", 400, "Invalid If-Match";
    /// There is no bearer token.
    TokenMissing = "token_missing", 401, "Authentication required";
    /// The bearer token is not accepted.
    TokenInvalid = "token_invalid", 401, "Token not accepted";
    /// The bearer token was good and is past its end.
    TokenExpired = "token_expired", 401, "Token expired";
    /// It would be allowed to somebody who signed in with a second factor, or more recently. `WWW-Authenticate` says what
    /// to ask the issuer for (RFC 9470).
    StepUpRequired = "step_up_required", 401, "Stronger authentication required";
    /// The decision was no. `detail` names what is missing or what forbids it.
    Forbidden = "forbidden", 403, "Forbidden";
    /// The cloud's own role assignments do not allow the requester what the installation demands. `detail` names what
    /// is missing.
    CloudRoleMissing = "cloud_role_missing", 403, "Role in the cloud missing";
    /// The cloud's own role assignments could not be read, and without them nothing is allowed.
    CloudRolesUnknown = "cloud_roles_unknown", 503, "Roles in the cloud unknown";
    /// Nobody approves their own request.
    OwnRequest = "own_request", 403, "Own request";
    /// A request is approved by a person.
    NotAPerson = "not_a_person", 403, "Not a person";
    /// The approval waits for others.
    NotAnApprover = "not_an_approver", 403, "Not an approver";
    /// Only who made a request withdraws it.
    NotTheRequester = "not_the_requester", 403, "Not the requester";
    /// Only who holds a lease heartbeats and releases it.
    NotTheHolder = "not_the_holder", 403, "Not the holder";
    /// Nobody reviews their own role assignment, nor that of a group that they are in.
    OwnAssignment = "own_assignment", 403, "Own role assignment";
    /// Only the reviewers that an access review names decide about its items.
    NotAReviewer = "not_a_reviewer", 403, "Not a reviewer";
    /// There is nothing here, or nothing that you may see.
    NotFound = "not_found", 404, "Not found";
    /// No such machine was discovered.
    MachineNotFound = "machine_not_found", 404, "Machine not found";
    /// The path exists, for other methods; `Allow` names them.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// The name is taken, or the thing is in use.
    Conflict = "conflict", 409, "Conflict";
    /// The request was decided before.
    AlreadyDecided = "already_decided", 409, "Already decided";
    /// The request was not decided in time.
    RequestLapsed = "request_lapsed", 409, "Request lapsed";
    /// The requester has as many live grants on the machine as one may have.
    TooManyGrants = "too_many_grants", 409, "Too many grants";
    /// As many requests of yours wait for somebody to decide as may.
    TooManyPending = "too_many_pending", 409, "Too many pending requests";
    /// The access review is over: its deadline passed, or somebody cancelled it.
    AccessReviewOver = "access_review_over", 409, "Access review over";
    /// You hold a lease with this key, for something else.
    LeaseKeyInUse = "lease_key_in_use", 409, "Lease key in use";
    /// The lease has ended: it was released, its heartbeat was missed, or its access is over.
    LeaseEnded = "lease_ended", 409, "Lease ended";
    /// A person agrees once.
    AlreadyAgreed = "already_agreed", 409, "Already agreed";
    /// Only an open grant is extended, and this one has not opened, or has ended.
    GrantNotOpen = "grant_not_open", 409, "The grant is not open";
    /// The reason or ticket is not what the JIT policy asks for. `detail` says what it does.
    NotJustified = "not_justified", 422, "Not justified";
    /// The ticket system did not answer, and the JIT policy refuses then.
    TicketUnanswered = "ticket_unanswered", 503, "The ticket system did not answer";
    /// The grant would end no later than it does.
    NotLonger = "not_longer", 422, "Not longer";
    /// The start is in the past, or further ahead than the server's limit, or cannot be had here.
    InvalidStart = "invalid_start", 400, "Invalid start";
    /// A freeze is in force there: nothing is asked for, approved or opened until it is lifted. `detail` has its
    /// reason.
    Frozen = "frozen", 409, "Frozen";
    /// The last owner of the installation cannot be removed.
    LastOwner = "last_owner", 409, "Last owner";
    /// A request with the same `Idempotency-Key` is still being worked on.
    IdempotencyInFlight = "idempotency_in_flight", 409, "Request in flight";
    /// The document changed since the version that `If-Match` names.
    VersionMismatch = "version_mismatch", 412, "Version mismatch";
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, "Body too large";
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type";
    /// The policy that covers the machine does not guard the port.
    PortNotGuarded = "port_not_guarded", 422, "Port not guarded";
    /// The source lies outside what the policy allows.
    SourceNotAllowed = "source_not_allowed", 422, "Source not allowed";
    /// The source was left out, and it is not clear where the request comes from. Name the source.
    SourceUnclear = "source_unclear", 422, "Source unclear";
    /// The source was left out, and the request comes from an address that is not public, inside no network of its kind
    /// that the policy allows.
    SourceNotPublic = "source_not_public", 422, "Source not public";
    /// Longer than the policy allows.
    DurationTooLong = "duration_too_long", 422, "Duration too long";
    /// No JIT policy covers the machine.
    NoPolicy = "no_policy", 422, "No JIT policy";
    /// There are more role assignments at the scope than one access review takes. Review the scopes below.
    AccessReviewTooLarge = "access_review_too_large", 422, "Access review too large";
    /// An approval grants no more than was asked for.
    WiderThanAsked = "wider_than_asked", 422, "Wider than asked for";
    /// Whoever made the request would not be allowed to make it now.
    RequesterNotAllowed = "requester_not_allowed", 422, "Requester not allowed";
    /// Nothing filters the way to the machine, so there is nothing to open.
    NothingToOpen = "nothing_to_open", 422, "Nothing to open";
    /// A rule of somebody else's drops the packets before ours could let them in. `detail` names it.
    BlockedByRule = "blocked_by_rule", 422, "Blocked by a rule";
    /// The machine is stopped.
    MachineStopped = "machine_stopped", 422, "Machine stopped";
    /// The machine has no address of the family of a source.
    NoAddress = "no_address", 422, "No address";
    /// The cloud has no room for the rules: no free priority, too many groups or too many rules.
    NoCapacity = "no_capacity", 422, "No capacity";
    /// The `Idempotency-Key` was used before with another body.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "Idempotency-Key reused";
    /// The change needs an `If-Match` header.
    PreconditionRequired = "precondition_required", 428, "Precondition required";
    /// You send more requests than one may; `Retry-After` says when to go on.
    RateLimited = "rate_limited", 429, "Rate limited";
    /// An error of ours; the request id finds it in the log.
    Internal = "internal", 500, "Internal error";
    /// The database or an issuer of tokens does not answer; try again.
    Unavailable = "unavailable", 503, "Temporarily unavailable";
    /// Too many requests at once; try again.
    Overloaded = "overloaded", 503, "Overloaded";
    /// The request took too long. What it began may have taken effect.
    Timeout = "timeout", 504, "Timeout";
}

impl ErrorCode {
    /// The code's URI, the `type` of its problems.
    pub fn uri(self) -> String {
        format!("urn:postern:problem:{}", self.as_str())
    }
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let codes: Vec<String> = Self::ALL
            .iter()
            .map(|code| format!("- `{code}` ({}): {}", code.status(), code.meaning().trim()))
            .collect();
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some(format!(
                "What went wrong, as a word that never changes its meaning. New words may come.\n\n{}",
                codes.join("\n")
            )))
            .into()
    }
}

impl ToSchema for ErrorCode {}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with one place of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the body.
    #[schema(example = "/targets/0/sources/1")]
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The code as a URI.
    #[serde(rename = "type")]
    #[schema(example = "urn:postern:problem:source_not_allowed")]
    pub problem_type: String,
    /// A summary, the same for every occurrence.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, for people.
    pub detail: String,
    /// The id of the HTTP request, as the log and the audit events have it.
    #[schema(example = "urn:postern:request:01990000000070008000000000000001")]
    pub instance: String,
    /// What happened, for programs.
    pub code: ErrorCode,
    /// The places of the body that are wrong, where that is the trouble.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem with the code's own type, title and status; `request_id` is the HTTP request's.
    pub fn new(code: ErrorCode, detail: impl Into<String>, request_id: &str) -> Self {
        Self {
            problem_type: code.uri(),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: format!("urn:postern:request:{request_id}"),
            code,
            errors: Vec::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)?;
        for error in &self.errors {
            // The only error is often the problem itself; its place is then all that is new.
            if error.detail == self.detail {
                write!(f, " at {}", error.pointer)?;
            } else {
                write!(f, "; {}: {}", error.pointer, error.detail)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_problem_does_not_say_the_same_thing_twice() {
        let mut problem = Problem::new(ErrorCode::InvalidPorts, "`0` is not a port", "1");
        problem.errors = vec![
            FieldError {
                pointer: "/targets/0/ports/0".to_owned(),
                detail: "`0` is not a port".to_owned(),
            },
            FieldError {
                pointer: "/targets/1/ports/0".to_owned(),
                detail: "`x` is not a port".to_owned(),
            },
        ];
        assert_eq!(
            problem.to_string(),
            "`0` is not a port (invalid_ports) at /targets/0/ports/0; /targets/1/ports/0: `x` is not a port"
        );
    }

    #[test]
    fn every_code_is_its_own_word_and_an_error_status() {
        let words: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(
                code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{code}"
            );
            assert_eq!(
                serde_json::to_value(code).unwrap(),
                serde_json::Value::from(code.as_str())
            );
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_read_all_the_same() {
        let problem = serde_json::json!({
            "type": "urn:postern:problem:brand_new", "title": "New", "status": 418, "detail": "d",
            "instance": "urn:postern:request:x", "code": "brand_new",
        });
        let problem: Problem = serde_json::from_value(problem).unwrap();
        assert_eq!(problem.code, ErrorCode::Unrecognised);
        assert_eq!(problem.status, 418);
    }
}
