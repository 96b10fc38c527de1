//! The access decision: roles, assignments and guardrails over Cedar, every decision explained.
