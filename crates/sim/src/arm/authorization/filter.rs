//! `$filter` of lists.

use super::super::refusal::ArmError;
use super::AuthorizationKind;

/// What of a list is wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) at_scope: bool,
    pub(super) assigned_to: Option<String>,
    pub(super) principal: Option<String>,
    pub(super) name: Option<String>,
}

pub(super) fn quoted(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.to_ascii_lowercase())
}

impl Filter {
    pub(super) fn parse(kind: AuthorizationKind, text: Option<&str>) -> Result<Self, ArmError> {
        let mut filter = Self::default();
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Ok(filter);
        };
        let refused = || {
            ArmError::new(
                400,
                "UnsupportedQuery",
                format!(
                    "The filter '{text}' is not supported. Supported filters are either 'atScope()' or 'principalId \
                     eq '{{value}}' or assignedTo('{{value}}')'."
                ),
            )
        };
        let parts: Vec<&str> = text.split(" and ").map(str::trim).collect();
        // What is compounded is `atScope()` with `assignedTo`, and nothing else.
        if parts.len() > 2 {
            return Err(refused());
        }
        for part in &parts {
            let argument = |name: &str| {
                let rest = part.get(name.len()..)?;
                part.get(..name.len())
                    .filter(|start| start.eq_ignore_ascii_case(name))?;
                quoted(rest.trim().strip_prefix('(')?.strip_suffix(')')?)
            };
            let equals = |name: &str| {
                let (left, right) = part.split_once(" eq ")?;
                left.trim().eq_ignore_ascii_case(name).then(|| quoted(right))?
            };
            if part.eq_ignore_ascii_case("atScope()") {
                filter.at_scope = true;
            } else if let Some(id) = argument("assignedTo") {
                filter.assigned_to = Some(id);
            } else if let (Some(id), 1) = (equals("principalId"), parts.len()) {
                filter.principal = Some(id);
            } else if let (AuthorizationKind::DenyAssignment, Some(name), 1) =
                (kind, equals("denyAssignmentName"), parts.len())
            {
                filter.name = Some(name);
            } else {
                return Err(refused());
            }
        }
        Ok(filter)
    }
}
