//! Azure Resource Manager on the wire: ids, tokens, calls, long-running operations. Nothing of rules.

mod budget;
mod client;
mod failure;
mod id;
mod pages;
mod poll;
mod token;
mod transport;

pub(crate) use budget::{Budget, spending};
pub(crate) use client::{Answer, Arm};
pub(crate) use id::{ArmId, is_subscription};
pub(crate) use pages::Pages;
pub(crate) use poll::NotWritten;
pub(crate) use token::Tokens;
pub(crate) use transport::client as http_client;
