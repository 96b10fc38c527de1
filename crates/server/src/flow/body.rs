//! Bodies: JSON of bounded size, held against the endpoint's type, with the exact place of what is wrong.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use postern_api::ErrorCode;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use crate::{failure::Failure, idempotency::IdempotencyKey};

/// The body of a request that changes something, with its idempotency key.
#[derive(Debug)]
pub(crate) struct Command<T> {
    pub(crate) body: T,
    pub(crate) key: Option<IdempotencyKey>,
}

/// The same, where no body means the default one.
#[derive(Debug)]
pub(crate) struct OptionalCommand<T> {
    pub(crate) body: T,
    pub(crate) key: Option<IdempotencyKey>,
}

/// The body of an endpoint that takes no fields.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Command<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let (key_of, headers, bytes) = read(request, state).await?;
        check_media_type(&headers)?;
        let body = parse(&bytes)?;
        Ok(Self {
            body,
            key: key_of.with(&headers, &bytes)?,
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalCommand<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let (key_of, headers, bytes) = read(request, state).await?;
        let body = if bytes.is_empty() {
            T::default()
        } else {
            check_media_type(&headers)?;
            parse(&bytes)?
        };
        Ok(Self {
            body,
            key: key_of.with(&headers, &bytes)?,
        })
    }
}

/// Method and path, which an idempotency key is bound to together with the body.
struct KeyOf {
    method: String,
    path: String,
}

impl KeyOf {
    fn with(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, Failure> {
        IdempotencyKey::read(headers, &self.method, &self.path, body)
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<(KeyOf, HeaderMap, Bytes), Failure> {
    let key_of = KeyOf {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
    };
    let headers = request.headers().clone();
    let bytes = whole(request, state).await?;
    Ok((key_of, headers, bytes))
}

/// The body, within its bound.
pub(crate) async fn whole<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Failure> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Failure::new(
                ErrorCode::BodyTooLarge,
                "the body is larger than the server takes",
            )
        } else {
            Failure::new(ErrorCode::MalformedJson, "the body could not be read to its end")
        }
    })
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(other) => Err(Failure::new(
            ErrorCode::UnsupportedMediaType,
            format!(
                "the body is `{}`; this endpoint takes `application/json`",
                other.chars().take(80).collect::<String>()
            ),
        )),
        None => Err(Failure::new(
            ErrorCode::UnsupportedMediaType,
            "there is no `Content-Type`; this endpoint takes `application/json`",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let body = T::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track))
        .map_err(|error| refused(&error, &track.path()))?;
    json.end()
        .map_err(|error| Failure::new(ErrorCode::MalformedJson, error.to_string()))?;
    Ok(body)
}

fn refused(error: &serde_json::Error, path: &serde_path_to_error::Path) -> Failure {
    if error.classify() != Category::Data {
        return Failure::new(ErrorCode::MalformedJson, error.to_string());
    }
    let mut pointer = String::new();
    let mut field = "";
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer = format!("{pointer}/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                field = key;
            }
            Segment::Unknown => {}
        }
    }
    let message = error.to_string();
    let code = if message.starts_with("unknown field") {
        ErrorCode::UnknownField
    } else if message.starts_with("missing field") {
        ErrorCode::MissingField
    } else {
        match field {
            "duration_seconds" | "max_duration_seconds" => ErrorCode::InvalidDuration,
            "ports" => ErrorCode::InvalidPorts,
            "sources" | "allowed_sources" => ErrorCode::InvalidSource,
            "machine" => ErrorCode::InvalidMachineId,
            "reason" => ErrorCode::InvalidReason,
            "scope" => ErrorCode::InvalidScope,
            "principal" => ErrorCode::InvalidPrincipal,
            "role" => ErrorCode::InvalidRole,
            "targets" => ErrorCode::InvalidTargets,
            _ => ErrorCode::InvalidField,
        }
    };
    Failure::field(code, pointer, in_plain_words(&message))
}

/// The parser's message without the names of our types.
fn in_plain_words(message: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let (what, place) = match expected.rfind(" at line ") {
        Some(at) => expected.split_at(at),
        None => (expected, ""),
    };
    let what = match what {
        "i64" | "u64" | "u32" => "a whole number",
        "a sequence" => "a list",
        "a map" => "an object",
        named if named.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {what}{place}")
}

#[cfg(test)]
mod tests {
    use postern_api::{access_request::AccessRequestCreate, jit_policy::JitPolicyWrite};

    use super::*;

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> (ErrorCode, String, String) {
        let failure = parse::<T>(body.as_bytes()).unwrap_err();
        let problem = failure.problem("x");
        let pointer = problem
            .errors
            .first()
            .map_or_else(String::new, |error| error.pointer.clone());
        (problem.code, pointer, problem.detail)
    }

    #[test]
    fn malformed_json_is_named_by_line_and_column() {
        for body in ["", "{", "{\"targets\": [}", "{} {}", "nul", "\u{feff}{}"] {
            let (code, _, detail) = refusal::<AccessRequestCreate>(body);
            let expected = if body == "{} {}" {
                ErrorCode::MissingField
            } else {
                ErrorCode::MalformedJson
            };
            assert_eq!(code, expected, "{body}");
            assert!(detail.contains("line 1 column"), "{detail}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place() {
        let (code, pointer, detail) = refusal::<AccessRequestCreate>(
            r#"{"targets":[{"machine":"m","ports":[],"sources":[],"port":1}],"duration_seconds":1,"reason":"r"}"#,
        );
        assert_eq!(
            (code, pointer.as_str()),
            (ErrorCode::UnknownField, "/targets/0/port")
        );
        assert!(detail.contains("`port`"), "{detail}");
    }

    #[test]
    fn values_of_the_wrong_type_have_their_fields_code_and_plain_words() {
        let body = |duration: &str| format!(r#"{{"targets":[],"duration_seconds":{duration},"reason":"r"}}"#);
        for duration in ["\"1\"", "1e30", "1.5", "null", "99999999999999999999999"] {
            let (code, pointer, detail) = refusal::<AccessRequestCreate>(&body(duration));
            assert_eq!(code, ErrorCode::InvalidDuration, "{duration}");
            assert_eq!(pointer, "/duration_seconds");
            assert!(detail.contains("a whole number"), "{detail}");
        }
        let (code, pointer, _) = refusal::<AccessRequestCreate>(r#"{"targets":[{"machine":7}]}"#);
        assert_eq!(
            (code, pointer.as_str()),
            (ErrorCode::InvalidMachineId, "/targets/0/machine")
        );
        let (code, _, detail) =
            refusal::<JitPolicyWrite>(r#"{"name":"n","scope":"/","guards":[],"lockdown":"lax"}"#);
        assert_eq!(code, ErrorCode::InvalidField);
        assert!(detail.contains("`strict`"), "{detail}");
        let (_, _, detail) = refusal::<JitPolicyWrite>("[]");
        assert!(!detail.contains("JitPolicyWrite"), "{detail}");
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let (code, _, detail) = refusal::<AccessRequestCreate>(r#"{"reason":"a","reason":"b"}"#);
        assert_ne!(code, ErrorCode::MissingField);
        assert!(detail.contains("duplicate field"), "{detail}");
    }
}
