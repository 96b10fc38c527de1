//! What EC2's error codes mean for the loop.
//!
//! Source of the codes: Amazon EC2 API reference, "Error codes for the Amazon EC2 API"
//! (`docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html`) and, for STS, AWS STS API reference, "Common
//! Errors".

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;
use postern_core::enforcer::EnforceError;

use crate::budget::Spent;

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("ec2:{operation} failed")]
pub(crate) struct Failure {
    operation: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The cloud answered with an error.
    Answer {
        code: String,
        message: String,
        status: u16,
    },
    /// No answer, or none that says anything.
    Silence(String),
    /// Not asked: our own budget is spent.
    Spent(Spent),
    /// No credentials to sign the call with.
    Credentials(String),
    /// STS answered with an error when it was asked for credentials or for whose they are.
    Sts(StsRefused),
    /// The credentials are of another account.
    WrongAccount(WrongAccount),
}

/// STS answered with an error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} was refused ({code}): {message}")]
pub(crate) struct StsRefused {
    /// The call, and on what.
    pub(crate) operation: String,
    pub(crate) code: String,
    pub(crate) message: String,
    /// The status of the answer.
    pub(crate) status: u16,
}

/// The credentials are of another account than the one that is guarded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the credentials are of account `{actual}`, and the configured account is `{configured}`")]
pub(crate) struct WrongAccount {
    pub(crate) actual: String,
    pub(crate) configured: String,
}

