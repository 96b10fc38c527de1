//! Telling others what happened: signed webhooks, chat and mail, from the outbox that the store keeps with the audit
//! log.
//!
//! [`Notifier::run`] delivers until it is stopped. Each subscriber is told in order and at least once; one that does not
//! answer holds up nobody else. What a receiver refuses for good, or does not take for too long, is given up, shown to
//! operators, and can be replayed.
//!
//! Nothing is sent to private, link-local or otherwise special addresses unless the configuration says so: whoever
//! writes a receiver's name or controls its DNS must not reach what only this server can reach.

mod base;
mod channel;
mod config;
mod link;
mod mail;
mod message;
mod notifier;
mod portal;
mod web;

pub use base::{BaseUrl, InvalidBaseUrl};
pub use channel::{Channel, DeliveryError};
pub use config::{InvalidNotify, MailConfig, MailTls, NotifyConfig, SlackConfig, WebhookConfig};
pub use notifier::{Notifier, NotifyMetrics, Setting};
pub use portal::{InvalidRequestUrl, RequestUrl};
