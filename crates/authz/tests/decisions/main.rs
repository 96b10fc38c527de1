//! Decisions as their askers see them: the matrix, the guardrails, the words, and the properties.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod cases;
mod explanations;
mod fixture;
mod guardrails;
mod matrix;
mod networks;
mod properties;
mod remedies;
