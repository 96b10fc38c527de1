//! What the notifier is told: whom to tell of what, and how.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use postern_core::{audit::Outcome, scope::Scope};
use postern_outbound::{NoSecret, NotAllowed, check_url, secret};
use postern_store::Subscription;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use standardwebhooks::Webhook;
use url::Url;

use crate::{
    base::BaseUrl,
    channel::Channel,
    link::Links,
    mail::MailChannel,
    portal::RequestUrl,
    web::{self, SlackChannel, WebhookChannel},
};

/// The most subscribers.
const MAX_SUBSCRIBERS: usize = 50;

/// Whom to tell of what, and how. Nobody by default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// Where Postern's API is reached; links to it are below it.
    pub base_url: Option<BaseUrl>,
    /// Where people see a request: links for people lead there, and no longer to the API.
    pub request_url: Option<RequestUrl>,
    /// Allows receivers at private and loopback addresses, and webhooks over plain HTTP.
    pub allow_private: bool,
    /// How long a message is tried before it is given up, in hours, 1 to 720.
    pub give_up_after_hours: u32,
    /// How long delivered messages are listed, in hours, 1 to 8760. Those given up stay until they are replayed.
    pub keep_delivered_hours: u32,
    /// Signed webhooks.
    pub webhooks: Vec<WebhookConfig>,
    /// Incoming webhooks of Slack, or of a chat that takes the same.
    pub slack: Vec<SlackConfig>,
    /// Mail.
    pub mail: Vec<MailConfig>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            base_url: None,
            request_url: None,
            allow_private: false,
            give_up_after_hours: 72,
            keep_delivered_hours: 168,
            webhooks: Vec::new(),
            slack: Vec::new(),
            mail: Vec::new(),
        }
    }
}

/// What is over and done: no intents.
fn finished() -> Vec<Outcome> {
    vec![Outcome::Succeeded, Outcome::Failed, Outcome::Denied]
}

/// A signed webhook.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The subscriber's name, unique.
    pub name: String,
    /// Audit actions, such as `grant.open`, or what they begin with, such as `grant`.
    pub actions: Vec<String>,
    /// With these outcomes.
    #[serde(default = "finished")]
    pub outcomes: Vec<Outcome>,
    /// At or below this scope.
    #[serde(default = "Scope::root")]
    pub scope: Scope,
    /// Where to post.
    pub url: Url,
    /// The secret that signs: `whsec_` and Base64 of 24 to 64 bytes. Exactly one of this and `secret_file`.
    pub secret: Option<SecretString>,
    /// A file whose only line is the secret.
    pub secret_file: Option<PathBuf>,
}

/// A chat.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// The subscriber's name, unique.
    pub name: String,
    /// Audit actions, such as `grant.open`, or what they begin with, such as `grant`.
    pub actions: Vec<String>,
    /// With these outcomes.
    #[serde(default = "finished")]
    pub outcomes: Vec<Outcome>,
    /// At or below this scope.
    #[serde(default = "Scope::root")]
    pub scope: Scope,
    /// Where to post; whoever knows it can. Exactly one of this and `url_file`.
    pub url: Option<SecretString>,
    /// A file whose only line is the address.
    pub url_file: Option<PathBuf>,
}

/// A mail server and who gets mail over it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// The subscriber's name, unique.
    pub name: String,
    /// Audit actions, such as `grant.open`, or what they begin with, such as `grant`.
    pub actions: Vec<String>,
    /// With these outcomes.
    #[serde(default = "finished")]
    pub outcomes: Vec<Outcome>,
    /// At or below this scope.
    #[serde(default = "Scope::root")]
    pub scope: Scope,
    /// The mail server's name.
    pub server: String,
    /// Its port; 587, 465 or 25 as `tls` says.
    pub port: Option<u16>,
    /// How the connection is secured.
    #[serde(default)]
    pub tls: MailTls,
    /// Who signs in, if anybody.
    pub user: Option<String>,
    /// With which password. At most one of this and `password_file`.
    pub password: Option<SecretString>,
    /// A file whose only line is the password.
    pub password_file: Option<PathBuf>,
    /// Whom it is from.
    pub from: String,
    /// Who gets it; at least one.
    pub to: Vec<String>,
}

