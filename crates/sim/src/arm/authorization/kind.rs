//! The three types of Microsoft.Authorization that are here, and the versions of the API that each has.

use super::super::refusal::ArmError;
use super::PROVIDER;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum AuthorizationKind {
    RoleAssignment,
    RoleDefinition,
    DenyAssignment,
}

impl AuthorizationKind {
    pub(in super::super) fn parse(segment: &str) -> Option<Self> {
        [Self::RoleAssignment, Self::RoleDefinition, Self::DenyAssignment]
            .into_iter()
            .find(|kind| kind.segment().eq_ignore_ascii_case(segment))
    }

    pub(in super::super) fn segment(self) -> &'static str {
        match self {
            Self::RoleAssignment => "roleAssignments",
            Self::RoleDefinition => "roleDefinitions",
            Self::DenyAssignment => "denyAssignments",
        }
    }

    /// As Microsoft's clients call the group of operations.
    pub(in super::super) fn client(self) -> &'static str {
        match self {
            Self::RoleAssignment => "RoleAssignments",
            Self::RoleDefinition => "RoleDefinitions",
            Self::DenyAssignment => "DenyAssignments",
        }
    }

    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::RoleAssignment => &[
                "2015-06-01",
                "2015-07-01",
                "2017-10-01-preview",
                "2018-01-01-preview",
                "2018-07-01",
                "2018-09-01-preview",
                "2020-03-01-preview",
                "2020-04-01-preview",
                "2020-08-01-preview",
                "2020-10-01-preview",
                "2021-04-01-preview",
                "2022-01-01-preview",
                "2022-04-01",
            ],
            Self::RoleDefinition => &[
                "2015-06-01",
                "2015-07-01",
                "2018-01-01-preview",
                "2018-07-01",
                "2022-04-01",
                "2022-05-01-preview",
            ],
            Self::DenyAssignment => &[
                "2018-07-01-preview",
                "2019-03-01-preview",
                "2022-04-01",
                "2024-07-01-preview",
            ],
        }
    }
}

/// Refuses a version that the type does not have.
pub(in super::super) fn check_version(kind: AuthorizationKind, version: &str) -> Result<(), ArmError> {
    let supported = kind.versions();
    if supported.iter().any(|known| known.eq_ignore_ascii_case(version)) {
        return Ok(());
    }
    let text = format!(
        "The resource type '{}' could not be found in the namespace '{PROVIDER}' for api version '{version}'. The \
         supported api-versions are '{}'.",
        kind.segment(),
        supported.join(",")
    );
    Err(ArmError::new(404, "InvalidResourceType", text))
}
