//! The ARM client: one call at a time, over one connection pool, with timeouts and without redirects.

use std::time::Duration;

use postern_core::enforcer::EnforceError;
use reqwest::{
    Method, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, IF_MATCH, LOCATION, RETRY_AFTER},
};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::{budget::Budget, failure, id::ArmId, token::Tokens};

/// The most bytes of an answer. An NSG of a thousand rules has about one million.
const MAX_BODY: usize = 32 << 20;

/// The longest wait that is taken from a `Retry-After`. ARM asks for minutes at most; more would be somebody's
/// mistake, and would hold up a closing.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(15);

/// A call to be made.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    /// How.
    pub(crate) method: Method,
    /// Where.
    pub(crate) url: Url,
    /// The action that a role must allow for it, such as `Microsoft.Network/networkSecurityGroups/read`.
    pub(crate) action: &'a str,
    /// What it is about, for errors.
    pub(crate) resource: String,
}

/// An answer that is no error.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// 200 to 299.
    pub(crate) status: u16,
    /// The document; null when there is none.
    pub(crate) body: Value,
    /// Where the operation that the call started is told of.
    pub(crate) azure_async_operation: Option<String>,
    /// Where its result is.
    pub(crate) location: Option<String>,
    /// When to look, a quarter of an hour from now at the latest.
    pub(crate) retry_after: Option<Duration>,
}

/// The client.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(super) http: reqwest::Client,
    pub(super) endpoint: Url,
    pub(super) tokens: Tokens,
    pub(crate) budget: Budget,
}

impl Arm {
    /// A client of the resource manager at `endpoint`.
    pub(crate) fn new(http: reqwest::Client, endpoint: Url, tokens: Tokens, budget: Budget) -> Self {
        Self {
            http,
            endpoint,
            tokens,
            budget,
        }
    }