/// How a connection to a mail server is secured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// STARTTLS (RFC 3207), which must succeed.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// None at all, and then no password; for a relay on the same machine.
    None,
}

/// A subscriber, and how it is told.
pub(crate) type Told = (Subscription, Box<dyn Channel>);

/// Why the notifier does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNotify {
    /// A number out of its range.
    #[error("`{0}` is not in its range")]
    Range(&'static str),
    /// Two subscribers would be one.
    #[error("two subscribers have the name `{0}`")]
    Twice(String),
    /// Too many subscribers.
    #[error("there are more than {MAX_SUBSCRIBERS} subscribers")]
    TooMany,
    /// A file with a secret cannot be read here.
    #[error("subscriber `{name}`: {problem}")]
    Unreadable {
        /// The subscriber's name.
        name: String,
        /// Which file, and why.
        problem: String,
    },
    /// One subscriber cannot be told.
    #[error("subscriber `{name}`: {problem}")]
    Channel {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// Why one subscriber cannot be told.
pub(crate) enum Trouble {
    /// Because of what the configuration says.
    Said(String),
    /// Because a file that it names cannot be read here.
    Unreadable(String),
}

impl From<String> for Trouble {
    fn from(problem: String) -> Self {
        Self::Said(problem)
    }
}

impl From<NoSecret> for Trouble {
    fn from(error: NoSecret) -> Self {
        match error {
            NoSecret::Both => Self::Said(error.to_string()),
            NoSecret::Unreadable { .. } => Self::Unreadable(error.to_string()),
        }
    }
}

impl From<NotAllowed> for Trouble {
    fn from(error: NotAllowed) -> Self {
        Self::Said(error.to_string())
    }
}

impl From<&str> for Trouble {
    fn from(problem: &str) -> Self {
        Self::Said(problem.to_owned())
    }
}

/// Checks what is told of to whom, as every kind of subscriber has it.
fn subscription(
    name: &str,
    actions: &[String],
    outcomes: &[Outcome],
    scope: &Scope,
) -> Result<Subscription, String> {
    let named = (1..=100).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !named {
        return Err("`name` has 1 to 100 letters, digits, `-`, `_` and `.`".to_owned());
    }
    let is_action = |action: &String| {
        !action.is_empty()
            && action
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b"_.".contains(&b))
    };
    if actions.is_empty() || !actions.iter().all(is_action) {
        return Err(
            "`actions` names at least one audit action, such as `access_request` or `grant.open`".to_owned(),
        );
    }
    if outcomes.is_empty() {
        return Err("`outcomes` has at least one entry".to_owned());
    }
    Ok(Subscription {
        name: name.to_owned(),
        actions: actions.to_vec(),
        outcomes: outcomes.to_vec(),
        scope: scope.clone(),
    })
}

macro_rules! subscribes {
    ($($config:ident),*) => {$(
        impl $config {
            fn subscription(&self) -> Result<Subscription, String> {
                subscription(&self.name, &self.actions, &self.outcomes, &self.scope)
            }
        }
    )*};
}
subscribes!(WebhookConfig, SlackConfig, MailConfig);

impl MailConfig {
    pub(crate) fn password(&self) -> Result<Option<SecretString>, Trouble> {
        let password = secret(self.password.as_ref(), self.password_file.as_ref())?;
        match (&self.user, &password) {
            (Some(_), None) => Err("`user` needs a password".into()),
            (None, Some(_)) => Err("a password needs `user`".into()),
            (Some(_), Some(_)) if self.tls == MailTls::None => {
                Err("a password is not sent without TLS".into())
            }
            _ => Ok(password),
        }
    }
}

impl NotifyConfig {
    /// What links are made from.
    pub(crate) fn links(&self) -> Links {
        Links {
            base: self.base_url.clone(),
            request: self.request_url.clone(),
        }
    }

    /// How long a message is tried.
    pub(crate) fn give_up_after(&self) -> Duration {
        Duration::from_hours(self.give_up_after_hours.into())
    }

    /// How long a delivered message is listed.
    pub(crate) fn keep_delivered(&self) -> Duration {
        Duration::from_hours(self.keep_delivered_hours.into())
    }

    /// Checks everything, reads secrets from their files, and makes each subscriber's channel.
    pub(crate) fn channels(&self) -> Result<Vec<Told>, InvalidNotify> {
        if !(1..=720).contains(&self.give_up_after_hours) {
            return Err(InvalidNotify::Range("give_up_after_hours"));
        }
        if !(1..=8760).contains(&self.keep_delivered_hours) {
            return Err(InvalidNotify::Range("keep_delivered_hours"));
        }
        if self.webhooks.len() + self.slack.len() + self.mail.len() > MAX_SUBSCRIBERS {
            return Err(InvalidNotify::TooMany);
        }
        let client = || web::client(self.allow_private).map_err(|error| error.to_string());
        let mut channels: Vec<Told> = Vec::new();
        for one in &self.webhooks {
            let made = one
                .subscription()
                .map_err(Trouble::from)
                .and_then(|subscription| Ok((subscription, one.channel(client()?, self.allow_private)?)));
            let (subscription, channel) = named(&one.name, made)?;
            channels.push((subscription, Box::new(channel)));
        }
        for one in &self.slack {
            let made = one
                .subscription()
                .map_err(Trouble::from)
                .and_then(|subscription| Ok((subscription, one.channel(client()?, self.allow_private)?)));
            let (subscription, channel) = named(&one.name, made)?;
            channels.push((subscription, Box::new(channel)));
        }
        for one in &self.mail {
            let made = one
                .subscription()
                .map_err(Trouble::from)
                .and_then(|subscription| Ok((subscription, MailChannel::new(one, self.allow_private)?)));
            let (subscription, channel) = named(&one.name, made)?;
            channels.push((subscription, Box::new(channel)));
        }
        for (at, (one, _)) in channels.iter().enumerate() {
            if channels
                .iter()
                .skip(at + 1)
                .any(|(other, _)| other.name == one.name)
            {
                return Err(InvalidNotify::Twice(one.name.clone()));
            }
        }
        Ok(channels)
    }

    /// Every file with a secret, with the key that names it.
    pub fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        let webhooks = self
            .webhooks
            .iter()
            .map(|one| ("notify.webhooks.secret_file", &one.secret_file));
        let slack = self
            .slack
            .iter()
            .map(|one| ("notify.slack.url_file", &one.url_file));
        let mail = self
            .mail
            .iter()
            .map(|one| ("notify.mail.password_file", &one.password_file));
        webhooks
            .chain(slack)
            .chain(mail)
            .filter_map(|(key, file)| Some((key, file.as_deref()?)))
            .collect()
    }

    /// Checks everything. Files with secrets are read: [`InvalidNotify::Unreadable`] where that fails.
    pub fn check(&self) -> Result<(), InvalidNotify> {
        self.channels().map(drop)
    }
}

