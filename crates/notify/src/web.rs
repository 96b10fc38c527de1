//! Telling over HTTP: webhooks with a signature, and incoming webhooks of chats.

use std::time::Duration;

use async_trait::async_trait;
use http::{
    HeaderName, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use postern_core::time::Instant;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use crate::{
    channel::{Channel, DeliveryError},
    message::{Message, Undecided},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a receiver may take. Standard Webhooks recommends 15 to 30 seconds; whatever a receiver has to
/// do with a message, it can do after it answered.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// The most of an answer that is kept to explain a failure, in bytes.
const MAX_ANSWER: usize = 500;
/// A part of an address with as many bytes or fewer is a word and no secret.
const SHORT: usize = 8;

/// An HTTP client for receivers.
pub(crate) fn client(allow_private: bool) -> Result<reqwest::Client, reqwest::Error> {
    postern_outbound::client(allow_private, CONNECT_TIMEOUT, TIMEOUT)
}

/// Sends, and judges the answer.
async fn send(request: reqwest::RequestBuilder) -> Result<(), DeliveryError> {
    // The address of an incoming webhook is a secret, and an error of the client names it.
    let answer = request
        .send()
        .await
        .map_err(|error| DeliveryError::passing(explain(&error.without_url())))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    let said = beginning(answer).await;
    Err(DeliveryError {
        message: format!("answered {status}{said}"),
        permanent: is_refusal(status),
        retry_after,
    })
}

/// Whether the answer speaks of this message and not of the receiver's own state: the same bytes will never be taken.
/// A wrong address or missing right is the receiver's or the operator's to mend, and the messages wait for that.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::GONE
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

/// The beginning of what the receiver said.
async fn beginning(mut answer: reqwest::Response) -> String {
    let url = answer.url().clone();
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(MAX_ANSWER);
    let text: String = String::from_utf8_lossy(&body)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = without_address(text, &url);
    if text.trim().is_empty() {
        String::new()
    } else {
        format!(": {}", text.trim())
    }
}

/// The text without the parts of the address, which a receiver may echo: who reads about deliveries is not thereby
/// somebody who may send to the receiver. Short words, such as `services`, are no secrets.
fn without_address(mut text: String, url: &Url) -> String {
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    let secrets: Vec<String> = url
        .path_segments()
        .into_iter()
        .flatten()
        .map(ToOwned::to_owned)
        .chain(query)
        .filter(|part| part.len() > SHORT)
        .collect();
    for secret in &secrets {
        text = text.replace(secret, "…");
    }
    // The text may end in the middle of one.
    for secret in &secrets {
        let begun = (SHORT..secret.len())
            .rev()
            .filter_map(|length| secret.get(..length))
            .find(|begun| text.ends_with(begun));
        if let Some(begun) = begun {
            text.truncate(text.len() - begun.len());
            text.push('…');
        }
    }
    text
}

/// The causes, without the client's own word for all of them.
fn explain(error: &dyn std::error::Error) -> String {
    let first = error.source().unwrap_or(error);
    let mut text = first.to_string();
    let mut source = first.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A webhook: a structured `CloudEvent`, signed.
///
/// Source: Standard Webhooks 1.0.0 (headers, `v1` signatures of HMAC-SHA256), `CloudEvents` HTTP protocol binding 1.0.2
/// (structured mode).
pub(crate) struct WebhookChannel {
    client: reqwest::Client,
    url: Url,
    signer: Webhook,
}

impl std::fmt::Debug for WebhookChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookChannel")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

impl WebhookChannel {
    pub(crate) const fn new(client: reqwest::Client, url: Url, signer: Webhook) -> Self {
        Self { client, url, signer }
    }
}

#[async_trait]
impl Channel for WebhookChannel {
    async fn deliver(&self, message: &Message, attempted_at: Instant) -> Result<(), DeliveryError> {
        let body = message.cloud_event.to_string();
        let timestamp = attempted_at.timestamp();
        let signature = self
            .signer
            .sign(&message.id, timestamp, body.as_bytes())
            .map_err(|error| DeliveryError::passing(error.to_string()))?;
        let header = HeaderName::from_static;
        send(
            self.client
                .post(self.url.clone())
                .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
                .header(header(HEADER_WEBHOOK_ID), &message.id)
                .header(header(HEADER_WEBHOOK_TIMESTAMP), timestamp)
                .header(header(HEADER_WEBHOOK_SIGNATURE), signature)
                .body(body),
        )
        .await
    }
}

/// An incoming webhook of Slack, or of a chat that takes the same.
///
/// Source: docs.slack.dev, "Sending messages using incoming webhooks" and "Formatting message text": `text` in
/// mrkdwn, with `&`, `<` and `>` escaped.
pub(crate) struct SlackChannel {
    client: reqwest::Client,
    /// Whoever knows it can post.
    url: SecretString,
}

impl std::fmt::Debug for SlackChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlackChannel").finish_non_exhaustive()
    }
}

impl SlackChannel {
    pub(crate) const fn new(client: reqwest::Client, url: SecretString) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl Channel for SlackChannel {
    async fn deliver(&self, message: &Message, _: Instant) -> Result<(), DeliveryError> {
        let body = json!({ "text": slack_text(message) }).to_string();
        send(
            self.client
                .post(self.url.expose_secret())
                .header(CONTENT_TYPE, "application/json; charset=utf-8")
                .body(body),
        )
        .await
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn slack_text(message: &Message) -> String {
    let summary = escaped(&message.summary);
    let seen = match &message.link {
        Some(link) => {
            let verb = if message.undecided.is_some() {
                "Decide"
            } else {
                "Open"
            };
            format!(
                "{summary}\n<{}|{verb} in {}>",
                escaped(link.address()),
                link.place()
            )
        }
        None => summary,
    };
    // Ids have no characters that a chat reads as markup.
    match &message.undecided {
        Some(Undecided::Request(request)) => format!("{seen}\n`postern approve {request}`"),
        Some(Undecided::Review(review)) => format!("{seen}\n`postern reviews close {review} --note \"…\"`"),
        None => seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    fn api(url: &str) -> Link {
        Link::Postern(url.parse().unwrap())
    }

    #[test]
    fn what_a_receiver_echoes_of_its_address_is_not_kept() {
        let url: Url = "https://hooks.example/services/T0000000000/abcdefghijkl?key=0123456789"
            .parse()
            .unwrap();
        let seen = |text: &str| without_address(text.to_owned(), &url);
        assert_eq!(
            seen("no hook at /services/T0000000000/abcdefghijkl?key=0123456789"),
            "no hook at /services/…/…?key=…"
        );
        assert_eq!(
            seen("no hook at /services/T0000000000/abcdefghij"),
            "no hook at /services/…/…"
        );
        assert_eq!(seen("no_service"), "no_service");
    }

    #[test]
    fn what_a_requester_writes_is_text_in_a_chat_and_never_markup() {
        let message = Message {
            id: "1".into(),
            cloud_event: json!({}),
            summary: "ada asks: <!channel> <https://evil.example|approve> & more".into(),
            link: Some(api("https://postern.example.com/v1/grants/1")),
            undecided: None,
        };
        assert_eq!(
            slack_text(&message),
            "ada asks: &lt;!channel&gt; &lt;https://evil.example|approve&gt; &amp; more\n\
             <https://postern.example.com/v1/grants/1|Open in Postern>"
        );
    }

    #[test]
    fn what_waits_has_a_link_to_where_it_is_decided_and_the_command_that_does() {
        let waits = |undecided| Message {
            id: "1".into(),
            cloud_event: json!({}),
            summary: "it waits".into(),
            link: Some(api("https://postern.example.com/v1/x")),
            undecided: Some(undecided),
        };
        assert_eq!(
            slack_text(&waits(Undecided::Request("req_1".into()))),
            "it waits\n<https://postern.example.com/v1/x|Decide in Postern>\n`postern approve req_1`"
        );
        assert_eq!(
            slack_text(&waits(Undecided::Review("rev_1".into()))),
            "it waits\n<https://postern.example.com/v1/x|Decide in Postern>\n`postern reviews close rev_1 --note \"…\"`"
        );
    }

    #[test]
    fn a_link_to_the_portal_says_so_and_is_whole() {
        let message = |undecided| Message {
            id: "1".into(),
            cloud_event: json!({}),
            summary: "it waits".into(),
            link: Some(Link::Portal("https://portal.example.com/?view=1&id=req_1".into())),
            undecided,
        };
        assert_eq!(
            slack_text(&message(Some(Undecided::Request("req_1".into())))),
            "it waits\n<https://portal.example.com/?view=1&amp;id=req_1|Decide in the portal>\n`postern approve req_1`"
        );
        assert_eq!(
            slack_text(&message(None)),
            "it waits\n<https://portal.example.com/?view=1&amp;id=req_1|Open in the portal>"
        );
    }
}