    /// The address of a path, each segment encoded by itself.
    pub(crate) fn address<'s>(
        &self,
        segments: impl IntoIterator<Item = &'s str>,
        api_version: &str,
        query: &[(&str, &str)],
    ) -> Result<Url, EnforceError> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| EnforceError::Malformed(format!("`{}` is no base address", self.endpoint)))?
            .pop_if_empty()
            .extend(segments);
        url.query_pairs_mut()
            .append_pair("api-version", api_version)
            .extend_pairs(query);
        Ok(url)
    }

    /// A call about a resource.
    pub(crate) fn call<'a>(
        &self,
        method: Method,
        id: &ArmId,
        api_version: &str,
        action: &'a str,
    ) -> Result<Call<'a>, EnforceError> {
        Ok(Call {
            method,
            url: self.address(id.segments(), api_version, &[])?,
            action,
            resource: id.to_string(),
        })
    }

    /// Reads an address that ARM gave us. Our token goes to the resource manager and nowhere else.
    pub(super) fn own(&self, text: &str, what: &str) -> Result<Url, EnforceError> {
        let url = Url::parse(text)
            .map_err(|error| EnforceError::Malformed(format!("{what} is no address: {error}")))?;
        if url.origin() == self.endpoint.origin() && url.username().is_empty() && url.password().is_none() {
            Ok(url)
        } else {
            Err(EnforceError::Malformed(format!(
                "{what} leads to `{}`, which is not the resource manager `{}`",
                url.origin().ascii_serialization(),
                self.endpoint.origin().ascii_serialization()
            )))
        }
    }

    /// Makes a call when the budget allows. A token that is refused is replaced once.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Answer, EnforceError> {
        self.budget.pay(call).await?;
        read(call, self.with_token(call, body, if_match).await?)
    }

    async fn with_token(
        &self,
        call: &Call<'_>,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<(u16, HeaderMap, Value), EnforceError> {
        let token = self.tokens.bearer().await?;
        let answer = self.once(call, body, if_match, token.expose_secret()).await?;
        if answer.0 != 401 {
            return Ok(answer);
        }
        self.tokens.forget(&token).await;
        let renewed = self.tokens.bearer().await?;
        if renewed.expose_secret() == token.expose_secret() {
            return Ok(answer);
        }
        self.once(call, body, if_match, renewed.expose_secret()).await
    }

    async fn once(
        &self,
        call: &Call<'_>,
        body: Option<&Value>,
        if_match: Option<&str>,
        token: &str,
    ) -> Result<(u16, HeaderMap, Value), EnforceError> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            EnforceError::Malformed("the token has characters that no header holds".to_owned())
        })?;
        bearer.set_sensitive(true);
        let mut request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .header(AUTHORIZATION, bearer);
        if let Some(etag) = if_match {
            request = request.header(IF_MATCH, etag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let silent = |error: reqwest::Error| EnforceError::Unavailable {
            operation: call.action.to_owned(),
            message: trail(&error.without_url()),
        };
        let mut response: Response = request.send().await.map_err(silent)?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        if status == 429 {
            self.budget.refused(call, asked_to_wait(&headers));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(silent)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_BODY {
                return Err(EnforceError::Malformed(format!(
                    "{} answered with more than {MAX_BODY} bytes",
                    call.action
                )));
            }
        }
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            match serde_json::from_slice(&bytes) {
                Ok(body) => body,
                // A gateway's page, not ARM's document.
                Err(_) if !(200..300).contains(&status) => Value::Null,
                Err(error) => {
                    return Err(EnforceError::Malformed(format!(
                        "{} answered with what is no JSON: {error}",
                        call.action
                    )));
                }
            }
        };
        Ok((status, headers, body))
    }

    /// Reads a resource.
    pub(crate) async fn get(
        &self,
        id: &ArmId,
        api_version: &str,
        action: &str,
    ) -> Result<Value, EnforceError> {
        let call = self.call(Method::GET, id, api_version, action)?;
        Ok(self.send(&call, None, None).await?.body)
    }

    /// Reads what may not be there: the answer 404 with the error code `absent` says so.
    pub(crate) async fn find(
        &self,
        url: Url,
        action: &str,
        absent: &str,
    ) -> Result<Option<Value>, EnforceError> {
        let call = Call {
            method: Method::GET,
            resource: url.path().to_owned(),
            url,
            action,
        };
        self.budget.pay(&call).await?;
        let (status, headers, body) = self.with_token(&call, None, None).await?;
        if status == 404 && body.pointer("/error/code").and_then(Value::as_str) == Some(absent) {
            return Ok(None);
        }
        read(&call, (status, headers, body)).map(|answer| Some(answer.body))
    }
}

fn read(call: &Call<'_>, (status, headers, body): (u16, HeaderMap, Value)) -> Result<Answer, EnforceError> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let retry_after = asked_to_wait(&headers);
    if !(200..300).contains(&status) {
        return Err(failure::of_status(
            call.action,
            &call.resource,
            status,
            retry_after,
            &body,
        ));
    }
    Ok(Answer {
        status,
        body,
        azure_async_operation: text("azure-asyncoperation"),
        location: text(LOCATION.as_str()),
        retry_after,
    })
}

fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(retry_after)
}

/// Reads a `Retry-After` in seconds, however many digits it has. A date is as good as nothing.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let asked = text.parse().map_or(Duration::MAX, Duration::from_secs);
    Some(asked.min(LONGEST_RETRY_AFTER))
}

/// What went wrong, with its causes.
pub(super) fn trail(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_asked_for_is_a_quarter_of_an_hour_at_most() {
        for (text, seconds) in [
            ("0", Some(0)),
            (" 17 ", Some(17)),
            ("900", Some(900)),
            ("901", Some(900)),
            ("18446744073709551615", Some(900)),
            ("99999999999999999999999999", Some(900)),
            ("-1", None),
            ("", None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ] {
            assert_eq!(retry_after(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