fn named<T>(name: &str, result: Result<T, Trouble>) -> Result<T, InvalidNotify> {
    let name = || name.to_owned();
    result.map_err(|trouble| match trouble {
        Trouble::Said(problem) => InvalidNotify::Channel {
            name: name(),
            problem,
        },
        Trouble::Unreadable(problem) => InvalidNotify::Unreadable {
            name: name(),
            problem,
        },
    })
}

impl WebhookConfig {
    fn channel(&self, client: reqwest::Client, allow_private: bool) -> Result<WebhookChannel, Trouble> {
        check_url(&self.url, allow_private)?;
        let secret = secret(self.secret.as_ref(), self.secret_file.as_ref())?
            .ok_or("one of `secret` and `secret_file` is needed")?;
        let signer = signer(&secret).ok_or("its secret is `whsec_` and Base64 of 24 to 64 bytes")?;
        Ok(WebhookChannel::new(client, self.url.clone(), signer))
    }
}

/// Source: Standard Webhooks 1.0.0, "Signature scheme": a secret is 24 to 64 bytes, in Base64, after `whsec_`.
fn signer(secret: &SecretString) -> Option<Webhook> {
    let text = secret.expose_secret();
    let encoded = text.strip_prefix("whsec_")?;
    // Four characters hold three bytes.
    let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
    if !(24..=64).contains(&bytes) {
        return None;
    }
    Webhook::new(text).ok()
}

