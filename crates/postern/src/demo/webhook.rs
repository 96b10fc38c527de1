//! A webhook that the demo tells of what happens, so that somebody can watch a receiver of their own.

use anyhow::Context as _;
use postern_notify::NotifyConfig;
use serde_json::json;
use url::Url;

use crate::connect;

/// What it is told of: the beginnings of audit actions.
const ACTIONS: [&str; 8] = [
    "access_request",
    "access_review",
    "break_glass",
    "delivery",
    "freeze",
    "grant",
    "jit_policy",
    "role_assignment",
];

/// The receiver, and what its messages are signed with.
pub(super) struct Webhook {
    url: Url,
    secret: String,
}

impl Webhook {
    pub(super) fn new(url: Url) -> Self {
        // Hexadecimal digits are Base64, too: of 48 bytes, which the standard allows.
        let secret = format!(
            "whsec_{}{}",
            connect::idempotency_key(),
            connect::idempotency_key()
        );
        Self { url, secret }
    }

    /// The section `notify` that has it. A receiver on this machine is at a private address and without TLS.
    pub(super) fn subscriber(&self, port: u16) -> anyhow::Result<NotifyConfig> {
        let base_url = (port != 0).then(|| format!("http://127.0.0.1:{port}/"));
        let config = json!({
            "base_url": base_url,
            "allow_private": true,
            "webhooks": [{ "name": "demo", "url": self.url, "secret": self.secret, "actions": ACTIONS }],
        });
        serde_json::from_value(config).context("the webhook cannot be told")
    }

    /// How to check what it gets, and to see what became of it.
    pub(super) fn told(&self) -> String {
        format!(
            "The webhook {} is told of what happens, signed with {}\n  as olga deliveries\n",
            self.url, self.secret
        )
    }
}