impl Failure {
    /// Reads what the SDK says of a call to `operation`.
    pub(crate) fn new<E>(operation: &'static str, error: &SdkError<E, Response>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let kind = match error {
            SdkError::ServiceError(answer) => Kind::Answer {
                code: answer.err().code().unwrap_or_default().to_owned(),
                message: answer.err().message().unwrap_or_default().to_owned(),
                status: answer.raw().status().as_u16(),
            },
            SdkError::TimeoutError(_) => Kind::Silence("no answer in time".to_owned()),
            other => {
                if let Some(wrong) = causes(other).find_map(|cause| cause.downcast_ref::<WrongAccount>()) {
                    Kind::WrongAccount(wrong.clone())
                } else if let Some(spent) = causes(other).find_map(|cause| cause.downcast_ref::<Spent>()) {
                    Kind::Spent(*spent)
                } else if let Some(refused) =
                    causes(other).find_map(|cause| cause.downcast_ref::<StsRefused>())
                {
                    Kind::Sts(refused.clone())
                } else if causes(other).any(<dyn Error + 'static>::is::<CredentialsError>) {
                    Kind::Credentials(trail(other))
                } else {
                    Kind::Silence(trail(other))
                }
            }
        };
        Self { operation, kind }
    }

    /// An answer that leaves out what was asked for.
    pub(crate) fn unclear(operation: &'static str, message: String) -> Self {
        Self {
            operation,
            kind: Kind::Silence(message),
        }
    }

    /// The same call, for which our own budget is spent.
    pub(crate) fn spent(self, spent: Spent) -> Self {
        Self {
            kind: Kind::Spent(spent),
            ..self
        }
    }

    /// Whether the cloud answered with this code.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(&self.kind, Kind::Answer { code, .. } if code == wanted)
    }

    /// The error of a call about the point itself: where that is not there, the point is gone.
    pub(crate) fn about_point(self, point: &str) -> EnforceError {
        match self.kind {
            Kind::Answer { code, .. } if is_not_found(&code) => EnforceError::Gone {
                resource: point.to_owned(),
                code,
            },
            kind => Self { kind, ..self }.about(point),
        }
    }

    /// The error of a call about `resource`. What is not there any more is a conflict: the point is to be looked
    /// at again.
    pub(crate) fn about(self, resource: &str) -> EnforceError {
        let operation = format!("ec2:{}", self.operation);
        match self.kind {
            Kind::Silence(message) => EnforceError::Unavailable { operation, message },
            Kind::Spent(Spent(wait)) => EnforceError::Throttled {
                operation,
                retry_after: Some(wait),
            },
            Kind::Credentials(message) => EnforceError::Unavailable {
                operation: format!("{operation} (credentials)"),
                message,
            },
            Kind::WrongAccount(wrong) => EnforceError::Forbidden {
                operation,
                code: "WrongAccount".to_owned(),
                message: wrong.to_string(),
            },
            Kind::Sts(refused) => match class(&refused.code, refused.status) {
                Class::Throttled => EnforceError::Throttled {
                    operation: refused.operation,
                    retry_after: None,
                },
                Class::Unavailable | Class::Conflict => EnforceError::Unavailable {
                    operation: refused.operation,
                    message: format!("{} {}: {}", refused.status, refused.code, refused.message),
                },
                // STS refuses what will be refused again: a role that does not trust us, or a name that is none.
                Class::Forbidden | Class::Refused => EnforceError::Forbidden {
                    operation: refused.operation,
                    code: refused.code,
                    message: refused.message,
                },
            },
            Kind::Answer {
                code,
                message,
                status,
            } => match class(&code, status) {
                Class::Forbidden => EnforceError::Forbidden {
                    operation,
                    code,
                    message,
                },
                Class::Throttled => EnforceError::Throttled {
                    operation,
                    retry_after: None,
                },
                Class::Conflict => EnforceError::Conflict {
                    resource: resource.to_owned(),
                    code,
                },
                Class::Unavailable => EnforceError::Unavailable {
                    operation,
                    message: format!("{status} {code}: {message}"),
                },
                Class::Refused => EnforceError::Refused {
                    operation,
                    code,
                    message,
                },
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Class {
    Forbidden,
    Throttled,
    Conflict,
    Unavailable,
    Refused,
}

fn is_not_found(code: &str) -> bool {
    // `InvalidPermission.NotFound` speaks of a rule, and is success wherever a rule is taken away.
    code.ends_with(".NotFound") && code != "InvalidPermission.NotFound"
}

fn class(code: &str, status: u16) -> Class {
    match code {
        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "ExpiredToken"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "PendingVerification"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Class::Forbidden,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "TooManyRequestsException" => Class::Throttled,
        "DependencyViolation"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "InvalidGroup.Duplicate"
        | "InvalidGroup.InUse"
        | "InvalidPermission.Duplicate"
        | "InvalidPermission.NotFound" => Class::Conflict,
        "InternalError" | "InternalFailure" | "RequestTimeout" | "ServiceUnavailable" | "Unavailable" => {
            Class::Unavailable
        }
        code if is_not_found(code) => Class::Conflict,
        _ if status >= 500 => Class::Unavailable,
        _ => Class::Refused,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        // Of the referenced error, not of the reference.
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

/// An error with its causes, each once.
pub(crate) fn trail(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str, status: u16) -> Failure {
        Failure {
            operation: "DeleteSecurityGroup",
            kind: Kind::Answer {
                code: code.to_owned(),
                message: "m".to_owned(),
                status,
            },
        }
    }

    #[test]
    fn a_code_decides_what_the_loop_does_next() {
        for (code, status, want) in [
            ("UnauthorizedOperation", 403, Class::Forbidden),
            ("RequestLimitExceeded", 503, Class::Throttled),
            ("DependencyViolation", 400, Class::Conflict),
            ("InvalidNetworkInterfaceID.NotFound", 400, Class::Conflict),
            ("InternalError", 500, Class::Unavailable),
            ("SomethingNew", 503, Class::Unavailable),
            ("RulesPerSecurityGroupLimitExceeded", 400, Class::Refused),
            ("InvalidParameterValue", 400, Class::Refused),
        ] {
            assert_eq!(class(code, status), want, "{code}");
        }
    }

    #[test]
    fn only_the_point_itself_can_be_gone() {
        assert!(matches!(
            answer("InvalidGroup.NotFound", 400).about_point("sg-1"),
            EnforceError::Gone { .. }
        ));
        assert!(matches!(
            answer("InvalidGroup.NotFound", 400).about("sg-1"),
            EnforceError::Conflict { .. }
        ));
        assert!(matches!(
            answer("InvalidPermission.NotFound", 400).about_point("sg-1"),
            EnforceError::Conflict { .. }
        ));
    }

    #[test]
    fn only_what_sts_would_refuse_again_is_forbidden() {
        let refused = |code: &str, status| {
            let kind = Kind::Sts(StsRefused {
                operation: "sts:GetCallerIdentity".to_owned(),
                code: code.to_owned(),
                message: "m".to_owned(),
                status,
            });
            Failure {
                operation: "DescribeInstances",
                kind,
            }
            .about("i-1")
        };
        for (code, status) in [("InternalFailure", 500), ("ServiceUnavailable", 503), ("", 502)] {
            let error = refused(code, status);
            assert!(matches!(error, EnforceError::Unavailable { .. }), "{error:?}");
        }
        for (code, status) in [("Throttling", 400), ("RequestThrottled", 503)] {
            let error = refused(code, status);
            assert!(matches!(error, EnforceError::Throttled { .. }), "{error:?}");
        }
        for (code, status) in [("AccessDenied", 403), ("ValidationError", 400)] {
            let error = refused(code, status);
            assert!(matches!(error, EnforceError::Forbidden { .. }), "{error:?}");
        }
    }

    #[test]
    fn what_is_forbidden_names_the_action_to_grant() {
        let error = answer("UnauthorizedOperation", 403).about("sg-1");
        assert_eq!(
            error.to_string(),
            "not allowed to ec2:DeleteSecurityGroup (UnauthorizedOperation): m"
        );
    }
}