impl SlackConfig {
    fn channel(&self, client: reqwest::Client, allow_private: bool) -> Result<SlackChannel, Trouble> {
        let url = secret(self.url.as_ref(), self.url_file.as_ref())?
            .ok_or("one of `url` and `url_file` is needed")?;
        let parsed: Url = url
            .expose_secret()
            .parse()
            .map_err(|_| "its address is not a URL")?;
        check_url(&parsed, allow_private)?;
        Ok(SlackChannel::new(client, url))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn check(config: Value) -> Result<(), String> {
        let config: NotifyConfig = serde_json::from_value(config).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    fn webhook(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut one = json!({
            "name": "siem", "actions": ["grant"], "url": "https://siem.example.com/in", "secret": SECRET,
        });
        change(&mut one);
        check(json!({ "webhooks": [one] }))
    }

    #[test]
    fn a_small_configuration_is_enough_and_nobody_is_told_by_default() {
        webhook(|_| ()).unwrap();
        check(json!({})).unwrap();
        check(json!({ "slack": [{ "name": "ops", "actions": ["grant.open"], "url": "https://hooks.example.com/x" }] }))
            .unwrap();
        check(
            json!({ "mail": [{ "name": "m", "actions": ["grant"], "server": "smtp.example.com",
                                 "from": "Postern <postern@example.com>", "to": ["ops@example.com"] }] }),
        )
        .unwrap();
    }

    #[test]
    fn what_could_leak_or_reach_inside_is_refused() {
        for (url, expected) in [
            ("http://siem.example.com/", "https"),
            ("https://user:pw@siem.example.com/", "password"),
            ("https://169.254.169.254/latest/meta-data", "not public"),
            ("https://[::ffff:10.0.0.1]/", "not public"),
            ("https://[fd00:ec2::254]/", "not public"),
            ("https://2130706433/", "not public"),
            ("file:///etc/passwd", "https"),
        ] {
            let error = webhook(|one| one["url"] = json!(url)).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
        }
        let error = check(
            json!({ "mail": [{ "name": "m", "actions": ["grant"], "server": "smtp.example.com",
            "tls": "none", "user": "u", "password": "p", "from": "a@example.com", "to": ["b@example.com"] }] }),
        );
        assert!(error.unwrap_err().contains("without TLS"));
    }

    #[test]
    fn secrets_are_strong_and_from_one_place() {
        for bad in [
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
        ] {
            assert!(webhook(|one| one["secret"] = json!(bad)).is_err(), "{bad}");
        }
        assert!(
            webhook(|one| one["secret_file"] = json!("/nowhere"))
                .unwrap_err()
                .contains("both")
        );
        assert!(
            webhook(|one| {
                one["secret"] = Value::Null;
                one["secret_file"] = json!("/nowhere/at/all");
            })
            .unwrap_err()
            .contains("/nowhere/at/all")
        );
    }

    #[test]
    fn subscribers_are_told_apart_and_say_what_of() {
        for (field, value) in [
            ("colour", json!("red")),
            ("name", json!("")),
            ("name", json!("a b")),
            ("actions", json!([])),
            ("actions", json!(["Grant"])),
            ("outcomes", json!([])),
            ("outcomes", json!(["maybe"])),
            ("scope", json!("/moon")),
        ] {
            assert!(
                webhook(|one| one[field] = value.clone()).is_err(),
                "{field} {value}"
            );
        }
        let one =
            json!({ "name": "a", "actions": ["grant"], "url": "https://a.example.com", "secret": SECRET });
        let error = check(json!({ "webhooks": [one, one] })).unwrap_err();
        assert!(error.contains("two subscribers"), "{error}");
    }

    #[test]
    fn no_secret_shows_in_debug_output() {
        let config: NotifyConfig = serde_json::from_value(json!({
            "webhooks": [{ "name": "a", "actions": ["grant"], "url": "https://a.example.com", "secret": SECRET }],
            "slack": [{ "name": "b", "actions": ["grant"], "url": "https://hooks.example.com/services/T0/B0/tell" }],
        }))
        .unwrap();
        let channels = config.channels().unwrap();
        let shown = format!("{config:?} {channels:?}");
        assert!(
            !shown.contains("MfKQ9r8GKYqr") && !shown.contains("T0/B0"),
            "{shown}"
        );
    }
}
